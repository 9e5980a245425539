package durable_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/durable/durabletest"
)

// everywhere has every name below in and out lie in any place.
var everywhere = durable.SpanOptions{Sealed: "out", Growing: "in"}

func span(t testing.TB, o durable.SpanOptions, disks ...durable.GuardedDisk) *durable.Span {
	t.Helper()
	var places []durable.Place
	for i, d := range disks {
		p := durable.Place{Number: i + 1, Path: fmt.Sprintf("/disk%d", i+1), Disk: d}
		if d == nil {
			p.Away = errors.New("not mounted")
		}
		places = append(places, p)
	}
	s, err := durable.NewSpan(places, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// roomy is a disk that says how much room it has.
type roomy struct {
	durable.GuardedDisk
	free, total int64
}

func (r *roomy) Room() (free, total int64, err error) { return r.free, r.total, nil }
func (r *roomy) Free() (int64, error)                 { return r.free, nil }

func TestSpanKeepsTheContract(t *testing.T) {
	for _, o := range []durable.SpanOptions{everywhere, {Sealed: "out", Growing: "in", Suffix: ".pack"}} {
		t.Run(o.Sealed+o.Suffix, func(t *testing.T) {
			durabletest.Test(t, func(t *testing.T) durable.Disk { return span(t, o, crashdisk.New(), crashdisk.New(), crashdisk.New()) })
		})
	}
	durabletest.Test(t, func(t *testing.T) durable.Disk {
		return span(t, everywhere, openDir(t).(*durable.Dir), openDir(t).(*durable.Dir))
	})
}

func TestSpanKeepsTheContractOfGuards(t *testing.T) {
	durabletest.TestGuard(t, func(t *testing.T) durable.GuardedDisk {
		return span(t, durable.SpanOptions{Sealed: "out", Growing: "in", Suffix: ".pack"}, crashdisk.New(), crashdisk.New())
	})
	t.Run("real", func(t *testing.T) {
		durabletest.TestGuard(t, func(t *testing.T) durable.GuardedDisk {
			return span(t, durable.SpanOptions{Sealed: "out", Growing: "in", Suffix: ".pack"}, guardedDir(t), guardedDir(t))
		})
	})
}

// Each verb is cut at each of its operations on two disks under one power, with what it works on in the second place.
func TestNoFaultBreaksAPromiseInASecondPlace(t *testing.T) {
	for _, s := range scenarios() {
		if s.name == "ReplaceGuarded" { // it is for names in the root, which is in the first place
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			for _, fault := range crashdisk.Faults() {
				for k := int64(1); ; k++ {
					a, b := crashdisk.New(), crashdisk.New()
					crashdisk.Together(a, b)
					d := span(t, everywhere, a, b)
					if err := s.setup(d); err != nil {
						t.Fatal(err)
					}
					a.FailAt(a.Ops()+k, fault)
					err := s.run(d)
					if !a.Fired() {
						if err != nil {
							t.Fatalf("an undisturbed run fails: %v", err)
						}
						break
					}
					what := fmt.Sprintf("%v at operation %d", fault, k)
					for seed := range int64(4) {
						loss := []crashdisk.Loss{crashdisk.LoseUnsynced, crashdisk.KeepAll, crashdisk.Random}[min(seed, 2)]
						x, y := a.Restart(loss, seed), b.Restart(loss, seed+100)
						crashdisk.Together(x, y)
						after := span(t, everywhere, x, y)
						if herr := s.holds(after, err == nil); herr != nil {
							t.Fatalf("%s (returned %v), then %v %d: %v\n%s", what, err, loss, seed, herr, strings.Join(a.Log(), "\n"))
						}
						aerr := s.run(after)
						if aerr != nil && err != nil && !errors.Is(aerr, fs.ErrExist) && !errors.Is(aerr, fs.ErrNotExist) {
							t.Fatalf("%s, then %v %d: wedged, the next run fails with %v", what, loss, seed, aerr)
						}
						if herr := s.holds(span(t, everywhere, x.Restart(crashdisk.LoseUnsynced, 0), y.Restart(crashdisk.LoseUnsynced, 0)), aerr == nil); herr != nil {
							t.Fatalf("%s, then %v %d, run again: %v", what, loss, seed, herr)
						}
					}
				}
			}
		})
	}
}

func TestNewFilesGoWhereThereIsRoom(t *testing.T) {
	const giga = int64(1 << 30)
	for _, tt := range []struct {
		free [3]int64
		want int
	}{
		{[3]int64{500 * giga, 500 * giga, 500 * giga}, 3},
		{[3]int64{500 * giga, 500 * giga, 1}, 2},
		{[3]int64{500 * giga, 1, 1}, 1},
		{[3]int64{giga, 1, 2}, 3},               // the first keeps its room for the ledger
		{[3]int64{giga + 1, 1, 2}, 1},           // and has more
		{[3]int64{0, giga / 2, giga/2 - 1}, 2},  // none has enough: the one with most
		{[3]int64{0, giga/2 + 1, giga / 2}, 2},  // enough is enough
		{[3]int64{0, giga/2 + 1, giga * 40}, 3}, // newest first
		{[3]int64{giga, 0, 0}, 3},
	} {
		var disks []durable.GuardedDisk
		for _, free := range tt.free {
			disks = append(disks, &roomy{crashdisk.New(), free, 1000 * giga})
		}
		s := span(t, everywhere, disks...)
		must(t, durable.MkdirAll(s, "in", 0o700), plant(s, "in/x", "x"))
		for i, d := range disks {
			if has := content(d, "in/x") == "x"; has != (i+1 == tt.want) {
				t.Errorf("%v: in place %d: %v, want it in place %d", tt.free, i+1, has, tt.want)
			}
		}
		if sum, err := s.Free(); err != nil || sum != tt.free[0]+tt.free[1]+tt.free[2] {
			t.Errorf("free %d, %v", sum, err)
		}
	}
	// Where the first is alone it takes what there is.
	s := span(t, everywhere, &roomy{crashdisk.New(), 1, 1000 * giga})
	must(t, durable.MkdirAll(s, "in", 0o700), plant(s, "in/x", "x"))
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// A name in two places is told to everybody who asks for it, and neither file is touched.
func TestANameInTwoPlacesIsNeverTakenForOne(t *testing.T) {
	a, b := crashdisk.New(), crashdisk.New()
	s := span(t, everywhere, a, b)
	must(t, durable.MkdirAll(s, "out", 0o700), durable.MkdirAll(s, "in", 0o700), plant(s, "in/x", "x"), plant(s, "out/lone", "lone"))
	must(t, plant(a, "out/x", "one"), plant(b, "out/x", "other"))
	_, open := s.Open("out/x")
	_, stat := s.Stat("out/x")
	_, create := s.Create("out/x", 0o600)
	_, held := s.Hold("out/x")
	for what, err := range map[string]error{
		"open": open, "stat": stat, "create": create, "hold": held, "remove": s.Remove("out/x"), "link": s.Link("in/x", "out/x"),
		"rename": s.Rename("out/x", "out/y"), "flags": s.SetFlags("out/x", durable.Immutable, 0), "remove final": durable.RemoveFinal(s, "out", []string{"out/lone", "out/x"}),
	} {
		if !errors.Is(err, durable.ErrTwice) || !strings.Contains(err.Error(), "/disk1") || !strings.Contains(err.Error(), "/disk2") {
			t.Errorf("%s: %v", what, err)
		}
	}
	list, err := s.ReadDir("out")
	if err != nil || len(list) != 2 {
		t.Fatalf("%v, %v", list, err)
	}
	if _, err := list[1].Info(); !errors.Is(err, durable.ErrTwice) {
		t.Errorf("the listing tells of one: %v", err)
	}
	must(t, expect(a, "out/x", "one"), expect(b, "out/x", "other"), expect(s, "out/lone", "lone"))
	// Renaming would make one.
	must(t, plant(b, "in/y", "y"), plant(a, "in/z", "z"))
	if err := s.Rename("in/y", "in/z"); !errors.Is(err, durable.ErrTwice) {
		t.Error(err)
	}
}

// An empty file only keeps a number: beside one with content, in another place, it says nothing.
func TestAnEmptyGrowingFileGivesWay(t *testing.T) {
	a, b := crashdisk.New(), crashdisk.New()
	s := span(t, everywhere, a, b)
	must(t, durable.MkdirAll(s, "in", 0o700), plant(a, "in/x", ""), plant(b, "in/x", "content"))
	must(t, expect(s, "in/x", "content"))
	list, err := s.ReadDir("in")
	must(t, err)
	if info, err := list[0].Info(); err != nil || len(list) != 1 || info.Size() != 7 {
		t.Errorf("%v, %v", list, err)
	}
	must(t, s.Remove("in/x"), expect(a, "in/x", ""), expect(b, "in/x", absent), expect(s, "in/x", ""), s.Remove("in/x"), expect(s, "in/x", absent))
}

// What may lie in a place that is away is not missing, and nothing is changed as long as one is.
func TestAPlaceThatIsAwayIsNoMissingFile(t *testing.T) {
	a := crashdisk.New()
	must(t, durable.MkdirAll(a, "out", 0o700), durable.MkdirAll(a, "in", 0o700), plant(a, "out/x", "x"), plant(a, "other", "o"))
	if _, err := durable.NewSpan([]durable.Place{{Number: 1, Disk: a}, {Number: 2, Path: "/gone", Away: errors.New("not mounted")}}, everywhere); !errors.Is(err, durable.ErrAway) {
		t.Errorf("a place that is away does not keep anybody from writing: %v", err)
	}
	o := everywhere
	o.ReadOnly = true
	s := span(t, o, a, nil)
	must(t, expect(s, "out/x", "x"), expect(s, "other", "o"))
	_, open := s.Open("out/y")
	_, stat := s.Stat("out/y")
	_, create := s.Create("in/y", 0o600)
	for what, err := range map[string]error{
		"open": open, "stat": stat, "create": create, "remove": s.Remove("out/x"), "link": s.Link("out/x", "out/z"),
		"sync": s.SyncDir("out"), "flags": s.SetFlags("out", durable.AppendOnly, 0),
	} {
		if !errors.Is(err, durable.ErrAway) || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "/disk2") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := s.Stat("nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what lies in the first place alone is missing there: %v", err)
	}
	if list, err := s.ReadDir("out"); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
}

// broken is a disk that answers every look with an error, as one whose cable was pulled.
type broken struct{ durable.GuardedDisk }

func (broken) Stat(name string) (fs.FileInfo, error) {
	return nil, &fs.PathError{Op: "stat", Path: name, Err: syscall.EIO}
}
func (broken) ReadDir(name string) ([]fs.DirEntry, error) {
	return nil, &fs.PathError{Op: "readdir", Path: name, Err: syscall.EIO}
}
func (broken) SyncDir(name string) error {
	return &fs.PathError{Op: "syncdir", Path: name, Err: syscall.EIO}
}

// A place that breaks takes nothing from the other, and is named.
func TestAPlaceThatBreaksHarmsNoOther(t *testing.T) {
	a, b := crashdisk.New(), crashdisk.New()
	whole := span(t, everywhere, a, b)
	must(t, durable.MkdirAll(whole, "out", 0o700), durable.MkdirAll(whole, "in", 0o700), plant(a, "out/x", "x"), plant(b, "out/y", "y"))
	o := everywhere
	o.ReadOnly = true
	for _, o := range []durable.SpanOptions{everywhere, o} {
		s := span(t, o, a, broken{b})
		must(t, expect(s, "out/x", "x"))
		_, open := s.Open("out/y")
		_, create := s.Create("in/z", 0o600)
		for what, err := range map[string]error{"open": open, "create": create, "remove": s.Remove("out/x"), "remove final": durable.RemoveFinal(s, "out", []string{"out/x"})} {
			if !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "/disk2") {
				t.Errorf("%s: %v", what, err)
			}
		}
		list, err := s.ReadDir("out")
		if o.ReadOnly && (err != nil || len(list) != 1) || !o.ReadOnly && !errors.Is(err, syscall.EIO) {
			t.Errorf("%v: %v", list, err)
		}
		must(t, expect(a, "out/x", "x"))
	}
}

