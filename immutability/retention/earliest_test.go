package retention

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// world is a vault that goes on after a history: its locks end, and people and sources do what they like.
type world struct {
	h       History
	keep    map[string]Keep
	least   map[string]Keep
	lock    time.Duration
	ends    map[string]time.Time // of the lock of each snapshot
	endless map[string]bool
}

func drawWorld(t *rapid.T) *world {
	w := &world{keep: map[string]Keep{}, least: map[string]Keep{}, ends: map[string]time.Time{}, endless: map[string]bool{}}
	w.h = drawHistory(t)
	w.lock = time.Duration(rapid.SampledFrom([]int64{0, 1, 3600, 7 * 86400, 40 * 86400}).Draw(t, "shortest lock")) * time.Second
	for _, source := range []string{"a", "b"} {
		k := w.h.Keep(source)
		w.keep[source], w.least[source] = k, k
		if rapid.IntRange(0, 3).Draw(t, "new rule") == 0 {
			w.least[source] = Keep{k.Hourly / 2, k.Daily / 2, k.Weekly, k.Monthly / 2, k.Yearly, k.WithinSeconds / 2}
		}
	}
	w.h.Keep = func(source string) Keep { return w.keep[source] }
	w.h.Least = func(source string) (Keep, time.Duration) { return w.least[source], w.lock }
	for i := range w.h.Snapshots {
		s := &w.h.Snapshots[i]
		s.ID = fmt.Sprint("old", i)
		w.ends[s.ID] = s.LockedUntil
		w.endless[s.ID] = s.Endless
	}
	w.tick(w.h.Now)
	return w
}

// tick lets it be that time, and ends the locks that have run.
func (w *world) tick(now time.Time) {
	w.h.Now = now
	for i := range w.h.Snapshots {
		s := &w.h.Snapshots[i]
		end := w.ends[s.ID]
		s.Endless = w.endless[s.ID]
		s.Locked = s.Endless || !end.IsZero() && !now.After(end)
		s.LockMode, s.LockedUntil, s.LockEnds = "governance", end, end
	}
}

func (w *world) commit(s Snapshot, lock time.Duration) {
	s.ID, s.Committed = fmt.Sprint("new", len(w.ends)), w.h.Now
	w.ends[s.ID] = w.h.Now.Add(lock)
	w.h.Snapshots = append(w.h.Snapshots, s)
	w.tick(w.h.Now)
}

// live is one thing that may happen without several people's consent.
func (w *world) live(t *rapid.T) {
	switch rapid.IntRange(0, 9).Draw(t, "event") {
	default:
		w.tick(w.h.Now.Add(time.Duration(rapid.SampledFrom([]int64{1, 3600, 86400, 9 * 86400, 40 * 86400, 400 * 86400}).Draw(t, "pause")) * time.Second))
	case 0, 1, 2, 3, 4:
		source := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "source")
		w.commit(Snapshot{Source: source, Complete: rapid.IntRange(0, 3).Draw(t, "complete") > 0, Clean: rapid.IntRange(0, 3).Draw(t, "clean") > 0},
			w.lock+time.Duration(rapid.SampledFrom([]int64{0, 0, 0, 1, 86400}).Draw(t, "more lock"))*time.Second)
	case 5:
		source := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "policy")
		w.keep[source] = rapid.SampledFrom([]Keep{w.least[source], w.keep[source], {9, 9, 9, 9, 9, 1 << 20}}).Draw(t, "keep")
	case 6:
		if len(w.h.Snapshots) > 0 {
			s := &w.h.Snapshots[rapid.IntRange(0, len(w.h.Snapshots)-1).Draw(t, "which")]
			switch rapid.IntRange(0, 2).Draw(t, "what") {
			case 0:
				s.Held, s.Released = "it is held", false
			case 1:
				s.Unknown = !s.Unknown
			case 2: // what people let go counts again from then on
				w.ends[s.ID], s.Released = later(w.ends[s.ID], w.h.Now.Add(w.lock)), false
				w.tick(w.h.Now)
			}
		}
	}
}

// TestNothingGoesEarlierThanSaid: whatever comes, no snapshot may go before the earliest time that was ever said of it, nor
// one of which it was said that it never goes.
func TestNothingGoesEarlierThanSaid(t *testing.T) {
	went := 0
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		said, never := map[string]time.Time{}, map[string]bool{}
		for range rapid.IntRange(1, 40).Draw(t, "events") {
			left := w.h.Snapshots[:0:0]
			for i, d := range Decide(w.h) {
				said[d.ID] = later(said[d.ID], d.Earliest)
				never[d.ID] = never[d.ID] || d.Never
				if d.Go && (never[d.ID] || w.h.Now.Before(said[d.ID])) {
					t.Fatalf("%s goes at %s, and it was said %s (never %v)\n%s", d.ID, w.h.Now, said[d.ID], never[d.ID], show(w.h))
				}
				if d.Never == !d.Earliest.IsZero() || !d.Never && d.Earliest.Before(w.h.Now) {
					t.Fatalf("%+v at %s", d, w.h.Now)
				}
				if d.Go {
					went++
				} else {
					left = append(left, w.h.Snapshots[i])
				}
			}
			if rapid.Bool().Draw(t, "prune") {
				w.h.Snapshots = left
			}
			w.live(t)
		}
	})
	if went == 0 {
		t.Error("nothing ever went")
	}
}

