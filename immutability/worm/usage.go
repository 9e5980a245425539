package worm

import (
	"cmp"
	"context"
	"maps"
	"path"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/retention"
)

// Inventory is one look at all that decides what may go: the snapshots with their packs, the packs with whoever else needs
// them, and what the rules say. It is for telling and for playing forward; what goes is decided anew by Prune.
type Inventory struct {
	Now clock.Stamp
	// History is what the rules were asked, and Decisions what they answered; both in the order of Snapshots.
	History   retention.History
	Decisions []retention.Decision
	// Snapshots are all that are committed and not removed, oldest first.
	Snapshots []Inventoried
	// Packs are all that are sealed and not swept, ascending.
	Packs []InventoriedPack
	// Gone are the commits of snapshots that were removed, oldest first: a source's rhythm is that of all its pulls.
	Gone []Departed
}

// Inventoried is a snapshot with what keeps it and what it needs.
type Inventoried struct {
	Snapshot
	// Packs are those that it names, nil where its manifest cannot be read. The set is the store's.
	Packs *roaring.Bitmap
	// Manifest is the size of its manifest's file in bytes, 0 where that is missing.
	Manifest int64
	// LockedFor is how long a lock of it runs still if this machine stays on, in whole seconds and no less than that; 0 for
	// none, and negative for one that this release cannot tell the end of.
	LockedFor time.Duration
	// BornFor is the lock that it was committed with.
	BornFor time.Duration
	// Marked is since when it is marked to be removed; zero for not.
	Marked clock.Stamp
}

// InventoriedPack is a pack with whoever needs it beside snapshots.
type InventoriedPack struct {
	PackInfo
	Source string // whose session made it; "" where that is not known
	// SessionFor is for how long from now its session may still need it, if it seals nothing more and this machine stays on: in
	// whole seconds, 0 where it needs it no more, negative where that cannot be told.
	SessionFor time.Duration
	// Claimed says that a session or a restore of this process relies on it.
	Claimed bool
	// Marked is since when it is marked to be removed; zero for not.
	Marked clock.Stamp
}

// Departed is the commit of a snapshot that was removed.
type Departed struct {
	ID, Source, Label string
	Committed         clock.Stamp
}

