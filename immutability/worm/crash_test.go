package worm

import (
	"fmt"
	"os"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger/killpoint"
)

// TestQuietLife is the run that the faults are put into: without one everything must come to pass.
func TestQuietLife(t *testing.T) { quietLife(t, newMemory()) }

// TestQuietGuardedLife is the same with flags and leases.
func TestQuietGuardedLife(t *testing.T) { quietLife(t, newGuarded()) }

func quietLife(t *testing.T, m *memory) {
	d, src := crashdisk.New(), newClock()
	must(t, m.life(d, src, false))
	if len(m.snapshots) != 3 || len(m.gone) != 2 || len(m.packs) != 3 {
		t.Fatalf("%d snapshots, %d of them removed, %d packs", len(m.snapshots), len(m.gone), len(m.packs))
	}
	s, err := Open(d, src, m.options())
	must(t, err)
	if packs := s.Packs(); len(packs) != 1 || packs[0].Number != 3 {
		t.Errorf("packs %v", packs)
	}
	must(t, m.prove(d, src, 1))
}

// TestNoFaultBreaksAPromise puts every fault at every operation of init, create, seal, commit, extend, claim, condemn, sweep
// and prune, into a process that ends at the first error and into one that goes on.
func TestNoFaultBreaksAPromise(t *testing.T) {
	t.Parallel()
	sweep(t, newMemory)
}

// TestNoFaultBreaksAGuardedPromise is the same with flags and leases.
func TestNoFaultBreaksAGuardedPromise(t *testing.T) {
	t.Parallel()
	sweep(t, newGuarded)
}

func sweep(t *testing.T, born func() *memory) {
	quiet := crashdisk.New()
	must(t, born().life(quiet, newClock(), false))
	points, some := 0, newSlice(5)
	for op := int64(1); op <= quiet.Ops(); op++ {
		for _, fault := range crashdisk.Faults() {
			for _, persist := range []bool{false, true} {
				if !some.takes() {
					continue
				}
				d, src, m := crashdisk.New(), newClock(), born()
				d.FailAt(op, fault)
				err := m.life(d, src, persist)
				fail := func(how string, err2 error) {
					if err2 != nil {
						t.Errorf("op %d %v, persist %t (%v), %s: %v\n%q", op, fault, persist, err, how, err2,
							d.Log()[max(0, op-4):min(int64(len(d.Log())), op+3)])
					}
				}
				dead := fault == crashdisk.Crash || fault == crashdisk.CrashAfter || fault == crashdisk.Torn || fault == crashdisk.ReadOnly
				if dead && persist {
					continue
				}
				if !dead {
					live := d.Clone()
					live.Refill()
					fail("killed", m.clone().prove(live, src, 1))
				}
				fail("lost", m.clone().prove(d.Restart(crashdisk.LoseUnsynced, 0), src, 1))
				if dead { // else it is much the same as killed
					fail("kept", m.clone().prove(d.Restart(crashdisk.KeepAll, 0), src, 1))
				}
				for seed := range int64(2) {
					fail(fmt.Sprintf("random %d", seed), m.clone().prove(d.Restart(crashdisk.Random, op*10+seed), src, 1))
				}
				points++
			}
		}
	}
	t.Logf("%d operations, %d faults survived", quiet.Ops(), points)
}

// TestKilledAnywhere takes the process away before every operation and leaves the machine running;
// the power fails after the next one has opened the vault, or has gone on with it.
func TestKilledAnywhere(t *testing.T) {
	t.Parallel()
	killedAnywhere(t, newMemory())
}

// TestGuardedKilledAnywhere is the same with flags and leases.
func TestGuardedKilledAnywhere(t *testing.T) {
	t.Parallel()
	killedAnywhere(t, newGuarded())
}

func killedAnywhere(t *testing.T, m *memory) {
	inner, src := crashdisk.New(), newClock()
	points, some := 0, newSlice(1)
	spy := &killpoint.Disk{GuardedDisk: inner, Before: func() {
		points++
		if !some.takes() {
			return
		}
		err := m.clone().prove(inner.Clone(), src, 1)
		if looked := inner.Clone(); err == nil && m.created {
			c := m.clone()
			var s *Store
			if s, err = Open(looked, src, m.options()); err == nil {
				c.checkpoints = append(c.checkpoints, s.Ledger().Checkpoint())
				err = c.prove(looked.Restart(crashdisk.LoseUnsynced, 0), src, 1)
			}
		}
		if err != nil {
			t.Errorf("killed before op %d: %v\n%q", inner.Ops()+1, err, inner.Log()[max(0, inner.Ops()-3):])
		}
	}}
	must(t, m.life(spy, src, false))
	if points < 100 {
		t.Errorf("%d points", points)
	}
}

// TestRecoveryIsKilledToo cuts the power while recovery itself runs.
func TestRecoveryIsKilledToo(t *testing.T) {
	t.Parallel()
	recoveryKilled(t, newMemory)
}

// TestGuardedRecoveryIsKilledToo is the same with flags and leases.
func TestGuardedRecoveryIsKilledToo(t *testing.T) {
	t.Parallel()
	recoveryKilled(t, newGuarded)
}

func recoveryKilled(t *testing.T, born func() *memory) {
	quiet := crashdisk.New()
	must(t, born().life(quiet, newClock(), false))
	some := newSlice(13)
	for op := int64(20); op <= quiet.Ops(); op += 5 {
		d, src, m := crashdisk.New(), newClock(), born()
		d.FailAt(op, crashdisk.Crash)
		_ = m.life(d, src, false)
		for _, fault := range []crashdisk.Fault{crashdisk.Crash, crashdisk.Torn, crashdisk.SyncFail, crashdisk.NoSpace, crashdisk.IOErrorAfter} {
			for second := int64(1); second < 60; second++ {
				if !some.takes() {
					continue
				}
				found := d.Restart(crashdisk.KeepAll, 0)
				found.FailAt(second, fault)
				_, _ = Open(found, src, m.options())
				if !found.Fired() {
					break
				}
				if err := m.clone().prove(found.Restart(crashdisk.LoseUnsynced, 0), src, 1); err != nil {
					t.Errorf("op %d, then %v at %d of recovery: %v\n%q", op, fault, second, err, found.Log())
				}
			}
		}
	}
}

// slice takes some of the points of a sweep, spread over all of them: with HOLDFAST_SWEEP=full each one, otherwise as many as
// the continuous integration has time for, always the same.
type slice struct{ every, n int64 }

func newSlice(every int64) *slice {
	switch {
	case os.Getenv("HOLDFAST_SWEEP") == "full":
		every = 1
	case raceEnabled || testing.Short():
		every *= 11 // the race detector makes each ten times slower, and there is nothing concurrent in them
	}
	return &slice{every: every}
}

func (s *slice) takes() bool {
	s.n++
	return s.n%s.every == 0
}

// stride is the step of a loop that takes every n-th operation.
func stride(n int64) int64 { return n * newSlice(1).every }
