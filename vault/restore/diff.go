package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"

	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// ChangeKind is what happened to a path between two snapshots.
type ChangeKind uint8

// The kinds of change.
const (
	Added ChangeKind = iota + 1
	Removed
	Modified
)

// String gives the kind as one lower-case word.
func (k ChangeKind) String() string {
	switch k {
	case Added:
		return "added"
	case Removed:
		return "removed"
	case Modified:
		return "modified"
	}
	return fmt.Sprintf("change(%d)", uint8(k))
}

// Change is one path that differs. Old is zero when Added, New when Removed.
type Change struct {
	Path     string // as bytes
	Kind     ChangeKind
	Content  bool // with Modified: the bytes of a file, the target of a link, or what kind of thing it is
	Meta     bool // with Modified: mode, owner or mtime
	Old, New snapshot.Entry
}

// Diff yields what differs between a and b under path, in catalog order, by walking both catalogs once side by side. No
// content is read: chunks are compared by their IDs. It ends at the first error. The path must exist in one of the two.
func Diff(ctx context.Context, a, b Source, path string) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		left, right := newSide(ctx, a, path), newSide(ctx, b, path)
		defer left.stop()
		defer right.stop()
		if err := errors.Join(left.advance(), right.advance()); err != nil {
			yield(Change{}, err)
			return
		}
		if !left.ok && !right.ok && (left.absent || right.absent) {
			yield(Change{}, notExist("diff", path))
			return
		}
		for left.ok || right.ok {
			change, differs, err := step2(ctx, left, right)
			if err != nil {
				yield(Change{}, err)
				return
			}
			if differs && !yield(change, nil) {
				return
			}
		}
	}
}

// side is one of the two walks.
type side struct {
	src     Source
	next    func() (snapshot.Entry, error, bool)
	stop    func()
	e       snapshot.Entry
	ok      bool
	started bool
	absent  bool // the path does not exist here
}

func newSide(ctx context.Context, src Source, path string) *side {
	s := &side{src: src}
	s.next, s.stop = iter.Pull2(src.Walk(ctx, path))
	return s
}

func (s *side) advance() error {
	prev := s.e
	var err error
	s.e, err, s.ok = s.next()
	first := !s.started
	s.started = true
	switch {
	case err != nil && first && errors.Is(err, fs.ErrNotExist):
		s.ok, s.absent = false, true
		return nil
	case err != nil:
		s.ok = false
		return err
	case s.ok && !first && snapshot.Compare(prev.Parent, prev.Name, s.e.Parent, s.e.Name) >= 0:
		return fmt.Errorf("entry %q is out of order: the catalog is damaged", s.e.Path())
	}
	return nil
}

// step2 takes the lower of the two entries, or both when they are the same path.
func step2(ctx context.Context, l, r *side) (c Change, differs bool, err error) {
	order := 0
	switch {
	case !r.ok:
		order = -1
	case !l.ok:
		order = 1
	default:
		order = snapshot.Compare(l.e.Parent, l.e.Name, r.e.Parent, r.e.Name)
	}
	switch {
	case order < 0:
		c = Change{Path: l.e.Path(), Kind: Removed, Old: l.e}
		return c, true, l.advance()
	case order > 0:
		c = Change{Path: r.e.Path(), Kind: Added, New: r.e}
		return c, true, r.advance()
	}
	c = Change{Path: l.e.Path(), Kind: Modified, Old: l.e, New: r.e}
	if c.Content, err = contentDiffers(ctx, l, r); err != nil {
		return c, false, err
	}
	c.Meta = metaDiffers(&l.e, &r.e)
	return c, c.Content || c.Meta, errors.Join(l.advance(), r.advance())
}

func metaDiffers(a, b *snapshot.Entry) bool {
	return a.Mode != b.Mode || a.UID != b.UID || a.GID != b.GID || a.MTime != b.MTime
}

func contentDiffers(ctx context.Context, l, r *side) (bool, error) {
	a, b := &l.e, &r.e
	switch {
	case a.Kind != b.Kind:
		return true, nil
	case a.Kind == snapshot.Symlink:
		return a.Target != b.Target, nil
	case a.Kind != snapshot.File:
		return false, nil
	case a.Size != b.Size:
		return true, nil
	case len(a.List) == 0 && len(b.List) == 0:
		return !slices.EqualFunc(a.Chunks, b.Chunks, sameChunk), nil
	case len(a.List) > 0 && slices.EqualFunc(a.List, b.List, sameChunk):
		return false, nil
	}
	// The same chunks in other packs make another list: compare what the lists say.
	return listsDiffer(ctx, l, r)
}

func sameChunk(a, b snapshot.Ref) bool { return a.ID == b.ID && a.Size == b.Size }

func listsDiffer(ctx context.Context, l, r *side) (bool, error) {
	next, stop := iter.Pull2(r.src.Content(ctx, r.e))
	defer stop()
	for x, err := range l.src.Content(ctx, l.e) {
		if err != nil {
			return false, fmt.Errorf("%q: %w", l.e.Path(), err)
		}
		y, err, ok := next()
		if err != nil {
			return false, fmt.Errorf("%q: %w", r.e.Path(), err)
		}
		if !ok || !sameChunk(x, y) {
			return true, nil
		}
	}
	_, err, ok := next()
	if err != nil {
		return false, fmt.Errorf("%q: %w", r.e.Path(), err)
	}
	return ok, nil
}
