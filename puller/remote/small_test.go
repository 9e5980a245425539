package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/holdfast-vault/holdfast/puller/hostile"
	"github.com/holdfast-vault/holdfast/puller/remote"
	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

// One more request a file is a hundred thousand more for a hundred thousand files: OPEN, READ, FSTAT and CLOSE are enough, and on a channel that
// has read nothing yet too.
func TestASmallFileCostsMoreThanFourRequests(t *testing.T) {
	addr, key, server := hostile.Serve(t, hostile.Behaviour{Name: "honest"})
	config := hostileConfig(addr, key)
	config.Connections, config.Channels = 1, 1
	config.Limits.OpTimeout = 10 * time.Second
	s := dial(t, config)
	s.RTT() // the server has been asked for its limits
	for path, want := range hostile.HonestFiles() {
		if len(want) == 0 || len(want) > 255<<10 {
			continue
		}
		before := server.Requests()
		var got bytes.Buffer
		read, err := s.ReadFile(t.Context(), path, remote.Attr{Kind: remote.File, Size: uint64(len(want)), MTime: 1_600_000_000}, 0, &got)
		if err != nil || read.Changed || !bytes.Equal(got.Bytes(), want) {
			t.Fatalf("%q: %+v %v", path, read, err)
		}
		// This one is answered behind CLOSE, which nobody waited for.
		if _, err := s.Lstat(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		if n := server.Requests() - before - 1; n != 4 {
			t.Errorf("%q cost %d requests", path, n)
		}
	}
}

// A server whose answers are short is asked for the rest, and after a few files no longer in bursts that it cannot serve: what a file costs
// then is one attempt, not two.
func TestShortAnswersAreReadTwiceForEver(t *testing.T) {
	addr, key, server := hostile.Serve(t, behaviour(t, "read-halves"))
	config := hostileConfig(addr, key)
	config.Connections, config.Channels = 1, 1
	config.Limits.OpTimeout = 10 * time.Second
	s := dial(t, config)
	attr := remote.Attr{Kind: remote.File, Size: 1000, MTime: 1_600_000_000}
	cost := func() int {
		before := server.Requests()
		var got bytes.Buffer
		read, err := s.ReadFile(t.Context(), hostile.Evil+"/file", attr, 0, &got)
		if err != nil || read.Changed || read.N != 1000 || got.Len() != 1000 {
			t.Fatalf("%+v %v", read, err)
		}
		if _, err := s.Lstat(t.Context(), hostile.Evil+"/file"); err != nil {
			t.Fatal(err)
		}
		return server.Requests() - before
	}
	cost() // the first READ of a channel is a large one, of which the half is enough
	first := cost()
	for range 10 {
		cost()
	}
	if last := cost(); last >= first {
		t.Errorf("the second file cost %d requests, the last %d", first, last)
	}
}

// far puts a long line before a server.
func far(config remote.Config, trip time.Duration) remote.Config {
	config.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		there, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		here, end := net.Pipe()
		go carry(there, end, trip/2)
		go carry(end, there, trip/2)
		return here, nil
	}
	return config
}

// carry moves what comes, so much later, until either side ends.
func carry(to, from net.Conn, late time.Duration) {
	type piece struct {
		data []byte
		due  time.Time
	}
	under := make(chan piece, 4096)
	go func() {
		defer close(under)
		for {
			b := make([]byte, 32<<10)
			n, err := from.Read(b)
			if err != nil {
				return
			}
			under <- piece{b[:n], time.Now().Add(late)}
		}
	}()
	for p := range under {
		<-time.After(time.Until(p.due))
		if _, err := to.Write(p.data); err != nil {
			break
		}
	}
	to.Close()
	from.Close()
	for range under { // until the reader has seen it
	}
}

