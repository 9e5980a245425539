package retention

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// rule is one of the rules that keep a snapshot for each of so many spans of the calendar, UTC.
type rule struct {
	name string
	n    int64
	// span numbers the span that a moment lies in; begin is when one begins. Both rise.
	span  func(t time.Time) int64
	begin func(span int64) time.Time
	form  string // of a span's begin, for people
	plain string // what spans are called
}

const secondsADay = 24 * 3600

// buckets gives the rules that are said.
func (k Keep) buckets() []rule {
	every := func(name string, n, seconds, offset int64, form, plain string) rule {
		return rule{name, n,
			func(t time.Time) int64 { return floor(t.Unix()-offset, seconds) },
			func(span int64) time.Time { return time.Unix(span*seconds+offset, 0).UTC() }, form, plain}
	}
	all := []rule{
		every(RuleHourly, k.Hourly, 3600, 0, "the hour of 2006-01-02T15:00Z", "hours"),
		every(RuleDaily, k.Daily, secondsADay, 0, "2006-01-02", "days"),
		// The first of January 1970 was a Thursday: this week began three days before.
		every(RuleWeekly, k.Weekly, 7*secondsADay, -3*secondsADay, "the week of 2006-01-02", "weeks"),
		{RuleMonthly, k.Monthly,
			func(t time.Time) int64 { t = t.UTC(); return int64(t.Year())*12 + int64(t.Month()) - 1 },
			func(span int64) time.Time { return time.Date(0, time.Month(span+1), 1, 0, 0, 0, 0, time.UTC) }, "2006-01", "months"},
		{RuleYearly, k.Yearly,
			func(t time.Time) int64 { return int64(t.UTC().Year()) },
			func(span int64) time.Time { return time.Date(int(span), 1, 1, 0, 0, 0, 0, time.UTC) }, "2006", "years"},
	}
	return slices.DeleteFunc(all, func(r rule) bool { return r.n < 1 })
}

