package clock

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
)

var start = time.Date(2026, time.December, 1, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func opened(t *testing.T, d durable.Disk, src Source, floor Stamp) *Clock {
	t.Helper()
	c, err := Open(d, "clock", src, Known{Newest: floor})
	must(t, err)
	return c
}

func now(t *testing.T, c *Clock) Stamp {
	t.Helper()
	s, err := c.Now()
	must(t, err)
	return s
}

func TestElapsedIsNeverAFractionEarly(t *testing.T) {
	at := func(wall, running int64) Stamp {
		return Stamp{Wall: start.Add(time.Duration(wall) * time.Second), Running: running}
	}
	for _, c := range []struct {
		since, now Stamp
		d          time.Duration
		want       bool
	}{
		{at(0, 0), at(100, 100), 0, true},
		{at(0, 0), at(-100, 0), -time.Second, true},
		{at(0, 0), at(10, 10), 10 * time.Second, false}, // may be 9.1 s
		{at(0, 0), at(11, 11), 10 * time.Second, true},
		{at(0, 0), at(11, 10), 10 * time.Second, false},
		{at(0, 0), at(10, 11), 10 * time.Second, false},
		{at(0, 0), at(1, 1), 1, false},
		{at(0, 0), at(2, 2), 1, true},
		{at(0, 0), at(11, 11), 10*time.Second + 1, false},
		{at(0, 0), at(12, 12), 10*time.Second + 1, true},
		{at(0, 5), at(1000, 4), time.Second, false},
		{at(0, -1<<63), at(1000, 1<<62), time.Second, false}, // would overflow
		{at(0, 0), at(1000, -5), time.Second, false},
		{Stamp{}, at(0, 1<<40), 1<<63 - 1, true}, // 2025 years by the wall clock
	} {
		if got := Elapsed(c.since, c.now, c.d); got != c.want {
			t.Errorf("Elapsed(%v, %v, %v) = %v", c.since, c.now, c.d, got)
		}
	}
}

func TestStampSurvivesJSON(t *testing.T) {
	m := NewManual(start.In(time.FixedZone("elsewhere", 3600)).Add(123456789))
	c := opened(t, crashdisk.New(), m, Stamp{})
	m.Advance(90*time.Second + 999*time.Millisecond)
	s := now(t, c)
	b, err := json.Marshal(s)
	must(t, err)
	want := `{"wall":"2026-12-01T12:01:31Z","running_s":90,"boot":"00000000-0000-4000-8000-000000000001"}`
	if string(b) != want {
		t.Errorf("%s, want %s", b, want)
	}
	var back Stamp
	must(t, json.Unmarshal(b, &back))
	if back != s {
		t.Errorf("%#v came back as %#v", s, back)
	}
	if s.IsZero() || !(Stamp{}).IsZero() || !(Stamp{}).Before(s) || s.Before(s) {
		t.Error("stamps are out of order")
	}
}

func TestOnlyRunningTimeIsCredited(t *testing.T) {
	d := crashdisk.New()
	m := NewManual(start)
	c := opened(t, d, m, Stamp{})
	check := func(what string, want time.Duration) {
		t.Helper()
		if got := time.Duration(now(t, c).Running) * time.Second; got != want {
			t.Errorf("%s: credited %v, want %v", what, got, want)
		}
	}
	check("at first", 0)
	m.Advance(time.Hour)
	check("an hour", time.Hour)
	m.Suspend(day)
	check("a day asleep", time.Hour)
	m.StepWall(1000 * day)
	check("a step of the wall clock", time.Hour)
	m.Steer(time.Minute)
	check("a minute by adjtimex", time.Hour)
	m.Steer(-time.Minute)
	m.Advance(time.Hour)
	check("another hour, BOOTTIME slowed by a minute", 2*time.Hour-time.Minute)
	m.Reboot(30 * day)
	check("a month switched off", 2*time.Hour-time.Minute)
	m.Advance(time.Hour)
	check("an hour of the second boot", 3*time.Hour-time.Minute)
	must(t, c.Save())
	m.Advance(time.Hour)
	c = opened(t, d, m, Stamp{}) // another process, the machine went on
	check("an hour without a process", 4*time.Hour-time.Minute)
	m.Advance(5 * time.Hour)
	m.Reboot(0)
	c = opened(t, d, m, Stamp{})
	check("five hours that nobody read", 4*time.Hour-time.Minute)
}

func TestStateOlderThanTheLedgerIsRaised(t *testing.T) {
	d := crashdisk.New()
	m := NewManual(start)
	c := opened(t, d, m, Stamp{})
	m.Advance(30 * time.Second) // not yet worth saving
	newest := now(t, c)
	same := opened(t, d, m, newest)
	if got := now(t, same); got.Running != 30 {
		t.Errorf("in the same boot: %d s, want 30: nothing is counted twice", got.Running)
	}
	m.Reboot(0)
	if got := now(t, opened(t, d.Restart(crashdisk.LoseUnsynced, 0), m, newest)); got.Running != 30 {
		t.Errorf("after a power cut: %d s, want 30", got.Running)
	}
}

func TestMissingAndDamagedStatesStartFromTheLedger(t *testing.T) {
	floor := Stamp{Wall: start, Running: 1000, Boot: "some"}
	for _, c := range []struct {
		name, content string
		floor         Stamp
		found         error
	}{
		{"absent in a new vault", "", Stamp{}, nil},
		{"absent in an old vault", "", floor, fs.ErrNotExist},
		{"damaged", "x", floor, ErrDamaged},
		{"large", strings.Repeat("x", 5000), floor, ErrDamaged},
	} {
		d := crashdisk.New()
		if c.content != "" {
			must(t, durable.WriteNew(d, "clock", []byte(c.content), 0o600))
		}
		m := NewManual(start.Add(time.Hour))
		ro, err := OpenReadOnly(d, "clock", m, Known{Newest: c.floor})
		must(t, err)
		ops := d.Ops()
		clk := opened(t, d, m, c.floor)
		for _, clk := range []*Clock{ro, clk} {
			if got := now(t, clk).Running; got != c.floor.Running {
				t.Errorf("%s: starts at %d s, want %d", c.name, got, c.floor.Running)
			}
			if found := clk.Found(); !errors.Is(found, c.found) {
				t.Errorf("%s: found %v, want %v", c.name, found, c.found)
			}
		}
		if d.Ops() == ops {
			t.Errorf("%s: nothing was saved", c.name)
		}
		must(t, Check(d, "clock"))
		m.Advance(time.Minute)
		if got := now(t, clk).Running; got != c.floor.Running+60 {
			t.Errorf("%s: goes on to %d s", c.name, got)
		}
	}
	if _, err := Open(crashdisk.New(), "clock", NewManual(start), Known{Newest: Stamp{Running: -1}}); err == nil {
		t.Error("a negative running time was taken")
	}
	if _, err := Open(crashdisk.New(), "clock", NewManual(start), Known{Newest: Stamp{Running: 1 << 62}}); err == nil {
		t.Error("a running time that overflows was taken")
	}
}

func TestStateOfANewerReleaseIsLeftAlone(t *testing.T) {
	d := crashdisk.New()
	must(t, durable.WriteNew(d, "clock", sign(`{"format":3,"running_ns":5,"more":true`), 0o600))
	before, err := durable.ReadFile(d, "clock", stateMax)
	must(t, err)
	_, err = Open(d, "clock", NewManual(start), Known{Newest: Stamp{}})
	for _, err := range []error{err, Check(d, "clock")} {
		if !errors.Is(err, ErrNewer) || errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "written by a newer release of holdfast") {
			t.Errorf("%v, want ErrNewer", err)
		}
	}
	if after, err := durable.ReadFile(d, "clock", stateMax); err != nil || string(after) != string(before) {
		t.Errorf("the file changed to %q, %v", after, err)
	}
}