// Over a long line everything is there as over a short one, on all connections that it wants, which were begun before the first one stood.
func TestLongLine(t *testing.T) {
	server := sshdtest.Start(t, sshdtest.Options{})
	dir := t.TempDir()
	var sizes []int
	for i := range 60 {
		sizes = append(sizes, 1+i*i*40)
	}
	sizes = append(sizes, 12<<20+5)
	for _, n := range sizes {
		write(t, filepath.Join(dir, fmt.Sprint("size", n)), noise(n))
	}
	var mu sync.Mutex
	connected := make(chan struct{}, 100)
	var refused []error
	config := far(configFor(server), 60*time.Millisecond)
	config.Events.Connected = func(int) { connected <- struct{}{} }
	config.Events.Refused = func(what string, err error) {
		mu.Lock()
		defer mu.Unlock()
		refused = append(refused, fmt.Errorf("%s: %w", what, err))
	}
	s := dial(t, config)
	entries, problems, err := s.ReadDir(t.Context(), dir)
	if err != nil || len(problems) > 0 || len(entries) != len(sizes) {
		t.Fatalf("%d entries, %v %v", len(entries), problems, err)
	}
	var all sync.WaitGroup
	for _, e := range entries {
		all.Go(func() {
			var got bytes.Buffer
			read, err := s.ReadFile(t.Context(), remote.Join(dir, e.Name), e.Attr, 0, &got)
			if err != nil || read.Changed || !bytes.Equal(got.Bytes(), noise(int(e.Size))) {
				t.Errorf("%q: %+v %v", e.Name, read, err)
			}
		})
	}
	all.Wait()
	for range 4 {
		select {
		case <-connected:
		case <-time.After(20 * time.Second):
			t.Fatalf("only %d connections: %v", s.Stats().Connections, refused)
		}
	}
	if st := s.Stats(); st.Dials != 4 || st.Lost != 0 || len(refused) > 0 {
		t.Errorf("%+v, refused %v", st, refused)
	}
}

// Servers count logins that fail and lock out whoever has many: where our key is not welcome, one try is one failed login, however many connections a
// long line wants.
func TestAnUnwelcomeKeyIsTriedOnEveryConnection(t *testing.T) {
	server := sshdtest.Start(t, sshdtest.Options{})
	other := sshdtest.Start(t, sshdtest.Options{})
	config := far(configFor(server), 60*time.Millisecond)
	config.Signers = []ssh.Signer{other.Signer}
	if _, err := remote.Dial(t.Context(), config); !errors.Is(err, remote.ErrAuth) {
		t.Fatal(err)
	}
	if n := strings.Count(server.Log(), "Connection closed by authenticating user"); n > 1 {
		t.Errorf("%d failed logins:\n%s", n, server.Log())
	}
}

// A host without an SFTP server is told of as such over a long line too, where its answer to that is not waited for at first.
func TestNoSubsystemOverALongLine(t *testing.T) {
	server := sshdtest.Start(t, sshdtest.Options{Subsystem: "/bin/false"})
	config := far(configFor(server), 60*time.Millisecond)
	config.Limits.HandshakeTimeout = 6 * time.Second
	_, err := remote.Dial(t.Context(), config)
	if err == nil || !strings.Contains(err.Error(), "Subsystem sftp") {
		t.Errorf("%v", err)
	}

	addr, key, _ := hostile.Serve(t, behaviour(t, "subsystem-refused"))
	config = far(hostileConfig(addr, key), 60*time.Millisecond)
	config.Limits.HandshakeTimeout = 6 * time.Second
	if _, err := remote.Dial(t.Context(), config); err == nil || !strings.Contains(err.Error(), "no sftp subsystem") {
		t.Errorf("%v", err)
	}
}

func behaviour(t *testing.T, name string) hostile.Behaviour {
	t.Helper()
	for _, b := range hostile.Behaviours() {
		if b.Name == name {
			return b
		}
	}
	t.Fatalf("no behaviour %q", name)
	return hostile.Behaviour{}
}

// BenchmarkSmallFiles reads files of 4 KB from a real sshd on the loopback, 64 at once.
func BenchmarkSmallFiles(b *testing.B) {
	server := sshdtest.Start(b, sshdtest.Options{})
	config := configFor(server)
	s, err := remote.Dial(b.Context(), config)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	path := server.IdentityFile
	attr, err := s.Lstat(b.Context(), path)
	if err != nil {
		b.Fatal(err)
	}
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if read, err := s.ReadFile(b.Context(), path, attr, 0, io.Discard); err != nil || read.Changed {
				b.Error(read, err)
			}
		}
	})
}
