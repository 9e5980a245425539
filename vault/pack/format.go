// Package pack writes, reads, verifies, salvages and repairs packs: append-only files of encrypted blocks.
//
// A pack knows nothing of the vault around it but the keys it is given; it does all its work through io.Writer and
// io.ReaderAt, and never syncs: durability belongs to whoever owns the file.
package pack

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/holdfast-vault/holdfast/vault/chunk"
)

// A pack, all numbers big-endian, CRC meaning CRC-32C (Castagnoli):
//
//	header                  72 bytes
//	block frames            in the order in which they were appended
//	footer frame            the table of all blocks and chunks
//	tail                    56 bytes      \
//	checksum table          4 bytes/cell   | only in a pack with parity (see parity.go)
//	parity shards                          |
//	checksum table          the same again /
//	tail                    56 bytes, the last ones of the file
//
// There is no padding: every byte belongs to one of these and is checked by Verify.
//
// Header:
//
//	 0   8  "HFPACK\r\n"
//	 8   2  version, 1
//	10   2  flags: bit 0 parity
//	12   4  number of the pack
//	16  16  vault
//	32   4  epoch
//	36  32  random salt
//	68   4  CRC of bytes 0 to 67
//
// The key of the pack is KeySource.Derive(epoch, "pack", bytes 0 to 67 of the header): random, because the salt is,
// and bound to everything the header says. A pack whose header is altered or moved to another number has another
// key, and none of its blocks opens.
//
// Frame:
//
//	 0   1  kind: 'B' block, 'F' footer
//	 1   3  zero
//	 4   4  number of the block, unique in the pack; 0 for the footer
//	 8   4  length of the whole frame
//	12   4  CRC of bytes 0 to 11
//	16   n  AES-256-GCM: ciphertext, then 16 bytes of tag
//
// The nonce is the kind, 7 zero bytes, the number; the additional data is the 16 bytes above. A key and a nonce must
// never meet twice: the Writer spends each number once, a new pack always has a new key, and nothing is ever
// appended to a pack by a second Writer, because a pack cut by a crash may have spent numbers that it no longer
// shows. What can be salvaged of it goes into a new pack.
//
// Plaintext of a block (at least one chunk; the payload is the chunks one behind the other):
//
//	0   1  codec: 0 payload as it is, 1 zstd, 2 text and noise apart (see cells.go)
//	1   4  length of the payload before compression
//	5   4  chunks
//	9  36  of each chunk: ID (32), length (4)
//	       payload
//
// Plaintext of the footer, blocks in file order, without gaps from the header to the footer:
//
//	0   4  blocks
//	4      of each block: number (4), length of the frame (4), length of the payload (4), chunks (4),
//	       and of each chunk: ID (32), length (4)
//
// Tail (the copy behind the footer equals the one at the end, so that a lost end can be found by search):
//
//	 0   8  "HFTAIL\r\n"
//	 8   2  version, 1
//	10   2  flags, as in the header
//	12   4  number of the pack
//	16   8  length of the file
//	24   8  offset of the footer frame
//	32   4  length of the footer frame
//	36   2  data shards         0 without parity, as are the next four
//	38   2  parity shards
//	40   4  bytes of a shard
//	44   4  bytes of a cell
//	48   4  CRC of the checksum table
//	52   4  CRC of bytes 0 to 51
//
// Every later version keeps the first 12 bytes of header and tail, their lengths and their checksums: that is how
// damage and a newer release are told apart. An unknown flag is a newer release too.
const (
	headerMagic = "HFPACK\r\n"
	tailMagic   = "HFTAIL\r\n"
	version     = 1
	flagParity  = 1

	headerSize      = 72
	tailSize        = 56
	frameHeaderSize = 16
	tagSize         = 16
	frameOverhead   = frameHeaderSize + tagSize

	kindBlock  = 'B'
	kindFooter = 'F'

	codecRaw   = 0
	codecZstd  = 1
	codecApart = 2

	blockHeadSize   = 9
	footerHeadSize  = 4
	footerBlockSize = 16
	chunkRowSize    = chunk.IDSize + 4

	purposePack = "pack"
)

// Sizes. The first two are what a writer aims at, the others are bounds that a reader enforces before it allocates.
const (
	TargetBytes = 128 << 20 // a pack is finished once it has grown to this
	BlockTarget = 4 << 20   // chunks are gathered into blocks of up to this payload

	MaxPayload   = 4 << 20   // payload of one block
	MaxChunks    = 64 << 10  // chunks of one block
	MaxBytes     = 256 << 20 // header and blocks of one pack: Append refuses to go beyond
	MaxFileBytes = 1 << 30   // a whole pack with footer and parity

	maxFrame = frameOverhead + blockHeadSize + MaxChunks*chunkRowSize + MaxPayload
)

// KeySource gives the keys of epochs; a keyring is one.
type KeySource interface {
	Epoch() uint32
	Derive(epoch uint32, purpose string, salt []byte) ([32]byte, error)
}

// Chunk is the place of a chunk in the payload of its block.
type Chunk struct {
	ID           chunk.ID
	Offset, Size uint32
}

// Block is the place of a block in its pack.
type Block struct {
	Number uint32
	Offset int64  // of the frame in the file
	Stored uint32 // bytes of the whole frame
	Raw    uint32 // bytes of the payload, uncompressed
	Chunks []Chunk
}

