package keeper

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// do answers one request; the descriptor of a pack that was created goes with the reply.
func (p *peer) do(ctx context.Context, k Kind, m body) (body, *grown, error) {
	if !mayAsk(k, p.operator) {
		return nil, nil, fmt.Errorf("%v is not asked at this socket", k)
	}
	switch m := m.(type) {
	case *Hello:
		return p.welcome(), nil, nil
	case *Founding:
		reply, err := p.found(ctx, m)
		return reply, nil, err
	case *Create:
		return p.create(m)
	case *Session:
		p.s.Store().Release(m.Session)
		return &Nothing{}, nil, nil
	case *Nothing:
		if k == KindProbe {
			return p.createProbe()
		}
	case *Pack:
		if m.Number == 0 {
			reply, err := p.probed(ctx, k)
			return reply, nil, err
		}
		reply, err := p.pack(ctx, k, m.Number)
		return reply, nil, err
	case *Put:
		reply, err := p.put(m)
		return reply, nil, err
	case *Commit:
		reply, err := p.commit(ctx, m)
		return reply, nil, err
	}
	reply, err := p.ask(ctx, k, m)
	return reply, nil, err
}

// ask answers what concerns no file of the connection's own.
func (p *peer) ask(ctx context.Context, k Kind, m body) (body, error) {
	store := p.s.Store()
	switch m := m.(type) {
	case *Source:
		label, previous, err := store.NextLabel(m.Source)
		return &Label{Label: label, Previous: previous}, err
	case *Extend:
		return p.extend(ctx, m)
	case *Hold:
		return p.hold(ctx, m)
	case *Claim:
		return p.claim(m)
	case *Submit:
		return p.submit(ctx, m)
	case *Veto:
		return p.veto(ctx, m)
	case *Secure:
		return &Nothing{}, store.Secure(context.WithoutCancel(ctx), m.Reason, m.By)
	case *Checkpoint:
		return &Nothing{}, store.Cosigned(context.WithoutCancel(ctx), m.Note)
	case *NewOrigin:
		return p.newOrigin(ctx, m)
	case *Keyring:
		return &Nothing{}, store.SetKeyring(ctx, m.Keyring, m.Reason)
	}
	switch k {
	case KindLeftovers:
		return p.leftovers()
	case KindCondemn:
		snapshots, packs, err := store.Condemn(ctx)
		return &Condemned{Packs: uint32(packs), Snapshots: uint32(snapshots)}, err
	case KindSweep:
		rep, err := store.Sweep(ctx)
		return &Swept{Packs: uint32(len(rep.Packs)), Snapshots: uint32(len(rep.Snapshots)), Bytes: uint64(rep.Bytes)}, err
	case KindCheckpoint:
		return &Checkpoint{Note: store.Ledger().Checkpoint()}, nil
	case KindNow:
		return p.now()
	case KindSettle:
		return &Pending{Files: uint32(store.Settle())}, nil
	case KindInspect:
		return p.inspect(ctx), nil
	case KindDue:
		n, err := store.CarryOut(context.WithoutCancel(ctx))
		return &CarriedOut{Requests: uint32(n)}, err
	}
	return nil, fmt.Errorf("%w: %v", ErrMalformed, k)
}

func (p *peer) welcome() *Welcome {
	w := &Welcome{Level: p.s.o.Level(), PID: uint32(os.Getpid())}
	if store := p.s.Store(); store != nil {
		w.Vault, w.Verifier = store.Vault(), store.Ledger().Verifier()
	}
	return w
}

var errTooMany = errors.New("too many at once: seal, drop or leave some first")

