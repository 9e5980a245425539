package pack

import (
	"errors"
	"fmt"
	"io"
	"iter"
)

// SalvagedBlock is a complete block of a pack that was cut. Payload and Chunks are valid until the next step of the
// loop.
type SalvagedBlock struct {
	Number  uint32
	Payload []byte
	Chunks  []Chunk
}

// Salvage yields the complete, authenticated blocks of a pack that may be cut at any byte, in file order. It needs
// no footer and no tail. A block that is there in full length but does not authenticate is left out; the first place
// where no frame begins, or one is not complete, ends the loop without an error, because that is what a crash looks
// like. A file that ends within its header, or whose header was never written (all zero), yields nothing. An error
// ends the loop: a damaged header, ErrNewer, a key that is lacking, a failed read.
//
// What is salvaged goes into a new pack. Nothing is ever appended to this one: its nonces may be spent.
func Salvage(r io.ReaderAt, size int64, k KeySource) iter.Seq2[SalvagedBlock, error] {
	return func(yield func(SalvagedBlock, error) bool) {
		if size < headerSize || neverWritten(r) {
			return
		}
		p, err := openHead(r, size, k)
		if err != nil {
			yield(SalvagedBlock{}, err)
			return
		}
		d := NewDecoder()
		defer d.zstd.Close()
		var payload []byte
		for f, err := range p.frames() {
			if err != nil {
				yield(SalvagedBlock{}, err)
				return
			}
			if f.kind == kindFooter {
				return
			}
			b := SalvagedBlock{Number: f.number}
			b.Payload, b.Chunks, _, err = p.readBlock(payload, d, f.offset, f.stored)
			var dmg *DamageError
			if errors.As(err, &dmg) {
				continue
			}
			if !yield(b, err) || err != nil {
				return
			}
			payload = b.Payload
		}
	}
}

// neverWritten tells whether the place of the header is all zero: a file that got its length and not its content.
func neverWritten(r io.ReaderAt) bool {
	var b [headerSize]byte
	return readFull(r, b[:], 0) == nil && b == [headerSize]byte{}
}

type placedFrame struct {
	frameHeader
	offset int64
}

// frames walks the headers of the frames from the front and ends at the first place where no complete frame begins.
func (p *Reader) frames() iter.Seq2[placedFrame, error] {
	return func(yield func(placedFrame, error) bool) {
		var b [frameHeaderSize]byte
		for at := int64(headerSize); at <= p.size-frameHeaderSize; {
			if err := readFull(p.r, b[:], at); err != nil {
				if !errors.Is(err, io.ErrUnexpectedEOF) {
					yield(placedFrame{}, fmt.Errorf("%s: %w", p.at(at), err))
				}
				return
			}
			h, err := parseFrameHeader("", b[:])
			if err != nil || int64(h.stored) > p.size-at {
				return
			}
			if !yield(placedFrame{h, at}, nil) {
				return
			}
			at += int64(h.stored)
		}
	}
}
