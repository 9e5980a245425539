// Package delay makes a long link of the loopback: a TCP proxy that holds back what passes by half a round trip each way.
//
// Bytes are read as soon as they come, stamped with the moment at which they are due at the other end, queued, and
// written then: many writes are under way at once, as on a real wire, and a chain of questions and answers costs a
// round trip each. A cap on bandwidth is shared by all connections of one direction, as on a real wire. What may be
// under way on one connection is bounded as TCP bounds it: a window's bytes count until their acknowledgement
// would have come back.
//
// It runs in user space, so it needs no rights and leaves the machine's network as it is; its own copies cost some
// CPU, the same for whoever is measured through it.
package delay

import (
	"errors"
	"net"
	"sync"
	"time"
)

// DefaultWindowBytes is the window of a Link that names none: 16 MiB, more than Linux gives a connection by default.
const DefaultWindowBytes = 16 << 20

// Link is what a Proxy pretends to be. The zero value is a link without delay or limit.
type Link struct {
	RoundTrip      time.Duration
	BytesPerSecond int64 // each direction, over all connections; 0 is no limit
	WindowBytes    int   // unacknowledged bytes of one direction of one connection; 0 is DefaultWindowBytes
}

// Proxy forwards connections to one target over a Link, until Close.
type Proxy struct {
	link     Link
	listener net.Listener
	target   string
	up, down lane
	work     sync.WaitGroup
	stop     chan struct{}

	mu     sync.Mutex
	open   map[net.Conn]bool
	closed bool
}

// Start listens on a free port of 127.0.0.1 and forwards to target, a host:port.
func Start(link Link, target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{link: link, listener: l, target: target, stop: make(chan struct{}), open: map[net.Conn]bool{}}
	for _, lane := range []*lane{&p.up, &p.down} {
		lane.half, lane.bytesPerSecond = link.RoundTrip/2, link.BytesPerSecond
	}
	p.work.Go(p.accept)
	return p, nil
}

// Addr is where clients connect, as host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Close ends all connections and returns when nothing of the proxy runs any more.
func (p *Proxy) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	close(p.stop)
	err := p.listener.Close()
	for c := range p.open {
		c.Close()
	}
	p.mu.Unlock()
	p.work.Wait()
	return err
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if !p.wait(time.Now().Add(10 * time.Millisecond)) {
				return
			}
			continue
		}
		p.work.Go(func() { p.serve(client.(*net.TCPConn)) })
	}
}

// serve forwards one connection. The kernel has answered the client's handshake at once; a round trip is waited here
// for it.
func (p *Proxy) serve(client *net.TCPConn) {
	defer client.Close()
	if !p.keep(client) {
		return
	}
	defer p.forget(client)
	if !p.wait(time.Now().Add(p.link.RoundTrip)) {
		return
	}
	conn, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	server := conn.(*net.TCPConn)
	defer server.Close()
	if !p.keep(server) {
		return
	}
	defer p.forget(server)
	window := p.link.WindowBytes
	if window == 0 {
		window = DefaultWindowBytes
	}
	var both sync.WaitGroup
	for _, way := range []struct {
		lane     *lane
		from, to *net.TCPConn
	}{{&p.up, client, server}, {&p.down, server, client}} {
		both.Go(func() {
			if err := way.lane.carry(way.to, way.from, window, p.stop); err != nil {
				// A connection that broke one way is of no use the other way.
				client.Close()
				server.Close()
				return
			}
			way.to.CloseWrite()
		})
	}
	both.Wait()
}

// wait sleeps until a moment; false if the proxy is closed first.
func (p *Proxy) wait(until time.Time) bool { return sleepUntil(until, p.stop) }

func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open[c] = true
	return !p.closed
}

func (p *Proxy) forget(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
}

func sleepUntil(t time.Time, stop <-chan struct{}) bool {
	d := time.Until(t)
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-stop:
		return false
	}
}
