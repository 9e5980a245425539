package move

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

const (
	// smallMax bounds files that are read whole, segments of the ledger among them.
	smallMax = 64 << 20
	// reserveFile keeps room in the old place for its mark, which a disk that is full when the move ends would not have.
	reserveFile = "incoming/moved.room" + tmpSuffix
	reserved    = 8 << 10
	// slack is what a new file system is asked for beyond the bytes of the files, in a thousand, and each file besides.
	slackShare = 20
	slackFile  = 8 << 10
	slackLeast = 16 << 20
)

// lift takes the flags off the directories of the new place that an interrupted run gave them: under its mark it is nobody's.
func (m *mover) lift() error {
	if m.guard == nil {
		return nil
	}
	for _, dir := range []string{".", packsDir, manifestsDir, ledgerDir} {
		if err := m.unflag(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (m *mover) unflag(name string) error {
	if m.guard == nil {
		return nil
	}
	return m.guard.SetFlags(name, 0, durable.Immutable|durable.AppendOnly)
}

// discard takes away what an interrupted run left and is not wanted. Without a sync: what comes back is looked at again.
func (m *mover) discard(name string) error {
	info, err := m.o.New.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && info.Mode().IsRegular() {
		err = m.unflag(name)
	}
	if err == nil {
		err = m.o.New.Remove(name)
	}
	return err
}

// reserve makes sure that the mark which ends the move has room in the old place, before hours are spent on copying.
func (m *mover) reserve() error {
	err := durable.Replace(m.o.Old, reserveFile, make([]byte, reserved), ownFile)
	if durable.IsNoSpace(err) {
		return fmt.Errorf("the old place has no room for the %d KiB that a move needs there: %w; what a daemon keeps beside it can go (the index is a cache), or holdfast prune", reserved>>10, err)
	}
	if err != nil {
		return fmt.Errorf("the old place: %w", err)
	}
	return nil
}

func (m *mover) unreserve() error {
	if err := m.o.Old.Remove(reserveFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// directories makes those of a vault.
func (m *mover) directories() error {
	dir, _, _ := m.modes()
	for _, d := range []struct {
		name string
		perm fs.FileMode
	}{{packsDir, dir}, {manifestsDir, dir}, {incomingDir, dir}, {ledgerDir, dir}, {notesDir, dir}, {keeperDir, ownDir}} {
		if err := durable.MkdirAll(m.o.New, d.name, d.perm); err != nil {
			return err
		}
		if m.guard != nil {
			if err := m.guard.Chmod(d.name, d.perm); err != nil {
				return err
			}
		}
	}
	return nil
}

// clear takes away what an earlier run left and what is not to be there: files that have left the vault since, and temporary
// ones.
func (m *mover) clear() error {
	wanted := map[string]bool{}
	for _, it := range m.list.items {
		wanted[it.name] = !it.stays
	}
	for _, name := range m.list.segments {
		wanted[name] = true
	}
	for _, dir := range []string{packsDir, manifestsDir, ledgerDir, incomingDir, notesDir} {
		names, err := sizes(m.o.New, dir)
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			if wanted[name] {
				continue
			}
			if err := m.discard(name); err != nil {
				return err
			}
		}
		if err := m.o.New.SyncDir(dir); err != nil {
			return err
		}
	}
	return m.discard(placesFile)
}

// roomy is a disk that knows how much room it has.
type roomy interface{ Free() (int64, error) }

// room refuses a new place that is too small, before anything is copied.
func (m *mover) room(context.Context) error {
	var need, have int64
	for _, it := range m.list.items {
		if it.stays {
			continue
		}
		m.total += it.has
		info, err := m.o.New.Stat(it.name)
		if err == nil && info.Size() == it.has {
			have += it.has
			continue
		}
		need += it.has + slackFile
	}
	for _, name := range m.list.segments {
		if info, err := m.o.Old.Stat(name); err == nil {
			need += info.Size()
		}
	}
	r, ok := m.o.New.(roomy)
	if !ok {
		return nil
	}
	free, err := r.Free()
	if err != nil {
		return fmt.Errorf("the new place: %w", err)
	}
	if need += need/1000*slackShare + slackLeast; free < need {
		return fmt.Errorf("the new place: %w: %d bytes are free in %q, and %d are needed (%d are there already); nothing was copied", durable.ErrFull, free, m.o.NewPath, need, have)
	}
	return nil
}

// copyRest takes along what is small and may be replaced as long as the new place bears its mark: the ledger, its notes, keys
// and, last of all, the clock: running time goes on from what was credited when the old place was closed.
func (m *mover) copyRest(ctx context.Context) error {
	_, file, _ := m.modes()
	if err := m.cache(ctx, "sessions", 0); err != nil {
		return err
	}
	if err := m.cache(ctx, "usage", 0); err != nil {
		return err
	}
	for _, name := range m.list.segments {
		if err := m.small(name, name, file); err != nil {
			return err
		}
	}
	if err := m.notes(file); err != nil {
		return err
	}
	for _, f := range []struct {
		name     string
		perm     fs.FileMode
		optional bool
	}{{placesFile, file, true}, {identityFile, 0o644, true}, {keyringFile, file, true}, {signerFile, ownFile, false}, {clockFile, ownFile, true}} {
		if f.name == placesFile && len(m.o.NewFurther) == 0 {
			continue // what lies in them comes along, or there are none
		}
		err := m.small(f.name, f.name, f.perm)
		if f.optional && errors.Is(err, fs.ErrNotExist) {
			m.r.Left = append(m.r.Left, f.name+": it is not there")
			continue
		}
		if err != nil {
			return err
		}
	}
	m.leftBehind()
	return nil
}

// notes takes checkpoints and cosignatures along. In the new place they lie in log/, where they are asked for first; in the
// old one perhaps in ledger/.
func (m *mover) notes(file fs.FileMode) error {
	for _, dir := range []string{ledgerDir, notesDir} { // what lies in log/ counts
		names, err := sizes(m.o.Old, dir)
		if err != nil {
			return fmt.Errorf("the old place: %w", err)
		}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			base := path.Base(name)
			switch {
			case dir == ledgerDir && strings.HasSuffix(base, ".jsonl"), strings.HasSuffix(base, tmpSuffix):
				continue
			case names[name] < 0 || names[name] > smallMax:
				m.r.Left = append(m.r.Left, name+": it can be made again (holdfast ledger tiles)")
				continue
			}
			if err := m.small(name, path.Join(notesDir, base), file); err != nil {
				return err
			}
		}
	}
	return nil
}

// small takes a small file along, and reads it again.
func (m *mover) small(name, to string, perm fs.FileMode) error {
	b, err := durable.ReadFile(m.o.Old, name, smallMax)
	if err != nil {
		return fmt.Errorf("the old place: %w", err)
	}
	if info, err := m.o.New.Stat(to); err == nil && info.Mode().IsRegular() {
		if err := m.unflag(to); err != nil {
			return fmt.Errorf("the new place: %w", err)
		}
	}
	if err := durable.Replace(m.o.New, to, b, perm); err != nil {
		return fmt.Errorf("the new place: %w", err)
	}
	_ = m.o.New.Forget(to)
	got, err := durable.ReadFile(m.o.New, to, smallMax)
	if err != nil {
		return fmt.Errorf("the new place: %w", err)
	}
	if !bytes.Equal(b, got) {
		return fmt.Errorf("the new place: %s: other bytes are read than were written: this disk does not keep what it is given, use another", to)
	}
	return nil
}

// cacheDepth bounds how deep directories of caches are followed.
const cacheDepth = 4

// cache takes along what a daemon without a keeper keeps in the vault's directory and could do without: where pulls go on
// that were interrupted. What cannot be read stays behind.
func (m *mover) cache(ctx context.Context, dir string, depth int) error {
	if m.guard != nil || depth == cacheDepth {
		return nil // a keeper's vault has none, and its root takes no further name
	}
	names, err := sizes(m.o.Old, dir)
	if err != nil || names == nil {
		return nil // it is a cache
	}
	if err := durable.MkdirAll(m.o.New, dir, ownDir); err != nil {
		return fmt.Errorf("the new place: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		info, err := m.o.Old.Stat(name)
		switch {
		case err != nil:
			continue
		case info.IsDir():
			if err := m.cache(ctx, name, depth+1); err != nil {
				return err
			}
			continue
		case names[name] < 0 || names[name] > smallMax:
			m.r.Left = append(m.r.Left, name+": a cache")
			continue
		}
		if err := m.small(name, name, ownFile); err != nil {
			return err
		}
	}
	return nil
}

// known are the names in a vault's root that are taken along, and those that belong to a process.
var known = []string{packsDir, manifestsDir, ledgerDir, notesDir, keeperDir, incomingDir, identityFile, keyringFile, placesFile, lockName, movingName, movedName}

// leftBehind names what else lies in the old root.
func (m *mover) leftBehind() {
	m.r.Left = append(m.r.Left, m.list.left...)
	entries, err := m.o.Old.ReadDir(".")
	if err != nil {
		return // the old place is looked at again when it is retired
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case slices.Contains(known, name), m.guard == nil && (name == "sessions" || name == "usage"):
		case name == "index":
			m.r.Left = append(m.r.Left, name+": a cache, which the next start makes again from the packs")
		default:
			m.r.Left = append(m.r.Left, name+": no part of a vault's files")
		}
	}
}
