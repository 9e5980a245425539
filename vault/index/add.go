package index

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"
	badger "github.com/dgraph-io/badger/v4"
)

// batch is how many entries are written at once; Badger syncs each.
const batch = 8 << 10

// AddPack adds the chunks of a sealed pack. When it returns nil, they are durable and the pack is one of Indexed.
// If power fails before, some of the chunks may be in, but the pack is not: they are misses until it is added
// again. Of a chunk that lies in several packs of Indexed, the highest pack is remembered, and in it the lowest
// offset: whatever order packs come in, the answers are the same.
func (x *Index) AddPack(ctx context.Context, pack uint32, entries []Entry) error {
	if err := x.addPack(ctx, pack, entries); err != nil {
		return fmt.Errorf("index pack %d: %w", pack, x.note(err))
	}
	return nil
}

func (x *Index) addPack(ctx context.Context, pack uint32, entries []Entry) error {
	entries, err := normalise(pack, entries)
	if err != nil {
		return err
	}
	x.write.Lock()
	defer x.write.Unlock()
	if t := x.filter.tail; t != nil && t.len()+len(entries) > maxTail && x.filter.warm.Load() == nil {
		x.loadKept()
	}
	fresh := uint64(0)
	for part := range slices.Chunk(entries, batch) {
		n, err := x.addBatch(ctx, part)
		if err != nil {
			return err
		}
		fresh += n
	}
	count := x.count.Load() + fresh
	mark := packKeyOf(pack)
	if err := x.update(ctx, func(txn *badger.Txn) error {
		if err := txn.Set([]byte{countKey}, x.codec.sealNumber([]byte{countKey}, count)); err != nil {
			return err
		}
		return txn.Set(mark, x.codec.sealNumber(mark, uint64(len(entries))))
	}); err != nil {
		return err
	}
	// Durable: only now may lookups answer with this pack.
	x.count.Store(count)
	marks := x.marks.Load().Clone()
	marks.Add(pack)
	x.marks.Store(marks)
	return nil
}

// normalise sorts a copy by ID and place, and keeps the first of equal IDs.
func normalise(pack uint32, entries []Entry) ([]Entry, error) {
	for i := range entries {
		if p := entries[i].Place; p.Pack != pack || p.Offset < 0 || p.Offset > maxOffset {
			return nil, fmt.Errorf("chunk %v lies in pack %d at %d", entries[i].ID, p.Pack, p.Offset)
		}
	}
	out := slices.Clone(entries)
	slices.SortFunc(out, compareEntries)
	return slices.CompactFunc(out, func(a, b Entry) bool { return a.ID == b.ID }), nil
}

// compareEntries orders by ID; of one ID, the place that is remembered comes first.
func compareEntries(a, b Entry) int {
	return cmp.Or(a.ID.Compare(b.ID), comparePlaces(a.Place, b.Place))
}

func comparePlaces(a, b Place) int {
	return cmp.Or(cmp.Compare(b.Pack, a.Pack), cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.InBlock, b.InBlock))
}

// addBatch writes one batch durably and returns how many chunks were not known before. The caller holds x.write.
func (x *Index) addBatch(ctx context.Context, entries []Entry) (fresh uint64, err error) {
	known := make([]bool, len(entries))
	keep := make([]bool, len(entries))
	marks := x.marks.Load()
	for i := range entries {
		e := &entries[i]
		if x.filter.excludes(e.ID) {
			continue
		}
		old, ok, err := x.get(e.ID)
		if err != nil && !isDamage(err) {
			return 0, err
		}
		x.note(err)
		known[i] = ok
		keep[i] = ok && marks.Contains(old.Pack) && comparePlaces(old, e.Place) <= 0
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := x.enter(); err != nil {
		return 0, err
	}
	defer x.life.RUnlock()
	if err := room(x.dir, x.o.FreeFloorBytes); err != nil {
		return 0, err
	}
	err = guard("write", func() error {
		wb := x.db.NewWriteBatch()
		defer wb.Cancel()
		for i := range entries {
			e := &entries[i]
			if !known[i] {
				fresh++
				x.filter.add(e.ID)
			}
			if keep[i] {
				continue
			}
			key := appendChunkKey(make([]byte, 0, chunkKeySize), e.ID)
			if err := wb.Set(key, x.codec.sealPlace(key, e.Place)); err != nil {
				return err
			}
		}
		return wb.Flush()
	})
	return fresh, err
}

func isDamage(err error) bool {
	var d *DamageError
	return errors.As(err, &d)
}

// update changes a few records, durably.
func (x *Index) update(ctx context.Context, f func(txn *badger.Txn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := x.enter(); err != nil {
		return err
	}
	defer x.life.RUnlock()
	if err := room(x.dir, x.o.FreeFloorBytes); err != nil {
		return err
	}
	return guard("write", func() error { return x.db.Update(f) })
}

// DropPacks makes packs unknown, durably: lookups no longer answer with them. What the index holds of their
// chunks stays until the next Rebuild, or until the chunk is added from another pack.
func (x *Index) DropPacks(packs *roaring.Bitmap) error {
	x.write.Lock()
	defer x.write.Unlock()
	gone := roaring.And(x.marks.Load(), packs).ToArray()
	if len(gone) == 0 {
		return nil
	}
	// Lookups stop answering first: if power fails before the marks are gone, the pack is merely dropped again.
	marks := x.marks.Load().Clone()
	marks.AndNot(packs)
	x.marks.Store(marks)
	for part := range slices.Chunk(gone, batch) {
		if err := x.dropMarks(part); err != nil {
			return fmt.Errorf("index: drop %d packs: %w", len(gone), x.note(err))
		}
	}
	return nil
}

func (x *Index) dropMarks(packs []uint32) error {
	if err := x.enter(); err != nil {
		return err
	}
	defer x.life.RUnlock()
	if err := room(x.dir, x.o.FreeFloorBytes); err != nil {
		return err
	}
	return guard("write", func() error {
		wb := x.db.NewWriteBatch()
		defer wb.Cancel()
		for _, p := range packs {
			if err := wb.Delete(packKeyOf(p)); err != nil {
				return err
			}
		}
		return wb.Flush()
	})
}
