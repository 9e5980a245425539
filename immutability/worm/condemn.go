package worm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
)

// Condemn marks what could be removed now, in the ledger: snapshots whose locks have run and that no rule keeps, packs that
// nobody relies on, manifests that were never committed. It says how many are newly marked, and removes nothing. The ledger
// is also told whose mark counts no more, because it may not go at this moment. While everything is halted nothing is
// written. On return what is marked is on the medium; an error leaves a part of it marked, which the next Condemn completes.
func (s *Store) Condemn(ctx context.Context) (snapshots, packs int, err error) {
	if err := s.writable(); err != nil {
		return 0, 0, err
	}
	s.write.Lock()
	defer s.write.Unlock()
	s.flush()
	_, _ = s.carry(ctx) // what cannot be recorded now is due the next time
	var rep PruneReport
	err = s.mark(ctx, &rep)
	return rep.MarkedSnapshots, rep.MarkedPacks, err
}

// mark is Condemn. s.write is held.
func (s *Store) mark(ctx context.Context, rep *PruneReport) error {
	p, err := s.plan(ctx)
	if err != nil || p.halt != "" {
		return err
	}
	n, err := s.notice(&p)
	if err != nil {
		return err
	}
	for _, m := range n.records() {
		if err := ctx.Err(); err != nil {
			return err
		}
		// Power fails between two of them: what the first names is marked, and the rest the next time.
		if _, err := s.appendAt(p.at, ledger.Record{Kind: ledger.KindMark, Mark: m}); err != nil {
			return fmt.Errorf("mark: %w", err)
		}
		rep.MarkedSnapshots += len(m.Snapshots)
		rep.MarkedPacks += len(m.Packs)
		s.unspare(m)
	}
	return nil
}

