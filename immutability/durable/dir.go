package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Dir is a Disk in a directory of the real file system. It is safe for concurrent use.
//
// Every name is resolved below the directory's descriptor (os.Root), so that neither a symbolic link nor a rename of the
// directory leads out of it. The umask applies to the permissions given.
type Dir struct {
	root *os.Root
	path string
}

// OpenDir returns the Disk below an existing directory.
func OpenDir(dir string) (*Dir, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &Dir{root: root, path: dir}, nil
}

// Close releases the directory. Files opened before stay open.
func (d *Dir) Close() error { return d.root.Close() }

// Path returns the directory as it was given to OpenDir.
func (d *Dir) Path() string { return d.path }

// Free is the room in bytes that this process may still fill, on the file system that the directory is on.
func (d *Dir) Free() (int64, error) {
	free, _, err := d.Room()
	return free, err
}

// Room is Free, and the size in bytes of the whole file system.
func (d *Dir) Room() (free, total int64, err error) {
	f, err := d.root.Open(".")
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return 0, 0, &fs.PathError{Op: "fstatfs", Path: ".", Err: err}
	}
	return int64(st.Bavail) * int64(st.Bsize), int64(st.Blocks) * int64(st.Bsize), nil
}

// Create implements Opener.
func (d *Dir) Create(name string, perm fs.FileMode) (File, error) {
	return d.open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL|os.O_APPEND, perm)
}

// Append implements Opener.
func (d *Dir) Append(name string) (File, error) {
	return d.open(name, os.O_RDWR|os.O_APPEND, 0)
}

// Open implements Opener.
func (d *Dir) Open(name string) (File, error) {
	return d.open(name, os.O_RDONLY, 0)
}

func (d *Dir) open(name string, flag int, perm fs.FileMode) (File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	if flag&os.O_CREATE == 0 {
		if err := d.refuseIrregular(name); err != nil {
			return nil, err
		}
	}
	f, err := d.root.OpenFile(name, flag, perm.Perm())
	if err != nil {
		return nil, markFull(err)
	}
	return &dirFile{f: f, name: name}, nil
}

// refuseIrregular keeps us from following a symbolic link to another of our files, and from waiting for ever for the other
// end of a pipe that somebody put in a file's place.
func (d *Dir) refuseIrregular(name string) error {
	info, err := d.root.Lstat(name)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return &fs.PathError{Op: "open", Path: name, Err: fmt.Errorf("not a regular file (%v)", info.Mode().Type())}
	}
	return nil
}

// Link implements Namer.
func (d *Dir) Link(oldname, newname string) error {
	if err := validPair("link", oldname, newname); err != nil {
		return err
	}
	return markFull(d.root.Link(oldname, newname))
}

// Rename implements Namer.
func (d *Dir) Rename(oldname, newname string) error {
	if err := validPair("rename", oldname, newname); err != nil {
		return err
	}
	return markFull(d.root.Rename(oldname, newname))
}

// Remove implements Namer.
func (d *Dir) Remove(name string) error {
	if err := validName("remove", name); err != nil {
		return err
	}
	return markFull(d.root.Remove(name))
}

// Mkdir implements Namer.
func (d *Dir) Mkdir(name string, perm fs.FileMode) error {
	if !fs.ValidPath(name) {
		return &fs.PathError{Op: "mkdir", Path: name, Err: fs.ErrInvalid}
	}
	return markFull(d.root.Mkdir(name, perm.Perm()))
}

// validName refuses names that lead elsewhere, and the root itself, which is not ours to remove or rename.
func validName(op, name string) error {
	if !fs.ValidPath(name) || name == "." {
		return &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return nil
}

func validPair(op, oldname, newname string) error {
	if validName(op, oldname) != nil || validName(op, newname) != nil {
		return &os.LinkError{Op: op, Old: oldname, New: newname, Err: fs.ErrInvalid}
	}
	return nil
}

// ReadDir implements Lister.
func (d *Dir) ReadDir(name string) ([]fs.DirEntry, error) {
	f, err := d.openDirectory("readdir", name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	for i, e := range list {
		list[i] = dirEntry{d: d, path: path.Join(name, e.Name()), name: e.Name(), kind: e.Type()}
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, nil
}

// dirEntry asks for the rest only when it is wanted: most listings need names alone.
type dirEntry struct {
	d    *Dir
	path string
	name string
	kind fs.FileMode
}

func (e dirEntry) Name() string               { return e.name }
func (e dirEntry) IsDir() bool                { return e.kind.IsDir() }
func (e dirEntry) Type() fs.FileMode          { return e.kind }
func (e dirEntry) Info() (fs.FileInfo, error) { return e.d.Stat(e.path) }
func (e dirEntry) String() string             { return fs.FormatDirEntry(e) }

// Stat implements Lister.
func (d *Dir) Stat(name string) (fs.FileInfo, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrInvalid}
	}
	return d.root.Lstat(name)
}

// SyncDir implements Syncer.
func (d *Dir) SyncDir(name string) error {
	f, err := d.openDirectory("syncdir", name)
	if err != nil {
		return err
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return markFull(err)
}

func (d *Dir) openDirectory(op, name string) (*os.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	return d.root.OpenFile(name, os.O_RDONLY|syscall.O_DIRECTORY, 0)
}

// Forget implements Syncer.
func (d *Dir) Forget(name string) error {
	if err := validName("forget", name); err != nil {
		return err
	}
	if err := d.refuseIrregular(name); err != nil {
		return err
	}
	f, err := d.root.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var advice error
	if err := conn.Control(func(fd uintptr) {
		advice = unix.Fadvise(int(fd), 0, 0, unix.FADV_DONTNEED) // length 0 is to the end
	}); err != nil {
		return err
	}
	if advice != nil {
		return &fs.PathError{Op: "forget", Path: name, Err: advice}
	}
	return nil
}

// dirFile is an open file of a Dir.
type dirFile struct {
	f    *os.File
	name string
	pos  int64                 // of the next Read; the descriptor's own is moved by writing
	bad  atomic.Pointer[error] // the first failed Sync
}

var errSyncedBadly = errors.New("an earlier sync of this file failed and its bytes may be nowhere: drop it")

func (f *dirFile) Read(p []byte) (int, error) {
	n, err := f.f.ReadAt(p, f.pos)
	f.pos += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (f *dirFile) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }

func (f *dirFile) Write(p []byte) (int, error) {
	if bad := f.bad.Load(); bad != nil {
		return 0, &fs.PathError{Op: "write", Path: f.name, Err: *bad}
	}
	n, err := f.f.Write(p)
	return n, markFull(err)
}

// Sync remembers its first failure: the kernel reports it once to each descriptor and then says that all is well.
func (f *dirFile) Sync() error {
	if bad := f.bad.Load(); bad != nil {
		return &fs.PathError{Op: "sync", Path: f.name, Err: *bad}
	}
	err := f.f.Sync()
	if err != nil && !errors.Is(err, fs.ErrClosed) {
		bad := fmt.Errorf("%w (%w)", errSyncedBadly, err)
		f.bad.Store(&bad)
	}
	return markFull(err)
}

func (f *dirFile) Size() (int64, error) {
	info, err := f.f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (f *dirFile) Close() error { return markFull(f.f.Close()) }
