package retention

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The rules once more, as slowly and as plainly as they can be said: by the names of calendar spans, each snapshot for itself.

var spanNames = map[string]func(t time.Time) string{
	RuleHourly: func(t time.Time) string { return t.UTC().Format("2006-01-02 15") },
	RuleDaily:  func(t time.Time) string { return t.UTC().Format("2006-01-02") },
	RuleWeekly: func(t time.Time) string {
		year, week := t.UTC().ISOWeek()
		return fmt.Sprintf("%04d W%02d", year, week)
	},
	RuleMonthly: func(t time.Time) string { return t.UTC().Format("2006-01") },
	RuleYearly:  func(t time.Time) string { return t.UTC().Format("2006") },
}

func (k Keep) said() map[string]int64 {
	return map[string]int64{RuleHourly: k.Hourly, RuleDaily: k.Daily, RuleWeekly: k.Weekly, RuleMonthly: k.Monthly, RuleYearly: k.Yearly}
}

// plainly gives the names of the keep rules that want the snapshot at a place, sorted.
func plainly(h History, at int) []string {
	x := h.Snapshots[at]
	counts := func(s Snapshot) bool {
		return !s.Locked && s.Held == "" && !s.Released && !s.Unknown && s.Source == x.Source
	}
	if !counts(x) {
		return nil
	}
	var out []string
	for name, n := range h.Keep(x.Source).said() {
		span := spanNames[name]
		first, newer := true, map[string]bool{}
		for i, y := range h.Snapshots {
			if !counts(y) || (y.Complete && y.Clean) != (x.Complete && x.Clean) {
				continue
			}
			if span(y.Committed) == span(x.Committed) && i < at {
				first = false
			}
			if span(y.Committed) > span(x.Committed) {
				newer[span(y.Committed)] = true
			}
		}
		if first && int64(len(newer)) < n {
			out = append(out, name)
		}
	}
	good, last := -1, -1
	for i, y := range h.Snapshots {
		if y.Source == x.Source && !y.Unknown && !y.Released && !y.Committed.After(h.Now) {
			last = i
			if y.Complete && y.Clean {
				good = i
			}
		}
	}
	if w := time.Duration(h.Keep(x.Source).WithinSeconds) * time.Second; w > 0 {
		older := func(i int) time.Duration { return h.Snapshots[i].Committed.Sub(x.Committed) }
		if good >= at && older(good) <= w || good < at && last >= 0 && older(last) <= w || x.Committed.After(h.Now) {
			out = append(out, RuleWithin)
		}
	}
	slices.Sort(out)
	return out
}

func keepNames(d Decision) []string {
	var out []string
	for _, r := range d.Reasons {
		if _, span := spanNames[r.Rule]; span || r.Rule == RuleWithin {
			out = append(out, r.Rule)
		}
	}
	slices.Sort(out)
	return out
}

var began = time.Date(2026, 12, 20, 22, 30, 0, 0, time.UTC)

// drawHistory draws sources that flood, vanish, go bad and come back, under a wall clock that is now and then set.
func drawHistory(t *rapid.T) History {
	keep := map[string]Keep{}
	for _, source := range []string{"a", "b"} {
		n := func(what string, most int64) int64 { return rapid.Int64Range(0, most).Draw(t, source+" "+what) }
		keep[source] = Keep{n("hourly", 4), n("daily", 5), n("weekly", 3), n("monthly", 3), n("yearly", 2), n("within", 3) * n("day", 2*86400)}
	}
	h := History{Keep: func(source string) Keep { return keep[source] }, Now: began}
	for i := range rapid.IntRange(0, 40).Draw(t, "snapshots") {
		h.Now = h.Now.Add(time.Duration(rapid.SampledFrom([]int64{1, 1800, 7200, 86400, 86400, 3 * 86400, 20 * 86400, 200 * 86400}).Draw(t, "pause")) * time.Second)
		at := h.Now
		if rapid.IntRange(0, 19).Draw(t, "clock") == 0 {
			at = at.Add(time.Duration(rapid.Int64Range(-40*86400, 40*86400).Draw(t, "set")) * time.Second)
		}
		h.Snapshots = append(h.Snapshots, drawSnapshot(t, fmt.Sprint(i), at, h.Now))
	}
	return h
}

