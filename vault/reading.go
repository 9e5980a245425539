package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/worm"
)

const (
	// readingMax bounds the snapshots whose packs are claimed for readers at a time: most of the claims that the store takes
	// are for sessions.
	readingMax = 1024
	// claimWait is how long a reader waits for a claim before it reads without one.
	claimWait = 5 * time.Second
)

// readings are the snapshots that somebody reads from in this process. Each claims its packs as a session does, so that a prune
// beside a restore leaves it what it needs, though the snapshot itself may go.
type readings struct {
	mu      sync.Mutex
	of      map[string]*reading // by the snapshot's ID
	n       int                 // that there ever were: each claims under a name of its own
	renewal *renewal            // while there are any
	closed  bool
}

// reading is one snapshot that is being read.
type reading struct {
	session string
	packs   *roaring.Bitmap
	readers int
	left    bool       // it is released; guarded by turn
	turn    sync.Mutex // held while it claims and releases, so that the release comes last
}

// ClaimUntil claims the snapshot's packs until ctx is done: a prune meanwhile takes none of them, and their marks count no more.
// Where that cannot be had, because too many read at once, the keeper does not answer within seconds or the vault is open for
// reading only, it is logged, or for the last left to the error of a read, and reading goes on all the same.
func (s *Snapshot) ClaimUntil(ctx context.Context) {
	v := s.v
	if v.o.ReadOnly || ctx.Err() != nil {
		return
	}
	packs, err := s.info.Head.PackSet()
	if err != nil {
		return // the manifest was read, and whoever reads a chunk finds out
	}
	r, err := v.reads.enter(v, s.info.ID, packs)
	if err != nil {
		v.o.Logf("snapshot %s@%s is read without a claim on its packs: %v", s.info.Source, s.info.Label, err)
		return
	}
	context.AfterFunc(ctx, func() { v.reads.leave(v, s.info.ID) })
	wait, stop := context.WithTimeout(ctx, claimWait)
	defer stop()
	r.turn.Lock()
	defer r.turn.Unlock()
	if r.left {
		return // ctx is done already, and what would be claimed now nobody would release
	}
	missing, err := v.store.Claim(wait, r.session, packs)
	switch {
	case err != nil && ctx.Err() == nil:
		v.o.Logf("snapshot %s@%s is read without a claim on its packs for now, so a prune may take them meanwhile: %v", s.info.Source, s.info.Label, err)
	case err == nil && !missing.IsEmpty():
		v.o.Logf("snapshot %s@%s: %d of its packs are removed, missing or damaged; see: holdfast check", s.info.Source, s.info.Label, missing.GetCardinality())
	}
}

// enter counts a reader.
func (rs *readings) enter(v *Vault, id string, packs *roaring.Bitmap) (*reading, error) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r := rs.of[id]
	if r == nil {
		if rs.closed {
			return nil, errors.New("the vault is being closed")
		}
		if len(rs.of) >= readingMax {
			return nil, fmt.Errorf("%d snapshots are read at once already", readingMax)
		}
		if rs.of == nil {
			rs.of = map[string]*reading{}
		}
		rs.n++
		r = &reading{session: fmt.Sprintf("restore-%.16s-%d", id, rs.n), packs: packs}
		rs.of[id] = r
	}
	if rs.renewal == nil {
		rs.renewal = startRenewal(renewEvery, func() { rs.renew(v) })
	}
	r.readers++
	return r, nil
}

// leave ends what the last reader of a snapshot claimed.
func (rs *readings) leave(v *Vault, id string) {
	rs.mu.Lock()
	r := rs.of[id]
	if r == nil || rs.closed {
		rs.mu.Unlock()
		return
	}
	if r.readers--; r.readers > 0 {
		rs.mu.Unlock()
		return
	}
	delete(rs.of, id)
	var idle *renewal
	if len(rs.of) == 0 {
		idle, rs.renewal = rs.renewal, nil
	}
	rs.mu.Unlock()
	if idle != nil {
		idle.end()
	}
	r.turn.Lock()
	defer r.turn.Unlock()
	v.store.Release(r.session)
	r.left = true
}

// renew says again what is being read.
func (rs *readings) renew(v *Vault) {
	rs.mu.Lock()
	all := make([]*reading, 0, len(rs.of))
	for _, r := range rs.of {
		all = append(all, r)
	}
	rs.mu.Unlock()
	for _, r := range all {
		r.again(v)
	}
}

func (r *reading) again(v *Vault) {
	ctx, stop := context.WithTimeout(context.Background(), claimWait)
	defer stop()
	r.turn.Lock()
	defer r.turn.Unlock()
	if r.left {
		return
	}
	if _, err := v.store.Claim(ctx, r.session, r.packs); err != nil {
		v.o.Logf("%s: its claims are not renewed now: %v", r.session, err)
	}
}

// close ends all of them, before the store is closed.
func (rs *readings) close(v *Vault) {
	rs.mu.Lock()
	rs.closed = true
	all, idle := rs.of, rs.renewal
	rs.of, rs.renewal = nil, nil
	rs.mu.Unlock()
	if idle != nil {
		idle.end()
	}
	for _, r := range all {
		v.store.Release(r.session)
	}
}

// swept explains why a pack cannot be read by a process that could claim none.
func (v *Vault) swept(err error) error {
	if v.o.ReadOnly && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, worm.ErrNoPack)) {
		return fmt.Errorf("%w; it was there when the vault was opened for reading, where nothing can be claimed: a prune beside this has probably removed it together with its snapshots (see: holdfast snapshots); what is read through the daemon's door is kept from that", err)
	}
	return err
}
