package durabletest

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// TestGuard runs every test of flags and leases against disks from open, each of them empty, and given up when its test
// ends. What they leave immutable or append-only is open's to lift.
func TestGuard(t *testing.T, open func(t *testing.T) durable.GuardedDisk) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, d durable.GuardedDisk)
	}{
		{"ImmutableFilesStay", immutableFilesStay},
		{"AppendOnlyFilesOnlyGrow", appendOnlyFilesOnlyGrow},
		{"AppendOnlyDirectoriesLoseNothing", appendOnlyDirectoriesLoseNothing},
		{"ImmutableDirectoriesStay", immutableDirectoriesStay},
		{"FlagsStandApart", flagsStandApart},
		{"LeaseNeedsNoWriter", leaseNeedsNoWriter},
		{"HeldIsForReading", heldIsForReading},
		{"HeldKnowsItself", heldKnowsItself},
		{"PublishedHeldIsFinal", publishedHeldIsFinal},
		{"PublishHeldNeverReplaces", publishHeldNeverReplaces},
		{"PublishHeldSeesAnotherFile", publishHeldSeesAnotherFile},
		{"PublishHeldWithoutALease", publishHeldWithoutALease},
		{"FinalFilesLeaveTogether", finalFilesLeaveTogether},
		{"GrowingFilesGrow", growingFilesGrow},
		{"GuardedNamesAreReplaced", guardedNamesAreReplaced},
		{"PermissionsUnderFlags", permissionsUnderFlags},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

// refused demands that a flag stood in the way.
func refused(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, fs.ErrPermission) {
		t.Errorf("%s: %v, want fs.ErrPermission", what, err)
	}
}

func has(t *testing.T, d durable.Guard, name string, want durable.Flags) {
	t.Helper()
	if got, err := d.Flags(name); err != nil || got != want {
		t.Errorf("%s has the flags %q, %v; want %q", name, got, err, want)
	}
}

func immutableFilesStay(t *testing.T, d durable.GuardedDisk) {
	write(t, d, "a", "final")
	write(t, d, "b", "another")
	must(t, d.SetFlags("a", durable.Immutable, 0))
	has(t, d, "a", durable.Immutable)
	has(t, d, "b", 0)
	refused(t, "remove", d.Remove("a"))
	refused(t, "rename", d.Rename("a", "c"))
	refused(t, "rename over it", d.Rename("b", "a"))
	refused(t, "link", d.Link("a", "c"))
	if f, err := d.Append("a"); err == nil {
		f.Close()
		t.Error("it was opened for writing")
	} else {
		refused(t, "append", err)
	}
	holds(t, d, "a", "final")
	list(t, d, ".", "a", "b")
	must(t, d.SetFlags("a", 0, durable.Immutable))
	must(t, d.Rename("b", "a"))
	holds(t, d, "a", "another")
}

func appendOnlyFilesOnlyGrow(t *testing.T, d durable.GuardedDisk) {
	write(t, d, "a", "first,")
	must(t, d.SetFlags("a", durable.AppendOnly, 0))
	refused(t, "remove", d.Remove("a"))
	refused(t, "rename", d.Rename("a", "b"))
	refused(t, "link", d.Link("a", "b"))
	f, err := d.Append("a")
	must(t, err)
	put(t, f, "second")
	must(t, f.Sync())
	must(t, f.Close())
	holds(t, d, "a", "first,second")
	has(t, d, "a", durable.AppendOnly)
}

func appendOnlyDirectoriesLoseNothing(t *testing.T, d durable.GuardedDisk) {
	must(t, d.Mkdir("dir", 0o755))
	write(t, d, "dir/a", "a")
	write(t, d, "b", "b")
	write(t, d, "c", "c")
	must(t, d.SetFlags("dir", durable.AppendOnly, 0))
	has(t, d, "dir", durable.AppendOnly)
	write(t, d, "dir/new", "new")
	must(t, d.Link("b", "dir/b"))
	must(t, d.Rename("c", "dir/c"))
	must(t, d.Mkdir("dir/sub", 0o755))
	refused(t, "remove", d.Remove("dir/a"))
	refused(t, "remove of a directory", d.Remove("dir/sub"))
	refused(t, "rename out", d.Rename("dir/a", "a"))
	refused(t, "rename within", d.Rename("dir/a", "dir/z"))
	refused(t, "rename over", d.Rename("b", "dir/a"))
	refused(t, "rename of it", d.Rename("dir", "elsewhere"))
	list(t, d, "dir", "a", "b", "c", "new", "sub")
	f, err := d.Append("dir/a")
	must(t, err)
	must(t, f.Close())
	must(t, d.SetFlags("dir", 0, durable.AppendOnly))
	must(t, d.Remove("dir/a"))
}

