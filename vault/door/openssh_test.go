package door_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/holdfast-vault/holdfast/vault/door"
	"github.com/holdfast-vault/holdfast/vault/restore"
)

func TestMain(m *testing.M) {
	if socket := os.Getenv("HOLDFAST_TEST_DIAL"); socket != "" {
		os.Exit(dialAsStranger(socket))
	}
	goleak.VerifyTestMain(m)
}

// files is every regular file below dir with its content.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		m[rel] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func sameFiles(t *testing.T, got, want map[string]string) {
	t.Helper()
	for name, w := range want {
		if g, ok := got[name]; !ok || g != w {
			t.Errorf("%q: %d bytes, want %d (there: %v)", name, len(g), len(w), ok)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%q should not be there", name)
		}
	}
}

func restored(t *testing.T, version, path string) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := restore.ToDirectory(t.Context(), web1(version), path, dir, restore.Options{NoSync: true}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestStockSFTPFetchesATree(t *testing.T) {
	need(t, "sftp")
	h := open(t, nil)
	for _, top := range []string{t1, t3, "latest", "clean"} {
		local := t.TempDir()
		r := h.sftp(h.alice, fmt.Sprintf("lcd %s\nget -r /web1/%s\n", local, top))
		if r.code != 0 && !strings.Contains(r.err, "outside") {
			t.Fatalf("%s: exit %d\n%s", top, r.code, r.err)
		}
		version := map[string]string{t1: "one", t3: "three", "latest": "three", "clean": "two"}[top]
		want := files(t, restored(t, version, ""))
		got := files(t, filepath.Join(local, top))
		delete(got, "etc/link") // some releases fetch what a link points to, some skip it
		sameFiles(t, got, want)
		if fi, err := os.Stat(filepath.Join(local, top, "empty")); err != nil || !fi.IsDir() {
			t.Errorf("%s: the empty directory did not come", top)
		}
	}
}

func TestSFTPShowsTheTree(t *testing.T) {
	need(t, "sftp")
	h := open(t, nil)
	r := h.sftp(h.alice, "ls -1 /\nls -1 /web1\nls -l /web1\nls -ln /web1/latest/etc\nls -1 /web1/latest/etc/link\npwd\ncd /web1/latest/data\npwd\nls -1 n00*\n")
	if r.code != 0 {
		t.Fatalf("%+v", r)
	}
	for _, want := range []string{"/web1", "/web1/" + t1, "/web1/" + t3, "/web1/clean", "/web1/latest", "1234", "n009",
		"Remote working directory: /web1/" + t3 + "/data"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("no %q in\n%s", want, r.out)
		}
	}
	if strings.Contains(r.out, "db1") {
		t.Errorf("another source is seen:\n%s", r.out)
	}
}

func TestSFTPChangesNothing(t *testing.T) {
	need(t, "sftp")
	h := open(t, nil)
	local := filepath.Join(t.TempDir(), "mine")
	write(t, local, "mine")
	for _, cmd := range []string{
		"put " + local + " /web1/latest/etc/new",
		"put " + local + " /web1/latest/etc/hosts",
		"put " + local + " /new",
		"put -a " + local + " /web1/latest/etc/hosts",
		"rm /web1/latest/etc/hosts",
		"rmdir /web1/latest/empty",
		"rmdir /web1",
		"rename /web1/latest/etc/hosts /web1/latest/etc/other",
		"rename -l /web1/latest/etc/hosts /web1/latest/etc/other",
		"mkdir /web1/latest/new",
		"mkdir /new",
		"ln -s /etc/passwd /web1/latest/link",
		"ln /web1/latest/etc/hosts /web1/latest/link",
		"chmod 777 /web1/latest/etc/hosts",
		"chown 0 /web1/latest/etc/hosts",
		"chgrp 0 /web1/latest/etc/hosts",
		"rm /web1/latest",
		"get /db1/latest/secret",
		"ls /db1",
		"get /web1/latest/etc/outside",
		"get /web1/latest/etc/absolute",
		"get /etc/passwd",
		"get /../../etc/passwd",
		"get /web1/latest/../../../etc/passwd",
		"df /",
	} {
		if r := h.sftp(h.alice, "lcd "+t.TempDir()+"\n"+cmd+"\n"); r.code == 0 {
			t.Errorf("%q was done: %s", cmd, r.out)
		}
	}
	if r := h.sftp(h.admin, "ls /db1/latest\n"); r.code != 0 || !strings.Contains(r.out, "secret") {
		t.Errorf("admin: %+v", r)
	}
}

