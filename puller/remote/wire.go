package remote

import (
	"bufio"
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	wireReadBuffer  = 64 << 10
	wireWriteBuffer = 256 << 10 // a writer waits once so much is gathered
)

// wire is the TCP connection under SSH. It reads through a large buffer, gathers the many small writes of SSH into few large
// ones, counts bytes, and never waits for ever: until established the deadline of the handshake holds for everything; afterwards each read may take
// as long as idle, which the keepalive's answers renew on a healthy connection, and each write likewise. It is also where a limit of
// bandwidth is kept: what was read waits before it is passed on, the receive window fills, and the source sends no faster.
type wire struct {
	net.Conn
	in      *bufio.Reader
	idle    time.Duration
	limiter Limiter // nil for none; the handshake, which has a deadline, is not held up
	pacing  pacing

	life context.Context // ends with Close
	end  context.CancelFunc

	established    atomic.Bool
	wrote          atomic.Int64 // when the last write was made that nothing was read after, by the clock of begin; 0: none
	gap            atomic.Int64 // from a write to the next read, the last time; during the handshake only
	begin          time.Time
	received, sent atomic.Int64

	mu      sync.Mutex // guards what follows
	changed *sync.Cond // gathered, err or closing changed
	gather  []byte     // written by SSH, not yet by us
	err     error      // sticky, of the flusher
	closing bool

	flushed chan struct{} // closed when the flusher has ended
}

// newWire takes over conn and starts its flusher, which ends after Close. The caller has set the handshake's deadline.
func newWire(conn net.Conn, idle time.Duration, limiter Limiter) *wire {
	w := &wire{Conn: conn, idle: idle, limiter: limiter, flushed: make(chan struct{}), begin: time.Now()}
	w.life, w.end = context.WithCancel(context.Background())
	w.changed = sync.NewCond(&w.mu)
	w.in = bufio.NewReaderSize(wireReader{w}, wireReadBuffer)
	go w.flush()
	return w
}

// establish ends the time of the handshake's deadline.
func (w *wire) establish() error {
	w.established.Store(true)
	return w.Conn.SetDeadline(time.Now().Add(w.idle))
}

// wireReader is the unbuffered side: one call, one system call, one renewed deadline.
type wireReader struct{ w *wire }

func (r wireReader) Read(p []byte) (int, error) {
	if r.w.established.Load() {
		if err := r.w.Conn.SetReadDeadline(time.Now().Add(r.w.idle)); err != nil {
			return 0, err
		}
	}
	n, err := r.w.Conn.Read(p)
	if !r.w.established.Load() {
		r.w.clock()
	}
	r.w.received.Add(int64(n))
	if n > 0 && r.w.limiter != nil && r.w.established.Load() {
		r.w.pacing.begin()
		waited := r.w.limiter.Wait(r.w.life, n)
		r.w.pacing.end()
		if err == nil && waited != nil {
			return n, net.ErrClosed
		}
	}
	return n, err
}

// clock measures what the other side took to answer.
func (w *wire) clock() {
	if wrote := w.wrote.Swap(0); wrote != 0 {
		w.gap.Store(int64(time.Since(w.begin)) - wrote)
	}
}

// pacing is the time that a connection has spent waiting for its limit. Nothing that happens in it is the source's fault.
type pacing struct {
	mu    sync.Mutex
	sum   time.Duration
	since time.Time // zero when it does not wait now
}

func (p *pacing) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.since = time.Now()
}

func (p *pacing) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sum += time.Since(p.since)
	p.since = time.Time{}
}

// total is all of it until now.
func (p *pacing) total() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.since.IsZero() {
		return p.sum
	}
	return p.sum + time.Since(p.since)
}

// Read is for one goroutine, SSH's reader.
func (w *wire) Read(p []byte) (int, error) { return w.in.Read(p) }

// Write takes p over into the gathered buffer and returns; an error of the network shows at a later Write, and at the reader.
func (w *wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.gather) > wireWriteBuffer && w.err == nil && !w.closing {
		w.changed.Wait()
	}
	if w.closing && w.err == nil {
		w.err = net.ErrClosed
	}
	if w.err != nil {
		return 0, w.err
	}
	if len(w.gather) == 0 {
		w.changed.Broadcast()
	}
	w.gather = append(w.gather, p...)
	return len(p), nil
}

// flush writes what was gathered until the wire is closed or breaks.
func (w *wire) flush() {
	defer close(w.flushed)
	var batch []byte
	for {
		w.mu.Lock()
		for len(w.gather) == 0 && !w.closing {
			w.changed.Wait()
		}
		if w.closing {
			w.mu.Unlock()
			return
		}
		batch, w.gather = w.gather, batch[:0]
		w.changed.Broadcast()
		w.mu.Unlock()
		if err := w.write(batch); err != nil {
			w.mu.Lock()
			w.err = err
			w.changed.Broadcast()
			w.mu.Unlock()
			w.Conn.Close() // so that the reader learns of it too
			return
		}
		if cap(batch) > 4*wireWriteBuffer {
			batch = nil
		}
	}
}

func (w *wire) write(p []byte) error {
	if w.established.Load() {
		if err := w.Conn.SetWriteDeadline(time.Now().Add(w.idle)); err != nil {
			return err
		}
	}
	if !w.established.Load() {
		w.wrote.Store(max(1, int64(time.Since(w.begin))))
	}
	n, err := w.Conn.Write(p)
	w.sent.Add(int64(n))
	return err
}

// Close closes the socket at once; what was gathered and not written is lost, which a reader of files never minds.
func (w *wire) Close() error {
	err := w.Conn.Close()
	w.end()
	w.mu.Lock()
	w.closing = true
	w.changed.Broadcast()
	w.mu.Unlock()
	return err
}
