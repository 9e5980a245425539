package audit

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/bits"
	"strings"
)

// hashesMax is how many hashes a proof of a tree of fewer than 2^63 records can have.
const hashesMax = 63

// Leaf gives the hash of a record: of its line, without the newline.
func Leaf(line []byte) Hash {
	return sha256.Sum256(append([]byte{0}, line...))
}

func node(left, right Hash) Hash {
	return sha256.Sum256(append(append([]byte{1}, left[:]...), right[:]...))
}

// Proof says that a record is in the ledger: what a tlog-proof file holds.
type Proof struct {
	Extra      []byte // what came along, nil if nothing did; of a ledger's proof the record's line. Nothing vouches for it
	Index      uint64
	Hashes     []Hash
	Checkpoint Checkpoint
}

// ParseProof reads a tlog-proof file and verifies nothing.
func ParseProof(b []byte) (Proof, error) {
	var p Proof
	if len(b) > Max {
		return p, fmt.Errorf("proof: %d bytes, more than %d", len(b), Max)
	}
	rest, ok := strings.CutPrefix(string(b), "c2sp.org/tlog-proof@v1\n")
	if !ok {
		return p, errors.New("proof: its first line is not c2sp.org/tlog-proof@v1")
	}
	line, after, _ := strings.Cut(rest, "\n")
	if b64, ok := strings.CutPrefix(line, "extra "); ok {
		extra, err := decode(b64)
		if err != nil {
			return p, fmt.Errorf("proof: extra: %w", err)
		}
		p.Extra = extra
		line, after, _ = strings.Cut(after, "\n")
	}
	index, ok := strings.CutPrefix(line, "index ")
	if !ok {
		return p, fmt.Errorf("proof: %q is not the line of an index", line)
	}
	var err error
	if p.Index, err = parseNumber(index); err != nil {
		return p, fmt.Errorf("proof: index: %w", err)
	}
	p.Hashes, p.Checkpoint, err = parseTail(after)
	return p, err
}

// parseTail reads hashes, an empty line and a checkpoint.
func parseTail(s string) ([]Hash, Checkpoint, error) {
	var hashes []Hash
	for {
		line, rest, whole := strings.Cut(s, "\n")
		if !whole {
			return nil, Checkpoint{}, errors.New("proof: it ends before its checkpoint")
		}
		s = rest
		if line == "" {
			break
		}
		h, err := ParseHash(line)
		if err != nil {
			return nil, Checkpoint{}, fmt.Errorf("proof: %w", err)
		}
		if len(hashes) == hashesMax {
			return nil, Checkpoint{}, fmt.Errorf("proof: more than %d hashes", hashesMax)
		}
		hashes = append(hashes, h)
	}
	c, err := ParseCheckpoint([]byte(s))
	return hashes, c, err
}

// Check says whether line is the record of that index in the tree of the checkpoint, and the checkpoint what the policy
// asks for. It gives the cosignatures that hold.
func (p *Proof) Check(line []byte, policy *Policy) ([]Cosigned, error) {
	signed, err := policy.Check(&p.Checkpoint)
	if err != nil {
		return nil, err
	}
	return signed, CheckInclusion(Leaf(line), p.Index, p.Hashes, p.Checkpoint.Size, p.Checkpoint.Root)
}

// CheckInclusion says whether leaf is the leaf of an index in the tree of a size and root. The way is that of RFC 9162,
// section 2.1.3.2: the bits of index and size say on which side each hash stands.
func CheckInclusion(leaf Hash, index uint64, hashes []Hash, size uint64, root Hash) error {
	if index >= size {
		return fmt.Errorf("%w: record %d is not among %d, numbered from 0", ErrRefuted, index, size)
	}
	fn, sn, r := index, size-1, leaf
	for _, h := range hashes {
		if sn == 0 {
			return fmt.Errorf("%w: the proof has more hashes than record %d of %d needs", ErrRefuted, index, size)
		}
		if fn&1 == 1 || fn == sn {
			r = node(h, r)
			shift := 0
			if fn&1 == 0 {
				shift = min(bits.TrailingZeros64(fn), 63)
			}
			fn, sn = fn>>shift, sn>>shift
		} else {
			r = node(r, h)
		}
		fn, sn = fn>>1, sn>>1
	}
	if sn != 0 {
		return fmt.Errorf("%w: the proof has fewer hashes than record %d of %d needs", ErrRefuted, index, size)
	}
	if r != root {
		return fmt.Errorf("%w: the proof does not lead from this record to the checkpoint's root", ErrRefuted)
	}
	return nil
}

