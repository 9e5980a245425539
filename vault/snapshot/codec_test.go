package snapshot

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// nameGen draws names of all kinds of bytes but NUL and '/', often alike, often not UTF-8.
func nameGen() *rapid.Generator[string] {
	plain := rapid.SampledFrom([]string{"a", "b", "c", "a!", "a\x01", "a.b", "ab", "\xff", "\xffa", "ä", "\u202e", "-", "~"})
	bytes := rapid.Map(rapid.SliceOfN(rapid.Byte(), 1, 12), func(b []byte) string {
		for i := range b {
			if b[i] == 0 || b[i] == '/' {
				b[i] = 'x'
			}
		}
		return string(b)
	})
	return rapid.OneOf(plain, bytes).Filter(validName)
}

func refGen() *rapid.Generator[Ref] {
	return rapid.Custom(func(t *rapid.T) Ref {
		var r Ref
		copy(r.ID[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "id"))
		r.Size = rapid.Uint32Range(1, maxRefSize).Draw(t, "size")
		r.Pack = rapid.Uint32Range(0, 50).Draw(t, "pack")
		return r
	})
}

// entryGen draws entries that may stand at (parent, name).
func entryGen(parent, name string) *rapid.Generator[Entry] {
	return rapid.Custom(func(t *rapid.T) Entry {
		e := Entry{
			Parent: parent, Name: name, Kind: Directory,
			Mode:  rapid.Uint32Range(0, MaxMode).Draw(t, "mode"),
			UID:   rapid.Uint32().Draw(t, "uid"),
			GID:   rapid.Uint32().Draw(t, "gid"),
			Size:  rapid.Uint64().Draw(t, "size") >> rapid.IntRange(0, 63).Draw(t, "shift"),
			MTime: rapid.Int64().Draw(t, "mtime"),
			Flags: Flags(rapid.Uint32().Draw(t, "flags")),
		}
		if name != "" {
			e.Kind = Kind(rapid.IntRange(1, int(kindEnd)-1).Draw(t, "kind"))
		}
		switch e.Kind {
		case Symlink:
			e.Target = rapid.String().Draw(t, "target")
		case File:
			refs := rapid.SliceOfN(refGen(), 0, 5).Draw(t, "refs")
			if len(refs) == 0 {
				break
			}
			if e.Chunks = refs; rapid.Bool().Draw(t, "list") {
				e.Chunks, e.List = nil, refs
				table := packTable{7: 9}
				table.addRefs(refs)
				e.ListPacks = table.sorted()
			}
		}
		return e
	})
}

func TestEntriesComeBackAsTheyWere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := nameGen().Draw(t, "name")
		e := entryGen(strings.Join(rapid.SliceOfN(nameGen(), 0, 4).Draw(t, "parent"), "/"), name).Draw(t, "entry")
		b := AppendEntry([]byte("before"), &e)
		got, rest, err := DecodeEntry(append(b, "behind"...)[6:])
		if err != nil || string(rest) != "behind" || !reflect.DeepEqual(got, e) {
			t.Fatalf("%v, rest %q\n got %+v\nwant %+v", err, rest, got, e)
		}
		for cut := range len(b) - 6 {
			if _, _, err := DecodeEntry(b[6 : 6+cut]); err == nil {
				t.Fatalf("cut after %d of %d bytes, and it decodes", cut, len(b)-6)
			}
		}
	})
}

