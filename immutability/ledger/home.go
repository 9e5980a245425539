package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// Where the parts of a ledger lie. Segments are in its directory. The notes (checkpoint, cosigned) are replaced again and
// again, which a directory that only grows does not allow: on a guarded disk they lie in notesDir beside it, and files on
// their way in temporaryDir. Who reads looks for notes there first, then among the segments, where a vault without a guard
// has them. A ledger that was guarded once keeps to this, with or without its guard.
const (
	notesDir     = "log"
	temporaryDir = "incoming"
)

func beside(dir, other string) string { return path.Join(path.Dir(dir), other) }

// noteDirs are the directories that may have the notes of a ledger, in the order in which they are asked.
func noteDirs(dir string) []string { return []string{beside(dir, notesDir), dir} }

// readNote reads a note where it lies. An absent one is fs.ErrNotExist. older is the same note in a place that is asked
// later, nil if it is not there too.
func readNote(d durable.Disk, dir, name string) (note []byte, where string, older []byte, err error) {
	for _, in := range noteDirs(dir) {
		b, rerr := durable.ReadFile(d, path.Join(in, name), checkpointMax)
		if errors.Is(rerr, fs.ErrNotExist) {
			continue
		}
		if where != "" {
			return note, where, b, err
		}
		note, where, err = b, path.Join(in, name), rerr
	}
	if where == "" {
		return nil, path.Join(dir, name), nil, &fs.PathError{Op: "read", Path: path.Join(dir, name), Err: fs.ErrNotExist}
	}
	return note, where, nil, err
}

// settledHome says where a ledger that is to be written keeps its notes.
func settledHome(d durable.Disk, dir string, guard durable.GuardedDisk) (notes string, err error) {
	apart := beside(dir, notesDir)
	if guard == nil {
		if _, err := d.Stat(path.Join(apart, checkpointName)); err == nil {
			return apart, nil
		}
		return dir, nil
	}
	temporary := beside(dir, temporaryDir)
	for _, made := range []string{apart, temporary} {
		if err := durable.MkdirAll(d, made, 0o750); err != nil {
			return "", fmt.Errorf("ledger: %w", err)
		}
	}
	if err := legible(guard, apart); err != nil {
		return "", fmt.Errorf("ledger: %w", err)
	}
	// A segment that was being made may still have its temporary name. It must be gone, durably, before the segment gets its
	// flag: an append-only file loses no name.
	entries, err := d.ReadDir(temporary)
	if err != nil {
		return "", fmt.Errorf("ledger: %w", err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), segmentSuffix+tmpSuffix) {
			if err := d.Remove(path.Join(temporary, e.Name())); err != nil {
				return "", fmt.Errorf("ledger: %w", err)
			}
		}
	}
	// In any case: a name that is gone already may not be gone durably.
	if err := d.SyncDir(temporary); err != nil {
		return "", fmt.Errorf("ledger: %w", err)
	}
	return apart, nil
}

