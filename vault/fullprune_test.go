package vault

import (
	"io/fs"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
)

// finite is a disk of so many bytes: what is written beyond them finds no room.
type finite struct {
	*crashdisk.Disk
	total int64

	mu   sync.Mutex
	used int64
}

type finiteFile struct {
	durable.File
	d *finite
}

func (d *finite) Room() (free, total int64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.total - d.used, d.total, nil
}

func (d *finite) wrap(f durable.File, err error) (durable.File, error) {
	if err != nil {
		return nil, err
	}
	return finiteFile{f, d}, nil
}

func (d *finite) Create(name string, perm fs.FileMode) (durable.File, error) {
	return d.wrap(d.Disk.Create(name, perm))
}

func (d *finite) Append(name string) (durable.File, error) { return d.wrap(d.Disk.Append(name)) }

func (d *finite) Remove(name string) error {
	info, serr := d.Stat(name)
	err := d.Disk.Remove(name)
	if err == nil && serr == nil {
		d.mu.Lock()
		d.used -= info.Size()
		d.mu.Unlock()
	}
	return err
}

func (f finiteFile) Write(b []byte) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	fits := min(int64(len(b)), f.d.total-f.d.used)
	n, err := f.File.Write(b[:fits])
	f.d.used += int64(n)
	if err == nil && n < len(b) {
		err = durable.ErrFull
	}
	return n, err
}

// TestAPackThatGrowsLeavesNoRoomToPruneIn: a pull that fills the disk to its last byte, in a pack that was begun while there was
// room, must leave enough for the records without which not even what may go can be removed.
func TestAPackThatGrowsLeavesNoRoomToPruneIn(t *testing.T) {
	m := newMemoryVault(t, time.Hour, Options{})
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	d := &finite{Disk: m.disk, total: 12 << 20}
	o := m.o
	o.Identities, o.Clock, o.Workers, o.disk, o.index = append(o.Identities, m.ident), m.clock, 1, d, m.index
	v, err := Open(t.Context(), "", o)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	noise := rand.NewChaCha8([32]byte{1})
	content := func(size int) []byte {
		b := make([]byte, size)
		_, _ = noise.Read(b)
		return b
	}
	pull(t, v, "web1", tree{"a/b": content(3 << 20)})
	m.clock.Advance(time.Minute)
	pull(t, v, "web1", tree{"a/b": content(1 << 20)})
	m.clock.Advance(2 * time.Hour)
	if _, err := v.Prune(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	m.clock.Advance(25 * time.Hour)
	if _, err := tryPull(t.Context(), v, "web1", tree{"a/b": content(16 << 20)}); !durable.IsNoSpace(err) {
		t.Fatalf("a pull of more than the disk has: %v", err)
	}
	rep, err := v.Prune(t.Context(), false)
	if err != nil || len(rep.Snapshots) != 1 || len(rep.Packs) != 1 {
		free, _, _ := d.Room()
		t.Errorf("with %d bytes free %d snapshots and %d packs were removed: %v", free, len(rep.Snapshots), len(rep.Packs), err)
	}
}
