package vault

import (
	"cmp"
	"container/heap"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/vault/keys"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// sorter takes entries in any order and gives them back in catalog order, holding at most budget bytes of them in
// memory; the rest waits in sorted, sealed run files. Of entries with the same path the last added wins. The runs are
// working storage: nothing is lost if they are. Not safe for concurrent use.
type sorter struct {
	disk   durable.Disk
	ring   *keys.Ring
	prefix string // run files are prefix + number
	budget int

	arena []byte
	items []sortItem
	runs  []string
}

type sortItem struct {
	parent, name string
	off, n       int
}

func newSorter(d durable.Disk, ring *keys.Ring, prefix string, budget int) *sorter {
	return &sorter{disk: d, ring: ring, prefix: prefix, budget: budget}
}

func (s *sorter) add(e *snapshot.Entry) error {
	s.grow()
	off := len(s.arena)
	s.arena = snapshot.AppendEntry(s.arena, e)
	s.items = append(s.items, sortItem{parent: e.Parent, name: e.Name, off: off, n: len(s.arena) - off})
	if len(s.arena) < s.budget {
		return nil
	}
	return s.spill()
}

// grow doubles what is full, since append would copy everything four times on the way.
func (s *sorter) grow() {
	const least = 64 << 10 // of encoded entries; a longer one grows by itself
	if cap(s.arena)-len(s.arena) < least/16 {
		s.arena = slices.Grow(s.arena, min(max(len(s.arena), least), s.budget-len(s.arena)+least))
	}
	if len(s.items) == cap(s.items) {
		s.items = slices.Grow(s.items, max(len(s.items), 1<<10))
	}
}

// sortItems orders the items in memory and drops all but the last of each path.
func (s *sorter) sortItems() {
	// Equal paths in the order in which they were added; a stable sort is three times slower.
	slices.SortFunc(s.items, func(a, b sortItem) int {
		if c := snapshot.Compare(a.parent, a.name, b.parent, b.name); c != 0 {
			return c
		}
		return cmp.Compare(a.off, b.off)
	})
	out := s.items[:0]
	for i, it := range s.items {
		if i+1 < len(s.items) && it.parent == s.items[i+1].parent && it.name == s.items[i+1].name {
			continue
		}
		out = append(out, it)
	}
	s.items = out
}

func (s *sorter) spill() error {
	s.sortItems()
	name := fmt.Sprintf("%s%06d", s.prefix, len(s.runs)+1)
	w, err := newRunWriter(s.disk, name, kindRun, s.ring)
	if err != nil {
		return err
	}
	var frame []byte
	for _, it := range s.items {
		frame = append(frame, s.arena[it.off:it.off+it.n]...)
		if len(frame) >= runFrameTarget {
			if err := w.writeFrame(frame); err != nil {
				return errors.Join(fmt.Errorf("session file %s: %w", name, err), w.close())
			}
			frame = frame[:0]
		}
	}
	if len(frame) > 0 {
		if err := w.writeFrame(frame); err != nil {
			return errors.Join(fmt.Errorf("session file %s: %w", name, err), w.close())
		}
	}
	if err := w.close(); err != nil {
		return fmt.Errorf("session file %s: %w", name, err)
	}
	s.runs = append(s.runs, name)
	clear(s.items)
	s.items, s.arena = s.items[:0], s.arena[:0]
	return nil
}

// sorted yields every path's last entry in catalog order. The sorter must not be added to meanwhile.
func (s *sorter) sorted() iter.Seq2[snapshot.Entry, error] {
	return func(yield func(snapshot.Entry, error) bool) {
		s.sortItems()
		var h cursorHeap
		defer func() {
			for _, c := range h {
				c.close()
			}
		}()
		for i, name := range s.runs {
			r, err := openRun(s.disk, name, kindRun, s.ring)
			if err != nil {
				yield(snapshot.Entry{}, err)
				return
			}
			h = append(h, &cursor{age: i, run: r, off: runHeaderBytes})
		}
		h = append(h, &cursor{age: len(s.runs), mem: s})
		live := h[:0]
		for _, c := range h {
			ok, err := c.next()
			if err != nil {
				yield(snapshot.Entry{}, err)
				return
			}
			if ok {
				live = append(live, c)
			} else {
				c.close()
			}
		}
		h = live
		heap.Init(&h)
		for len(h) > 0 {
			e := h[0].entry
			// The heap gives the youngest of equal paths first; step over the others.
			for len(h) > 0 && h[0].entry.Parent == e.Parent && h[0].entry.Name == e.Name {
				c := h[0]
				ok, err := c.next()
				if err != nil {
					yield(snapshot.Entry{}, err)
					return
				}
				if ok {
					heap.Fix(&h, 0)
				} else {
					heap.Pop(&h)
					c.close()
				}
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// cursor walks one run, or the items in memory.
type cursor struct {
	age   int
	entry snapshot.Entry

	mem *sorter
	pos int

	run   *runReader
	off   int64
	frame uint64
	buf   []byte
	rest  []byte
}

func (c *cursor) next() (bool, error) {
	if c.mem != nil {
		if c.pos == len(c.mem.items) {
			return false, nil
		}
		it := c.mem.items[c.pos]
		c.pos++
		e, _, err := snapshot.DecodeEntry(c.mem.arena[it.off : it.off+it.n])
		c.entry = e
		return err == nil, err
	}
	if len(c.rest) == 0 {
		plain, next, err := c.run.frameAt(c.buf, c.off, c.frame)
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("session file %s: frame %d: %w", c.run.name, c.frame, err)
		}
		c.buf, c.rest, c.off = plain, plain, next
		c.frame++
	}
	e, rest, err := snapshot.DecodeEntry(c.rest)
	if err != nil {
		return false, fmt.Errorf("session file %s: frame %d: %w", c.run.name, c.frame-1, err)
	}
	c.entry, c.rest = e, rest
	return true, nil
}

func (c *cursor) close() {
	if c.run != nil {
		_ = c.run.close()
		c.run = nil
	}
}

type cursorHeap []*cursor

func (h cursorHeap) Len() int { return len(h) }
func (h cursorHeap) Less(i, j int) bool {
	a, b := h[i], h[j]
	if c := snapshot.Compare(a.entry.Parent, a.entry.Name, b.entry.Parent, b.entry.Name); c != 0 {
		return c < 0
	}
	return a.age > b.age
}
func (h cursorHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *cursorHeap) Push(x any)   { *h = append(*h, x.(*cursor)) }
func (h *cursorHeap) Pop() any {
	old := *h
	c := old[len(old)-1]
	*h = old[:len(old)-1]
	return c
}
