package reliance

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"pgregory.net/rapid"
)

func testHead(t testing.TB) Head {
	t.Helper()
	h := Head{
		Format: 1, Vault: "0123456789abcdef0123456789abcdef", Source: "web1", Session: "1f2e3d4c5b6a7988",
		Begin: time.Date(2026, 7, 1, 3, 4, 5, 999, time.FixedZone("", 3600)), Label: "20260701T030405Z",
		State: Complete, Clean: true, Files: 3, Directories: 2, Entries: 5, Bytes: 12345, NewBytes: 99, StoredBytes: 55,
		Previous: strings.Repeat("ab", 32),
	}
	if err := h.SetPacks(roaring.BitmapOf(1, 2, 3, 4, 5, 70000)); err != nil {
		t.Fatal(err)
	}
	return h
}

const golden = `{"format":1,"vault":"0123456789abcdef0123456789abcdef","source":"web1","session":"1f2e3d4c5b6a7988",` +
	`"begin":"2026-07-01T02:04:05Z","label":"20260701T030405Z","state":"complete","clean":true,"files":3,"directories":2,` +
	`"entries":5,"bytes":12345,"new_bytes":99,"stored_bytes":55,` +
	`"previous":"abababababababababababababababababababababababababababababababab",` +
	`"packs":"OzABAAEAAAQAAQAAAAEAAQAEAHAR"}`

func TestHeadIsAFormat(t *testing.T) {
	b, err := testHead(t).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if string(b) != golden {
		t.Fatalf("head\n%s\nwant\n%s", b, golden)
	}
	h, err := Parse([]byte(golden))
	if err != nil {
		t.Fatal(err)
	}
	set, err := h.PackSet()
	if err != nil || !set.Equals(roaring.BitmapOf(1, 2, 3, 4, 5, 70000)) {
		t.Errorf("packs %v %v", set, err)
	}
}

func TestHeadOfTheFutureIsNotDamage(t *testing.T) {
	_, err := Parse([]byte(strings.Replace(golden, `"format":1`, `"format":2,"new":[]`, 1)))
	if !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "written by a newer release of holdfast") {
		t.Errorf("error %v", err)
	}
	_, _, _, err = Unframe([]byte("holdfast-manifest/2 7 something else\nxxx"))
	if !errors.Is(err, ErrNewer) {
		t.Errorf("error %v", err)
	}
}

func TestHeadIsParsedStrictly(t *testing.T) {
	for _, change := range []struct{ from, to string }{
		{`"format":1`, `"format":0`},
		{`"format":1,`, ``},
		{`"vault":"0`, `"vault":"X`},
		{`"web1"`, `"Web1"`},
		{`"web1"`, `""`},
		{`"web1"`, `"-web"`},
		{`"web1"`, `"` + strings.Repeat("a", 64) + `"`},
		{`"1f2e3d4c5b6a7988"`, `"a/b"`},
		{`"complete"`, `"done"`},
		{`T030405Z`, `T036005Z`},
		{`02:04:05Z`, `02:04:05.5Z`},
		{`02:04:05Z`, `03:04:05+01:00`},
		{`"abab`, `"ABab`},
		{`"files":3`, `"files":-3`},
		{`"files":3`, `"files":3.0`},
		{`"files":3`, `"files":3,"files":3`},
		{`"files":3`, `"Files":3`},
		{`"files":3`, `"files":3,"more":1`},
		{`"clean":true,`, ``},
		{`"clean":true,`, ` "clean":true,`},
		{`OzABAAEA`, `OzABAAEB`},
		{`AHAR"`, `AHAR","x":1`},
		{`"packs":"OzABAAEAAAQAAQAAAAEAAQAEAHAR"`, `"packs":null`},
		{`"packs":"OzABAAEAAAQAAQAAAAEAAQAEAHAR"`, `"packs":"AAAA"`},
		{`}`, `}{}`},
	} {
		if !strings.Contains(golden, change.from) {
			t.Fatalf("%q is not in the golden head", change.from)
		}
		if _, err := Parse([]byte(strings.Replace(golden, change.from, change.to, 1))); err == nil {
			t.Errorf("%s for %s was accepted", change.to, change.from)
		}
	}
}