// TestTheBytesOfAnEntryNeverChange pins the format: what an older release wrote must decode for ever.
func TestTheBytesOfAnEntryNeverChange(t *testing.T) {
	for _, c := range []struct {
		name  string
		entry Entry
		want  string
	}{
		{"root", Entry{Kind: Directory, Mode: 0o755, UID: 1, GID: 2, MTime: 1_700_000_000}, "0100" + "02" + "ed03" + "01" + "02" + "00" + "80c49fd50c" + "00"},
		{"symlink", Entry{Parent: "a/b", Name: "l\xff", Kind: Symlink, Mode: 0o777, MTime: -1, Flags: Racy, Target: "../x"},
			"04612f62" + "026cff" + "03" + "ff03" + "00" + "00" + "00" + "01" + "01" + "042e2e2f78"},
		{"file", Entry{Name: "f", Kind: File, Mode: 0o4755, Size: 300, Flags: Changed | Resumed, Chunks: []Ref{{ID: [32]byte{0xaa, 31: 0xbb}, Size: 300, Pack: 7}}},
			"01" + "0166" + "01" + "ed13" + "00" + "00" + "ac02" + "00" + "12" + "02" + "aa" + strings.Repeat("00", 30) + "bb" + "ac02" + "07"},
		{"large file", Entry{Name: "g", Kind: File, List: []Ref{{ID: [32]byte{1}, Size: 5, Pack: 2}}, ListPacks: []PackUse{{3, 10}, {500, 1 << 40}}},
			"01" + "0167" + "01" + "00" + "00" + "00" + "00" + "00" + "00" + "03" + "01" + strings.Repeat("00", 31) + "05" + "02" + "02" + "03" + "0a" + "f103" + "808080808020"},
	} {
		b := AppendEntry(nil, &c.entry)
		if got := hex.EncodeToString(b); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
		if e, rest, err := DecodeEntry(b); err != nil || len(rest) > 0 || !reflect.DeepEqual(e, c.entry) {
			t.Errorf("%s: %v %+v", c.name, err, e)
		}
	}
}

func TestEntriesThatCannotBeAreRefusedByWriterAndReader(t *testing.T) {
	ref := refOf(1)
	many := make([]Ref, InlineChunks+1)
	for i := range many {
		many[i] = refOf(i)
	}
	for what, e := range map[string]Entry{
		"no kind":               {Name: "x"},
		"a kind of later":       {Name: "x", Kind: kindEnd},
		"a root that is a file": {Kind: File},
		"no name in a parent":   {Parent: "a", Kind: Directory},
		"the name .":            {Name: ".", Kind: File},
		"the name ..":           {Name: "..", Kind: File},
		"a slash in the name":   {Name: "a/b", Kind: File},
		"NUL in the name":       {Name: "a\x00", Kind: File},
		"an absolute parent":    {Parent: "/a", Name: "x", Kind: File},
		"a parent ending in /":  {Parent: "a/", Name: "x", Kind: File},
		"// in the parent":      {Parent: "a//b", Name: "x", Kind: File},
		".. in the parent":      {Parent: "a/../b", Name: "x", Kind: File},
		"NUL in the parent":     {Parent: "a\x00", Name: "x", Kind: File},
		"a long name":           {Name: strings.Repeat("x", MaxName+1), Kind: File},
		"a long parent":         {Parent: strings.Repeat("x/", MaxParent/2) + "xx", Name: "x", Kind: File},
		"a long target":         {Name: "x", Kind: Symlink, Target: strings.Repeat("x", MaxTarget+1)},
		"mode bits of the kind": {Name: "x", Kind: File, Mode: 0o100644},
		"too many chunks":       {Name: "x", Kind: File, Chunks: many},
		"a chunk of no bytes":   {Name: "x", Kind: File, Chunks: []Ref{{}}},
		"a chunk too large":     {Name: "x", Kind: File, Chunks: []Ref{{Size: maxRefSize + 1}}},
		"a list without packs":  {Name: "x", Kind: File, List: []Ref{ref}},
		"packs out of order":    {Name: "x", Kind: File, List: []Ref{ref}, ListPacks: []PackUse{{2, 1}, {1, 1}}},
		"a pack twice":          {Name: "x", Kind: File, List: []Ref{ref}, ListPacks: []PackUse{{2, 1}, {2, 1}}},
		"a pack of no bytes":    {Name: "x", Kind: File, List: []Ref{ref}, ListPacks: []PackUse{{2, 0}}},
	} {
		var d *DamageError
		if err := e.Check(); !errors.As(err, &d) {
			t.Errorf("%s: Check says %v", what, err)
		}
		if got, _, err := DecodeEntry(AppendEntry(nil, &e)); !errors.As(err, &d) {
			t.Errorf("%s: decodes to %+v, %v", what, got, err)
		}
	}
	// Only the writer can hold these.
	for what, e := range map[string]Entry{
		"content of a directory": {Name: "x", Kind: Directory, Chunks: []Ref{ref}},
		"a target of a file":     {Name: "x", Kind: File, Target: "y"},
		"chunks and a list":      {Name: "x", Kind: File, Chunks: []Ref{ref}, List: []Ref{ref}, ListPacks: []PackUse{{1, 1}}},
		"packs without a list":   {Name: "x", Kind: File, ListPacks: []PackUse{{1, 1}}},
	} {
		if err := e.Check(); err == nil {
			t.Errorf("%s: nothing is said", what)
		}
	}
}

