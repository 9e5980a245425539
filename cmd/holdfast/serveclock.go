package main

import (
	"context"
	"errors"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// clockEvery is how often the clock is read though nobody asks: a power cut costs that much running time, and a wall clock
// that was set wrong shows that soon.
const clockEvery = time.Minute

// watchClock reads the clock, has what happened to it recorded, says when expiry stops and goes on, and has requests that are
// due carried out, until ctx ends. With a keeper the keeper does the same.
func (s *server) watchClock(ctx context.Context) error {
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	said, failed := false, ""
	requests, _ := s.h.v.Store().Requests() // those of before were told at the start; without a clock all are told below
	for {
		store := s.h.v.Store()
		now := ""
		if err := store.Tick(); err != nil && !errors.Is(err, worm.ErrReadOnly) {
			now = err.Error()
		}
		if now != failed && now != "" { // once, not each minute
			s.log.Error("clock: what happened to it cannot be recorded", "error", now)
		}
		failed = now
		if shifted, why := store.ClockShifted(); shifted != said {
			said = shifted
			if shifted {
				s.log.Error("clock: expiry has stopped, pulls and locks go on", "why", why)
			} else {
				s.log.Info("clock: expiry goes on")
			}
		}
		requests = s.watchRequests(ctx, requests)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
