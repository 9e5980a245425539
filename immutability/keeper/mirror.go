package keeper

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/level"
	"github.com/holdfast-vault/holdfast/immutability/policy"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// MirrorOptions says what OpenMirror mirrors.
type MirrorOptions struct {
	Disk    durable.Disk // the vault's directory, which this process may read; stays the caller's to close
	Clock   clock.Source // for reading only: what runs out is decided by the keeper's own clock
	Socket  string       // the keeper's
	Program string       // who asks, for messages
	// Whole, if it is not nil, is asked at each new connection whether Disk is still all that the vault lies on; an error of
	// it ends the connection.
	Whole func() error
	// Logf is told, in a sentence each, of what went wrong beside what was asked for; nil for nobody.
	Logf func(format string, args ...any)
}

// Mirror is a vault that a keeper keeps, as the daemon has it: what is written is asked of the keeper, what is read is read
// here, from the same files. The mark of every reply is followed in the ledger before the reply is believed, so that
// nobody but the keeper of these very files can answer.
//
// A connection that ends fails what is under way with an error in which ErrGone is; the next call connects again. Packs that
// grew are leftovers then, and the claims of sessions are renewed. It is safe for concurrent use.
type Mirror struct {
	reading
	o     MirrorOptions
	store *worm.Store // open for reading only, following

	ctx context.Context // ends with Close
	end context.CancelFunc

	dialling chan struct{} // full while a connection is made; taken before mu

	mu      sync.Mutex // guards all below
	client  *Client    // nil before the first connection
	growing map[uint32]*Client
	claims  map[string]*sessionClaims
	bound   map[string]string // the sources of sessions
	refused []policy.Refusal  // of the newest Adopt
}

// reading is what the mirror answers from its own state, as worm.Store does.
type reading interface {
	contents
	PlaceOf(file string) worm.Place
	packReading
	verdicts
}

type contents interface {
	Vault() string
	Keyring() []byte
	Policy() ledger.Policy
	Secured() (worm.Secured, bool)
	Locks(id string) ([]worm.LockInfo, error)
	Hardening() ([]worm.Hardening, error)
	Budgets() ([]worm.Budget, error)
	Ledger() *ledger.Ledger
	Snapshots() ([]worm.Snapshot, error)
	Snapshot(id string) (worm.Snapshot, error)
	Manifest(id string) ([]byte, error)
}

type packReading interface {
	Pack(n uint32) (worm.PackInfo, bool)
	Packs() []worm.PackInfo
	OpenPack(n uint32) (durable.File, int64, error)
	OpenPackAnew(n uint32) (durable.File, int64, error)
	OpenLeftover(n uint32) (durable.File, error)
}

type verdicts interface {
	CheckPack(ctx context.Context, n uint32) []worm.Damage
	PackRead(n uint32, sum string) bool
}

// OpenMirror connects to the keeper and reads the vault's ledger. Close ends both.
func OpenMirror(ctx context.Context, o MirrorOptions) (*Mirror, error) {
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	c, err := Dial(ctx, o.Socket, o.Program)
	if err != nil {
		return nil, err
	}
	if c.Welcome().Vault == "" {
		return nil, errors.Join(fmt.Errorf("the keeper at %q has no vault yet; make one with: holdfast init --keeper %s", o.Socket, o.Socket), c.Close())
	}
	// The ledger is read after the keeper has spoken, so that it holds what the keeper has spoken of.
	store, err := worm.Open(o.Disk, o.Clock, worm.Options{ReadOnly: true})
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	m := &Mirror{
		reading: store, o: o, store: store, growing: map[uint32]*Client{}, claims: map[string]*sessionClaims{}, bound: map[string]string{},
		dialling: make(chan struct{}, 1),
	}
	if err := m.take(c); err != nil {
		return nil, errors.Join(err, c.Close(), store.Close())
	}
	m.client = c
	m.ctx, m.end = context.WithCancel(context.WithoutCancel(ctx))
	return m, nil
}

// take makes sure that a new connection leads to the keeper of these files, and has the marks of its replies followed.
func (m *Mirror) take(c *Client) error {
	w := c.Welcome()
	if w.Vault != m.store.Vault() {
		return fmt.Errorf("%w: the keeper at %q keeps vault %q, and the directory holds vault %q: name the one's directory or the other's socket",
			ErrOther, m.o.Socket, w.Vault, m.store.Vault())
	}
	if v := m.store.Ledger().Verifier(); w.Verifier != v {
		return fmt.Errorf("%w: the keeper at %q signs as %q, and the ledger in the directory is signed as %q", ErrOther, m.o.Socket, w.Verifier, v)
	}
	if m.o.Whole != nil {
		// A keeper that was started anew may have got a place that is not known here.
		if err := m.o.Whole(); err != nil {
			return err
		}
	}
	c.follow = m.follow
	return m.follow(c.began)
}

