package index

import (
	"context"
	"fmt"

	badger "github.com/dgraph-io/badger/v4"
)

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
