package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

var _ GuardedDisk = (*Dir)(nil)

// What FS_IOC_GETFLAGS and FS_IOC_SETFLAGS call the two flags; a kernel interface, the same on every file system.
const (
	fsImmutable = 0x10
	fsAppend    = 0x20
)

// Hold implements Guard.
func (d *Dir) Hold(name string) (Held, error) {
	if err := validName("hold", name); err != nil {
		return nil, err
	}
	if err := d.refuseIrregular(name); err != nil {
		return nil, err
	}
	f, err := d.root.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	return &heldFile{dirFile: &dirFile{f: f, name: name}, d: d}, nil
}

// Flags implements Guard.
func (d *Dir) Flags(name string) (Flags, error) {
	f, err := d.openAny("flags", name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	all, err := getFlags(f, name)
	return ours(all), err
}

// SetFlags implements Guard.
func (d *Dir) SetFlags(name string, set, lift Flags) error {
	f, err := d.openAny("flags", name)
	if err != nil {
		return err
	}
	defer f.Close()
	return setFlags(f, name, set, lift)
}

// Chmod implements Guard. The umask does not apply.
func (d *Dir) Chmod(name string, perm fs.FileMode) error {
	f, err := d.openAny("chmod", name)
	if err != nil {
		return err
	}
	defer f.Close()
	return markFull(f.Chmod(perm.Perm()))
}

// openAny opens a file or a directory for reading.
func (d *Dir) openAny(op, name string) (*os.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	info, err := d.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return d.openDirectory(op, name)
	}
	if err := d.refuseIrregular(name); err != nil {
		return nil, err
	}
	return d.root.OpenFile(name, os.O_RDONLY, 0)
}

func ours(all uint32) (f Flags) {
	if all&fsImmutable != 0 {
		f |= Immutable
	}
	if all&fsAppend != 0 {
		f |= AppendOnly
	}
	return f
}

func theirs(f Flags) (all uint32) {
	if f&Immutable != 0 {
		all |= fsImmutable
	}
	if f&AppendOnly != 0 {
		all |= fsAppend
	}
	return all
}

func getFlags(f *os.File, name string) (all uint32, err error) {
	err = control(f, func(fd int) (err error) {
		all, err = unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
		return err
	})
	return all, flagsError(name, err)
}

// setFlags changes nothing, and asks for no capability, where the flags are as wanted.
func setFlags(f *os.File, name string, set, lift Flags) error {
	all, err := getFlags(f, name)
	if err != nil {
		return err
	}
	wanted := all&^theirs(lift) | theirs(set)
	if wanted == all {
		return nil
	}
	return flagsError(name, control(f, func(fd int) error {
		return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(wanted))
	}))
}

// flagsError tells file systems without flags apart from processes without the right to set them.
func flagsError(name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
		err = fmt.Errorf("this file system has no flags: %w (%w)", errors.ErrUnsupported, err)
	case errors.Is(err, unix.EPERM):
		err = fmt.Errorf("%w (it needs the file's owner with CAP_LINUX_IMMUTABLE, outside of user namespaces)", err)
	}
	return &fs.PathError{Op: "flags", Path: name, Err: markFull(err)}
}

// heldFile is a file of a Dir that is being made final.
type heldFile struct {
	*dirFile
	d *Dir
}

var errHeld = errors.New("it is held to be made final, and takes no more bytes")

func (h *heldFile) Write([]byte) (int, error) {
	return 0, &fs.PathError{Op: "write", Path: h.name, Err: errHeld}
}

// Lease implements Held. The kernel tells of a broken lease by SIGIO, which a Go program ignores unless it asks for it.
func (h *heldFile) Lease() error {
	err := control(h.f, func(fd int) error {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK)
		return err
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EAGAIN):
		err = ErrWriter
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP):
		err = fmt.Errorf("this file system has no leases: %w (%w)", errors.ErrUnsupported, err)
	}
	return &fs.PathError{Op: "lease", Path: h.name, Err: err}
}

// Leased implements Held.
func (h *heldFile) Leased() (bool, error) {
	kind := unix.F_UNLCK
	err := control(h.f, func(fd int) (err error) {
		kind, err = unix.FcntlInt(uintptr(fd), unix.F_GETLEASE, 0)
		return err
	})
	if err != nil {
		return false, &fs.PathError{Op: "lease", Path: h.name, Err: err}
	}
	return kind == unix.F_RDLCK, nil
}

// SetFlags implements Held.
func (h *heldFile) SetFlags(set, lift Flags) error { return setFlags(h.f, h.name, set, lift) }

// Is implements Held.
func (h *heldFile) Is(name string) (bool, error) {
	mine, err := h.f.Stat()
	if err != nil {
		return false, err
	}
	other, err := h.d.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return os.SameFile(mine, other), nil
}

// control calls do with the descriptor of f, which stays open meanwhile, again where a signal interrupts it.
func control(f *os.File, do func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var derr error
	if err := conn.Control(func(fd uintptr) {
		for {
			if derr = do(int(fd)); !errors.Is(derr, unix.EINTR) {
				return
			}
		}
	}); err != nil {
		return err
	}
	return derr
}
