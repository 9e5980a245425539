package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// damages are ways to spoil a vault of two snapshots of different sources; web2 must come back from each.
var damages = []struct {
	name  string
	spoil func(t testing.TB, s *site, web1 snapshotJSON)
	say   string
	web2  bool // can still be restored
}{
	{"pack flipped", func(t testing.TB, s *site, _ snapshotJSON) {
		flip(t, filepath.Join(s.vault, "packs/00000001.pack"), 0.3)
	}, "packs/00000001.pack", true},
	{"pack cut", func(t testing.TB, s *site, _ snapshotJSON) { cut(t, filepath.Join(s.vault, "packs/00000001.pack")) }, "packs/00000001.pack", true},
	{"pack gone", func(t testing.TB, s *site, _ snapshotJSON) { remove(t, filepath.Join(s.vault, "packs/00000001.pack")) }, "packs/00000001.pack", true},
	{"manifest flipped", func(t testing.TB, s *site, w snapshotJSON) {
		flip(t, filepath.Join(s.vault, "manifests", w.ID+".manifest"), 0.5)
	}, "manifests/", true},
	{"manifest gone", func(t testing.TB, s *site, w snapshotJSON) {
		remove(t, filepath.Join(s.vault, "manifests", w.ID+".manifest"))
	}, "manifests/", true},
	{"ledger flipped", func(t testing.TB, s *site, _ snapshotJSON) {
		flip(t, filepath.Join(s.vault, "ledger/000001.jsonl"), 0.6)
	}, "ledger/000001.jsonl", false},
	{"checkpoint flipped", func(t testing.TB, s *site, _ snapshotJSON) { flip(t, filepath.Join(s.vault, "ledger/checkpoint"), 0.8) }, "checkpoint", true},
	{"vault.json flipped", func(t testing.TB, s *site, _ snapshotJSON) { flip(t, filepath.Join(s.vault, "vault.json"), 0.5) }, "vault.json", true},
	{"vault.json gone", func(t testing.TB, s *site, _ snapshotJSON) { remove(t, filepath.Join(s.vault, "vault.json")) }, "vault.json", true},
	{"keyring flipped", func(t testing.TB, s *site, _ snapshotJSON) { flip(t, filepath.Join(s.vault, "keyring"), 0.5) }, "keyring", true},
	{"keyring gone", func(t testing.TB, s *site, _ snapshotJSON) { remove(t, filepath.Join(s.vault, "keyring")) }, "keyring", true},
	{"clock flipped", func(t testing.TB, s *site, _ snapshotJSON) { flip(t, filepath.Join(s.vault, "keeper/clock"), 0.5) }, "clock", true},
}

func flip(t testing.TB, file string, where float64) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[int(float64(len(b))*where)] ^= 4
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func cut(t testing.TB, file string) {
	t.Helper()
	if err := os.Truncate(file, 1000); err != nil {
		t.Fatal(err)
	}
}

func remove(t testing.TB, file string) {
	t.Helper()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
}

// TestDamageIsNotFoundOrTakesMoreWithIt spoils one thing at a time.
func TestDamageIsNotFoundOrTakesMoreWithIt(t *testing.T) {
	good, srv, _ := pulledSite(t)
	src := filepath.Join(t.TempDir(), "two")
	writeTree(t, src, 52, 40, 1)
	good.pull(srv, "web2", src)
	var list []snapshotJSON
	good.must("snapshots", "web1", "--json").json(t, &list)
	for _, x := range damages {
		t.Run(x.name, func(t *testing.T) {
			s := *good
			s.t = t
			s.vault = filepath.Join(t.TempDir(), "vault")
			if out, err := exec.Command("cp", "-a", good.vault, s.vault).CombinedOutput(); err != nil {
				t.Fatalf("%v %s", err, out)
			}
			s.env = append(append([]string{}, good.env...), "HOLDFAST_VAULT="+s.vault)
			x.spoil(t, &s, list[0])
			began := time.Now()
			s.run("check", "--read-data").says(t, exitDamage, "DAMAGE", x.say)
			if x.name != "clock flipped" { // whoever opens the vault for writing mends the clock's state from the ledger
				r := s.run("check", "--read-data", "--json")
				r.says(t, exitDamage)
				var report struct {
					Damage []struct{ What, Detail string }
				}
				if r.json(t, &report); len(report.Damage) == 0 {
					t.Error("the report in JSON names no damage")
				}
			}
			to := filepath.Join(t.TempDir(), "out")
			if r := s.run("restore", "web2@latest", "--to", to); x.web2 {
				r.says(t, exitDone)
				sameAsSource(t, src, to)
			} else {
				t.Logf("restore of web2: exit %d %s", r.code, r.err)
			}
			prune, pull := s.run("prune"), s.run(pullArgs(srv, "web2", src)...)
			t.Logf("prune: exit %d %s\npull: exit %d %s", prune.code, prune.err, pull.code, pull.err)
			if took := time.Since(began); took > time.Minute {
				t.Errorf("it took %v", took)
			}
		})
	}
}
