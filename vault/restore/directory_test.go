package restore_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/holdfast-vault/holdfast/vault/restore"
	"github.com/holdfast-vault/holdfast/vault/restore/restoretest"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDirectoryIsWhatTheSnapshotSays(t *testing.T) {
	src := tree()
	for _, workers := range []int{1, 4} {
		for _, path := range []string{"", "etc", "odd"} {
			dir := filepath.Join(t.TempDir(), "new", "target")
			report := mustRestore(t, src, path, dir, restore.Options{Workers: workers, NoSync: path != "etc"})
			same(t, fmt.Sprintf("%q", path), listing(t, dir), expected(t, src, path))
			if report.FailureCount != 0 || report.Files == 0 || report.Bytes == 0 {
				t.Errorf("report: %+v", report)
			}
		}
	}
}

func TestRunsOfZerosBecomeHoles(t *testing.T) {
	src := tree()
	dir := t.TempDir()
	report := mustRestore(t, src, "", dir, quick)
	if report.HoleBytes < 4<<20-2*4096 {
		t.Errorf("left out %d bytes of more than 4 MiB of zeros", report.HoleBytes)
	}
	if n := blocks(t, filepath.Join(dir, "sparse")); n > 64<<10 {
		t.Errorf("the sparse file takes %d bytes of disk", n)
	}
	if n := blocks(t, filepath.Join(dir, "large")); n < 17<<20 {
		if os.Getenv("HOLDFAST_REQUIRE_ALL") == "1" {
			t.Fatalf("this file system tells %d bytes for a full file: TMPDIR must not compress", n)
		}
		t.Skipf("this file system tells %d bytes for a full file", n)
	}
}

func TestSingleFileComesUnderItsOwnName(t *testing.T) {
	dir := t.TempDir()
	mustRestore(t, tree(), "etc/hosts", dir, quick)
	b, err := os.ReadFile(filepath.Join(dir, "hosts"))
	if err != nil || string(b) != "127.0.0.1 localhost\n" {
		t.Fatalf("%q %v", b, err)
	}
}

func TestMissingPathMakesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "target")
	_, err := restore.ToDirectory(t.Context(), tree(), "etc/nothing", dir, quick)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the target was made: %v", err)
	}
}

func TestExistingTargetIsNotOverwrittenUnasked(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "mine"), []byte("mine"), 0o600)
	before := listing(t, dir)
	if _, err := restore.ToDirectory(t.Context(), tree(), "", dir, quick); !errors.Is(err, restore.ErrNotEmpty) {
		t.Errorf("got %v", err)
	}
	if after := listing(t, dir); after != before {
		t.Errorf("changed: %s", after)
	}
	file := filepath.Join(dir, "mine")
	if _, err := restore.ToDirectory(t.Context(), tree(), "", file, quick); err == nil {
		t.Error("restored into a file")
	}
}

func TestOverwriteReplacesFilesAndKeepsTheRest(t *testing.T) {
	dir := t.TempDir()
	os.MkdirAll(filepath.Join(dir, "etc"), 0o755)
	os.WriteFile(filepath.Join(dir, "etc/hosts"), []byte("old, and longer than what comes"), 0o600)
	os.WriteFile(filepath.Join(dir, "etc/other"), []byte("stays"), 0o600)
	os.WriteFile(filepath.Join(dir, "dangling"), []byte("a file where a link comes"), 0o600)
	src := tree()
	mustRestore(t, src, "", dir, restore.Options{Overwrite: true, NoSync: true})
	if b, _ := os.ReadFile(filepath.Join(dir, "etc/other")); string(b) != "stays" {
		t.Errorf("etc/other: %q", b)
	}
	os.Remove(filepath.Join(dir, "etc/other"))
	os.Chtimes(filepath.Join(dir, "etc"), unixTime(1_234_567_890), unixTime(1_234_567_890))
	same(t, "overwritten", listing(t, dir), expected(t, src, ""))
}

// A link that was in the target before, or that the catalog itself puts there, must not carry anything elsewhere, inside
// the target or out of it.
func TestLinksInTheTargetAreNotFollowed(t *testing.T) {
	outside, check := untouched(t)
	for _, target := range []string{outside, "real", "../" + filepath.Base(outside)} {
		src := restoretest.New()
		src.Dir("real", 0o755)
		src.Dir("trap", 0o755)
		src.File("trap/precious", 0o644, []byte("overwritten"), 100)
		src.File("trap/new", 0o644, []byte("new"), 100)
		dir := t.TempDir()
		os.Mkdir(filepath.Join(dir, "real"), 0o755)
		if err := os.Symlink(target, filepath.Join(dir, "trap")); err != nil {
			t.Fatal(err)
		}
		r, err := restore.ToDirectory(t.Context(), src, "", dir, restore.Options{Overwrite: true, NoSync: true})
		if err == nil || r.FailureCount != 3 {
			t.Errorf("%q: %d failures, %v", target, r.FailureCount, err)
		}
		if names, _ := os.ReadDir(filepath.Join(dir, "real")); len(names) != 0 {
			t.Errorf("%q: written through the link: %v", target, names)
		}
		check()
	}
}

