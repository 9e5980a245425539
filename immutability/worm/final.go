package worm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// How a file becomes final, and how it leaves. On a guarded disk (Options.Guard) nobody may have a writer left when it is
// hashed, sealed files are immutable, and the directories that hold them only grow, but for the instant in which this
// package removes something, which it does with s.write held. Without a guard names alone say what is final.

// Permissions on a guarded disk: a group may read everything but keeper/, and nobody but the owner writes. Without a guard
// nobody else even reads.
const (
	groupDir  fs.FileMode = 0o750
	groupFile fs.FileMode = 0o640
)

// guard gives the disk with its flags and leases where they are to be used, else nil.
func (o Options) guard(d durable.Disk) (durable.GuardedDisk, error) {
	if !o.Guard || o.ReadOnly {
		return nil, nil
	}
	g, ok := d.(durable.GuardedDisk)
	if !ok {
		return nil, errors.New("this disk has neither flags nor leases")
	}
	return g, nil
}

func (s *Store) dirMode() fs.FileMode {
	if s.guard != nil {
		return groupDir
	}
	return 0o700
}

// sealedMode is the mode of files that are to be final: on a guarded disk nobody can open them for writing again, their
// owner included.
func (s *Store) sealedMode() fs.FileMode {
	if s.guard != nil {
		return 0o440
	}
	return 0o600
}

// hold opens a file in order to make it final; nil without a guard.
func (s *Store) hold(name string) (durable.Held, error) {
	if s.guard == nil {
		return nil, nil
	}
	return s.guard.Hold(name)
}

// settled proves that nobody can write to a file any more, and that what was written is on the medium. The fsync comes
// behind the lease: what a writer did between his own fsync and his close would be hashed from the cache and be nowhere.
func settled(h durable.Held) error {
	if h == nil {
		return nil
	}
	if err := h.Lease(); err != nil {
		return err
	}
	return h.Sync()
}

// publish gives a settled file its name for good.
func (s *Store) publish(h durable.Held, from, to string) error {
	if h == nil {
		return durable.Publish(s.disk, from, to)
	}
	return durable.PublishHeld(s.guard, h, from, to)
}

// publishAgain publishes a file of an earlier attempt, whose writer is gone. One that has a writer all the same is
// durable.ErrWriter, and stays what it is.
func (s *Store) publishAgain(from, to string) (err error) {
	h, err := s.hold(from)
	if err != nil {
		return err
	}
	if h != nil {
		defer func() { err = errors.Join(err, h.Close()) }()
	}
	if err := settled(h); err != nil {
		return err
	}
	return s.publish(h, from, to)
}

