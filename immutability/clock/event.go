package clock

import (
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// EventKind says what a clock record tells.
type EventKind string

// The kinds of events.
const (
	Moved   EventKind = "moved"   // the wall clock moved against the time that the machine ran
	Stopped EventKind = "stopped" // it is shifted: nothing expires until the next Resumed
	Resumed EventKind = "resumed" // it was put right, or is believed by now
	State   EventKind = "state"   // the state file was lost, copied, put back or forged
	Ran     EventKind = "ran"     // nothing happened: the record's stamp says how much is credited
)

// Event is what is to be recorded of the clocks.
type Event struct {
	Kind   EventKind
	Off    time.Duration // by how much the wall clock is ahead of what it should show
	Moved  time.Duration // by how much that changed since it was recorded last
	Times  int           // in how many steps it was seen to
	Detail string        // a sentence for people
}

const (
	// movedLimit is how far the wall clock moves before it is recorded: what time servers and clock chips do by themselves
	// stays below.
	movedLimit = 10 * time.Minute
	// eventEvery is the running time between two records of one sort, so that a clock that flaps fills no ledger.
	eventEvery = time.Hour
	// ranEvery is the running time after which a vault in which nothing happens records how much is credited.
	ranEvery = 24 * time.Hour
)

// Due gives what the ledger should be told as of the last reading, given what it knows; false if nothing. It asks for a record
// of Ran only if quiet is set. Of what moves to and fro within an hour of running time only the sum is recorded.
func (c *Clock) Due(k Known, quiet bool) (Event, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := Event{Off: c.st.off().Round(time.Second), Times: c.times}
	e.Moved = e.Off - c.st.Noted
	if e.Moved.Abs() >= movedLimit {
		e.Times = max(e.Times, 1) // across boots no step is seen
	}
	shifted, why := c.st.shifted()
	rested := func(since Stamp) bool {
		return since.IsZero() || c.st.Running-time.Duration(since.Running)*time.Second >= eventEvery
	}
	switch {
	case c.untold != nil && rested(k.Noted.State):
		e.Kind, e.Detail = State, "the clock's state was not what it should be: "+c.untold.Error()
		if errors.Is(c.untold, fs.ErrNotExist) {
			e.Detail = "the clock's state is missing: counting goes on from the newest record"
		}
	case shifted && !k.Noted.Stopped && rested(k.Noted.Turned):
		e.Kind, e.Detail = Stopped, why
	case !shifted && k.Noted.Stopped && rested(k.Noted.Turned):
		e.Kind, e.Detail = Resumed, c.resumed(e)
	case e.Moved.Abs() >= movedLimit && rested(k.Noted.Moved):
		e.Kind, e.Detail = Moved, moved(e)
	case quiet && c.st.Running-time.Duration(k.Newest.Running)*time.Second >= ranEvery:
		return Event{Kind: Ran, Off: e.Off, Detail: "nothing else was recorded for " + Span(c.st.Running-time.Duration(k.Newest.Running)*time.Second) + " of running time"}, true
	default:
		return Event{}, false
	}
	return e, true
}

// Resumes gives the event that expiry goes on, where the ledger says that it stopped and the wall clock is right, however lately it
// was recorded that it stopped: for who is about to rely on it.
func (c *Clock) Resumes(k Known) (Event, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if shifted, _ := c.st.shifted(); shifted || !k.Noted.Stopped {
		return Event{}, false
	}
	e := Event{Kind: Resumed, Off: c.st.off().Round(time.Second), Times: c.times}
	e.Moved = e.Off - c.st.Noted
	e.Detail = c.resumed(e)
	return e, true
}

// Recorded is told that an event of Due is in the ledger.
func (c *Clock) Recorded(e Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch e.Kind {
	case Ran:
		return
	case State:
		c.untold = nil
	}
	c.st.Noted, c.times = e.Off, 0
	// Power fails before this is saved: the state lacks what the ledger has noted, and the next Open sees that.
	c.save(false)
}

// Accept takes the wall clock as right as it was at the last reading: it is shifted no more, and held from here on against
// this. It is called once the ledger says so; see Noted.Accepted. What is credited stays as it is.
func (c *Clock) Accept() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.st, c.times = c.st.accept(), 0
	// Power fails before this is saved: the file is older than the record, and the next Open goes by that.
	c.save(false)
}

func (c *Clock) resumed(e Event) string {
	if e.Off.Abs() < movedLimit {
		return fmt.Sprintf("the wall clock (%s) is where it should be: what has run out expires again", c.st.Wall.Format(time.RFC3339))
	}
	return fmt.Sprintf("the wall clock (%s) is within bounds again, %s: what has run out expires again", c.st.Wall.Format(time.RFC3339), lead(e.Off))
}

func moved(e Event) string {
	how := "ahead"
	if e.Moved < 0 {
		how = "back"
	}
	times := ""
	if e.Times > 1 {
		times = fmt.Sprintf(", in %d steps", e.Times)
	}
	return fmt.Sprintf("the wall clock was set %s by %s%s and is now %s", how, Span(e.Moved.Abs()), times, lead(e.Off))
}

// lead says where the wall clock stands against running time.
func lead(off time.Duration) string {
	switch {
	case off.Abs() < movedLimit:
		return "where running time puts it"
	case off < 0:
		return Span(-off) + " behind where running time puts it"
	}
	return Span(off) + " ahead of where running time puts it"
}

// Span shows a length of time to people, in one unit, rounded to the nearest.
func Span(d time.Duration) string {
	d = d.Abs()
	for _, u := range []struct {
		from, unit time.Duration
		name       string
	}{{48 * time.Hour, 24 * time.Hour, "days"}, {2 * time.Hour, time.Hour, "hours"}, {2 * time.Minute, time.Minute, "minutes"}} {
		if d >= u.from {
			return fmt.Sprintf("%d %s", (d+u.unit/2)/u.unit, u.name)
		}
	}
	return fmt.Sprintf("%d seconds", d/time.Second)
}
