// Package durabletest proves that a durable.Disk keeps the contract of its interfaces, as far as that shows without a power cut.
package durabletest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// Test runs every test against disks from open, each of them empty, and given up when its test ends.
func Test(t *testing.T, open func(t *testing.T) durable.Disk) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, d durable.Disk)
	}{
		{"CreateNeverReplaces", createNeverReplaces},
		{"WritesGoToTheEnd", writesGoToTheEnd},
		{"ReadsAsReadersDo", readsAsReadersDo},
		{"OpenIsReadOnly", openIsReadOnly},
		{"ClosedFilesRefuse", closedFilesRefuse},
		{"LinkNeverReplaces", linkNeverReplaces},
		{"LinkedNamesAreOneFile", linkedNamesAreOneFile},
		{"RenameReplaces", renameReplaces},
		{"RenameOfOneFileToItself", renameOfOneFileToItself},
		{"RenameOfDirectories", renameOfDirectories},
		{"RemoveLeavesOpenFiles", removeLeavesOpenFiles},
		{"RemoveKeepsFullDirectories", removeKeepsFullDirectories},
		{"AbsentNames", absentNames},
		{"NamesStayInside", namesStayInside},
		{"KindsAreNotConfused", kindsAreNotConfused},
		{"ReadDirIsSorted", readDirIsSorted},
		{"StatTells", statTells},
		{"SyncAndForgetKeepContent", syncAndForgetKeepContent},
		{"ManyAtOnce", manyAtOnce},
		{"PublishOnce", publishOnce},
		{"WriteNewOnce", writeNewOnce},
		{"ReplaceWhole", replaceWhole},
		{"LeftoversDoNotWedge", leftoversDoNotWedge},
		{"MkdirAllAgain", mkdirAllAgain},
		{"RemoveTreeAll", removeTreeAll},
		{"ReadFileIsBounded", readFileIsBounded},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

func createNeverReplaces(t *testing.T, d durable.Disk) {
	write(t, d, "a", "first")
	must(t, d.Mkdir("dir", 0o755))
	for _, name := range []string{"a", "dir"} {
		if f, err := d.Create(name, 0o600); !errors.Is(err, fs.ErrExist) {
			if err == nil {
				f.Close()
			}
			t.Errorf("create over %s: %v, want fs.ErrExist", name, err)
		}
	}
	holds(t, d, "a", "first")
}

func writesGoToTheEnd(t *testing.T, d durable.Disk) {
	f, err := d.Create("a", 0o600)
	must(t, err)
	defer f.Close()
	put(t, f, "one ")
	g, err := d.Append("a")
	must(t, err)
	put(t, g, "two ")
	if b, err := io.ReadAll(g); err != nil || string(b) != "one two " {
		t.Errorf("read after writing through the same file: %q, %v; want all of it", b, err)
	}
	put(t, f, "three ") // f last wrote before g did
	put(t, g, "four")
	must(t, g.Close())
	put(t, f, "")
	if size, err := f.Size(); err != nil || size != 18 {
		t.Errorf("size %d, %v; want 18", size, err)
	}
	holds(t, d, "a", "one two three four")
}

func readsAsReadersDo(t *testing.T, d durable.Disk) {
	content := strings.Repeat("0123456789", 1000)
	write(t, d, "a", content)
	for _, open := range []func(string) (durable.File, error){d.Open, d.Append} {
		f, err := open("a")
		must(t, err)
		if err := iotest.TestReader(struct{ io.Reader }{f}, []byte(content)); err != nil {
			t.Error(err)
		}
		p := make([]byte, 4)
		if n, err := f.ReadAt(p, 9998); n != 2 || err != io.EOF || string(p[:n]) != "89" {
			t.Errorf("ReadAt across the end: %d, %v", n, err)
		}
		if n, err := f.ReadAt(p, 10000); n != 0 || err != io.EOF {
			t.Errorf("ReadAt at the end: %d, %v", n, err)
		}
		if n, err := f.ReadAt(p, 20000); n != 0 || err != io.EOF {
			t.Errorf("ReadAt behind the end: %d, %v", n, err)
		}
		if n, err := f.ReadAt(p, -1); n != 0 || err == nil {
			t.Errorf("ReadAt before the start: %d, %v", n, err)
		}
		must(t, f.Close())
	}
	empty := write(t, d, "empty", "")
	f, err := d.Open(empty)
	must(t, err)
	defer f.Close()
	if n, err := f.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("read of an empty file: %d, %v", n, err)
	}
}