func TestReadOnlyWritesNothing(t *testing.T) {
	d := crashdisk.New()
	m := NewManual(start)
	must(t, opened(t, d, m, Stamp{}).Save())
	ops := d.Ops()
	c, err := OpenReadOnly(d, "clock", m, Known{})
	must(t, err)
	m.Advance(time.Hour)
	if got := now(t, c).Running; got != 3600 {
		t.Errorf("credited %d s", got)
	}
	m.Reboot(time.Hour)
	now(t, c)
	if c.Save() == nil {
		t.Error("save went through")
	}
	if d.Ops() != ops {
		t.Errorf("%d operations by a reader", d.Ops()-ops)
	}
}

func TestSavesAtMostOnceAMinute(t *testing.T) {
	d := crashdisk.New()
	m := NewManual(start)
	c := opened(t, d, m, Stamp{})
	saves := func() int { return strings.Count(strings.Join(d.Log(), "\n"), "rename ") }
	if saves() != 1 {
		t.Fatalf("%d saves at open", saves())
	}
	for range 590 { // 59 s
		m.Advance(100 * time.Millisecond)
		now(t, c)
	}
	if saves() != 1 {
		t.Errorf("%d saves in the first minute", saves())
	}
	for range 600 {
		m.Advance(time.Second)
		now(t, c)
	}
	if n := saves(); n < 10 || n > 12 {
		t.Errorf("%d saves in eleven minutes", n)
	}
}

