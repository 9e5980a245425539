package main

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

// torchwood is the version of the programs that know nothing of us and speak the same protocols.
const torchwood = "filippo.io/torchwood v0.9.0"

// waitLong is how long other programs may take to begin.
const waitLong = 30 * time.Second

// strangers builds litewitness and a verifier made of torchwood's own code, in a module of their own. The latter also makes
// litewitness know a log: witnessctl, which does that, needs a module that the proxy does not give to everybody.
func strangers(t testing.TB) (dir string) {
	t.Helper()
	sshdtest.Need(t, "ssh-agent", "ssh-add", "ssh-keygen")
	dir = t.TempDir()
	main, err := os.ReadFile("testdata/stranger/main.go.txt")
	if err != nil {
		t.Fatal(err)
	}
	mod := "module stranger\n\ngo 1.26\n\nrequire " + torchwood + "\n"
	for name, text := range map[string]string{"go.mod": mod, "main.go": string(main)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.CommandContext(t.Context(), "go", "build", "-mod=mod", "-o", dir+string(filepath.Separator), ".", "filippo.io/torchwood/cmd/litewitness")
	c.Dir, c.Env = dir, append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	if out, err := c.CombinedOutput(); err != nil {
		if os.Getenv(sshdtest.RequireAll) == "1" {
			t.Fatalf("%s: %v\n%s", torchwood, err, out)
		}
		t.Skipf("needs %s from the module proxy: %v\n%s", torchwood, err, out)
	}
	return dir
}

// TestStrangersAgree has torchwood's litewitness cosign a real vault, and its verifiers judge checkpoints, proofs and tiles.
func TestStrangersAgree(t *testing.T) {
	bin := strangers(t)
	s, srv, src := pulledSite(t)
	key := s.verifier()
	url, witnessKey := litewitness(t, s, bin, key)
	cosign := []string{"ledger", "cosign", "--witness", url, "--witness-key", witnessKey}
	s.must(cosign...).told(t, 0, "w.example/lite cosigned")
	early := filepath.Join(s.dir, "early")
	copyTree(t, s.vault, early)
	writeTree(t, filepath.Join(src, "more"), 77, 5, 0)
	s.pull(srv, "web1", src)
	s.must(cosign...)
	s.must(cosign...) // the same size once more

	policy := s.write("policy", fmt.Sprintf("log %s\nwitness lite %s\nquorum lite\n", key, witnessKey))
	judge := func(code int, what, file string) result {
		t.Helper()
		c := exec.Command(filepath.Join(bin, "stranger"), what, policy, file)
		r := s.runWith(c)
		if r.code != code {
			t.Errorf("torchwood on %s %s: exit %d\n%s", what, file, r.code, r.err)
		}
		return r
	}
	cosigned := filepath.Join(s.vault, "ledger/cosigned")
	judge(0, "checkpoint", cosigned)
	s.audit("checkpoint", "--key", key, "--witness", witnessKey, cosigned).told(t, 0, `witness "w.example/lite"`)
	b, err := os.ReadFile(cosigned)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(b); i += 7 {
		bad := append([]byte{}, b...)
		bad[i] ^= 1
		file := s.write("bad", string(bad))
		judge(1, "checkpoint", file)
		s.audit("checkpoint", "--key", key, "--witness", witnessKey, file).told(t, exitDamage)
	}
	for n := range s.lines() {
		proof := s.must("ledger", "prove", fmt.Sprint(n)).out
		file := s.write("proof", proof)
		judge(0, "proof", file)
		s.audit("proof", "--key", key, "--witness", witnessKey, file).told(t, 0)
		if n > 0 {
			file = s.write("proof", strings.Replace(proof, fmt.Sprintf("\nindex %d\n", n), fmt.Sprintf("\nindex %d\n", n-1), 1))
			judge(1, "proof", file)
			s.audit("proof", "--key", key, "--witness", witnessKey, file).told(t, exitDamage)
		}
	}
	www := filepath.Join(s.dir, "www")
	s.must("ledger", "tiles", www)
	if r := judge(0, "tiles", www); r.out != strings.Join(s.lines(), "\n")+"\n" {
		t.Errorf("torchwood reads other records from the tiles:\n%s", r.out)
	}

	rolled := *s
	rolled.vault = early
	rolled.env = append(append([]string{}, s.env...), "HOLDFAST_VAULT="+early)
	rolled.run(cosign...).told(t, exitDamage, "rolled back")
	for seed := range uint64(3) {
		writeTree(t, filepath.Join(src, fmt.Sprint("other", seed)), 100+seed, 9, 0)
		rolled.pull(srv, "web1", src)
	}
	rolled.run(cosign...).told(t, exitDamage, "its past was changed, or a copy of it goes on elsewhere")
	s.must(cosign...)

	// The daemon asks it by itself. Of the fork it has litewitness's word and no proof: an alarm, and nothing is stopped.
	s.write("holdfast.yaml", fmt.Sprintf("vault: %s\nmetrics: {listen: '127.0.0.1:0'}\nwitnesses:\n  members:\n  - {name: lite, url: %q, key: %q}\n", s.vault, url, witnessKey))
	d := s.serve()
	d.shows(t, "holdfast_ledger_witnessed 1")
	d.stop()
	judge(0, "checkpoint", cosigned)
	d = rolled.serve()
	d.shows(t, `holdfast_witness_refutes{witness="lite"} 1`)
	d.shows(t, "holdfast_ledger_behind 0")
	d.stop()
}

// litewitness runs torchwood's witness with a key in an ssh-agent of its own, and makes it know the vault.
func litewitness(t testing.TB, s *site, bin, key string) (url, witnessKey string) {
	t.Helper()
	dir := shortDir(t)
	sock, db := filepath.Join(dir, "a"), filepath.Join(dir, "w.db")
	stranger := func(program string, args ...string) string {
		t.Helper()
		c := exec.Command(program, args...)
		c.Env = append(os.Environ(), "SSH_AUTH_SOCK="+sock)
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q: %v\n%s", program, args, err, out)
		}
		return string(out)
	}
	agent := exec.Command("ssh-agent", "-D", "-a", sock)
	agent.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = agent.Process.Kill(); _ = agent.Wait() })
	waitFor(t, "ssh-agent's socket", waitLong, func() bool { _, err := os.Stat(sock); return err == nil })
	stranger("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "k"))
	stranger("ssh-add", filepath.Join(dir, "k"))
	print := strings.Fields(stranger("ssh-keygen", "-l", "-f", filepath.Join(dir, "k.pub")))[1]
	address := freePort(t)
	c := exec.Command(filepath.Join(bin, "litewitness"), "-db", db, "-name", "w.example/lite", "-key", print, "-ssh-agent", sock, "-listen", address)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ready, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(said); lines.Scan(); {
			if m := regexp.MustCompile(`vkey=(\S+)`).FindStringSubmatch(lines.Text()); m != nil {
				witnessKey = strings.Trim(m[1], `"`)
			}
			if strings.Contains(lines.Text(), "msg=listening") {
				close(ready)
			}
		}
	}()
	t.Cleanup(func() { _ = c.Process.Kill(); <-ended; _ = c.Wait() })
	select {
	case <-ready:
	case <-ended:
		t.Fatal("litewitness did not begin")
	}
	waitFor(t, "litewitness", waitLong, func() bool {
		r := exec.Command("bash", "-c", "exec 3<>/dev/tcp/"+strings.Replace(address, ":", "/", 1))
		return r.Run() == nil
	})
	stranger(filepath.Join(bin, "stranger"), "watch", db, key)
	// Its key in our own hands: the agent's public key, and the name.
	public := strings.Fields(stranger("cat", filepath.Join(dir, "k.pub")))[1]
	raw, err := base64.StdEncoding.DecodeString(public)
	if err != nil || !strings.HasSuffix(witnessKey, base64.StdEncoding.EncodeToString(append([]byte{4}, raw[len(raw)-32:]...))) {
		t.Fatalf("litewitness says that its key is %q", witnessKey)
	}
	return "http://" + address, witnessKey
}
