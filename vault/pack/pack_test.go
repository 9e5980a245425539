package pack

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/holdfast-vault/holdfast/vault/chunk"
)

// memory is a File in memory.
type memory struct{ b []byte }

func (m *memory) Write(p []byte) (int, error) { m.b = append(m.b, p...); return len(p), nil }

func (m *memory) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(m.b).ReadAt(p, off) }

// epochKeys is a KeySource with the epochs 1 to n.
type epochKeys uint32

func (k epochKeys) Epoch() uint32 { return uint32(k) }

func (k epochKeys) Derive(epoch uint32, purpose string, salt []byte) ([32]byte, error) {
	if epoch == 0 || epoch > uint32(k) {
		return [32]byte{}, fmt.Errorf("no key of epoch %d", epoch)
	}
	key, err := hkdf.Key(sha256.New, []byte{byte(epoch)}, salt, purpose, 32)
	return [32]byte(key), err
}

// testBlock is a block as a writer is given it.
type testBlock struct {
	number  uint32
	payload []byte
	chunks  []Chunk
}

func noise(seed uint64, n int) []byte {
	p := make([]byte, n)
	var s [32]byte
	order.PutUint64(s[:], seed)
	rand.NewChaCha8(s).Read(p)
	return p
}

// blockOf makes a block of chunks with the given contents.
func blockOf(number uint32, contents ...[]byte) testBlock {
	b := testBlock{number: number}
	for _, c := range contents {
		b.chunks = append(b.chunks, Chunk{ID: chunk.ID(sha256.Sum256(c)), Offset: uint32(len(b.payload)), Size: uint32(len(c))})
		b.payload = append(b.payload, c...)
	}
	return b
}

func text(n int) []byte { return bytes.Repeat([]byte("the quick brown fox "), n/20+1)[:n] }

// someBlocks has one compressible block of several chunks, one that is stored as it is, one of a single byte.
func someBlocks() []testBlock {
	return []testBlock{
		blockOf(0, text(3000), []byte("x"), text(500)),
		blockOf(1, noise(1, 700), noise(2, 300)),
		blockOf(2, []byte{7}),
	}
}

