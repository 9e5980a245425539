package pack

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/reedsolomon"
)

// Repair writes to w the pack that r was before it was damaged, byte for byte, as far as its parity reaches; a pack
// without damage is copied. It needs no key. Damaged may be anything: header, blocks, footer, parity, tail, a lost
// end, bytes appended. Sectors that cannot be read count as damage. When the damage is larger than the parity it
// returns a *DamageError before it has written anything; a pack without parity is ErrNoParity.
//
// The checksums that guide it find rot, not malice: whoever publishes the result first compares its SHA-256 with the
// recorded one. Repair does not sync. It holds one row of cells, at most 8 MiB, and two tables.
func Repair(r io.ReaderAt, size int64, w io.Writer) error {
	t, err := findTail(r, size)
	if err != nil {
		return err
	}
	m, err := newMender(r, t)
	if err != nil {
		return err
	}
	if err := m.survey(); err != nil {
		return err
	}
	return m.write(w)
}

// findTail finds the tail at the end of the file, or else its copy behind the footer, by search: the true length
// of the file is not known until one of them is found.
func findTail(r io.ReaderAt, size int64) (tail, error) {
	if size > MaxFileBytes {
		return tail{}, damage("pack", "the file has %d bytes, more than the %d that a pack may have", size, int64(MaxFileBytes))
	}
	t, err := readTail("pack tail", r, size)
	if err == nil && t.flags&flagParity == 0 {
		return tail{}, fmt.Errorf("pack %d: %w", t.number, ErrNoParity)
	}
	if err == nil || errors.Is(err, ErrNewer) {
		return t, err
	}
	if t, ok := searchTail(r, size); ok {
		return t, nil
	}
	if h, err := readHeader(r); err == nil && h.flags&flagParity == 0 {
		return tail{}, fmt.Errorf("pack %d: %w", h.number, ErrNoParity)
	}
	return tail{}, damage("pack", "neither its tail nor the copy behind its footer can be read: %v", err)
}

// searchTail looks at every offset for a tail that says of itself that it stands there.
func searchTail(r io.ReaderAt, size int64) (tail, bool) {
	const window = 1 << 20
	buf := make([]byte, window+tailSize-1) // windows overlap, so that none is missed on a border
	for start := int64(0); start < size; start += window {
		p := buf[:min(int64(len(buf)), size-start)]
		readWhatCan(r, p, start)
		for at := 0; ; at++ {
			i := bytes.Index(p[at:], []byte(tailMagic))
			if i < 0 || at+i+tailSize > len(p) {
				break
			}
			at += i
			t, err := parseTail("tail", p[at:at+tailSize])
			if err == nil && t.flags&flagParity != 0 && t.dataEnd() == start+int64(at) {
				return t, true
			}
		}
	}
	return tail{}, false
}

// sector is the unit in which a medium loses bytes.
const sector = 4096

// readWhatCan fills p from off and leaves zeros where nothing can be read: beyond the end, or in a bad sector.
func readWhatCan(r io.ReaderAt, p []byte, off int64) {
	if readFull(r, p, off) == nil {
		return
	}
	for len(p) > 0 {
		part := p[:min(int64(len(p)), sector-off%sector)]
		if n, err := r.ReadAt(part, off); n < len(part) && err != nil {
			clear(part[max(n, 0):])
		}
		p, off = p[len(part):], off+int64(len(part))
	}
}

// mender repairs one pack.
type mender struct {
	r     io.ReaderAt
	tail  tail
	table []byte
	coder reedsolomon.Encoder
	lost  []bool // by cell number

	cells []byte   // room for one row
	row   [][]byte // the cells of the row last loaded
	whole int      // the row whose lost cells have been computed and still stand in cells, or -1
}

func newMender(r io.ReaderAt, t tail) (*mender, error) {
	m := &mender{r: r, tail: t, lost: make([]bool, t.cells()), whole: -1}
	table := make([]byte, t.tableSize())
	for _, at := range []int64{t.tableAt(), t.secondTableAt()} {
		readWhatCan(r, table, at)
		if crc32.Checksum(table, castagnoli) == t.tableSum {
			m.table = table
			break
		}
	}
	if m.table == nil {
		return nil, damage(fmt.Sprintf("pack %d: parity", t.number), "both copies of its checksum table are lost")
	}
	var err error
	if m.coder, err = t.coder(); err != nil {
		return nil, fmt.Errorf("pack %d: parity: %w", t.number, err)
	}
	m.cells = make([]byte, int64(t.data+t.parity)*t.cell)
	m.row = make([][]byte, t.data+t.parity)
	return m, nil
}

