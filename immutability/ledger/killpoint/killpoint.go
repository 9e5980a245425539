// Package killpoint stands between a test and a disk and calls the test before every operation that changes something.
//
// A clone of a crashdisk taken there is what a process leaves that is killed at this point while the
// machine goes on: nothing of the cache is lost, and nothing of it is durable that was not before.
// A power cut is another thing; crashdisk itself plays that, and a real file system that is shut down there.
package killpoint

import (
	"io/fs"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// Disk passes everything on to the disk inside, and calls Before first where that changes something.
type Disk struct {
	durable.GuardedDisk
	Before func()
}

var _ durable.GuardedDisk = (*Disk)(nil)

// Create calls Before and creates.
func (d *Disk) Create(name string, perm fs.FileMode) (durable.File, error) {
	d.Before()
	return d.wrap(d.GuardedDisk.Create(name, perm))
}

// Append opens a file whose writes and syncs call Before.
func (d *Disk) Append(name string) (durable.File, error) { return d.wrap(d.GuardedDisk.Append(name)) }

func (d *Disk) wrap(f durable.File, err error) (durable.File, error) {
	if err != nil {
		return nil, err
	}
	return &file{File: f, before: d.Before}, nil
}

// Link calls Before and links.
func (d *Disk) Link(oldname, newname string) error {
	d.Before()
	return d.GuardedDisk.Link(oldname, newname)
}

// Rename calls Before and renames.
func (d *Disk) Rename(oldname, newname string) error {
	d.Before()
	return d.GuardedDisk.Rename(oldname, newname)
}

// Remove calls Before and removes.
func (d *Disk) Remove(name string) error {
	d.Before()
	return d.GuardedDisk.Remove(name)
}

// Mkdir calls Before and makes the directory.
func (d *Disk) Mkdir(name string, perm fs.FileMode) error {
	d.Before()
	return d.GuardedDisk.Mkdir(name, perm)
}

// SyncDir calls Before and syncs.
func (d *Disk) SyncDir(name string) error {
	d.Before()
	return d.GuardedDisk.SyncDir(name)
}

// SetFlags calls Before and sets.
func (d *Disk) SetFlags(name string, set, lift durable.Flags) error {
	d.Before()
	return d.GuardedDisk.SetFlags(name, set, lift)
}

// Chmod calls Before and changes the permissions.
func (d *Disk) Chmod(name string, perm fs.FileMode) error {
	d.Before()
	return d.GuardedDisk.Chmod(name, perm)
}

// Hold opens a file whose flags and syncs call Before.
func (d *Disk) Hold(name string) (durable.Held, error) {
	h, err := d.GuardedDisk.Hold(name)
	if err != nil {
		return nil, err
	}
	return &held{Held: h, before: d.Before}, nil
}

type held struct {
	durable.Held
	before func()
}

func (h *held) SetFlags(set, lift durable.Flags) error {
	h.before()
	return h.Held.SetFlags(set, lift)
}

func (h *held) Sync() error {
	h.before()
	return h.Held.Sync()
}

type file struct {
	durable.File
	before func()
}

func (f *file) Write(p []byte) (int, error) {
	f.before()
	return f.File.Write(p)
}

func (f *file) Sync() error {
	f.before()
	return f.File.Sync()
}