func immutableDirectoriesStay(t *testing.T, d durable.GuardedDisk) {
	must(t, d.Mkdir("dir", 0o755))
	must(t, d.Mkdir("dir/sub", 0o755))
	write(t, d, "dir/a", "a")
	write(t, d, "b", "b")
	must(t, d.SetFlags("dir", durable.Immutable, 0))
	if f, err := d.Create("dir/new", 0o600); err == nil {
		f.Close()
		t.Error("it got a new file")
	} else {
		refused(t, "create", err)
	}
	refused(t, "mkdir", d.Mkdir("dir/new", 0o755))
	refused(t, "link", d.Link("b", "dir/b"))
	refused(t, "rename in", d.Rename("b", "dir/b"))
	refused(t, "rename out", d.Rename("dir/a", "a"))
	refused(t, "remove", d.Remove("dir/a"))
	refused(t, "rename of it", d.Rename("dir", "elsewhere"))
	write(t, d, "dir/sub/new", "directories below are their own")
	list(t, d, "dir", "a", "sub")
}

func flagsStandApart(t *testing.T, d durable.GuardedDisk) {
	write(t, d, "a", "a")
	must(t, d.SetFlags("a", durable.AppendOnly, 0))
	must(t, d.SetFlags("a", durable.Immutable, 0))
	has(t, d, "a", durable.Immutable|durable.AppendOnly)
	refused(t, "lifting the one under the other", d.SetFlags("a", 0, durable.AppendOnly))
	has(t, d, "a", durable.Immutable|durable.AppendOnly)
	must(t, d.SetFlags("a", 0, durable.Immutable))
	has(t, d, "a", durable.AppendOnly)
	must(t, d.SetFlags("a", durable.Immutable, durable.AppendOnly))
	has(t, d, "a", durable.Immutable)
	must(t, d.SetFlags("a", durable.AppendOnly, durable.Immutable))
	has(t, d, "a", durable.AppendOnly)
	must(t, d.SetFlags("a", durable.AppendOnly, 0))
	has(t, d, "a", durable.AppendOnly)
	for _, name := range []string{"none", "none/a"} {
		if _, err := d.Flags(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("flags of %s: %v, want fs.ErrNotExist", name, err)
		}
		if err := d.SetFlags(name, durable.Immutable, 0); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("set flags of %s: %v, want fs.ErrNotExist", name, err)
		}
	}
	for _, name := range []string{"", "/a", "../a", "a/"} {
		if err := d.SetFlags(name, durable.Immutable, 0); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("set flags of %q: %v, want fs.ErrInvalid", name, err)
		}
		if h, err := d.Hold(name); err == nil {
			h.Close()
			t.Errorf("hold of %q", name)
		}
	}
	has(t, d, ".", 0)
	must(t, d.SetFlags(".", durable.AppendOnly, 0))
	has(t, d, ".", durable.AppendOnly)
	must(t, d.SetFlags(".", 0, durable.AppendOnly))
}

func hold(t *testing.T, d durable.Guard, name string) durable.Held {
	t.Helper()
	h, err := d.Hold(name)
	must(t, err)
	t.Cleanup(func() { _ = h.Close() }) // may be closed already
	return h
}

func leased(t *testing.T, h durable.Held, want bool) {
	t.Helper()
	if got, err := h.Leased(); err != nil || got != want {
		t.Errorf("leased %v, %v; want %v", got, err, want)
	}
}

