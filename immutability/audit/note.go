// Package audit checks checkpoints, cosignatures and proofs of a ledger with the standard library alone.
//
// It shares the formats with the code that makes them and no line of it: whoever doubts the one can read the other. It
// trusts nothing but the keys that it is given, opens no file and needs no vault. docs/format/proofs.md draws what it reads.
package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Max bounds, in bytes, whatever this package reads: a record of a ledger has at most a megabyte.
const Max = 4 << 20

// signaturesMax bounds the lines of a note.
const signaturesMax = 100

// ErrRefuted is wrapped by every error that says that what was claimed is not so: a signature does not hold, a proof does
// not lead to the root. Other errors say that a text is not of the form that it should have.
var ErrRefuted = errors.New("refuted")

// The types of keys, by the byte that stands before the public key.
const (
	typeNote        = 0x01
	typeCosignature = 0x04
)

// Key is a public key that signatures are verified with.
type Key struct {
	Name   string
	ID     uint32
	kind   byte
	public ed25519.PublicKey
}

// Cosigner says whether the key is a witness's: its signatures carry a time.
func (k Key) Cosigner() bool { return k.kind == typeCosignature }

// same says whether two keys are one. A key ID has 32 bits: whoever writes a record can find a key of his own that has it.
func (k Key) same(o Key) bool {
	return k.Name == o.Name && k.ID == o.ID && k.kind == o.kind && k.public.Equal(o.public)
}

// ParseKey reads a verifier key, NAME+KEYID+BASE64, in its only spelling.
func ParseKey(text string) (Key, error) {
	name, rest, _ := strings.Cut(text, "+")
	id, b64, _ := strings.Cut(rest, "+")
	raw, err := decode(b64)
	if err != nil || !validName(name) || len(raw) != 1+ed25519.PublicKeySize {
		return Key{}, fmt.Errorf("key %q: not of the form NAME+KEYID+BASE64 of an Ed25519 key", text)
	}
	if raw[0] != typeNote && raw[0] != typeCosignature {
		return Key{}, fmt.Errorf("key %q: type %d is not known, 1 and 4 are", text, raw[0])
	}
	sum := sha256.Sum256(append([]byte(name+"\n"), raw...))
	if id != fmt.Sprintf("%x", sum[:4]) {
		return Key{}, fmt.Errorf("key %q: its key ID does not belong to it: a letter is wrong or missing", text)
	}
	return Key{Name: name, ID: binary.BigEndian.Uint32(sum[:4]), kind: raw[0], public: raw[1:]}, nil
}

func validName(s string) bool {
	return s != "" && utf8.ValidString(s) && !strings.Contains(s, "+") && !strings.ContainsFunc(s, unicode.IsSpace)
}

// decode reads base64 in its only spelling.
func decode(s string) ([]byte, error) {
	raw, err := base64.StdEncoding.DecodeString(s)
	if err != nil || base64.StdEncoding.EncodeToString(raw) != s {
		return nil, errors.New("not base64 in its canonical form")
	}
	return raw, nil
}

// Hash is a node of the Merkle tree.
type Hash [sha256.Size]byte

func (h Hash) String() string { return base64.StdEncoding.EncodeToString(h[:]) }

// ParseHash reads a hash in base64.
func ParseHash(s string) (h Hash, err error) {
	raw, err := decode(s)
	if err != nil || len(raw) != len(h) {
		return h, fmt.Errorf("%q is not a hash in base64", s)
	}
	return Hash(raw), nil
}

// Signature is a line of a note.
type Signature struct {
	Name  string
	ID    uint32
	bytes []byte
}

// Checkpoint is a signed note that says how many records a ledger has, and their root.
type Checkpoint struct {
	Origin     string
	Size       uint64
	Root       Hash
	Signatures []Signature // none of them is verified by parsing
	text       string      // what is signed
}

// ParseCheckpoint reads a checkpoint and verifies nothing.
func ParseCheckpoint(b []byte) (Checkpoint, error) {
	var c Checkpoint
	if len(b) > Max {
		return c, fmt.Errorf("checkpoint: %d bytes, more than %d", len(b), Max)
	}
	if !utf8.Valid(b) || bytes.ContainsFunc(b, func(r rune) bool { return r < ' ' && r != '\n' }) {
		return c, errors.New("checkpoint: not text")
	}
	cut := strings.LastIndex(string(b), "\n\n")
	if cut < 0 {
		return c, errors.New("checkpoint: no empty line before signatures")
	}
	c.text = string(b[:cut+1])
	lines := strings.Split(strings.TrimSuffix(c.text, "\n"), "\n")
	if len(lines) < 3 || lines[0] == "" {
		return c, errors.New("checkpoint: it needs an origin, a size and a root, a line each")
	}
	for _, extension := range lines[3:] {
		if extension == "" {
			return c, errors.New("checkpoint: an empty line in its text")
		}
	}
	c.Origin = lines[0]
	var err error
	if c.Size, err = parseNumber(lines[1]); err != nil {
		return c, fmt.Errorf("checkpoint: size: %w", err)
	}
	if c.Root, err = ParseHash(lines[2]); err != nil {
		return c, fmt.Errorf("checkpoint: root: %w", err)
	}
	c.Signatures, err = parseSignatures(string(b[cut+2:]))
	return c, err
}