// floor divides towards the past, also before 1970.
func floor(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// within is for how long everything is kept: nothing longer than what can be counted is said.
func (k Keep) within() time.Duration {
	return time.Duration(min(max(k.WithinSeconds, 0), 250*365*secondsADay)) * time.Second
}

func (s Snapshot) good() bool { return s.Complete && s.Clean }

// countable says whether keep rules may ever ask for a snapshot: not if something else keeps it for ever, nor if people let it go.
// One whose manifest cannot be read stays anyhow, and takes nobody's place.
func (s Snapshot) countable() bool { return s.Held == "" && !s.endless() && !s.Released }

func (s Snapshot) choosable() bool { return s.countable() && !s.Locked && !s.Unknown }

// bySource gives the places of each source's snapshots in the history, oldest first.
func (h History) bySource() map[string][]int {
	out := map[string][]int{}
	for i, s := range h.Snapshots {
		out[s.Source] = append(out[s.Source], i)
	}
	return out
}

func (h History) keep(source string) Keep {
	if h.Keep == nil {
		return Keep{}
	}
	return h.Keep(source)
}

// wanted gives for each snapshot the reasons that keep rules have for it.
func (h History) wanted() [][]Reason {
	out := make([][]Reason, len(h.Snapshots))
	for source, places := range h.bySource() {
		k := h.keep(source)
		if k == (Keep{}) {
			continue
		}
		for _, r := range k.buckets() {
			for _, good := range []bool{true, false} {
				h.fill(out, r, good, places)
			}
		}
		h.recent(out, k, places)
	}
	return out
}

// fill keeps the first snapshot of each of the newest spans that have one. Those that are good and those that are not have
// spans of their own, so that neither takes the place of the other.
func (h History) fill(out [][]Reason, r rule, good bool, places []int) {
	first := map[int64]int{}
	for _, i := range places {
		s := h.Snapshots[i]
		if !s.choosable() || s.good() != good {
			continue
		}
		// The first by the order of the ledger, whatever the wall clock did: what comes later takes nobody's place.
		if span := r.span(s.Committed); !has(first, span) {
			first[span] = i
		}
	}
	spans := make([]int64, 0, len(first))
	for span := range first {
		spans = append(spans, span)
	}
	slices.SortFunc(spans, func(a, b int64) int { return cmp.Compare(b, a) })
	kind := "good"
	if !good {
		kind = "partial or unclean"
	}
	for n, span := range spans[:min(int64(len(spans)), r.n)] {
		i := first[span]
		out[i] = append(out[i], Reason{Rule: r.name, Text: fmt.Sprintf("the %s rule keeps it: the first %s snapshot of %s, the %s of the newest %d %s that have one",
			r.name, kind, r.begin(span).Format(r.form), ordinal(n+1), r.n, r.plain)})
	}
}

func has(m map[int64]int, key int64) bool { _, ok := m[key]; return ok }

func ordinal(n int) string {
	switch {
	case n%100 >= 11 && n%100 <= 13:
	case n%10 == 1:
		return fmt.Sprintf("%dst", n)
	case n%10 == 2:
		return fmt.Sprintf("%dnd", n)
	case n%10 == 3:
		return fmt.Sprintf("%drd", n)
	}
	return fmt.Sprintf("%dth", n)
}

// recent keeps everything that is not much older than what is newest.
func (h History) recent(out [][]Reason, k Keep, places []int) {
	a := h.anchors(places)
	for _, i := range places {
		if !h.Snapshots[i].choosable() {
			continue
		}
		from, ok := h.isRecent(a, k.within(), i)
		switch {
		case !ok:
		case h.ahead(i):
			out[i] = append(out[i], Reason{Rule: RuleWithin, Text: fmt.Sprintf("the within rule keeps it: by its own stamp, %s, it is still to come",
				h.Snapshots[i].Committed.UTC().Format(time.RFC3339))})
		default:
			out[i] = append(out[i], Reason{Rule: RuleWithin, Text: fmt.Sprintf("the within rule keeps it: it was committed at most %s before the newest%s snapshot of %s, that of %s",
				lasting(k.within()), from, h.Snapshots[i].Source, h.Snapshots[a.of(from)].Committed.UTC().Format(time.RFC3339))})
		}
	}
}

// lasting writes a duration in days where it is some.
func lasting(d time.Duration) string {
	const day = secondsADay * time.Second
	if d%day == 0 {
		return fmt.Sprintf("%d days", d/day)
	}
	return d.String()
}

// anchors are the places of the snapshots that a source's recent ones are counted from, -1 for none.
type anchors struct{ good, last int }

const newestGood = " good"

func (a anchors) of(from string) int {
	if from == newestGood {
		return a.good
	}
	return a.last
}

// ahead says that a snapshot was committed under a wall clock that was ahead of what it shows now.
func (h History) ahead(i int) bool { return h.Snapshots[i].Committed.After(h.Now) }

// anchors looks for what is newest by the order of the ledger, locked or not. One that was committed while the wall clock was ahead is
// passed over until that time has come: what is counted from it would all be too old at once, and where a source has vanished,
// or is never good again, for good.
func (h History) anchors(places []int) anchors {
	a := anchors{-1, -1}
	for _, i := range places {
		s := h.Snapshots[i]
		if s.Unknown || s.Released || h.ahead(i) {
			continue
		}
		a.last = i
		if s.good() {
			a.good = i
		}
	}
	return a
}

// isRecent says whether a snapshot was committed at most so long before the newest good one of its source. One that came after
// that, or where none is good, is held against the newest of all: what a source sends that is never good again would fill the
// disk otherwise.
func (h History) isRecent(a anchors, within time.Duration, i int) (from string, ok bool) {
	from = newestGood
	if i > a.good {
		from = ""
	}
	if within > 0 && h.ahead(i) {
		return from, true
	}
	if within <= 0 || a.of(from) < 0 {
		return "", false
	}
	return from, !h.Snapshots[i].Committed.Before(h.Snapshots[a.of(from)].Committed.Add(-within))
}
