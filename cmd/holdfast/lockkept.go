package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/vault"
)

// lockSlack is by how much a lock may be short before lock --kept-by extends it, so that a timer makes few records; or half of
// what is asked for, where that is less.
const lockSlack = 30 * config.Day

type lockKeptJSON struct {
	Rule     string         `json:"rule"`
	Extended []snapshotJSON `json:"extended"`
	Enough   int            `json:"enough"` // that the rule wants and that are locked for long enough
	Failed   int            `json:"failed,omitempty"`
}

// runLockKept locks everything that a keep rule wants, for as long as asked for from now, where that is not the case already. One that
// cannot be locked so keeps it from none of the others: an archive must not run out because of it.
func runLockKept(ctx context.Context, c *call) error {
	rule, source := c.string("kept-by"), ""
	if len(c.args) == 1 {
		if source = c.args[0]; !vault.ValidSource(source) {
			return usage("lock --kept-by: %q is no source's name", source)
		}
	}
	if c.string("for") == "" {
		return usage("lock --kept-by: say for how long with --for DURATION")
	}
	lock, err := c.lockOf("for")
	if err != nil {
		return err
	}
	wanted, err := c.view.v.KeptBy(ctx, rule, source)
	if err != nil {
		return err
	}
	j := lockKeptJSON{Rule: rule, Extended: []snapshotJSON{}}
	var failed error // the first of them
	for _, s := range wanted {
		after, err := c.lockFurther(ctx, s.ID, lock)
		switch {
		case err != nil && (ctx.Err() != nil || errors.Is(err, vault.ErrKeeperGone)):
			return fmt.Errorf("%w (%s were extended before that; the command may be given again)", err, counted(len(j.Extended), "lock"))
		case err != nil:
			j.Failed++
			if failed == nil {
				failed = fmt.Errorf("%s@%s: %w", s.Source, s.Label, err)
			}
		case after == nil:
			j.Enough++
		default:
			j.Extended = append(j.Extended, newSnapshotJSON(*after))
		}
	}
	if failed != nil {
		failed = fmt.Errorf("%s could not be locked so, the first is %w (%s extended)", counted(j.Failed, "snapshot"), failed, counted(len(j.Extended), "lock"))
	}
	if c.json() {
		return errors.Join(writeJSON(c.out, j), failed)
	}
	for _, s := range j.Extended {
		if _, err := fmt.Fprintf(c.out, "%s@%s is locked (%s) until %s\n", s.Source, s.Time, s.Mode, minute(s.LockedUntil)); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(c.out, "%s extended; %d of %s that the rule wants were locked for long enough.\n",
		counted(len(j.Extended), "lock"), j.Enough, counted(len(wanted), "snapshot"))
	return errors.Join(err, failed)
}

// lockFurther extends one snapshot's lock; nil where it is long enough.
func (c *call) lockFurther(ctx context.Context, id string, lock ledger.Lock) (*worm.Snapshot, error) {
	locks, err := c.view.v.Store().Locks(id)
	if err != nil {
		return nil, err
	}
	ask, short := missing(locks, lock)
	if !short {
		return nil, nil
	}
	after, err := c.view.v.Store().Extend(ctx, id, ask, c.by())
	return &after, err
}

// missing says which lock must be asked for so that one of the mode runs for about as long as asked for, and whether one must. A
// lock of another mode that runs for longer is not cut by it.
func missing(have []worm.LockInfo, want ledger.Lock) (ask ledger.Lock, short bool) {
	length := time.Duration(want.ForSeconds) * time.Second
	var runs, longest time.Duration // of the mode, and of any
	for _, l := range have {
		if !l.Running {
			continue
		}
		left := max(l.WallLeft, l.RunningLeft) // it runs while either asks for more
		longest = max(longest, left)
		if want.Mode != ledger.Compliance || l.Lock.Mode == ledger.Compliance {
			runs = max(runs, left)
		}
	}
	if runs >= length-min(lockSlack, length/2) {
		return want, false
	}
	if longest >= length {
		want.ForSeconds = 0 // as long as what runs
	}
	return want, true
}
