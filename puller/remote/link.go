package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// link is one SSH connection and the SFTP channels on it. They live and die together: a channel that ends, breaks the protocol or stalls
// takes its connection with it, since closing the socket is the only way to free a request that is never answered.
type link struct {
	source  *Source
	wire    *wire
	client  *ssh.Client
	hostKey ssh.PublicKey
	worked  atomic.Bool // an operation has succeeded on it

	channels atomic.Pointer[[]*channel] // one from the start, the others follow; what it points to is not changed
	adding   sync.Mutex                 // held while channels is replaced
	ended    bool                       // guarded by adding: wait has taken the channels, no further one may come

	estimate time.Duration // of a round trip, from the key exchange
	proved   bool          // by the host, of its key, once
	settled  bool          // the further channels are being opened; set before the first stands
	greeting time.Duration // a third of the three round trips of the first channel: the server's start makes it too long, if anything
	measured chan struct{} // closed when the server has told its limits; before that the two below may not be read
	rtt      time.Duration // of one SFTP request
	packet   int           // bytes of the largest READ

	dead  chan struct{} // closed by kill
	once  sync.Once
	cause error          // set before dead is closed
	tasks sync.WaitGroup // everything that must end after kill
}

// errEnded is the reason of a connection that ended without one.
var errEnded = errors.New("the server ended it")

// kill ends the connection for a reason; only the first reason counts. It does not wait.
func (l *link) kill(cause error) {
	l.once.Do(func() {
		l.cause = cause
		close(l.dead)
		l.wire.Close()
	})
}

// down says why the connection ended, nil while it lives.
func (l *link) down() error {
	select {
	case <-l.dead:
		return l.cause
	default:
		return nil
	}
}

// wait returns when every goroutine of a killed link has ended. Each of them waits for nothing but the closed socket.
func (l *link) wait() {
	if l.client != nil {
		l.client.Wait()
	}
	l.adding.Lock()
	l.ended = true
	l.adding.Unlock()
	for _, c := range l.list() {
		c.shut()
	}
	l.tasks.Wait()
	<-l.wire.flushed
}

// list is the channels that are open so far.
func (l *link) list() []*channel {
	if p := l.channels.Load(); p != nil {
		return *p
	}
	return nil
}

// take puts a channel into service. One that comes when the link has ended is shut.
func (l *link) take(c *channel) {
	l.adding.Lock()
	ended := l.ended
	if !ended {
		list := append(slices.Clone(l.list()), c)
		l.channels.Store(&list)
	}
	l.adding.Unlock()
	if ended {
		c.shut()
	}
}

// trip is the round trip of a request. It waits until that is known, and makes do with what the greeting took when it will not be.
func (l *link) trip() time.Duration {
	select {
	case <-l.measured:
		return l.rtt
	default:
	}
	select {
	case <-l.measured:
		return l.rtt
	case <-l.dead:
		return l.greeting
	}
}

// opening is how a connection is made beside others.
type opening struct {
	known func(trip time.Duration) // told about how long a round trip takes, as soon as the host has proved who it is; may be nil
	admit <-chan struct{}          // logging in waits until it is closed; nil for no waiting
}

// dialLink makes a connection with one channel, within the handshake's deadline. Up to so many channels follow by themselves, for 0 as many as
// the round trip wants: what can be done with the first does not wait for them, each of them costs three round trips.
func (s *Source) dialLink(ctx context.Context, channels int, o opening) (_ *link, err error) {
	limits := s.config.Limits
	parent := ctx
	ctx, cancel := context.WithTimeout(ctx, limits.HandshakeTimeout)
	defer cancel()
	s.dials.Add(1)
	conn, err := s.config.Dial(ctx, "tcp", s.config.addr())
	if err != nil {
		return nil, fmt.Errorf("%w: dial %q: %w", ErrLost, s.config.addr(), err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		// A little later than the context, which knows better what to say.
		if err := conn.SetDeadline(deadline.Add(time.Second)); err != nil {
			conn.Close()
			return nil, fmt.Errorf("%w: dial %q: %w", ErrLost, s.config.addr(), err)
		}
	}
	l := &link{source: s, wire: newWire(conn, limits.OpTimeout, s.config.Limiter), dead: make(chan struct{}), measured: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { l.kill(context.Cause(ctx)) })
	defer stop()
	defer func() {
		if err != nil {
			l.kill(err)
			l.wait()
		}
	}()
	if err := l.login(o); err != nil {
		return nil, s.dialError(parent, ctx, err)
	}
	begin := time.Now()
	first, err := l.firstChannel(channels)
	if err != nil {
		return nil, s.dialError(parent, ctx, err)
	}
	l.greeting = time.Since(begin) / 3
	l.take(first)
	if !stop() {
		return nil, s.dialError(parent, ctx, context.Cause(ctx))
	}
	if err := l.wire.establish(); err != nil {
		return nil, s.dialError(parent, ctx, err)
	}
	l.watchOver()
	l.tasks.Go(func() { l.settle(first, channels) })
	return l, nil
}

// login is the SSH handshake.
func (l *link) login(o opening) error {
	c := l.source.config
	p := pins{addr: c.addr(), keys: c.HostKeys, authorities: c.HostAuthorities}
	var refused error // the library wraps the callback's error as text only
	conn, chans, requests, err := ssh.NewClientConn(l.wire, c.addr(), &ssh.ClientConfig{
		User:              c.User,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(c.Signers...)},
		HostKeyAlgorithms: p.algorithms(),
		HostKeyCallback: func(hostname string, remote net.Addr, key ssh.PublicKey) error {
			refused = p.check(hostname, remote, key)
			l.hostKey = key
			if refused == nil {
				refused = l.trusted(o)
			}
			return refused
		},
		ClientVersion: "SSH-2.0-Holdfast",
	})
	if refused != nil {
		return refused
	}
	if err != nil {
		return err
	}
	l.client = ssh.NewClient(conn, chans, requests)
	return nil
}