func parseSignatures(s string) (out []Signature, err error) {
	if s == "" || !strings.HasSuffix(s, "\n") {
		return nil, errors.New("checkpoint: no signatures, or the last one lacks its newline")
	}
	for line := range strings.Lines(s) {
		rest, dash := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "— ")
		name, b64, _ := strings.Cut(rest, " ")
		raw, err := decode(b64)
		if !dash || err != nil || len(raw) < 5 || !validName(name) {
			return nil, fmt.Errorf("checkpoint: %q is not a signature line", line)
		}
		if len(out) == signaturesMax {
			return nil, fmt.Errorf("checkpoint: more than %d signatures", signaturesMax)
		}
		out = append(out, Signature{Name: name, ID: binary.BigEndian.Uint32(raw), bytes: raw[4:]})
	}
	return out, nil
}

// parseNumber reads a decimal number in its only spelling.
func parseNumber(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("%q is not a decimal number", s)
	}
	return n, nil
}

// Verify says whether the checkpoint carries a signature of k that holds: nil if so. For a cosigner's key at is the time
// that the signature claims. A signature in the key's name that does not hold is an error, whatever else stands there.
func (c *Checkpoint) Verify(k Key) (at time.Time, err error) {
	found := false
	for _, s := range c.Signatures {
		if s.Name != k.Name || s.ID != k.ID {
			continue
		}
		if at, err = k.verify(c.text, s.bytes); err != nil {
			return time.Time{}, err
		}
		found = true
	}
	if !found {
		return time.Time{}, fmt.Errorf("%w: %q (key %08x) did not sign it", ErrRefuted, k.Name, k.ID)
	}
	return at, nil
}

func (k Key) verify(text string, sig []byte) (at time.Time, err error) {
	bad := fmt.Errorf("%w: the signature of %q (key %08x) does not hold", ErrRefuted, k.Name, k.ID)
	if k.kind == typeCosignature {
		if len(sig) < 8 {
			return at, bad
		}
		seconds := binary.BigEndian.Uint64(sig)
		if seconds > math.MaxInt64 {
			return at, bad
		}
		text = fmt.Sprintf("cosignature/v1\ntime %d\n%s", seconds, text)
		at, sig = time.Unix(int64(seconds), 0).UTC(), sig[8:]
	}
	if len(sig) != ed25519.SignatureSize || !ed25519.Verify(k.public, []byte(text), sig) {
		return time.Time{}, bad
	}
	return at, nil
}

// forOrigin gives the key of an origin of the same ledger: the first has the key's own name, the n-th that name, a slash and n.
func (k Key) forOrigin(origin string) (Key, bool) {
	if origin == k.Name {
		return k, true
	}
	digits, ok := strings.CutPrefix(origin, k.Name+"/")
	if n, err := parseNumber(digits); !ok || err != nil || n < 2 || k.Cosigner() {
		return Key{}, false
	}
	k.Name = origin
	sum := sha256.Sum256(append([]byte(origin+"\n"), append([]byte{k.kind}, k.public...)...))
	k.ID = binary.BigEndian.Uint32(sum[:4])
	return k, true
}

// Policy is whom a reader trusts.
type Policy struct {
	Log       Key   // the ledger's key; its name is the first origin, and it holds for those that followed
	Witnesses []Key // of type 4
	Quorum    int   // how many of the witnesses must have cosigned
}

// Cosigned is a witness's signature that holds.
type Cosigned struct {
	Witness string
	At      time.Time
}

// Check holds a checkpoint against the policy and gives the cosignatures that hold.
func (p *Policy) Check(c *Checkpoint) ([]Cosigned, error) {
	log, ok := p.Log.forOrigin(c.Origin)
	if !ok {
		return nil, fmt.Errorf("%w: the checkpoint is of %q, the key of %q", ErrRefuted, c.Origin, p.Log.Name)
	}
	if _, err := c.Verify(log); err != nil {
		return nil, err
	}
	var out []Cosigned
	for i, k := range p.Witnesses {
		if slices.ContainsFunc(p.Witnesses[:i], func(o Key) bool { return o.public.Equal(k.public) }) {
			continue // one witness, given twice or under two names, is one
		}
		signed := false
		for _, s := range c.Signatures {
			signed = signed || s.Name == k.Name && s.ID == k.ID
		}
		if !signed {
			continue
		}
		at, err := c.Verify(k)
		if err != nil {
			return nil, err
		}
		out = append(out, Cosigned{k.Name, at})
	}
	if len(out) < p.Quorum {
		return nil, fmt.Errorf("%w: %d of your witnesses cosigned the checkpoint, and you ask for %d", ErrRefuted, len(out), p.Quorum)
	}
	return out, nil
}
