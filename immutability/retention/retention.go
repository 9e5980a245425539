// Package retention decides which snapshots may go, from their history and the time alone.
//
// It is pure: it reads no clock and no disk, and gives the same answer for the same input. What it
// answers is a permission, never a command: worm asks here first and then applies rules of its own.
package retention

import (
	"fmt"
	"time"
)

// Keep are the keep rules of one source: how many hours, days, weeks, months and years keep one snapshot each, and for how
// long every one is kept. Zero is a rule that is not said, which keeps nothing.
type Keep struct {
	Hourly, Daily, Weekly, Monthly, Yearly int64
	WithinSeconds                          int64
}

// Snapshot is one committed snapshot as the rules see it. The caller has already weighed the locks
// against the clocks: the rules only hear whether one still runs.
type Snapshot struct {
	ID     string
	Source string
	Label  string
	// Committed is the stamp of the record that committed it, by the vault's wall clock: keep rules count by it.
	Committed time.Time
	// Complete says that every path that was asked for was read; Clean that nothing looked like an attack.
	Complete, Clean bool
	// Unknown says that the manifest could not be read, so that neither Complete nor Clean can be relied on.
	Unknown bool
	// Locked says that a lock still runs, LockMode which, LockedUntil until when if the machine stays on.
	Locked      bool
	LockMode    string
	LockedUntil time.Time
	// LockEnds is the earliest moment of the wall clock at which no lock may run any more; zero stands for LockedUntil.
	// Endless says that there is none: a lock of a mode that nobody here knows.
	LockEnds time.Time
	Endless  bool
	// Held says who holds it and why, as a clause for people; "" for nobody. A hold has no end.
	Held string
	// Released says that several people ended its locks, so that it may go early: keep rules do not want it, nor count it.
	Released bool
}

// History is all that the rules look at.
type History struct {
	// Snapshots in the order in which they were committed, oldest first; all that still exist.
	Snapshots []Snapshot
	// Halt stops every removal when it is not empty, and says why: a wall clock that moved against
	// the running time, or a record of a kind that this release does not know and so cannot obey.
	Halt string
	// Keep gives the keep rules in force for a source; nil is none for any.
	Keep func(source string) Keep
	// Least gives the loosest keep rules and the shortest lock of a new snapshot that could be in force for a source at any
	// time from Now on without several people's consent. Nil stands for what Keep gives, and for no lock at all.
	Least func(source string) (Keep, time.Duration)
	// Now is the time by the vault's wall clock. What may go depends on it only where a snapshot was committed later than that, under
	// a wall clock that was ahead; Earliest does.
	Now time.Time
}

// Rules by which a snapshot is kept, as Reason names them, beside those of Keep.
const (
	RuleLock       = "lock"
	RuleHold       = "hold"
	RuleHourly     = "hourly"
	RuleDaily      = "daily"
	RuleWeekly     = "weekly"
	RuleMonthly    = "monthly"
	RuleYearly     = "yearly"
	RuleWithin     = "within"
	RuleNewest     = "newest"
	RuleUnreadable = "unreadable"
	RuleHalt       = "halt"
)

// Reason is one for which a snapshot stays.
type Reason struct {
	Rule string
	// Text is a clause for people: "its governance lock runs until 2026-08-01T00:00:00Z".
	Text string
	// Until is the earliest time at which this reason could end by itself; zero when no time is known.
	Until time.Time
}

// Decision says for one snapshot whether it may go.
type Decision struct {
	ID     string
	Source string
	Label  string
	Go     bool
	// Reasons are all for which it stays, the strongest first; none if it may go.
	Reasons []Reason
	// Why is a clause for people, made of the first reason (of a lock and a hold both).
	Why string
	// Until is the earliest time at which the answer could change by itself; zero when no time is known.
	Until time.Time
	// Earliest is a time before which nothing makes it go but several people's consent, as long as nobody sets the wall
	// clock: not the end of any lock, not any later snapshot, not a policy that may still be taken back. It is Now when it
	// could go at once, or as soon as something comes whose time nobody knows. It may well be kept for longer. Zero with Never.
	Earliest time.Time
	// Never says that there is no such time: a hold, or a lock that never ends.
	Never bool
}

