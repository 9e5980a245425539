package retention

import (
	"cmp"
	"slices"
	"sort"
	"time"
)

// latest bounds Earliest: a time that RFC 3339 can still write.
var latest = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// earliest gives for each snapshot a time before which nothing but several people's consent makes it go.
//
// Time alone ends locks, and so lets other snapshots be counted that take places of keep rules. Beside that new snapshots come,
// as many as anybody likes from Now on, good and bad: each replaces what is newest at once, but takes a place of a rule
// only once its own lock has run, which takes the shortest lock at least, and one span gives one place. So for each rule that
// there may be the earliest time is known at which enough newer spans have one, and what all of them allow is the answer.
// So does one that people let go and that somebody locks again. Holds that others get, and longer locks of theirs, only ever keep
// it for longer.
func (h History) earliest() []time.Time {
	out := make([]time.Time, len(h.Snapshots))
	for i := range out {
		out[i] = h.unlocked(i)
	}
	for source, places := range h.bySource() {
		k, lock := h.least(source)
		for _, r := range k.buckets() {
			for _, good := range []bool{true, false} {
				h.push(out, r, good, lock, places)
			}
		}
		a := h.anchors(places)
		for _, i := range places {
			s := h.Snapshots[i]
			if _, recent := h.isRecent(a, k.within(), i); recent && s.countable() {
				out[i] = later(out[i], s.Committed.Add(k.within())) // when something may be committed that is newer by as much
			}
		}
	}
	for i := range out {
		if out[i].After(latest) {
			out[i] = latest
		}
		out[i] = out[i].UTC()
	}
	return out
}

func (h History) least(source string) (Keep, time.Duration) {
	if h.Least == nil {
		return h.keep(source), 0
	}
	k, lock := h.Least(source)
	return k, max(lock, 0)
}

// unlocked is when a snapshot's locks have run at the earliest, not before now.
func (h History) unlocked(i int) time.Time {
	s := h.Snapshots[i]
	if !s.Locked {
		return h.Now
	}
	if !s.LockEnds.IsZero() {
		return later(h.Now, s.LockEnds)
	}
	return later(h.Now, s.LockedUntil)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// push puts off the snapshots of one source and quality by one rule.
func (h History) push(out []time.Time, r rule, good bool, lock time.Duration, places []int) {
	spans := map[int64][]int{} // what lies in each, oldest first
	for _, i := range places {
		s := h.Snapshots[i]
		// What cannot be read today may be read tomorrow, and be either. What people let go takes a place again if it is locked anew.
		if (s.countable() || s.Released && s.Held == "" && !s.endless()) && (s.good() == good || s.Unknown) {
			span := r.span(s.Committed)
			spans[span] = append(spans[span], i)
		}
	}
	if len(spans) == 0 {
		return
	}
	today := r.span(h.Now)
	if _, ok := spans[today]; !ok {
		spans[today] = nil // something may come today
	}
	order := make([]int64, 0, len(spans))
	for span := range spans {
		order = append(order, span)
	}
	slices.SortFunc(order, func(a, b int64) int { return cmp.Compare(b, a) })
	next := func(n int64) time.Time { return r.begin(today + n).Add(lock) } // the nth span that is still to come has one then
	var taken []time.Time                                                   // when each newer span has one at the earliest, sorted, the first n of them
	for _, span := range order {
		full := nth(taken, next, r.n)
		var first time.Time // when the span's own has come, the first one
		for n, i := range spans[span] {
			s, free := h.Snapshots[i], h.unlocked(i)
			if s.Released {
				free = later(free, h.Now.Add(lock))
			} else if !s.Unknown {
				leaves := full
				if n > 0 && first.Before(leaves) {
					leaves = first // an earlier one has the place
				}
				out[i] = later(out[i], leaves)
			}
			if n == 0 || free.Before(first) {
				first = free
			}
		}
		if comes := h.Now.Add(lock); span == today && (len(spans[span]) == 0 || comes.Before(first)) {
			first = comes
		}
		at := sort.Search(len(taken), func(j int) bool { return taken[j].After(first) })
		if taken = slices.Insert(taken, at, first); int64(len(taken)) > r.n {
			taken = taken[:r.n]
		}
	}
}

// nth is the nth smallest, from 1, of sorted times and of a rising sequence that begins with 1 and has no end.
func nth(have []time.Time, next func(int64) time.Time, n int64) time.Time {
	// With j of have, the rest is the sequence's: the last of both counts, and the best j has it least.
	with := func(j int) time.Time {
		switch {
		case j == 0:
			return next(n)
		case int64(j) == n:
			return have[j-1]
		}
		return later(have[j-1], next(n-int64(j)))
	}
	most := int(min(int64(len(have)), n))
	// have rises with j and the sequence falls: the least is where they cross.
	j := sort.Search(most, func(j int) bool { return int64(j+1) == n || !have[j].Before(next(n-int64(j+1))) })
	best := with(min(j+1, most))
	if first := with(j); first.Before(best) {
		best = first
	}
	return best
}
