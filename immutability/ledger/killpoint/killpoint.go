// Package killpoint stands between a test and a crashdisk and calls the test before every operation that changes something.
//
// A clone of the disk taken there is what a process leaves that is killed at this point while the
// machine goes on: nothing of the cache is lost, and nothing of it is durable that was not before.
// A power cut is another thing; crashdisk itself plays that.
package killpoint

import (
	"io/fs"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
)

// Disk passes everything on to the crashdisk inside, and calls Before first where that changes something.
type Disk struct {
	*crashdisk.Disk
	Before func()
}

var _ durable.GuardedDisk = (*Disk)(nil)

// Create calls Before and creates.
func (d *Disk) Create(name string, perm fs.FileMode) (durable.File, error) {
	d.Before()
	return d.wrap(d.Disk.Create(name, perm))
}

// Append opens a file whose writes and syncs call Before.
func (d *Disk) Append(name string) (durable.File, error) { return d.wrap(d.Disk.Append(name)) }

func (d *Disk) wrap(f durable.File, err error) (durable.File, error) {
	if err != nil {
		return nil, err
	}
	return &file{File: f, before: d.Before}, nil
}

// Link calls Before and links.
func (d *Disk) Link(oldname, newname string) error {
	d.Before()
	return d.Disk.Link(oldname, newname)
}

// Rename calls Before and renames.
func (d *Disk) Rename(oldname, newname string) error {
	d.Before()
	return d.Disk.Rename(oldname, newname)
}

// Remove calls Before and removes.
func (d *Disk) Remove(name string) error {
	d.Before()
	return d.Disk.Remove(name)
}

// Mkdir calls Before and makes the directory.
func (d *Disk) Mkdir(name string, perm fs.FileMode) error {
	d.Before()
	return d.Disk.Mkdir(name, perm)
}

// SyncDir calls Before and syncs.
func (d *Disk) SyncDir(name string) error {
	d.Before()
	return d.Disk.SyncDir(name)
}

// SetFlags calls Before and sets.
func (d *Disk) SetFlags(name string, set, lift durable.Flags) error {
	d.Before()
	return d.Disk.SetFlags(name, set, lift)
}

// Hold opens a file whose flags and syncs call Before.
func (d *Disk) Hold(name string) (durable.Held, error) {
	h, err := d.Disk.Hold(name)
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