func TestCatalogLinkCannotRedirectItsOwnChildren(t *testing.T) {
	outside, check := untouched(t)
	src := restoretest.New()
	src.Symlink("a", outside)
	src.File("a/precious", 0o644, []byte("overwritten"), 100)
	src.File("b", 0o644, []byte("b"), 1)
	dir := t.TempDir()
	r, err := restore.ToDirectory(t.Context(), src, "", dir, quick)
	if err == nil || r.FailureCount != 1 || r.Files != 1 {
		t.Errorf("%+v %v", r, err)
	}
	check()
}

func TestHostileNamesAreNamedAndLeftOut(t *testing.T) {
	outside, check := untouched(t)
	base := filepath.Base(outside)
	for _, e := range []snapshot.Entry{
		{Name: ".."},
		{Name: "."},
		{Parent: "ok", Name: ""},
		{Parent: "..", Name: base},
		{Parent: "ok/../..", Name: base},
		{Parent: "ok", Name: "../../" + base},
		{Parent: "ok", Name: "a/b"},
		{Parent: "", Name: "/etc"},
		{Parent: "/", Name: "etc"},
		{Parent: "ok", Name: "nul\x00byte"},
		{Parent: "ok/", Name: "x"},
		{Parent: "ok//deep", Name: "x"},
		{Parent: "", Name: strings.Repeat("n", 300)},
	} {
		for _, kind := range []snapshot.Kind{snapshot.File, snapshot.Directory, snapshot.Symlink, snapshot.Fifo} {
			src := restoretest.New()
			src.Dir("ok", 0o755)
			src.File("ok/file", 0o644, []byte("fine"), 4)
			e.Kind, e.Mode, e.Target, e.MTime = kind, 0o777, "t", restoretest.MTime
			bad := src.Add(e)
			dir := t.TempDir()
			r, err := restore.ToDirectory(t.Context(), src, "", dir, quick)
			if err == nil || r.FailureCount != 1 || r.Failures[0].Path != bad.Path() {
				t.Errorf("%q in %q, %v: %+v %v", e.Name, e.Parent, kind, r.Failures, err)
			}
			if r.Files != 1 {
				t.Errorf("%q in %q: the honest file was not restored", e.Name, e.Parent)
			}
			noLeftovers(t, dir)
			check()
		}
	}
}

func TestSetIDBitsComeOnlyWithTheOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to give files away")
	}
	src := restoretest.New()
	f := src.File("su", 0o4755, []byte("#!"), 2)
	f.UID, f.GID = 12345, 12346
	d := src.Dir("shared", 0o2775)
	d.UID, d.GID = 0, 12346
	odd := src.File("nobody", 0o6755, []byte("#!"), 2)
	odd.UID, odd.GID = 0xffffffff, 0

	dir := t.TempDir()
	r := mustRestore(t, src, "", dir, quick)
	for _, name := range []string{"su", "shared", "nobody"} {
		fi, _ := os.Lstat(filepath.Join(dir, name))
		if fi.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
			t.Errorf("%s: %v without its owner", name, fi.Mode())
		}
	}
	if len(r.Notes) != 3 {
		t.Errorf("notes: %v", r.Notes)
	}

	dir = t.TempDir()
	r = mustRestore(t, src, "", dir, restore.Options{Owner: true, NoSync: true})
	fi, _ := os.Lstat(filepath.Join(dir, "su"))
	st := fi.Sys().(*syscall.Stat_t)
	if fi.Mode()&fs.ModeSetuid == 0 || st.Uid != 12345 || st.Gid != 12346 {
		t.Errorf("su: %v uid %d gid %d", fi.Mode(), st.Uid, st.Gid)
	}
	if fi, _ := os.Lstat(filepath.Join(dir, "shared")); fi.Mode()&fs.ModeSetgid == 0 {
		t.Errorf("shared: %v", fi.Mode())
	}
	if fi, _ := os.Lstat(filepath.Join(dir, "nobody")); fi.Mode()&fs.ModeSetuid != 0 || r.Unowned != 1 {
		t.Errorf("nobody: %v, %d unowned", fi.Mode(), r.Unowned)
	}
}

func TestDevicesAreSkippedWithANote(t *testing.T) {
	src := restoretest.New()
	for _, k := range []snapshot.Kind{snapshot.CharDevice, snapshot.BlockDevice, snapshot.Socket, snapshot.Unknown, 99} {
		src.Special(k.String(), k)
	}
	dir := t.TempDir()
	r := mustRestore(t, src, "", dir, quick)
	if names, _ := os.ReadDir(dir); len(names) != 0 {
		t.Errorf("made %v", names)
	}
	if r.Skipped != 5 || len(r.Notes) != 5 {
		t.Errorf("%+v", r)
	}
}

