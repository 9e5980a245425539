package pack

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"io"
	"runtime"
	"slices"
	"testing"
)

// findDamage opens and verifies; it returns what is wrong, as `check` would list it.
func findDamage(t testing.TB, b []byte) (where []string) {
	t.Helper()
	r, err := Open(bytes.NewReader(b), int64(len(b)), epochKeys(1))
	if err != nil {
		if !isDamage(err) {
			t.Fatalf("damage is not called damage: %v", err)
		}
		return []string{err.Error()}
	}
	damages, err := r.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range damages {
		where = append(where, d.Error())
	}
	return where
}

// No byte may be uncovered: every single one is flipped in turn, in header, frames, footer, tails, tables and parity.
func TestEverySingleFlippedByteIsFound(t *testing.T) {
	for _, parity := range []bool{false, true} {
		b := written(t, parity, someBlocks()...)
		if found := findDamage(t, b); found != nil {
			t.Fatal("the intact pack is called damaged:", found)
		}
		step := 1
		if testing.Short() || raceEnabled {
			step = 37
		}
		for i := 0; i < len(b); i += step {
			b[i] ^= 0xff
			if findDamage(t, b) == nil {
				t.Fatalf("parity %v: byte %d of %d flipped and not found", parity, i, len(b))
			}
			b[i] ^= 0xff
		}
		for bit := range 8 * 72 {
			b[bit/8] ^= 1 << (bit % 8)
			if findDamage(t, b) == nil {
				t.Fatalf("bit %d of the header flipped and not found", bit)
			}
			b[bit/8] ^= 1 << (bit % 8)
		}
	}
}

func TestCutOrGrownPackIsFound(t *testing.T) {
	b := written(t, true, someBlocks()...)
	for _, n := range []int{0, 1, headerSize - 1, headerSize, headerSize + 1, len(b) / 2, len(b) - 1} {
		if findDamage(t, b[:n:n]) == nil {
			t.Errorf("a pack cut at %d of %d is not found", n, len(b))
		}
	}
	if findDamage(t, append(slices.Clone(b), 0)) == nil {
		t.Error("an appended byte is not found")
	}
}

func TestDamagedBlockIsNamedWithItsChunks(t *testing.T) {
	b := written(t, true, someBlocks()...)
	footer, err := opened(t, b).Footer()
	if err != nil {
		t.Fatal(err)
	}
	b[footer.Blocks[1].Offset+100] ^= 1
	damages, err := opened(t, b).Verify(t.Context())
	if err != nil || len(damages) != 1 {
		t.Fatal(damages, err)
	}
	if d := damages[0]; d.Block == nil || !slices.Equal(d.Block.Chunks, someBlocks()[1].chunks) {
		t.Fatalf("%v does not name the chunks", d)
	}
}

func TestDamagedFooterHidesNoDamagedBlock(t *testing.T) {
	b := written(t, true, someBlocks()...)
	r := opened(t, b)
	footer, err := r.Footer()
	if err != nil {
		t.Fatal(err)
	}
	b[r.tail.footerAt+20] ^= 1
	b[footer.Blocks[2].Offset+20] ^= 1
	if found := findDamage(t, b); len(found) != 2 {
		t.Fatalf("found %q", found)
	}
	b[footer.Blocks[1].Offset] ^= 1 // no frame leads on from here
	if found := findDamage(t, b); len(found) != 2 {
		t.Fatalf("found %q", found)
	}
}

func TestBadSectorIsDamageAndVerifyGoesOn(t *testing.T) {
	b := written(t, true, someBlocks()...)
	r := &badSector{Reader: bytes.NewReader(b), from: 300, to: 310}
	p, err := Open(r, int64(len(b)), epochKeys(1))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	damages, err := p.VerifyEach(t.Context(), func(Block, []byte) error { seen++; return nil })
	if err != nil || len(damages) == 0 || seen != 2 {
		t.Fatalf("%v, %v, %d blocks seen", damages, err, seen)
	}
}

