package keeper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// ErrGone is in the chain of the error of every request whose reply did not come because the connection ended. Whether the
// request was done is not known; asked again on a new connection, each means the same.
var ErrGone = errors.New("the connection to the keeper ended")

// ErrNotItsDaemon says that a keeper ended a connection without a word.
var ErrNotItsDaemon = errors.New("the keeper answers its daemon's user alone")

// Client is the daemon's side of a connection. It is safe for concurrent use. Packs that it created grow as long as it is
// open.
type Client struct {
	c       *net.UnixConn
	welcome Welcome
	began   Mark // the ledger when the connection began
	// follow is told the mark of each reply before the reply is handed on; nil for nobody. Its error ends the connection.
	follow func(Mark) error

	writing sync.Mutex // a request is written whole
	// commits are taken by manifests on their way: more at a time the keeper does not take.
	commits chan struct{}

	mu      sync.Mutex // guards the three below
	next    uint32
	waiting map[uint32]*waiter
	gone    error         // why no more replies come
	read    chan struct{} // closed once the reader has ended
}

// waiter waits for one reply.
type waiter struct {
	reply     chan answer // takes one without waiting
	abandoned bool        // nobody waits any more; guarded by the client's mu
}

// answer is what a request came to.
type answer struct {
	mark Mark
	body body
	file *os.File
	err  error
}

// greetWithin is how long a keeper may take to greet. One that takes longer hangs, or its disk does.
const greetWithin = 30 * time.Second

// Dial connects to the keeper's socket and greets it. program says who asks, for messages.
func Dial(ctx context.Context, socket, program string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%w: run this as that user: %v", ErrNotItsDaemon, err)
	}
	if err != nil {
		return nil, fmt.Errorf("the keeper does not answer at %q; is it running (systemctl status holdfast-keeper), and is this its daemon's user? %w: %v", socket, ErrGone, err)
	}
	within, done := context.WithTimeout(ctx, greetWithin)
	defer done()
	c, err := greet(within, conn.(*net.UnixConn), program)
	if err != nil && ctx.Err() == nil && within.Err() != nil {
		return nil, fmt.Errorf("the keeper at %q takes longer than %v to greet; is its disk hanging (systemctl status holdfast-keeper, dmesg)? %w", socket, greetWithin, ErrGone)
	}
	if errors.Is(err, ErrGone) && !errors.Is(err, ErrVersion) {
		err = fmt.Errorf("%w, and four connections at most; run this as that user. At %q: %w", ErrNotItsDaemon, socket, err)
	}
	return c, err
}

// greet begins a connection.
func greet(ctx context.Context, conn *net.UnixConn, program string) (*Client, error) {
	c := &Client{c: conn, waiting: map[uint32]*waiter{}, read: make(chan struct{}), commits: make(chan struct{}, uploadsMax)}
	go c.replies()
	a, err := c.call(ctx, KindHello, &Hello{Program: program})
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	c.welcome, c.began = *a.body.(*Welcome), a.mark
	return c, nil
}

// ended says whether no more replies come.
func (c *Client) ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone != nil
}

// believe follows the mark of a reply, and only then hands it on.
func (c *Client) believe(a answer) (answer, error) {
	if a.err != nil || c.follow == nil {
		return a, told(a.err)
	}
	if err := c.follow(a.mark); err != nil {
		if a.file != nil {
			_ = a.file.Close()
		}
		_ = c.c.Close() // nothing that comes from there is of use
		return answer{}, err
	}
	return a, nil
}

// Welcome is what the keeper said of itself.
func (c *Client) Welcome() Welcome { return c.welcome }

// Close ends the connection. What grows becomes a leftover.
func (c *Client) Close() error {
	err := c.c.Close()
	<-c.read
	return err
}

