package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

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
		for _, words := range [][]string{{"ls", address}, {"tar", address}, {"cat", address + ":large/l0"}, {"show", address}, {"ledger-prove", address}, {"diff", address, "db1@latest"}, {"diff", "db1@latest", address}} {
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
