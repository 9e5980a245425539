package worm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
)

const (
	identityFormat = 1
	// keyringMax keeps a keyring, in base64, within a line of the ledger.
	keyringMax = 512 << 10
)

// InitOptions says what a new vault is.
type InitOptions struct {
	Vault    string // 32 hex digits
	Identity []byte // content of vault.json
	Keyring  []byte // the wrapped keyring
	Policy   ledger.Policy
	// Guard makes a vault as Options.Guard keeps it.
	Guard bool
}

// Init makes a vault in the root of d and gives the verifier of its checkpoints. It refuses a wall
// clock that is earlier than this program, and a directory that holds a ledger, packs or manifests.
//
// On return the vault is durable. The ledger's first line is what makes it a vault: a cut before it
// leaves files of which the next Init makes nothing but its own.
func Init(d durable.Disk, src clock.Source, o InitOptions) (verifier string, err error) {
	policy, err := checkInit(o)
	if err != nil {
		return "", fmt.Errorf("init: %w", err)
	}
	now, err := src.Read()
	if err != nil {
		return "", fmt.Errorf("init: %w", err)
	}
	if now.Wall.Before(clock.Earliest()) {
		return "", fmt.Errorf("init: the wall clock shows %s, which is before this program was made (%s): locks would start in the past; set the clock and try again",
			now.Wall.UTC().Format(time.RFC3339), clock.Earliest().UTC().Format(time.RFC3339))
	}
	guard, err := Options{Guard: o.Guard}.guard(d)
	if err != nil {
		return "", fmt.Errorf("init: %w", err)
	}
	if err := errors.Join(AtHome(d), unused(d)); err != nil {
		return "", fmt.Errorf("init: %w", err)
	}
	signer, verifier, err := ledger.NewSigner("holdfast/" + o.Vault)
	if err != nil {
		return "", fmt.Errorf("init: %w", err)
	}
	if err := initFiles(d, o, signer); err != nil {
		return "", fmt.Errorf("init: %w", err)
	}
	c, err := clock.Open(d, clockFile, src, clock.Known{Vault: o.Vault})
	if err != nil {
		return "", fmt.Errorf("init: %w", err)
	}
	at, err := c.Now()
	if err != nil {
		return "", fmt.Errorf("init: %w", err)
	}
	if err := c.Save(); err != nil {
		return "", fmt.Errorf("init: %w", err)
	}
	// Power fails here: files and directories, but no ledger, so no vault.
	first := ledger.Record{Kind: ledger.KindInit, At: at, Init: &ledger.Init{
		Format: ledger.Format, Vault: o.Vault, Verifier: verifier, Identity: string(o.Identity),
		Keyring: o.Keyring, Policy: policy,
	}}
	if guard == nil {
		err = ledger.Create(d, ledgerDir, signer, first)
	} else if err = ledger.CreateGuarded(guard, ledgerDir, signer, first); err == nil {
		// Power fails here: a vault; its next Open sets what flags are missing.
		s := Store{disk: d, guard: guard}
		err = errors.Join(s.guardDirectories(), s.guardRoot())
	}
	if err != nil {
		return "", fmt.Errorf("init: %w", err)
	}
	return verifier, nil
}

func checkInit(o InitOptions) (ledger.Policy, error) {
	if len(o.Vault) != 32 || strings.Trim(o.Vault, "0123456789abcdef") != "" {
		return ledger.Policy{}, fmt.Errorf("vault %q is not 32 hex digits", o.Vault)
	}
	if len(o.Keyring) == 0 || len(o.Keyring) > keyringMax {
		return ledger.Policy{}, fmt.Errorf("a keyring of %d bytes", len(o.Keyring))
	}
	id, err := parseIdentity(o.Identity)
	if err != nil {
		return ledger.Policy{}, err
	}
	if id != o.Vault {
		return ledger.Policy{}, fmt.Errorf("the identity is of vault %q, not of %q", id, o.Vault)
	}
	p := o.Policy.Fill()
	return p, p.Check()
}

// parseIdentity gives the vault that the content of vault.json names.
func parseIdentity(b []byte) (vault string, err error) {
	var id struct {
		Format int    `json:"format"`
		Vault  string `json:"vault"`
	}
	if err := json.Unmarshal(b, &id); err != nil {
		return "", fmt.Errorf("%s is damaged: %w", identityFile, err)
	}
	if id.Format > identityFormat {
		return "", fmt.Errorf("%s: format %d: %w", identityFile, id.Format, ErrNewer)
	}
	if id.Format != identityFormat {
		return "", fmt.Errorf("%s is damaged: format %d", identityFile, id.Format)
	}
	return id.Vault, nil
}

// unused refuses a directory in which something was acknowledged already.
func unused(d durable.Disk) error {
	for _, dir := range []string{ledgerDir, packsDir, manifestsDir} {
		entries, err := d.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if !strings.HasSuffix(e.Name(), tmpSuffix) {
				return fmt.Errorf("there is a vault already (%s): %w", path.Join(dir, e.Name()), fs.ErrExist)
			}
		}
	}
	return nil
}

func initFiles(d durable.Disk, o InitOptions, signer string) error {
	perm, keyring := fs.FileMode(0o700), fs.FileMode(0o600)
	if o.Guard {
		perm, keyring = groupDir, groupFile
	}
	for _, dir := range []string{packsDir, manifestsDir, incomingDir, ledgerDir} {
		if err := durable.MkdirAll(d, dir, perm); err != nil {
			return err
		}
	}
	if err := durable.MkdirAll(d, keeperDir, 0o700); err != nil {
		return err
	}
	if err := durable.Replace(d, signerFile, []byte(signer+"\n"), 0o600); err != nil {
		return err
	}
	if err := durable.Replace(d, keyringFile, o.Keyring, keyring); err != nil {
		return err
	}
	return durable.Replace(d, identityFile, o.Identity, 0o644)
}

// SetKeyring replaces the wrapped keyring. The record in the ledger is what counts; the file follows,
// and the next Open brings it up to date if it could not.
func (s *Store) SetKeyring(ctx context.Context, keyring []byte, reason string) error {
	if err := s.writable(); err != nil {
		return err
	}
	if len(keyring) == 0 || len(keyring) > keyringMax {
		return fmt.Errorf("a keyring of %d bytes", len(keyring))
	}
	s.write.Lock()
	defer s.write.Unlock()
	s.flush()
	if err := ctx.Err(); err != nil {
		return err
	}
	if bytes.Equal(keyring, s.Keyring()) {
		return nil
	}
	_, err := s.append(ledger.Record{Kind: ledger.KindKeyring, Keyring: &ledger.KeyringChange{
		Keyring: bytes.Clone(keyring), Reason: reason,
	}})
	if err != nil {
		return fmt.Errorf("keyring: %w", err)
	}
	// Power fails here: the file still holds the keyring before, which recovery replaces.
	if err := s.replaceKeyring(keyring); err != nil {
		return fmt.Errorf("the new keyring is in force, but its file could not be written: %w", err)
	}
	return nil
}
