package crashdisk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// ErrCrashed is in the chain of every error of a disk whose power has failed. Reads fail as well: the machine is off.
var ErrCrashed = errors.New("the power has failed")

var (
	errDirectory    = syscall.EISDIR
	errNotDirectory = syscall.ENOTDIR
	errNotEmpty     = syscall.ENOTEMPTY
	errReadOnly     = errors.New("opened for reading only")
)

// Fault is what happens to one operation.
type Fault int

// The faults. "Lives on" means that later operations work again.
const (
	// Crash: the operation is not done, the power fails.
	Crash Fault = iota + 1
	// CrashAfter: the operation is done, then the power fails.
	CrashAfter
	// Torn: of a write a part of the bytes, perhaps none, is done, then the power fails. For other operations it is Crash.
	Torn
	// ShortWrite: of a write a part is done, perhaps nothing, and the error is both io.ErrShortWrite and ENOSPC; the disk
	// lives on. For other operations it is IOError.
	ShortWrite
	// NoSpace: the operation fails with ENOSPC and the disk is full from then on, until Refill or Restart: writes and new
	// names fail, removing and syncing work. Of a sync it is a failed sync as well: see SyncFail.
	NoSpace
	// IOError: the operation is not done and fails with EIO; the disk lives on. Of a sync it is SyncFail.
	IOError
	// SyncFail: a sync fails with EIO; the disk lives on. A file's unsynced bytes are taken for written without being so:
	// later syncs succeed and do not make them durable, reads show them until Restart or Forget. A directory's changes
	// stay unsynced, and a later sync may make them durable: a file system with a journal has either written them in the
	// end or refuses everything from then on, which is ReadOnly. For other operations it is IOError.
	SyncFail
	// IOErrorAfter: the operation is done and yet fails with EIO; the disk lives on.
	IOErrorAfter
	// ReadOnly: the operation is not done and fails with EIO, and every later one fails with EROFS until Restart, as when
	// the journal was given up; reads go on.
	ReadOnly
)

var faultNames = map[Fault]string{
	Crash: "crash", CrashAfter: "crash after", Torn: "torn", ShortWrite: "short write", NoSpace: "no space",
	IOError: "io error", SyncFail: "sync fails", IOErrorAfter: "io error after",
	ReadOnly: "read-only",
}

// Faults returns every fault, for sweeps.
func Faults() []Fault {
	return []Fault{Crash, CrashAfter, Torn, ShortWrite, NoSpace, IOError, SyncFail, IOErrorAfter, ReadOnly}
}

func (f Fault) String() string {
	if s, ok := faultNames[f]; ok {
		return s
	}
	return fmt.Sprintf("fault %d", int(f))
}

// kind is what an operation does, as far as faults care.
type kind int

const (
	frees kind = iota // takes away
	grows             // needs room
	syncs
	writes // needs room, and may be done in part
)

// operation is one counted call. Its preconditions hold; do cannot fail.
type operation struct {
	kind kind
	verb string // "link": for errors
	name string // first name, for errors
	text string // "link a b": for the log
	size int    // of a write
	do   func()
	part func(n int) // does the first n bytes of a write
	fail func()      // does what a failed sync does, if that is anything
}

// run counts an operation, lets the planned fault happen or does it, and returns the error and how many bytes a write
// wrote. d.mu is held.
func (d *Disk) run(o operation) (int, error) {
	d.ops++
	fault, planned := d.faults[d.ops]
	if d.readOnly {
		d.log = append(d.log, d.label+o.text+" !read-only")
		return 0, o.error(syscall.EROFS)
	}
	if !planned {
		if d.full && (o.kind == grows || o.kind == writes) {
			d.log = append(d.log, d.label+o.text+" !full")
			return 0, o.error(errNoSpace)
		}
		d.log = append(d.log, d.label+o.text)
		o.do()
		return o.size, nil
	}
	d.fired = true
	d.log = append(d.log, d.label+o.text+" !"+fault.String())
	return d.fault(o, o.meaning(fault))
}

// meaning replaces a fault that an operation cannot have by the one documented for it.
func (o operation) meaning(f Fault) Fault {
	switch {
	case f == Torn && o.kind != writes:
		return Crash
	case f == ShortWrite && o.kind != writes, f == SyncFail && o.kind != syncs:
		f = IOError
	}
	if f == IOError && o.kind == syncs {
		return SyncFail
	}
	return f
}

func (d *Disk) fault(o operation, f Fault) (int, error) {
	switch f {
	case Crash:
		d.crashed = true
		return 0, o.error(ErrCrashed)
	case CrashAfter:
		o.do()
		d.crashed = true
		return 0, o.error(ErrCrashed)
	case Torn:
		o.part(d.share(o.size))
		d.crashed = true
		return 0, o.error(ErrCrashed)
	case ShortWrite:
		n := d.share(o.size)
		o.part(n)
		return n, o.error(fmt.Errorf("%w: %w", io.ErrShortWrite, errNoSpace))
	case NoSpace:
		d.full = true
		if o.fail != nil {
			o.fail()
		}
		return 0, o.error(errNoSpace)
	case SyncFail:
		if o.fail != nil {
			o.fail()
		}
		return 0, o.error(syscall.EIO)
	case ReadOnly:
		d.readOnly = true
		return 0, o.error(syscall.EIO)
	case IOErrorAfter:
		o.do()
		return 0, o.error(syscall.EIO)
	default:
		return 0, o.error(syscall.EIO)
	}
}

var errNoSpace = fmt.Errorf("%w: %w", durable.ErrFull, syscall.ENOSPC)

func (o operation) error(err error) error {
	return &fs.PathError{Op: o.verb, Path: o.name, Err: err}
}

// share picks how much of a write of size bytes is done when it is not done whole: anything from nothing to all but one
// byte, differing from operation to operation and the same in every run.
func (d *Disk) share(size int) int {
	if size == 0 {
		return 0
	}
	x := uint64(d.ops) * 0x9e3779b97f4a7c15
	x ^= x >> 29
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 32
	return int(x % uint64(size))
}
