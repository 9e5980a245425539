package door_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/holdfast-vault/holdfast/vault/door"
)

func weak(t *testing.T) ssh.PublicKey {
	t.Setenv("GODEBUG", "rsa1024min=0")
	k, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ssh.NewPublicKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

// socket starts a door on a unix socket; stop ends it.
func socket(t *testing.T, local map[string]door.Command) (path string, stop func()) {
	t.Helper()
	dir := t.TempDir()
	_, hostKey := key(t, dir, "host")
	s, err := door.New(door.Config{HostKey: hostKey, Commands: commands(), Local: local,
		ViewFor: func(u door.User) door.View { return filtered{twoSources(), u} }})
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.ServeLocal(ctx, l) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ServeLocal: %v", err)
		}
	})
	t.Cleanup(stop)
	return path, stop
}

func TestLocalCommandLineStreamsBothWays(t *testing.T) {
	path, _ := socket(t, nil)
	in := noise(1, 9<<20)
	var out, errs bytes.Buffer
	code, err := door.RunLocal(t.Context(), path, []string{"echo"}, door.IO{In: bytes.NewReader(in), Out: &out, Err: &errs})
	if err != nil || code != 7 || !bytes.Equal(out.Bytes(), in) || errs.String() != "on the other channel" {
		t.Errorf("%d %v, %d bytes, %q", code, err, out.Len(), errs.String())
	}
}

func TestLocalArgumentsArriveAsTheyAre(t *testing.T) {
	path, _ := socket(t, nil)
	args := []string{"args", "", " ", "a b", "it's", `"`, `\`, "$HOME", "*", "line\nfeed", "\xff\xfe", ";", "grün", "-"}
	var out bytes.Buffer
	code, err := door.RunLocal(t.Context(), path, args, door.IO{Out: &out})
	if err != nil || code != len(args) || out.String() != fmt.Sprintf("%q", args[1:]) {
		t.Errorf("%d %v %s", code, err, out.String())
	}
}

func TestLocalPeerHasMoreVerbsAndSeesAll(t *testing.T) {
	path, _ := socket(t, map[string]door.Command{"prune": func(_ context.Context, v door.View, _ []string, io door.IO) int {
		u := v.(filtered).u
		fmt.Fprintf(io.Out, "%s %s %v", u.Name, u.Role, u.Sees("anything"))
		return 4
	}})
	var out bytes.Buffer
	code, err := door.RunLocal(t.Context(), path, []string{"prune"}, door.IO{Out: &out})
	if want := fmt.Sprintf("uid %d local true", os.Geteuid()); err != nil || code != 4 || out.String() != want {
		t.Errorf("%d %v %q", code, err, out.String())
	}
	if code, err := door.RunLocal(t.Context(), path, []string{"cat", "db1@" + t1 + ":/secret"}, door.IO{}); code != 0 || err != nil {
		t.Errorf("%d %v", code, err)
	}
	var errs bytes.Buffer
	if code, err := door.RunLocal(t.Context(), path, []string{"nothing"}, door.IO{Err: &errs}); code != 2 || err != nil || !strings.Contains(errs.String(), "prune") {
		t.Errorf("%d %v %s", code, err, errs.String())
	}
}

func TestCancellingLocallyCancelsInTheDaemon(t *testing.T) {
	started, ended := make(chan struct{}), make(chan struct{})
	path, _ := socket(t, map[string]door.Command{"wait": func(ctx context.Context, _ door.View, _ []string, _ door.IO) int {
		close(started)
		<-ctx.Done()
		close(ended)
		return 0
	}})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-started; cancel() }()
	r, w := io.Pipe() // an input that never comes, like a terminal
	defer w.Close()
	_, err := door.RunLocal(ctx, path, []string{"wait"}, door.IO{In: r})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	<-ended
}

func TestOutputThatNobodyReadsEndsTheCommand(t *testing.T) {
	ended := make(chan struct{})
	path, _ := socket(t, map[string]door.Command{"flood": func(ctx context.Context, _ door.View, _ []string, std door.IO) int {
		defer close(ended)
		for ctx.Err() == nil {
			if _, err := std.Out.Write(make([]byte, 32<<10)); err != nil {
				return 1
			}
		}
		return 0
	}})
	_, err := door.RunLocal(t.Context(), path, []string{"flood"}, door.IO{Out: closed{}})
	if !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("%v", err)
	}
	<-ended
}

type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestNoDaemonIsToldFromTrouble(t *testing.T) {
	path, stop := socket(t, nil)
	if _, err := door.RunLocal(t.Context(), path+"x", []string{"args"}, door.IO{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no socket: %v", err)
	}
	stop()
	if _, err := door.RunLocal(t.Context(), path, []string{"args"}, door.IO{}); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a daemon that has gone: %v", err)
	}
}

func TestDaemonThatDiesIsNotSuccess(t *testing.T) {
	started := make(chan struct{})
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, hostKey := key(t, dir, "host")
	go func() { // lets in, accepts the command, dies
		defer close(started)
		c, err := l.Accept()
		if err != nil {
			return
		}
		cfg := &ssh.ServerConfig{NoClientAuth: true}
		cfg.AddHostKey(hostKey)
		_, chans, reqs, err := ssh.NewServerConn(c, cfg)
		if err != nil {
			return
		}
		go ssh.DiscardRequests(reqs)
		ch, sreqs, _ := (<-chans).Accept()
		(<-sreqs).Reply(true, nil)
		ch.Write([]byte("half"))
		c.Close()
	}()
	var out bytes.Buffer
	code, err := door.RunLocal(t.Context(), l.Addr().String(), []string{"tar"}, door.IO{Out: &out})
	if code == 0 || !errors.Is(err, door.ErrGone) {
		t.Errorf("%d %v", code, err)
	}
	<-started
}

// dialAsStranger runs in a process of another user.
func dialAsStranger(socket string) int {
	code, err := door.RunLocal(context.Background(), socket, []string{"args"}, door.IO{})
	fmt.Print(err)
	if err == nil && code != 0 {
		return 0 // it ran
	}
	return 9
}

func TestStrangerOnTheSocketIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to become somebody else")
	}
	path, _ := socket(t, nil)
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "stranger")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	os.Chmod(dir, 0o755)
	os.Chmod(path, 0o777)
	for d := filepath.Dir(path); d != "/tmp" && d != "/"; d = filepath.Dir(d) {
		os.Chmod(d, 0o755)
	}
	exe := filepath.Join(dir, "stranger")
	if err := os.WriteFile(exe, self, 0o755); err != nil {
		t.Fatal(err)
	}
	for uid, wantCode := range map[uint32]int{65534: 9, 0: 0} {
		cmd := exec.Command(exe)
		cmd.Dir = "/"
		cmd.Env = []string{"HOLDFAST_TEST_DIAL=" + path}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, _ := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != wantCode {
			t.Errorf("uid %d: exit %d, %s", uid, got, out)
		}
	}
}
