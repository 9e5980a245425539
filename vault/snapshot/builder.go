package snapshot

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"math"

	"github.com/RoaringBitmap/roaring/v2"
)

// Bounds of leaves and nodes. After minFan members, a member ends its leaf when the keyed hash of its key says
// so, which happens once in meanFan-minFan; maxFan members or maxWeight bytes end it in any case. The hash sees
// the key and the level, nothing else: changed content or times move no bound, and after an inserted or removed
// name the old bounds are met again within a few leaves. Weights do not see times either; they only matter
// where files of many chunks or very long names stand together.
const (
	minFan    = 64
	meanFan   = 256
	maxFan    = 1024
	maxWeight = 1 << 20

	boundLimit = math.MaxUint64 / (meanFan - minFan)
)

// Builder writes a catalog from entries that arrive in catalog order. It holds one unfinished leaf or node of
// each level and nothing else: memory does not grow with the tree, apart from the set of packs. Not safe for
// concurrent use.
type Builder struct {
	put    Putter
	mac    hash.Hash // HMAC-SHA-256 under the boundary key
	levels []*level  // levels[0] gathers entries
	last   key
	any    bool
	root   Root
	packs  *roaring.Bitmap
	uses   packTable
	err    error // sticky

	scratch []byte
	sum     []byte
}

// level is the unfinished leaf or node at one height of the tree.
type level struct {
	n       int
	weight  int
	body    []byte
	entries uint64
	last    key
	table   packTable // leaves only
	sealed  int       // finished leaves or nodes of this height
}

// NewBuilder returns a Builder that stores through p. The key decides where leaves end: it must stay the same
// for as long as snapshots are to share leaves.
func NewBuilder(p Putter, boundaryKey [32]byte) *Builder {
	return &Builder{put: p, mac: hmac.New(sha256.New, boundaryKey[:]), packs: roaring.New(), uses: packTable{}}
}

// Add adds an entry, which must come strictly after the one before it; it keeps nothing of e. After an error the
// builder is of no further use.
func (b *Builder) Add(ctx context.Context, e *Entry) error {
	if b.err == nil {
		b.err = b.add(ctx, e)
	}
	return b.err
}

func (b *Builder) add(ctx context.Context, e *Entry) error {
	if err := e.Check(); err != nil {
		return err
	}
	k := e.key()
	if b.any && b.last.compare(k) >= 0 {
		return fmt.Errorf("catalog: %q comes after %q, entries must ascend", k.path(), b.last.path())
	}
	if err := b.addToLeaf(ctx, e); err != nil {
		return err
	}
	b.last, b.any = k, true
	b.root.Entries++
	switch e.Kind {
	case File:
		b.root.Files++
		b.root.Bytes += e.Size
	case Directory:
		b.root.Directories++
	}
	return nil
}

func (k key) path() string { return join(k.parent, k.name) }

func (b *Builder) addToLeaf(ctx context.Context, e *Entry) error {
	l := b.level(0)
	w := entryWeight(e)
	if l.n > 0 && l.weight+w > maxWeight {
		if err := b.seal(ctx, 0); err != nil {
			return err
		}
	}
	if l.n == 0 {
		l.body = appendParent(l.body, e.Parent)
	} else if l.last.parent == e.Parent {
		l.body = append(l.body, 0)
	} else {
		l.body = appendParent(l.body, e.Parent)
	}
	l.body = appendBody(l.body, e)
	l.table.addEntry(e)
	return b.added(ctx, 0, e.key(), w, 1)
}

// entryWeight is an upper bound of what an entry takes in a leaf with its share of the pack table, and does not
// depend on times, owners or sizes.
func entryWeight(e *Entry) int {
	return 64 + len(e.Parent) + len(e.Name) + len(e.Target) + 60*(len(e.Chunks)+len(e.List)) + 30*len(e.ListPacks)
}

func (b *Builder) level(i int) *level {
	for len(b.levels) <= i {
		b.levels = append(b.levels, &level{table: packTable{}})
	}
	return b.levels[i]
}

// added counts a member that was appended to level i and ends the leaf or node there if its key says so.
func (b *Builder) added(ctx context.Context, i int, k key, weight int, entries uint64) error {
	l := b.levels[i]
	l.n++
	l.weight += weight
	l.entries += entries
	l.last = k
	if l.n >= maxFan || l.n >= minFan && b.bound(i, k) {
		return b.seal(ctx, i)
	}
	return nil
}

