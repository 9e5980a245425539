package snapshot

import (
	"encoding/binary"
	"math"
	"slices"
)

// The three kinds of chunk that a catalog consists of. All begin with their kind and a format version.
//
//	leaf   'L' 1   n, then n entries (codec.go; a parent equal to the one before is 0),
//	               m, then m times (pack number less the one before it, bytes)
//	node   'N' 1   level (1 byte, 2 for one that stands on leaves), n, then n times
//	               (parent: length and bytes, name: length and bytes, ref, entries below)
//	list   'R' 1   n, then n times ref
//
// The table at a leaf's end sums, for each pack, the bytes of the chunks that the leaf's entries name: content,
// list chunks, and what the lists themselves name. A reader computes it again and accepts no other.
// A node's key is the last key below that child. A child lies wholly after the key before it and ends exactly
// at its own, and its level is one less than the node's: so no chunk can contain itself.
const (
	leafKind = 'L'
	nodeKind = 'N'
	listKind = 'R'

	objectVersion = 1
)

// key is the place of an entry in catalog order.
type key struct{ parent, name string }

func (k key) compare(o key) int { return Compare(k.parent, k.name, o.parent, o.name) }

func (e *Entry) key() key { return key{e.Parent, e.Name} }

// leaf is a decoded leaf. Immutable: cursors and callers share it.
type leaf struct {
	entries []Entry
	uses    []PackUse
}

// node is a decoded node. Immutable.
type node struct {
	level    int
	children []child
}

type child struct {
	last    key
	ref     Ref
	entries uint64
}

// packTable sums bytes by pack.
type packTable map[uint32]uint64

func (t packTable) addEntry(e *Entry) {
	t.addRefs(e.Chunks)
	t.addRefs(e.List)
	for _, u := range e.ListPacks {
		t[u.Pack] += u.Bytes
	}
}

func (t packTable) addRefs(refs []Ref) {
	for i := range refs {
		t[refs[i].Pack] += uint64(refs[i].Size)
	}
}

func (t packTable) sorted() []PackUse {
	if len(t) == 0 {
		return nil
	}
	uses := make([]PackUse, 0, len(t))
	for p, n := range t {
		uses = append(uses, PackUse{p, n})
	}
	slices.SortFunc(uses, func(a, b PackUse) int {
		if a.Pack < b.Pack {
			return -1
		}
		return 1
	})
	return uses
}

// appendLeaf puts a leaf together from its encoded entries.
func appendLeaf(dst []byte, n int, entries []byte, uses []PackUse) []byte {
	dst = append(dst, leafKind, objectVersion)
	dst = binary.AppendUvarint(dst, uint64(n))
	dst = append(dst, entries...)
	return appendUses(dst, uses)
}

func appendNode(dst []byte, level, n int, children []byte) []byte {
	dst = append(dst, nodeKind, objectVersion, byte(level))
	dst = binary.AppendUvarint(dst, uint64(n))
	return append(dst, children...)
}

func appendChild(dst []byte, c *child) []byte {
	dst = appendString(dst, c.last.parent)
	dst = appendString(dst, c.last.name)
	dst = appendRef(dst, &c.ref)
	return binary.AppendUvarint(dst, c.entries)
}

func appendList(dst []byte, n int, refs []byte) []byte {
	dst = append(dst, listKind, objectVersion)
	dst = binary.AppendUvarint(dst, uint64(n))
	return append(dst, refs...)
}

// open checks the first two bytes of an object.
func (d *decoder) open(kind byte) {
	if len(d.p) > maxObject {
		d.fail("%d bytes, the limit is %d", len(d.p), maxObject)
	}
	if k := d.byte(); d.err == nil && k != kind {
		d.fail("it is of kind %q, not %q", k, kind)
	}
	if v := d.byte(); d.err == nil && v > objectVersion {
		d.err = &newerError{d.what, int(v)}
		d.p = nil
	} else if d.err == nil && v != objectVersion {
		d.fail("format version %d", v)
	}
}

func (d *decoder) close() {
	if d.err == nil && len(d.p) > 0 {
		d.fail("%d bytes follow its end", len(d.p))
	}
}

// minEntry and minChild are the shortest encodings, in bytes.
const (
	minEntry = 1 + 1 + 1 + 4 + 1 + 1
	minChild = 1 + 1 + minRef + 1
)

// count reads how many things of at least size bytes follow; at least one.
func (d *decoder) count(size int) int {
	n := d.uvarint(math.MaxUint32)
	if d.err == nil && (n == 0 || n > uint64(len(d.p)/size)) {
		d.fail("a count of %d before %d bytes", n, len(d.p))
	}
	if d.err != nil {
		return 0
	}
	return int(n)
}

func decodeLeaf(what string, p []byte) (*leaf, error) {
	d := decoder{what: what, p: p}
	d.open(leafKind)
	n := d.count(minEntry)
	l := &leaf{entries: make([]Entry, 0, n)}
	table := packTable{}
	for i := range n {
		var e Entry
		if i == 0 {
			e = d.entry("", false)
		} else {
			before := &l.entries[i-1]
			e = d.entry(before.Parent, true)
			if d.err == nil && before.key().compare(e.key()) >= 0 {
				d.fail("entry %d is out of order", i)
			}
		}
		if d.err != nil {
			return nil, d.err
		}
		table.addEntry(&e)
		l.entries = append(l.entries, e)
	}
	l.uses = d.uses()
	d.close()
	if d.err == nil && !slices.Equal(l.uses, table.sorted()) {
		d.fail("its pack table is not that of its entries")
	}
	if d.err != nil {
		return nil, d.err
	}
	return l, nil
}

func decodeNode(what string, p []byte) (*node, error) {
	d := decoder{what: what, p: p}
	d.open(nodeKind)
	level := int(d.byte())
	if d.err == nil && (level < 2 || level > MaxDepth) {
		d.fail("level %d is not within 2..%d", level, MaxDepth)
	}
	n := d.count(minChild)
	out := &node{level: level, children: make([]child, 0, n)}
	for i := range n {
		var c child
		c.last.parent = d.string(MaxParent)
		c.last.name = d.string(MaxName)
		c.ref = d.ref()
		c.entries = d.uvarint(math.MaxInt64)
		if d.err == nil {
			d.err = checkKey(c.last.parent, c.last.name)
		}
		if d.err == nil && (c.entries == 0 || i > 0 && out.children[i-1].last.compare(c.last) >= 0) {
			d.fail("child %d is empty or out of order", i)
		}
		if d.err != nil {
			return nil, d.err
		}
		out.children = append(out.children, c)
	}
	d.close()
	if d.err != nil {
		return nil, d.err
	}
	return out, nil
}

func decodeList(what string, p []byte) ([]Ref, error) {
	d := decoder{what: what, p: p}
	d.open(listKind)
	refs := d.refs(uint64(d.count(minRef)))
	d.close()
	if d.err != nil {
		return nil, d.err
	}
	return refs, nil
}