func TestUnreadableFilesAreNamedAndTheRestComes(t *testing.T) {
	src := tree()
	for _, path := range []string{"large", "bin/tool", "etc/hosts"} {
		e, _ := src.Lookup(t.Context(), path)
		src.Break(e.Chunks[len(e.Chunks)/2])
	}
	var mu sync.Mutex
	told := map[string]bool{}
	dir := t.TempDir()
	r, err := restore.ToDirectory(t.Context(), src, "", dir, restore.Options{NoSync: true, Events: restore.Events{
		Failure: func(f restore.Failure) { mu.Lock(); told[f.Path] = true; mu.Unlock() },
	}})
	var list *restore.Error
	if !errors.As(err, &list) || list.Count != 3 || len(told) != 3 || !errors.Is(err, restoretest.ErrBroken) {
		t.Fatalf("%v, told %v", err, told)
	}
	for _, f := range list.Failures {
		if _, err := os.Lstat(filepath.Join(dir, f.Path)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q is there: %v", f.Path, err)
		}
		if !strings.Contains(err.Error(), fmt.Sprintf("%q: read: ", f.Path)) {
			t.Errorf("%v does not name %q", err, f.Path)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "closed/inner")); err != nil || string(b) != "inner\n" {
		t.Errorf("a good file was not restored: %v", err)
	}
	if r.Files == 0 || r.FailureCount != 3 {
		t.Errorf("%+v", r)
	}
	noLeftovers(t, dir)
}

func TestWrongSizesAreFailures(t *testing.T) {
	for name, lie := range map[string]func(*restoretest.Source) *snapshot.Entry{
		"too short": func(s *restoretest.Source) *snapshot.Entry {
			e := s.File("f", 0o644, noise(1, 100), 10)
			e.Size = 101
			return e
		},
		"too long": func(s *restoretest.Source) *snapshot.Entry {
			e := s.File("f", 0o644, noise(1, 100), 10)
			e.Size = 99
			return e
		},
		"no content": func(s *restoretest.Source) *snapshot.Entry {
			e := s.File("f", 0o644, nil, 10)
			e.Size = 1 << 40
			return e
		},
		"enormous": func(s *restoretest.Source) *snapshot.Entry {
			e := s.File("f", 0o644, nil, 10)
			e.Size = 1 << 63
			return e
		},
		"large short": func(s *restoretest.Source) *snapshot.Entry {
			e := s.File("f", 0o644, noise(1, 9<<20), 1<<20)
			e.Size++
			return e
		},
		"large long": func(s *restoretest.Source) *snapshot.Entry {
			e := s.File("f", 0o644, noise(1, 9<<20), 1<<20)
			e.Size--
			return e
		},
		"two lies that add up": func(s *restoretest.Source) *snapshot.Entry {
			e := s.File("f", 0o644, noise(1, 100), 10)
			e.Chunks[3].Size--
			e.Chunks[4].Size++
			return e
		},
		"wrong chunk": func(s *restoretest.Source) *snapshot.Entry {
			e := s.File("f", 0o644, noise(1, 100), 10)
			e.Chunks[3].Size--
			e.Size--
			return e
		},
	} {
		src := restoretest.New()
		lie(src)
		dir := t.TempDir()
		r, err := restore.ToDirectory(t.Context(), src, "", dir, quick)
		if err == nil || r.FailureCount != 1 || r.Files != 0 {
			t.Errorf("%s: %+v %v", name, r, err)
		}
		if names, _ := os.ReadDir(dir); len(names) != 0 {
			t.Errorf("%s: left %v", name, names)
		}
	}
}

func TestManyFailuresAreCountedAndFewAreTold(t *testing.T) {
	src := restoretest.New()
	for i := range 500 {
		e := src.File(fmt.Sprintf("f%03d", i), 0o644, noise(uint64(i), 10), 10)
		src.Break(e.Chunks[0])
	}
	r, err := restore.ToDirectory(t.Context(), src, "", t.TempDir(), quick)
	if r.FailureCount != 500 || len(r.Failures) != restore.FailuresKept {
		t.Errorf("%d counted, %d kept", r.FailureCount, len(r.Failures))
	}
	if err == nil || !strings.Contains(err.Error(), "and 490 more") || strings.Count(err.Error(), "\n") > 12 {
		t.Errorf("%v", err)
	}
}

// full is a target whose disk fills up.
type full struct {
	mu    sync.Mutex
	files int
	open  int
}

