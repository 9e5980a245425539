package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

// says asserts what a person and a script learn from a failure: the exit code, and a sentence with each of the words.
func (r result) says(t testing.TB, code int, words ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit %d, want %d\n%s%s", r.code, code, r.out, r.err)
	}
	if (code == exitFailed || code == exitUsage) && !strings.HasPrefix(r.out, "[") && !strings.HasPrefix(r.err, "holdfast: ") {
		t.Errorf("who is speaking? %q", r.err)
	}
	for _, w := range words {
		if !strings.Contains(r.err+r.out, w) {
			t.Errorf("nothing says %q:\n%s%s", w, r.out, r.err)
		}
	}
	for _, w := range []string{"<nil>", "%!", "EOF"} {
		if strings.Contains(r.err, w) {
			t.Errorf("%q is not for people:\n%s", w, r.err)
		}
	}
}

// pulledSite is a vault with one snapshot of web1 and the sshd that it came from.
func pulledSite(t testing.TB) (s *site, srv *sshdtest.Server, src string) {
	t.Helper()
	srv = sshdtest.Start(t, sshdtest.Options{})
	s = initialised(t)
	src = filepath.Join(t.TempDir(), "src")
	writeTree(t, src, 51, 40, 1)
	s.pull(srv, "web1", src)
	return s, srv, src
}

