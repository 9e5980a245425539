package durable

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLocked is in the chain of the error of LockFile when another process (or another call) holds the lock. The error
// itself is a *LockedError.
var ErrLocked = errors.New("locked by another process")

// ErrNotLocked is in the chain of the error of LockHolder when nobody holds the lock.
var ErrNotLocked = errors.New("not locked")

// LockedError says who holds a lock.
type LockedError struct {
	Path   string
	Holder []byte // what the holder wrote with SetHolder, empty if it has not yet; not to be trusted further than the file's writers
}

func (e *LockedError) Error() string {
	if len(e.Holder) == 0 {
		return fmt.Sprintf("%s: %v", e.Path, ErrLocked)
	}
	return fmt.Sprintf("%s: %v: %q", e.Path, ErrLocked, e.Holder)
}

// Is makes errors.Is(err, ErrLocked) hold.
func (e *LockedError) Is(target error) bool { return target == ErrLocked }

// holderMax bounds the holder's text, in bytes.
const holderMax = 4096

// FileLock is a held lock. The kernel releases it when the process ends, however it ends.
type FileLock struct{ f *os.File }

// LockFile takes the exclusive flock of a file on the real file system, making the file if it is missing, and empties the
// text of the last holder. It does not wait: a held lock is ErrLocked. The file stays when the lock is released, since
// removing it would let two processes hold a lock each.
func LockFile(path string) (*FileLock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, err
	}
	return lockFile(f, path)
}

// Lock is LockFile for a name below the directory's descriptor, whatever became of the names above it.
func (d *Dir) Lock(name string) (*FileLock, error) {
	if err := validName("lock", name); err != nil {
		return nil, err
	}
	f, err := d.root.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, markFull(err)
	}
	return lockFile(f, name)
}

// lockFile takes the lock of a file, which it closes where that fails.
func lockFile(f *os.File, path string) (*FileLock, error) {
	if err := takeFlock(f); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		holder, _ := readHolder(f) // best effort: the lock is held, whoever it is
		return nil, &LockedError{Path: path, Holder: holder}
	}
	if err := f.Truncate(0); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, markFull(err))
	}
	return &FileLock{f: f}, nil
}

// takeFlock asks a few times within milliseconds: LockHolder holds a shared lock for an instant in order to find out
// whether anybody holds the exclusive one.
func takeFlock(f *os.File) error {
	var err error
	for try := range 5 {
		if try > 0 {
			time.Sleep(2 * time.Millisecond)
		}
		if err = flock(f, unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
	}
	return err
}

// SetHolder replaces the text that others are told, at most 4096 bytes.
func (l *FileLock) SetHolder(text []byte) error {
	if len(text) > holderMax {
		return fmt.Errorf("lock %s: a holder's text of %d bytes, at most %d are read", l.f.Name(), len(text), holderMax)
	}
	if err := l.f.Truncate(0); err != nil {
		return markFull(err)
	}
	_, err := l.f.WriteAt(text, 0)
	return markFull(err)
}

// Close releases the lock and takes the holder's text away.
func (l *FileLock) Close() error {
	terr := l.f.Truncate(0) // before the release: afterwards the text may be another's
	return errors.Join(terr, l.f.Close())
}

// LockHolder returns the text of the process that holds the lock, which may be empty for a moment after it was taken.
// Nobody holding it is ErrNotLocked, and so is a missing file.
func LockHolder(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, ErrNotLocked)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() // releases the shared lock as well
	switch err := flock(f, unix.LOCK_SH|unix.LOCK_NB); {
	case err == nil:
		return nil, fmt.Errorf("%s: %w", path, ErrNotLocked)
	case !errors.Is(err, unix.EWOULDBLOCK):
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return readHolder(f)
}

func readHolder(f *os.File) ([]byte, error) {
	return io.ReadAll(io.NewSectionReader(f, 0, holderMax))
}

func flock(f *os.File, how int) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var lerr error
	if err := conn.Control(func(fd uintptr) {
		for {
			if lerr = unix.Flock(int(fd), how); lerr != unix.EINTR {
				return
			}
		}
	}); err != nil {
		return err
	}
	return lerr
}
