package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/witness"
)

// witnessed runs a witness, has the daemon ask it and the keeper believe it, and gives the keeper's file of settings.
func (s *site) witnessed() (policy string) {
	s.t.Helper()
	d, err := durable.OpenDir(s.t.TempDir())
	must(s.t, err)
	s.t.Cleanup(func() { _ = d.Close() })
	secret, verifier, err := witness.NewKey(bytes.NewReader(make([]byte, 32)), "w.example/1")
	must(s.t, err)
	signer, err := witness.NewSigner(secret, time.Now)
	must(s.t, err)
	must(s.t, witness.AddLog(d, s.verifier()))
	server := httptest.NewServer(witness.New(d, signer, s.t.Logf))
	s.t.Cleanup(server.Close)
	config, err := os.ReadFile(s.config)
	must(s.t, err)
	config = fmt.Appendf(config, "witnesses:\n  members:\n  - {name: lab, url: %q, key: %q}\n", server.URL, verifier)
	must(s.t, os.WriteFile(s.config, config, 0o644))
	policy = filepath.Join(s.run, "policy.json")
	must(s.t, os.WriteFile(policy, fmt.Appendf(nil, `{"witnesses":{"quorum":1,"members":[{"name":"lab","key":%q}]}}`, verifier), 0o644))
	return policy
}

func (s *site) verifier() string {
	s.t.Helper()
	var first struct{ Init struct{ Verifier string } }
	must(s.t, json.Unmarshal([]byte(s.records()[0]), &first))
	return first.Init.Verifier
}

func (s *site) records() []string {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.vault, "ledger", "000001.jsonl"))
	must(s.t, err)
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}

// until waits for what another program does.
func (s *site) until(what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); {
		if time.Now().After(end) {
			s.t.Fatalf("%s: not within a minute", what)
		}
		must(s.t, exec.Command("sleep", "0.05").Run())
	}
}

// TestMachineThatIsRolledBackIsHeldByItsKeeper puts the disk of keeper and daemon back to an image of before. The daemon asks its
// witness and brings the keeper the proof: neither of them, and no daemon that is taken over, gets anything written from then
// on, until the keeper's own user begins another origin.
func TestMachineThatIsRolledBackIsHeldByItsKeeper(t *testing.T) {
	s := newSite(t, "ext4")
	keeper := s.keeper()
	s.must("init", "--recovery-out", filepath.Join(s.run, "daemon", "recovery.key"))
	s.must("pull", "web1")
	must(t, errors.Join(ended(keeper.stop())))
	image := filepath.Join(s.run, "image")
	swap := func(from, to string) {
		t.Helper()
		command(t, "umount", s.dir)
		command(t, "cp", "--sparse=always", from, to)
		command(t, "mount", "-o", "loop", image, s.dir)
	}
	swap(image, image+".early")

	policy := s.witnessed()
	keeper = s.keeper("--policy", policy)
	s.must("pull", "web1")
	daemon := s.daemon()
	s.until("a record of what the witness said", func() bool {
		all := s.records()
		return strings.Contains(all[len(all)-1], `"kind":"witnessed"`)
	})
	if out := s.must("ledger", "verify"); !strings.Contains(out, "witnesses cosigned") {
		t.Errorf("%s", out)
	}
	must(t, errors.Join(ended(daemon.stop()), ended(keeper.stop())))

	swap(image+".early", image)
	keeper = s.keeper("--policy", policy)
	daemon = s.daemon()
	behind := filepath.Join(s.vault, "log", "behind")
	s.until("the proof", func() bool { _, err := os.Stat(behind); return err == nil })
	before := s.records()
	held := func() {
		t.Helper()
		const why = "behind what it signed"
		if code, out := s.holdfast("pull", "web1"); code == exitDone || !strings.Contains(out, why) {
			t.Errorf("a pull: exit code %d\n%s", code, out)
		}
		if code, out := s.holdfast("prune"); code == exitDone || !strings.Contains(out, why) {
			t.Errorf("prune: exit code %d\n%s", code, out)
		}
		if code, out := s.holdfast("ledger", "verify"); code != exitDamage || !strings.Contains(out, why) {
			t.Errorf("ledger verify: exit code %d\n%s", code, out)
		}
		for _, args := range [][]string{{"rm", "-f", behind}, {"mv", behind, behind + "x"}, {"tee", behind}} {
			if s.as(daemonUID, args...) == nil {
				t.Errorf("the daemon's user may: %q", args)
			}
		}
		s.must("ls", "web1@latest")
		if now := s.records(); len(now) != len(before) {
			t.Errorf("%d records, before %d", len(now), len(before))
		}
	}
	held()
	must(t, ended(daemon.stop()))
	keeper.kill()
	keeper = s.keeper("--policy", policy)
	held()

	var look struct{ Root string }
	_, out := s.holdfast("ledger", "verify", "--json")
	must(t, json.Unmarshal([]byte(out[:strings.LastIndex(out, "}")+1]), &look))
	tool := filepath.Join(s.bin, "holdfast-keeper")
	origin := []string{tool, "origin", "--socket", s.socket, "--by", "ann", "--reason", "the disk was put back", "--root"}
	if s.as(daemonUID, append(origin, look.Root)...) == nil {
		t.Error("the daemon's user began another origin")
	}
	if s.as(keeperUID, append(origin, "AAAA")...) == nil {
		t.Error("another origin with a root that is not here")
	}
	must(t, s.as(keeperUID, append(origin, look.Root)...))
	s.must("pull", "web1")
	s.must("ledger", "verify")
	s.whole("after another origin")
	must(t, ended(keeper.stop()))
}

func ended(code int) error {
	if code != exitDone {
		return fmt.Errorf("exit code %d", code)
	}
	return nil
}