func freePort(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestWrongCommandLineIsNotExplained gives wrong words to every command.
func TestWrongCommandLineIsNotExplained(t *testing.T) {
	s := initialised(t)
	s.write("plain/file", "")
	for _, x := range []struct {
		args string
		code int
		say  []string
	}{
		{"frob", 2, []string{`"frob"`, "holdfast -h"}},
		{"help frob", 2, []string{`"frob"`}},
		{"source frob", 2, []string{`"frob"`, "holdfast source -h"}},
		{"index frob", 2, []string{`"frob"`, "holdfast index -h"}},
		{"source add web1", 2, []string{"usage: holdfast source add NAME sftp://"}},
		{"source add WEB sftp://u@h/p", 2, []string{`"WEB"`, "lower-case"}},
		{"source add ../x sftp://u@h/p", 2, []string{"lower-case"}},
		{"source add web1 ftp://u@h/p", 2, []string{"sftp://USER@HOST[:PORT]/PATH"}},
		{"source add web1 sftp://h/p", 2, []string{"sftp://USER@HOST"}},
		{"source add web1 sftp://u:secret@h/p", 2, []string{"password"}},
		{"source add web1 sftp://u@h:99999/p", 2, []string{"port"}},
		{"source add web1 /just/a/path", 2, []string{"sftp://USER@HOST"}},
		{"source add web1 sftp://u@h/p --host-key nonsense", 2, []string{"TYPE BASE64"}},
		{"source add web1 sftp://u@h/p --every sometimes", 2, []string{"--every"}},
		{"source add web1 sftp://u@h/p --host-key x --known-hosts y", 2, nil},
		{"source add web1 sftp://u@h/p --known-hosts /nonexistent", 1, []string{"/nonexistent"}},
		{"source show web1", 1, []string{"holdfast source list"}},
		{"pull", 2, []string{"holdfast source add"}},
		{"pull web1", 2, []string{"not enrolled", "holdfast source list"}},
		{"pull sftp://u@h/p", 2, []string{"--as NAME"}},
		{"pull --as web1", 2, []string{"URL"}},
		{"pull --as web1 http://h/", 2, []string{"sftp://"}},
		{"pull --as web1 sftp://u@h/p", 2, []string{"--identity"}},
		{"pull --as web1 --identity x sftp://u@h/p", 2, []string{"--known-hosts"}},
		{"pull --as web1 --identity /nonexistent --known-hosts x sftp://u@h/p", 1, []string{"/nonexistent"}},
		{"pull --as WEB1 sftp://u@h/p", 2, []string{"lower-case"}},
		{"pull --lock soon", 2, []string{"30d"}},
		{"pull --lock -5d", 2, []string{"30d"}},
		{"pull --mode eternal", 2, []string{"governance or compliance"}},
		{"pull --identity x", 2, []string{"--as"}},
		{"pull --frob", 2, []string{"--frob", "holdfast pull -h"}},
		{"ls", 2, []string{"usage: holdfast ls SNAPSHOT[:PATH]"}},
		{"ls web1", 2, []string{"web1@latest"}},
		{"ls web1@latest", 1, []string{"no snapshots"}},
		{"ls 0123456789abcdef", 1, []string{"0123456789abcdef"}},
		{"ls 0123", 2, []string{"8 digits"}},
		{"cat web1@latest", 1, []string{"no snapshots"}},
		{"diff web1@latest", 2, []string{"usage: holdfast diff"}},
		{"show", 2, []string{"usage: holdfast show SNAPSHOT"}},
		{"tar a b", 2, []string{"usage: holdfast tar"}},
		{"restore web1@latest", 2, []string{"--to DIR"}},
		{"restore --to x", 2, []string{"usage: holdfast restore"}},
		{"index rebuild now", 2, []string{"usage: holdfast index rebuild"}},
		{"check --deep", 2, []string{"--deep", "holdfast check -h"}},
		{"prune everything", 2, []string{"usage: holdfast prune"}},
		{"serve now", 2, []string{`"now"`}},
		{"version now", 2, []string{`"now"`}},
		{"--vault /nonexistent snapshots", 1, []string{"not a vault", "holdfast init"}},
		{"--vault plain snapshots", 1, []string{"not a vault", "--vault"}},
		{"--vault plain init --recovery-out r", 1, []string{"not empty", "nothing was changed"}},
		{"init --recovery-out r", 1, []string{"not empty"}},
		{"--vault new --unlock-key unlock2 init --recovery-out new/r", 2, []string{"inside the vault"}},
		{"--vault new --unlock-key unlock2 init --recovery-out recovery.key", 1, []string{"exists", "not overwritten"}},
		{"--vault new init --recovery-out r", 1, []string{"unlock key", "exists", "--unlock-key"}},
		{"--config /nonexistent.yaml snapshots", 2, []string{"/nonexistent.yaml", "--config"}},
		{"--unlock-key /nonexistent snapshots", 1, []string{"/nonexistent", "--unlock-key"}},
		{"--unlock-key plain/file snapshots", 1, []string{"plain/file"}},
		{"--unlock-key plain snapshots", 1, []string{"plain"}},
	} {
		t.Run(x.args, func(t *testing.T) {
			r := s.run(strings.Fields(x.args)...)
			r.says(t, x.code, x.say...)
			if strings.Contains(r.err, "secret") {
				t.Errorf("a password is shown: %s", r.err)
			}
		})
	}
	s.must("check")
}

// TestWrongConfigurationIsNotFound has one mistake a file; each is shown with its place.
func TestWrongConfigurationIsNotFound(t *testing.T) {
	s := initialised(t)
	for _, x := range []struct{ text, place, say string }{
		{"vault: %s\nfrequency: 1h\n", ":2:1:", "frequency"},
		{"vault: %s\nlock:\n  mode: eternal\n", ":3:9:", "eternal"},
		{"vault: %s\nlock:\n  for: soon\n", ":3:8:", "soon"},
		{"vault: %s\nsources:\n- name: web1\n  url: http://h/\n", ":4:8:", "sftp"},
		{"vault: %s\nsources:\n- {name: a, url: 'sftp://u@h/p', identity: k, host_key: x, colour: red}\n", ":3:", "colour"},
		{"vault: %s\n  x: [\n", ":1:8:", ""},
	} {
		s.write("holdfast.yaml", fmt.Sprintf(x.text, s.vault))
		for _, cmd := range []string{"pull", "serve", "snapshots", "source list"} {
			r := s.run(strings.Fields(cmd)...)
			r.says(t, exitUsage, "holdfast.yaml"+x.place, x.say)
		}
	}
	s.write("holdfast.yaml", "vault: "+s.vault+"\n")
	s.write("sources.d/web1.yaml", "name: web1\nurl: sftp://u@h/p\nidentity: k\nhost_kye: x\n")
	s.run("pull").says(t, exitUsage, "web1.yaml:4:1:", "host_kye")
}

// TestUnreachableSourceIsNotExplained meets every way in which a source cannot be had.
func TestUnreachableSourceIsNotExplained(t *testing.T) {
	s, srv, src := pulledSite(t)
	pull := func(t testing.TB, url, hosts, identity string, more ...string) result {
		t.Helper()
		return s.run(append([]string{"pull", "--as", "web1", "--identity", identity, "--known-hosts", hosts, url}, more...)...)
	}
	url := sourceURL(srv, src)

	t.Run("host down", func(t *testing.T) {
		addr := freePort(t)
		_, port, _ := net.SplitHostPort(addr)
		hosts := s.write("down_hosts", fmt.Sprintf("[127.0.0.1]:%s %s", port, ssh.MarshalAuthorizedKey(srv.HostKey)))
		down := "sftp://" + srv.User + "@" + addr + src
		pull(t, down, hosts, srv.IdentityFile).says(t, exitFailed, addr, "refused", "host is up")
		s.run("source", "add", "down", down).says(t, exitFailed, addr, "refused", "host is up")
	})
	t.Run("no such host", func(t *testing.T) {
		hosts := s.write("none_hosts", fmt.Sprintf("nowhere.invalid %s", ssh.MarshalAuthorizedKey(srv.HostKey)))
		pull(t, "sftp://"+srv.User+"@nowhere.invalid"+src, hosts, srv.IdentityFile).says(t, exitFailed, "nowhere.invalid", "host is up")
	})
	t.Run("host not in known_hosts", func(t *testing.T) {
		pull(t, url, s.write("no_hosts", ""), srv.IdentityFile).says(t, exitFailed, "no_hosts", "ssh-keyscan")
	})
	t.Run("wrong host key", func(t *testing.T) {
		_, line := s.key("wrong")
		key, err := parseHostKey(line)
		if err != nil {
			t.Fatal(err)
		}
		hosts := s.write("wrong_hosts", fmt.Sprintf("[127.0.0.1]:%d %s\n", srv.Port, line))
		pull(t, url, hosts, srv.IdentityFile).says(t, exitFailed,
			ssh.FingerprintSHA256(key), ssh.FingerprintSHA256(srv.HostKey), "console", "Nothing was read")
	})
	t.Run("key not accepted", func(t *testing.T) {
		file, _ := s.key("unknown")
		pull(t, url, srv.KnownHostsFile, file).says(t, exitFailed, "authorized_keys", srv.User, "ssh-keygen -y -f")
	})
	t.Run("key with a passphrase", func(t *testing.T) {
		sshdtest.Need(t, "ssh-keygen")
		file := filepath.Join(s.dir, "locked")
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", file).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v %s", err, out)
		}
		pull(t, url, srv.KnownHostsFile, file).says(t, exitFailed, "passphrase", "without one")
	})
	t.Run("missing path", func(t *testing.T) {
		pull(t, url+"/nowhere", srv.KnownHostsFile, srv.IdentityFile).says(t, exitFailed, "/nowhere", "is missing")
	})
	t.Run("path is a file", func(t *testing.T) {
		pull(t, url+"/large/l0", srv.KnownHostsFile, srv.IdentityFile).says(t, exitFailed, "/large/l0", "not a directory")
	})
	t.Run("path is missing from the beginning", func(t *testing.T) {
		s.run("pull", "--as", "web9", "--identity", srv.IdentityFile, "--known-hosts", srv.KnownHostsFile, url+"/nowhere").says(t, exitFailed, "/nowhere", "not exist")
	})
	t.Run("empty source", func(t *testing.T) {
		empty := t.TempDir()
		pull(t, sourceURL(srv, empty), srv.KnownHostsFile, srv.IdentityFile).says(t, exitFailed, "empty", "--allow-empty")
	})
	t.Run("sftp is off", func(t *testing.T) {
		off := sshdtest.Start(t, sshdtest.Options{Subsystem: "/bin/false"})
		pull(t, sourceURL(off, src), off.KnownHostsFile, off.IdentityFile).says(t, exitFailed, "sftp")
	})
	t.Run("no permission for directories", func(t *testing.T) {
		srv := sshdtest.Start(t, sshdtest.Options{Subsystem: "internal-sftp -P opendir"})
		pull(t, sourceURL(srv, src), srv.KnownHostsFile, srv.IdentityFile).says(t, exitFailed, "permission denied")
	})
	// Nothing of all this made a snapshot or harmed one.
	var list []snapshotJSON
	s.must("snapshots", "--json").json(t, &list)
	if len(list) != 1 {
		t.Errorf("%+v", list)
	}
	t.Run("no permission for files", func(t *testing.T) {
		srv := sshdtest.Start(t, sshdtest.Options{Subsystem: "internal-sftp -P open"})
		r := s.run("pull", "--as", "web2", "--identity", srv.IdentityFile, "--known-hosts", srv.KnownHostsFile, sourceURL(srv, src))
		r.says(t, exitPartial, "PARTIAL", "not had", "permission denied")
		s.run("restore", "web2@latest", "--to", filepath.Join(t.TempDir(), "x")).says(t, exitDone, "partial")
		s.run("show", "web2@latest").says(t, exitDone, "partial", "permission denied")
		s.run("ls", "web2@latest").says(t, exitDone, "partial", "holdfast show web2@")
		s.run("ls", "web2@clean").says(t, exitFailed, "no clean snapshot", "holdfast snapshots web2")
	})
	pull(t, url, srv.KnownHostsFile, srv.IdentityFile).says(t, exitDone)
	s.must("check", "--read-data")
}