func TestFullDiskDoesNotStopLocking(t *testing.T) {
	d := crashdisk.New()
	m := NewManual(start)
	c := opened(t, d, m, Stamp{})
	d.FailAt(d.Ops()+1, crashdisk.NoSpace)
	m.Advance(time.Hour)
	if s := now(t, c); s.Running != 3600 {
		t.Errorf("credited %d s", s.Running)
	}
	if !durable.IsNoSpace(c.SaveError()) {
		t.Errorf("SaveError: %v", c.SaveError())
	}
	if err := c.Save(); !durable.IsNoSpace(err) {
		t.Errorf("Save: %v", err)
	}
	fresh, err := Open(d, "other", m, Known{Newest: Stamp{}})
	must(t, err)
	now(t, fresh)
	d.Refill()
	m.Advance(time.Minute)
	now(t, c)
	must(t, c.SaveError())
	if got := now(t, opened(t, d, m, Stamp{})).Running; got != 3660 {
		t.Errorf("reopened at %d s", got)
	}
}

func TestUnreadableClocksAreAnError(t *testing.T) {
	src := &failing{Manual: NewManual(start)}
	c := opened(t, crashdisk.New(), src, Stamp{})
	src.err = errors.New("no clocks today")
	if _, err := c.Now(); !errors.Is(err, src.err) {
		t.Errorf("Now: %v", err)
	}
	if err := c.Save(); !errors.Is(err, src.err) {
		t.Errorf("Save: %v", err)
	}
	if _, err := Open(crashdisk.New(), "clock", src, Known{Newest: Stamp{}}); !errors.Is(err, src.err) {
		t.Errorf("Open: %v", err)
	}
	for _, year := range []int{-5, 1969, 10000} {
		m := NewManual(time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC))
		if _, err := Open(crashdisk.New(), "clock", m, Known{Newest: Stamp{}}); err == nil {
			t.Errorf("the year %d was taken", year)
		}
	}
}

type failing struct {
	*Manual
	err error
}

func (f *failing) Read() (Reading, error) {
	if f.err != nil {
		return Reading{}, f.err
	}
	return f.Manual.Read()
}