func begin(t testing.TB, f File, parity bool) *Writer {
	t.Helper()
	w, err := NewWriter(f, WriterOptions{Vault: [16]byte{1, 2, 3}, Number: 7, Keys: epochKeys(1), Parity: parity})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func add(t testing.TB, w *Writer, e *Encoder, b testBlock) {
	t.Helper()
	frame, err := w.Encode(nil, e, b.number, b.payload, b.chunks)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Append(frame, b.number, uint32(len(b.payload)), b.chunks); err != nil {
		t.Fatal(err)
	}
}

func written(t testing.TB, parity bool, blocks ...testBlock) []byte {
	t.Helper()
	m := new(memory)
	w, e := begin(t, m, parity), NewEncoder()
	for _, b := range blocks {
		add(t, w, e, b)
	}
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	if w.Size() != int64(len(m.b)) {
		t.Fatalf("Size says %d of %d bytes", w.Size(), len(m.b))
	}
	return m.b
}

func opened(t testing.TB, b []byte) *Reader {
	t.Helper()
	r, err := Open(bytes.NewReader(b), int64(len(b)), epochKeys(1))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// holds fails unless the pack gives exactly these blocks, in this order, and nothing in it is damaged.
func holds(t testing.TB, b []byte, blocks ...testBlock) {
	t.Helper()
	r := opened(t, b)
	footer, err := r.Footer()
	if err != nil {
		t.Fatal(err)
	}
	if len(footer.Blocks) != len(blocks) {
		t.Fatalf("%d blocks of %d", len(footer.Blocks), len(blocks))
	}
	d, buf := NewDecoder(), []byte(nil)
	for i, at := range footer.Blocks {
		payload, chunks, err := r.ReadBlock(buf, d, at.Offset, at.Stored)
		if err != nil {
			t.Fatal(err)
		}
		if at.Number != blocks[i].number || int(at.Raw) != len(payload) || !bytes.Equal(payload, blocks[i].payload) ||
			!slices.Equal(chunks, blocks[i].chunks) || !slices.Equal(at.Chunks, chunks) {
			t.Fatalf("block %d is not what was written", at.Number)
		}
		buf = payload
	}
	damages, err := r.Verify(t.Context())
	if err != nil || len(damages) > 0 {
		t.Fatalf("Verify: %v %v", damages, err)
	}
}

func isDamage(err error) bool {
	var d *DamageError
	return errors.As(err, &d)
}

func TestPackGivesBackWhatWasWritten(t *testing.T) {
	for _, parity := range []bool{false, true} {
		holds(t, written(t, parity, someBlocks()...), someBlocks()...)
	}
}

func TestPackKeepsTheOrderOfAppendWhateverTheNumbers(t *testing.T) {
	blocks := someBlocks()
	blocks[0].number, blocks[2].number = 900, 0
	holds(t, written(t, true, blocks...), blocks...)
}

func TestLargestBlocksComeBack(t *testing.T) {
	full := blockOf(0, text(MaxPayload))
	many := testBlock{number: 1, payload: text(MaxChunks), chunks: make([]Chunk, MaxChunks)}
	for i := range many.chunks {
		many.chunks[i] = Chunk{ID: chunk.ID{byte(i), byte(i >> 8)}, Offset: uint32(i), Size: 1}
	}
	blocks := []testBlock{full, many, blockOf(2, noise(1, MaxPayload))}
	holds(t, written(t, true, blocks...), blocks...)
}

func TestEmptyPackIsRefused(t *testing.T) {
	if _, err := begin(t, new(memory), true).Finish(); err == nil {
		t.Fatal("a pack without a block was finished")
	}
}

func TestBlockNumberIsNeverUsedTwice(t *testing.T) {
	w, e, b := begin(t, new(memory), false), NewEncoder(), someBlocks()[0]
	frame, err := w.Encode(nil, e, 5, b.payload, b.chunks)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Encode(nil, e, 5, b.payload, b.chunks); err == nil {
		t.Fatal("a nonce was used twice")
	}
	if _, err := w.Append(frame, 5, uint32(len(b.payload)), b.chunks); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Append(frame, 5, uint32(len(b.payload)), b.chunks); err == nil {
		t.Fatal("a block was appended twice")
	}
	if _, err := w.Encode(nil, e, 5, b.payload, b.chunks); err == nil {
		t.Fatal("a nonce was used again after Append")
	}
}

func TestTwoPacksOfOneNumberHaveTwoKeys(t *testing.T) {
	a, b := written(t, false, someBlocks()...), written(t, false, someBlocks()...)
	frame := a[headerSize:]
	moved := append(slices.Clone(b[:headerSize]), frame...)
	r := opened(t, moved)
	if _, err := r.Footer(); !isDamage(err) {
		t.Fatalf("frames of one pack open in another: %v", err)
	}
}

func TestAppendRefusesWhatWasNotEncoded(t *testing.T) {
	m := new(memory)
	w, e, b := begin(t, m, false), NewEncoder(), someBlocks()[0]
	frame, err := w.Encode(nil, e, 1, b.payload, b.chunks)
	if err != nil {
		t.Fatal(err)
	}
	raw := uint32(len(b.payload))
	bent := slices.Clone(frame)
	bent[len(bent)/2] ^= 1 // a buffer that was used again too early
	if _, err := w.Append(bent, 1, raw, b.chunks); err == nil {
		t.Error("an altered frame was appended")
	}
	if _, err := w.Append(frame, 2, raw, b.chunks); err == nil {
		t.Error("a frame was appended under another number")
	}
	if _, err := w.Append(frame, 1, raw+1, b.chunks); err == nil {
		t.Error("a frame was appended with another length")
	}
	other := slices.Clone(b.chunks)
	other[0].ID[0] ^= 1
	if _, err := w.Append(frame, 1, raw, other); err == nil {
		t.Error("a frame was appended with other chunks")
	}
	if len(m.b) != headerSize {
		t.Error("a refused call wrote something")
	}
	if _, err := w.Append(frame, 1, raw, b.chunks); err != nil {
		t.Error("refused calls must change nothing:", err)
	}
}

func TestEncodeRefusesBlocksThatCannotBe(t *testing.T) {
	id := chunk.ID{1}
	for name, b := range map[string]testBlock{
		"nothing":       {},
		"no chunk":      {payload: []byte("abc")},
		"gap":           {payload: []byte("abc"), chunks: []Chunk{{id, 0, 1}, {id, 2, 1}}},
		"overlap":       {payload: []byte("abc"), chunks: []Chunk{{id, 0, 2}, {id, 1, 2}}},
		"too short":     {payload: []byte("abc"), chunks: []Chunk{{id, 0, 2}}},
		"too long":      {payload: []byte("abc"), chunks: []Chunk{{id, 0, 4}}},
		"wraps":         {payload: []byte("abc"), chunks: []Chunk{{id, 0, 1 << 31}, {id, 1 << 31, 1 << 31}, {id, 0, 3}}},
		"payload large": {payload: make([]byte, MaxPayload+1), chunks: []Chunk{{id, 0, MaxPayload + 1}}},
		"many chunks":   {payload: make([]byte, 1), chunks: make([]Chunk, MaxChunks+1)},
	} {
		if _, err := begin(t, new(memory), false).Encode(nil, NewEncoder(), 0, b.payload, b.chunks); err == nil {
			t.Errorf("%s: was encoded", name)
		}
	}
}

// fullDisk accepts n bytes.
type fullDisk struct {
	memory
	n int
}

var errFull = errors.New("no space left")

func (f *fullDisk) Write(p []byte) (int, error) {
	if room := f.n - len(f.b); len(p) > room {
		f.memory.Write(p[:room])
		return room, errFull
	}
	return f.memory.Write(p)
}

// At every byte at which the disk may be full the writer says so, stays failed, and what is complete is salvaged.
func TestFullDiskAtEveryByteIsAnErrorAndSalvageable(t *testing.T) {
	full := written(t, true, someBlocks()...)
	for n := 0; n < len(full); n += max(1, n/90) {
		f := &fullDisk{n: n}
		err := func() error {
			w, err := NewWriter(f, WriterOptions{Number: 7, Keys: epochKeys(1), Parity: true})
			if err != nil {
				return err
			}
			e := NewEncoder()
			for _, b := range someBlocks() {
				frame, err := w.Encode(nil, e, b.number, b.payload, b.chunks)
				if err != nil {
					return err
				}
				if _, err := w.Append(frame, b.number, uint32(len(b.payload)), b.chunks); err != nil {
					if _, again := w.Finish(); !errors.Is(again, errFull) {
						t.Errorf("at %d: the failure did not stick: %v", n, again)
					}
					return err
				}
			}
			_, err = w.Finish()
			return err
		}()
		if !errors.Is(err, errFull) {
			t.Fatalf("disk full at byte %d: %v", n, err)
		}
		if _, err := Open(f, int64(len(f.b)), epochKeys(1)); err == nil {
			t.Fatalf("a pack cut at byte %d opens as finished", n)
		}
		for _, err := range Salvage(f, int64(len(f.b)), epochKeys(1)) {
			if err != nil {
				t.Fatalf("salvage at byte %d: %v", n, err)
			}
		}
	}
}

func TestFinishedWriterTakesNothingMore(t *testing.T) {
	m := new(memory)
	w, e := begin(t, m, false), NewEncoder()
	blocks := someBlocks()
	add(t, w, e, blocks[0])
	frame, err := w.Encode(nil, e, 1, blocks[1].payload, blocks[1].chunks)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	size := len(m.b)
	if _, err := w.Append(frame, 1, uint32(len(blocks[1].payload)), blocks[1].chunks); !errors.Is(err, errFinished) {
		t.Error("Append after Finish:", err)
	}
	if _, err := w.Finish(); !errors.Is(err, errFinished) {
		t.Error("Finish after Finish:", err)
	}
	if len(m.b) != size {
		t.Error("bytes were written after Finish")
	}
}

func TestOtherKeysOpenNothing(t *testing.T) {
	b := written(t, false, someBlocks()...)
	if _, err := Open(bytes.NewReader(b), int64(len(b)), epochKeys(0)); err == nil {
		t.Fatal("opened without the key of its epoch")
	}
}

func TestNothingOfContentOrIDsIsInTheOpen(t *testing.T) {
	block := blockOf(0, []byte("a marker nobody may find"), text(100))
	b := written(t, true, block)
	if bytes.Contains(b, []byte("marker")) || bytes.Contains(b, block.chunks[0].ID[:8]) {
		t.Fatal("content or an ID lies in the open")
	}
}

// An index that is wrong must never make ReadBlock give wrong bytes, panic or allocate what the number says.
func TestWrongPlacesAreDamageNotBytes(t *testing.T) {
	b := written(t, true, someBlocks()...)
	r, d := opened(t, b), NewDecoder()
	footer, err := r.Footer()
	if err != nil {
		t.Fatal(err)
	}
	good := footer.Blocks[1]
	for offset := int64(-2); offset < int64(len(b))+2; offset += 13 {
		if _, _, err := r.ReadBlock(nil, d, offset, good.Stored); !isDamage(err) && offset != good.Offset {
			t.Fatalf("offset %d: %v", offset, err)
		}
	}
	for _, stored := range []uint32{0, 1, frameOverhead, good.Stored - 1, good.Stored + 1, 1 << 31, ^uint32(0)} {
		if _, _, err := r.ReadBlock(nil, d, good.Offset, stored); !isDamage(err) {
			t.Fatalf("length %d: %v", stored, err)
		}
	}
}

func TestEncodeRunsInManyGoroutines(t *testing.T) {
	m := new(memory)
	w := begin(t, m, true)
	const blocks = 40
	frames := make([]chan []byte, blocks)
	for i := range frames {
		frames[i] = make(chan []byte, 1)
	}
	for g := range 4 {
		go func() {
			e := NewEncoder()
			for i := g; i < blocks; i += 4 {
				b := blockOf(uint32(i), text(1000+i), noise(uint64(i), 100))
				frame, err := w.Encode(nil, e, b.number, b.payload, b.chunks)
				if err != nil {
					t.Error(err)
				}
				frames[i] <- frame
			}
		}()
	}
	var want []testBlock
	for i := range blocks {
		b := blockOf(uint32(i), text(1000+i), noise(uint64(i), 100))
		if _, err := w.Append(<-frames[i], b.number, uint32(len(b.payload)), b.chunks); err != nil {
			t.Fatal(err)
		}
		want = append(want, b)
	}
	if _, err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	holds(t, m.b, want...)
}

func TestEncodeReusesItsBuffer(t *testing.T) {
	w, e := begin(t, new(memory), false), NewEncoder()
	b := blockOf(0, text(300<<10), noise(1, 300<<10))
	frame, number := []byte(nil), uint32(0)
	encode := func() {
		var err error
		if frame, err = w.Encode(frame, e, number, b.payload, b.chunks); err != nil {
			t.Fatal(err)
		}
		number++
	}
	encode()
	if n := testing.AllocsPerRun(50, encode); n > 3 { // a nonce, and now and then the map of spent numbers
		t.Errorf("%v allocations per block", n)
	}
}
