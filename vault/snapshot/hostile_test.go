package snapshot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-vault/holdfast/vault/chunk"
)

// encodeLeaf and encodeNode write objects as they are told, sound or not.
func encodeLeaf(entries []Entry, uses []PackUse) []byte {
	var body []byte
	for i := range entries {
		if i > 0 && entries[i].Parent == entries[i-1].Parent {
			body = append(body, 0)
		} else {
			body = appendParent(body, entries[i].Parent)
		}
		body = appendBody(body, &entries[i])
	}
	return appendLeaf(nil, len(entries), body, uses)
}

func soundLeaf(entries []Entry) []byte {
	table := packTable{}
	for i := range entries {
		table.addEntry(&entries[i])
	}
	return encodeLeaf(entries, table.sorted())
}

func encodeNode(level int, children []child) []byte {
	var body []byte
	for i := range children {
		body = appendChild(body, &children[i])
	}
	return appendNode(nil, level, len(children), body)
}

func mustPut(t testing.TB, s *store, data []byte) Ref {
	t.Helper()
	r, err := s.Put(t.Context(), data)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// readAll uses every reader on a tree and gives the first error.
func readAll(t testing.TB, tree *Tree) error {
	ctx := t.Context()
	var errs []error
	for _, err := range tree.Walk(ctx, "") {
		errs = append(errs, err)
	}
	for _, err := range tree.List(ctx, "d") {
		if !errors.Is(err, ErrNotDirectory) {
			errs = append(errs, err)
		}
	}
	_, err := tree.Packs(ctx)
	errs = append(errs, err)
	_, _ = tree.Lookup(ctx, "d/x")
	return errors.Join(errs...)
}

func TestHostileTreesEndInDamageAndNeverInALoop(t *testing.T) {
	a, b := []Entry{fileEntry("", "a", 1), fileEntry("", "b", 2)}, []Entry{fileEntry("", "c", 3), fileEntry("d", "x", 4)}
	s := newStore()
	leafA, leafB := mustPut(t, s, soundLeaf(a)), mustPut(t, s, soundLeaf(b))
	childA, childB := child{a[1].key(), leafA, 2}, child{b[1].key(), leafB, 2}
	node := mustPut(t, s, encodeNode(2, []child{childA, childB}))
	root := Root{Ref: node, Depth: 2, Entries: 4, Files: 4}
	if err := readAll(t, OpenTree(s, root)); err != nil {
		t.Fatalf("the sound tree: %v", err)
	}
	with := func(children ...child) Root {
		return Root{Ref: mustPut(t, s, encodeNode(2, children)), Depth: 2, Entries: 4, Files: 4}
	}
	at := func(data []byte, depth int) Root {
		return Root{Ref: mustPut(t, s, data), Depth: depth, Entries: 4, Files: 4}
	}
	// A node whose hash is known beforehand: the store here is told to answer with itself.
	loop := Ref{ID: chunk.ID{0x10}, Size: uint32(len(encodeNode(2, []child{{b[1].key(), Ref{ID: chunk.ID{0x10}, Size: 100, Pack: 1}, 4}})))}
	s.chunks[loop.ID] = encodeNode(2, []child{{b[1].key(), loop, 4}})
	loop.Size = uint32(len(s.chunks[loop.ID]))
	s.chunks[loop.ID] = encodeNode(2, []child{{b[1].key(), loop, 4}})

	short := leafA
	short.Size--
	for name, root := range map[string]Root{
		"a node in itself":              {Ref: loop, Depth: 2, Entries: 4},
		"a node in itself, deeper":      {Ref: loop, Depth: MaxDepth, Entries: 4},
		"a depth beyond the limit":      {Ref: node, Depth: MaxDepth + 1, Entries: 4},
		"a negative depth":              {Ref: node, Depth: -1, Entries: 4},
		"a depth of nothing":            {Depth: 0, Entries: 4},
		"totals without entries":        {Bytes: 5},
		"more files than entries":       {Ref: node, Depth: 2, Entries: 4, Files: 5},
		"a leaf as node":                {Ref: leafA, Depth: 2, Entries: 2},
		"a node as leaf":                {Ref: node, Depth: 1, Entries: 4},
		"a wrong number of entries":     {Ref: node, Depth: 2, Entries: 5},
		"children in wrong order":       with(childB, childA),
		"a child twice":                 with(childA, childA),
		"a wrong last key":              with(child{key{"", "bb"}, leafA, 2}, childB),
		"a wrong count":                 with(child{a[1].key(), leafA, 1}, child{b[1].key(), leafB, 3}),
		"a leaf that begins too early":  with(child{key{"", "b"}, leafA, 2}, child{b[1].key(), mustPut(t, s, soundLeaf([]Entry{a[1], b[1]})), 2}),
		"counts that overflow":          with(child{a[1].key(), leafA, 1<<63 - 1}, child{b[1].key(), leafB, 1<<63 - 1}),
		"an unknown chunk":              with(child{a[1].key(), refOf(99), 2}, childB),
		"a size that does not fit":      with(child{a[1].key(), short, 2}, childB),
		"no children":                   at(encodeNode(2, nil), 2),
		"an empty leaf":                 at(encodeLeaf(nil, nil), 1),
		"a leaf out of order":           at(soundLeaf([]Entry{b[0], a[0], a[1], b[1]}), 1),
		"the same entry twice":          at(soundLeaf([]Entry{a[0], a[0], a[1], b[1]}), 1),
		"a leaf without its pack table": at(encodeLeaf(append(slices.Clone(a), b...), nil), 1),
		"a pack table with one more":    at(encodeLeaf(a, append(packTableOf(a), PackUse{77, 1})), 1),
		"level 0":                       at(encodeNode(0, []child{childA, childB}), 2),
		"a level beyond the limit":      at(encodeNode(MaxDepth+1, []child{childA, childB}), 2),
		"bytes behind a leaf":           at(append(soundLeaf(append(slices.Clone(a), b...)), 0), 1),
		"bytes behind a node":           at(append(encodeNode(2, []child{childA, childB}), 0), 2),
		"no bytes":                      {Ref: Ref{ID: mustPut(t, s, nil).ID, Size: 1}, Depth: 1, Entries: 1},
		"another object":                at([]byte("hello, this is content"), 1),
	} {
		err := readAll(t, OpenTree(s, root))
		if err == nil {
			t.Errorf("%s: nobody noticed", name)
		}
		if errors.Is(err, ErrNewer) {
			t.Errorf("%s: taken for a newer format: %v", name, err)
		}
	}
}

func packTableOf(entries []Entry) []PackUse {
	table := packTable{}
	for i := range entries {
		table.addEntry(&entries[i])
	}
	return table.sorted()
}

func TestALaterFormatIsNotCalledDamage(t *testing.T) {
	entries := []Entry{fileEntry("", "a", 1)}
	leaf, node, list := soundLeaf(entries), encodeNode(2, []child{{entries[0].key(), refOf(1), 1}}), appendList(nil, 1, appendRefs(nil, []Ref{refOf(1)}))
	for _, b := range [][]byte{leaf, node, list} {
		b[1]++
	}
	_, errLeaf := decodeLeaf("leaf", leaf)
	_, errNode := decodeNode("node", node)
	_, errList := decodeList("list", list)
	for _, err := range []error{errLeaf, errNode, errList} {
		var d *DamageError
		if !errors.Is(err, ErrNewer) || errors.As(err, &d) || !strings.Contains(fmt.Sprint(err), "written by a newer release of holdfast") {
			t.Errorf("%v", err)
		}
	}
}

// TestEveryFlippedBitOfALeafIsDamageOrAnotherSoundLeaf: nothing that decodes may encode differently.
func TestEveryFlippedBitDecodesToItselfOrNotAtAll(t *testing.T) {
	entries := []Entry{dirEntry("", ""), fileEntry("", "a", 1), {Parent: "a", Name: "l", Kind: Symlink, Target: "t"}}
	list := fileEntry("a", "m", 4)
	list.List, list.Chunks, list.ListPacks = list.Chunks, nil, []PackUse{{1, 2}, {3, 4}}
	leaf := soundLeaf(append(entries, list))
	node := encodeNode(2, []child{{key{"", "a"}, refOf(1), 3}, {key{"a", "z"}, refOf(2), 9}})
	for _, object := range [][]byte{leaf, node} {
		for i := range len(object) * 8 {
			b := bytes.Clone(object)
			b[i/8] ^= 1 << (i % 8)
			if err := sameAgain(b); err != nil {
				t.Errorf("bit %d of %q: %v", i, object[0], err)
			}
		}
	}
}

// sameAgain decodes an object of any kind and compares its encoding with b.
func sameAgain(b []byte) error {
	var again []byte
	if l, err := decodeLeaf("leaf", b); err == nil {
		again = encodeLeaf(l.entries, l.uses)
	} else if n, err := decodeNode("node", b); err == nil {
		again = encodeNode(n.level, n.children)
	} else if refs, err := decodeList("list", b); err == nil {
		again = appendList(nil, len(refs), appendRefs(nil, refs))
	} else {
		return nil
	}
	if !bytes.Equal(again, b) {
		return fmt.Errorf("%x decodes and encodes to %x", b, again)
	}
	return nil
}

func FuzzDecodeEntry(f *testing.F) {
	list := fileEntry("a/b", "m", 4)
	list.List, list.Chunks, list.ListPacks = list.Chunks, nil, []PackUse{{1, 2}, {3, 4}}
	for _, e := range []Entry{dirEntry("", ""), fileEntry("a", "b", 3), {Name: "l", Kind: Symlink, Target: "\xff", MTime: -5}, list} {
		f.Add(AppendEntry(nil, &e))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, rest, err := DecodeEntry(b)
		if err != nil {
			return
		}
		if again := AppendEntry(nil, &e); !bytes.Equal(again, b[:len(b)-len(rest)]) {
			t.Fatalf("%x decodes and encodes to %x", b, again)
		}
		if err := e.Check(); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzDecodeObjects(f *testing.F) {
	entries := []Entry{dirEntry("", ""), fileEntry("", "a", 1), fileEntry("a", "b", 2)}
	f.Add(soundLeaf(entries))
	f.Add(encodeNode(2, []child{{key{"", "a"}, refOf(1), 3}, {key{"a", "z"}, refOf(2), 9}}))
	f.Add(appendList(nil, 2, appendRefs(nil, []Ref{refOf(1), refOf(2)})))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := sameAgain(b); err != nil {
			t.Fatal(err)
		}
	})
}

func TestTheBytesOfLeavesAndNodesNeverChange(t *testing.T) {
	leaf := soundLeaf([]Entry{{Kind: Directory}, {Parent: "", Name: "a", Kind: File, Size: 5, Chunks: []Ref{{ID: chunk.ID{1}, Size: 5, Pack: 9}}}, {Parent: "d", Name: "b", Kind: Fifo}})
	wantLeaf := "4c0103" + // leaf, version, entries
		"01" + "00" + "02" + "000000000000" + // the root
		"00" + "0161" + "01" + "000000" + "05" + "0000" + "02" + "01" + strings.Repeat("00", 31) + "05" + "09" +
		"0264" + "0162" + "04" + "000000000000" +
		"01" + "09" + "05" // pack table
	if got := fmt.Sprintf("%x", leaf); got != wantLeaf {
		t.Errorf("leaf\n got %s\nwant %s", got, wantLeaf)
	}
	node := encodeNode(2, []child{{key{"d", "b"}, Ref{ID: chunk.ID{2}, Size: 300, Pack: 1}, 3}})
	if got, want := fmt.Sprintf("%x", node), "4e010201"+"0164"+"0162"+"02"+strings.Repeat("00", 31)+"ac02"+"01"+"03"; got != want {
		t.Errorf("node\n got %s\nwant %s", got, want)
	}
	list := appendList(nil, 1, appendRefs(nil, []Ref{{ID: chunk.ID{3}, Size: 1, Pack: 2}}))
	if got, want := fmt.Sprintf("%x", list), "520101"+"03"+strings.Repeat("00", 31)+"01"+"02"; got != want {
		t.Errorf("list\n got %s\nwant %s", got, want)
	}
}

// TestTheBoundsNeverChange pins where leaves end: moved bounds would store every catalog anew.
func TestTheBoundsNeverChange(t *testing.T) {
	b := NewBuilder(newStore(), testKey)
	var ends []int
	for i := range 4000 {
		if b.bound(0, key{"dir", fmt.Sprintf("%04d", i)}) {
			ends = append(ends, i)
		}
	}
	h := fmt.Sprint(ends[:8], len(ends))
	if want := "[77 95 103 115 144 148 284 566] 26"; h != want {
		t.Errorf("bounds at %s, want %s", h, want)
	}
	if binary.BigEndian.Uint64([]byte{0x01, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55}) != boundLimit {
		t.Errorf("the limit is %x", uint64(boundLimit))
	}
}
