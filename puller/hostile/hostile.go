// Package hostile is an SFTP server that misbehaves on purpose, one behaviour a row, for tests only.
//
// Every server offers the tree below Root: an honest part, which it serves correctly in every row that lets a connection stand, and an
// evil part, on which the behaviour acts. It speaks raw packets over x/crypto/ssh, so that it can say what no library would.
package hostile

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"
)

// Outcome says what a good client can make of a behaviour.
type Outcome int

const (
	// Whole: odd and allowed. Everything that the tree offers can be pulled.
	Whole Outcome = iota
	// Partial: the honest tree can be pulled, and something of the evil one cannot: a pull that calls itself complete has been fooled.
	Partial
	// Lost: no connection lives long enough. The pull fails or keeps what it had.
	Lost
)

func (o Outcome) String() string { return [...]string{"whole", "partial", "lost"}[o] }

// Behaviour is one way to be hostile. What is not set is done honestly.
type Behaviour struct {
	Name    string // stable, fit for a subtest
	Does    string // one sentence, the server being its subject
	Outcome Outcome

	// raw has the TCP connection before SSH; true: it has dealt with it.
	raw func(c *conn) bool
	// wrap puts something between TCP and SSH.
	wrap func(c net.Conn) net.Conn
	// ssh changes the SSH configuration.
	ssh func(c *conn, config *ssh.ServerConfig)
	// standing runs beside a connection that is logged in.
	standing func(c *conn)
	// open decides about a channel; true: it has dealt with it. number counts from 1 on each connection.
	open func(c *conn, number int, request ssh.NewChannel) bool
	// request decides about a channel request.
	request func(c *conn, ch ssh.Channel, r *ssh.Request) bool
	// mute leaves global requests unanswered.
	mute bool
	// answer decides about an SFTP request; true: it has dealt with it.
	answer func(s *session, r request) bool
	// grow changes the tree before it is served.
	grow func(t *tree)
}

// Server is a running hostile server.
type Server struct {
	Addr    string
	HostKey ssh.PublicKey

	listener net.Listener
	signer   ssh.Signer
	work     sync.WaitGroup
	quit     chan struct{}
	tree     *tree
	number   atomic.Int64 // connections accepted
	requests atomic.Int64 // SFTP requests received

	mu        sync.Mutex // guards what follows
	behaviour Behaviour
	open      map[net.Conn]bool
	closed    bool
}

// Serve starts a server on the loopback that behaves as told until the test ends, or until Close. It lets any key of any user in.
func Serve(t testing.TB, b Behaviour) (addr string, hostKey ssh.PublicKey, server *Server) {
	t.Helper()
	s, err := newServer(b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s.Addr, s.HostKey, s
}

func newServer(b Behaviour) (*Server, error) {
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize)))
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{Addr: l.Addr().String(), HostKey: signer.PublicKey(), listener: l, signer: signer, quit: make(chan struct{}),
		tree: newTree(), behaviour: b, open: map[net.Conn]bool{}}
	if b.grow != nil {
		b.grow(s.tree)
	}
	s.work.Go(s.accept)
	return s, nil
}

// ClientKey is a key to log in with.
func ClientKey() ssh.Signer {
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, ed25519.SeedSize)))
	if err != nil {
		panic(err) // a constant seed makes a constant key
	}
	return signer
}

// Reform makes the server honest, tree included, from now on. Present connections are cut.
func (s *Server) Reform() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.behaviour = Behaviour{Name: "reformed"}
	s.tree.replace(newTree())
	for c := range s.open {
		c.Close()
	}
}

// Close cuts everything and returns when all of the server's goroutines have ended.
func (s *Server) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	close(s.quit)
	s.listener.Close()
	for c := range s.open {
		c.Close()
	}
	s.mu.Unlock()
	s.work.Wait()
}

// Requests is how many SFTP requests have come.
func (s *Server) Requests() int { return int(s.requests.Load()) }

// Connections is how many connections were made to the server.
func (s *Server) Connections() int { return int(s.number.Load()) }

func (s *Server) accept() {
	for {
		c, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		s.work.Go(func() { s.serve(c) })
	}
}

// conn is one connection of a client.
type conn struct {
	net.Conn
	server *Server
	is     Behaviour
	number int64 // of the server's connections, from 1
	login  *ssh.ServerConn
	work   sync.WaitGroup
	gone   chan struct{} // closed when SSH has ended
}

func (s *Server) serve(raw net.Conn) {
	defer raw.Close()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.open[raw] = true
	c := &conn{Conn: raw, server: s, is: s.behaviour, number: s.number.Add(1), gone: make(chan struct{})}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.open, raw)
		s.mu.Unlock()
	}()
	if c.is.raw != nil && c.is.raw(c) {
		return
	}
	c.handshake()
}

func (c *conn) handshake() {
	var wire net.Conn = c.Conn
	if c.is.wrap != nil {
		wire = c.is.wrap(wire)
	}
	config := &ssh.ServerConfig{
		ServerVersion:     "SSH-2.0-OpenSSH_9.2 hostile", // so that a client uses all of its tricks
		PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return &ssh.Permissions{}, nil },
	}
	config.AddHostKey(c.server.signer)
	if c.is.ssh != nil {
		c.is.ssh(c, config)
	}
	login, channels, requests, err := ssh.NewServerConn(wire, config)
	if err != nil {
		return
	}
	c.login = login
	c.work.Go(func() {
		for r := range requests {
			if r.WantReply && !c.is.mute {
				r.Reply(false, nil)
			}
		}
	})
	if c.is.standing != nil {
		c.work.Go(func() { c.is.standing(c) })
	}
	number := 0
	for request := range channels {
		number++
		c.channel(number, request)
	}
	close(c.gone)
	c.work.Wait()
}

func (c *conn) channel(number int, request ssh.NewChannel) {
	if c.is.open != nil && c.is.open(c, number, request) {
		return
	}
	if request.ChannelType() != "session" {
		request.Reject(ssh.Prohibited, "no")
		return
	}
	ch, requests, err := request.Accept()
	if err != nil {
		return
	}
	c.work.Go(func() {
		for r := range requests {
			switch {
			case c.is.request != nil && c.is.request(c, ch, r):
			case r.Type == "subsystem" && string(r.Payload) == "\x00\x00\x00\x04sftp":
				r.Reply(true, nil)
				c.work.Go(func() { newSession(c, ch).run() })
			case r.WantReply:
				r.Reply(false, nil)
			}
		}
	})
}

// wait blocks until the server is closed or the client has gone: silence.
func (c *conn) wait() {
	select {
	case <-c.server.quit:
	case <-c.gone:
	}
}

// hush reads and drops what the client says until it goes, and says nothing.
func (c *conn) hush() bool {
	io.Copy(io.Discard, c.Conn)
	return true
}
