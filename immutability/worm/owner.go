package worm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// lockFile is held by the process that has a vault open for writing.
const lockFile = "keeper/lock"

// Lock makes this process the only one that may have the vault in d open for writing, until the lock is closed or the
// process ends; it is taken before Init and Open. Another holder is durable.ErrLocked, with {"pid":N} in the *durable.LockedError. A vault whose directories belong to another user is refused: what this process made in it the owner
// could not use. In an empty directory, where a vault is to be made, it makes keeper/.
func Lock(d *durable.Dir) (*durable.FileLock, error) {
	if err := Owned(d); err != nil {
		return nil, err
	}
	if err := durable.MkdirAll(d, keeperDir, 0o700); err != nil {
		return nil, err
	}
	l, err := d.Lock(lockFile)
	if err != nil {
		return nil, fmt.Errorf("the vault in %q is in use, or its lock cannot be taken: %w", d.Path(), err)
	}
	if err := l.SetHolder(fmt.Appendf(nil, "{\"pid\":%d}", os.Getpid())); err != nil && !durable.IsNoSpace(err) {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Owned refuses a vault of another user. Whoever takes a lock in its directory before that of Lock asks first: root could make
// a file there that the owner cannot open.
func Owned(d *durable.Dir) error {
	for _, name := range []string{".", keeperDir, ledgerDir, packsDir, manifestsDir, incomingDir} {
		info, err := d.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if ok && name == "." && st.Uid == 0 {
			continue // a file system's root may be root's, as long as we can work in it
		}
		if ok && int(st.Uid) != os.Geteuid() {
			return fmt.Errorf("%s in %q belongs to user %d, and this process is of user %d: the vault is written by its owner alone",
				name, d.Path(), st.Uid, os.Geteuid())
		}
	}
	return nil
}
