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
	if strings.Contains(d.said(), "made a host key") {
		t.Errorf("a daemon without a door made a host key:\n%s", d.said())
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
	// Which files the half that came belongs to, whole ones or parts of large ones, is for the network to decide.
	if list[0].State != "complete" || list[0].ReadBytes > uint64(size)*9/10 {
		t.Errorf("the next pull began again: %+v", list[0])
	}
	to := filepath.Join(s.dir, "out")
	s.must("restore", "web1@latest", "--to", to)
	sameAsSource(t, src, to)
}