func openIsReadOnly(t *testing.T, d durable.Disk) {
	write(t, d, "a", "kept")
	f, err := d.Open("a")
	must(t, err)
	defer f.Close()
	if n, err := f.Write([]byte("x")); n != 0 || err == nil {
		t.Errorf("write to a file from Open: %d, %v", n, err)
	}
	must(t, f.Sync())
	holds(t, d, "a", "kept")
}

func closedFilesRefuse(t *testing.T, d durable.Disk) {
	f, err := d.Create("a", 0o600)
	must(t, err)
	put(t, f, "x")
	must(t, f.Close())
	_, werr := f.Write([]byte("y"))
	_, rerr := f.ReadAt(make([]byte, 1), 0)
	_, serr := f.Size()
	for op, err := range map[string]error{"write": werr, "read": rerr, "size": serr, "sync": f.Sync(), "close": f.Close()} {
		if !errors.Is(err, fs.ErrClosed) {
			t.Errorf("%s of a closed file: %v, want fs.ErrClosed", op, err)
		}
	}
	holds(t, d, "a", "x")
}

func linkNeverReplaces(t *testing.T, d durable.Disk) {
	write(t, d, "a", "A")
	write(t, d, "b", "B")
	must(t, d.Mkdir("dir", 0o755))
	for _, to := range []string{"b", "dir", "a"} {
		if err := d.Link("a", to); !errors.Is(err, fs.ErrExist) {
			t.Errorf("link over %s: %v, want fs.ErrExist", to, err)
		}
	}
	if err := d.Link("dir", "dir2"); err == nil {
		t.Error("a directory was linked")
	}
	holds(t, d, "b", "B")
	list(t, d, ".", "a", "b", "dir")
}

func linkedNamesAreOneFile(t *testing.T, d durable.Disk) {
	must(t, d.Mkdir("dir", 0o755))
	write(t, d, "a", "one ")
	must(t, d.Link("a", "dir/b"))
	f, err := d.Append("dir/b")
	must(t, err)
	put(t, f, "two")
	must(t, f.Close())
	holds(t, d, "a", "one two")
	must(t, d.Remove("a"))
	holds(t, d, "dir/b", "one two")
}

func renameReplaces(t *testing.T, d durable.Disk) {
	must(t, d.Mkdir("dir", 0o755))
	write(t, d, "a", "new")
	write(t, d, "dir/b", "old")
	old, err := d.Open("dir/b")
	must(t, err)
	defer old.Close()
	must(t, d.Rename("a", "dir/b"))
	holds(t, d, "dir/b", "new")
	list(t, d, ".", "dir")
	if b, err := io.ReadAll(old); err != nil || string(b) != "old" {
		t.Errorf("the replaced file, still open: %q, %v", b, err)
	}
}

func renameOfOneFileToItself(t *testing.T, d durable.Disk) {
	write(t, d, "a", "x")
	must(t, d.Link("a", "b"))
	must(t, d.Rename("a", "b"))
	must(t, d.Rename("a", "a"))
	list(t, d, ".", "a", "b") // as POSIX has it
}

func renameOfDirectories(t *testing.T, d durable.Disk) {
	must(t, d.Mkdir("a", 0o755))
	must(t, d.Mkdir("full", 0o755))
	write(t, d, "a/f", "x")
	write(t, d, "full/g", "y")
	write(t, d, "file", "z")
	for _, c := range [][2]string{{"a", "full"}, {"a", "file"}, {"file", "a"}, {"a", "a/below"}, {"a", "none/x"}} {
		if err := d.Rename(c[0], c[1]); err == nil {
			t.Errorf("rename %s %s went through", c[0], c[1])
		}
	}
	must(t, d.Rename("a", "b"))
	holds(t, d, "b/f", "x")
	list(t, d, ".", "b", "file", "full")
}

func removeLeavesOpenFiles(t *testing.T, d durable.Disk) {
	f, err := d.Create("a", 0o600)
	must(t, err)
	defer f.Close()
	put(t, f, "one ")
	must(t, d.Remove("a"))
	put(t, f, "two")
	must(t, f.Sync())
	if b, err := io.ReadAll(f); err != nil || string(b) != "one two" {
		t.Errorf("a removed file, still open: %q, %v", b, err)
	}
	list(t, d, ".")
	write(t, d, "a", "another")
	holds(t, d, "a", "another")
}

func removeKeepsFullDirectories(t *testing.T, d durable.Disk) {
	must(t, d.Mkdir("dir", 0o755))
	write(t, d, "dir/a", "x")
	if err := d.Remove("dir"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("remove of a directory with a file in it: %v", err)
	}
	holds(t, d, "dir/a", "x")
	must(t, d.Remove("dir/a"))
	must(t, d.Remove("dir"))
	list(t, d, ".")
}

