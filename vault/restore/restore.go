// Package restore gives a snapshot back: as a read-only file system, into a directory, as a tar stream, as the bytes of
// one file, and as the difference between two snapshots.
//
// Every byte comes out of a [Content], whose Fetch verifies a chunk against its ID before handing it over; what this
// package adds is that the sizes agree too, and that whatever could not be had is named and counted: a restore that
// misses anything returns an error that says so.
//
// Names in a catalog come from the host that was pulled and are hostile until proven otherwise. They are checked one
// component at a time (see [CheckName]), and no link that lies in a target is ever followed.
package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"strings"

	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// Tree is the catalog of one snapshot. All methods are safe for concurrent use. Paths are relative to the root of the
// snapshot, slash-separated, names as bytes; "" is the root.
type Tree interface {
	// Lookup returns the entry at path, or an error that wraps fs.ErrNotExist.
	Lookup(ctx context.Context, path string) (snapshot.Entry, error)
	// List yields the children of dir in the order of their names as bytes. It ends at the first error.
	List(ctx context.Context, dir string) iter.Seq2[snapshot.Entry, error]
	// Walk yields the entry at path and then everything below it in catalog order: parents first, the children of one
	// directory next to each other. It ends at the first error.
	Walk(ctx context.Context, path string) iter.Seq2[snapshot.Entry, error]
}

// Content is what the files of one snapshot hold. Both methods are safe for concurrent use.
type Content interface {
	// Content yields the chunks of the file e in order. It ends at the first error.
	Content(ctx context.Context, e snapshot.Entry) iter.Seq2[snapshot.Ref, error]
	// Fetch returns the bytes of one chunk, verified against its ID. They must not be modified.
	Fetch(ctx context.Context, r snapshot.Ref) ([]byte, error)
}

// Ordered is what a Content may offer besides: then a restore goes through the packs in their order and decodes a block once
// for all files that lie in it. Both methods are safe for concurrent use.
type Ordered interface {
	// Places says in which block of a pack chunks lie: at[i] becomes any number that is greater for a later block and equal for
	// chunks of one, -1 where that cannot be told.
	Places(ctx context.Context, pack uint32, refs []snapshot.Ref, at []int64)
	// Use calls f with the bytes of one chunk, verified as Fetch does. They must not be modified and are valid until f returns.
	// An error of f is returned as it is.
	Use(ctx context.Context, r snapshot.Ref, f func(data []byte) error) error
}

// Source is one snapshot.
type Source interface {
	Tree
	Content
}

// FromTree makes a Source of a catalog and the chunks it names. f must verify what it returns.
func FromTree(t *snapshot.Tree, f snapshot.Fetcher) Source { return treeSource{t, f} }

type treeSource struct {
	*snapshot.Tree
	snapshot.Fetcher
}

func (s treeSource) Content(ctx context.Context, e snapshot.Entry) iter.Seq2[snapshot.Ref, error] {
	return snapshot.Chunks(ctx, s.Fetcher, e)
}

// Options say how a restore into a directory or another target is done. The zero value is a good one.
type Options struct {
	Overwrite bool // the target may hold something already: files and links of the same name are replaced, directories are shared, the rest stays
	Workers   int  // blocks of small files, or parts of large ones, restored at once; 0 means one more than there are processors
	Owner     bool // give entries their recorded uid and gid where the system permits it
	NoSync    bool // do not ask the system to write everything to the medium before returning
	Events    Events
}

// Events are told what happens. Any of them may be nil. They are called one at a time, and hold the restore up while
// they run.
type Events struct {
	Progress func(Progress)
	Failure  func(Failure)
	Note     func(path, text string)
}

// Progress is how far a restore has come.
type Progress struct {
	Files   uint64 // finished regular files
	Entries uint64 // finished entries of any kind
	Bytes   uint64 // content delivered, holes included
}

// Failure is one entry that could not be given back as it was.
type Failure struct {
	Path string // as in the catalog, as bytes
	Op   string // what was being done: "read", "write", "name", "mode", …
	Err  error
}

func (f Failure) Error() string { return fmt.Sprintf("%q: %s: %v", f.Path, f.Op, f.Err) }

