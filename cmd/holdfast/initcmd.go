package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/level"
	"github.com/holdfast-vault/holdfast/vault"
	"github.com/holdfast-vault/holdfast/vault/keys"
)

func initCommand(a *app) *cobra.Command {
	var recoveryOut string
	c := &cobra.Command{
		Use:   "init --vault DIR [--keeper SOCKET] [--recovery-out FILE]",
		Short: "Make a new vault",
		Long: `Make a new vault in an empty or new directory.

Two identities are made. The unlock key stays on this machine, outside the vault,
and lets the daemon work unattended. The recovery identity belongs offline: with it
and the vault's files, and nothing else, everything can be read on any machine.
With a keeper the keeper makes the vault, in the directory that it was started with:
run this as the daemon's user then, and name that directory.
Without --recovery-out it is printed once, and init asks whether you have it.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.init(c.Context(), recoveryOut)
		},
	}
	c.Flags().StringVar(&recoveryOut, "recovery-out", "", "write the recovery identity to `FILE`, to be taken offline (must not exist)")
	return c
}

func (a *app) init(ctx context.Context, recoveryOut string) error {
	dir, err := a.vaultDir()
	if err != nil {
		return err
	}
	cfg, err := a.config()
	if err != nil {
		return err
	}
	policy := initialPolicy(cfg)
	socket, _, err := a.keeper(dir)
	if err != nil {
		return err
	}
	if socket == "" {
		err = errors.Join(a.mayPromise(policy), a.mayInit(dir))
	} else {
		err = mayFound(ctx, socket)
	}
	if err != nil {
		return err
	}
	id := vault.NewID()
	unlockFile, err := a.newUnlockFile(id)
	if err != nil {
		return err
	}
	for _, f := range []string{unlockFile, recoveryOut} {
		if f != "" && inside(f, dir) {
			return usage("init: %q lies inside the vault: whoever takes the vault's disk would have its key; choose another place", f)
		}
	}
	unlock, err := keys.NewIdentity()
	if err != nil {
		return err
	}
	recovery, err := keys.NewIdentity()
	if err != nil {
		return err
	}
	if recoveryOut == "" {
		if err := a.confirmRecovery(recovery); err != nil {
			return err
		}
	} else if err := writeIdentity(recoveryOut, "recovery identity", id, recovery); err != nil {
		return err
	}
	if err := writeIdentity(unlockFile, "unlock key", id, unlock); err != nil {
		return err
	}
	verifier, err := vault.Init(ctx, dir, id, vault.InitOptions{
		Recipients: []string{unlock.Recipient(), recovery.Recipient()}, Policy: policy, Keeper: socket, Clock: a.clock,
		People: peopleSaid(cfg), PeopleFrom: adopter(cfg),
	})
	if err != nil {
		return errors.Join(err, os.Remove(unlockFile))
	}
	if made, verr := vaultID(dir); socket != "" && (verr != nil || made != id) {
		return fmt.Errorf("init: the keeper made vault %s, and %q is not its directory: give the directory that the keeper was started with as --vault; the unlock key is %q", id, dir, unlockFile)
	}
	a.reportInit(dir, id, unlockFile, recoveryOut, verifier, policy)
	return nil
}

// mayFound finds a keeper that would refuse before any key is made.
func mayFound(ctx context.Context, socket string) error {
	has, err := vault.KeeperHas(ctx, socket)
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	if has != "" {
		return fmt.Errorf("init: the keeper at %q has vault %s already; nothing was changed", socket, has)
	}
	return nil
}

// mayPromise refuses locks of mode compliance in a vault that this process makes: it belongs to this process, which can
// therefore remove all of it. A keeper finds out by itself.
func (a *app) mayPromise(p ledger.Policy) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	return level.Suffices(wantsCompliance(cfg, p), level.None, cfg.AcceptWeaker, "accept_weaker_protection: true in holdfast.yaml")
}

// mayInit finds a directory that init would refuse before any key is made.
func (a *app) mayInit(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("init: %q is not empty (it holds %q); give an empty or a new directory; nothing was changed", dir, entries[0].Name())
	}
	return nil
}

// initialPolicy is what the configuration says, which a new vault follows whole.
func initialPolicy(cfg *config.Config) ledger.Policy {
	p := vault.DefaultPolicy()
	p.Mode = ledger.Mode(cfg.Lock.Mode)
	p.DefaultSeconds = int64(cfg.Lock.For / time.Second)
	if cfg.Lock.Min > 0 {
		p.MinSeconds = int64(cfg.Lock.Min / time.Second)
	}
	if cfg.Lock.Max > 0 {
		p.MaxSeconds = int64(cfg.Lock.Max / time.Second)
	}
	p.BudgetBytes = cfg.Lock.Budget
	p.Keep = keepRules(cfg.Keep)
	p.MinSeconds = min(p.MinSeconds, p.DefaultSeconds)
	return p
}

func (a *app) newUnlockFile(id string) (string, error) {
	file, err := a.unlockFile(id)
	if err != nil {
		return "", err
	}
	if _, err := os.Lstat(file); err == nil {
		return "", fmt.Errorf("init: the unlock key %q exists; another vault may need it; name a new file with --unlock-key", file)
	}
	return file, nil
}

// writeIdentity puts a secret identity into a new file that only its owner reads, synced.
func writeIdentity(file, what, id string, i *keys.Identity) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	text := fmt.Sprintf("# holdfast %s of vault %s\n# recipient: %s\n%s\n", what, id, i.Recipient(), i.String())
	return writeSecret(file, what, []byte(text))
}

func writeSecret(file, what string, data []byte) error {
	d, err := durable.OpenDir(filepath.Dir(file))
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	err = durable.WriteNew(d, filepath.Base(file), data, 0o600)
	if errors.Is(err, fs.ErrExist) {
		err = fmt.Errorf("%q exists and is not overwritten; name another file", file)
	}
	if err = errors.Join(err, d.Close()); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// confirmRecovery shows the recovery identity once and waits for its last characters: proof that somebody has it.
func (a *app) confirmRecovery(i *keys.Identity) error {
	s := i.String()
	tail := s[len(s)-6:]
	fmt.Fprintf(a.out, "Recovery identity. Write it down or print it; it is not shown again and kept nowhere:\n\n    %s\n\n", s)
	fmt.Fprintf(a.out, "Type its last six characters to say that you have it: ")
	line, err := bufio.NewReader(a.in).ReadString('\n')
	if err != nil && line == "" {
		return errors.New("init: nobody confirmed the recovery identity; nothing was made; run init on a terminal, or with --recovery-out FILE")
	}
	if !strings.EqualFold(strings.TrimSpace(line), tail) {
		return errors.New("init: those are not its last six characters; nothing was made; try again")
	}
	return nil
}

func (a *app) reportInit(dir, id, unlockFile, recoveryOut, verifier string, p ledger.Policy) {
	fmt.Fprintf(a.out, "Vault %s made in %s\n", id, dir)
	fmt.Fprintf(a.out, "  unlock key        %s (keep a copy; when it and the recovery identity are both lost, nothing can be read)\n", unlockFile)
	if recoveryOut != "" {
		fmt.Fprintf(a.out, "  recovery identity %s (move it off this machine now)\n", recoveryOut)
	}
	fmt.Fprintf(a.out, "  locks             %s, %s unless a source says otherwise\n", p.Mode, config.FormatDuration(time.Duration(p.DefaultSeconds)*time.Second))
	fmt.Fprintf(a.out, "  ledger verifier   %s\n", verifier)
	fmt.Fprintf(a.out, "                    (save it elsewhere: it checks this vault's checkpoints)\n")
	fmt.Fprintf(a.out, "Next: holdfast source add NAME sftp://USER@HOST/PATH --vault %s\n", dir)
}

// vaultID reads the ID of the vault in dir without opening it: from vault.json or, if that is damaged, from the ledger's
// first record, which repeats it. Which of them is wrong is for check to say.
func vaultID(dir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, "vault.json"))
	if errors.Is(err, fs.ErrNotExist) {
		if _, lerr := os.Stat(filepath.Join(dir, "ledger")); lerr != nil {
			return "", fmt.Errorf("%q is not a vault (no vault.json in it); give the right directory with --vault, or make one with: holdfast init --vault DIR", dir)
		}
	} else if err != nil {
		return "", fmt.Errorf("vault: %w; run this as the vault's user, or as root", err)
	}
	var i vault.Identity
	if json.Unmarshal(b, &i) == nil && validID(i.Vault) {
		if i.Format > vault.Format {
			return "", fmt.Errorf("vault %q: format %d was written by a newer release of holdfast; this one knows up to %d: update it", dir, i.Format, vault.Format)
		}
		return i.Vault, nil
	}
	if id := ledgerID(dir); id != "" {
		return id, nil
	}
	return "", &exitError{exitDamage, fmt.Errorf("vault %q: vault.json is damaged, and so is the ledger's first record, which repeats it; take a copy of the vault before you do anything else", dir)}
}

func validID(id string) bool { return len(id) == 32 && strings.Trim(id, "0123456789abcdef") == "" }

func ledgerID(dir string) string {
	f, err := os.Open(filepath.Join(dir, "ledger", "000001.jsonl"))
	if err != nil {
		return ""
	}
	defer f.Close()
	line, _ := bufio.NewReader(io.LimitReader(f, 1<<20)).ReadBytes('\n')
	var r ledger.Record
	if json.Unmarshal(line, &r) != nil || r.Init == nil || !validID(r.Init.Vault) {
		return ""
	}
	return r.Init.Vault
}
