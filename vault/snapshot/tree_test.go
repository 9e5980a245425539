package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/RoaringBitmap/roaring/v2"
	"pgregory.net/rapid"

	"github.com/holdfast-vault/holdfast/vault/chunk"
)

func TestTreeAgreesWithASortedSlice(t *testing.T) {
	ctx := context.Background()
	rapid.Check(t, func(rt *rapid.T) {
		entries := treeGen().Draw(rt, "tree")
		copies := rapid.SampledFrom([]int{1, 1, 40}).Draw(rt, "copies")
		for i := range copies - 1 { // many similar subtrees, so that there are several leaves
			top := fmt.Sprintf("%03d", i)
			entries = append(entries, dirEntry("", top))
			for _, e := range slices.Clone(entries) {
				if e.Name != "" && !strings.HasPrefix(e.Path(), "0") {
					e.Parent = join(top, e.Parent)
					e.Parent = strings.TrimSuffix(e.Parent, "/")
					entries = append(entries, e)
				}
			}
		}
		entries = entries.sort()
		s := newStore()
		b := NewBuilder(s, testKey)
		for i := range entries {
			if err := b.Add(ctx, &entries[i]); err != nil {
				rt.Fatal(err)
			}
		}
		root, err := b.Finish(ctx)
		if err != nil {
			rt.Fatal(err)
		}
		agree(rt, OpenTree(s, root), b, entries)
	})
}

// agree compares a tree with the slice that it was made of.
func agree(t *rapid.T, tree *Tree, b *Builder, entries naive) {
	ctx := context.Background()
	if got := collect(t, tree.Walk(ctx, "")); len(got) != len(entries) || len(got) > 0 && !reflect.DeepEqual(got, []Entry(entries)) {
		t.Fatalf("walk of all:\n got %s\nwant %s", paths(got), paths(entries))
	}
	asked := []string{"", "nothing", "a/nothing", "\xff/\xff", "a!", "zzz"}
	for range 8 {
		if len(entries) > 0 {
			asked = append(asked, entries[rapid.IntRange(0, len(entries)-1).Draw(t, "i")].Path())
		}
	}
	for _, p := range asked {
		want, there := entries.lookup(p)
		got, err := tree.Lookup(ctx, p)
		if there && (err != nil || !reflect.DeepEqual(got, want)) || !there && !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("lookup %q: %+v, %v; want %v %+v", p, got, err, there, want)
		}
		if !there {
			for _, err := range tree.Walk(ctx, p) {
				if p != "" && !errors.Is(err, fs.ErrNotExist) {
					t.Fatalf("walk %q: %v", p, err)
				}
			}
			continue
		}
		if got, want := collect(t, tree.Walk(ctx, p)), entries.walk(p); paths(got) != paths(want) {
			t.Fatalf("walk %q:\n got %s\nwant %s", p, paths(got), paths(want))
		}
		if want.Kind != Directory {
			for _, err := range tree.List(ctx, p) {
				if !errors.Is(err, ErrNotDirectory) {
					t.Fatalf("list %q: %v", p, err)
				}
			}
			continue
		}
		if got, want := collect(t, tree.List(ctx, p)), entries.list(p); paths(got) != paths(want) {
			t.Fatalf("list %q:\n got %s\nwant %s", p, paths(got), paths(want))
		}
	}
	agreeOnPacks(t, tree, b, entries)
}

func agreeOnPacks(t *rapid.T, tree *Tree, b *Builder, entries naive) {
	ctx := context.Background()
	want := entries.uses()
	for r, err := range tree.Objects(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		want[r.Pack] += uint64(r.Size)
	}
	uses, err := tree.Uses(ctx)
	if err != nil || len(uses) != len(want) {
		t.Fatalf("%d packs, want %d: %v", len(uses), len(want), err)
	}
	set := roaring.New()
	for p, n := range want {
		set.Add(p)
		if uses[p] != n {
			t.Fatalf("pack %d: %d bytes, want %d", p, uses[p], n)
		}
	}
	packs, err := tree.Packs(ctx)
	if err != nil || !packs.Equals(set) || !b.Packs().Equals(set) {
		t.Fatalf("packs: tree %v, builder %v, want %v: %v", packs, b.Packs(), set, err)
	}
}

