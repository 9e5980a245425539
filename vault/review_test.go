package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/vault/keys"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// TestTransientFailureWedgesOpenVault fails each operation of a pull once, makes room again, and pulls again without
// closing the vault, as a daemon does. The second pull succeeds and nothing unsealed stays behind; then the power is cut
// (each time with HOLDFAST_SWEEP=full).
func TestTransientFailureWedgesOpenVault(t *testing.T) {
	w := newCrashWorld(t)
	full, points := os.Getenv("HOLDFAST_SWEEP") == "full", 0
	step := int64(1)
	if raceEnabled && !full {
		step = 4
	}
	for i, fault := range []crashdisk.Fault{crashdisk.NoSpace, crashdisk.ShortWrite, crashdisk.IOError, crashdisk.SyncFail} {
		for op := 1 + int64(i)%step; ; op += step {
			d, x := w.disk.Clone(), w.index.clone()
			v, err := w.open(t.Context(), d, x)
			if err != nil {
				t.Fatal(err)
			}
			d.FailAt(d.Ops()+op, fault)
			snap, err := tryPull(t.Context(), v, "web1", w.second)
			fired := d.Fired()
			d.Refill()
			if err != nil {
				w.clock.Advance(time.Minute)
				snap, err = tryPull(t.Context(), v, "web1", w.second)
			}
			if err == nil {
				err = w.snapshotHolds(t.Context(), v, snap, w.second)
			}
			if left := unsealedFiles(d); err == nil && len(left) > 0 {
				err = fmt.Errorf("%v stay until a restart", left)
			}
			if err != nil {
				t.Fatalf("operation %d, fault %v, then a pull with the vault still open: %v\n%s", op, fault, err, strings.Join(d.Log(), "\n"))
			}
			rep, err := v.Check(t.Context(), CheckOptions{ReadData: true})
			if err != nil {
				t.Fatal(err)
			}
			for _, damage := range rep.Damage {
				if damage.What != "keeper/clock" { // a clock that cannot be saved gives its file up, and locks last longer
					t.Errorf("operation %d, fault %v: check beside the vault: %v", op, fault, damage)
				}
			}
			if err := v.Close(); err != nil && fired && fault == crashdisk.NoSpace {
				t.Fatalf("operation %d, fault %v: close: %v", op, fault, err)
			}
			if !fired {
				break
			}
			points++
			if !full && points%3 != 0 {
				continue
			}
			loss := []crashdisk.Loss{crashdisk.LoseUnsynced, crashdisk.KeepAll, crashdisk.Random}[points/3%3]
			if err := w.mustHold(d.Restart(loss, op), x, &snap); err != nil {
				t.Fatalf("operation %d, fault %v, then a pull with the vault still open, then a cut (%v): %v\n%s", op, fault, loss, err, strings.Join(d.Log(), "\n"))
			}
		}
	}
	t.Logf("%d failures survived", points)
	if points < 100/int(step) {
		t.Errorf("only %d points: the run has become too small to prove anything", points)
	}
}

// unsealedFiles lists the unsealed packs. An empty file only keeps a number.
func unsealedFiles(d *crashdisk.Disk) []string {
	return slices.DeleteFunc(d.Files(), func(name string) bool {
		info, err := d.Stat(name)
		return !strings.HasPrefix(name, "incoming/") || !strings.HasSuffix(name, ".pack") || err == nil && info.Size() == 0
	})
}

// TestFailedPullsLeaveGoroutinesBehind fails many pulls; what they started has ended when they return.
func TestFailedPullsLeaveGoroutinesBehind(t *testing.T) {
	w := newCrashWorld(t)
	before := runtime.NumGoroutine()
	for op := int64(1); op < 60; op++ {
		d := w.disk.Clone()
		v, err := w.open(t.Context(), d, w.index.clone())
		if err != nil {
			t.Fatal(err)
		}
		d.FailAt(d.Ops()+op, crashdisk.NoSpace)
		_, _ = tryPull(t.Context(), v, "web1", w.second)
		_ = v.Close()
	}
	for range 1_000_000 { // those that are at their very end need a moment
		if runtime.NumGoroutine() <= before {
			break
		}
		runtime.Gosched()
	}
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines before, %d after", before, after)
	}
}

