package pack

import (
	"crypto/cipher"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// Encoder compresses blocks. It holds buffers of some megabytes and is not safe for concurrent use: each goroutine
// makes its own and keeps it.
type Encoder struct {
	zstd     *zstd.Encoder
	cells    cells
	gathered []byte
}

// NewEncoder returns an Encoder.
func NewEncoder() *Encoder {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false),       // the tag of the frame does more
		zstd.WithWindowSize(BlockTarget), // more costs memory for each worker and gains next to nothing
		zstd.WithSingleSegment(true))
	if err != nil {
		panic("pack: internal error: " + err.Error()) // the options are constants
	}
	return &Encoder{zstd: z}
}

// Decoder decompresses blocks. It holds the frame that it reads and is not safe for concurrent use: each goroutine
// makes its own and keeps it.
type Decoder struct {
	zstd     *zstd.Decoder
	frame    []byte
	cells    cells
	gathered []byte
}

// NewDecoder returns a Decoder.
func NewDecoder() *Decoder {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxPayload),
		zstd.WithDecodeAllCapLimit(true)) // never more than the length that the frame declared
	if err != nil {
		panic("pack: internal error: " + err.Error()) // the options are constants
	}
	return &Decoder{zstd: z}
}

// nonce is unique for each frame of a pack: the footer has a kind of its own.
func nonce(kind byte, number uint32) [12]byte {
	n := [12]byte{0: kind}
	order.PutUint32(n[8:], number)
	return n
}

func putFrameHeader(b []byte, kind byte, number, stored uint32) {
	b[0], b[1], b[2], b[3] = kind, 0, 0, 0
	order.PutUint32(b[4:], number)
	order.PutUint32(b[8:], stored)
	order.PutUint32(b[12:], crc32.Checksum(b[:12], castagnoli))
}

// sealFrame encrypts frame[frameHeaderSize:] where it stands and completes the frame.
func sealFrame(aead cipher.AEAD, kind byte, number uint32, frame []byte) []byte {
	putFrameHeader(frame, kind, number, uint32(len(frame)+tagSize))
	n := nonce(kind, number)
	return aead.Seal(frame[:frameHeaderSize], n[:], frame[frameHeaderSize:], frame[:frameHeaderSize])
}

// openFrame decrypts a whole frame where it stands and returns the plaintext, which lies in frame.
func openFrame(aead cipher.AEAD, where string, kind byte, frame []byte) ([]byte, error) {
	h, err := parseFrameHeader(where, frame)
	if err != nil {
		return nil, err
	}
	if h.kind != kind || int64(h.stored) != int64(len(frame)) {
		return nil, damage(where, "it is a frame %q of %d bytes, and one %q of %d bytes was looked for", h.kind, h.stored, kind, len(frame))
	}
	n := nonce(h.kind, h.number)
	plain, err := aead.Open(frame[frameHeaderSize:frameHeaderSize], n[:], frame[frameHeaderSize:], frame[:frameHeaderSize])
	if err != nil {
		return nil, damage(where, "its content does not authenticate")
	}
	return plain, nil
}

type frameHeader struct {
	kind   byte
	number uint32
	stored uint32
}

func parseFrameHeader(where string, b []byte) (frameHeader, error) {
	if len(b) < frameHeaderSize {
		return frameHeader{}, damage(where, "%d bytes are no frame", len(b))
	}
	if crc32.Checksum(b[:12], castagnoli) != order.Uint32(b[12:]) {
		return frameHeader{}, damage(where, "no frame begins here, or its header is damaged")
	}
	h := frameHeader{kind: b[0], number: order.Uint32(b[4:]), stored: order.Uint32(b[8:])}
	switch {
	case h.kind != kindBlock && h.kind != kindFooter, b[1]|b[2]|b[3] != 0:
		return frameHeader{}, damage(where, "its frame has kind %q", b[:4])
	case h.stored < frameOverhead, h.kind == kindBlock && h.stored > maxFrame:
		return frameHeader{}, damage(where, "a frame of %d bytes cannot be", h.stored)
	}
	return h, nil
}

// checkBlock refuses what no block may be.
func checkBlock(payload []byte, chunks []Chunk) error {
	if len(payload) == 0 || len(payload) > MaxPayload {
		return fmt.Errorf("a payload of %d bytes: 1 to %d are possible", len(payload), MaxPayload)
	}
	if len(chunks) == 0 || len(chunks) > MaxChunks {
		return fmt.Errorf("%d chunks: 1 to %d are possible", len(chunks), MaxChunks)
	}
	at := uint64(0)
	for i, c := range chunks {
		if uint64(c.Offset) != at {
			return fmt.Errorf("chunk %d stands at %d, and the one before it ends at %d", i, c.Offset, at)
		}
		at += uint64(c.Size)
	}
	if at != uint64(len(payload)) {
		return fmt.Errorf("the chunks end at %d and the payload at %d", at, len(payload))
	}
	return nil
}