func absentNames(t *testing.T, d durable.Disk) {
	write(t, d, "there", "x")
	must(t, d.Mkdir("dir", 0o755))
	for _, name := range []string{"none", "none/a", "dir/none", "dir/none/a"} {
		_, create := d.Create(name+"/x", 0o600)
		_, appendTo := d.Append(name)
		_, open := d.Open(name)
		_, stat := d.Stat(name)
		_, readDir := d.ReadDir(name)
		for op, err := range map[string]error{
			"create below": create, "append": appendTo, "open": open, "stat": stat, "readdir": readDir,
			"link": d.Link(name, "y"), "link to": d.Link("there", name+"/x"),
			"rename": d.Rename(name, "y"), "rename to": d.Rename("there", name+"/x"),
			"remove": d.Remove(name), "mkdir below": d.Mkdir(name+"/x", 0o755),
			"syncdir": d.SyncDir(name), "forget": d.Forget(name), "durable remove": durable.Remove(d, name),
		} {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s %s: %v, want fs.ErrNotExist", op, name, err)
			}
		}
	}
	list(t, d, ".", "dir", "there")
}

func namesStayInside(t *testing.T, d durable.Disk) {
	write(t, d, "there", "x")
	for _, name := range []string{"", "/", "/etc/hosts", "..", "../x", "dir/../../x", "dir/..", "./there", "there/", "a//b", "dir/."} {
		f, create := d.Create(name, 0o600)
		if create == nil {
			f.Close()
		}
		_, appendTo := d.Append(name)
		_, open := d.Open(name)
		_, stat := d.Stat(name)
		_, readDir := d.ReadDir(name)
		for op, err := range map[string]error{
			"create": create, "append": appendTo, "open": open, "stat": stat, "readdir": readDir,
			"link": d.Link(name, "y"), "link to": d.Link("there", name),
			"rename": d.Rename(name, "y"), "rename to": d.Rename("there", name),
			"remove": d.Remove(name), "mkdir": d.Mkdir(name, 0o755), "mkdirall": durable.MkdirAll(d, name, 0o755),
			"syncdir": d.SyncDir(name), "forget": d.Forget(name), "removetree": durable.RemoveTree(d, name),
		} {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%s %q: %v, want fs.ErrInvalid", op, name, err)
			}
		}
	}
	for op, err := range map[string]error{
		"remove": d.Remove("."), "rename": d.Rename(".", "y"), "rename to": d.Rename("there", "."),
		"link": d.Link(".", "y"), "link to": d.Link("there", "."), "removetree": durable.RemoveTree(d, "."),
	} {
		if !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s of the root: %v, want fs.ErrInvalid", op, err)
		}
	}
	if err := d.Mkdir(".", 0o755); !errors.Is(err, fs.ErrExist) {
		t.Errorf("mkdir of the root: %v, want fs.ErrExist", err)
	}
	list(t, d, ".", "there")
}

func kindsAreNotConfused(t *testing.T, d durable.Disk) {
	must(t, d.Mkdir("dir", 0o755))
	write(t, d, "file", "x")
	_, appendTo := d.Append("dir")
	_, open := d.Open("dir")
	_, root := d.Open(".")
	_, readDir := d.ReadDir("file")
	_, below := d.Open("file/below")
	_, create := d.Create("file/below", 0o600)
	for op, err := range map[string]error{
		"append to a directory": appendTo, "open a directory": open, "open the root": root, "readdir of a file": readDir,
		"open below a file": below, "create below a file": create, "mkdir below a file": d.Mkdir("file/below", 0o755),
		"syncdir of a file": d.SyncDir("file"), "forget a directory": d.Forget("dir"),
		"link below a file": d.Link("file", "file/below"), "rename over a directory": d.Rename("file", "dir"),
	} {
		if err == nil {
			t.Errorf("%s went through", op)
		}
	}
	if err := d.Mkdir("file", 0o755); !errors.Is(err, fs.ErrExist) {
		t.Errorf("mkdir over a file: %v, want fs.ErrExist", err)
	}
	if err := durable.MkdirAll(d, "file/below", 0o755); err == nil {
		t.Error("directories were made below a file")
	}
	holds(t, d, "file", "x")
}

