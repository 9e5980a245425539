package main

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

// running is a `holdfast serve`.
type running struct {
	t             testing.TB
	cmd           *exec.Cmd
	metrics, door string // addresses
	ended         chan struct{}

	mu  sync.Mutex
	log strings.Builder
}

var listening = regexp.MustCompile(`msg=listening for=(\w+) on=(\S+)`)

// serve starts the daemon and waits until it says that it is ready. It is killed when the test ends, if it still runs.
func (s *site) serve() *running {
	s.t.Helper()
	d := &running{t: s.t, cmd: s.command("serve"), ended: make(chan struct{})}
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said, err := d.cmd.StderrPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ready := make(chan struct{})
	go func() {
		defer close(d.ended)
		for lines := bufio.NewScanner(said); lines.Scan(); {
			d.mu.Lock()
			d.log.WriteString(lines.Text() + "\n")
			if m := listening.FindStringSubmatch(lines.Text()); m != nil {
				*map[string]*string{"metrics": &d.metrics, "door": &d.door}[m[1]] = m[2]
			}
			d.mu.Unlock()
			if strings.Contains(lines.Text(), "msg=ready") {
				close(ready)
			}
		}
		_ = d.cmd.Wait()
	}()
	s.t.Cleanup(func() {
		_ = d.cmd.Process.Kill()
		<-d.ended
		if said := d.said(); strings.Contains(said, "goroutine ") || strings.Contains(said, "panic") {
			s.t.Errorf("the daemon panicked:\n%s", said)
		}
	})
	select {
	case <-ready:
	case <-d.ended:
		s.t.Fatalf("the daemon ended at once:\n%s", d.said())
	case <-time.After(time.Minute):
		s.t.Fatalf("the daemon is not ready:\n%s", d.said())
	}
	return d
}

func (d *running) said() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.String()
}

// stop sends SIGTERM and gives the exit code.
func (d *running) stop() int {
	d.t.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		d.t.Fatal(err)
	}
	select {
	case <-d.ended:
	case <-time.After(time.Minute):
		d.t.Fatalf("the daemon does not end:\n%s", d.said())
	}
	return d.cmd.ProcessState.ExitCode()
}

// key writes a new key pair and returns the private key's file and the public line.
func (s *site) key(name string) (file, line string) {
	s.t.Helper()
	text, pub, err := newKeyPair(name)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.write("keys/"+name, string(text)), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub)))
}

// doorSite is a vault with two sources behind a door, and the people who knock.
type doorSite struct {
	*site
	srv        *sshdtest.Server
	src, other string // the directories of web1 and db1
	daemon     *running
	keys       map[string]string // private key files by user
	hosts      string            // known_hosts of the door
}

// sourceItem is an item of the configuration's sources.
func sourceItem(srv *sshdtest.Server, name, path string) string {
	return fmt.Sprintf("- name: %s\n  url: %s\n  identity: %s\n  host_key: %s\n", name, sourceURL(srv, path), srv.IdentityFile,
		strings.TrimSpace(string(ssh.MarshalAuthorizedKey(srv.HostKey))))
}

func openDoor(t testing.TB) *doorSite {
	t.Helper()
	sshdtest.Need(t, "sshd", "ssh", "sftp", "scp", "tar")
	s := initialised(t)
	d := &doorSite{site: s, srv: sshdtest.Start(t, sshdtest.Options{}), keys: map[string]string{},
		src: filepath.Join(t.TempDir(), "web"), other: filepath.Join(t.TempDir(), "db")}
	writeTree(t, d.src, 21, 150, 2)
	writeTree(t, d.other, 22, 30, 0)
	s.pull(d.srv, "web1", d.src)
	s.pull(d.srv, "db1", d.other)
	hostKey, hostLine := s.key("door")
	users := ""
	for name, sees := range map[string]string{"alice": "[web1]", "bob": "[db1]", "nobody": ""} {
		file, line := s.key(name)
		d.keys[name] = file
		if sees != "" {
			users += fmt.Sprintf("  - {name: %s, sources: %s, keys: [%q]}\n", name, sees, line)
		}
	}
	s.write("holdfast.yaml", fmt.Sprintf("vault: %s\nmetrics: {listen: \"127.0.0.1:0\"}\ndoor:\n  listen: 127.0.0.1:0\n  host_key: %s\n  users:\n%s"+
		"sources:\n%s%s",
		s.vault, hostKey, users, sourceItem(d.srv, "web1", d.src), sourceItem(d.srv, "db1", d.other)))
	d.daemon = s.serve()
	_, port, err := net.SplitHostPort(d.daemon.door)
	if err != nil {
		t.Fatal(err)
	}
	d.hosts = s.write("door_known_hosts", fmt.Sprintf("[127.0.0.1]:%s %s\n", port, hostLine))
	return d
}

