// Package witness remembers how far each ledger got and cosigns nothing that does not extend it; it also asks others to.
//
// Witness is the server of C2SP tlog-witness, Client its client. A witness that cosigned a checkpoint of N records will
// never cosign a checkpoint that does not begin with these N records, whatever it is sent, also after a power cut.
// docs/format/proofs.md draws requests, answers, keys and files.
package witness

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
)

// algorithm is the type byte of keys that sign a text with a time before it.
const algorithm = 0x04

// NewKey makes a witness's key pair from 32 bytes of random. The name is a URL without its scheme, of the operator's
// choice. The signer key is secret.
func NewKey(random io.Reader, name string) (signerKey, verifierKey string, err error) {
	if err := checkName(name); err != nil {
		return "", "", err
	}
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(random, seed); err != nil {
		return "", "", fmt.Errorf("witness key: %w", err)
	}
	public := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	id := keyID(name, public)
	return fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", name, id, encode(seed)),
		fmt.Sprintf("%s+%08x+%s", name, id, encode(public)), nil
}

func encode(key []byte) string {
	return base64.StdEncoding.EncodeToString(append([]byte{algorithm}, key...))
}

func keyID(name string, public ed25519.PublicKey) uint32 {
	sum := sha256.Sum256(append([]byte(name+"\n"+string(rune(algorithm))), public...))
	return binary.BigEndian.Uint32(sum[:])
}

func checkName(name string) error {
	if name == "" || len(name) > 255 || !utf8.ValidString(name) || strings.Contains(name, "+") || strings.ContainsFunc(name, unicode.IsSpace) {
		return fmt.Errorf("witness name %q: want a URL without its scheme, without blanks and +, at most 255 bytes", name)
	}
	return nil
}

// Signer signs checkpoints as a witness does. It implements note.Signer.
type Signer struct {
	Verifier
	private ed25519.PrivateKey
	now     func() time.Time
}

// NewSigner reads a signer key; now gives the time that its signatures claim.
func NewSigner(signerKey string, now func() time.Time) (*Signer, error) {
	rest, ok := strings.CutPrefix(signerKey, "PRIVATE+KEY+")
	name, id, seed, err := parseKey(rest)
	if !ok || err != nil || len(seed) != ed25519.SeedSize {
		return nil, errors.New("witness key: not of the form PRIVATE+KEY+NAME+KEYID+BASE64 of an Ed25519 key of type 4")
	}
	private := ed25519.NewKeyFromSeed(seed)
	public := private.Public().(ed25519.PublicKey)
	if id != fmt.Sprintf("%08x", keyID(name, public)) {
		return nil, errors.New("witness key: its key ID does not belong to it")
	}
	return &Signer{Verifier: Verifier{name: name, public: public}, private: private, now: now}, nil
}

// Sign implements note.Signer: 8 bytes of time, 64 of signature.
func (s *Signer) Sign(text []byte) ([]byte, error) {
	at := s.now().Unix()
	if at < 0 {
		return nil, fmt.Errorf("witness: the clock says %d seconds before 1970", -at)
	}
	sig := binary.BigEndian.AppendUint64(nil, uint64(at))
	return append(sig, ed25519.Sign(s.private, message(uint64(at), text))...), nil
}

func message(at uint64, text []byte) []byte {
	return append(fmt.Appendf(nil, "cosignature/v1\ntime %d\n", at), text...)
}

// Verifier verifies cosignatures of one witness. It implements note.Verifier.
type Verifier struct {
	name   string
	public ed25519.PublicKey
}

// NewVerifier reads a witness's verifier key in its only spelling.
func NewVerifier(verifierKey string) (*Verifier, error) {
	name, id, public, err := parseKey(verifierKey)
	if err != nil || len(public) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("witness %q: not of the form NAME+KEYID+BASE64 of an Ed25519 key of type 4", verifierKey)
	}
	if id != fmt.Sprintf("%08x", keyID(name, public)) {
		return nil, fmt.Errorf("witness %q: its key ID does not belong to it: a letter is wrong or missing", verifierKey)
	}
	return &Verifier{name: name, public: public}, nil
}

// parseKey splits NAME+KEYID+BASE64 and takes the type byte off.
func parseKey(text string) (name, id string, key []byte, err error) {
	name, rest, _ := strings.Cut(text, "+")
	id, b64, _ := strings.Cut(rest, "+")
	raw, err := base64.StdEncoding.DecodeString(b64)
	if err != nil || base64.StdEncoding.EncodeToString(raw) != b64 || len(raw) < 1 || raw[0] != algorithm {
		return "", "", nil, errors.New("malformed")
	}
	return name, id, raw[1:], checkName(name)
}

// Name implements note.Verifier.
func (v *Verifier) Name() string { return v.name }

// KeyHash implements note.Verifier.
func (v *Verifier) KeyHash() uint32 { return keyID(v.name, v.public) }

// Verify implements note.Verifier.
func (v *Verifier) Verify(text, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	at := binary.BigEndian.Uint64(sig)
	return at <= math.MaxInt64 && ed25519.Verify(v.public, message(at, text), sig[8:])
}

// String gives the verifier key.
func (v *Verifier) String() string {
	return fmt.Sprintf("%s+%08x+%s", v.name, v.KeyHash(), encode(v.public))
}

// signedAt gives the time that a cosignature claims.
func signedAt(s note.Signature) (time.Time, error) {
	raw, err := base64.StdEncoding.DecodeString(s.Base64)
	if err != nil || len(raw) != 4+8+ed25519.SignatureSize {
		return time.Time{}, errors.New("not a cosignature")
	}
	at := binary.BigEndian.Uint64(raw[4:])
	if at > math.MaxInt64 {
		return time.Time{}, errors.New("a cosignature from beyond all time")
	}
	return time.Unix(int64(at), 0).UTC(), nil
}