// Footer is the table of contents of a pack.
type Footer struct {
	Blocks []Block // in file order
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var order = binary.BigEndian

type header struct {
	flags  uint16
	number uint32
	vault  [16]byte
	epoch  uint32
	salt   [32]byte
}

func (h header) encode() [headerSize]byte {
	var b [headerSize]byte
	copy(b[:], headerMagic)
	order.PutUint16(b[8:], version)
	order.PutUint16(b[10:], h.flags)
	order.PutUint32(b[12:], h.number)
	copy(b[16:], h.vault[:])
	order.PutUint32(b[32:], h.epoch)
	copy(b[36:], h.salt[:])
	order.PutUint32(b[68:], crc32.Checksum(b[:68], castagnoli))
	return b
}

// checkEnvelope checks what header and tail have in common: magic, checksum at the end, version, flags.
func checkEnvelope(where string, b []byte, magic string) error {
	if string(b[:8]) != magic {
		return damage(where, "it begins with %q, not %q", b[:8], magic)
	}
	end := len(b) - 4
	if got, want := crc32.Checksum(b[:end], castagnoli), order.Uint32(b[end:]); got != want {
		return damage(where, "its checksum is %08x, and %08x is recorded", got, want)
	}
	if v := order.Uint16(b[8:]); v > version {
		return fmt.Errorf("%s has version %d: %w", where, v, ErrNewer)
	} else if v == 0 {
		return damage(where, "version 0 does not exist")
	}
	if f := order.Uint16(b[10:]); f&^flagParity != 0 {
		return fmt.Errorf("%s has flags %#x: %w", where, f, ErrNewer)
	}
	return nil
}

func parseHeader(b []byte) (header, error) {
	if err := checkEnvelope("pack header", b, headerMagic); err != nil {
		return header{}, err
	}
	h := header{flags: order.Uint16(b[10:]), number: order.Uint32(b[12:]), epoch: order.Uint32(b[32:])}
	copy(h.vault[:], b[16:])
	copy(h.salt[:], b[36:])
	return h, nil
}

// open derives the key of the pack.
func (h header) open(k KeySource) (cipher.AEAD, error) {
	b := h.encode()
	key, err := k.Derive(h.epoch, purposePack, b[:68])
	if err != nil {
		return nil, fmt.Errorf("pack %d: %w", h.number, err)
	}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, fmt.Errorf("pack %d: %w", h.number, err)
	}
	return cipher.NewGCM(block)
}

type tail struct {
	flags     uint16
	number    uint32
	size      int64
	footerAt  int64
	footerLen uint32
	geometry
	tableSum uint32
}

func (t tail) encode() [tailSize]byte {
	var b [tailSize]byte
	copy(b[:], tailMagic)
	order.PutUint16(b[8:], version)
	order.PutUint16(b[10:], t.flags)
	order.PutUint32(b[12:], t.number)
	order.PutUint64(b[16:], uint64(t.size))
	order.PutUint64(b[24:], uint64(t.footerAt))
	order.PutUint32(b[32:], t.footerLen)
	order.PutUint16(b[36:], uint16(t.data))
	order.PutUint16(b[38:], uint16(t.parity))
	order.PutUint32(b[40:], uint32(t.shard))
	order.PutUint32(b[44:], uint32(t.cell))
	order.PutUint32(b[48:], t.tableSum)
	order.PutUint32(b[52:], crc32.Checksum(b[:52], castagnoli))
	return b
}

// dataEnd is the offset behind the footer frame: what parity covers.
func (t tail) dataEnd() int64 { return t.footerAt + int64(t.footerLen) }

func parseTail(where string, b []byte) (tail, error) {
	if err := checkEnvelope(where, b, tailMagic); err != nil {
		return tail{}, err
	}
	size, footerAt := order.Uint64(b[16:]), order.Uint64(b[24:])
	if size > MaxFileBytes || footerAt > MaxFileBytes {
		return tail{}, damage(where, "it speaks of a file of %d bytes with a footer at %d, beyond the %d that a pack may have",
			size, footerAt, int64(MaxFileBytes))
	}
	t := tail{
		flags: order.Uint16(b[10:]), number: order.Uint32(b[12:]),
		size: int64(size), footerAt: int64(footerAt), footerLen: order.Uint32(b[32:]),
		geometry: geometry{
			data: int(order.Uint16(b[36:])), parity: int(order.Uint16(b[38:])),
			shard: int64(order.Uint32(b[40:])), cell: int64(order.Uint32(b[44:])),
		},
		tableSum: order.Uint32(b[48:]),
	}
	return t, t.check(where)
}

// check refuses a tail that no Writer can have written, whatever its checksum says, so that nothing behind it needs
// to fear a length.
func (t tail) check(where string) error {
	// A block takes more room in its frame than in the footer, so a footer is never longer than what it describes.
	if t.footerAt < headerSize || t.footerLen < frameOverhead+footerHeadSize || int64(t.footerLen) > t.footerAt {
		return damage(where, "a footer of %d bytes at offset %d cannot be", t.footerLen, t.footerAt)
	}
	want := t.dataEnd() + tailSize
	if t.flags&flagParity != 0 {
		if err := t.geometry.check(t.dataEnd()); err != nil {
			return damage(where, "%v", err)
		}
		want += tailSize + 2*t.tableSize() + int64(t.parity)*t.shard
	} else if t.geometry != (geometry{}) || t.tableSum != 0 {
		return damage(where, "it describes parity and says that there is none")
	}
	if t.size != want {
		return damage(where, "its parts make %d bytes and it says %d", want, t.size)
	}
	return nil
}
