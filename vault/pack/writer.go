package pack

import (
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
	"sync/atomic"
)

// File is what a Writer needs of a file: Write goes to its end, ReadAt sees what was written.
type File interface {
	io.Writer
	io.ReaderAt
}

// WriterOptions say which pack is to be written.
type WriterOptions struct {
	Vault  [16]byte
	Number uint32
	Keys   KeySource // the newest epoch is used
	Parity bool

	salt *[32]byte // tests only: golden bytes need a known key
}

// Writer writes one pack. Encode may be called by many goroutines at once; NewWriter, Append, Size and Finish belong
// to one goroutine, and Append may run beside Encode. Nothing is durable until the owner of the file has synced it.
//
// A block number is spent the first time it is given to Encode, whatever comes of it, and is refused for ever after:
// two payloads encrypted with one key and one nonce would lay each other open. For the same reason a pack that was
// not finished is never continued: a Writer always begins an empty file with a new key.
type Writer struct {
	f      File
	head   header
	parity bool
	aead   cipher.AEAD
	size   atomic.Int64

	mu      sync.Mutex           // guards encoded
	encoded map[uint32]signature // every number spent, and what Append must be given for it

	blocks uint32
	footer []byte // its frame, growing: room for the frame header, then the plaintext
	err    error  // the first failure of the file, or errFinished
}

// signature tells a frame that Encode made from any other, so that a buffer used again too early is caught here and
// not at a restore in years.
type signature struct {
	stored, sum      uint32 // of the frame
	raw, chunks, ids uint32 // payload length, number of chunks, checksum of the chunk rows
	appended         bool
}

var errFinished = errors.New("the pack is finished")

// NewWriter begins a pack in f, which must be empty, with a new key of its own, and writes the header.
func NewWriter(f File, o WriterOptions) (*Writer, error) {
	h := header{number: o.Number, vault: o.Vault, epoch: o.Keys.Epoch()}
	if o.Parity {
		h.flags |= flagParity
	}
	if o.salt != nil {
		h.salt = *o.salt
	} else {
		rand.Read(h.salt[:]) // never fails: the runtime ends the process instead
	}
	aead, err := h.open(o.Keys)
	if err != nil {
		return nil, err
	}
	w := &Writer{f: f, head: h, parity: o.Parity, aead: aead, encoded: map[uint32]signature{}}
	w.footer = make([]byte, frameHeaderSize+footerHeadSize, 64<<10)
	b := h.encode()
	if err := w.write(b[:]); err != nil {
		return nil, err
	}
	return w, nil
}

// Size returns the bytes written so far.
func (w *Writer) Size() int64 { return w.size.Load() }

// Encode compresses and encrypts a block and returns its frame, for Append. The frame uses dst's storage from its
// beginning, if it is large enough. chunks must fill the payload without gaps. Incompressible payloads are stored as
// they are. It is safe for concurrent use with one Encoder per goroutine. A number that was given before is refused.
func (w *Writer) Encode(dst []byte, e *Encoder, number uint32, payload []byte, chunks []Chunk) ([]byte, error) {
	if err := checkBlock(payload, chunks); err != nil {
		return nil, fmt.Errorf("pack %d: block %d: %w", w.head.number, number, err)
	}
	w.mu.Lock()
	_, spent := w.encoded[number]
	if !spent {
		w.encoded[number] = signature{} // spent from here on, even if nothing comes of it
	}
	w.mu.Unlock()
	if spent {
		return nil, fmt.Errorf("pack %d: block number %d was used before: a nonce must never repeat", w.head.number, number)
	}
	frame := encodeBlock(dst, w.aead, e, number, payload, chunks)
	s := signature{stored: uint32(len(frame)), sum: crc32.Checksum(frame, castagnoli),
		raw: uint32(len(payload)), chunks: uint32(len(chunks)), ids: sumChunks(chunks)}
	w.mu.Lock()
	w.encoded[number] = s
	w.mu.Unlock()
	return frame, nil
}

func sumChunks(chunks []Chunk) uint32 {
	var sum uint32
	var row [chunkRowSize]byte
	for i := range chunks {
		copy(row[:], chunks[i].ID[:])
		order.PutUint32(row[len(chunks[i].ID):], chunks[i].Size)
		sum = crc32.Update(sum, castagnoli, row[:])
	}
	return sum
}

