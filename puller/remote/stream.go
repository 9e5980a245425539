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

	unread *unread // of the whole Source; nil for no bound

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
	answer chan answer // never full; nil when a burst takes the answer
	into   []byte      // of a READ: its content goes straight here, and what is beyond is dropped

	burst *burst // takes the answer instead, as its part
	part  int
}

// tell hands an answer to whoever waits for it. It never blocks.
func (c *call) tell(a answer) {
	if c.burst != nil {
		c.burst.take(c.part, a)
		return
	}
	c.answer <- a
}

// answer is a packet without length and id. A big one holds a slot until release, which is nil where nothing is held.
type answer struct {
	kind    byte
	body    []byte
	n       int // of content that went into call.into; kind is packetData then, and body empty
	err     error
	release func()
}

// drop is release for an answer that nobody wants, whatever it is.
func (a answer) drop() {
	if a.release != nil {
		a.release()
	}
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
		c.tell(answer{err: errTruncated})
		return s.breach("packet of %d bytes", length)
	}
	if _, err := s.in.Discard(9); err != nil {
		c.tell(answer{err: err})
		return err
	}
	var a answer
	var err error
	if kind == packetData && c.into != nil {
		a, err = s.content(c.into, int(length)-5)
	} else {
		a, err = s.body(kind, int(length)-5)
	}
	if a.err == nil {
		a.err = err
	}
	c.tell(a)
	return err
}

// content reads the body of a DATA packet, of n bytes, into the memory of whoever asked: uint32 length | bytes. The request stays answered
// in this goroutine alone, so that nobody else touches that memory until it is told.
func (s *stream) content(into []byte, n int) (answer, error) {
	if n < 4 {
		return answer{}, s.breach("data packet of %d bytes", n+5)
	}
	head, err := s.in.Peek(4)
	if err != nil {
		return answer{}, err
	}
	said := binary.BigEndian.Uint32(head)
	if _, err := s.in.Discard(4); err != nil {
		return answer{}, err
	}
	n -= 4
	switch {
	case said == 0:
		return answer{}, s.breach("read answered with no data and no end of file")
	case uint64(said) > uint64(n):
		return answer{}, s.breach("data of %d bytes in a packet that holds %d", said, n)
	}
	into = into[:min(len(into), int(said))]
	for got := 0; got < len(into); {
		m, err := s.in.Read(into[got:])
		got += m
		s.done.Add(int64(m))
		if err != nil {
			return answer{}, err
		}
	}
	surplus, err := s.in.Discard(n - len(into))
	s.done.Add(int64(surplus) + 13)
	return answer{kind: packetData, n: len(into)}, err
}

// unreadMax is what answers of ours may take before somebody has taken them, over a whole Source. Each is decoded as it
// comes, so that on an honest server a fraction of this is ever there.
const unreadMax = 32 << 20

// unread counts the bytes of answers that were not taken yet. Safe for concurrent use.
type unread struct {
	mu      sync.Mutex
	left    int
	waiting int           // in take
	changed chan struct{} // closed and replaced when there is more left and somebody waits for it
}

// unreadFree is the size up to which an answer is not counted: a status, a handle or attributes. The requests in flight bound the number of those.
const unreadFree = 512

func newUnread() *unread { return &unread{left: unreadMax, changed: make(chan struct{})} }

// take waits for room for n bytes; false when quit is closed first. Whoever holds room only decodes, and waits for nothing
// but the sending of its own requests, which the watchdog bounds.
func (u *unread) take(n int, quit <-chan struct{}) bool {
	for {
		u.mu.Lock()
		if u.left >= n {
			u.left -= n
			u.mu.Unlock()
			return true
		}
		changed := u.changed
		u.waiting++
		u.mu.Unlock()
		over := false
		select {
		case <-changed:
		case <-quit:
			over = true
		}
		u.mu.Lock()
		u.waiting--
		u.mu.Unlock()
		if over {
			return false
		}
	}
}

func (u *unread) give(n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.left += n
	if u.waiting > 0 {
		close(u.changed)
		u.changed = make(chan struct{})
	}
}

// body reads an answer of ours. A big one waits for a slot first, so that many channels cannot add up; the slots' holders only
// decode, and wait for nothing.
func (s *stream) body(kind byte, n int) (answer, error) {
	a := answer{kind: kind}
	switch {
	case n > frameMax:
		select {
		case s.big <- struct{}{}:
			a.release = sync.OnceFunc(func() { <-s.big })
		case <-s.quit:
			return a, io.ErrClosedPipe
		}
	case s.unread != nil && n > unreadFree:
		if !s.unread.take(n, s.quit) {
			return a, io.ErrClosedPipe
		}
		a.release = sync.OnceFunc(func() { s.unread.give(n) })
	}
	a.body = make([]byte, n)
	for got := 0; got < n; {
		m, err := s.in.Read(a.body[got:])
		got += m
		s.done.Add(int64(m))
		if err != nil {
			a.drop()
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
		c.tell(answer{err: err})
	}
}

// send issues a request of ours; the answer comes through the call. It does not wait for it.
func (s *stream) send(kind byte, max int, body []byte) (*call, error) {
	c := &call{max: max, answer: make(chan answer, 1)}
	return c, s.issue(c, kind, body)
}

// sendTo is send with a channel for the answer that has room for those of all requests sent to it.
func (s *stream) sendTo(kind byte, max int, body []byte, to chan answer) error {
	return s.issue(&call{max: max, answer: to}, kind, body)
}

func (s *stream) issue(c *call, kind byte, body []byte) error {
	first, err := s.register(c)
	if err != nil {
		return err
	}
	if err = s.put(packet(kind, first, body)); err != nil && c.into != nil && !s.withdraw(first, err) {
		// A server may answer what was never sent. The memory is the caller's again when that is over.
		a := <-c.answer
		a.drop()
	}
	return err
}

// withdraw tells a call that could not be sent so; false when it was answered all the same, or is being answered.
func (s *stream) withdraw(id uint32, err error) bool {
	s.mu.Lock()
	c := s.pending[id]
	delete(s.pending, id)
	s.mu.Unlock()
	if c != nil {
		c.tell(answer{err: err})
	}
	return c != nil
}

// register takes calls up before their requests are sent, and gives the id of the first; the others' are nextID of the one before.
func (s *stream) register(calls ...*call) (first uint32, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	first = nextID(s.lastID | ourIDs)
	for _, c := range calls {
		s.lastID = nextID(s.lastID|ourIDs) &^ ourIDs
		s.pending[s.lastID|ourIDs] = c
	}
	return first, nil
}

func nextID(id uint32) uint32 { return (id&^ourIDs+1)%math.MaxInt32 | ourIDs }

// put sends whole packets in one go.
func (s *stream) put(packets []byte) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	_, err := s.out.Write(packets)
	return err
}

// ask is send and wait. The caller releases the answer.
func (s *stream) ask(kind byte, text string) (answer, error) {
	return s.askBody(kind, appendString(nil, text))
}

// askBody is ask with a body that is ready.
func (s *stream) askBody(kind byte, body []byte) (answer, error) {
	c, err := s.send(kind, frameMax, body)
	return c.await(err)
}

// await waits for the answer to a request that was sent, or not.
func (c *call) await(sent error) (answer, error) {
	if sent != nil {
		select { // a server may answer what was never sent
		case a := <-c.answer:
			a.drop()
		default:
		}
		return answer{}, sent
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
