package ledger

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// A checkpoint is a signed note as C2SP tlog-checkpoint has it:
//
//	holdfast/0123456789abcdef0123456789abcdef     origin: "holdfast/" and the vault
//	42                                            leaves, decimal
//	CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=  root, base64
//	                                              an empty line
//	— holdfast/0123.. Base64OfKeyHashAndSignature Ed25519 over the lines above the empty one

// checkpointMax bounds what is read as a checkpoint: ours has one signature, a cosigned one some more.
const checkpointMax = 64 << 10

// Checkpoint is what a signed note says of the ledger.
type Checkpoint struct {
	Origin string
	Size   uint64
	Root   tlog.Hash
}

// NewSigner makes a key pair for the checkpoints of origin, "holdfast/" and the vault. Both keys are
// in the text form of golang.org/x/mod/sumdb/note; the signer key is secret.
func NewSigner(origin string) (signerKey, verifierKey string, err error) {
	signerKey, verifierKey, err = note.GenerateKey(rand.Reader, origin)
	if err != nil {
		return "", "", fmt.Errorf("ledger: signing key: %w", err)
	}
	if _, err := note.NewVerifier(verifierKey); err != nil {
		return "", "", fmt.Errorf("ledger: origin %q: %w", origin, err)
	}
	return signerKey, verifierKey, nil
}

// CheckSigner says whether a signer key is whole, in its only spelling, and belongs to the verifier key.
func CheckSigner(signerKey, verifierKey string) error {
	signer, err := note.NewSigner(signerKey)
	if err != nil {
		return fmt.Errorf("signing key: %w", err)
	}
	verifier, err := note.NewVerifier(verifierKey)
	if err != nil {
		return fmt.Errorf("verifier: %w", err)
	}
	// The library accepts capitals in the key's hash: compare with the only way in which we write it.
	parts := strings.SplitN(signerKey, "+", 5)
	if len(parts) != 5 || parts[3] != fmt.Sprintf("%08x", signer.KeyHash()) {
		return errors.New("signing key: not in its canonical form")
	}
	if raw, err := base64.StdEncoding.DecodeString(parts[4]); err != nil || base64.StdEncoding.EncodeToString(raw) != parts[4] {
		return errors.New("signing key: not in its canonical form")
	}
	if signer.Name() != verifier.Name() {
		return fmt.Errorf("signing key is of %q, the ledger's verifier of %q", signer.Name(), verifier.Name())
	}
	probe := []byte("holdfast signing key probe\n")
	sig, err := signer.Sign(probe)
	if err != nil {
		return fmt.Errorf("signing key: %w", err)
	}
	if signer.KeyHash() != verifier.KeyHash() || !verifier.Verify(probe, sig) {
		return errors.New("signing key does not belong to the ledger's verifier")
	}
	return nil
}

// sign gives the note of a checkpoint.
func sign(c Checkpoint, signer note.Signer) ([]byte, error) {
	text := fmt.Sprintf("%s\n%d\n%s\n", c.Origin, c.Size, c.Root)
	b, err := note.Sign(&note.Note{Text: text}, signer)
	if err != nil {
		return nil, fmt.Errorf("ledger: sign checkpoint: %w", err)
	}
	return b, nil
}

// ParseCheckpoint reads a checkpoint and checks that the verifier's key signed it, under its own name or as a later origin of
// the same ledger: Origin says which. Cosignatures of other keys may stand beside ours. Other spellings of the same note are
// refused, so that no byte of it can change unseen.
func ParseCheckpoint(signed []byte, verifierKey string) (Checkpoint, error) {
	verifier, err := verifierFor(signed, verifierKey)
	if err != nil {
		return Checkpoint{}, err
	}
	n, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	if err := canonicalNote(signed, n); err != nil {
		return Checkpoint{}, err
	}
	c, err := parseText(n.Text)
	if err == nil && c.Origin != verifier.Name() {
		err = fmt.Errorf("checkpoint: origin %q is not %q", c.Origin, verifier.Name())
	}
	if err != nil {
		return Checkpoint{}, err
	}
	return c, nil
}

