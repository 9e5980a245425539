package vault

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/retention"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// Explanation says of one snapshot why it is kept, and what would come free with it.
type Explanation struct {
	Now      clock.Stamp
	Snapshot worm.Inventoried
	// Decision is what prune decides by.
	Decision retention.Decision
	// Packs is how many packs it names, and PackBytes what they take.
	Packs     uint64
	PackBytes uint64
	// Alone is how many packs nobody else names: no other snapshot, no session that may go on, and no claim of this process. They take
	// AloneBytes, which come free when this snapshot goes and no other, together with its manifest.
	Alone      uint64
	AloneBytes uint64
	// Quiet is the moment from which it may go if from now on nothing is committed, locked or held, no policy changes, no clock
	// is set and this machine stays on. It is exact to the second, and Decision.Earliest is never after it. Zero where it then
	// stays for good.
	Quiet time.Time
	// Then is by what it is kept then: the reasons that are left once the locks of its source have run and nothing new has come.
	Then []retention.Reason
}

// MarkedFor is how long something stands marked, by the wall clock and by running time, before a prune removes it.
const MarkedFor = 24 * time.Hour

// Leaves is the earliest moment at which a prune could remove it, zero where only several people can make it go: what may go is
// marked first, and removed a day later. A mark that it has counts even while something keeps it, until a prune takes it back.
func (e *Explanation) Leaves() time.Time {
	if e.Decision.Never {
		return time.Time{}
	}
	earliest := later(e.Decision.Earliest, e.Now.Wall)
	if m := e.Snapshot.Marked; !m.IsZero() {
		return later(m.Wall.Add(MarkedFor), earliest).UTC()
	}
	return earliest.Add(MarkedFor).UTC()
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Explain looks at one snapshot, whose ID must be whole; worm.ErrNoSnapshot where there is none. It decides nothing and needs no key.
func (v *Vault) Explain(ctx context.Context, id string) (Explanation, error) {
	inv, err := v.store.Inventory(ctx)
	if err != nil {
		return Explanation{}, err
	}
	for i := range inv.Snapshots {
		if inv.Snapshots[i].ID == id {
			return explain(&inv, i), nil
		}
	}
	return Explanation{}, fmt.Errorf("snapshot %s: %w", id, worm.ErrNoSnapshot)
}

func explain(inv *worm.Inventory, at int) Explanation {
	e := Explanation{Now: inv.Now, Snapshot: inv.Snapshots[at], Decision: inv.Decisions[at]}
	e.Quiet, e.Then = quiet(inv, at)
	if e.Snapshot.Packs == nil {
		return e
	}
	others := roaring.New()
	for i := range inv.Snapshots {
		if i != at && inv.Snapshots[i].Packs != nil {
			others.Or(inv.Snapshots[i].Packs)
		}
	}
	for i := range inv.Packs {
		p := &inv.Packs[i]
		if !e.Snapshot.Packs.Contains(p.Number) {
			continue
		}
		e.Packs++
		e.PackBytes += uint64(p.Bytes)
		if !others.Contains(p.Number) && p.SessionFor == 0 && !p.Claimed {
			e.Alone++
			e.AloneBytes += uint64(p.Bytes)
		}
	}
	return e
}

// quiet is when a snapshot may go if nothing new happens. Only the ends of locks change anything then, and that the wall clock
// reaches the stamp of what was committed while it was ahead; what may go once may go for good: what loses its lock later is only
// ever newer, or takes the place of what is newer. What keeps it when all have run is then.
func quiet(inv *worm.Inventory, at int) (from time.Time, then []retention.Reason) {
	h := inv.History
	h.Halt, h.Least, h.Snapshots = "", nil, nil
	var lockedFor, ends []time.Duration
	place := 0
	for i := range inv.Snapshots {
		if inv.Snapshots[i].Source != inv.Snapshots[at].Source {
			continue // rules never look at other sources
		}
		if i == at {
			place = len(h.Snapshots)
		}
		h.Snapshots = append(h.Snapshots, inv.History.Snapshots[i])
		lockedFor = append(lockedFor, inv.Snapshots[i].LockedFor)
		ends = append(ends, inv.Snapshots[i].LockedFor, inv.History.Snapshots[i].Committed.Sub(inv.Now.Wall))
	}
	decide := func(after time.Duration) retention.Decision {
		then := h
		then.Now = inv.Now.Wall.Add(after)
		then.Snapshots = slices.Clone(h.Snapshots)
		for i := range then.Snapshots {
			then.Snapshots[i].Locked = lockedFor[i] < 0 || after < lockedFor[i]
		}
		return retention.Decide(then)[place]
	}
	slices.Sort(ends)
	ends = slices.Compact(append([]time.Duration{0}, slices.DeleteFunc(ends, func(d time.Duration) bool { return d <= 0 })...))
	n, _ := slices.BinarySearchFunc(ends, true, func(d time.Duration, _ bool) int {
		if decide(d).Go {
			return 0
		}
		return -1
	})
	if n == len(ends) {
		return time.Time{}, decide(ends[n-1]).Reasons
	}
	return inv.Now.Wall.Add(ends[n]).UTC(), nil
}
