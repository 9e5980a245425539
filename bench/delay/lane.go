package delay

import (
	"errors"
	"io"
	"sync"
	"time"
)

// pieceBytes is the most that is read at once.
const pieceBytes = 64 << 10

var errStopped = errors.New("the proxy was closed")

// lane is one direction of the link. Its bandwidth is shared by all connections.
type lane struct {
	half           time.Duration
	bytesPerSecond int64

	mu   sync.Mutex
	free time.Time // when the wire has taken everything that was booked
}

// book puts n bytes on the wire now, or behind what is on it, and says when the last of them is due at the other end.
func (l *lane) book(now time.Time, n int) time.Time {
	if l.bytesPerSecond <= 0 {
		return now.Add(l.half)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(float64(n) / float64(l.bytesPerSecond) * float64(time.Second)))
	return l.free.Add(l.half)
}

// piece is what one read gave; without bytes it is the end of the stream.
type piece struct {
	data []byte
	due  time.Time
	err  error
}

// ack is room in the window that comes back at a moment.
type ack struct {
	at    time.Time
	bytes int
}

// flight is what is under way on one direction of one connection.
type flight struct {
	mu      sync.Mutex
	changed chan struct{} // holds a token when something was added for the other side
	pieces  []piece
	acks    []ack
	out     int // bytes that are sent and not acknowledged
}

var buffers = sync.Pool{New: func() any { b := make([]byte, pieceBytes); return &b }}

// carry moves a stream until its end, nil, or until either side fails or stop is closed; then it closes src.
func (l *lane) carry(dst io.Writer, src io.ReadCloser, window int, stop <-chan struct{}) error {
	sent := &flight{changed: make(chan struct{}, 1)}
	room := make(chan struct{}, 1)
	quit := make(chan struct{})
	var reader sync.WaitGroup
	reader.Go(func() { l.read(sent, room, src, max(window, pieceBytes), quit) })
	err := l.write(dst, sent, room, stop)
	close(quit)
	if err != nil {
		src.Close() // the reader may be waiting for a byte
	}
	reader.Wait()
	return err
}

// write delivers what is due, until the stream's end.
func (l *lane) write(dst io.Writer, sent *flight, room chan struct{}, stop <-chan struct{}) error {
	for {
		p, ok := sent.next(stop)
		if !ok || !sleepUntil(p.due, stop) {
			return errStopped
		}
		if p.err != nil {
			if errors.Is(p.err, io.EOF) {
				return nil
			}
			return p.err
		}
		_, err := dst.Write(p.data)
		n := len(p.data)
		b := p.data[:pieceBytes]
		buffers.Put(&b)
		if err != nil {
			return err
		}
		sent.delivered(n, time.Now().Add(l.half))
		poke(room)
	}
}

// read fills the flight as long as the window has room.
func (l *lane) read(f *flight, room <-chan struct{}, src io.Reader, window int, quit <-chan struct{}) {
	for {
		if !f.waitForRoom(window, room, quit) {
			return
		}
		b := *buffers.Get().(*[]byte)
		n, err := src.Read(b)
		now := time.Now()
		if n > 0 {
			f.add(piece{data: b[:n], due: l.book(now, n)})
		}
		if err != nil {
			f.add(piece{due: l.book(now, 0), err: err})
			return
		}
	}
}

func (f *flight) add(p piece) {
	f.mu.Lock()
	f.pieces = append(f.pieces, p)
	f.out += len(p.data)
	f.mu.Unlock()
	poke(f.changed)
}

func (f *flight) next(stop <-chan struct{}) (piece, bool) {
	for {
		f.mu.Lock()
		if len(f.pieces) > 0 {
			p := f.pieces[0]
			f.pieces[0] = piece{}
			f.pieces = f.pieces[1:]
			f.mu.Unlock()
			return p, true
		}
		f.mu.Unlock()
		select {
		case <-f.changed:
		case <-stop:
			return piece{}, false
		}
	}
}

func (f *flight) delivered(n int, ackAt time.Time) {
	f.mu.Lock()
	f.acks = append(f.acks, ack{ackAt, n})
	f.mu.Unlock()
}

// waitForRoom waits until a whole piece fits into the window; false when there is nobody left to read for.
func (f *flight) waitForRoom(window int, room, quit <-chan struct{}) bool {
	for {
		f.mu.Lock()
		now := time.Now()
		for len(f.acks) > 0 && !f.acks[0].at.After(now) {
			f.out -= f.acks[0].bytes
			f.acks = f.acks[1:]
		}
		fits := f.out+pieceBytes <= window || f.out == 0
		var next time.Time
		if len(f.acks) > 0 {
			next = f.acks[0].at
		}
		f.mu.Unlock()
		switch {
		case fits:
			return true
		case !next.IsZero():
			if !sleepUntil(next, quit) {
				return false
			}
		default:
			select {
			case <-room:
			case <-quit:
				return false
			}
		}
	}
}

// poke leaves a token unless one lies there already.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
