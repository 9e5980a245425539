package crashdisk

import (
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// alive refuses everything on a disk without power. d.mu is held.
func (d *Disk) alive(op, name string) error {
	if d.crashed {
		return &fs.PathError{Op: op, Path: name, Err: ErrCrashed}
	}
	return nil
}

// Create implements durable.Opener.
func (d *Disk) Create(name string, perm fs.FileMode) (durable.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.alive("create", name); err != nil {
		return nil, err
	}
	dir, base, err := d.parent("create", name)
	if err != nil {
		return nil, err
	}
	if _, ok := dir.entries[base]; ok {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	if err := dir.mayGain(); err != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: err}
	}
	n := newFile(perm)
	_, err = d.run(operation{
		kind: grows, verb: "create", name: name, text: "create " + name,
		do: func() { dir.set(base, n) },
	})
	if err != nil {
		return nil, err
	}
	n.writers++
	return &file{d: d, n: n, name: name, writable: true}, nil
}

// Append implements durable.Opener. A lease is broken at once, where a real system would wait a while.
func (d *Disk) Append(name string) (durable.File, error) {
	f, err := d.open(name, true)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Open implements durable.Opener.
func (d *Disk) Open(name string) (durable.File, error) {
	f, err := d.open(name, false)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (d *Disk) open(name string, writable bool) (*file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.alive("open", name); err != nil {
		return nil, err
	}
	n, err := d.file("open", name)
	if err != nil {
		return nil, err
	}
	if writable {
		if n.flags&durable.Immutable != 0 {
			return nil, &fs.PathError{Op: "open", Path: name, Err: errFlagged}
		}
		n.writers++
		n.lease = nil
	}
	return &file{d: d, n: n, name: name, writable: writable}, nil
}

// Link implements durable.Namer.
func (d *Disk) Link(oldname, newname string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.alive("link", oldname); err != nil {
		return err
	}
	if oldname == "." {
		return &fs.PathError{Op: "link", Path: oldname, Err: fs.ErrInvalid}
	}
	n, err := d.file("link", oldname)
	if err != nil {
		return err
	}
	dir, base, err := d.parent("link", newname)
	if err != nil {
		return err
	}
	if _, ok := dir.entries[base]; ok {
		return &fs.PathError{Op: "link", Path: newname, Err: fs.ErrExist}
	}
	if dir.mayGain() != nil || n.mayMove() != nil {
		return &fs.PathError{Op: "link", Path: newname, Err: errFlagged}
	}
	_, err = d.run(operation{
		kind: grows, verb: "link", name: newname, text: "link " + oldname + " " + newname,
		do: func() { dir.set(base, n) },
	})
	return err
}

// Rename implements durable.Namer.
func (d *Disk) Rename(oldname, newname string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.alive("rename", oldname); err != nil {
		return err
	}
	from, oldbase, err := d.parent("rename", oldname)
	if err != nil {
		return err
	}
	n, ok := from.entries[oldbase]
	if !ok {
		return &fs.PathError{Op: "rename", Path: oldname, Err: fs.ErrNotExist}
	}
	to, newbase, err := d.parent("rename", newname)
	if err != nil {
		return err
	}
	replaced := to.entries[newbase]
	if replaced == n {
		return nil // two names of one file: POSIX leaves both
	}
	if err := mayReplace(n, replaced, to); err != nil {
		return &fs.PathError{Op: "rename", Path: newname, Err: err}
	}
	if err := flaggedRename(from, to, n, replaced); err != nil {
		return &fs.PathError{Op: "rename", Path: newname, Err: err}
	}
	_, err = d.run(operation{
		kind: grows, verb: "rename", name: newname, text: "rename " + oldname + " " + newname,
		do: func() {
			from.set(oldbase, nil)
			to.set(newbase, n)
		},
	})
	return err
}

// mayReplace tells whether n may take the place of another (nil for none) in directory to.
func mayReplace(n, other, to *inode) error {
	switch {
	case n.dir && n.contains(to):
		return fs.ErrInvalid
	case other == nil:
		return nil
	case n.dir && !other.dir:
		return errNotDirectory
	case !n.dir && other.dir:
		return errDirectory
	case other.dir && len(other.entries) > 0:
		return errNotEmpty
	}
	return nil
}

// Remove implements durable.Namer.
func (d *Disk) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.alive("remove", name); err != nil {
		return err
	}
	dir, base, err := d.parent("remove", name)
	if err != nil {
		return err
	}
	n, ok := dir.entries[base]
	if !ok {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	if n.dir && len(n.entries) > 0 {
		return &fs.PathError{Op: "remove", Path: name, Err: errNotEmpty}
	}
	if err := dir.mayLose(n); err != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	_, err = d.run(operation{
		kind: frees, verb: "remove", name: name, text: "remove " + name,
		do: func() { dir.set(base, nil) },
	})
	return err
}

// Mkdir implements durable.Namer.
func (d *Disk) Mkdir(name string, perm fs.FileMode) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.alive("mkdir", name); err != nil {
		return err
	}
	if name == "." {
		return &fs.PathError{Op: "mkdir", Path: name, Err: fs.ErrExist}
	}
	dir, base, err := d.parent("mkdir", name)
	if err != nil {
		return err
	}
	if _, ok := dir.entries[base]; ok {
		return &fs.PathError{Op: "mkdir", Path: name, Err: fs.ErrExist}
	}
	if err := dir.mayGain(); err != nil {
		return &fs.PathError{Op: "mkdir", Path: name, Err: err}
	}
	_, err = d.run(operation{
		kind: grows, verb: "mkdir", name: name, text: "mkdir " + name,
		do: func() { dir.set(base, newDirectory(perm)) },
	})
	return err
}

// ReadDir implements durable.Lister.
func (d *Disk) ReadDir(name string) ([]fs.DirEntry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.alive("readdir", name); err != nil {
		return nil, err
	}
	n, err := d.directory("readdir", name)
	if err != nil {
		return nil, err
	}
	list := make([]fs.DirEntry, 0, len(n.entries))
	for base, e := range n.entries {
		list = append(list, fs.FileInfoToDirEntry(e.info(base)))
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return list, nil
}

// Stat implements durable.Lister. The time of modification is always the epoch.
func (d *Disk) Stat(name string) (fs.FileInfo, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.alive("stat", name); err != nil {
		return nil, err
	}
	n, err := d.lookup("stat", name)
	if err != nil {
		return nil, err
	}
	return n.info(name[strings.LastIndexByte(name, '/')+1:]), nil
}

// SyncDir implements durable.Syncer.
func (d *Disk) SyncDir(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.alive("syncdir", name); err != nil {
		return err
	}
	n, err := d.directory("syncdir", name)
	if err != nil {
		return err
	}
	_, err = d.run(operation{
		kind: syncs, verb: "syncdir", name: name, text: "syncdir " + name,
		do: n.syncDir,
	})
	return err
}

// Forget implements durable.Syncer. It is no operation: neither what is on the medium nor what is still to be synced
// changes.
func (d *Disk) Forget(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.alive("forget", name); err != nil {
		return err
	}
	n, err := d.file("forget", name)
	if err != nil {
		return err
	}
	n.forget()
	return nil
}

// file is an open file. Its fields besides n's content are its user's, who calls from one goroutine at a time; ReadAt may
// run beside the others, so that closed is guarded by d.mu.
type file struct {
	d        *Disk
	n        *inode
	name     string
	writable bool
	closed   bool
	pos      int64
}

// ready refuses operations on a closed file and on a disk without power. f.d.mu is held.
func (f *file) ready(op string) error {
	if f.closed {
		return &fs.PathError{Op: op, Path: f.name, Err: fs.ErrClosed}
	}
	return f.d.alive(op, f.name)
}

func (f *file) Read(p []byte) (int, error) {
	n, err := f.ReadAt(p, f.pos)
	f.pos += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.ready("read"); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, &fs.PathError{Op: "read", Path: f.name, Err: fs.ErrInvalid}
	}
	if len(p) == 0 {
		return 0, nil
	}
	if off >= int64(len(f.n.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) Write(p []byte) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.ready("write"); err != nil {
		return 0, err
	}
	if !f.writable {
		return 0, &fs.PathError{Op: "write", Path: f.name, Err: errReadOnly}
	}
	return f.d.run(operation{
		kind: writes, verb: "write", name: f.name, text: "write " + f.name, size: len(p),
		do:   func() { f.n.write(p) },
		part: func(n int) { f.n.write(p[:n]) },
	})
}

func (f *file) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.ready("sync"); err != nil {
		return err
	}
	_, err := f.d.run(operation{
		kind: syncs, verb: "sync", name: f.name, text: "sync " + f.name,
		do: f.n.sync, fail: f.n.syncFailed,
	})
	return err
}

func (f *file) Size() (int64, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.ready("stat"); err != nil {
		return 0, err
	}
	return int64(len(f.n.data)), nil
}

// Close closes the file, also on a disk without power.
func (f *file) Close() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.closed {
		return &fs.PathError{Op: "close", Path: f.name, Err: fs.ErrClosed}
	}
	f.closed = true
	if f.writable {
		f.n.writers--
	}
	return nil
}

// info describes an inode as it is now.
func (n *inode) info(name string) fs.FileInfo {
	mode := n.perm
	if n.dir {
		mode |= fs.ModeDir
	}
	return info{name: name, size: int64(len(n.data)), mode: mode}
}

type info struct {
	name string
	size int64
	mode fs.FileMode
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return time.Unix(0, 0).UTC() }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return nil }
