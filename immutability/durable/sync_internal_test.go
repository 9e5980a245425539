package durable

import (
	"errors"
	"os"
	"testing"
)

// The kernel reports a failed fsync once and then says that all is well; a File must not pass that on.
func TestFailedSyncIsNotForgotten(t *testing.T) {
	f, err := os.OpenFile("/dev/null", os.O_RDWR, 0) // a device that refuses fsync
	if err != nil {
		t.Fatal(err)
	}
	file := &dirFile{f: f, name: "x"}
	first := file.Sync()
	if first == nil {
		t.Fatal("this kernel syncs devices: the test needs another file that refuses")
	}
	if errors.Is(first, errSyncedBadly) {
		t.Errorf("the first failure speaks of an earlier one: %v", first)
	}
	if err := file.Sync(); !errors.Is(err, errSyncedBadly) {
		t.Errorf("sync after a failed sync: %v", err)
	}
	if n, err := file.Write([]byte("x")); n != 0 || !errors.Is(err, errSyncedBadly) {
		t.Errorf("write after a failed sync: %d, %v", n, err)
	}
	if err := file.Close(); err != nil {
		t.Error(err)
	}
}
