package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/puller"
	"github.com/holdfast-vault/holdfast/puller/schedule"
)

const (
	// rereadDays is the slow cycle: each night a thirtieth of the unchanged files is read again, since equal size and time
	// do not prove equal content.
	rereadDays = 30
	// pullGap is the least time between two pulls of a source, and before a failed one is tried again.
	pullGap = time.Minute
	// turnLongest is how long a pull holds its turn.
	turnLongest = 30 * time.Minute
	// jitterShare spreads sources with the same interval over its first tenth.
	jitterShare = 10
	// lookAgain bounds how long the schedule sleeps: a wall clock that was set wakes nobody.
	lookAgain = time.Minute
)

// schedule pulls every source that has an interval until ctx ends. Sources do not wait for each other but for one of
// the turns that there are. A source that a new configuration brings is looked after from then on.
func (s *server) schedule(ctx context.Context) error {
	key, err := s.h.v.SliceKey()
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	defer all.Wait()
	for {
		cfg, changed := s.h.settings.current()
		for _, src := range cfg.Sources {
			if src.Every > 0 && s.begin(src.Name) {
				all.Go(func() { s.pullOnSchedule(ctx, src.Name, key) })
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// begin says whether nobody looks after the source yet; from now on somebody does.
func (s *server) begin(source string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.scheduled[source] {
		return false
	}
	s.scheduled[source] = true
	return true
}

// goOn gives the source as it is configured now, and what tells that it may not be any more. When it has gone, or has no
// interval now, ok is false and nobody looks after it any more.
func (s *server) goOn(source string) (src config.Source, changed <-chan struct{}, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cfg, changed := s.h.settings.current()
	src, ok = cfg.Source(source)
	if !ok || src.Every <= 0 {
		delete(s.scheduled, source) // under mu: if it comes back now, schedule begins it anew
		return src, changed, false
	}
	return src, changed, true
}

func (s *server) pullOnSchedule(ctx context.Context, name string, key [32]byte) {
	var h schedule.History
	cycle := slowCycle{days: rereadDays, key: key}
	if begin, ok := s.state.lastAttempt(name); ok {
		h.LastBegin, h.LastEnd = begin, begin
	}
	for ctx.Err() == nil {
		src, changed, ok := s.goOn(name)
		if !ok {
			return
		}
		p := schedule.Policy{Every: src.Every, Jitter: src.Every / jitterShare, MinGap: min(pullGap, src.Every)}
		next, _ := schedule.Next(name, p, h, time.Now()) // with an interval there always is one
		if !sleepUntil(ctx, next, changed) {
			continue
		}
		done, ok := s.turn(ctx, changed)
		if !ok {
			continue
		}
		h.LastBegin = time.Now()
		today := h.LastBegin.Unix() / 86400
		err := s.pullNow(ctx, src, cycle.due(today))
		h.LastEnd = time.Now()
		done()
		h.Failures++
		if err == nil {
			h.Failures = 0
			cycle.done = today
		}
	}
}

// turn waits for one of the turns; false when ctx ended or the plan changed first. A turn that is not given back
// within turnLongest is given to somebody else, and its pull goes on beside: a few sources that answer slowly, as hostile
// ones do on purpose, must not keep all others from being pulled.
func (s *server) turn(ctx context.Context, changed <-chan struct{}) (done func(), ok bool) {
	select {
	case s.turns <- struct{}{}:
	case <-changed:
		return nil, false
	case <-ctx.Done():
		return nil, false
	}
	give := sync.OnceFunc(func() { <-s.turns })
	timer := time.AfterFunc(turnLongest, give)
	return func() {
		timer.Stop()
		give()
	}, true
}

// slowCycle gives each day's share of the unchanged files to one pull of the day: a source that is pulled every hour would
// read the same share all day. A daemon that starts again reads the day's share once more.
type slowCycle struct {
	days int
	key  [32]byte
	done int64 // the day whose share was read; days since 1970
}

// due is what a pull on that day reads again besides what changed.
func (c slowCycle) due(day int64) puller.Slice {
	if c.done == day {
		return puller.Slice{}
	}
	return puller.Slice{Days: c.days, Day: day, Key: c.key}
}

// pullNow makes one pull of the schedule.
func (s *server) pullNow(ctx context.Context, src config.Source, slice puller.Slice) error {
	_, err := s.h.pull(ctx, pullRequest{
		source: src, lock: s.h.lockFor(src, noLockAsked),
		slice: slice,
		events: puller.Events{Lost: func(err error, wait time.Duration) {
			s.log.Warn("connection lost", "source", src.Name, "error", fmt.Sprintf("%q", err.Error()), "again_in", wait)
		}},
	})
	return err
}

// sleepUntil waits for a wall-clock time; false means that ctx ended, or that the plan changed.
func sleepUntil(ctx context.Context, t time.Time, changed <-chan struct{}) bool {
	for {
		wait := min(time.Until(t), lookAgain)
		if wait <= 0 {
			return ctx.Err() == nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-changed:
			timer.Stop()
			return false
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}
