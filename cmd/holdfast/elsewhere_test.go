package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

// TestOneHostsContentStandsForAnothers pulls two places under one source's name whose files agree in name, size, time, mode
// and owner, as those of two machines made from one image do. Each snapshot holds the content of its own place.
func TestOneHostsContentStandsForAnothers(t *testing.T) {
	sshdtest.Need(t, "sshd")
	old := time.Now().Add(-24 * time.Hour)
	place := func(content, target string) string {
		dir := filepath.Join(t.TempDir(), "src")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "machine-id"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, filepath.Join(dir, "link")); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(dir, "machine-id"), old, old); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	srv := sshdtest.Start(t, sshdtest.Options{})
	s := initialised(t)
	for _, content := range []string{"first host\n", "other host\n"} {
		p := s.pull(srv, "web1", place(content, content[:5]))
		if got := s.must("cat", "web1@latest:machine-id").out; got != content {
			t.Errorf("%q was pulled, and %q is given back", content, got)
		}
		if p.State != "complete" || p.ReadBytes != uint64(len(content)) {
			t.Errorf("%+v", p)
		}
	}
	// The same path of a host with another key, and another port, is another host.
	dir := place("third host\n", "third")
	s.pull(srv, "db1", dir)
	other := sshdtest.Start(t, sshdtest.Options{})
	if err := os.WriteFile(filepath.Join(dir, "machine-id"), []byte("fourthhost\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(dir, "machine-id"), old, old); err != nil {
		t.Fatal(err)
	}
	s.pull(other, "db1", dir)
	if got := s.must("cat", "db1@latest:machine-id").out; got != "fourthhost\n" {
		t.Errorf("%q is given back of a host with another key", got)
	}
	// And where nothing changed, nothing is read again.
	if p := s.pull(other, "db1", dir); p.ReadBytes != 0 || p.Unchanged != 1 {
		t.Errorf("%+v", p)
	}
}