// TestFullDiskKeepsVaultShut: what is left of a cut pull cannot be salvaged for lack of room, and yet the vault must open,
// for reading and for making room.
func TestFullDiskKeepsVaultShut(t *testing.T) {
	w := newCrashWorld(t)
	d := w.disk.Clone()
	x := w.index.clone()
	v, err := w.open(t.Context(), d, x)
	if err != nil {
		t.Fatal(err)
	}
	s, err := v.Begin(t.Context(), SessionOptions{Source: "web1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := record(t.Context(), s, w.second); err != nil {
		t.Fatal(err)
	}
	s.p.mu.Lock()
	err = s.p.dispatch(laneText)
	s.p.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	// The process is killed here: nothing of it is closed.
	_ = s.p.close(false)
	d = d.Restart(crashdisk.KeepAll, 1)
	if len(unsealedFiles(d)) == 0 {
		t.Fatal("nothing to salvage")
	}
	probe, err := w.open(t.Context(), d.Clone(), x.clone())
	if err != nil {
		t.Fatal(err)
	}
	_ = probe.Close()
	creates := slices.IndexFunc(opsOf(t, w, d.Clone(), x.clone()), func(line string) bool { return strings.Contains(line, "create incoming/") })
	if creates < 0 {
		t.Fatal("salvage made no pack")
	}
	d.FailAt(int64(creates)+1, crashdisk.NoSpace)
	v, err = w.open(t.Context(), d, x)
	if err != nil {
		t.Fatalf("a full disk keeps the vault shut: %v", err)
	}
	defer v.Close()
	if !d.Fired() {
		t.Fatal("the disk never ran full")
	}
	mustGiveBack(t, v, w.first.ID, w.firstTree)
	d.Refill()
	snap, err := tryPull(t.Context(), v, "web1", w.second)
	if err != nil {
		t.Fatal(err)
	}
	mustGiveBack(t, v, snap.ID, w.second)
	if left := unsealedFiles(d); len(left) > 0 {
		t.Errorf("%v stay", left)
	}
}

func opsOf(t *testing.T, w *crashWorld, d *crashdisk.Disk, x *memIndex) []string {
	before := len(d.Log())
	v, err := w.open(t.Context(), d, x)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	return d.Log()[before:]
}

// TestCheckCallsHealthyVaultDamaged commits and prunes while a check is on its way.
func TestCheckCallsHealthyVaultDamaged(t *testing.T) {
	w := newWorld(t)
	v := w.open(Options{Workers: 1})
	defer v.Close()
	pull(t, v, "web1", randomTree(1, 30))
	w.clock.Advance(31 * 24 * time.Hour)
	pull(t, v, "web1", randomTree(2, 30))
	meanwhile := sync.OnceFunc(func() {
		pull(t, v, "db1", randomTree(3, 30))
		if rep, err := w.prune(v); err != nil || len(rep.Snapshots) != 1 || len(rep.Packs) == 0 {
			t.Errorf("prune: %+v, %v", rep, err)
		}
	})
	rep, err := v.Check(t.Context(), CheckOptions{ReadData: true, Progress: func(int, int) { meanwhile() }})
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Damage) > 0 || rep.TouchedCount > 0 || rep.IndexRebuilt != "" {
		t.Errorf("damage %v, %d files touched, index rebuilt: %q", rep.Damage, rep.TouchedCount, rep.IndexRebuilt)
	}
}

// TestCheckNamesFilesThatComeBackWhole damages a pack, lets a pull store its chunks again, and asks which files are touched.
func TestCheckNamesFilesThatComeBackWhole(t *testing.T) {
	w := newWorld(t)
	v := w.open(Options{})
	defer v.Close()
	src := randomTree(1, 30)
	first := pull(t, v, "web1", src)
	name := w.spoilable("00000001.pack")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, 0o600); err != nil {
		t.Fatal(err)
	}
	b[5000] ^= 1
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	rep, err := v.Check(t.Context(), CheckOptions{ReadData: true})
	if err != nil || len(rep.Damage) == 0 || rep.TouchedCount == 0 {
		t.Fatalf("%+v, %v", rep, err)
	}
	w.clock.Advance(time.Hour)
	second := pull(t, v, "web1", src)
	rep, err = v.Check(t.Context(), CheckOptions{ReadData: true})
	if err != nil || len(rep.Damage) == 0 {
		t.Fatalf("%+v, %v", rep, err)
	}
	mustGiveBack(t, v, second.ID, src)
	mustGiveBack(t, v, first.ID, src)
	if rep.TouchedCount != 0 {
		t.Errorf("%d files are called lost and come back whole: %v", rep.TouchedCount, rep.Touched)
	}
}

