package durable

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Descriptor gives a second descriptor of an open file of a Dir, to be handed to another process. It can do what the file
// can do; closing it is the caller's. Files of other disks are errors.ErrUnsupported.
func Descriptor(f File) (*os.File, error) {
	d, ok := f.(*dirFile)
	if !ok {
		return nil, fmt.Errorf("a file of this disk cannot be handed on: %w", errors.ErrUnsupported)
	}
	fd := -1
	err := control(d.f, func(from int) (err error) {
		fd, err = unix.FcntlInt(uintptr(from), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.name, err)
	}
	return os.NewFile(uintptr(fd), d.name), nil
}

// Adopt makes a File of a descriptor that another process handed over, which has opened it for reading and appending. name
// is for errors. The File closes it.
func Adopt(f *os.File, name string) File { return &dirFile{f: f, name: name} }
