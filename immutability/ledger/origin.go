package ledger

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// A ledger that was rolled back behind what it signed cannot go on under its name: witnesses remember the longer one. It
// goes on under another origin, by the same key:
//
//	holdfast/VAULT        the first, of the init record
//	holdfast/VAULT/2      from the first record of kind origin on
//	holdfast/VAULT/3      and so forth
//
// So whoever wrote the first verifier down can verify the checkpoints of every later origin, and nobody takes the
// checkpoint of one for that of another.

// Head is what a checkpoint says of a tree.
type Head struct {
	Size uint64 `json:"size"`
	Root string `json:"root"` // base64
}

// Origin ends one origin and begins the next: from this record on checkpoints are signed under another name.
type Origin struct {
	Number   int    `json:"number"`   // of the origin that begins, from 2
	Origin   string `json:"origin"`   // its name
	Verifier string `json:"verifier"` // its verifier key: what witnesses are given
	Before   string `json:"before"`   // name of the origin that ends
	// Own is the head that goes on: the leaves before this record.
	Own Head `json:"own"`
	// Lost is the head that somebody outside remembers and that these leaves do not extend; Note is the proof, signed by
	// this ledger's own key.
	Lost Head   `json:"lost"`
	Note string `json:"note"`
	// Quorum is what the people agreed to: the request as it was signed, byte by byte, then the SSHSIG blobs over it in base64.
	// Empty where the vault had no people in force: whoever could run a command as the keeper's user decided alone.
	Quorum []string `json:"quorum"`
	By     string   `json:"by"`
	Reason string   `json:"reason"`
}

// Witnessed keeps what witnesses said of a checkpoint, so that their time is evidence and survives.
type Witnessed struct {
	Origin       string        `json:"origin"` // of the checkpoint
	Size         uint64        `json:"size"`   // leaves that it covers
	Root         string        `json:"root"`   // base64
	Quorum       int           `json:"quorum"` // how many witnesses had to agree
	Cosignatures []Cosignature `json:"cosignatures"`
}

// Cosignature is one witness's.
type Cosignature struct {
	Witness   string    `json:"witness"`   // its verifier key
	At        time.Time `json:"at"`        // as it claims, whole seconds, UTC
	Signature string    `json:"signature"` // base64 of key ID, time and signature, as behind its name in a note
}

// OriginName gives the name of a ledger's n-th origin, from 1, given that of its first.
func OriginName(first string, n int) string {
	if n < 2 {
		return first
	}
	return first + "/" + strconv.Itoa(n)
}

// originNumber is the reverse of OriginName; 0 if the name is none of this ledger's.
func originNumber(first, name string) int {
	if name == first {
		return 1
	}
	digits, ok := strings.CutPrefix(name, first+"/")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || n < 2 || n > 1<<20 || strconv.Itoa(n) != digits {
		return 0
	}
	return n
}

// OriginVerifier gives the verifier key of the n-th origin, given that of the first.
func OriginVerifier(first string, n int) (string, error) {
	name, public, err := splitKey(first)
	if err != nil {
		return "", fmt.Errorf("verifier %q: %w", first, err)
	}
	name = OriginName(name, n)
	return name + "+" + keyHash(name, public) + "+" + base64.StdEncoding.EncodeToString(public), nil
}

// originSigner gives the signer key of the n-th origin, given that of the first.
func originSigner(first string, n int) (string, error) {
	const prefix = "PRIVATE+KEY+"
	rest, ok := strings.CutPrefix(first, prefix)
	name, seed, err := splitKey(rest)
	if !ok || err != nil || len(seed) != 1+ed25519.SeedSize {
		return "", errors.New("signing key: not an Ed25519 key")
	}
	public := append([]byte{seed[0]}, ed25519.NewKeyFromSeed(seed[1:]).Public().(ed25519.PublicKey)...)
	name = OriginName(name, n)
	return prefix + name + "+" + keyHash(name, public) + "+" + base64.StdEncoding.EncodeToString(seed), nil
}

// splitKey gives the name and the bytes, type included, of NAME+KEYID+BASE64.
func splitKey(key string) (name string, raw []byte, err error) {
	parts := strings.SplitN(key, "+", 3)
	if len(parts) != 3 {
		return "", nil, errors.New("not of the form NAME+KEYID+BASE64")
	}
	raw, err = base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(raw) != 1+ed25519.PublicKeySize || raw[0] != 1 {
		return "", nil, errors.New("not an Ed25519 key")
	}
	return parts[0], raw, nil
}

func keyHash(name string, public []byte) string {
	sum := sha256.Sum256(append([]byte(name+"\n"), public...))
	return hex.EncodeToString(sum[:4])
}

// checkOrigin says why a record of kind origin does not continue a ledger whose origins so far are those given.
func checkOrigin(o *Origin, verifier string, before []Origin, root func(int64) (tlog.Hash, error), n int64) error {
	first, _, _ := strings.Cut(verifier, "+")
	number := len(before) + 2
	next, err := OriginVerifier(verifier, number)
	if err != nil {
		return err
	}
	if o.Number != number || o.Origin != OriginName(first, number) || o.Before != OriginName(first, number-1) || o.Verifier != next {
		return fmt.Errorf("it begins origin %d, %q with verifier %q, after %q; %q with %q follows here", o.Number, o.Origin, o.Verifier, o.Before, OriginName(first, number), next)
	}
	if o.Own.Size < 1 || o.Own.Size > uint64(n) {
		return fmt.Errorf("it goes on from %d records, and %d stand before it", o.Own.Size, n)
	}
	if own, err := root(int64(o.Own.Size)); err != nil || own.String() != o.Own.Root {
		return fmt.Errorf("the %d records that it goes on from do not have the root that it names", o.Own.Size)
	}
	lost, err := ParseCheckpoint([]byte(o.Note), verifier)
	if err != nil {
		return fmt.Errorf("the head that it gives up: %w", err)
	}
	if lost.Size != o.Lost.Size || lost.Root.String() != o.Lost.Root || originNumber(first, lost.Origin) < number-1 {
		return fmt.Errorf("the head that it gives up (%d records) is not the one that its note signs (%d of %q)", o.Lost.Size, lost.Size, lost.Origin)
	}
	if now, err := root(int64(min(lost.Size, uint64(n)))); lost.Size <= uint64(n) && err == nil && now == lost.Root && lost.Origin == o.Before {
		return errors.New("the head that it gives up is not lost")
	}
	return nil
}

// onChain says why a checkpoint under the ledger's key cannot be one of these records, whatever its root: it is of an origin
// that has not begun here, or covers more of an earlier one than went on.
func onChain(c Checkpoint, verifier string, origins []Origin) error {
	first, _, _ := strings.Cut(verifier, "+")
	n := originNumber(first, c.Origin)
	if n > len(origins)+1 {
		return fmt.Errorf("the checkpoint is of the origin %q, which no record here begins: records are missing", c.Origin)
	}
	if n <= len(origins) && n > 0 && c.Size > origins[n-1].Own.Size {
		return fmt.Errorf("the checkpoint covers %d records of the origin %q, of which %d went on: the rest was given up for lost", c.Size, c.Origin, origins[n-1].Own.Size)
	}
	return nil
}
