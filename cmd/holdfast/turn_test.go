package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestSlowSourcesKeepAllOthersFromBeingPulled has as many pulls as there are turns go on for ever: others are pulled all
// the same, and a pull that ends late gives back no turn that is not its own any more.
func TestSlowSourcesKeepAllOthersFromBeingPulled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{turns: make(chan struct{}, mostPulls)}
		never := make(chan struct{})
		var slow []func()
		for range mostPulls {
			done, ok := s.turn(t.Context(), never)
			if !ok {
				t.Fatal("no turn")
			}
			slow = append(slow, done)
		}
		soon, cancel := context.WithTimeout(t.Context(), turnLongest/2)
		defer cancel()
		if _, ok := s.turn(soon, never); ok {
			t.Error("one turn more than there are")
		}
		begin := time.Now()
		var others []func()
		for range mostPulls {
			done, ok := s.turn(t.Context(), never)
			if !ok {
				t.Fatal("no turn")
			}
			others = append(others, done)
		}
		if waited := time.Since(begin); waited > turnLongest {
			t.Errorf("others waited %v", waited)
		}
		for _, done := range slow {
			done()
		}
		if len(s.turns) != mostPulls {
			t.Errorf("%d turns are taken by %d pulls", len(s.turns), mostPulls)
		}
		for _, done := range others {
			done()
			done()
		}
		if len(s.turns) != 0 {
			t.Errorf("%d turns were never given back", len(s.turns))
		}
	})
}