// TestChangedHostKeyIsFollowed puts another host under the address of one that was pulled.
func TestChangedHostKeyIsFollowed(t *testing.T) {
	s := initialised(t)
	src := filepath.Join(t.TempDir(), "src")
	writeTree(t, src, 61, 10, 0)
	srv, impostor := sshdtest.Start(t, sshdtest.Options{}), sshdtest.Start(t, sshdtest.Options{})
	w := newDam(t, srv.Addr, 1<<40)
	url := fmt.Sprintf("sftp://%s@%s%s", srv.User, w.addr, src)
	add := s.command("source", "add", "web1", url, "--identity", srv.IdentityFile)
	add.Stdin = strings.NewReader("yes\n")
	s.runWith(add).says(t, exitDone, ssh.FingerprintSHA256(srv.HostKey))
	s.must("pull", "web1")
	w.target.Store(impostor.Addr)
	r := s.run("pull", "web1")
	r.says(t, exitFailed, ssh.FingerprintSHA256(srv.HostKey), ssh.FingerprintSHA256(impostor.HostKey), "web1", "console")
	var list []pullJSON
	s.run("pull", "--json").json(t, &list)
	if list[0].State != "failed" || !strings.Contains(list[0].Error, ssh.FingerprintSHA256(impostor.HostKey)) {
		t.Errorf("%+v", list)
	}
	w.target.Store(srv.Addr)
	s.must("pull", "web1")
}

