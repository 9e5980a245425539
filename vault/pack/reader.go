package pack

import (
	"crypto/cipher"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Reader reads a finished pack. It is safe for concurrent use, as far as the io.ReaderAt is.
type Reader struct {
	r    io.ReaderAt
	size int64
	head header
	tail tail
	aead cipher.AEAD
}

// Open reads header and tail of a pack of size bytes; the footer and the blocks are read when asked for. It returns
// a *DamageError, an error that wraps ErrNewer, the error of reading, or that of the key source.
func Open(r io.ReaderAt, size int64, k KeySource) (*Reader, error) {
	p, err := openHead(r, size, k)
	if err != nil {
		return nil, err
	}
	if p.tail, err = readTail(p.name("tail"), r, size); err != nil {
		return nil, err
	}
	return p.agree()
}

// OpenDamaged opens a pack whose tail is damaged or lost: it looks for the copy behind the footer, or else for the
// footer itself by way of the frames before it. Footer, ReadBlock and Verify then work as after Open, and Verify
// reports the tail.
func OpenDamaged(r io.ReaderAt, size int64, k KeySource) (*Reader, error) {
	p, err := openHead(r, size, k)
	if err != nil {
		return nil, err
	}
	if p.tail, err = readTail(p.name("tail"), r, size); err == nil {
		return p.agree()
	}
	if errors.Is(err, ErrNewer) {
		return nil, err
	}
	if p.HasParity() {
		if t, ok := searchTail(r, size); ok {
			p.tail = t
			return p.agree()
		}
	}
	for f, walkErr := range p.frames() {
		if walkErr != nil {
			return nil, walkErr
		}
		if f.kind == kindFooter {
			p.tail = tail{flags: p.head.flags, number: p.head.number, footerAt: f.offset, footerLen: f.stored}
			p.tail.size = p.tail.dataEnd() + tailSize
			return p, nil
		}
	}
	return nil, fmt.Errorf("%w, and its footer cannot be found either", err)
}

// agree returns p if header and tail belong together.
func (p *Reader) agree() (*Reader, error) {
	if p.tail.number != p.head.number || p.tail.flags != p.head.flags {
		return nil, damage(p.name("tail"), "it says pack %d with flags %#x, and the header says %d with %#x",
			p.tail.number, p.tail.flags, p.head.number, p.head.flags)
	}
	return p, nil
}

// openHead reads the header alone: enough to read blocks whose places are known.
func openHead(r io.ReaderAt, size int64, k KeySource) (*Reader, error) {
	if size < headerSize {
		return nil, damage("pack header", "the file has %d bytes and ends before the header does", size)
	}
	if size > MaxFileBytes {
		return nil, damage("pack", "the file has %d bytes, more than the %d that a pack may have", size, int64(MaxFileBytes))
	}
	h, err := readHeader(r)
	if err != nil {
		return nil, err
	}
	aead, err := h.open(k)
	if err != nil {
		return nil, err
	}
	return &Reader{r: r, size: size, head: h, aead: aead}, nil
}

func readHeader(r io.ReaderAt) (header, error) {
	var b [headerSize]byte
	if err := readFull(r, b[:], 0); err != nil {
		return header{}, fmt.Errorf("pack header: %w", err)
	}
	return parseHeader(b[:])
}

func readTail(where string, r io.ReaderAt, size int64) (tail, error) {
	if size < tailSize {
		return tail{}, damage(where, "the file has %d bytes and ends before it", size)
	}
	var b [tailSize]byte
	if err := readFull(r, b[:], size-tailSize); err != nil {
		return tail{}, fmt.Errorf("%s: %w", where, err)
	}
	t, err := parseTail(where, b[:])
	if err == nil && t.size != size {
		err = damage(where, "it says %d bytes and the file has %d", t.size, size)
	}
	return t, err
}

// Number returns the pack's number, as its header says it.
func (p *Reader) Number() uint32 { return p.head.number }

// Vault returns the vault that the pack belongs to.
func (p *Reader) Vault() [16]byte { return p.head.vault }

// Epoch returns the epoch whose key opens the pack.
func (p *Reader) Epoch() uint32 { return p.head.epoch }

// HasParity tells whether the pack can be repaired from itself.
func (p *Reader) HasParity() bool { return p.head.flags&flagParity != 0 }

// Footer reads the table of all blocks and chunks. It is read anew with every call.
func (p *Reader) Footer() (*Footer, error) {
	where := p.name("footer")
	frame := make([]byte, p.tail.footerLen) // not longer than the file, see tail.check
	if err := readFull(p.r, frame, p.tail.footerAt); err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	plain, err := openFrame(p.aead, where, kindFooter, frame)
	if err != nil {
		return nil, err
	}
	return decodeFooter(where, plain, p.tail.footerAt)
}

// ReadBlock reads the block whose frame of stored bytes begins at offset, and authenticates it. The payload uses
// dst's storage from its beginning, if it is large enough; the chunks are the caller's to keep. offset and stored
// may come from an index that is wrong: then, as when the block is damaged, the error is a *DamageError, and the
// footer knows which of the two it is.
func (p *Reader) ReadBlock(dst []byte, d *Decoder, offset int64, stored uint32) (payload []byte, chunks []Chunk, err error) {
	payload, chunks, _, err = p.readBlock(dst, d, offset, stored)
	return payload, chunks, err
}

func (p *Reader) readBlock(dst []byte, d *Decoder, offset int64, stored uint32) ([]byte, []Chunk, uint32, error) {
	where := p.at(offset)
	if stored < frameOverhead || stored > maxFrame || offset < headerSize || offset > p.size-int64(stored) {
		return nil, nil, 0, damage(where, "a frame of %d bytes cannot be there in a pack of %d", stored, p.size)
	}
	d.frame = slices.Grow(d.frame[:0], int(stored))[:stored]
	if err := readFull(p.r, d.frame, offset); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, nil, 0, damage(where, "the file ends within it")
		}
		return nil, nil, 0, fmt.Errorf("%s: %w", where, err)
	}
	plain, err := openFrame(p.aead, where, kindBlock, d.frame)
	if err != nil {
		return nil, nil, 0, err
	}
	payload, chunks, err := decodeBlock(dst, d, where, plain)
	return payload, chunks, order.Uint32(d.frame[4:]), err
}

func (p *Reader) name(part string) string { return fmt.Sprintf("pack %d: %s", p.head.number, part) }

func (p *Reader) at(offset int64) string {
	return fmt.Sprintf("pack %d: block at offset %d", p.head.number, offset)
}
