package worm

import (
	"maps"
	"slices"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
)

const (
	// condemnedFor is how long something must have been marked before it may be swept: time for people to see it, and for a
	// session to claim what it needs.
	condemnedFor = 24 * time.Hour
	// remarkedAfter is how old a mark must be before the ledger says anything further of it, by running time. Whoever claims
	// and releases what is marked, over and over, writes no more than that into it.
	remarkedAfter = time.Hour
	// markBytes bounds what one record of marks names, so that it stays below 64 KiB. An ID takes idBytes of it, a pack's
	// number at most numberBytes.
	markBytes, idBytes, numberBytes = 60_000, 67, 11
)

// mark is what a record says of something that could be removed then.
type mark struct {
	at  clock.Stamp
	seq uint64 // of the record
}

// marks are those that count by the ledger alone. Only what is there has one, so there are no more of them than of that.
type marks struct {
	snapshots map[string]mark
	packs     map[uint32]mark
	manifests map[string]mark // that were never committed
}

func newMarks() marks {
	return marks{snapshots: map[string]mark{}, packs: map[uint32]mark{}, manifests: map[string]mark{}}
}

// applyMark follows a record of marks. What it names that is not there, or that is none of its kind, is passed over.
func (st *state) applyMark(r ledger.Record) {
	if k := r.Mark.Kept; k != nil {
		drop(st.marks.snapshots, k.Snapshots)
		drop(st.marks.packs, k.Packs)
		drop(st.marks.manifests, k.Manifests)
	}
	m := mark{r.At, r.Seq}
	for _, id := range r.Mark.Snapshots {
		if s := st.byID[id]; s != nil && !s.swept {
			st.marks.snapshots[id] = m
		}
	}
	for _, n := range r.Mark.Packs {
		if p := st.packs[n]; p != nil && !p.swept {
			st.marks.packs[n] = m
		}
	}
	for _, id := range r.Mark.Manifests {
		if s := st.manifests[id]; s != nil && !s.swept && st.byID[id] == nil {
			st.marks.manifests[id] = m
		}
	}
}

func drop[K comparable](marks map[K]mark, keys []K) {
	for _, k := range keys {
		delete(marks, k)
	}
}

// ripe gives those of may that have been marked for long enough.
func ripe[K comparable](marks map[K]mark, may []K, now clock.Stamp) []K {
	return slices.DeleteFunc(slices.Clone(may), func(k K) bool {
		m, marked := marks[k]
		return !marked || !clock.Elapsed(m.at, now, condemnedFor)
	})
}

// remark compares the marks that there are with what may go at a moment. It gives what is to be marked, because it has no mark
// or a stale one, and what is marked and may not go any more. A mark of the last hour is left as it is.
func remark[K comparable](old map[K]mark, may []K, now clock.Stamp, stale func(K, mark) bool) (add, kept []K) {
	settled := func(m mark) bool { return now.Running-m.at.Running >= int64(remarkedAfter/time.Second) }
	goes := make(map[K]bool, len(may))
	for _, k := range may {
		goes[k] = true
		m, marked := old[k]
		// One that was set while the wall clock was ahead would stay young for as long as that.
		if !marked || settled(m) && (stale(k, m) || m.at.Wall.After(now.Wall)) {
			add = append(add, k)
		}
	}
	for k, m := range old {
		if !goes[k] && settled(m) {
			kept = append(kept, k)
		}
	}
	return add, kept
}

// noted is what one Condemn has to write.
type noted struct{ marked, kept ledger.Kept }

// records cuts it into records, snapshots first.
func (n *noted) records() []*ledger.Mark {
	var out []*ledger.Mark
	room := 0
	next := func(bytes int) *ledger.Mark {
		if room < bytes {
			out = append(out, &ledger.Mark{Snapshots: []string{}, Packs: []uint32{}, Manifests: []string{}})
			room = markBytes
		}
		room -= bytes
		return out[len(out)-1]
	}
	kept := func(bytes int) *ledger.Kept {
		m := next(bytes)
		if m.Kept == nil {
			m.Kept = &ledger.Kept{Snapshots: []string{}, Packs: []uint32{}, Manifests: []string{}}
		}
		return m.Kept
	}
	for _, id := range n.marked.Snapshots {
		m := next(idBytes)
		m.Snapshots = append(m.Snapshots, id)
	}
	for _, id := range n.marked.Manifests {
		m := next(idBytes)
		m.Manifests = append(m.Manifests, id)
	}
	for _, p := range n.marked.Packs {
		m := next(numberBytes)
		m.Packs = append(m.Packs, p)
	}
	for _, id := range slices.Sorted(slices.Values(n.kept.Snapshots)) {
		k := kept(idBytes)
		k.Snapshots = append(k.Snapshots, id)
	}
	for _, id := range slices.Sorted(slices.Values(n.kept.Manifests)) {
		k := kept(idBytes)
		k.Manifests = append(k.Manifests, id)
	}
	for _, p := range slices.Sorted(slices.Values(n.kept.Packs)) {
		k := kept(numberBytes)
		k.Packs = append(k.Packs, p)
	}
	return out
}

// Marked is what is marked to be removed, and since when by the wall clock. What was spared since is not among it.
type Marked struct {
	Snapshots map[string]time.Time
	Packs     map[uint32]time.Time
	Manifests map[string]time.Time // that were never committed
}

// Marked gives what is marked now. The maps are the caller's own.
func (s *Store) Marked() Marked {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &s.state.marks
	out := Marked{since(m.snapshots), since(m.packs), since(m.manifests)}
	maps.DeleteFunc(out.Packs, func(n uint32, _ time.Time) bool { return s.spared[n] })
	return out
}

func since[K comparable](marks map[K]mark) map[K]time.Time {
	out := make(map[K]time.Time, len(marks))
	for k, m := range marks {
		out[k] = m.at.Wall
	}
	return out
}
