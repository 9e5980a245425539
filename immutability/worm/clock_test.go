package worm

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
)

// told gives the clock records of a ledger, in order.
func told(s *Store) (out []ledger.Clock) {
	for r := range s.Ledger().Records() {
		if r.Kind == ledger.KindClock {
			out = append(out, *r.Clock)
		}
	}
	return out
}

// tells wants exactly these events, and words in the newest.
func tells(t *testing.T, s *Store, events string, words ...string) {
	t.Helper()
	all := told(s)
	var got []string
	for _, c := range all {
		got = append(got, string(c.Event))
	}
	if g := strings.Join(got, " "); g != events {
		t.Fatalf("the ledger tells %q, want %q: %+v", g, events, all)
	}
	for _, w := range words {
		if !strings.Contains(all[len(all)-1].Detail, w) {
			t.Errorf("%q does not say %q", all[len(all)-1].Detail, w)
		}
	}
	if bad := s.Check(ctx, false); len(bad) > 0 {
		t.Error(bad)
	}
}

// TestACorrectionOfTheWallClockIsRecorded: who reads the ledger later must see that somebody turned the clock, and when
// nothing expired for it; also after the process and the machine have started anew.
func TestACorrectionOfTheWallClockIsRecorded(t *testing.T) {
	d, src, s := newStore(t)
	again := func() {
		must(t, s.Close())
		s = open(t, d, src)
	}
	src.StepWall(9 * time.Minute)
	must(t, s.Tick())
	tells(t, s, "")
	src.StepWall(2 * time.Minute)
	must(t, s.Tick())
	tells(t, s, "moved", "set ahead by 11 minutes", "is now 11 minutes ahead")
	again()
	src.Advance(2 * time.Hour)
	must(t, s.Tick())
	tells(t, s, "moved")
	src.StepWall(-31 * time.Minute)
	again()
	tells(t, s, "moved moved", "back by 31 minutes", "20 minutes behind")
	src.StepWall(25*time.Hour + 20*time.Minute)
	commit(t, s, "web1", "s1", ledger.Lock{})
	tells(t, s, "moved moved stopped", "25 hours ahead", "nothing expires")
	src.Advance(time.Hour)
	must(t, s.Close())
	src.Reboot(time.Hour)
	s = open(t, d, src)
	tells(t, s, "moved moved stopped")
	src.StepWall(-25 * time.Hour)
	must(t, s.Tick())
	tells(t, s, "moved moved stopped resumed", "where it should be", "expires again")
	if r, err := s.Clock(); err != nil || r.Corrections != 2 || r.Shifted {
		t.Errorf("%+v, %v", r, err)
	}
	src.StepWall(-30 * day)
	src.Advance(time.Hour)
	must(t, s.Tick())
	src.Advance(7 * day)
	must(t, s.Tick())
	tells(t, s, "moved moved stopped resumed stopped resumed", "where it should be")
}

// TestAFlappingClockFillsTheLedger: whatever the clock does, a day makes a few dozen records, and the last says how it ended.
func TestAFlappingClockFillsTheLedger(t *testing.T) {
	_, src, s := newStore(t)
	for range 24 * 60 {
		src.StepWall(26 * time.Hour)
		must(t, s.Tick())
		src.Advance(30 * time.Second)
		src.StepWall(-26 * time.Hour)
		must(t, s.Tick())
		src.Advance(30 * time.Second)
	}
	src.Advance(2 * time.Hour)
	must(t, s.Tick())
	all := told(s)
	if n := len(all); n < 20 || n > 50 {
		t.Errorf("%d records", n)
	}
	times := 0
	for _, c := range all {
		times += c.Times
	}
	if times < 2500 {
		t.Errorf("the records tell of %d steps, there were 2880", times)
	}
	if s.state.noted.Stopped {
		t.Error("expiry goes on, and the ledger says that it stopped")
	}
}

// TestAQuietVaultLosesItsRunningTime: where nothing is pulled the ledger still gets to know how much time ran, so that a
// state file is believed a week at most.
func TestAQuietVaultLosesItsRunningTime(t *testing.T) {
	d, src, s := newStore(t)
	for range 30 * 24 {
		src.Advance(time.Hour)
		must(t, s.Tick())
	}
	if n := len(told(s)); n != 30 {
		t.Errorf("%d records in 30 days", n)
	}
	must(t, durable.Remove(d, clockFile))
	s = open(t, d, src)
	if now, err := s.Now(); err != nil || now.Running < int64(29*day/time.Second) {
		t.Errorf("%v, %v: a month ran", now, err)
	}
}

