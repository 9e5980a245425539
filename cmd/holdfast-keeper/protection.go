package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/keeper"
	"github.com/holdfast-vault/holdfast/immutability/level"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// protection is what the keeper knows of how well sealed files are protected. It is safe for concurrent use.
type protection struct {
	mu       sync.Mutex
	holds    level.Level
	findings []string
}

func (p *protection) set(l level.Level, findings []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holds, p.findings = l, findings
}

func (p *protection) level() level.Level {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.holds
}

func (p *protection) found() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.findings)
}

// level is the protection that holds now, with what witnesses know on top of what was tried.
func (k *house) level(store *worm.Store) level.Level {
	tried := k.holds.level()
	if store == nil {
		return tried
	}
	standing, err := store.Witnessed()
	return level.Covered(tried, err == nil && standing.Holds)
}

// weak says that less protects the vault than a keeper is there for, and goes on only if that was accepted in writing.
func (k *house) weak(why error) error {
	if !k.o.acceptWeaker {
		return fmt.Errorf("the protection that holds here is %q: %w; put that right, or start it with --accept-weaker-protection", level.Ownership, why)
	}
	k.log.Warn("the protection that holds here is weak, and was accepted", "level", level.Ownership, "why", why.Error())
	return nil
}

// mayGuard says whether sealed files can be made immutable. Where they cannot, what protects them is that they belong to
// the keeper's user.
func (k *house) mayGuard() (bool, error) {
	weak := k.tryFlags()
	switch {
	case weak == nil:
		k.holds.set(level.Flag, nil)
		return true, nil
	case durable.IsNoSpace(weak):
		return k.guardsAlready(weak)
	case !errors.Is(weak, errors.ErrUnsupported) && !errors.Is(weak, fs.ErrPermission):
		return false, fmt.Errorf("trying flags: %w", weak)
	case errors.Is(weak, fs.ErrPermission) && inUserNamespace():
		weak = fmt.Errorf("%w: it runs in a user namespace, where no capability counts for flags (PrivateUsers= must not be set)", weak)
	case !k.me.mayFlag():
		weak = fmt.Errorf("%w: it lacks CAP_LINUX_IMMUTABLE", weak)
	}
	k.holds.set(level.Ownership, nil)
	return false, k.weak(fmt.Errorf("sealed files cannot be made immutable: %w", weak))
}

// guardsAlready says what is known of flags where a full disk has no room for a file to try them on. Whoever does not start
// then keeps everybody from making room: the keeper alone removes.
func (k *house) guardsAlready(full error) (bool, error) {
	flags, err := k.disk.Flags(".")
	if err != nil || flags&durable.Immutable == 0 || !k.me.mayFlag() {
		return false, errors.Join(fmt.Errorf("trying flags: %w; make room on the vault's disk", full), err)
	}
	k.log.Warn("the disk is full: whether files can be made immutable was not tried; the vault's root is immutable, so they could be before", "why", full.Error())
	k.holds.set(level.Flag, nil)
	return true, nil
}

// tryFile is what flags and leases are tried on, in the directory that nobody else enters.
const tryFile = keeperDir + "/flags.tmp"

// tryFlags sets a flag, takes a lease, and takes both away again. A cut leaves the file, which the next start takes up.
func (k *house) tryFlags() (err error) {
	f, err := k.disk.Create(tryFile, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		err = k.disk.SetFlags(tryFile, 0, durable.Immutable|durable.AppendOnly)
	case err == nil:
		err = f.Close()
	}
	if err != nil {
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
	if err := errors.Join(h.Lease(), h.SetFlags(durable.Immutable, 0)); err != nil {
		return err
	}
	return h.SetFlags(0, durable.Immutable)
}

// tryAll is attack for a keeper that starts. A full disk has no room for the attempt, and is no reason to keep everybody from
// making room: then what flags and leases are known to do counts, and it is tried again every minute.
func (k *house) tryAll(ctx context.Context, store *worm.Store) error {
	err := k.attack(ctx, store)
	if k.untried = durable.IsNoSpace(err); !k.untried {
		return err
	}
	holds := k.holds.level()
	findings := []string{keeper.WeakPrefix + "the disk is full, so it was not tried since the start what gets through"}
	if k.exposed != nil {
		holds = min(holds, level.Ownership)
		findings = append(findings, keeper.WeakPrefix+k.exposed.Error())
	}
	k.holds.set(holds, findings)
	k.log.Warn("the disk is full: the protection was not tried; make room (holdfast prune)", "level", holds, "why", err.Error())
	return nil
}

// attack has a file made and sealed as every pack is, and tries to break it with all the keeper's rights but that of lifting
// flags. What gets through is what holds.
func (k *house) attack(ctx context.Context, store *worm.Store) error {
	var report level.Report
	for _, in := range k.home.Places() { // the weakest counts
		r, err := k.attackPlace(ctx, store, in)
		if err != nil {
			return err
		}
		report = report.And(r, in.Number, in.Path)
	}
	var findings []string
	if k.guarded {
		for _, a := range report.Through() {
			findings = append(findings, fmt.Sprintf("%s%s (tried by %s)", keeper.WeakPrefix, a.What, a.By))
		}
	}
	if k.exposed != nil {
		report.Level = min(report.Level, level.Ownership)
		findings = append(findings, keeper.WeakPrefix+k.exposed.Error())
	}
	k.holds.set(report.Level, findings)
	for _, f := range findings {
		k.log.Warn("protection", "level", report.Level, "what", f)
	}
	return nil
}

// attackPlace is attack in one of the vault's places.
func (k *house) attackPlace(ctx context.Context, store *worm.Store, in durable.Place) (level.Report, error) {
	p, err := store.CreateProbeIn(in.Number)
	if err != nil {
		return level.Report{}, err
	}
	w, err := p.Writer()
	if err != nil {
		return level.Report{}, errors.Join(err, p.Remove(ctx))
	}
	return level.Try(ctx, level.Subject{Root: in.Path, File: p.File, Writer: w, Seal: p.Seal, Remove: p.Remove}, level.Owner)
}
