// Package chunk cuts content into chunks where the content itself says so, and names each chunk by a keyed hash.
//
// Both are formats for good. If the cut points or the IDs moved, every byte that a vault already holds would be
// stored a second time; golden vectors in the tests keep them where they are.
package chunk

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
)

// Sizes of a chunk in bytes. Only the last chunk of a file may be smaller than MinSize.
const (
	MinSize    = 128 << 10 // nothing is cut before it
	NormalSize = 512 << 10 // cuts are rare before it and frequent after it
	MaxSize    = 2 << 20   // a chunk is cut here at the latest
)

// The rolling hash h over the bytes b of a file is
//
//	h = 2h + gear[b]   (mod 2^64)
//
// so a byte has left it after 64 steps: whether a place is a cut point depends on the 64 bytes before it (and, by
// the two thresholds, on how far the chunk has come), never on what lies further back. That is how equal content
// falls into step again after an insertion.
//
// A chunk that starts at p[0] is cut at the first length n for which one of these is true, h being the hash of the
// window of 64 bytes that ends at p[n-1]:
//
//	MinSize    <  n <= NormalSize  and  h < rare       (once in 2^21 bytes)
//	NormalSize <  n <  MaxSize     and  h < frequent   (once in 2^17 bytes)
//	              n == MaxSize
//	              n == len(p)      and  the content ends there
const (
	window = 64

	rare     = 1 << (64 - 21)
	frequent = 1 << (64 - 17)
)

// gearInfo separates the table from everything else that is ever derived from the gear key.
const gearInfo = "holdfast/1/gear"

// Splitter finds cut points under one secret gear table. It holds no state between calls and is safe for
// concurrent use.
type Splitter struct {
	gear    [256]uint64
	doubled [256]uint64 // 2*gear[b]: lets the loop take two bytes a step
}

// NewSplitter returns the Splitter of a vault. The table is HKDF-Expand with SHA-256 of gearKey, info
// "holdfast/1/gear", 2048 bytes: 256 big-endian numbers of 64 bits.
func NewSplitter(gearKey [32]byte) *Splitter {
	table, err := hkdf.Expand(sha256.New, gearKey[:], gearInfo, 256*8)
	if err != nil {
		panic("chunk: internal error: " + err.Error()) // 2048 bytes are always within HKDF's reach
	}
	s := new(Splitter)
	for i := range s.gear {
		s.gear[i] = binary.BigEndian.Uint64(table[8*i:])
		s.doubled[i] = 2 * s.gear[i]
	}
	return s
}

// Cut returns the length of the chunk at the start of p. When final is false, p is a part of longer content: Cut
// then wants at least MaxSize bytes and returns 0, without looking, when there are fewer. When final is true the
// content ends with p, and every call returns at least 1 until p is empty. Cutting may begin anew at any chunk
// boundary: what came before has no influence.
func (s *Splitter) Cut(p []byte, final bool) int {
	if len(p) < MaxSize && !final {
		return 0
	}
	if len(p) <= MinSize {
		return len(p)
	}
	p = p[:min(len(p), MaxSize)]
	var h uint64
	for _, b := range p[MinSize-window : MinSize] {
		h = h<<1 + s.gear[b]
	}
	n, h := s.scan(h, p[:min(len(p), NormalSize)], MinSize, rare)
	if n == 0 {
		n, _ = s.scan(h, p, NormalSize, frequent)
	}
	if n == 0 {
		return len(p)
	}
	return n
}

// scan rolls h over p[from:] and returns the length up to and with the first byte after which h < limit, or 0 and
// the hash at the end of p.
func (s *Splitter) scan(h uint64, p []byte, from int, limit uint64) (int, uint64) {
	if from >= len(p) {
		return 0, h
	}
	q := p[from:]
	i := 0
	for ; len(q) >= 8; q = q[8:] {
		v := binary.LittleEndian.Uint64(q)
		// Two bytes a step: the chain from h to h is one shift and one addition for both.
		h1 := h<<1 + s.gear[v&255]
		h2 := h<<2 + (s.doubled[v&255] + s.gear[v>>8&255])
		h3 := h2<<1 + s.gear[v>>16&255]
		h4 := h2<<2 + (s.doubled[v>>16&255] + s.gear[v>>24&255])
		h5 := h4<<1 + s.gear[v>>32&255]
		h6 := h4<<2 + (s.doubled[v>>32&255] + s.gear[v>>40&255])
		h7 := h6<<1 + s.gear[v>>48&255]
		h8 := h6<<2 + (s.doubled[v>>48&255] + s.gear[v>>56])
		if min(h1, h2, h3, h4, h5, h6, h7, h8) < limit {
			for j, hj := range [8]uint64{h1, h2, h3, h4, h5, h6, h7, h8} {
				if hj < limit {
					return from + i + j + 1, hj
				}
			}
		}
		h, i = h8, i+8
	}
	for j, b := range q {
		h = h<<1 + s.gear[b]
		if h < limit {
			return from + i + j + 1, h
		}
	}
	return 0, h
}
