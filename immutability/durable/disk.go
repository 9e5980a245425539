// Package durable creates, publishes and removes files so that they survive a power cut.
//
// It is the only place that asks for an fsync. Everything that the vault keeps goes through a Disk: in production a Dir,
// in tests its twin in crashdisk, which forgets whatever was not made durable. The verbs of this package (Publish,
// WriteNew, Replace, Remove, MkdirAll) are the only sequences of operations that leave something behind on purpose; each
// says what is true when the power fails between two of its steps. docs/CRASH.md lists them side by side.
package durable

import (
	"io"
	"io/fs"
)

// File is an open file of a Disk.
//
// Writes go to the end of the file, whoever wrote there last; a File from Open refuses them. Reads begin at the start of
// the file and keep a position of their own that writing does not move. ReadAt and Sync may be called concurrently with
// Write, and ReadAt with itself; the other methods by one goroutine at a time.
//
// Sync returns nil only once every byte written before it was called, through any File of the same file, is on the medium. It says
// nothing of the file's name: that needs SyncDir. A Sync that failed must never be tried again: the kernel has thrown the
// unwritten pages' dirty marks away, so that a second Sync answers nil for bytes that are nowhere. Drop the file, say so.
//
// Close gives no promise of durability, and neither does its error.
type File interface {
	io.Reader
	io.ReaderAt
	io.Writer
	io.Closer
	Sync() error
	// Size returns the file's length in bytes as it is now, synced or not.
	Size() (int64, error)
}

// Opener makes and opens files.
//
// A file that exists already is fs.ErrExist, one that does not is fs.ErrNotExist, and what is not a regular file (a
// directory, a symbolic link, a pipe) is refused.
type Opener interface {
	// Create makes a new, empty file for reading and writing; an existing name of any kind is fs.ErrExist. The name is
	// durable after SyncDir of its directory, not before, and not by syncing the file.
	Create(name string, perm fs.FileMode) (File, error)
	// Append opens an existing file for reading and for writing at its end.
	Append(name string) (File, error)
	// Open opens an existing file for reading only.
	Open(name string) (File, error)
}

// Namer changes directories. No change is durable before SyncDir of every directory concerned, and changes that were not
// synced may survive a power cut in any combination.
type Namer interface {
	// Link gives a file a second name; an existing newname is fs.ErrExist and nothing changes. This is the only way to
	// publish: it can never replace.
	Link(oldname, newname string) error
	// Rename moves a name, replacing an existing file.
	Rename(oldname, newname string) error
	// Remove takes away a file's name or an empty directory.
	Remove(name string) error
	// Mkdir makes one directory; an existing name is fs.ErrExist.
	Mkdir(name string, perm fs.FileMode) error
}

// Lister tells what is there. What it tells is the state of the cache: a name that is seen need not be durable. A program
// that starts after another was killed calls SyncDir before it relies on what it sees.
type Lister interface {
	// ReadDir lists a directory, sorted by name.
	ReadDir(name string) ([]fs.DirEntry, error)
	// Stat describes a name without following a symbolic link.
	Stat(name string) (fs.FileInfo, error)
}

// Syncer asks the medium.
type Syncer interface {
	// SyncDir returns nil only once every change of this directory's names made so far is on the medium. The directory's
	// own name stands in its parent.
	SyncDir(name string) error
	// Forget drops the clean cached pages of a file, so that the next read comes from the medium. After a failed Sync the
	// cache shows bytes that the medium does not have, and only reading past it tells what would be there after a power
	// cut. Dirty pages stay; the bytes on the medium are not touched. It is a request: nil does not prove that every page
	// is gone (another process may have pinned one).
	Forget(name string) error
}

// Disk is a directory tree that a vault lives in.
//
// Names are relative to its root, separated by slashes, and valid in the sense of fs.ValidPath ("." is the root itself);
// others are fs.ErrInvalid. No name leads out of the root. All methods are safe for concurrent use. A disk without room
// answers an error for which IsNoSpace holds.
type Disk interface {
	Opener
	Namer
	Lister
	Syncer
}
