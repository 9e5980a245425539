package remote

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

func testSigner(t *testing.T, seed byte) ssh.Signer {
	t.Helper()
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// pipeServer serves an empty SFTP tree over pipes, so that a test can run on invented time. mute answers no keepalive.
type pipeServer struct {
	config ssh.ServerConfig
	mute   bool
	mu     sync.Mutex
	open   []net.Conn
	dials  int
	refuse bool
}

func newPipeServer(t *testing.T) *pipeServer {
	p := &pipeServer{}
	p.config.PublicKeyCallback = func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return &ssh.Permissions{}, nil }
	p.config.AddHostKey(testSigner(t, 1))
	return p
}

func (p *pipeServer) dial(context.Context, string, string) (net.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dials++
	if p.refuse {
		return nil, errors.New("no route")
	}
	client, server := net.Pipe()
	p.open = append(p.open, server)
	go p.serve(server)
	return client, nil
}

func (p *pipeServer) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.open {
		c.Close()
	}
	p.open = nil
}

func (p *pipeServer) serve(c net.Conn) {
	defer c.Close()
	_, channels, requests, err := ssh.NewServerConn(c, &p.config)
	if err != nil {
		return
	}
	go func() {
		for r := range requests {
			if !p.mute {
				r.Reply(false, nil)
			}
		}
	}()
	for request := range channels {
		ch, requests, err := request.Accept()
		if err != nil {
			return
		}
		go func() {
			for r := range requests {
				r.Reply(r.Type == "subsystem", nil)
			}
		}()
		go func() {
			server := sftp.NewRequestServer(ch, sftp.InMemHandler())
			server.Serve()
			ch.Close()
		}()
	}
}

func pipeSource(t *testing.T, p *pipeServer) *Source {
	t.Helper()
	s, err := Dial(t.Context(), Config{User: "u", Host: "h", Signers: []ssh.Signer{testSigner(t, 2)}, HostKeys: []ssh.PublicKey{testSigner(t, 1).PublicKey()},
		Connections: 2, Channels: 2, Dial: p.dial})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A connection that nothing is asked of for a day stands at its end: the keepalive's answers renew its deadline.
func TestIdleConnectionLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipeServer(t)
		s := pipeSource(t, p)
		time.Sleep(24 * time.Hour)
		if st := s.Stats(); st.Lost != 0 || st.Connections != 2 || st.Channels != 4 || p.dials != 2 {
			t.Errorf("%+v", st)
		}
		if _, err := s.Lstat(t.Context(), "/"); err != nil {
			t.Error(err)
		}
		s.Close()
	})
}

// A peer that has gone without a word is noticed within OpTimeout although nothing is asked of it, and replaced.
func TestVanishedPeerIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipeServer(t)
		p.mute = true
		s := pipeSource(t, p)
		time.Sleep(DefaultLimits().OpTimeout * 2)
		if st := s.Stats(); st.Lost < 2 || p.dials < 4 {
			t.Errorf("%+v after %d dials", st, p.dials)
		}
		s.Close()
		if _, err := s.Lstat(t.Context(), "/"); !errors.Is(err, ErrLost) || !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}

// An outage of some minutes is waited for; one without end is not.
func TestOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipeServer(t)
		s := pipeSource(t, p)
		outage := func(refuse bool) {
			p.mu.Lock()
			p.refuse = refuse
			p.mu.Unlock()
			p.cut()
		}
		if _, err := s.Lstat(t.Context(), "/"); err != nil {
			t.Fatal(err)
		}
		outage(true)
		synctest.Wait()
		answer := make(chan error)
		go func() {
			_, err := s.Lstat(t.Context(), "/")
			answer <- err
		}()
		time.Sleep(time.Minute)
		outage(false)
		if err := <-answer; err != nil {
			t.Errorf("after a minute: %v", err)
		}
		outage(true)
		synctest.Wait()
		begin := time.Now()
		_, err := s.Lstat(t.Context(), "/")
		if !errors.Is(err, ErrLost) || time.Since(begin) > 10*time.Minute || time.Since(begin) < time.Minute {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
		s.Close()
	})
}

// A caller that gives up is not kept waiting by a server that does not answer, and Close waits for no answer either.
func TestCancelledOperation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipeServer(t)
		s := pipeSource(t, p)
		defer s.Close()
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("enough")
		c := s.all()[0]
		begin := time.Now()
		time.AfterFunc(time.Second, func() { cancel(why) })
		hang := make(chan struct{})
		err := c.do(ctx, "hang", "/", func() error {
			select {
			case <-hang:
			case <-c.link.dead:
			}
			return io.ErrUnexpectedEOF
		})
		if !errors.Is(err, why) || time.Since(begin) > 5*time.Second {
			t.Errorf("after %v: %v", time.Since(begin), err)
		}
	})
}

// A panic in the library is an error of the protocol.
func TestPanicIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := pipeSource(t, newPipeServer(t))
		defer s.Close()
		err := s.all()[0].do(t.Context(), "lstat", "/x", func() error {
			var info os.FileInfo
			_ = info.Name()
			return nil
		})
		var broken *ProtocolError
		if !errors.As(err, &broken) || broken.Path != "/x" {
			t.Error(err)
		}
	})
}

// Many small writes leave as few, in order and complete, and a writer waits for a slow network instead of gathering without end.
func TestWireGathersWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		w := newWire(near, time.Minute, nil)
		if err := w.establish(); err != nil {
			t.Fatal(err)
		}
		written := 0
		writer := make(chan struct{})
		go func() {
			defer close(writer)
			for range 5000 {
				n, err := w.Write(bytes.Repeat([]byte{byte(written / 1000)}, 1000))
				if err != nil {
					return
				}
				written += n
			}
		}()
		synctest.Wait()
		if written > 2*wireWriteBuffer+4000 {
			t.Errorf("%d bytes gathered for a peer that does not read", written)
		}
		buffer, got, reads := make([]byte, 1<<20), 0, 0
		for got < 5_000_000 {
			n, err := far.Read(buffer)
			if err != nil {
				t.Fatal(err)
			}
			if buffer[0] != byte(got/1000) || buffer[n-1] != byte((got+n-1)/1000) {
				t.Fatalf("out of order at %d", got)
			}
			got += n
			reads++
		}
		<-writer
		if reads > 1000 {
			t.Errorf("%d writes for 5000", reads)
		}
		// A peer that reads no more stops the writer within the deadline.
		for err := error(nil); err == nil; {
			_, err = w.Write(make([]byte, 1000))
		}
		w.Close()
		<-w.flushed
	})
}