func readDirIsSorted(t *testing.T, d durable.Disk) {
	names := []string{"Z", "a", "a.b", "ab", "b", "é"}
	for _, i := range []int{3, 0, 5, 1, 4, 2} {
		write(t, d, names[i], names[i])
	}
	must(t, d.Mkdir("dir", 0o755))
	list(t, d, ".", "Z", "a", "a.b", "ab", "b", "dir", "é")
	entries, err := d.ReadDir(".")
	must(t, err)
	for _, e := range entries {
		info, err := e.Info()
		must(t, err)
		if isDir := e.Name() == "dir"; e.IsDir() != isDir || info.IsDir() != isDir || e.Type().IsDir() != isDir {
			t.Errorf("%s: directory %v, %v, %v", e.Name(), e.IsDir(), info.IsDir(), e.Type())
		}
		if !e.IsDir() && info.Size() != int64(len(e.Name())) {
			t.Errorf("%s: size %d", e.Name(), info.Size())
		}
		if info.Name() != e.Name() {
			t.Errorf("%s calls itself %s", e.Name(), info.Name())
		}
	}
	list(t, d, "dir")
}

func statTells(t *testing.T, d durable.Disk) {
	must(t, d.Mkdir("dir", 0o700))
	write(t, d, "dir/file", "four")
	for name, want := range map[string]string{".": ".", "dir": "dir", "dir/file": "file"} {
		info, err := d.Stat(name)
		must(t, err)
		if info.Name() != want || info.IsDir() != (want != "file") {
			t.Errorf("stat %s: name %q, directory %v", name, info.Name(), info.IsDir())
		}
		if want == "file" && (info.Size() != 4 || !info.Mode().IsRegular() || info.Mode().Perm() != 0o600) {
			t.Errorf("stat %s: %d bytes, mode %v", name, info.Size(), info.Mode())
		}
	}
}

func syncAndForgetKeepContent(t *testing.T, d durable.Disk) {
	f, err := d.Create("a", 0o600)
	must(t, err)
	defer f.Close()
	put(t, f, "synced ")
	must(t, f.Sync())
	must(t, d.SyncDir("."))
	put(t, f, "not yet")
	must(t, d.Forget("a")) // dirty pages stay
	holds(t, d, "a", "synced not yet")
	must(t, f.Sync())
	must(t, d.Forget("a"))
	holds(t, d, "a", "synced not yet")
}

func manyAtOnce(t *testing.T, d durable.Disk) {
	must(t, d.Mkdir("dir", 0o755))
	shared, err := d.Create("shared", 0o600)
	must(t, err)
	defer shared.Close()
	var group sync.WaitGroup
	const workers, rounds = 4, 20
	wins := make([]int, workers)
	for w := range workers {
		group.Go(func() {
			f, err := d.Append("shared")
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			for i := range rounds {
				own := fmt.Sprintf("own-%d-%d", w, i)
				err := durable.WriteNew(d, own, []byte(own), 0o600)
				if err == nil {
					_, err = f.Write([]byte("0123456789"))
				}
				if err == nil {
					_, err = shared.ReadAt(make([]byte, 10), 0)
				}
				if err != nil {
					t.Error(err)
					return
				}
				// All race for one name: exactly one link may win.
				if err := d.Link(own, fmt.Sprintf("dir/%d", i)); err == nil {
					wins[w]++
				} else if !errors.Is(err, fs.ErrExist) {
					t.Error(err)
				}
				if _, err := d.ReadDir("."); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	total := 0
	for _, n := range wins {
		total += n
	}
	if total != rounds {
		t.Errorf("%d links won for %d names", total, rounds)
	}
	holds(t, d, "shared", strings.Repeat("0123456789", workers*rounds))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, f durable.File, content string) {
	t.Helper()
	if n, err := f.Write([]byte(content)); n != len(content) || err != nil {
		t.Fatalf("write: %d of %d bytes, %v", n, len(content), err)
	}
}

func write(t *testing.T, d durable.Disk, name, content string) string {
	t.Helper()
	f, err := d.Create(name, 0o600)
	must(t, err)
	put(t, f, content)
	must(t, f.Sync())
	must(t, f.Close())
	return name
}

func holds(t *testing.T, d durable.Disk, name, want string) {
	t.Helper()
	b, err := durable.ReadFile(d, name, 1<<20)
	if err != nil || !bytes.Equal(b, []byte(want)) {
		t.Errorf("%s holds %q, %v; want %q", name, b, err, want)
	}
}

func list(t *testing.T, d durable.Disk, dir string, want ...string) {
	t.Helper()
	entries, err := d.ReadDir(dir)
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, want) {
		t.Errorf("%s holds %q, want %q", dir, names, want)
	}
}
