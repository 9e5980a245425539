package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path"
	"slices"
)

// Publish gives a finished file its name for good. The caller has synced and closed it under from.
//
// An existing to is fs.ErrExist, and nothing has changed, except that the existing name is durable (a process that was
// killed may have made it and not synced). After nil, to is durable and from is gone durably. After any other error it is
// open whether to exists: look, and call SyncDir before relying on it.
func Publish(d Disk, from, to string) error {
	// Power fails here: from alone, as before.
	if err := d.Link(from, to); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = settled(d, to, err)
		}
		return fmt.Errorf("publish %s: %w", to, err)
	}
	// Power fails here: from, and perhaps to; both name the same finished bytes.
	if err := d.SyncDir(path.Dir(to)); err != nil {
		return fmt.Errorf("publish %s: %w", to, err)
	}
	// Published. Power fails here: to, and from as well; from is garbage that a later start removes.
	if err := Remove(d, from); err != nil {
		return fmt.Errorf("publish %s: it is published, but its old name is left over: %w", to, err)
	}
	return nil
}

// settled returns err, which says that name exists or that it does not, once this will still be so after a power cut.
func settled(d Disk, name string, err error) error {
	if serr := d.SyncDir(path.Dir(name)); serr != nil && !errors.Is(serr, fs.ErrNotExist) {
		return serr
	}
	return err
}

// WriteNew makes a file of the given bytes under a name that must not exist (else fs.ErrExist, as for Publish). On return
// it is durable; a power cut before leaves nothing under name, or all of it. It works under NAME.tmp, which is replaced if
// an earlier attempt left one; two calls for one name must not run at the same time.
func WriteNew(d Disk, name string, data []byte, perm fs.FileMode) error {
	return WriteNewAt(d, name+".tmp", name, data, perm)
}

// WriteNewAt is WriteNew that works under tmp.
func WriteNewAt(d Disk, tmp, name string, data []byte, perm fs.FileMode) error {
	if _, err := d.Stat(name); err == nil {
		return settled(d, name, &fs.PathError{Op: "write", Path: name, Err: fs.ErrExist})
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := writeAt(d, tmp, data, perm, true); err != nil {
		return err
	}
	err := Publish(d, tmp, name)
	if errors.Is(err, fs.ErrExist) {
		_ = d.Remove(tmp) // somebody else was first; a leftover is garbage
	}
	return err
}

// Replace makes name consist of the given bytes, whether it exists or not: the single mutable form. On return the new
// content is durable. A power cut before leaves the old content or the new, whole, and never neither; after an error it is
// the same. It works under NAME.tmp, which is replaced if an earlier attempt left one; two calls for one name must not run
// at the same time.
func Replace(d Disk, name string, data []byte, perm fs.FileMode) error {
	tmp := name + ".tmp"
	if err := writeAt(d, tmp, data, perm, true); err != nil {
		return err
	}
	// Power fails here: the old content under name, the new under the temporary name.
	if err := d.Rename(tmp, name); err != nil {
		_ = d.Remove(tmp)
		return fmt.Errorf("replace %s: %w", name, err)
	}
	// Power fails here: the old content or the new. The new is whole, since it was synced before it got the name.
	if err := d.SyncDir(path.Dir(name)); err != nil {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	return nil
}

// ReplaceCache is Replace without any sync, for what can be made again and says itself whether it is whole. A power cut,
// before or long after, leaves the old content, the new, a part of it, or nothing; an error leaves the old.
func ReplaceCache(d Disk, name string, data []byte, perm fs.FileMode) error {
	tmp := name + ".tmp"
	if err := writeAt(d, tmp, data, perm, false); err != nil {
		return err
	}
	if err := d.Rename(tmp, name); err != nil {
		_ = d.Remove(tmp)
		return fmt.Errorf("replace %s: %w", name, err)
	}
	return nil
}

// writeAt writes a file of the given name, in place of one that an earlier attempt left, and syncs it if it is told to. The
// name itself is not durable.
func writeAt(d Disk, tmp string, data []byte, perm fs.FileMode, sync bool) error {
	if err := d.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the leftover of an earlier attempt: %w", err)
	}
	f, err := d.Create(tmp, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && sync {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		_ = d.Remove(tmp) // what did not sync is not to be tried again
		return fmt.Errorf("write %s: %w", tmp, err)
	}
	return nil
}

// Remove takes away a name, durably. A power cut before it returns may leave the name. An absent name is fs.ErrNotExist,
// and durably absent: whoever goes on with an interrupted removal may take that for done.
func Remove(d Disk, name string) error {
	if err := d.Remove(name); errors.Is(err, fs.ErrNotExist) {
		return settled(d, name, err)
	} else if err != nil {
		return err
	}
	// Power fails here: the name may be back.
	return d.SyncDir(path.Dir(name))
}

// RemoveTree takes away a directory and everything below it, durably, the deepest first; a file is taken away alone, and
// a name that is absent (durably, then) is no error. A power cut or an error leaves a part. It is for what can be had again (sessions, restore
// targets): nothing sealed is ever removed by it.
func RemoveTree(d Disk, name string) error {
	if name == "." {
		return &fs.PathError{Op: "removetree", Path: name, Err: fs.ErrInvalid}
	}
	info, err := d.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		if err := settled(d, name, err); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		if err := empty(d, name, maxDepth); err != nil {
			return err
		}
	}
	return Remove(d, name)
}

// maxDepth bounds the recursion of RemoveTree; nothing that the vault makes is nearly as deep.
const maxDepth = 1000

// empty empties a directory. The directory itself is about to go, and with it whatever names a power cut brings back in
// it, so its own removal needs no sync of its children's.
func empty(d Disk, dir string, depth int) error {
	if depth == 0 {
		return fmt.Errorf("remove %s: more than %d directories deep", dir, maxDepth)
	}
	entries, err := d.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if e.IsDir() {
			if err := empty(d, name, depth-1); err != nil {
				return err
			}
		}
		if err := d.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

// MkdirAll makes a directory and those above it that are missing. On return all of them are durable, also those that were
// there before: a process that was killed may have made them and not synced.
func MkdirAll(d Disk, name string, perm fs.FileMode) error {
	var chain []string
	for dir := name; dir != "."; dir = path.Dir(dir) {
		if !fs.ValidPath(dir) {
			return &fs.PathError{Op: "mkdir", Path: name, Err: fs.ErrInvalid}
		}
		chain = append(chain, dir)
	}
	for _, dir := range slices.Backward(chain) {
		if err := d.Mkdir(dir, perm); err != nil {
			if !errors.Is(err, fs.ErrExist) {
				return err
			}
			info, serr := d.Stat(dir)
			if serr != nil {
				return serr
			}
			if !info.IsDir() {
				return err
			}
		}
		// Power fails here: this directory may be missing, those above it are there.
		if err := d.SyncDir(path.Dir(dir)); err != nil {
			return err
		}
	}
	return nil
}

// ReadFile returns the content of a file of at most limit bytes; a larger one is ErrTooLarge, read no
// further than needed.
func ReadFile(d Disk, name string, limit int64) ([]byte, error) {
	f, err := d.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if size <= limit {
		b.Grow(int(size) + bytes.MinRead) // room for the read that finds the end
	}
	// The size may be wrong by now: what counts is what comes.
	n, err := b.ReadFrom(io.LimitReader(f, min(limit, math.MaxInt64-1)+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if n > limit {
		return nil, fmt.Errorf("read %s: %w of %d bytes", name, ErrTooLarge, limit)
	}
	return b.Bytes(), nil
}