func (p *peer) create(m *Create) (body, *grown, error) {
	p.mu.Lock()
	full := len(p.growing)+p.creates >= growingMax
	if !full {
		p.creates++
	}
	p.mu.Unlock()
	if full {
		return nil, nil, fmt.Errorf("%d packs grow: %w", growingMax, errTooMany)
	}
	var in *worm.Incoming
	err := p.s.Store().Bind(m.Session, m.Source)
	if err == nil {
		in, err = p.s.Store().CreatePack(m.Session)
	}
	var file *os.File
	if err == nil {
		if file, err = in.Hand(); err != nil {
			err = errors.Join(err, p.s.Store().Drop(in))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.creates--
	if err != nil {
		return nil, nil, err
	}
	g := &grown{in: in, file: file, handed: make(chan struct{})}
	p.growing[in.Number] = g
	return &Pack{Number: in.Number}, g, nil
}

// take gives a pack that this connection grows to one request alone.
func (p *peer) take(n uint32) (*grown, error) {
	p.mu.Lock()
	g := p.growing[n]
	delete(p.growing, n)
	p.mu.Unlock()
	if g == nil {
		return nil, fmt.Errorf("pack %d is not one that this connection grows: %w", n, worm.ErrNoPack)
	}
	<-g.handed // its reply is out, or it could not have been asked for, or will be in a moment
	return g, nil
}

func (p *peer) pack(ctx context.Context, k Kind, n uint32) (body, error) {
	if k == KindDiscard {
		return &Nothing{}, p.s.Store().Discard(n)
	}
	g, err := p.take(n)
	if err != nil {
		return nil, err
	}
	switch k {
	case KindSeal:
		return p.seal(ctx, g)
	case KindDrop:
		err = p.s.Store().Drop(g.in)
	default:
		err = p.s.Store().Leave(g.in)
	}
	if err != nil {
		p.giveBack(g)
	}
	return &Nothing{}, err
}

func (p *peer) giveBack(g *grown) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.growing[g.in.Number] = g
}

// seal finishes what it began even where the connection ends meanwhile. A pack whose seal failed can be dropped or left.
func (p *peer) seal(ctx context.Context, g *grown) (body, error) {
	info, err := p.s.Store().Seal(context.WithoutCancel(ctx), g.in)
	if err != nil {
		p.giveBack(g)
		return nil, err
	}
	reply := &Sealed{Bytes: uint64(info.Bytes)}
	reply.SHA256, err = parseID(info.SHA256)
	return reply, err
}

func parseID(digits string) (id ID, err error) {
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) != len(id) {
		return ID{}, fmt.Errorf("%q is not 64 hex digits", digits)
	}
	return ID(b), nil
}

func (id ID) String() string { return hex.EncodeToString(id[:]) }

func (p *peer) leftovers() (body, error) {
	left, err := p.s.Store().Leftovers()
	if err != nil {
		return nil, err
	}
	reply := &Leftovers{}
	for _, l := range left[:min(len(left), leftoverMax)] {
		reply.Packs = append(reply.Packs, Leftover{Number: l.Number, Bytes: uint64(l.Bytes)})
	}
	return reply, nil
}

// upload is a manifest on its way.
type upload struct {
	bytes []byte
	last  uint64 // which of the connection's pieces came last
}

// put adds a piece to a manifest on its way. What nobody went on with gives its place to another: a commit that was given up
// midway must not keep later ones out.
func (p *peer) put(m *Put) (body, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.uploads[m.Session]
	if u == nil {
		u = &upload{}
	}
	have := u.bytes
	if m.Offset == 0 {
		have = nil
	}
	switch {
	case int64(m.Offset) != int64(len(have)):
		return nil, fmt.Errorf("a piece of a manifest at %d, and %d bytes have come", m.Offset, len(have))
	case len(have)+len(m.Data) > reliance.MaxManifest:
		delete(p.uploads, m.Session)
		return nil, fmt.Errorf("the manifest has more than %d bytes", reliance.MaxManifest)
	case p.uploads[m.Session] == nil && p.commits >= committingMax:
		return nil, fmt.Errorf("%d manifests are being committed: %w", p.commits, errTooMany)
	}
	for p.uploads[m.Session] == nil && len(p.uploads) >= uploadsMax {
		p.forgetUpload()
	}
	p.puts++
	u.bytes, u.last = append(have, m.Data...), p.puts
	p.uploads[m.Session] = u
	return &Length{Bytes: uint32(len(u.bytes))}, nil
}

// forgetUpload drops the manifest to which nothing was added for longest. p.mu is held.
func (p *peer) forgetUpload() {
	oldest, last := "", uint64(math.MaxUint64)
	for session, u := range p.uploads {
		if u.last < last {
			oldest, last = session, u.last
		}
	}
	delete(p.uploads, oldest)
}

// takeUpload gives the manifest that came for a session, to be committed.
func (p *peer) takeUpload(session string) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.commits >= committingMax {
		return nil, fmt.Errorf("%d manifests are being committed: %w", p.commits, errTooMany)
	}
	p.commits++
	u := p.uploads[session]
	delete(p.uploads, session)
	if u == nil {
		return nil, nil
	}
	return u.bytes, nil
}

var modes = []ledger.Mode{"", ledger.Governance, ledger.Compliance}

func (l Lock) ledger() (ledger.Lock, error) {
	if l.Seconds > 1<<40 {
		return ledger.Lock{}, fmt.Errorf("a lock of %d s", l.Seconds)
	}
	return ledger.Lock{Mode: modes[l.Mode], ForSeconds: int64(l.Seconds)}, nil
}

func lockOf(l ledger.Lock) Lock {
	out := Lock{Seconds: uint64(max(l.ForSeconds, 0))}
	for i, mode := range modes {
		if mode == l.Mode {
			out.Mode = uint8(i)
		}
	}
	return out
}

