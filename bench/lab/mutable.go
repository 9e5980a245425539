package lab

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Mutable takes the flags from a file or directory that keep it from being removed. What is neither has none.
func Mutable(path string) (err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, unix.ELOOP) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ENXIO) {
			return nil
		}
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	const keeps = unix.STATX_ATTR_IMMUTABLE | unix.STATX_ATTR_APPEND // the same bits
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil || flags&keeps == 0 {
		return nil // a filesystem without flags has none to take away
	}
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags&^uint32(keeps)))
}
