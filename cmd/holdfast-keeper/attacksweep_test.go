package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/fsck"
	"github.com/holdfast-vault/holdfast/immutability/keeper"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// playSweeper asks for sweeps without end.
func playSweeper() error {
	a := &attacker{vault: os.Getenv("ATTACK_VAULT"), socket: os.Getenv("ATTACK_SOCKET")}
	return a.with(func(c *keeper.Client) error {
		for {
			if _, err := c.Sweep(ctx); err != nil {
				return err
			}
		}
	})
}

// TestKillsWhileAKeeperRemovesTakeMore kills a keeper at the moments at which it removes what has run out and was marked a day
// before, and those that start after it while they finish that: what goes is what was to go, and nothing else.
func TestKillsWhileAKeeperRemovesTakeMore(t *testing.T) {
	for _, fsys := range []string{"ext4", "xfs"} {
		t.Run(fsys, func(t *testing.T) { killsWhileRemoving(t, fsys) })
	}
}

const runOut = 80 // snapshots that are to go

func killsWhileRemoving(t *testing.T, fsys string) {
	w := prepareWar(t, fsys)
	// Three days ago, so that the day between mark and sweep has passed by both clocks.
	src := clock.NewManual(time.Now().Add(-72 * time.Hour).Truncate(time.Second))
	w.m.foundThen(src, func(s *worm.Store) { filled(t, s, src) })
	w.keeper = w.m.keeper()
	var err error
	w.before, err = w.look()
	must(t, err)
	locked := map[string]bool{}
	for id, snap := range w.before.snapshots {
		if snap.Locked {
			locked[id] = true
		}
	}
	if len(locked) != 3 || len(w.before.snapshots) != runOut+4 { // the newest of the old ones never goes
		t.Fatalf("%d snapshots, of which %d are locked", len(w.before.snapshots), len(locked))
	}

	kills := 0
	removing := w.m.watch("manifests", unix.IN_DELETE, "", 1)
	s := w.enlist("sweeper", daemonUID)
	for alive := w.keeper; ; {
		select {
		case <-removing:
			alive.kill()
			kills++
		case <-alive.done:
			t.Fatalf("a keeper ended by itself: %s", alive.errs.String())
		case <-time.After(5 * time.Second): // nothing is left to remove
			alive.kill()
		}
		left, err := filepath.Glob(filepath.Join(w.m.vault, "manifests", "*"))
		must(t, err)
		if len(left) <= len(locked)+1 {
			break
		}
		removing = w.m.watch("manifests", unix.IN_DELETE, "", 1+kills%7) // what is left goes at the start
		alive = w.m.start(keeperCaps, nil, w.m.keeperArgs()...)
	}
	s.dismiss()
	w.keeper = w.m.keeper()
	w.before = nil // what was to go is gone, which is no harm
	now, err := w.look()
	must(t, err)
	for id := range locked {
		if is := now.snapshots[id]; !is.Locked {
			t.Errorf("snapshot %s was locked and is %+v", id, is)
		}
	}
	if len(now.snapshots) != len(locked)+1 || kills == 0 {
		t.Errorf("%d kills, and %d snapshots are left, want %d", kills, len(now.snapshots), len(locked)+1)
	}
	w.keeper.kill()
	d, err := fsck.OpenDir(w.m.vault)
	must(t, err)
	defer d.Close()
	r, err := fsck.Look(t.Context(), d, fsck.Options{ReadData: true})
	must(t, err)
	for _, f := range r.Damage {
		if f.Kind != fsck.KindIdentity { // the keyrings here are words
			t.Errorf("fsck finds: %+v", f)
		}
	}
	t.Logf("%d kills on %s while %d snapshots were removed", kills, fsys, runOut)
}

// filled makes a vault of snapshots that have run out and were marked a day before, and of three that are locked.
func filled(t *testing.T, s *worm.Store, src *clock.Manual) {
	t.Helper()
	put := func(source, session string, lock ledger.Lock) {
		label, previous, err := s.NextLabel(source)
		must(t, err)
		m, err := framed(s.Vault(), source, session, label, previous, func(h *reliance.Head) {
			now, err := src.Read()
			must(t, err)
			h.Begin = now.Wall.UTC().Truncate(time.Second)
		})
		must(t, err)
		_, err = s.Commit(ctx, session, m, lock)
		must(t, err)
	}
	for i := range runOut + 1 {
		put("old", fmt.Sprint("s", i), ledger.Lock{ForSeconds: 60})
		src.Advance(time.Second)
	}
	src.Advance(3 * time.Hour)
	if snapshots, _, err := s.Condemn(ctx); err != nil || snapshots != runOut {
		t.Fatalf("%d snapshots are marked: %v", snapshots, err)
	}
	src.Advance(25 * time.Hour)
	for i := range 3 {
		put(fmt.Sprint("web", i), fmt.Sprint("w", i), ledger.Lock{Mode: ledger.Compliance, ForSeconds: 7000})
	}
}