// TestNewSnapshotReliesOnDamagedFooter: check has found that nothing in a pack can be found again, and a pull follows.
func TestNewSnapshotReliesOnDamagedFooter(t *testing.T) {
	w := newWorld(t)
	v := w.open(Options{NoParity: true})
	defer v.Close()
	src := randomTree(1, 30)
	pull(t, v, "web1", src)
	name := w.spoilable("00000001.pack")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, 0o600); err != nil {
		t.Fatal(err)
	}
	b[len(b)-300] ^= 1
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if rep, err := v.Check(t.Context(), CheckOptions{}); err != nil || len(rep.Damage) == 0 {
		t.Fatalf("%+v, %v", rep, err)
	}
	w.clock.Advance(time.Hour)
	mustGiveBack(t, v, pull(t, v, "web1", src).ID, src)
}

// TestCheckCallsReadOnlyMediumDamaged checks a healthy vault on a file system that cannot be written.
func TestCheckCallsReadOnlyMediumDamaged(t *testing.T) {
	w := newCrashWorld(t)
	d := w.disk.Clone()
	d.FailAt(d.Ops()+1, crashdisk.ReadOnly)
	_ = d.SyncDir("packs") // finds the medium in trouble; from here on it is read-only
	o := Options{Identities: []*keys.Identity{w.ident}, Clock: w.clock, disk: d, index: w.index.clone()}
	rep, err := CheckDir(t.Context(), "", o, CheckOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Damage) > 0 {
		t.Errorf("damage: %v", rep.Damage)
	}
}

// TestSlowFirstPullLosesItsResumePoint interrupts a pull every ten days, for a month.
func TestSlowFirstPullLosesItsResumePoint(t *testing.T) {
	w := newWorld(t)
	v := w.open(Options{})
	defer v.Close()
	src := randomTree(1, 40)
	for i := range 4 {
		s, err := v.Begin(t.Context(), SessionOptions{Source: "web1"})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.ResumedFiles(); got != 10*i {
			t.Errorf("day %d: %d files are known, %d were read", 10*i, got, 10*i)
		}
		part := tree{}
		for _, p := range slices.Sorted(maps.Keys(src))[:10*(i+1)] {
			part[p] = append([]byte{'x'}, src[p]...)
		}
		if err := record(t.Context(), s, part); err != nil {
			t.Fatal(err)
		}
		if err := s.Suspend(); err != nil {
			t.Fatal(err)
		}
		w.clock.Advance(10 * 24 * time.Hour)
	}
}

// TestRacyPartIsContinuedByLaterRun: the part of a file that was read while the file could change unseen must not become
// the beginning of what a later run reads.
func TestRacyPartIsContinuedByLaterRun(t *testing.T) {
	content := randomTree(7, 1)["d00/f0000"]
	content = append(bytes.Repeat([]byte("holdfast"), 1<<17), content...)
	for name, change := range map[string]struct {
		e       func(*snapshot.Entry)
		restart bool
		want    bool
	}{
		"settled":   {e: func(*snapshot.Entry) {}, want: true},
		"racy":      {e: func(e *snapshot.Entry) { e.Flags |= snapshot.Racy }},
		"no mtime":  {e: func(e *snapshot.Entry) { e.MTime = 0 }},
		"restarted": {e: func(*snapshot.Entry) {}, restart: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			v := w.open(Options{})
			defer v.Close()
			e := snapshot.Entry{Name: "f", Kind: snapshot.File, Mode: 0o644, MTime: 1_700_000_000, Size: 8 << 20}
			change.e(&e)
			s, err := v.Begin(t.Context(), SessionOptions{Source: "web1"})
			if err != nil {
				t.Fatal(err)
			}
			f, err := s.File(t.Context(), &e)
			if err != nil {
				t.Fatal(err)
			}
			if change.restart {
				f.Restart()
			}
			for range 6 {
				if _, err := f.Write(content[:1<<20]); err != nil {
					t.Fatal(err)
				}
			}
			f.Abort()
			if err := s.Suspend(); err != nil {
				t.Fatal(err)
			}
			if s, err = v.Begin(t.Context(), SessionOptions{Source: "web1"}); err != nil {
				t.Fatal(err)
			}
			defer s.Abandon()
			e.Flags = 0 // an hour later it is settled
			if f, err = s.File(t.Context(), &e); err != nil {
				t.Fatal(err)
			}
			defer f.Abort()
			if (f.Offset() > 0) != change.want {
				t.Errorf("the later run goes on at byte %d", f.Offset())
			}
		})
	}
}

