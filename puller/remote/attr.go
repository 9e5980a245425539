package remote

import (
	"fmt"
	"math"
)

// Kind says what an entry is. The numbers are those of the catalog's kinds.
type Kind uint8

// The kinds of entries that SFTP tells apart.
const (
	File Kind = iota + 1
	Directory
	Symlink
	Fifo
	Socket
	CharDevice
	BlockDevice
	Unknown // the server sent no mode, or one with a type that we do not know
)

func (k Kind) String() string {
	switch k {
	case File:
		return "file"
	case Directory:
		return "directory"
	case Symlink:
		return "symlink"
	case Fifo:
		return "fifo"
	case Socket:
		return "socket"
	case CharDevice:
		return "character device"
	case BlockDevice:
		return "block device"
	}
	return "unknown"
}

// Attr is what a server says of one entry. SFTP version 3 knows whole seconds, and neither inodes, link counts nor extended
// attributes.
type Attr struct {
	Kind      Kind
	Mode      uint32 // permission bits, 07777
	UID, GID  uint32
	Size      uint64 // bytes; at most 2^63-1
	MTime     int64  // seconds since 1970; 0 may mean that the server did not say
	ModeKnown bool   // false: the server sent no mode, Kind is Unknown
}

// Entry is one checked name of a directory: not empty, not "." or "..", without slash or NUL, bounded and unique. Its bytes
// are otherwise the server's: print it with %q.
type Entry struct {
	Name string
	Attr
}

// NameProblem is a name of a listing that cannot be an entry. The entry is left out of the listing, so that whoever stores the listing has
// to call it incomplete.
type NameProblem struct {
	Name   string // as the server sent it, cut at 255 bytes
	Reason string
}

func (p NameProblem) String() string { return fmt.Sprintf("name %q: %s", p.Name, p.Reason) }

// The type bits of a mode as every SFTP server sends them.
const (
	typeMask    = 0o170000
	typeSocket  = 0o140000
	typeSymlink = 0o120000
	typeFile    = 0o100000
	typeBlock   = 0o060000
	typeDir     = 0o040000
	typeChar    = 0o020000
	typeFifo    = 0o010000
)

func kindOf(mode uint32) Kind {
	switch mode & typeMask {
	case typeSocket:
		return Socket
	case typeSymlink:
		return Symlink
	case typeFile:
		return File
	case typeBlock:
		return BlockDevice
	case typeDir:
		return Directory
	case typeChar:
		return CharDevice
	case typeFifo:
		return Fifo
	}
	return Unknown
}

// attrFrom makes an Attr of what was on the wire. pkg/sftp drops the flags that say which fields were there, so a mode of
// 0 means unknown here, whoever decoded it.
func attrFrom(mode, uid, gid uint32, size uint64, mtime uint32) (Attr, string) {
	a := Attr{Kind: Unknown, UID: uid, GID: gid, Size: size, MTime: int64(mtime)}
	if mode != 0 {
		a.Kind, a.Mode, a.ModeKnown = kindOf(mode), mode&0o7777, true
	}
	if size > math.MaxInt64 {
		return Attr{}, fmt.Sprintf("impossible size %d", size)
	}
	return a, ""
}

// Join puts a name behind a directory's path. Paths of a source are only ever built so: a name is never cleaned, since
// cleaning gives two names one path.
func Join(dir, name string) string {
	if dir == "/" {
		return "/" + name
	}
	return dir + "/" + name
}
