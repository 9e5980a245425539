package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

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
	// jitterShare spreads sources with the same interval over its first tenth.
	jitterShare = 10
	// lookAgain bounds how long the schedule sleeps: a wall clock that was set wakes nobody.
	lookAgain = time.Minute
)

// schedule pulls every source that has an interval until ctx ends. Sources do not wait for each other but for one of
// pullsAtOnce turns.
func (s *server) schedule(ctx context.Context) error {
	key, err := s.h.v.SliceKey()
	if err != nil {
		return err
	}
	var g errgroup.Group
	for _, src := range s.cfg.Sources {
		if src.Every > 0 {
			g.Go(func() error {
				s.pullOnSchedule(ctx, src, key)
				return nil
			})
		}
	}
	err = g.Wait()
	<-ctx.Done()
	return err
}

func (s *server) pullOnSchedule(ctx context.Context, src config.Source, key [32]byte) {
	p := schedule.Policy{Every: src.Every, Jitter: src.Every / jitterShare, MinGap: min(pullGap, src.Every)}
	var h schedule.History
	if begin, ok := s.state.lastAttempt(src.Name); ok {
		h.LastBegin, h.LastEnd = begin, begin
	}
	for ctx.Err() == nil {
		next, ok := schedule.Next(src.Name, p, h, time.Now())
		if !ok || !s.sleepUntil(ctx, next) {
			return
		}
		select {
		case s.turns <- struct{}{}:
		case <-ctx.Done():
			return
		}
		h.LastBegin = time.Now()
		_, err := s.h.pull(ctx, pullRequest{
			source: src, lock: s.h.lockFor(src, noLockAsked),
			slice: puller.Slice{Days: rereadDays, Day: time.Now().Unix() / 86400, Key: key},
			events: puller.Events{Lost: func(err error, wait time.Duration) {
				s.log.Warn("connection lost", "source", src.Name, "error", fmt.Sprintf("%q", err.Error()), "again_in", wait)
			}},
		})
		h.LastEnd = time.Now()
		<-s.turns
		h.Failures++
		if err == nil {
			h.Failures = 0
		}
	}
}

// sleepUntil waits for a wall-clock time; false means that ctx ended.
func (s *server) sleepUntil(ctx context.Context, t time.Time) bool {
	for {
		wait := min(time.Until(t), lookAgain)
		if wait <= 0 {
			return ctx.Err() == nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}