// trusted is reached when the host has proved who it is, by the answer to our half of the key exchange: a round trip and little else. Logging in may
// have to wait for another connection's: where our key is not welcome, one failed login is enough.
func (l *link) trusted(o opening) error {
	if l.proved {
		return nil // keys are being changed
	}
	l.proved = true
	l.estimate = time.Duration(l.wire.gap.Load())
	if o.known != nil {
		o.known(l.estimate)
	}
	if o.admit == nil {
		return nil
	}
	select {
	case <-o.admit:
		return nil
	case <-l.dead:
		return l.cause
	}
}

// firstChannel opens the channel that a connection stands with. On a long line it asks for the subsystem and goes on at once, and the further channels are
// opened beside it: that saves a round trip and three. A server that takes a request without an answer in the wrong way is asked again, properly.
func (l *link) firstChannel(channels int) (*channel, error) {
	if l.estimate < longTrip {
		return l.openChannel(false, nil)
	}
	if channels == 0 {
		_, channels = Shape(l.estimate)
	}
	others := sync.OnceFunc(func() { // when the first has its session, lest another takes the only one there is
		l.settled = true
		l.openOthers(channels - 1)
	})
	if !strings.HasPrefix(string(l.client.ServerVersion()), "SSH-2.0-OpenSSH") {
		return l.openChannel(false, others)
	}
	c, err := l.openChannel(true, others)
	if errors.Is(err, errHasty) {
		return l.openChannel(false, others)
	}
	return c, err
}

// dialError names what went wrong while connecting.
func (s *Source) dialError(parent, ctx context.Context, err error) error {
	addr := s.config.addr()
	var hostKey *HostKeyError
	var protocol *ProtocolError
	var negotiation *ssh.AlgorithmNegotiationError
	switch {
	case errors.As(err, &hostKey):
		return hostKey
	case errors.As(err, &protocol):
		return protocol
	case errors.As(err, &negotiation) && negotiation.What == "host key":
		return (pins{addr: addr, keys: s.config.HostKeys, authorities: s.config.HostAuthorities}).refuse("")
	case errors.As(err, &negotiation):
		return fmt.Errorf("connect to %q: %s", addr, plain(err))
	case parent.Err() != nil:
		return context.Cause(parent)
	case ctx.Err() != nil:
		return fmt.Errorf("connect to %q: not ready within %v: %w", addr, s.config.Limits.HandshakeTimeout, ErrStalled)
	case strings.Contains(err.Error(), "unable to authenticate"):
		return fmt.Errorf("log in to %q as %q: %w", addr, s.config.User, ErrAuth)
	}
	return fmt.Errorf("connect to %q: %w: %s", addr, ErrLost, plain(err))
}

// settle asks the server for its limits and then opens the other channels at once, each of which may be refused. A server that leaves one without an
// answer is used with those that it gave: the open request ends with the connection.
func (l *link) settle(first *channel, n int) {
	if err := l.measure(first); err != nil {
		l.kill(err)
		return
	}
	if l.settled {
		return
	}
	if n == 0 {
		_, n = Shape(l.rtt)
	}
	l.openOthers(n - 1)
}

// openOthers opens so many channels at once and takes into service what comes of it.
func (l *link) openOthers(n int) {
	for range n {
		l.tasks.Go(func() {
			c, err := l.openChannel(false, nil)
			if err == nil {
				l.take(c)
				l.source.announce()
			} else if ev := l.source.config.Events.Refused; ev != nil && l.down() == nil {
				ev("channel", err)
			}
		})
	}
}

// watchOver starts what a standing connection needs: a keepalive, and someone who notices its end.
func (l *link) watchOver() {
	l.tasks.Go(func() {
		err := l.client.Wait()
		if err == nil || errors.Is(err, io.EOF) {
			err = errEnded
		}
		l.kill(err)
	})
	l.tasks.Go(l.keepAlive)
}

// keepAlive asks for an answer three times within the wire's patience. A server that gives none lets the read deadline pass.
func (l *link) keepAlive() {
	tick := time.NewTicker(l.source.config.Limits.OpTimeout / 3)
	defer tick.Stop()
	for {
		select {
		case <-l.dead:
			return
		case <-tick.C:
			if _, _, err := l.client.SendRequest("keepalive@openssh.com", true, nil); err != nil {
				return
			}
		}
	}
}
