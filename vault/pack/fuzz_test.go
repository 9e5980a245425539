package pack

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestAnyBlocksComeBack(t *testing.T) {
	e, d := NewEncoder(), NewDecoder()
	rapid.Check(t, func(t *rapid.T) {
		m := new(memory)
		parity := rapid.Bool().Draw(t, "parity")
		w, err := NewWriter(m, WriterOptions{Number: 7, Keys: epochKeys(3), Parity: parity})
		if err != nil {
			t.Fatal(err)
		}
		numbers := rapid.SliceOfNDistinct(rapid.Uint32(), 1, 6, rapid.ID).Draw(t, "numbers")
		var blocks []testBlock
		var frame []byte
		for _, n := range numbers {
			var contents [][]byte
			for i := range rapid.IntRange(1, 5).Draw(t, "chunks") {
				size := rapid.IntRange(0, 9000).Draw(t, "size")
				if rapid.Bool().Draw(t, "noise") {
					contents = append(contents, noise(uint64(i)+uint64(n), size))
				} else {
					contents = append(contents, text(size))
				}
			}
			b := blockOf(n, contents...)
			if len(b.payload) == 0 {
				b = blockOf(n, []byte{1})
			}
			if frame, err = w.Encode(frame, e, n, b.payload, b.chunks); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Append(frame, n, uint32(len(b.payload)), b.chunks); err != nil {
				t.Fatal(err)
			}
			blocks = append(blocks, b)
		}
		if _, err := w.Finish(); err != nil {
			t.Fatal(err)
		}
		r, err := Open(m, int64(len(m.b)), epochKeys(3))
		if err != nil {
			t.Fatal(err)
		}
		footer, err := r.Footer()
		if err != nil {
			t.Fatal(err)
		}
		for i, at := range footer.Blocks {
			payload, chunks, err := r.ReadBlock(frame, d, at.Offset, at.Stored)
			if err != nil || !bytes.Equal(payload, blocks[i].payload) || !slices.Equal(chunks, blocks[i].chunks) {
				t.Fatalf("block %d: %v", at.Number, err)
			}
		}
		if damages, err := r.Verify(t.Context()); err != nil || len(damages) > 0 {
			t.Fatal(damages, err)
		}
	})
}

// fuzzPack seeds a target with a small pack, cut and whole.
func fuzzPack(f *testing.F, parity bool) []byte {
	m := new(memory)
	w, err := NewWriter(m, WriterOptions{Number: 7, Keys: epochKeys(1), Parity: parity, salt: new([32]byte)})
	if err != nil {
		f.Fatal(err)
	}
	e := NewEncoder()
	for _, b := range someBlocks() {
		add(f, w, e, b)
	}
	if _, err := w.Finish(); err != nil {
		f.Fatal(err)
	}
	return m.b
}

// FuzzPack gives any bytes to everything that reads a whole pack. Checksums are made to match first, so that the
// fuzzer gets behind them.
func FuzzPack(f *testing.F) {
	b := fuzzPack(f, false)
	f.Add(b)
	f.Add(b[:len(b)-70])
	withParity := fuzzPack(f, true)
	f.Add(slices.Concat(withParity[:headerSize], withParity[len(withParity)-tailSize:]))
	f.Add(b[:headerSize])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= headerSize {
			resum(b[:headerSize])
		}
		if len(b) >= headerSize+tailSize {
			resum(b[len(b)-tailSize:])
		}
		if r, err := Open(bytes.NewReader(b), int64(len(b)), epochKeys(1)); err == nil {
			r.Footer()
			if _, err := r.Verify(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if r, err := OpenDamaged(bytes.NewReader(b), int64(len(b)), epochKeys(1)); err == nil {
			r.Footer()
			r.Verify(t.Context())
		}
		for s, err := range Salvage(bytes.NewReader(b), int64(len(b)), epochKeys(1)) {
			if err == nil && len(s.Payload) > MaxPayload {
				t.Error("too large")
			}
		}
		var out bytes.Buffer
		if err := Repair(bytes.NewReader(b), int64(len(b)), &out); err != nil && out.Len() > 0 {
			t.Error("something was written before the error:", err)
		}
	})
}

