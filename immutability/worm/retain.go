package worm

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/policy"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
	"github.com/holdfast-vault/holdfast/immutability/retention"
)

// history puts together what the rules of retention look at. unreadable says that a manifest cannot be read.
func (s *Store) history(ctx context.Context, now clock.Stamp) (h retention.History, unreadable, err error) {
	s.mu.Lock()
	remaining := s.state.remaining()
	inForce, cooling := s.state.policy(), s.state.cooling(now)
	s.mu.Unlock()
	h = retention.History{Halt: s.halt(), Now: now.Wall, Snapshots: make([]retention.Snapshot, len(remaining))}
	h.Keep = func(source string) retention.Keep { return retention.Keep(inForce.For(source).Keep) }
	h.Least = func(source string) (retention.Keep, time.Duration) {
		// What is in force now may be taken back to what was within the last 72 hours.
		least := policy.Loosest(source, inForce, cooling...)
		return retention.Keep(least.Keep), time.Duration(max(least.MinSeconds, 1)) * time.Second
	}
	for i, snap := range remaining {
		if err := ctx.Err(); err != nil {
			return h, nil, err
		}
		d := s.describe(snap, now)
		h.Snapshots[i] = retention.Snapshot{
			ID: d.ID, Source: d.Source, Label: d.Label, Committed: snap.at.Wall,
			Complete: snap.State == reliance.Complete, Clean: snap.Clean, Unknown: d.Err != nil,
			Locked: d.Locked, LockMode: string(d.Lock.Mode), LockedUntil: d.LockedUntil,
			Held: held(d.Holds), Released: d.Released,
		}
		h.Snapshots[i].LockEnds, h.Snapshots[i].Endless = s.lockEnds(snap, now)
		if d.Err != nil && unreadable == nil {
			unreadable = fmt.Errorf("nothing is removed while a manifest cannot be read: %w", d.Err)
		}
	}
	return h, unreadable, nil
}

// lockEnds is the earliest moment of the wall clock at which none of a snapshot's locks runs, or says that one never ends. Where
// witnesses count, the time that the machine was switched off may turn out to have passed by theirs: then the wall clock alone
// is known to be asked.
func (s *Store) lockEnds(snap *snapshotState, now clock.Stamp) (ends time.Time, endless bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.seen(snap.grants) {
		if !g.running(now) {
			continue
		}
		end := g.until(now)
		if s.trust.Quorum > 0 {
			end = g.at.Wall.Add(g.duration()).UTC()
		}
		if end.After(ends) {
			ends = end
		}
		endless = endless || !g.lock.Mode.Valid()
	}
	return ends, endless
}
