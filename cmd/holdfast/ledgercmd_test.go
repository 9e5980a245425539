package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// buildVerify builds holdfast-verify, once for all tests.
var buildVerify = sync.OnceValues(func() (string, error) {
	tool := filepath.Join(filepath.Dir(program), "holdfast-verify")
	out, err := exec.Command("go", "build", "-o", tool, "../holdfast-verify").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, out)
	}
	return tool, err
})

// audit runs holdfast-verify, in an environment without a vault.
func (s *site) audit(args ...string) result {
	s.t.Helper()
	tool, err := buildVerify()
	if err != nil {
		s.t.Fatal(err)
	}
	c := exec.Command(tool, args...)
	c.Env, c.Dir = []string{"PATH="}, s.dir
	return s.runWith(c)
}

// lines are the records of a vault's only segment.
func (s *site) lines() []string {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.vault, "ledger/000001.jsonl"))
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}

// verifier is the key that init printed, as somebody would have written it down.
func (s *site) verifier() string {
	s.t.Helper()
	var first struct{ Init struct{ Verifier string } }
	if err := json.Unmarshal([]byte(s.lines()[0]), &first); err != nil {
		s.t.Fatal(err)
	}
	return first.Init.Verifier
}

// twice makes a vault of two snapshots, with the checkpoints saved after the first and after the second.
func twice(t testing.TB) (s *site, first, second string) {
	t.Helper()
	s, srv, src := pulledSite(t)
	first = s.write("first.txt", s.must("ledger", "checkpoint").out)
	writeTree(t, filepath.Join(src, "more"), 77, 5, 0)
	s.pull(srv, "web1", src)
	return s, first, s.write("second.txt", s.must("ledger", "checkpoint").out)
}

// says checks exit code and words of a result.
func (r result) told(t testing.TB, code int, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(r.out+r.err, w) {
			t.Errorf("it does not say %q:\n%s%s", w, r.out, r.err)
		}
	}
	if r.code != code {
		t.Errorf("exit %d, want %d:\n%s%s", r.code, code, r.out, r.err)
	}
}

func TestProofsConvinceWhoHasOnlyTheKey(t *testing.T) {
	s, first, second := twice(t)
	key := s.verifier()
	var list []snapshotJSON
	s.must("snapshots", "--json").json(t, &list)
	prove := func(daemon string) {
		for _, x := range list {
			proof := s.write("x.tlog-proof", s.must("ledger", "prove", x.Source+"@"+x.Time).out)
			s.audit("proof", "--key", key, proof).told(t, 0, "is in it", `"snapshot":"`+x.ID+`"`, `"lock":{"mode":"governance"`)
			s.audit("proof", "--key", strings.Replace(key, "+", "x+", 1), proof).told(t, exitUsage)
		}
		for n, line := range s.lines() {
			proof := s.write("n.tlog-proof", s.must("ledger", "prove", fmt.Sprint(n)).out)
			record := s.write("record", line+"\n")
			s.audit("proof", "--key", key, proof, record).told(t, 0, fmt.Sprintf("record  %d is in it", n))
			s.audit("proof", "--key", key, proof, s.write("record", strings.Replace(line, "a", "b", 1))).told(t, exitDamage, "NOT PROVED")
		}
		proof := s.write("c", s.must("ledger", "consistency", first).out)
		s.audit("consistency", "--key", key, first, proof).told(t, 0, "extends the saved checkpoint")
		s.audit("consistency", "--key", key, second, proof).told(t, exitDamage, "NOT PROVED")
		s.audit("checkpoint", "--key", key, second).told(t, 0, "records")
		c := s.command("ledger", "consistency", "-")
		saved, err := os.Open(first)
		if err != nil {
			t.Fatal(err)
		}
		defer saved.Close()
		c.Stdin = saved
		if r := s.runWith(c); r.code != 0 || r.out != s.must("ledger", "consistency", first).out {
			t.Errorf("%s, by standard input: %+v", daemon, r)
		}
		s.run("ledger", "prove", "99999").told(t, exitFailed, "no such record")
		s.run("ledger", "prove", "web9@latest").told(t, exitFailed)
		s.run("ledger", "prove", "web1@latest:/x").told(t, exitUsage)
		s.run("ledger", "consistency", "99999").told(t, exitDamage, "records are missing")
		s.run("ledger", "consistency", s.write("junk", "junk")).told(t, exitUsage)
		s.run("ledger", "consistency", "2:"+strings.Repeat("A", 43)+"=").told(t, exitDamage, "the past was changed")
	}
	prove("alone")
	d := s.serve()
	prove("through the daemon")
	s.must("ledger", "verify", "--against", first, "--against", second, "--key", key)
	d.stop()
}