// badSector fails reads that touch a part of the file.
type badSector struct {
	*bytes.Reader
	from, to int64
}

var errMedium = errors.New("input/output error")

func (r *badSector) ReadAt(p []byte, off int64) (int, error) {
	if off < r.to && off+int64(len(p)) > r.from {
		return 0, errMedium
	}
	return r.Reader.ReadAt(p, off)
}

func TestVerifyStopsWhenToldTo(t *testing.T) {
	r := opened(t, written(t, true, someBlocks()...))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Verify(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	stop := errors.New("enough")
	if _, err := r.VerifyEach(t.Context(), func(Block, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Fatal(err)
	}
}

// resum makes a changed header or tail consistent again, as a writer of that version would.
func resum(b []byte) {
	order.PutUint32(b[len(b)-4:], crc32.Checksum(b[:len(b)-4], castagnoli))
}

func TestFutureVersionIsNotCalledDamage(t *testing.T) {
	for name, bend := range map[string]func(part []byte){
		"version": func(part []byte) { order.PutUint16(part[8:], 2) },
		"flag":    func(part []byte) { order.PutUint16(part[10:], 4) },
	} {
		b := written(t, true, someBlocks()...)
		bend(b[:headerSize])
		resum(b[:headerSize])
		if _, err := Open(bytes.NewReader(b), int64(len(b)), epochKeys(1)); !errors.Is(err, ErrNewer) || isDamage(err) {
			t.Errorf("header, %s: %v", name, err)
		}
		for _, err := range Salvage(bytes.NewReader(b), int64(len(b)), epochKeys(1)) {
			if !errors.Is(err, ErrNewer) {
				t.Errorf("salvage, %s: %v", name, err)
			}
		}
		b = written(t, true, someBlocks()...)
		last := b[len(b)-tailSize:]
		bend(last)
		resum(last)
		if _, err := Open(bytes.NewReader(b), int64(len(b)), epochKeys(1)); !errors.Is(err, ErrNewer) || isDamage(err) {
			t.Errorf("tail, %s: %v", name, err)
		}
		if _, err := OpenDamaged(bytes.NewReader(b), int64(len(b)), epochKeys(1)); !errors.Is(err, ErrNewer) {
			t.Errorf("tail of a damaged one, %s: %v", name, err)
		}
		if err := Repair(bytes.NewReader(b), int64(len(b)), io.Discard); !errors.Is(err, ErrNewer) {
			t.Errorf("repair, %s: %v", name, err)
		}
	}
}

func TestPackWithoutATailStillGivesItsBlocks(t *testing.T) {
	for _, parity := range []bool{false, true} {
		for name, hurt := range map[string]func(b []byte) []byte{
			"flipped":  func(b []byte) []byte { b[len(b)-3] ^= 1; return b },
			"cut":      func(b []byte) []byte { return b[:len(b)-10] },
			"appended": func(b []byte) []byte { return append(b, "more"...) },
		} {
			b := hurt(written(t, parity, someBlocks()...))
			r, err := OpenDamaged(bytes.NewReader(b), int64(len(b)), epochKeys(1))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if f, err := r.Footer(); err != nil || len(f.Blocks) != 3 {
				t.Errorf("%s: footer %v %v", name, f, err)
			}
			if damages, err := r.Verify(t.Context()); err != nil || len(damages) == 0 {
				t.Errorf("%s: verify finds %v, %v", name, damages, err)
			}
		}
	}
	// Both tails lost: the footer is found by way of the frames.
	b := written(t, true, someBlocks()...)
	r := opened(t, b)
	clear(b[r.tail.dataEnd():][:tailSize])
	clear(b[len(b)-tailSize:])
	r, err := OpenDamaged(bytes.NewReader(b), int64(len(b)), epochKeys(1))
	if err != nil {
		t.Fatal(err)
	}
	if f, err := r.Footer(); err != nil || len(f.Blocks) != 3 {
		t.Error(f, err)
	}
	if damages, err := r.Verify(t.Context()); err != nil || len(damages) < 2 {
		t.Error(damages, err)
	}
}

// A pack cut by a crash at any byte gives every block that is complete, and nothing else.
func TestEveryTruncationIsSalvagedToTheLastCompleteBlock(t *testing.T) {
	blocks := someBlocks()
	b := written(t, true, blocks...)
	footer, err := opened(t, b).Footer()
	if err != nil {
		t.Fatal(err)
	}
	step := 1
	if testing.Short() || raceEnabled {
		step = 61
	}
	for n := 0; n <= len(b); n += step {
		want := 0
		for _, at := range footer.Blocks {
			if at.Offset+int64(at.Stored) <= int64(n) {
				want++
			}
		}
		got := 0
		for s, err := range Salvage(bytes.NewReader(b[:n]), int64(n), epochKeys(1)) {
			if err != nil {
				t.Fatalf("cut at %d: %v", n, err)
			}
			if !bytes.Equal(s.Payload, blocks[got].payload) || !slices.Equal(s.Chunks, blocks[got].chunks) || s.Number != blocks[got].number {
				t.Fatalf("cut at %d: block %d is not what was written", n, got)
			}
			got++
		}
		if got != want {
			t.Fatalf("cut at %d: %d blocks of %d", n, got, want)
		}
		if n > 4*headerSize+int(footer.Blocks[2].Offset) && step == 1 {
			step = 211 // behind the blocks little changes
		}
	}
}

// A power cut may leave holes: the length is there, the bytes are not.
func TestHolesOfAPowerCutAreLeftOut(t *testing.T) {
	blocks := someBlocks()
	b := written(t, true, blocks...)
	footer, err := opened(t, b).Footer()
	if err != nil {
		t.Fatal(err)
	}
	hole := slices.Clone(b)
	at := footer.Blocks[1]
	clear(hole[at.Offset+frameHeaderSize : at.Offset+int64(at.Stored)])
	var got []uint32
	for s, err := range Salvage(bytes.NewReader(hole), int64(len(hole)), epochKeys(1)) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, s.Number)
	}
	if !slices.Equal(got, []uint32{0, 2}) {
		t.Errorf("a hole in block 1 leaves %v", got)
	}
	clear(hole)
	for range Salvage(bytes.NewReader(hole), int64(len(hole)), epochKeys(1)) {
		t.Error("a file of zeros gave something")
	}
}

