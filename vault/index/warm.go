package index

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	badger "github.com/dgraph-io/badger/v4"

	"github.com/holdfast-vault/holdfast/vault/chunk"
)

// warmAfter is how many look-ups have to miss before a cold index warms itself: a pull of a tree that did not change asks
// less, and is done before a filter of many chunks could be read.
const warmAfter = 1 << 10

// warmer lets one at a time warm the filter, and ends with the index.
type warmer struct {
	missed atomic.Int64  // look-ups of a cold index that Badger answered with nothing
	turn   chan struct{} // held by who warms

	ctx  context.Context
	stop context.CancelFunc
	mu   sync.Mutex // held while one begins, so that none begins after the end
	runs sync.WaitGroup
}

// end stops warming and waits for its end. None begins afterwards.
func (w *warmer) end() {
	w.stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.runs.Wait()
}

// missed counts a miss of a cold index; at warmAfter of them the index begins to warm itself, beside everything else. What
// it meets is told by Damaged.
func (x *Index) missed() {
	if x.filter.warm.Load() != nil || x.warmer.missed.Add(1) != warmAfter {
		return
	}
	w := &x.warmer
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ctx.Err() != nil {
		return
	}
	w.runs.Go(func() {
		if err := x.WarmFilter(w.ctx); err != nil && !isDamage(err) && w.ctx.Err() == nil {
			x.o.Logf("index %s: %v", x.dir, err)
		}
	})
}

// WarmFilter puts the filter into use, that answers most misses without asking Badger; before, every look-up asks. It is
// the one that the last Close left, if that was in order, and otherwise made from all keys. Packs may be added meanwhile.
// If fewer keys are found than were ever added, the error is a *DamageError and the filter stays cold: then a miss is still
// answered by Badger, and a Rebuild is due. A filter that is warm stays so, and nothing is read. An index that answers many
// misses warms itself.
func (x *Index) WarmFilter(ctx context.Context) error {
	select {
	case x.warmer.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-x.warmer.turn }()
	if x.filter.warm.Load() != nil {
		return nil
	}
	x.write.Lock()
	loaded := x.filter.warm.Load() != nil || x.loadKept()
	x.write.Unlock()
	if loaded {
		return nil
	}
	return x.warmFromKeys(ctx)
}

// warmFromKeys reads all keys. The turn is held.
func (x *Index) warmFromKeys(ctx context.Context) error {
	x.write.Lock()
	want := x.count.Load()
	making := newLayers(want + want/4)
	x.filter.making = making
	x.write.Unlock()

	// From here on AddPack adds to the new filter too; what it added before is seen by the iteration below.
	var ids []chunk.ID
	n := uint64(0)
	flush := func() {
		x.write.Lock()
		defer x.write.Unlock()
		for _, id := range ids {
			making.add(id)
		}
		n += uint64(len(ids))
		ids = ids[:0]
	}
	err := x.each(ctx, func(item *badger.Item) error {
		if ids = append(ids, chunk.ID(item.Key()[1:])); len(ids) == batch {
			flush()
		}
		return nil
	})
	flush()

	x.write.Lock()
	defer x.write.Unlock()
	x.filter.making = nil
	if err == nil && n < want {
		err = damaged("%d chunks were added and %d can be found", want, n)
	}
	if err != nil {
		return fmt.Errorf("warm the filter: %w", x.note(err))
	}
	x.filter.warm.Store(making)
	return nil
}
