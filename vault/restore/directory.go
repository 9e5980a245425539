package restore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// ToDirectory restores what lies under path in src into the local directory dir, as To does. dir, and its parents, are
// made when absent; one that holds anything is refused unless o.Overwrite. Files and links come to their names complete
// or not at all: what a cut restore leaves behind are whole files and, at most, hidden files named .holdfast-*.tmp.
//
// Everything is made relative to an open descriptor of dir, one component at a time, without following any link, so
// that neither a name in the catalog nor a link in the target leads elsewhere. Set-id bits are given only together with
// the recorded owner. Unless o.NoSync, the file system has been asked to write everything to the medium when ToDirectory
// returns without an error.
func ToDirectory(ctx context.Context, src Source, path, dir string, o Options) (Report, error) {
	if _, err := src.Lookup(ctx, path); err != nil {
		return Report{}, err // before anything is made
	}
	return intoDirectory(dir, o, func(d *directory) (Report, error) {
		return To(ctx, src, path, d, o)
	})
}

// intoDirectory opens dir, lets restore fill it, and adds what the directory alone knows to the report.
func intoDirectory(dir string, o Options, restore func(*directory) (Report, error)) (Report, error) {
	d, err := openDirectory(dir, o)
	if err != nil {
		return Report{}, err
	}
	report, err := restore(d)
	d.addTo(&report, o.Events)
	if err == nil && !o.NoSync {
		// If power fails before this returns, files may be missing, or present and empty or short, under their names:
		// one request for the whole file system is cheaper than one for each file. It also reports what could not be
		// written late, which no earlier call did.
		err = doing("sync", unix.Syncfs(int(d.top.Fd())))
	}
	if cerr := d.close(); err == nil {
		err = cerr
	}
	if err != nil {
		err = fmt.Errorf("restore to %q: %w", dir, err)
	}
	return report, err
}

// ErrNotEmpty is returned for a target that holds something when overwriting was not asked for.
var ErrNotEmpty = errors.New("the target is not empty: choose another, or allow overwriting")

// directory is a Target below an open local directory.
type directory struct {
	root  *os.Root // holds the place, whatever becomes of its name
	top   *os.File
	mine  bool // made by us: we may change its attributes
	o     Options
	cache dirCache

	mu      sync.Mutex
	unowned uint64
	notes   []Note
}

func openDirectory(dir string, o Options) (*directory, error) {
	// 0700: what is restored may be secret, and the directory's own mode comes last.
	_, err := os.Stat(dir)
	mine := errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	top, err := root.Open(".")
	if err != nil {
		root.Close()
		return nil, err
	}
	d := &directory{root: root, top: top, mine: mine, o: o}
	d.cache.open = d.openBelow
	if !o.Overwrite {
		switch _, err := top.Readdirnames(1); {
		case err == nil:
			d.close()
			return nil, fmt.Errorf("%q: %w", dir, ErrNotEmpty)
		case err != io.EOF:
			d.close()
			return nil, err
		}
	}
	return d, nil
}

func (d *directory) close() error {
	return errors.Join(d.cache.close(), d.top.Close(), d.root.Close())
}

func (d *directory) addTo(r *Report, e Events) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r.Unowned = d.unowned
	for _, n := range d.notes {
		if len(r.Notes) < FailuresKept {
			r.Notes = append(r.Notes, n)
		}
		if e.Note != nil {
			e.Note(n.Path, n.Text)
		}
	}
}

func (d *directory) note(path, text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.notes) < FailuresKept {
		d.notes = append(d.notes, Note{path, text})
	}
}

