package door

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"
)

const serverVersion = "SSH-2.0-Holdfast"

// keyUser is where the authenticated user's name stands in the Permissions that the key's callback returned. Nothing
// else is believed: a client may offer several keys and prove only one of them.
const keyUser = "holdfast-user"

// Serve accepts connections on l until ctx ends; then it accepts no more, closes idle connections, gives running sessions
// Limits.Grace, ends what is left and returns nil. l is closed when Serve returns, and all its goroutines have ended. The
// limits hold for each listener on its own: a crowd at one does not close the other.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return s.serve(ctx, l, s.admitByKey)
}

// admission lets a connection in as a user, or not. It runs under the handshake deadline.
type admission func(net.Conn) (*connection, error)

// connection is an authenticated connection.
type connection struct {
	*ssh.ServerConn
	server *Server
	raw    net.Conn
	chans  <-chan ssh.NewChannel
	reqs   <-chan *ssh.Request
	user   User
	remote string
	local  bool
}

func (s *Server) serve(ctx context.Context, l net.Listener, admit admission) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	// Sessions outlive ctx by the grace period, and no longer.
	work, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	var wg sync.WaitGroup
	g, n := &gate{max: s.cfg.Limits.HalfOpen}, &counts{}
	err := s.acceptAll(ctx, l, func(c net.Conn) {
		place := g.enter(c) // in the order of arrival: the newest is the last to make room
		wg.Go(func() {
			defer c.Close()
			if conn := s.letIn(ctx, c, admit, func() bool { return g.leave(place) }); conn != nil {
				s.attend(ctx, work, conn, n)
			}
		})
	})
	timer := time.AfterFunc(s.cfg.Limits.Grace, kill)
	defer timer.Stop()
	if err != nil {
		kill()
	}
	wg.Wait()
	return err
}

// acceptAll hands every connection to start until ctx ends.
func (s *Server) acceptAll(ctx context.Context, l net.Listener, start func(net.Conn)) error {
	wait := time.Duration(0)
	for {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				c.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("door: %w", err)
		case err != nil:
			// Out of descriptors, most likely. It passes; closing the door would not.
			s.trouble(err)
			wait = min(max(2*wait, 5*time.Millisecond), s.cfg.Limits.acceptRetryMax)
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
			continue
		}
		wait = 0
		start(c)
	}
}

// letIn runs the handshake under its deadline. leave gives the place at the gate back and says whether it was still
// ours. The result is nil for a connection that is not let in.
func (s *Server) letIn(ctx context.Context, c net.Conn, admit admission, leave func() bool) *connection {
	unwatch := context.AfterFunc(ctx, func() { c.Close() }) // nobody is let in once the server stops
	c.SetDeadline(time.Now().Add(s.cfg.Limits.Handshake))
	conn, err := admit(c)
	stayed := leave()
	switch running := unwatch(); {
	case err != nil && !stayed:
		s.refused(c, fmt.Errorf("made room for others: %w", err))
		return nil
	case err != nil:
		s.refused(c, err)
		return nil
	case !running:
		conn.turnAway()
		return nil
	}
	c.SetDeadline(time.Time{})
	return conn
}

// attend serves a connection that was let in, if there is room.
func (s *Server) attend(ctx, work context.Context, conn *connection, n *counts) {
	if !n.add(conn.user.Name, s.cfg.Limits) {
		s.refused(conn.raw, fmt.Errorf("user %q: too many connections", conn.user.Name))
		conn.turnAway()
		return
	}
	defer n.remove(conn.user.Name)
	conn.serve(ctx, work)
}

// turnAway ends a connection that has just been let in.
func (c *connection) turnAway() {
	c.Close()
	var wg sync.WaitGroup
	wg.Go(func() { refuseAll(c.chans, "closing") })
	ssh.DiscardRequests(c.reqs)
	wg.Wait()
}

