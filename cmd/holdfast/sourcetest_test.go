package main

import (
	"strings"
	"testing"

	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

// TestKeyThatCanWriteIsCalledSafe tests enrolled keys against a real sshd: a careless one is found out, one confined by
// the lines that we print passes.
func TestKeyThatCanWriteIsCalledSafe(t *testing.T) {
	for name, c := range map[string]struct {
		o    sshdtest.Options
		code int
		says string
	}{
		"careless": {sshdtest.Options{}, exitFailed, "can do more than read"},
		"confined": {sshdtest.Options{KeyOptions: `restrict,command="internal-sftp -R"`}, exitDone, "nothing else that was tried"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := sshdtest.Start(t, c.o)
			s := initialised(t)
			s.must("source", "add", "web1", sourceURL(srv, "/etc"), "--identity", srv.IdentityFile, "--known-hosts", srv.KnownHostsFile)
			r := s.run("source", "test", "web1")
			if r.code != c.code || !strings.Contains(r.out+r.err, c.says) {
				t.Errorf("exit %d\n%s%s", r.code, r.out, r.err)
			}
		})
	}
}
