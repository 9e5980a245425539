// Package snapshot says what a snapshot is: the canonical bytes of its entries, catalog and manifest.
//
// A snapshot is a manifest (see [Manifest]) that names the root of a catalog. The catalog is a search tree of
// entries, sorted by (parent directory, name), cut into leaves and nodes whose bounds depend on keys alone, so
// that what did not change between two snapshots is the same chunk in both. Leaves, nodes and chunk lists are
// chunks like any other: they are written through a [Putter] and read through a [Fetcher].
//
// Everything read here is treated as hostile: lengths are compared with what is there before anything is
// allocated, and what parses encodes again to the very same bytes.
package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/holdfast-vault/holdfast/immutability/reliance"
	"github.com/holdfast-vault/holdfast/vault/chunk"
)

// Kind is the kind of file that an entry describes.
type Kind uint8

// The kinds. Their numbers are part of the format.
const (
	File Kind = iota + 1
	Directory
	Symlink
	Fifo
	Socket
	CharDevice
	BlockDevice
	Unknown // the source did not say what it is

	kindEnd
)

var kindNames = [...]string{"invalid", "file", "directory", "symlink", "fifo", "socket", "chardevice", "blockdevice", "unknown"}

// String gives the kind as one lower-case word.
func (k Kind) String() string {
	if k >= kindEnd {
		return fmt.Sprintf("kind(%d)", uint8(k))
	}
	return kindNames[k]
}

// Flags say how an entry's content was read. Bits that this release does not know are kept.
type Flags uint32

// The flags. Their values are part of the format.
const (
	Racy    Flags = 1 << iota // modified too close to the reading: read it again next time even if nothing seems changed
	Changed                   // changed while it was read; this is the last copy obtained
	Short                     // ended before the size that the source had told
	Grew                      // grew while it was read; this is the prefix of the size first told
	Resumed                   // read in more than one run of the session
)

// Limits on what an entry may hold; all of them are checked before anything is allocated.
const (
	InlineChunks = 128      // a file of more chunks than this carries a list
	MaxName      = 4 << 10  // bytes
	MaxParent    = 32 << 10 // bytes
	MaxTarget    = 64 << 10 // bytes
	MaxMode      = 0o7777   // permission, set-id and sticky bits
	MaxDepth     = 16       // levels of a catalog
	maxObject    = 2 << 20  // bytes of a leaf, node or list chunk: the largest chunk that a pack takes
	maxRefSize   = chunk.MaxSize
)

// ErrNewer marks data in a format that only a later release understands.
var ErrNewer = reliance.ErrNewer

// ErrNotDirectory is returned where a directory was asked for and something else stands there.
var ErrNotDirectory = errors.New("not a directory")

// DamageError says which part of a snapshot cannot be what was written. It never hides [ErrNewer].
type DamageError struct {
	What   string // "entry", "catalog leaf 3f2a…", "manifest body"
	Detail string
}

func (e *DamageError) Error() string { return e.What + " is damaged: " + e.Detail }

func damaged(what, format string, args ...any) error {
	return &DamageError{What: what, Detail: fmt.Sprintf(format, args...)}
}

type newerError struct {
	what    string
	version int
}

func (e *newerError) Error() string {
	return fmt.Sprintf("%s has format version %d: it was %v; use that release to read it", e.what, e.version, ErrNewer)
}

func (e *newerError) Unwrap() error { return ErrNewer }

// Ref names a chunk, its plaintext size in bytes and the pack that is relied on for it.
type Ref struct {
	ID   chunk.ID
	Size uint32
	Pack uint32
}

type refJSON struct {
	ID   string `json:"id"`
	Size uint32 `json:"size"`
	Pack uint32 `json:"pack"`
}

// MarshalJSON gives {"id":"<64 hex>","size":n,"pack":n}.
func (r Ref) MarshalJSON() ([]byte, error) {
	return json.Marshal(refJSON{r.ID.String(), r.Size, r.Pack})
}

// UnmarshalJSON reads what MarshalJSON gives.
func (r *Ref) UnmarshalJSON(b []byte) error {
	var j refJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	id, err := chunk.Parse(j.ID)
	if err != nil {
		return fmt.Errorf("chunk reference: %w", err)
	}
	*r = Ref{id, j.Size, j.Pack}
	return nil
}