// replies hands each reply to who waits for it, until the connection ends.
func (c *Client) replies() {
	defer close(c.read)
	r := &descriptorReader{c: c.c}
	defer r.close()
	err := c.deliver(r)
	_ = c.c.Close() // else a keeper that talks nonsense would go on
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(err, ErrMalformed) || errors.Is(err, ErrVersion) {
		c.gone = fmt.Errorf("keeper: %w: %w", ErrGone, err)
	} else {
		// The system's own error stays out of the chain: who pulls would take it for the source's.
		c.gone = fmt.Errorf("keeper: %w: %v", ErrGone, err)
	}
	for id, w := range c.waiting {
		w.reply <- answer{err: c.gone}
		delete(c.waiting, id)
	}
}

func (c *Client) deliver(r *descriptorReader) error {
	for {
		f, err := readFrame(r)
		if err != nil {
			return err
		}
		var a answer
		a.mark, a.body, a.err = parseReply(f)
		if errors.Is(a.err, ErrMalformed) {
			return a.err
		}
		if a.err == nil && f.Kind.descriptor() {
			if a.file, err = r.take(); err != nil {
				return err
			}
		}
		c.mu.Lock()
		w := c.waiting[f.ID]
		delete(c.waiting, f.ID)
		if w != nil && !w.abandoned {
			w.reply <- a
			a.file = nil
		}
		c.mu.Unlock()
		if a.file != nil {
			_ = a.file.Close()
		}
		if w == nil {
			return fmt.Errorf("%w: a reply to request %d, which was not asked", ErrMalformed, f.ID)
		}
	}
}

// call asks and waits. A context that ends early ends the waiting, not the request.
func (c *Client) call(ctx context.Context, k Kind, m body) (answer, error) {
	w := &waiter{reply: make(chan answer, 1)}
	c.mu.Lock()
	if c.gone != nil {
		defer c.mu.Unlock()
		return answer{}, c.gone
	}
	c.next = max(c.next+1, 1)
	for c.waiting[c.next] != nil {
		c.next = max(c.next+1, 1)
	}
	id := c.next
	b, err := appendRequest(nil, id, k, m)
	if err != nil {
		c.mu.Unlock()
		return answer{}, err
	}
	c.waiting[id] = w
	c.mu.Unlock()
	c.writing.Lock()
	_, err = c.c.Write(b)
	c.writing.Unlock()
	if err != nil {
		_ = c.c.Close() // half a request is on its way: replies ends, and answers this one too
	}
	select {
	case a := <-w.reply:
		return c.believe(a)
	case <-ctx.Done():
	}
	c.mu.Lock()
	select {
	case a := <-w.reply: // it came in the last moment
		c.mu.Unlock()
		return c.believe(a)
	default:
		w.abandoned = true
		c.mu.Unlock()
		return answer{}, ctx.Err()
	}
}

// told puts a failure into the words of the packages that the daemon knows.
func told(err error) error {
	var f *Failure
	if !errors.As(err, &f) {
		return err
	}
	switch f.Code {
	case Missing:
		if set, serr := parseSet(f.Packs); serr == nil {
			return &worm.MissingPacks{Packs: set.ToArray()}
		}
	case Stale:
		return &worm.StaleHead{Detail: f.Text}
	case Spent:
		return fmt.Errorf("%w: %w", worm.ErrBudget, f)
	case Shorter:
		return fmt.Errorf("%w: %w", worm.ErrShorter, f)
	case Busy:
		return fmt.Errorf("%w: %w", durable.ErrWriter, f)
	case Full:
		return fmt.Errorf("%w: %w", durable.ErrFull, f)
	case Unknown:
		return fmt.Errorf("%w: %w", ledger.ErrBroken, f)
	case Halted:
		return fmt.Errorf("%w: %w", ErrHalted, f)
	}
	return f
}

// CreatePack begins a pack for a session of a source, as worm.Store's Bind and CreatePack do.
func (c *Client) CreatePack(ctx context.Context, session, source string) (*worm.Incoming, error) {
	a, err := c.call(ctx, KindCreate, &Create{session, source})
	if err != nil {
		return nil, err
	}
	n := a.body.(*Pack).Number
	return &worm.Incoming{Number: n, Session: session, File: durable.Adopt(a.file, fmt.Sprintf("pack %d", n))}, nil
}

