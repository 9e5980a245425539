package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
)

// WriteGrowing makes a file of the given bytes under a name that must not exist (else fs.ErrExist, as for WriteNew), and
// makes it append-only: from then on it can grow, and nothing else. It is written under tmp, which is replaced if an earlier
// attempt left one; name's directory may be append-only, tmp's may not. Two calls for one name must not run at the same
// time.
//
// On return the file is durable, has that name alone, and is append-only. A power cut before leaves nothing under name, or
// all of it, perhaps without the flag and with tmp as a second name: whoever starts removes tmp and syncs its directory, and
// sets the flag only then, since an append-only file loses no name.
func WriteGrowing(d GuardedDisk, tmp, name string, data []byte, perm fs.FileMode) error {
	if err := WriteNewAt(d, tmp, name, data, perm); err != nil {
		return err
	}
	// Power fails here: name alone, with all its bytes, and it can still be changed.
	if err := SetFileFlags(d, name, AppendOnly); err != nil {
		return fmt.Errorf("%s is written, and may not be append-only: %w", name, err)
	}
	return nil
}

// SetFileFlags sets flags of a file, durably. A power cut before leaves it as it was, or with them.
func SetFileFlags(d GuardedDisk, name string, set Flags) error {
	h, err := d.Hold(name)
	if err != nil {
		return err
	}
	err = h.SetFlags(set, 0)
	if err == nil {
		err = h.Sync()
	}
	return errors.Join(err, h.Close())
}

// TakeOver is SetFileFlags for a file that had no flag until now and that others may have written: whoever kept it open for
// writing, or has it mapped so, could still change it on some file systems, whatever its flags and owner are. Such a one is
// ErrWriter, and nothing has changed.
func TakeOver(d GuardedDisk, name string, set Flags) error {
	h, err := d.Hold(name)
	if err != nil {
		return err
	}
	if err = h.Lease(); err == nil {
		// Power fails here: as it was, or with its flags.
		err = errors.Join(h.SetFlags(set, 0), h.Sync())
	}
	return errors.Join(err, h.Close())
}

// CloseGrowing makes a file of WriteGrowing final: nobody adds to it any more. It is durable on return. A power cut before
// leaves it append-only, or immutable.
func CloseGrowing(d GuardedDisk, name string) error {
	h, err := d.Hold(name)
	if err != nil {
		return err
	}
	// One call changes both flags, so that there is no moment without either.
	err = h.SetFlags(Immutable, AppendOnly)
	if err == nil {
		err = h.Sync()
	}
	return errors.Join(err, h.Close())
}

// ReplaceGuarded is Replace for a name in a directory that is immutable, and is so again afterwards. It works under tmp, in
// another directory that is not. On return the new content is durable, and so is the directory's flag. A power cut before
// leaves the old content or the new, whole, and the directory perhaps without its flag, which whoever starts sets.
func ReplaceGuarded(d GuardedDisk, tmp, name string, data []byte, perm fs.FileMode) error {
	dir := path.Dir(name)
	if path.Dir(tmp) == dir {
		return &fs.PathError{Op: "replace", Path: tmp, Err: fs.ErrInvalid}
	}
	if err := writeAt(d, tmp, data, perm, true); err != nil {
		return err
	}
	// Power fails here: the old content under name, the new under tmp.
	err := d.SetFlags(dir, 0, Immutable)
	if err == nil {
		err = d.Rename(tmp, name)
		// The flag comes back in any case, and before the sync, which makes both durable.
		err = errors.Join(err, setAgain(d, dir, Immutable))
	}
	if err != nil {
		_ = d.Remove(tmp)
		return fmt.Errorf("replace %s: %w", name, errors.Join(err, d.SyncDir(dir)))
	}
	// Power fails here: the old content or the new; tmp may be back, as a name of what has the other.
	if err := errors.Join(d.SyncDir(dir), d.SyncDir(path.Dir(tmp))); err != nil {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	return nil
}

// RemoveGuarded is Remove for a name in a directory that is immutable, and is so again afterwards. A power cut before it
// returns may leave the name, and the directory perhaps without its flag, which whoever starts sets. An absent name is
// fs.ErrNotExist, and durably absent.
func RemoveGuarded(d GuardedDisk, name string) error {
	dir := path.Dir(name)
	if err := d.SetFlags(dir, 0, Immutable); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	// Power fails here: the name, and the directory may be open.
	err := d.Remove(name)
	// The flag comes back in any case, and before the sync, which makes both durable.
	again := setAgain(d, dir, Immutable)
	// Power fails here: the name may be back.
	again = errors.Join(again, d.SyncDir(dir))
	if again != nil && errors.Is(err, fs.ErrNotExist) {
		err = nil // it is not known to be so after a power cut
	}
	if err = errors.Join(err, again); err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}