// legible lets the group read the notes. Without a guard they were their owner's alone.
func legible(d durable.GuardedDisk, notes string) error {
	info, err := d.Stat(notes)
	if err == nil && info.Mode().Perm()&0o050 != 0o050 {
		err = d.Chmod(notes, 0o750)
	}
	if err != nil {
		return err
	}
	entries, err := d.ReadDir(notes)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm()&0o040 == 0 {
			err = d.Chmod(path.Join(notes, e.Name()), 0o640)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writeSegment makes a segment's file of its first line.
func writeSegment(d durable.Disk, dir, notes string, guard durable.GuardedDisk, number int, data []byte) error {
	name := segmentName(dir, number)
	temporary := path.Join(beside(dir, temporaryDir), path.Base(name)+tmpSuffix)
	switch {
	case guard != nil:
		return durable.WriteGrowing(guard, temporary, name, data, 0o640)
	case notes != dir:
		return durable.WriteNewAt(d, temporary, name, data, 0o640)
	}
	return durable.WriteNew(d, name, data, 0o600)
}

// moveIn makes a ledger that may come from elsewhere one that is guarded: its notes lie apart, segments that are full or
// closed are immutable, the last one and the directory only grow. Each step may be cut, and is done again by the next Open.
func (l *Ledger) moveIn(s *scan) error {
	l.movedIn = path.Dir(s.checkpointAt) != l.notes
	if s.cosigned != nil && path.Dir(s.cosignedAt) != l.notes {
		if err := durable.Replace(l.disk, l.cosignedPath(), s.cosigned, 0o640); err != nil {
			return fmt.Errorf("ledger: %w", err)
		}
	}
	flags, err := l.guard.Flags(l.dir)
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	if flags&durable.AppendOnly == 0 {
		// Power fails here or later: the notes lie in both places; those that are apart count.
		if err := l.moveOut(); err != nil {
			return fmt.Errorf("ledger: %w", err)
		}
	}
	if err := l.protectSegments(); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	if flags&durable.AppendOnly == 0 {
		l.unguarded++
		if err := errors.Join(l.guard.Chmod(l.dir, 0o750), l.guard.SetFlags(l.dir, durable.AppendOnly, 0)); err != nil {
			return fmt.Errorf("ledger: %w", err)
		}
	}
	// In any case: the flag that is seen may not be durable.
	return l.guard.SyncDir(l.dir)
}

// moveOut takes everything but segments out of the segments' directory, as long as that can be done.
func (l *Ledger) moveOut() error {
	entries, err := l.disk.ReadDir(l.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == checkpointName || e.Name() == cosignedName || strings.HasSuffix(e.Name(), tmpSuffix) {
			if err := l.disk.Remove(path.Join(l.dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	// What is taken away must not come back under a flag that keeps it for ever.
	return l.disk.SyncDir(l.dir)
}

func (l *Ledger) protectSegments() error {
	for i, seg := range l.segments {
		name := segmentName(l.dir, seg.number)
		have, err := l.guard.Flags(name)
		if err != nil {
			return err
		}
		if have == 0 {
			l.unguarded++
			if err := l.guard.Chmod(name, 0o640); err != nil {
				return err
			}
		}
		switch {
		case have&durable.Immutable != 0:
		case have == 0 && i < len(l.segments)-1:
			err = durable.TakeOver(l.guard, name, durable.Immutable)
		case have == 0:
			err = durable.TakeOver(l.guard, name, durable.AppendOnly)
		case i < len(l.segments)-1:
			err = durable.CloseGrowing(l.guard, name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Unguarded gives how many segments, the directory counted too, had no flag when the ledger was opened with a guard, and
// have got it.
func (l *Ledger) Unguarded() int { return l.unguarded }

// MovedIn says whether the ledger was opened with a guard for the first time, so that nothing could have a flag.
func (l *Ledger) MovedIn() bool { return l.movedIn }

// Exposed names the segments that have no flag now although the ledger was opened with a guard, and the directory if that
// has none.
func (l *Ledger) Exposed() []Damage {
	if l.guard == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []Damage
	add := func(name, detail string) { out = append(out, Damage{Where: name, Detail: detail}) }
	if f, err := l.guard.Flags(l.dir); err != nil {
		add(l.dir, "its flags cannot be read: "+err.Error())
	} else if f&durable.AppendOnly == 0 {
		add(l.dir, "it is not append-only any more; the next open for writing makes it so")
	}
	for i, seg := range l.segments {
		name := segmentName(l.dir, seg.number)
		f, err := l.guard.Flags(name)
		switch {
		case err != nil: // that it is gone or cannot be opened is told by Inspect
		case f == 0:
			add(name, "it is not append-only any more; the next open for writing makes it so")
		case f&durable.Immutable == 0 && i < len(l.segments)-1:
			add(name, "it is closed and not immutable; the next open for writing makes it so")
		}
	}
	return out
}
