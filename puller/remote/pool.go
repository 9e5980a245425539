package remote

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// redialsMax bounds the dials of one Source over its whole life, whatever they achieve.
const redialsMax = 1000

// wake tells everyone who waits for s.changed. The caller holds s.mu.
func (s *Source) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// add takes a link into service and watches for its end. After Close it is killed instead.
func (s *Source) add(l *link) {
	s.mu.Lock()
	closed := s.life.Err() != nil
	if !closed {
		s.links = append(s.links, l)
		s.wake()
	}
	s.mu.Unlock()
	if closed {
		l.kill(ErrClosed)
	} else if ev := s.config.Events.Connected; ev != nil {
		ev(len(l.list()))
	}
	s.tasks.Go(func() {
		<-l.dead
		s.drop(l)
		l.wait()
	})
}

// drop takes a dead link out of service.
func (s *Source) drop(l *link) {
	s.mu.Lock()
	s.links = slices.DeleteFunc(s.links, func(x *link) bool { return x == l })
	s.loss = l.cause
	s.received.Add(l.wire.received.Load())
	if l.worked.Load() {
		s.vain = 0
	}
	s.wake()
	s.mu.Unlock()
	if s.life.Err() != nil || errors.Is(l.cause, ErrClosed) {
		return
	}
	s.lostLinks.Add(1)
	if ev := s.config.Events.Lost; ev != nil {
		ev(l.cause)
	}
}

// pick returns the channel with the least to do, waiting for a connection to be made again if there is none.
func (s *Source) pick(ctx context.Context) (*channel, error) {
	for {
		s.mu.Lock()
		best := s.idlest()
		failed, changed := s.failed, s.changed
		s.mu.Unlock()
		switch {
		case best != nil:
			return best, nil
		case failed != nil:
			return nil, &lostError{op: "connect", path: s.config.addr(), cause: failed}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (s *Source) idlest() (best *channel) {
	for _, l := range s.links {
		if l.down() != nil {
			continue
		}
		for _, c := range l.list() {
			if best == nil || c.busy.Load() < best.busy.Load() {
				best = c
			}
		}
	}
	return best
}

// announce tells everyone who waits for it that there is one more channel.
func (s *Source) announce() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wake()
}

// changes is closed when there are other channels in service, or may be.
func (s *Source) changes() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// all returns every channel in service, the idlest first.
func (s *Source) all() (list []*channel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.links {
		if l.down() == nil {
			list = append(list, l.list()...)
		}
	}
	slices.SortStableFunc(list, func(a, b *channel) int { return int(a.busy.Load() - b.busy.Load()) })
	return list
}

// shape is the number of connections and of channels on each that we try to have. It waits until the first round trip is known.
func (s *Source) shape() (connections, channels int) {
	connections, channels = Shape(s.RTT())
	if n := s.config.Connections; n > 0 {
		connections = n
	}
	if n := s.config.Channels; n > 0 {
		channels = n
	}
	return connections, channels
}

// keepLinks makes the connections that Dial left, and again those that are lost, until Close. It ends early when there is no hope: then every
// operation fails that finds no connection.
func (s *Source) keepLinks() {
	connections, channels := s.shape()
	s.mu.Lock()
	early := s.early
	s.want = max(connections, 1+early) - s.refused
	s.mu.Unlock()
	s.dialOthers(connections-1-early, channels)
	s.ahead.Wait()
	for total := 1; s.awaitMissing(); total++ {
		s.mu.Lock()
		s.vain++
		vain := s.vain
		s.mu.Unlock()
		if vain > 1 && !s.pause(vain-2) {
			return
		}
		if ev := s.config.Events.Redial; ev != nil {
			ev(total, s.lastLoss())
		}
		l, err := s.dialLink(s.life, channels, opening{})
		if err == nil {
			s.add(l)
		}
		if s.hopeless(err, vain, total) {
			return
		}
	}
}

// dialEarly begins the second and further connections while the first is being made, when the line is long: they stand a second or so earlier then. They log
// in after it.
func (s *Source) dialEarly(trip time.Duration, admit <-chan struct{}) {
	if trip < longTrip {
		return
	}
	connections, _ := Shape(trip)
	if n := s.config.Connections; n > 0 {
		connections = n
	}
	n := min(connections-1, dialsAtOnce)
	s.mu.Lock()
	s.early = n
	s.mu.Unlock()
	for range n {
		s.ahead.Add(1)
		s.tasks.Go(func() {
			defer s.ahead.Done()
			s.dialOther(s.config.Channels, opening{admit: admit})
		})
	}
}

// dialOthers makes the second and further connections, a few at once.
func (s *Source) dialOthers(n, channels int) {
	var group errgroup.Group
	group.SetLimit(dialsAtOnce)
	for range n {
		group.Go(func() error {
			s.dialOther(channels, opening{})
			return nil
		})
	}
	group.Wait()
}

// dialOther makes one connection beside the first. One that is refused is done without.
func (s *Source) dialOther(channels int, o opening) {
	l, err := s.dialLink(s.life, channels, o)
	if err == nil {
		s.add(l)
		return
	}
	s.mu.Lock()
	s.refused++
	if s.want > 0 {
		s.want--
	}
	s.mu.Unlock()
	if ev := s.config.Events.Refused; ev != nil && s.life.Err() == nil {
		ev("connection", err)
	}
}

// awaitMissing waits until a connection is missing; false after Close.
func (s *Source) awaitMissing() bool {
	for {
		s.mu.Lock()
		missing, changed := s.want-len(s.links), s.changed
		s.mu.Unlock()
		if s.life.Err() != nil {
			return false
		}
		if missing > 0 {
			return true
		}
		select {
		case <-changed:
		case <-s.life.Done():
		}
	}
}

// hopeless decides after a dial whether to go on. With other connections standing we make do with those; alone, a
// wrong host key or a refused login is final, anything else after too many tries.
func (s *Source) hopeless(err error, vain, total int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var hostKey *HostKeyError
	final := errors.As(err, &hostKey) || errors.Is(err, ErrAuth) || vain >= s.config.Limits.Redials || total >= redialsMax
	if !final {
		return false
	}
	if len(s.links) > 0 {
		s.want = len(s.links)
		return total >= redialsMax
	}
	if err == nil {
		err = s.loss
	}
	s.failed = fmt.Errorf("gave up after %d dials: %w", vain, err)
	s.wake()
	return true
}

func (s *Source) lastLoss() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loss
}

// pause waits before the n-th vain dial; false after Close.
func (s *Source) pause(n int) bool {
	wait := s.config.Limits.RedialWait << min(n, 6)
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.life.Done():
		return false
	}
}
