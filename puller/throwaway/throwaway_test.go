package throwaway

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tree makes a small directory of every kind that a server can show.
func makeTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "etc/ssh"), 0o755))
	must(os.Mkdir(filepath.Join(dir, "empty"), 0o700))
	must(os.WriteFile(filepath.Join(dir, "etc/hosts"), []byte("127.0.0.1 localhost\n"), 0o640))
	must(os.WriteFile(filepath.Join(dir, "big"), bytes.Repeat([]byte("0123456789abcdef"), 20000), 0o600))
	must(os.Symlink("../outside", filepath.Join(dir, "etc/link")))
	must(os.Symlink("hosts", filepath.Join(dir, "etc/alias")))
	must(os.WriteFile(filepath.Join(dir, "etc/\xff\xfe name\n"), []byte("x"), 0o600))
	must(os.Chtimes(filepath.Join(dir, "etc/hosts"), time.Unix(1700000000, 0), time.Unix(1700000000, 0)))
	return dir
}

func serve(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Serve(makeTree(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func dial(t *testing.T, s *Server) (*ssh.Client, *sftp.Client) {
	t.Helper()
	signer, err := ssh.ParsePrivateKey(s.Identity())
	if err != nil {
		t.Fatal(err)
	}
	c, err := ssh.Dial("tcp", s.Addr, &ssh.ClientConfig{
		User: s.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.FixedHostKey(s.HostKey),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	f, err := sftp.NewClient(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return c, f
}

func TestServesTheTreeAsItIs(t *testing.T) {
	s := serve(t, Options{})
	_, c := dial(t, s)
	found, err := c.ReadDir("/etc")
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]fs.FileInfo{}
	for _, i := range found {
		byName[i.Name()] = i
	}
	hosts := byName["hosts"]
	if hosts == nil || hosts.Size() != 20 || hosts.Mode() != 0o640 || hosts.ModTime().Unix() != 1700000000 {
		t.Fatalf("hosts: %v", hosts)
	}
	if link := byName["link"]; link == nil || link.Mode().Type() != fs.ModeSymlink {
		t.Fatalf("link: %v", link)
	}
	if byName["\xff\xfe name\n"] == nil || byName["ssh"] == nil || !byName["ssh"].IsDir() {
		t.Fatalf("names: %v", byName)
	}
	if own, ok := hosts.Sys().(*sftp.FileStat); !ok || int(own.UID) != os.Getuid() {
		t.Fatalf("owner: %+v", hosts.Sys())
	}
	if target, err := c.ReadLink("/etc/link"); err != nil || target != "../outside" {
		t.Fatalf("target %q, %v", target, err)
	}
	if i, err := c.Lstat("/etc/alias"); err != nil || i.Mode().Type() != fs.ModeSymlink {
		t.Fatalf("lstat of a link: %v, %v", i, err)
	}
	if empty, err := c.ReadDir("/empty"); err != nil || len(empty) != 0 {
		t.Fatalf("empty: %v, %v", empty, err)
	}
	if _, err := c.Lstat("/nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("missing: %v", err)
	}
	f, err := c.Open("/big")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil || len(b) != 320000 {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	if n := s.Stats(); n.Bytes != 320000 || n.Opens != 1 || n.Lists != 2 || n.Connections != 1 {
		t.Fatalf("counters: %+v", n)
	}
}

func TestNothingOutsideIsRead(t *testing.T) {
	s := serve(t, Options{})
	_, c := dial(t, s)
	for _, name := range []string{"/../../etc/passwd", "/etc/link", "/etc/../../x"} {
		if f, err := c.Open(name); err == nil {
			_ = f.Close()
			t.Errorf("%s was opened", name)
		}
	}
}

func TestNothingIsWritten(t *testing.T) {
	s := serve(t, Options{})
	raw, c := dial(t, s)
	if _, err := c.Create("/new"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("create: %v", err)
	}
	if _, err := c.OpenFile("/etc/hosts", os.O_RDWR); err == nil {
		t.Error("opened for writing")
	}
	for what, err := range map[string]error{
		"remove": c.Remove("/etc/hosts"), "mkdir": c.Mkdir("/d"), "rename": c.Rename("/etc/hosts", "/x"),
		"chmod": c.Chmod("/etc/hosts", 0), "symlink": c.Symlink("a", "/b"), "truncate": c.Truncate("/etc/hosts", 0),
	} {
		if err == nil {
			t.Errorf("%s was allowed", what)
		}
	}
	session, err := raw.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if err := session.Run("id"); err == nil {
		t.Error("a command was run")
	}
	if _, err := raw.Dial("tcp", s.Addr); err == nil {
		t.Error("a connection was forwarded")
	}
}

func TestStrangersStayOut(t *testing.T) {
	s, other := serve(t, Options{}), serve(t, Options{})
	for _, c := range []*ssh.ClientConfig{
		{User: s.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(other.Signer)}},
		{User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(s.Signer)}},
		{User: s.User},
	} {
		c.HostKeyCallback = ssh.FixedHostKey(s.HostKey)
		if got, err := ssh.Dial("tcp", s.Addr, c); err == nil {
			_ = got.Close()
			t.Errorf("%q came in", c.User)
		}
	}
}

func TestHooksAnswerInsteadOfTheFile(t *testing.T) {
	s := serve(t, Options{
		OnOpen: func(name string) error {
			if name == "etc/hosts" {
				return fs.ErrPermission
			}
			return nil
		},
		OnList: func(name string) error {
			if name == "empty" {
				return fs.ErrNotExist
			}
			return nil
		},
		OnRead: func(name string, offset int64) error {
			if name == "big" && offset > 0 {
				return errors.New("medium error")
			}
			return nil
		},
	})
	_, c := dial(t, s)
	if _, err := c.Open("/etc/hosts"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("open: %v", err)
	}
	if _, err := c.ReadDir("/empty"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("list: %v", err)
	}
	f, err := c.Open("/big")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(make([]byte, 100), 4096); err == nil || !strings.Contains(err.Error(), "medium error") {
		t.Errorf("read: %v", err)
	}
}

func TestCutAfterEndsTheConnectionOnce(t *testing.T) {
	s := serve(t, Options{})
	s.CutAfter(100000)
	_, c := dial(t, s)
	f, err := c.Open("/big")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(f); err == nil {
		t.Fatal("read to the end through a cut")
	}
	_, c = dial(t, s)
	if f, err = c.Open("/big"); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(f); err != nil || len(b) != 320000 {
		t.Fatalf("after the cut: %d bytes, %v", len(b), err)
	}
}

func TestPauseHoldsAndCloseReleases(t *testing.T) {
	s := serve(t, Options{})
	_, c := dial(t, s)
	s.Pause()
	var answered atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := c.ReadDir("/etc"); err == nil {
			answered.Store(true)
		}
	}()
	if answered.Load() {
		t.Fatal("answered while paused")
	}
	s.Resume()
	<-done
	if !answered.Load() {
		t.Fatal("not answered after Resume")
	}
	s.Pause()
	failed := make(chan error, 1)
	go func() {
		_, err := c.ReadDir("/etc")
		failed <- err
	}()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err == nil {
		t.Fatal("answered after Close")
	}
}
