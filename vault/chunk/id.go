package chunk

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
)

// IDSize is the length of an ID in bytes.
const IDSize = 32

// ID names a chunk: HMAC-SHA-256 of its plaintext under the vault's chunk ID key.
// Without the key it says nothing of the content. The zero ID names nothing.
type ID [IDSize]byte

// String returns the ID as 64 lower case hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// IsZero tells whether id is the zero ID, which names no chunk.
func (id ID) IsZero() bool { return id == ID{} }

// Compare orders IDs as their bytes are ordered: negative when id comes before other.
func (id ID) Compare(other ID) int { return bytes.Compare(id[:], other[:]) }

// MarshalText writes the ID as String does.
func (id ID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }

// UnmarshalText reads what MarshalText wrote, and nothing else.
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := Parse(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// Parse reads an ID of exactly 64 lower case hexadecimal digits: an ID has one spelling.
func Parse(s string) (ID, error) {
	var id ID
	if len(s) != 2*IDSize {
		return ID{}, fmt.Errorf("chunk ID %.80q: it has %d characters, and %d are needed", s, len(s), 2*IDSize)
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ID{}, fmt.Errorf("chunk ID %q: character %d is not a lower case hexadecimal digit", s, i+1)
		}
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ID{}, fmt.Errorf("chunk ID %q: %w", s, err)
	}
	return id, nil
}

// Hasher computes chunk IDs under one key without allocating.
// A Hasher is not safe for concurrent use: each goroutine makes its own.
type Hasher struct {
	mac hash.Hash
	sum [IDSize]byte
}

// NewHasher returns a Hasher for the vault's chunk ID key.
func NewHasher(key [32]byte) *Hasher {
	return &Hasher{mac: hmac.New(sha256.New, key[:])}
}

// Sum returns the ID of the chunk whose plaintext is p.
func (h *Hasher) Sum(p []byte) ID {
	h.mac.Reset()
	h.mac.Write(p) // a hash never returns an error
	h.mac.Sum(h.sum[:0])
	return h.sum
}
