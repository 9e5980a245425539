package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

// TestRestoreBlamesTheDaemonForItsOwnTarget restores through a daemon into a place where nothing can be made: the message
// says that, and not that something is wrong with the daemon.
func TestRestoreBlamesTheDaemonForItsOwnTarget(t *testing.T) {
	sshdtest.Need(t, "sshd")
	s, _, _ := pulledSite(t)
	s.serve()
	file := s.write("in-the-way", "x")
	r := s.run("restore", "web1@latest", "--to", filepath.Join(file, "below"))
	if r.code != exitFailed || !strings.Contains(r.err, "in-the-way") || strings.Contains(r.err, "daemon") {
		t.Errorf("exit %d: %s", r.code, r.err)
	}
}
