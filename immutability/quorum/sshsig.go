package quorum

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Namespace is what signatures must be made for: ssh-keygen -Y sign -n holdfast-request. Ones made for git or for a file
// do not count.
const Namespace = "holdfast-request"

// MaxSignature bounds a signature in its armour in bytes: with the longest RSA key it takes about 6 KiB.
const MaxSignature = 8 << 10

// An SSHSIG, as OpenSSH's PROTOCOL.sshsig has it; text is a uint32 of its length, and its bytes:
//
//	"SSHSIG" | uint32 1 | text key | text namespace | text reserved | text hash | text signature
//	                                                                                   |
//	                                           text form | text bytes [| byte flags | uint32 counter]
//
// What the key signs, with the hash of the file:
//
//	"SSHSIG" | text namespace | text reserved | text hash | text H(file)
//
// The last two fields of the signature are those of a FIDO key, and signed by it together with the hash of its application.
const (
	magic     = "SSHSIG"
	version   = 1
	armourTop = "-----BEGIN SSH SIGNATURE-----"
	armourEnd = "-----END SSH SIGNATURE-----"
	// touched is the flag that a FIDO key sets when somebody touched it.
	touched = 1
)

// sshsig is a signature whose form is right. Nothing of it is verified.
type sshsig struct {
	blob []byte // all of it
	key  []byte
	hash string
	sig  ssh.Signature
}

// parseSignature reads a signature, with its armour or without.
func parseSignature(data []byte) (sshsig, error) {
	if len(data) > MaxSignature {
		return sshsig{}, fmt.Errorf("a signature of %d bytes, more than %d", len(data), MaxSignature)
	}
	if !bytes.HasPrefix(data, []byte(magic)) {
		var err error
		if data, err = unarmour(string(data)); err != nil {
			return sshsig{}, err
		}
	}
	s, err := parseBlob(data)
	if err != nil {
		return sshsig{}, fmt.Errorf("not a signature of ssh-keygen -Y sign: %w", err)
	}
	return s, nil
}

// unarmour takes the lines and base64 off a signature.
func unarmour(text string) ([]byte, error) {
	body, found := strings.CutPrefix(strings.TrimSpace(text), armourTop)
	body, ended := strings.CutSuffix(body, armourEnd)
	if !found || !ended {
		return nil, fmt.Errorf("not a signature of ssh-keygen -Y sign: it is not between %q and %q", armourTop, armourEnd)
	}
	body = strings.NewReplacer("\n", "", "\r", "").Replace(body)
	blob, err := base64.StdEncoding.Strict().DecodeString(body)
	if err != nil {
		return nil, fmt.Errorf("not a signature of ssh-keygen -Y sign: %w", err)
	}
	return blob, nil
}

func parseBlob(blob []byte) (sshsig, error) {
	s := sshsig{blob: blob}
	head := binary.BigEndian.AppendUint32([]byte(magic), version)
	if !bytes.HasPrefix(blob, head) {
		return s, fmt.Errorf("it does not begin with %q and version %d", magic, version)
	}
	r := reader{blob[len(head):]}
	var fields [5][]byte
	for i, what := range []string{"its key", "its namespace", "its reserved field", "its hash", "its signature"} {
		var err error
		if fields[i], err = r.text(what); err != nil {
			return s, err
		}
	}
	s.key, s.hash = fields[0], string(fields[3])
	switch {
	case len(r.rest) > 0:
		return s, fmt.Errorf("%d bytes follow it", len(r.rest))
	case string(fields[1]) != Namespace:
		return s, fmt.Errorf("it is made for %.80q, and only those for %q count: ssh-keygen -Y sign -n %s", fields[1], Namespace, Namespace)
	case len(fields[2]) > 0:
		return s, fmt.Errorf("its reserved field holds %d bytes, and none are known", len(fields[2]))
	case s.hash != "sha256" && s.hash != "sha512":
		return s, fmt.Errorf("its hash is %.80q, neither sha256 nor sha512", s.hash)
	}
	in := reader{fields[4]}
	form, err := in.text("the form of its signature")
	if err != nil {
		return s, err
	}
	bare, err := in.text("the bytes of its signature")
	if err != nil {
		return s, err
	}
	s.sig = ssh.Signature{Format: string(form), Blob: bare, Rest: in.rest}
	return s, nil
}

// verify says whether key made the signature over data.
func (s sshsig) verify(data []byte, key ssh.PublicKey) error {
	if !slices.Contains(formats[key.Type()], s.sig.Format) {
		return fmt.Errorf("it has the form %.80q, which does not count for a key of kind %q", s.sig.Format, key.Type())
	}
	switch key.Type() {
	case ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		if len(s.sig.Rest) != 5 {
			return fmt.Errorf("it has %d bytes of flags and counter, and a FIDO key gives 5", len(s.sig.Rest))
		}
		if s.sig.Rest[0]&touched == 0 {
			return errors.New("nobody touched the FIDO key when it signed: make a key without no-touch-required")
		}
	default:
		if len(s.sig.Rest) > 0 {
			return fmt.Errorf("%d bytes follow the signature", len(s.sig.Rest))
		}
	}
	if err := key.Verify(s.message(data), &s.sig); err != nil {
		return errors.New("it does not fit: either the request or the signature was altered, or it is of another request")
	}
	return nil
}

// message is what the key signs.
func (s sshsig) message(data []byte) []byte {
	var sum []byte
	if s.hash == "sha256" {
		h := sha256.Sum256(data)
		sum = h[:]
	} else {
		h := sha512.Sum512(data)
		sum = h[:]
	}
	out := []byte(magic)
	for _, field := range [][]byte{[]byte(Namespace), nil, []byte(s.hash), sum} {
		out = binary.BigEndian.AppendUint32(out, uint32(len(field)))
		out = append(out, field...)
	}
	return out
}

// describe is the fingerprint of a key, as ssh-keygen -l shows it.
func describe(key []byte) string {
	sum := sha256.Sum256(key)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// reader takes fields off bytes. It copies nothing.
type reader struct{ rest []byte }

func (r *reader) text(what string) ([]byte, error) {
	if len(r.rest) < 4 {
		return nil, fmt.Errorf("%s: %w", what, errShort)
	}
	n := binary.BigEndian.Uint32(r.rest)
	if uint64(n) > uint64(len(r.rest)-4) {
		return nil, fmt.Errorf("%s: %w", what, errShort)
	}
	field := r.rest[4 : 4+n : 4+n]
	r.rest = r.rest[4+n:]
	return field, nil
}
