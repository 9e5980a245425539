package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

// TestVaultIsLostWithItsMachine gives back on a foreign host, from read-only media, with packs, manifests, ledger and the
// recovery identity, and nothing else: no vault.json, no keyring, no index, no unlock key, no configuration.
func TestVaultIsLostWithItsMachine(t *testing.T) {
	s, srv, src := pulledSite(t)
	added := filepath.Join(src, "added")
	if err := os.WriteFile(added, []byte("added"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.pull(srv, "web1", src)
	media := filepath.Join(t.TempDir(), "media")
	for _, part := range []string{"packs", "manifests", "ledger"} {
		if err := os.CopyFS(filepath.Join(media, part), os.DirFS(filepath.Join(s.vault, part))); err != nil {
			t.Fatal(err)
		}
	}
	lock := func(mode fs.FileMode) {
		err := filepath.WalkDir(media, func(p string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				err = os.Chmod(p, mode)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	lock(0o555)
	t.Cleanup(func() { lock(0o755) })
	if os.Geteuid() == 0 {
		readOnlyMount(t, media)
	}
	before := tree(t, media)

	foreign := newSite(t)
	foreign.env = []string{"HOME=" + foreign.dir, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + foreign.dir}
	index := filepath.Join(foreign.dir, "index")
	with := []string{"--vault", media, "--unlock-key", filepath.Join(s.dir, "recovery.key"), "--index-dir", index}
	run := func(args ...string) result {
		t.Helper()
		r := foreign.run(append(append([]string{}, with...), args...)...)
		if r.code != exitDone {
			t.Fatalf("%v: %+v", args, r)
		}
		return r
	}
	var list []snapshotJSON
	run("snapshots", "--json").json(t, &list)
	if len(list) != 2 {
		t.Fatalf("%+v", list)
	}
	to := filepath.Join(foreign.dir, "out")
	run("restore", "web1@latest", "--to", to)
	sameAsSource(t, src, to)
	if got := run("cat", list[1].ID[:8]+":added").out; got != "added" {
		t.Errorf("%q", got)
	}
	if out := run("diff", "web1@"+list[0].Time, "web1@latest").out; !strings.Contains(out, "A added\n") {
		t.Errorf("%q", out)
	}
	// What is not there is damage, and what is there is whole.
	r := foreign.run(append(append([]string{}, with...), "check", "--read-data")...)
	r.says(t, exitDamage, "DAMAGE vault.json")
	if strings.Contains(r.out, "DAMAGE packs/") || strings.Contains(r.out, "TOUCHED") {
		t.Errorf("%s", r.out)
	}
	foreign.run(append(append([]string{}, with...), "prune")...).says(t, exitFailed)
	if after := tree(t, media); after != before {
		t.Errorf("the media were written:\n%s\n%s", before, after)
	}
}

// readOnlyMount makes a directory read-only for root too, where mounting is allowed.
func readOnlyMount(t *testing.T, dir string) {
	t.Helper()
	if out, err := exec.Command("mount", "--bind", "-o", "ro", dir, dir).CombinedOutput(); err != nil {
		t.Logf("the media are protected by their mode only: %v %s", err, out)
		return
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v %s", err, out)
		}
	})
}

// tree lists a directory with sizes and times.
func tree(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command("find", dir, "-printf", "%P %s %T@\n").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

var recoveryIdentity = regexp.MustCompile(`AGE-SECRET-KEY-1[0-9A-Z]+`)

// TestInitLosesTheRecoveryIdentity runs init as a person does, without --recovery-out.
func TestInitLosesTheRecoveryIdentity(t *testing.T) {
	answer := func(t *testing.T, reply func(identity string) string) (*site, result, string) {
		t.Helper()
		s := newSite(t)
		c := s.command("init")
		in, err := c.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var errs strings.Builder
		c.Stderr = &errs
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		var said strings.Builder
		identity := ""
		buf := make([]byte, 4096)
		for answered := false; ; {
			n, err := out.Read(buf)
			said.Write(buf[:n])
			if !answered && strings.Contains(said.String(), "last six characters") {
				identity = recoveryIdentity.FindString(said.String())
				_, _ = in.Write([]byte(reply(identity)))
				in.Close()
				answered = true
			}
			if err != nil {
				break
			}
		}
		_ = c.Wait()
		return s, result{said.String(), errs.String(), c.ProcessState.ExitCode()}, identity
	}
	nothingMade := func(t *testing.T, s *site) {
		t.Helper()
		for _, p := range []string{s.vault, filepath.Join(s.dir, "unlock.key")} {
			if _, err := os.Lstat(p); err == nil {
				t.Errorf("%s was made", p)
			}
		}
	}
	t.Run("right", func(t *testing.T) {
		s, r, identity := answer(t, func(i string) string { return i[len(i)-6:] + "\n" })
		r.says(t, exitDone, "Vault ", "ledger verifier", "holdfast source add")
		if strings.Count(r.out, identity) != 1 {
			t.Errorf("shown %d times", strings.Count(r.out, identity))
		}
		s.must("--unlock-key", s.write("written-down", identity+"\n"), "snapshots")
		found, err := exec.Command("grep", "-r", "-l", identity, s.vault, filepath.Join(s.dir, "unlock.key")).Output()
		if err == nil || len(found) > 0 {
			t.Errorf("the recovery identity lies in %s", found)
		}
	})
	t.Run("wrong", func(t *testing.T) {
		s, r, _ := answer(t, func(string) string { return "123456\n" })
		r.says(t, exitFailed, "nothing was made")
		nothingMade(t, s)
	})
	t.Run("nobody", func(t *testing.T) {
		s, r, _ := answer(t, func(string) string { return "" })
		r.says(t, exitFailed, "nothing was made", "--recovery-out")
		nothingMade(t, s)
	})
	t.Run("modes", func(t *testing.T) {
		s := initialised(t)
		for _, f := range []string{"recovery.key", "unlock.key"} {
			info, err := os.Stat(filepath.Join(s.dir, f))
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v %v", f, info.Mode(), err)
			}
		}
		if info, err := os.Stat(s.vault); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%v %v", info.Mode(), err)
		}
	})
}

var restrictLine = regexp.MustCompile(`(?m)^ *(restrict,.*command="internal-sftp -R" )(ssh-ed25519 \S+)`)

// TestEnrolledSourceCanNotBePulledOrCanBeWritten follows what `source add` prints to the letter.
func TestEnrolledSourceCanNotBePulledOrCanBeWritten(t *testing.T) {
	s := initialised(t)
	src := filepath.Join(t.TempDir(), "src")
	writeTree(t, src, 91, 20, 0)
	srv := sshdtest.Start(t, sshdtest.Options{})
	add := func(reply string, more ...string) result {
		t.Helper()
		c := s.command(append([]string{"source", "add", "web1", sourceURL(srv, src)}, more...)...)
		c.Stdin = strings.NewReader(reply)
		return s.runWith(c)
	}
	for _, reply := range []string{"no\n", "y\n", "\n", ""} {
		r := add(reply)
		r.says(t, exitFailed, ssh.FingerprintSHA256(srv.HostKey), "nothing was enrolled")
		if out := s.must("source", "list").out; out != "" {
			t.Fatalf("%q enrolled %s", reply, out)
		}
		if made, _ := filepath.Glob(filepath.Join(s.dir, "sources.d", "*")); len(made) > 0 {
			t.Fatalf("%q left %v", reply, made)
		}
	}
	r := add("yes\n", "--every", "6h", "--exclude", "d01")
	r.says(t, exitDone, "authorized_keys", "Match User", "ForceCommand internal-sftp -R", "DisableForwarding yes", "holdfast pull web1")
	line := restrictLine.FindStringSubmatch(r.out)
	if line == nil {
		t.Fatalf("no line for authorized_keys in\n%s", r.out)
	}
	add("yes\n").says(t, exitFailed, "enrolled already", "holdfast source show web1")
	var shown sourceJSON
	s.must("source", "show", "web1", "--json").json(t, &shown)
	if shown.PublicKey != line[2] || shown.Every != "6h" || len(shown.HostKeys) != 1 || shown.HostKeys[0] != ssh.FingerprintSHA256(srv.HostKey) {
		t.Errorf("%+v", shown)
	}
	if info, err := os.Stat(shown.Identity); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the private key: %v %v", info, err)
	}
	if out := s.must("source", "list").out; !strings.Contains(out, "web1") || !strings.Contains(out, "6h") {
		t.Errorf("%s", out)
	}
	s.run("pull", "web1").says(t, exitFailed, "authorized_keys", "holdfast source show web1")

	if err := os.WriteFile(filepath.Join(srv.Dir, "authorized_keys"),
		[]byte(strings.Replace(line[1], "VAULT_IP", "127.0.0.1", 1)+line[2]+" holdfast\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.must("pull", "web1")
	if out := s.must("ls", "web1@latest").out; strings.Contains(out, "d01/") || !strings.Contains(out, "d00/") {
		t.Errorf("the exclude does not count: %s", out)
	}
	// And the recipe's promise: the key can neither write nor run anything.
	_, port, _ := strings.Cut(srv.Addr, ":")
	opts := []string{"-F", "none", "-i", shown.Identity, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null"}
	sftp := exec.Command("sftp", append(opts, "-q", "-P", port, "-b", "-", srv.User+"@127.0.0.1")...)
	sftp.Stdin = strings.NewReader("mkdir " + filepath.Join(src, "evil") + "\n")
	if out, err := sftp.CombinedOutput(); err == nil {
		t.Errorf("the key can write: %s", out)
	}
	if out, _ := exec.Command("ssh", append(opts, "-p", port, srv.User+"@127.0.0.1", "id")...).CombinedOutput(); strings.Contains(string(out), "uid=") {
		t.Errorf("the key can run commands: %s", out)
	}
}

// hostileNames are file names that a terminal, a log or a script would obey.
var hostileNames = []string{
	"red\x1b[31m", "title\x1b]0;owned\x07", "two\nlines", "carriage\rreturn", "tab\there", "back\b\b\bspace", "del\x7f", "c1\u009b31m",
	"rtl\u202egnp.exe", "isolate\u2066x\u2069", "mark\u200f", "invalid\xff\xfe", "\xc3", "zero\u200bwidth", "line\u2028sep", "bom\ufeff",
	"tag\U000e0041", "\"quoted\"", "back\\slash", " leading", "trailing ", "-rf", "$(id)", "`id`", "'; id; '", "a:b", "a@b", "%s%n", "ünïcödé", "日本", "*",
	strings.Repeat("n", 255),
}

// obeyed finds what must not reach a terminal raw.
func obeyed(out string) string {
	if !utf8.ValidString(out) {
		return "bytes that are not UTF-8"
	}
	for _, r := range out {
		if r != '\n' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r)) {
			return fmt.Sprintf("%U", r)
		}
	}
	return ""
}

// TestHostileNamesReachTheTerminal pulls a source whose names attack whoever reads them.
func TestHostileNamesReachTheTerminal(t *testing.T) {
	srv := sshdtest.Start(t, sshdtest.Options{})
	denied := sshdtest.Start(t, sshdtest.Options{Subsystem: "internal-sftp -P open"})
	s := initialised(t)
	src := filepath.Join(t.TempDir(), "src")
	old := time.Now().Add(-24 * time.Hour).Truncate(time.Second)
	for i, name := range hostileNames {
		dir := filepath.Join(src, fmt.Sprint("d", i), name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, f := range []string{filepath.Join(dir, name), filepath.Join(src, name)} {
			if err := os.WriteFile(f, []byte(name), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(f, old, old); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink(name, filepath.Join(src, fmt.Sprint("link", i))); err != nil {
			t.Fatal(err)
		}
	}
	clean := func(r result) result {
		t.Helper()
		if what := obeyed(r.out); what != "" {
			t.Errorf("%s on standard output:\n%.2000q", what, r.out)
		}
		if what := obeyed(r.err); what != "" {
			t.Errorf("%s on standard error:\n%.2000q", what, r.err)
		}
		return r
	}
	web1 := pullArgs(srv, "web1", src)
	clean(s.must(append([]string{"pull"}, web1[2:]...)...))
	clean(s.must("snapshots"))
	for _, cmd := range []string{"ls web1@latest", "ls -R web1@latest", "ls -lR web1@latest", "show web1@latest", "check --read-data"} {
		clean(s.must(strings.Fields(cmd)...))
		clean(s.must(append(strings.Fields(cmd), func() string {
			if strings.HasPrefix(cmd, "ls -") {
				return "--json"
			}
			return "--json=true"
		}())...))
	}
	var listed []struct {
		Path    string
		PathB64 string `json:"path_b64"`
		Kind    string
	}
	s.must("ls", "--json", "web1@latest").json(t, &listed)
	got := map[string]bool{}
	for _, e := range listed {
		p := e.Path
		if e.PathB64 != "" {
			b, err := base64.StdEncoding.DecodeString(e.PathB64)
			if err != nil {
				t.Fatal(err)
			}
			p = string(b)
		}
		got[p] = true
	}
	for _, name := range hostileNames {
		if !got[name] {
			t.Errorf("%q is not in the listing", name)
		}
		if out := s.must("cat", "web1@latest:"+name).out; out != name {
			t.Errorf("cat of %q gave %q", name, out)
		}
		clean(s.run("cat", "web1@latest:no/"+name))
		clean(s.run("ls", "web1@"+name))
		clean(s.run("ls", name+"@latest"))
		clean(s.run("snapshots", name))
		clean(s.run("source", "show", "x"+name))
		clean(s.run(name))
		clean(s.run("pull", "--as", "x", "sftp://u@h/"+name))
		clean(s.run("pull", "--as", "x", "sftp://"+name))
		clean(s.run("restore", "web1@latest:no/"+name, "--to", filepath.Join(t.TempDir(), "none")))
	}
	to := filepath.Join(t.TempDir(), "out")
	clean(s.must("restore", "web1@latest", "--to", to))
	sameAsSource(t, src, to)

	// A change of everything, and a pull in which nothing can be read.
	if err := os.Mkdir(filepath.Join(src, "more"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range hostileNames {
		if err := os.WriteFile(filepath.Join(src, name), []byte("changed "+name), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(src, "more", name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	partial := clean(s.run(append([]string{"pull"}, pullArgs(denied, "web1", src)[2:]...)...))
	partial.says(t, exitPartial, "not had")
	var list []snapshotJSON
	clean(s.must("snapshots", "--json")).json(t, &list)
	first, last := "web1@"+list[0].Time, "web1@"+list[1].Time
	clean(s.must("show", last))
	var shown struct{ Problems []json.RawMessage }
	clean(s.must("show", last, "--json")).json(t, &shown)
	if len(shown.Problems) < len(hostileNames) {
		t.Errorf("%d paths could not be had, want at least %d", len(shown.Problems), len(hostileNames))
	}
	clean(s.run(append([]string{"pull", "--json"}, pullArgs(denied, "web1", src)[2:]...)...))
	clean(s.must("diff", first, last))
	clean(s.must("diff", "--json", first, last))

	// Damage names files too.
	flip(t, filepath.Join(s.vault, "packs/00000001.pack"), 0.2)
	for _, cmd := range []string{"check --read-data", "check --read-data --json"} {
		clean(s.run(strings.Fields(cmd)...)).says(t, exitDamage)
	}
	clean(s.run("restore", first, "--to", filepath.Join(t.TempDir(), "out")))
	clean(s.run("restore", first, "--json", "--to", filepath.Join(t.TempDir(), "out")))
}
