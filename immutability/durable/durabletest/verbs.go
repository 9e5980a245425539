package durabletest

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

func publishOnce(t *testing.T, d durable.Disk) {
	must(t, durable.MkdirAll(d, "in", 0o755))
	must(t, durable.MkdirAll(d, "out", 0o755))
	write(t, d, "in/a", "first")
	must(t, durable.Publish(d, "in/a", "out/a"))
	holds(t, d, "out/a", "first")
	list(t, d, "in")
	write(t, d, "in/a", "second")
	if err := durable.Publish(d, "in/a", "out/a"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("publish over an existing name: %v, want fs.ErrExist", err)
	}
	holds(t, d, "out/a", "first")
	holds(t, d, "in/a", "second")
	if err := durable.Publish(d, "in/none", "out/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("publish of nothing: %v, want fs.ErrNotExist", err)
	}
}

func writeNewOnce(t *testing.T, d durable.Disk) {
	must(t, durable.WriteNew(d, "a", []byte("first"), 0o600))
	if err := durable.WriteNew(d, "a", []byte("second"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("write new over an existing name: %v, want fs.ErrExist", err)
	}
	holds(t, d, "a", "first")
	must(t, durable.WriteNew(d, "empty", nil, 0o600))
	holds(t, d, "empty", "")
	list(t, d, ".", "a", "empty")
	if err := durable.WriteNew(d, "none/a", []byte("x"), 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("write new below nothing: %v, want fs.ErrNotExist", err)
	}
}

func replaceWhole(t *testing.T, d durable.Disk) {
	must(t, d.Mkdir("dir", 0o755))
	for _, content := range []string{"a long first content", "short", ""} {
		must(t, durable.Replace(d, "dir/a", []byte(content), 0o600))
		holds(t, d, "dir/a", content)
		list(t, d, "dir", "a")
	}
	if err := durable.Replace(d, "dir", []byte("x"), 0o600); err == nil {
		t.Error("a directory was replaced by a file")
	}
	list(t, d, ".", "dir")
}

func leftoversDoNotWedge(t *testing.T, d durable.Disk) {
	write(t, d, "a.tmp", "left by a process that was killed")
	must(t, durable.WriteNew(d, "a", []byte("new"), 0o600))
	holds(t, d, "a", "new")
	write(t, d, "a.tmp", "left again")
	must(t, durable.Replace(d, "a", []byte("newer"), 0o600))
	holds(t, d, "a", "newer")
	// Killed between the link and the removal: one file under two names. Replacing must not write into both.
	must(t, d.Link("a", "a.tmp"))
	must(t, durable.Replace(d, "a", []byte("newest"), 0o600))
	holds(t, d, "a", "newest")
	list(t, d, ".", "a")
}

func mkdirAllAgain(t *testing.T, d durable.Disk) {
	for range 2 {
		must(t, durable.MkdirAll(d, "a/b/c", 0o755))
	}
	must(t, durable.MkdirAll(d, "a/b", 0o755))
	must(t, durable.MkdirAll(d, ".", 0o755))
	list(t, d, "a/b", "c")
}

func removeTreeAll(t *testing.T, d durable.Disk) {
	must(t, durable.MkdirAll(d, "dir/a/b", 0o755))
	must(t, durable.MkdirAll(d, "dir/empty", 0o755))
	for _, name := range []string{"dir/1", "dir/a/2", "dir/a/b/3", "dis"} {
		write(t, d, name, "x")
	}
	must(t, durable.RemoveTree(d, "dir"))
	list(t, d, ".", "dis")
	must(t, durable.RemoveTree(d, "dir")) // an absent one is as wished
	must(t, durable.RemoveTree(d, "dis"))
	list(t, d, ".")
}

func readFileIsBounded(t *testing.T, d durable.Disk) {
	write(t, d, "a", "12345")
	for limit, fits := range map[int64]bool{0: false, 4: false, 5: true, 6: true, 1<<63 - 1: true} {
		b, err := durable.ReadFile(d, "a", limit)
		if (err == nil) != fits || !fits && !errors.Is(err, durable.ErrTooLarge) || fits && string(b) != "12345" {
			t.Errorf("read of at most %d bytes: %q, %v", limit, b, err)
		}
	}
	if _, err := durable.ReadFile(d, "none", 5); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read of nothing: %v, want fs.ErrNotExist", err)
	}
}