func TestSalvageSaysWhenItCannot(t *testing.T) {
	b := written(t, true, someBlocks()...)
	count := func(r io.ReaderAt, size int64, k KeySource) (n int, last error) {
		for _, err := range Salvage(r, size, k) {
			n, last = n+1, err
		}
		return n, last
	}
	if _, err := count(bytes.NewReader(b), int64(len(b)), epochKeys(0)); err == nil || isDamage(err) {
		t.Error("without the key:", err)
	}
	if _, err := count(&badSector{Reader: bytes.NewReader(b), from: 100, to: 200}, int64(len(b)), epochKeys(1)); !errors.Is(err, errMedium) {
		t.Error("bad sector:", err)
	}
	b[9] ^= 3
	if _, err := count(bytes.NewReader(b), int64(len(b)), epochKeys(1)); !isDamage(err) {
		t.Error("damaged header:", err)
	}
	for range Salvage(bytes.NewReader(nil), 0, epochKeys(1)) {
		t.Error("an empty file gave something")
	}
}

// bomb seals any plaintext as a block of a pack, as somebody who has the key could.
func bomb(t *testing.T, plain []byte) (pack []byte, stored uint32) {
	t.Helper()
	m := new(memory)
	w := begin(t, m, false)
	frame := sealFrame(w.aead, kindBlock, 0, append(make([]byte, frameHeaderSize), plain...))
	m.Write(frame)
	return m.b, uint32(len(frame))
}

