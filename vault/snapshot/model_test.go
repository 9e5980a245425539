package snapshot

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"pgregory.net/rapid"
)

// naive is the model: a sorted slice.
type naive []Entry

func (n naive) sort() naive {
	slices.SortFunc(n, func(a, b Entry) int { return a.key().compare(b.key()) })
	return slices.CompactFunc(n, func(a, b Entry) bool { return a.key() == b.key() })
}

func (n naive) lookup(path string) (Entry, bool) {
	for _, e := range n {
		if e.Path() == path {
			return e, true
		}
	}
	return Entry{}, false
}

func (n naive) list(dir string) (out []Entry) {
	for _, e := range n {
		if e.Parent == dir && e.Name != "" {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b Entry) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// walk sorts the subtree by components, which is another way to say the catalog's order.
func (n naive) walk(path string) (out []Entry) {
	for _, e := range n {
		p := e.Path()
		if p == path || path == "" || strings.HasPrefix(p, path+"/") {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b Entry) int {
		return cmp.Or(slices.Compare(strings.Split(a.Parent, "/"), strings.Split(b.Parent, "/")), cmp.Compare(a.Name, b.Name))
	})
	if i := slices.IndexFunc(out, func(e Entry) bool { return e.Path() == path }); i > 0 {
		e := out[i]
		out = slices.Insert(slices.Delete(out, i, i+1), 0, e)
	}
	return out
}

// uses sums the content; what the catalog itself takes comes on top.
func (n naive) uses() map[uint32]uint64 {
	uses := map[uint32]uint64{}
	for _, e := range n {
		for _, r := range append(slices.Clone(e.Chunks), e.List...) {
			uses[r.Pack] += uint64(r.Size)
		}
		for _, u := range e.ListPacks {
			uses[u.Pack] += u.Bytes
		}
	}
	return uses
}

func collect(t interface{ Fatalf(string, ...any) }, seq func(func(Entry, error) bool)) (out []Entry) {
	for e, err := range seq {
		if err != nil {
			t.Fatalf("%v", err)
		}
		out = append(out, e)
	}
	return out
}

func paths(es []Entry) string {
	var b strings.Builder
	for _, e := range es {
		fmt.Fprintf(&b, "%q ", e.Path())
	}
	return b.String()
}

// treeGen draws a source's tree: the root, directories in directories, and entries of every kind.
func treeGen() *rapid.Generator[naive] {
	return rapid.Custom(func(t *rapid.T) naive {
		dirs := []string{""}
		entries := naive{dirEntry("", "")}
		for range rapid.IntRange(0, 60).Draw(t, "n") {
			parent := rapid.SampledFrom(dirs).Draw(t, "parent")
			name := nameGen().Draw(t, "name")
			if _, there := entries.lookup(join(parent, name)); there {
				continue
			}
			e := entryGen(parent, name).Draw(t, "entry")
			entries = append(entries, e)
			if e.Kind == Directory {
				dirs = append(dirs, e.Path())
			}
		}
		return entries.sort()
	})
}
