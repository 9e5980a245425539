package metrics

import (
	"net"
	"sync"
)

// limited is a listener with so many connections at a time; the next one waits in the kernel's queue.
type limited struct {
	net.Listener
	free   chan struct{} // one token a free place
	closed chan struct{}
	once   sync.Once
}

func newLimited(l net.Listener, most int) *limited {
	free := make(chan struct{}, most)
	for range most {
		free <- struct{}{}
	}
	return &limited{Listener: l, free: free, closed: make(chan struct{})}
}

// Accept waits for a free place and then for a connection.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case <-l.free:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		l.free <- struct{}{}
		return nil, err
	}
	return &limitedConn{Conn: c, free: l.free}, nil
}

// Close closes the listener; connections stay.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// limitedConn gives its place back when closed, once.
type limitedConn struct {
	net.Conn
	free chan<- struct{}
	once sync.Once
}

func (c *limitedConn) Close() error {
	c.once.Do(func() { c.free <- struct{}{} })
	return c.Conn.Close()
}