// Unwrap returns the cause.
func (f Failure) Unwrap() error { return f.Err }

// FailuresKept is how many failures and notes of each restore are kept with their text; more are only counted.
const FailuresKept = 100

// failuresPrinted is how many of them the error's text shows.
const failuresPrinted = 10

// Report says what a restore did. It is valid, and counts what was done, even when an error came with it.
type Report struct {
	Files, Directories, Symlinks, Fifos uint64
	Bytes                               uint64    // content of the finished files
	HoleBytes                           uint64    // the part of Bytes that was left as holes
	Skipped                             uint64    // entries that are never made: devices, sockets, unknown kinds
	Unowned                             uint64    // entries whose recorded owner could not be set
	Notes                               []Note    // the first FailuresKept
	Failures                            []Failure // the first FailuresKept
	FailureCount                        uint64
}

// Note is something worth telling that is not a failure.
type Note struct{ Path, Text string }

// err is nil when nothing failed, else an *Error.
func (r *Report) err() error {
	if r.FailureCount == 0 {
		return nil
	}
	return &Error{Failures: r.Failures, Count: r.FailureCount}
}

// Error says that a restore went to its end, or stopped, without giving back everything. Failures holds the first
// FailuresKept of Count.
type Error struct {
	Failures []Failure
	Count    uint64
}

func (e *Error) Error() string {
	var b strings.Builder
	noun := "entries"
	if e.Count == 1 {
		noun = "entry"
	}
	fmt.Fprintf(&b, "the restore is not complete: %d %s could not be given back:", e.Count, noun)
	for i, f := range e.Failures {
		if i == failuresPrinted {
			break
		}
		fmt.Fprintf(&b, "\n  %v", f)
	}
	if shown := min(len(e.Failures), failuresPrinted); uint64(shown) < e.Count {
		fmt.Fprintf(&b, "\n  and %d more", e.Count-uint64(shown))
	}
	return b.String()
}

// Unwrap returns the causes that were kept.
func (e *Error) Unwrap() []error {
	errs := make([]error, len(e.Failures))
	for i, f := range e.Failures {
		errs[i] = f
	}
	return errs
}

var (
	// ErrName is what CheckName answers for a name that no directory can hold.
	ErrName = errors.New("not a name that a directory can hold")
	// ErrOutside is returned for a symbolic link that cannot be followed inside the snapshot.
	ErrOutside = errors.New("the link leads outside the snapshot")
	// ErrLinks is returned when following links does not come to an end.
	ErrLinks = errors.New("too many links")
	// ErrSize is returned when the chunks of a file do not add up to its recorded size.
	ErrSize = errors.New("the content does not have the recorded size")
)

// CheckName refuses every name that is not exactly one component: empty, "." and "..", and anything with a slash or a
// NUL byte. Any other bytes are a name.
func CheckName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%q: %w", name, ErrName)
	}
	return nil
}

// checkPath applies CheckName to every component; "" is the root and passes.
func checkPath(path string) error {
	if path == "" {
		return nil
	}
	for name := range strings.SplitSeq(path, "/") {
		if err := CheckName(name); err != nil {
			return err
		}
	}
	return nil
}

// below returns the path of e relative to root, "" for root itself, or an error when e does not lie there or its path
// is not one that can be made anywhere.
func below(root string, e *snapshot.Entry) (string, error) {
	p := e.Path()
	if e.Name != "" || e.Parent != "" {
		if err := errors.Join(CheckName(e.Name), checkPath(e.Parent)); err != nil {
			return "", err
		}
	}
	switch {
	case p == root:
		return "", nil
	case root == "":
		return p, nil
	case strings.HasPrefix(p, root+"/"):
		return p[len(root)+1:], nil
	}
	return "", fmt.Errorf("entry %q does not lie below %q: the catalog is damaged", p, root)
}

// join puts a name behind a directory of the catalog.
func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// notExist is the error for a path that is not there.
func notExist(op, path string) error {
	return &fs.PathError{Op: op, Path: fmt.Sprintf("%q", path), Err: fs.ErrNotExist}
}
