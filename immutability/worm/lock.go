package worm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/policy"
)

// durationMax keeps durations within what Go can count.
const durationMax = 100 * 366 * 24 * 3600

// ErrShorter is wrapped by the error of an Extend that would shorten or weaken a running lock.
var ErrShorter = errors.New("running locks only grow")

// grant is a lock with the moment from which it runs.
type grant struct {
	at   clock.Stamp
	lock ledger.Lock
	by   string // who asked for it later; "" at the commit
	seq  uint64 // number of the record that gave it
	seen int64  // seconds that witnesses saw pass since: see Store.seen
	// ended is the moment at which a quorum ended it, zero if none did. It happens to governance locks alone.
	ended clock.Stamp
}

func (g grant) duration() time.Duration {
	return time.Duration(min(max(g.lock.ForSeconds, 0), durationMax)) * time.Second
}

// running says whether the lock has not run yet. One of a mode that this release does not know never has: nobody here can
// tell what it promises.
func (g grant) running(now clock.Stamp) bool {
	return g.ended.IsZero() && (!g.lock.Mode.Valid() || !clock.ElapsedWitnessed(g.at, now, g.duration(), g.seen))
}

// until estimates on the wall clock when the lock has run by both rules, if the machine stays on, or was ended.
func (g grant) until(now clock.Stamp) time.Time {
	end := g.at.Wall.Add(g.duration())
	if left := g.duration() - time.Duration(max(now.Running-g.at.Running, g.seen))*time.Second; left > 0 {
		if byRunning := now.Wall.Add(left); byRunning.After(end) {
			end = byRunning
		}
	}
	if !g.ended.IsZero() && g.ended.Wall.Before(end) {
		end = g.ended.Wall
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

// effective applies the rules of its source to the lock that a commit asks for: the default where nothing is asked, never
// below the minimum, never weaker than the policy's mode, never above the maximum.
func effective(p policy.Rules, ask ledger.Lock) (ledger.Lock, error) {
	if ask.Mode != "" && !ask.Mode.Valid() {
		return ask, fmt.Errorf("lock mode %q is neither governance nor compliance", ask.Mode)
	}
	if ask.Mode == "" || p.Mode == ledger.Compliance {
		ask.Mode = p.Mode
	}
	if ask.ForSeconds == 0 {
		ask.ForSeconds = p.DefaultSeconds
	}
	ask.ForSeconds = min(max(ask.ForSeconds, p.MinSeconds, 1), p.MaxSeconds, policy.Longest)
	return ask, nil
}

// further applies the rules of its source to a lock that is asked for later. It is raised as at a commit, and not cut: who
// asks for more than he gets should know. A duration of nought is as long as the locks that run and the minimum, no mode is
// theirs.
func further(p policy.Rules, have []grant, ask ledger.Lock, now clock.Stamp) (ledger.Lock, error) {
	if ask.Mode != "" && !ask.Mode.Valid() {
		return ask, fmt.Errorf("lock mode %q is neither governance nor compliance", ask.Mode)
	}
	if ask.ForSeconds < 0 || ask.ForSeconds > p.MaxSeconds {
		return ask, fmt.Errorf("a lock of %d s: the policy in force allows %d s (%d days) at most, and only a quorum may allow more; a hold keeps a snapshot for ever",
			ask.ForSeconds, p.MaxSeconds, p.MaxSeconds/(24*3600))
	}
	none, asked := ask.ForSeconds == 0, ask.Mode
	if ask.Mode == "" || p.Mode == ledger.Compliance {
		ask.Mode = p.Mode
	}
	for _, g := range have {
		if !g.running(now) {
			continue
		}
		if asked == "" && g.lock.Mode == ledger.Compliance {
			ask.Mode = ledger.Compliance
		}
		if none {
			ask.ForSeconds = max(ask.ForSeconds, g.left(now))
		}
	}
	ask.ForSeconds = max(ask.ForSeconds, p.MinSeconds, 1)
	return ask, nil
}

// left is how many seconds a lock from now must have to end no earlier than g by either clock.
func (g grant) left(now clock.Stamp) int64 {
	ends := g.at.Wall.Add(g.duration())
	return max(int64(ends.Sub(now.Wall)/time.Second), g.at.Running+int64(g.duration()/time.Second)-now.Running, 0)
}

// Extend gives a snapshot a further lock, which runs from now beside those it has. It is raised to the minimum and the mode
// of the policy in force; a duration of nought is as long as what runs, no mode is that of what runs. More than the policy's
// maximum is refused. It must end no earlier than the locks that run, by either clock, and be no weaker: ErrShorter otherwise.
// On return it is in the ledger. by says for the record who asked.
func (s *Store) Extend(ctx context.Context, id string, lock ledger.Lock, by string) (Snapshot, error) {
	if err := s.writable(); err != nil {
		return Snapshot{}, err
	}
	if err := freeText("who asks", by, ByMax); err != nil {
		return Snapshot{}, err
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
	source, grants, ok := s.grants(id)
	if !ok {
		return Snapshot{}, fmt.Errorf("snapshot %s: %w", id, ErrNoSnapshot)
	}
	if lock, err = further(s.Policy().For(source), grants, lock, now); err != nil {
		return Snapshot{}, fmt.Errorf("snapshot %s: %w", id, err)
	}
	if err := grows(grants, grant{at: now, lock: lock}, now); err != nil {
		return Snapshot{}, fmt.Errorf("snapshot %s: %w", id, err)
	}
	if _, err := s.appendAt(now, ledger.Record{Kind: ledger.KindExtend, Extend: &ledger.Extend{Snapshot: id, Lock: lock, By: by}}); err != nil {
		return Snapshot{}, fmt.Errorf("snapshot %s: extend: %w", id, err)
	}
	s.kept(id)
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
