package remote

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"
)

const (
	ourIDs = 1 << 31 // set in the ids of our own requests; pkg/sftp counts up from 1

	frameMax      = 256 << 10 // pkg/sftp's own bound, and what OpenSSH sends at most
	frameMaxAlone = 16 << 20  // of an answer that was asked for alone: some servers send a whole directory in one packet

	streamBuffer = 64 << 10
)

// stream lets pkg/sftp and our own codec share one SFTP channel. pkg/sftp reads and writes through it. Answers to our own
// requests are taken out on the way, in the goroutine in which pkg/sftp reads; so a stream works as long as pkg/sftp
// does. (After 2^31 requests pkg/sftp's ids would look like ours: the connection is then replaced, as after any breach.) It also looks at the head of every packet that passes, since some lies have to be seen before pkg/sftp acts on them.
type stream struct {
	in  *bufio.Reader
	out io.WriteCloser
	// big has a slot for each answer above frameMax that may be in memory, over the whole Source; quit is closed with the connection.
	big  chan struct{}
	quit <-chan struct{}
	// broken is told of a breach of the protocol, before Read returns it.
	broken func(error)

	left int          // bytes of the present packet that pkg/sftp has still to read; owned by Read
	done atomic.Int64 // useful bytes that arrived: what the watchdog calls progress

	writing sync.Mutex // held over one whole packet
	partial []byte     // of a packet that pkg/sftp writes in pieces

	mu      sync.Mutex // guards what follows
	pending map[uint32]*call
	lastID  uint32
	err     error // why Read ended
}

// call is one request of ours that waits for its answer.
type call struct {
	max    int         // longest answer allowed
	answer chan answer // capacity 1
}

// answer is a packet without length and id. A big one holds a slot until release.
type answer struct {
	kind    byte
	body    []byte
	err     error
	release func()
}

func newStream(in io.Reader, out io.WriteCloser, big chan struct{}, quit <-chan struct{}, broken func(error)) *stream {
	return &stream{in: bufio.NewReaderSize(in, streamBuffer), out: out, big: big, quit: quit, broken: broken, pending: map[uint32]*call{}}
}

// Read gives pkg/sftp the packets that are its own.
func (s *stream) Read(p []byte) (int, error) {
	for s.left == 0 {
		if err := s.nextPacket(); err != nil {
			s.end(err)
			return 0, err
		}
	}
	n, err := s.in.Read(p[:min(len(p), s.left)])
	s.left -= n
	s.done.Add(int64(n))
	if err != nil {
		s.end(err)
	}
	return n, err
}

// nextPacket looks at the head of the next packet. One of ours is consumed, of another left is set.
func (s *stream) nextPacket() error {
	head, err := s.in.Peek(4)
	if err != nil {
		return err
	}
	length := binary.BigEndian.Uint32(head)
	if length < 5 {
		return s.breach("packet of %d bytes", length)
	}
	if head, err = s.in.Peek(9); err != nil {
		return err
	}
	kind, id := head[4], binary.BigEndian.Uint32(head[5:])
	if kind != packetVersion && id&ourIDs != 0 {
		return s.ours(kind, id, length)
	}
	if length > frameMax {
		return s.breach("packet of %d bytes", length)
	}
	if kind == packetData {
		if err := s.checkData(length); err != nil {
			return err
		}
	}
	s.left = 4 + int(length)
	return nil
}

// checkData refuses a DATA packet without data: pkg/sftp would ask again, for ever.
func (s *stream) checkData(length uint32) error {
	if length < 9 {
		return s.breach("data packet of %d bytes", length)
	}
	head, err := s.in.Peek(13)
	if err != nil {
		return err
	}
	if binary.BigEndian.Uint32(head[9:]) == 0 {
		return s.breach("read answered with no data and no end of file")
	}
	return nil
}

func (s *stream) ours(kind byte, id, length uint32) error {
	s.mu.Lock()
	c := s.pending[id]
	delete(s.pending, id)
	s.mu.Unlock()
	if c == nil {
		return s.breach("answer to request %#x, which was not asked", id)
	}
	if uint64(length) > uint64(c.max) {
		c.answer <- answer{err: errTruncated}
		return s.breach("packet of %d bytes", length)
	}
	if _, err := s.in.Discard(9); err != nil {
		return err
	}
	a, err := s.body(kind, int(length)-5)
	a.err = err
	c.answer <- a
	return err
}

// body reads an answer of ours. A big one waits for a slot first, so that many channels cannot add up; the slots' holders only
// decode, and wait for nothing.
func (s *stream) body(kind byte, n int) (answer, error) {
	a := answer{kind: kind, release: func() {}}
	if n > frameMax {
		select {
		case s.big <- struct{}{}:
			a.release = sync.OnceFunc(func() { <-s.big })
		case <-s.quit:
			return a, io.ErrClosedPipe
		}
	}
	a.body = make([]byte, n)
	for got := 0; got < n; {
		m, err := s.in.Read(a.body[got:])
		got += m
		s.done.Add(int64(m))
		if err != nil {
			a.release()
			return answer{}, err
		}
	}
	s.done.Add(9)
	return a, nil
}

// breach reports broken protocol and returns it as the error that ends the stream.
func (s *stream) breach(format string, args ...any) error {
	err := &ProtocolError{Op: "sftp", Detail: fmt.Sprintf(format, args...)}
	s.broken(err)
	return err
}

// end fails every request of ours, those to come included.
func (s *stream) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.err = err
	for id, c := range s.pending {
		delete(s.pending, id)
		c.answer <- answer{err: err}
	}
}

// send issues a request of ours; the answer comes through the call. It does not wait for it.
func (s *stream) send(kind byte, max int, body []byte) (*call, error) {
	c := &call{max: max, answer: make(chan answer, 1)}
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return nil, s.err
	}
	s.lastID = (s.lastID + 1) % math.MaxInt32
	id := s.lastID | ourIDs
	s.pending[id] = c
	s.mu.Unlock()

	s.writing.Lock()
	defer s.writing.Unlock()
	if _, err := s.out.Write(packet(kind, id, body)); err != nil {
		return nil, err
	}
	return c, nil
}

// ask is send and wait. The caller releases the answer.
func (s *stream) ask(kind byte, text string) (answer, error) {
	c, err := s.send(kind, frameMax, appendString(nil, text))
	if err != nil {
		return answer{}, err
	}
	a := <-c.answer
	return a, a.err
}

// Write takes pkg/sftp's packets, which may come in pieces, and sends each in one go, so that none of ours gets between.
func (s *stream) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if len(s.partial) == 0 && wholePacket(p) {
		return s.out.Write(p)
	}
	s.partial = append(s.partial, p...)
	if !wholePacket(s.partial) {
		return len(p), nil
	}
	_, err := s.out.Write(s.partial)
	s.partial = s.partial[:0]
	return len(p), err
}

func wholePacket(p []byte) bool {
	return len(p) >= 4 && uint64(len(p)) == 4+uint64(binary.BigEndian.Uint32(p))
}

// Close closes the sending side.
func (s *stream) Close() error { return s.out.Close() }
