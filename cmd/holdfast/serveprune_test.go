package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/retention"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// TestADaemonPrunesUnasked: nothing is pruned where nobody said so, and where it is said it is more than a day between two runs
// once the daemon has been up for some hours; a change of the configuration holds at once.
func TestADaemonPrunesUnasked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var mu sync.Mutex
		var at []time.Duration
		on, changed := false, make(chan struct{})
		var out strings.Builder
		p := &pruning{log: slog.New(slog.NewTextHandler(&out, nil)), run: func(context.Context) (worm.PruneReport, error) {
			mu.Lock()
			defer mu.Unlock()
			at = append(at, time.Since(began))
			if len(at) == 2 {
				return worm.PruneReport{}, errors.New("the disk is full")
			}
			return worm.PruneReport{Snapshots: []string{"ab"}, Packs: []uint32{1, 2}, Bytes: 5, MarkedPacks: 3,
				Decisions: []retention.Decision{{ID: "ab", Source: "web1", Label: "20260701T030405Z"}}}, nil
		}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			p.daily(ctx, func() (bool, <-chan struct{}) {
				mu.Lock()
				defer mu.Unlock()
				return on, changed
			})
		}()
		turn := func(to bool) {
			mu.Lock()
			defer mu.Unlock()
			on = to
			close(changed)
			changed = make(chan struct{})
		}
		ran := func() []time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(at)
		}
		time.Sleep(48 * time.Hour)
		if at := ran(); len(at) > 0 || p.state().Daily {
			t.Errorf("pruned at %v, and nobody asked for it", at)
		}
		turn(true)
		synctest.Wait()
		if at := ran(); len(at) != 1 || !p.state().Daily || p.state().RemovedPacks != 2 {
			t.Errorf("pruned at %v: %+v", at, p.state())
		}
		time.Sleep(4 * time.Hour)
		if at, s := ran(), p.state(); len(at) != 2 || !s.Failed {
			t.Errorf("pruned at %v: %+v", at, s)
		}
		time.Sleep(71 * time.Hour)
		if at, s := ran(), p.state(); len(at) != 4 || at[3]-at[2] <= 24*time.Hour || s.Failed || s.RemovedSnapshots != 3 || s.RemovedBytes != 15 || s.MarkedPacks != 9 {
			t.Errorf("pruned at %v: %+v", at, s)
		}
		turn(false)
		time.Sleep(72 * time.Hour)
		if at := ran(); len(at) != 4 || p.state().Daily {
			t.Errorf("pruned at %v after it was turned off", at)
		}
		cancel()
		<-done
		for _, want := range []string{"prune: removed", "web1@20260701T030405Z", "removed_bytes=5", "marked_packs=3", "the disk is full"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("the log does not say %q:\n%s", want, out.String())
			}
		}
	})
}
