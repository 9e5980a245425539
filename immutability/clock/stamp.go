package clock

import (
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// Stamp is a moment as the vault saw it, in whole seconds, both clocks rounded down. It stands in every ledger record.
type Stamp struct {
	Wall    time.Time `json:"wall"`      // the wall clock, UTC, whole seconds
	Running int64     `json:"running_s"` // seconds of credited running time since the vault was made
	Boot    string    `json:"boot"`      // the kernel's boot identity, for reading by people
}

// IsZero tells whether s is the stamp of no moment at all.
func (s Stamp) IsZero() bool { return s == Stamp{} }

// Before orders stamps of one vault by credited running time, and by the wall clock where that is equal. Only the running
// time never goes back.
func (s Stamp) Before(o Stamp) bool {
	if s.Running != o.Running {
		return s.Running < o.Running
	}
	return s.Wall.Before(o.Wall)
}

// String shows a stamp to people.
func (s Stamp) String() string {
	return fmt.Sprintf("%s (running %d s)", s.Wall.UTC().Format(time.RFC3339), s.Running)
}

// Elapsed tells whether at least d has passed between two stamps by the wall clock and by credited running time alike.
//
// Stamps are cut to whole seconds, so a difference of n seconds proves only that more than n-1 have passed: one second is
// asked on top, and the answer is never a fraction of a second early. Nothing has to pass for d <= 0.
func Elapsed(since, now Stamp, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	if since.Running < 0 || now.Running < 0 {
		return false // never issued by a Clock; refusing also keeps the subtraction below from overflowing
	}
	need := int64((d-1)/time.Second) + 2 // d rounded up to seconds, and one
	return now.Wall.Unix()-since.Wall.Unix() >= need && now.Running-since.Running >= need
}

// ElapsedWitnessed is Elapsed where the time that others saw may stand in for the running time: seen is how many seconds they
// saw pass since, a difference of whole seconds like the others, 0 if they say nothing.
func ElapsedWitnessed(since, now Stamp, d time.Duration, seen int64) bool {
	if seen > 0 && since.Running >= 0 && now.Running >= since.Running {
		now.Running = since.Running + max(now.Running-since.Running, seen)
		if now.Running < 0 {
			return false
		}
	}
	return Elapsed(since, now, d)
}

// earliestConstant is taken as the build date of a binary that carries none.
var earliestConstant = time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)

// Earliest returns a moment before which the present cannot be: the time of the commit that this binary was built from,
// or a constant where the binary does not carry one. A vault is not begun under a wall clock before it.
func Earliest() time.Time { return earliest() }

var earliest = sync.OnceValue(func() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return earliestConstant
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			if t, err := time.Parse(time.RFC3339, s.Value); err == nil {
				return t.UTC()
			}
		}
	}
	return earliestConstant
})

// labelLayout is the form of a snapshot's time in its address.
const labelLayout = "20060102T150405Z"

// Label returns the name of a moment, 20260701T030405Z, and one that comes strictly after last ("" for none): a wall clock
// that was put back, or two snapshots in one second, go on a second after the last label. Labels sort as text.
func Label(wall time.Time, last string) (string, error) {
	wall = wall.UTC().Truncate(time.Second)
	if last != "" {
		l, err := ParseLabel(last)
		if err != nil {
			return "", fmt.Errorf("label before this one: %w", err)
		}
		if !wall.After(l) {
			wall = l.Add(time.Second)
		}
	}
	if y := wall.Year(); y < 0 || y > 9999 {
		return "", fmt.Errorf("the year %d does not fit a label, set the wall clock right", y)
	}
	return wall.Format(labelLayout), nil
}

// ParseLabel reads what Label wrote, and nothing else.
func ParseLabel(s string) (time.Time, error) {
	t, err := time.Parse(labelLayout, s)
	if err != nil || t.Format(labelLayout) != s {
		return time.Time{}, fmt.Errorf("%q is not a time like 20260701T030405Z", s)
	}
	return t, nil
}
