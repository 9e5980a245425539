package worm

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/holdfast-vault/holdfast/immutability/clock"
)

// condemnedFor is how long something must have been condemned before it may be swept: time for people to see it, and for a
// session to claim what it needs.
const condemnedFor = 24 * time.Hour

// marks remember since when something has been condemned. They live in memory: a store that is opened anew begins again,
// which only lets things stay longer.
type marks struct {
	snapshots map[string]clock.Stamp
	packs     map[uint32]clock.Stamp
	orphans   map[string]clock.Stamp
}

// remark gives the marks of those that are condemned now: old ones keep theirs, and what is no longer among them loses it.
func remark[K comparable](old map[K]clock.Stamp, condemned []K, now clock.Stamp) (marks map[K]clock.Stamp, added int) {
	marks = make(map[K]clock.Stamp, len(condemned))
	for _, k := range condemned {
		at, had := old[k]
		if !had {
			at = now
			added++
		}
		marks[k] = at
	}
	return marks, added
}

// ripe gives those that have been condemned for long enough.
func ripe[K comparable](marks map[K]clock.Stamp, condemned []K, now clock.Stamp) []K {
	return slices.DeleteFunc(slices.Clone(condemned), func(k K) bool {
		at, marked := marks[k]
		return !marked || !clock.Elapsed(at, now, condemnedFor)
	})
}

// kept takes the marks of a snapshot that is locked now, and of its packs. s.write is held.
func (s *Store) kept(id string) {
	s.mu.Lock()
	snap, none := s.state.byID[id], len(s.marks.snapshots)+len(s.marks.packs) == 0
	s.mu.Unlock()
	if none || snap == nil {
		return
	}
	var packs *roaring.Bitmap
	head, err := s.head(snap)
	if err == nil {
		packs, err = head.PackSet()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.marks.snapshots, id)
	maps.DeleteFunc(s.marks.packs, func(n uint32, _ clock.Stamp) bool { return err != nil || packs.Contains(n) })
}

// Condemn marks what could be removed now: snapshots whose locks have run and that no rule keeps, and packs that nobody
// relies on. It says how many are newly marked, and removes nothing. What is kept again loses its mark; a lock, a commit and
// a claim take it away at once.
func (s *Store) Condemn(ctx context.Context) (snapshots, packs int, err error) {
	if err := s.writable(); err != nil {
		return 0, 0, err
	}
	s.write.Lock()
	defer s.write.Unlock()
	_, _ = s.carry(ctx) // what cannot be recorded now is due the next time
	now, err := s.clock.Now()
	if err != nil {
		return 0, 0, err
	}
	p, err := s.plan(ctx)
	if err != nil {
		return 0, 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.marks.snapshots, snapshots = remark(s.marks.snapshots, p.report.Snapshots, now)
	s.marks.packs, packs = remark(s.marks.packs, p.report.Packs, now)
	s.marks.orphans, _ = remark(s.marks.orphans, p.orphans, now)
	return snapshots, packs, nil
}

// Sweep removes what Condemn marked at least 24 hours ago, by the wall clock and by running time, and what still may go: it
// is decided anew. For the rest it is as Prune.
func (s *Store) Sweep(ctx context.Context) (PruneReport, error) {
	if err := s.writable(); err != nil {
		return PruneReport{}, err
	}
	s.write.Lock()
	defer s.write.Unlock()
	s.flush()
	_, _ = s.carry(ctx)
	s.sweep()
	p, err := s.plan(ctx)
	if err != nil {
		return p.report, err
	}
	if p.report.Packs, err = s.ripen(&p); err != nil {
		return PruneReport{Decisions: p.report.Decisions}, fmt.Errorf("sweep: %w", err)
	}
	return s.execute(ctx, p)
}

// ripen leaves in a plan what has been condemned for long enough. Packs are looked for anew, since a snapshot that stays
// longer keeps its packs. s.write is held.
func (s *Store) ripen(p *plan) ([]uint32, error) {
	now, err := s.clock.Now()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	marked := marks{maps.Clone(s.marks.snapshots), maps.Clone(s.marks.packs), maps.Clone(s.marks.orphans)}
	s.mu.Unlock()
	p.report.Snapshots = ripe(marked.snapshots, p.report.Snapshots, now)
	p.report.Packs, p.report.Bytes, p.orphans = nil, 0, nil
	if s.halt() != "" {
		return nil, nil
	}
	if err := s.planFiles(p, now); err != nil {
		return nil, err
	}
	p.orphans = ripe(marked.orphans, p.orphans, now)
	return ripe(marked.packs, p.report.Packs, now), nil
}
