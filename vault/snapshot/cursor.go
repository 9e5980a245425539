package snapshot

import (
	"context"
	"fmt"
	"sort"
)

// branch is a leaf or node as its parent announces it: what must be found there.
type branch struct {
	ref     Ref
	level   int // 1 for a leaf
	entries uint64
	after   key  // everything in it comes after this key
	bounded bool // after is meant
	last    key  // and it ends with this one
	rooted  bool // it is the root: last is not known
}

// child says what the i-th child of n, itself at b, must be.
func (b branch) child(n *node, i int) branch {
	c := &n.children[i]
	out := branch{ref: c.ref, level: b.level - 1, entries: c.entries, last: c.last, after: b.after, bounded: b.bounded}
	if i > 0 {
		out.after, out.bounded = n.children[i-1].last, true
	}
	return out
}

// top is the branch of the root, nil for an empty catalog.
func (t *Tree) top() (*branch, error) {
	if err := t.root.check(); err != nil || t.root.Depth == 0 {
		return nil, err
	}
	return &branch{ref: t.root.Ref, level: t.root.Depth, entries: t.root.Entries, rooted: true}, nil
}

// load reads what stands at b, and checks it against what its parent says: level, order and number of entries.
func (t *Tree) load(ctx context.Context, b branch) (object, error) {
	if err := ctx.Err(); err != nil {
		return object{}, err
	}
	o, ok := t.cache.get(b.ref.ID)
	if !ok {
		data, err := fetch(ctx, t.fetch, b.ref)
		if err != nil {
			return object{}, fmt.Errorf("catalog: %w", err)
		}
		if o, err = decodeObject(b, data); err != nil {
			return object{}, err
		}
		t.cache.put(b.ref.ID, o)
	}
	return o, b.check(o)
}

func (b branch) what() string {
	if b.level == 1 {
		return "catalog leaf " + b.ref.ID.String()
	}
	return "catalog node " + b.ref.ID.String()
}

func decodeObject(b branch, data []byte) (o object, err error) {
	if b.level == 1 {
		o.leaf, err = decodeLeaf(b.what(), data)
	} else {
		o.node, err = decodeNode(b.what(), data)
	}
	o.cost = 4*len(data) + 256 // decoded entries are larger than encoded ones
	return o, err
}

// check compares a decoded object with what its parent announced.
func (b branch) check(o object) error {
	var first, last key
	var entries uint64
	level := 1
	switch {
	case o.leaf != nil:
		es := o.leaf.entries
		first, last, entries = es[0].key(), es[len(es)-1].key(), uint64(len(es))
	case o.node != nil:
		cs := o.node.children
		first, last, level = cs[0].last, cs[len(cs)-1].last, o.node.level
		for i := range cs {
			if entries += cs[i].entries; entries < cs[i].entries {
				return damaged(b.what(), "its counts overflow")
			}
		}
	}
	switch {
	case level != b.level:
		return damaged(b.what(), "level %d where %d belongs", level, b.level)
	case entries != b.entries:
		return damaged(b.what(), "%d entries where %d are announced", entries, b.entries)
	case !b.rooted && last != b.last:
		return damaged(b.what(), "it does not end with %s", quoted(b.last.path()))
	case b.bounded && b.after.compare(first) >= 0:
		return damaged(b.what(), "it does not begin after %s", quoted(b.after.path()))
	}
	return nil
}

// frame is a node on the way down and the child that was taken.
type frame struct {
	at   branch
	node *node
	i    int
}

// cursor stands on an entry or behind the last one. It holds one leaf and the nodes above it.
type cursor struct {
	t     *Tree
	stack []frame
	leaf  *leaf
	i     int
}

// seek puts a cursor on the first entry that is not before k.
func (t *Tree) seek(ctx context.Context, k key) (*cursor, error) {
	c := &cursor{t: t}
	top, err := t.top()
	if err != nil || top == nil {
		return c, err
	}
	if err := c.descend(ctx, *top, &k); err != nil {
		return nil, err
	}
	if c.leaf != nil && c.i == len(c.leaf.entries) {
		return c, c.nextLeaf(ctx)
	}
	return c, nil
}

// descend goes down from b to the leaf that may hold k, or to the first leaf if k is nil.
func (c *cursor) descend(ctx context.Context, b branch, k *key) error {
	for {
		o, err := c.t.load(ctx, b)
		if err != nil {
			return err
		}
		if o.leaf != nil {
			c.leaf, c.i = o.leaf, 0
			if k != nil {
				c.i = sort.Search(len(o.leaf.entries), func(i int) bool { return o.leaf.entries[i].key().compare(*k) >= 0 })
			}
			return nil
		}
		i := 0
		if k != nil {
			cs := o.node.children
			if i = sort.Search(len(cs), func(i int) bool { return cs[i].last.compare(*k) >= 0 }); i == len(cs) {
				c.leaf, c.stack = nil, nil // everything is before k
				return nil
			}
		}
		c.stack = append(c.stack, frame{b, o.node, i})
		b = b.child(o.node, i)
	}
}

// entry is where the cursor stands, nil behind the last one.
func (c *cursor) entry() *Entry {
	if c.leaf == nil {
		return nil
	}
	return &c.leaf.entries[c.i]
}

func (c *cursor) next(ctx context.Context) error {
	if c.i++; c.i < len(c.leaf.entries) {
		return nil
	}
	return c.nextLeaf(ctx)
}

func (c *cursor) nextLeaf(ctx context.Context) error {
	c.leaf = nil
	for len(c.stack) > 0 {
		f := &c.stack[len(c.stack)-1]
		if f.i++; f.i < len(f.node.children) {
			return c.descend(ctx, f.at.child(f.node, f.i), nil)
		}
		c.stack = c.stack[:len(c.stack)-1]
	}
	return nil
}