// TestLostPackOfInterruptedRunStopsEveryCommit takes a pack away from an interrupted session.
func TestLostPackOfInterruptedRunStopsEveryCommit(t *testing.T) {
	w := newWorld(t)
	v := w.open(Options{})
	s, err := v.Begin(t.Context(), SessionOptions{Source: "web1"})
	if err != nil {
		t.Fatal(err)
	}
	src := randomTree(1, 20)
	if err := errors.Join(record(t.Context(), s, src), s.Suspend(), v.Close()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(w.spoilable("00000001.pack")); err != nil {
		t.Fatal(err)
	}
	v = w.open(Options{})
	defer v.Close()
	snap := pull(t, v, "web1", src)
	mustGiveBack(t, v, snap.ID, src)
}

// TestCancelledRebuildLeavesNoIndex cancels a rebuild and pulls.
func TestCancelledRebuildLeavesNoIndex(t *testing.T) {
	w := newWorld(t)
	v := w.open(Options{})
	defer v.Close()
	src := randomTree(1, 20)
	pull(t, v, "web1", src)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.rebuildIndex(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("rebuild: %v", err)
	}
	w.clock.Advance(time.Hour)
	if snap := pull(t, v, "db1", src); snap.Head.NewBytes > 64<<10 {
		t.Errorf("%d bytes were stored again", snap.Head.NewBytes)
	}
}

// TestIndexThatCouldNotBeOpenedStaysShut: the index was in nobody's reach when the daemon began, and is again.
func TestIndexThatCouldNotBeOpenedStaysShut(t *testing.T) {
	w := newWorld(t)
	v := w.open(Options{})
	src := randomTree(1, 20)
	pull(t, v, "web1", src)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	blocked := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	v = w.open(Options{IndexDir: filepath.Join(blocked, "index")})
	defer v.Close()
	if _, err := v.Begin(t.Context(), SessionOptions{Source: "web1"}); err == nil {
		t.Fatal("a session without an index")
	}
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	w.clock.Advance(time.Hour)
	if snap := pull(t, v, "db1", src); snap.Head.NewBytes > 64<<10 {
		t.Errorf("%d bytes were stored again", snap.Head.NewBytes)
	}
}

// TestRemovedPacksKeepTheirRoom reads a snapshot, prunes it, and looks whether its packs are still open.
func TestRemovedPacksKeepTheirRoom(t *testing.T) {
	if _, err := os.Readlink("/proc/self/fd/0"); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	v := w.open(Options{})
	defer v.Close()
	src := randomTree(1, 20)
	first := pull(t, v, "web1", src)
	mustGiveBack(t, v, first.ID, src)
	w.clock.Advance(31 * 24 * time.Hour)
	pull(t, v, "web1", randomTree(2, 5))
	if rep, err := w.prune(v); err != nil || len(rep.Packs) == 0 {
		t.Fatalf("prune: %+v, %v", rep, err)
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		to, _ := os.Readlink("/proc/self/fd/" + fd.Name())
		if strings.HasPrefix(to, w.dir) && strings.HasSuffix(to, "(deleted)") {
			t.Errorf("%s is still open", to)
		}
	}
}

// TestCutResumeLosesTheJournal: an earlier attempt to resume was cut and left its working files.
func TestCutResumeLosesTheJournal(t *testing.T) {
	w := newWorld(t)
	v := w.open(Options{})
	defer v.Close()
	s, err := v.Begin(t.Context(), SessionOptions{Source: "web1"})
	if err != nil {
		t.Fatal(err)
	}
	const files = 100_000
	long := strings.Repeat("n", 190)
	for i := range files {
		e := snapshot.Entry{Name: fmt.Sprintf("%s%06d", long, i), Kind: snapshot.File, MTime: 1, Mode: 0o644}
		s.journal.entry(0, &e)
	}
	if err := s.Suspend(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.work, s.dir, "resume-run-000001"), []byte("cut"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err = v.Begin(t.Context(), SessionOptions{Source: "web1"}); err != nil {
		t.Fatal(err)
	}
	defer s.Abandon()
	if s.ResumedFiles() != files {
		t.Errorf("%d of %d finished files are known", s.ResumedFiles(), files)
	}
}

// TestFloodOfProblemsStopsCommit: a source shows more trouble, under longer names, than a manifest or the memory holds.
func TestFloodOfProblemsStopsCommit(t *testing.T) {
	w := newWorld(t)
	v := w.open(Options{})
	defer v.Close()
	s, err := v.Begin(t.Context(), SessionOptions{Source: "web1"})
	if err != nil {
		t.Fatal(err)
	}
	src := randomTree(1, 3)
	if err := record(t.Context(), s, src); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("\x01", 4090)
	const flood = 10_000
	for i := range flood {
		s.Problem(fmt.Sprintf("%s%05d", long, i), "denied", long)
	}
	if s.problemBytes > problemBytesMax {
		t.Errorf("%d bytes of problems are held", s.problemBytes)
	}
	snap, err := s.Commit(t.Context(), CommitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mustGiveBack(t, v, snap.ID, src)
	mustCheck(t, v)
	back, err := v.OpenSnapshot(t.Context(), snap.ID)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for p, err := range back.Problems(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Path) != len(long)+5 {
			t.Fatalf("a path of %d bytes", len(p.Path))
		}
		n++
	}
	if n < 1000 || back.Body().ProblemCount != flood {
		t.Errorf("%d problems come back, of %d", n, back.Body().ProblemCount)
	}
}

// TestManyAtOnceDisturbEachOther runs pulls of several sources, restores, checks, prunes and rebuilds of the index at once.
func TestManyAtOnceDisturbEachOther(t *testing.T) {
	w := newWorld(t)
	v := w.open(Options{Logf: func(string, ...any) {}})
	defer v.Close()
	shared := randomTree(1, 12)
	pull(t, v, "web1", shared)
	ctx, stop := context.WithCancel(t.Context())
	var pulls, others sync.WaitGroup
	// The clock goes on with the pulls, past the day between prune's marks: a commit under which a day goes by is refused.
	var hours atomic.Int64
	hours.Store(6)
	for i := range 3 {
		pulls.Go(func() {
			for round := range 4 {
				src := randomTree(uint64(10*i+round), 6)
				for p, b := range shared {
					src["shared-"+p] = b
				}
				snap, err := tryPull(ctx, v, fmt.Sprintf("source%d", i), src)
				if err != nil {
					t.Errorf("source%d, round %d: %v", i, round, err)
					return
				}
				got, err := giveBack(ctx, v, snap.ID)
				if err != nil || len(got) != len(src) {
					t.Errorf("source%d, round %d: %d of %d files, %v", i, round, len(got), len(src), err)
				}
				hours.Add(2)
			}
		})
	}
	beside := func(name string, f func() error) {
		others.Go(func() {
			for ctx.Err() == nil {
				if hours.Add(-1) >= 0 {
					w.clock.Advance(time.Hour)
				} else {
					hours.Add(1)
				}
				if err := f(); err != nil && ctx.Err() == nil {
					t.Errorf("%s: %v", name, err)
					return
				}
			}
		})
	}
	beside("prune", func() error { _, err := v.Prune(ctx, false); return err })
	beside("rebuild", func() error { _, err := v.RebuildIndex(ctx); return err })
	beside("check", func() error {
		rep, err := v.Check(ctx, CheckOptions{ReadData: true})
		if err != nil || ctx.Err() != nil {
			return err
		}
		if len(rep.Damage) > 0 || rep.TouchedCount > 0 || rep.IndexRebuilt != "" {
			return fmt.Errorf("damage %v, touched %v, index %q", rep.Damage, rep.Touched, rep.IndexRebuilt)
		}
		return nil
	})
	pulls.Wait()
	stop()
	others.Wait()
	mustCheck(t, v)
}