func leaseNeedsNoWriter(t *testing.T, d durable.GuardedDisk) {
	w, err := d.Create("a", 0o440)
	must(t, err)
	h := hold(t, d, "a")
	put(t, w, "bytes")
	if err := h.Lease(); !errors.Is(err, durable.ErrWriter) {
		t.Fatalf("lease beside its writer: %v, want ErrWriter", err)
	}
	leased(t, h, false)
	must(t, w.Close())
	must(t, h.Lease())
	leased(t, h, true)
	must(t, h.Sync())
	r, err := d.Open("a") // readers are no trouble
	must(t, err)
	must(t, r.Close())
	leased(t, h, true)
	must(t, h.Close())
}

func heldIsForReading(t *testing.T, d durable.GuardedDisk) {
	write(t, d, "a", "content")
	must(t, d.Mkdir("dir", 0o755))
	h := hold(t, d, "a")
	if n, err := h.Write([]byte("more")); n != 0 || err == nil {
		t.Errorf("it took %d bytes, %v", n, err)
	}
	b := make([]byte, 7)
	if _, err := h.ReadAt(b, 0); err != nil || string(b) != "content" {
		t.Errorf("it reads %q, %v", b, err)
	}
	if size, err := h.Size(); err != nil || size != 7 {
		t.Errorf("%d bytes, %v", size, err)
	}
	for _, name := range []string{"dir", "none", "."} {
		if h, err := d.Hold(name); err == nil {
			h.Close()
			t.Errorf("hold of %s", name)
		}
	}
}

func heldKnowsItself(t *testing.T, d durable.GuardedDisk) {
	write(t, d, "a", "same")
	write(t, d, "b", "same")
	must(t, d.Link("a", "c"))
	h := hold(t, d, "a")
	for name, want := range map[string]bool{"a": true, "b": false, "c": true, "none": false} {
		if got, err := h.Is(name); err != nil || got != want {
			t.Errorf("it is %s: %v, %v; want %v", name, got, err, want)
		}
	}
}

func publishedHeldIsFinal(t *testing.T, d durable.GuardedDisk) {
	must(t, durable.MkdirAll(d, "in", 0o755))
	must(t, durable.MkdirAll(d, "out", 0o755))
	must(t, d.SetFlags("out", durable.AppendOnly, 0))
	must(t, d.SetFlags(".", durable.Immutable, 0))
	write(t, d, "in/a", "final")
	h := hold(t, d, "in/a")
	must(t, h.Lease())
	must(t, h.Sync())
	must(t, durable.PublishHeld(d, h, "in/a", "out/a"))
	must(t, h.Close())
	list(t, d, "in")
	list(t, d, "out", "a")
	has(t, d, "out/a", durable.Immutable)
	refused(t, "remove", d.Remove("out/a"))
	must(t, d.SetFlags("out", 0, durable.AppendOnly))
	refused(t, "remove without the directory's flag", d.Remove("out/a"))
	refused(t, "rename of the directory", d.Rename("out", "gone"))
	holds(t, d, "out/a", "final")
}

func publishHeldNeverReplaces(t *testing.T, d durable.GuardedDisk) {
	must(t, durable.MkdirAll(d, "out", 0o755))
	write(t, d, "out/a", "first")
	write(t, d, "a", "second")
	h := hold(t, d, "a")
	must(t, h.Lease())
	if err := durable.PublishHeld(d, h, "a", "out/a"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("publish over an existing name: %v, want fs.ErrExist", err)
	}
	holds(t, d, "out/a", "first")
	holds(t, d, "a", "second")
	has(t, d, "a", 0)
}

func publishHeldSeesAnotherFile(t *testing.T, d durable.GuardedDisk) {
	must(t, durable.MkdirAll(d, "out", 0o755))
	write(t, d, "a", "read and hashed")
	h := hold(t, d, "a")
	must(t, h.Lease())
	write(t, d, "b", "put in its place")
	must(t, d.Rename("b", "a"))
	if err := durable.PublishHeld(d, h, "a", "out/a"); err == nil {
		t.Error("another file than the one that was held was published")
	}
	has(t, d, "out/a", 0)
}

