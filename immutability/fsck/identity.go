package fsck

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/audit"
)

const (
	identityFile = "vault.json"
	keyringFile  = "keyring"
	signerFile   = "keeper/log.key"
	clockFile    = "keeper/clock"
	keyringMax   = 1 << 20
	smallMax     = 64 << 10
)

// identity holds vault.json, keyring, signing key and clock against the ledger.
func (l *look) identity(context.Context) error {
	if l.h.init == nil {
		return nil
	}
	if err := l.vaultJSON(); err != nil {
		return err
	}
	if err := l.keyring(); err != nil {
		return err
	}
	l.r.Keyring = l.h.keyring
	// Both lie where only the keeper enters, and the auditor may be nobody. What cannot be read is told, and no damage.
	for _, x := range []struct {
		name, kind string
		check      func([]byte) error
	}{{signerFile, KindIdentity, l.signer}, {clockFile, KindClock, l.clock}} {
		name := x.name
		b, err := read(l.d, name, smallMax)
		switch {
		case errors.Is(err, fs.ErrPermission):
			l.r.note(KindIdentity, name, "not looked at: only root and the keeper may read it")
			continue
		case errors.Is(err, fs.ErrNotExist) && name == clockFile:
			l.r.note(KindClock, name, "it is missing: running time goes on from the newest record, and locks last a little longer")
			continue
		case err == nil:
			err = x.check(b)
		}
		if err != nil {
			l.r.damage(x.kind, name, "%v", err)
		}
	}
	return nil
}

func (l *look) vaultJSON() error {
	b, err := read(l.d, identityFile, smallMax)
	if errors.Is(err, fs.ErrPermission) {
		return err
	}
	if err != nil {
		l.r.damage(KindIdentity, identityFile, "%v; its content stands in the ledger's first record", err)
	} else if string(b) != l.h.init.identity {
		l.r.damage(KindIdentity, identityFile, "it is not what the ledger's first record says, from where it can be put back")
	}
	o := readObject([]byte(l.h.init.identity))
	if format, vault := o.number("format"), o.text("vault"); o.err != nil || format != 1 || vault != l.h.init.vault {
		l.r.damage(KindIdentity, lineName(1, 1), "the identity that the first record holds is not that of vault %q (%v)", l.h.init.vault, o.err)
	}
	return nil
}

func (l *look) keyring() error {
	for ring := range l.h.keyrings {
		if err := checkKeyring([]byte(ring), l.h.init.vault); err != nil {
			l.r.damage(KindIdentity, ledgerDir, "a keyring that the ledger holds: %v", err)
		}
	}
	b, err := read(l.d, keyringFile, keyringMax)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return err
	case err != nil:
		l.r.damage(KindIdentity, keyringFile, "%v; the newest one stands in the ledger, and one in every manifest", err)
	case bytes.Equal(b, l.h.keyring):
	case l.h.keyrings[string(b)]:
		l.r.note(KindIdentity, keyringFile, "an earlier keyring: a change of keys was cut, and the next start puts the newest one here")
	default:
		l.r.damage(KindIdentity, keyringFile, "it is none of the keyrings that the ledger holds; the newest one stands there, and can be put back")
	}
	return nil
}

// checkKeyring checks what a wrapped keyring shows without a key: one line that ends in the hash of what stands before it,
// of this vault.
func checkKeyring(b []byte, vault string) error {
	line, ok := bytes.CutSuffix(b, []byte("\n"))
	if !ok || len(line) <= hashTailLen {
		return errors.New("not a line")
	}
	if err := checkTail(line, hashMember); err != nil {
		return err
	}
	o := readObject(line)
	format, of := o.number("format"), o.text("vault")
	o.bytes("wrapped")
	switch {
	case o.err != nil:
		return o.err
	case format != 1:
		return fmt.Errorf("format %d: written by a newer release of holdfast", format)
	case of != vault:
		return fmt.Errorf("it is of vault %q", of)
	}
	return nil
}

// checkTail says whether a line ends in a member that holds the SHA-256 of everything before it.
func checkTail(line []byte, member string) error {
	n := len(line) - (len(member) + 2*sha256.Size + len(`"}`))
	if n < 1 {
		return fmt.Errorf("%d bytes are too few", len(line))
	}
	sum := sha256.Sum256(line[:n])
	if string(line[n:]) != member+hex.EncodeToString(sum[:])+`"}` {
		return errors.New("its checksum does not match its content")
	}
	return nil
}