func TestAnnouncedLengthsAllocateNothing(t *testing.T) {
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0x0f}
	for what, b := range map[string][]byte{
		"references": append([]byte{1, 1, 'x', 1, 0, 0, 0, 0, 0, 0}, huge...),
		"list":       append([]byte{1, 1, 'x', 1, 0, 0, 0, 0, 0, 0}, 0xfd, 0xff, 0xff, 0xff, 0x0f),
		"name":       append([]byte{1}, huge...),
		"parent":     huge,
	} {
		if n := testing.AllocsPerRun(10, func() {
			if _, _, err := DecodeEntry(b); err == nil {
				t.Errorf("%s: it decodes", what)
			}
		}); n > 30 {
			t.Errorf("%s: %v allocations", what, n)
		}
	}
	for _, kind := range []byte{leafKind, listKind} {
		b := append([]byte{kind, 1}, huge...)
		if _, err := decodeLeaf("leaf", b); err == nil {
			t.Error("a leaf of 2^32 entries in no bytes")
		}
		if _, err := decodeList("list", b); err == nil {
			t.Error("a list of 2^32 references in no bytes")
		}
	}
}

func TestNumbersHaveOneForm(t *testing.T) {
	e := Entry{Name: "x", Kind: Fifo, UID: 5}
	b := AppendEntry(nil, &e)
	i := bytes.IndexByte(b, 5)
	long := append(append(bytes.Clone(b[:i]), 0x85, 0x00), b[i+1:]...)
	if _, _, err := DecodeEntry(long); err == nil {
		t.Fatal("a number padded with zeros is accepted")
	}
	d := decoder{what: "x", p: []byte{0xff, 0xff, 0xff, 0xff, 0x1f}}
	if d.uint32(); d.err == nil {
		t.Fatal("33 bits in 32")
	}
	for _, v := range []int64{0, 1, -1, math.MaxInt64, math.MinInt64} {
		e.MTime = v
		if got, _, err := DecodeEntry(AppendEntry(nil, &e)); err != nil || got.MTime != v {
			t.Errorf("mtime %d: %d %v", v, got.MTime, err)
		}
	}
}

func TestCompareIsAnOrderInWhichSubtreesAreContiguous(t *testing.T) {
	ordered := []key{
		{"", ""}, {"", "\x01"}, {"", "a"}, {"", "a!"}, {"", "ab"}, {"\x01", "z"}, {"a", "a"}, {"a", "z"}, {"a/\x01", "x"}, {"a/b", "x"},
		{"a/b/c", "x"}, {"a/\xff", "x"}, {"a\x01", "x"}, {"a!", "x"}, {"a.b", "x"}, {"ab", "x"}, {"\xff", "\xff"},
	}
	for i := range ordered {
		for j := range ordered {
			got, want := ordered[i].compare(ordered[j]), 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			if got != want {
				t.Errorf("%q against %q: %d, want %d", ordered[i], ordered[j], got, want)
			}
		}
	}
}

func TestSplitUndoesPath(t *testing.T) {
	for _, k := range []key{{"", ""}, {"", "a"}, {"a", "b"}, {"a/b", "c"}, {"\xff", "\xfe"}} {
		p, n := Split(Entry{Parent: k.parent, Name: k.name}.Path())
		if p != k.parent || n != k.name {
			t.Errorf("%q became %q %q", k, p, n)
		}
	}
}