func (s *Server) admitByKey(c net.Conn) (*connection, error) {
	var offered string // for the event only
	cfg := &ssh.ServerConfig{
		MaxAuthTries:  s.cfg.Limits.AuthTries,
		ServerVersion: serverVersion,
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			offered = ssh.FingerprintSHA256(key)
			u := s.byKey[string(key.Marshal())]
			if u == nil {
				return nil, errors.New("unknown key")
			}
			return &ssh.Permissions{Extensions: map[string]string{keyUser: u.Name, "fingerprint": offered}}, nil
		},
	}
	cfg.AddHostKey(s.cfg.HostKey)
	sc, chans, reqs, err := ssh.NewServerConn(c, cfg)
	if err != nil {
		if offered != "" {
			err = fmt.Errorf("last key offered %s: %w", offered, err)
		}
		return nil, err
	}
	u := s.names[sc.Permissions.Extensions[keyUser]]
	if u == nil {
		sc.Close()
		return nil, errors.New("authenticated as nobody")
	}
	conn := &connection{ServerConn: sc, server: s, raw: c, chans: chans, reqs: reqs, user: *u, remote: c.RemoteAddr().String()}
	if f := s.cfg.Events.Login; f != nil {
		f(u.Name, conn.remote, sc.Permissions.Extensions["fingerprint"])
	}
	return conn, nil
}

func (s *Server) refused(c net.Conn, err error) {
	if f := s.cfg.Events.Refused; f != nil {
		f(c.RemoteAddr().String(), printable(err.Error()))
	}
}

// reasonBytes is how much of a reason is passed on: some of them repeat what the client sent.
const reasonBytes = 500

// printable makes a text of a library, which may hold words of somebody who has not even said who he is, safe to show.
func printable(s string) string {
	if len(s) > reasonBytes {
		s = s[:reasonBytes] + "…"
	}
	for _, r := range s {
		if !strconv.IsPrint(r) || r == utf8.RuneError {
			return strconv.QuoteToASCII(s)
		}
	}
	return s
}

func (s *Server) trouble(err error) {
	if f := s.cfg.Events.Trouble; f != nil {
		f(err)
	}
}

// refuseAll turns down what a connection still asks for until it is gone.
func refuseAll(chans <-chan ssh.NewChannel, why string) {
	for c := range chans {
		c.Reject(ssh.Prohibited, why)
	}
}

// serve answers the connection until it is gone, idle for too long, or the server stops.
func (c *connection) serve(stopping, work context.Context) {
	ctx, cancel := context.WithCancel(work)
	var wg sync.WaitGroup
	wg.Go(func() { ssh.DiscardRequests(c.reqs) }) // port forwarding is asked for here, and refused
	wg.Go(func() { c.keepAlive(ctx) })
	c.sessions(stopping, ctx, &wg)
	cancel()
	c.Close()
	refuseAll(c.chans, "closing")
	wg.Wait()
}

// keepAlive finds out about clients that are gone: one that does not answer within Limits.Idle is cut off, and whatever
// waits for it comes to an end.
func (c *connection) keepAlive(ctx context.Context) {
	idle := c.server.cfg.Limits.Idle
	tick := time.NewTicker(idle)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		cut := time.AfterFunc(idle, func() { c.raw.Close() })
		_, _, err := c.SendRequest("keepalive@openssh.com", true, nil)
		cut.Stop()
		if err != nil {
			return
		}
	}
}

// sessions starts a goroutine for each session and returns when the connection is to be closed.
func (c *connection) sessions(stopping, ctx context.Context, wg *sync.WaitGroup) {
	limits := c.server.cfg.Limits
	stopped := stopping.Done()
	active, draining := 0, false
	done := make(chan struct{}, limits.Sessions)
	idle := time.NewTimer(limits.Idle)
	defer idle.Stop()
	for {
		select {
		case n, ok := <-c.chans:
			switch {
			case !ok:
				return
			case n.ChannelType() != "session":
				c.denied(fmt.Sprintf("channel %q", n.ChannelType()))
				n.Reject(ssh.Prohibited, "this door opens sessions only")
			case draining:
				n.Reject(ssh.ResourceShortage, "the server is stopping")
			case active == limits.Sessions:
				n.Reject(ssh.ResourceShortage, "too many sessions on one connection")
			default:
				active++
				idle.Stop()
				wg.Go(func() {
					c.session(ctx, n)
					done <- struct{}{}
				})
			}
		case <-done:
			if active--; active == 0 {
				if draining {
					return
				}
				idle.Reset(limits.Idle)
			}
		case <-stopped:
			if active == 0 {
				return
			}
			stopped, draining = nil, true
		case <-idle.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (c *connection) denied(what string) {
	if f := c.server.cfg.Events.Denied; f != nil {
		f(c.user.Name, c.remote, what)
	}
}
