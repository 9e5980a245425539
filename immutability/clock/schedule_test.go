package clock

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"pgregory.net/rapid"
)

// liar is a Source whose clocks need have nothing to do with the real time, which it keeps as well.
type liar struct {
	real time.Duration
	now  Reading
	boot int
}

func newLiar(t *rapid.T) *liar {
	l := &liar{now: Reading{Wall: start.Add(some(t, "phase", 0, time.Second))}}
	l.reboot()
	l.now.Raw, l.now.Boot = some(t, "raw at first", 0, day), some(t, "boot at first", 0, day)
	return l
}

func (l *liar) Read() (Reading, error) { return l.now, nil }

func (l *liar) reboot() {
	l.boot++
	l.now.BootID = fmt.Sprint("boot ", l.boot)
	l.now.Raw, l.now.Boot = 0, 0
}

// some draws a span of time: often a short one, at times a very long one, and odd to the nanosecond.
func some(t *rapid.T, label string, least, most time.Duration) time.Duration {
	switch rapid.IntRange(0, 2).Draw(t, label+" scale") {
	case 0:
		most = min(most, max(least, 2*time.Second))
	case 1:
		most = min(most, max(least, 2*time.Hour))
	}
	return time.Duration(rapid.Int64Range(int64(least), int64(most)).Draw(t, label))
}

// vault is what keeps a clock: its disk, and a ledger with the stamps that were recorded and the real time of each.
type vault struct {
	disk    *crashdisk.Disk
	source  *liar
	clock   *Clock
	records []record
}

type record struct {
	stamp Stamp
	real  time.Duration
}

func (v *vault) floor() Stamp {
	if len(v.records) == 0 {
		return Stamp{}
	}
	return v.records[len(v.records)-1].stamp
}

func (v *vault) open(t *rapid.T) {
	c, err := Open(v.disk, "clock", v.source, Known{Newest: v.floor()})
	if err != nil {
		t.Fatal(err)
	}
	v.clock = c
}

// check is the invariant: no span longer than the real time has elapsed since any stamp in the ledger.
func (v *vault) check(t *rapid.T, now Stamp) {
	for _, r := range v.records {
		if passed := v.source.real - r.real; Elapsed(r.stamp, now, passed+1) {
			t.Fatalf("from %v to %v more than %v has elapsed, which is the real time", r.stamp, now, passed)
		}
	}
}

// common are the steps that do not concern the clocks: reading, recording, dying, losing the state file.
func (v *vault) common(t *rapid.T, step int) {
	switch step {
	case 0, 1:
		s, err := v.clock.Now()
		if err != nil {
			t.Fatal(err)
		}
		v.check(t, s)
		v.clock.Shifted()
	case 2, 3:
		s, err := v.clock.Now()
		if err != nil {
			t.Fatal(err)
		}
		v.check(t, s)
		v.records = append(v.records, record{s, v.source.real})
	case 4:
		if rapid.Bool().Draw(t, "saved") {
			_ = v.clock.Save()
		}
		v.open(t) // the process ended, or was killed
	case 5:
		v.disk.FailAt(v.disk.Ops()+rapid.Int64Range(1, 6).Draw(t, "at"), rapid.SampledFrom([]crashdisk.Fault{
			crashdisk.ShortWrite, crashdisk.NoSpace, crashdisk.IOError, crashdisk.SyncFail, crashdisk.IOErrorAfter,
		}).Draw(t, "fault"))
	case 6: // the power
		v.disk = v.disk.Restart(crashdisk.Random, rapid.Int64().Draw(t, "seed"))
		v.source.reboot()
		v.open(t)
	case 7:
		if rapid.Bool().Draw(t, "removed") {
			_ = durable.Remove(v.disk, "clock")
		} else {
			_ = v.disk.Flip("clock", rapid.Int64Range(0, 300).Draw(t, "byte"), 1)
		}
		v.open(t)
	}
}

const commonSteps = 8