func appendChunkRows(dst []byte, chunks []Chunk) []byte {
	for i := range chunks {
		dst = append(dst, chunks[i].ID[:]...)
		dst = order.AppendUint32(dst, chunks[i].Size)
	}
	return dst
}

// readChunkRows fills chunks from rows and requires that their lengths add up to raw.
func readChunkRows(where string, chunks []Chunk, rows []byte, raw uint32) error {
	at := uint64(0)
	for i := range chunks {
		row := rows[i*chunkRowSize : (i+1)*chunkRowSize]
		copy(chunks[i].ID[:], row)
		chunks[i].Offset, chunks[i].Size = uint32(at), order.Uint32(row[len(chunks[i].ID):])
		if at += uint64(chunks[i].Size); at > uint64(raw) {
			break
		}
	}
	if at != uint64(raw) {
		return damage(where, "its chunks do not add up to its payload of %d bytes", raw)
	}
	return nil
}

// encodeBlock builds the frame of a block in dst's storage, from its beginning.
func encodeBlock(dst []byte, aead cipher.AEAD, e *Encoder, number uint32, payload []byte, chunks []Chunk) []byte {
	head := frameHeaderSize + blockHeadSize + len(chunks)*chunkRowSize
	frame := slices.Grow(dst[:0], head+len(payload)+len(payload)/128+1024+tagSize)[:frameHeaderSize]
	frame = append(frame, codecRaw)
	frame = order.AppendUint32(frame, uint32(len(payload)))
	frame = order.AppendUint32(frame, uint32(len(chunks)))
	frame = appendChunkRows(frame, chunks)
	frame, codec := e.compress(frame, payload)
	frame[frameHeaderSize] = codec
	return sealFrame(aead, kindBlock, number, frame)
}

// DecodeSlack is how many bytes of room more than the payload's length make decompression faster: without them the library
// copies the last bytes of a block one by one.
const DecodeSlack = 16

// decodeBlock takes the plaintext of a block apart. The payload is put into dst's storage, from its beginning.
func decodeBlock(dst []byte, d *Decoder, where string, plain []byte) (payload []byte, chunks []Chunk, err error) {
	if len(plain) < blockHeadSize {
		return nil, nil, damage(where, "its plaintext has %d bytes", len(plain))
	}
	codec, raw, count := plain[0], order.Uint32(plain[1:]), order.Uint32(plain[5:])
	body := plain[blockHeadSize:]
	if raw == 0 || raw > MaxPayload || count == 0 || count > MaxChunks || int(count) > len(body)/chunkRowSize {
		return nil, nil, damage(where, "it says %d chunks and %d bytes in %d", count, raw, len(plain))
	}
	rows, body := body[:count*chunkRowSize], body[count*chunkRowSize:]
	chunks = make([]Chunk, count)
	if err := readChunkRows(where, chunks, rows, raw); err != nil {
		return nil, nil, err
	}
	if payload, err = d.expand(dst, codec, raw, body); err != nil {
		return nil, nil, damage(where, "%v", err)
	}
	return payload, chunks, nil
}

func (d *Decoder) expand(dst []byte, codec byte, raw uint32, body []byte) ([]byte, error) {
	switch codec {
	case codecRaw:
		if len(body) != int(raw) {
			return nil, fmt.Errorf("its payload has %d bytes and should have %d", len(body), raw)
		}
		return append(dst[:0], body...), nil
	case codecZstd:
		dst = slices.Grow(dst[:0], int(raw)+DecodeSlack)
		out, err := d.zstd.DecodeAll(body, dst[:0:int(raw)+DecodeSlack])
		if err != nil {
			return nil, fmt.Errorf("its payload cannot be decompressed: %w", err)
		}
		if len(out) != int(raw) {
			return nil, fmt.Errorf("its payload decompresses to %d bytes and should have %d", len(out), raw)
		}
		if &out[0] == &dst[:1][0] {
			out = dst[:len(out)] // without the limit: whoever lent the room knows it by its size
		}
		return out, nil
	case codecApart:
		return d.merge(dst, int(raw), body)
	}
	return nil, fmt.Errorf("codec %d does not exist", codec)
}

// readFull reads len(p) bytes at off; a file that is too short is io.ErrUnexpectedEOF.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
