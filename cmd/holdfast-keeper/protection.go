package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// The levels of docs/KEEPER.md that the keeper itself can tell apart.
const (
	ownership = "ownership"
	immutable = "immutable flag"
)

// protection finds out which level holds, and refuses a weaker one that nobody has accepted.
func (k *house) protection() (level string, err error) {
	weak := k.tryFlags()
	switch {
	case weak == nil:
		return immutable, nil
	case !errors.Is(weak, errors.ErrUnsupported) && !errors.Is(weak, fs.ErrPermission):
		return "", fmt.Errorf("trying flags: %w", weak)
	case errors.Is(weak, fs.ErrPermission) && inUserNamespace():
		weak = fmt.Errorf("%w: it runs in a user namespace, where no capability counts for flags (PrivateUsers= must not be set)", weak)
	case !k.me.mayFlag():
		weak = fmt.Errorf("%w: it lacks CAP_LINUX_IMMUTABLE", weak)
	}
	if !k.o.acceptWeaker {
		return "", fmt.Errorf("sealed files cannot be made immutable here, so that the level is %s: %w; put that right, or start it with --accept-weaker-protection", ownership, weak)
	}
	k.log.Warn("sealed files cannot be made immutable; what protects them is that they belong to the keeper's user", "level", ownership, "why", weak.Error())
	return ownership, nil
}

// tryFile is what flags and leases are tried on, in the directory that nobody else enters.
const tryFile = keeperDir + "/flags.tmp"

// tryFlags sets a flag, takes a lease, and takes both away again. A cut leaves the file, which the next start takes up.
func (k *house) tryFlags() (err error) {
	f, err := k.disk.Create(tryFile, 0o600)
	if errors.Is(err, fs.ErrExist) {
		if err := k.disk.SetFlags(tryFile, 0, durable.Immutable|durable.AppendOnly); err != nil {
			return err
		}
	} else if err != nil {
		return err
	} else if err := f.Close(); err != nil {
		return err
	}
	defer func() {
		if rerr := k.disk.Remove(tryFile); rerr != nil && err == nil {
			err = rerr
		}
	}()
	h, err := k.disk.Hold(tryFile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	if err := h.Lease(); err != nil {
		return err
	}
	if err := h.SetFlags(durable.Immutable, 0); err != nil {
		return err
	}
	if f, werr := k.disk.Append(tryFile); werr == nil {
		err = errors.Join(fmt.Errorf("an immutable file could be opened for writing: %w", errors.ErrUnsupported), f.Close())
	}
	return errors.Join(err, h.SetFlags(0, durable.Immutable))
}
