package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"

	"github.com/RoaringBitmap/roaring/v2"
)

// Tree reads a catalog. Safe for concurrent use. It keeps recently decoded leaves and nodes, up to about 8 MiB.
type Tree struct {
	fetch Fetcher
	root  Root
	cache *objectCache
}

// OpenTree gives a view of the catalog under root; nothing is read yet.
func OpenTree(f Fetcher, root Root) *Tree {
	return &Tree{fetch: f, root: root, cache: newObjectCache(cacheBytes)}
}

// Root is what the tree was opened with.
func (t *Tree) Root() Root { return t.root }

// Lookup finds the entry at path, "" for the root. The error wraps fs.ErrNotExist when there is none.
func (t *Tree) Lookup(ctx context.Context, path string) (Entry, error) {
	parent, name := Split(path)
	c, err := t.seek(ctx, key{parent, name})
	if err != nil {
		return Entry{}, err
	}
	e := c.entry()
	if e == nil || e.Parent != parent || e.Name != name {
		return Entry{}, notExist(path)
	}
	return *e, nil
}

// List gives the children of a directory by name. A directory that does not exist yields an error wrapping
// fs.ErrNotExist; something else in its place, one wrapping ErrNotDirectory. An error ends the sequence.
func (t *Tree) List(ctx context.Context, dir string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		found := false
		for e, err := range t.from(ctx, key{dir, ""}, dir) {
			switch {
			case err != nil:
				yield(Entry{}, err)
				return
			case e.Name == "": // the root is no child of its own
				found = true
				continue
			case e.Parent != dir:
				if !found {
					t.emptyList(ctx, dir, yield)
				}
				return
			}
			found = true
			if !yield(*e, nil) {
				return
			}
		}
		if !found {
			t.emptyList(ctx, dir, yield)
		}
	}
}

// emptyList tells an empty directory from none.
func (t *Tree) emptyList(ctx context.Context, dir string, yield func(Entry, error) bool) {
	e, err := t.Lookup(ctx, dir)
	switch {
	case dir == "" && errors.Is(err, fs.ErrNotExist): // an empty catalog
	case err != nil:
		yield(Entry{}, err)
	case e.Kind != Directory:
		yield(Entry{}, fmt.Errorf("%q: %w", dir, ErrNotDirectory))
	}
}

// Walk gives the entry at path, then everything below it in catalog order, in which a directory stands before
// its content. An error ends the sequence.
func (t *Tree) Walk(ctx context.Context, path string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		if path != "" {
			e, err := t.Lookup(ctx, path)
			if err != nil {
				yield(Entry{}, err)
				return
			}
			if !yield(e, nil) || e.Kind != Directory {
				return
			}
		}
		for e, err := range t.from(ctx, key{path, ""}, path) {
			if err != nil {
				yield(Entry{}, err)
				return
			}
			if !yield(*e, nil) {
				return
			}
		}
	}
}

// from gives the entries at and after k whose parent is dir or below it.
func (t *Tree) from(ctx context.Context, k key, dir string) iter.Seq2[*Entry, error] {
	return func(yield func(*Entry, error) bool) {
		c, err := t.seek(ctx, k)
		if err != nil {
			yield(nil, err)
			return
		}
		for e := c.entry(); e != nil && below(e.Parent, dir); e = c.entry() {
			if !yield(e, nil) {
				return
			}
			if err := c.next(ctx); err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// Packs computes the exact set of packs that the catalog relies on, from its leaves and nodes as they are. The
// streams behind large files are not read: Chunks compares those.
func (t *Tree) Packs(ctx context.Context) (*roaring.Bitmap, error) {
	uses, err := t.Uses(ctx)
	if err != nil {
		return nil, err
	}
	packs := roaring.New()
	for p := range uses {
		packs.Add(p)
	}
	return packs, nil
}

// Uses sums, for each pack, the plaintext bytes of the chunks that the catalog names and of the chunks that it
// consists of. A chunk named twice counts twice.
func (t *Tree) Uses(ctx context.Context) (map[uint32]uint64, error) {
	uses := packTable{}
	err := t.visit(ctx, func(at Ref, l *leaf) error {
		uses[at.Pack] += uint64(at.Size)
		if l != nil {
			for _, u := range l.uses {
				uses[u.Pack] += u.Bytes
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return uses, nil
}

// Objects gives the reference of every chunk that the catalog itself consists of, the root first, each once it
// has been read and found sound.
func (t *Tree) Objects(ctx context.Context) iter.Seq2[Ref, error] {
	return func(yield func(Ref, error) bool) {
		err := t.visit(ctx, func(at Ref, _ *leaf) error {
			if !yield(at, nil) {
				return errStop
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(Ref{}, err)
		}
	}
}

var errStop = errors.New("stop")

// visit calls f for every node and leaf, parents first; l is nil for a node.
func (t *Tree) visit(ctx context.Context, f func(at Ref, l *leaf) error) error {
	top, err := t.top()
	if err != nil || top == nil {
		return err
	}
	return t.visitBelow(ctx, *top, f)
}

func (t *Tree) visitBelow(ctx context.Context, b branch, f func(at Ref, l *leaf) error) error {
	o, err := t.load(ctx, b)
	if err != nil {
		return err
	}
	if err := f(b.ref, o.leaf); err != nil || o.leaf != nil {
		return err
	}
	for i := range o.node.children {
		if err := t.visitBelow(ctx, b.child(o.node, i), f); err != nil {
			return err
		}
	}
	return nil
}