// TestEarliestIsMet: where all that could come comes as soon as it may, each snapshot does go at the time that was said, to two
// seconds: no later time could have been.
func TestEarliestIsMet(t *testing.T) {
	met := 0
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		w.keep = w.least
		for i := range w.h.Snapshots {
			s := &w.h.Snapshots[i]
			s.Unknown = false
			if s.Committed.After(w.h.Now) {
				s.Committed = w.h.Now
			}
		}
		decided := Decide(w.h)
		if len(decided) == 0 {
			return
		}
		d := decided[rapid.IntRange(0, len(decided)-1).Draw(t, "which")]
		if d.Never {
			return
		}
		for i := range w.h.Snapshots {
			if s := &w.h.Snapshots[i]; s.Released && s.ID != d.ID { // somebody locks it again
				s.Released, w.ends[s.ID] = false, later(w.ends[s.ID], w.h.Now.Add(w.lock))
			}
		}
		when := map[int64]time.Time{w.h.Now.Unix(): w.h.Now, d.Earliest.Unix() + 1: d.Earliest.Add(time.Second)}
		for _, r := range w.least[d.Source].buckets() {
			for n := range r.n {
				begin := r.begin(r.span(w.h.Now) + n + 1)
				when[begin.Unix()] = begin
			}
		}
		var times []time.Time
		for _, at := range when {
			if !at.After(d.Earliest.Add(time.Second)) {
				times = append(times, at)
			}
		}
		slices.SortFunc(times, time.Time.Compare)
		for _, at := range times {
			w.tick(at)
			w.commit(Snapshot{Source: d.Source}, w.lock)
			w.commit(Snapshot{Source: d.Source, Complete: true, Clean: true}, w.lock)
		}
		w.tick(d.Earliest.Add(2 * time.Second))
		for _, after := range Decide(w.h) {
			if after.ID != d.ID {
				continue
			}
			if !after.Go {
				t.Fatalf("%s of %+v could go at %s, it was said, and is kept: %+v\n%s", d.ID, w.least[d.Source], d.Earliest, after.Reasons, show(w.h))
			}
			met++
		}
	})
	if met == 0 {
		t.Error("nothing was ever looked at")
	}
}

// TestEarliestOfALongRule: a rule of ten thousand years is answered with a time that can be written, in no time.
func TestEarliestOfALongRule(t *testing.T) {
	h := History{Now: began, Keep: func(string) Keep { return Keep{10000, 10000, 10000, 10000, 10000, 100 * 365 * 86400} }}
	for i := range 3000 {
		h.Snapshots = append(h.Snapshots, Snapshot{ID: fmt.Sprint(i), Source: "a", Complete: true, Clean: true, Committed: began.Add(time.Duration(i-3000) * time.Hour)})
	}
	d := Decide(h)
	if _, err := d[0].Earliest.MarshalJSON(); err != nil || d[0].Go || !d[0].Earliest.Equal(latest) {
		t.Errorf("%+v, %v", d[0], err)
	}
}

// TestNthOfTwo holds the nth smallest of a list and an endless sequence against all of them sorted.
func TestNthOfTwo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := func(n int64) time.Time { return began.Add(time.Duration(n) * time.Hour) }
		step, n := rapid.Int64Range(1, 5).Draw(t, "step"), rapid.Int64Range(1, 12).Draw(t, "n")
		var have, all []time.Time
		for range rapid.IntRange(0, 12).Draw(t, "have") {
			have = append(have, at(rapid.Int64Range(-5, 40).Draw(t, "at")))
		}
		next := func(i int64) time.Time { return at(i * step) }
		all = slices.Clone(have)
		for i := range n {
			all = append(all, next(i+1))
		}
		slices.SortFunc(have, time.Time.Compare)
		slices.SortFunc(all, time.Time.Compare)
		if got := nth(have, next, n); !got.Equal(all[n-1]) {
			t.Fatalf("%d of %v, every %d: %s, should be %s", n, have, step, got, all[n-1])
		}
	})
}

// TestLockOfWhatPeopleLetGo: what people let go early takes no place of a rule, but anybody may lock it again, and then it does
// once that lock has run. The earliest time of what lies beside it is no later than that.
func TestLockOfWhatPeopleLetGo(t *testing.T) {
	lock := time.Hour
	h := History{Now: began, Keep: func(string) Keep { return Keep{Daily: 5} }}
	h.Least = func(source string) (Keep, time.Duration) { return h.Keep(source), lock }
	for i := range 3 {
		h.Snapshots = append(h.Snapshots, Snapshot{ID: fmt.Sprint(i), Source: "a", Complete: true, Clean: true, Released: i == 0,
			Committed: began.Add(time.Duration(i-300) * time.Minute)})
	}
	if d := Decide(h)[1]; d.Go || d.Earliest.After(began.Add(lock)) {
		t.Errorf("%+v: not before %s, and another may have its place by %s", d.Reasons, d.Earliest, began.Add(lock))
	}
	h.Snapshots[0].Released, h.Now = false, began.Add(lock) // it was locked again, and that has run
	if d := Decide(h)[1]; !d.Go {
		t.Errorf("%+v", d)
	}
}
