package door_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/holdfast-vault/holdfast/vault/door"
	"github.com/holdfast-vault/holdfast/vault/restore/restoretest"
)

// openWith is open with one more verb.
func openWith(t *testing.T, verb string, f func(ctx context.Context)) *house {
	return open(t, func(c *door.Config) {
		c.Commands[verb] = func(ctx context.Context, _ door.View, _ []string, _ door.IO) int { f(ctx); return 0 }
	})
}

func output(c *ssh.Client, line string) (string, error) {
	s, err := c.NewSession()
	if err != nil {
		return "", err
	}
	defer s.Close()
	out, err := s.CombinedOutput(line)
	return string(out), err
}

// Silent connections push each other out; somebody with a key still gets in.
func TestCrowdOfSilentConnectionsDoesNotCloseTheDoor(t *testing.T) {
	h := open(t, func(c *door.Config) { c.Limits.HalfOpen = 16 })
	for range 300 {
		c, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if out, err := output(h.dial(), "whoami"); out != "alice" {
		t.Errorf("%q %v", out, err)
	}
}

func TestHandshakeHasADeadline(t *testing.T) {
	h := open(t, func(c *door.Config) { c.Limits.Handshake = 50 * time.Millisecond })
	c, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.Copy(io.Discard, c); err != nil { // ends when the door closes it
		t.Log(err)
	}
}

func TestSessionThatAsksForNothingIsClosed(t *testing.T) {
	h := open(t, func(c *door.Config) { c.Limits.Handshake = 500 * time.Millisecond })
	ch, reqs, err := h.dial().OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	for range reqs { // ends when the door closes the channel
	}
	ch.Close()
}

func TestIdleConnectionIsClosed(t *testing.T) {
	h := open(t, func(c *door.Config) { c.Limits.Idle = 50 * time.Millisecond })
	h.dial().Wait()
}

// mute is a connection whose other end can be made to fall silent.
type mute struct {
	net.Conn
	silent atomic.Bool
}

func (m *mute) Write(p []byte) (int, error) {
	if m.silent.Load() {
		return len(p), nil
	}
	return m.Conn.Write(p)
}

func TestClientThatFallsSilentIsCutOff(t *testing.T) {
	started, ended := make(chan struct{}), make(chan struct{})
	h := open(t, func(c *door.Config) {
		c.Limits.Idle = 200 * time.Millisecond
		c.Commands["wait"] = func(ctx context.Context, _ door.View, _ []string, _ door.IO) int {
			close(started)
			<-ctx.Done()
			close(ended)
			return 0
		}
	})
	raw, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	m := &mute{Conn: raw}
	sc, chans, reqs, err := ssh.NewClientConn(m, "", &ssh.ClientConfig{Auth: []ssh.AuthMethod{ssh.PublicKeys(h.signer)},
		HostKeyCallback: func(string, net.Addr, ssh.PublicKey) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	c := ssh.NewClient(sc, chans, reqs)
	defer c.Close()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("wait"); err != nil {
		t.Fatal(err)
	}
	<-started
	m.silent.Store(true)
	<-ended
}

func TestLimitsOfConnectionsAndSessions(t *testing.T) {
	release := make(chan struct{})
	h := open(t, func(c *door.Config) {
		c.Limits.PerUser, c.Limits.Sessions = 2, 2
		c.Commands["wait"] = func(context.Context, door.View, []string, door.IO) int { <-release; return 0 }
	})
	a := h.dial()
	if out, err := output(h.dial(), "whoami"); out != "alice" { // so it has been counted
		t.Fatal(err)
	}
	var running []*ssh.Session
	for range 2 {
		s, err := a.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start("wait"); err != nil {
			t.Fatal(err)
		}
		running = append(running, s)
	}
	if _, err := a.NewSession(); err == nil {
		t.Error("a third session on one connection")
	}
	if c, err := h.tryDial(); err == nil { // turned away at once, or right after
		defer c.Close()
		if _, err := output(c, "whoami"); err == nil {
			t.Error("a third connection of one user")
		}
	}
	close(release)
	for _, s := range running {
		if err := s.Wait(); err != nil {
			t.Error(err)
		}
	}
	for { // a place becomes free a moment after the client has heard of the end
		out, err := output(a, "whoami")
		if err == nil && out == "alice" {
			break
		}
		if err == nil || !strings.Contains(err.Error(), "too many sessions") {
			t.Fatalf("%q %v", out, err)
		}
	}
}

func TestStoppingLetsRunningCommandsFinish(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	h := open(t, func(c *door.Config) {
		c.Limits.Grace = time.Minute
		c.Commands["slow"] = func(ctx context.Context, _ door.View, _ []string, io door.IO) int {
			close(started)
			<-release
			fmt.Fprint(io.Out, "finished")
			return 0
		}
	})
	c := h.dial()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	s.Stdout = &out
	if err := s.Start("slow"); err != nil {
		t.Fatal(err)
	}
	<-started
	stopped := make(chan error, 1)
	go func() { stopped <- h.stop() }()
	for { // no new connection
		c, err := net.Dial("tcp", h.addr)
		if err != nil {
			break
		}
		c.Close()
	}
	close(release)
	if err := s.Wait(); err != nil || out.String() != "finished" {
		t.Errorf("%q %v", out.String(), err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestGraceHasAnEnd(t *testing.T) {
	started := make(chan struct{})
	h := open(t, func(c *door.Config) {
		c.Limits.Grace = 50 * time.Millisecond
		c.Commands["forever"] = func(ctx context.Context, _ door.View, _ []string, _ door.IO) int {
			close(started)
			<-ctx.Done()
			return 0
		}
	})
	c := h.dial()
	s, _ := c.NewSession()
	if err := s.Start("forever"); err != nil {
		t.Fatal(err)
	}
	<-started
	if err := h.stop(); err != nil {
		t.Error(err)
	}
}

func TestSignalEndsACommand(t *testing.T) {
	h := openWith(t, "wait", func(ctx context.Context) { <-ctx.Done() })
	s, err := h.dial().NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("wait"); err != nil {
		t.Fatal(err)
	}
	if err := s.Signal(ssh.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.Wait(); err != nil {
		t.Error(err)
	}
}

func TestASessionDoesOneThing(t *testing.T) {
	h := open(t, nil)
	ch, reqs, err := h.dial().OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	defer ch.Close()
	ask := func(kind string, payload []byte) bool {
		ok, _ := ch.SendRequest(kind, true, payload)
		return ok
	}
	line := ssh.Marshal(struct{ S string }{"echo"})
	if ask("exec", line[:3]) {
		t.Error("a payload that ends early was accepted")
	}
	if !ask("exec", line) {
		t.Fatal("refused")
	}
	if ask("exec", line) || ask("subsystem", ssh.Marshal(struct{ S string }{"sftp"})) || ask("shell", nil) {
		t.Error("a second request was accepted")
	}
}

func sftpClient(t *testing.T, h *house) *sftp.Client {
	t.Helper()
	c, err := sftp.NewClient(h.dial())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// While somebody fetches a tree through latest, a new snapshot must not slip in between two files.
func TestLatestStaysWhatItWasWhileATreeIsFetched(t *testing.T) {
	h := open(t, nil)
	c := sftpClient(t, h)
	read := func(path string) string {
		f, err := c.Open(path)
		if err != nil {
			return err.Error()
		}
		defer f.Close()
		b, _ := io.ReadAll(f)
		return string(b)
	}
	if got := read("/web1/latest/etc/hosts"); got != "127.0.0.1 three\n" {
		t.Fatal(got)
	}
	h.vault.add("web1", "20260704T030405Z", true, web1("four"))
	if got := read("/web1/latest/etc/hosts"); got != "127.0.0.1 three\n" {
		t.Errorf("latest moved: %q", got)
	}
	if got := read("/web1/20260704T030405Z/etc/hosts"); got != "127.0.0.1 four\n" {
		t.Errorf("the new one is not seen under its name: %q", got)
	}
	if _, err := c.ReadDir("/web1"); err != nil {
		t.Fatal(err)
	}
	if got := read("/web1/latest/etc/hosts"); got != "127.0.0.1 four\n" {
		t.Errorf("latest did not move after a listing: %q", got)
	}
	if l, err := c.ReadLink("/web1/clean"); err != nil || l != "20260704T030405Z" {
		t.Errorf("%q %v", l, err)
	}
}

// The tree filters by itself, too: a view that forgets to must not open another's source.
func TestTreeShowsOwnSourcesOnlyWhateverTheViewSays(t *testing.T) {
	h := open(t, nil)
	h.stop()
	v := twoSources()
	v.add("web1", "../../etc", true, restoretest.New())
	v.add("", t1, true, restoretest.New())
	h = open(t, func(c *door.Config) { c.ViewFor = func(door.User) door.View { return v } })
	c := sftpClient(t, h)
	names, err := c.ReadDir("/")
	if err != nil || len(names) != 1 || names[0].Name() != "web1" {
		t.Errorf("%v %v", names, err)
	}
	for _, p := range []string{"/db1", "/db1/latest", "/db1/" + t1 + "/secret", "/web1/../db1/latest/secret"} {
		if _, err := c.Stat(p); err == nil {
			t.Errorf("%s is seen", p)
		}
	}
	if names, _ := c.ReadDir("/web1"); len(names) != 5 {
		t.Errorf("%v", names)
	}
}

func TestOpenHandlesAreBounded(t *testing.T) {
	h := open(t, func(c *door.Config) { c.Limits.Handles = 8 })
	c := sftpClient(t, h)
	var held []*sftp.File
	for range 8 {
		f, err := c.Open("/web1/latest/etc/hosts")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, f)
	}
	if _, err := c.Open("/web1/latest/etc/hosts"); err == nil {
		t.Error("a ninth")
	}
	if _, err := c.ReadDir("/web1/latest"); err == nil {
		t.Error("a directory as the ninth")
	}
	for _, f := range held {
		f.Close()
	}
	if _, err := c.ReadDir("/web1/latest"); err != nil {
		t.Error(err)
	}
	for range 100 { // listing gives its handle back
		if _, err := c.ReadDir("/"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTimesStayWithinWhatSFTPCanSay(t *testing.T) {
	h := open(t, nil)
	s := restoretest.New()
	s.File("old", 0o644, nil, 1).MTime = -5
	s.File("far", 0o644, nil, 1).MTime = 1 << 40
	h.vault.add("web1", "20260705T000000Z", true, s)
	c := sftpClient(t, h)
	for name, want := range map[string]int64{"old": 0, "far": 1<<32 - 1} {
		if fi, err := c.Stat("/web1/20260705T000000Z/" + name); err != nil || fi.ModTime().Unix() != want {
			t.Errorf("%s: %v %v", name, fi, err)
		}
	}
}

// A broken chunk fails the read of that file; it does not end the session, and never gives other bytes.
func TestUnreadableFileFailsOverSFTP(t *testing.T) {
	h := open(t, nil)
	s := restoretest.New()
	s.File("good", 0o644, []byte("good"), 2)
	s.Break(s.File("bad", 0o644, noise(1, 3000), 1000).Chunks[1])
	h.vault.add("web1", "20260705T000000Z", true, s)
	c := sftpClient(t, h)
	f, err := c.Open("/web1/20260705T000000Z/bad")
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 3000)
	if n, err := f.ReadAt(b[:1000], 0); n != 1000 || err != nil {
		t.Errorf("%d %v", n, err)
	}
	if _, err := f.ReadAt(b[:10], 1500); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("%v", err)
	}
	f.Close()
	if g, err := c.Open("/web1/20260705T000000Z/good"); err != nil {
		t.Error(err)
	} else {
		g.Close()
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	_, signer := key(t, t.TempDir(), "k")
	pub := []ssh.PublicKey{signer.PublicKey()}
	view := func(door.User) door.View { return &vault{} }
	for what, c := range map[string]door.Config{
		"no host key":   {ViewFor: view},
		"no view":       {HostKey: signer},
		"a shared key":  {HostKey: signer, ViewFor: view, Users: []door.User{{Name: "a", Keys: pub}, {Name: "b", Keys: pub}}},
		"a name twice":  {HostKey: signer, ViewFor: view, Users: []door.User{{Name: "a"}, {Name: "a"}}},
		"no name":       {HostKey: signer, ViewFor: view, Users: []door.User{{Keys: pub}}},
		"a weak key":    {HostKey: signer, ViewFor: view, Users: []door.User{{Name: "a", Keys: []ssh.PublicKey{weak(t)}}}},
		"a certificate": {HostKey: signer, ViewFor: view, Users: []door.User{{Name: "a", Keys: []ssh.PublicKey{&ssh.Certificate{Key: pub[0]}}}}},
	} {
		if _, err := door.New(c); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
}

func TestListenerThatBreaksIsAnError(t *testing.T) {
	_, signer := key(t, t.TempDir(), "k")
	s, err := door.New(door.Config{HostKey: signer, ViewFor: func(door.User) door.View { return &vault{} }})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := s.Serve(t.Context(), l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v", err)
	}
}

// Before anybody has said who he is, his words already reach a log.
func TestReasonsForRefusalAreSafeToShow(t *testing.T) {
	told := make(chan string, 1)
	h := open(t, func(c *door.Config) { c.Events.Refused = func(_, reason string) { told <- reason } })
	c, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "\x1b[31mHTTP \u202e%s\r\n", strings.Repeat("x", 10_000))
	reason := <-told
	for _, r := range reason {
		if r < ' ' || r == '\u202e' {
			t.Errorf("%q", reason)
			break
		}
	}
	if len(reason) > 3000 {
		t.Errorf("%d bytes", len(reason))
	}
}