// signer checks that the signing key is that of the verifier. The key is looked at and goes nowhere.
func (l *look) signer(b []byte) error {
	text, ok := strings.CutSuffix(string(b), "\n")
	rest, private := strings.CutPrefix(text, "PRIVATE+KEY+")
	parts := strings.Split(rest, "+")
	if !ok || !private || len(parts) < 3 {
		return errors.New("not a signing key")
	}
	name, id := parts[0], parts[1]
	// Base64 has a plus of its own.
	b64 := strings.Join(parts[2:], "+")
	raw, err := base64.StdEncoding.DecodeString(b64)
	if err != nil || base64.StdEncoding.EncodeToString(raw) != b64 || len(raw) != 1+ed25519.SeedSize || raw[0] != 1 {
		return errors.New("not an Ed25519 signing key in its only spelling")
	}
	public := ed25519.NewKeyFromSeed(raw[1:]).Public().(ed25519.PublicKey)
	verifier := name + "+" + id + "+" + base64.StdEncoding.EncodeToString(append([]byte{1}, public...))
	if _, err := audit.ParseKey(verifier); err != nil {
		return fmt.Errorf("the signing key: %w", err)
	}
	if verifier != l.h.init.verifier {
		return fmt.Errorf("the signing key belongs to the verifier %q, and the ledger names another", verifier)
	}
	return nil
}

const (
	// clockSlack is by how much credited time may run ahead of the wall clock: what a shift may have that stops nothing, and
	// an hour.
	clockSlack = 25 * time.Hour
	// clockAhead is how far the state may be ahead of the newest record: a record is written each day.
	clockAhead = 7 * 24 * time.Hour
	// clockBehind is how far it may be behind it before a person is told.
	clockBehind = time.Hour
)

// clock checks the clock's state. What it credits beyond the newest record cannot be more than the wall clock went on,
// unless it says itself that the wall clock moved.
func (l *look) clock(b []byte) error {
	line, ok := bytes.CutSuffix(b, []byte("\n"))
	if !ok {
		return errors.New("it does not end in a newline")
	}
	if err := checkTail(line, `,"sha256":"`); err != nil {
		return err
	}
	o := readObject(line)
	format, running, wall := o.number("format"), o.number("running_ns"), o.moment("wall")
	if format == 2 {
		if of := o.text("vault"); o.err == nil && of != l.h.init.vault {
			return fmt.Errorf("it is the clock of vault %q", of)
		}
	}
	shifted := o.has("shift") && string(o.of["shift"]) != "null"
	switch {
	case o.err != nil:
		return o.err
	case format != 1 && format != 2:
		return fmt.Errorf("format %d: written by a newer release of holdfast", format)
	case running < 0:
		return fmt.Errorf("a running time of %d ns", running)
	}
	last := l.h.last
	gained := running/int64(time.Second) - last.Running
	passed := int64(wall.Sub(last.Wall) / time.Second)
	switch {
	case gained > int64(clockAhead/time.Second) && format == 1 && gained <= passed+int64(clockSlack/time.Second):
		// The release that wrote this form wrote no record where nothing happened.
		l.r.note(KindClock, clockFile, "it credits %d s of running time since the newest record, as the wall clock does: an earlier release ran, and recorded nothing; a week of it is believed", gained)
	case gained > int64(clockAhead/time.Second):
		return fmt.Errorf("it credits %d s of running time since the newest record, and there is a record for each day: it was changed, so that locks would end early, or the ledger is an older one, or nothing could be recorded for so long (a full disk). No more than a week of it is believed", gained)
	case gained > max(passed, 0)+int64(clockSlack/time.Second) && !shifted && passed >= 0:
		return fmt.Errorf("it credits %d s of running time since the newest record, and the wall clock went on by %d s: it was changed, so that locks would end early", gained, passed)
	case gained < -int64(clockBehind/time.Second):
		l.r.note(KindClock, clockFile, "it is %d s of running time behind the newest record: an older one was put back; counting goes on from the record", -gained)
	}
	if shifted {
		l.r.note(KindClock, clockFile, "it says that the wall clock moved by more than a day: nothing expires until that is settled")
	}
	if !l.o.Now.IsZero() && wall.Sub(l.o.Now) > 24*time.Hour {
		l.r.note(KindClock, clockFile, "its wall clock is %s, ahead of this machine's (%s)", wall.Format(time.RFC3339), l.o.Now.UTC().Format(time.RFC3339))
	}
	return nil
}
