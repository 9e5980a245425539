package pack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"hash/crc32"
	"io"
	"slices"
	"testing"
)

// countingReader counts how often each byte is read.
type countingReader struct {
	io.ReaderAt
	times []uint8
}

func (c *countingReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.ReaderAt.ReadAt(p, off)
	for i := range n {
		c.times[off+int64(i)]++
	}
	return n, err
}

// readThrough reads a pack as a check does, and gives what it has found wrong.
func readThrough(ctx context.Context, r *Reader) (sum [32]byte, payloads [][]byte, err error) {
	f, err := r.Footer()
	if err != nil {
		return sum, nil, err
	}
	d := NewDecoder()
	sum, err = r.ReadThrough(ctx, f, func(int) []byte { return nil }, func(b *Block, frame []byte) error {
		payload, err := r.DecodeBlock(nil, d, b, frame)
		payloads = append(payloads, payload)
		return err
	})
	return sum, payloads, err
}

func TestCheckReadsEveryByteOnce(t *testing.T) {
	large := []testBlock{blockOf(0, noise(1, 3<<20)), blockOf(1, text(2<<20), noise(2, 1<<20)), blockOf(2, noise(3, 4<<20)), blockOf(3, []byte("x"))}
	for _, parity := range []bool{false, true} {
		for _, blocks := range [][]testBlock{someBlocks(), large} {
			b := written(t, parity, blocks...)
			c := &countingReader{bytes.NewReader(b), make([]uint8, len(b))}
			r, err := Open(c, int64(len(b)), epochKeys(1))
			if err != nil {
				t.Fatal(err)
			}
			f, err := r.Footer()
			if err != nil {
				t.Fatal(err)
			}
			clear(c.times)
			var at int
			d := NewDecoder()
			sum, err := r.ReadThrough(t.Context(), f, func(int) []byte { return nil }, func(known *Block, frame []byte) error {
				payload, err := r.DecodeBlock(nil, d, known, frame)
				if !bytes.Equal(payload, blocks[at].payload) {
					t.Errorf("block %d comes back as something else", at)
				}
				at++
				return err
			})
			if err != nil || at != len(blocks) || sum != sha256.Sum256(b) {
				t.Fatalf("parity %v: %v after %d blocks, SHA-256 %x of %x", parity, err, at, sum, sha256.Sum256(b))
			}
			if i := slices.IndexFunc(c.times, func(n uint8) bool { return n != 1 }); i >= 0 {
				t.Errorf("parity %v: byte %d of %d was read %d times", parity, i, len(b), c.times[i])
			}
		}
	}
}

func TestFlippedByteIsReadThrough(t *testing.T) {
	for _, parity := range []bool{false, true} {
		b := written(t, parity, someBlocks()...)
		good := sha256.Sum256(b)
		step := 1
		if parity {
			step = 97 // most of it is parity
		}
		for at := 0; at < len(b); at += step {
			bad := bytes.Clone(b)
			bad[at] ^= 0x10
			r := opened(t, b)
			r.r = bytes.NewReader(bad) // damaged since it was opened
			sum, _, err := readThrough(t.Context(), r)
			if err == nil {
				t.Fatalf("parity %v: a flip at %d of %d is not seen (the SHA-256 is another: %v)", parity, at, len(b), sum != good)
			}
			if !isDamage(err) {
				t.Fatalf("parity %v: a flip at %d: %v", parity, at, err)
			}
		}
	}
}

// TestParityOfOtherDataPasses: parity that agrees with its checksums and not with the data could repair nothing.
func TestParityOfOtherDataPasses(t *testing.T) {
	b := written(t, true, someBlocks()...)
	tl := opened(t, b).tail
	b[tl.parityAt()+5] ^= 1
	shard := b[tl.parityAt():][:tl.shard]
	cell := tl.data * tl.rows()
	for _, at := range []int64{tl.tableAt(), tl.secondTableAt()} {
		order.PutUint32(b[at+4*int64(cell):], crc32.Checksum(shard[:tl.rowBytes(0)], castagnoli))
	}
	tl.tableSum = crc32.Checksum(b[tl.tableAt():][:tl.tableSize()], castagnoli)
	enc := tl.encode()
	copy(b[tl.dataEnd():], enc[:])
	copy(b[int64(len(b))-tailSize:], enc[:])
	if _, _, err := readThrough(t.Context(), opened(t, b)); !isDamage(err) {
		t.Errorf("got %v", err)
	}
}

func TestReadingThroughEndsWhenToldTo(t *testing.T) {
	b := written(t, true, someBlocks()...)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := readThrough(ctx, opened(t, b)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	r := opened(t, b)
	f, err := r.Footer()
	if err != nil {
		t.Fatal(err)
	}
	stop := errors.New("stop")
	if _, err := r.ReadThrough(t.Context(), f, func(int) []byte { return nil }, func(*Block, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	short := opened(t, b)
	short.r = bytes.NewReader(b[:len(b)/2])
	if _, _, err := readThrough(t.Context(), short); err == nil {
		t.Error("half a pack was read through")
	}
}
