package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/durable/durabletest"
)

// guardedDir opens a directory whose file system has flags that this process may set, or skips.
func guardedDir(t *testing.T) *durable.Dir {
	t.Helper()
	dir := t.TempDir()
	d, err := durable.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unflag(t, d, ".")
		d.Close()
	})
	err = d.SetFlags(".", durable.AppendOnly, 0)
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission) {
		if os.Getenv("HOLDFAST_REQUIRE_ALL") == "1" && os.Geteuid() == 0 {
			t.Fatal(err)
		}
		t.Skipf("needs a file system with flags, and CAP_LINUX_IMMUTABLE: %v", err)
	}
	if err := errors.Join(err, d.SetFlags(".", 0, durable.AppendOnly)); err != nil {
		t.Fatal(err)
	}
	return d
}

// unflag lifts every flag below a name, so that what a test made can be removed.
func unflag(t *testing.T, d *durable.Dir, name string) {
	t.Helper()
	if err := d.SetFlags(name, 0, durable.Immutable|durable.AppendOnly); err != nil {
		if !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrPermission) {
			t.Error(err)
		}
		return
	}
	info, err := d.Stat(name)
	if err != nil || !info.IsDir() {
		return
	}
	entries, err := d.ReadDir(name)
	if err != nil {
		t.Error(err)
	}
	for _, e := range entries {
		unflag(t, d, filepath.Join(name, e.Name()))
	}
}

func TestDirGuardsItsFiles(t *testing.T) {
	durabletest.TestGuard(t, func(t *testing.T) durable.GuardedDisk { return guardedDir(t) })
}

func TestCrashdiskGuardsItsFiles(t *testing.T) {
	durabletest.TestGuard(t, func(*testing.T) durable.GuardedDisk { return crashdisk.New() })
}

// Whatever can still change a file's bytes must keep the lease from being granted.
func TestAHiddenWriterIsFound(t *testing.T) {
	for harm, keep := range map[string]func(t *testing.T, w *os.File) (letGo func()){
		"a descriptor": func(t *testing.T, w *os.File) func() { return func() { w.Close() } },
		"a duplicate": func(t *testing.T, w *os.File) func() {
			fd, err := unix.FcntlInt(w.Fd(), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			w.Close()
			return func() { unix.Close(fd) }
		},
		"a mapping": func(t *testing.T, w *os.File) func() {
			b, err := unix.Mmap(int(w.Fd()), 0, 7, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				t.Fatal(err)
			}
			w.Close()
			return func() { _ = unix.Munmap(b) }
		},
		"a mapping that is for reading and may become writable": func(t *testing.T, w *os.File) func() {
			b, err := unix.Mmap(int(w.Fd()), 0, 7, unix.PROT_READ, unix.MAP_SHARED)
			if err != nil {
				t.Fatal(err)
			}
			w.Close()
			return func() { _ = unix.Munmap(b) }
		},
		"a descriptor on its way through a socket": func(t *testing.T, w *os.File) func() {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(int(w.Fd())), nil, 0); err != nil {
				t.Fatal(err)
			}
			w.Close()
			return func() { unix.Close(pair[0]); unix.Close(pair[1]) }
		},
	} {
		t.Run(harm, func(t *testing.T) {
			dir := t.TempDir()
			d, err := durable.OpenDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			w, err := os.OpenFile(filepath.Join(dir, "a"), os.O_RDWR|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o440)
			if err != nil {
				t.Fatal(err)
			}
			h, err := d.Hold("a")
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			if _, err := w.WriteString("content"); err != nil {
				t.Fatal(err)
			}
			letGo := keep(t, w)
			if err := h.Lease(); !errors.Is(err, durable.ErrWriter) {
				t.Errorf("lease: %v, want ErrWriter", err)
			}
			letGo()
			if err := h.Lease(); err != nil {
				t.Errorf("lease after the last writer went: %v", err)
			}
		})
	}
}

// A lease that was taken away must be noticed, and its signal must not end the process.
func TestABrokenLeaseIsSeen(t *testing.T) {
	dir := t.TempDir()
	d, err := durable.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := plant(d, "a", "content"); err != nil {
		t.Fatal(err)
	}
	h, err := d.Hold("a")
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.Lease(); err != nil {
		t.Fatal(err)
	}
	// Without O_NONBLOCK this would wait for 45 seconds.
	fd, err := unix.Open(filepath.Join(dir, "a"), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
		t.Fatal("it was opened for writing under a lease")
	}
	if !errors.Is(err, unix.EWOULDBLOCK) {
		t.Fatal(err)
	}
	if ok, err := h.Leased(); ok || err != nil {
		t.Errorf("leased %v, %v; somebody is waiting to write", ok, err)
	}
}

// Without flags a file system must say so, so that the protection that it gives is not overstated.
func TestNoFlagsAreTold(t *testing.T) {
	d, err := durable.OpenDir("/proc/self")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.Flags("."); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("flags of procfs: %v, want errors.ErrUnsupported", err)
	}
	if err := d.SetFlags(".", durable.Immutable, 0); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("setting flags of procfs: %v, want errors.ErrUnsupported", err)
	}
}
