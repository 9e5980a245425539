package worm

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
)

// crowd is everybody who is at work on one store at once.
type crowd struct {
	t   *testing.T
	s   *Store
	src *clock.Manual

	mu    sync.Mutex
	alive map[string]bool // whose claims are renewed each hour
	rng   *rand.Rand

	time sync.RWMutex // held for writing while an hour passes: none does within a claim, a seal or a commit

	// prunes counts them; turned is told of each. On one processor everybody would run to his end, one after the other.
	prunes int
	turned *sync.Cond

	working            atomic.Int64
	committed, refused atomic.Int64
	restored, removed  atomic.Int64
}

func (c *crowd) int(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rng.IntN(n)
}

func (c *crowd) comes(session string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alive[session] = true
}

func (c *crowd) goes(session string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.alive, session)
}

// hour lets one pass: whoever lives renews, as sessions and restores do.
func (c *crowd) hour() {
	c.mu.Lock()
	for session := range c.alive {
		c.s.Claim(session, roaring.New())
	}
	c.mu.Unlock()
	c.time.Lock()
	defer c.time.Unlock()
	c.src.Advance(time.Hour)
}

// commit makes a manifest and commits it.
func (c *crowd) commit(source, session string, packs []uint32) error {
	c.time.RLock()
	defer c.time.RUnlock()
	m, err := manifest(c.s, source, session, packs...)
	if err != nil {
		return err
	}
	_, err = c.s.Commit(ctx, session, m, ledger.Lock{ForSeconds: int64(60 + c.int(7000))})
	return err
}

// prune is what a daemon does each day, while anybody is at work.
func (c *crowd) prune() {
	for c.working.Load() > 0 {
		rep, err := c.s.Prune(ctx, false)
		if err != nil {
			c.t.Error(err)
			return
		}
		c.removed.Add(int64(len(rep.Packs)))
		for range 1 + c.int(30) {
			c.hour()
		}
		c.mu.Lock()
		c.prunes++
		c.mu.Unlock()
		c.turned.Broadcast()
	}
}

// lingers waits for some prunes to have begun and ended, or for none.
func (c *crowd) lingers() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for until := c.prunes + c.rng.IntN(4); c.prunes < until; {
		c.turned.Wait()
	}
}

// claim claims some of the packs that there are, and seals one.
func (c *crowd) claim(session string) (relied []uint32, own PackInfo, err error) {
	c.time.RLock()
	defer c.time.RUnlock()
	for _, p := range c.s.Packs() {
		if c.int(2) == 0 && c.s.ClaimOne(session, p.Number) {
			relied = append(relied, p.Number)
		}
	}
	own, err = seal(c.s, session)
	return relied, own, err
}

// pull is a session that relies on packs of others, some of which are being condemned.
func (c *crowd) pull(source, session string) error {
	c.comes(session)
	defer c.goes(session)
	relied, own, err := c.claim(session)
	if err != nil {
		return err
	}
	c.lingers()
	for _, n := range relied {
		if err := samePack(c.s, n, content(n)); err != nil {
			return fmt.Errorf("what session %s claimed: %w", session, err)
		}
	}
	if c.int(6) == 0 {
		if c.int(2) == 0 {
			c.s.Release(session)
		}
		return nil // abandoned
	}
	relied = append(relied, own.Number)
	if c.int(3) == 0 { // what somebody makes up, or has not claimed
		relied = append(relied, 1+uint32(c.int(min(8, int(own.Number)))))
	}
	for {
		err := c.commit(source, session, relied)
		var missing *MissingPacks
		if errors.As(err, &missing) {
			c.refused.Add(1)
			relied = slices.DeleteFunc(relied, func(n uint32) bool { return slices.Contains(missing.Packs, n) })
			if !slices.Contains(relied, own.Number) {
				return fmt.Errorf("session %s lost its own pack %d", session, own.Number)
			}
			continue
		}
		if err != nil {
			return err
		}
		c.committed.Add(1)
		return nil
	}
}

// restore reads a snapshot that may be condemned, for a while.
func (c *crowd) restore(session string) error {
	all, err := c.s.Snapshots()
	if err != nil || len(all) == 0 {
		c.lingers()
		return err
	}
	snap := all[c.int(len(all))]
	packs, err := snap.Head.PackSet()
	if err != nil {
		return nil // it went between, manifest and all
	}
	c.comes(session)
	defer c.goes(session)
	defer c.s.Release(session)
	c.time.RLock()
	missing := c.s.Claim(session, packs)
	c.time.RUnlock()
	if !missing.IsEmpty() {
		return nil // it went in between: the restore says so
	}
	for range 3 {
		c.lingers()
		for n := range roaring.Values(packs) {
			if err := samePack(c.s, n, content(n)); err != nil {
				return fmt.Errorf("what restore %s claimed: %w", session, err)
			}
		}
	}
	c.restored.Add(1)
	return nil
}

// work does something again and again.
func (c *crowd) work(group *sync.WaitGroup, times int, do func(i int) error) {
	c.working.Add(1)
	group.Go(func() {
		defer c.working.Add(-1)
		for i := range times {
			if err := do(i); err != nil {
				c.t.Error(err)
				return
			}
		}
	})
}

// TestPruneBesideSessionsAndRestores has sessions that deduplicate against what is being condemned, and restores of what may
// go, beside prunes, all at once on one store. No commit names what is gone, and nobody loses what he claimed.
func TestPruneBesideSessionsAndRestores(t *testing.T) {
	t.Parallel()
	seeds := uint64(6)
	if raceEnabled || testing.Short() {
		seeds = 2
	}
	var removed, restored, refused int64
	for seed := range seeds {
		d, src, s := newStore(t)
		c := &crowd{t: t, s: s, src: src, alive: map[string]bool{}, rng: rand.New(rand.NewPCG(seed, 5))}
		c.turned = sync.NewCond(&c.mu)
		var group sync.WaitGroup
		for w := range 3 {
			c.work(&group, 25, func(i int) error { return c.pull(fmt.Sprint("web", w), fmt.Sprintf("s%d-%d", w, i)) })
		}
		for w := range 2 {
			c.work(&group, 20, func(i int) error { return c.restore(fmt.Sprintf("restore-%d-%d", w, i)) })
		}
		group.Go(c.prune)
		group.Wait()
		// Nobody is there any more, and what is nobody's goes.
		src.Advance(15 * 24 * time.Hour)
		for range 3 {
			gone(t, s, src)
		}
		if left := goes(t, s); len(left) > 0 {
			t.Errorf("packs %v are nobody's, and stay", left)
		}
		must(t, s.Close())
		if bad := open(t, d, src).Check(ctx, true); len(bad) > 0 {
			t.Error(bad)
		}
		must(t, independentlyAlways(d))
		removed, restored, refused = removed+c.removed.Load(), restored+c.restored.Load(), refused+c.refused.Load()
	}
	t.Logf("%d packs removed beside the others, %d restores, %d commits refused", removed, restored, refused)
	if removed == 0 || restored == 0 || refused == 0 && seeds > 2 {
		t.Error("this proves nothing")
	}
}
