package sshdtest

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// proxy forwards TCP connections and counts.
type proxy struct {
	listener net.Listener
	target   string
	served   atomic.Int64
	accepted atomic.Int64
	cutAt    atomic.Int64 // 0: never
	work     sync.WaitGroup

	mu     sync.Mutex
	open   map[net.Conn]bool
	closed bool
}

func newProxy(target string) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: l, target: target, open: map[net.Conn]bool{}}
	p.work.Go(p.accept)
	return p, nil
}

// BytesServed is how many bytes the server has sent to clients, SSH's overhead included, over all connections.
func (p *proxy) BytesServed() int64 { return p.served.Load() }

// Connections is how many connections clients have made.
func (p *proxy) Connections() int64 { return p.accepted.Load() }

// Cut ends every present connection at once, as a pulled plug would. New ones are accepted.
func (p *proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		c.Close()
	}
}

// CutAt ends every present connection once BytesServed reaches n, once.
func (p *proxy) CutAt(n int64) { p.cutAt.Store(n) }

func (p *proxy) close() {
	p.listener.Close()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Cut()
	p.work.Wait()
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		p.accepted.Add(1)
		p.work.Go(func() { p.forward(client) })
	}
}

func (p *proxy) forward(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	if !p.keep(client, server) {
		return
	}
	defer p.forget(client, server)
	var both sync.WaitGroup
	both.Go(func() {
		io.Copy(server, client)
		server.(*net.TCPConn).CloseWrite()
	})
	io.Copy(counter{client, p}, server)
	client.Close()
	both.Wait()
}

func (p *proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		p.open[c] = true
	}
	return !p.closed
}

func (p *proxy) forget(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		delete(p.open, c)
	}
}

// counter counts what goes to a client.
type counter struct {
	net.Conn
	p *proxy
}

func (c counter) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	total := c.p.served.Add(int64(n))
	if at := c.p.cutAt.Load(); at > 0 && total >= at && c.p.cutAt.CompareAndSwap(at, 0) {
		c.p.Cut()
	}
	return n, err
}
