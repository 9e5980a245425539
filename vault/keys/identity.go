package keys

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
)

// maxIdentityFile bounds what is read of an identity file. An RSA key in an OpenSSH file is under 4 KB.
const maxIdentityFile = 1 << 20

// Identity is the private half that opens a keyring. It never leaves memory except through String.
type Identity struct {
	age       age.Identity
	text      string
	recipient string
}

// NewIdentity makes a fresh X25519 identity.
func NewIdentity() (*Identity, error) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, fmt.Errorf("make an identity: %w", err)
	}
	return &Identity{age: id, text: id.String(), recipient: id.Recipient().String()}, nil
}

// String returns the identity as text, AGE-SECRET-KEY-1... or the PEM block of an SSH key. It is the secret itself:
// it belongs in a file of mode 0600 or on paper, never in a log.
func (i *Identity) String() string { return i.text }

// GoString keeps the secret out of %#v.
func (i *Identity) GoString() string { return "keys.Identity(" + i.recipient + ")" }

// Recipient returns the public half, to which a keyring can be wrapped.
func (i *Identity) Recipient() string { return i.recipient }

// ParseIdentities reads identities, one a line: age X25519 or hybrid identities, blank lines, comments that begin
// with '#'; or one OpenSSH private key (ed25519 or RSA, without passphrase). No error shows a line of the input,
// because it may be a secret with one wrong letter.
func ParseIdentities(r io.Reader) ([]*Identity, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxIdentityFile+1))
	if err != nil {
		return nil, fmt.Errorf("read identities: %w", err)
	}
	if len(data) > maxIdentityFile {
		return nil, fmt.Errorf("identities: more than %d bytes; this is not an identity file", maxIdentityFile)
	}
	if block, _ := pem.Decode(data); block != nil {
		id, err := parseSSHIdentity(data, block)
		if err != nil {
			return nil, err
		}
		return []*Identity{id}, nil
	}
	var ids []*Identity
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, maxIdentityFile+1)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		id, err := parseIdentity(line)
		if err != nil {
			return nil, fmt.Errorf("identity on line %d: %w", n, err)
		}
		ids = append(ids, id)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read identities: %w", err)
	}
	if len(ids) == 0 {
		return nil, errors.New("no identity found: a line that begins with AGE-SECRET-KEY-1 is needed")
	}
	return ids, nil
}

func parseIdentity(line string) (*Identity, error) {
	switch upper := strings.ToUpper(line); {
	case strings.HasPrefix(upper, "AGE-SECRET-KEY-PQ-1"):
		id, err := age.ParseHybridIdentity(line)
		if err != nil {
			return nil, errors.New("a malformed post-quantum identity: a character is missing or wrong")
		}
		return &Identity{age: id, text: id.String(), recipient: id.Recipient().String()}, nil
	case strings.HasPrefix(upper, "AGE-SECRET-KEY-1"):
		id, err := age.ParseX25519Identity(line)
		if err != nil {
			return nil, errors.New("a malformed identity: a character is missing or wrong")
		}
		return &Identity{age: id, text: id.String(), recipient: id.Recipient().String()}, nil
	case strings.HasPrefix(line, "age1"), strings.HasPrefix(line, "ssh-"):
		return nil, errors.New("this is a recipient, the public half; the private half is needed here (AGE-SECRET-KEY-1...)")
	case strings.HasPrefix(upper, "AGE-PLUGIN-"):
		return nil, errors.New("identities of age plugins are not supported")
	case strings.HasPrefix(line, "age-encryption.org/"), strings.HasPrefix(line, "-----BEGIN AGE ENCRYPTED FILE"):
		return nil, errors.New("this file is itself encrypted with age; decrypt it first (age -d FILE)")
	}
	return nil, errors.New("not an identity: it should begin with AGE-SECRET-KEY-1")
}

func parseSSHIdentity(data []byte, block *pem.Block) (*Identity, error) {
	if block.Type == "AGE ENCRYPTED FILE" {
		return nil, errors.New("this identity file is itself encrypted with age; decrypt it first (age -d FILE)")
	}
	if block.Type != "OPENSSH PRIVATE KEY" {
		return nil, fmt.Errorf("a PEM block %q is not an identity; an SSH key in the OpenSSH form is (ssh-keygen -p -f FILE converts)", block.Type)
	}
	recipient, encrypted, err := sshPublicHalf(block.Bytes)
	if err != nil {
		return nil, err
	}
	if encrypted {
		return nil, errors.New("the SSH key has a passphrase; give a copy without one (ssh-keygen -p -f COPY)")
	}
	id, err := agessh.ParseIdentity(data)
	if err != nil {
		return nil, fmt.Errorf("the SSH key cannot be used as an identity (ed25519 and RSA can): %w", err)
	}
	return &Identity{age: id, text: string(pem.EncodeToMemory(block)), recipient: recipient}, nil
}

// sshPublicHalf reads the public key that an OpenSSH private key file carries in the clear:
//
//	"openssh-key-v1\0" | string cipher | string kdf | string kdf options | uint32 keys | string public key | ...
func sshPublicHalf(b []byte) (recipient string, encrypted bool, err error) {
	damaged := errors.New("the SSH private key is malformed")
	b, ok := bytes.CutPrefix(b, []byte("openssh-key-v1\x00"))
	if !ok {
		return "", false, damaged
	}
	next := func() []byte {
		if len(b) < 4 || uint64(binary.BigEndian.Uint32(b)) > uint64(len(b)-4) {
			b, ok = nil, false
			return nil
		}
		n := 4 + int(binary.BigEndian.Uint32(b))
		s := b[4:n]
		b = b[n:]
		return s
	}
	cipher := next()
	next() // kdf
	next() // its options
	if !ok || len(b) < 4 || binary.BigEndian.Uint32(b) != 1 {
		return "", false, damaged
	}
	b = b[4:]
	public := next()
	b = public
	kind := next()
	if !ok || !isWord(string(kind)) {
		return "", false, damaged
	}
	return string(kind) + " " + base64.StdEncoding.EncodeToString(public), string(cipher) != "none", nil
}

func isWord(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return s != ""
}

// parseRecipient reads a recipient and returns it with its one spelling: an SSH key loses its comment.
func parseRecipient(s string) (age.Recipient, string, error) {
	s = strings.TrimSpace(s)
	switch {
	case strings.HasPrefix(strings.ToUpper(s), "AGE-SECRET-KEY-"):
		return nil, "", errors.New("this is an identity, the secret half; a recipient is the public half (age1...)")
	case strings.HasPrefix(s, "age1pq1"):
		r, err := age.ParseHybridRecipient(s)
		if err != nil {
			return nil, "", fmt.Errorf("recipient %.80q: %w", s, err)
		}
		return r, r.String(), nil
	case strings.HasPrefix(s, "age1"):
		r, err := age.ParseX25519Recipient(s)
		if err != nil {
			return nil, "", fmt.Errorf("recipient %.80q: %w", s, err)
		}
		return r, r.String(), nil
	case strings.HasPrefix(s, "ssh-"):
		fields := strings.Fields(s)
		if len(fields) < 2 {
			return nil, "", fmt.Errorf("recipient %.80q: an SSH public key is a type and base64", s)
		}
		name := fields[0] + " " + fields[1]
		r, err := agessh.ParseRecipient(name)
		if err != nil {
			return nil, "", fmt.Errorf("recipient %.80q: %w", s, err)
		}
		return r, name, nil
	}
	return nil, "", fmt.Errorf("recipient %.80q: age1..., ssh-ed25519 ... or ssh-rsa ... is needed", s)
}