// Extension says that a tree extends an older one: what the body of a tlog-witness request holds.
type Extension struct {
	Old        uint64 // records of the older tree
	Hashes     []Hash
	Checkpoint Checkpoint // of the newer tree
}

// ParseExtension reads a consistency proof and verifies nothing.
func ParseExtension(b []byte) (Extension, error) {
	var e Extension
	if len(b) > Max {
		return e, fmt.Errorf("proof: %d bytes, more than %d", len(b), Max)
	}
	line, rest, _ := strings.Cut(string(b), "\n")
	old, ok := strings.CutPrefix(line, "old ")
	if !ok {
		return e, fmt.Errorf("proof: its first line %q is not \"old\" and a size", line)
	}
	var err error
	if e.Old, err = parseNumber(old); err != nil {
		return e, fmt.Errorf("proof: old size: %w", err)
	}
	e.Hashes, e.Checkpoint, err = parseTail(rest)
	return e, err
}

// Check says whether the newer tree extends the older one that somebody saved, and the newer checkpoint is what the policy
// asks for. It gives the cosignatures that hold.
func (e *Extension) Check(size uint64, root Hash, policy *Policy) ([]Cosigned, error) {
	signed, err := policy.Check(&e.Checkpoint)
	if err != nil {
		return nil, err
	}
	if e.Old != size {
		return nil, fmt.Errorf("%w: the proof is about a tree of %d records, the saved one has %d", ErrRefuted, e.Old, size)
	}
	return signed, CheckConsistency(size, root, e.Hashes, e.Checkpoint.Size, e.Checkpoint.Root)
}

// CheckConsistency says whether the tree of size and root begins with the tree of old and oldRoot. The way is that of RFC
// 9162, section 2.1.4.2.
func CheckConsistency(old uint64, oldRoot Hash, hashes []Hash, size uint64, root Hash) error {
	refuted := func(why string) error {
		return fmt.Errorf("%w: %s: the tree of %d records does not begin with the %d that were saved", ErrRefuted, why, size, old)
	}
	switch {
	case old > size:
		return refuted("records are missing")
	case old == 0 || old == size:
		if len(hashes) > 0 {
			return refuted("the proof has hashes where none belong")
		}
		if old == size && root != oldRoot {
			return refuted("the roots differ")
		}
		return nil
	case len(hashes) == 0:
		return refuted("the proof is empty")
	}
	fn, sn := old-1, size-1
	shift := bits.TrailingZeros64(^fn) // old is an exact power of two below that
	fn, sn = fn>>shift, sn>>shift
	if fn == 0 {
		hashes = append([]Hash{oldRoot}, hashes...)
	}
	fr, sr := hashes[0], hashes[0]
	for _, h := range hashes[1:] {
		if sn == 0 {
			return refuted("the proof has too many hashes")
		}
		if fn&1 == 1 || fn == sn {
			fr, sr = node(h, fr), node(h, sr)
			shift := 0
			if fn&1 == 0 {
				shift = min(bits.TrailingZeros64(fn), 63)
			}
			fn, sn = fn>>shift, sn>>shift
		} else {
			sr = node(sr, h)
		}
		fn, sn = fn>>1, sn>>1
	}
	switch {
	case sn != 0:
		return refuted("the proof has too few hashes")
	case fr != oldRoot:
		return refuted("the proof does not lead to the saved root")
	case sr != root:
		return refuted("the proof does not lead to the newer root")
	}
	return nil
}