// TestTwoWritersHarmEachOther runs commands beside a pull that waits for its source.
func TestTwoWritersHarmEachOther(t *testing.T) {
	s, srv, src := pulledSite(t)
	more := filepath.Join(t.TempDir(), "more")
	writeTree(t, more, 71, 100, 3)
	w := newDam(t, srv.Addr, 4<<20)
	key := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(srv.HostKey)))
	first := s.command("pull", "--as", "web2", "--identity", srv.IdentityFile, "--host-key", key, fmt.Sprintf("sftp://%s@%s%s", srv.User, w.addr, more))
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	<-w.held
	pid := fmt.Sprint(first.Process.Pid)
	for _, args := range [][]string{pullArgs(srv, "web3", src), {"prune"}, {"index", "rebuild"}, {"serve"}} {
		s.run(args...).says(t, exitFailed, "process "+pid, "wait")
	}
	// Whoever only reads is not in anybody's way.
	s.must("snapshots")
	s.must("ls", "web1@latest")
	to := filepath.Join(s.dir, "out")
	s.must("restore", "web1@latest", "--to", to)
	sameAsSource(t, src, to)
	close(w.open)
	if err := first.Wait(); err != nil {
		t.Fatal(err)
	}
	s.must("check", "--read-data")
	to = filepath.Join(s.dir, "out2")
	s.must("restore", "web2@latest", "--to", to)
	sameAsSource(t, more, to)
}