// tamper writes a state file as an honest clock of a longer life, or of another vault, would have.
func tamper(t *testing.T, d durable.Disk, k clock.Known, src *clock.Manual, ran time.Duration) {
	t.Helper()
	other := clock.NewManual(reading(t, src).Wall.Add(-ran))
	fresh := crashdisk.New()
	must(t, durable.MkdirAll(fresh, keeperDir, 0o700))
	c, err := clock.Open(fresh, clockFile, other, k)
	must(t, err)
	other.Advance(ran)
	must(t, c.Save())
	b, err := durable.ReadFile(fresh, clockFile, 1<<12)
	must(t, err)
	must(t, durable.Replace(d, clockFile, b, 0o600))
}

func reading(t *testing.T, src clock.Source) clock.Reading {
	t.Helper()
	r, err := src.Read()
	must(t, err)
	return r
}

// TestAChangedClockStateEndsALock: the state file's checksum is no signature. Whoever writes it, with the wall clock set ahead
// as well, gains a week of running time and leaves a record.
func TestAChangedClockStateEndsALock(t *testing.T) {
	for name, c := range map[string]struct {
		harm   func(t *testing.T, d *crashdisk.Disk, src *clock.Manual, before []byte)
		events string
		words  string
		gained time.Duration
	}{
		"deleted": {func(t *testing.T, d *crashdisk.Disk, _ *clock.Manual, _ []byte) {
			must(t, durable.Remove(d, clockFile))
		}, "state", "missing", 0},
		"a byte flipped": {func(t *testing.T, d *crashdisk.Disk, _ *clock.Manual, _ []byte) {
			must(t, d.Flip(clockFile, 60, 1))
		}, "state", "damaged", 0},
		"put back": {func(t *testing.T, d *crashdisk.Disk, _ *clock.Manual, before []byte) {
			must(t, durable.Replace(d, clockFile, before, 0o600))
		}, "state", "older than the ledger", 0},
		"of another vault": {func(t *testing.T, d *crashdisk.Disk, src *clock.Manual, _ []byte) {
			tamper(t, d, clock.Known{Vault: strings.Repeat("f", 32)}, src, 1000*day)
		}, "state", "another vault's", 0},
		"forged": {func(t *testing.T, d *crashdisk.Disk, src *clock.Manual, _ []byte) {
			tamper(t, d, clock.Known{Vault: testVault, Records: 1 << 20}, src, 1000*day)
		}, "state stopped", "it is believed after 7 days more", 10 * time.Minute},
		"forged, and the wall clock set ahead": {func(t *testing.T, d *crashdisk.Disk, src *clock.Manual, _ []byte) {
			src.Reboot(1000 * day)
			tamper(t, d, clock.Known{Vault: testVault, Records: 1 << 20}, src, 1001*day)
		}, "state", "forged", 7 * day},
	} {
		t.Run(name, func(t *testing.T) {
			d, src, s := newStore(t)
			before, err := durable.ReadFile(d, clockFile, 1<<12)
			must(t, err)
			src.Advance(2 * day)
			snap := commit(t, s, "web1", "s1", ledger.Lock{Mode: ledger.Governance, ForSeconds: 7200})
			commit(t, s, "web1", "s2", ledger.Lock{})
			must(t, s.Close())
			c.harm(t, d, src, before)
			s = open(t, d, src)
			if now, err := s.Now(); err != nil || now.Running-snap.Committed.Running > int64((c.gained)/time.Second) {
				t.Errorf("%v, %v: %d s were gained", now, err, now.Running-snap.Committed.Running)
			}
			found := s.found
			s = open(t, d, src) // which finds all well, and does not tell again
			tells(t, s, c.events, c.words)
			if name != "deleted" && name != "put back" && len(found) == 0 {
				t.Error("check says nothing of it")
			}
		})
	}
}

// TestACreditThatWasLostComesBack: the clock's state is lost, a snapshot is stamped without what had been counted, and the state
// is put back. Found by random histories.
func TestACreditThatWasLostComesBack(t *testing.T) {
	d, src, s := newStore(t)
	src.Advance(3 * time.Hour)
	must(t, s.clock.Save())
	good, err := durable.ReadFile(d, clockFile, 1<<12)
	must(t, err)
	must(t, durable.Remove(d, clockFile))
	s = open(t, d, src)
	snap := commit(t, s, "web1", "s1", ledger.Lock{ForSeconds: 7200})
	must(t, s.Close())
	must(t, durable.Replace(d, clockFile, good, 0o600))
	src.StepWall(3 * time.Hour)
	s = open(t, d, src)
	if got, err := s.snapshot(snap.ID); err != nil || !got.Locked {
		t.Errorf("%+v, %v", got, err)
	}
	if now, err := s.Now(); err != nil || now.Running != snap.Committed.Running {
		t.Errorf("%v, %v: the lock began at %v", now, err, snap.Committed)
	}
	if told(s)[0].Event != clock.State {
		t.Error("nothing is told of the lost state")
	}
}