// notice says what of a plan has to be written. s.write is held.
func (s *Store) notice(p *plan) (n noted, err error) {
	leaving, err := s.namedSince(p.report.Snapshots)
	if err != nil {
		return n, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := &s.state.marks
	never := func(string, mark) bool { return false }
	n.marked.Snapshots, n.kept.Snapshots = remark(old.snapshots, p.report.Snapshots, p.at, never)
	n.marked.Manifests, n.kept.Manifests = remark(old.manifests, p.orphans, p.at, never)
	n.marked.Packs, n.kept.Packs = remark(old.packs, p.report.Packs, p.at, func(k uint32, m mark) bool {
		return s.spared[k] || leaving[k] > m.seq
	})
	n.marked.Packs = slices.DeleteFunc(n.marked.Packs, s.allClaimed().Contains) // since the plan was made
	return n, nil
}

// namedSince gives for each pack that one of these snapshots names the number of the newest commit that did.
func (s *Store) namedSince(ids []string) (map[uint32]uint64, error) {
	out := map[uint32]uint64{}
	for _, id := range ids {
		s.mu.Lock()
		snap := s.state.byID[id]
		s.mu.Unlock()
		head, err := s.head(snap)
		if err != nil {
			return nil, err
		}
		packs, err := head.PackSet()
		if err != nil {
			return nil, fmt.Errorf("snapshot %s: %w", id, err)
		}
		for n := range roaring.Values(packs) {
			out[n] = max(out[n], snap.seq)
		}
	}
	return out, nil
}

// claimed says whether a session claims a pack. s.mu is held.
func (s *Store) claimed(n uint32) bool {
	for _, c := range s.claims {
		if c.packs.Contains(n) {
			return true
		}
	}
	return false
}

// allClaimed gives what all sessions claim together: asked of each of very many packs, thousands of sessions are too many.
// s.mu is held.
func (s *Store) allClaimed() *roaring.Bitmap {
	all := roaring.New()
	for _, c := range s.claims {
		all.Or(c.packs)
	}
	return all
}

// unspare lets the marks of a record count, but for what was claimed while it was written. s.write is held.
func (s *Store) unspare(m *ledger.Mark) {
	s.mu.Lock()
	defer s.mu.Unlock()
	claimed := s.allClaimed()
	for _, n := range m.Packs {
		delete(s.spared, n)
		if claimed.Contains(n) {
			s.spared[n] = true
		}
	}
	maps.DeleteFunc(s.spared, func(n uint32, _ bool) bool { _, marked := s.state.marks.packs[n]; return !marked })
}

// spare lets the marks of packs count no more. The ledger says so at the next Condemn. s.mu is held.
func (s *Store) spare(packs *roaring.Bitmap) {
	for _, n := range s.among(packs) {
		s.spared[n] = true
	}
}

// kept spares the packs of a snapshot that is kept from now on. Its own mark went with the record. s.write is held.
func (s *Store) kept(id string) {
	s.mu.Lock()
	snap, none := s.state.byID[id], len(s.state.marks.packs) == 0
	s.mu.Unlock()
	if none || snap == nil {
		return
	}
	head, err := s.head(snap)
	var packs *roaring.Bitmap
	if err == nil {
		packs, err = head.PackSet()
	}
	if err != nil {
		return // nothing is removed while a manifest cannot be read
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spare(packs)
}

// Sweep removes what was marked at least 24 hours ago, by the wall clock and by running time, and what still may go: it is
// decided anew. For the rest it is as Prune.
func (s *Store) Sweep(ctx context.Context) (PruneReport, error) {
	if err := s.writable(); err != nil {
		return PruneReport{}, err
	}
	s.write.Lock()
	defer s.write.Unlock()
	s.flush()
	_, _ = s.carry(ctx)
	return s.sweepMarked(ctx)
}

// sweepMarked is Sweep. s.write is held.
func (s *Store) sweepMarked(ctx context.Context) (PruneReport, error) {
	s.sweep()
	p, err := s.plan(ctx)
	if err != nil {
		return p.report, err
	}
	if err := s.ripen(&p); err != nil {
		return PruneReport{Decisions: p.report.Decisions}, fmt.Errorf("sweep: %w", err)
	}
	return s.execute(ctx, p)
}

// ripen leaves in a plan what has been marked for long enough. Packs are looked for anew, since a snapshot that stays longer
// keeps its packs. s.write is held.
func (s *Store) ripen(p *plan) error {
	s.mu.Lock()
	p.report.Snapshots = ripe(s.state.marks.snapshots, p.report.Snapshots, p.at)
	s.mu.Unlock()
	p.report.Packs, p.report.Bytes, p.orphans = nil, 0, nil
	if p.halt != "" {
		return nil
	}
	if err := s.planFiles(p, p.at); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p.orphans = ripe(s.state.marks.manifests, p.orphans, p.at)
	p.report.Packs = ripe(s.state.marks.packs, p.report.Packs, p.at)
	if s.strangers(p.at) {
		p.report.Packs = nil
	}
	p.report.Packs = slices.DeleteFunc(p.report.Packs, func(n uint32) bool { return s.spared[n] })
	return nil
}

// strangers says whether sessions of other processes may rely on packs by claims that this process does not know of yet:
// claims are renewed within three hours, or are none any more. s.mu is held.
func (s *Store) strangers(now clock.Stamp) bool {
	if !s.elsewhere {
		return false
	}
	if s.opened.IsZero() {
		s.opened = now
	}
	return now.Running-s.opened.Running < int64(claimedFor/time.Second)
}

// errEarly is what stops a removal for which it is too early by a clock that was set back.
var errEarly = errors.New("the wall clock was set back since this was decided")

// marked says of what is about to go that it has not been marked for a day by a moment after all. s.write is held.
func (s *Store) marked(in *ledger.Intent, now clock.Stamp) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range in.Files {
		var m mark
		var ok bool
		if n, isPack := sealedPack(f.File); isPack {
			m, ok = s.state.marks.packs[n]
		} else if id, _ := sealedManifest(f.File); slices.Contains(in.Snapshots, id) {
			m, ok = s.state.marks.snapshots[id]
		} else {
			m, ok = s.state.marks.manifests[id]
		}
		if !ok || !clock.Elapsed(m.at, now, condemnedFor) {
			return fmt.Errorf("%w: it is %s now, less than a day after %s was marked: nothing of it is removed; look at the clock, and prune again", errEarly, now.Wall.Format(time.RFC3339), f.File)
		}
	}
	return nil
}

// tell has the decisions of a prune say what became of each snapshot. s.write is held.
func (s *Store) tell(rep *PruneReport) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gone := map[string]bool{}
	for _, id := range rep.Snapshots {
		gone[id] = true
	}
	for i := range rep.Decisions {
		d := &rep.Decisions[i]
		if !d.Go || gone[d.ID] {
			continue
		}
		d.Go = false
		if m, marked := s.state.marks.snapshots[d.ID]; marked {
			d.Why += fmt.Sprintf("; marked at %s, and removed by a prune that runs a day after that", m.at.Wall.Format(time.RFC3339))
		}
	}
}
