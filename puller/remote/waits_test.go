package remote

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

// inside dials a real sshd for a test that looks inside, and waits for so many channels.
func inside(t *testing.T, o sshdtest.Options, connections int) (*Source, []*channel) {
	t.Helper()
	server := sshdtest.Start(t, o)
	s, err := Dial(t.Context(), Config{User: server.User, Host: server.Host, Port: server.Port, Signers: []ssh.Signer{server.Signer},
		HostKeys: []ssh.PublicKey{server.HostKey}, Connections: connections, Channels: 1,
		Limits: Limits{OpTimeout: 20 * time.Second, HandshakeTimeout: 20 * time.Second, RedialWait: 20 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	for {
		changed := s.changes()
		if all := s.all(); len(all) == connections {
			return s, all
		}
		select {
		case <-changed:
		case <-t.Context().Done():
			t.Fatal("no connection")
		}
	}
}

// lateOut takes nothing before it is let.
type lateOut struct {
	bytes.Buffer
	let <-chan struct{}
}

func (w *lateOut) Write(p []byte) (int, error) {
	<-w.let
	return w.Buffer.Write(p)
}

// Two large files are read on a server that allows one open file on each channel, each on a channel that the other one wants as well: a file that waits
// for a handle which it can do without, and keeps its own meanwhile, waits for ever.
func TestTwoLargeFilesWaitForEachOther(t *testing.T) {
	s, channels := inside(t, sshdtest.Options{}, 2)
	content := make([]byte, 3*largeFile)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	let := make(chan struct{})
	var both sync.WaitGroup
	var begin []func()
	for i, c := range channels {
		c.slots.max = 1 // as was learned from earlier files
		path := filepath.Join(t.TempDir(), "large")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		packet, err := c.packet(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		first, err := c.open(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		begin = append(begin, func() {
			defer first.close()
			out := &lateOut{let: let}
			r := &reading{source: s, path: path, want: Attr{Kind: File, Size: uint64(len(content))}, out: out}
			if read, err := r.large(ctx, first, packet); err != nil || read.N != uint64(len(content)) || !bytes.Equal(out.Bytes(), content) {
				t.Errorf("file %d: %d bytes, %v", i, read.N, err)
			}
		})
	}
	for _, f := range begin {
		both.Go(f)
	}
	// Nothing is written before each has asked for all that it may, and for a handle on the other's channel.
	for tick, idle := time.Tick(time.Millisecond), 0; idle < 50; <-tick {
		if idle++; channels[0].busy.Load()+channels[1].busy.Load() > 0 {
			idle = 0
		}
	}
	close(let)
	both.Wait()
	if ctx.Err() != nil {
		t.Error("they waited for each other")
	}
}

// lengths notes how many bytes each READ asks for.
type lengths struct {
	io.WriteCloser
	mu    sync.Mutex
	asked []uint32
}

func (l *lengths) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := p; len(rest) >= 9; rest = rest[4+binary.BigEndian.Uint32(rest):] {
		if n := binary.BigEndian.Uint32(rest); rest[4] == packetRead {
			l.asked = append(l.asked, binary.BigEndian.Uint32(rest[n:]))
		}
	}
	return l.WriteCloser.Write(p)
}

// The sftp-server of OpenSSH 9.2 gives a longer READ a new buffer and keeps the old one: asked for ever longer files it would grow by each of them, on the
// source. So the first READ of a channel is the longest, however small the file.
func TestReadsOfAChannelGrowLonger(t *testing.T) {
	s, channels := inside(t, sshdtest.Options{}, 1)
	c, dir := channels[0], t.TempDir()
	l := &lengths{WriteCloser: c.stream.out}
	c.stream.writing.Lock()
	c.stream.out = l
	c.stream.writing.Unlock()
	for _, n := range []int{5, 3000, 40 << 10, 90 << 10, 200 << 10, 600 << 10} {
		path := filepath.Join(dir, "file")
		if err := os.WriteFile(path, make([]byte, n), 0o600); err != nil {
			t.Fatal(err)
		}
		attr, err := s.Lstat(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if read, err := s.ReadFile(t.Context(), path, attr, 0, io.Discard); err != nil || read.Changed {
			t.Fatalf("%d bytes: %+v, %v", n, read, err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.asked) < 6 {
		t.Fatalf("READ of %v bytes", l.asked)
	}
	for i, n := range l.asked {
		if n > l.asked[0] {
			t.Errorf("READ %d is longer than the first: %v", i, l.asked)
		}
	}
}

// held is an answer that takes n bytes of the memory for answers until it is dropped.
func held(t *testing.T, u *unread, n int) answer {
	t.Helper()
	if !u.take(n, nil) {
		t.Fatal("no room")
	}
	return answer{release: sync.OnceFunc(func() { u.give(n) })}
}

// Answers that came and that nobody wants any more, since their connection ended, give their memory back: it is the Source's, whose other connections could
// take no listing at last.
func TestMemoryOfUnwantedAnswersIsNeverGivenBack(t *testing.T) {
	s, channels := inside(t, sshdtest.Options{}, 1)
	c := channels[0]
	c.link.kill(errEnded)

	asked := &readdirs{answers: make(chan answer, readdirsMax+1), out: 2}
	asked.answers <- held(t, s.unread, 100_000)
	asked.answers <- held(t, s.unread, 100_000)
	l := &listing{source: s, channel: c, path: "/"}
	if _, err := l.turn(t.Context(), asked, 4, 2); err == nil {
		t.Error("a listing went on")
	}

	b := &burst{done: make(chan struct{})}
	b.calls[partClose] = call{answer: make(chan answer, 1)}
	h := &handle{channel: c, raw: "h", path: "/file"}
	if _, err := c.slots.take(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	c.slots.opened()
	h.closed(b)
	b.calls[partClose].answer <- held(t, s.unread, 100_000)

	// The file's attributes came, and its content never did.
	b = &burst{done: make(chan struct{})}
	b.calls[partClose] = call{answer: make(chan answer, 1)}
	fstat := held(t, s.unread, 100_000)
	b.answers[partStat] = fstat
	b.answers[partRead] = answer{err: errEnded}
	if _, _, _, err := b.taken(); err == nil {
		t.Error("a file was read")
	}

	s.Close() // which waits for all that was begun
	if s.unread.left != unreadMax {
		t.Errorf("%d bytes were never given back", unreadMax-s.unread.left)
	}
}