func drawSnapshot(t *rapid.T, id string, at, now time.Time) Snapshot {
	fate := rapid.IntRange(0, 19).Draw(t, "fate")
	s := Snapshot{ID: id, Source: rapid.SampledFrom([]string{"a", "a", "b"}).Draw(t, "source"), Committed: at,
		Complete: rapid.IntRange(0, 3).Draw(t, "complete") > 0, Clean: rapid.IntRange(0, 4).Draw(t, "clean") > 0}
	switch fate {
	case 0:
		s.Held = "it is held"
	case 1:
		s.Released = true
	case 2:
		s.Unknown = true
	case 3, 4, 5, 6:
		s.Locked, s.LockMode = true, "governance"
		s.LockedUntil = now.Add(time.Duration(rapid.Int64Range(0, 60*86400).Draw(t, "lock")) * time.Second)
	case 7:
		s.Locked, s.LockMode, s.Endless = true, "eternal", rapid.Bool().Draw(t, "endless")
		s.LockedUntil = now
	}
	return s
}

func show(h History) string {
	var b strings.Builder
	for _, s := range h.Snapshots {
		fmt.Fprintf(&b, "%+v\n", s)
	}
	return b.String()
}

// TestKeepRulesAreAsTheyAreWritten: the rules and their plainest form want the same of every history.
func TestKeepRulesAreAsTheyAreWritten(t *testing.T) {
	wanted := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		h := drawHistory(t)
		for i, d := range Decide(h) {
			got, want := keepNames(d), plainly(h, i)
			if !slices.Equal(got, want) {
				t.Fatalf("%s of %+v: wanted by %v, should be by %v\n%s", d.ID, h.Keep(d.Source), got, want, show(h))
			}
			for _, name := range want {
				wanted[name]++
			}
			if d.Go != (len(d.Reasons) == 0) || d.Why == "" || d.Go && (len(want) > 0 || h.Snapshots[i].Locked || h.Snapshots[i].Held != "") {
				t.Fatalf("%+v", d)
			}
		}
	})
	if len(wanted) != 6 {
		t.Errorf("not every rule was ever met: %v", wanted)
	}
}

// TestNothingGoesByTheCalendar: once what may go has gone, nothing more goes until something comes or a lock runs out, however
// much time passes.
func TestNothingGoesByTheCalendar(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := drawHistory(t)
		for i := range h.Snapshots {
			if h.ahead(i) { // once that time has come it counts
				h.Snapshots[i].Committed = h.Now
			}
		}
		var left []Snapshot
		for i, d := range Decide(h) {
			if !d.Go {
				left = append(left, h.Snapshots[i])
			}
		}
		h.Snapshots, h.Now = left, h.Now.AddDate(rapid.IntRange(0, 50).Draw(t, "years"), 0, 0)
		for _, d := range Decide(h) {
			if d.Go {
				t.Fatalf("%s goes for nothing that came", d.ID)
			}
		}
	})
}

// TestACutPruneEndsDifferently: whichever part of what may go has gone, the rest still may, and nothing else.
func TestACutPruneEndsDifferently(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := drawHistory(t)
		goes := map[string]bool{}
		var left []Snapshot
		for i, d := range Decide(h) {
			goes[d.ID] = d.Go
			if !d.Go || rapid.Bool().Draw(t, "left") {
				left = append(left, h.Snapshots[i])
			}
		}
		h.Snapshots = left
		for _, d := range Decide(h) {
			if d.Go != goes[d.ID] {
				t.Fatalf("%s goes: %v before the cut, %v after it\n%s", d.ID, goes[d.ID], d.Go, show(h))
			}
		}
	})
}

// BenchmarkDecide is one look at a large vault: 300 sources, each with 100 snapshots of 20 days that have run out, and all rules.
func BenchmarkDecide(b *testing.B) {
	h := History{Now: began, Keep: func(string) Keep { return Keep{24, 7, 5, 12, 7, 14 * 86400} }}
	for i := range 300 * 100 {
		h.Snapshots = append(h.Snapshots, Snapshot{ID: fmt.Sprint(i), Source: fmt.Sprint(i % 300), Complete: true, Clean: i%7 > 0,
			Committed: began.Add(time.Duration(i/300-100) * 5 * time.Hour)})
	}
	for b.Loop() {
		Decide(h)
	}
	b.ReportMetric(float64(len(h.Snapshots)), "snapshots")
}