// A further place in which nothing changed is not asked to sync again, and one in which something did is, until it has.
func TestOnlyWhatChangedIsSynced(t *testing.T) {
	a, b := crashdisk.New(), crashdisk.New()
	crashdisk.Together(a, b)
	s := span(t, everywhere, a, b)
	must(t, durable.MkdirAll(s, "in", 0o700), durable.MkdirAll(s, "out", 0o700), s.SyncDir("in"), s.SyncDir("out"))
	syncs := func(do func() error) (out []string) {
		before := len(a.Log())
		_ = do()
		for _, line := range a.Log()[before:] {
			if strings.Contains(line, "syncdir") {
				out = append(out, line)
			}
		}
		return out
	}
	if got := syncs(func() error { return s.SyncDir("out") }); !slices.Equal(got, []string{"syncdir out"}) {
		t.Errorf("%q", got)
	}
	must(t, plant(s, "in/x", "x"), s.Link("in/x", "out/x"))
	a.FailAt(a.Ops()+2, crashdisk.SyncFail)
	for _, want := range [][]string{{"syncdir out", "#2 syncdir out !sync fails"}, {"syncdir out", "#2 syncdir out"}, {"syncdir out"}} {
		if got := syncs(func() error { return s.SyncDir("out") }); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
	must(t, s.SetFlags("out", durable.AppendOnly, 0))
	if got := syncs(func() error { return s.SyncDir("out") }); !slices.Equal(got, []string{"syncdir out", "#2 syncdir out"}) {
		t.Errorf("%q", got)
	}
	if err := durable.RemoveFinal(s, "out", []string{"out/x"}); err != nil {
		t.Error(err)
	}
	for _, line := range a.Log() {
		if line == "flags out -a" {
			t.Error("a directory lost its flag for a removal in another place")
		}
	}
}

// A number behind @ asks for a place, so that each can be tried on its own.
func TestANameCanAskForAPlace(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	a, err := durable.OpenDir(one)
	must(t, err)
	b, err := durable.OpenDir(two)
	must(t, err)
	s := span(t, durable.SpanOptions{Sealed: "out", Growing: "in", Suffix: ".pack"}, a, b)
	defer s.Close()
	must(t, durable.MkdirAll(s, "in", 0o700))
	for name, in := range map[string]string{"probe-1": one, "probe-1@2": two, "probe-1@2.growing": two, "probe-1@7": one, "probe@2x": one, "@": one, "x.pack": two, "x.pack.tmp": two, "x.manifest": one} {
		must(t, plant(s, "in/"+name, name))
		if _, err := os.Stat(filepath.Join(in, "in", name)); err != nil {
			t.Error(err)
		}
	}
}

// meanwhile is a disk on which something happens in the midst of a link.
type meanwhile struct {
	durable.GuardedDisk
	do func()
}

func (m *meanwhile) Link(oldname, newname string) error {
	m.do() // before the name is there
	return m.GuardedDisk.Link(oldname, newname)
}

// Two packs are sealed at the same time: the sync of one runs while the link of the other is made, and is not taken for that
// one's sync. A record would name a pack that a power cut takes away.
func TestASyncBesideALinkIsNotTakenForItsOwn(t *testing.T) {
	second := crashdisk.New()
	m := &meanwhile{GuardedDisk: second}
	s := span(t, everywhere, &roomy{GuardedDisk: crashdisk.New()}, &roomy{m, 1 << 40, 1 << 40})
	for _, dir := range []string{"in", "out"} {
		if err := durable.MkdirAll(s, dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	m.do = func() {
		if err := s.SyncDir("out"); err != nil {
			t.Error(err)
		}
	}
	if err := durable.WriteNewAt(s, "in/a.tmp", "out/a", []byte("sealed"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Restart(crashdisk.LoseUnsynced, 0).Stat("out/a"); err != nil {
		t.Errorf("what was published is gone after a power cut: %v", err)
	}
}

// Two places on one file system have its room once: what a source may store is a share of that.
func TestRoomOfOneFileSystemCountsOnce(t *testing.T) {
	one, two := openDir(t).(*durable.Dir), openDir(t).(*durable.Dir)
	s := span(t, everywhere, one, two)
	alone, err := one.Free()
	if err != nil {
		t.Fatal(err)
	}
	if both, err := s.Free(); err != nil || both > alone+alone/2 {
		t.Errorf("%d bytes are free in one, and %d in both: %v", alone, both, err)
	}
}