func (f *full) Directory(context.Context, string, *snapshot.Entry) error { return nil }
func (f *full) Link(context.Context, string, *snapshot.Entry) error      { return nil }
func (f *full) Finish(context.Context, string, *snapshot.Entry) error    { return nil }
func (f *full) File(context.Context, string, *snapshot.Entry) (restore.TargetFile, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.files++
	f.open++
	return fullFile{f, f.files}, nil
}

type fullFile struct {
	f *full
	n int
}

func (f fullFile) WriteAt(p []byte, off int64) (int, error) {
	if f.n > 20 {
		return 0, &fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}
	}
	return len(p), nil
}
func (f fullFile) end() error    { f.f.mu.Lock(); f.f.open--; f.f.mu.Unlock(); return nil }
func (f fullFile) Commit() error { return f.end() }
func (f fullFile) Abort() error  { return f.end() }

// order records in which order directories are finished.
type order struct {
	full
	finished []string
}

func (o *order) Finish(_ context.Context, path string, _ *snapshot.Entry) error {
	o.finished = append(o.finished, path)
	return nil
}

// One may not search a directory any more once it has its mode: so it gets that after everything below it.
func TestClosedDirectoriesAreFinishedFromTheInside(t *testing.T) {
	src := restoretest.New()
	for _, p := range []string{"a", "a/b", "a/b/c", "d", "d/e"} {
		src.Dir(p, 0o500)
	}
	src.Dir("d/e/open", 0o755)
	src.Dir("z", 0o700)
	target := &order{}
	if _, err := restore.To(t.Context(), src, "", target, restore.Options{}); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(target.finished, " "), " z d/e/open d/e a/b/c a/b d a"; got != want {
		t.Errorf("%q", got)
	}
}

func TestFullTargetStopsTheRestore(t *testing.T) {
	src := restoretest.New()
	for i := range 5000 {
		src.File(fmt.Sprintf("f%04d", i), 0o644, noise(uint64(i), 10), 10)
	}
	src.File("large", 0o644, noise(1, 30<<20), 1<<20)
	target := &full{}
	r, err := restore.To(t.Context(), src, "", target, restore.Options{})
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
	if target.files > 40 || r.FailureCount > 8 {
		t.Errorf("went on for %d files, %d failures", target.files, r.FailureCount)
	}
	if target.open != 0 {
		t.Errorf("%d files were neither committed nor aborted", target.open)
	}
}

func TestCancelledRestoreLeavesNothingHalf(t *testing.T) {
	src := tree()
	for n := range 12 {
		ctx, cancel := context.WithCancel(t.Context())
		dir := t.TempDir()
		count := 0
		_, err := restore.ToDirectory(ctx, src, "", dir, restore.Options{NoSync: true, Events: restore.Events{
			Progress: func(restore.Progress) {
				if count++; count == n {
					cancel()
				}
			},
		}})
		cancel()
		if n > 0 && !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled after %d entries: %v", n, err)
		}
		noLeftovers(t, dir)
		for _, line := range strings.Split(listing(t, dir), "\n") {
			if strings.Contains(line, "large") && !strings.Contains(expected(t, src, ""), strings.SplitN(line, " ", 4)[3]) {
				t.Errorf("half a file under its name: %s", line)
			}
		}
	}
}

func TestDamagedCatalogFailsTheRestore(t *testing.T) {
	src := torn{tree()}
	_, err := restore.ToDirectory(t.Context(), src, "", t.TempDir(), quick)
	if !errors.Is(err, errTorn) {
		t.Errorf("%v", err)
	}
	var sink strings.Builder
	if err := restore.ToTar(t.Context(), src, "", &sink); !errors.Is(err, errTorn) {
		t.Errorf("tar: %v", err)
	}
}

// TestOwnerOfTheTargetChoosesTheGroup: the target belongs to somebody who changes its group while root restores into it.
func TestOwnerOfTheTargetChoosesTheGroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	src := restoretest.New()
	src.File("a", 0o640, []byte("a"), 1)
	src.File("b", 0o640, []byte("b"), 1)
	dir := t.TempDir()
	if err := os.Chown(dir, 4711, 0); err != nil {
		t.Fatal(err)
	}
	change := func(p restore.Progress) {
		if p.Files == 1 {
			if err := errors.Join(os.Chown(dir, 4711, 4711), os.Chmod(dir, os.ModeSetgid|0o755)); err != nil {
				t.Error(err)
			}
		}
	}
	mustRestore(t, src, "", dir, restore.Options{Workers: 1, Owner: true, NoSync: true, Events: restore.Events{Progress: change}})
	for _, name := range []string{"a", "b"} {
		fi, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if st := fi.Sys().(*syscall.Stat_t); st.Uid != 0 || st.Gid != 0 {
			t.Errorf("%s belongs to %d:%d", name, st.Uid, st.Gid)
		}
	}
}