// ErrOther says that the ledger behind the socket is not the one in the vault's directory: another vault's, an older copy, or
// no keeper at all. Nothing that came from there is believed.
var ErrOther = errors.New("another ledger is behind the keeper's socket")

func (m *Mirror) follow(mark Mark) error {
	err := m.store.Follow(mark.Size, [32]byte(mark.Root))
	if errors.Is(err, worm.ErrNotFollowed) {
		return fmt.Errorf("%w (%q): %w; nothing that it said is believed: see which vault the keeper has, and holdfast ledger verify", ErrOther, m.o.Socket, err)
	}
	if err != nil {
		return fmt.Errorf("the ledger of the vault cannot be followed: %w", err)
	}
	return nil
}

// connection gives the connection to the keeper, a new one where the last has ended.
func (m *Mirror) connection(ctx context.Context) (*Client, error) {
	if c := m.current(); c != nil {
		return c, nil
	}
	select {
	case m.dialling <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-m.dialling }()
	if c := m.current(); c != nil {
		return c, nil // somebody else made one meanwhile
	}
	if err := m.ctx.Err(); err != nil {
		return nil, fmt.Errorf("keeper: %w: it was closed", ErrGone)
	}
	c, err := Dial(ctx, m.o.Socket, m.o.Program)
	if err != nil {
		return nil, err
	}
	if err := m.take(c); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	m.mu.Lock()
	old := m.client
	m.client = c
	m.mu.Unlock()
	if old != nil {
		_ = old.Close() // it had ended
	}
	m.renewOn(ctx, c)
	return c, nil
}

func (m *Mirror) current() *Client {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.client == nil || m.client.ended() {
		return nil
	}
	return m.client
}

// ask has a request done that may be issued again: where the connection ends over it, once more on a new one.
func (m *Mirror) ask(ctx context.Context, do func(c *Client) error) error {
	for last := false; ; last = true {
		c, err := m.connection(ctx)
		if err != nil {
			return lost(err)
		}
		if err = do(c); last || !errors.Is(err, ErrGone) {
			return lost(err)
		}
	}
}

// lost says what to do where the keeper was lost.
func lost(err error) error {
	if errors.Is(err, ErrGone) {
		return fmt.Errorf("%w; nothing that was acknowledged is lost: once the keeper runs (systemctl status holdfast-keeper) pull again, and it goes on from there", err)
	}
	return err
}

// Close ends the connection and the mirror. What grows becomes a leftover.
func (m *Mirror) Close() error {
	m.end()
	m.dialling <- struct{}{}
	defer func() { <-m.dialling }()
	m.mu.Lock()
	c := m.client
	m.client = nil
	m.mu.Unlock()
	if c != nil {
		_ = c.Close() // nothing was owed
	}
	return m.store.Close()
}

// WeakPrefix begins the lines of Inspect that tell what is weak about the protection, which is no damage.
const WeakPrefix = "protection: "

// Protection gives the level of protection that the keeper found to hold when it tried last, and what got through in its
// hands, a line each.
func (m *Mirror) Protection(ctx context.Context) (holds level.Level, through []string, err error) {
	err = m.ask(ctx, func(c *Client) error {
		a, err := c.call(ctx, KindHello, &Hello{Program: "holdfast"}) // it may have tried again since the first
		if err != nil {
			return err
		}
		holds = level.Parse(a.body.(*Welcome).Level)
		lines, err := c.Inspect(ctx)
		through = nil
		for _, line := range lines {
			if weak, ok := strings.CutPrefix(line, WeakPrefix); ok {
				through = append(through, weak)
			}
		}
		return err
	})
	return holds, through, err
}

// sessionClaims is what the keeper said of the packs that a session asked for.
type sessionClaims struct{ granted, refused *roaring.Bitmap }

// of gives the claims of a session. m.mu is held.
func (m *Mirror) of(session string) *sessionClaims {
	c := m.claims[session]
	if c == nil {
		c = &sessionClaims{roaring.New(), roaring.New()}
		m.claims[session] = c
	}
	return c
}
