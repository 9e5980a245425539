package fsck

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// The keep rules of a source: how many hours, days, weeks, months and years keep one snapshot each, and how many seconds all.
// 0 is a rule that is not said.
type keepRules [len(keepNames)]int64

var keepNames = [...]string{"hourly", "daily", "weekly", "monthly", "yearly", "within_s"}

const (
	keepWithin     = len(keepNames) - 1
	keepMost       = 10000
	keepWithinMost = 100 * 365 * 24 * 3600
)

func readKeep(o *object) (k keepRules) {
	if !o.has("keep") {
		return k
	}
	in := o.within("keep")
	for i, name := range keepNames {
		if in.has(name) {
			k[i] = in.number(name)
		}
	}
	if in.err != nil && o.err == nil {
		o.err = in.err
	}
	return k
}

func (k keepRules) sane() bool {
	for i, n := range k {
		if n < 0 || i == keepWithin && n > keepWithinMost || i != keepWithin && n > keepMost {
			return false
		}
	}
	return true
}

// of puts a source's own rules in the vault's place.
func (k keepRules) of(own keepRules) keepRules {
	for i, n := range own {
		if n != 0 {
			k[i] = n
		}
	}
	return k
}

func (k keepRules) looser(other keepRules) keepRules {
	for i, n := range other {
		k[i] = min(k[i], n)
	}
	return k
}

// calendar names, in numbers that rise, the hour, day, ISO week, month and year that a moment lies in.
func calendar(t time.Time) [keepWithin]int {
	t = t.UTC()
	day := (t.Year()*100+int(t.Month()))*100 + t.Day()
	year, week := t.ISOWeek()
	return [...]int{day*100 + t.Hour(), day, year*100 + week, t.Year()*100 + int(t.Month()), t.Year()}
}

// wanted says of the snapshots of a source that remain which a keep rule wants at a moment, and which rule that is. Only those
// count that nothing else keeps: whose locks have run, and that nobody holds. What people let go early counts for nothing.
func (h *history) wanted(source string, now Stamp, out map[*Snapshot]string) {
	k := h.policy().of(source).keep
	if k == (keepRules{}) {
		return
	}
	var free []*Snapshot
	isFree := map[*Snapshot]bool{}
	for _, s := range h.remaining[source] {
		if len(s.holds) == 0 && !s.released && h.free(s, now) {
			free, isFree[s] = append(free, s), true
		}
	}
	want := func(s *Snapshot, rule int) {
		if out[s] == "" {
			out[s] = fmt.Sprintf("%s %d", keepNames[rule], k[rule])
		}
	}
	for rule := range keepWithin {
		for _, good := range []bool{true, false} {
			// The spans that have one, each with its first, from the newest on until there are enough.
			firsts := map[int]*Snapshot{}
			for _, s := range free {
				span := calendar(s.at.at.Wall)[rule]
				if s.good() == good && firsts[span] == nil {
					firsts[span] = s
				}
			}
			list := slices.Sorted(maps.Keys(firsts))
			for n := 0; n < len(list) && int64(n) < k[rule]; n++ {
				want(firsts[list[len(list)-1-n]], rule)
			}
		}
	}
	if k[keepWithin] == 0 {
		return
	}
	// What is newest, looked at from the newest on: first whatever it is, and from the newest good one on that one.
	all := h.remaining[source]
	var from *Snapshot
	for i := len(all) - 1; i >= 0; i-- {
		s := all[i]
		if s.released {
			continue
		}
		if s.at.at.Wall.After(now.Wall) { // committed while the wall clock was ahead: nothing is counted from it before that time
			if isFree[s] {
				want(s, keepWithin)
			}
			continue
		}
		if from == nil || s.good() && !from.good() {
			from = s
		}
		if from.at.at.Wall.Unix()-s.at.at.Wall.Unix() <= k[keepWithin] {
			if isFree[s] {
				want(s, keepWithin)
			}
		}
	}
}

func (s *Snapshot) good() bool { return s.Complete && s.Clean }

// free says whether all locks of a snapshot had run at a moment.
func (h *history) free(s *Snapshot, now Stamp) bool {
	for _, g := range s.grants {
		if !g.ended(now) && !g.endedWitnessed(now, h.witnessTime(g.seq, h.trusted)) {
			return false
		}
	}
	return true
}
