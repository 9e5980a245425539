package quorum

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// What bounds people: together they fit into one request, and that into one line of the ledger.
const (
	MostPeople = 64
	mostKeys   = 16 // of one person
	peopleMax  = 48 << 10
	// rsaLeast is the shortest RSA key in bits. The longest is the library's bound, 16384.
	rsaLeast = 2048
)

// Person is one of the people, with every key that is theirs.
type Person struct {
	Name string   `json:"name"` // [a-z0-9][a-z0-9_-]{0,62}
	Keys []string `json:"keys"` // as in authorized_keys: type and base64 with one space between, nothing else; see Key
}

// People are those of whom Threshold must sign what makes the vault forget faster.
type People struct {
	Threshold int      `json:"threshold"`
	People    []Person `json:"people"`
}

// Check says what of the people cannot be: fewer than two of a threshold, or more than there are, a name or key that is
// none or that two of them have. A key need not be signed with to be checked: an error comes before anybody relies on it.
func (p People) Check() error {
	switch {
	case p.Threshold < 2:
		return fmt.Errorf("people: a threshold of %d: it takes at least 2, or one person could decide alone", p.Threshold)
	case len(p.People) > MostPeople:
		return fmt.Errorf("people: %d of them, more than %d", len(p.People), MostPeople)
	case p.Threshold > len(p.People):
		return fmt.Errorf("people: a threshold of %d, and there are %d people: nobody could ever reach it", p.Threshold, len(p.People))
	}
	owners := map[string]string{}
	names := map[string]bool{}
	for i, who := range p.People {
		if !validName(who.Name) {
			return fmt.Errorf("people: name %.80q of person %d is not of the form [a-z0-9][a-z0-9_-]{0,62}", who.Name, i+1)
		}
		if names[who.Name] {
			return fmt.Errorf("people: %q is there twice; give one person all of their keys", who.Name)
		}
		names[who.Name] = true
		if len(who.Keys) < 1 || len(who.Keys) > mostKeys {
			return fmt.Errorf("people: %q has %d keys: from 1 to %d belong to a person", who.Name, len(who.Keys), mostKeys)
		}
		for n, text := range who.Keys {
			if _, err := parseKey(text); err != nil {
				return fmt.Errorf("people: key %d of %q: %w", n+1, who.Name, err)
			}
			if other, taken := owners[text]; taken {
				return fmt.Errorf("people: key %d of %q is a key of %q already: a key belongs to one person, once", n+1, who.Name, other)
			}
			owners[text] = who.Name
		}
	}
	if n, err := json.Marshal(p); err != nil || len(n) > peopleMax {
		return fmt.Errorf("people: their keys take %d bytes, more than the %d that fit into a request: shorter or fewer keys", len(n), peopleMax)
	}
	return nil
}

// Equal says whether both are the same people with the same keys and threshold, in whatever order they are listed.
func (p People) Equal(o People) bool {
	if p.Threshold != o.Threshold || len(p.People) != len(o.People) {
		return false
	}
	keys := map[string][]string{}
	for _, who := range o.People {
		keys[who.Name] = slices.Sorted(slices.Values(who.Keys))
	}
	for _, who := range p.People {
		theirs, there := keys[who.Name]
		if !there || !slices.Equal(slices.Sorted(slices.Values(who.Keys)), theirs) {
			return false
		}
		delete(keys, who.Name)
	}
	return true
}

// Key gives a public key as Person has it, from a line of authorized_keys or of a .pub file: without its comment.
func Key(line string) (string, error) {
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return "", fmt.Errorf("%.80q is no public key: a line like \"ssh-ed25519 AAAA... name\" is one", line)
	}
	text := fields[0] + " " + fields[1]
	_, err := parseKey(text)
	return text, err
}

// owner finds the person who has a key, by its bytes.
func (p People) owner(blob []byte) (string, ssh.PublicKey, error) {
	kind := kindOf(blob)
	if formats[kind] == nil {
		return "", nil, kindError(kind)
	}
	text := spellKey(kind, blob)
	for _, who := range p.People {
		if slices.Contains(who.Keys, text) {
			key, err := parseKey(text)
			return who.Name, key, err
		}
	}
	return "", nil, errStranger
}

