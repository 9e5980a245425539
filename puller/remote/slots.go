package remote

import (
	"context"
	"sync"
)

const (
	// slotsAgain is after how many OPENs in a row that succeeded a bound that was learned is doubled, to see whether it still holds.
	slotsAgain = 64
	// opensMax is how many times one file or directory is opened before a refusal counts.
	opensMax = 4
)

// slots bounds what a channel has open. Some servers allow few open files, down to a single one, and refuse more with a failure that says nothing: so what was
// open then becomes the bound, and is doubled again now and then. Safe for concurrent use.
type slots struct {
	mu      sync.Mutex
	max     int
	out     int           // taken
	open    int           // of those, open at the server as far as is known
	taken   int           // ever
	good    int           // OPENs that succeeded since the bound was changed
	waiting int           // in take
	changed chan struct{} // closed and replaced when there may be room and somebody waits for it
}

func newSlots() *slots { return &slots{max: handlesPerChannel, changed: make(chan struct{})} }

// take waits for room. alone is what refused wants to know. It returns the context's cause, or errEnded when dead is closed first.
func (s *slots) take(ctx context.Context, dead <-chan struct{}) (alone int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.out >= s.max {
		changed := s.changed
		s.waiting++
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-dead:
			err = errEnded
		}
		s.mu.Lock()
		s.waiting--
		if err != nil {
			return 0, err
		}
	}
	return s.in(), nil
}

// takeNow is take for whoever can do without: ok is false where it would have to wait.
func (s *slots) takeNow() (alone int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out >= s.max {
		return 0, false
	}
	return s.in(), true
}

// in takes a slot that is there. s.mu is held.
func (s *slots) in() (alone int) {
	s.out++
	s.taken++
	if s.out > 1 {
		return 0
	}
	return s.taken
}

// opened says that what a slot was taken for is open.
func (s *slots) opened() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open++
	if s.good++; s.good >= slotsAgain && s.max < handlesPerChannel {
		s.max, s.good = min(2*s.max, handlesPerChannel), 0
		s.wake()
	}
}

// give takes a slot back that something was open in.
func (s *slots) give() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out--
	s.open--
	s.wake()
}

// refused takes a slot back that nothing was opened in; true when that may be because of what else was open meanwhile, and is worth trying again.
func (s *slots) refused(alone int, vaguely bool) (again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out--
	if again = vaguely && alone != s.taken; again {
		s.max, s.good = max(1, min(s.max, s.open)), 0
	}
	s.wake()
	return again
}

// wake tells those who wait. s.mu is held.
func (s *slots) wake() {
	if s.waiting > 0 {
		close(s.changed)
		s.changed = make(chan struct{})
	}
}