// While MONOTONIC_RAW is honest, nothing else can make time elapse early: not the wall clock, not a steered or jumping
// BOOTTIME, not suspend, reboots, power cuts or a lost state file.
func TestNoExpiryIsEarlyWhileRunningTimeIsHonest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := &vault{disk: crashdisk.New(), source: newLiar(t)}
		v.open(t)
		l := v.source
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch step := rapid.IntRange(0, commonSteps+5).Draw(t, "step"); step - commonSteps {
			case 0, 1: // awake, BOOTTIME as it likes
				d := some(t, "awake", 0, 500*day)
				l.real += d
				l.now.Raw += d
				l.now.Boot += some(t, "boottime", 0, 500*day)
				l.now.Wall = l.now.Wall.Add(d)
			case 2: // asleep
				d := some(t, "asleep", 0, 500*day)
				l.real += d
				l.now.Boot += d
				l.now.Wall = l.now.Wall.Add(d)
			case 3:
				l.now.Wall = start.Add(some(t, "wall", -1000*day, 100000*day))
			case 4:
				l.real += some(t, "off", 0, 500*day)
				l.reboot()
				if rapid.Bool().Draw(t, "process too") {
					v.open(t)
				}
			case 5: // a virtual machine put back to an earlier moment
				l.now.Raw -= some(t, "raw back", 0, l.now.Raw)
				l.now.Boot -= some(t, "boot back", 0, l.now.Boot)
			default:
				v.common(t, step)
			}
		}
		s, err := v.clock.Now()
		if err != nil {
			t.Fatal(err)
		}
		v.check(t, s)
	})
}

// While the wall clock is honest, the kernel's own counters can lie at will.
func TestNoExpiryIsEarlyWhileTheWallClockIsHonest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := &vault{disk: crashdisk.New(), source: newLiar(t)}
		v.open(t)
		l := v.source
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch step := rapid.IntRange(0, commonSteps+2).Draw(t, "step"); step - commonSteps {
			case 0:
				d := some(t, "real", 0, 500*day)
				l.real += d
				l.now.Wall = l.now.Wall.Add(d)
			case 1:
				l.now.Raw += some(t, "raw", -day, 10000*day)
				l.now.Boot += some(t, "boottime", -day, 10000*day)
			case 2:
				l.reboot()
			default:
				v.common(t, step)
			}
		}
		s, err := v.clock.Now()
		if err != nil {
			t.Fatal(err)
		}
		v.check(t, s)
	})
}

// The other half: honest clocks on a machine that runs let a lock end, and not much later than it should.
func TestHonestTimeDoesElapse(t *testing.T) {
	d := crashdisk.New()
	m := NewManual(start.Add(700 * time.Millisecond))
	c := opened(t, d, m, Stamp{})
	since := now(t, c)
	for range 10 {
		m.Advance(day)
		now(t, c)
		m.Reboot(0) // with whatever was not saved lost
		d = d.Restart(crashdisk.LoseUnsynced, 0)
		c = opened(t, d, m, Stamp{})
	}
	if s := now(t, c); !Elapsed(since, s, 10*day-2*time.Second) {
		t.Errorf("after ten days awake: %v since %v", s, since)
	}
	m.Advance(2 * time.Second)
	if s := now(t, c); !Elapsed(since, s, 10*day) {
		t.Errorf("after ten days and two seconds: %v since %v", s, since)
	}
}

// At every operation of saving, every fault and every loss: the state file is whole, holds no more than was credited, and
// no less than the last save that was acknowledged.
func TestCrashWhileSavingLosesAtMostTheLastSave(t *testing.T) {
	for _, fault := range crashdisk.Faults() {
		for k := int64(1); ; k++ {
			d := crashdisk.New()
			m := NewManual(start)
			var saved, credited int64
			d.FailAt(k, fault)
			c, err := Open(d, "clock", m, Known{Newest: Stamp{}})
			for i := 0; err == nil && i < 4; i++ {
				m.Advance(time.Hour)
				credited += 3600
				if c.Save() == nil {
					saved = credited
				}
			}
			if err != nil {
				t.Fatalf("%v at %d: open: %v", fault, k, err)
			}
			if !d.Fired() {
				if k < 20 {
					t.Fatalf("only %d operations", k-1)
				}
				break
			}
			for seed := range int64(20) {
				loss := crashdisk.Random
				if seed == 0 {
					loss = crashdisk.LoseUnsynced
				}
				after := d.Restart(loss, seed)
				if err := Check(after, "clock"); err != nil && (saved > 0 || !errors.Is(err, fs.ErrNotExist)) {
					t.Errorf("%v at %d, %v %d: %v", fault, k, loss, seed, err)
				}
				later := NewManual(start.Add(365 * day))
				later.Reboot(0)
				c := opened(t, after, later, Stamp{})
				if got := now(t, c).Running; got < saved || got > credited {
					t.Errorf("%v at %d, %v %d: %d s, saved %d, credited %d", fault, k, loss, seed, got, saved, credited)
				}
				must(t, c.Save())
			}
		}
	}
}
