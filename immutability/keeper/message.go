package keeper

import (
	"errors"
	"fmt"

	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// Kind says what a request asks for.
type Kind uint8

// The kinds of requests. docs/KEEPER.md says for each what the keeper does.
const (
	KindHello Kind = 1 + iota
	KindCreate
	KindSeal
	KindDrop
	KindLeave
	KindLeftovers
	KindDiscard
	KindLabel
	KindPut
	KindCommit
	KindExtend
	KindClaim
	KindRelease
	KindCondemn
	KindSweep
	KindCheckpoint
	KindNow
	KindSettle
	KindProbe
	KindInspect
	KindFound
	KindHold
)

// Code says what became of a request.
type Code uint16

// The codes.
const (
	Done         Code = iota
	Refused           // it will be refused again
	OtherVersion      // of another version of the protocol
	Malformed         // no request of this protocol
	Busy              // a writer is left: again, once it has closed the file
	Missing           // packs that cannot be relied on; the failure lists them
	Stale             // the manifest's head is out of date: ask label again
	Shorter           // running locks only grow
	Absent            // no such snapshot, pack or request
	Full              // no room on the keeper's disk
	Unknown           // not known whether it is done: ask again, which changes nothing more
	Halted            // the ledger is damaged, or behind what it signed, or the clock was shifted
	Spent             // the source's budget is used up
	codes
)

const (
	sessionMax  = 64
	sourceMax   = 63
	textMax     = 4096
	byMax       = 256
	noteMax     = 64 << 10
	pieceMax    = 256 << 10
	packSetMax  = bodyMax - 8<<10
	identityMax = 64 << 10
	leftoverMax = 65536
	findingsMax = 200 // of textMax bytes at most they still fit a body
)

// ID is a SHA-256: a snapshot's, a pack's, or the root of the ledger's tree.
type ID [32]byte

// Mark is the ledger as it stands once a request is done.
type Mark struct {
	Size uint64 // records that count
	Root ID     // root of their tree
}

func (m *Mark) fields(c *coder) { c.uint64(&m.Size); c.id(&m.Root) }

// Lock is a lock as the daemon asks for it; zeros stand for the policy's.
type Lock struct {
	Mode    uint8 // 0 the policy's, 1 governance, 2 compliance
	Seconds uint64
}

func (l *Lock) fields(c *coder) {
	c.uint8(&l.Mode)
	c.uint64(&l.Seconds)
	if l.Mode > 2 {
		c.fail(fmt.Errorf("lock mode %d", l.Mode))
	}
}

// Hello is the first request of a connection.
type Hello struct{ Program string }

func (m *Hello) fields(c *coder) { c.str(&m.Program, byMax) }

// Welcome answers Hello.
type Welcome struct {
	Vault    string // 32 hex digits
	Verifier string // of the checkpoints
	Level    string // the protection that holds
	PID      uint32 // the keeper's, for messages
}

func (m *Welcome) fields(c *coder) {
	c.str(&m.Vault, 32)
	c.str(&m.Verifier, byMax)
	c.str(&m.Level, sessionMax)
	c.uint32(&m.PID)
}

// Probing is a file to be sealed in order to be attacked, whose descriptor comes with the reply. Seal and drop with number
// 0 are about it; the connection has one at a time.
type Probing struct{ File string } // the name below the vault's root that it has once it is sealed

func (m *Probing) fields(c *coder) { c.str(&m.File, byMax) }

// Create begins a pack for a session of a source, whose budget it counts against.
type Create struct{ Session, Source string }

func (m *Create) fields(c *coder) { c.str(&m.Session, sessionMax); c.str(&m.Source, sourceMax) }

// Session names a session: release.
type Session struct{ Session string }

func (m *Session) fields(c *coder) { c.str(&m.Session, sessionMax) }

// Pack names a pack: seal, drop, leave, discard, and the replies that come with a descriptor.
type Pack struct{ Number uint32 }

func (m *Pack) fields(c *coder) { c.uint32(&m.Number) }

// Sealed answers a seal.
type Sealed struct {
	Bytes  uint64
	SHA256 ID
}

func (m *Sealed) fields(c *coder) { c.uint64(&m.Bytes); c.id(&m.SHA256) }

// Leftover is a pack that nobody's connection grows.
type Leftover struct {
	Number uint32
	Bytes  uint64
}

// Leftovers answers the request for them, ascending.
type Leftovers struct{ Packs []Leftover }

func (m *Leftovers) fields(c *coder) {
	n := c.count(len(m.Packs), leftoverMax, 12)
	if !c.write {
		m.Packs = make([]Leftover, n)
	}
	for i := range n {
		p := &m.Packs[i]
		c.uint32(&p.Number)
		c.uint64(&p.Bytes)
		if i > 0 && p.Number <= m.Packs[i-1].Number {
			c.fail(errors.New("packs are not ascending"))
		}
	}
}

// Source names a source.
type Source struct{ Source string }

func (m *Source) fields(c *coder) { c.str(&m.Source, sourceMax) }

// Label is what the next manifest of a source must carry.
type Label struct{ Label, Previous string }

func (m *Label) fields(c *coder) { c.str(&m.Label, 32); c.str(&m.Previous, 64) }

// Put is a piece of a manifest; pieces come in order, and one at nought begins anew.
type Put struct {
	Session string
	Offset  uint32
	Data    []byte // 1 to 262,144 bytes
}

func (m *Put) fields(c *coder) {
	c.str(&m.Session, sessionMax)
	c.uint32(&m.Offset)
	c.blob(&m.Data, pieceMax)
	if len(m.Data) == 0 {
		c.fail(errors.New("an empty piece"))
	}
}

// Length is how much of a manifest has come.
type Length struct{ Bytes uint32 }

func (m *Length) fields(c *coder) { c.uint32(&m.Bytes) }

// Commit makes a snapshot of the manifest whose pieces were put.
type Commit struct {
	Session  string
	Bytes    uint32
	Snapshot ID
	Lock     Lock
}

func (m *Commit) fields(c *coder) {
	c.str(&m.Session, sessionMax)
	c.uint32(&m.Bytes)
	c.id(&m.Snapshot)
	m.Lock.fields(c)
}

// Committed answers a commit.
type Committed struct {
	Label string
	Lock  Lock // as it was granted
}

func (m *Committed) fields(c *coder) { c.str(&m.Label, 32); m.Lock.fields(c) }

// Extend asks for a further lock of a snapshot; zeros stand for those of the locks that run.
type Extend struct {
	Snapshot ID
	Lock     Lock
	By       string // who asks, for the record
}

func (m *Extend) fields(c *coder) {
	c.id(&m.Snapshot)
	m.Lock.fields(c)
	c.str(&m.By, byMax)
}

// Hold keeps a snapshot for ever.
type Hold struct {
	Snapshot ID
	Reason   string
	By       string // who asks, for the record
}

func (m *Hold) fields(c *coder) {
	c.id(&m.Snapshot)
	c.str(&m.Reason, worm.ReasonMax)
	c.str(&m.By, byMax)
}

// Held answers a hold.
type Held struct{ Holds uint32 }

func (m *Held) fields(c *coder) { c.uint32(&m.Holds) }

// Claim says that a session relies on packs, a Roaring bitmap in the portable serialisation.
type Claim struct {
	Session string
	Packs   []byte
}

func (m *Claim) fields(c *coder) { c.str(&m.Session, sessionMax); c.blob(&m.Packs, packSetMax) }

// PackSet answers a claim with the packs that cannot be relied on.
type PackSet struct{ Packs []byte }

func (m *PackSet) fields(c *coder) { c.blob(&m.Packs, packSetMax) }

// Condemned says how many are newly condemned.
type Condemned struct{ Packs, Snapshots uint32 }

func (m *Condemned) fields(c *coder) { c.uint32(&m.Packs); c.uint32(&m.Snapshots) }

// Swept says how many are gone; which, says the ledger.
type Swept struct {
	Packs, Snapshots uint32
	Bytes            uint64
}

func (m *Swept) fields(c *coder) { c.uint32(&m.Packs); c.uint32(&m.Snapshots); c.uint64(&m.Bytes) }

// Checkpoint is the newest signed checkpoint.
type Checkpoint struct{ Note []byte }

func (m *Checkpoint) fields(c *coder) { c.blob(&m.Note, noteMax) }

// Now is the keeper's clock.
type Now struct {
	Wall    uint64 // seconds since 1970, UTC
	Running uint64 // seconds of credited running time
	Boot    string
	Shifted bool // nothing expires
	Why     string
}

func (m *Now) fields(c *coder) {
	c.uint64(&m.Wall)
	c.uint64(&m.Running)
	c.str(&m.Boot, sessionMax)
	c.flag(&m.Shifted)
	c.str(&m.Why, textMax)
}

// Pending is how many published files still lack their record.
type Pending struct{ Files uint32 }

func (m *Pending) fields(c *coder) { c.uint32(&m.Files) }

// Findings is what only the keeper can see, a line each.
type Findings struct{ Lines []string }

func (m *Findings) fields(c *coder) {
	n := c.count(len(m.Lines), findingsMax, 2)
	if !c.write {
		m.Lines = make([]string, n)
	}
	for i := range n {
		c.str(&m.Lines[i], textMax)
	}
}

// Nothing is the body of requests and replies that have none.
type Nothing struct{}

func (*Nothing) fields(*coder) {}

// Failure is why a request was not done.
type Failure struct {
	Code  Code
	Text  string
	Packs []byte // of Missing: those that cannot be relied on
}

func (m *Failure) fields(c *coder) {
	c.str(&m.Text, textMax)
	if m.Code == Missing {
		c.blob(&m.Packs, packSetMax)
	}
}

func (m *Failure) Error() string { return fmt.Sprintf("keeper: %s", m.Text) }

// Founding asks a keeper without a vault to make one.
type Founding struct {
	Vault    string // 32 hex digits
	Identity []byte // content of vault.json
	Keyring  []byte // the wrapped keyring
	Policy   []byte // the lock policy in the ledger's form, JSON
}

func (m *Founding) fields(c *coder) {
	c.str(&m.Vault, 32)
	c.blob(&m.Identity, identityMax)
	c.blob(&m.Keyring, keyringMax)
	c.blob(&m.Policy, noteMax)
}

// form is the two bodies of a kind.
type form struct {
	name           string
	request, reply func() body
}

func newBody[T any, P interface {
	*T
	body
}]() body {
	return P(new(T))
}

var forms = map[Kind]form{
	KindHello:      {"hello", newBody[Hello], newBody[Welcome]},
	KindCreate:     {"create", newBody[Create], newBody[Pack]},
	KindSeal:       {"seal", newBody[Pack], newBody[Sealed]},
	KindDrop:       {"drop", newBody[Pack], newBody[Nothing]},
	KindLeave:      {"leave", newBody[Pack], newBody[Nothing]},
	KindLeftovers:  {"leftovers", newBody[Nothing], newBody[Leftovers]},
	KindDiscard:    {"discard", newBody[Pack], newBody[Nothing]},
	KindLabel:      {"label", newBody[Source], newBody[Label]},
	KindPut:        {"put", newBody[Put], newBody[Length]},
	KindCommit:     {"commit", newBody[Commit], newBody[Committed]},
	KindExtend:     {"extend", newBody[Extend], newBody[Lock]},
	KindClaim:      {"claim", newBody[Claim], newBody[PackSet]},
	KindRelease:    {"release", newBody[Session], newBody[Nothing]},
	KindCondemn:    {"condemn", newBody[Nothing], newBody[Condemned]},
	KindSweep:      {"sweep", newBody[Nothing], newBody[Swept]},
	KindCheckpoint: {"checkpoint", newBody[Nothing], newBody[Checkpoint]},
	KindNow:        {"now", newBody[Nothing], newBody[Now]},
	KindSettle:     {"settle", newBody[Nothing], newBody[Pending]},
	KindProbe:      {"probe", newBody[Nothing], newBody[Probing]},
	KindInspect:    {"inspect", newBody[Nothing], newBody[Findings]},
	KindKeyring:    {"keyring", newBody[Keyring], newBody[Nothing]},
	KindCosigned:   {"cosigned", newBody[Checkpoint], newBody[Nothing]},
	KindOrigin:     {"origin", newBody[NewOrigin], newBody[Begun]},
	KindFound:      {"found", newBody[Founding], newBody[Welcome]},
	KindHold:       {"hold", newBody[Hold], newBody[Held]},
	KindSubmit:     {"submit", newBody[Submit], newBody[Brought]},
	KindVeto:       {"veto", newBody[Veto], newBody[Nothing]},
	KindSecure:     {"secure", newBody[Secure], newBody[Nothing]},
	KindDue:        {"due", newBody[Nothing], newBody[CarriedOut]},
}

func (k Kind) String() string {
	if f, ok := forms[k]; ok {
		return f.name
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// descriptor says whether a file descriptor comes with the reply.
func (k Kind) descriptor() bool { return k == KindCreate || k == KindProbe }

// parseRequest gives what a frame asks for.
func parseRequest(f frame) (body, error) {
	form, known := forms[f.Kind]
	switch {
	case !known:
		return nil, fmt.Errorf("%w: %v", ErrMalformed, f.Kind)
	case f.Code != Done:
		return nil, fmt.Errorf("%w: %v with code %d", ErrMalformed, f.Kind, f.Code)
	}
	m := form.request()
	if err := decode(f.Body, m); err != nil {
		return nil, fmt.Errorf("%w: %v: %w", ErrMalformed, f.Kind, err)
	}
	return m, nil
}

// appendRequest appends the frame of a request.
func appendRequest(dst []byte, id uint32, k Kind, m body) ([]byte, error) {
	b, err := encode(nil, m)
	if err != nil {
		return dst, fmt.Errorf("keeper: %v: %w", k, err)
	}
	return appendFrame(dst, frame{ID: id, Kind: k, Body: b})
}

// parseReply gives what a frame answers, with the ledger's mark; a *Failure where the request was not done.
func parseReply(f frame) (Mark, body, error) {
	form, known := forms[f.Kind]
	if !known || f.Code >= codes {
		return Mark{}, nil, fmt.Errorf("%w: reply to %v with code %d", ErrMalformed, f.Kind, f.Code)
	}
	if f.Code != Done {
		m := &Failure{Code: f.Code}
		if err := decode(f.Body, m); err != nil {
			return Mark{}, nil, fmt.Errorf("%w: failure of %v: %w", ErrMalformed, f.Kind, err)
		}
		return Mark{}, nil, m
	}
	m := &marked{body: form.reply()}
	if err := decode(f.Body, m); err != nil {
		return Mark{}, nil, fmt.Errorf("%w: reply to %v: %w", ErrMalformed, f.Kind, err)
	}
	return m.mark, m.body, nil
}

// marked is the body of a reply: the mark, and what the kind has.
type marked struct {
	mark Mark
	body body
}

func (m *marked) fields(c *coder) { m.mark.fields(c); m.body.fields(c) }

// appendReply appends the frame of a reply to a request that is done.
func appendReply(dst []byte, id uint32, k Kind, mark Mark, m body) ([]byte, error) {
	b, err := encode(nil, &marked{mark: mark, body: m})
	if err != nil {
		return dst, fmt.Errorf("keeper: reply to %v: %w", k, err)
	}
	return appendFrame(dst, frame{ID: id, Kind: k, Body: b})
}

// appendFailure appends the frame of a reply to a request that is not done. A text that is too long is cut.
func appendFailure(dst []byte, id uint32, k Kind, m *Failure) ([]byte, error) {
	if m.Code == Done || m.Code >= codes {
		return dst, fmt.Errorf("keeper: failure of %v with code %d", k, m.Code)
	}
	short := *m
	short.Text = m.Text[:min(len(m.Text), textMax)]
	b, err := encode(nil, &short)
	if err != nil {
		return dst, fmt.Errorf("keeper: failure of %v: %w", k, err)
	}
	return appendFrame(dst, frame{ID: id, Kind: k, Code: m.Code, Body: b})
}
