package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/durable/durabletest"
)

func openDir(t *testing.T) durable.Disk {
	d, err := durable.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestDirKeepsTheContract(t *testing.T) { durabletest.Test(t, openDir) }

func TestCrashdiskKeepsTheContract(t *testing.T) {
	durabletest.Test(t, func(*testing.T) durable.Disk { return crashdisk.New() })
}

func TestSymbolicLinksLeadNowhere(t *testing.T) {
	d := openDir(t).(*durable.Dir)
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(d.Path(), "ours"), []byte("ours"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"file": filepath.Join(outside, "secret"), "dir": outside, "up": "../" + filepath.Base(outside), "inside": "ours", "dangling": "none",
	} {
		if err := os.Symlink(target, filepath.Join(d.Path(), name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"file", "dir/secret", "up/secret", "inside", "dangling"} {
		if f, err := d.Open(name); err == nil {
			f.Close()
			t.Errorf("open %s went through a symbolic link", name)
		}
		if f, err := d.Append(name); err == nil {
			f.Close()
			t.Errorf("append %s went through a symbolic link", name)
		}
		if f, err := d.Create(name, 0o600); err == nil {
			f.Close()
			t.Errorf("create %s went through a symbolic link", name)
		}
		if err := d.Forget(name); err == nil {
			t.Errorf("forget %s went through a symbolic link", name)
		}
	}
	for _, name := range []string{"dir", "up"} {
		if _, err := d.ReadDir(name); err == nil {
			t.Errorf("readdir %s went through a symbolic link", name)
		}
		if err := d.SyncDir(name); err == nil {
			t.Errorf("syncdir %s went through a symbolic link", name)
		}
		if err := d.Link("ours", name+"/planted"); err == nil {
			t.Errorf("a file was planted through %s", name)
		}
		if err := durable.RemoveTree(d, name); err != nil {
			t.Errorf("removing the link %s itself: %v", name, err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(outside, "secret")); err != nil || string(b) != "secret" {
		t.Errorf("the file outside is %q, %v", b, err)
	}
}

func TestPipeInAFilesPlaceDoesNotHang(t *testing.T) {
	d := openDir(t).(*durable.Dir)
	if err := syscall.Mkfifo(filepath.Join(d.Path(), "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for op, open := range map[string]func(string) (durable.File, error){"open": d.Open, "append": d.Append} {
		if f, err := open("pipe"); err == nil {
			f.Close()
			t.Errorf("%s of a pipe went through", op)
		}
	}
	if err := d.Forget("pipe"); err == nil {
		t.Error("forget of a pipe went through")
	}
}

func TestOpenDirOfAFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err := durable.OpenDir(name); err == nil {
		d.Close()
		t.Error("a file was opened as a directory")
	}
	if _, err := durable.OpenDir(name + ".none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open of a missing directory: %v, want fs.ErrNotExist", err)
	}
}

// A full device is the one disk error that every Linux machine can produce.
func TestFullDeviceIsTold(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = f.Write([]byte("x"))
	if !durable.IsNoSpace(err) {
		t.Errorf("%v is not taken for a full disk", err)
	}
	for _, err := range []error{nil, fs.ErrExist, syscall.EIO} {
		if durable.IsNoSpace(err) {
			t.Errorf("%v is taken for a full disk", err)
		}
	}
	if !durable.IsNoSpace(syscall.EDQUOT) {
		t.Error("an exceeded quota is not taken for a full disk")
	}
}