func TestSSHTarAndCat(t *testing.T) {
	need(t, "ssh", "tar")
	h := open(t, nil)
	r := h.ssh("", "cat", "web1@"+t1+":/etc/hosts")
	if r.out != "127.0.0.1 one\n" || r.code != 0 {
		t.Errorf("%+v", r)
	}
	if r := h.ssh("", "cat", "web1@"+t1+":/nothing"); r.code != 1 || !strings.Contains(r.err, "not exist") {
		t.Errorf("%+v", r)
	}
	if r := h.ssh("", `cat "web1@`+t1+`:/etc/two words ' and \"quotes\""`); r.out != "quoted" {
		t.Errorf("%+v", r)
	}
	dir := t.TempDir()
	tar := exec.Command("tar", "-x", "--same-permissions", "--no-same-owner", "-C", dir)
	stream := h.ssh("", "tar", "web1@"+t2+":/")
	tar.Stdin = strings.NewReader(stream.out)
	if out, err := tar.CombinedOutput(); err != nil || stream.code != 0 {
		t.Fatalf("%v %s %s", err, out, stream.err)
	}
	want := restored(t, "two", "")
	sameFiles(t, files(t, dir), files(t, want))
	if out, err := exec.Command("diff", "-r", "--no-dereference", dir, want).CombinedOutput(); err != nil {
		t.Errorf("%v %s", err, out)
	}
}

func TestOnlyCommandsOfTheListRun(t *testing.T) {
	need(t, "ssh")
	h := open(t, nil)
	for _, line := range []string{"sh", "sh -c id", "/bin/sh", "id", "rm -rf /", "scp -f /etc/passwd", "sftp-server", "internal-sftp",
		"cat;id", "$(id)", "`id`", "CAT x", "''", `"unclosed`, "prune", "cat\nid"} {
		if r := h.ssh("", line); r.code != 2 || r.out != "" || !strings.Contains(r.err, "holdfast: ") {
			t.Errorf("%q: %+v", line, r)
		}
	}
	if r := h.ssh("", "scp", "-t", "/tmp"); !strings.Contains(r.err, "leave out -O") {
		t.Errorf("%+v", r)
	}
	if r := h.ssh("", "args", "'a  b'", `"$HOME"`, `\*`, "~", "a;b", "|", ">x"); r.out != `["a  b" "$HOME" "*" "~" "a;b" "|" ">x"]` || r.code != 8 {
		t.Errorf("%+v", r)
	}
	if r := h.ssh("", "cat web1@"+t1+":/etc/hosts; id"); r.code == 0 {
		t.Errorf("%+v", r)
	}
	if r := h.ssh("", "cat", "db1@"+t1+":/secret"); r.code == 0 || r.out != "" {
		t.Errorf("another source: %+v", r)
	}
	if r := run(t, "", "ssh", h.args(h.admin, "x@127.0.0.1", "cat", "db1@"+t1+":/secret")...); r.out != "of db1" {
		t.Errorf("admin: %+v", r)
	}
	if r := h.ssh("some input", "echo"); r.out != "some input" || r.err != "on the other channel" || r.code != 7 {
		t.Errorf("%+v", r)
	}
	if r := h.ssh("", "panic"); r.code != 1 || strings.Contains(r.err, "on purpose") {
		t.Errorf("%+v", r)
	}
	if r := h.ssh("", "whoami"); r.out != "alice" { // still there
		t.Errorf("%+v", r)
	}
}

// TestCommandOfARoleRunsForOthers: what is offered to a role is unknown to everybody else, and not named to them.
func TestCommandOfARoleRunsForOthers(t *testing.T) {
	need(t, "ssh")
	h := open(t, func(c *door.Config) {
		c.ByRole = map[string]map[string]door.Command{"operator": {"secure": func(_ context.Context, v door.View, args []string, io door.IO) int {
			fmt.Fprint(io.Out, v.(filtered).u.Name, args)
			return 0
		}}}
	})
	if r := h.ssh("", "secure", "now"); r.code != 2 || r.out != "" || strings.Contains(r.err, "secure,") {
		t.Errorf("a requester: %+v", r)
	}
	if r := run(t, "", "ssh", h.args(h.admin, "x@127.0.0.1", "secure", "now")...); r.out != "admin[secure now]" {
		t.Errorf("an operator: %+v", r)
	}
	if r := run(t, "", "ssh", h.args(h.admin, "x@127.0.0.1", "nothing")...); r.code != 2 || !strings.Contains(r.err, "secure") {
		t.Errorf("an operator is not told what there is: %+v", r)
	}
}

