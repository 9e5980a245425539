package corpus

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// digest is a hash of everything in dir that a corpus promises: names, kinds, modes, times, link targets and content.
func digest(t *testing.T, dir string) string {
	t.Helper()
	h := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(h, strings.TrimPrefix(path, dir), info.Mode(), info.ModTime().Unix())
		switch {
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			fmt.Fprintln(h, target)
			return err
		case d.Type().IsRegular():
			b, err := os.ReadFile(path)
			h.Write(b)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8])
}

func apply(t *testing.T, dir string, have, want *Tree) {
	t.Helper()
	if err := Apply(t.Context(), dir, have, want); err != nil {
		t.Fatal(err)
	}
	if err := Verify(dir, want); err != nil {
		t.Fatal(err)
	}
}

// The bytes are the same on every machine and for ever: figures of two days could not be compared otherwise.
func TestCorpusIsOtherThanYesterdays(t *testing.T) {
	for _, c := range []struct {
		name, want string
		tree       *Tree
	}{
		{"small", "d4f475c059557f44", Small(400, 1)},
		{"small, day 2", "8f31595a285fc481", Small(400, 2)},
		{"large", "88de0af65815889c", Large(0.001, 1)},
		{"large, day 2", "ddee30a674914cf1", Large(0.001, 2)},
		{"one", "b9d18f84bddff25f", One(100_001)},
		{"flat", "81af68704be7bf46", Flat(30)},
		{"tiny", "a84972659aa95ce2", Tiny(230)},
	} {
		dir := filepath.Join(t.TempDir(), "tree")
		apply(t, dir, nil, c.tree)
		if got := digest(t, dir); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// A source is moved a day ahead and back in each repetition: the second repetition must see what the first one saw.
func TestDayAheadAndBackLeavesNoTrace(t *testing.T) {
	for _, c := range []struct {
		name     string
		one, two *Tree
	}{
		{"small", Small(1000, 1), Small(1000, 2)},
		{"large", Large(0.002, 1), Large(0.002, 2)},
	} {
		dir, fresh := filepath.Join(t.TempDir(), "tree"), filepath.Join(t.TempDir(), "fresh")
		apply(t, dir, nil, c.one)
		day1 := digest(t, dir)
		apply(t, dir, c.one, c.two)
		apply(t, fresh, nil, c.two)
		day2 := digest(t, dir)
		if day2 == day1 || day2 != digest(t, fresh) {
			t.Errorf("%s: moved to day 2: %s, made on day 2: %s, day 1: %s", c.name, day2, digest(t, fresh), day1)
		}
		apply(t, dir, c.two, c.one)
		if back := digest(t, dir); back != day1 {
			t.Errorf("%s: back on day 1: %s, at first %s", c.name, back, day1)
		}
	}
}

// What SMALL claims about itself is what it is.
func TestSmallIsWhatItSays(t *testing.T) {
	const n = 20_000
	one := Small(n, 1)
	var sizes []int64
	seen := map[Content]bool{}
	duplicates, noise := 0, 0
	kinds := map[Kind]int{}
	for _, e := range one.Entries {
		kinds[e.Kind]++
		if e.MTime > time.Now().Unix()-aDay {
			t.Fatalf("%q is of %v: too young to be trusted by a puller", e.Path, time.Unix(e.MTime, 0))
		}
		if e.Kind != File {
			continue
		}
		sizes = append(sizes, e.Content.Size)
		if seen[e.Content] {
			duplicates++
		}
		seen[e.Content] = true
		if e.Content.Form == Noise {
			noise++
		}
	}
	slices.Sort(sizes)
	within(t, "files", float64(kinds[File]), n, 0)
	within(t, "median", float64(sizes[n/2]), 4096, 0.05)
	within(t, "bytes a file", float64(one.Bytes())/n, 12_200, 0.1)
	within(t, "duplicates", float64(duplicates)/n, 0.15, 0.05)
	within(t, "noise", float64(noise)/n, 0.5, 0.05)
	within(t, "symlinks", float64(kinds[Symlink]), n/100, 0)
	within(t, "hard links", float64(kinds[Hardlink]), n/200, 0)

	changed, added, deleted := differences(one, Small(n, 2))
	within(t, "changed", float64(changed)/n, 0.01, 0.001)
	within(t, "added", float64(added)/n, 0.005, 0.001)
	within(t, "deleted", float64(deleted)/n, 0.003, 0.001)
	if len(one.Moves) == 0 {
		t.Error("no directory is renamed")
	}
}

func within(t *testing.T, what string, got, want, share float64) {
	t.Helper()
	if got < want*(1-share) || got > want*(1+share) {
		t.Errorf("%s: %v, want %v within %v %%", what, got, want, share*100)
	}
}

// differences counts files by name, the renamed directories under their new names.
func differences(one, two *Tree) (changed, added, deleted int) {
	old := renamed(one, two)
	kept := map[string]bool{}
	for i := range two.Entries {
		e := &two.Entries[i]
		kept[e.Path] = true
		was, there := old[e.Path]
		switch {
		case e.Kind != File:
		case !there:
			added++
		case was.Content != e.Content:
			changed++
		}
	}
	for path, e := range old {
		if e.Kind == File && !kept[path] {
			deleted++
		}
	}
	return changed, added, deleted
}

func bytesOf(t *testing.T, c Content) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := c.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Day 2 of LARGE differs by as much as it says.
func TestNextDayOfLargeIsWhatItSays(t *testing.T) {
	const size = 16 << 20
	one, two := bytesOf(t, Content{Form: Image, Seed: 23, Size: size}), bytesOf(t, Content{Form: Image, Seed: 23, Size: size, Day: 2})
	differ, zeros := 0, 0
	zero := make([]byte, blockBytes)
	for at := 0; at < size; at += blockBytes {
		if !bytes.Equal(one[at:at+blockBytes], two[at:at+blockBytes]) {
			differ++
		}
		if bytes.Equal(one[at:at+blockBytes], zero) {
			zeros++
		}
	}
	if blocks := size / blockBytes; differ < 1 || differ > blocks/15 || zeros < blocks/10 {
		t.Errorf("%d of %d blocks differ, %d are zeros", differ, blocks, zeros)
	}

	lines := func(day uint8) map[string]bool {
		out := map[string]bool{}
		for line := range bytes.Lines(bytesOf(t, Content{Form: Dump, Seed: 21, Size: size, Day: day})) {
			out[string(line)] = true
		}
		return out
	}
	first, next := lines(1), lines(2)
	inserted, deleted := 0, 0
	for l := range next {
		if !first[l] {
			inserted++
		}
	}
	for l := range first {
		if !next[l] {
			deleted++
		}
	}
	within(t, "lines inserted", float64(inserted)/float64(len(first)), 0.005, 0.1)
	within(t, "lines deleted", float64(deleted)/float64(len(first)), 0.005, 0.1)
}

// A corpus that compresses like nothing in this world would flatter or harm whoever compresses.
func TestContentCompressesAsPlanned(t *testing.T) {
	for _, c := range []struct {
		form     Form
		min, max float64
	}{{Text, 0.3, 0.5}, {Noise, 1, 1.01}, {Dump, 0.2, 0.5}} {
		raw := bytesOf(t, Content{Form: c.form, Seed: 5, Size: 8 << 20})
		var out bytes.Buffer
		w, err := flate.NewWriter(&out, flate.BestSpeed)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(raw); err != nil {
			t.Fatal(err)
		}
		w.Close()
		if ratio := float64(out.Len()) / float64(len(raw)); ratio < c.min || ratio > c.max {
			t.Errorf("form %d: %.3f of its size, want %.2f to %.2f", c.form, ratio, c.min, c.max)
		}
	}
}

// Size is what comes, whatever the form: the tar's is reckoned without writing it.
func TestContentHasTheSizeThatItSays(t *testing.T) {
	for _, c := range []Content{
		{Form: Text, Seed: 1, Size: 1}, {Form: Text, Seed: 2, Size: 200_003}, {Form: Noise, Seed: 3, Size: 65_537},
		{Form: Dump, Seed: 4, Size: 100_001}, {Form: Image, Seed: 5, Size: 3*blockBytes - 7}, {Form: Text}, tarContent(300),
	} {
		if n := len(bytesOf(t, c)); int64(n) != c.Size {
			t.Errorf("%+v: %d bytes", c, n)
		}
	}
	if !reflect.DeepEqual(Small(300, 2), Small(300, 2)) {
		t.Error("two plans differ")
	}
}

// Verify is what tells a copy from a claim.
func TestVerifySeesWhatIsWrong(t *testing.T) {
	want := Small(60, 1)
	var file string
	for _, e := range want.Entries {
		if e.Kind == File {
			file = e.Path
		}
	}
	for harm, do := range map[string]func(dir string) error{
		"missing": func(dir string) error { return os.Remove(filepath.Join(dir, file)) },
		"short":   func(dir string) error { return os.Truncate(filepath.Join(dir, file), 0) },
		"younger": func(dir string) error { return os.Chtimes(filepath.Join(dir, file), time.Time{}, time.Now()) },
		"extra":   func(dir string) error { return os.WriteFile(filepath.Join(dir, "extra"), nil, 0o600) },
	} {
		dir := filepath.Join(t.TempDir(), "tree")
		apply(t, dir, nil, want)
		if err := do(dir); err != nil {
			t.Fatal(err)
		}
		if err := Verify(dir, want); err == nil {
			t.Errorf("%s: not seen", harm)
		}
	}
}
