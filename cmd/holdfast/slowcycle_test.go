package main

import "testing"

// TestHourlySourceReadsTheSameShareAllDay: the share of a day is read by one pull that succeeded, and the next day's by another.
func TestHourlySourceReadsTheSameShareAllDay(t *testing.T) {
	c := slowCycle{days: 30, key: [32]byte{1}}
	for _, step := range []struct {
		day       int64
		succeeded bool
		due       bool
	}{
		{20000, false, true}, // a pull that failed
		{20000, true, true},
		{20000, true, false},
		{20001, true, true},
		{20001, false, false},
		{20000, true, true}, // the clock was put back
	} {
		s := c.due(step.day)
		if got := s.Days != 0; got != step.due || got && (s.Day != step.day || s.Key != c.key) {
			t.Errorf("day %d: %+v, due %v", step.day, s, step.due)
		}
		if step.succeeded {
			c.done = step.day
		}
	}
}
