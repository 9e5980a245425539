package pack

import (
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/reedsolomon"
)

// Parity covers every byte from the header to the end of the footer, N bytes in all. They are cut into `data` shards
// of `shard` bytes, the last one filled up with zeros that are not stored; `parity` more shards are computed over
// GF(2^8), and every shard is cut into cells of `cell` bytes (the last cell may be shorter):
//
//	            row 0      row 1      row 2
//	shard 0   [  cell  ] [  cell  ] [ cell ]   bytes 0 to shard-1 of the file
//	shard 1   [  cell  ] [  cell  ] [ cell ]   the next ones
//	...
//	shard d   [  cell  ] [  cell  ] [ cell ]   first parity shard, stored behind the first checksum table
//	...
//
// The checksum table has the CRC of every cell (zeros included), shard after shard. In each row as many cells may
// be lost as there are parity shards, whichever they are: damage that is strewn over a pack is repaired row by row.
// Table and tail stand on both sides of the parity shards, at least 64 KiB apart.
//
// Byte j of parity shard i is the sum over the data shards c of M[i][c] * byte j of shard c, with the Cauchy matrix
// M[i][c] = 1 / ((data+i) XOR c) in GF(2^8) modulo x^8+x^4+x^3+x^2+1 (0x11d); addition is XOR.
//
// A burst of 64 KiB anywhere in the file is repaired. It touches at most 64 KiB / shard + 1 shards, and one more where
// the short last data shard lies in it, which is what the tiers below are made of:
//
//	N up to      952 KiB   shards of   4 KiB, 18 parity:  72 KiB
//	N up to     1968 KiB   shards of   8 KiB, 10 parity:  80 KiB
//	N up to     4000 KiB   shards of  16 KiB,  6 parity:  96 KiB
//	N beyond               64 shards of N/64, at least 64 KiB, 3 parity: at most 192 KiB or 4.7 %
//
// With checksums and tails a full pack grows by 4.71 %, a small one by 4.7 % and at most 192 KiB. The tiers are the
// writer's choice: a reader takes the geometry from the tail.
type geometry struct {
	data, parity int
	shard, cell  int64
}

const (
	maxCell        = 64 << 10 // of a Writer
	minCell        = 4 << 10  // smaller cells are refused, unless they are whole shards
	maxRowMemory   = 8 << 20  // larger rows are refused
	maxParityBytes = 64 << 20 // more parity is refused; a pack of MaxBytes has a third of it
	strip          = 16 << 10 // columns computed at once
)

func geometryFor(n int64) geometry {
	g := geometry{parity: 3}
	switch {
	case n <= 238*4<<10:
		g.parity, g.shard = 18, 4<<10
	case n <= 246*8<<10:
		g.parity, g.shard = 10, 8<<10
	case n <= 250*16<<10:
		g.parity, g.shard = 6, 16<<10
	default:
		g.shard = max(64<<10, (n+64*64-1)/(64*64)*64)
	}
	g.data = int((n + g.shard - 1) / g.shard)
	g.cell = min(g.shard, maxCell)
	return g
}

// check refuses what no Writer makes for n bytes of data, so that a hostile tail costs no memory: a table is never
// longer than a thousandth of what its cells cover.
func (g geometry) check(n int64) error {
	shards := int64(g.data) + int64(g.parity)
	switch {
	case g.data < 1 || g.parity < 1 || shards > 256:
		return fmt.Errorf("%d data and %d parity shards cannot be", g.data, g.parity)
	case g.cell < min(minCell, g.shard), g.cell < 1, g.cell > g.shard, shards*g.cell > maxRowMemory,
		int64(g.parity)*g.shard > maxParityBytes:
		return fmt.Errorf("cells of %d bytes in %d shards of %d bytes cannot be", g.cell, shards, g.shard)
	case (int64(g.data)-1)*g.shard >= n || int64(g.data)*g.shard < n:
		return fmt.Errorf("%d shards of %d bytes do not fit %d bytes", g.data, g.shard, n)
	}
	return nil
}

// rows is the number of cells in a shard.
func (g geometry) rows() int { return int((g.shard + g.cell - 1) / g.cell) }

// cells is the number of cells in all; cell r of shard s has the number s*rows+r.
func (g geometry) cells() int { return (g.data + g.parity) * g.rows() }

func (g geometry) tableSize() int64 { return 4 * int64(g.cells()) }

// rowBytes is the width of row r.
func (g geometry) rowBytes(r int) int { return int(min(g.cell, g.shard-int64(r)*g.cell)) }

func (g geometry) coder() (reedsolomon.Encoder, error) {
	return reedsolomon.New(g.data, g.parity, reedsolomon.WithCauchyMatrix(),
		reedsolomon.WithInversionCache(false), reedsolomon.WithMaxGoroutines(1))
}

// parityData is what stands behind the footer, but for the tails.
type parityData struct {
	table  []byte // checksums of all cells
	shards []byte // the parity shards, one behind the other
}

// computeParity reads n bytes of data and computes their parity. It needs the parity shards (6 MiB for a full pack)
// and about a mebibyte besides.
func computeParity(r io.ReaderAt, n int64, g geometry) (*parityData, error) {
	coder, err := g.coder()
	if err != nil {
		return nil, err
	}
	p := &parityData{table: make([]byte, g.tableSize()), shards: make([]byte, int64(g.parity)*g.shard)}
	sums := make([]uint32, g.cells())
	width := min(g.cell, strip)
	buf := make([]byte, int64(g.data)*width)
	columns := make([][]byte, g.data+g.parity)
	for row := range g.rows() {
		for at := int64(0); at < int64(g.rowBytes(row)); at += width {
			w := min(width, int64(g.rowBytes(row))-at)
			off := int64(row)*g.cell + at // within each shard
			for s := range columns {
				if s >= g.data {
					start := int64(s-g.data)*g.shard + off
					columns[s] = p.shards[start : start+w]
					continue
				}
				columns[s] = buf[int64(s)*width:][:w]
				if err := readPadded(r, columns[s], int64(s)*g.shard+off, n); err != nil {
					return nil, err
				}
			}
			if err := coder.Encode(columns); err != nil {
				return nil, err
			}
			for s, column := range columns {
				cell := s*g.rows() + row
				sums[cell] = crc32.Update(sums[cell], castagnoli, column)
			}
		}
	}
	for i, sum := range sums {
		order.PutUint32(p.table[4*i:], sum)
	}
	return p, nil
}

// readPadded reads p at off from the first n bytes of r; what lies beyond n is zero.
func readPadded(r io.ReaderAt, p []byte, off, n int64) error {
	have := max(0, min(int64(len(p)), n-off))
	clear(p[have:])
	if have == 0 {
		return nil
	}
	return readFull(r, p[:have], off)
}
