package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"sync"
	"time"

	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// Info describes e in the words of io/fs. name is what Name returns; Sys returns the entry.
func Info(e *snapshot.Entry, name string) fs.FileInfo { return info{e, name} }

type info struct {
	e    *snapshot.Entry
	name string
}

func (i info) Name() string       { return i.name }
func (i info) Mode() fs.FileMode  { return Mode(i.e) }
func (i info) ModTime() time.Time { return time.Unix(i.e.MTime, 0) }
func (i info) IsDir() bool        { return i.e.Kind == snapshot.Directory }
func (i info) Sys() any           { return i.e }
func (i info) String() string     { return fs.FormatFileInfo(i) }
func (i info) Size() int64 {
	switch i.e.Kind {
	case snapshot.File:
		return int64(i.e.Size)
	case snapshot.Symlink:
		return int64(len(i.e.Target))
	}
	return 0
}

var typeOf = map[snapshot.Kind]fs.FileMode{
	snapshot.File:        0,
	snapshot.Directory:   fs.ModeDir,
	snapshot.Symlink:     fs.ModeSymlink,
	snapshot.Fifo:        fs.ModeNamedPipe,
	snapshot.Socket:      fs.ModeSocket,
	snapshot.CharDevice:  fs.ModeDevice | fs.ModeCharDevice,
	snapshot.BlockDevice: fs.ModeDevice,
}

// Mode is the type and the permission, set-id and sticky bits of e.
func Mode(e *snapshot.Entry) fs.FileMode {
	typ, ok := typeOf[e.Kind]
	if !ok {
		typ = fs.ModeIrregular
	}
	m := typ | fs.FileMode(e.Mode&0o777)
	for _, b := range []struct {
		unix uint32
		mode fs.FileMode
	}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}} {
		if e.Mode&b.unix != 0 {
			m |= b.mode
		}
	}
	return m
}

const (
	refsKept   = 4096 // references remembered behind and around the reading position of an open file
	chunksKept = 2    // chunks kept by an open file: readers go forward and overlap a little
)

// File is an open regular file of a snapshot. Reads at any offset are served; going forward costs each chunk once, going
// far back in a very large file costs reading its list of chunks again. Memory: at most two chunks and a few thousand
// references. All methods are safe for concurrent use, one at a time makes progress.
type File struct {
	ctx  context.Context
	src  Content
	e    snapshot.Entry
	info fs.FileInfo

	mu     sync.Mutex // guards all below, and is held while a chunk is fetched
	closed bool
	pos    int64 // of Read and Seek
	next   func() (snapshot.Ref, error, bool)
	stop   func()
	refs   []span // consecutive; the last one is where the list was read to
	data   []loaded
}

// span is a chunk and where it begins in the file.
type span struct {
	ref   snapshot.Ref
	start int64
}

func (s span) end() int64 { return s.start + int64(s.ref.Size) }

type loaded struct {
	span
	bytes []byte
}

// OpenFile opens the regular file e; ctx bounds all reads.
func OpenFile(ctx context.Context, src Content, e snapshot.Entry) (*File, error) {
	if e.Kind != snapshot.File || int64(e.Size) < 0 {
		return nil, fmt.Errorf("%q: not a regular file: %w", e.Path(), fs.ErrInvalid)
	}
	return &File{ctx: ctx, src: src, e: e, info: Info(&e, e.Name)}, nil
}

// Stat describes the file.
func (f *File) Stat() (fs.FileInfo, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, f.err("stat", fs.ErrClosed)
	}
	return f.info, nil
}

func (f *File) err(op string, err error) error {
	return &fs.PathError{Op: op, Path: fmt.Sprintf("%q", f.e.Path()), Err: err}
}

// Close lets go of what is held.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return f.err("close", fs.ErrClosed)
	}
	f.closed = true
	f.rewind()
	f.data = nil
	return nil
}

// Read reads from the current position.
func (f *File) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(p) == 0 && !f.closed {
		return 0, nil
	}
	n, err := f.readSome(p, f.pos)
	f.pos += int64(n)
	return n, err
}

// Seek moves the position of Read.
func (f *File) Seek(offset int64, whence int) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += f.pos
	case io.SeekEnd:
		offset += int64(f.e.Size)
	default:
		return 0, f.err("seek", fs.ErrInvalid)
	}
	if f.closed {
		return 0, f.err("seek", fs.ErrClosed)
	}
	if offset < 0 {
		return 0, f.err("seek", fs.ErrInvalid)
	}
	f.pos = offset
	return offset, nil
}

