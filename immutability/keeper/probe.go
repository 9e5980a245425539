package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// probing is a probe of one connection. It is gone when the connection is.
type probing struct {
	grown
	probe *worm.Probe
}

var errProbing = errors.New("this connection has no probe, or it is at work")

func (p *peer) createProbe() (body, *grown, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.probe != nil || p.attacked {
		return nil, nil, fmt.Errorf("a probe: %w", errTooMany)
	}
	// In turn, so that who asks as often as there are places has tried them all.
	in := p.s.Store().ProbePlaces()
	made, err := p.s.Store().CreateProbeIn(in[p.probes%len(in)])
	if err != nil {
		return nil, nil, err
	}
	file, err := made.Writer()
	if err != nil {
		return nil, nil, errors.Join(err, made.Remove(context.Background()))
	}
	p.probes++
	p.probe = &probing{grown: grown{file: file, handed: make(chan struct{})}, probe: made}
	return &Probing{File: made.File}, &p.probe.grown, nil
}

// probed seals a probe, which may be asked again where a writer is left, or takes it away.
func (p *peer) probed(ctx context.Context, k Kind) (body, error) {
	p.mu.Lock()
	g := p.probe
	p.probe = nil
	p.attacked = g != nil
	p.mu.Unlock()
	if g == nil {
		return nil, errProbing
	}
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.probe, p.attacked = g, false
	}()
	<-g.handed // its reply is out, or it could not have been asked for, or will be in a moment
	var reply body = &Nothing{}
	var err error
	switch k {
	case KindSeal:
		reply, err = &Sealed{}, g.probe.Seal(context.WithoutCancel(ctx))
	case KindDrop:
		if err = g.probe.Remove(ctx); err == nil {
			g = nil
		}
	default:
		err = fmt.Errorf("%w: %v of pack 0", ErrMalformed, k)
	}
	return reply, err
}

// leaveProbe takes away what the connection left. p.mu is held, and no request is at work.
func (p *peer) leaveProbe() {
	if p.probe == nil {
		return
	}
	if err := p.probe.probe.Remove(context.Background()); err != nil {
		p.s.o.Logf("keeper: %v; the next probe looks after it", err)
	}
	p.probe = nil
}

// Probe has a small file made that goes through the whole seal of a pack, but for the record, for who wants to find out
// what protects it. The caller closes w, calls SealProbe, which is durable.ErrWriter as long as anybody can write to the
// file, and DropProbe in the end. A connection has one at a time. file is its name below the vault's root once it is sealed.
func (c *Client) Probe(ctx context.Context) (file string, w *os.File, err error) {
	a, err := c.call(ctx, KindProbe, &Nothing{})
	if err != nil {
		return "", nil, err
	}
	return a.body.(*Probing).File, a.file, nil
}

// SealProbe is described with Probe.
func (c *Client) SealProbe(ctx context.Context) error { return c.tell(ctx, KindSeal, &Pack{}) }

// DropProbe is described with Probe.
func (c *Client) DropProbe(ctx context.Context) error { return c.tell(ctx, KindDrop, &Pack{}) }
