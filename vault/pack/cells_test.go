package pack

import (
	"bytes"
	"encoding/hex"
	"os"
	"testing"

	"pgregory.net/rapid"
)

// turns is text and noise by turns, so many bytes of each.
func turns(n int, lengths ...int) (out []byte) {
	for i := 0; len(out) < n; i++ {
		length := lengths[i%len(lengths)]
		if i%2 == 0 {
			out = append(out, text(length)...)
		} else {
			out = append(out, noise(uint64(i), length)...)
		}
	}
	return out[:n]
}

func codecOf(t testing.TB, payload []byte) byte {
	t.Helper()
	_, codec := NewEncoder().compress(nil, payload)
	return codec
}

// An archive of pictures and notes must not be compressed worse than its parts.
func TestNoiseIsCompressedApart(t *testing.T) {
	payload := turns(1<<20, 12<<10, 12<<10)
	e := NewEncoder()
	apart, codec := e.compress(nil, payload)
	whole := e.zstd.EncodeAll(payload, nil)
	if codec != codecApart || len(apart) >= len(whole) {
		t.Errorf("codec %d, %d bytes; together %d", codec, len(apart), len(whole))
	}
	for name, c := range map[string]struct {
		payload []byte
		codec   byte
	}{
		"text":          {text(1 << 20), codecZstd},
		"noise":         {noise(1, 1<<20), codecRaw},
		"a little text": {append(noise(1, 1<<20), text(20_000)...), codecZstd},
		"noise again":   {append(noise(1, 100_000), noise(1, 100_000)...), codecZstd},
		"short":         {append(text(100), noise(1, 100)...), codecZstd},
	} {
		if got := codecOf(t, c.payload); got != c.codec {
			t.Errorf("%s: codec %d, not %d", name, got, c.codec)
		}
	}
}

// Whatever the writer guesses, what is read back is what was given.
func TestApartGivesBackWhatWasGiven(t *testing.T) {
	e, d := NewEncoder(), NewDecoder()
	seen := map[byte]int{}
	rapid.Check(t, func(t *rapid.T) {
		lengths := rapid.SliceOfN(rapid.IntRange(1, 40_000), 1, 8).Draw(t, "lengths")
		payload := turns(rapid.IntRange(1, 300_000).Draw(t, "bytes"), lengths...)
		body, codec := e.compress(nil, payload)
		seen[codec]++
		got, err := d.expand(nil, codec, uint32(len(payload)), body)
		if err != nil || !bytes.Equal(got, payload) {
			t.Fatalf("codec %d: %d bytes came back as %d: %v", codec, len(payload), len(got), err)
		}
	})
	if seen[codecApart] == 0 {
		t.Errorf("never apart: %v", seen)
	}
}

