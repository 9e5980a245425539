package fsck

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
)

// Files are a vault's files as the checker sees them: it reads, and cannot do anything else. Names are relative to the
// vault's directory, with slashes. An *os.Root is one, through Dir.
type Files interface {
	// Lstat tells about a name without following a symbolic link.
	Lstat(name string) (fs.FileInfo, error)
	// Open opens a regular file for reading. It never waits for a pipe and never follows a symbolic link.
	Open(name string) (fs.File, error)
	// ReadDir lists a directory by name.
	ReadDir(name string) ([]fs.DirEntry, error)
}

// errNotRegular is wrapped by the error of a name that stands for something else than a file.
var errNotRegular = errors.New("not a regular file")

// Dir is a directory of the operating system, with the further directories that packs of the vault lie in once OpenPlaces
// has opened them. Nothing in it leads outside, whatever links were put there.
type Dir struct {
	root    *os.Root
	further []further
	listed  error // why the list of places cannot be read
}

// OpenDir opens a vault's directory. Close it.
func OpenDir(name string) (*Dir, error) {
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	return &Dir{root: root}, nil
}

// Close releases the directory; files that are open stay so.
func (d *Dir) Close() error {
	err := d.root.Close()
	for _, f := range d.further {
		if f.root != nil {
			err = errors.Join(err, f.root.Close())
		}
	}
	return err
}

// Lstat tells about a name without following a symbolic link.
func (d *Dir) Lstat(name string) (fs.FileInfo, error) {
	root, err := d.in(name)
	if err != nil {
		return nil, err
	}
	return root.Lstat(name)
}

// ReadDir lists a directory by name. Of a directory of packs it lists what every place has, each name once.
func (d *Dir) ReadDir(name string) ([]fs.DirEntry, error) {
	all, err := fs.ReadDir(d.root.FS(), name)
	if name != packsDir && name != incomingDir {
		return all, err
	}
	for _, f := range d.further {
		if f.root == nil {
			continue
		}
		more, merr := fs.ReadDir(f.root.FS(), name)
		if merr != nil {
			err = errors.Join(err, fmt.Errorf("%v: %w", &f, merr))
		}
		all = append(all, more...)
	}
	slices.SortStableFunc(all, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return slices.CompactFunc(all, func(a, b fs.DirEntry) bool { return a.Name() == b.Name() }), err
}

// Open opens a regular file for reading.
func (d *Dir) Open(name string) (fs.File, error) {
	root, err := d.in(name)
	if err != nil {
		return nil, err
	}
	before, err := root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !before.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fmt.Errorf("%w: %v", errNotRegular, before.Mode().Type())}
	}
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	after, err := f.Stat()
	if err == nil && !os.SameFile(before, after) {
		err = &fs.PathError{Op: "open", Path: name, Err: errors.New("exchanged while it was opened")}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// errTooLarge is wrapped by the error of a file that is larger than anything that holdfast writes in its place.
var errTooLarge = errors.New("larger than anything that belongs there")

// read gives the whole content of a file of at most most bytes.
func read(d Files, name string, most int64) ([]byte, error) {
	f, err := d.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// The size that the file system tells is not believed: a sparse file costs its liar nothing, and us memory.
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if int64(len(b)) > most {
		return nil, fmt.Errorf("%s: %w: more than %d bytes", name, errTooLarge, most)
	}
	return b, nil
}

// there says whether a name stands for anything.
func there(d Files, name string) bool {
	_, err := d.Lstat(name)
	return err == nil
}
