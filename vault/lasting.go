package vault

import (
	"context"
	"fmt"
)

// lastingBytes is how much content a session takes between two syncs of its unsealed packs and its journal.
//
// One sync runs at a time, beside everything else, and who comes to the next before it has ended waits for it. So a power
// cut costs the content of two such steps at most, and what was on its way through the packer: well below one pack's worth,
// however well the content compresses and however much of it was known.
const lastingBytes = 32 << 20

// took counts content, and begins a sync when it is time.
func (s *Session) took(ctx context.Context, n uint64) error {
	total := s.taken.Add(n)
	if total/lastingBytes == (total-n)/lastingBytes {
		return nil
	}
	select {
	case s.lastingTurn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.p.ctx.Done():
		return s.p.cause(s.p.ctx.Err())
	}
	s.p.group.Go(func() error {
		defer func() { <-s.lastingTurn }()
		return s.makeLasting()
	})
	return nil
}

// makeLasting makes durable what was taken so far: its blocks are written, then the packs synced, then the journal that
// speaks of them. If power fails between, the journal of before counts, and the salvaged packs are what is found known.
func (s *Session) makeLasting() error {
	err := s.p.writeGathered()
	if err == nil {
		err = s.p.syncUnsealed()
	}
	if err != nil {
		s.p.fail(err)
		return err
	}
	s.journal.sync()
	return nil
}

// writeGathered has the gathering blocks written as they are, and waits until they lie in their packs. Where nearly everything is
// known they would not fill for hours, and all that the journal has to say would wait for them.
func (p *packer) writeGathered() error {
	p.mu.Lock()
	if !p.closed {
		if err := p.dispatchAll(); err != nil {
			p.mu.Unlock()
			return p.cause(err)
		}
	}
	last := p.seq
	p.mu.Unlock()
	stop := context.AfterFunc(p.ctx, func() {
		p.progressMu.Lock()
		defer p.progressMu.Unlock()
		p.advanced.Broadcast()
	})
	defer stop()
	p.progressMu.Lock()
	defer p.progressMu.Unlock()
	for p.watermark < last {
		if p.ctx.Err() != nil {
			return p.cause(p.ctx.Err())
		}
		p.advanced.Wait()
	}
	return nil
}

// syncUnsealed makes durable the blocks that were appended so far. An
// error ends the packer: what a failed sync leaves on the medium nobody knows, and no later sync tells.
func (p *packer) syncUnsealed() error {
	p.unsealedMu.Lock()
	open := make([]*openPack, 0, len(p.unsealed))
	for op := range p.unsealed {
		open = append(open, op)
	}
	p.unsealedMu.Unlock()
	for _, op := range open {
		if err := op.sync(); err != nil {
			return fmt.Errorf("pack %d: sync: %w", op.in.Number, err)
		}
	}
	return nil
}

func (op *openPack) sync() error {
	op.syncMu.Lock()
	defer op.syncMu.Unlock()
	if op.sealing {
		return nil
	}
	return op.in.File.Sync()
}

// giveUp hands the file to its seal, which closes it and must be the last to have it open. It is synced here, so that whoever
// syncs what is not sealed waits for this pack instead of leaving a gap before those that came after it.
func (op *openPack) giveUp() error {
	op.syncMu.Lock()
	defer op.syncMu.Unlock()
	op.sealing = true
	return op.in.File.Sync()
}
