package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/worm"
)

const (
	connectionsMax = 4
	workMax        = 16 // requests of one connection at work
	growingMax     = 64 // packs of one connection that grow
	uploadsMax     = 2  // manifests of one connection on their way
	committingMax  = 4  // manifests of one connection that came and are being committed, while others are on their way
	// replyWithin is how long a peer may let a reply wait, or the rest of a request that it began: who does not read or write is
	// cut off.
	replyWithin = 30 * time.Second
)

// Options of a Server.
type Options struct {
	UID uint32 // whose connections are answered
	// Level says which protection holds as far as the keeper can tell, for Welcome; nil for not known.
	Level func() string
	// Findings are lines that Inspect tells first, a few; nil for none.
	Findings func() []string
	// Found makes the vault where there is none, and opens it for writing; nil where none may be made. One call at a time.
	Found func(ctx context.Context, o worm.InitOptions) (*worm.Store, error)
	// Logf is told of connections that were refused or ended badly; nil for nobody. What a peer sent is printed with %q.
	Logf func(format string, args ...any)
}

// Server answers the daemon. The store must be open for writing, with its guard.
type Server struct {
	o Options

	patience time.Duration // replyWithin, but in tests
	hears    bool          // in tests: descriptors are taken, as by an older kernel

	complaints complaints

	founding sync.Mutex // held while a vault is made
	store    atomic.Pointer[worm.Store]
}

// NewServer makes a server of a store, which stays the caller's to close once Serve has returned. Without a store it answers
// hello and found alone, until Options.Found has made one.
func NewServer(store *worm.Store, o Options) *Server {
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	if o.Level == nil {
		o.Level = func() string { return "" }
	}
	if o.Findings == nil {
		o.Findings = func() []string { return nil }
	}
	s := &Server{o: o, patience: replyWithin}
	s.store.Store(store)
	return s
}

// Store gives the store that is served, nil before there is one.
func (s *Server) Store() *worm.Store { return s.store.Load() }

// Serve answers connections until ctx ends, and returns once all of them are closed and all their requests are done. It
// closes l.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	return s.serve(ctx, l, s.o.UID, false)
}

