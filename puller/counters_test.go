package puller_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-vault/holdfast/puller/sshdtest"
	"github.com/holdfast-vault/holdfast/puller/throwaway"
)

// TestRequestsThatAPullCosts holds what is asked of a source to a number: requests are what a long line makes slow.
func TestRequestsThatAPullCosts(t *testing.T) {
	const directories, files = 20, 1000
	dir := t.TempDir()
	for i := range files {
		path := filepath.Join(dir, fmt.Sprintf("d%02d/f%04d", i%directories, i))
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, fmt.Appendf(nil, "content of file %d", i), 0o644))
	}
	age(t, dir)
	server := sshdtest.Start(t, sshdtest.Options{})
	_, throw := serveThrowaway(t, dir, throwaway.Options{})
	for name, c := range map[string]struct {
		at   target
		root string
	}{
		"OpenSSH":    {target{addr: server.Addr, user: server.User, signer: server.Signer, key: server.HostKey}, dir},
		"throw-away": {throw, "/"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			first := s.pull(s.job("web1", c.root, c.at))
			s.whole(first, dir)
			// OPENDIR, READDIR until its end and CLOSE; OPEN, READ, FSTAT, CLOSE.
			if n := first.Stats.Requests; n > 4*files+8*directories+200 {
				t.Errorf("first pull: %d requests for %d files in %d directories", n, files, directories)
			}
			second := s.pull(s.job("web1", c.root, c.at))
			s.whole(second, dir)
			if n := second.Stats.Requests; n > 8*directories+100 || second.Stats.FilesRead != 0 {
				t.Errorf("nothing has changed: %d requests for %d directories, %d files read", n, directories, second.Stats.FilesRead)
			}
			t.Logf("%.2f requests for a small file; %.2f for an unchanged directory", float64(first.Stats.Requests-second.Stats.Requests)/files,
				float64(second.Stats.Requests)/directories)
		})
	}
}
