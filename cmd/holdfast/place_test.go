package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/fsck"
	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

// places has the vault's places told.
func (s *site) places(wantCode int) (rows []placeJSON) {
	s.t.Helper()
	r := s.run("vault", "place", "list", "--json")
	if r.code != wantCode {
		s.t.Fatalf("exit %d: %s%s", r.code, r.out, r.err)
	}
	r.json(s.t, &rows)
	return rows
}

func sealedIn(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "packs", "*.pack"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// secondOpinion has the checker that shares no code with the writer look at every byte.
func (s *site) secondOpinion(at map[int]string) *fsck.Report {
	s.t.Helper()
	d, err := fsck.OpenDir(s.vault)
	if err != nil {
		s.t.Fatal(err)
	}
	defer d.Close()
	d.OpenPlaces(at)
	r, err := fsck.Look(s.t.Context(), d, fsck.Options{ReadData: true})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range r.Damage {
		s.t.Errorf("fsck: %+v", f)
	}
	return r
}

// A vault goes on in a second place, everything comes back, and what is away is neither missing nor written anew.
func TestASecondPlaceFromAddToRestore(t *testing.T) {
	s := initialised(t)
	srv := sshdtest.Start(t, sshdtest.Options{})
	tree := filepath.Join(s.dir, "tree")
	write := func(name, text string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(tree, 0o755), os.WriteFile(filepath.Join(tree, name), []byte(strings.Repeat(text, 5000)), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write("one", "what lies in the first place. ")
	first := s.pull(srv, "web1", tree)
	if rows := s.places(exitDone); len(rows) != 1 || rows[0].Packs == 0 || rows[0].Total == 0 {
		t.Fatalf("%+v", rows)
	}
	before := sealedIn(t, s.vault)

	second := filepath.Join(s.dir, "second")
	if err := os.Mkdir(second, 0o700); err != nil {
		t.Fatal(err)
	}
	s.must("vault", "place", "add", second)
	write("two", "what lies in the second. ")
	s.pull(srv, "web1", tree)
	rows := s.places(exitDone)
	if len(rows) != 2 || rows[1].Path != second || rows[1].Packs == 0 || rows[0].Packs != len(before) {
		t.Fatalf("%+v", rows)
	}
	s.must("check", "--read-data")
	s.must("ledger", "verify")
	restored := func(at string, args ...string) {
		t.Helper()
		to := filepath.Join(s.dir, "out-"+at)
		s.must(append([]string{"restore", "web1@latest", "--to", to}, args...)...)
		for _, name := range []string{"one", "two"} {
			want, _ := os.ReadFile(filepath.Join(tree, name))
			found, err := filepath.Glob(filepath.Join(to, "*", "*", name))
			deep := filepath.Join(to, tree, name)
			for _, f := range append(found, deep, filepath.Join(to, name)) {
				if got, err := os.ReadFile(f); err == nil && string(got) == string(want) {
					found = []string{f}
				}
			}
			if len(found) != 1 || err != nil {
				t.Errorf("%s: %s did not come back: %q %v", at, name, found, err)
			}
		}
	}
	restored("both")
	if r := s.secondOpinion(nil); len(r.Notes) > 0 || r.PackCount != rows[0].Packs+rows[1].Packs || r.BytesRead != r.PackBytes || len(r.Unseen) > 0 {
		t.Errorf("%+v", r)
	}

	// The second disk is not mounted: its mount point is empty.
	if err := errors.Join(os.Rename(second, second+".away"), os.Mkdir(second, 0o700)); err != nil {
		t.Fatal(err)
	}
	if rows := s.places(exitFailed); rows[1].Away == "" {
		t.Errorf("%+v", rows)
	}
	for _, args := range [][]string{{"check"}, {"check", "--read-data"}} {
		r := s.run(args...)
		if r.code != exitFailed || strings.Contains(r.out+r.err, "DAMAGE") || strings.Contains(r.out, "TOUCHED") || !strings.Contains(r.out, "UNSEEN") || !strings.Contains(r.out, second) {
			t.Errorf("%v with a place away: exit %d\n%s%s", args, r.code, r.out, r.err)
		}
	}
	for _, args := range [][]string{{"prune"}, {"index", "rebuild"}, append([]string{"pull"}, "web1")} {
		r := s.run(args...)
		if r.code == exitDone || r.code == exitDamage {
			t.Errorf("%v with a place away: exit %d\n%s%s", args, r.code, r.out, r.err)
		}
	}
	if r := s.run("prune"); !strings.Contains(r.err, "--place 2=DIR") || !strings.Contains(r.err, second) {
		t.Errorf("%s", r.err)
	}
	if r := s.run("ledger", "verify"); r.code != exitDone || strings.Contains(r.out, "MISSING") || !strings.Contains(r.out, "AWAY") {
		t.Errorf("exit %d\n%s%s", r.code, r.out, r.err)
	}
	if r := s.run("doctor"); strings.Contains(r.out, "amaged") || !strings.Contains(r.out, "place 2") {
		t.Errorf("%s", r.out)
	}
	if r := s.run("restore", "web1@latest", "--to", filepath.Join(s.dir, "out-less")); r.code == exitDone || !strings.Contains(r.err, second) {
		t.Errorf("exit %d\n%s%s", r.code, r.out, r.err)
	}
	if r := s.secondOpinion(nil); len(r.Unseen) != rows[1].Packs || r.BytesRead == 0 {
		t.Errorf("%+v", r)
	}
	if r := s.secondOpinion(map[int]string{2: second + ".away"}); len(r.Unseen) != 0 || r.BytesRead != r.PackBytes {
		t.Errorf("%+v", r)
	}
	if left := sealedIn(t, second); len(left) != 0 {
		t.Errorf("written to the mount point: %q", left)
	}
	if r := s.must("cat", "web1@"+first.Time+":/one"); !strings.Contains(r.out, "what lies in the first place") {
		t.Errorf("what lies in the other place: %.100q", r.out)
	}

	// It is mounted elsewhere.
	restored("moved", "--place", "2="+second+".away")
	s.must("check", "--read-data", "--place", "2="+second+".away")
	if err := os.Remove(second); err != nil {
		t.Fatal(err)
	}
	s.must("vault", "place", "add", second+".away")
	restored("again")
	s.must("check", "--read-data")
	if now := sealedIn(t, s.vault); len(now) != len(before) {
		t.Errorf("the first place changed: %q, then %q", before, now)
	}

	// Its disk has died: an empty directory takes its stead, what is gone is told, and pulls go on.
	marker, err := os.ReadFile(filepath.Join(second+".away", "place.json"))
	third := filepath.Join(s.dir, "third")
	if err := errors.Join(err, os.RemoveAll(second+".away"), os.MkdirAll(filepath.Join(third, "packs"), 0o700), os.Mkdir(filepath.Join(third, "incoming"), 0o700),
		os.WriteFile(filepath.Join(third, "place.json"), marker, 0o600)); err != nil {
		t.Fatal(err)
	}
	s.must("vault", "place", "add", third)
	if r := s.run("check"); r.code != exitDamage || !strings.Contains(r.out, "it is missing") {
		t.Errorf("exit %d\n%s%s", r.code, r.out, r.err)
	}
	write("three", "what comes then. ")
	s.pull(srv, "web1", tree)
	restored("after")
}

func TestAPlaceIsAddedByItsVaultsUserAlone(t *testing.T) {
	s := initialised(t)
	for name, args := range map[string][]string{
		"nothing": {}, "two": {"a", "b"}, "not there": {filepath.Join(s.dir, "none")}, "the vault": {s.vault}, "inside": {filepath.Join(s.vault, "packs")},
	} {
		if r := s.run(append([]string{"vault", "place", "add"}, args...)...); r.code == exitDone || r.code == exitDamage {
			t.Errorf("%s: exit %d %s", name, r.code, r.out)
		}
	}
	if _, err := os.Stat(filepath.Join(s.vault, "places")); err == nil {
		t.Error("a list was written")
	}
	if r := s.run("check", "--place", "1=/x"); r.code != exitUsage {
		t.Errorf("exit %d %s", r.code, r.err)
	}
}

// What root does to another user's vault by mistake is refused, and leaves no lock behind that its owner could not open.
func TestRootLeavesNoLockInAnothersVault(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("HOLDFAST_REQUIRE_ALL") == "1" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	s := initialised(t)
	lock := filepath.Join(s.vault, "lock")
	if err := os.Remove(lock); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	err := filepath.WalkDir(s.vault, func(name string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(name, 65534, 65534))
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"vault", "place", "add", t.TempDir()}, {"vault", "move", filepath.Join(s.dir, "new")}, {"prune"}} {
		if r := s.run(args...); r.code == exitDone || !strings.Contains(r.err, "belongs to user 65534") {
			t.Errorf("%q: exit %d: %s", args, r.code, r.err)
		}
		if _, err := os.Stat(lock); err == nil {
			t.Errorf("%q left a lock", args)
			if err := os.Remove(lock); err != nil {
				t.Fatal(err)
			}
		}
	}
}
