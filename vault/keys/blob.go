package keys

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// A sealed blob, numbers big-endian:
//
//	 0   4  "HFB\n"
//	 4   1  version, 1
//	 5   3  zero
//	 8   4  epoch
//	12  32  random salt
//	44   4  CRC-32C of bytes 0 to 43: tells damage from a newer version
//	48   n  AES-256-GCM of n-16 bytes of plaintext, 16 bytes of tag at the end
//
// key = HKDF with SHA-256 of the epoch's key, salt as above, info "holdfast/1/blob/VAULT/PURPOSE"; the nonce is 12
// zero bytes, which is sound because each salt makes a key that is used once; the additional data is the 48 bytes
// of the header and then the caller's. Every later version keeps bytes 0 to 4 and 44 to 47.
const (
	blobMagic   = "HFB\n"
	blobVersion = 1
	blobHeader  = 48
	blobTag     = 16
)

// BlobOverhead is how many bytes a sealed blob is longer than its plaintext.
const BlobOverhead = blobHeader + blobTag

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// SealBlob encrypts plaintext under a key of its own in the newest epoch, and binds it to purpose and aad: both
// must be given again to OpenBlob, neither is stored. It is safe for concurrent use.
func (r *Ring) SealBlob(purpose string, plaintext, aad []byte) ([]byte, error) {
	blob := make([]byte, blobHeader, BlobOverhead+len(plaintext))
	copy(blob, blobMagic)
	blob[4] = blobVersion
	binary.BigEndian.PutUint32(blob[8:], r.Epoch())
	rand.Read(blob[12:44])
	binary.BigEndian.PutUint32(blob[44:], crc32.Checksum(blob[:44], castagnoli))
	aead, err := r.blobCipher(purpose, blob[:blobHeader])
	if err != nil {
		return nil, err
	}
	return aead.Seal(blob, make([]byte, aead.NonceSize()), plaintext, blobData(blob, aad)), nil
}

// OpenBlob returns the plaintext of a blob that SealBlob made with the same purpose and aad. It returns a
// *DamageError, an error that wraps ErrNewer, or the error of an epoch that the ring lacks. blob is not changed.
func (r *Ring) OpenBlob(purpose string, blob, aad []byte) ([]byte, error) {
	const where = "sealed blob"
	if len(blob) < BlobOverhead {
		return nil, damaged(where, "it has %d bytes, fewer than the %d of an empty one", len(blob), BlobOverhead)
	}
	if !bytes.HasPrefix(blob, []byte(blobMagic)) {
		return nil, damaged(where, "it begins with %q", blob[:4])
	}
	if crc32.Checksum(blob[:44], castagnoli) != binary.BigEndian.Uint32(blob[44:]) {
		return nil, damaged(where, "the checksum of its header does not match")
	}
	if blob[4] > blobVersion {
		return nil, fmt.Errorf("sealed blob of version %d: %w", blob[4], ErrNewer)
	}
	if blob[4] == 0 || blob[5]|blob[6]|blob[7] != 0 {
		return nil, damaged(where, "its header is not one that holdfast writes")
	}
	aead, err := r.blobCipher(purpose, blob[:blobHeader])
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, make([]byte, aead.NonceSize()), blob[blobHeader:], blobData(blob, aad))
	if err != nil {
		return nil, damaged(where, "its content does not authenticate: it was altered, or sealed for another vault, purpose or head")
	}
	return plain, nil
}

func (r *Ring) blobCipher(purpose string, header []byte) (cipher.AEAD, error) {
	secret, err := r.epochKey(binary.BigEndian.Uint32(header[8:]))
	if err != nil {
		return nil, err
	}
	key := r.expand(secret[:], "blob", purpose, header[12:44])
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func blobData(blob, aad []byte) []byte {
	return append(bytes.Clone(blob[:blobHeader]), aad...)
}
