package clock

import (
	"errors"
	"fmt"
	"time"
)

// Known is what the ledger says of time: what a clock's state is held against, and what it starts from without one.
type Known struct {
	Vault  string // 32 hex digits; "" is not compared
	First  Stamp  // of the first record; only Report asks
	Newest Stamp  // of any record; zero in a vault without records
	// Records is how many there are.
	Records uint64
	Noted   Noted
}

// Noted is what clock records have told so far. The zero Noted is nothing.
type Noted struct {
	At      Stamp         // of the newest that is not "ran"
	Off     time.Duration // the wall clock's lead then
	Stopped bool          // the newest of "stopped" and "resumed" is "stopped"
	Moved   Stamp         // of the newest "moved"
	Turned  Stamp         // of the newest "stopped" or "resumed"
	State   Stamp         // of the newest "state"
	// Accepted is the newest moment at which the wall clock was taken as right on people's word.
	Accepted Stamp
}

const (
	// unrecordedMax is how much running time the state file is believed beyond the newest record. Its checksum is no
	// signature: whoever may write it could make every lock run out by running time at once. The daemon has a record made
	// each day, so what honest files lack is little.
	unrecordedMax = 7 * 24 * time.Hour
	// olderLimit is how far the file may lie behind the ledger before that is worth telling.
	olderLimit = time.Hour
	// wallSlack is how far wall clock and running time may stray from each other without anybody's fault, besides one in a thousand.
	wallSlack = 10 * time.Minute
)

var (
	// ErrDamaged is in the chain of every error that finds the state file damaged.
	ErrDamaged = errors.New("damaged")
	// ErrNewer is in the chain when the state file was written by a newer release of holdfast.
	ErrNewer = errors.New("written by a newer release of holdfast")
	// ErrForeign says that the state file is another vault's.
	ErrForeign = errors.New("another vault's")
	// ErrOlder says that the state file is older than the ledger: put back, or not saved for an hour.
	ErrOlder = errors.New("older than the ledger")
	// ErrAhead says that the state file claims more running time than can have passed since the newest record.
	ErrAhead = errors.New("ahead of the ledger by more than can have passed")
)

// begin is the state of a clock that has no state file that it could believe: it goes on from the newest stamp that the
// ledger holds, credits nothing for the time since then, and remembers of the wall clock what the ledger remembers.
func begin(r Reading, k Known) state {
	s := state{Vault: k.Vault, Records: k.Records, Running: time.Duration(k.Newest.Running) * time.Second}
	s.Wall = wholeSeconds(r.Wall)
	s.ExpectedWall = s.Wall
	if !k.Newest.Wall.IsZero() {
		s.Wall, s.Noted = wholeSeconds(k.Newest.Wall), k.Noted.Off
		s.ExpectedWall = s.Wall.Add(-k.Noted.Off)
	}
	if k.Noted.Stopped {
		s.Shift = &shift{Wall: s.Wall, Running: time.Duration(k.Noted.Turned.Running) * time.Second}
	}
	return s.step(r) // its Boot is "", so that this is another boot
}

// take is the state after the first reading of a process that found st, and what was wrong with st.
func take(st state, r Reading, k Known) (state, error) {
	had := int64(st.Running / time.Second)
	switch {
	case st.Vault != "" && k.Vault != "" && st.Vault != k.Vault:
		return begin(r, k), fmt.Errorf("it is of vault %q: %w", st.Vault, ErrForeign)
	case time.Duration(k.Newest.Running-had)*time.Second >= olderLimit:
		return begin(r, k), fmt.Errorf("it lacks %s of running time that the ledger has: %w", Span(time.Duration(k.Newest.Running-had)*time.Second), ErrOlder)
	case st.Vault != "" && st.Records < k.Records && had > k.Newest.Running: // format 1 does not say
		// What was recorded since the file was saved was stamped by a clock that had lost the file's credit. Taken now, that
		// credit would count for locks that began behind it.
		return begin(r, k), fmt.Errorf("records were made by a clock that counted less: %w", ErrOlder)
	case had < k.Noted.At.Running, !k.Noted.Accepted.IsZero() && had == k.Noted.Accepted.Running:
		// The power failed between that record and this file. A file of the very second in which the wall clock was accepted may
		// be the one of before: what is lost by not believing it is the credit since.
		return begin(r, k), nil
	}
	// What is older than the ledger was not put down after the last stamp, whatever it says.
	st.Idle = st.Idle && had >= k.Newest.Running && !st.Wall.Before(wholeSeconds(k.Newest.Wall))
	if k.Vault != "" {
		st.Vault = k.Vault
	}
	st.Records = k.Records
	after := st.resume(r)
	if k.Newest.IsZero() {
		return after, nil
	}
	return after.bound(st.Running, k)
}

// bound lifts the credited time to what the ledger says was credited before, and cuts what cannot have passed since: file
// is what the state file alone claimed.
func (s state) bound(file time.Duration, k Known) (state, error) {
	newest := time.Duration(k.Newest.Running) * time.Second
	claimed := s.Running
	if extra := file - newest - unrecordedMax; extra > 0 {
		s.Running -= extra
	}
	// The lock needs the wall clock as well, so this takes nothing from anybody whose wall clock is right. One that was put
	// back since is no sign of anything here: it is told elsewhere.
	passed := max(s.Wall.Sub(k.Newest.Wall)+max(s.Noted-s.off(), 0), 0)
	s.Running = min(s.Running, newest+passed+passed/1000+wallSlack)
	s.Running = max(s.Running, newest)
	if s.Shift != nil {
		s.Shift.Running = min(s.Shift.Running, s.Running)
	}
	if s.Running < claimed {
		return s, fmt.Errorf("it claims %s of running time since the newest record, and %s is believed: it was forged, or the ledger is an older one, or an earlier release recorded nothing for so long: %w",
			Span(claimed-newest), Span(s.Running-newest), ErrAhead)
	}
	return s, nil
}
