package durable_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

func TestLockHasOneHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if _, err := durable.LockHolder(path); !errors.Is(err, durable.ErrNotLocked) {
		t.Errorf("holder of a lock that never was: %v, want ErrNotLocked", err)
	}
	l, err := durable.LockFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := durable.LockHolder(path); err != nil || len(text) != 0 {
		t.Errorf("holder before it said anything: %q, %v", text, err)
	}
	for _, text := range []string{`{"pid":12345,"socket":"s"}`, `{"pid":1}`} {
		if err := l.SetHolder([]byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := durable.LockHolder(path); err != nil || string(got) != text {
			t.Errorf("holder %q, %v; want %q", got, err, text)
		}
		_, err := durable.LockFile(path)
		var locked *durable.LockedError
		if !errors.Is(err, durable.ErrLocked) || !errors.As(err, &locked) || string(locked.Holder) != text {
			t.Errorf("second lock: %v, want one that names %s", err, text)
		}
	}
	if err := l.SetHolder([]byte(strings.Repeat("x", 5000))); err == nil {
		t.Error("a text was taken that nobody could read back")
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if text, err := durable.LockHolder(path); !errors.Is(err, durable.ErrNotLocked) {
		t.Errorf("holder after the release: %q, %v; want ErrNotLocked", text, err)
	}
	l, err = durable.LockFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
}

func TestTextOfADeadHolderIsNotTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if err := os.WriteFile(path, []byte(`{"pid":1}`), 0o600); err != nil { // as a killed process leaves it
		t.Fatal(err)
	}
	if text, err := durable.LockHolder(path); !errors.Is(err, durable.ErrNotLocked) {
		t.Errorf("holder %q, %v; want ErrNotLocked", text, err)
	}
	l, err := durable.LockFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if text, err := durable.LockHolder(path); err != nil || len(text) != 0 {
		t.Errorf("holder %q, %v; want an empty text", text, err)
	}
}

func TestHostileHolderTextIsQuoted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := durable.LockFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.SetHolder([]byte("\x1b[2J\u202egnp")); err != nil {
		t.Fatal(err)
	}
	if _, err := durable.LockFile(path); err == nil || strings.ContainsAny(err.Error(), "\x1b\u202e") {
		t.Errorf("second lock: %v", err)
	}
}

func TestOneOfManyGetsTheLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	var group sync.WaitGroup
	locks := make(chan *durable.FileLock, 8)
	for range 8 {
		group.Go(func() {
			l, err := durable.LockFile(path)
			if err == nil {
				locks <- l
			} else if !errors.Is(err, durable.ErrLocked) {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := len(locks); n != 1 {
		t.Errorf("%d hold the lock", n)
	}
	for range len(locks) {
		(<-locks).Close()
	}
}