// Seal closes a pack's file and has it made final. Durability and claim are those of worm.Store.Seal.
func (c *Client) Seal(ctx context.Context, in *worm.Incoming) (Sealed, error) {
	if err := in.File.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return Sealed{}, fmt.Errorf("pack %d: seal: %w", in.Number, err)
	}
	a, err := c.call(ctx, KindSeal, &Pack{in.Number})
	if err != nil {
		return Sealed{}, err
	}
	return *a.body.(*Sealed), nil
}

// Drop gives an unsealed pack up; Leave makes it a leftover. Its file is closed either way.
func (c *Client) Drop(ctx context.Context, in *worm.Incoming) error {
	_ = in.File.Close() // may be closed already
	return c.tell(ctx, KindDrop, &Pack{in.Number})
}

// Leave is described with Drop.
func (c *Client) Leave(ctx context.Context, in *worm.Incoming) error {
	_ = in.File.Close() // may be closed already
	return c.tell(ctx, KindLeave, &Pack{in.Number})
}

// Discard removes a leftover.
func (c *Client) Discard(ctx context.Context, n uint32) error {
	return c.tell(ctx, KindDiscard, &Pack{n})
}

// Release drops the claims of a session.
func (c *Client) Release(ctx context.Context, session string) error {
	return c.tell(ctx, KindRelease, &Session{session})
}

func (c *Client) tell(ctx context.Context, k Kind, m body) error {
	_, err := c.call(ctx, k, m)
	return err
}

// Leftovers lists the packs that nobody grows.
func (c *Client) Leftovers(ctx context.Context) ([]Leftover, error) {
	a, err := c.call(ctx, KindLeftovers, &Nothing{})
	if err != nil {
		return nil, err
	}
	return a.body.(*Leftovers).Packs, nil
}

// NextLabel gives what the next manifest of a source must carry.
func (c *Client) NextLabel(ctx context.Context, source string) (label, previous string, err error) {
	a, err := c.call(ctx, KindLabel, &Source{source})
	if err != nil {
		return "", "", err
	}
	m := a.body.(*Label)
	return m.Label, m.Previous, nil
}

// Claim says that a session relies on packs, and gives those that it cannot rely on.
func (c *Client) Claim(ctx context.Context, session string, packs *roaring.Bitmap) (missing *roaring.Bitmap, err error) {
	b, err := appendSet(packs)
	if err != nil {
		return nil, err
	}
	a, err := c.call(ctx, KindClaim, &Claim{session, b})
	if err != nil {
		return nil, err
	}
	return parseSet(a.body.(*PackSet).Packs)
}

// Commit sends a manifest and makes its snapshot. The commit point is worm.Store.Commit's.
func (c *Client) Commit(ctx context.Context, session string, manifest []byte, id string, lock ledger.Lock) (Committed, error) {
	want, err := parseID(id)
	if err != nil {
		return Committed{}, err
	}
	select {
	case c.commits <- struct{}{}:
		defer func() { <-c.commits }()
	case <-ctx.Done():
		return Committed{}, ctx.Err()
	}
	for at := 0; at < len(manifest); at += pieceMax {
		piece := manifest[at:min(at+pieceMax, len(manifest))]
		if _, err := c.call(ctx, KindPut, &Put{session, uint32(at), piece}); err != nil {
			return Committed{}, err
		}
	}
	a, err := c.call(ctx, KindCommit, &Commit{session, uint32(len(manifest)), want, lockOf(lock)})
	if err != nil {
		return Committed{}, err
	}
	return *a.body.(*Committed), nil
}

// Extend gives a snapshot a further lock, and returns the strongest that runs.
func (c *Client) Extend(ctx context.Context, id string, lock ledger.Lock, by string) (ledger.Lock, error) {
	snapshot, err := parseID(id)
	if err != nil {
		return ledger.Lock{}, err
	}
	a, err := c.call(ctx, KindExtend, &Extend{snapshot, lockOf(lock), by})
	if err != nil {
		return ledger.Lock{}, err
	}
	return a.body.(*Lock).ledger()
}

