package main

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/vault"
	"github.com/holdfast-vault/holdfast/vault/door"
	"github.com/holdfast-vault/holdfast/vault/restore"
)

// view is what somebody may see of a vault: the snapshots of some sources, or of all.
type view struct {
	v    *vault.Vault
	sees func(source string) bool // nil: everything
	user string                   // of the door, whose key told who it is; "" on this machine

	mu      sync.Mutex
	claimed map[string]bool // snapshots whose packs are claimed until whoever has this view is gone
}

// claim keeps a snapshot's packs from being pruned until ctx is done, which is that of a command or of a session at the door.
func (w *view) claim(ctx context.Context, s *vault.Snapshot) {
	w.mu.Lock()
	had := w.claimed[s.Info().ID]
	if w.claimed == nil {
		w.claimed = map[string]bool{}
	}
	w.claimed[s.Info().ID] = true
	w.mu.Unlock()
	if !had {
		s.ClaimUntil(ctx)
	}
}

// whole says whether nothing is hidden from this view.
func (w *view) whole() bool { return w.sees == nil || w.sees(config.AllSources) }

// list is the snapshots in view, oldest first.
func (w *view) list(ctx context.Context) ([]worm.Snapshot, error) {
	all, err := w.v.Snapshots(ctx)
	if err != nil || w.sees == nil {
		return all, err
	}
	return slices.DeleteFunc(all, func(s worm.Snapshot) bool { return !w.sees(s.Source) }), nil
}

// resolve opens the snapshot that an address names among those in view; to somebody who may not see a source, it does
// not exist.
func (w *view) resolve(ctx context.Context, address string) (*vault.Snapshot, string, error) {
	a, err := vault.ParseAddress(address)
	if err != nil {
		return nil, "", &exitError{exitUsage, err}
	}
	all, err := w.list(ctx)
	if err != nil {
		return nil, "", err
	}
	info, err := vault.Choose(a, all)
	if err != nil {
		return nil, "", err
	}
	s, err := w.v.OpenSnapshot(ctx, info.ID)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", address, err)
	}
	w.claim(ctx, s)
	return s, a.Path, nil
}

// find is the snapshot that an address names among those in view, whether its manifest can be read or not.
func (w *view) find(ctx context.Context, address string) (worm.Snapshot, error) {
	a, err := vault.ParseAddress(address)
	if err == nil && a.Path != "" {
		err = fmt.Errorf("%q names a part of a snapshot; leave the path out: a snapshot is locked or held whole", address)
	}
	if err != nil {
		return worm.Snapshot{}, &exitError{exitUsage, err}
	}
	all, err := w.list(ctx)
	if err != nil {
		return worm.Snapshot{}, err
	}
	return vault.Choose(a, all)
}

// Snapshots implements door.View.
func (w *view) Snapshots(ctx context.Context) ([]door.Info, error) {
	all, err := w.list(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]door.Info, 0, len(all))
	for _, s := range all {
		if s.Err != nil {
			continue
		}
		out = append(out, door.Info{
			ID: s.ID, Source: s.Source, Label: s.Label, Committed: s.Committed.Wall,
			Complete: s.State == "complete", Clean: s.Head.Clean,
		})
	}
	return out, nil
}

// Open implements door.View.
func (w *view) Open(ctx context.Context, id string) (restore.Source, error) {
	s, err := w.v.OpenSnapshot(ctx, id)
	if err != nil {
		return nil, err
	}
	if w.sees != nil && !w.sees(s.Info().Source) {
		return nil, fmt.Errorf("snapshot %s: the ledger names no such snapshot", id)
	}
	w.claim(ctx, s)
	return s, nil
}