// TestAShiftIsForgottenWithTheClocksState: the ledger remembers that the wall clock was set ahead, so removing the state file,
// or cutting the power before it was written, does not make expiry go on.
func TestAShiftIsForgottenWithTheClocksState(t *testing.T) {
	d, src, s := newStore(t)
	src.Advance(day)
	old, err := durable.ReadFile(d, clockFile, 1<<12)
	must(t, err)
	src.StepWall(100 * day)
	must(t, s.Tick())
	tells(t, s, "stopped")
	for name, state := range map[string][]byte{"removed": nil, "of before": old} {
		for _, gap := range []time.Duration{0, day} {
			d, src := d.Clone(), src.Clone()
			if state == nil {
				must(t, durable.Remove(d, clockFile))
			} else {
				must(t, durable.Replace(d, clockFile, state, 0o600))
			}
			if gap > 0 {
				src.Reboot(gap)
			}
			s := open(t, d, src)
			if shifted, _ := s.ClockShifted(); !shifted {
				t.Errorf("%s, off for %v: expiry goes on", name, gap)
			}
			src.StepWall(-100 * day)
			src.Advance(time.Hour)
			must(t, s.Tick())
			if shifted, why := s.ClockShifted(); shifted {
				t.Errorf("%s, off for %v, put right: %s", name, gap, why)
			}
		}
	}
}

// TestAnImpossibleWallClockAtOpen: a clock chip that forgot the time, or that is years ahead, keeps nobody from locking, and
// nothing expires by it.
func TestAnImpossibleWallClockAtOpen(t *testing.T) {
	for name, c := range map[string]struct {
		off     time.Duration
		shifted bool
	}{"two decades back": {-20 * 365 * day, true}, "an hour back": {-time.Hour, true}, "a year off": {365 * day, false}, "three years ahead": {3 * 366 * day, true}} {
		d, src, s := newStore(t)
		first := commit(t, s, "web1", "s1", ledger.Lock{})
		must(t, s.Close())
		src.Reboot(c.off)
		s = open(t, d, src)
		if shifted, why := s.ClockShifted(); shifted != c.shifted {
			t.Errorf("%s: shifted %v (%s)", name, shifted, why)
		}
		second := commit(t, s, "web1", "s2", ledger.Lock{})
		if !second.Locked || second.Label <= first.Label {
			t.Errorf("%s: %+v", name, second)
		}
		src.Advance(3 * time.Hour)
		rep := gone(t, s, src)
		if c.shifted == (len(rep.Snapshots) > 0) {
			t.Errorf("%s: prune took %v", name, rep.Snapshots)
		}
		if c.shifted {
			tells(t, s, "stopped")
		}
	}
}

// TestDoctorIsSilentAboutASwitchedOffVault: people see that locks end later than their dates, by how much, and why.
func TestDoctorIsSilentAboutASwitchedOffVault(t *testing.T) {
	d, src, s := newStore(t)
	commit(t, s, "web1", "s1", ledger.Lock{})
	must(t, s.Close())
	src.Reboot(12 * day)
	s = open(t, d, src)
	src.Advance(time.Minute)
	r, err := s.Clock()
	must(t, err)
	text := strings.Join(r.Sentences(), "\n")
	for _, w := range []string{"end up to 12 days later than their date", "for 12 days of the time on the wall clock it was switched off", "Both agree", "no fault"} {
		if !strings.Contains(text, w) {
			t.Errorf("%q is not said:\n%s", w, text)
		}
	}
	src.StepWall(400 * day)
	must(t, s.Tick())
	r, err = s.Clock()
	must(t, err)
	if as := s.ClockAs(r.Now, r.Shifted, r.Why); strings.Join(as.Sentences(), "") != strings.Join(r.Sentences(), "") {
		t.Errorf("who follows says\n%s\nwho writes\n%s", as.Sentences(), r.Sentences())
	}
	text = strings.Join(r.Sentences(), "\n")
	for _, w := range []string{"The clock is shifted", "400 days ahead of", "Put it right", "new snapshots are locked as ever"} {
		if !strings.Contains(text, w) {
			t.Errorf("%q is not said:\n%s", w, text)
		}
	}
}
