// Package retention decides which snapshots may go, from their history and the time alone.
//
// It is pure: it reads no clock and no disk, and gives the same answer for the same input. What it
// answers is a permission, never a command: worm asks here first and then applies rules of its own.
package retention

import (
	"fmt"
	"time"
)

// Snapshot is one committed snapshot as the rules see it. The caller has already weighed the locks
// against the clocks: the rules only hear whether one still runs.
type Snapshot struct {
	ID     string
	Source string
	Label  string
	// Complete says that every path that was asked for was read; Clean that nothing looked like an attack.
	Complete, Clean bool
	// Unknown says that the manifest could not be read, so that neither Complete nor Clean is known.
	Unknown bool
	// Locked says that a lock still runs, LockMode which, LockedUntil until when at the earliest.
	Locked      bool
	LockMode    string
	LockedUntil time.Time
	// Held says who holds it and why, as a clause for people; "" for nobody. A hold has no end.
	Held string
}

// History is all that the rules look at.
type History struct {
	// Snapshots in the order in which they were committed, oldest first; all that still exist.
	Snapshots []Snapshot
	// Halt stops every removal when it is not empty, and says why: a wall clock that moved against
	// the running time, or a record of a kind that this release does not know and so cannot obey.
	Halt string
}

// Decision says for one snapshot whether it may go.
type Decision struct {
	ID     string
	Source string
	Label  string
	Go     bool
	// Why is a clause for people: "its governance lock runs until 2026-08-01T00:00:00Z".
	Why string
	// Until is the earliest time at which the answer could change by itself; zero when no time is known.
	Until time.Time
}

// Decide answers for every snapshot of the history, in its order.
//
// A snapshot stays while a lock of its own runs, and for ever once it is held. Of each source four snapshots stay for ever: the
// newest complete one, the newest clean one, the newest that is both, and, where a source has none
// of these, the newest at all. While History.Halt is set everything stays. All else may go.
func Decide(h History) []Decision {
	keep := newest(h.Snapshots)
	out := make([]Decision, len(h.Snapshots))
	for i, s := range h.Snapshots {
		d := Decision{ID: s.ID, Source: s.Source, Label: s.Label}
		switch {
		case s.Held != "":
			d.Why = s.Held
		case s.Locked:
			d.Until = s.LockedUntil
			d.Why = fmt.Sprintf("its %s lock runs until %s", s.LockMode, s.LockedUntil.UTC().Format(time.RFC3339))
		case s.Unknown:
			d.Why = "its manifest cannot be read"
		case keep[i] != "":
			d.Why = keep[i]
		case h.Halt != "":
			d.Why = h.Halt
		default:
			d.Go = true
			d.Why = "its lock has run out, and newer snapshots of " + s.Source + " are kept"
		}
		out[i] = d
	}
	return out
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
