package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// link is one SSH connection and the SFTP channels on it. They live and die together: a channel that ends, breaks the protocol or stalls
// takes its connection with it, since closing the socket is the only way to free a request that is never answered.
type link struct {
	source   *Source
	wire     *wire
	client   *ssh.Client
	channels []*channel
	hostKey  ssh.PublicKey
	rtt      time.Duration // of one SFTP request
	packet   int           // bytes of the largest READ
	worked   atomic.Bool   // an operation has succeeded on it

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
	for _, c := range l.channels {
		c.sftp.Close()
		// pkg/sftp may have stopped reading while a listing of ours waits for its answer on the same stream.
		c.stream.end(l.cause)
	}
	l.tasks.Wait()
	<-l.wire.flushed
}

// dialLink makes a connection with up to so many channels, all of it within the handshake's deadline. One channel is enough; for 0 the
// round trip says how many.
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
	l := &link{source: s, wire: newWire(conn, limits.OpTimeout, s.config.Limiter), dead: make(chan struct{})}
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
	if err := l.openChannels(channels); err != nil {
		return nil, s.dialError(parent, ctx, err)
	}
	if !stop() {
		return nil, s.dialError(parent, ctx, context.Cause(ctx))
	}
	if err := l.wire.establish(); err != nil {
		return nil, s.dialError(parent, ctx, err)
	}
	l.watchOver()
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

// openChannels opens the first channel, which must succeed, and then the others at once, of which each may be refused.
func (l *link) openChannels(n int) error {
	first, err := l.openChannel()
	if err != nil {
		return err
	}
	l.channels = []*channel{first}
	if err := l.measure(first); err != nil {
		return err
	}
	if n == 0 {
		_, n = Shape(l.rtt)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range n - 1 {
		wg.Go(func() {
			c, err := l.openChannel()
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				l.channels = append(l.channels, c)
			} else if ev := l.source.config.Events.Refused; ev != nil {
				ev("channel", err)
			}
		})
	}
	wg.Wait()
	return nil
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
