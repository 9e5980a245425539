package worm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// Two files in a vault's root say that a move to another directory is under way or was done. Either keeps every writer
// out: Open and Init refuse, whatever stands in it. Who only reads may read.
//
//	moving    in the new directory, from before its first file until all of it was verified and the old one has `moved`
//	moved     in the old directory, for good
//
// Their form, of this release and in this order, on one line:
//
//	{"format":1,"vault":"<32 hex>","from":"/srv/old","at":"2026-11-23T04:00:00Z"}\n
//	{"format":1,"vault":"<32 hex>","to":"/srv/new","size":4711,"root":"<base64>","at":"2026-11-23T09:00:00Z"}\n
const (
	movingFile = "moving"
	movedFile  = "moved"

	markerFormat = 1
	markerMax    = 64 << 10
)

var (
	// ErrMoved is in the chain of the error of whoever would write to a directory that a vault has moved out of.
	ErrMoved = errors.New("the vault has moved")
	// ErrMoving is in the chain of the error of whoever would write to a directory that a vault is still moving into.
	ErrMoving = errors.New("a vault is moving in here, and is not whole yet")
)

// Moving says that a directory is being made a vault's new place.
type Moving struct {
	Format int       `json:"format"`
	Vault  string    `json:"vault"`
	From   string    `json:"from"` // directory
	At     time.Time `json:"at"`   // UTC, whole seconds
}

// Moved says where the vault went that a directory held, and what its ledger was when it did.
type Moved struct {
	Format int       `json:"format"`
	Vault  string    `json:"vault"`
	To     string    `json:"to"`   // directory
	Size   uint64    `json:"size"` // records
	Root   string    `json:"root"` // of their tree, base64
	At     time.Time `json:"at"`   // UTC, whole seconds
}

// ReadMoving gives the mark of a directory that a vault moves into; ok is false where there is none. A mark that cannot be
// read is an error, and keeps writers out all the same.
func ReadMoving(d durable.Disk) (m Moving, ok bool, err error) {
	ok, err = readMarker(d, movingFile, &m)
	if err == nil && ok && (m.Format != markerFormat || !validVault(m.Vault)) {
		err = fmt.Errorf("%s: format %d, vault %q: damaged, or written by a newer release of holdfast", movingFile, m.Format, m.Vault)
	}
	return m, ok, err
}

// ReadMoved gives the mark of a directory that a vault has moved out of; ok is false where there is none. A mark that cannot
// be read is an error, and keeps writers out all the same.
func ReadMoved(d durable.Disk) (m Moved, ok bool, err error) {
	ok, err = readMarker(d, movedFile, &m)
	if err == nil && ok && (m.Format != markerFormat || !validVault(m.Vault) || m.Size == 0 || m.To == "") {
		err = fmt.Errorf("%s: format %d, vault %q, %d records: damaged, or written by a newer release of holdfast", movedFile, m.Format, m.Vault, m.Size)
	}
	return m, ok, err
}

func validVault(id string) bool {
	return len(id) == 32 && isID(id+id)
}

func readMarker(d durable.Disk, name string, to any) (bool, error) {
	b, err := durable.ReadFile(d, name, markerMax)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return true, err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(to); err != nil {
		return true, fmt.Errorf("%s is damaged: %w", name, err)
	}
	return true, nil
}

// MarkMoving keeps every writer out of a directory that a vault is about to move into. It is durable on return; a power cut
// before leaves the mark, or none. A mark that is there is replaced.
func MarkMoving(d durable.Disk, m Moving) error {
	m.Format = markerFormat
	b, err := encodeMarker(m)
	if err != nil {
		return err
	}
	return durable.Replace(d, movingFile, b, groupFile)
}

// MarkMoved keeps every writer out of the directory that a vault has moved out of. With guard the root is immutable, and is so
// again afterwards. It is durable on return; a power cut before leaves the mark, or none, and the root perhaps without its
// flag. A mark that is there is replaced.
func MarkMoved(d durable.Disk, guard durable.GuardedDisk, m Moved) error {
	m.Format = markerFormat
	b, err := encodeMarker(m)
	if err != nil {
		return err
	}
	if guard == nil {
		return durable.Replace(d, movedFile, b, groupFile)
	}
	return durable.ReplaceGuarded(guard, path.Join(incomingDir, movedFile+tmpSuffix), movedFile, b, groupFile)
}

// ClearMoving lets writers in again. It is durable on return; after a power cut before, the mark may be back.
func ClearMoving(d durable.Disk, guard durable.GuardedDisk) error {
	var err error
	if guard != nil {
		err = durable.RemoveGuarded(guard, movingFile)
	} else {
		err = durable.Remove(d, movingFile)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func encodeMarker(m any) ([]byte, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

// AtHome refuses a directory that the vault has moved out of (ErrMoved), or is still moving into (ErrMoving): Open for writing
// and Init ask it. Who makes anything else in a vault's directory asks it himself.
func AtHome(d durable.Disk) error {
	moved, gone, err := ReadMoved(d)
	switch {
	case gone && err != nil:
		return fmt.Errorf("%w out of this directory, and where to cannot be read (%w): it can only be read here", ErrMoved, err)
	case err != nil:
		return err
	case gone:
		return fmt.Errorf("%w to %q on %s: it can only be read here; name the new directory wherever the old one was named", ErrMoved, moved.To, moved.At.UTC().Format(time.RFC3339))
	}
	moving, coming, err := ReadMoving(d)
	switch {
	case coming && err != nil:
		return fmt.Errorf("%w (%w); give the command that moves it again", ErrMoving, err)
	case err != nil:
		return err
	case coming:
		return fmt.Errorf("%w: it comes from %q; give the command that moves it again, which goes on where it was", ErrMoving, moving.From)
	}
	return nil
}
