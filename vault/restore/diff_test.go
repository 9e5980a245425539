package restore_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/holdfast-vault/holdfast/vault/restore"
	"github.com/holdfast-vault/holdfast/vault/restore/restoretest"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

func changes(t interface{ Fatal(...any) }, a, b restore.Source, path string) []string {
	var out []string
	for c, err := range restore.Diff(context.Background(), a, b, path) {
		if err != nil {
			t.Fatal(err)
		}
		s := fmt.Sprintf("%v %q", c.Kind, c.Path)
		if c.Content {
			s += " content"
		}
		if c.Meta {
			s += " meta"
		}
		out = append(out, s)
	}
	return out
}

func TestDiffSaysWhatChanged(t *testing.T) {
	a, b := tree(), tree()
	b.File("etc/new", 0o644, []byte("new"), 3)
	a.Dir("old", 0o755)
	a.File("old/gone", 0o644, []byte("gone"), 3)
	edit := func(s *restoretest.Source, path string, f func(*snapshot.Entry)) {
		e, _ := s.Lookup(t.Context(), path)
		f(&e)
		s.Replace(e)
	}
	edit(b, "etc/hosts", func(e *snapshot.Entry) { e.Chunks[0] = b.Put([]byte("10.0.")) })
	edit(b, "bin/tool", func(e *snapshot.Entry) { e.Mode = 0o700 })
	edit(b, "etc/link", func(e *snapshot.Entry) { e.Target = "elsewhere"; e.MTime++ })
	edit(b, "fifo", func(e *snapshot.Entry) { e.Kind = snapshot.Symlink; e.Target = "x" })
	got := changes(t, a, b, "")
	want := []string{
		`modified "fifo" content`, `removed "old"`, `modified "bin/tool" meta`, `modified "etc/hosts" content`,
		`modified "etc/link" content meta`, `added "etc/new"`, `removed "old/gone"`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got := changes(t, a, b, "etc"); len(got) != 3 {
		t.Errorf("below etc: %q", got)
	}
	if got := changes(t, a, a, ""); got != nil {
		t.Errorf("against itself: %q", got)
	}
	if got := changes(t, a, b, "old"); len(got) != 2 {
		t.Errorf("a path that one side does not have: %q", got)
	}
	for _, err := range restore.Diff(t.Context(), a, b, "nowhere") {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v", err)
		}
	}
	for _, err := range restore.Diff(t.Context(), a, torn{b}, "") {
		if err != nil && !errors.Is(err, errTorn) {
			t.Errorf("%v", err)
		}
	}
}

// A path that differs in one byte below a '/' sorts elsewhere than plain bytes would put it: compare with two maps.
func TestDiffAgreesWithComparingTwoMaps(t *testing.T) {
	names := []string{"a", "b", "a-", "a.b", "\x01", "z"}
	rapid.Check(t, func(rt *rapid.T) {
		side := func(label string) (map[string]uint32, *restoretest.Source) {
			m, s := map[string]uint32{}, restoretest.New()
			var add func(dir string, depth int)
			add = func(dir string, depth int) {
				for _, n := range names {
					switch p := join(dir, n); rapid.IntRange(0, 3).Draw(rt, label) {
					case 0:
						m[p] = uint32(rapid.IntRange(0, 2).Draw(rt, "mode"))
						s.File(p, m[p], nil, 1)
					case 1:
						if depth < 3 {
							m[p] = 0o755
							s.Dir(p, 0o755)
							add(p, depth+1)
						}
					}
				}
			}
			add("", 0)
			return m, s
		}
		ma, a := side("a")
		mb, b := side("b")
		want := map[string]bool{}
		for p, m := range ma {
			if n, ok := mb[p]; !ok || n != m {
				want[p] = true
			}
		}
		for p := range mb {
			if _, ok := ma[p]; !ok {
				want[p] = true
			}
		}
		got := map[string]bool{}
		for c, err := range restore.Diff(context.Background(), a, b, "") {
			if err != nil {
				rt.Fatal(err)
			}
			got[c.Path] = true
		}
		if !maps.Equal(got, want) {
			rt.Fatalf("got %v want %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
		}
	})
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// listed makes every file one with a list, as large files have, whose own chunks depend on packs.
type listed struct {
	*restoretest.Source
	pack uint32
}

func (l listed) Walk(ctx context.Context, path string) iter.Seq2[snapshot.Entry, error] {
	return func(yield func(snapshot.Entry, error) bool) {
		for e, err := range l.Source.Walk(ctx, path) {
			if e.Kind == snapshot.File && len(e.Chunks) > 0 {
				e.Chunks = nil
				e.List = []snapshot.Ref{l.Put(fmt.Append(nil, l.pack))}
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

func (l listed) Content(ctx context.Context, e snapshot.Entry) iter.Seq2[snapshot.Ref, error] {
	full, _ := l.Lookup(ctx, e.Path())
	return l.Source.Content(ctx, full)
}

func TestSameContentInOtherPacksIsNoChange(t *testing.T) {
	a, b := tree(), tree()
	if got := changes(t, listed{a, 1}, listed{b, 2}, ""); got != nil {
		t.Errorf("%q", got)
	}
	e, _ := b.Lookup(t.Context(), "large")
	e.Chunks = slices.Clone(e.Chunks)
	e.Chunks[7] = b.Put(noise(99, 1<<20))
	b.Replace(e)
	if got := changes(t, listed{a, 1}, listed{b, 2}, ""); !slices.Equal(got, []string{`modified "large" content`}) {
		t.Errorf("%q", got)
	}
}
