package clock

import (
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// Report is how the clocks stood at the last reading.
type Report struct {
	Now   Stamp
	Since Stamp         // the vault's first record, as far as known; zero if not
	Off   time.Duration // by how much the wall clock is ahead of what it should show
	// Shifted says that nothing expires, Why what happened and what to do.
	Shifted bool
	Why     string
	// ShiftedFor is the running time since the shift was seen, ShiftedAt what the wall clock showed then.
	ShiftedFor time.Duration
	ShiftedAt  time.Time
	// Found is what was wrong with the state file when it was opened, SaveError why it lies behind.
	Found, SaveError error
}

// Report gives how the clocks stood at the last reading.
func (c *Clock) Report(k Known) Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := Report{Now: c.st.stamp(), Since: k.First, Off: c.st.off(), Found: c.found, SaveError: c.saveErr}
	if r.Shifted, r.Why = c.st.shifted(); r.Shifted {
		r.ShiftedFor, r.ShiftedAt = c.st.Running-c.st.Shift.Running, c.st.Shift.Wall
	}
	return r
}

// Sentences says it in plain words, the most important first.
func (r Report) Sentences() []string {
	running := time.Duration(r.Now.Running) * time.Second
	out := []string{fmt.Sprintf("The wall clock shows %s; this vault has counted %s of running time.", r.Now.Wall.UTC().Format(time.RFC3339), Span(running))}
	switch {
	case r.Shifted:
		out = append(out,
			fmt.Sprintf("The clock is shifted since %s by the wall clock of then, %s of running time ago: %s.", r.ShiftedAt.UTC().Format(time.RFC3339), Span(r.ShiftedFor), r.Why),
			"Pulls go on and new snapshots are locked as ever; only nothing runs out.")
	case r.Off.Abs() >= movedLimit:
		out = append(out, fmt.Sprintf("The wall clock is %s, which is no reason to stop anything: a lock needs both. Look whether the time server is right.", lead(r.Off)))
	default:
		out = append(out, "Both agree.")
	}
	if !r.Since.IsZero() {
		missing := r.Now.Wall.Sub(r.Since.Wall) - (running - time.Duration(r.Since.Running)*time.Second)
		if missing >= time.Hour {
			out = append(out, fmt.Sprintf("Since the vault was made %s, for %s of the time on the wall clock it was switched off or asleep, or nobody counted. "+
				"Locks run only while it runs.", r.Since.Wall.UTC().Format(time.DateOnly), Span(missing)))
		}
	}
	if r.Found != nil {
		out = append(out, found(r.Found))
	}
	if r.SaveError != nil {
		out = append(out, fmt.Sprintf("The clock's state cannot be saved (%v): what is counted until it can is lost if the power fails, and locks last longer by that.", r.SaveError))
	}
	return out
}

func found(err error) string {
	if errors.Is(err, ErrAhead) {
		return fmt.Sprintf("The clock's state was not believed (%v). Compare the ledger with a checkpoint saved elsewhere: holdfast ledger verify --against.", err)
	}
	if errors.Is(err, fs.ErrPermission) {
		return "The clock's state is the keeper's alone; this look counts on from the ledger's newest record."
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "The clock's state was missing: counting went on from the ledger, and locks last longer by what was not recorded."
	}
	return fmt.Sprintf("The clock's state was not believed (%v): counting went on from the ledger, and locks last longer by what was not recorded.", err)
}

// Lateness says what it means for locks that less running time has passed than the wall clock shows: late is by how much the
// latest of the running locks ends after its date. Nothing is said for less than an hour.
func Lateness(late time.Duration) []string {
	if late < time.Hour {
		return nil
	}
	return []string{fmt.Sprintf("Locks that run end up to %s later than their date: so long this vault was switched off or asleep, or its wall clock was set ahead, since they began. "+
		"That is no fault; it keeps, and takes room, for longer. Leave it switched on and nothing more is added.", Span(late))}
}