// FuzzRepair damages a pack in many places at once: whatever is repaired is what it was, byte for byte.
func FuzzRepair(f *testing.F) {
	good := fuzzPack(f, true)
	f.Add([]byte{0, 0, 1, 1})
	f.Add([]byte{0, 0, 1, 1, 1, 0, 0, 255, 0, 0xff, 3, 9})
	f.Fuzz(func(t *testing.T, edits []byte) {
		b := slices.Clone(good)
		for ; len(edits) >= 4; edits = edits[4:] {
			at := int(edits[0])<<16 | int(edits[1])<<8 | int(edits[2])
			b[at%len(b)] ^= edits[3]
		}
		var out bytes.Buffer
		err := Repair(bytes.NewReader(b), int64(len(b)), &out)
		if err != nil && (!isDamage(err) || out.Len() > 0) || err == nil && !bytes.Equal(out.Bytes(), good) {
			t.Errorf("%v, %d bytes written", err, out.Len())
		}
	})
}

// FuzzHeader and FuzzTail: what parses encodes to the same bytes.
func FuzzHeader(f *testing.F) {
	f.Add(fuzzPack(f, false)[:headerSize])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != headerSize {
			return
		}
		resum(b)
		if h, err := parseHeader(b); err == nil {
			if again := h.encode(); !bytes.Equal(again[:], b) {
				t.Errorf("%x parses and encodes to %x", b, again)
			}
		}
	})
}

func FuzzTail(f *testing.F) {
	p := fuzzPack(f, true)
	f.Add(p[len(p)-tailSize:])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != tailSize {
			return
		}
		resum(b)
		tl, err := parseTail("tail", b)
		if err != nil {
			return
		}
		if again := tl.encode(); !bytes.Equal(again[:], b) {
			t.Errorf("%x parses and encodes to %x", b, again)
		}
		if tl.flags&flagParity != 0 && (tl.tableSize() > 8<<20 || int64(tl.data+tl.parity)*tl.cell > maxRowMemory) {
			t.Errorf("%+v would cost much memory", tl)
		}
	})
}

func FuzzFrameHeader(f *testing.F) {
	f.Add(fuzzPack(f, false)[headerSize:][:frameHeaderSize])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < frameHeaderSize {
			return
		}
		resum(b[:frameHeaderSize])
		if h, err := parseFrameHeader("frame", b); err == nil {
			again := make([]byte, frameHeaderSize)
			putFrameHeader(again, h.kind, h.number, h.stored)
			if !bytes.Equal(again, b[:frameHeaderSize]) {
				t.Errorf("%x parses and encodes to %x", b, again)
			}
		}
	})
}

// FuzzBlock gives any plaintext to the block parser, as somebody with the key could.
func FuzzBlock(f *testing.F) {
	w := begin(f, new(memory), false)
	for _, b := range append(someBlocks(), blockOf(9, turns(9_000, 2048))) {
		frame, err := w.Encode(nil, NewEncoder(), b.number, b.payload, b.chunks)
		if err != nil {
			f.Fatal(err)
		}
		plain, err := openFrame(w.aead, "", kindBlock, frame)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(plain)
	}
	d := NewDecoder()
	f.Fuzz(func(t *testing.T, plain []byte) {
		payload, chunks, err := decodeBlock(nil, d, "block", plain)
		if err != nil {
			return
		}
		if err := checkBlock(payload, chunks); err != nil {
			t.Error("a block was read that could not have been written:", err)
		}
	})
}

// FuzzFooter: what parses encodes to the same bytes.
func FuzzFooter(f *testing.F) {
	var plain []byte
	plain = order.AppendUint32(plain, 3)
	end := int64(headerSize)
	for i, b := range someBlocks() {
		plain = appendFooterBlock(plain, b.number, uint32(100+i), uint32(len(b.payload)), b.chunks)
		end += int64(100 + i)
	}
	f.Add(plain, end)
	f.Fuzz(func(t *testing.T, plain []byte, footerAt int64) {
		footer, err := decodeFooter("footer", plain, footerAt)
		if err != nil {
			return
		}
		again := order.AppendUint32(nil, uint32(len(footer.Blocks)))
		for _, b := range footer.Blocks {
			again = appendFooterBlock(again, b.Number, b.Stored, b.Raw, b.Chunks)
		}
		if !bytes.Equal(again, plain) {
			t.Errorf("%x parses and encodes to %x", plain, again)
		}
	})
}