// formats are the kinds of keys that count, and the forms of signatures that each of them may make. That of ssh-rsa itself
// is not among them: it is SHA-1.
var formats = map[string][]string{
	ssh.KeyAlgoED25519:    {ssh.KeyAlgoED25519},
	ssh.KeyAlgoECDSA256:   {ssh.KeyAlgoECDSA256},
	ssh.KeyAlgoECDSA384:   {ssh.KeyAlgoECDSA384},
	ssh.KeyAlgoECDSA521:   {ssh.KeyAlgoECDSA521},
	ssh.KeyAlgoRSA:        {ssh.KeyAlgoRSASHA256, ssh.KeyAlgoRSASHA512},
	ssh.KeyAlgoSKED25519:  {ssh.KeyAlgoSKED25519},
	ssh.KeyAlgoSKECDSA256: {ssh.KeyAlgoSKECDSA256},
}

func kindError(kind string) error {
	if strings.Contains(kind, "-cert-v01@") {
		return fmt.Errorf("%.80q is a certificate, and a certificate names nobody here: use the plain key", kind)
	}
	return fmt.Errorf("kind %.80q is not one that counts: ssh-ed25519, ecdsa-sha2-nistp256, -nistp384 or -nistp521, ssh-rsa, sk-ssh-ed25519@openssh.com and sk-ecdsa-sha2-nistp256@openssh.com do", kind)
}

// spellKey is a key as Person has it, from its bytes.
func spellKey(kind string, blob []byte) string {
	return kind + " " + base64.StdEncoding.EncodeToString(blob)
}

// parseKey reads a key in its only spelling.
func parseKey(text string) (ssh.PublicKey, error) {
	kind, encoded, ok := strings.Cut(text, " ")
	if !ok || strings.ContainsAny(encoded, " \t\r\n") {
		return nil, fmt.Errorf("%.80q is not a type and base64 with one space between, without a comment", text)
	}
	if formats[kind] == nil {
		return nil, kindError(kind)
	}
	blob, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || spellKey(kind, blob) != text {
		return nil, fmt.Errorf("%.80q does not hold base64 in its only spelling", text)
	}
	if inside := kindOf(blob); inside != kind {
		return nil, fmt.Errorf("%.80q says that it is %q and holds %.80q", text, kind, inside)
	}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		return nil, fmt.Errorf("%.80q is no public key: %w", text, err)
	}
	if !bytes.Equal(key.Marshal(), blob) {
		return nil, fmt.Errorf("%.80q is not written as its kind is", text)
	}
	return key, strong(kind, blob)
}

// strong refuses keys that are too weak, and FIDO keys of something else than SSH.
func strong(kind string, blob []byte) error {
	switch kind {
	case ssh.KeyAlgoRSA:
		if bits := rsaBits(blob); bits < rsaLeast {
			return fmt.Errorf("an RSA key of %d bits, and %d are the least that count", bits, rsaLeast)
		}
	case ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		// The application is the last field. A key that signs for web sites must not be one that signs requests.
		r := reader{blob}
		var application []byte
		for len(r.rest) > 0 {
			var err error
			if application, err = r.text("a field"); err != nil {
				return err
			}
		}
		if !bytes.HasPrefix(application, []byte("ssh:")) {
			return fmt.Errorf("a FIDO key of %.80q, and only those of SSH, which begin with \"ssh:\", count", application)
		}
	}
	return nil
}

// rsaBits is the length of the modulus, the last field of an RSA key.
func rsaBits(blob []byte) int {
	r := reader{blob}
	var modulus []byte
	for len(r.rest) > 0 {
		var err error
		if modulus, err = r.text("a field"); err != nil {
			return 0
		}
	}
	modulus = bytes.TrimLeft(modulus, "\x00")
	if len(modulus) == 0 {
		return 0
	}
	bits := 8 * len(modulus)
	for top := modulus[0]; top < 0x80; top <<= 1 {
		bits--
	}
	return bits
}

// kindOf is the kind that the bytes of a key begin with, "" when there is none.
func kindOf(blob []byte) string {
	r := reader{blob}
	kind, err := r.text("kind")
	if err != nil || len(kind) > 64 {
		return ""
	}
	return string(kind)
}

func validName(name string) bool {
	return len(name) >= 1 && len(name) <= 63 && name[0] != '_' && name[0] != '-' &&
		strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") == ""
}

var errShort = errors.New("it ends too early")

// Fingerprint is that of a key as Person has it: SHA256:..., as ssh-keygen -l shows it.
func Fingerprint(key string) (string, error) {
	k, err := parseKey(key)
	if err != nil {
		return "", err
	}
	return describe(k.Marshal()), nil
}