// A block that is damaged before it is encrypted, or made by somebody with the key, is refused and never read as something else.
func TestHostileCellsAreRefused(t *testing.T) {
	const raw = 3*cellBytes + 10
	body := func(bitmap byte, codec0 byte, text []byte, length int, codec1 byte, noise []byte) []byte {
		b := append([]byte{bitmap, codec0}, order.AppendUint32(nil, uint32(length))...)
		return append(append(append(b, text...), codec1), noise...)
	}
	cellsOf := func(n int) []byte { return make([]byte, n) }
	d := NewDecoder()
	if _, err := d.merge(nil, raw, body(2, codecRaw, cellsOf(raw-cellBytes), raw-cellBytes, codecRaw, cellsOf(cellBytes))); err != nil {
		t.Fatal("a good one:", err)
	}
	for name, b := range map[string][]byte{
		"nothing":            {},
		"bitmap alone":       {2},
		"no noise":           body(0, codecRaw, cellsOf(raw), raw, codecRaw, nil),
		"no text":            body(15, codecRaw, nil, 0, codecRaw, cellsOf(raw)),
		"a fifth cell":       body(2|16, codecRaw, cellsOf(raw-cellBytes), raw-cellBytes, codecRaw, cellsOf(cellBytes)),
		"text short":         body(2, codecRaw, cellsOf(raw-cellBytes-1), raw-cellBytes-1, codecRaw, cellsOf(cellBytes)),
		"text long":          body(2, codecRaw, cellsOf(raw-cellBytes+1), raw-cellBytes+1, codecRaw, cellsOf(cellBytes)),
		"noise short":        body(2, codecRaw, cellsOf(raw-cellBytes), raw-cellBytes, codecRaw, cellsOf(cellBytes-1)),
		"noise long":         body(2, codecRaw, cellsOf(raw-cellBytes), raw-cellBytes, codecRaw, cellsOf(cellBytes+1)),
		"length beyond":      body(2, codecRaw, cellsOf(raw-cellBytes), 1<<31, codecRaw, cellsOf(cellBytes)),
		"length to the end":  body(2, codecRaw, cellsOf(raw-cellBytes), raw+1, codecRaw, cellsOf(cellBytes)),
		"not zstd":           body(2, codecZstd, cellsOf(raw-cellBytes), raw-cellBytes, codecRaw, cellsOf(cellBytes)),
		"bomb":               body(2, codecRaw, cellsOf(raw-cellBytes), raw-cellBytes, codecZstd, NewEncoder().zstd.EncodeAll(make([]byte, 8<<20), nil)),
		"text within itself": body(2, codecApart, cellsOf(raw-cellBytes), raw-cellBytes, codecRaw, cellsOf(cellBytes)),
		"noise of codec 9":   body(2, codecRaw, cellsOf(raw-cellBytes), raw-cellBytes, 9, cellsOf(cellBytes)),
		"last cell is noise": body(8, codecRaw, cellsOf(raw-cellBytes), raw-cellBytes, codecRaw, cellsOf(cellBytes)),
	} {
		if got, err := d.expand(nil, codecApart, raw, b); err == nil {
			t.Errorf("%s: %d bytes came back", name, len(got))
		}
	}
}

// A pack that an early release compressed apart must be readable for ever.
func TestApartPackOfVersion1IsRead(t *testing.T) {
	blocks := []testBlock{blockOf(0, turns(30_000, 5000, 7000)), blockOf(1, turns(9_000, 2048), noise(4, 6_000), text(77))}
	if *update {
		if err := os.WriteFile("testdata/v1-apart.pack", written(t, false, blocks...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile("testdata/v1-apart.pack")
	if err != nil {
		t.Fatal(err)
	}
	holds(t, b, blocks...)
	for _, block := range blocks {
		if codec := codecOf(t, block.payload); codec != codecApart {
			t.Errorf("block %d has codec %d: it proves nothing", block.number, codec)
		}
	}
}

// The layout that docs/format/pack.md draws.
func TestBytesOfABlockThatIsApart(t *testing.T) {
	short, shortNoise := text(cellBytes), noise(1, cellBytes)
	payload := append(append([]byte{}, short...), shortNoise...)
	got, codec := NewEncoder().compress(nil, payload)
	z := NewEncoder().zstd.EncodeAll(short, nil)
	want := append([]byte{0b10, codecZstd}, order.AppendUint32(nil, uint32(len(z)))...)
	want = append(append(append(want, z...), codecRaw), shortNoise...)
	if codec != codecApart || !bytes.Equal(got, want) {
		t.Errorf("codec %d: %s", codec, hex.EncodeToString(got[:64]))
	}
}

// TestDecodingLosesSomeOfTheRoom: whoever lends room for blocks uses it again, and knows by its size where it belongs.
func TestDecodingLosesSomeOfTheRoom(t *testing.T) {
	for name, payload := range map[string][]byte{"text": text(300_000), "noise": noise(1, 300_000), "both": turns(300_000, 12<<10, 12<<10)} {
		b := blockOf(0, payload)
		r := opened(t, written(t, true, b))
		f, err := r.Footer()
		if err != nil {
			t.Fatal(err)
		}
		room := make([]byte, 0, 512<<10)
		got, _, err := r.ReadBlock(room, NewDecoder(), f.Blocks[0].Offset, f.Blocks[0].Stored)
		if err != nil || !bytes.Equal(got, payload) {
			t.Fatalf("%s: %d bytes, %v", name, len(got), err)
		}
		if cap(got) != cap(room) || &got[0] != &room[:1][0] {
			t.Errorf("%s: %d bytes of room became %d", name, cap(room), cap(got))
		}
	}
}
