// Package crashdisk is a durable.Disk for tests that forgets what was not made durable and can fail at any operation.
//
// It keeps two states of everything: what reads see (the cache), and what is on the medium. File content moves from the
// one to the other by Sync of the file, and directory entries, each on its own, by SyncDir of their directory. Syncing a
// file says nothing of its name, syncing a directory nothing of the files in it. Restart gives the disk as it is found
// after a power cut. The model is in places more cruel than any one file system; docs/CRASH.md names the cases.
//
// Every call that changes something counts as one operation: create, write, sync, link, rename, remove, mkdir, syncdir.
// Calls that are refused for an ordinary reason (the name exists, the file is closed) change nothing and do not count.
// FailAt plans a fault for an operation by its number.
package crashdisk

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

var _ durable.Disk = (*Disk)(nil)

// Disk is a disk in memory. It is safe for concurrent use.
type Disk struct {
	*power
	root     *inode
	label    string // in the log, where several disks share it
	full     bool
	readOnly bool
}

// power is what disks of one machine share: operations are counted, and cut, over all of them.
type power struct {
	mu      sync.Mutex // guards all below, the disks, and every inode reachable from a root or from an open file
	ops     int64
	log     []string
	faults  map[int64]Fault
	fired   bool
	crashed bool
}

// New returns an empty disk.
func New() *Disk {
	return &Disk{power: &power{faults: map[int64]Fault{}}, root: newDirectory(0o755)}
}

// Together puts disks under one power, that of the first: operations are counted over all of them in one row, a fault is
// planned for the operation with that number wherever it happens, and a crash is one of all. Room, and what was given up
// for reading only, stays each disk's own. It is called before the disks are used; in the log those behind the first are
// "#2 " and so on.
func Together(first *Disk, others ...*Disk) {
	for i, d := range others {
		d.power, d.label = first.power, fmt.Sprintf("#%d ", i+2)
	}
}

// Ops returns how many operations were counted so far.
func (d *Disk) Ops() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ops
}

// Log returns the operations in their order, one a line, for golden tests of the order of I/O:
//
//	create incoming/00000001.pack
//	write incoming/00000001.pack
//	sync incoming/00000001.pack
//	link incoming/00000001.pack packs/00000001.pack
//	syncdir packs
//
// A file is named as it was opened. An operation that a fault hit has " !" and the fault behind it.
func (d *Disk) Log() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.log)
}

// FailAt plans a fault for the operation with that number; the first is 1. Several may be planned.
func (d *Disk) FailAt(op int64, f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults[op] = f
}

// Fired tells whether a planned fault has happened.
func (d *Disk) Fired() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fired
}

// Refill makes room again after NoSpace. Nothing but Restart helps after ReadOnly.
func (d *Disk) Refill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = false
}

// Clone returns an independent disk, under a power of its own, in the same state, cached and durable, with its count and planned faults. Files that
// are open stay files of the old disk.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := &Disk{
		power: &power{ops: d.ops, log: slices.Clone(d.log), faults: maps.Clone(d.faults), fired: d.fired, crashed: d.crashed},
		full:  d.full, readOnly: d.readOnly,
	}
	c.root = d.root.clone(map[*inode]*inode{})
	return c
}

// Flip changes bits of one byte of a file, in the cache and on the medium alike, as rot does. It is no operation.
func (d *Disk) Flip(name string, offset int64, mask byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.file("flip", name)
	if err != nil {
		return err
	}
	if offset < 0 || offset >= int64(len(n.data)) {
		return &fs.PathError{Op: "flip", Path: name, Err: fs.ErrInvalid}
	}
	n.flip(offset, mask)
	return nil
}

// Files returns the names of all files that reads see, sorted.
func (d *Disk) Files() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	var walk func(prefix string, n *inode)
	walk = func(prefix string, n *inode) {
		for name, e := range n.entries {
			if e.dir {
				walk(prefix+name+"/", e)
			} else {
				names = append(names, prefix+name)
			}
		}
	}
	walk("", d.root)
	slices.Sort(names)
	return names
}

// lookup finds what reads see under a name. d.mu is held.
func (d *Disk) lookup(op, name string) (*inode, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	n := d.root
	if name == "." {
		return n, nil
	}
	for part := range strings.SplitSeq(name, "/") {
		if !n.dir {
			return nil, &fs.PathError{Op: op, Path: name, Err: errNotDirectory}
		}
		next, ok := n.entries[part]
		if !ok {
			return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
		}
		n = next
	}
	return n, nil
}

// file finds a regular file. d.mu is held.
func (d *Disk) file(op, name string) (*inode, error) {
	n, err := d.lookup(op, name)
	if err != nil {
		return nil, err
	}
	if n.dir {
		return nil, &fs.PathError{Op: op, Path: name, Err: errDirectory}
	}
	return n, nil
}

// directory finds a directory. d.mu is held.
func (d *Disk) directory(op, name string) (*inode, error) {
	n, err := d.lookup(op, name)
	if err != nil {
		return nil, err
	}
	if !n.dir {
		return nil, &fs.PathError{Op: op, Path: name, Err: errNotDirectory}
	}
	return n, nil
}

// parent finds the directory that a name stands in, or is to stand in, and the name's last part. d.mu is held.
func (d *Disk) parent(op, name string) (*inode, string, error) {
	if !fs.ValidPath(name) || name == "." {
		return nil, "", &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	dir, base := ".", name
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		dir, base = name[:i], name[i+1:]
	}
	n, err := d.directory(op, dir)
	return n, base, err
}