// serve answers the connections of one user, the daemon's or an operator's.
func (s *Server) serve(ctx context.Context, l *net.UnixListener, uid uint32, operator bool) error {
	if !s.hears {
		refuseDescriptors(l)
	}
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	room := make(chan struct{}, connectionsMax)
	for {
		c, err := l.AcceptUnix()
		if err != nil && ctx.Err() == nil && passing(err) {
			s.complaints.say(s.o.Logf, "keeper: no connection can be taken at the moment: %v", err)
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		if err != nil {
			_ = l.Close()
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("keeper: %w", err)
		}
		if err := admit(c, uid); err != nil {
			s.complaints.say(s.o.Logf, "keeper: a connection was refused: %v", err)
			_ = c.Close()
			continue
		}
		if !s.hears {
			refuseDescriptors(c) // it may have been made before the listener was told
		}
		select {
		case room <- struct{}{}:
		default:
			s.complaints.say(s.o.Logf, "keeper: a connection was refused: there are %d", connectionsMax)
			_ = c.Close()
			continue
		}
		all.Go(func() {
			defer func() { <-room }()
			s.connection(ctx, c, operator)
		})
	}
}

// admit asks the kernel who is at the other end.
func admit(c *net.UnixConn, uid uint32) error {
	conn, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var peer *syscall.Ucred
	var perr error
	if err := conn.Control(func(fd uintptr) {
		peer, perr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if perr != nil {
		return perr
	}
	if peer.Uid != uid {
		return fmt.Errorf("it is of user %d (process %d), and only user %d is answered", peer.Uid, peer.Pid, uid)
	}
	return nil
}

// connection is one life of the daemon, or one question of an operator's.
func (s *Server) connection(ctx context.Context, c *net.UnixConn, operator bool) {
	ctx, cancel := context.WithCancel(ctx)
	p := &peer{
		s: s, c: c, operator: operator, growing: map[uint32]*grown{}, uploads: map[string]*upload{},
		slots: make(chan struct{}, workMax), cut: cancel, asked: map[uint32]bool{},
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() }) // ends reading, and writing to a peer that does not read
	err := p.serve(ctx)
	cancel()
	stop()
	_ = c.Close()
	p.work.Wait()
	p.leave()
	if err != nil {
		s.complaints.say(s.o.Logf, "keeper: a connection ended: %v", err)
	}
}

// peer is the other end of a connection.
type peer struct {
	s    *Server
	c    *net.UnixConn
	cut  context.CancelFunc
	work sync.WaitGroup
	// operator says that it is a person's, at the socket for people: see mayAsk.
	operator bool
	// slots are taken by requests at work.
	slots chan struct{}

	mu       sync.Mutex // guards all down to asked
	probe    *probing   // a file that is made to be attacked
	attacked bool       // it is at work for a request
	probes   int        // that were made
	growing  map[uint32]*grown
	creates  int                // packs that are being created
	uploads  map[string]*upload // manifests on their way, by session
	puts     uint64             // pieces that came
	commits  int                // manifests that came and are being committed
	asked    map[uint32]bool    // numbers of requests at work

	writing sync.Mutex // a reply is written whole
}

// grown is a pack that grows.
type grown struct {
	in *worm.Incoming
	// file is its writable descriptor until that was handed on. The keeper must not hold one itself: no seal would ever get
	// its lease. handed is closed once it does not.
	file   *os.File
	handed chan struct{}
}

// hand says that the descriptor was sent, or never will be.
func (g *grown) hand() {
	_ = g.file.Close()
	close(g.handed)
}

// serve reads requests until the connection ends. An end between two requests is none of its errors.
func (p *peer) serve(ctx context.Context) error {
	greeted := false
	in := newFrameReader(p.c, p.s.patience)
	for {
		in.next()
		f, err := readFrame(in)
		switch {
		case ctx.Err() != nil, isEnd(err):
			return nil
		case errors.Is(err, ErrVersion):
			p.fail(f, &Failure{Code: OtherVersion, Text: err.Error()})
			return err
		case err != nil:
			return err
		}
		m, err := parseRequest(f)
		if err == nil && !greeted && f.Kind != KindHello {
			err = fmt.Errorf("%w: %v before hello", ErrMalformed, f.Kind)
		}
		if err == nil {
			err = p.begin(f.ID)
		}
		if err == nil && p.s.Store() == nil && f.Kind != KindHello && f.Kind != KindFound {
			err = fmt.Errorf("%w: %v, and there is no vault yet", ErrMalformed, f.Kind)
		}
		if err != nil {
			p.fail(f, &Failure{Code: Malformed, Text: err.Error()})
			return err
		}
		greeted = true
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		p.work.Go(func() {
			defer func() { <-p.slots }()
			p.answer(ctx, f, m)
		})
	}
}

// begin takes a request's number, which must not be at work.
func (p *peer) begin(id uint32) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked[id] {
		return fmt.Errorf("%w: request %d is at work already", ErrMalformed, id)
	}
	p.asked[id] = true
	return nil
}

// answer does what a request asks for and replies.
func (p *peer) answer(ctx context.Context, f frame, m body) {
	reply, created, err := p.do(ctx, f.Kind, m)
	var file *os.File
	if created != nil {
		file = created.file
		defer created.hand()
	}
	p.mu.Lock()
	delete(p.asked, f.ID) // before the reply, after which the number may be used again
	p.mu.Unlock()
	if err != nil {
		p.fail(f, failure(err))
		return
	}
	b, err := appendReply(nil, f.ID, f.Kind, p.mark(), reply)
	if err != nil {
		p.fail(f, &Failure{Code: Refused, Text: err.Error()})
		return
	}
	p.send(b, file)
}

func (p *peer) mark() Mark {
	store := p.s.Store()
	if store == nil {
		return Mark{}
	}
	size, root := store.Ledger().Head()
	return Mark{Size: size, Root: ID(root)}
}

func (p *peer) fail(f frame, m *Failure) {
	id := max(f.ID, 1)
	if b, err := appendFailure(nil, id, f.Kind, m); err == nil {
		p.send(b, nil)
	}
}

// send writes a reply, with a descriptor beside its first byte. A peer that does not read is cut off.
func (p *peer) send(b []byte, file *os.File) {
	p.writing.Lock()
	defer p.writing.Unlock()
	if err := p.write(b, file); err != nil {
		p.cut()
	}
}

func (p *peer) write(b []byte, file *os.File) error {
	// A deadline of the kernel's clock, not of the vault's: it decides about a connection and nothing else.
	timer := time.AfterFunc(p.s.patience, p.cut)
	defer timer.Stop()
	if file == nil {
		_, err := p.c.Write(b)
		return err
	}
	n, _, err := p.c.WriteMsgUnix(b, syscall.UnixRights(int(file.Fd())), nil)
	if err == nil && n < len(b) {
		_, err = p.c.Write(b[n:])
	}
	return err
}

// leave gives back what the connection had growing: leftovers, for a later life of the daemon.
func (p *peer) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n, g := range p.growing {
		if err := p.s.Store().Leave(g.in); err != nil {
			p.s.o.Logf("keeper: pack %d: %v; the next start looks after it", n, err)
		}
	}
	clear(p.growing)
	p.leaveProbe()
}

// acceptPause is how long nobody is taken after one could not be.
const acceptPause = time.Second

// passing says of an error of accept that it is of the moment: descriptors or memory are used up, or whoever knocked went.
func passing(err error) bool {
	for _, e := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
