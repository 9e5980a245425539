package worm

import (
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/fsck"
)

// independently has the checker that shares no code with this package look at a disk: it must find no damage wherever the
// store finds none, and none in what a crash left before anybody opened it. The keyrings of these tests are none.
func independently(d durable.Disk) error {
	n := looked.Add(1)
	if n%20 != 0 && os.Getenv("HOLDFAST_SWEEP") != "full" {
		return nil
	}
	r, err := fsck.Look(ctx, disk{d}, fsck.Options{ReadData: true})
	if err != nil {
		return fmt.Errorf("fsck: %w", err)
	}
	for _, f := range r.Damage {
		if f.Kind != fsck.KindIdentity {
			return fmt.Errorf("fsck finds damage: %+v", f)
		}
	}
	return nil
}

var looked atomic.Int64

// disk shows a durable.Disk to the checker.
type disk struct{ durable.Disk }

func (d disk) Lstat(name string) (fs.FileInfo, error) { return d.Stat(name) }

func (d disk) Open(name string) (fs.File, error) {
	f, err := d.Disk.Open(name)
	if err != nil {
		return nil, err
	}
	return file{f, func() (fs.FileInfo, error) { return d.Disk.Stat(name) }}, nil
}

type file struct {
	durable.File
	stat func() (fs.FileInfo, error)
}

func (f file) Stat() (fs.FileInfo, error) { return f.stat() }
