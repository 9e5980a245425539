package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A vault without a keeper moves, is pulled into and given back from its new place, and what was saved before still proves it.
func TestVaultMovesWithAllItsPromises(t *testing.T) {
	s, srv, src := pulledSite(t)
	saved := s.write("saved.txt", s.must("ledger", "checkpoint").out)
	s.must("lock", "web1@latest", "--for", "60d")
	s.must("hold", "add", "web1@latest", "--reason", "a trial")
	before := s.promises()
	old, to := s.vault, filepath.Join(s.dir, "larger")

	s.write("full/letter", "mine")
	for dir, harm := range map[string]string{
		filepath.Join(old, "deeper"): "the two places are one", filepath.Join(old, "packs", "deeper"): "must be a directory of its own", old: "the two places are one",
		s.dir: "the two places are one", filepath.Join(s.dir, "full"): "is not empty", filepath.Join(s.dir, "a", "b"): "no such file",
	} {
		s.run("vault", "move", dir).told(t, exitFailed, harm)
	}
	if _, err := os.Stat(filepath.Join(old, "deeper")); err == nil {
		t.Error("a refused move left a directory")
	}
	s.run("vault", "retire", old).told(t, exitFailed, "bears no mark")

	s.must("vault", "move", to).told(t, exitDone, "has moved to", "left    index: a cache", "vault retire")
	s.must("vault", "move", to).told(t, exitDone, "nothing was left to do")
	s.run("pull", "web1").told(t, exitFailed, "the vault has moved to", "larger")
	if out := s.promises(); out != before { // the old place can be read
		t.Errorf("%s", out)
	}
	s.run("doctor").told(t, exitFailed, "the vault has moved to")
	s.run("vault", "place", "add", s.dir).told(t, exitFailed, "the vault has moved to")
	s.vault = to
	s.env = append(s.env, "HOLDFAST_VAULT="+to)
	if out := s.promises(); out != before {
		t.Errorf("it was\n%s\nand is\n%s", before, out)
	}
	s.must("ledger", "verify", "--against", saved)
	s.pull(srv, "web1", src)
	s.must("check", "--read-data")
	r := s.must("vault", "retire", old, "--json")
	var said movedJSON
	if err := json.Unmarshal([]byte(r.out), &said); err != nil || said.To != to || said.Files < 2 || len(said.Damaged) > 0 {
		t.Errorf("%v %+v", err, said)
	}
	if err := os.RemoveAll(old); err != nil {
		t.Error(err)
	}
	s.must("check")
	s.run("vault", "retire", to).told(t, exitFailed, "bears no mark")
}

// A vault with a second place moves with that staying where it is, and from there into one directory; the place is given up
// only once nothing is in it alone.
func TestVaultWithPlacesMoves(t *testing.T) {
	s, srv, src := pulledSite(t)
	far := filepath.Join(s.dir, "far")
	if err := os.Mkdir(far, 0o700); err != nil {
		t.Fatal(err)
	}
	s.must("vault", "place", "add", far)
	writeTree(t, filepath.Join(src, "more"), 78, 20, 0)
	s.pull(srv, "web1", src)
	packs := func(dir string) int {
		t.Helper()
		all, err := filepath.Glob(filepath.Join(dir, "packs", "*.pack"))
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	before, there := s.promises(), packs(far)
	if there == 0 {
		t.Fatal("nothing lies in the second place")
	}
	first := s.vault
	for i, x := range []struct {
		flags []string
		stay  int // packs in the second place that the vault still has
	}{{nil, there}, {[]string{"--collect"}, 0}} {
		old, to := s.vault, filepath.Join(s.dir, fmt.Sprint("larger", i))
		s.must(append([]string{"vault", "move", to}, x.flags...)...)
		s.vault = to
		s.env = append(s.env, "HOLDFAST_VAULT="+to)
		if after := s.promises(); after != before {
			t.Errorf("it was\n%s\nand is\n%s", before, after)
		}
		s.must("check", "--read-data")
		if n := packs(to); n != packs(first)+there-x.stay || packs(far) != there {
			t.Errorf("%d packs in the new directory, %d in the second place", n, packs(far))
		}
		s.must("vault", "retire", old)
	}
	if err := os.RemoveAll(far); err != nil {
		t.Fatal(err)
	}
	s.must("check", "--read-data")
	s.pull(srv, "web1", src)
}

// promises is what the vault says of its snapshots. The end of a lock is worked out from clocks that go on, to the second.
func (s *site) promises() string {
	s.t.Helper()
	var list []map[string]any
	if err := json.Unmarshal([]byte(s.must("snapshots", "--json").out), &list); err != nil {
		s.t.Fatal(err)
	}
	for _, snap := range list {
		until, err := time.Parse(time.RFC3339, fmt.Sprint(snap["locked_until"]))
		if err != nil {
			s.t.Fatal(err)
		}
		snap["locked_until"] = until.Round(time.Hour)
	}
	b, err := json.Marshal(list)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// A damaged pack is named, with the exit code of damage, and nothing moves.
func TestDamagedVaultDoesNotMoveUnasked(t *testing.T) {
	s, _, _ := pulledSite(t)
	packs, err := filepath.Glob(filepath.Join(s.vault, "packs", "*.pack"))
	if err != nil || len(packs) == 0 {
		t.Fatal(packs, err)
	}
	b, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(packs[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(s.dir, "larger")
	s.run("vault", "move", to).told(t, exitDamage, filepath.Base(packs[0]), "--with-damage", "nothing has moved")
	s.must("vault", "move", to, "--with-damage").told(t, exitDone, "damaged packs/"+filepath.Base(packs[0]))
}
