package keys

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"filippo.io/age"
)

// The sealed keyring is one line of JSON without blanks, fields in this order, and a newline:
//
//	{"format":1,
//	 "vault":"<32 hex>",
//	 "epochs":[1,2],                      ascending, the last one is in use
//	 "recipients":["age1...",...],        who can open it, each once
//	 "wrapped":"<base64>",                an age file
//	 "hash":"<64 hex>"}                   SHA-256 of every byte of the line before `,"hash"`
//
// The age file holds another such line without newline and hash:
//
//	{"format":1,"vault":"<32 hex>","recipients":[...],"base":"<base64, 32 bytes>",
//	 "epochs":[{"epoch":1,"key":"<base64, 32 bytes>"},...]}
//
// vault, recipients and epochs stand in both and must agree: the outer ones can be read without a key, the inner
// ones are authenticated. age does not say who wrapped a file, so a keyring is only as trustworthy as the place it
// was read from; the signed ledger is the place that counts.
//
// Every later format keeps one line that begins {"format":N, and ends with the hash as above: that is how damage
// and a newer release are told apart. What parses encodes to the same bytes again.
const (
	sealedFormat  = 1
	maxSealed     = 1 << 20
	hashFieldSize = len(`,"hash":"`) + 64 + len("\"}\n")
)

type sealedLine struct {
	Format     int      `json:"format"`
	Vault      string   `json:"vault"`
	Epochs     []uint32 `json:"epochs"`
	Recipients []string `json:"recipients"`
	Wrapped    []byte   `json:"wrapped"`
}

type secretLine struct {
	Format     int         `json:"format"`
	Vault      string      `json:"vault"`
	Recipients []string    `json:"recipients"`
	Base       []byte      `json:"base"`
	Epochs     []epochLine `json:"epochs"`
}

type epochLine struct {
	Epoch uint32 `json:"epoch"`
	Key   []byte `json:"key"`
}

// Info is what a sealed keyring says in the open. It is not authenticated until Open.
type Info struct {
	Vault      string
	Recipients []string
	Epochs     []uint32 // ascending; the last one is in use
}

// ParseSealed reads the open part of a sealed keyring. It returns a *DamageError or an error that wraps ErrNewer.
func ParseSealed(sealed []byte) (Info, error) {
	s, err := parseSealed(sealed)
	if err != nil {
		return Info{}, err
	}
	return Info{Vault: s.Vault, Recipients: s.Recipients, Epochs: s.Epochs}, nil
}

// Open unwraps a sealed keyring with whichever of the identities fits. It returns a *WrongIdentityError, a
// *DamageError or an error that wraps ErrNewer.
func Open(sealed []byte, ids ...*Identity) (*Ring, error) {
	s, err := parseSealed(sealed)
	if err != nil {
		return nil, err
	}
	wrong := &WrongIdentityError{Vault: s.Vault, Recipients: s.Recipients}
	if len(ids) == 0 {
		return nil, wrong
	}
	identities := make([]age.Identity, len(ids))
	for i, id := range ids {
		identities[i] = id.age
		wrong.Given = append(wrong.Given, id.recipient)
	}
	plain, err := age.Decrypt(bytes.NewReader(s.Wrapped), identities...)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return nil, wrong
	}
	if err != nil {
		return nil, damaged("keyring", "its wrapped part cannot be opened: %v", err)
	}
	inner, err := io.ReadAll(io.LimitReader(plain, maxSealed))
	if err != nil {
		return nil, damaged("keyring", "its wrapped part cannot be read: %v", err)
	}
	r, err := parseSecret(inner, s)
	if err != nil {
		return nil, err
	}
	r.sealed = slices.Clone(sealed)
	return r, nil
}

// seal wraps the keys to recipients and sets r.recipients and r.sealed. Each recipient is kept once.
func (r *Ring) seal(recipients []string) error {
	var to []age.Recipient
	for _, s := range recipients {
		recipient, name, err := parseRecipient(s)
		if err != nil {
			return err
		}
		if !slices.Contains(r.recipients, name) {
			to, r.recipients = append(to, recipient), append(r.recipients, name)
		}
	}
	if len(to) == 0 {
		return errors.New("no recipient: nobody could ever open it")
	}
	secret := secretLine{Format: sealedFormat, Vault: r.vault, Recipients: r.recipients, Base: r.base[:]}
	line := sealedLine{Format: sealedFormat, Vault: r.vault, Recipients: r.recipients}
	for i := range r.epochs {
		secret.Epochs = append(secret.Epochs, epochLine{r.epochs[i].number, r.epochs[i].key[:]})
		line.Epochs = append(line.Epochs, r.epochs[i].number)
	}
	inner, err := json.Marshal(secret)
	if err != nil {
		return err
	}
	var wrapped bytes.Buffer
	w, err := age.Encrypt(&wrapped, to...)
	if err != nil {
		return fmt.Errorf("wrap to %s: %w", shorten(r.recipients), err)
	}
	if _, err := w.Write(inner); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	line.Wrapped = wrapped.Bytes()
	if r.sealed, err = line.encode(); err != nil {
		return err
	}
	if len(r.sealed) > maxSealed {
		return fmt.Errorf("%d recipients and %d epochs make a keyring of %d bytes, more than %d", len(to), len(r.epochs), len(r.sealed), maxSealed)
	}
	return nil
}