func TestManyReadersOfOneClock(t *testing.T) {
	d := crashdisk.New()
	m := NewManual(start)
	c := opened(t, d, m, Stamp{})
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			last := Stamp{}
			for range 200 {
				m.Advance(time.Second)
				s, err := c.Now()
				if err != nil || s.Running < last.Running {
					t.Errorf("%v after %v, %v", s, last, err)
				}
				last = s
				c.Shifted()
				if err := c.SaveError(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if got := now(t, c).Running; got != 800 {
		t.Errorf("credited %d s, want 800", got)
	}
}

func TestLabelsAreStrictlyAscending(t *testing.T) {
	for _, c := range []struct {
		wall time.Time
		last string
		want string
	}{
		{start, "", "20261201T120000Z"},
		{start.Add(999 * time.Millisecond).In(time.FixedZone("", -7200)), "", "20261201T120000Z"},
		{start, "20261201T115959Z", "20261201T120000Z"},
		{start, "20261201T120000Z", "20261201T120001Z"},
		{start, "20261231T235959Z", "20270101T000000Z"},
		{time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), "", "99991231T235959Z"},
	} {
		got, err := Label(c.wall, c.last)
		if err != nil || got != c.want {
			t.Errorf("Label(%v, %q) = %q, %v; want %q", c.wall, c.last, got, err, c.want)
		}
		if got <= c.last {
			t.Errorf("%q does not sort after %q", got, c.last)
		}
		if back, err := ParseLabel(got); err != nil || back.Format(labelLayout) != got || back.Location() != time.UTC {
			t.Errorf("ParseLabel(%q) = %v, %v", got, back, err)
		}
	}
	for _, c := range []struct {
		wall time.Time
		last string
	}{{start, "yesterday"}, {start, "99991231T235959Z"}, {time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), ""}, {time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC), ""}} {
		if got, err := Label(c.wall, c.last); err == nil {
			t.Errorf("Label(%v, %q) = %q", c.wall, c.last, got)
		}
	}
	for _, s := range []string{"", "20261201T120000", "20261201T120000z", "20261301T120000Z", "20260230T120000Z", "20261201T240000Z", "20261201T120060Z", "20261201T120000.5Z", "20261201T120000,5Z", " 20261201T120000Z", "2026120 T120000Z", "20261201T120000Z\n", "+0261201T120000Z"} {
		if got, err := ParseLabel(s); err == nil {
			t.Errorf("ParseLabel(%q) = %v", s, got)
		}
	}
}

func FuzzParseLabel(f *testing.F) {
	for _, s := range []string{"20260701T030405Z", "00000101T000000Z", "20260701T030405.1Z", "99991231T235959Z"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		at, err := ParseLabel(s)
		if err != nil {
			return
		}
		if back, err := Label(at, ""); err != nil || back != s {
			t.Errorf("%q came back as %q, %v", s, back, err)
		}
	})
}

func TestEarliestIsNoLaterThanNow(t *testing.T) {
	e := Earliest()
	if e.Before(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)) || e.Location() != time.UTC {
		t.Errorf("Earliest() = %v", e)
	}
}

func TestKernelReadsItsClocks(t *testing.T) {
	a, err := Kernel().Read()
	must(t, err)
	b, err := Kernel().Read()
	must(t, err)
	if a.BootID != b.BootID || len(a.BootID) != 36 {
		t.Errorf("boot identities %q and %q", a.BootID, b.BootID)
	}
	if a.Raw <= 0 || a.Boot <= 0 || b.Raw < a.Raw || b.Boot < a.Boot {
		t.Errorf("clocks went from %+v to %+v", a, b)
	}
	if a.Boot < a.Raw-time.Hour {
		t.Errorf("BOOTTIME %v far behind MONOTONIC_RAW %v", a.Boot, a.Raw)
	}
}

func TestTimeNamespacesAreRefused(t *testing.T) {
	const none = "monotonic           0         0\nboottime            0         0\n"
	for _, c := range []struct {
		offsets, own, children string
		refused                bool
	}{
		{none, "time:[4026531834]", "time:[4026531834]", false},
		{"", "time:[4026531834]", "time:[4026531834]", false},
		{"(absent)", "", "", false}, // a kernel without time namespaces
		{"monotonic 0 0\nboottime 86400 0\n", "time:[1]", "time:[1]", true},
		{"monotonic -5 0\nboottime 0 0\n", "time:[1]", "time:[1]", true},
		{"monotonic 0 0\nboottime 0 1\n", "time:[1]", "time:[1]", true},
		{"monotonic 0 0\nboottime -1 999999\n", "time:[1]", "time:[1]", true},
		{"monotonic 0 0\nsomething new 0\n", "time:[1]", "time:[1]", true},
		{none, "time:[4026532999]", "time:[4026533000]", true}, // the offsets shown are the children's
		{none, "", "", true},
		{none, "time:[1]", "", true},
	} {
		dir := t.TempDir()
		must(t, os.MkdirAll(filepath.Join(dir, "sys/kernel/random"), 0o755))
		must(t, os.MkdirAll(filepath.Join(dir, "self/ns"), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "sys/kernel/random/boot_id"), []byte("boot\n"), 0o600))
		if c.offsets != "(absent)" {
			must(t, os.WriteFile(filepath.Join(dir, "self/timens_offsets"), []byte(c.offsets), 0o600))
		}
		for name, to := range map[string]string{"time": c.own, "time_for_children": c.children} {
			if to != "" {
				must(t, os.Symlink(to, filepath.Join(dir, "self/ns", name)))
			}
		}
		r, err := kernel{proc: dir}.Read()
		if (err != nil) != c.refused {
			t.Errorf("%+v: %v", c, err)
		}
		if err == nil && r.BootID != "boot" {
			t.Errorf("boot identity %q", r.BootID)
		}
	}
	if _, err := (kernel{proc: t.TempDir()}).Read(); err == nil {
		t.Error("read without a boot identity")
	}
}

