package pack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"hash"
	"hash/crc32"
	"slices"

	"github.com/klauspost/reedsolomon"
)

// ReadThrough reads the whole pack once, from its first byte to its last, and returns the SHA-256 of what it read. On the way
// it verifies header, tail, checksum tables and parity, and hands the frame of each block that f, the pack's footer, names to
// block, in file order; there DecodeBlock verifies it, in whatever goroutine. room gives an empty slice with room for n bytes;
// a frame's room is block's to keep. The next bytes are being read while block runs, a few MiB ahead.
//
// The first thing that is not as it was written ends it with a *DamageError: Verify finds out what else is damaged. Other
// errors are those of reading, of ctx and of block.
func (p *Reader) ReadThrough(ctx context.Context, f *Footer, room func(n int) []byte, block func(b *Block, frame []byte) error) (sum [32]byte, err error) {
	t, err := newThrough(p)
	if err != nil {
		return sum, err
	}
	ctx, cancel := context.WithCancel(ctx)
	pieces := make(chan piece, piecesAhead)
	var readErr error
	go func() {
		defer close(pieces)
		readErr = p.read(ctx, f, room, pieces)
	}()
	defer func() {
		cancel()
		for range pieces { // until the reading has ended
		}
	}()
	for q := range pieces {
		if err := t.take(q.data); err != nil {
			return sum, err
		}
		if q.block != nil {
			if err := block(q.block, q.data); err != nil {
				return sum, err
			}
		}
	}
	if readErr != nil {
		return sum, readErr
	}
	return t.end()
}

const piecesAhead = 3

// piece is some bytes of the file, those of a block or others.
type piece struct {
	data  []byte
	block *Block
}

