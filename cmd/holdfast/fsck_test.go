package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSecondOpinionDiffersOnAHealthyVault has both checkers look at healthy vaults of every kind.
func TestSecondOpinionDiffersOnAHealthyVault(t *testing.T) {
	agree := func(s *site, more ...string) string {
		t.Helper()
		s.must("ledger", "verify")
		r := runFsck(t, append([]string{s.vault}, more...)...)
		r.told(t, exitDone, "OK: nothing is wrong")
		return r.out
	}
	s := initialised(t)
	agree(s, "--read-data", "--key", filepath.Join(s.dir, "recovery.key"))
	s, first, second := twice(t)
	args := []string{"--verifier", s.verifier(), "--against", first, "--against", second, "--read-data"}
	agree(s, append(args, "--key", filepath.Join(s.dir, "unlock.key"))...)
	d := s.serve()
	if out := agree(s, args...); strings.Contains(out, "being written") {
		t.Errorf("%s", out)
	}
	d.stop()
	s.must("check", "--read-data")

	c := makeCrypt(t)
	for _, dir := range []string{c.dir, c.older, c.fork, c.other} {
		r := runFsck(t, dir, "--read-data", "--key", c.identity)
		r.told(t, exitDone, "OK: nothing is wrong", "With the key:")
	}
	r := runFsck(t, c.dir, "--json", "--witness", c.witnessKey)
	var look struct {
		OK        bool           `json:"ok"`
		Kinds     map[string]int `json:"kinds"`
		Witnesses []struct{ Witness string }
		Sources   []struct {
			Source    string
			Snapshots int
		}
		Advice []string
	}
	if err := json.Unmarshal([]byte(r.out), &look); err != nil || !look.OK || look.Kinds["intent"] == 0 || look.Kinds["segment"] != 1 || len(look.Witnesses) != 1 || len(look.Sources) != 2 || len(look.Advice) != 0 {
		t.Errorf("%v: %+v", err, look)
	}
	// The vault lies on a disk that nobody may write to.
	if err := os.Chmod(c.dir, 0o500); err != nil {
		t.Fatal(err)
	}
	runFsck(t, c.dir).told(t, exitDone)
}

// TestWhatOnlyTheKeyTellsIsNotTold: files that cannot be given back are counted by snapshot, with the first one's name.
func TestWhatOnlyTheKeyTellsIsNotTold(t *testing.T) {
	c := makeCrypt(t)
	for name, x := range map[string]struct {
		do    func(c *crypt)
		words []string
	}{
		"a pack is gone": {func(c *crypt) {
			for _, p := range c.packs() {
				c.must(os.Remove(p))
			}
		}, []string{"it is not there", "NONE is complete and whole", "catalog: chunk"}},
		"a pack's content rots": {func(c *crypt) { flip(c.t, c.packs()[0], 0.02) }, []string{"its content is not what was sealed", "needed by"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := c.copyOf(t)
			x.do(c)
			runFsck(t, c.dir, "--read-data", "--key", c.identity).told(t, exitDamage, append(x.words, "What to do now")...)
		})
	}
	s, _, _ := pulledSite(t)
	// Which block is where in a pack is not the same each time. Without the one that holds the catalog no file is known.
	pack, first := filepath.Join(s.vault, "packs/00000001.pack"), false
	for _, at := range []float64{0.1, 0.3, 0.5, 0.7} {
		flip(t, pack, at)
		r := runFsck(t, s.vault, "--read-data", "--key", filepath.Join(s.dir, "unlock.key"))
		r.told(t, exitDamage, "its content is not what was sealed")
		first = first || strings.Contains(r.out, "files cannot be given back whole, the first of them")
		flip(t, pack, at) // back
	}
	if !first {
		t.Error("no flip is said to touch a file")
	}
	wrong := c.file("wrong.key", []byte("junk\n"))
	runFsck(t, c.dir, "--key", wrong).told(t, exitFailed, "wrong.key")
	runFsck(t, c.dir, "--key", filepath.Join(c.home, "nowhere")).told(t, exitFailed, "nowhere")
}

func TestSecondOpinionIsToldNonsense(t *testing.T) {
	s, first, _ := twice(t)
	for _, x := range []struct {
		args []string
		code int
		say  string
	}{
		{nil, exitUsage, "one directory is needed"},
		{[]string{s.vault, s.vault}, exitUsage, "one directory is needed"},
		{[]string{s.vault, "--frob"}, exitUsage, "frob"},
		{[]string{s.vault, "--verifier", "x+y+z"}, exitUsage, "not the verifier of a vault"},
		{[]string{s.vault, "--witness", s.verifier()}, exitUsage, "not the verifier of a witness"},
		{[]string{s.vault, "--against", s.write("junk", "junk\n")}, exitUsage, "junk"},
		{[]string{s.vault, "--against", filepath.Join(s.dir, "absent")}, exitFailed, "absent"},
		{[]string{filepath.Join(s.dir, "nowhere")}, exitFailed, "nowhere"},
		{[]string{s.dir}, exitFailed, "the vault lies in"},
		{[]string{"--help"}, exitDone, "holdfast-fsck DIR"},
		{[]string{"--against", first, s.vault, "--read-data"}, exitDone, "PROVED"},
	} {
		runFsck(t, x.args...).told(t, x.code, x.say)
	}
	// A checkpoint that went through a mail program still counts; one that was altered does not.
	b, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Split(string(b), "\n")
	runFsck(t, s.vault, "--against", line[1]+":"+line[2]).told(t, exitDone, "PROVED")
	runFsck(t, s.vault, "--against", line[1]+":"+strings.Repeat("A", 43)+"=").told(t, exitDamage, "REFUTED")
	runFsck(t, s.vault, "--against", s.write("mail", strings.ReplaceAll(string(b), "\n", "\r\n")+"\r\n")).told(t, exitDone, "PROVED")
	runFsck(t, s.vault, "--against", s.write("altered", strings.Replace(string(b), "\n"+line[1]+"\n", "\n1\n", 1))).told(t, exitDamage, "REFUTED", "its signature does not hold")
}

// TestWrongDirectoryIsTakenForALostVault: the directory above the vault, or another one, is no vault of which everything is lost.
func TestWrongDirectoryIsTakenForALostVault(t *testing.T) {
	s := initialised(t)
	for dir, words := range map[string]string{filepath.Dir(s.vault): "the vault lies in", t.TempDir(): "no part of a vault"} {
		r := runFsck(t, dir)
		if r.code != exitFailed || !strings.Contains(r.err, words) || strings.Contains(r.out+r.err, "DAMAGE") {
			t.Errorf("%d %s%s", r.code, r.out, r.err)
		}
	}
}