func publishHeldWithoutALease(t *testing.T, d durable.GuardedDisk) {
	must(t, durable.MkdirAll(d, "out", 0o755))
	write(t, d, "a", "content")
	h := hold(t, d, "a")
	if err := durable.PublishHeld(d, h, "a", "out/a"); !errors.Is(err, durable.ErrWriter) {
		t.Errorf("publish without a lease: %v, want ErrWriter", err)
	}
}

func finalFilesLeaveTogether(t *testing.T, d durable.GuardedDisk) {
	must(t, durable.MkdirAll(d, "out", 0o755))
	for _, name := range []string{"out/a", "out/b", "out/c"} {
		write(t, d, name, name)
		must(t, d.SetFlags(name, durable.Immutable, 0))
	}
	must(t, d.SetFlags("out", durable.AppendOnly, 0))
	write(t, d, "elsewhere", "elsewhere")
	if err := durable.RemoveFinal(d, "out", []string{"out/a", "elsewhere"}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("removal of a name elsewhere: %v, want fs.ErrInvalid", err)
	}
	list(t, d, "out", "a", "b", "c")
	must(t, durable.RemoveFinal(d, "out", []string{"out/c", "out/a", "out/none", "out/a"}))
	list(t, d, "out", "b")
	has(t, d, "out/b", durable.Immutable)
	has(t, d, "out", durable.AppendOnly)
	holds(t, d, "elsewhere", "elsewhere")
}

func growingFilesGrow(t *testing.T, d durable.GuardedDisk) {
	must(t, durable.MkdirAll(d, "in", 0o755))
	must(t, durable.MkdirAll(d, "out", 0o755))
	must(t, d.SetFlags("out", durable.AppendOnly, 0))
	must(t, durable.WriteGrowing(d, "in/a.tmp", "out/a", []byte("first,"), 0o640))
	list(t, d, "in")
	has(t, d, "out/a", durable.AppendOnly)
	if err := durable.WriteGrowing(d, "in/a.tmp", "out/a", []byte("again"), 0o640); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second time: %v, want fs.ErrExist", err)
	}
	f, err := d.Append("out/a")
	must(t, err)
	put(t, f, "second")
	must(t, f.Sync())
	must(t, f.Close())
	holds(t, d, "out/a", "first,second")
	must(t, durable.CloseGrowing(d, "out/a"))
	has(t, d, "out/a", durable.Immutable)
	if f, err := d.Append("out/a"); err == nil {
		f.Close()
		t.Error("it grows after it was closed")
	} else {
		refused(t, "append", err)
	}
	refused(t, "remove", d.Remove("out/a"))
}

func guardedNamesAreReplaced(t *testing.T, d durable.GuardedDisk) {
	must(t, durable.MkdirAll(d, "in", 0o755))
	must(t, durable.MkdirAll(d, "dir", 0o755))
	write(t, d, "dir/a", "first")
	must(t, d.SetFlags("dir", durable.Immutable, 0))
	for _, content := range []string{"second", "third, longer"} {
		must(t, durable.ReplaceGuarded(d, "in/a.tmp", "dir/a", []byte(content), 0o640))
		holds(t, d, "dir/a", content)
		has(t, d, "dir", durable.Immutable)
		list(t, d, "in")
	}
	if err := durable.ReplaceGuarded(d, "dir/a.tmp", "dir/a", nil, 0o640); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a temporary name in the directory itself: %v, want fs.ErrInvalid", err)
	}
	must(t, d.SetFlags("dir", 0, durable.Immutable))
}

func permissionsUnderFlags(t *testing.T, d durable.GuardedDisk) {
	write(t, d, "a", "a")
	must(t, d.Mkdir("dir", 0o700))
	for name, flag := range map[string]durable.Flags{"a": durable.Immutable, "dir": durable.AppendOnly} {
		must(t, d.Chmod(name, 0o750))
		if info, err := d.Stat(name); err != nil || info.Mode().Perm() != 0o750 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
		must(t, d.SetFlags(name, flag, 0))
		refused(t, "chmod of "+name, d.Chmod(name, 0o777))
	}
	if err := d.Chmod("none", 0o700); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("chmod of nothing: %v, want fs.ErrNotExist", err)
	}
}