func (s sealedLine) encode() ([]byte, error) {
	body, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	body = body[:len(body)-1] // without the brace, which follows the hash
	sum := sha256.Sum256(body)
	return fmt.Appendf(body, ",\"hash\":\"%x\"}\n", sum), nil
}

func parseSealed(b []byte) (sealedLine, error) {
	var s sealedLine
	if len(b) > maxSealed {
		return s, damaged("keyring", "it has %d bytes, more than %d", len(b), maxSealed)
	}
	if len(b) < hashFieldSize {
		return s, damaged("keyring", "it has %d bytes, fewer than a keyring can have", len(b))
	}
	body, tail := b[:len(b)-hashFieldSize], b[len(b)-hashFieldSize:]
	sum := sha256.Sum256(body)
	if string(tail) != `,"hash":"`+hex.EncodeToString(sum[:])+"\"}\n" {
		return s, damaged("keyring", "its hash does not match its bytes")
	}
	object := append(slices.Clone(body), '}')
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(object, &version); err != nil {
		return s, damaged("keyring", "not JSON: %v", err)
	}
	if version.Format > sealedFormat {
		return s, fmt.Errorf("keyring of format %d: %w", version.Format, ErrNewer)
	}
	if err := json.Unmarshal(object, &s); err != nil {
		return s, damaged("keyring", "not the fields of a keyring: %v", err)
	}
	if again, err := s.encode(); err != nil || !bytes.Equal(again, b) {
		return s, damaged("keyring", "it is not in the one form in which holdfast writes it")
	}
	return s, s.check()
}

func (s sealedLine) check() error {
	switch {
	case s.Format != sealedFormat:
		return damaged("keyring", "format %d does not exist", s.Format)
	case !isVault(s.Vault):
		return damaged("keyring", "vault %.80q is not 32 lower case hexadecimal digits", s.Vault)
	case len(s.Recipients) == 0:
		return damaged("keyring", "it names no recipient")
	case len(s.Epochs) == 0 || s.Epochs[0] == 0:
		return damaged("keyring", "it names no epoch, or epoch 0")
	}
	for i := 1; i < len(s.Epochs); i++ {
		if s.Epochs[i] <= s.Epochs[i-1] {
			return damaged("keyring", "epoch %d stands after epoch %d", s.Epochs[i], s.Epochs[i-1])
		}
	}
	return nil
}

// parseSecret reads the wrapped line and compares it with the open one. Errors show no byte of it.
func parseSecret(inner []byte, s sealedLine) (*Ring, error) {
	var secret secretLine
	if err := json.Unmarshal(inner, &secret); err != nil {
		return nil, damaged("keyring", "its wrapped part is not the JSON of a keyring")
	}
	if again, err := json.Marshal(secret); err != nil || !bytes.Equal(again, inner) {
		return nil, damaged("keyring", "its wrapped part is not in the one form in which holdfast writes it")
	}
	if secret.Format != s.Format || secret.Vault != s.Vault || !slices.Equal(secret.Recipients, s.Recipients) {
		return nil, damaged("keyring", "its open part does not agree with its wrapped part: somebody has edited it")
	}
	if len(secret.Base) != keySize || len(secret.Epochs) != len(s.Epochs) {
		return nil, damaged("keyring", "its wrapped part lacks a key")
	}
	r := &Ring{vault: s.Vault, recipients: s.Recipients, base: [keySize]byte(secret.Base)}
	for i, e := range secret.Epochs {
		if e.Epoch != s.Epochs[i] || len(e.Key) != keySize {
			return nil, damaged("keyring", "its open part does not agree with its wrapped part about epoch %d", s.Epochs[i])
		}
		r.epochs = append(r.epochs, epochKey{e.Epoch, [keySize]byte(e.Key)})
	}
	return r, nil
}