// stock runs one of OpenSSH's clients with options that reach nothing of whoever runs the test.
func (d *doorSite) stock(user, tool, in string, args ...string) result {
	d.t.Helper()
	c := d.stockCommand(user, tool, args...)
	c.Stdin = strings.NewReader(in)
	return d.runWith(c)
}

func (d *doorSite) stockCommand(user, tool string, args ...string) *exec.Cmd {
	_, port, _ := net.SplitHostPort(d.daemon.door)
	flag := "-p"
	if tool != "ssh" {
		flag = "-P"
	}
	all := append([]string{"-F", "none", "-i", d.keys[user], flag, port, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
		"-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile=" + d.hosts}, args...)
	c := exec.Command(tool, all...)
	c.Env, c.Dir = d.env, d.dir
	return c
}

func (d *doorSite) ssh(user string, words ...string) result {
	d.t.Helper()
	return d.stock(user, "ssh", "", append([]string{user + "@127.0.0.1"}, words...)...)
}

func (d *doorSite) sftp(user, commands string) result {
	d.t.Helper()
	return d.stock(user, "sftp", commands, "-q", "-b", "-", user+"@127.0.0.1")
}

// expected is a copy of the source without its symbolic link, which sftp and scp follow or leave out.
func (d *doorSite) expected() string {
	d.t.Helper()
	to := filepath.Join(d.t.(*testing.T).TempDir(), "expected")
	if out, err := exec.Command("cp", "-a", d.src, to).CombinedOutput(); err != nil {
		d.t.Fatalf("%v %s", err, out)
	}
	d.dropLink(to)
	return to
}

func (d *doorSite) dropLink(tree string) {
	d.t.Helper()
	dir := filepath.Join(tree, "empty")
	info, err := os.Stat(dir)
	if err != nil {
		d.t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(dir, "link"))
	if err := os.Chtimes(dir, info.ModTime(), info.ModTime()); err != nil {
		d.t.Fatal(err)
	}
}