// Inventory looks at everything. It works on a store that is open for reading only; what other processes claim is not known
// there. ctx may end it early.
func (s *Store) Inventory(ctx context.Context) (Inventory, error) {
	s.write.Lock()
	defer s.write.Unlock()
	now, err := s.clock.Now()
	if err != nil {
		return Inventory{}, err
	}
	inv := Inventory{Now: now}
	var unreadable error
	if inv.History, unreadable, err = s.history(ctx, now); err != nil {
		return Inventory{}, err
	}
	inv.Decisions = decided(inv.History, unreadable)
	sizes, err := s.list(manifestsDir)
	if err != nil {
		return Inventory{}, err
	}
	s.mu.Lock()
	remaining := s.state.remaining()
	s.mu.Unlock()
	for _, snap := range remaining {
		if err := ctx.Err(); err != nil {
			return Inventory{}, err
		}
		inv.Snapshots = append(inv.Snapshots, s.inventoried(snap, now, sizes))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, snap := range s.state.snapshots {
		if snap.swept {
			inv.Gone = append(inv.Gone, Departed{ID: snap.Snapshot, Source: snap.Source, Label: snap.Label, Committed: snap.at})
		}
	}
	s.expire(now)
	for _, p := range s.state.live() {
		inv.Packs = append(inv.Packs, InventoriedPack{
			PackInfo: p.PackInfo, Source: s.state.madeFor(p), SessionFor: s.needed(p, now), Claimed: s.claimed(p.Number),
			Marked: s.markOf(p.Number),
		})
	}
	return inv, nil
}

func (s *Store) inventoried(snap *snapshotState, now clock.Stamp, sizes map[string]int64) Inventoried {
	out := Inventoried{Snapshot: s.describe(snap, now), Manifest: sizes[path.Base(manifestFile(snap.Snapshot))]}
	if out.Err == nil {
		out.Packs, out.Err = out.Head.PackSet()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out.Marked = s.state.marks.snapshots[snap.Snapshot].at
	for i, g := range s.seen(snap.grants) {
		if i == 0 {
			out.BornFor = g.duration()
		}
		left := g.leaves(now)
		if left < 0 || out.LockedFor < 0 {
			out.LockedFor = -1
			continue
		}
		out.LockedFor = max(out.LockedFor, left)
	}
	return out
}

// leaves is how long after now the lock has run, by both of its clocks, if both go on: running is false from then on. It is
// negative where that is never.
func (g grant) leaves(now clock.Stamp) time.Duration {
	if !g.running(now) {
		return 0
	}
	if !g.lock.Mode.Valid() || g.at.Running < 0 || now.Running < 0 {
		return -1
	}
	left := remains(g.at, now, g.duration())
	if g.seen > int64(g.duration()/time.Second) { // the witnesses saw it pass, and only the wall clock is asked
		at := g.at
		at.Running = now.Running - int64(g.duration()/time.Second) - 1
		left = remains(at, now, g.duration())
	}
	return left
}

// remains is how long after now it takes until clock.Elapsed says that d has passed since, if both clocks go on: a time of whole
// seconds, negative for never.
func remains(since, now clock.Stamp, d time.Duration) time.Duration {
	if clock.Elapsed(since, now, d) {
		return 0
	}
	if since.Running < 0 || now.Running < 0 {
		return -1
	}
	need := int64((d-1)/time.Second) + 2 // as there: whole seconds, and one
	return time.Duration(max(need-(now.Wall.Unix()-since.Wall.Unix()), need-(now.Running-since.Running))) * time.Second
}

// needed is for how long the session of a pack may still need it, as abandoned decides it. s.mu is held.
func (s *Store) needed(p *packState, now clock.Stamp) time.Duration {
	if s.abandoned(p, now) {
		return 0
	}
	since := p.Sealed
	if p.Session != "" {
		since = s.state.sessions[p.Session].lastSeal
	}
	return remains(since, now, abandonedAfter)
}

// madeFor is the source for whose session a pack was made, "" where that is not known.
func (st *state) madeFor(p *packState) string {
	if session := st.sessions[p.Session]; session != nil {
		return session.source
	}
	return ""
}

// markOf is since when a pack is marked, if that counts. s.mu is held.
func (s *Store) markOf(n uint32) clock.Stamp {
	if s.spared[n] {
		return clock.Stamp{}
	}
	return s.state.marks.packs[n].at
}

// Place is what a file of the vault's directory is, for whoever adds up what takes the room.
type Place int

// The places, beside the packs and manifests that an Inventory names.
const (
	PlaceOther     Place = iota // no pack and no manifest
	PlaceNamed                  // a pack or a manifest that the ledger names
	PlaceLeaving                // one that is gone by the ledger and whose file is still there
	PlaceUnnamed                // one of which no record tells
	PlaceOrphaned               // a manifest that was sealed and never committed
	PlaceUnsettled              // a pack that grows, or was left growing
)

// PlaceOf says what a file is by its name below the vault's directory.
func (s *Store) PlaceOf(file string) Place {
	_, pack := sealedPack(file)
	id, manifest := sealedManifest(file)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case path.Dir(file) == incomingDir:
		return PlaceUnsettled
	case !pack && !manifest:
		return PlaceOther
	case manifest && s.state.named(file) && s.state.byID[id] == nil:
		return PlaceOrphaned
	case s.state.named(file):
		return PlaceNamed
	case s.state.removed[file] != 0:
		return PlaceLeaving
	}
	return PlaceUnnamed
}

// Sources gives the names of the sources of an inventory, sorted, those of which nothing is left included.
func (inv *Inventory) Sources() []string {
	names := map[string]bool{}
	for i := range inv.Snapshots {
		names[inv.Snapshots[i].Source] = true
	}
	for _, g := range inv.Gone {
		names[g.Source] = true
	}
	return slices.SortedFunc(maps.Keys(names), cmp.Compare)
}
