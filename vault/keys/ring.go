// Package keys wraps, opens and rotates the keys of a vault, and derives every other key from them.
//
// A Ring holds one base key, which never changes and gives the keys for chunk IDs and cut points, and one key for
// each epoch, which gives the keys of packs and sealed blobs. It is kept wrapped with age to recipients whose
// private halves stay off the vault's disk.
package keys

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"slices"
)

// keySize is the length of every secret key here, in bytes.
const keySize = 32

// Ring is an opened keyring. It never changes and is safe for concurrent use; Rotate makes a new one.
type Ring struct {
	vault      string
	recipients []string
	base       [keySize]byte
	epochs     []epochKey // ascending
	sealed     []byte
}

type epochKey struct {
	number uint32
	key    [keySize]byte
}

// New makes the keyring of a new vault: a fresh base key and a fresh key for epoch 1, wrapped to all recipients
// (age1..., ssh-ed25519, ssh-rsa; post-quantum and classic recipients cannot be mixed). vault is the vault's 32
// lower case hexadecimal digits.
func New(vault string, recipients []string) (*Ring, error) {
	if !isVault(vault) {
		return nil, fmt.Errorf("make a keyring: vault %.80q is not 32 lower case hexadecimal digits", vault)
	}
	r := &Ring{vault: vault, epochs: []epochKey{{number: 1}}}
	rand.Read(r.base[:]) // never fails: the runtime ends the process instead
	rand.Read(r.epochs[0].key[:])
	if err := r.seal(recipients); err != nil {
		return nil, fmt.Errorf("make a keyring: %w", err)
	}
	return r, nil
}

// Rotate returns a new Ring with one more epoch, wrapped to recipients. Packs and blobs written with it need the new
// epoch's key; chunk IDs and cut points stay, so that deduplication does. Whoever could open the old keyring keeps
// what it could read. The old Ring stays as it is.
func (r *Ring) Rotate(recipients []string) (*Ring, error) {
	if r.Epoch() == ^uint32(0) {
		return nil, fmt.Errorf("rotate the keyring of vault %s: no epoch number is left", r.vault)
	}
	next := &Ring{vault: r.vault, base: r.base, epochs: append(slices.Clone(r.epochs), epochKey{number: r.Epoch() + 1})}
	rand.Read(next.epochs[len(next.epochs)-1].key[:])
	if err := next.seal(recipients); err != nil {
		return nil, fmt.Errorf("rotate the keyring of vault %s: %w", r.vault, err)
	}
	return next, nil
}

// Vault returns the 32 hexadecimal digits of the vault that the keys belong to.
func (r *Ring) Vault() string { return r.vault }

// Epoch returns the newest epoch, the one that new packs and blobs use.
func (r *Ring) Epoch() uint32 { return r.epochs[len(r.epochs)-1].number }

// Recipients returns the public halves of the identities that open this keyring.
func (r *Ring) Recipients() []string { return slices.Clone(r.recipients) }

// Sealed returns the wrapped keyring, one line of canonical JSON with its newline, fit to be stored in the open.
func (r *Ring) Sealed() []byte { return slices.Clone(r.sealed) }

// The purposes of the keys that come from the base key. They are a format: two vaults of the same keys must agree.
const (
	purposeChunkID  = "chunk-id"
	purposeGear     = "gear"
	purposeBoundary = "catalog-boundary"
)

// ChunkIDKey returns the key of chunk IDs. It stays for the life of the vault.
func (r *Ring) ChunkIDKey() [32]byte { return r.fixed(purposeChunkID) }

// GearKey returns the key of the splitter's table. It stays for the life of the vault.
func (r *Ring) GearKey() [32]byte { return r.fixed(purposeGear) }

// BoundaryKey returns the key that decides where catalog leaves end. It stays for the life of the vault.
func (r *Ring) BoundaryKey() [32]byte { return r.fixed(purposeBoundary) }

func (r *Ring) fixed(purpose string) [32]byte { return r.expand(r.base[:], "base", purpose, nil) }

// Derive returns the key for a purpose within an epoch: HKDF with SHA-256 of the epoch's key and salt, the info
// being "holdfast/1/epoch/VAULT/PURPOSE". An epoch that the ring lacks is an error that says so.
func (r *Ring) Derive(epoch uint32, purpose string, salt []byte) ([32]byte, error) {
	key, err := r.epochKey(epoch)
	if err != nil {
		return [32]byte{}, err
	}
	return r.expand(key[:], "epoch", purpose, salt), nil
}

func (r *Ring) epochKey(epoch uint32) (*[keySize]byte, error) {
	for i := range r.epochs {
		if r.epochs[i].number == epoch {
			return &r.epochs[i].key, nil
		}
	}
	return nil, fmt.Errorf("keyring of vault %s has no key of epoch %d (its newest is %d): open it with the vault's newest keyring",
		r.vault, epoch, r.Epoch())
}

// expand is HKDF with SHA-256. The kind (base, epoch or blob) comes first in the info and contains no slash, and the
// vault has a fixed length: no purpose can be mistaken for another kind's.
func (r *Ring) expand(secret []byte, kind, purpose string, salt []byte) [32]byte {
	out, err := hkdf.Key(sha256.New, secret, salt, "holdfast/1/"+kind+"/"+r.vault+"/"+purpose, keySize)
	if err != nil {
		panic("keys: internal error: " + err.Error()) // 32 bytes are always within HKDF's reach
	}
	return [32]byte(out)
}

func isVault(s string) bool {
	if len(s) != 32 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
