package index

import (
	"context"
	"fmt"

	badger "github.com/dgraph-io/badger/v4"

	"github.com/holdfast-vault/holdfast/vault/chunk"
)

// WarmFilter reads all keys and puts the filter into use, that answers most misses without asking Badger; before,
// every lookup asks. Packs may be added meanwhile. If fewer keys are found than were ever added, the error is a
// *DamageError and the filter stays cold: then a miss is still answered by Badger, and a Rebuild is due. A filter that is
// warm stays so, and nothing is read.
func (x *Index) WarmFilter(ctx context.Context) error {
	if x.filter.warm.Load() != nil {
		return nil
	}
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
	if x.filter.making == making {
		x.filter.making = nil
	}
	if err == nil && n < want {
		err = damaged("%d chunks were added and %d can be found", want, n)
	}
	if err != nil {
		return fmt.Errorf("warm the filter: %w", x.note(err))
	}
	x.filter.warm.Store(making)
	return nil
}

// each calls f with every chunk's key, in order. f must not keep the item.
func (x *Index) each(ctx context.Context, f func(item *badger.Item) error) error {
	if err := x.enter(); err != nil {
		return err
	}
	defer x.life.RUnlock()
	return guard("reading its keys", func() error {
		return x.db.View(func(txn *badger.Txn) error {
			it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{chunkKey}})
			defer it.Close()
			for i := 0; ; i++ {
				if i == 0 {
					it.Rewind()
				} else {
					it.Next()
				}
				if !it.Valid() {
					return nil
				}
				if i%1024 == 0 && ctx.Err() != nil {
					return ctx.Err()
				}
				if x.closed.Load() {
					return ErrClosed
				}
				item := it.Item()
				if k := item.Key(); len(k) != chunkKeySize {
					return damaged("a key of %d bytes", len(k))
				}
				if err := f(item); err != nil {
					return err
				}
			}
		})
	})
}

// Verify reads the whole index and reports the first thing wrong with it as a *DamageError: a block of a table
// without its checksum, a place without its checksum, or fewer chunks than were added. It can run beside all
// other work. What it finds makes the next Open begin anew.
func (x *Index) Verify(ctx context.Context) error {
	if err := x.verify(ctx); err != nil {
		return fmt.Errorf("verify the index: %w", x.note(err))
	}
	return nil
}

func (x *Index) verify(ctx context.Context) error {
	if err := x.verifyTables(); err != nil {
		return err
	}
	want, n := x.count.Load(), uint64(0)
	err := x.each(ctx, func(item *badger.Item) error {
		n++
		return item.Value(func(v []byte) error {
			if _, ok := x.codec.place(item.Key(), v); !ok {
				return damaged("the place of chunk %x does not bear its checksum", item.Key()[1:])
			}
			return nil
		})
	})
	if err == nil && n < want {
		err = damaged("%d chunks were added and %d can be found", want, n)
	}
	if err != nil {
		return err
	}
	return x.Damaged()
}

func (x *Index) verifyTables() error {
	if err := x.enter(); err != nil {
		return err
	}
	defer x.life.RUnlock()
	return guard("reading its tables", func() error {
		if err := x.db.VerifyChecksum(); err != nil {
			return damaged("%v", err)
		}
		return nil
	})
}