// TestStockClientsCannotFetch fetches what was pulled with OpenSSH's own clients and GNU tar.
func TestStockClientsCannotFetch(t *testing.T) {
	d := openDoor(t)
	want := d.expected()

	t.Run("sftp get -r", func(t *testing.T) {
		to := filepath.Join(t.TempDir(), "got")
		if r := d.sftp("alice", "get -pr /web1/latest "+to+"\n"); r.code != 0 {
			t.Fatalf("%+v", r)
		}
		d.dropLink(to)
		sameAsSource(t, want, to)
	})
	t.Run("scp -r", func(t *testing.T) {
		to := filepath.Join(t.TempDir(), "got")
		if r := d.stock("alice", "scp", "", "-q", "-s", "-p", "-r", "alice@127.0.0.1:/web1/latest", to); r.code != 0 {
			t.Fatalf("%+v", r)
		}
		d.dropLink(to)
		sameAsSource(t, want, to)
	})
	t.Run("tar", func(t *testing.T) {
		to := t.TempDir()
		c := d.stockCommand("alice", "ssh", "alice@127.0.0.1", "tar", "web1@latest")
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		untar := exec.Command("tar", "-x", "-p", "-C", to)
		untar.Stdin = out
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if said, err := untar.CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, said)
		}
		if err := c.Wait(); err != nil {
			t.Fatal(err)
		}
		sameAsSource(t, d.src, to)
	})
	t.Run("cat", func(t *testing.T) {
		content, err := os.ReadFile(filepath.Join(d.src, "large/l0"))
		if err != nil {
			t.Fatal(err)
		}
		if r := d.ssh("alice", "cat", "web1@latest:large/l0"); r.code != 0 || r.out != string(content) {
			t.Errorf("exit %d, %d bytes of %d, %s", r.code, len(r.out), len(content), r.err)
		}
	})
	t.Run("snapshots, show, ls, diff", func(t *testing.T) {
		var list []snapshotJSON
		d.ssh("alice", "snapshots", "--json").json(t, &list)
		if len(list) != 1 || list[0].Source != "web1" || list[0].State != "complete" || list[0].Files == 0 {
			t.Fatalf("%+v", list)
		}
		if r := d.ssh("alice", "ls", "web1@"+list[0].Time); r.code != 0 || !strings.Contains(r.out, "large/\n") {
			t.Errorf("%+v", r)
		}
		if r := d.ssh("alice", "ls", "web1@latest:nowhere"); r.code != exitFailed || !strings.Contains(r.err, "holdfast ls web1@latest") {
			t.Errorf("%+v", r)
		}
		if r := d.ssh("alice", "show", list[0].ID[:12]); r.code != 0 || !strings.Contains(r.out, "complete") {
			t.Errorf("%+v", r)
		}
		if r := d.ssh("alice", "diff", "web1@latest", "web1@latest"); r.code != 0 || r.out != "" {
			t.Errorf("%+v", r)
		}
	})
	if code := d.daemon.stop(); code != exitDone {
		t.Errorf("exit %d after SIGTERM:\n%s", code, d.daemon.said())
	}
}

// TestDoorLetsSomebodyChangeOrRunSomething asks the door for everything that it must not do.
func TestDoorLetsSomebodyChangeOrRunSomething(t *testing.T) {
	d := openDoor(t)
	mine := d.write("mine", "mine")
	before := d.must("ledger", "checkpoint").out

	t.Run("writes", func(t *testing.T) {
		for _, cmd := range []string{
			"put " + mine + " /web1/latest/new", "put " + mine + " /new", "put -a " + mine + " /web1/latest/large/l0",
			"rm /web1/latest/large/l0", "rm /web1/latest", "rmdir /web1", "rename /web1/latest/large/l0 /web1/latest/large/l9",
			"rename -l /web1/latest/large/l0 /web1/latest/large/l9", "mkdir /web1/latest/dir", "mkdir /dir", "ln -s /etc/passwd /web1/latest/l",
			"ln /web1/latest/large/l0 /web1/latest/l", "chmod 777 /web1/latest/large/l0", "chown 0 /web1/latest/large/l0", "chgrp 0 /web1/latest/large/l0",
		} {
			if r := d.sftp("alice", cmd+"\n"); r.code == 0 {
				t.Errorf("%q was done: %+v", cmd, r)
			}
		}
		if r := d.stock("alice", "scp", "", "-q", "-s", mine, "alice@127.0.0.1:/web1/latest/new"); r.code == 0 {
			t.Errorf("scp wrote: %+v", r)
		}
	})
	t.Run("commands", func(t *testing.T) {
		for _, line := range []string{"id", "sh -c id", "/bin/sh", "rm -rf /", "prune", "pull", "check", "index-rebuild", "serve", "restore web1@latest --to /tmp/x",
			"snapshots; id", "$(id)", "scp -f /etc/passwd", "scp -t /tmp"} {
			if r := d.ssh("alice", line); r.code == 0 || strings.Contains(r.out, "uid=") {
				t.Errorf("%q was run: %+v", line, r)
			}
		}
		for _, words := range [][]string{{"-T"}, {"-tt"}, {"-s", "shell"}} {
			if r := d.stock("alice", "ssh", "id\nexit\n", append(words, "alice@127.0.0.1")...); r.code == 0 || strings.Contains(r.out, "uid=") {
				t.Errorf("a shell with %v: %+v", words, r)
			}
		}
		if r := d.stock("alice", "ssh", "", "-tt", "alice@127.0.0.1", "snapshots"); !strings.Contains(r.err, "PTY allocation request failed") {
			t.Errorf("a terminal was given: %+v", r)
		}
	})
	t.Run("forwarding", func(t *testing.T) { forwards(t, d) })
	t.Run("requests", func(t *testing.T) { requests(t, d) })
	t.Run("strangers", func(t *testing.T) {
		for _, user := range []string{"nobody", "alice", "root"} {
			r := d.stock("nobody", "ssh", "", user+"@127.0.0.1", "snapshots")
			if r.code != 255 || !strings.Contains(r.err, "Permission denied") || r.out != "" {
				t.Errorf("an unknown key as %s: %+v", user, r)
			}
		}
		// The key says who knocks, whatever name is given.
		if r := d.stock("bob", "ssh", "", "alice@127.0.0.1", "snapshots"); strings.Contains(r.out, "web1") {
			t.Errorf("bob's key as alice: %+v", r)
		}
	})
	t.Run("other sources", func(t *testing.T) { otherSources(t, d) })

	if now := d.must("ledger", "checkpoint").out; now != before {
		t.Errorf("the ledger grew:\n%s\n%s", before, now)
	}
	d.must("check", "--read-data")
}

