package worm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
)

const (
	// automaticMax caps locks that nobody asked for by name: a lock bomb fills a disk for good.
	automaticMax = 400 * 24 * 3600
	// extendMax caps locks that a person asks for; it keeps durations within what Go can count.
	extendMax      = 100 * 366 * 24 * 3600
	defaultSeconds = 30 * 24 * 3600
)

// ErrShorter is wrapped by the error of an Extend that would shorten or weaken a running lock.
var ErrShorter = errors.New("running locks only grow")

// grant is a lock with the moment from which it runs.
type grant struct {
	at   clock.Stamp
	lock ledger.Lock
}

func (g grant) duration() time.Duration {
	return time.Duration(min(max(g.lock.ForSeconds, 0), extendMax)) * time.Second
}

// running says whether the lock has not run yet. One of a mode that this release does not know never has: nobody here can
// tell what it promises.
func (g grant) running(now clock.Stamp) bool {
	return !g.lock.Mode.Valid() || !clock.Elapsed(g.at, now, g.duration())
}

// until estimates on the wall clock when the lock has run by both rules, if the machine stays on.
func (g grant) until(now clock.Stamp) time.Time {
	end := g.at.Wall.Add(g.duration())
	if left := g.duration() - time.Duration(now.Running-g.at.Running)*time.Second; left > 0 {
		if byRunning := now.Wall.Add(left); byRunning.After(end) {
			end = byRunning
		}
	}
	return end.UTC()
}

// strongest sums up all locks of a snapshot: whether any runs, the strongest mode among those that
// run, and the latest end of all.
func strongest(grants []grant, now clock.Stamp) (lock ledger.Lock, until time.Time, locked bool) {
	for _, g := range grants {
		end, runs := g.until(now), g.running(now)
		if end.After(until) {
			until = end
			lock.ForSeconds = g.lock.ForSeconds
			if !locked {
				lock.Mode = g.lock.Mode
			}
		}
		if runs {
			if !locked {
				lock.Mode = g.lock.Mode
			}
			locked = true
			if g.lock.Mode == ledger.Compliance {
				lock.Mode = ledger.Compliance
			}
		}
	}
	return lock, until, locked
}

// normalise fills a policy in and refuses one that contradicts itself.
func normalise(p ledger.Policy) (ledger.Policy, error) {
	if p.Mode == "" {
		p.Mode = ledger.Governance
	}
	if p.MaxSeconds == 0 {
		p.MaxSeconds = automaticMax
	}
	if p.DefaultSeconds == 0 {
		p.DefaultSeconds = min(max(defaultSeconds, p.MinSeconds), p.MaxSeconds)
	}
	switch {
	case !p.Mode.Valid():
		return p, fmt.Errorf("policy: lock mode %q is neither governance nor compliance", p.Mode)
	case p.MinSeconds < 0 || p.MaxSeconds > automaticMax || p.DefaultSeconds < 1 ||
		p.MinSeconds > p.DefaultSeconds || p.DefaultSeconds > p.MaxSeconds:
		return p, fmt.Errorf("policy: lock durations of at least %d s, by default %d s and at most %d s do not fit together (nor may an automatic lock exceed %d s)",
			p.MinSeconds, p.DefaultSeconds, p.MaxSeconds, int64(automaticMax))
	}
	return p, nil
}

// effective applies the policy to the lock that a commit asks for: the default where nothing is
// asked, never below the minimum, never weaker than the policy's mode, never above the maximum.
func effective(p ledger.Policy, ask ledger.Lock) (ledger.Lock, error) {
	if ask.Mode != "" && !ask.Mode.Valid() {
		return ask, fmt.Errorf("lock mode %q is neither governance nor compliance", ask.Mode)
	}
	if ask.Mode == "" || p.Mode == ledger.Compliance {
		ask.Mode = p.Mode
	}
	if ask.ForSeconds == 0 {
		ask.ForSeconds = p.DefaultSeconds
	}
	ask.ForSeconds = min(max(ask.ForSeconds, p.MinSeconds, 1), p.MaxSeconds, automaticMax)
	return ask, nil
}

// Extend gives a snapshot a further lock, which runs from now beside those it has. It must end no
// earlier than they do, by either clock, and be no weaker: ErrShorter otherwise. On return it is in
// the ledger. by says for the record who asked.
func (s *Store) Extend(ctx context.Context, id string, lock ledger.Lock, by string) (Snapshot, error) {
	if err := s.writable(); err != nil {
		return Snapshot{}, err
	}
	if !lock.Mode.Valid() {
		return Snapshot{}, fmt.Errorf("lock mode %q is neither governance nor compliance", lock.Mode)
	}
	if lock.ForSeconds < 1 || lock.ForSeconds > extendMax {
		return Snapshot{}, fmt.Errorf("a lock of %d s: it must be at least 1 s and at most 100 years", lock.ForSeconds)
	}
	s.write.Lock()
	defer s.write.Unlock()
	s.flush()
	if err := ctx.Err(); err != nil {
		return Snapshot{}, err
	}
	now, err := s.clock.Now()
	if err != nil {
		return Snapshot{}, err
	}
	grants, ok := s.grants(id)
	if !ok {
		return Snapshot{}, fmt.Errorf("snapshot %s: %w", id, ErrNoSnapshot)
	}
	if err := grows(grants, grant{at: now, lock: lock}, now); err != nil {
		return Snapshot{}, fmt.Errorf("snapshot %s: %w", id, err)
	}
	if _, err := s.append(ledger.Record{Kind: ledger.KindExtend, Extend: &ledger.Extend{Snapshot: id, Lock: lock, By: by}}); err != nil {
		return Snapshot{}, fmt.Errorf("snapshot %s: extend: %w", id, err)
	}
	return s.snapshot(id)
}

// grows says why a further lock would not be growth.
func grows(have []grant, more grant, now clock.Stamp) error {
	for _, g := range have {
		if !g.running(now) {
			continue
		}
		if g.lock.Mode == ledger.Compliance && more.lock.Mode != ledger.Compliance {
			return fmt.Errorf("it has a compliance lock until %s, and a governance lock is weaker: %w",
				g.until(now).Format(time.RFC3339), ErrShorter)
		}
		if more.at.Wall.Add(more.duration()).Before(g.at.Wall.Add(g.duration())) ||
			more.at.Running+more.lock.ForSeconds < g.at.Running+g.lock.ForSeconds {
			return fmt.Errorf("it is locked until %s, longer than %d s from now: %w",
				g.until(now).Format(time.RFC3339), more.lock.ForSeconds, ErrShorter)
		}
	}
	return nil
}
