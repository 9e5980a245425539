package vault

import (
	"fmt"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/retention"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// usualPulls is how many of a source's newest pulls tell what is usual for it.
const usualPulls = 30

// Rhythm is what is usual for a source: how often it is pulled and what a pull brings. The future is played with it, and what it
// cannot tell is said in docs/RETENTION.md: a pull to come stores what is usual; a part of that lasts, by which the source grows, and
// the rest is replaced by the pull after it, so that it comes free with its snapshot.
type Rhythm struct {
	Source string
	// Every is the median between its newest pulls, 0 where no pulls are foreseen; Why then says why not.
	Every time.Duration
	Why   string
	// Stored is the median of what its newest pulls stored, in packs; Lasts is how much of it the source grows by.
	Stored, Lasts uint64
	// Pulls is how many of its pulls told that.
	Pulls int

	lock     time.Duration
	manifest uint64
	packs    []int // of its newest snapshot: what it has is needed as long as it is pulled
	next     time.Duration
	n        int
}

// rhythms finds what is usual for each source.
func rhythms(inv *worm.Inventory) []Rhythm {
	place := make(map[uint32]int, len(inv.Packs))
	sealed := map[string]uint64{} // bytes by session
	for i := range inv.Packs {
		p := &inv.Packs[i]
		place[p.Number] = i
		if p.Session != "" {
			sealed[p.Session] += uint64(p.Bytes)
		}
	}
	var out []Rhythm
	for _, source := range inv.Sources() {
		out = append(out, rhythm(inv, source, place, sealed))
	}
	return out
}

func rhythm(inv *worm.Inventory, source string, place map[uint32]int, sealed map[string]uint64) Rhythm {
	r := Rhythm{Source: source}
	var at []time.Time
	for _, g := range inv.Gone {
		if g.Source == source {
			at = append(at, g.Committed.Wall)
		}
	}
	var here []*worm.Inventoried
	for i := range inv.Snapshots {
		if s := &inv.Snapshots[i]; s.Source == source {
			here = append(here, s)
			at = append(at, s.Committed.Wall)
		}
	}
	slices.SortFunc(at, time.Time.Compare)
	at = at[max(0, len(at)-usualPulls-1):]
	if len(here) == 0 {
		r.Why = "nothing of it is left"
		return r
	}
	if len(at) < 2 {
		r.Why = "it was pulled once, and nobody knows how often it will be"
		return r
	}
	var gaps []time.Duration
	for i := range at[1:] {
		gaps = append(gaps, at[i+1].Sub(at[i]))
	}
	every := max(median(gaps), time.Minute)
	silent := inv.Now.Wall.Sub(at[len(at)-1])
	if silent > 3*every+24*time.Hour {
		r.Why = fmt.Sprintf("it was pulled every %v and not since %s", every, at[len(at)-1].UTC().Format("2006-01-02 15:04 UTC"))
		return r
	}
	r.Every, r.next = every, max(0, every-silent)
	r.brings(here, place, sealed, inv)
	return r
}

// brings finds what a pull stores, from the snapshots that are there.
func (r *Rhythm) brings(here []*worm.Inventoried, place map[uint32]int, sealed map[string]uint64, inv *worm.Inventory) {
	newest := here[len(here)-1]
	r.lock, r.manifest = newest.BornFor, uint64(newest.Manifest)
	if newest.Packs != nil {
		for n := range roaring.Values(newest.Packs) {
			if i, there := place[n]; there {
				r.packs = append(r.packs, i)
			}
		}
	}
	usual := here[max(0, len(here)-usualPulls-1):]
	if len(usual) < 2 {
		return // the first brought everything, which is not usual
	}
	var stored []uint64
	for _, s := range usual[1:] {
		stored = append(stored, sealed[s.Session])
	}
	r.Stored, r.Pulls = median(stored), len(stored)
	first, last := named(usual[0].Packs, place, inv), named(newest.Packs, place, inv)
	if last > first {
		r.Lasts = min((last-first)/uint64(len(usual)-1), r.Stored)
	}
}

// named is how many bytes a set of packs takes.
func named(packs *roaring.Bitmap, place map[uint32]int, inv *worm.Inventory) (bytes uint64) {
	if packs == nil {
		return 0
	}
	for n := range roaring.Values(packs) {
		if i, there := place[n]; there {
			bytes += uint64(inv.Packs[i].Bytes)
		}
	}
	return bytes
}

// make gives the snapshot of a pull to come.
func (r *Rhythm) make(now time.Time, at time.Duration) *foreseen {
	r.n++
	x := &foreseen{
		Snapshot: retention.Snapshot{
			ID: fmt.Sprintf("%s+%d", r.Source, r.n), Source: r.Source, Label: fmt.Sprintf("+%d", r.n), Committed: now.Add(at),
			Complete: true, Clean: true, LockMode: "governance", LockedUntil: now.Add(at + r.lock),
		},
		lockedFor: at + r.lock + time.Second, manifest: r.manifest, own: r.Stored - r.Lasts, toCome: true,
	}
	return x
}

// median gives the middle of what is not empty; it sorts.
func median[T time.Duration | uint64](x []T) T {
	slices.Sort(x)
	return x[len(x)/2]
}
