package snapshot

import (
	"errors"
	"reflect"
	"slices"
	"testing"
)

func refsOf(n int) []Ref {
	refs := make([]Ref, n)
	for i := range refs {
		refs[i] = refOf(i)
	}
	return refs
}

func listEntry(t testing.TB, s *store, refs []Ref) Entry {
	t.Helper()
	list, packs, err := WriteList(t.Context(), s, slices.Values(refs))
	if err != nil {
		t.Fatal(err)
	}
	return Entry{Name: "big", Kind: File, List: list, ListPacks: packs}
}

func TestListsComeBackInOrder(t *testing.T) {
	for _, n := range []int{1, listMin, 5000, 60_000} {
		s := newStore()
		refs := refsOf(n)
		e := listEntry(t, s, refs)
		if err := e.Check(); err != nil {
			t.Fatal(err)
		}
		var got []Ref
		for r, err := range Chunks(t.Context(), s, e) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, r)
		}
		if !reflect.DeepEqual(got, refs) {
			t.Fatalf("%d references became %d", n, len(got))
		}
		if n == 60_000 && (len(e.List) < 8 || len(e.List) > 30) {
			t.Errorf("%d list chunks", len(e.List))
		}
		// A catalog that names the list relies on the list's packs and on those of its content.
		root, b := build(t, s, []Entry{e})
		packs, err := OpenTree(s, root).Packs(t.Context())
		if err != nil || !packs.Equals(b.Packs()) {
			t.Fatal(err)
		}
		for _, r := range append(slices.Clone(refs), e.List...) {
			if !packs.Contains(r.Pack) {
				t.Fatalf("pack %d is relied on and not named", r.Pack)
			}
		}
	}
	list, packs, err := WriteList(t.Context(), newStore(), slices.Values[[]Ref](nil))
	if list != nil || packs != nil || err != nil {
		t.Fatal(list, packs, err)
	}
	if _, _, err := WriteList(t.Context(), newStore(), slices.Values([]Ref{{}})); err == nil {
		t.Fatal("a chunk of no bytes is listed")
	}
}

func TestAnInsertionInALargeFileMovesFewListChunks(t *testing.T) {
	refs := refsOf(100_000)
	s := newStore()
	listEntry(t, s, refs)
	s.puts = 0
	listEntry(t, s, slices.Insert(refs, 40_000, refOf(1_000_000), refOf(1_000_001)))
	if s.puts > 4 {
		t.Fatalf("%d list chunks are new", s.puts)
	}
	zeros := slices.Repeat([]Ref{refOf(3)}, 50_000) // a sparse file: one chunk again and again
	if e := listEntry(t, s, zeros); len(e.List) != (50_000+listMax-1)/listMax {
		t.Fatalf("%d list chunks of equal references", len(e.List))
	}
}

func TestInlineChunksAreGivenWithoutReading(t *testing.T) {
	e := Entry{Name: "x", Kind: File, Chunks: refsOf(5)}
	var got []Ref
	for r, err := range Chunks(t.Context(), nil, e) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r)
	}
	if !reflect.DeepEqual(got, e.Chunks) {
		t.Fatal(got)
	}
}

func TestAListThatIsNotWhatTheEntrySaysIsDamage(t *testing.T) {
	last := func(e Entry, s *store) (err error) {
		for _, err = range Chunks(t.Context(), s, e) {
			continue
		}
		return err
	}
	s := newStore()
	sound := listEntry(t, s, refsOf(20_000))
	if err := last(sound, s); err != nil {
		t.Fatal(err)
	}
	var d *DamageError
	e := sound
	e.ListPacks = slices.Clone(sound.ListPacks)
	e.ListPacks[3].Bytes++
	if err := last(e, s); !errors.As(err, &d) {
		t.Errorf("a pack with other bytes: %v", err)
	}
	e.ListPacks = sound.ListPacks[1:]
	if err := last(e, s); !errors.As(err, &d) {
		t.Errorf("a pack left out: %v", err)
	}
	e = sound
	e.List = append(slices.Clone(sound.List), refOf(5))
	if err := last(e, s); err == nil {
		t.Error("a list chunk that is not there")
	}
	root, _ := build(t, s, []Entry{dirEntry("", "")})
	e.List = []Ref{root.Ref}
	if err := last(e, s); !errors.As(err, &d) {
		t.Errorf("a leaf as list: %v", err)
	}
	e.List = slices.Clone(sound.List)
	e.List[0].Size--
	if err := last(e, s); !errors.As(err, &d) {
		t.Errorf("a list chunk of another size: %v", err)
	}
}
