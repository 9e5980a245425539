package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/vault"
	"github.com/holdfast-vault/holdfast/vault/door"
	"github.com/holdfast-vault/holdfast/vault/keys"
)

// host is a process that has a vault open: the daemon, or a command that runs by itself.
type host struct {
	a        *app
	v        *vault.Vault
	settings *settings
	pulls    pullObserver // nil when nobody counts: in a command that runs by itself
	shares   shares       // of the memory, in a daemon
}

// holder is what the process that has a vault's lock leaves in the lock file.
type holder struct {
	PID    int    `json:"pid"`
	Socket string `json:"socket,omitempty"` // of a daemon
}

// lockHolder tells who has the vault's lock, which lies in place; ok is false when nobody has, or nobody that may be known.
func lockHolder(place string) (holder, bool) {
	var h holder
	text, err := durable.LockHolder(filepath.Join(place, "lock"))
	if err != nil {
		return h, false
	}
	_ = json.Unmarshal(text, &h) // a holder that has not written yet is a holder all the same
	return h, true
}

// runVerb runs a verb where the vault is: in the daemon if one has it, here otherwise.
func (a *app) runVerb(ctx context.Context, v *verb, args []string) error {
	dir, err := a.vaultDir()
	if err != nil {
		return err
	}
	place, err := a.lockPlace(dir)
	if err != nil {
		return err
	}
	if h, held := lockHolder(place); held && h.Socket != "" {
		code, err := door.RunLocal(ctx, h.Socket, args, a.io())
		if err != nil {
			return fmt.Errorf("the daemon (process %d) at %q: %w", h.PID, h.Socket, err)
		}
		if code != exitDone {
			return &exitError{code: code}
		}
		return nil
	}
	a.keyless = v.keyless
	h, err := a.open(ctx, dir, v.access)
	damaged := err
	if err != nil && v.lookAnyway && !errors.Is(err, durable.ErrLocked) && !errors.Is(err, keys.ErrWrongIdentity) {
		h, err = a.open(ctx, dir, readAccess)
	}
	if err != nil {
		return err
	}
	code := v.command(h)(ctx, &view{v: h.v}, args, a.io())
	switch {
	case damaged == nil:
	case errors.Is(damaged, vault.ErrNotItsDaemon):
		fmt.Fprintf(a.err, "holdfast: note: the vault was looked at as it can be read: %v\n", damaged)
	case errors.Is(damaged, vault.ErrKeeperGone), errors.Is(damaged, vault.ErrAway):
		report(a.err, fmt.Errorf("the vault can only be read: %w", damaged))
		code = worse(code, exitFailed)
	default:
		report(a.err, fmt.Errorf("the vault can only be read: %w", damaged))
		code = exitDamage
	}
	if err := h.v.Close(); err != nil {
		return errors.Join(fmt.Errorf("closing the vault: %w", err), &exitError{code: worse(code, exitFailed)})
	}
	if code != exitDone {
		return &exitError{code: code}
	}
	return nil
}

func (a *app) io() door.IO { return door.IO{In: a.in, Out: a.out, Err: a.err} }

// open opens the vault in this process.
func (a *app) open(ctx context.Context, dir string, need access) (*host, error) {
	cfg, err := a.config()
	if err != nil {
		return nil, err
	}
	set, err := newSettings(cfg)
	if err != nil {
		return nil, err
	}
	id, err := vaultID(dir)
	if err != nil {
		return nil, err
	}
	ids, err := a.identities(id)
	if err != nil && !a.keyless {
		return nil, err
	}
	socket, work, err := a.keeper(dir)
	if err != nil {
		return nil, err
	}
	at, err := a.places()
	if err != nil {
		return nil, err
	}
	v, err := vault.Open(ctx, dir, vault.Options{
		Places: at, Keeper: socket, Work: work, Identities: ids, ReadOnly: need == readAccess, IndexDir: a.indexFlag, Memory: a.memory(cfg), Clock: a.clock,
		Logf: func(format string, args ...any) { fmt.Fprintf(a.err, "holdfast: "+format+"\n", args...) },
	})
	if err != nil {
		place, _ := a.lockPlace(dir) // it was there a moment ago
		return nil, explainOpen(dir, place, err)
	}
	if err := trustWitnesses(v, cfg); err != nil {
		return nil, errors.Join(err, v.Close())
	}
	a.tuneMemory(cfg, v.IndexBytes())
	if need == writeAccess {
		if err := setHolder(v, holder{PID: os.Getpid()}); err != nil {
			return nil, errors.Join(err, v.Close())
		}
	}
	return &host{a: a, v: v, settings: set}, nil
}

func setHolder(v *vault.Vault, h holder) error {
	b, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return v.SetLockHolder(b)
}

func explainOpen(dir, place string, err error) error {
	switch {
	case errors.Is(err, vault.ErrKept):
		return err
	case errors.Is(err, durable.ErrLocked):
		who := "another process"
		if h, ok := lockHolder(place); ok && h.PID > 0 {
			who = fmt.Sprintf("process %d", h.PID)
		}
		return &exitError{exitFailed, fmt.Errorf("vault %q: %w", dir, &busyError{who, err})}
	case errors.Is(err, keys.ErrWrongIdentity):
		return fmt.Errorf("%w; name its file with --unlock-key FILE or %s", err, config.EnvUnlockKey)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w; run this as the vault's user, or as root", err)
	}
	return err
}

// busyError says who is in the way; the lock's own error stays in the chain.
type busyError struct {
	who string
	err error
}

func (e *busyError) Error() string {
	return e.who + " is writing to it; wait until it has ended; one process writes to a vault at a time"
}

func (e *busyError) Unwrap() error { return e.err }