// forwards proves with a listener of our own that no connection goes through the door.
func forwards(t *testing.T, d *doorSite) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var reached atomic.Int32
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := inner.Accept()
			if err != nil {
				return
			}
			reached.Add(1)
			c.Close()
		}
	}()
	defer func() {
		inner.Close()
		<-done
		if n := reached.Load(); n > 0 {
			t.Errorf("%d connections got through the door", n)
		}
	}()
	if r := d.stock("alice", "ssh", "hello", "-W", inner.Addr().String(), "alice@127.0.0.1"); r.code == 0 {
		t.Errorf("-W: %+v", r)
	}
	if r := d.stock("alice", "ssh", "", "-N", "-o", "ExitOnForwardFailure=yes", "-R", "0:"+inner.Addr().String(), "alice@127.0.0.1"); r.code == 0 {
		t.Errorf("-R: %+v", r)
	}
	socket := filepath.Join(shortDir(t), "l")
	c := d.stockCommand("alice", "ssh", "-N", "-L", socket+":"+inner.Addr().String(), "alice@127.0.0.1")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Process.Kill(); _ = c.Wait() }()
	waitFor(t, "ssh -L listens", 20*time.Second, func() bool { _, err := os.Stat(socket); return err == nil })
	through, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer through.Close()
	_ = through.SetDeadline(time.Now().Add(20 * time.Second))
	if b, err := io.ReadAll(through); len(b) > 0 || os.IsTimeout(err) {
		t.Errorf("-L answered %q, %v", b, err)
	}
}