func TestHostileLengthsCostNoMemory(t *testing.T) {
	zeros := NewEncoder().zstd.EncodeAll(make([]byte, 64<<20), nil)
	row := hex.EncodeToString(make([]byte, 32)) + "00000004"
	for name, plain := range map[string]string{
		"bomb":              "01" + "00000004" + "00000001" + row + hex.EncodeToString(zeros),
		"payload too large": "01" + "ffffffff" + "00000001" + row + "00",
		"too many chunks":   "00" + "00000004" + "ffffffff" + row + "00000000",
		"more chunks":       "00" + "00000004" + "00000002" + row + "00000000",
		"no chunk":          "00" + "00000004" + "00000000" + "00000000",
		"empty payload":     "00" + "00000000" + "00000001" + row,
		"chunks too short":  "00" + "00000005" + "00000001" + row + "0000000000",
		"raw too short":     "00" + "00000004" + "00000001" + row + "000000",
		"raw too long":      "00" + "00000004" + "00000001" + row + "0000000000",
		"no codec":          "03" + "00000004" + "00000001" + row + "00000000",
		"not zstd":          "01" + "00000004" + "00000001" + row + "00000000",
		"cut":               "0000",
		"nothing":           "",
	} {
		b, err := hex.DecodeString(plain)
		if err != nil {
			t.Fatal(err)
		}
		b, stored := bomb(t, b)
		p, err := openHead(bytes.NewReader(b), int64(len(b)), epochKeys(1))
		if err != nil {
			t.Fatal(err)
		}
		payload, _, err := p.ReadBlock(nil, NewDecoder(), headerSize, stored)
		if !isDamage(err) || len(payload) > 0 {
			t.Errorf("%s: %d bytes, %v", name, len(payload), err)
		}
	}
}

func TestHostileTailsAreRefused(t *testing.T) {
	b := written(t, true, someBlocks()...)
	for name, bend := range map[string]func(p []byte){
		"size":          func(p []byte) { order.PutUint64(p[16:], 1<<62) },
		"footer at":     func(p []byte) { order.PutUint64(p[24:], 1<<63) },
		"footer at 0":   func(p []byte) { order.PutUint64(p[24:], 0) },
		"footer length": func(p []byte) { order.PutUint32(p[32:], ^uint32(0)) },
		"no footer":     func(p []byte) { order.PutUint32(p[32:], 0) },
		"no shard":      func(p []byte) { order.PutUint16(p[36:], 0) },
		"data shards":   func(p []byte) { order.PutUint16(p[36:], ^uint16(0)) },
		"no parity":     func(p []byte) { order.PutUint16(p[38:], 0) },
		"parity shards": func(p []byte) { order.PutUint16(p[38:], ^uint16(0)) },
		"no shard size": func(p []byte) { order.PutUint32(p[40:], 0) },
		"shard size":    func(p []byte) { order.PutUint32(p[40:], ^uint32(0)) },
		"no cell":       func(p []byte) { order.PutUint32(p[44:], 0) },
		"cell 1":        func(p []byte) { order.PutUint32(p[44:], 1) },
		"cell large":    func(p []byte) { order.PutUint32(p[44:], ^uint32(0)) },
		"not parity":    func(p []byte) { order.PutUint16(p[10:], 0) },
		"version 0":     func(p []byte) { order.PutUint16(p[8:], 0) },
	} {
		c := slices.Clone(b)
		last := c[len(c)-tailSize:]
		bend(last)
		resum(last)
		if _, err := Open(bytes.NewReader(c), int64(len(c)), epochKeys(1)); !isDamage(err) {
			t.Errorf("%s: %v", name, err)
		}
		var out bytes.Buffer
		if err := Repair(bytes.NewReader(c), int64(len(c)), &out); err != nil || !bytes.Equal(out.Bytes(), b) {
			t.Errorf("%s: not repaired: %v", name, err)
		}
	}
}

