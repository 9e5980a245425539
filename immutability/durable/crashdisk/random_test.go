package crashdisk_test

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"pgregory.net/rapid"
)

// machine drives a disk with random operations.
type machine struct {
	d     *crashdisk.Disk
	files map[string]durable.File
}

var (
	dirNames  = []string{".", "x", "y", "x/z"}
	fileNames = []string{"a", "b", "x/a", "x/b", "y/a", "x/z/a"}
)

func (m *machine) step(t *rapid.T) {
	file := rapid.SampledFrom(fileNames)
	dir := rapid.SampledFrom(dirNames)
	switch rapid.IntRange(0, 12).Draw(t, "op") {
	case 0, 1:
		name := file.Draw(t, "name")
		if f, err := m.d.Create(name, 0o600); err == nil {
			m.files[name] = f
		}
	case 2, 3, 4:
		if f := m.files[file.Draw(t, "name")]; f != nil {
			_, _ = f.Write(rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "bytes"))
		}
	case 5, 6:
		if f := m.files[file.Draw(t, "name")]; f != nil {
			_ = f.Sync()
		}
	case 7:
		_ = m.d.Link(file.Draw(t, "from"), file.Draw(t, "to"))
	case 8:
		if rapid.Bool().Draw(t, "directory") {
			_ = m.d.Rename(dir.Draw(t, "from"), dir.Draw(t, "to"))
		} else {
			_ = m.d.Rename(file.Draw(t, "from"), file.Draw(t, "to"))
		}
	case 9:
		_ = m.d.Remove(rapid.SampledFrom(append(slices.Clone(fileNames), dirNames...)).Draw(t, "name"))
	case 10:
		_ = m.d.Mkdir(dir.Draw(t, "name"), 0o755)
	case 11:
		_ = m.d.SyncDir(dir.Draw(t, "name"))
	case 12:
		_ = m.d.Forget(file.Draw(t, "name"))
	}
}

func newMachine() *machine {
	m := &machine{d: crashdisk.New(), files: map[string]durable.File{}}
	for _, dir := range dirNames[1:] {
		_ = m.d.Mkdir(dir, 0o755)
	}
	return m
}

func run(t *rapid.T, m *machine) {
	for range rapid.IntRange(0, 60).Draw(t, "steps") {
		m.step(t)
	}
}

func TestKeepAllKeepsAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine()
		run(t, m)
		before := tree(m.d)
		if got := tree(m.d.Restart(crashdisk.KeepAll, 0)); !maps.Equal(got, before) {
			t.Fatalf("kept %q of %q", got, before)
		}
	})
}

func TestWhatIsSyncedSurvivesEveryLoss(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine()
		run(t, m)
		before := tree(m.d)
		for name := range before {
			if dir, ok := strings.CutSuffix(name, "/"); ok {
				_ = m.d.SyncDir(dir)
				continue
			}
			f, err := m.d.Append(name)
			if err != nil {
				t.Fatal(err)
			}
			_ = f.Sync()
		}
		_ = m.d.SyncDir(".")
		for seed := range int64(3) {
			for _, loss := range []crashdisk.Loss{crashdisk.LoseUnsynced, crashdisk.KeepAll, crashdisk.Random} {
				if got := tree(m.d.Restart(loss, seed)); !maps.Equal(got, before) {
					t.Fatalf("%v: %q of %q", loss, got, before)
				}
			}
		}
	})
}

// The states that a disk and its copies share must not leak from one into the other.
func TestCopiesAreIndependent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine()
		for range rapid.IntRange(0, 4).Draw(t, "failing syncs") {
			m.d.FailAt(rapid.Int64Range(1, 60).Draw(t, "at"), crashdisk.SyncFail)
		}
		run(t, m)
		seed := rapid.Int64().Draw(t, "seed")
		copies := map[string]*crashdisk.Disk{
			"clone": m.d.Clone(), "keep": m.d.Restart(crashdisk.KeepAll, 0),
			"lose": m.d.Restart(crashdisk.LoseUnsynced, 0), "random": m.d.Restart(crashdisk.Random, seed),
		}
		if again := m.d.Restart(crashdisk.Random, seed); !maps.Equal(tree(again), tree(copies["random"])) {
			t.Fatal("one seed, two outcomes")
		}
		before := map[string]map[string]string{}
		for what, c := range copies {
			before[what] = tree(c)
		}
		lost := tree(copies["clone"].Restart(crashdisk.Random, seed))
		run(t, m)
		for what, c := range copies {
			if got := tree(c); !maps.Equal(got, before[what]) {
				t.Fatalf("%s changed from %q to %q", what, before[what], got)
			}
		}
		if got := tree(copies["clone"].Restart(crashdisk.Random, seed)); !maps.Equal(got, lost) {
			t.Fatalf("the clone's medium changed from %q to %q", lost, got)
		}
		original := tree(m.d)
		for _, c := range copies {
			for _, name := range fileNames {
				if f, err := c.Append(name); err == nil {
					_, _ = f.Write(bytes.Repeat([]byte{0xaa}, 8))
					_ = f.Sync()
				}
			}
		}
		if got := tree(m.d); !maps.Equal(got, original) {
			t.Fatalf("the original changed from %q to %q", original, got)
		}
		for what, c := range copies {
			before[what] = tree(c)
		}
		for _, name := range fileNames {
			_ = m.d.Forget(name)
			_ = m.d.Flip(name, 0, 0xff)
		}
		for what, c := range copies {
			if got := tree(c); !maps.Equal(got, before[what]) {
				t.Fatalf("flips changed %s from %q to %q", what, before[what], got)
			}
		}
	})
}

// After any faults, a restarted disk holds only names and prefixes (with holes) that were once there, and works.
func TestFaultyDisksRestart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine()
		for range rapid.IntRange(1, 3).Draw(t, "faults") {
			m.d.FailAt(rapid.Int64Range(1, 60).Draw(t, "at"), rapid.SampledFrom(crashdisk.Faults()).Draw(t, "fault"))
		}
		run(t, m)
		after := m.d.Restart(rapid.SampledFrom([]crashdisk.Loss{crashdisk.LoseUnsynced, crashdisk.KeepAll, crashdisk.Random}).Draw(t, "loss"), rapid.Int64().Draw(t, "seed"))
		found := tree(after)
		if err := durable.MkdirAll(after, "fresh/dir", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := durable.WriteNew(after, "fresh/dir/file", []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		again := tree(after.Restart(crashdisk.LoseUnsynced, 0))
		for name, content := range found {
			if again[name] != content {
				t.Fatalf("what was found after one power cut is not there after the next: %s", name)
			}
		}
		if again["fresh/dir/file"] != "x" {
			t.Fatal("a fresh file is lost")
		}
	})
}