// requests sends what stock clients send only in the right surroundings.
func requests(t *testing.T, d *doorSite) {
	signer, err := readSigner(d.keys["alice"])
	if err != nil {
		t.Fatal(err)
	}
	client, err := ssh.Dial("tcp", d.daemon.door, &ssh.ClientConfig{
		User: "alice", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: 20 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, kind := range []string{"tcpip-forward", "streamlocal-forward@openssh.com", "no-such-request"} {
		if ok, _, err := client.SendRequest(kind, true, ssh.Marshal(struct {
			Host string
			Port uint32
		}{"127.0.0.1", 0})); ok || err != nil {
			t.Errorf("%s: %v %v", kind, ok, err)
		}
	}
	for _, kind := range []string{"direct-tcpip", "direct-streamlocal@openssh.com", "x11", "auth-agent@openssh.com", "forwarded-tcpip", "tun@openssh.com"} {
		if ch, _, err := client.OpenChannel(kind, nil); err == nil {
			ch.Close()
			t.Errorf("a channel of type %s was opened", kind)
		}
	}
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	for _, kind := range []string{"pty-req", "x11-req", "auth-agent-req@openssh.com", "shell", "env"} {
		if ok, err := session.SendRequest(kind, true, nil); ok || err != nil {
			t.Errorf("%s: %v %v", kind, ok, err)
		}
	}
}

// otherSources looks for web1 as bob, who sees db1 only.
func otherSources(t *testing.T, d *doorSite) {
	var all, list []snapshotJSON
	d.must("snapshots", "--json").json(t, &all)
	d.ssh("bob", "snapshots", "--json").json(t, &list)
	if len(all) != 2 || len(list) != 1 || list[0].Source != "db1" {
		t.Fatalf("bob sees %+v", list)
	}
	hidden := all[0]
	if hidden.Source != "web1" {
		hidden = all[1]
	}
	for _, address := range []string{"web1@latest", "web1@clean", "web1@" + hidden.Time, hidden.ID, hidden.ID[:8]} {
		for _, words := range [][]string{{"ls", address}, {"tar", address}, {"cat", address + ":large/l0"}, {"show", address}, {"diff", address, "db1@latest"}, {"diff", "db1@latest", address}} {
			r := d.ssh("bob", words...)
			// Whether web1 exists is not bob's to know: the answer is the one for a source that nobody has.
			if r.code == 0 || r.out != "" || strings.Contains(r.err, hidden.Time) && address != "web1@"+hidden.Time {
				t.Errorf("%v: %+v", words, r)
			}
		}
	}
	known, unknown := d.ssh("bob", "ls", "web1@latest").err, d.ssh("bob", "ls", "web9@latest").err
	if strings.ReplaceAll(known, "web1", "web9") != unknown {
		t.Errorf("a hidden source shows: %q against %q", known, unknown)
	}
	if r := d.sftp("bob", "ls -1 /\n"); r.code != 0 || strings.Contains(r.out, "web1") || !strings.Contains(r.out, "db1") {
		t.Errorf("%+v", r)
	}
	for _, path := range []string{"/web1", "/web1/latest", "/db1/../web1/latest/large", "/web1/" + hidden.Time} {
		if r := d.sftp("bob", "ls "+path+"\n"); r.code == 0 {
			t.Errorf("ls %s: %+v", path, r)
		}
	}
}

// TestCommandsDoNotWorkBesideTheDaemon runs every command while a daemon has the vault.
func TestCommandsDoNotWorkBesideTheDaemon(t *testing.T) {
	d := openDoor(t)
	d.must("snapshots")
	d.must("source", "list")
	d.must("source", "show", "web1")
	if r := d.must("ls", "-R", "web1@latest"); !strings.Contains(r.out, "large/l0\n") {
		t.Errorf("%+v", r)
	}
	content, err := os.ReadFile(filepath.Join(d.src, "large/l1"))
	if err != nil {
		t.Fatal(err)
	}
	if r := d.must("cat", "web1@latest:large/l1"); r.out != string(content) {
		t.Errorf("cat gave %d bytes of %d", len(r.out), len(content))
	}
	// A relative path is the caller's, not the daemon's.
	if r := d.must("restore", "web1@latest", "--to", "out"); !strings.Contains(r.out, "every byte verified") {
		t.Errorf("%+v", r)
	}
	sameAsSource(t, d.src, filepath.Join(d.dir, "out"))
	to := t.TempDir()
	untar := exec.Command("tar", "-x", "-p", "-C", to)
	untar.Stdin = strings.NewReader(d.must("tar", "web1@latest").out)
	if out, err := untar.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	sameAsSource(t, d.src, to)

	old := time.Now().Add(-20 * time.Hour)
	added := filepath.Join(d.src, "added")
	if err := os.WriteFile(added, []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(added, old, old); err != nil {
		t.Fatal(err)
	}
	var pulls []pullJSON
	d.must("pull", "web1", "--json").json(t, &pulls)
	if len(pulls) != 1 || pulls[0].FilesRead != 1 || pulls[0].State != "complete" {
		t.Errorf("%+v", pulls)
	}
	var list []snapshotJSON
	d.must("snapshots", "web1", "--json").json(t, &list)
	if len(list) != 2 {
		t.Fatalf("%+v", list)
	}
	if r := d.must("diff", "web1@"+list[0].Time, "web1@latest"); !strings.Contains(r.out, "A added\n") {
		t.Errorf("%+v", r)
	}
	if r := d.must("index", "rebuild"); !strings.Contains(r.out, "The index knows") {
		t.Errorf("%+v", r)
	}
	d.must("check", "--read-data")
	if r := d.must("prune", "--dry-run"); strings.Count(r.out, "stays") != 3 {
		t.Errorf("%+v", r)
	}
	d.must("prune")
	d.must("ledger", "checkpoint")
	if r := d.run("serve"); r.code != exitFailed || !strings.Contains(r.err, fmt.Sprint(d.daemon.cmd.Process.Pid)) {
		t.Errorf("a second daemon: %+v", r)
	}
	if r := d.run("ls", "web1@latest:nowhere"); r.code != exitFailed || r.out != "" {
		t.Errorf("%+v", r)
	}
	if r := d.run("restore", "web1@latest", "--to", "out"); r.code != exitFailed || !strings.Contains(r.err, "--overwrite") {
		t.Errorf("%+v", r)
	}
	if r := d.run("restore", "web1@latest:nowhere", "--to", "none"); r.code != exitFailed || !strings.Contains(r.err, "holdfast ls") {
		t.Errorf("%+v", r)
	}
	if r := d.run("pull", "nothere"); r.code != exitUsage || !strings.Contains(r.err, "not enrolled") {
		t.Errorf("%+v", r)
	}
	if code := d.daemon.stop(); code != exitDone {
		t.Errorf("exit %d:\n%s", code, d.daemon.said())
	}
	d.must("check", "--read-data")
}

// dam is a proxy that lets so many bytes through and then none, until it is opened.
type dam struct {
	addr   string
	target atomic.Value  // string: where new connections go
	held   chan struct{} // closed once the dam holds water
	open   chan struct{}
}

func newDam(t testing.TB, target string, after int64) *dam {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &dam{addr: l.Addr().String(), held: make(chan struct{}), open: make(chan struct{})}
	d.target.Store(target)
	var passed atomic.Int64
	var once sync.Once
	var all sync.WaitGroup
	down := func(to, from net.Conn) {
		defer to.Close()
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			if passed.Add(int64(n)) > after {
				once.Do(func() { close(d.held) })
				<-d.open
			}
			if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
				return
			}
		}
	}
	all.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", d.target.Load().(string))
			if err != nil {
				near.Close()
				return
			}
			all.Go(func() { down(near, far) })
			all.Go(func() { defer far.Close(); _, _ = io.Copy(far, near) })
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return d
}

// TestStoppedDaemonLosesThePull ends the daemon with SIGTERM while a pull waits for its source.
func TestStoppedDaemonLosesThePull(t *testing.T) {
	s := initialised(t)
	src := filepath.Join(t.TempDir(), "src")
	writeTree(t, src, 31, 300, 6)
	srv := sshdtest.Start(t, sshdtest.Options{})
	_, size := treeSize(t, src)
	w := newDam(t, srv.Addr, size/2)
	s.write("holdfast.yaml", fmt.Sprintf("vault: %s\nsources:\n- name: web1\n  url: sftp://%s@%s%s\n  identity: %s\n  host_key: %s %s\n",
		s.vault, srv.User, w.addr, src, srv.IdentityFile, srv.HostKey.Type(), base64.StdEncoding.EncodeToString(srv.HostKey.Marshal())))
	d := s.serve()
	pulling := make(chan result, 1)
	go func() { pulling <- s.runWith(s.command("pull", "web1")) }()
	select {
	case <-w.held:
	case r := <-pulling:
		t.Fatalf("the pull ended: %+v", r)
	}
	begun := time.Now()
	if code := d.stop(); code != exitDone {
		t.Errorf("exit %d:\n%s", code, d.said())
	}
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("it took %v to end", took)
	}
	if r := <-pulling; r.code != exitFailed || r.err == "" {
		t.Errorf("the command that waited: %+v", r)
	}
	close(w.open)
	s.must("check", "--read-data")
	var list []pullJSON
	s.must("pull", "web1", "--json").json(t, &list)
	if list[0].State != "complete" || list[0].Resumed == 0 || list[0].ReadBytes >= uint64(size) {
		t.Errorf("the next pull began again: %+v", list[0])
	}
	to := filepath.Join(s.dir, "out")
	s.must("restore", "web1@latest", "--to", to)
	sameAsSource(t, src, to)
}
