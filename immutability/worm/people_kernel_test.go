package worm

import (
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/ledger/killpoint"
)

// TestRealKernelKeepsWhatPeopleDecided cuts real file systems under a guarded vault while people are adopted, a snapshot is
// held, requests are brought, vetoed and carried out, the panic switch is thrown and what was let go is removed, and holds the
// vault to all that it acknowledged. HOLDFAST_LOOP_TEST is four times the number of cuts, 8 where nothing may be left out.
func TestRealKernelKeepsWhatPeopleDecided(t *testing.T) {
	cuts := 8
	if n, err := strconv.Atoi(os.Getenv("HOLDFAST_LOOP_TEST")); err == nil && n > 1 {
		cuts = n / 4
	} else if raceEnabled {
		cuts = 2 // nothing in it is concurrent
	}
	for i, kind := range realFileSystems {
		t.Run(kind, func(t *testing.T) {
			l, rng := newLoop(t, kind), rand.New(rand.NewPCG(11, uint64(i)))
			whole, begun := l.decides(0)
			for range cuts / len(realFileSystems) {
				l.make(kind)
				l.decides(begun + 1 + rng.Int64N(whole-begun))
				if t.Failed() {
					return
				}
			}
			t.Logf("%d cuts within the %d operations from the people on", cuts/len(realFileSystems), whole-begun)
		})
	}
}

// decides lives the life of civics on a new file system, cuts the power before operation until, and proves what is left; with 0
// nothing is cut. It gives the number of operations, and of those before the people come.
func (l *loop) decides(until int64) (ops, begun int64) {
	l.t.Helper()
	c, src, d := newCivics(true), newClock(), l.open()
	spy := &killpoint.Disk{GuardedDisk: d, Before: func() {
		if ops++; ops == until {
			l.cut()
		}
	}}
	end := c.life(spy, src, func() int64 { return ops }, false)
	if until == 0 || ops < until {
		must(l.t, end)
	}
	if ops >= until && until > 0 {
		_ = c.store.Close() // nothing that it writes reaches the image
	}
	must(l.t, d.Close())
	if until == 0 {
		return ops, c.began
	}
	l.remount()
	src.Reboot(time.Minute)
	for round := range 2 {
		d := l.open()
		if err := errors.Join(c.proven(d, src), d.Close()); err != nil {
			l.t.Errorf("before operation %d (%v), round %d: %v", until, end, round, err)
		}
		l.remount()
	}
	return ops, c.began
}

// proven is a round of prove on a disk as it is.
func (c *civics) proven(d durable.Disk, src clock.Source) error {
	if err := independentlyAlways(d); err != nil {
		return err
	}
	s, err := Open(d, src, c.options())
	if err != nil {
		return err
	}
	err = c.holds(s)
	if err == nil {
		_, err = s.CarryOut(ctx)
	}
	return errors.Join(err, c.holds(s), s.Close(), independentlyAlways(d))
}
