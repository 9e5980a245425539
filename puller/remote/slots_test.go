package remote

import (
	"context"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

// Whatever opens, is refused and is closed, no slot is lost or given twice, and the bound stays between one and the most there may be.
func TestSlotsAreLostOrGivenTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, dead := newSlots(), make(chan struct{})
		var opening []int
		open := 0
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			switch step := rapid.SampledFrom([]string{"take", "opened", "refused", "failed", "give"}).Draw(t, "step"); {
			case step == "take" && s.out < s.max:
				alone, err := s.take(context.Background(), dead)
				if err != nil || alone != 0 != (len(opening)+open == 0) {
					t.Fatalf("alone %d beside %d, %v", alone, len(opening)+open, err)
				}
				opening = append(opening, alone)
			case step == "opened" && len(opening) > 0:
				s.opened()
				opening, open = opening[1:], open+1
			case (step == "refused" || step == "failed") && len(opening) > 0:
				again := s.refused(opening[0], step == "refused")
				if others := len(opening)-1+open > 0; others && step == "refused" && !again || step == "failed" && again {
					t.Fatalf("%s beside others: %v, again: %v", step, others, again)
				}
				opening = opening[1:]
			case step == "give" && open > 0:
				s.give()
				open--
			}
			if s.out != len(opening)+open || s.open != open || s.max < 1 || s.max > handlesPerChannel {
				t.Fatalf("%d out and %d open of %d; it is %d and %d", s.out, s.open, s.max, len(opening)+open, open)
			}
		}
	})
}

// A channel that waits for room notices the end of its context and of its connection.
func TestWaitingForASlotNeverEnds(t *testing.T) {
	s := newSlots()
	s.max = 1
	if _, err := s.take(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	dead := make(chan struct{})
	close(dead)
	if _, err := s.take(t.Context(), dead); err != errEnded {
		t.Error(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errTruncated)
	if _, err := s.take(ctx, nil); !errors.Is(err, errTruncated) {
		t.Error(err)
	}
	if s.out != 1 || s.waiting != 0 {
		t.Errorf("%d out, %d waiting", s.out, s.waiting)
	}
}

// A bound that was learned does not hold for ever: one refusal among thousands of files would make a far source slow to the end.
func TestALearnedBoundIsForgotten(t *testing.T) {
	s := newSlots()
	for range 3 {
		if _, err := s.take(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	s.opened()
	if !s.refused(0, true) || s.max != 1 {
		t.Fatalf("bound %d", s.max)
	}
	s.refused(0, false)
	for range 10 * slotsAgain {
		s.give()
		if _, err := s.take(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		s.opened()
	}
	if s.max != handlesPerChannel {
		t.Errorf("bound %d", s.max)
	}
}
