package remote_test

import (
	"os"
	"testing"

	"github.com/holdfast-vault/holdfast/puller/remote"
	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

const readRequests = "realpath,open,close,read,lstat,stat,fstat,opendir,readdir,readlink,statvfs,limits,users-groups-by-id"

// A key that can do more than read is found out, and one that is confined by either of the two recipes is not accused.
func TestProbeOfKeys(t *testing.T) {
	for _, row := range []struct {
		name    string
		options sshdtest.Options
		want    remote.Powers
	}{
		{"plain key", sshdtest.Options{}, remote.Powers{Write: true, Run: true, Terminal: true, Forward: true}},
		{"restrict does not stop writes", sshdtest.Options{KeyOptions: "restrict"}, remote.Powers{Write: true, Run: true}},
		{"forced sftp that writes", sshdtest.Options{KeyOptions: `restrict,command="internal-sftp"`}, remote.Powers{Write: true}},
		{"recipe for a key", sshdtest.Options{KeyOptions: `restrict,from="127.0.0.1",command="internal-sftp -R -p ` + readRequests + `"`}, remote.Powers{}},
		{"recipe for an account", sshdtest.Options{KeyOptions: `restrict,from="127.0.0.1"`,
			Config: []string{"ForceCommand internal-sftp -R", "DisableForwarding yes", "PermitTTY no"}}, remote.Powers{}},
		{"read-only, with forwarding", sshdtest.Options{Config: []string{"ForceCommand internal-sftp -R", "PermitTTY no"}}, remote.Powers{Forward: true}},
		{"read-only, with a terminal", sshdtest.Options{Config: []string{"ForceCommand internal-sftp -R", "DisableForwarding yes"}}, remote.Powers{Terminal: true}},
	} {
		t.Run(row.name, func(t *testing.T) {
			server := sshdtest.Start(t, row.options)
			dir := t.TempDir()
			s := dial(t, configFor(server))
			got, err := remote.Probe(t.Context(), s, dir)
			if err != nil {
				t.Fatal(err)
			}
			t.Log(got.Details)
			if os.Geteuid() != 0 { // an account of its own may have neither a shell nor terminals: then the probe rightly finds none
				row.want.Run, row.want.Terminal = row.want.Run && got.Run, row.want.Terminal && got.Terminal
			}
			if got.Write != row.want.Write || got.Run != row.want.Run || got.Terminal != row.want.Terminal || got.Forward != row.want.Forward {
				t.Errorf("%+v", got)
			}
			if row.want.ReadOnly() != got.ReadOnly() || got.ReadOnly() != (len(got.Details) == 0) {
				t.Errorf("read only? %+v", got)
			}
			if entries, _, err := s.ReadDir(t.Context(), dir); err != nil || len(entries) != 0 {
				t.Errorf("the probe left something behind: %v %v", entries, err)
			}
			if t.Failed() {
				t.Log(server.Log())
			}
		})
	}
}