func TestEmptyAndSmallestTrees(t *testing.T) {
	s := newStore()
	root, b := build(t, s, nil)
	if (root != Root{}) || s.puts != 0 || !b.Packs().IsEmpty() {
		t.Fatalf("an empty catalog: %+v, %d chunks", root, s.puts)
	}
	tree := OpenTree(s, root)
	if got := collect(t, tree.Walk(t.Context(), "")); len(got) > 0 {
		t.Fatal(paths(got))
	}
	if got := collect(t, tree.List(t.Context(), "")); len(got) > 0 {
		t.Fatal(paths(got))
	}
	if _, err := tree.Lookup(t.Context(), ""); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}

	root, _ = build(t, s, []Entry{dirEntry("", "")})
	if root.Depth != 1 || root.Entries != 1 || root.Directories != 1 {
		t.Fatalf("%+v", root)
	}
	tree = OpenTree(s, root)
	if e, err := tree.Lookup(t.Context(), ""); err != nil || e.Kind != Directory {
		t.Fatal(e, err)
	}
	if got := collect(t, tree.List(t.Context(), "")); len(got) > 0 {
		t.Fatal(paths(got))
	}
	for _, err := range tree.List(t.Context(), "x") {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

func TestBuilderRefusesWhatIsOutOfOrder(t *testing.T) {
	for _, pair := range [][2]key{{{"", "b"}, {"", "a"}}, {{"", "a"}, {"", "a"}}, {{"a", "x"}, {"", "b"}}, {{"a!", "x"}, {"a/b", "x"}}} {
		b := NewBuilder(newStore(), testKey)
		first, second := dirEntry(pair[0].parent, pair[0].name), dirEntry(pair[1].parent, pair[1].name)
		if err := b.Add(t.Context(), &first); err != nil {
			t.Fatal(err)
		}
		if err := b.Add(t.Context(), &second); err == nil {
			t.Errorf("%q after %q is accepted", pair[1], pair[0])
		}
		if _, err := b.Finish(t.Context()); err == nil {
			t.Error("and finished")
		}
	}
	b := NewBuilder(newStore(), testKey)
	if _, err := b.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	e := dirEntry("", "")
	if b.Add(t.Context(), &e) == nil {
		t.Error("a finished builder takes more")
	}
}

// forest makes n entries: directories of 100 files, in two levels.
func forest(n int) naive {
	entries := naive{dirEntry("", "")}
	for i := 0; len(entries) < n; i++ {
		outer, inner := fmt.Sprintf("d%03d", i/20), fmt.Sprintf("s%02d", i%20)
		if i%20 == 0 {
			entries = append(entries, dirEntry("", outer))
		}
		entries = append(entries, dirEntry(outer, inner))
		for j := 0; j < 100 && len(entries) < n; j++ {
			entries = append(entries, fileEntry(outer+"/"+inner, fmt.Sprintf("file-%05d.txt", j), i*100+j))
		}
	}
	return entries.sort()
}

func TestAHundredThousandEntries(t *testing.T) {
	entries := forest(100_000)
	s := newStore()
	root, b := build(t, s, entries)
	if root.Entries != 100_000 || root.Depth != 3 && root.Depth != 2 {
		t.Fatalf("%+v", root)
	}
	tree := OpenTree(s, root)
	i := 0
	for e, err := range tree.Walk(t.Context(), "") {
		if err != nil || !reflect.DeepEqual(e, entries[i]) {
			t.Fatalf("entry %d: %+v, %v", i, e, err)
		}
		i++
	}
	if i != len(entries) {
		t.Fatalf("%d entries", i)
	}
	for i := 0; i < len(entries); i += 997 {
		if e, err := tree.Lookup(t.Context(), entries[i].Path()); err != nil || e.key() != entries[i].key() {
			t.Fatal(err)
		}
	}
	if got := collect(t, tree.List(t.Context(), "d005/s07")); len(got) != 100 {
		t.Fatalf("%d files", len(got))
	}
	if packs, err := tree.Packs(t.Context()); err != nil || !packs.Equals(b.Packs()) {
		t.Fatalf("packs differ: %v", err)
	}
	mean := 100_000 / len(s.chunks)
	if mean < 180 || mean > 350 || s.largest > 256<<10 {
		t.Fatalf("%d entries a leaf, largest chunk %d bytes", mean, s.largest)
	}
	t.Logf("%d chunks, %d entries a leaf, depth %d", len(s.chunks), mean, root.Depth)
}

func TestChangesTouchFewLeaves(t *testing.T) {
	const n = 30_000
	base := forest(n)
	middle := slices.IndexFunc(base, func(e Entry) bool { return e.Path() == "d007/s03/file-00050.txt" })
	for _, c := range []struct {
		name   string
		change func(es naive) naive
		most   int // new leaves and nodes
	}{
		{"nothing", func(es naive) naive { return es }, 0},
		{"one mtime", func(es naive) naive { es[middle].MTime = 1; return es }, 3},
		{"one owner and size", func(es naive) naive { es[middle].UID, es[middle].Size = 4_000_000_000, 1<<62; return es }, 3},
		{"one content", func(es naive) naive { es[middle].Chunks = []Ref{refOf(1), refOf(2), refOf(3)}; return es }, 3},
		{"a name inserted", func(es naive) naive { return append(es, fileEntry("d007/s03", "file-00050.new", 5)).sort() }, 8},
		{"a name removed", func(es naive) naive { return slices.Delete(es, middle, middle+1) }, 8},
		{"a directory inserted", func(es naive) naive {
			es = append(es, dirEntry("d007", "s03x"))
			for i := range 300 {
				es = append(es, fileEntry("d007/s03x", fmt.Sprint(i), i))
			}
			return es.sort()
		}, 12},
		{"the first name", func(es naive) naive { return append(es, dirEntry("", "\x01")).sort() }, 8},
		{"the last name", func(es naive) naive { return append(es, dirEntry("zzz", "z")).sort() }, 4},
	} {
		s := newStore()
		before, _ := build(t, s, base)
		s.puts = 0
		after, _ := build(t, s, c.change(slices.Clone(base)))
		if s.puts > c.most {
			t.Errorf("%s: %d new chunks, at most %d expected", c.name, s.puts, c.most)
		}
		if (before == after) != (c.most == 0) {
			t.Errorf("%s: roots %+v and %+v", c.name, before, after)
		}
	}
}

// leafEnds gives the last key of every leaf.
func leafEnds(t *testing.T, s *store, root Root) (ends []key) {
	t.Helper()
	tree := OpenTree(s, root)
	if err := tree.visit(t.Context(), func(_ Ref, l *leaf) error {
		if l != nil {
			ends = append(ends, l.entries[len(l.entries)-1].key())
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return ends
}

func TestChangedAttributesMoveNoBound(t *testing.T) {
	s := newStore()
	entries := forest(20_000)
	root, _ := build(t, s, entries)
	want := leafEnds(t, s, root)
	for i := range entries {
		e := &entries[i]
		e.MTime, e.UID, e.GID, e.Mode, e.Flags = -1<<60, 1<<31, 1<<31, MaxMode, ^Flags(0)
		if e.Kind == File {
			e.Size = 1 << 40
		}
	}
	root, _ = build(t, s, entries)
	if got := leafEnds(t, s, root); !slices.Equal(got, want) {
		t.Fatal("bounds moved although no name changed")
	}
	other := NewBuilder(s, [32]byte{9})
	for i := range entries {
		if err := other.Add(t.Context(), &entries[i]); err != nil {
			t.Fatal(err)
		}
	}
	root, err := other.Finish(t.Context())
	if err != nil || slices.Equal(leafEnds(t, s, root), want) {
		t.Fatalf("another key gives the same bounds: %v", err)
	}
}

func TestOneDirectoryOfThreeHundredThousand(t *testing.T) {
	const n = 300_000
	s := newStore()
	b := NewBuilder(s, testKey)
	add := func(e Entry) {
		if err := b.Add(t.Context(), &e); err != nil {
			t.Fatal(err)
		}
	}
	add(dirEntry("", ""))
	add(dirEntry("", "big"))
	for i := range n {
		add(fileEntry("big", fmt.Sprintf("%09d", i), i))
	}
	root, err := b.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tree := OpenTree(s, root)
	i := 0
	for e, err := range tree.List(t.Context(), "big") {
		if err != nil || e.Name != fmt.Sprintf("%09d", i) {
			t.Fatalf("%d: %q, %v", i, e.Name, err)
		}
		i++
	}
	if i != n {
		t.Fatalf("%d of %d listed", i, n)
	}
	s.fetched = 0
	if _, err := OpenTree(s, root).Lookup(t.Context(), "big/000150000"); err != nil || s.fetched > root.Depth {
		t.Fatalf("a lookup read %d chunks in a tree of depth %d: %v", s.fetched, root.Depth, err)
	}
}

func TestDeepTreesAndLongNames(t *testing.T) {
	entries := naive{dirEntry("", "")}
	parent := ""
	for i := 0; len(parent) < MaxParent-300; i++ {
		e := dirEntry(parent, fmt.Sprintf("%d-%s", i, strings.Repeat("x", 200)))
		entries = append(entries, e, fileEntry(parent, "\xff", i))
		parent = e.Path()
	}
	entries = entries.sort()
	s := newStore()
	root, _ := build(t, s, entries)
	tree := OpenTree(s, root)
	if got := collect(t, tree.Walk(t.Context(), "")); paths(got) != paths(entries) {
		t.Fatal("walk differs")
	}
	deepest := entries[len(entries)-1]
	if e, err := tree.Lookup(t.Context(), deepest.Path()); err != nil || e.key() != deepest.key() {
		t.Fatal(err)
	}
	if s.largest > maxWeight {
		t.Fatalf("a leaf of %d bytes", s.largest)
	}
	many := naive{}
	for i := range 2000 { // nodes of very long keys
		many = append(many, dirEntry(strings.Repeat("y/", MaxParent/2-1)+"y", fmt.Sprintf("%04d%s", i, strings.Repeat("z", MaxName-4))))
	}
	root, _ = build(t, s, many)
	if got := collect(t, OpenTree(s, root).Walk(t.Context(), "")); len(got) != len(many) || s.largest > maxWeight {
		t.Fatalf("%d entries, largest %d", len(got), s.largest)
	}
}

func TestLeavesOfManyChunksAreCutByWeight(t *testing.T) {
	var entries naive
	for i := range 1000 {
		e := fileEntry("", fmt.Sprintf("%04d", i), 0)
		e.Chunks = nil
		for j := range InlineChunks {
			e.Chunks = append(e.Chunks, refOf(i*InlineChunks+j))
		}
		entries = append(entries, e)
	}
	s := newStore()
	root, _ := build(t, s, entries)
	if s.largest > maxWeight {
		t.Fatalf("a leaf of %d bytes", s.largest)
	}
	if got := collect(t, OpenTree(s, root).Walk(t.Context(), "")); !reflect.DeepEqual(got, []Entry(entries)) {
		t.Fatal("walk differs")
	}
}

func TestAFileTooLargeForOneEntryIsNamed(t *testing.T) {
	e := Entry{Name: "huge", Kind: File, List: []Ref{refOf(1)}}
	for i := range uint32(200_000) {
		e.ListPacks = append(e.ListPacks, PackUse{2 * i, 1 << 40})
	}
	b := NewBuilder(newStore(), testKey)
	err := b.Add(t.Context(), &e)
	if err == nil {
		_, err = b.Finish(t.Context())
	}
	if err == nil || !strings.Contains(err.Error(), `"huge"`) {
		t.Fatal(err)
	}
}

func TestATreeServesManyAtOnce(t *testing.T) {
	entries := forest(5000)
	s := newStore()
	root, _ := build(t, s, entries)
	tree := OpenTree(s, root)
	tree.cache = newObjectCache(100 << 10) // so that it evicts
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := g; i < len(entries); i += 40 {
				if e, err := tree.Lookup(context.Background(), entries[i].Path()); err != nil || !reflect.DeepEqual(e, entries[i]) {
					t.Errorf("%q: %v", entries[i].Path(), err)
				}
			}
			n := 0
			for _, err := range tree.Walk(context.Background(), "") {
				if err != nil {
					t.Error(err)
				}
				n++
			}
			if n != len(entries) {
				t.Errorf("%d entries", n)
			}
		})
	}
	wg.Wait()
}

func TestStoppingEarlyAndCancelling(t *testing.T) {
	s := newStore()
	root, _ := build(t, s, forest(3000))
	tree := OpenTree(s, root)
	for range tree.Walk(t.Context(), "") {
		break
	}
	for range tree.Objects(t.Context()) {
		break
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := OpenTree(s, root).Lookup(ctx, "d000"); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if _, err := OpenTree(s, root).Packs(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestAMissingChunkIsAnErrorOfEveryReader(t *testing.T) {
	entries := forest(3000)
	s := newStore()
	root, _ := build(t, s, entries)
	var leaves []chunk.ID
	for r := range OpenTree(s, root).Objects(t.Context()) {
		leaves = append(leaves, r.ID)
	}
	delete(s.chunks, leaves[len(leaves)/2])
	tree := OpenTree(s, root)
	var err error
	n := 0
	for _, err = range tree.Walk(t.Context(), "") {
		n++
	}
	if err == nil || n == 1 {
		t.Fatalf("%d entries, then %v", n, err)
	}
	if _, err := tree.Packs(t.Context()); err == nil {
		t.Fatal("packs of half a tree")
	}
}
