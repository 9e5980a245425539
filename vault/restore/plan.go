package restore

import (
	"cmp"
	"context"
	"slices"

	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// Bounds of a window. The more files it holds, the more of those that lie in one block meet in it. At most three exist: the one
// that is being gathered, the one that waits, and the one that is being restored.
const (
	windowEntries = 1 << 16
	windowBytes   = 16 << 20
	taskEntries   = 256 // files of one task at most
)

// window is a run of files of the catalog that are restored in the order of the packs, the large ones last.
type window struct {
	small []planned
	large []*snapshot.Entry
	bytes int
}

// planned is a small file and where it begins.
type planned struct {
	entry *snapshot.Entry
	block int64
}

// add puts a file in, and says whether the window is full. It keeps the entry.
func (w *window) add(e *snapshot.Entry) (full bool) {
	if e.Size > segmentBytes {
		w.large = append(w.large, e)
	} else {
		w.small = append(w.small, planned{entry: e})
	}
	const entryBytes, refBytes, useBytes = 224, 40, 16
	w.bytes += entryBytes + len(e.Parent) + len(e.Name) + refBytes*(len(e.Chunks)+len(e.List)) + useBytes*len(e.ListPacks)
	return len(w.small)+len(w.large) >= windowEntries || w.bytes >= windowBytes
}

// handOver gives the window to the dispatcher and begins another.
func (r *run) handOver(ctx context.Context) error {
	w := r.window
	r.window = &window{}
	select {
	case r.windows <- w:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// dispatch returns an error only when the whole restore must stop.
func (r *run) dispatch(ctx context.Context) error {
	var err error
	for w := range r.windows {
		if err == nil {
			if err = r.dispatchWindow(ctx, w); err != nil {
				r.stop(err) // the planner ends, and what it has handed over is let go of
			}
		}
	}
	return err
}

func (r *run) dispatchWindow(ctx context.Context, w *window) error {
	r.arrange(ctx, w.small)
	for len(w.small) > 0 {
		n := together(w.small)
		if err := r.send(ctx, task{files: w.small[:n:n]}); err != nil {
			return err
		}
		w.small = w.small[n:]
	}
	slices.SortStableFunc(w.large, func(a, b *snapshot.Entry) int { return cmp.Compare(firstPack(a), firstPack(b)) })
	for _, e := range w.large {
		if err := r.large(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// together is how many files at the front of list are restored by one worker, one after the other: those that begin in the
// same block of the same pack.
func together(list []planned) int {
	n := 1
	for n < len(list) && n < taskEntries && list[n].block == list[0].block && firstPack(list[n].entry) == firstPack(list[0].entry) {
		n++
	}
	return n
}

// arrange puts files into the order of packs and, as far as the source tells it, of their blocks; those of one block stay in
// catalog order, so that a directory's files follow each other.
func (r *run) arrange(ctx context.Context, list []planned) {
	slices.SortStableFunc(list, func(a, b planned) int { return cmp.Compare(firstPack(a.entry), firstPack(b.entry)) })
	src, ok := r.src.(Ordered)
	if !ok {
		return
	}
	var refs []snapshot.Ref
	var at []int64
	for len(list) > 0 {
		number := firstPack(list[0].entry)
		n := 1
		for n < len(list) && firstPack(list[n].entry) == number {
			n++
		}
		if number != 0 {
			refs, at = refs[:0], slices.Grow(at[:0], n)[:n]
			for _, p := range list[:n] {
				refs = append(refs, first(p.entry))
			}
			src.Places(ctx, number, refs, at)
			for i := range list[:n] {
				list[i].block = at[i]
			}
			slices.SortStableFunc(list[:n], func(a, b planned) int { return cmp.Compare(a.block, b.block) })
		}
		list = list[n:]
	}
}

// first is where the reading of a file begins, the zero Ref for an empty one.
func first(e *snapshot.Entry) snapshot.Ref {
	switch {
	case len(e.List) > 0:
		return e.List[0]
	case len(e.Chunks) > 0:
		return e.Chunks[0]
	}
	return snapshot.Ref{}
}

func firstPack(e *snapshot.Entry) uint32 {
	if len(e.Chunks) == 0 && len(e.ListPacks) > 0 {
		return e.ListPacks[0].Pack // the list itself lies with the catalog
	}
	return first(e).Pack
}