// verifierFor gives the key that a note under one of a ledger's origins is verified with, given the key of the first.
func verifierFor(signed []byte, verifierKey string) (note.Verifier, error) {
	line, _, _ := bytes.Cut(signed, []byte("\n"))
	first, _, _ := strings.Cut(verifierKey, "+")
	if n := originNumber(first, string(line)); n > 1 {
		later, err := OriginVerifier(verifierKey, n)
		if err != nil {
			return nil, fmt.Errorf("checkpoint: %w", err)
		}
		verifierKey = later
	}
	verifier, err := note.NewVerifier(verifierKey)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: verifier %q: %w", verifierKey, err)
	}
	return verifier, nil
}

// PeekCheckpoint reads what a checkpoint says and verifies nothing: for who wants to say why one does not hold.
func PeekCheckpoint(signed []byte) (Checkpoint, error) {
	n, err := note.Open(signed, note.VerifierList())
	var unverified *note.UnverifiedNoteError
	if errors.As(err, &unverified) {
		n, err = unverified.Note, nil
	}
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	return parseText(n.Text)
}

// parseText reads the signed part of a checkpoint.
func parseText(text string) (Checkpoint, error) {
	lines := strings.SplitN(text, "\n", 4)
	if len(lines) != 4 {
		return Checkpoint{}, fmt.Errorf("checkpoint: %d lines are too few", len(lines)-1)
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 1 || strconv.FormatInt(size, 10) != lines[1] {
		return Checkpoint{}, fmt.Errorf("checkpoint: size %q is not a number of leaves", lines[1])
	}
	root, err := ParseRoot(lines[2])
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	return Checkpoint{Origin: lines[0], Size: uint64(size), Root: root}, nil
}

// ParseRoot reads a root in base64, in its only spelling.
func ParseRoot(s string) (tlog.Hash, error) {
	root, err := tlog.ParseHash(s)
	if err != nil || root.String() != s {
		return tlog.Hash{}, fmt.Errorf("root %q is not a hash", s)
	}
	return root, nil
}

// canonicalNote refuses what note.Open overlooks: repeated signatures, and unused bits at the end of
// a base64 text.
func canonicalNote(signed []byte, n *note.Note) error {
	length := len(n.Text) + 1
	for _, list := range [][]note.Signature{n.Sigs, n.UnverifiedSigs} {
		for _, s := range list {
			raw, err := base64.StdEncoding.DecodeString(s.Base64)
			if err != nil || len(raw) < 4 || binary.BigEndian.Uint32(raw) != s.Hash ||
				base64.StdEncoding.EncodeToString(raw) != s.Base64 {
				return errors.New("checkpoint: a signature is not in its canonical form")
			}
			line := "— " + s.Name + " " + s.Base64 + "\n"
			if !bytes.Contains(signed[len(n.Text):], []byte("\n"+line)) {
				return errors.New("checkpoint: a signature is not in its canonical form")
			}
			length += len(line)
		}
	}
	if length != len(signed) {
		return errors.New("checkpoint: not in its canonical form")
	}
	return nil
}

// mergeSignatures gives one note with the signatures of both, which are of the same text: of two by one key the later
// argument's counts. The ledger's own comes first.
func mergeSignatures(old, now []byte, verifierKey string) ([]byte, error) {
	verifier, err := verifierFor(now, verifierKey)
	if err != nil {
		return nil, err
	}
	var notes [2]*note.Note
	for i, signed := range [][]byte{old, now} {
		if notes[i], err = note.Open(signed, note.VerifierList(verifier)); err != nil {
			return nil, fmt.Errorf("checkpoint: %w", err)
		}
	}
	if notes[0].Text != notes[1].Text {
		return nil, errors.New("checkpoint: two notes of one size with different texts")
	}
	type key struct {
		name string
		hash uint32
	}
	later := make(map[key]bool)
	for _, s := range notes[1].UnverifiedSigs {
		later[key{s.Name, s.Hash}] = true
	}
	merged := &note.Note{Text: notes[1].Text, Sigs: notes[1].Sigs}
	for _, s := range notes[0].UnverifiedSigs {
		if !later[key{s.Name, s.Hash}] {
			merged.UnverifiedSigs = append(merged.UnverifiedSigs, s)
		}
	}
	merged.UnverifiedSigs = append(merged.UnverifiedSigs, notes[1].UnverifiedSigs...)
	return note.Sign(merged)
}
