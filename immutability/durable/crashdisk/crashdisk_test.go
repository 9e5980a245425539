package crashdisk_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
)

// tree is all that reads see: directories with a slash behind, files with their content.
func tree(d durable.Disk) map[string]string {
	m := map[string]string{}
	var walk func(dir string)
	walk = func(dir string) {
		entries, err := d.ReadDir(dir)
		if err != nil {
			m[dir] = err.Error()
			return
		}
		for _, e := range entries {
			name := path.Join(dir, e.Name())
			if e.IsDir() {
				m[name+"/"] = ""
				walk(name)
				continue
			}
			b, err := durable.ReadFile(d, name, 1<<20)
			if err != nil {
				b = []byte(err.Error())
			}
			m[name] = string(b)
		}
	}
	walk(".")
	return m
}

func create(t *testing.T, d durable.Disk, name string) durable.File {
	t.Helper()
	f, err := d.Create(name, 0o600)
	must(t, err)
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, f io.Writer, text string) {
	t.Helper()
	_, err := io.WriteString(f, text)
	must(t, err)
}

func same(t *testing.T, what string, d durable.Disk, want map[string]string) {
	t.Helper()
	if got := tree(d); !maps.Equal(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

func TestSyncedFileWithoutSyncedNameIsGone(t *testing.T) {
	d := crashdisk.New()
	f := create(t, d, "a")
	write(t, f, "x")
	must(t, f.Sync())
	same(t, "lose", d.Restart(crashdisk.LoseUnsynced, 0), map[string]string{})
	same(t, "keep", d.Restart(crashdisk.KeepAll, 0), map[string]string{"a": "x"})
}

func TestSyncedNameWithoutSyncedContentIsEmpty(t *testing.T) {
	d := crashdisk.New()
	f := create(t, d, "a")
	write(t, f, "x")
	must(t, d.SyncDir("."))
	same(t, "lose", d.Restart(crashdisk.LoseUnsynced, 0), map[string]string{"a": ""})
}

func TestDirectoryWithoutSyncedNameTakesAllWithIt(t *testing.T) {
	d := crashdisk.New()
	must(t, d.Mkdir("dir", 0o755))
	f := create(t, d, "dir/a")
	write(t, f, "x")
	must(t, f.Sync())
	must(t, d.SyncDir("dir"))
	same(t, "lose", d.Restart(crashdisk.LoseUnsynced, 0), map[string]string{})
	must(t, d.SyncDir("."))
	same(t, "lose", d.Restart(crashdisk.LoseUnsynced, 0), map[string]string{"dir/": "", "dir/a": "x"})
}

func TestRemovedAndReplacedNamesComeBack(t *testing.T) {
	d := crashdisk.New()
	must(t, durable.WriteNew(d, "removed", []byte("r"), 0o600))
	must(t, durable.WriteNew(d, "replaced", []byte("old"), 0o600))
	must(t, durable.WriteNew(d, "new", []byte("new"), 0o600))
	must(t, d.Remove("removed"))
	must(t, d.Rename("new", "replaced"))
	same(t, "before", d, map[string]string{"replaced": "new"})
	same(t, "lose", d.Restart(crashdisk.LoseUnsynced, 0), map[string]string{"removed": "r", "replaced": "old", "new": "new"})
	found := map[string]bool{}
	for seed := range int64(200) {
		m := tree(d.Restart(crashdisk.Random, seed))
		if m["replaced"] != "old" && m["replaced"] != "new" {
			t.Fatalf("seed %d: the replaced name holds %q", seed, m["replaced"])
		}
		found[fmt.Sprint(m)] = true
	}
	if len(found) != 8 { // each of three entries in two states
		t.Errorf("%d different outcomes, want 8", len(found))
	}
	must(t, d.SyncDir("."))
	same(t, "synced", d.Restart(crashdisk.LoseUnsynced, 0), map[string]string{"replaced": "new"})
}

func TestMoveBetweenDirectoriesCanLoseOrDouble(t *testing.T) {
	d := crashdisk.New()
	must(t, durable.MkdirAll(d, "a", 0o755))
	must(t, durable.MkdirAll(d, "b", 0o755))
	must(t, durable.WriteNew(d, "a/f", []byte("x"), 0o600))
	must(t, d.Rename("a/f", "b/f"))
	half := d.Clone()
	must(t, d.SyncDir("b"))
	same(t, "target synced first", d.Restart(crashdisk.LoseUnsynced, 0), map[string]string{"a/": "", "b/": "", "a/f": "x", "b/f": "x"})
	must(t, half.SyncDir("a"))
	same(t, "source synced first", half.Restart(crashdisk.LoseUnsynced, 0), map[string]string{"a/": "", "b/": ""})
}

func TestMovedDirectoryHasOneName(t *testing.T) {
	d := crashdisk.New()
	for _, dir := range []string{"a", "b", "a/dir"} {
		must(t, durable.MkdirAll(d, dir, 0o755))
	}
	must(t, durable.WriteNew(d, "a/dir/f", []byte("x"), 0o600))
	must(t, d.Rename("a/dir", "b/dir"))
	must(t, d.SyncDir("b"))
	same(t, "lose", d.Restart(crashdisk.LoseUnsynced, 0), map[string]string{"a/": "", "b/": "", "a/dir/": "", "a/dir/f": "x"})
	same(t, "keep", d.Restart(crashdisk.KeepAll, 0), map[string]string{"a/": "", "b/": "", "b/dir/": "", "b/dir/f": "x"})
}

func TestFailedSyncLosesWhatLaterSyncsDoNotBringBack(t *testing.T) {
	d := crashdisk.New()
	f := create(t, d, "a")
	must(t, d.SyncDir("."))
	write(t, f, "one ")
	must(t, f.Sync())
	write(t, f, "two ")
	d.FailAt(d.Ops()+1, crashdisk.SyncFail)
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("sync: %v, want EIO", err)
	}
	must(t, f.Sync()) // the lie
	same(t, "before", d, map[string]string{"a": "one two "})
	for _, loss := range []crashdisk.Loss{crashdisk.LoseUnsynced, crashdisk.KeepAll, crashdisk.Random} {
		same(t, loss.String(), d.Restart(loss, 1), map[string]string{"a": "one "})
	}
	write(t, f, "three")
	must(t, f.Sync())
	same(t, "cached", d, map[string]string{"a": "one two three"})
	hole := map[string]string{"a": "one \x00\x00\x00\x00three"}
	same(t, "medium", d.Restart(crashdisk.LoseUnsynced, 0), hole)
	must(t, d.Forget("a"))
	same(t, "forgotten", d, hole)
	same(t, "medium after forgetting", d.Restart(crashdisk.KeepAll, 0), hole)
}

func TestForgetShowsTheMediumAndKeepsDirtyPages(t *testing.T) {
	d := crashdisk.New()
	f := create(t, d, "a")
	write(t, f, "lost")
	d.FailAt(d.Ops()+1, crashdisk.SyncFail)
	if f.Sync() == nil {
		t.Fatal("the sync did not fail")
	}
	write(t, f, "dirty")
	c := d.Clone()
	must(t, d.Forget("a"))
	same(t, "the clone", c, map[string]string{"a": "lostdirty"})
	same(t, "forgotten", d, map[string]string{"a": "\x00\x00\x00\x00dirty"})
	must(t, f.Sync())
	must(t, d.SyncDir("."))
	same(t, "synced", d.Restart(crashdisk.LoseUnsynced, 0), map[string]string{"a": "\x00\x00\x00\x00dirty"})
}

func TestFailedDirectorySyncIsNoSync(t *testing.T) {
	d := crashdisk.New()
	create(t, d, "a")
	d.FailAt(d.Ops()+1, crashdisk.SyncFail)
	if d.SyncDir(".") == nil {
		t.Fatal("the sync did not fail")
	}
	same(t, "failed", d.Restart(crashdisk.LoseUnsynced, 0), map[string]string{})
	must(t, d.SyncDir("."))
	same(t, "synced", d.Restart(crashdisk.LoseUnsynced, 0), map[string]string{"a": ""})
}

// Each fault at a write, a link and a sync: what is returned, what reads see, and whether the disk lives on.
func TestFaultsDoWhatTheySay(t *testing.T) {
	type effect struct {
		err   error
		done  bool // a link or sync; of a write: nothing, part or all are told apart below
		lives bool
	}
	for fault, want := range map[crashdisk.Fault]effect{
		crashdisk.Crash:        {crashdisk.ErrCrashed, false, false},
		crashdisk.CrashAfter:   {crashdisk.ErrCrashed, true, false},
		crashdisk.Torn:         {crashdisk.ErrCrashed, false, false},
		crashdisk.ShortWrite:   {syscall.EIO, false, true},
		crashdisk.NoSpace:      {syscall.ENOSPC, false, true},
		crashdisk.IOError:      {syscall.EIO, false, true},
		crashdisk.SyncFail:     {syscall.EIO, false, true},
		crashdisk.IOErrorAfter: {syscall.EIO, true, true},
		crashdisk.ReadOnly:     {syscall.EIO, false, true},
	} {
		d := crashdisk.New()
		create(t, d, "a")
		d.FailAt(d.Ops()+1, fault)
		if d.Fired() {
			t.Errorf("%v: fired before its operation", fault)
		}
		if err := d.Link("a", "b"); !errors.Is(err, want.err) {
			t.Errorf("%v: link: %v, want %v", fault, err, want.err)
		}
		if !d.Fired() {
			t.Errorf("%v: did not fire", fault)
		}
		_, err := d.Stat("a")
		if (err == nil) != want.lives {
			t.Errorf("%v: stat afterwards: %v", fault, err)
		}
		if !want.lives && !errors.Is(err, crashdisk.ErrCrashed) {
			t.Errorf("%v: stat afterwards: %v, want ErrCrashed", fault, err)
		}
		if _, done := tree(d.Restart(crashdisk.KeepAll, 0))["b"]; done != want.done {
			t.Errorf("%v: link done %v", fault, done)
		}
	}
}

func TestWritesInPart(t *testing.T) {
	const text = "0123456789"
	for _, fault := range []crashdisk.Fault{crashdisk.Torn, crashdisk.ShortWrite} {
		lengths := map[int]bool{}
		for before := range 40 {
			d := crashdisk.New()
			f := create(t, d, "a")
			for range before {
				must(t, f.Sync()) // only counts
			}
			d.FailAt(d.Ops()+1, fault)
			n, err := f.Write([]byte(text))
			got := tree(d.Restart(crashdisk.KeepAll, 0))["a"]
			if !strings.HasPrefix(text, got) || len(got) == len(text) {
				t.Fatalf("%v left %q", fault, got)
			}
			lengths[len(got)] = true
			if fault == crashdisk.Torn && (n != 0 || !errors.Is(err, crashdisk.ErrCrashed)) {
				t.Errorf("torn write: %d, %v", n, err)
			}
			if fault == crashdisk.ShortWrite {
				if n != len(got) || !errors.Is(err, io.ErrShortWrite) || !durable.IsNoSpace(err) {
					t.Errorf("short write of %d: %d, %v", len(got), n, err)
				}
				if _, err := f.Write([]byte("on")); err != nil {
					t.Errorf("write after a short write: %v", err)
				}
			}
		}
		if len(lengths) < 5 {
			t.Errorf("%v: only %d different lengths", fault, len(lengths))
		}
	}
}

func TestFullDiskStaysFullUntilRefilled(t *testing.T) {
	d := crashdisk.New()
	f := create(t, d, "a")
	create(t, d, "victim")
	write(t, f, "before")
	d.FailAt(d.Ops()+1, crashdisk.NoSpace)
	_, first := f.Write([]byte("x"))
	_, second := f.Write([]byte("x"))
	_, createErr := d.Create("b", 0o600)
	for op, err := range map[string]error{
		"write": first, "write again": second, "create": createErr,
		"link": d.Link("a", "b"), "rename": d.Rename("a", "b"), "mkdir": d.Mkdir("b", 0o755),
	} {
		if !durable.IsNoSpace(err) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s on a full disk: %v", op, err)
		}
	}
	must(t, f.Sync())
	must(t, d.SyncDir("."))
	must(t, d.Remove("victim"))
	if _, err := f.Write([]byte("x")); !durable.IsNoSpace(err) {
		t.Errorf("write after a removal: %v; deleting makes no room here", err)
	}
	same(t, "full", d, map[string]string{"a": "before"})
	d.Refill()
	write(t, f, " after")
	same(t, "refilled", d, map[string]string{"a": "before after"})
	d.FailAt(d.Ops()+1, crashdisk.NoSpace)
	if err := f.Sync(); !durable.IsNoSpace(err) {
		t.Errorf("sync: %v", err)
	}
	must(t, f.Sync())
	must(t, d.SyncDir("."))
	same(t, "a sync that found no room is a failed sync", d.Restart(crashdisk.KeepAll, 0), map[string]string{"a": "before"})
}