// PackUse is the number of plaintext bytes that chunks of one pack contribute. A chunk named twice counts twice.
type PackUse struct {
	Pack  uint32
	Bytes uint64
}

// Entry is one file, directory, link or special file of a snapshot.
//
// The root of the source has an empty Parent and an empty Name; what lies directly in it has an empty Parent.
// Slices of an entry that a [Tree] returned are shared and must not be modified.
type Entry struct {
	Parent, Name string // slash-separated bytes of any kind, relative to the source's root
	Kind         Kind
	Mode         uint32 // permission, set-id and sticky bits (07777)
	UID, GID     uint32
	Size         uint64 // bytes, as held
	MTime        int64  // seconds since 1970
	Flags        Flags
	Target       string    // of a symlink, as the source told it
	Chunks       []Ref     // content of a file of up to InlineChunks chunks, in order
	List         []Ref     // else: the chunks of a stream of encoded Refs, see WriteList
	ListPacks    []PackUse // with List: packs that the listed chunks live in, ascending
}

// Path is the entry's path from the source's root, empty for the root itself.
func (e Entry) Path() string { return join(e.Parent, e.Name) }

func join(parent, name string) string {
	if parent == "" {
		return name
	}
	return parent + "/" + name
}

// Split divides a path from the source's root into parent and name; the root is ("", "").
func Split(path string) (parent, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

// Compare orders entries in a catalog: by parent, where '/' is lower than every other byte, then by the bytes
// of the name. So a listing is contiguous, a subtree is contiguous, and a directory stands before its content.
func Compare(aParent, aName, bParent, bName string) int {
	if c := compareParents(aParent, bParent); c != 0 {
		return c
	}
	return strings.Compare(aName, bName)
}

func compareParents(a, b string) int {
	if a == b { // most often, and cheap to see
		return 0
	}
	n := min(len(a), len(b))
	for i := range n {
		x, y := a[i], b[i]
		switch {
		case x == y:
		case x == '/':
			return -1
		case y == '/' || x > y:
			return 1
		default:
			return -1
		}
	}
	switch {
	case len(a) < len(b):
		return -1
	case len(a) > len(b):
		return 1
	}
	return 0
}

// below reports whether parent is dir or lies somewhere under it.
func below(parent, dir string) bool {
	return dir == "" || strings.HasPrefix(parent, dir) && (len(parent) == len(dir) || parent[len(dir)] == '/')
}

// Putter stores a chunk and says where. The data belongs to the caller again when Put returns.
type Putter interface {
	Put(ctx context.Context, data []byte) (Ref, error)
}

// Fetcher gives back the verified bytes of a chunk, not to be modified. It must be safe for concurrent use.
type Fetcher interface {
	Fetch(ctx context.Context, r Ref) ([]byte, error)
}

// Root names a whole catalog.
type Root struct {
	Ref         Ref    `json:"ref"`   // zero in an empty catalog
	Depth       int    `json:"depth"` // levels of the tree: 0 empty, 1 a single leaf
	Entries     uint64 `json:"entries"`
	Files       uint64 `json:"files"`
	Directories uint64 `json:"directories"`
	Bytes       uint64 `json:"bytes"` // content of all files
}

func (r Root) check() error {
	switch {
	case r.Depth < 0 || r.Depth > MaxDepth:
		return damaged("catalog root", "depth %d is not within 0..%d", r.Depth, MaxDepth)
	case (r.Depth == 0) != (r.Entries == 0):
		return damaged("catalog root", "depth %d with %d entries", r.Depth, r.Entries)
	case r.Depth == 0 && r != Root{}:
		return damaged("catalog root", "totals of an empty catalog are not zero")
	case r.Depth > 0 && (r.Ref.Size == 0 || r.Ref.Size > maxObject):
		return damaged("catalog root", "chunk of %d bytes", r.Ref.Size)
	case r.Files > r.Entries || r.Directories > r.Entries-r.Files:
		return damaged("catalog root", "%d files and %d directories in %d entries", r.Files, r.Directories, r.Entries)
	}
	return nil
}