// TestWrongKeyOpensOrHarmsTheVault opens a vault with everything but its own keys.
func TestWrongKeyOpensOrHarmsTheVault(t *testing.T) {
	s, _, _ := pulledSite(t)
	other := initialised(t)
	recovery := filepath.Join(other.dir, "recovery.key")
	for _, cmd := range []string{"snapshots", "check", "ls web1@latest", "prune", "pull", "serve", "index rebuild", "restore web1@latest --to x"} {
		s.run(append(strings.Fields(cmd), "--unlock-key", recovery)...).says(t, exitFailed, "--unlock-key")
	}
	text, err := os.ReadFile(filepath.Join(s.dir, "recovery.key"))
	if err != nil {
		t.Fatal(err)
	}
	_, public, _ := strings.Cut(string(text), "recipient: ")
	public, _, _ = strings.Cut(public, "\n")
	s.run("snapshots", "--unlock-key", s.write("public", public+"\n")).says(t, exitFailed, "public")
	s.must("snapshots", "--unlock-key", filepath.Join(s.dir, "recovery.key"))
	s.must("check", "--read-data")
	// A vault of somebody else in the place of ours: its keys are not ours.
	s.run("--vault", other.vault, "snapshots").says(t, exitFailed, "--unlock-key")
}

// TestDiskFullLosesSomething fills a small file system, and makes room.
func TestDiskFullLosesSomething(t *testing.T) {
	s := newSite(t)
	if err := os.Mkdir(s.vault, 0o755); err != nil {
		t.Fatal(err)
	}
	mount := func(args ...string) error {
		out, err := exec.Command("mount", append(args, s.vault)...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("mount: %w %s", err, out)
		}
		return err
	}
	if err := mount("-t", "tmpfs", "-o", "size=100m", "holdfast-test"); err != nil {
		if os.Getenv(sshdtest.RequireAll) == "1" && os.Geteuid() == 0 {
			t.Fatal(err)
		}
		t.Skipf("this test mounts a tmpfs, which takes root and the right to mount; a full disk at every single operation is tested without: %v", err)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", s.vault).CombinedOutput(); err != nil {
			t.Errorf("umount: %v %s", err, out)
		}
	})
	s.must("init", "--recovery-out", filepath.Join(s.dir, "recovery.key"))
	srv := sshdtest.Start(t, sshdtest.Options{})
	small, big := filepath.Join(t.TempDir(), "small"), filepath.Join(t.TempDir(), "big")
	writeTree(t, small, 81, 60, 1)
	writeTree(t, big, 82, 100, 1)
	noise := make([]byte, 120<<20)
	_, _ = rand.NewChaCha8([32]byte{82}).Read(noise)
	old := time.Now().Add(-24 * time.Hour)
	for i := range 4 {
		file := filepath.Join(big, fmt.Sprintf("noise%d", i))
		if err := os.WriteFile(file, noise[i*30<<20:(i+1)*30<<20], 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, old, old); err != nil {
			t.Fatal(err)
		}
	}
	s.pull(srv, "small", small)
	for range 2 {
		r := s.run(append([]string{"pull"}, pullArgs(srv, "big", big)[2:]...)...)
		r.says(t, exitFailed, "no ", "Make room")
		s.run("check", "--read-data").says(t, exitDone)
		to := filepath.Join(t.TempDir(), "out")
		s.must("restore", "small@latest", "--to", to)
		sameAsSource(t, small, to)
	}
	if err := mount("-o", "remount,size=500m"); err != nil {
		t.Fatal(err)
	}
	if res := s.pull(srv, "big", big); res.State != "complete" {
		t.Fatalf("%+v", res)
	}
	s.must("check", "--read-data")
	to := filepath.Join(t.TempDir(), "out")
	s.must("restore", "big@latest", "--to", to)
	sameAsSource(t, big, to)
}

