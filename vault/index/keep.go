package index

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/vault/chunk"
)

// A warm filter is kept in a file when the index is closed, because reading it again is a hundred times faster than
// reading all keys. All numbers are big endian, a checksum is the CRC-32C of the part that it ends:
//
//	magic 8 "HFfilter" | vault 16 | stamp 8 | layers 4
//	of each layer: capacity 8 | chunks 8 | words 8 each
//	checksum 4
//	any number of: chunks n 4 | the first 16 bytes of each ID, 16 n | checksum 4
//
// The second part is what was added by processes that had no use for the filter itself. The state file says which stamp and
// which length the file has, and says it only while the index is closed: it is read at most once after each close, and what a
// process leaves that dies is never read. Nothing is synced: if power fails, the checksums do not fit.
const (
	filterName  = "filter"
	filterMagic = "HFfilter"
	filterHead  = 8 + 16 + 8 + 4
	prefixSize  = 16 // of an ID is what a filter looks at

	maxLayers = 64
	maxTail   = 64 << 10 // chunks that are remembered for the file; with more, the filter is loaded, and written as a whole
)

// kept says which file holds the filter of a closed index. The zero value: none.
type kept struct {
	Stamp string `json:"stamp"` // 16 hex digits
	Bytes int64  `json:"bytes"` // of the file; what comes after them means nothing
	Whole int64  `json:"whole"` // of these, the first part
}

// tail is what was added since the file was written.
type tail struct {
	file     kept
	prefixes []byte
}

func (t *tail) add(id chunk.ID) { t.prefixes = append(t.prefixes, id[:prefixSize]...) }

func (t *tail) len() int { return len(t.prefixes) / prefixSize }

// loadKept puts the kept filter into use; false if there is none that can be used. The caller holds x.write.
func (x *Index) loadKept() bool {
	t := x.filter.tail
	if t == nil || x.closed.Load() {
		return false
	}
	l, err := readFilter(x.disk, x.codec.vault, t.file)
	if err != nil {
		x.o.Logf("index %s: the filter that was kept cannot be used and is made anew: %v", x.dir, err)
		x.filter.tail = nil
		return false
	}
	for p := t.prefixes; len(p) > 0; p = p[prefixSize:] {
		var id chunk.ID
		copy(id[:], p[:prefixSize])
		l.add(id)
	}
	x.filter.warm.Store(l)
	return true
}

// leaveFilter keeps the filter for the next process and says what stands in its file, nil if nothing does: then there is no
// file either, whose room the state file that follows may need. The caller holds x.write of an index that is closed otherwise.
func (x *Index) leaveFilter() *kept {
	k, err := x.keepFilter()
	if err != nil {
		x.o.Logf("index %s: the filter is not kept, the next process makes it anew: %v", x.dir, err)
	} else if k != (kept{}) {
		return &k
	}
	if err := x.disk.Remove(filterName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		x.o.Logf("index %s: %v", x.dir, err)
	}
	return nil
}

// keepFilter gives the zero value if there is nothing to keep.
func (x *Index) keepFilter() (kept, error) {
	t, l := x.filter.tail, x.filter.warm.Load()
	switch {
	case t != nil && t.len() == 0:
		return t.file, nil
	case t != nil && (l == nil || t.file.Bytes-t.file.Whole < t.file.Whole/8):
		if err := room(x.dir, x.floorAnd(prefixSize*t.len())); err != nil {
			return kept{}, err
		}
		return t.append(x.disk)
	case l != nil:
		if err := x.disk.Remove(filterName); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return kept{}, err
		}
		if err := room(x.dir, x.floorAnd(int(l.bytes()))); err != nil {
			return kept{}, err
		}
		return writeFilter(x.disk, x.codec.vault, l)
	}
	return kept{}, nil
}

// floorAnd is the room that must be free before n bytes are written that nobody needs: without the floor the index could not
// be opened again.
func (x *Index) floorAnd(n int) int64 {
	if x.o.FreeFloorBytes < 0 {
		return x.o.FreeFloorBytes
	}
	return x.o.FreeFloorBytes + int64(n)
}

// append adds what was added to the index to the file.
func (t *tail) append(d durable.Disk) (_ kept, err error) {
	f, err := d.Append(filterName)
	if err != nil {
		return kept{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return kept{}, err
	}
	if size != t.file.Bytes {
		return kept{}, fmt.Errorf("the file %q has %d bytes and should have %d", filterName, size, t.file.Bytes)
	}
	b := binary.BigEndian.AppendUint32(nil, uint32(t.len()))
	b = append(b, t.prefixes...)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if _, err := f.Write(b); err != nil {
		return kept{}, err
	}
	k := t.file
	k.Bytes += int64(len(b))
	return k, nil
}

// summed passes on what is written or read, and its checksum.
type summed struct {
	w   io.Writer
	r   io.Reader
	sum hash.Hash32
	n   int64
}

func (s *summed) Write(p []byte) (int, error) {
	_, _ = s.sum.Write(p)
	n, err := s.w.Write(p)
	s.n += int64(n)
	return n, err
}

func (s *summed) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	_, _ = s.sum.Write(p[:n])
	s.n += int64(n)
	return n, err
}

