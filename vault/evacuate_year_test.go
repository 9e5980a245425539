package vault

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/vault/keys"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// memoryVault is a vault on a disk in memory, with an index in memory and a clock that the test moves.
type memoryVault struct {
	*Vault
	clock *clock.Manual
	disk  *crashdisk.Disk
	index *memIndex
	ident *keys.Identity
	o     Options
}

func newMemoryVault(t testing.TB, lock time.Duration, o Options) *memoryVault {
	t.Helper()
	m := &memoryVault{clock: clock.NewManual(time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC)), disk: crashdisk.New(), index: newMemIndex(), o: o}
	var recipients []string
	for range 2 {
		i, err := keys.NewIdentity()
		if err != nil {
			t.Fatal(err)
		}
		m.ident = i
		recipients = append(recipients, i.Recipient())
	}
	policy := ledger.Policy{DefaultSeconds: int64(lock / time.Second)}
	if _, err := Init(t.Context(), "", NewID(), InitOptions{Recipients: recipients, Clock: m.clock, Policy: policy, disk: m.disk}); err != nil {
		t.Fatal(err)
	}
	m.reopen(t)
	return m
}

// reopen closes the vault if it is open, and opens it as another process would.
func (m *memoryVault) reopen(t testing.TB) {
	t.Helper()
	if m.Vault != nil {
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	o := m.o
	o.Identities, o.Clock, o.Workers, o.disk, o.index = []*keys.Identity{m.ident}, m.clock, 1, m.disk, m.index
	v, err := Open(t.Context(), "", o)
	if err != nil {
		t.Fatal(err)
	}
	m.Vault = v
}

// source is a tree that remembers which version of each file it holds; a snapshot's entry has that as its time.
type source struct {
	files map[string]version
	next  int64
	noise *rand.Rand
}

type version struct {
	number int64
	size   int
}

func newSource(seed uint64) *source {
	return &source{files: map[string]version{}, noise: rand.New(rand.NewPCG(seed, 7))}
}

func (s *source) write(path string, size int) {
	s.next++
	s.files[path] = version{s.next, size}
}

// content is what a version holds: text of which a part repeats.
func (v version) content() []byte {
	r := rand.New(rand.NewPCG(uint64(v.number), 11))
	b := make([]byte, v.size)
	for i := range b {
		b[i] = "0123456789abcdef"[r.UintN(16)]
	}
	return b
}

func (s *source) tree() tree {
	t := tree{}
	for p, v := range s.files {
		t[p] = v.content()
	}
	return t
}

// pull makes a snapshot as a puller does: what did not change is not read.
func (s *source) pull(ctx context.Context, v *Vault, name string) (worm.Snapshot, uint64, error) {
	session, err := v.Begin(ctx, SessionOptions{Source: name})
	if err != nil {
		return worm.Snapshot{}, 0, err
	}
	if err := s.record(ctx, session, nil); err != nil {
		_ = session.Suspend()
		return worm.Snapshot{}, 0, err
	}
	snap, err := session.Commit(ctx, CommitOptions{})
	_, copied := session.Evacuated()
	return snap, copied, err
}

// record gives all files to a session, until stop says so.
func (s *source) record(ctx context.Context, session *Session, stop func() bool) error {
	old := map[string]snapshot.Entry{}
	if p := session.Previous(); p != nil {
		for e, err := range p.Walk(ctx, "") {
			if err != nil {
				return err
			}
			old[e.Path()] = e
		}
	}
	if err := session.Add(ctx, &snapshot.Entry{Kind: snapshot.Directory, Mode: 0o755}); err != nil {
		return err
	}
	dirs := map[string]bool{"": true}
	for _, path := range slices.Sorted(maps.Keys(s.files)) {
		v := s.files[path]
		if stop != nil && stop() {
			return nil
		}
		e := snapshot.Entry{Kind: snapshot.File, Mode: 0o644, MTime: v.number, Size: uint64(v.size)}
		e.Parent, e.Name = snapshot.Split(path)
		if !dirs[e.Parent] {
			dirs[e.Parent] = true
			if err := session.Add(ctx, &snapshot.Entry{Name: e.Parent, Kind: snapshot.Directory, Mode: 0o755}); err != nil {
				return err
			}
		}
		if o, ok := old[path]; ok && o.MTime == v.number {
			if ok, err := session.Reuse(ctx, &e, &o); err != nil {
				return err
			} else if ok {
				continue
			}
		}
		if err := recordFile(ctx, session, e, v.content()); err != nil {
			return err
		}
	}
	return nil
}

// month is what a simulated vault looks like at the end of some days.
type month struct {
	relied    uint64 // packs that the newest snapshot relies on
	packs     uint64
	bytes     uint64
	dead      uint64
	copied    uint64 // by evacuation, since the month before
	mostMoved uint64 // by one pull
	written   uint64
}

// simulate pulls a slowly changing tree every hour and prunes every day.
func simulate(t testing.TB, m *memoryVault, days, perMonth int) (months []month) {
	src := newSource(1)
	r := src.noise
	for i := range 300 {
		src.write(fmt.Sprintf("d%02d/f%04d", i%20, i), 200+int(r.ExpFloat64()*3000))
	}
	for i := range 4 {
		src.write(fmt.Sprintf("big/%d", i), 1<<20)
	}
	var now month
	for day := range days {
		src.write(fmt.Sprintf("big/%d", r.IntN(4)), 1<<20)
		for range 24 {
			for range 1 + r.IntN(3) {
				i := r.IntN(300)
				src.write(fmt.Sprintf("d%02d/f%04d", i%20, i), 200+int(r.ExpFloat64()*3000))
			}
			src.write("d00/hot.log", 2000+r.IntN(2000))
			snap, copied, err := src.pull(t.Context(), m.Vault, "web1")
			if err != nil {
				t.Fatal(err)
			}
			now.copied += copied
			now.mostMoved = max(now.mostMoved, copied)
			now.written += snap.Head.StoredBytes
			m.clock.Advance(time.Hour)
		}
		if _, err := m.Prune(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		if (day+1)%perMonth > 0 {
			continue
		}
		u, err := m.PackUsage()
		if err != nil {
			t.Fatal(err)
		}
		now.packs, now.bytes, now.dead = u.Packs, u.Bytes, u.DeadBytes
		all, err := m.store.Snapshots()
		if err != nil {
			t.Fatal(err)
		}
		set, err := all[len(all)-1].Head.PackSet()
		if err != nil {
			t.Fatal(err)
		}
		now.relied = set.GetCardinality()
		months = append(months, now)
		now = month{}
		m.reopen(t)
	}
	mustGiveBack(t, m.Vault, mustNewest(t, m.Vault), src.tree())
	mustCheck(t, m.Vault)
	return months
}

func mustNewest(t testing.TB, v *Vault) string {
	t.Helper()
	all, err := v.store.Snapshots()
	if err != nil {
		t.Fatal(err)
	}
	return all[len(all)-1].ID
}