// openBelow opens the directory at path, one component at a time. os.Root would follow links that stay inside; here
// none is followed, since one that the catalog made could redirect what the catalog puts below it.
func (d *directory) openBelow(path string) (*os.File, error) {
	fd, err := openAt(int(d.top.Fd()), ".", unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	if path != "" {
		for name := range strings.SplitSeq(path, "/") {
			if err := CheckName(name); err != nil {
				unix.Close(fd)
				return nil, err
			}
			next, err := openAt(fd, name, unix.O_DIRECTORY)
			unix.Close(fd)
			if err != nil {
				return nil, err
			}
			fd = next
		}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func openAt(dirfd int, name string, flags int) (fd int, err error) {
	err = again(func() (err error) {
		fd, err = unix.Openat(dirfd, name, flags|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		return err
	})
	return fd, err
}

// again repeats a system call that a signal interrupted.
func again(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

// in runs f with the open directory that holds path, and the last component.
func (d *directory) in(path string, f func(dirfd int, name string) error) error {
	parent, name := snapshot.Split(path)
	if err := CheckName(name); err != nil {
		return doing("name", err)
	}
	dir, err := d.cache.get(parent)
	if err != nil {
		return doing("open its directory", err)
	}
	defer d.cache.put(dir)
	return f(int(dir.f.Fd()), name)
}

func (d *directory) Directory(ctx context.Context, path string, e *snapshot.Entry) error {
	return d.in(path, func(dirfd int, name string) error {
		err := again(func() error { return unix.Mkdirat(dirfd, name, 0o700) })
		if err == unix.EEXIST && d.o.Overwrite {
			fd, err := openAt(dirfd, name, unix.O_DIRECTORY)
			if err != nil {
				return doing("mkdir", fmt.Errorf("something that is not a directory is in its place: %w", err))
			}
			return unix.Close(fd)
		}
		return doing("mkdir", err)
	})
}

func (d *directory) Link(ctx context.Context, path string, e *snapshot.Entry) error {
	return d.in(path, func(dirfd int, name string) error {
		tmp, err := atNewName(func(tmp string) error {
			if e.Kind == snapshot.Fifo {
				return unix.Mknodat(dirfd, tmp, unix.S_IFIFO|0o600, 0)
			}
			return unix.Symlinkat(e.Target, dirfd, tmp)
		})
		if err != nil {
			return doing(e.Kind.String(), err)
		}
		err = d.attributes(path, e, place{dirfd, tmp, -1, nil})
		if err == nil {
			err = d.publish(dirfd, tmp, name)
		}
		if err != nil {
			unix.Unlinkat(dirfd, tmp, 0)
		}
		return err
	})
}

// Finish gives the directory at path its attributes; "" is the top itself.
func (d *directory) Finish(ctx context.Context, path string, e *snapshot.Entry) error {
	f, err := d.openBelow(path)
	switch err {
	case nil:
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.ENAMETOOLONG: // or another thing in its place, or a link
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	default:
		return doing("open", err)
	}
	defer f.Close()
	err = d.attributes(path, e, place{int(f.Fd()), "", int(f.Fd()), nil})
	if path == "" && !d.mine && errors.Is(err, fs.ErrPermission) {
		d.note("", "the target itself belongs to somebody else and keeps its attributes")
		return nil
	}
	return err
}

func (d *directory) File(ctx context.Context, path string, e *snapshot.Entry) (TargetFile, error) {
	if e.Size > math.MaxInt64 {
		return nil, doing("create", fmt.Errorf("size %d is larger than any file can be", e.Size))
	}
	parent, name := snapshot.Split(path)
	if err := CheckName(name); err != nil {
		return nil, doing("name", err)
	}
	dir, err := d.cache.get(parent)
	if err != nil {
		return nil, doing("open its directory", err)
	}
	var fd int
	tmp, err := atNewName(func(tmp string) (err error) {
		fd, err = unix.Openat(int(dir.f.Fd()), tmp, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		d.cache.put(dir)
		return nil, doing("create", err)
	}
	return &localFile{d: d, dir: dir, fd: fd, tmp: tmp, name: name, path: path, entry: e}, nil
}

// localFile is a regular file under a temporary name. It is a bare descriptor: os.File would ask the system twice what it is.
type localFile struct {
	d         *directory
	dir       *dirHandle
	fd        int
	tmp, name string
	path      string
	entry     *snapshot.Entry
	end       atomic.Int64 // of what has been written
}

func (l *localFile) WriteAt(p []byte, off int64) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		err = again(func() (err error) {
			m, err = unix.Pwrite(l.fd, p[n:], off+int64(n))
			return err
		})
		if err == nil && m <= 0 {
			err = io.ErrShortWrite
		}
		n += max(m, 0)
	}
	for end := off + int64(n); ; {
		if was := l.end.Load(); was >= end || l.end.CompareAndSwap(was, end) {
			return n, err
		}
	}
}

func (l *localFile) Commit() error {
	err := l.finish()
	if err != nil {
		unix.Unlinkat(int(l.dir.f.Fd()), l.tmp, 0)
	}
	l.d.cache.put(l.dir)
	return err
}

func (l *localFile) finish() error {
	dirfd := int(l.dir.f.Fd())
	if l.end.Load() != int64(l.entry.Size) { // it ends in a hole
		if err := again(func() error { return unix.Ftruncate(l.fd, int64(l.entry.Size)) }); err != nil {
			unix.Close(l.fd)
			return doing("write", err)
		}
	}
	if err := l.d.attributes(l.path, l.entry, place{dirfd, l.tmp, l.fd, l.dir.givenTo(l.fd)}); err != nil {
		unix.Close(l.fd)
		return err
	}
	// Some network file systems tell here that a write failed. After EINTR it is closed all the same.
	if err := unix.Close(l.fd); err != nil && err != unix.EINTR {
		return doing("write", err)
	}
	return l.d.publish(dirfd, l.tmp, l.name)
}

func (l *localFile) Abort() error {
	err := errors.Join(unix.Close(l.fd), unix.Unlinkat(int(l.dir.f.Fd()), l.tmp, 0))
	l.d.cache.put(l.dir)
	return err
}

// publish gives what stands under a temporary name its own. Without Overwrite nothing is ever replaced: on a file system
// that takes "A" and "a" for the same name the second of them is an error, not the end of the first.
func (d *directory) publish(dirfd int, tmp, name string) error {
	return doing("rename", again(func() error {
		if d.o.Overwrite {
			return unix.Renameat(dirfd, tmp, dirfd, name)
		}
		err := unix.Renameat2(dirfd, tmp, dirfd, name, unix.RENAME_NOREPLACE)
		if err != unix.EINVAL && err != unix.ENOSYS {
			return err
		}
		// A file system that does not know the flag. A link never replaces either.
		if err := unix.Linkat(dirfd, tmp, dirfd, name, 0); err != nil {
			return err
		}
		return unix.Unlinkat(dirfd, tmp, 0)
	}))
}

// atNewName tries make with fresh temporary names until one is free.
func atNewName(make func(tmp string) error) (string, error) {
	for tries := 0; ; tries++ {
		tmp := ".holdfast-" + strings.ToLower(rand.Text()[:16]) + ".tmp"
		err := again(func() error { return make(tmp) })
		if err == nil || !errors.Is(err, fs.ErrExist) || tries == 100 {
			return tmp, err
		}
	}
}
