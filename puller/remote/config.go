package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"
)

// Config says how to reach a source and how far to trust it.
type Config struct {
	User, Host string
	Port       int // 0 is 22

	// Signers are tried in order. At least one is needed.
	Signers []ssh.Signer
	// HostKeys are the pinned keys: the server must show one of them. HostAuthorities are keys that may sign host certificates.
	// One of both must be given: there is no trust on first use.
	HostKeys        []ssh.PublicKey
	HostAuthorities []ssh.PublicKey

	// Connections and Channels for each of them; 0 lets the round trip decide (Shape). Fewer are used where the server refuses
	// more.
	Connections, Channels int

	Limits Limits

	// Limiter paces what arrives; nil means as fast as it comes. All connections of the Source wait at it.
	Limiter Limiter

	// Dial opens the TCP connection; nil is a net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	Events Events
}

// Limiter is a limit of bandwidth. It is used from many goroutines at once.
type Limiter interface {
	// Wait waits until so many bytes, which have arrived, may be passed on, or returns an error when ctx ends.
	Wait(ctx context.Context, bytes int) error
}

// Events are told what happens to the connections. Each func may be nil; they are called from many goroutines and must
// return at once.
type Events struct {
	Connected func(channels int)             // a connection stands, with so many channels; more may follow
	Lost      func(err error)                // a connection ended that was not ours to end
	Refused   func(what string, err error)   // the server refused a further "connection" or "channel": we go on with fewer
	Redial    func(attempt int, cause error) // a connection is dialled again
}

// Limits bound what one source may cost. A zero field takes its value from DefaultLimits.
type Limits struct {
	EntriesPerDirectory int
	Entries             int // over the life of the Source
	Depth               int // slashes in a path
	PathBytes           int
	FileBytes           int64
	Bytes               int64 // over the life of the Source

	// OpTimeout is how long one operation may go without progress, where progress means FloorBytesPerSecond on its channel. An operation that
	// is older than ten times this is stalled whatever else moves.
	OpTimeout time.Duration
	// HandshakeTimeout bounds a connection from TCP to the first SFTP answer.
	HandshakeTimeout    time.Duration
	FloorBytesPerSecond int64

	// Redials is how many dials in a row may fail, or bring a connection that does no work, before the Source gives up. RedialWait is the
	// first pause between two; it doubles up to 64 times itself.
	Redials    int
	RedialWait time.Duration

	// BufferBytes bounds the content of large files held in memory, over all of them. Every file may exceed it by one request.
	BufferBytes int64
}

// DefaultLimits are wide enough for a large machine and narrow enough to survive a hostile one.
func DefaultLimits() Limits {
	return Limits{
		EntriesPerDirectory: 2_000_000,
		Entries:             200_000_000,
		Depth:               1024,
		PathBytes:           4095, // OpenSSH drops longer ones without a word
		FileBytes:           64 << 40,
		Bytes:               512 << 40,
		OpTimeout:           60 * time.Second,
		HandshakeTimeout:    30 * time.Second,
		FloorBytesPerSecond: 1 << 10,
		Redials:             12,
		RedialWait:          500 * time.Millisecond,
		BufferBytes:         64 << 20,
	}
}

// Defaults fills the fields that are zero from DefaultLimits.
func (l Limits) Defaults() Limits {
	d := DefaultLimits()
	fill(&l.EntriesPerDirectory, d.EntriesPerDirectory)
	fill(&l.Entries, d.Entries)
	fill(&l.Depth, d.Depth)
	fill(&l.PathBytes, d.PathBytes)
	fill(&l.FileBytes, d.FileBytes)
	fill(&l.Bytes, d.Bytes)
	fill(&l.OpTimeout, d.OpTimeout)
	fill(&l.HandshakeTimeout, d.HandshakeTimeout)
	fill(&l.FloorBytesPerSecond, d.FloorBytesPerSecond)
	fill(&l.Redials, d.Redials)
	fill(&l.RedialWait, d.RedialWait)
	fill(&l.BufferBytes, d.BufferBytes)
	return l
}

func fill[T int | int64 | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// Bounds on what a configuration may ask for. OpenSSH allows 10 sessions a connection.
const (
	connectionsMax = 16
	channelsMax    = 16
	dialsAtOnce    = 4 // MaxStartups of OpenSSH begins to refuse at 10, of all clients together
)

func (c Config) check() (Config, error) {
	switch {
	case c.User == "" || c.Host == "":
		return c, errors.New("a source needs a user and a host")
	case c.Port < 0 || c.Port > 65535:
		return c, fmt.Errorf("port %d is not between 1 and 65535", c.Port)
	case len(c.Signers) == 0:
		return c, errors.New("a source needs a private key to log in with")
	case len(c.HostKeys) == 0 && len(c.HostAuthorities) == 0:
		return c, fmt.Errorf("no host key is pinned for %q: give a known_hosts file or the key itself", c.Host)
	case c.Connections < 0 || c.Connections > connectionsMax || c.Channels < 0 || c.Channels > channelsMax:
		return c, fmt.Errorf("%d connections of %d channels: at most %d of %d", c.Connections, c.Channels, connectionsMax, channelsMax)
	}
	if c.Port == 0 {
		c.Port = 22
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{}).DialContext
	}
	c.Limits = c.Limits.Defaults()
	return c, nil
}

func (c Config) addr() string { return net.JoinHostPort(c.Host, strconv.Itoa(c.Port)) }

// longTrip is the round trip from which on a line is long: what it saves to ask ahead is worth more than what that costs.
const longTrip = 20 * time.Millisecond

// Shape is the number of connections and of channels on each that a round trip wants: a channel carries 2 MiB per round trip, a
// connection is limited by one core's decryption and by the TCP window.
func Shape(rtt time.Duration) (connections, channels int) {
	switch {
	case rtt < 5*time.Millisecond:
		return 2, 1
	case rtt < 70*time.Millisecond:
		return 4, 2
	}
	return 4, 4
}