func TestEverythingElseOfSSHIsRefused(t *testing.T) {
	need(t, "ssh")
	h := open(t, nil)
	for what, args := range map[string][]string{
		"shell":                   {"nobody@127.0.0.1"},
		"shell with a terminal":   {"-tt", "nobody@127.0.0.1"},
		"another subsystem":       {"-s", "nobody@127.0.0.1", "netconf"},
		"forwarding to the vault": {"-o", "ExitOnForwardFailure=yes", "-N", "-R", "0:127.0.0.1:22", "nobody@127.0.0.1"},
		"a remote unix socket":    {"-o", "ExitOnForwardFailure=yes", "-N", "-R", "/tmp/x.sock:127.0.0.1:22", "nobody@127.0.0.1"},
		"forwarding from it":      {"-W", "127.0.0.1:22", "nobody@127.0.0.1"},
		"a tunnel":                {"-o", "ExitOnForwardFailure=yes", "-o", "Tunnel=point-to-point", "-w", "any:any", "-N", "nobody@127.0.0.1"},
	} {
		if r := run(t, "echo pwned\nexit 0\n", "ssh", h.args(h.alice, args...)...); r.code == 0 || strings.Contains(r.out, "pwned") {
			t.Errorf("%s: %+v", what, r)
		}
	}
	if r := run(t, "", "ssh", h.args(h.alice, "-A", "-X", "-o", "SetEnv=LC_ALL=evil", "nobody@127.0.0.1", "whoami")...); r.out != "alice" {
		t.Errorf("asked for agent, X11 and environment on the way: %+v", r)
	}
	seen := h.events.seen()
	for _, want := range []string{`request "shell"`, `request "pty-req"`, `subsystem "netconf"`, `channel "direct-tcpip"`} {
		if !strings.Contains(seen, want) {
			t.Errorf("%q was not told: %q", want, seen)
		}
	}
}

func TestUnknownKeyIsRefused(t *testing.T) {
	need(t, "ssh", "sftp")
	h := open(t, nil)
	for _, name := range []string{"alice", "admin", "root"} {
		if r := run(t, "", "ssh", h.args(h.unknown, name+"@127.0.0.1", "whoami")...); r.code != 255 || !strings.Contains(r.err, "Permission denied (publickey)") {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if r := h.sftp(h.unknown, "ls /\n"); r.code == 0 || r.out != "" {
		t.Errorf("%+v", r)
	}
	if r := run(t, "", "ssh", h.args("/dev/null", "-o", "PubkeyAuthentication=no", "alice@127.0.0.1", "whoami")...); r.code != 255 {
		t.Errorf("without any key: %+v", r)
	}
}

// CVE-2024-45337: a client that offers somebody's public key, which anybody can know, and then proves another one, is the
// owner of the other one.
func TestOfferedKeyIsNotProof(t *testing.T) {
	need(t, "ssh")
	h := open(t, nil)
	os.Remove(h.admin) // the public half stays
	args := append([]string{"-i", h.admin + ".pub"}, h.args(h.alice, "admin@127.0.0.1", "whoami")...)
	if r := run(t, "", "ssh", args...); r.out != "alice" {
		t.Errorf("%+v", r)
	}
}

func TestStockSCPReads(t *testing.T) {
	need(t, "scp")
	h := open(t, nil)
	dir := t.TempDir()
	if r := run(t, "", "scp", h.args(h.alice, "-s", "-r", "-p", "x@127.0.0.1:/web1/clean/data", dir)...); r.code != 0 {
		if strings.Contains(r.err, "unknown option") || strings.Contains(r.err, "illegal option") {
			t.Fatal("this scp does not speak SFTP: OpenSSH of 8.7 or newer is needed")
		}
		t.Fatalf("%+v", r)
	}
	sameFiles(t, files(t, filepath.Join(dir, "data")), files(t, restored(t, "two", "data")))
	mine := filepath.Join(dir, "mine")
	write(t, mine, "mine")
	if r := run(t, "", "scp", h.args(h.alice, "-s", mine, "x@127.0.0.1:/web1/clean/data/n001")...); r.code == 0 {
		t.Errorf("scp wrote: %+v", r)
	}
	if r := run(t, "", "scp", h.args(h.alice, "-O", "x@127.0.0.1:/web1/clean/etc/hosts", dir)...); r.code == 0 {
		t.Errorf("the old protocol: %+v", r)
	}
}

// When the client dies, the command must notice.
func TestClientThatGoesAwayEndsItsCommand(t *testing.T) {
	need(t, "ssh")
	started, ended := make(chan struct{}), make(chan struct{})
	h := open(t, nil)
	h.stop()
	h = openWith(t, "wait", func(ctx context.Context) { close(started); <-ctx.Done(); close(ended) })
	cmd := exec.Command("ssh", h.args(h.alice, "x@127.0.0.1", "wait")...)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(nil), os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-started
	cmd.Process.Kill()
	cmd.Wait()
	<-ended
}