func (t tail) tableAt() int64       { return t.dataEnd() + tailSize }
func (t tail) parityAt() int64      { return t.tableAt() + t.tableSize() }
func (t tail) secondTableAt() int64 { return t.parityAt() + int64(t.parity)*t.shard }

// cellAt returns where row r of a shard begins in the file, and how many of its bytes are stored: fewer than the
// row is wide where the data end.
func (t tail) cellAt(shard, row int) (off int64, stored int) {
	within := int64(row) * t.cell
	if shard >= t.data {
		return t.parityAt() + int64(shard-t.data)*t.shard + within, t.rowBytes(row)
	}
	off = int64(shard)*t.shard + within
	return off, int(max(0, min(int64(t.rowBytes(row)), t.dataEnd()-off)))
}

// survey reads everything once, marks the cells that are lost, and fails if any row has lost more than it may.
func (m *mender) survey() error {
	for row := range m.tail.rows() {
		lost := 0
		for shard := range m.row {
			m.load(shard, row)
			if !m.intact(shard, row) {
				m.lost[shard*m.tail.rows()+row] = true
				lost++
			}
		}
		if lost > m.tail.parity {
			return damage(fmt.Sprintf("pack %d", m.tail.number),
				"%d cells of row %d of %d are lost, and its parity makes good for %d", lost, row, m.tail.rows(), m.tail.parity)
		}
	}
	return nil
}

func (m *mender) load(shard, row int) []byte {
	if row != m.whole {
		m.whole = -1
	}
	cell := m.cells[int64(shard)*m.tail.cell:][:m.tail.rowBytes(row)]
	off, stored := m.tail.cellAt(shard, row)
	clear(cell[stored:])
	if stored > 0 {
		readWhatCan(m.r, cell[:stored], off)
	}
	m.row[shard] = cell
	return cell
}

func (m *mender) intact(shard, row int) bool {
	want := order.Uint32(m.table[4*(shard*m.tail.rows()+row):])
	return crc32.Checksum(m.row[shard], castagnoli) == want
}

func (m *mender) write(w io.Writer) error {
	if err := m.writeShards(w, 0, m.tail.data); err != nil {
		return err
	}
	b := m.tail.encode()
	if err := writeAll(w, b[:], m.table); err != nil {
		return err
	}
	if err := m.writeShards(w, m.tail.data, m.tail.data+m.tail.parity); err != nil {
		return err
	}
	return writeAll(w, m.table, b[:])
}

func (m *mender) writeShards(w io.Writer, from, to int) error {
	for shard := from; shard < to; shard++ {
		for row := range m.tail.rows() {
			cell, err := m.cell(shard, row)
			if err != nil {
				return err
			}
			_, stored := m.tail.cellAt(shard, row)
			if err := writeAll(w, cell[:stored]); err != nil {
				return err
			}
		}
	}
	return nil
}

// cell returns a cell as it was: read, or computed from the others of its row.
func (m *mender) cell(shard, row int) ([]byte, error) {
	where := fmt.Sprintf("pack %d: shard %d row %d", m.tail.number, shard, row)
	if !m.lost[shard*m.tail.rows()+row] {
		cell := m.load(shard, row)
		if !m.intact(shard, row) {
			return nil, damage(where, "it was intact a moment ago: the medium gives different bytes each time")
		}
		return cell, nil
	}
	if m.whole != row {
		if err := m.reconstruct(row); err != nil {
			return nil, damage(where, "it cannot be reconstructed: %v", err)
		}
	}
	if !m.intact(shard, row) {
		return nil, damage(where, "what was reconstructed does not match its checksum")
	}
	return m.row[shard], nil
}

// reconstruct computes all lost cells of a row from the others.
func (m *mender) reconstruct(row int) error {
	for s := range m.row {
		if m.lost[s*m.tail.rows()+row] {
			m.row[s] = m.cells[int64(s)*m.tail.cell:][:0:m.tail.rowBytes(row)] // empty means lost; its room is used
			continue
		}
		m.load(s, row)
	}
	if err := m.coder.Reconstruct(m.row); err != nil {
		return err
	}
	m.whole = row
	return nil
}

func writeAll(w io.Writer, parts ...[]byte) error {
	for _, p := range parts {
		if n, err := w.Write(p); err != nil {
			return fmt.Errorf("write the repaired pack: %w", err)
		} else if n < len(p) {
			return fmt.Errorf("write the repaired pack: %w", io.ErrShortWrite)
		}
	}
	return nil
}
