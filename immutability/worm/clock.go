package worm

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
)

// applyClock follows a clock record.
func (st *state) applyClock(r ledger.Record) {
	n := &st.noted
	switch r.Clock.Event {
	case clock.Moved:
		n.Moved = r.At
		st.corrections++
	case clock.Stopped, clock.Resumed:
		n.Turned, n.Stopped = r.At, r.Clock.Event == clock.Stopped
	case clock.State:
		n.State = r.At
	default:
		return // "ran", or of a later release
	}
	n.At, n.Off = r.At, time.Duration(r.Clock.OffSeconds)*time.Second
}

// known is what the ledger says of time. s.mu is held, or nobody else knows of s yet.
func (s *Store) known() clock.Known {
	return clock.Known{Vault: s.state.vault, First: s.state.first, Newest: s.state.newest, Records: s.state.records, Noted: s.state.noted}
}

// noteClock records what happened to the clocks, if anything did: at most a few records, of different kinds. What cannot be
// recorded is tried again with the next change. s.write is held.
func (s *Store) noteClock(quiet bool) error {
	for range 3 {
		s.mu.Lock()
		k := s.known()
		s.mu.Unlock()
		e, due := s.clock.Due(k, quiet)
		if !due {
			return nil
		}
		if _, err := s.append(eventRecord(e)); err != nil {
			return err
		}
		// Power fails here: the clock's state is older than this record, and the next Open goes by the record.
		s.clock.Recorded(e)
	}
	return nil
}

func eventRecord(e clock.Event) ledger.Record {
	return ledger.Record{Kind: ledger.KindClock, Clock: &ledger.Clock{
		Event: e.Kind, OffSeconds: int64(e.Off / time.Second), MovedSeconds: int64(e.Moved / time.Second), Times: e.Times, Detail: e.Detail,
	}}
}

// resumed has the ledger say that expiry goes on, where its newest word is that it stopped: else what is removed or carried out
// now, within the hour in which a clock that flaps is not told of again, would look wrong to whoever reads it. s.write is held.
func (s *Store) resumed(now clock.Stamp) error {
	s.mu.Lock()
	k := s.known()
	s.mu.Unlock()
	e, due := s.clock.Resumes(k)
	if !due {
		return nil
	}
	// Power fails here: nothing happened. From the record on expiry goes on, as it did already.
	if _, err := s.appendAt(now, eventRecord(e)); err != nil {
		return err
	}
	s.clock.Recorded(e)
	return nil
}

// Tick reads the clock and records what happened to it: the wall clock moved, expiry stopped or goes on, or a day of running
// time passed in which nothing else was recorded. It also carries out the requests that are due. A daemon calls it about once an hour; every change of the vault does the
// same. On return without an error what is told is on the medium.
func (s *Store) Tick() error {
	if s.readOnly {
		return ErrReadOnly
	}
	s.write.Lock()
	defer s.write.Unlock()
	if _, err := s.clock.Now(); err != nil {
		return err
	}
	if s.ledger.Behind() != nil {
		return nil // which everything else tells: running time is counted, and nothing is recorded
	}
	s.flush()
	_, err := s.carry(context.Background())
	return errors.Join(err, s.noteClock(true))
}

// ClockReport is what the clocks say at this moment, for people and for metrics.
type ClockReport struct {
	clock.Report
	// Corrections counts the records of a wall clock that moved.
	Corrections int
	// Late is by how much the running lock that is latest ends after its date, because running time did not pass as the
	// wall clock did: the machine was switched off or asleep, or the wall clock was set ahead.
	Late time.Duration
}

// Clock reads the clocks and says how they stand.
func (s *Store) Clock() (ClockReport, error) {
	if _, err := s.clock.Now(); err != nil {
		return ClockReport{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.report(s.clock.Report(s.known())), nil
}

// ClockAs is Clock for who only follows the vault: now, shifted and why are the answer of the process that writes to it.
func (s *Store) ClockAs(now clock.Stamp, shifted bool, why string) ClockReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := clock.Report{Now: now, Since: s.state.first, Off: s.state.noted.Off, Shifted: shifted, Why: why}
	if t := s.state.noted.Turned; shifted && s.state.noted.Stopped {
		r.ShiftedAt, r.ShiftedFor = t.Wall, time.Duration(max(now.Running-t.Running, 0))*time.Second
	} else if shifted {
		r.ShiftedAt = now.Wall // so lately that no record tells
	}
	return s.report(r)
}

// report adds what the ledger knows. s.mu is held.
func (s *Store) report(r clock.Report) ClockReport {
	out := ClockReport{Report: r, Corrections: s.state.corrections}
	for _, snap := range s.state.remaining() {
		for _, g := range s.seen(snap.grants) {
			if g.running(r.Now) {
				out.Late = max(out.Late, g.until(r.Now).Sub(g.at.Wall.Add(g.duration())))
			}
		}
	}
	return out
}

// Sentences says it in plain words, one sentence or two for each thing that matters.
func (r ClockReport) Sentences() []string {
	return append(r.Report.Sentences(), clock.Lateness(r.Late)...)
}