// Decide answers for every snapshot of the history, in its order.
//
// A snapshot stays while a lock of its own runs, and for ever once it is held. What has neither stays while a keep rule of its
// source wants it: see Keep and docs/RETENTION.md. Of each source four snapshots stay for ever: the
// newest complete one, the newest clean one, the newest that is both, and, where a source has none
// of these, the newest at all. While History.Halt is set everything stays. All else may go.
func Decide(h History) []Decision {
	keep := newest(h.Snapshots)
	wanted := h.wanted()
	earliest := h.earliest()
	out := make([]Decision, len(h.Snapshots))
	for i, s := range h.Snapshots {
		d := Decision{ID: s.ID, Source: s.Source, Label: s.Label, Never: s.Held != "" || s.endless()}
		if !d.Never {
			d.Earliest = earliest[i]
		}
		d.Reasons = reasons(s, wanted[i], keep[i], h.Halt)
		d.conclude(s)
		out[i] = d
	}
	return out
}

func (s Snapshot) endless() bool { return s.Locked && s.Endless }

// reasons puts together all that keep a snapshot.
func reasons(s Snapshot, wanted []Reason, newest, halt string) []Reason {
	var out []Reason
	add := func(rule, text string, until time.Time) {
		if text != "" {
			out = append(out, Reason{Rule: rule, Text: text, Until: until})
		}
	}
	switch {
	case s.endless():
		add(RuleLock, fmt.Sprintf("its lock of mode %q, which this release does not know, never ends", s.LockMode), time.Time{})
	case s.Locked:
		add(RuleLock, fmt.Sprintf("its %s lock runs until %s", s.LockMode, s.LockedUntil.UTC().Format(time.RFC3339)), s.LockedUntil)
	}
	add(RuleHold, s.Held, time.Time{})
	out = append(out, wanted...)
	add(RuleNewest, newest, time.Time{})
	if s.Unknown {
		add(RuleUnreadable, "its manifest cannot be read", time.Time{})
	}
	add(RuleHalt, halt, time.Time{})
	return out
}

// conclude sums up the reasons.
func (d *Decision) conclude(s Snapshot) {
	if len(d.Reasons) == 0 {
		d.Go = true
		d.Why = "its lock has run out, no keep rule wants it, and newer snapshots of " + s.Source + " are kept"
		return
	}
	d.Why = d.Reasons[0].Text
	if s.Locked && s.Held != "" {
		d.Why += "; " + s.Held
	}
	if s.Locked && !d.Never {
		d.Until = s.LockedUntil
	}
}

// newest says for each snapshot why it is the one of its source that never goes, or "".
func newest(all []Snapshot) []string {
	bySource := make(map[string]*marks)
	for i, s := range all {
		if s.Unknown {
			continue // it stays, and does not push out one that can be read
		}
		m := bySource[s.Source]
		if m == nil {
			m = &marks{complete: -1, clean: -1, both: -1}
			bySource[s.Source] = m
		}
		m.see(i, s)
	}
	keep := make([]string, len(all))
	for source, m := range bySource {
		if m.complete < 0 && m.clean < 0 {
			keep[m.any] = "the only kind of snapshot that " + source + " has; the newest never goes"
		}
		// The reason that says most is written last.
		for _, k := range []struct {
			at   int
			what string
		}{{m.both, "complete and clean"}, {m.clean, "clean"}, {m.complete, "complete"}} {
			if k.at >= 0 {
				keep[k.at] = "the newest " + k.what + " snapshot of " + source + " never goes"
			}
		}
	}
	return keep
}

// marks are the places of one source's newest snapshots in the history, -1 for none.
type marks struct{ complete, clean, both, any int }

func (m *marks) see(i int, s Snapshot) {
	m.any = i
	if s.Complete {
		m.complete = i
	}
	if s.Clean {
		m.clean = i
	}
	if s.Complete && s.Clean {
		m.both = i
	}
}