func (p *peer) commit(ctx context.Context, m *Commit) (body, error) {
	manifest, err := p.takeUpload(m.Session)
	if err != nil {
		return nil, err
	}
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.commits--
	}()
	if len(manifest) != int(m.Bytes) || reliance.ID(manifest) != m.Snapshot.String() {
		return nil, fmt.Errorf("the manifest that came (%d bytes) is not the one that was meant (%d): put it again", len(manifest), m.Bytes)
	}
	lock, err := m.Lock.ledger()
	if err != nil {
		return nil, err
	}
	snap, err := p.s.Store().Commit(context.WithoutCancel(ctx), m.Session, manifest, lock)
	if err != nil {
		return nil, err
	}
	return &Committed{Label: snap.Label, Lock: lockOf(snap.Lock)}, nil
}

// extend grows a lock up to what the policy allows. More needs a quorum, and that does not come through the daemon.
func (p *peer) extend(ctx context.Context, m *Extend) (body, error) {
	lock, err := m.Lock.ledger()
	if err != nil {
		return nil, err
	}
	snap, err := p.s.Store().Extend(ctx, m.Snapshot.String(), lock, m.By)
	if err != nil {
		return nil, err
	}
	reply := lockOf(snap.Lock)
	return &reply, nil
}

// hold keeps a snapshot for ever. There is no message that takes one away.
func (p *peer) hold(ctx context.Context, m *Hold) (body, error) {
	snap, err := p.s.Store().Hold(ctx, m.Snapshot.String(), m.Reason, m.By)
	if err != nil {
		return nil, err
	}
	return &Held{Holds: uint32(len(snap.Holds))}, nil
}

func (p *peer) claim(m *Claim) (body, error) {
	if !reliance.ValidSession(m.Session) {
		return nil, fmt.Errorf("session %q is not 1 to 64 of [A-Za-z0-9_-]", m.Session)
	}
	set, err := parseSet(m.Packs)
	if err != nil {
		return nil, err
	}
	missing, err := appendSet(p.s.Store().Claim(m.Session, set))
	return &PackSet{Packs: missing}, err
}

// parseSet and appendSet use the form that a set of packs has in a manifest's head, in its only spelling.
func parseSet(b []byte) (*roaring.Bitmap, error) { return reliance.Head{Packs: b}.PackSet() }

func appendSet(set *roaring.Bitmap) ([]byte, error) {
	var h reliance.Head
	err := h.SetPacks(set)
	return h.Packs, err
}

func (p *peer) now() (body, error) {
	now, err := p.s.Store().Now()
	if err != nil {
		return nil, err
	}
	reply := &Now{Wall: uint64(max(now.Wall.Unix(), 0)), Running: uint64(max(now.Running, 0)), Boot: now.Boot}
	reply.Shifted, reply.Why = p.s.Store().ClockShifted()
	return reply, nil
}

func (m Now) stamp() clock.Stamp {
	return clock.Stamp{Wall: time.Unix(int64(m.Wall), 0).UTC(), Running: int64(m.Running), Boot: m.Boot}
}

// inspect tells what only the keeper can see: the daemon checks everything else itself.
func (p *peer) inspect(ctx context.Context) body {
	reply := &Findings{}
	for _, line := range p.s.o.Findings() {
		reply.Lines = append(reply.Lines, line[:min(len(line), textMax)])
	}
	if n := p.s.Store().Unguarded(); n > 0 {
		// They have them again, and their content was held against the ledger: a power cut leaves this, and a copy put back.
		reply.Lines = append(reply.Lines, fmt.Sprintf("%s%d files and directories lacked their flags when the keeper started, and have them again: after a power cut, in a copy that was put back, or because somebody lifted them", WeakPrefix, n))
	}
	for _, d := range p.s.Store().Check(ctx, false) {
		if len(reply.Lines) < findingsMax {
			line := d.String()
			reply.Lines = append(reply.Lines, line[:min(len(line), textMax)])
		}
	}
	return reply
}

// failure puts an error into the protocol's words.
func failure(err error) *Failure {
	f := &Failure{Code: Refused, Text: err.Error()}
	var missing *worm.MissingPacks
	var stale *worm.StaleHead
	switch {
	case errors.As(err, &missing):
		if set, serr := appendSet(roaring.BitmapOf(missing.Packs...)); serr == nil && len(set) <= packSetMax {
			f.Code, f.Packs = Missing, set
		}
	case errors.As(err, &stale):
		f.Code = Stale
	case errors.Is(err, worm.ErrBudget):
		f.Code = Spent
	case errors.Is(err, worm.ErrShorter):
		f.Code = Shorter
	case errors.Is(err, worm.ErrNoSnapshot), errors.Is(err, worm.ErrNoPack), errors.Is(err, worm.ErrNoRequest):
		f.Code = Absent
	case errors.Is(err, durable.ErrWriter), errors.Is(err, errTooMany):
		f.Code = Busy
	case durable.IsNoSpace(err):
		f.Code = Full
	case errors.Is(err, ledger.ErrBroken):
		f.Code = Unknown
	case errors.Is(err, ledger.ErrForeign), errors.Is(err, ledger.ErrBehind):
		f.Code = Halted
	}
	return f
}

// isEnd says whether a connection ended as connections do.
func isEnd(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET)
}