// ReadAt fills p from offset off; fewer bytes come with io.EOF at the end of the file, or with another error.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if off < 0 {
		return 0, f.err("read", fs.ErrInvalid)
	}
	n := 0
	for n < len(p) {
		m, err := f.readSome(p[n:], off+int64(n))
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// readSome reads up to the end of one chunk. Caller holds mu.
func (f *File) readSome(p []byte, off int64) (int, error) {
	if f.closed {
		return 0, f.err("read", fs.ErrClosed)
	}
	if off >= int64(f.e.Size) {
		return 0, io.EOF
	}
	l, err := f.load(off)
	if err != nil {
		return 0, f.err("read", err)
	}
	return copy(p, l.bytes[off-l.start:]), nil
}

// load returns the chunk that holds offset off. Caller holds mu.
func (f *File) load(off int64) (loaded, error) {
	for i, l := range f.data {
		if l.start <= off && off < l.end() {
			if i > 0 {
				f.data[0], f.data[i] = f.data[i], f.data[0]
			}
			return l, nil
		}
	}
	s, err := f.find(off)
	if err != nil {
		return loaded{}, err
	}
	b, err := fetch(f.ctx, f.src, s.ref)
	if err != nil {
		return loaded{}, err
	}
	l := loaded{s, b}
	if len(f.data) < chunksKept {
		f.data = append(f.data, loaded{})
	}
	copy(f.data[1:], f.data)
	f.data[0] = l
	return l, nil
}

// find returns the chunk that holds offset off, reading the list on, or again from its start. Caller holds mu.
func (f *File) find(off int64) (span, error) {
	if f.next == nil || (len(f.refs) > 0 && off < f.refs[0].start) {
		f.rewind()
		f.next, f.stop = iter.Pull2(f.src.Content(f.ctx, f.e))
	}
	lo, hi := 0, len(f.refs)
	for lo < hi { // the first chunk that ends behind off
		mid := (lo + hi) / 2
		if f.refs[mid].end() > off {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	if lo < len(f.refs) {
		return f.refs[lo], nil
	}
	start := int64(0)
	if n := len(f.refs); n > 0 {
		start = f.refs[n-1].end()
	}
	for {
		ref, err, ok := f.next()
		if err == nil && !ok {
			err = fmt.Errorf("%w: %d bytes of %d", ErrSize, start, f.e.Size)
		}
		if err == nil && int64(ref.Size) > int64(f.e.Size)-start {
			err = fmt.Errorf("%w: more than %d bytes", ErrSize, f.e.Size)
		}
		if err != nil {
			f.rewind()
			return span{}, err
		}
		s := span{ref, start}
		if len(f.refs) == refsKept {
			f.refs = append(f.refs[:0], f.refs[refsKept/2:]...)
		}
		f.refs = append(f.refs, s)
		if start = s.end(); start > off {
			return s, nil
		}
	}
}

// rewind forgets how far the list of chunks was read. Caller holds mu.
func (f *File) rewind() {
	if f.stop != nil {
		f.stop()
	}
	f.next, f.stop, f.refs = nil, nil, nil
}

// Dir is an open directory of a snapshot.
type Dir struct {
	info fs.FileInfo
	path string
	list iter.Seq2[snapshot.Entry, error]

	mu     sync.Mutex // guards all below
	next   func() (snapshot.Entry, error, bool)
	stop   func()
	closed bool
}

// OpenDir opens the directory e; ctx bounds the listing.
func OpenDir(ctx context.Context, t Tree, e snapshot.Entry) (*Dir, error) {
	if e.Kind != snapshot.Directory {
		return nil, fmt.Errorf("%q: %w", e.Path(), snapshot.ErrNotDirectory)
	}
	return &Dir{info: Info(&e, e.Name), path: e.Path(), list: t.List(ctx, e.Path())}, nil
}

// Stat describes the directory.
func (d *Dir) Stat() (fs.FileInfo, error) { return d.info, nil }

// Read always fails: a directory has no bytes.
func (d *Dir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: fmt.Sprintf("%q", d.path), Err: errors.New("is a directory")}
}

// ReadDir returns the next n entries in the order of their names, or all that remain if n <= 0, as fs.ReadDirFile says.
func (d *Dir) ReadDir(n int) ([]fs.DirEntry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, &fs.PathError{Op: "readdir", Path: fmt.Sprintf("%q", d.path), Err: fs.ErrClosed}
	}
	if d.next == nil {
		d.next, d.stop = iter.Pull2(d.list)
	}
	out := []fs.DirEntry{}
	for n <= 0 || len(out) < n {
		e, err, ok := d.next()
		if err != nil {
			return out, &fs.PathError{Op: "readdir", Path: fmt.Sprintf("%q", d.path), Err: err}
		}
		if !ok {
			if n > 0 && len(out) == 0 {
				return out, io.EOF
			}
			break
		}
		if err := CheckName(e.Name); err != nil {
			return out, &fs.PathError{Op: "readdir", Path: fmt.Sprintf("%q", d.path), Err: err}
		}
		out = append(out, fs.FileInfoToDirEntry(Info(&e, e.Name)))
	}
	return out, nil
}

// Close lets go of the listing.
func (d *Dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return &fs.PathError{Op: "close", Path: fmt.Sprintf("%q", d.path), Err: fs.ErrClosed}
	}
	d.closed = true
	if d.stop != nil {
		d.stop()
	}
	return nil
}