// forge writes a vault's records anew: hashes, numbers and checkpoint are made to fit, as somebody can who has the machine
// and the signing key.
func (s *site) forge(lines []string) {
	s.t.Helper()
	var hashes []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			out[i] = hashes[x]
		}
		return out, nil
	})
	var all bytes.Buffer
	for n, line := range lines {
		body := line[:strings.LastIndex(line, `,"hash":"`)]
		body = regexp.MustCompile(`^\{"seq":\d+`).ReplaceAllString(body, fmt.Sprintf(`{"seq":%d`, n))
		line = fmt.Sprintf(`%s,"hash":"%x"}`, body, sha256.Sum256([]byte(body)))
		h, err := tlog.StoredHashes(int64(n), []byte(line), reader)
		if err != nil {
			s.t.Fatal(err)
		}
		hashes = append(hashes, h...)
		all.WriteString(line + "\n")
	}
	root, err := tlog.TreeHash(int64(len(lines)), reader)
	if err != nil {
		s.t.Fatal(err)
	}
	skey, err := os.ReadFile(filepath.Join(s.vault, "keeper/log.key"))
	if err != nil {
		s.t.Fatal(err)
	}
	signer, err := note.NewSigner(strings.TrimSpace(string(skey)))
	if err != nil {
		s.t.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", signer.Name(), len(lines), root)}, signer)
	if err != nil {
		s.t.Fatal(err)
	}
	for name, b := range map[string][]byte{"000001.jsonl": all.Bytes(), "checkpoint": signed} {
		if err := os.WriteFile(filepath.Join(s.vault, "ledger", name), b, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
}

// find gives the number of the last record that holds a text.
func find(t testing.TB, lines []string, text string) int {
	t.Helper()
	for n := len(lines) - 1; n >= 0; n-- {
		if strings.Contains(lines[n], text) {
			return n
		}
	}
	t.Fatalf("no record holds %q", text)
	return 0
}

func without(lines []string, n int) []string {
	return append(append([]string{}, lines[:n]...), lines[n+1:]...)
}

// pasts are ways to change the past of a stopped vault as root, with the signing key at hand.
var pasts = []struct {
	name  string
	spoil func(t testing.TB, s *site, other *site)
	words []string
}{
	{"the newest record dropped", func(t testing.TB, s, _ *site) { l := s.lines(); s.forge(l[:len(l)-1]) }, []string{"REFUTED", "is missing or damaged", "UNNAMED manifests/", "snapshot of web1"}},
	{"rolled back to the first snapshot", func(t testing.TB, s, _ *site) {
		l := s.lines()
		s.forge(l[:len(l)-3])
	}, []string{"REFUTED", "are missing or damaged", "UNNAMED manifests/"}},
	{"a commit left out", func(t testing.TB, s, _ *site) { l := s.lines(); s.forge(without(l, find(t, l, `"kind":"commit"`))) }, []string{"REFUTED"}},
	{"the first commit left out, another added", func(t testing.TB, s, _ *site) {
		l := s.lines()
		s.forge(append(without(l, 2), l[1]))
	}, []string{"REFUTED", "are not those that it covers"}},
	{"a lock shortened", func(t testing.TB, s, _ *site) {
		l := s.lines()
		n := find(t, l, `"kind":"commit"`)
		l[n] = strings.Replace(l[n], `"for_s":2592000`, `"for_s":2592`, 1)
		s.forge(l)
	}, []string{"REFUTED", "are not those that it covers", "the first", "are unchanged, as another saved checkpoint proves"}},
	{"a commit backdated", func(t testing.TB, s, _ *site) {
		l := s.lines()
		n := find(t, l, `"kind":"commit"`)
		l[n] = strings.Replace(l[n], `"wall":"20`, `"wall":"19`, 1)
		s.forge(l)
	}, []string{"REFUTED"}},
	{"two records exchanged", func(t testing.TB, s, _ *site) {
		l := s.lines()
		l[1], l[2] = l[2], l[1]
		s.forge(l)
	}, []string{"REFUTED"}},
	{"a clean snapshot marked as dirty", func(t testing.TB, s, _ *site) {
		l := s.lines()
		n := find(t, l, `"clean":true`)
		l[n] = strings.Replace(l[n], `"clean":true`, `"clean":false`, 1)
		s.forge(l)
	}, []string{"REFUTED"}},
	{"an extra record in the middle", func(t testing.TB, s, _ *site) {
		l := s.lines()
		s.forge(append(append(append([]string{}, l[:2]...), l[1]), l[2:]...))
	}, []string{"REFUTED", "are not those that it covers"}},
	{"another policy in the first record", func(t testing.TB, s, _ *site) {
		l := s.lines()
		l[0] = strings.Replace(l[0], `"default_s":2592000`, `"default_s":1`, 1)
		s.forge(l)
	}, []string{"REFUTED"}},
	{"another vault's ledger put in its place", func(t testing.TB, s, other *site) {
		copyTree(t, filepath.Join(other.vault, "ledger"), filepath.Join(s.vault, "ledger"))
	}, []string{"REFUTED", "DAMAGE", "verifier"}},
	{"no ledger at all", func(t testing.TB, s, _ *site) { removeAll(t, filepath.Join(s.vault, "ledger")) }, []string{"REFUTED", "there is no ledger", "are missing"}},
	{"an empty ledger", func(t testing.TB, s, _ *site) {
		removeAll(t, filepath.Join(s.vault, "ledger"))
		if err := os.Mkdir(filepath.Join(s.vault, "ledger"), 0o700); err != nil {
			t.Fatal(err)
		}
	}, []string{"REFUTED", "there is no ledger"}},
	{"the segment emptied", func(t testing.TB, s, _ *site) {
		if err := os.Truncate(filepath.Join(s.vault, "ledger/000001.jsonl"), 0); err != nil {
			t.Fatal(err)
		}
	}, []string{"REFUTED", "DAMAGE ledger/000001.jsonl"}},
	{"a bit flipped", func(t testing.TB, s, _ *site) { flip(t, filepath.Join(s.vault, "ledger/000001.jsonl"), 0.6) }, []string{"REFUTED", "DAMAGE ledger/000001.jsonl line"}},
	{"the checkpoint removed", func(t testing.TB, s, _ *site) { remove(t, filepath.Join(s.vault, "ledger/checkpoint")) }, []string{"PROVED", "DAMAGE ledger/checkpoint"}},
	{"the checkpoint spoilt", func(t testing.TB, s, _ *site) { flip(t, filepath.Join(s.vault, "ledger/checkpoint"), 0.9) }, []string{"PROVED", "DAMAGE ledger/checkpoint"}},
	{"a pack removed", func(t testing.TB, s, _ *site) { remove(t, filepath.Join(s.vault, "packs/00000001.pack")) }, []string{"PROVED", "MISSING packs/00000001.pack"}},
	{"all packs removed", func(t testing.TB, s, _ *site) { removeAll(t, filepath.Join(s.vault, "packs")) }, []string{"MISSING packs/00000001.pack", "MISSING packs/00000002.pack"}},
	{"all manifests removed", func(t testing.TB, s, _ *site) { removeAll(t, filepath.Join(s.vault, "manifests")) }, []string{"MISSING manifests/"}},
	{"a manifest and its commit removed", func(t testing.TB, s, _ *site) {
		l := s.lines()
		n := find(t, l, `"kind":"commit"`)
		id := regexp.MustCompile(`"snapshot":"([0-9a-f]{64})"`).FindStringSubmatch(l[n])[1]
		remove(t, filepath.Join(s.vault, "manifests", id+".manifest"))
		s.forge(without(l, n))
	}, []string{"REFUTED"}},
}

func removeAll(t testing.TB, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func copyTree(t testing.TB, from, to string) {
	t.Helper()
	removeAll(t, to)
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
}

// TestChangedPastIsRefutedByASavedCheckpoint changes the past of a stopped vault in every way and holds it against the
// checkpoint that was saved after the last commit.
func TestChangedPastIsRefutedByASavedCheckpoint(t *testing.T) {
	good, first, second := twice(t)
	key := good.verifier()
	other := initialised(t)
	good.must("ledger", "verify", "--key", key, "--against", first, "--against", second).told(t, 0, "PROVED "+first, "PROVED "+second, "with the key given")
	good.must("ledger", "verify").told(t, 0, "with the key that the ledger names itself")
	for _, x := range pasts {
		t.Run(x.name, func(t *testing.T) {
			s := *good
			s.t, s.vault = t, filepath.Join(t.TempDir(), "vault")
			s.env = append(append([]string{}, good.env...), "HOLDFAST_VAULT="+s.vault, "HOLDFAST_UNLOCK_KEY=/nonexistent")
			copyTree(t, good.vault, s.vault)
			x.spoil(t, &s, other)
			r := s.run("ledger", "verify", "--key", key, "--against", first, "--against", second)
			r.told(t, exitDamage, append(x.words, "do not prune")...)
			r = s.run("ledger", "verify", "--key", key, "--against", second, "--json")
			var look ledgerLook
			r.json(t, &look)
			if look.OK || r.code != exitDamage || len(look.Against) != 1 {
				t.Errorf("%+v", look)
			}
		})
	}
}

func TestVerifyIsToldNonsense(t *testing.T) {
	s, first, _ := twice(t)
	s.run("ledger", "verify", "--against", s.write("junk", "junk\n")).told(t, exitUsage, "not a checkpoint")
	s.run("ledger", "verify", "--against", filepath.Join(s.dir, "absent")).told(t, exitFailed, "absent")
	s.run("ledger", "verify", "--key", "x+y+z").told(t, exitUsage, "not the verifier")
	s.run("ledger", "verify", "x").told(t, exitUsage)
	s.run("--vault", filepath.Join(s.dir, "nowhere"), "ledger", "verify").told(t, exitFailed)
	// Size and root alone, as Prometheus and paper have them.
	b, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Split(string(b), "\n")
	s.must("ledger", "verify", "--against", line[1]+":"+line[2]).told(t, 0, "PROVED")
	s.run("ledger", "verify", "--against", line[1]+":"+strings.Repeat("A", 43)+"=").told(t, exitDamage, "REFUTED")
	// A checkpoint that went through a mail program still counts; one that was altered does not.
	s.must("ledger", "verify", "--against", s.write("mail", strings.ReplaceAll(string(b), "\n", "\r\n")+"\r\n"))
	s.run("ledger", "verify", "--against", s.write("altered", strings.Replace(string(b), "\n"+line[1]+"\n", "\n1\n", 1))).told(t, exitDamage, "REFUTED", "its signature does not hold")
}

// watching is a running `holdfast witness serve`.
func (s *site) watch(dir string) (url string) {
	s.t.Helper()
	c := s.command("witness", "serve", dir, "--listen", "127.0.0.1:0")
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said, err := c.StderrPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	found := make(chan string, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(said); lines.Scan(); {
			if m := regexp.MustCompile(` on=(\S+)`).FindStringSubmatch(lines.Text()); m != nil {
				found <- "http://" + m[1]
			}
		}
	}()
	s.t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		<-ended
		if err := c.Wait(); err != nil {
			s.t.Errorf("witness: %v", err)
		}
	})
	select {
	case url = <-found:
	case <-ended:
		s.t.Fatal("the witness did not begin")
	}
	return url
}

// TestWitnessRemembersWhatTheVaultForgot has a vault cosigned, rolls it back, and forks it.
func TestWitnessRemembersWhatTheVaultForgot(t *testing.T) {
	s, srv, src := pulledSite(t)
	key := s.verifier()
	dir := filepath.Join(s.dir, "witness")
	witnessKey := strings.Split(s.must("witness", "init", dir, "--name", "w.example/1").out, "\n")[1]
	s.run("witness", "init", dir, "--name", "w.example/1").told(t, exitFailed, "already")
	url := s.watch(dir)
	cosign := []string{"ledger", "cosign", "--witness", url, "--witness-key", witnessKey}
	s.run(cosign...).told(t, exitFailed, "does not know this ledger")
	s.must("witness", "add-log", dir, key)
	s.must(cosign...).told(t, 0, "w.example/1 cosigned")
	s.must("ledger", "verify", "--key", key)

	proof := s.write("p", s.must("ledger", "prove", "web1@latest").out)
	s.audit("proof", "--key", key, "--witness", witnessKey, proof).told(t, 0, `witness "w.example/1" cosigned it at `)
	s.audit("proof", "--key", key, "--witness", strings.Replace(witnessKey, "w.", "v.", 1), proof).told(t, exitUsage)

	early := filepath.Join(s.dir, "early")
	copyTree(t, s.vault, early)
	writeTree(t, filepath.Join(src, "more"), 77, 5, 0)
	s.pull(srv, "web1", src)
	d := s.serve()
	s.must(cosign...) // through the daemon
	d.stop()
	var logs []struct{ Size uint64 }
	s.must("witness", "list", dir, "--json").json(t, &logs)
	if len(logs) != 1 || logs[0].Size != uint64(len(s.lines())) {
		t.Errorf("remembered %+v of %d", logs, len(s.lines()))
	}

	forked := filepath.Join(s.dir, "forked")
	copyTree(t, early, forked)
	rolled := *s
	at := func(vault string) {
		rolled.vault = vault
		rolled.env = append(append([]string{}, s.env...), "HOLDFAST_VAULT="+vault)
	}
	at(early)
	rolled.run(cosign...).told(t, exitDamage, "behind what it signed", "rolled back")
	rolled.run(pullArgs(srv, "web1", src)...).told(t, exitFailed, "behind what it signed")
	at(forked)
	for n := range uint64(3) {
		writeTree(t, filepath.Join(src, fmt.Sprint("other", n)), 78+n, 9, 0)
		rolled.pull(srv, "web1", src)
	}
	rolled.run(cosign...).told(t, exitDamage, "has another root than the first", "a copy of it goes on elsewhere")
	s.must(cosign...)
}

func TestTilesAreLaidOutAndGrow(t *testing.T) {
	s, srv, src := pulledSite(t)
	out := filepath.Join(s.dir, "www")
	s.must("ledger", "tiles", out).told(t, 0, "Wrote ")
	s.must("ledger", "tiles", out).told(t, 0, "Wrote 0 files")
	writeTree(t, filepath.Join(src, "more"), 77, 5, 0)
	s.pull(srv, "web1", src)
	s.must("ledger", "tiles", out)
	n := len(s.lines())
	for _, name := range []string{"checkpoint", fmt.Sprintf("tile/0/000.p/%d", n), fmt.Sprintf("tile/entries/000.p/%d", n)} {
		if _, err := os.Stat(filepath.Join(out, name)); err != nil {
			t.Error(err)
		}
	}
	s.audit("checkpoint", "--key", s.verifier(), filepath.Join(out, "checkpoint")).told(t, 0)
	s.run("ledger", "tiles", filepath.Join(s.vault, "www")).told(t, exitUsage, "inside the vault")
}

// TestAuditorAtTheDoorNeedsNoMore: who may see one source gets proofs of its snapshots over SSH, and nothing of others.
func TestAuditorAtTheDoorNeedsNoMore(t *testing.T) {
	d := openDoor(t)
	key := d.verifier()
	saved := d.ssh("alice", "ledger-checkpoint")
	d.audit("checkpoint", "--key", key, d.write("cp", saved.out)).told(t, 0)
	proof := d.ssh("alice", "ledger-prove", "web1@latest")
	d.audit("proof", "--key", key, d.write("p", proof.out)).told(t, 0, `"source":"web1"`)
	for n := range d.lines() {
		if r := d.ssh("alice", "ledger-prove", fmt.Sprint(n)); r.code != exitUsage || r.out != "" {
			t.Errorf("record %d: %+v", n, r)
		}
	}
	c := d.stockCommand("alice", "ssh", "alice@127.0.0.1", "ledger-consistency", "-")
	c.Stdin = strings.NewReader(saved.out)
	d.audit("consistency", "--key", key, filepath.Join(d.dir, "cp"), d.write("c", d.runWith(c).out)).told(t, 0)
	if r := d.ssh("alice", "ledger-consistency", "/etc/passwd"); r.code != exitUsage {
		t.Errorf("%+v", r)
	}
	if r := d.ssh("alice", "ledger-cosign", "--witness", "http://127.0.0.1:1", "--witness-key", "x"); r.code == 0 || strings.Contains(r.err, "witness") && !strings.Contains(r.err, "ledger-cosign") {
		t.Errorf("%+v", r)
	}
	d.daemon.stop()
}