// unpublish takes a name below packs or manifests away, durably, that no record names; an absent one is no error. s.write
// is held.
func (s *Store) unpublish(file string) error {
	_, err := s.disk.Stat(file)
	if s.guard != nil && err == nil {
		return durable.RemoveFinal(s.guard, path.Dir(file), []string{file})
	}
	if err := durable.Remove(s.disk, file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// removeFinal takes files away that the ledger says are gone. s.write is held.
func (s *Store) removeFinal(dir string, files []string) error {
	if s.guard != nil {
		return durable.RemoveFinal(s.guard, dir, files)
	}
	for _, file := range files {
		if err := s.disk.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return s.disk.SyncDir(dir)
}

// hashFinal hashes a published file that no record names, after making it final where the disk can.
func (s *Store) hashFinal(ctx context.Context, file string) (sum string, size int64, err error) {
	if s.guard == nil {
		return s.hash(ctx, file)
	}
	h, err := s.guard.Hold(file)
	if err != nil {
		return "", 0, err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	if err := settled(h); err != nil {
		return "", 0, err
	}
	flags, err := s.guard.Flags(file)
	if err == nil && flags == 0 {
		err = s.permit(file, s.sealedMode())
	}
	if err = errors.Join(err, h.SetFlags(durable.Immutable, 0), h.Sync()); err != nil {
		return "", 0, err
	}
	if sum, size, err = hashReader(ctx, h); err != nil {
		return "", 0, fmt.Errorf("read %s: %w", file, err)
	}
	if leased, err := h.Leased(); err != nil || !leased {
		return "", 0, errors.Join(fmt.Errorf("%s: %w", file, durable.ErrWriter), err)
	}
	return sum, size, nil
}

// hashReader reads to the end.
func hashReader(ctx context.Context, r io.Reader) (sum string, size int64, err error) {
	h := sha256.New()
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	size, err = io.CopyBuffer(h, contextReader{ctx, r}, *buf)
	if err != nil {
		return "", 0, err
	}
	return hex.EncodeToString(h.Sum(nil)), size, nil
}

// guardedDirs are the directories of files that never change.
var guardedDirs = []string{packsDir, manifestsDir}

// guardDirectories makes the directories grow only. A cut while something was removed leaves one without its flag.
func (s *Store) guardDirectories() error {
	if s.guard == nil {
		return nil
	}
	for _, dir := range guardedDirs {
		if err := s.guardDirectory(dir, durable.AppendOnly); err != nil {
			return err
		}
	}
	return s.permit(incomingDir, groupDir)
}

func (s *Store) guardDirectory(dir string, flag durable.Flags) error {
	have, err := s.guard.Flags(dir)
	if err != nil {
		return err
	}
	if have&flag == 0 {
		s.unguarded++
		if have == 0 {
			if err := s.permit(dir, groupDir); err != nil {
				return err
			}
		}
		if err := s.guard.SetFlags(dir, flag, 0); err != nil {
			return err
		}
	}
	// In any case: the flag that is seen may not be durable.
	return s.guard.SyncDir(dir)
}

// permit changes the permissions of a file or directory without flags where they are others.
func (s *Store) permit(name string, perm fs.FileMode) error {
	info, err := s.disk.Stat(name)
	if err != nil {
		return err
	}
	if info.Mode().Perm() == perm {
		return nil
	}
	return s.guard.Chmod(name, perm)
}

// guardRoot keeps every name in the vault's root from being taken away or replaced, and new ones from being made. It comes
// last, when all that belongs there is there.
func (s *Store) guardRoot() error {
	if s.guard == nil {
		return nil
	}
	for _, name := range []string{identityFile, keyringFile} {
		info, err := s.disk.Stat(name)
		if err == nil && info.Mode().Perm()&0o040 == 0 {
			err = s.guard.Chmod(name, groupFile)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // what is missing is told by check
			return err
		}
	}
	return s.guardDirectory(".", durable.Immutable)
}

// replaceKeyring writes the keyring's file, with the root's flag lifted for one rename. s.write is held.
func (s *Store) replaceKeyring(keyring []byte) error {
	if s.guard == nil {
		return durable.Replace(s.disk, keyringFile, keyring, 0o600)
	}
	return durable.ReplaceGuarded(s.guard, path.Join(incomingDir, keyringFile+tmpSuffix), keyringFile, keyring, groupFile)
}

// guardFiles makes every file immutable that a record names, and counts those that were not: after a copy from elsewhere
// that is all of them, otherwise none. s.write is held, or nobody else knows of s yet.
func (s *Store) guardFiles() error {
	if s.guard == nil {
		return nil
	}
	for _, dir := range guardedDirs {
		names, err := s.list(dir)
		if err != nil {
			return err
		}
		for _, base := range slices.Sorted(maps.Keys(names)) {
			file := path.Join(dir, base)
			if !s.recorded(file) {
				continue
			}
			had, err := s.guardFile(file)
			if err != nil {
				return fmt.Errorf("recovery: %w", err)
			}
			if !had {
				s.unguarded++
			}
		}
	}
	return nil
}

func (s *Store) guardFile(file string) (had bool, err error) {
	flags, err := s.guard.Flags(file)
	if err != nil || flags&durable.Immutable != 0 {
		return true, err
	}
	if flags == 0 {
		if err := s.permit(file, s.sealedMode()); err != nil {
			return false, err
		}
	}
	return false, durable.TakeOver(s.guard, file, durable.Immutable)
}

// permitIncoming lets the group read unsealed packs of before there was a guard: who salvages them is not their owner.
func (s *Store) permitIncoming() error {
	if s.guard == nil {
		return nil
	}
	entries, err := s.disk.ReadDir(incomingDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, isPack := parsePack(e.Name()); !isPack || !e.Type().IsRegular() {
			continue
		}
		if err := s.permit(path.Join(incomingDir, e.Name()), s.sealedMode()); err != nil {
			return fmt.Errorf("recovery: %w", err)
		}
	}
	return nil
}

// Unguarded gives how many files and directories lacked their flags when the store was opened, and have got them: sealed
// files, segments of the ledger, their directories, the root. A vault that had no guard before lacked none.
func (s *Store) Unguarded() int {
	if s.ledger.MovedIn() {
		return 0
	}
	return s.unguarded + s.ledger.Unguarded()
}

// flags reports what should be guarded and is not.
func (c *checker) flags() {
	if c.s.guard == nil {
		return
	}
	c.s.write.Lock() // else a directory may be without its flag for a moment
	defer c.s.write.Unlock()
	if f, err := c.s.guard.Flags("."); err != nil {
		c.add(".", "its flags cannot be read: %v", err)
	} else if f&durable.Immutable == 0 {
		c.add(".", "the vault's root is not immutable any more; the next open for writing makes it so")
	}
	for _, d := range c.s.ledger.Exposed() {
		c.add(d.Where, "%s", d.Detail)
	}
	for _, dir := range guardedDirs {
		if f, err := c.s.guard.Flags(dir); err != nil {
			c.add(dir, "its flags cannot be read: %v", err)
		} else if f&durable.AppendOnly == 0 {
			c.add(dir, "it is not append-only any more; the next open for writing makes it so")
		}
		names, err := c.s.list(dir)
		if err != nil {
			continue // told elsewhere
		}
		for _, base := range slices.Sorted(maps.Keys(names)) {
			file := path.Join(dir, base)
			c.s.mu.Lock()
			named := c.s.state.named(file)
			c.s.mu.Unlock()
			if f, err := c.s.guard.Flags(file); named && err == nil && f&durable.Immutable == 0 {
				d := Damage{What: file, Detail: "it is not immutable any more; the next open for writing makes it so"}
				d.Pack, _ = sealedPack(file)
				c.found = append(c.found, d)
			}
		}
	}
}