// writeFilter writes a whole filter into a new file.
func writeFilter(d durable.Disk, vault [16]byte, l *layers) (_ kept, err error) {
	f, err := d.Create(filterName, 0o600)
	if err != nil {
		return kept{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	buffered := bufio.NewWriterSize(f, 256<<10)
	w := &summed{w: buffered, sum: crc32.New(castagnoli)}
	var stamp [8]byte
	binary.BigEndian.PutUint64(stamp[:], rand.Uint64())
	if err := encodeFilter(w, vault, stamp, l); err != nil {
		return kept{}, err
	}
	if _, err := w.Write(binary.BigEndian.AppendUint32(nil, w.sum.Sum32())); err != nil {
		return kept{}, err
	}
	return kept{Stamp: hex.EncodeToString(stamp[:]), Bytes: w.n, Whole: w.n}, buffered.Flush()
}

func encodeFilter(w io.Writer, vault [16]byte, stamp [8]byte, l *layers) error {
	list := *l.list.Load()
	b := append([]byte(filterMagic), vault[:]...)
	b = append(b, stamp[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(list)))
	for _, layer := range list {
		b = binary.BigEndian.AppendUint64(b, layer.capacity)
		b = binary.BigEndian.AppendUint64(b, layer.n.Load())
		for i := range layer.words {
			b = binary.BigEndian.AppendUint64(b, layer.words[i])
			if len(b) >= 32<<10 {
				if _, err := w.Write(b); err != nil {
					return err
				}
				b = b[:0]
			}
		}
	}
	_, err := w.Write(b)
	return err
}

var errFilterFile = errors.New("its file is damaged")

// readFilter reads the file that k names.
func readFilter(d durable.Disk, vault [16]byte, k kept) (*layers, error) {
	f, err := d.Open(filterName)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size < k.Bytes {
		return nil, fmt.Errorf("%w: %d bytes of %d", errFilterFile, size, k.Bytes)
	}
	return decodeFilter(bufio.NewReaderSize(f, 256<<10), vault, k)
}

// decodeFilter reads a filter. What it allocates is bounded by k.Bytes, which is no more than the file has.
func decodeFilter(from io.Reader, vault [16]byte, k kept) (*layers, error) {
	if k.Whole < filterHead+4 || k.Bytes < k.Whole {
		return nil, errFilterFile
	}
	r := &summed{r: from, sum: crc32.New(castagnoli)}
	head := make([]byte, filterHead)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[32:])
	if string(head[:8]) != filterMagic || [16]byte(head[8:24]) != vault || hex.EncodeToString(head[24:32]) != k.Stamp || n == 0 || n > maxLayers {
		return nil, fmt.Errorf("%w: it is not the one that was left", errFilterFile)
	}
	var list []*bloom
	for range n {
		b, err := decodeLayer(r, k.Whole-4-r.n)
		if err != nil {
			return nil, err
		}
		list = append(list, b)
	}
	if r.n != k.Whole-4 {
		return nil, errFilterFile
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	l := &layers{}
	l.list.Store(&list)
	for r.n < k.Bytes {
		if err := r.tail(l, k.Bytes-r.n); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// check reads a checksum and compares it with that of what was read since the last one.
func (s *summed) check() error {
	want := s.sum.Sum32()
	var b [4]byte
	if _, err := io.ReadFull(s, b[:]); err != nil {
		return err
	}
	if binary.BigEndian.Uint32(b[:]) != want {
		return errFilterFile
	}
	s.sum.Reset()
	return nil
}

// decodeLayer reads a layer, which cannot be larger than what is left of the file.
func decodeLayer(r io.Reader, left int64) (*bloom, error) {
	var b [32 << 10]byte
	if _, err := io.ReadFull(r, b[:16]); err != nil {
		return nil, err
	}
	capacity, chunks := binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:])
	if left < 16 || capacity == 0 || capacity > uint64(left)*8/bitsPerChunk || filterBytes(capacity) > uint64(left-16) {
		return nil, errFilterFile
	}
	out := newBloom(capacity)
	out.n.Store(chunks)
	for words := out.words; len(words) > 0; {
		part := b[:min(len(b), 8*len(words))]
		if _, err := io.ReadFull(r, part); err != nil {
			return nil, err
		}
		for ; len(part) > 0; part, words = part[8:], words[1:] {
			words[0] = binary.BigEndian.Uint64(part)
		}
	}
	return out, nil
}

// tail reads chunks that were added later into l.
func (s *summed) tail(l *layers, left int64) error {
	var b [32 << 10]byte
	if _, err := io.ReadFull(s, b[:4]); err != nil {
		return err
	}
	n := int64(binary.BigEndian.Uint32(b[:]))
	if n > (left-8)/prefixSize {
		return errFilterFile
	}
	for n > 0 {
		part := b[:min(int64(len(b)), n*prefixSize)]
		if _, err := io.ReadFull(s, part); err != nil {
			return err
		}
		for ; len(part) > 0; part, n = part[prefixSize:], n-1 {
			var id chunk.ID
			copy(id[:], part[:prefixSize])
			l.add(id)
		}
	}
	return s.check()
}
