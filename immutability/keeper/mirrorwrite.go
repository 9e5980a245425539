package keeper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/level"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// Bind says for which source a session is. The keeper hears it with each pack.
func (m *Mirror) Bind(session, source string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bound[session] = source
	return nil
}

// CreatePack begins a pack, as worm.Store.CreatePack does.
func (m *Mirror) CreatePack(session string) (in *worm.Incoming, err error) {
	m.mu.Lock()
	source := m.bound[session]
	m.mu.Unlock()
	err = m.ask(m.ctx, func(c *Client) error {
		if in, err = c.CreatePack(m.ctx, session, source); err != nil {
			return err // one whose reply was lost is an empty leftover
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.growing[in.Number] = c
		return nil
	})
	return in, err
}

// parted takes a pack away from those that grow, with the connection that it grows on.
func (m *Mirror) parted(n uint32) (*Client, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.growing[n]
	delete(m.growing, n)
	if c == nil {
		return nil, fmt.Errorf("pack %d is not one that grows here: %w", n, worm.ErrNoPack)
	}
	return c, nil
}

// Seal makes a pack final, as worm.Store.Seal does. A pack whose connection has ended cannot be sealed any more: what is
// complete in it is found among the leftovers.
func (m *Mirror) Seal(ctx context.Context, in *worm.Incoming) (worm.PackInfo, error) {
	c, err := m.parted(in.Number)
	if err != nil {
		return worm.PackInfo{}, err
	}
	sealed, err := c.Seal(ctx, in)
	if err != nil {
		m.mu.Lock()
		m.growing[in.Number] = c // to be dropped or left
		m.mu.Unlock()
		return worm.PackInfo{}, lost(fmt.Errorf("pack %d: seal: %w", in.Number, err))
	}
	info, ok := m.store.Pack(in.Number)
	if !ok || info.SHA256 != sealed.SHA256.String() || uint64(info.Bytes) != sealed.Bytes {
		return worm.PackInfo{}, fmt.Errorf("%w: it says that pack %d is sealed with SHA-256 %s, and the ledger does not", ErrOther, in.Number, sealed.SHA256)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of(in.Session).granted.Add(in.Number)
	return info, nil
}

// Drop gives an unsealed pack up. One whose connection has ended is a leftover already.
func (m *Mirror) Drop(in *worm.Incoming) error { return m.giveUp(in, (*Client).Drop) }

// Leave gives an unsealed pack back as a leftover.
func (m *Mirror) Leave(in *worm.Incoming) error { return m.giveUp(in, (*Client).Leave) }

func (m *Mirror) giveUp(in *worm.Incoming, how func(*Client, context.Context, *worm.Incoming) error) error {
	c, err := m.parted(in.Number)
	if err != nil {
		return err
	}
	if err := how(c, m.ctx, in); err != nil && !errors.Is(err, ErrGone) {
		return err
	}
	return nil
}

// Leftovers lists the packs that nobody grows.
func (m *Mirror) Leftovers() (out []worm.Leftover, err error) {
	err = m.ask(m.ctx, func(c *Client) error {
		left, err := c.Leftovers(m.ctx)
		out = nil
		for _, l := range left {
			out = append(out, worm.Leftover{Number: l.Number, Bytes: int64(l.Bytes)})
		}
		return err
	})
	return out, err
}

// Discard removes a leftover.
func (m *Mirror) Discard(n uint32) error {
	return m.ask(m.ctx, func(c *Client) error { return c.Discard(m.ctx, n) })
}

// Claim says that a session relies on packs, and gives those that it cannot rely on. The keeper lets a claim go that was not
// renewed for three hours: who goes on relying on it claims again.
func (m *Mirror) Claim(ctx context.Context, session string, packs *roaring.Bitmap) (missing *roaring.Bitmap, err error) {
	err = m.ask(ctx, func(c *Client) error {
		missing, err = c.Claim(ctx, session, packs)
		return err
	})
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	of := m.of(session)
	of.granted.Or(roaring.AndNot(packs, missing))
	of.granted.AndNot(missing)
	of.refused.Or(missing)
	return missing, nil
}

// ClaimOne is Claim for one pack; false means that it is not to be relied on. The keeper is asked once for each pack and
// session, and its answer remembered until Release.
func (m *Mirror) ClaimOne(session string, pack uint32) bool {
	m.mu.Lock()
	of := m.of(session)
	granted, refused := of.granted.Contains(pack), of.refused.Contains(pack)
	m.mu.Unlock()
	if granted || refused || !m.store.Reliable(pack) {
		return granted
	}
	missing, err := m.Claim(m.ctx, session, roaring.BitmapOf(pack))
	return err == nil && !missing.Contains(pack)
}

// Release drops all claims of a session. Where the keeper cannot be told they run out.
func (m *Mirror) Release(session string) {
	m.mu.Lock()
	of := m.claims[session]
	delete(m.claims, session)
	delete(m.bound, session)
	m.mu.Unlock()
	if of == nil || of.granted.IsEmpty() {
		return
	}
	if err := m.ask(m.ctx, func(c *Client) error { return c.Release(m.ctx, session) }); err != nil {
		m.o.Logf("session %s: its claims end by themselves within hours: %v", session, err)
	}
}

// renewOn renews the claims of all sessions on a new connection: a keeper that was started anew knows of none.
func (m *Mirror) renewOn(ctx context.Context, c *Client) {
	m.mu.Lock()
	all := map[string]*roaring.Bitmap{}
	for session, of := range m.claims {
		if !of.granted.IsEmpty() {
			all[session] = of.granted.Clone()
		}
	}
	m.mu.Unlock()
	for session, packs := range all {
		missing, err := c.Claim(ctx, session, packs)
		if err != nil {
			m.o.Logf("session %s: its claims are not renewed now: %v", session, err)
			continue
		}
		m.mu.Lock()
		if of := m.claims[session]; of != nil {
			of.granted.AndNot(missing)
			of.refused.Or(missing)
		}
		m.mu.Unlock()
	}
}

// NextLabel gives what the next manifest of a source must carry.
func (m *Mirror) NextLabel(source string) (label, previous string, err error) {
	err = m.ask(m.ctx, func(c *Client) error {
		label, previous, err = c.NextLabel(m.ctx, source)
		return err
	})
	return label, previous, err
}

// Commit makes a snapshot of a manifest, as worm.Store.Commit does. One whose reply was lost is issued again.
func (m *Mirror) Commit(ctx context.Context, session string, manifest []byte, lock ledger.Lock) (worm.Snapshot, error) {
	id := reliance.ID(manifest)
	err := m.ask(ctx, func(c *Client) error {
		_, err := c.Commit(ctx, session, manifest, id, lock)
		return err
	})
	if err != nil {
		return worm.Snapshot{}, fmt.Errorf("commit: %w", err)
	}
	m.mu.Lock()
	delete(m.claims, session)
	delete(m.bound, session)
	m.mu.Unlock()
	return m.store.Snapshot(id)
}

// Extend gives a snapshot a further lock, as worm.Store.Extend does, up to the longest that the policy has.
func (m *Mirror) Extend(ctx context.Context, id string, lock ledger.Lock, by string) (worm.Snapshot, error) {
	err := m.ask(ctx, func(c *Client) error {
		_, err := c.Extend(ctx, id, lock, by)
		return err
	})
	if err != nil {
		return worm.Snapshot{}, err
	}
	return m.store.Snapshot(id)
}

// Hold places a hold on a snapshot, as worm.Store.Hold does.
func (m *Mirror) Hold(ctx context.Context, id, reason, by string) (worm.Snapshot, error) {
	err := m.ask(ctx, func(c *Client) error {
		_, err := c.Hold(ctx, id, reason, by)
		return err
	})
	if err != nil {
		return worm.Snapshot{}, err
	}
	return m.store.Snapshot(id)
}

// Settle tries again to record what is published, and says how much is left. Nought where the keeper cannot be asked: its
// own next start does it.
func (m *Mirror) Settle() (pending int) {
	err := m.ask(m.ctx, func(c *Client) (err error) {
		pending, err = c.Settle(m.ctx)
		return err
	})
	if err != nil {
		m.o.Logf("%v", err)
	}
	return pending
}

// Now reads the keeper's clock.
func (m *Mirror) Now() (clock.Stamp, error) {
	var now Now
	err := m.ask(m.ctx, func(c *Client) (err error) {
		now, err = c.Now(m.ctx)
		return err
	})
	if err != nil {
		return clock.Stamp{}, err
	}
	return now.stamp(), nil
}

// toldWithin is how long the keeper may take to tell how its clock stands. Who asks shows that to people or to Prometheus, and
// must not hang with a keeper that does.
const toldWithin = 5 * time.Second

// told asks for the keeper's clock, and gives up after toldWithin.
func (m *Mirror) told() (now Now, err error) {
	ctx, done := context.WithTimeout(m.ctx, toldWithin)
	defer done()
	err = m.ask(ctx, func(c *Client) (err error) {
		now, err = c.Now(ctx)
		return err
	})
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("keeper: %w: no answer within %v; it hangs, or its disk does (systemctl status holdfast-keeper, dmesg)", ErrGone, toldWithin)
	}
	return now, err
}

// ClockShifted says whether the keeper's wall clock moved against its running time, so that nothing expires.
func (m *Mirror) ClockShifted() (shifted bool, why string) {
	now, err := m.told()
	if err != nil {
		m.o.Logf("%v", err)
	}
	return now.Shifted, now.Why
}

// Clock says how the keeper's clock stands. A keeper that hangs is an error after a few seconds.
func (m *Mirror) Clock() (worm.ClockReport, error) {
	now, err := m.told()
	if err != nil {
		return worm.ClockReport{}, err
	}
	return m.store.ClockAs(now.stamp(), now.Shifted, now.Why), nil
}

// Tick does nothing: the keeper reads its clock itself.
func (m *Mirror) Tick() error { return nil }

// Probe has a file made that is sealed as packs are, to be attacked; Root is left to the caller.
func (m *Mirror) Probe(ctx context.Context) (level.Subject, error) {
	c, err := m.connection(ctx)
	if err != nil {
		return level.Subject{}, err
	}
	file, w, err := c.Probe(ctx)
	if err != nil {
		return level.Subject{}, err
	}
	return level.Subject{File: file, Writer: w, Seal: c.SealProbe, Remove: c.DropProbe}, nil
}

// Check compares everything on the disk with the ledger, as worm.Store.Check does, and adds what only the keeper sees. A keeper
// that does not answer is told as Unseen.
func (m *Mirror) Check(ctx context.Context, readData bool) []worm.Damage {
	found := m.store.Check(ctx, readData)
	var lines []string
	err := m.ask(ctx, func(c *Client) (err error) {
		lines, err = c.Inspect(ctx)
		return err
	})
	if err != nil {
		return append(found, worm.Damage{What: "keeper", Detail: fmt.Sprintf("what only it can see was not looked at: %v", err), Unseen: true})
	}
	found = m.notLeaving(found)
	// What is on its way into the vault looks like nobody's from here; the keeper knows.
	found = slices.DeleteFunc(found, func(d worm.Damage) bool { return d.Stray && !slices.Contains(lines, d.String()) })
	for _, line := range lines {
		if strings.HasPrefix(line, WeakPrefix) {
			continue
		}
		if !slices.ContainsFunc(found, func(d worm.Damage) bool { return d.String() == line }) {
			found = append(found, worm.Damage{What: "keeper", Detail: line})
		}
	}
	return found
}

// CheckPack reads every byte of one pack, as worm.Store.CheckPack does.
func (m *Mirror) CheckPack(ctx context.Context, n uint32) []worm.Damage {
	found := m.store.CheckPack(ctx, n)
	if len(found) > 0 {
		_, _ = m.told() // with its answer comes what it removed meanwhile
	}
	return m.notLeaving(found)
}

// notLeaving leaves out what the keeper removed while it was looked at. A sweep answers at its end, and until something is
// answered the ledger of before it is what is known here.
func (m *Mirror) notLeaving(found []worm.Damage) []worm.Damage {
	return slices.DeleteFunc(found, func(d worm.Damage) bool { return m.store.PlaceOf(d.What) == worm.PlaceLeaving })
}

// Prune has what may go marked, and what was marked a day before removed; with dry it only says what could go by what is
// known here. The keeper decides, and the ledger says what went.
func (m *Mirror) Prune(ctx context.Context, dry bool) (worm.PruneReport, error) {
	plan, err := m.store.Prune(ctx, true)
	if err != nil || dry {
		return plan, err
	}
	packs, snapshots := m.store.Packs(), plan.Decisions
	var marked Condemned
	err = m.ask(ctx, func(c *Client) (err error) {
		if _, err = c.Sweep(ctx); err == nil {
			marked, err = c.Condemn(ctx)
		}
		return err
	})
	rep := worm.PruneReport{MarkedSnapshots: int(marked.Snapshots), MarkedPacks: int(marked.Packs)}
	left, lerr := m.store.Snapshots()
	if lerr != nil {
		return rep, errors.Join(err, lerr)
	}
	stays := make(map[string]bool, len(left))
	for _, s := range left {
		stays[s.ID] = true
	}
	for _, d := range snapshots {
		switch {
		case !stays[d.ID]:
			d.Go = true
			rep.Snapshots = append(rep.Snapshots, d.ID)
		case d.Go:
			d.Go, d.Why = false, d.Why+"; marked, and removed by a prune that runs a day after the mark"
		}
		rep.Decisions = append(rep.Decisions, d)
	}
	for _, p := range packs {
		if _, there := m.store.Pack(p.Number); !there {
			rep.Packs = append(rep.Packs, p.Number)
			rep.Bytes += p.Bytes
		}
	}
	return rep, err
}
