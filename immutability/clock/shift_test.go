package clock

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
)

// machine is a clock whose process ends and starts again at every step, so that what is told never depends on memory alone.
type machine struct {
	t *testing.T
	m *Manual
	d *crashdisk.Disk
	c *Clock
}

func newMachine(t *testing.T) *machine {
	m := &machine{t: t, m: NewManual(start), d: crashdisk.New()}
	m.reopen()
	return m
}

func (m *machine) reopen() {
	m.t.Helper()
	if m.c != nil {
		must(m.t, m.c.Save())
	}
	m.c = opened(m.t, m.d, m.m, Stamp{})
}

// shifted looks, ends the process, and looks again.
func (m *machine) shifted(want bool, what string, words ...string) {
	m.t.Helper()
	for range 2 {
		now(m.t, m.c)
		got, text := m.c.Shifted()
		if got != want {
			m.t.Fatalf("%s: shifted %v (%s)", what, got, text)
		}
		if got == (text == "") {
			m.t.Errorf("%s: text %q", what, text)
		}
		for _, w := range words {
			if !strings.Contains(text, w) {
				m.t.Errorf("%s: %q does not say %q", what, text, w)
			}
		}
		m.reopen()
	}
}

func (m *machine) reboot(gap time.Duration) {
	must(m.t, m.c.Save())
	m.m.Reboot(gap)
	now(m.t, m.c)
}

func TestOrdinaryLifeIsNoShift(t *testing.T) {
	m := newMachine(t)
	m.shifted(false, "at first")
	m.m.Advance(40 * day)
	m.shifted(false, "forty days in one boot")
	m.m.Suspend(40 * day)
	m.shifted(false, "forty days asleep")
	m.reboot(40 * day)
	m.shifted(false, "forty days switched off")
	for range 30 {
		m.m.StepWall(20 * time.Minute)
		m.m.Advance(day)
		m.m.StepWall(-20 * time.Minute)
		m.reboot(-5 * time.Minute) // a clock chip that is slow
		m.m.StepWall(5 * time.Minute)
	}
	m.shifted(false, "a month of corrections")
}

func TestStepForwardStopsExpiryUntilPutRight(t *testing.T) {
	m := newMachine(t)
	m.m.Advance(day)
	m.m.StepWall(23 * time.Hour)
	m.shifted(false, "23 hours")
	m.m.StepWall(2 * time.Hour)
	m.shifted(true, "25 hours in two steps", "25 hours ahead of", "nothing expires", "7 days more")
	m.m.StepWall(-20 * time.Hour)
	m.shifted(false, "put right")
}

func TestStepForwardIsNotForgottenByRebooting(t *testing.T) {
	m := newMachine(t)
	m.m.StepWall(3650 * day)
	m.shifted(true, "ten years")
	m.reboot(time.Hour)
	m.shifted(true, "ten years, and a reboot", "3650 days ahead of")
	m.reboot(-3650 * day)
	m.shifted(false, "put right during a reboot")
	// Half of a step in one boot, half in the next.
	m.m.StepWall(13 * time.Hour)
	m.reboot(0)
	m.shifted(false, "13 hours")
	m.m.StepWall(13 * time.Hour)
	m.shifted(true, "13 hours in each of two boots")
}

func TestStepBackWithinABoot(t *testing.T) {
	m := newMachine(t)
	m.m.Advance(day)
	m.m.StepWall(-25 * time.Hour)
	m.shifted(true, "25 hours back", "25 hours behind", "time that this machine ran")
	m.m.StepWall(24 * time.Hour)
	m.shifted(false, "put right")
}

func TestWallClockBackAcrossBoots(t *testing.T) {
	m := newMachine(t)
	m.m.Advance(day)
	m.reboot(-9 * time.Minute)
	m.shifted(false, "nine minutes")
	m.m.StepWall(9 * time.Minute)
	m.reboot(-time.Hour)
	m.shifted(true, "an hour back across boots", "60 minutes behind", "before the last boot")
	m.m.Advance(time.Hour)
	m.shifted(true, "the same an hour later")
	m.m.StepWall(55 * time.Minute)
	m.shifted(false, "put right")
}

func TestShiftSettlesAfterSevenDaysOfRunning(t *testing.T) {
	m := newMachine(t)
	m.m.StepWall(30 * day)
	m.shifted(true, "thirty days")
	m.m.Suspend(30 * day)
	m.reboot(30 * day)
	m.shifted(true, "two months in which the machine did not run", "7 days more")
	m.m.Advance(4 * day)
	m.shifted(true, "four days", "3 days more")
	m.m.StepWall(2 * day)
	m.shifted(true, "another step", "7 days more")
	m.m.Advance(7*day - time.Minute)
	m.shifted(true, "seven days but a minute")
	m.m.Advance(time.Minute)
	m.shifted(false, "seven days")
	m.m.StepWall(-20 * time.Hour)
	m.shifted(false, "twenty hours back from there")
	m.m.StepWall(-32 * day)
	m.shifted(true, "back to the real time")
	m.m.Advance(6 * day)
	m.reboot(-day)
	m.shifted(true, "back once more, across a boot", "7 days more")
	m.m.Advance(7 * day)
	m.shifted(false, "steady at last")
}

func TestLostStateDoesNotHideAWallClockBehindTheLedger(t *testing.T) {
	floor := Stamp{Wall: start, Running: 5, Boot: "before"}
	for back, want := range map[time.Duration]bool{0: false, 9 * time.Minute: false, 11 * time.Minute: true, 300 * day: true} {
		c := opened(t, crashdisk.New(), NewManual(start.Add(-back)), floor)
		now(t, c)
		if got, text := c.Shifted(); got != want {
			t.Errorf("%v behind the newest record: %v (%s)", back, got, text)
		}
	}
}

// The expectation that a reboot carries on was once written with fractions of a second, which nobody read back: the file was
// taken for damaged, and the shift was forgotten by the next process.
func TestShiftIsNotForgottenForAFractionOfASecond(t *testing.T) {
	for _, off := range []time.Duration{-time.Hour, 30 * day} {
		m := newMachine(t)
		m.m.Advance(day + 123456789)
		m.m.StepWall(off)
		m.reboot(0)
		m.shifted(true, off.String())
		if err := m.c.Found(); err != nil {
			t.Errorf("%v: %v", off, err)
		}
	}
}
