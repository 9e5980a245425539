package worm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// TestASecondKeeper: two writers of one ledger would fork it.
func TestASecondKeeper(t *testing.T) {
	dir := t.TempDir()
	d, err := durable.OpenDir(dir)
	must(t, err)
	defer d.Close()
	l, err := Lock(d)
	must(t, err)
	_, err = Init(d, newClock(), initOptions())
	must(t, err)
	_, err = Lock(d)
	var locked *durable.LockedError
	if !errors.As(err, &locked) || string(locked.Holder) != fmt.Sprintf("{\"pid\":%d}", os.Getpid()) {
		t.Errorf("a second lock: %v", err)
	}
	must(t, l.Close())
	l, err = Lock(d)
	must(t, err)
	must(t, l.Close())
	if os.Geteuid() == 0 {
		must(t, os.Chown(filepath.Join(dir, ledgerDir), 12345, -1))
		if l, err := Lock(d); err == nil {
			must(t, l.Close())
			t.Error("a vault of somebody else's can be written")
		}
	}
}