func TestReadOnlyUntilRestart(t *testing.T) {
	d := crashdisk.New()
	f := create(t, d, "a")
	write(t, f, "x")
	d.FailAt(d.Ops()+1, crashdisk.ReadOnly)
	if err := d.SyncDir("."); !errors.Is(err, syscall.EIO) {
		t.Errorf("the failing operation: %v, want EIO", err)
	}
	_, werr := f.Write([]byte("y"))
	for op, err := range map[string]error{"write": werr, "sync": f.Sync(), "syncdir": d.SyncDir("."), "remove": d.Remove("a"), "mkdir": d.Mkdir("b", 0o755)} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s: %v, want EROFS", op, err)
		}
	}
	same(t, "reads go on", d, map[string]string{"a": "x"})
	after := d.Restart(crashdisk.LoseUnsynced, 0)
	must(t, after.Mkdir("b", 0o755))
}

func TestLogTellsTheOrder(t *testing.T) {
	d := crashdisk.New()
	must(t, d.Mkdir("dir", 0o755))
	f := create(t, d, "a")
	write(t, f, "x")
	must(t, f.Sync())
	must(t, d.Link("a", "dir/b"))
	must(t, d.SyncDir("dir"))
	if d.Link("a", "dir/b") == nil || d.Remove("none") == nil {
		t.Error("what should be refused was not")
	}
	must(t, d.Rename("dir/b", "c"))
	d.FailAt(d.Ops()+1, crashdisk.IOError)
	if d.Remove("a") == nil {
		t.Error("the fault did not happen")
	}
	want := []string{"mkdir dir", "create a", "write a", "sync a", "link a dir/b", "syncdir dir", "rename dir/b c", "remove a !io error"}
	if got := d.Log(); !slices.Equal(got, want) || d.Ops() != int64(len(want)) {
		t.Errorf("%d operations: %q, want %q", d.Ops(), got, want)
	}
}

