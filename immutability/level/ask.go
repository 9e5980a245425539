package level

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// The directories whose names are to stay, below the vault's root; and those in which no name may be lost either.
var (
	kept  = []string{"packs", "manifests", "ledger", "incoming", "keeper"}
	grown = []string{"packs", "manifests", "ledger"}
)

// ask finds out whether this process could rename or remove the vault, a directory of it, or a name in one that only grows.
// What the kernel allows is told by access(2), which knows of groups, access lists and read-only file systems, and by the
// flags of both, which it does not all know of.
func ask(root string, by Role) (all []Attempt) {
	away := func(name, what, path string) {
		a := Attempt{Name: "rename " + name, What: fmt.Sprintf("%s can be renamed or replaced by another", what), By: by}
		if err := movable(path); !errors.Is(err, fs.ErrNotExist) {
			all = append(all, judge(a, err))
		}
	}
	away("the root", "the vault's directory", root)
	for _, dir := range kept {
		away(dir, "the directory "+dir, filepath.Join(root, dir))
	}
	for _, dir := range grown {
		a := Attempt{Name: "remove in " + dir, What: fmt.Sprintf("names in %s can be removed", dir), By: by}
		if err := changeable(filepath.Join(root, dir)); !errors.Is(err, fs.ErrNotExist) {
			all = append(all, judge(a, err))
		}
	}
	return all
}

// movable is nil if a name can be renamed or removed by this process.
func movable(path string) error {
	if err := flagged(path); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := changeable(dir); err != nil {
		return err
	}
	above, err := os.Stat(dir)
	if err != nil {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if me := uint32(unix.Geteuid()); above.Mode()&fs.ModeSticky != 0 && me != 0 && !ownedBy(above, me) && !ownedBy(info, me) {
		return fmt.Errorf("%s is sticky, and both are another's", filepath.Base(dir))
	}
	return nil
}

// changeable is nil if this process can take a name of its own away from a directory.
func changeable(dir string) error {
	if err := flagged(dir); err != nil {
		return err
	}
	return pathError("access", dir, unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK|unix.X_OK, unix.AT_EACCESS))
}

// flagged is nil if neither flag is set.
func flagged(path string) error {
	var stx unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MODE, &stx); err != nil {
		return pathError("statx", path, err)
	}
	switch {
	case stx.Attributes&unix.STATX_ATTR_IMMUTABLE != 0:
		return fmt.Errorf("%s is immutable", filepath.Base(path))
	case stx.Attributes&unix.STATX_ATTR_APPEND != 0:
		return fmt.Errorf("%s is append-only", filepath.Base(path))
	}
	return nil
}

// owner is the user a file belongs to; every file of Linux has one.
func owner(info fs.FileInfo) uint32 { return info.Sys().(*syscall.Stat_t).Uid }

func ownedBy(info fs.FileInfo, uid uint32) bool { return owner(info) == uid }
