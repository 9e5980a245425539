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

// dialLink makes a connection with one channel, within the handshake's deadline. Up to so many channels follow by themselves, for 0 as many as
// the round trip wants: what can be done with the first does not wait for them, each of them costs three round trips.
func (s *Source) dialLink(ctx context.Context, channels int) (_ *link, err error) {
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
	if err := l.login(); err != nil {
		return nil, s.dialError(parent, ctx, err)
	}
	begin := time.Now()
	first, err := l.openChannel()
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
func (l *link) login() error {
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
	if n == 0 {
		_, n = Shape(l.rtt)
	}
	for range n - 1 {
		l.tasks.Go(func() {
			c, err := l.openChannel()
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