// Hold places a hold on a snapshot, and returns how many it has.
func (c *Client) Hold(ctx context.Context, id, reason, by string) (int, error) {
	snapshot, err := parseID(id)
	if err != nil {
		return 0, err
	}
	a, err := c.call(ctx, KindHold, &Hold{snapshot, reason, by})
	if err != nil {
		return 0, err
	}
	return int(a.body.(*Held).Holds), nil
}

// Condemn has what has run out marked.
func (c *Client) Condemn(ctx context.Context) (Condemned, error) {
	a, err := c.call(ctx, KindCondemn, &Nothing{})
	if err != nil {
		return Condemned{}, err
	}
	return *a.body.(*Condemned), nil
}

// Sweep has removed what was marked a day before. Which, says the ledger.
func (c *Client) Sweep(ctx context.Context) (Swept, error) {
	a, err := c.call(ctx, KindSweep, &Nothing{})
	if err != nil {
		return Swept{}, err
	}
	return *a.body.(*Swept), nil
}

// Checkpoint gives the newest signed checkpoint.
func (c *Client) Checkpoint(ctx context.Context) ([]byte, error) {
	a, err := c.call(ctx, KindCheckpoint, &Nothing{})
	if err != nil {
		return nil, err
	}
	return a.body.(*Checkpoint).Note, nil
}

// Now reads the keeper's clock.
func (c *Client) Now(ctx context.Context) (Now, error) {
	a, err := c.call(ctx, KindNow, &Nothing{})
	if err != nil {
		return Now{}, err
	}
	return *a.body.(*Now), nil
}

// Settle says how much that is published still lacks its record.
func (c *Client) Settle(ctx context.Context) (pending int, err error) {
	a, err := c.call(ctx, KindSettle, &Nothing{})
	if err != nil {
		return 0, err
	}
	return int(a.body.(*Pending).Files), nil
}

// Inspect tells what only the keeper can see.
func (c *Client) Inspect(ctx context.Context) ([]string, error) {
	a, err := c.call(ctx, KindInspect, &Nothing{})
	if err != nil {
		return nil, err
	}
	return a.body.(*Findings).Lines, nil
}

// descriptorReader reads a connection and keeps the descriptors that come with its bytes, in their order. A descriptor
// never comes later than the first byte of its reply.
type descriptorReader struct {
	c     *net.UnixConn
	files []*os.File
}

func (r *descriptorReader) Read(p []byte) (int, error) {
	oob := make([]byte, syscall.CmsgSpace(4*4))
	n, oobn, flags, _, err := r.c.ReadMsgUnix(p, oob)
	if oobn > 0 {
		if kerr := r.keep(oob[:oobn]); kerr != nil && err == nil {
			err = kerr
		}
	}
	if err == nil && flags&syscall.MSG_CTRUNC != 0 {
		err = fmt.Errorf("%w: more descriptors than any reply has", ErrMalformed)
	}
	return n, err
}

func (r *descriptorReader) keep(oob []byte) error {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	for i := range messages {
		fds, err := syscall.ParseUnixRights(&messages[i])
		if err != nil {
			continue // of another kind
		}
		for _, fd := range fds {
			r.files = append(r.files, os.NewFile(uintptr(fd), "from the keeper"))
		}
	}
	if len(r.files) > workMax {
		return fmt.Errorf("%w: descriptors that belong to no reply", ErrMalformed)
	}
	return nil
}

// take gives the oldest descriptor.
func (r *descriptorReader) take() (*os.File, error) {
	if len(r.files) == 0 {
		return nil, fmt.Errorf("%w: a reply without its descriptor", ErrMalformed)
	}
	f := r.files[0]
	r.files = r.files[1:]
	return f, nil
}

func (r *descriptorReader) close() {
	for _, f := range r.files {
		_ = f.Close()
	}
}