func TestFlipIsSeenNowAndLater(t *testing.T) {
	d := crashdisk.New()
	must(t, durable.WriteNew(d, "a", []byte("abc"), 0o600))
	c := d.Clone()
	must(t, d.Flip("a", 1, 1))
	same(t, "now", d, map[string]string{"a": "acc"})
	same(t, "later", d.Restart(crashdisk.LoseUnsynced, 0), map[string]string{"a": "acc"})
	same(t, "the clone", c, map[string]string{"a": "abc"})
	if d.Flip("a", 3, 1) == nil || d.Flip("a", -1, 1) == nil || !errors.Is(d.Flip("b", 0, 1), fs.ErrNotExist) {
		t.Error("a byte was flipped that is not there")
	}
}

// Random must reach holes and torn ends, not only clean prefixes.
func TestRandomTearsAndPunches(t *testing.T) {
	d := crashdisk.New()
	f := create(t, d, "a")
	must(t, d.SyncDir("."))
	write(t, f, "synced|")
	must(t, f.Sync())
	for range 4 {
		write(t, f, "ABCDEFGHIJ")
	}
	full := tree(d)["a"]
	var prefixes, torn, holes, whole int
	for seed := range int64(2000) {
		got := tree(d.Restart(crashdisk.Random, seed))["a"]
		switch {
		case !strings.HasPrefix(got, "synced|"):
			t.Fatalf("seed %d lost synced bytes: %q", seed, got)
		case got == full:
			whole++
		case !strings.HasPrefix(full, got):
			holes++
		case (len(got)-7)%10 != 0:
			torn++
		default:
			prefixes++
		}
	}
	if min(prefixes, torn, holes, whole) < 50 {
		t.Errorf("prefixes %d, torn %d, holes %d, whole %d: each should be common", prefixes, torn, holes, whole)
	}
}