// TestARealTimeNamespaceIsRefused runs this very test inside one that is a day ahead.
func TestARealTimeNamespaceIsRefused(t *testing.T) {
	const inside = "HOLDFAST_TEST_TIMENS"
	if os.Getenv(inside) != "" {
		if _, err := Kernel().Read(); !errors.Is(err, ErrTimeNamespace) {
			t.Errorf("%v, want ErrTimeNamespace", err)
		}
		return
	}
	if _, err := exec.LookPath("unshare"); err != nil || os.Geteuid() != 0 {
		if os.Getenv("HOLDFAST_REQUIRE_ALL") == "1" && os.Geteuid() == 0 {
			t.Fatal(err)
		}
		t.Skip("only root makes time namespaces, with unshare of util-linux")
	}
	c := exec.Command("unshare", "--time", "--boottime", "86400", os.Args[0], "-test.run", "^TestARealTimeNamespaceIsRefused$")
	c.Env = append(os.Environ(), inside+"=1")
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Found by random schedules: piece by piece the lesser of the two clocks is less than the lesser over the whole. A process
// that is killed has given out stamps by the former, and the next must not go on by the latter.
func TestKilledProcessDoesNotCatchUp(t *testing.T) {
	l := &liar{now: Reading{Wall: start, BootID: "boot"}}
	for _, killed := range []bool{true, false} {
		d := crashdisk.New()
		c := opened(t, d, l, Stamp{})
		l.now.Raw += 30 * time.Second // BOOTTIME stands still
		before := now(t, c)
		if !killed {
			must(t, c.Save())
		}
		l.now.Boot += 30 * time.Second // and catches up, while MONOTONIC_RAW stands still
		if after := now(t, opened(t, d, l, before)); after.Running != before.Running {
			t.Errorf("killed %v: %d s in no time", killed, after.Running-before.Running)
		}
	}
}

// The same with a disk that cannot take back what it says.
func TestStampAfterSaveOnAFullDiskIsNotOutlived(t *testing.T) {
	for _, fault := range crashdisk.Faults() {
		for k := int64(1); k <= 8; k++ {
			d := crashdisk.New()
			l := &liar{now: Reading{Wall: start, BootID: "boot"}}
			c := opened(t, d, l, Stamp{})
			must(t, c.Save())
			l.now.Raw += 30 * time.Second
			d.FailAt(d.Ops()+k, fault)
			before := now(t, c)
			l.now.Boot += 30 * time.Second
			found := d.Restart(crashdisk.KeepAll, 0) // the process dies, the machine goes on
			if after := now(t, opened(t, found, l, before)); after.Running != before.Running && !readOnlyDisk(fault) {
				t.Errorf("%v at %d: %d s in no time", fault, k, after.Running-before.Running)
			}
		}
	}
}

// readOnlyDisk tells whether after a fault nothing could be written at all, a ledger record with a stamp included.
func readOnlyDisk(f crashdisk.Fault) bool {
	return f == crashdisk.ReadOnly || f == crashdisk.Crash || f == crashdisk.CrashAfter || f == crashdisk.Torn
}
