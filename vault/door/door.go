// Package door is the SSH server through which people and the local command line reach what the vault holds, and only
// to read it.
//
// A connection is let in by a public key or, on the unix socket, by the credentials of the process at the other end. It
// may then open sessions, and in a session do one of two things: speak SFTP with a read-only tree, or run one command
// of a fixed list. Everything else that SSH knows is refused: shells, terminals, environment, forwarding of ports,
// agents, sockets and X11. No word of a request reaches a process, a shell or a local path.
//
// The tree is /SOURCE/TIME/..., with /SOURCE/latest and /SOURCE/clean as links to the newest committed and the newest
// clean snapshot.
package door

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/holdfast-vault/holdfast/vault/restore"
)

// Info is what the tree needs to know of a snapshot.
type Info struct {
	ID        string // 64 hex digits
	Source    string
	Label     string    // TIME, unique in its source, later ones greater: 20260701T030405Z
	Committed time.Time // shown as the mtime of the snapshot's directory
	Complete  bool
	Clean     bool
}

// View is the vault as one user sees it. Both methods are safe for concurrent use. Whoever makes it has already left
// out what the user may not see; the tree filters by User.Sources once more.
type View interface {
	Snapshots(ctx context.Context) ([]Info, error)
	Open(ctx context.Context, id string) (restore.Source, error)
}

// IO is what a command reads and writes. In ends when the client says so or goes away; writing to Out or Err fails once
// the client is gone. Out is buffered until the command returns.
type IO struct {
	In       io.Reader
	Out, Err io.Writer
}

// Command runs one verb and returns the exit code. args[0] is the verb. ctx ends when the client goes away, sends a
// signal, or the server stops; the command must return soon after. The command may type-assert v to what ViewFor
// returns.
type Command func(ctx context.Context, v View, args []string, io IO) int

// AllSources in User.Sources stands for every source.
const AllSources = "*"

// User is one person or program with its keys. Name and Role are passed on to ViewFor and to the events.
type User struct {
	Name    string
	Keys    []ssh.PublicKey
	Sources []string // names of sources, or AllSources
	Role    string
}

// Sees reports whether the user may see the source of that name.
func (u User) Sees(source string) bool {
	return slices.Contains(u.Sources, source) || slices.Contains(u.Sources, AllSources)
}

// Access is one command or SFTP session that has ended.
type Access struct {
	User, Remote string
	Verb         string   // "sftp" for a session of that kind
	Args         []string // with the verb; nil for sftp
	Exit         int
	Bytes        uint64 // sent to the client
}

// Events are told what happens; any may be nil. They are called from many goroutines at once. Texts are safe to show:
// words of a client are quoted in them. Only Access.Verb and Access.Args are as they came.
type Events struct {
	Refused func(remote, reason string)            // a connection that was not let in
	Login   func(user, remote, fingerprint string) // one that was
	Denied  func(user, remote, what string)        // something a user asked for that the door does not do
	Access  func(Access)
	Trouble func(error) // of the listener itself
}

// Limits bound what clients can cost. Zero fields mean the default.
type Limits struct {
	HalfOpen       int           // connections that have not authenticated yet; default 256
	Connections    int           // authenticated connections; default 128
	PerUser        int           // of them, of one user; default 32
	Sessions       int           // sessions of one connection at a time; default 10
	Handles        int           // open files and directories of one SFTP session; default 256
	CommandBytes   int           // length of a command line; default 32 KiB
	AuthTries      int           // keys offered on one connection; default 6
	Handshake      time.Duration // from connecting to being let in, and from opening a session to asking for something; default 20 s
	Idle           time.Duration // a connection without any session; also how long a client may leave a keepalive unanswered; default 3 min
	Grace          time.Duration // for running sessions when the server stops; default 10 s
	acceptRetryMax time.Duration
}

func (l Limits) withDefaults() Limits {
	set := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	wait := func(v *time.Duration, d time.Duration) {
		if *v <= 0 {
			*v = d
		}
	}
	set(&l.HalfOpen, 256)
	set(&l.Connections, 128)
	set(&l.PerUser, 32)
	set(&l.Sessions, 10)
	set(&l.Handles, 256)
	set(&l.CommandBytes, 32<<10)
	set(&l.AuthTries, 6)
	wait(&l.Handshake, 20*time.Second)
	wait(&l.Idle, 3*time.Minute)
	wait(&l.Grace, 10*time.Second)
	wait(&l.acceptRetryMax, time.Second)
	return l
}

// Config is everything a Server needs.
type Config struct {
	HostKey  ssh.Signer
	Users    []User
	Commands map[string]Command // by verb, for everybody
	// ByRole are more of them for users of a role; they win over Commands.
	ByRole  map[string]map[string]Command
	Local   map[string]Command // more of them for the unix socket's peer; they win over Commands
	ViewFor func(User) View
	Limits  Limits
	Events  Events
}

// Server serves any number of listeners.
type Server struct {
	cfg   Config
	byKey map[string]*User // by the wire form of the key
	names map[string]*User
}

// New checks the configuration. A key is the identity of its user, whatever login name a client gives; so the same key
// for two users is an error.
func New(cfg Config) (*Server, error) {
	if cfg.HostKey == nil {
		return nil, errors.New("door: no host key")
	}
	if cfg.ViewFor == nil {
		return nil, errors.New("door: no view")
	}
	cfg.Limits = cfg.Limits.withDefaults()
	s := &Server{cfg: cfg, byKey: map[string]*User{}, names: map[string]*User{}}
	for i := range cfg.Users {
		if err := s.addUser(&cfg.Users[i]); err != nil {
			return nil, fmt.Errorf("door: %w", err)
		}
	}
	return s, nil
}

func (s *Server) addUser(u *User) error {
	if u.Name == "" {
		return errors.New("a user without a name")
	}
	if s.names[u.Name] != nil {
		return fmt.Errorf("user %q is there twice", u.Name)
	}
	s.names[u.Name] = u
	for _, k := range u.Keys {
		if err := strong(k); err != nil {
			return fmt.Errorf("user %q: %w", u.Name, err)
		}
		wire := string(k.Marshal())
		if other := s.byKey[wire]; other != nil {
			return fmt.Errorf("key %s belongs to both %q and %q", ssh.FingerprintSHA256(k), other.Name, u.Name)
		}
		s.byKey[wire] = u
	}
	return nil
}

// strong refuses keys that can be broken or that say more than who somebody is.
func strong(k ssh.PublicKey) error {
	if _, ok := k.(*ssh.Certificate); ok {
		return errors.New("certificates are not accepted: give the key itself")
	}
	if k.Type() == "ssh-dss" {
		return errors.New("DSA keys are not accepted: make an ed25519 key")
	}
	if c, ok := k.(ssh.CryptoPublicKey); ok {
		if r, ok := c.CryptoPublicKey().(*rsa.PublicKey); ok && r.N.BitLen() < 2048 {
			return fmt.Errorf("an RSA key of %d bits is too short: make an ed25519 key", r.N.BitLen())
		}
	}
	return nil
}
