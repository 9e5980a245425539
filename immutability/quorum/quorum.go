// Package quorum judges what several people signed: who they are, the request file that they sign, and their SSH signatures over it.
//
// It is pure: it reads no clock and no disk, keeps nothing, and imports nothing of ours. Whether a request is of this
// vault, in time and new is for whoever keeps the ledger to say; here stands what it says and who said it. Everything
// that it is given may come from anybody. Its functions may be called from several goroutines at once.
package quorum

import (
	"bytes"
	"errors"
	"fmt"
)

// Signed is one person's signature, verified.
type Signed struct {
	Person    string
	Key       string // fingerprint of the key, SHA256:...
	Signature []byte // the SSHSIG blob, without its armour
}

// errStranger says that a signature is of nobody's key.
var errStranger = errors.New("none of the people has this key")

// Verify says whose signature over data this is: the person, the fingerprint of the key, and the signature without its
// armour. p must have passed Check. The error says what is wrong in words for whoever made the signature.
func Verify(data, signature []byte, p People) (person, fingerprint string, blob []byte, err error) {
	if len(data) > MaxRequest {
		return "", "", nil, fmt.Errorf("signature over %d bytes, and a request has at most %d", len(data), MaxRequest)
	}
	s, err := parseSignature(signature)
	if err != nil {
		return "", "", nil, err
	}
	name, key, err := p.owner(s.key)
	if err != nil {
		return "", "", nil, fmt.Errorf("signature with the key %s: %w", describe(s.key), err)
	}
	if err := s.verify(data, key); err != nil {
		return "", "", nil, fmt.Errorf("signature of %s with the key %s: %w", name, describe(s.key), err)
	}
	return name, describe(s.key), s.blob, nil
}

// Inspect says which key made a signature over data: its fingerprint. Whose key that is, it does not know. With an error the
// signature counts for nobody.
func Inspect(data, signature []byte) (fingerprint string, err error) {
	if len(data) > MaxRequest {
		return "", fmt.Errorf("signature over %d bytes, and a request has at most %d", len(data), MaxRequest)
	}
	s, err := parseSignature(signature)
	if err != nil {
		return "", err
	}
	key, err := parseKey(spellKey(kindOf(s.key), s.key))
	if err == nil {
		err = s.verify(data, key)
	}
	if err != nil {
		return "", fmt.Errorf("signature with the key %s: %w", describe(s.key), err)
	}
	return describe(s.key), nil
}

// Judge says which people signed a request: at least as many different ones as the threshold demands, or an error. One
// signature that is bad, of a stranger, or of somebody who signed already refuses them all: somebody should look.
func Judge(data []byte, signatures [][]byte, p People) ([]Signed, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	if _, err := Parse(data); err != nil {
		return nil, err
	}
	if len(signatures) > MostPeople {
		return nil, fmt.Errorf("%d signatures, and there are at most %d people", len(signatures), MostPeople)
	}
	var out []Signed
	by := make(map[string]int, len(signatures))
	for i, signature := range signatures {
		person, key, blob, err := Verify(data, signature, p)
		if err != nil {
			return nil, fmt.Errorf("signature %d of %d is refused, and the request with it: %w", i+1, len(signatures), err)
		}
		if first, twice := by[person]; twice {
			return nil, fmt.Errorf("signature %d of %d is refused, and the request with it: %s signed it already (signature %d); each person counts once", i+1, len(signatures), person, first)
		}
		by[person] = i + 1
		out = append(out, Signed{Person: person, Key: key, Signature: bytes.Clone(blob)})
	}
	if len(out) < p.Threshold {
		return nil, fmt.Errorf("%d of %d people signed, and it takes %d of them", len(out), len(p.People), p.Threshold)
	}
	return out, nil
}