func TestPackSetComesBack(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		set := roaring.New()
		for _, from := range rapid.SliceOfN(rapid.Uint32Range(1, 1<<31), 0, 20).Draw(rt, "from") {
			set.AddRange(uint64(from), uint64(from)+rapid.Uint64Range(1, 20000).Draw(rt, "n"))
		}
		h := testHead(t)
		if err := h.SetPacks(set); err != nil {
			rt.Fatal(err)
		}
		b, err := h.Encode()
		if err != nil {
			rt.Fatal(err)
		}
		back, err := Parse(b)
		if err != nil {
			rt.Fatal(err)
		}
		got, err := back.PackSet()
		if err != nil || !got.Equals(set) {
			rt.Fatalf("%d packs came back as %d (%v)", set.GetCardinality(), got.GetCardinality(), err)
		}
	})
}

func TestFrame(t *testing.T) {
	b := Frame([]byte(golden), []byte("sealed\n\n"), []byte("ring"))
	if !bytes.HasPrefix(b, []byte("holdfast-manifest/1 392 8 4\n{\"format\":1,")) {
		t.Fatalf("%q", b[:60])
	}
	head, sealed, keyring, err := Unframe(b)
	if err != nil || string(head) != golden || string(sealed) != "sealed\n\n" || string(keyring) != "ring" {
		t.Errorf("%q %q %q %v", head, sealed, keyring, err)
	}
	if ID(b) != ID(Frame(head, sealed, keyring)) || len(ID(b)) != 64 {
		t.Error("ID")
	}
	for _, bad := range []string{
		"", "x", "holdfast-manifest/1 0 0 0", "holdfast-manifest/1 0 0 0\n", "holdfast-manifest/1 0 0 0\nx",
		"holdfast-manifest/1 0 0 0\n\nx", "holdfast-manifest/1 00 0 0\n\n", "holdfast-manifest/1 -1 0 0\n\n",
		"holdfast-manifest/1 0 0\n\n", "holdfast-manifest/1 0 0 0 0\n\n", "holdfast-manifest/1  0 0 0\n\n",
		"holdfast-manifest/01 0 0 0\n\n", "holdfast-manifest/0 0 0 0\n\n", "holdfast-manifest/1 0 0 99999999999999999999\n\n",
		"holdfast-manifest/1 9223372036854775807 9223372036854775807 2\n\n",
	} {
		if _, _, _, err := Unframe([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	if _, _, _, err := Unframe([]byte("holdfast-manifest/1 0 0 0\n\n")); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(golden))
	f.Add([]byte(strings.Replace(golden, "OzABAAEAAAQAAQAAAAEAAQAEAHAR", "OjAAAAAAAAA=", 1)))
	f.Add([]byte(`{"format":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := Parse(b)
		if err != nil {
			return
		}
		again, err := h.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%q re-encodes as %q (%v)", b, again, err)
		}
		if _, err := h.PackSet(); err != nil {
			t.Error(err)
		}
	})
}

func FuzzPackSet(f *testing.F) {
	f.Add(testHead(f).Packs)
	f.Fuzz(func(t *testing.T, b []byte) {
		set, err := Head{Packs: b}.PackSet()
		if err != nil || len(b) == 0 {
			return
		}
		var h Head
		if err := h.SetPacks(set); err != nil {
			t.Fatal(err)
		}
		if again, err := h.PackSet(); err != nil || !again.Equals(set) {
			t.Errorf("%x: %v", b, err)
		}
	})
}

func FuzzUnframe(f *testing.F) {
	f.Add(Frame([]byte(golden), []byte("sealed"), []byte("ring")))
	f.Add([]byte("holdfast-manifest/2 1 2 3\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		head, sealed, keyring, err := Unframe(b)
		if err == nil && !bytes.Equal(Frame(head, sealed, keyring), b) {
			t.Errorf("%q has another spelling", b)
		}
	})
}
