package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// listProblemsFrom is how many problems a manifest surely holds itself, whatever their paths' length. With more, all
// that are remembered also stand in a chunk stream.
const listProblemsFrom = 16

// CommitOptions is what the caller knows of the snapshot.
type CommitOptions struct {
	// Lock is the lock asked for; zero fields mean the policy's default. The store raises what is below the minimum.
	Lock ledger.Lock
	// Partial makes the snapshot partial even if no problem was noted.
	Partial bool
	// Stats are the pull's own figures; NewBytes and StoredBytes are filled in here.
	Stats snapshot.Stats
	// Origin is the source's address, HostKey the fingerprint that it showed, Excludes the patterns in force.
	Origin   string
	HostKey  string
	Excludes []string
}

// Commit makes the snapshot. On return without an error the snapshot exists, is durable and is locked. With an error
// it may still exist: the ledger says, and Begin finds out. The session has ended either way; after an error it can be
// resumed.
func (s *Session) Commit(ctx context.Context, o CommitOptions) (worm.Snapshot, error) {
	if !s.end() {
		return worm.Snapshot{}, errPackerClosed
	}
	snap, err := s.commit(ctx, o)
	if err != nil {
		_ = s.p.close(true) // what was read is worth keeping; the first error is the one to report
		return worm.Snapshot{}, errors.Join(fmt.Errorf("source %q: commit: %w", s.source, err), s.finish(false))
	}
	// The snapshot is safe. What follows is tidying, and the next Begin does it if this does not.
	s.v.used(s.source, snap.ID, s.uses)
	if err := errors.Join(s.p.close(false), s.finish(true)); err != nil {
		s.v.o.Logf("session %s: tidying after the commit: %v", s.id, err)
	}
	return snap, nil
}

func (s *Session) commit(ctx context.Context, o CommitOptions) (worm.Snapshot, error) {
	// The catalog goes on in the pack that the data ended in: a small pull makes one small pack, not two.
	root, packs, err := s.writeCatalog(ctx)
	if err != nil {
		return worm.Snapshot{}, err
	}
	if o.Stats.Errors == nil {
		o.Stats.Errors = s.problemKinds
	}
	body := snapshot.Body{
		Root: root, Stats: o.Stats, Fidelity: s.fidelity, ProblemCount: s.problemCount,
		Excludes: o.Excludes, Origin: o.Origin, HostKey: o.HostKey,
	}
	if err := s.writeProblems(ctx, &body, packs); err != nil {
		return worm.Snapshot{}, err
	}
	if err := s.p.sealAll(); err != nil {
		return worm.Snapshot{}, err
	}
	missing, err := s.v.store.Claim(ctx, s.id, packs)
	if err != nil {
		return worm.Snapshot{}, err
	}
	if missing != nil && !missing.IsEmpty() {
		return worm.Snapshot{}, fmt.Errorf("packs %v went away while the pull ran; pull again: their content is read anew", missing.ToArray())
	}
	manifest, err := s.manifest(root, packs, body, o)
	if err != nil {
		return worm.Snapshot{}, err
	}
	return s.v.store.Commit(ctx, s.id, manifest, o.Lock)
}

func (s *Session) writeCatalog(ctx context.Context) (snapshot.Root, *roaring.Bitmap, error) {
	b := snapshot.NewBuilder(s, s.v.ring.BoundaryKey())
	for e, err := range ahead(s.entries(ctx)) {
		if err == nil {
			err = b.Add(ctx, &e)
		}
		if err != nil {
			return snapshot.Root{}, nil, fmt.Errorf("catalog: %w", err)
		}
	}
	root, err := b.Finish(ctx)
	if err != nil {
		return snapshot.Root{}, nil, fmt.Errorf("catalog: %w", err)
	}
	s.uses = b.Uses()
	return root, b.Packs(), nil
}

// writeProblems puts the first problems into the manifest and, when there are more, all that are remembered into a
// chunk stream of JSON lines beside it.
func (s *Session) writeProblems(ctx context.Context, body *snapshot.Body, packs *roaring.Bitmap) error {
	body.Problems = s.problems[:min(len(s.problems), snapshot.MaxProblems)]
	if len(s.problems) <= listProblemsFrom {
		return nil
	}
	var buf []byte
	flush := func() error {
		ref, err := s.Put(ctx, buf)
		if err != nil {
			return fmt.Errorf("list of problems: %w", err)
		}
		body.ProblemList = append(body.ProblemList, ref)
		packs.Add(ref.Pack)
		buf = buf[:0]
		return nil
	}
	for i := range s.problems {
		line, err := json.Marshal(&s.problems[i])
		if err != nil {
			return err
		}
		buf = append(append(buf, line...), '\n')
		if len(buf) >= 512<<10 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if len(buf) == 0 {
		return nil
	}
	return flush()
}

func (s *Session) manifest(root snapshot.Root, packs *roaring.Bitmap, body snapshot.Body, o CommitOptions) ([]byte, error) {
	label, previous, err := s.v.store.NextLabel(s.source)
	if err != nil {
		return nil, err
	}
	newBytes, storedBytes := s.written()
	body.Stats.NewBytes, body.Stats.StoredBytes = newBytes, storedBytes
	state := "complete"
	if o.Partial || s.problemCount > 0 {
		state = "partial"
	}
	m := snapshot.Manifest{
		Head: reliance.Head{
			Format: Format, Vault: s.v.ID(), Source: s.source, Session: s.id,
			Begin: s.begin.Wall.UTC().Truncate(time.Second), Label: label, State: state, Clean: state == "complete",
			Files: root.Files, Directories: root.Directories, Entries: root.Entries, Bytes: root.Bytes,
			NewBytes: newBytes, StoredBytes: storedBytes, Previous: previous,
		},
		Body: body, Keyring: s.v.ring.Sealed(),
	}
	if err := m.Head.SetPacks(packs); err != nil {
		return nil, err
	}
	return m.Encode(s.v.ring)
}

// written sums up what the session stored, its interrupted runs included: their packs carry its ID. It is a figure for
// people: a pack that cannot be read is left out of it and keeps nobody from a snapshot that may not even need it.
func (s *Session) written() (newBytes, storedBytes uint64) {
	s.p.stats.mu.Lock()
	newBytes, storedBytes = s.p.stats.newBytes, s.p.stats.storedBytes
	mine := roaring.BitmapOf(s.p.stats.packs...)
	s.p.stats.mu.Unlock()
	if s.resume == nil {
		return newBytes, storedBytes
	}
	for _, info := range s.v.store.Packs() {
		if info.Session != s.id || mine.Contains(info.Number) {
			continue
		}
		storedBytes += uint64(info.Bytes)
		raw, err := s.v.packContent(info.Number)
		if err != nil {
			s.v.o.Logf("session %s: the new bytes of an interrupted run are not counted: %v", s.id, err)
			continue
		}
		newBytes += raw
	}
	return newBytes, storedBytes
}
