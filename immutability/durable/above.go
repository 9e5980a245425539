package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// ErrExposed is in the chain of the error of Above.
var ErrExposed = errors.New("somebody else can put another directory in its place")

// ExposedError names a directory above a vault in which others than root and the vault's owner can rename.
type ExposedError struct {
	Dir string // absolute
	Why string
}

func (e *ExposedError) Error() string { return fmt.Sprintf("%q: %s: %v", e.Dir, e.Why, ErrExposed) }

// Is makes errors.Is(err, ErrExposed) hold.
func (e *ExposedError) Is(target error) bool { return target == ErrExposed }

// Above looks at every directory on the way from / down to dir, and gives an *ExposedError for the first in which a user
// other than root and owner could put another directory in place of the next: one that belongs to somebody else, or that
// others may write to. A sticky directory of root's, such as /tmp, lets nobody move what is not his. dir itself may only
// belong to owner (or root), and be written to by nobody else. A symbolic link on the way counts as the directory that it
// leads to, and those above that.
//
// It says what is so now. Access lists, and what root mounts there later, are not looked at.
func Above(dir string, owner int) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return err
	}
	// Whoever can change a link on the way can lead it elsewhere; he can do so where he can write to what holds it.
	for _, end := range []string{abs, real} {
		if err := above(end, owner); err != nil {
			return err
		}
	}
	return nil
}

func above(dir string, owner int) error {
	for at := dir; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			return err
		}
		if why := exposed(info, owner, at == dir); why != "" {
			return &ExposedError{Dir: at, Why: why}
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

// exposed says why a directory can be changed by others, or "".
func exposed(info fs.FileInfo, owner int, last bool) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "its owner is not known"
	}
	if !info.IsDir() {
		return "it is not a directory"
	}
	if uid := int(st.Uid); uid != 0 && uid != owner {
		return fmt.Sprintf("it belongs to user %d, not to root or user %d", uid, owner)
	}
	sticky := info.Mode()&fs.ModeSticky != 0 && st.Uid == 0 && !last
	if info.Mode().Perm()&0o022 != 0 && !sticky {
		return fmt.Sprintf("its permissions are %o, so that others can write to it", info.Mode().Perm())
	}
	return ""
}