// TestRestoreOverwritesOrInvents asks for what is not there, into places that are not empty.
func TestRestoreOverwritesOrInvents(t *testing.T) {
	s, _, src := pulledSite(t)
	busy := filepath.Join(s.dir, "busy")
	mine := s.write("busy/mine", "mine")
	s.run("restore", "web1@latest", "--to", busy).says(t, exitFailed, "not empty", "--overwrite")
	if b, err := os.ReadFile(mine); err != nil || string(b) != "mine" {
		t.Errorf("%q %v", b, err)
	}
	if entries, _ := os.ReadDir(busy); len(entries) != 1 {
		t.Errorf("the refused restore left %v", entries)
	}
	s.run("restore", "web1@latest", "--to", mine).says(t, exitFailed, "mine")
	s.run("restore", "web1@latest:no/where", "--to", filepath.Join(s.dir, "none")).says(t, exitFailed, `"no/where"`, "holdfast ls web1@latest")
	s.run("restore", "web2@latest", "--to", filepath.Join(s.dir, "none")).says(t, exitFailed, "web2")
	s.run("restore", "web1@20200101T000000Z", "--to", filepath.Join(s.dir, "none")).says(t, exitFailed, "20200101T000000Z")
	s.run("cat", "web1@latest:no/where").says(t, exitFailed, `"no/where"`, "holdfast ls")
	s.run("cat", "web1@latest:large").says(t, exitFailed, "large")
	s.run("cat", "web1@latest").says(t, exitUsage, "web1@latest:PATH")
	s.run("ls", "web1@latest:../../etc").says(t, exitFailed, "holdfast ls web1@latest")
	s.run("tar", "web1@latest:no/where").says(t, exitFailed, `"no/where"`)
	s.run("diff", "web1@latest:a", "web1@latest:b").says(t, exitUsage, "differ")
	s.must("restore", "web1@latest", "--to", busy, "--overwrite")
	if b, err := os.ReadFile(mine); err != nil || string(b) != "mine" {
		t.Errorf("--overwrite touched another file: %q %v", b, err)
	}
	part := filepath.Join(s.dir, "part")
	s.must("restore", "web1@latest:large", "--to", part)
	sameAsSource(t, filepath.Join(src, "large"), part)
	s.must("restore", "web1@latest:large/l0", "--to", filepath.Join(s.dir, "one"))
	if _, err := os.Stat(filepath.Join(s.dir, "one", "l0")); err != nil {
		t.Error(err)
	}
}

// TestOneBadSourceHidesOrStopsTheOthers pulls several sources at once: each is pulled, and the exit code is the worst.
func TestOneBadSourceHidesOrStopsTheOthers(t *testing.T) {
	s, srv, src := pulledSite(t)
	denied := sshdtest.Start(t, sshdtest.Options{Subsystem: "internal-sftp -P open"})
	s.write("holdfast.yaml", "vault: "+s.vault+"\nsources:\n"+sourceItem(srv, "down", src+"/nowhere")+
		sourceItem(denied, "part", src)+sourceItem(srv, "good", src))
	for _, x := range []struct {
		sources string
		code    int
	}{{"good", exitDone}, {"good part", exitPartial}, {"part good", exitPartial}, {"down good", exitFailed}, {"down part good", exitFailed}, {"", exitFailed}} {
		r := s.run(append([]string{"pull", "--json"}, strings.Fields(x.sources)...)...)
		r.says(t, x.code)
		var list []pullJSON
		r.json(t, &list)
		for _, p := range list {
			if want := map[string]string{"good": "complete", "part": "partial", "down": "failed"}[p.Source]; p.State != want {
				t.Errorf("%s: %+v", x.sources, p)
			}
		}
		if want := max(len(strings.Fields(x.sources)), 1); x.sources != "" && len(list) != want || x.sources == "" && len(list) != 3 {
			t.Errorf("%q gave %d results", x.sources, len(list))
		}
	}
}
