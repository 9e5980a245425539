package restore

import (
	"context"
	"errors"
	"io"

	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// Target is what a restore writes to: a directory here, another host later. Paths are relative to the target's own top,
// slash-separated, every component checked by CheckName; "" is the top itself, which exists before the restore begins.
// An entry's Parent and Name are those of the catalog: only the path says where it goes.
//
// Directory, Link and Finish are called from one goroutine, File from several at once. A parent's Directory has returned
// before anything below it is asked for; Finish comes when everything below has been made.
type Target interface {
	// Directory makes a directory that its owner can write to.
	Directory(ctx context.Context, path string, e *snapshot.Entry) error
	// File begins a regular file of e.Size bytes. It has no place under its path before Commit.
	File(ctx context.Context, path string, e *snapshot.Entry) (TargetFile, error)
	// Link makes what has no content: a symbolic link or a fifo, with its attributes.
	Link(ctx context.Context, path string, e *snapshot.Entry) error
	// Finish gives a directory its attributes. It is asked for directories that could not be made, too: the error for one
	// that is not there wraps fs.ErrNotExist.
	Finish(ctx context.Context, path string, e *snapshot.Entry) error
}

// TargetFile is a regular file being written. WriteAt may be called from several goroutines for ranges that do not
// overlap; ranges that are never written read as zeros. Exactly one of Commit and Abort ends it.
type TargetFile interface {
	io.WriterAt
	Commit() error // size, attributes, then its name
	Abort() error  // leaves nothing behind
}

// opError carries what was being done when err happened, so that a Failure can say so.
type opError struct {
	op  string
	err error
}

func (e *opError) Error() string { return e.op + ": " + e.err.Error() }
func (e *opError) Unwrap() error { return e.err }

// doing names the operation of a failing call, unless somebody nearer to it has done so; nil stays nil.
func doing(op string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*opError](err); ok {
		return err
	}
	return &opError{op, err}
}