// sealedFooter makes a pack of which only header, footer and tail are there: nothing else is read for a footer.
func sealedFooter(t *testing.T, plain []byte, footerAt int64) *Reader {
	t.Helper()
	m := new(memory)
	w := begin(t, m, false)
	m.Write(make([]byte, footerAt-headerSize))
	frame := sealFrame(w.aead, kindFooter, 0, append(make([]byte, frameHeaderSize), plain...))
	m.Write(frame)
	tl := tail{number: 7, footerAt: footerAt, footerLen: uint32(len(frame)), size: int64(len(m.b)+len(frame)) + tailSize}
	tl.size = tl.dataEnd() + tailSize
	b := tl.encode()
	m.Write(b[:])
	return opened(t, m.b)
}

func TestFootersThatCannotBeAreRefused(t *testing.T) {
	block := func(number, stored, raw, chunks uint32, sizes ...uint32) (b []byte) {
		for _, n := range []uint32{number, stored, raw, chunks} {
			b = order.AppendUint32(b, n)
		}
		for _, size := range sizes {
			b = order.AppendUint32(append(b, make([]byte, 32)...), size)
		}
		return b
	}
	footer := func(count uint32, blocks ...[]byte) []byte {
		return append(order.AppendUint32(nil, count), slices.Concat(blocks...)...)
	}
	const at = headerSize + 1000
	if f, err := sealedFooter(t, footer(2, block(1, 400, 9, 2, 4, 5), block(2, 600, 1, 1, 1)), at).Footer(); err != nil || f.Blocks[1].Offset != headerSize+400 {
		t.Fatal(f, err)
	}
	for name, plain := range map[string][]byte{
		"no block":        footer(0),
		"count":           footer(3, block(1, 400, 9, 2, 4, 5), block(2, 600, 1, 1, 1)),
		"huge count":      footer(^uint32(0), block(1, 1000, 1, 1, 1)),
		"gap":             footer(1, block(1, 999, 1, 1, 1)),
		"overlap":         footer(1, block(1, 1001, 1, 1, 1)),
		"number twice":    footer(2, block(1, 400, 1, 1, 1), block(1, 600, 1, 1, 1)),
		"no chunk":        footer(2, block(1, 400, 0, 0), block(2, 600, 1, 1, 1)),
		"chunks":          footer(1, block(1, 1000, 1, 2, 1)),
		"huge chunks":     footer(1, block(1, 1000, 1, ^uint32(0), 1)),
		"sum":             footer(1, block(1, 1000, 9, 2, 4, 4)),
		"sum wraps":       footer(1, block(1, 1000, 8, 2, ^uint32(0), 9)),
		"payload":         footer(1, block(1, 1000, MaxPayload+1, 1, MaxPayload+1)),
		"stored":          footer(2, block(1, 1, 1, 1, 1), block(2, 999, 1, 1, 1)),
		"stored too long": footer(1, block(1, maxFrame+1, 1, 1, 1)),
		"byte behind":     append(footer(1, block(1, 1000, 1, 1, 1)), 0),
		"chunk behind":    append(footer(1, block(1, 1000, 1, 1, 1)), make([]byte, chunkRowSize)...),
	} {
		if f, err := sealedFooter(t, plain, at).Footer(); !isDamage(err) {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
}

func TestBombCostsNoMoreThanItDeclares(t *testing.T) {
	zeros := NewEncoder().zstd.EncodeAll(make([]byte, 3<<20), nil)
	plain := append([]byte{codecZstd, 0, 0, 0, 4, 0, 0, 0, 1}, make([]byte, 32)...)
	plain = append(append(plain, 0, 0, 0, 4), zeros...)
	d := NewDecoder()
	decodeBlock(nil, d, "", plain) // the decoder's own buffers
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 10 {
		if _, _, err := decodeBlock(nil, d, "", plain); !isDamage(err) {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if n := (after.TotalAlloc - before.TotalAlloc) / 10; n > 256<<10 {
		t.Errorf("a block that declares 4 bytes cost %d", n)
	}
}
