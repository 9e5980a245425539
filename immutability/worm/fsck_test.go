package worm

import (
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/fsck"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
)

// independently has the checker that shares no code with this package look at a disk: it must find no damage wherever the
// store finds none, and none in what a crash left before anybody opened it. The keyrings of these tests are none.
func independently(d durable.Disk) error {
	n := looked.Add(1)
	if n%20 != 0 && os.Getenv("HOLDFAST_SWEEP") != "full" {
		return nil
	}
	return independentlyAlways(d)
}

// independentlyAlways is independently, each time.
func independentlyAlways(d durable.Disk) error {
	r, err := fsck.Look(ctx, disk{d}, fsck.Options{ReadData: true})
	if err != nil {
		return fmt.Errorf("fsck: %w", err)
	}
	for _, f := range r.Damage {
		if f.Kind != fsck.KindIdentity {
			return fmt.Errorf("fsck finds damage: %+v", f)
		}
	}
	return nil
}

var looked atomic.Int64

// disk shows a durable.Disk to the checker.
type disk struct{ durable.Disk }

func (d disk) Lstat(name string) (fs.FileInfo, error) { return d.Stat(name) }

func (d disk) Open(name string) (fs.File, error) {
	f, err := d.Disk.Open(name)
	if err != nil {
		return nil, err
	}
	return file{f, func() (fs.FileInfo, error) { return d.Disk.Stat(name) }}, nil
}

type file struct {
	durable.File
	stat func() (fs.FileInfo, error)
}

func (f file) Stat() (fs.FileInfo, error) { return f.stat() }

// stepping is a clock whose wall clock is set back once, right before a reading.
type stepping struct {
	*clock.Manual
	left int // readings until then
	back time.Duration
}

func (s *stepping) Read() (clock.Reading, error) {
	if s.left--; s.left == 0 {
		s.StepWall(-s.back)
	}
	return s.Manual.Read()
}

// TestWallClockSetBackWhileARecordIsDecidedLooksLikeAnAttack: wherever in a prune or an extension a time server sets the wall
// clock back, the records are such as the checker believes, and what is locked by the clock of the record stays.
func TestWallClockSetBackWhileARecordIsDecidedLooksLikeAnAttack(t *testing.T) {
	for left := 1; left < 12; left++ {
		d, src, s := newStore(t)
		commit(t, s, "web1", "s1", ledger.Lock{ForSeconds: 3600})
		src.Advance(time.Minute)
		second := commit(t, s, "web1", "s2", ledger.Lock{ForSeconds: 3600})
		src.Advance(time.Hour)
		_, err := s.Prune(ctx, false)
		must(t, err)
		must(t, s.Close())
		src.Advance(condemnedFor + 30*time.Second) // the first was marked for half a minute more than it must have been
		step := &stepping{Manual: src, back: time.Minute}
		s, err = Open(d, step, Options{})
		must(t, err)
		step.left = left
		rep, err := s.Prune(ctx, false)
		if err == nil && len(rep.Snapshots) != 1 && rep.Decisions[0].Go {
			t.Errorf("step before reading %d: %+v", left, rep)
		}
		_, err = s.Extend(ctx, second.ID, ledger.Lock{}, "ann")
		must(t, err)
		must(t, s.Close())
		r, err := fsck.Look(ctx, disk{d}, fsck.Options{})
		must(t, err)
		for _, f := range r.Damage {
			if f.Kind != fsck.KindIdentity {
				t.Errorf("step before reading %d: fsck finds %+v", left, f)
			}
		}
	}
}

// TestVaultThatWasIdleLooksForged: a vault that commands alone work on, on a machine that is never off, has its running time
// credited in one piece after a week or two without a record. That is no damage, and nothing of it is lost.
func TestVaultThatWasIdleLooksForged(t *testing.T) {
	d, src, s := newStore(t)
	commit(t, s, "web1", "s1", ledger.Lock{ForSeconds: 7200})
	must(t, s.Close())
	for range 3 {
		src.Advance(10 * day)
		s = open(t, d, src)
		must(t, s.Close())
		must(t, independentlyAlways(d))
	}
	s = open(t, d, src)
	now, err := s.Now()
	must(t, err)
	if now.Running < int64(30*day/time.Second) {
		t.Errorf("of 30 days %v are credited", time.Duration(now.Running)*time.Second)
	}
	must(t, s.Close())
}