// bound is the keyed coin: HMAC-SHA-256(key, level, length of parent, parent, name), first 8 bytes.
func (b *Builder) bound(level int, k key) bool {
	b.scratch = append(b.scratch[:0], byte(level))
	b.scratch = binary.BigEndian.AppendUint32(b.scratch, uint32(len(k.parent)))
	b.scratch = append(b.scratch, k.parent...)
	b.scratch = append(b.scratch, k.name...)
	b.mac.Reset()
	b.mac.Write(b.scratch)
	b.sum = b.mac.Sum(b.sum[:0])
	return binary.BigEndian.Uint64(b.sum) < boundLimit
}

// seal stores the leaf or node that level i gathered and hands its reference to the level above.
func (b *Builder) seal(ctx context.Context, i int) error {
	c, err := b.store(ctx, i)
	if err != nil {
		return err
	}
	if i+2 > MaxDepth {
		return fmt.Errorf("catalog: more than %d levels", MaxDepth)
	}
	up := b.level(i + 1)
	w := 64 + len(c.last.parent) + len(c.last.name)
	if up.n > 0 && up.weight+w > maxWeight {
		if err := b.seal(ctx, i+1); err != nil {
			return err
		}
	}
	up.body = appendChild(up.body, &c)
	return b.added(ctx, i+1, c.last, w, c.entries)
}

// store writes what level i gathered and empties it.
func (b *Builder) store(ctx context.Context, i int) (child, error) {
	l := b.levels[i]
	b.scratch = b.scratch[:0]
	if i == 0 {
		uses := l.table.sorted()
		for _, u := range uses {
			b.packs.Add(u.Pack)
			b.uses[u.Pack] += u.Bytes
		}
		b.scratch = appendLeaf(b.scratch, l.n, l.body, uses)
	} else {
		b.scratch = appendNode(b.scratch, i+1, l.n, l.body)
	}
	if len(b.scratch) > maxObject {
		return child{}, fmt.Errorf("catalog: the entry %q takes %d bytes with all chunks and packs it names, the limit is %d: exclude the file or split it at the source",
			l.last.path(), len(b.scratch), maxObject)
	}
	ref, err := b.put.Put(ctx, b.scratch)
	if err != nil {
		return child{}, fmt.Errorf("catalog: store level %d: %w", i+1, err)
	}
	b.packs.Add(ref.Pack)
	b.uses[ref.Pack] += uint64(ref.Size)
	c := child{last: l.last, ref: ref, entries: l.entries}
	clear(l.table)
	*l = level{body: l.body[:0], table: l.table, sealed: l.sealed + 1}
	return c, nil
}

var errFinished = errors.New("catalog: already finished")

// Finish stores what is left and returns the root. Nothing can be added afterwards.
func (b *Builder) Finish(ctx context.Context) (Root, error) {
	if b.err != nil {
		return Root{}, b.err
	}
	root, err := b.finish(ctx)
	if b.err = errFinished; err != nil {
		b.err = err
	}
	return root, err
}

func (b *Builder) finish(ctx context.Context) (Root, error) {
	for i := 0; i < len(b.levels); i++ {
		l := b.levels[i]
		top := i == len(b.levels)-1
		switch {
		case top && l.sealed == 0 && i > 0 && l.n == 1:
			// A single object below: that one is the root, and a node above it would say nothing.
			return b.rootBelow(i)
		case top && l.sealed == 0:
			c, err := b.store(ctx, i)
			if err != nil {
				return Root{}, err
			}
			b.root.Ref, b.root.Depth = c.ref, i+1
			return b.root, nil
		case l.n > 0:
			if err := b.seal(ctx, i); err != nil {
				return Root{}, err
			}
		}
	}
	return b.root, nil
}

// rootBelow makes the only child gathered at level i the root.
func (b *Builder) rootBelow(i int) (Root, error) {
	l := b.levels[i]
	d := decoder{what: "catalog node", p: l.body}
	_, _ = d.string(MaxParent), d.string(MaxName)
	ref := d.ref()
	if d.err != nil {
		return Root{}, d.err
	}
	b.root.Ref, b.root.Depth = ref, i
	return b.root, nil
}

// Packs is the exact set of packs that the catalog relies on: for content, for chunk lists, and for its own
// leaves and nodes. Complete once Finish has returned; the caller may keep and change it.
func (b *Builder) Packs() *roaring.Bitmap { return b.packs.Clone() }

// Uses is what Tree.Uses will give for the catalog. Complete once Finish has returned; it is the caller's from then on.
func (b *Builder) Uses() map[uint32]uint64 { return b.uses }
