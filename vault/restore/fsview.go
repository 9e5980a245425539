package restore

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"

	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// FS is the subtree at root, "" for all of it, as a read-only file system that implements fs.ReadDirFS, fs.StatFS and
// fs.ReadLinkFS. Names are bytes: unlike fs.ValidPath asks, they need not be UTF-8. Symbolic links are followed as
// [Resolve] says. Open returns a [*File], a [*Dir], or, for anything else, a file that can only be described; their
// FileInfo.Sys returns a *snapshot.Entry. ctx bounds every operation. Safe for concurrent use.
func FS(ctx context.Context, src Source, root string) fs.FS {
	return &fileSystem{ctx: ctx, src: src, root: root}
}

type fileSystem struct {
	ctx  context.Context
	src  Source
	root string
}

func (f *fileSystem) lookup(op, name string, follow bool) (snapshot.Entry, error) {
	inside := name
	if name == "." {
		inside = ""
	}
	if name == "" || strings.HasSuffix(name, "/") || (inside != "" && checkPath(inside) != nil) {
		return snapshot.Entry{}, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	e, err := Resolve(f.ctx, f.src, f.root, inside, follow)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fs.ErrNotExist
		}
		return snapshot.Entry{}, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return e, nil
}

// Open opens the named file, following links.
func (f *fileSystem) Open(name string) (fs.File, error) {
	e, err := f.lookup("open", name, true)
	if err != nil {
		return nil, err
	}
	fi := Info(&e, path.Base(name))
	switch e.Kind {
	case snapshot.Directory:
		d, err := OpenDir(f.ctx, f.src, e)
		if err != nil {
			return nil, err
		}
		d.info = fi
		return d, nil
	case snapshot.File:
		file, err := OpenFile(f.ctx, f.src, e)
		if err != nil {
			return nil, err
		}
		file.info = fi
		return file, nil
	}
	return special{fi}, nil
}

// ReadDir lists the named directory.
func (f *fileSystem) ReadDir(name string) ([]fs.DirEntry, error) {
	e, err := f.lookup("readdir", name, true)
	if err != nil {
		return nil, err
	}
	d, err := OpenDir(f.ctx, f.src, e)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	defer d.Close()
	return d.ReadDir(-1)
}

// Stat describes the named file, following links.
func (f *fileSystem) Stat(name string) (fs.FileInfo, error) { return f.describe("stat", name, true) }

// Lstat describes the named file or link itself.
func (f *fileSystem) Lstat(name string) (fs.FileInfo, error) { return f.describe("lstat", name, false) }

func (f *fileSystem) describe(op, name string, follow bool) (fs.FileInfo, error) {
	e, err := f.lookup(op, name, follow)
	if err != nil {
		return nil, err
	}
	return Info(&e, path.Base(name)), nil
}

// ReadLink returns the target of the named link as the source told it.
func (f *fileSystem) ReadLink(name string) (string, error) {
	e, err := f.lookup("readlink", name, false)
	if err != nil {
		return "", err
	}
	if e.Kind != snapshot.Symlink {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	return e.Target, nil
}

// special is an open fifo, socket or device: there is nothing in it to read.
type special struct{ fi fs.FileInfo }

func (s special) Stat() (fs.FileInfo, error) { return s.fi, nil }
func (s special) Close() error               { return nil }
func (s special) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: s.fi.Name(), Err: errors.New("not a regular file")}
}
