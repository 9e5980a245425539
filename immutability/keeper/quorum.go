package keeper

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// What several people decide passes through the daemon, which can neither make it up nor alter it: the keeper verifies what
// they signed. What stops things, a veto and the panic switch, needs no signature, and whoever may run commands may ask it.

const (
	// KindSubmit brings a request that people signed.
	KindSubmit Kind = 33
	// KindVeto ends one that waits.
	KindVeto Kind = 34
	// KindSecure turns the panic switch on. There is no message that turns it off.
	KindSecure Kind = 35
	// KindDue has the requests carried out that are due; the keeper does so by itself too.
	KindDue Kind = 36
)

// Submit is a request as it was signed, with the signatures over it.
type Submit struct {
	Request    []byte
	Signatures [][]byte // at most one for each of the people
	By         string   // who brings it, for the record
}

func (m *Submit) fields(c *coder) {
	c.blob(&m.Request, quorum.MaxRequest)
	c.blobs(&m.Signatures, quorum.MostPeople, quorum.MaxSignature)
	c.str(&m.By, byMax)
}

// Brought answers a request that was brought.
type Brought struct {
	Request ID
	Due     uint64 // when it is carried out at the earliest, Unix seconds, if the machine stays on
}

func (m *Brought) fields(c *coder) { c.id(&m.Request); c.uint64(&m.Due) }

// Veto names a request, who objects and why.
type Veto struct {
	Request    ID
	Reason, By string
}

func (m *Veto) fields(c *coder) {
	c.id(&m.Request)
	c.str(&m.Reason, worm.ReasonMax)
	c.str(&m.By, byMax)
}

// Secure says why nothing is to be forgotten any more, and who says so.
type Secure struct{ Reason, By string }

func (m *Secure) fields(c *coder) { c.str(&m.Reason, worm.ReasonMax); c.str(&m.By, byMax) }

// CarriedOut says how many requests were carried out.
type CarriedOut struct{ Requests uint32 }

func (m *CarriedOut) fields(c *coder) { c.uint32(&m.Requests) }

func (p *peer) submit(ctx context.Context, m *Submit) (body, error) {
	info, err := p.s.Store().Submit(context.WithoutCancel(ctx), m.Request, m.Signatures, m.By)
	if err != nil {
		return nil, err
	}
	id, err := parseID(info.ID)
	return &Brought{Request: id, Due: uint64(max(info.Due.Unix(), 0))}, err
}

func (p *peer) veto(ctx context.Context, m *Veto) (body, error) {
	_, err := p.s.Store().Veto(context.WithoutCancel(ctx), m.Request.String(), m.Reason, m.By)
	return &Nothing{}, err
}

// Submit brings a request that people signed. On return it is in the ledger, and waits.
func (c *Client) Submit(ctx context.Context, request []byte, signatures [][]byte, by string) (id string, due time.Time, err error) {
	a, err := c.call(ctx, KindSubmit, &Submit{request, signatures, by})
	if err != nil {
		return "", time.Time{}, err
	}
	m := a.body.(*Brought)
	return m.Request.String(), time.Unix(int64(m.Due), 0).UTC(), nil
}

// Veto ends a request that waits, by its ID.
func (c *Client) Veto(ctx context.Context, request, reason, by string) error {
	id, err := parseID(request)
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	return c.tell(ctx, KindVeto, &Veto{id, reason, by})
}

// Secure turns the panic switch on.
func (c *Client) Secure(ctx context.Context, reason, by string) error {
	return c.tell(ctx, KindSecure, &Secure{reason, by})
}

// CarryOut has what is due carried out, and says how many requests were.
func (c *Client) CarryOut(ctx context.Context) (int, error) {
	a, err := c.call(ctx, KindDue, &Nothing{})
	if err != nil {
		return 0, err
	}
	return int(a.body.(*CarriedOut).Requests), nil
}

// Submit brings a request, as worm.Store.Submit does. One whose reply was lost is looked for before it is called a replay.
func (m *Mirror) Submit(ctx context.Context, request []byte, signatures [][]byte, by string) (worm.RequestInfo, error) {
	id := quorum.ID(request)
	_, before := m.requestOf(id)
	err := m.ask(ctx, func(c *Client) error {
		_, _, err := c.Submit(ctx, request, signatures, by)
		return err
	})
	info, there := m.requestOf(id)
	if there && !before {
		return info, nil // also where the second try of this very call found it brought
	}
	if err == nil {
		err = fmt.Errorf("%w: it says that request %s was brought, and the ledger does not", ErrOther, id)
	}
	return info, err
}

// requestOf finds a request in what is known here, by the keeper's clock where it tells that.
func (m *Mirror) requestOf(id string) (worm.RequestInfo, bool) {
	all, err := m.Requests()
	if err != nil {
		return worm.RequestInfo{}, false
	}
	for _, r := range all {
		if r.ID == id {
			return r, true
		}
	}
	return worm.RequestInfo{}, false
}

// Veto ends a request that waits, as worm.Store.Veto does.
func (m *Mirror) Veto(ctx context.Context, id, reason, by string) (worm.RequestInfo, error) {
	err := m.ask(ctx, func(c *Client) error { return c.Veto(ctx, id, reason, by) })
	info, there := m.requestOf(id)
	var f *Failure
	if !there && errors.As(err, &f) && f.Code == Absent {
		err = fmt.Errorf("%w: %w", worm.ErrNoRequest, err)
	}
	return info, err
}

// Secure turns the panic switch on, as worm.Store.Secure does.
func (m *Mirror) Secure(ctx context.Context, reason, by string) error {
	return m.ask(ctx, func(c *Client) error { return c.Secure(ctx, reason, by) })
}

// CarryOut has the keeper carry out what is due. It does so by itself every minute.
func (m *Mirror) CarryOut(ctx context.Context) (n int, err error) {
	err = m.ask(ctx, func(c *Client) error {
		n, err = c.CarryOut(ctx)
		return err
	})
	return n, err
}

// moment is the keeper's clock. While it does not answer, the reading of the own one must do: it decides nothing.
func (m *Mirror) moment() (clock.Stamp, error) {
	now, err := m.told()
	if err != nil {
		return m.store.Now()
	}
	return now.stamp(), nil
}

// Requests lists the requests, by the keeper's clock.
func (m *Mirror) Requests() ([]worm.RequestInfo, error) {
	now, err := m.moment()
	if err != nil {
		return nil, err
	}
	return m.store.RequestsAt(now), nil
}

// People says whose signatures count, by the keeper's clock.
func (m *Mirror) People() (worm.PeopleInfo, error) {
	now, err := m.moment()
	if err != nil {
		return worm.PeopleInfo{}, err
	}
	return m.store.PeopleAt(now), nil
}

// AdoptPeople says what of the people in the daemon's configuration is not followed, and changes nothing: no message names
// people, whom the keeper takes from its own settings.
func (m *Mirror) AdoptPeople(_ context.Context, said quorum.People, _ string) (changed bool, refused string, err error) {
	if said.Threshold == 0 && len(said.People) == 0 {
		return false, "", nil
	}
	if err := said.Check(); err != nil {
		return false, "", err
	}
	have, err := m.People()
	if err != nil || have.Equal(said) {
		return false, "", err
	}
	return false, "the keeper takes the people from its own settings (people in its policy.json), and those are not these", nil
}
