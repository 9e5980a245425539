package keeper

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

const (
	// KindCosigned brings a checkpoint with what witnesses said of it. The keeper has no network: the daemon asks them, and
	// the keeper verifies with keys and a quorum of its own.
	KindCosigned Kind = 23
	// KindOrigin lets a ledger that is behind what it signed go on under another origin. It is a person's to ask, as the
	// keeper's user.
	KindOrigin Kind = 32
)

// NewOrigin is what a person says who gives up what the ledger lost.
type NewOrigin struct {
	Note   []byte // a checkpoint that shows it; empty if the keeper knows of one
	Root   string // base64 root of the records that are here, typed by that person
	By     string
	Reason string
	// Request is what the people in force signed, of action origin, and Signatures theirs; empty in a vault without any.
	Request    []byte
	Signatures [][]byte
}

func (m *NewOrigin) fields(c *coder) {
	c.blob(&m.Note, noteMax)
	c.str(&m.Root, sessionMax)
	c.str(&m.By, byMax)
	c.str(&m.Reason, byMax)
	c.blob(&m.Request, quorum.MaxRequest)
	c.blobs(&m.Signatures, quorum.MostPeople, quorum.MaxSignature)
}

// Begun is the record that began another origin.
type Begun struct {
	Record   uint64
	Verifier string // of the checkpoints from now on
	Own      uint64 // records that go on
	Lost     uint64 // records that the head which is given up covers
}

func (m *Begun) fields(c *coder) {
	c.uint64(&m.Record)
	c.str(&m.Verifier, byMax)
	c.uint64(&m.Own)
	c.uint64(&m.Lost)
}

// ErrHalted is in the chain of the error of every request that the keeper refuses because of the state of its ledger.
var ErrHalted = errors.New("the keeper writes nothing")

func (p *peer) newOrigin(ctx context.Context, m *NewOrigin) (body, error) {
	store, ctx := p.s.Store(), context.WithoutCancel(ctx)
	note := m.Note
	if len(note) == 0 {
		note = nil
	}
	begin := func() (ledger.Record, error) { return store.BeginOrigin(ctx, note, m.Root, m.By, m.Reason) }
	if len(m.Request) > 0 {
		begin = func() (ledger.Record, error) {
			return store.BeginOriginSigned(ctx, m.Request, m.Signatures, m.Root, m.By, m.Reason)
		}
	}
	r, err := begin()
	if err != nil {
		return nil, err
	}
	return &Begun{Record: r.Seq, Verifier: r.Origin.Verifier, Own: r.Origin.Own.Size, Lost: r.Origin.Lost.Size}, nil
}

// Cosigned brings a cosigned checkpoint. On return what the keeper believes of it is durable. ErrHalted: it is a checkpoint of
// the keeper's own ledger that this ledger does not extend, and from now on nothing is written.
func (c *Client) Cosigned(ctx context.Context, signed []byte) error {
	return c.tell(ctx, KindCosigned, &Checkpoint{signed})
}

// NewOrigin asks for another origin, at the operators' socket.
func (c *Client) NewOrigin(ctx context.Context, m NewOrigin) (Begun, error) {
	a, err := c.call(ctx, KindOrigin, &m)
	if err != nil {
		return Begun{}, err
	}
	return *a.body.(*Begun), nil
}

// Cosigned brings a cosigned checkpoint to the keeper, as worm.Store.Cosigned takes it.
func (m *Mirror) Cosigned(ctx context.Context, signed []byte) error {
	err := m.ask(ctx, func(c *Client) error { return c.Cosigned(ctx, signed) })
	if errors.Is(err, ErrHalted) {
		if behind := m.Ledger().Behind(); behind != nil {
			return behind // in full: the proof lies where the daemon can read it
		}
		return fmt.Errorf("%w: %w", ledger.ErrBehind, err)
	}
	return err
}

// TrustWitnesses says whose cosignatures count in Witnessed here. The keeper has its own list, which alone decides what is
// recorded and what may go.
func (m *Mirror) TrustWitnesses(w worm.Witnesses) error { return m.store.TrustWitnesses(w) }

// Witnessed says how the witnesses stand.
func (m *Mirror) Witnessed() (worm.Standing, error) { return m.store.Witnessed() }
