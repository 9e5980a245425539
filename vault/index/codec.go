package index

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/holdfast-vault/holdfast/vault/chunk"
)

// Keys and values, all numbers big endian. Every value ends with a CRC-32C over the vault's 16 bytes, the key
// and the value before it, so that neither a flipped bit, nor a value under a wrong key, nor another vault's
// value is ever taken for an answer.
//
//	'c' ID (32)        pack 4 | offset 6 | stored 4 | in block 4 | size 4 | crc 4     a chunk
//	'n'                chunks 8 | crc 4                                               distinct chunks added
//	'p' pack (4)       chunks 8 | crc 4                                               the pack is wholly in
//	'v'                format 1 | vault 16 | crc 4                                    whose index this is
const (
	chunkKey = 'c'
	countKey = 'n'
	packKey  = 'p'
	vaultKey = 'v'

	chunkKeySize = 1 + chunk.IDSize
	placeSize    = 4 + 6 + 4 + 4 + 4 + 4
	numberSize   = 8 + 4

	layout    = 1 // in the 'v' record
	maxOffset = 1<<48 - 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// codec seals and opens values of one vault.
type codec struct {
	vault [16]byte
	start uint32 // CRC of the vault's bytes
}

func newCodec(vault [16]byte) codec {
	return codec{vault, crc32.Checksum(vault[:], castagnoli)}
}

func (c codec) sum(key, value []byte) uint32 {
	return crc32.Update(crc32.Update(c.start, castagnoli, key), castagnoli, value)
}

func (c codec) seal(key, value []byte) []byte {
	return binary.BigEndian.AppendUint32(value, c.sum(key, value))
}

// open strips the checksum; ok only if it fits.
func (c codec) open(key, value []byte) ([]byte, bool) {
	n := len(value) - 4
	if n < 0 || binary.BigEndian.Uint32(value[n:]) != c.sum(key, value[:n]) {
		return nil, false
	}
	return value[:n], true
}

func appendChunkKey(dst []byte, id chunk.ID) []byte {
	return append(append(dst, chunkKey), id[:]...)
}

func packKeyOf(pack uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{packKey}, pack)
}

func (c codec) sealPlace(key []byte, p Place) []byte {
	v := make([]byte, 0, placeSize)
	v = binary.BigEndian.AppendUint32(v, p.Pack)
	v = binary.BigEndian.AppendUint16(v, uint16(p.Offset>>32))
	v = binary.BigEndian.AppendUint32(v, uint32(p.Offset))
	v = binary.BigEndian.AppendUint32(v, p.Stored)
	v = binary.BigEndian.AppendUint32(v, p.InBlock)
	v = binary.BigEndian.AppendUint32(v, p.Size)
	return c.seal(key, v)
}

func (c codec) place(key, value []byte) (Place, bool) {
	v, ok := c.open(key, value)
	if !ok || len(value) != placeSize {
		return Place{}, false
	}
	return Place{
		Pack:    binary.BigEndian.Uint32(v),
		Offset:  int64(binary.BigEndian.Uint16(v[4:]))<<32 | int64(binary.BigEndian.Uint32(v[6:])),
		Stored:  binary.BigEndian.Uint32(v[10:]),
		InBlock: binary.BigEndian.Uint32(v[14:]),
		Size:    binary.BigEndian.Uint32(v[18:]),
	}, true
}

func (c codec) sealNumber(key []byte, n uint64) []byte {
	return c.seal(key, binary.BigEndian.AppendUint64(nil, n))
}

func (c codec) number(key, value []byte) (uint64, bool) {
	v, ok := c.open(key, value)
	if !ok || len(value) != numberSize {
		return 0, false
	}
	return binary.BigEndian.Uint64(v), true
}

func (c codec) sealVault() []byte {
	return c.seal([]byte{vaultKey}, append([]byte{layout}, c.vault[:]...))
}

// isVault reports whether a 'v' record is ours.
func (c codec) isVault(value []byte) bool {
	v, ok := c.open([]byte{vaultKey}, value)
	return ok && len(v) == 17 && v[0] == layout && [16]byte(v[1:]) == c.vault
}
