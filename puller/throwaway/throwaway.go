// Package throwaway serves one local directory, read-only, over SFTP on a loopback port from inside the process.
//
// It is the source of the demonstration and of tests: a real SSH handshake with keys made for the occasion, a real
// SFTP server, and beside them what no real server offers: counters of what was read, and means to pause it, to cut its
// connections and to refuse single files. The directory is the server's root, so that the remote path "/" is the
// directory itself; links that lead out of it can be read as links and not followed.
package throwaway

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// handshakeTimeout bounds the time that an unauthenticated connection may stay.
const handshakeTimeout = 30 * time.Second

// Options shape a server. The zero value is a server of a user named "vault" without hooks. Hooks are called
// concurrently, with the slash-separated path below the directory ("" is the directory itself); what they return is
// answered instead of the real thing (fs.ErrPermission and fs.ErrNotExist become the protocol's own codes).
type Options struct {
	User string // the only user who may come in; "vault" when empty

	OnOpen func(name string) error               // before a file is opened for reading
	OnRead func(name string, offset int64) error // before a piece of it is read
	OnList func(name string) error               // before a directory is listed
	OnStat func(name string) error               // before attributes of one name are looked up
}

// Stats counts what a server has given since it began.
type Stats struct {
	Connections int64 // authenticated connections
	Lists       int64 // directories opened
	Lookups     int64 // attributes and link targets asked for by name
	Opens       int64 // files opened
	Reads       int64 // read requests answered
	Bytes       int64 // bytes of file content served
}

// Server is a running source. Its methods are safe for concurrent use.
type Server struct {
	Addr    string        // host:port on the loopback interface
	Host    string        // the host of Addr
	Port    int           // the port of Addr
	User    string        // the user to log in as
	HostKey ssh.PublicKey // what to pin
	Signer  ssh.Signer    // the client key that is let in

	identity []byte
	options  Options
	root     *os.Root
	listener net.Listener
	running  sync.WaitGroup

	connections, lists, lookups, opens, reads, bytes atomic.Int64

	mu       sync.Mutex
	closed   bool
	live     map[net.Conn]struct{}
	gate     chan struct{} // closed while requests may pass
	cutAfter int64         // bytes left until every connection is cut; negative means never
}

// Serve starts a server of the directory dir on a free loopback port. Close ends it.
func Serve(dir string, o Options) (*Server, error) {
	if o.User == "" {
		o.User = "vault"
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("throw-away source of %q: %w", dir, err)
	}
	s := &Server{User: o.User, options: o, root: root, live: map[net.Conn]struct{}{}, gate: make(chan struct{}), cutAfter: -1}
	close(s.gate)
	config, err := s.makeKeys()
	if err == nil {
		s.listener, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		_ = root.Close()
		return nil, fmt.Errorf("throw-away source of %q: %w", dir, err)
	}
	address := s.listener.Addr().(*net.TCPAddr)
	s.Addr, s.Host, s.Port = address.String(), address.IP.String(), address.Port
	s.running.Go(func() { s.accept(config) })
	return s, nil
}

// makeKeys makes the host key and the client key and says who may come in.
func (s *Server) makeKeys() (*ssh.ServerConfig, error) {
	_, hostPrivate, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	host, err := ssh.NewSignerFromKey(hostPrivate)
	if err != nil {
		return nil, err
	}
	_, clientPrivate, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	if s.Signer, err = ssh.NewSignerFromKey(clientPrivate); err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(clientPrivate, "throw-away source")
	if err != nil {
		return nil, err
	}
	s.HostKey, s.identity = host.PublicKey(), pem.EncodeToMemory(block)
	allowed := string(s.Signer.PublicKey().Marshal())
	config := &ssh.ServerConfig{
		ServerVersion: "SSH-2.0-Holdfast_throwaway",
		PublicKeyCallback: func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if c.User() != s.User || string(key.Marshal()) != allowed {
				return nil, fmt.Errorf("user %q with this key is not let in", c.User())
			}
			return &ssh.Permissions{}, nil
		},
	}
	config.AddHostKey(host)
	return config, nil
}

// Identity is the private client key in OpenSSH's PEM form, as a file for --identity wants it.
func (s *Server) Identity() []byte { return append([]byte(nil), s.identity...) }

// HostKeyLine is the pinned key as `TYPE BASE64`, as --host-key wants it.
func (s *Server) HostKeyLine() string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.HostKey)))
}

// KnownHosts is one line of a known_hosts file for this server, with its end of line.
func (s *Server) KnownHosts() string {
	return fmt.Sprintf("[%s]:%d %s\n", s.Host, s.Port, s.HostKeyLine())
}

// URL is the address of name below the directory; "" is the directory itself.
func (s *Server) URL(name string) string {
	return fmt.Sprintf("sftp://%s@%s/%s", s.User, s.Addr, strings.TrimPrefix(name, "/"))
}

// Stats returns the counters as they stand.
func (s *Server) Stats() Stats {
	return Stats{
		Connections: s.connections.Load(), Lists: s.lists.Load(), Lookups: s.lookups.Load(),
		Opens: s.opens.Load(), Reads: s.reads.Load(), Bytes: s.bytes.Load(),
	}
}

// Pause holds back every answer from now on, as a server does that has hung, until Resume or Close.
func (s *Server) Pause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.gate:
		if !s.closed {
			s.gate = make(chan struct{})
		}
	default:
	}
}

// Resume lets the answers go on.
func (s *Server) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open()
}

// open opens the gate; s.mu is held.
func (s *Server) open() {
	select {
	case <-s.gate:
	default:
		close(s.gate)
	}
}

// Cut closes every connection that is open now; new ones are welcome.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut()
}

// cut closes the connections; s.mu is held.
func (s *Server) cut() {
	for c := range s.live {
		_ = c.Close()
	}
}

// CutAfter closes every connection, once, when n more bytes of content have been served. A negative n calls it off.
func (s *Server) CutAfter(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cutAfter = n
}

// Close stops listening, cuts every connection and returns when no goroutine of the server is left.
func (s *Server) Close() error {
	s.mu.Lock()
	again := s.closed
	s.closed = true
	s.open()
	s.cut()
	s.mu.Unlock()
	if again {
		s.running.Wait()
		return nil
	}
	err := s.listener.Close()
	s.running.Wait()
	return errors.Join(err, s.root.Close())
}

// accept takes connections until the listener is closed.
func (s *Server) accept(config *ssh.ServerConfig) {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			if s.isClosed() {
				return
			}
			time.Sleep(time.Millisecond) // out of descriptors, say: a short rest instead of a busy loop
			continue
		}
		if !s.admit(c) {
			_ = c.Close()
			return
		}
		s.running.Go(func() {
			defer s.dismiss(c)
			s.converse(c, config)
		})
	}
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// admit remembers a connection so that Cut and Close reach it; false when the server is closed.
func (s *Server) admit(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.live[c] = struct{}{}
	return true
}

func (s *Server) dismiss(c net.Conn) {
	s.mu.Lock()
	delete(s.live, c)
	s.mu.Unlock()
	_ = c.Close()
}

// served counts n bytes of content and cuts the connections where CutAfter asked for it.
func (s *Server) served(n int) {
	s.bytes.Add(int64(n))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cutAfter < 0 {
		return
	}
	if s.cutAfter -= int64(n); s.cutAfter <= 0 {
		s.cutAfter = -1
		s.cut()
	}
}

// pass waits until the gate is open; false when the connection ended first.
func (s *Server) pass(done <-chan struct{}) bool {
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	select {
	case <-gate:
		return true
	case <-done:
		return false
	}
}
