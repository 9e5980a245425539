package worm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
)

// recover finishes what an interrupted process left. Each step may be cut and is done again by the
// next Open.
func (s *Store) recover() error {
	s.write.Lock()
	defer s.write.Unlock()
	for _, dir := range []string{packsDir, manifestsDir, incomingDir} {
		if err := durable.MkdirAll(s.disk, dir, s.dirMode()); err != nil {
			return err
		}
		// What a killed process left in the cache is durable from here on, or an error.
		if err := s.disk.SyncDir(dir); err != nil {
			return err
		}
	}
	if err := s.guardDirectories(); err != nil {
		return err
	}
	s.sweepTemporary()
	// Before anything of it is published: what is immutable keeps the permissions that it has.
	if err := s.permitIncoming(); err != nil {
		return err
	}
	s.sweep()
	if err := s.record(packsDir); err != nil {
		return err
	}
	if err := s.record(manifestsDir); err != nil {
		return err
	}
	if err := s.clearIncoming(); err != nil {
		return err
	}
	// Last, because a file that is immutable cannot lose its old name any more.
	if err := s.guardFiles(); err != nil {
		return err
	}
	_ = s.noteClock(false) // tried again with the next change
	if err := s.restoreKeyring(); err != nil {
		return err
	}
	return s.guardRoot()
}

// sweepTemporary removes what durable's verbs left when they were cut. Failing is harmless.
func (s *Store) sweepTemporary() {
	for _, name := range []string{identityFile, keyringFile, signerFile, clockFile, placesFile} {
		_ = s.disk.Remove(name + tmpSuffix)
	}
	for _, dir := range []string{ledgerDir, incomingDir} {
		names, _ := s.list(dir)
		for base := range names {
			if strings.HasSuffix(base, tmpSuffix) {
				_ = s.disk.Remove(path.Join(dir, base))
			}
		}
	}
}

// record looks for files that are published and that no record names, and records them.
func (s *Store) record(dir string) error {
	names, err := s.list(dir)
	if err != nil {
		return err
	}
	for _, base := range slices.Sorted(maps.Keys(names)) {
		file := path.Join(dir, base)
		if s.state.named(file) || s.state.removed[file] != 0 {
			continue
		}
		if n, ok := sealedPack(file); ok && s.near(n) {
			err = s.recordFile(file, incomingPack(n), "")
		} else if id, ok := sealedManifest(file); ok {
			err = s.recordFile(file, incomingManifest(id), id)
		}
		if err != nil {
			return fmt.Errorf("recovery: %w", err)
		}
	}
	return nil
}

// recordFile writes the seal record of a published file. Its content was synced before it got this
// name. If its old name is still there the publication was not finished, and the new name may not be
// durable, whatever syncing the directory says now: so it is published again.
func (s *Store) recordFile(file, incoming, want string) error {
	if info, err := s.disk.Stat(incoming); err == nil && info.Size() > 0 { // an empty one only keeps a number
		if err := s.unpublish(file); err != nil {
			return err
		}
		// Power fails here: a leftover with all its content, or a manifest that was never committed.
		if err := s.publishAgain(incoming, file); err != nil {
			if _, serr := s.disk.Stat(file); errors.Is(err, durable.ErrWriter) && errors.Is(serr, fs.ErrNotExist) {
				return nil // whoever still writes to it writes to a leftover
			}
			return err
		}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_ = s.disk.Forget(file) // hash what is on the medium, where the system can be moved to it
	sum, size, err := s.hashFinal(context.Background(), file)
	if errors.Is(err, durable.ErrWriter) {
		return err // who can write to it can change it under its record
	}
	if err != nil {
		// Nothing that was acknowledged relies on it, so it keeps nobody out of the vault: the next Open tries again.
		s.found = append(s.found, Damage{What: file, Detail: fmt.Sprintf("no record names it, and it cannot be read to be recorded: %v; take it away if that stays so", err)})
		return nil
	}
	if want != "" && sum != want {
		return nil // not what its name says: check reports it, nothing is built on it
	}
	seal := ledger.Seal{File: file, SHA256: sum, Bytes: size, Recovered: true}
	if _, err := s.append(ledger.Record{Kind: ledger.KindSeal, Seal: &seal}); err != nil {
		s.pending = append(s.pending, seal) // a full disk keeps nobody from reading what is there
	}
	return nil
}

// clearIncoming removes what is of no use to anybody: packs that are sealed under their other name,
// manifests, which their sessions make again, and empty files whose numbers are spent without them.
func (s *Store) clearIncoming() error {
	names, err := s.list(incomingDir)
	if err != nil {
		return err
	}
	for base := range names {
		n, isPack := parsePack(base)
		_, isManifest := parseManifest(base)
		spent := isPack && names[base] == 0 && n <= s.state.maxPack
		if isManifest || spent || isPack && (s.state.packs[n] != nil || s.isPending(packFile(n))) {
			if err := s.disk.Remove(path.Join(incomingDir, base)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("recovery: %w", err)
			}
		}
	}
	return s.disk.SyncDir(incomingDir)
}

func (s *Store) isPending(file string) bool {
	return slices.ContainsFunc(s.pending, func(p ledger.Seal) bool { return p.File == file })
}

// restoreKeyring brings the keyring's file up to date when it holds an earlier keyring. Any other
// content is damage, which check reports and which is not overwritten silently.
func (s *Store) restoreKeyring() error {
	b, err := durable.ReadFile(s.disk, keyringFile, keyringMax)
	if err != nil || !s.state.older[string(b)] {
		return nil
	}
	if err := s.replaceKeyring(s.state.keyring); err != nil && !durable.IsNoSpace(err) {
		return fmt.Errorf("recovery: keyring: %w", err)
	}
	return nil
}