// TestOneMoreSnapshotPushesOut: of each rule a snapshot that comes takes a place only in a newer span that had none of its quality,
// and only once its lock has run: not by flooding a span, not by being bad.
func TestOneMoreSnapshotPushesOut(t *testing.T) {
	pushed := 0
	rapid.Check(t, func(t *rapid.T) {
		h := drawHistory(t)
		if len(h.Snapshots) == 0 {
			return
		}
		before := Decide(h)
		at := h.Now
		if rapid.Bool().Draw(t, "anew") { // into a span that there is
			at = rapid.SampledFrom(h.Snapshots).Draw(t, "beside").Committed.Add(time.Minute)
		}
		more := drawSnapshot(t, "more", at, h.Now)
		h.Snapshots = append(h.Snapshots, more)
		after := Decide(h)
		for i, d := range before {
			for _, name := range keepNames(d) {
				if slices.Contains(keepNames(after[i]), name) {
					continue
				}
				pushed++
				x := h.Snapshots[i]
				if more.Source != x.Source || more.Unknown {
					t.Fatalf("%+v of another source, or one that cannot be read, made %s forget %+v", more, name, x)
				}
				if name == RuleWithin {
					if within := time.Duration(h.Keep(x.Source).WithinSeconds) * time.Second; x.good() && !more.good() || more.Committed.Sub(x.Committed) <= within {
						t.Fatalf("%+v made %s forget %+v", more, name, x)
					}
					continue
				}
				span := spanNames[name]
				if more.Locked || more.Held != "" || more.Released || more.good() != x.good() || span(more.Committed) <= span(x.Committed) {
					t.Fatalf("%+v made %s forget %+v", more, name, x)
				}
			}
		}
	})
	if pushed == 0 {
		t.Error("nothing was ever pushed out")
	}
}

// TestReasonsAreAllGiven: what is kept by many is said to be, the strongest first.
func TestReasonsAreAllGiven(t *testing.T) {
	h := History{Halt: "the clock moved", Now: began, Keep: func(string) Keep { return Keep{Daily: 1, Yearly: 2, WithinSeconds: 5} }, Snapshots: []Snapshot{
		{ID: "1", Source: "a", Complete: true, Clean: true, Committed: began},
		{ID: "2", Source: "a", Complete: true, Clean: true, Committed: began, Locked: true, LockMode: "governance", LockedUntil: began, Held: "it is held"},
		{ID: "3", Source: "a", Complete: true, Committed: began, Unknown: true},
	}}
	var got []string
	for _, d := range Decide(h) {
		var rules []string
		for _, r := range d.Reasons {
			rules = append(rules, r.Rule)
			if r.Text == "" {
				t.Errorf("%+v", r)
			}
		}
		got = append(got, strings.Join(rules, " "))
	}
	want := []string{"daily yearly within halt", "lock hold newest halt", "unreadable halt"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	d := Decide(h)
	if why := d[1].Why; why != "its governance lock runs until 2026-12-20T22:30:00Z; it is held" || !d[1].Until.IsZero() || !d[1].Never {
		t.Errorf("%+v", d[1])
	}
	if why := d[0].Why; why != "the daily rule keeps it: the first good snapshot of 2026-12-20, the 1st of the newest 1 days that have one" {
		t.Errorf("%q", why)
	}
}

// TestSpansOfTheCalendar: where spans begin and end, also before 1970 and about the turn of a year.
func TestSpansOfTheCalendar(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := time.Unix(rapid.Int64Range(-60_000_000_000, 250_000_000_000).Draw(t, "t"), 0)
		for _, r := range (Keep{1, 1, 1, 1, 1, 0}).buckets() {
			name, n := spanNames[r.name], r.span(x)
			begin, end := r.begin(n), r.begin(n+1)
			if begin.After(x) || !x.Before(end) || name(begin) != name(x) || name(end.Add(-1)) != name(x) || name(end) == name(x) || r.span(end) != n+1 {
				t.Fatalf("%s: %s is in %d, which is from %s to %s", r.name, x.UTC(), n, begin, end)
			}
		}
	})
}

// TestClockThatWasAheadEmptiesWithin: one pull under a wall clock that was years ahead, for a moment, makes the within rule forget nothing
// of what was pulled before: not while its source is silent, nor while it sends nothing good, until that time has come.
func TestClockThatWasAheadEmptiesWithin(t *testing.T) {
	h := History{Now: began, Keep: func(string) Keep { return Keep{WithinSeconds: 14 * 86400} }}
	add := func(days int, s Snapshot) {
		s.ID, s.Source, s.Committed = fmt.Sprint(len(h.Snapshots)), "a", began.AddDate(0, 0, days)
		h.Snapshots = append(h.Snapshots, s)
	}
	good := Snapshot{Complete: true, Clean: true}
	ahead := Snapshot{Complete: true, Clean: true, Locked: true, LockMode: "governance", LockedUntil: began.AddDate(10, 0, 30)}
	add(-20, good)
	add(-12, good)
	add(-3, good)
	add(3650, ahead)
	for _, bad := range []bool{false, true} {
		if bad {
			add(-1, Snapshot{Complete: true})
		}
		for i, d := range Decide(h) {
			if d.Go != (i == 0) {
				t.Errorf("bad after it %v, %d: goes %v: %+v", bad, i, d.Go, d.Reasons)
			}
		}
	}
	h.Now = h.Snapshots[3].Committed
	if d := Decide(h); !d[2].Go || d[3].Go {
		t.Errorf("that time has come: %+v", d)
	}
}
