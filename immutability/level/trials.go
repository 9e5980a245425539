package level

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// victim is the sealed file.
type victim struct {
	path string
	read *os.File // open for reading
}

// trial is something to try on a sealed file: nil is what gets through. What gets through may leave the file changed, so
// the gentlest stand first; none needs the one before to have failed.
type trial struct {
	name, what string
	onlyDaemon bool
	try        func(*victim) error
}

var trials = []trial{
	{name: "open", what: "it can be opened for writing", try: func(v *victim) error { return opened(v.path, unix.O_WRONLY) }},
	{name: "append", what: "it can be opened for appending", try: func(v *victim) error {
		return opened(v.path, unix.O_WRONLY|unix.O_APPEND)
	}},
	{name: "open anew", what: "a descriptor for reading can be opened anew for writing", try: func(v *victim) error {
		return opened(v.proc(), unix.O_RDWR)
	}},
	{name: "map", what: "it can be mapped as writable", try: (*victim).mapped},
	{name: "protect", what: "a mapping for reading can become writable", try: (*victim).protected},
	{name: "link", what: "it can get a second name", try: (*victim).linked},
	{name: "link by descriptor", what: "it can get a second name through a descriptor", try: (*victim).linkedByDescriptor},
	{name: "setxattr", what: "attributes can be added to it", try: func(v *victim) error {
		return pathError("setxattr", v.path, unix.Setxattr(v.path, "user.holdfast.probe", []byte("x"), 0))
	}},
	{name: "chown", what: "its group can be changed", try: func(v *victim) error {
		return pathError("chown", v.path, unix.Lchown(v.path, -1, unix.Getegid()))
	}},
	{name: "chmod", what: "its mode can be changed", try: func(v *victim) error {
		return pathError("chmod", v.path, unix.Chmod(v.path, 0o640))
	}},
	{name: "write", what: "it can be written to after its mode was changed", try: (*victim).written},
	{name: "fallocate", what: "a hole can be made in it", try: (*victim).punched},
	{name: "reflink", what: "other content can be reflinked over it", try: (*victim).cloned},
	{name: "rename", what: "it can be renamed", try: (*victim).renamed},
	{name: "replace", what: "another file can be renamed over it", try: (*victim).replaced},
	{name: "truncate", what: "it can be made shorter", try: func(v *victim) error {
		return pathError("truncate", v.path, unix.Truncate(v.path, 7))
	}},
	{name: "open empty", what: "it can be emptied by opening it", try: func(v *victim) error {
		return opened(v.path, unix.O_WRONLY|unix.O_TRUNC)
	}},
	{name: "flags", what: "its flags can be lifted", onlyDaemon: true, try: (*victim).lifted},
	{name: "unlink", what: "it can be removed", try: func(v *victim) error {
		return pathError("unlink", v.path, unix.Unlink(v.path))
	}},
}

// proc is another way to the file that is open for reading.
func (v *victim) proc() string { return fmt.Sprintf("/proc/self/fd/%d", v.read.Fd()) }

// beside is a name of the probe's own in the same directory; sweeping it away is part of removing the file.
func (v *victim) beside(what string) string { return v.path + "." + what }

func pathError(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: filepath.Base(path), Err: err}
}

// opened does not wait for a lease that somebody holds on the file: it would be broken after 45 s.
func opened(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return pathError("open", path, err)
	}
	return unix.Close(fd)
}

// writable opens the file for writing, or gives the descriptor for reading where that is refused: the calls that follow
// must then refuse it.
func (v *victim) writable(do func(fd int) error) error {
	fd, err := unix.Open(v.path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return do(int(v.read.Fd()))
	}
	defer unix.Close(fd)
	return do(fd)
}

func (v *victim) mapped() error {
	return v.writable(func(fd int) error {
		b, err := unix.Mmap(fd, 0, len(content), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return pathError("mmap", v.path, err)
		}
		return unix.Munmap(b)
	})
}

func (v *victim) protected() error {
	return v.writable(func(fd int) error {
		b, err := unix.Mmap(fd, 0, len(content), unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			return pathError("mmap", v.path, err)
		}
		err = unix.Mprotect(b, unix.PROT_READ|unix.PROT_WRITE)
		return errors.Join(pathError("mprotect", v.path, err), unix.Munmap(b))
	})
}

func (v *victim) linked() error {
	if err := unix.Link(v.path, v.beside("linked")); err != nil {
		return pathError("link", v.path, err)
	}
	return unix.Unlink(v.beside("linked"))
}

func (v *victim) linkedByDescriptor() error {
	err := unix.Linkat(unix.AT_FDCWD, v.proc(), unix.AT_FDCWD, v.beside("linked"), unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		return pathError("linkat", v.path, err)
	}
	return unix.Unlink(v.beside("linked"))
}

func (v *victim) written() error {
	return v.writable(func(fd int) error {
		_, err := unix.Pwrite(fd, []byte("changed"), 0)
		return pathError("write", v.path, err)
	})
}

func (v *victim) punched() error {
	return v.writable(func(fd int) error {
		return pathError("fallocate", v.path, unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096))
	})
}

// cloned reflinks the file's second block over its first.
func (v *victim) cloned() error {
	return v.writable(func(fd int) error {
		return pathError("reflink", v.path, unix.IoctlFileCloneRange(fd, &unix.FileCloneRange{
			Src_fd: int64(v.read.Fd()), Src_offset: 4096, Src_length: 4096,
		}))
	})
}

func (v *victim) renamed() error {
	if err := unix.Rename(v.path, v.beside("renamed")); err != nil {
		return pathError("rename", v.path, err)
	}
	return unix.Rename(v.beside("renamed"), v.path)
}

func (v *victim) replaced() error {
	other := v.beside("other")
	fd, err := unix.Open(other, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return pathError("create", other, err)
	}
	if err := unix.Close(fd); err != nil {
		return err
	}
	err = pathError("rename over", v.path, unix.Rename(other, v.path))
	if err != nil {
		err = errors.Join(err, pathError("unlink", other, unix.Unlink(other)))
	}
	return err
}

// What FS_IOC_GETFLAGS calls the two flags that protect; a kernel interface, the same on every file system.
const flagsMask = 0x10 | 0x20

// lifted sets the flags of the file as they are without the two that protect it.
func (v *victim) lifted() error {
	fd := int(v.read.Fd())
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags&^flagsMask))
	}
	return pathError("lift flags", v.path, err)
}