// read sends the bytes of the file in order.
func (p *Reader) read(ctx context.Context, f *Footer, room func(n int) []byte, to chan<- piece) error {
	send := func(at int64, n int, b *Block) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		data := slices.Grow(room(n)[:0], n)[:n]
		if err := readFull(p.r, data, at); err != nil {
			return damage(p.at(at), "%d bytes cannot be read: %v", n, err)
		}
		select {
		case to <- piece{data, b}:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := send(0, headerSize, nil); err != nil {
		return err
	}
	at := int64(headerSize)
	for i := range f.Blocks {
		b := &f.Blocks[i]
		if b.Offset != at || at+int64(b.Stored) > p.tail.footerAt {
			return damage(p.at(at), "the footer is not of this pack")
		}
		if err := send(at, int(b.Stored), b); err != nil {
			return err
		}
		at += int64(b.Stored)
	}
	const most = 1 << 20
	for at < p.size {
		n := min(most, p.size-at)
		if err := send(at, int(n), nil); err != nil {
			return err
		}
		at += n
	}
	return nil
}

// through is how far a reading has come.
type through struct {
	*Reader
	at   int64
	hash hash.Hash

	coder   reedsolomon.Encoder
	columns [][]byte // parts of the parity shards, while a piece is added to them
	parity  [][]byte // computed so far
	sums    []uint32 // checksums of the cells so far
	behind  []byte   // what must stand behind the footer, once that has been read

	tableSum uint32
}

func newThrough(p *Reader) (*through, error) {
	t := &through{Reader: p, hash: sha256.New()}
	if !p.HasParity() {
		return t, nil
	}
	g := p.tail.geometry
	if g == (geometry{}) { // see OpenDamaged
		return nil, damage(p.name("parity"), "both tails that describe it are lost")
	}
	var err error
	if t.coder, err = g.coder(); err != nil {
		return nil, err
	}
	t.columns, t.sums = make([][]byte, g.parity), make([]uint32, g.cells())
	for range g.parity {
		t.parity = append(t.parity, make([]byte, g.shard))
	}
	return t, nil
}

// take adds the next bytes of the file.
func (t *through) take(data []byte) error {
	if t.at == 0 {
		if h := t.head.encode(); !bytes.Equal(data[:headerSize], h[:]) {
			return damage(t.name("header"), "it differs from what it was when the pack was opened")
		}
	}
	for len(data) > 0 {
		n := min(len(data), maxCell)
		if left := t.tail.dataEnd() - t.at; left > 0 {
			n = min(n, int(left))
			if t.HasParity() {
				n = min(n, t.inCell(t.at))
				if err := t.cover(data[:n]); err != nil {
					return err
				}
			}
		} else if err := t.compareBehind(data[:n]); err != nil {
			return err
		}
		t.hash.Write(data[:n]) // a hash never returns an error
		t.at, data = t.at+int64(n), data[n:]
	}
	return nil
}

// inCell is how many bytes of the data are left of the cell, and so of the shard, that holds offset at.
func (t *through) inCell(at int64) int {
	in := at % t.tail.shard
	return int(min(t.tail.cell-in%t.tail.cell, t.tail.shard-in))
}

// cover adds bytes of one cell of the data to parity and checksums. A part of a shard is a shard of its own for the coder.
func (t *through) cover(part []byte) error {
	shard, in := int(t.at/t.tail.shard), t.at%t.tail.shard
	for i := range t.parity {
		t.columns[i] = t.parity[i][in : in+int64(len(part))]
	}
	cell := shard*t.tail.rows() + int(in/t.tail.cell)
	t.sums[cell] = crc32.Update(t.sums[cell], castagnoli, part)
	return t.coder.EncodeIdx(part, shard, t.columns)
}

// compareBehind compares what stands behind the footer with what the data make.
func (t *through) compareBehind(part []byte) error {
	if t.behind == nil {
		t.behind = t.makeBehind()
	}
	if len(part) > len(t.behind) || !bytes.Equal(part, t.behind[:len(part)]) {
		return damage(t.name("parity and tail"), "between %d and %d it is not what the data before it make", t.at, t.at+int64(len(part)))
	}
	t.behind = t.behind[len(part):]
	return nil
}

// makeBehind is everything that follows the footer.
func (t *through) makeBehind() []byte {
	tail := t.tail.encode()
	if !t.HasParity() {
		return tail[:]
	}
	table := t.table()
	t.tableSum = crc32.Checksum(table, castagnoli)
	out := make([]byte, 0, t.tail.size-t.tail.dataEnd())
	out = append(out, tail[:]...)
	out = append(out, table...)
	for i := range t.parity {
		out = append(out, t.parity[i]...)
	}
	t.parity = nil
	out = append(out, table...)
	out = append(out, tail[:]...)
	return out
}

// table completes the checksums: the last data shard is filled up with zeros, and the parity shards have cells too.
func (t *through) table() []byte {
	g := t.tail.geometry
	zeros := make([]byte, min(g.cell, maxCell))
	for at := t.tail.dataEnd(); at < int64(g.data)*g.shard; {
		n := min(t.inCell(at), len(zeros))
		cell := int(at/g.shard)*g.rows() + int(at%g.shard/g.cell)
		t.sums[cell] = crc32.Update(t.sums[cell], castagnoli, zeros[:n])
		at += int64(n)
	}
	for i, shard := range t.parity {
		for row := range g.rows() {
			from := int64(row) * g.cell
			t.sums[(g.data+i)*g.rows()+row] = crc32.Checksum(shard[from:from+int64(g.rowBytes(row))], castagnoli)
		}
	}
	table := make([]byte, 0, g.tableSize())
	for _, sum := range t.sums {
		table = order.AppendUint32(table, sum)
	}
	return table
}

func (t *through) end() (sum [32]byte, err error) {
	if len(t.behind) != 0 || t.at != t.size {
		return sum, damage(t.name("tail"), "the pack ends at %d and has %d bytes", t.at, t.size)
	}
	if t.HasParity() && t.tableSum != t.tail.tableSum {
		return sum, damage(t.name("tail"), "the checksum of the checksum table is another")
	}
	t.hash.Sum(sum[:0])
	return sum, nil
}

// DecodeBlock opens the frame of the block b of the pack, as ReadThrough hands it out, decompresses it and compares it with b.
// The payload uses dst's storage from its beginning, if it is large enough; the frame is overwritten. Safe for concurrent use,
// each call with a Decoder of its own.
func (p *Reader) DecodeBlock(dst []byte, d *Decoder, b *Block, frame []byte) ([]byte, error) {
	where := p.at(b.Offset)
	plain, err := openFrame(p.aead, where, kindBlock, frame)
	if err != nil {
		return nil, err
	}
	payload, chunks, err := decodeBlock(dst, d, where, plain)
	if err != nil {
		return nil, err
	}
	if order.Uint32(frame[4:]) != b.Number || len(payload) != int(b.Raw) || !slices.Equal(chunks, b.Chunks) {
		return nil, damage(where, "it is not the block that the footer describes")
	}
	return payload, nil
}
