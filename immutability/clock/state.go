package clock

import (
	"fmt"
	"time"
)

const (
	shiftLimit   = 24 * time.Hour       // how far the wall clock may stray within a boot
	rebootLimit  = 10 * time.Minute     // how far it may go back across boots
	farAhead     = 366 * 24 * time.Hour // how far it may go ahead across boots: a machine that was off for longer is rare
	shiftSettles = 7 * 24 * time.Hour   // running time after which a new wall clock is taken as right
)

// state is what the clock knows as of one reading.
type state struct {
	Vault    string        // whose it is; "" in files of before
	Records  uint64        // that the ledger had
	Running  time.Duration // credited
	Boot     string
	Raw      time.Duration
	Boottime time.Duration
	Wall     time.Time

	// Idle is whether this reading was the last before the state was put down. Only then may the time until the state is
	// taken up again be credited, as one difference. A process that was killed may have read again and given out stamps
	// that the file knows nothing of; the lesser of two clocks over the whole time could then exceed what it had credited
	// piece by piece, and a lock counted from such a stamp would have that much for nothing.
	Idle bool

	// Within a boot the wall clock is held against expected wall = ExpectedWall + (BOOTTIME - ExpectedAt).
	ExpectedWall time.Time
	ExpectedAt   time.Duration
	Carried      bool
	Noted        time.Duration // how far the wall clock was ahead of that when the ledger was last told

	Shift *shift // nil while the wall clock is as expected
}

// shift remembers the reading at which the wall clock was first seen to have moved, so that it can be told for how long it
// has been steady since.
type shift struct {
	Wall    time.Time
	At      time.Duration // BOOTTIME
	Running time.Duration // credited running time then
}

// step is the state after a further reading.
func (s state) step(r Reading) state { return s.advance(r, true) }

// resume is the state after the first reading of another process.
func (s state) resume(r Reading) state { return s.advance(r, s.Idle) }

func (s state) advance(r Reading, mayCredit bool) state {
	wall := wholeSeconds(r.Wall)
	s.Idle = false
	if r.BootID == s.Boot {
		// A counter that went back (a virtual machine put back to an earlier moment) credits nothing and counts on from
		// there; each difference alone is time that really passed.
		if credit := min(r.Raw-s.Raw, r.Boot-s.Boottime); mayCredit && credit > 0 {
			s.Running += credit
		}
	} else {
		s = s.reboot(wall, r.Boot)
	}
	s.Boot, s.Raw, s.Boottime, s.Wall = r.BootID, r.Raw, r.Boot, wall
	return s.watch()
}

// reboot carries the expectation into another boot. How long the machine was off cannot be known: any wall clock later
// than the last may be right, and an earlier one cannot.
func (s state) reboot(wall time.Time, at time.Duration) state {
	// At the last reading of the boot before, in the whole seconds that the file can hold.
	expected := wholeSeconds(s.ExpectedWall.Add(s.Boottime - s.ExpectedAt))
	ahead := s.Wall.Sub(expected)
	s.Carried = false
	switch {
	case wall.Sub(s.Wall) > farAhead:
		s.ExpectedWall = expected // rather set wrong than switched off for so long; either is told, and settles
	case ahead > 0 && !wall.Before(s.Wall):
		s.ExpectedWall = wall.Add(-ahead) // a step forward is not forgotten by rebooting
	case wall.Before(expected):
		s.ExpectedWall, s.Carried = expected, true
	default:
		s.ExpectedWall, s.Noted = wall, 0
	}
	s.ExpectedAt = at
	if s.Shift != nil {
		moved := *s.Shift
		if wall.Before(s.Wall.Add(-rebootLimit)) {
			moved.Running = s.Running // it moved again
		}
		moved.Wall, moved.At = wall, at
		s.Shift = &moved
	}
	return s
}

// watch holds the wall clock against the expectation.
func (s state) watch() state {
	if off := s.off(); off <= shiftLimit && off >= -s.backLimit() {
		s.Shift = nil
		return s
	}
	if s.Shift != nil {
		again := s.Wall.Sub(s.Shift.Wall.Add(s.Boottime - s.Shift.At))
		if again.Abs() <= shiftLimit {
			if s.Running-s.Shift.Running >= shiftSettles {
				s = s.accept()
			}
			return s
		}
	}
	s.Shift = &shift{Wall: s.Wall, At: s.Boottime, Running: s.Running}
	return s
}

// accept takes the wall clock as right from here on.
func (s state) accept() state {
	s.ExpectedWall, s.ExpectedAt, s.Carried, s.Noted, s.Shift = s.Wall, s.Boottime, false, 0, nil
	return s
}

// off is by how much the wall clock is ahead of what it should show.
func (s state) off() time.Duration {
	return s.Wall.Sub(s.ExpectedWall.Add(s.Boottime - s.ExpectedAt))
}

func (s state) backLimit() time.Duration {
	if s.Carried {
		return rebootLimit
	}
	return shiftLimit
}

func (s state) shifted() (bool, string) {
	if s.Shift == nil {
		return false, ""
	}
	off := s.off()
	what := fmt.Sprintf("%s ahead of the time that this machine ran", Span(off))
	switch {
	case off > farAhead:
		what += ", which no machine is switched off for"
	case off < 0 && s.Carried:
		what = fmt.Sprintf("%s behind what it showed before the last boot", Span(-off))
	case off < 0:
		what = fmt.Sprintf("%s behind the time that this machine ran", Span(-off))
	}
	left := max(shiftSettles-(s.Running-s.Shift.Running), time.Minute)
	return true, fmt.Sprintf("the wall clock (%s) is %s: nothing expires. Put it right; if it is right, it is believed after %s more of running time",
		s.Wall.Format(time.RFC3339), what, Span(left))
}

func (s state) stamp() Stamp {
	return Stamp{Wall: s.Wall, Running: int64(s.Running / time.Second), Boot: s.Boot}
}

// wholeSeconds cuts a wall clock in the form that survives JSON unchanged.
func wholeSeconds(t time.Time) time.Time { return time.Unix(t.Unix(), 0).UTC() }