// Append writes a frame that Encode of this Writer made, with the number, payload length and chunks that went into
// it. Numbers may come in any order, each once. The Block returned shares chunks with the caller. A wrong call is
// refused and changes nothing; after a failed write every later call fails too, and the file is only good for
// Salvage.
func (w *Writer) Append(frame []byte, number uint32, raw uint32, chunks []Chunk) (Block, error) {
	if w.err != nil {
		return Block{}, w.err
	}
	at := w.size.Load()
	if at+int64(len(frame)) > MaxBytes {
		return Block{}, fmt.Errorf("pack %d: block %d would make it larger than %d bytes", w.head.number, number, int64(MaxBytes))
	}
	if err := w.take(frame, number, raw, chunks); err != nil {
		return Block{}, fmt.Errorf("pack %d: block %d: %w", w.head.number, number, err)
	}
	if err := w.write(frame); err != nil {
		return Block{}, err
	}
	w.footer = appendFooterBlock(w.footer, number, uint32(len(frame)), raw, chunks)
	w.blocks++
	return Block{Number: number, Offset: at, Stored: uint32(len(frame)), Raw: raw, Chunks: chunks}, nil
}

// take checks that the frame is the one that Encode made under this number, and marks the number as appended.
func (w *Writer) take(frame []byte, number, raw uint32, chunks []Chunk) error {
	got := signature{stored: uint32(len(frame)), sum: crc32.Checksum(frame, castagnoli),
		raw: raw, chunks: uint32(len(chunks)), ids: sumChunks(chunks)}
	w.mu.Lock()
	defer w.mu.Unlock()
	want, ok := w.encoded[number]
	switch {
	case !ok || want.stored == 0:
		return errors.New("it was not encoded for this pack")
	case want.appended:
		return errors.New("it was appended before")
	case got != want:
		return errors.New("frame, length or chunks are not those that were encoded under this number")
	}
	want.appended = true
	w.encoded[number] = want
	return nil
}

func (w *Writer) write(p []byte) error {
	n, err := w.f.Write(p)
	w.size.Add(int64(n))
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		w.err = fmt.Errorf("pack %d: write at offset %d: %w", w.head.number, w.size.Load(), err)
		return w.err
	}
	return nil
}

// Finish writes footer, parity and tail, and returns the footer as it was decoded from its own encrypted bytes. It
// reads the whole pack back to compute parity. It does not sync: until the file's owner has, a power cut may leave
// any part of it. A pack without a block is refused and should be dropped.
func (w *Writer) Finish() (*Footer, error) {
	if w.err != nil {
		return nil, w.err
	}
	if w.blocks == 0 {
		return nil, fmt.Errorf("pack %d has no block: drop it", w.head.number)
	}
	footer, at, err := w.finishFooter()
	if err != nil {
		return nil, err
	}
	t := tail{flags: w.head.flags, number: w.head.number, footerAt: at, footerLen: uint32(w.size.Load() - at)}
	t.size = t.dataEnd() + tailSize
	if w.parity {
		if err := w.finishParity(&t); err != nil {
			return nil, err
		}
	}
	b := t.encode()
	if err := w.write(b[:]); err != nil {
		return nil, err
	}
	w.err = fmt.Errorf("pack %d: %w", w.head.number, errFinished)
	w.footer = nil
	return footer, nil
}

func (w *Writer) finishFooter() (*Footer, int64, error) {
	at := w.size.Load()
	order.PutUint32(w.footer[frameHeaderSize:], w.blocks)
	frame := sealFrame(w.aead, kindFooter, 0, w.footer)
	if err := w.write(frame); err != nil {
		return nil, 0, err
	}
	where := fmt.Sprintf("pack %d: new footer", w.head.number)
	plain, err := openFrame(w.aead, where, kindFooter, frame)
	if err == nil {
		var footer *Footer
		if footer, err = decodeFooter(where, plain, at); err == nil {
			return footer, at, nil
		}
	}
	w.err = err
	return nil, 0, err
}

// finishParity completes the geometry in t and writes everything behind the footer but the tail at the end.
func (w *Writer) finishParity(t *tail) error {
	t.geometry = geometryFor(t.dataEnd())
	p, err := computeParity(w.f, t.dataEnd(), t.geometry)
	if err != nil {
		w.err = fmt.Errorf("pack %d: compute parity: %w", w.head.number, err)
		return w.err
	}
	t.tableSum = crc32.Checksum(p.table, castagnoli)
	t.size += tailSize + 2*t.tableSize() + int64(t.parity)*t.shard
	if err := t.check("new tail"); err != nil {
		w.err = fmt.Errorf("pack %d: %w", w.head.number, err)
		return w.err
	}
	b := t.encode()
	for _, part := range [][]byte{b[:], p.table, p.shards, p.table} {
		if err := w.write(part); err != nil {
			return err
		}
	}
	return nil
}
