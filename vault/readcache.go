package vault

import (
	"bytes"
	"container/list"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/vault/chunk"
	"github.com/holdfast-vault/holdfast/vault/pack"
)

// cachedPacks is how many packs stay open for reading, with their sorted chunk tables. Those, and decoded blocks, are bounded
// by the budget besides: a restore of small files decodes each block once without holding the vault in memory.
const cachedPacks = 48

// readCache holds open packs and decoded blocks, each least recently used first out. Safe for concurrent use.
type readCache struct {
	v    *Vault
	room buffers

	decoded atomic.Int64 // blocks decoded so far

	mu sync.Mutex // guards what follows

	packs  map[uint32]*cachedPack
	chunks int
	tick   uint64

	blocks map[blockKey]*cachedBlock
	recent list.List // of *cachedBlock, decoded ones, the one used last in front
	bytes  int
}

type cachedPack struct {
	number uint32
	once   sync.Once
	err    error
	file   durable.File
	reader *pack.Reader
	footer *pack.Footer
	table  []chunkPlace // by ID
	used   uint64
	refs   int // readers in flight; the file is closed when evicted and unused
	gone   bool
}

type chunkPlace struct {
	id                  chunk.ID
	block, offset, size uint32
}

type blockKey struct {
	pack   uint32
	offset int64
}

// cachedBlock is a decoded block. Its room is used again once it is evicted and nobody uses it, unless somebody kept it.
type cachedBlock struct {
	key     blockKey
	once    sync.Once
	payload []byte
	err     error
	sound   atomic.Bool // the one chunk that it is has been checked against its ID

	// Under the cache's mutex:
	users   int
	kept    bool
	evicted bool
	place   *list.Element // nil before it is decoded and after it is evicted
}

func newReadCache(v *Vault) *readCache {
	c := &readCache{v: v, packs: map[uint32]*cachedPack{}, blocks: map[blockKey]*cachedBlock{}}
	c.recent.Init()
	return c
}

func (p *cachedPack) find(id chunk.ID) (chunkPlace, bool) {
	i := sort.Search(len(p.table), func(i int) bool { return bytes.Compare(p.table[i].id[:], id[:]) >= 0 })
	if i < len(p.table) && p.table[i].id == id {
		return p.table[i], true
	}
	return chunkPlace{}, false
}

// pack opens a pack, or finds it open. The table and footer of an evicted pack stay usable for whoever holds them.
func (c *readCache) pack(number uint32) (*cachedPack, error) {
	c.mu.Lock()
	p := c.packs[number]
	if p == nil {
		p = &cachedPack{number: number}
		c.packs[number] = p
	}
	c.tick++
	p.used = c.tick
	c.mu.Unlock()
	p.once.Do(func() { p.err = c.open(p) })
	if p.err != nil {
		c.mu.Lock()
		if c.packs[number] == p {
			delete(c.packs, number)
		}
		c.mu.Unlock()
		return nil, fmt.Errorf("pack %d: %w", number, p.err)
	}
	return p, nil
}

func (c *readCache) open(p *cachedPack) error {
	f, size, err := c.v.store.OpenPack(p.number)
	if err != nil {
		return c.v.swept(err)
	}
	r, err := pack.Open(f, size, c.v.ring)
	if err == nil && (r.Number() != p.number || r.Vault() != c.v.id) {
		err = fmt.Errorf("its header says pack %d of vault %x: it was put in another's place: %w", r.Number(), r.Vault(), ErrDamaged)
	}
	if err == nil {
		p.footer, err = r.Footer()
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	n := 0
	for i := range p.footer.Blocks {
		n += len(p.footer.Blocks[i].Chunks)
	}
	table := make([]chunkPlace, 0, n)
	for i := range p.footer.Blocks {
		for _, ch := range p.footer.Blocks[i].Chunks {
			table = append(table, chunkPlace{id: ch.ID, block: uint32(i), offset: ch.Offset, size: ch.Size})
		}
		p.footer.Blocks[i].Chunks = nil // the table has them
	}
	slices.SortFunc(table, func(a, b chunkPlace) int { return bytes.Compare(a.id[:], b.id[:]) })
	c.mu.Lock()
	defer c.mu.Unlock()
	p.file, p.reader, p.table = f, r, table
	c.chunks += len(p.table)
	c.evictPacks(p)
	return nil
}

// evictPacks drops the packs used longest ago, never keep. Called with mu held.
func (c *readCache) evictPacks(keep *cachedPack) {
	for len(c.packs) > cachedPacks || c.chunks > c.v.budget.chunks {
		var oldest *cachedPack
		for _, p := range c.packs {
			if p != keep && p.table != nil && (oldest == nil || p.used < oldest.used) {
				oldest = p
			}
		}
		if oldest == nil {
			return
		}
		c.drop(oldest)
	}
}

// drop takes an open pack out. Called with mu held.
func (c *readCache) drop(p *cachedPack) {
	delete(c.packs, p.number)
	c.chunks -= len(p.table)
	if p.refs == 0 {
		_ = p.file.Close()
	} else {
		p.gone = true
	}
}

// forget closes packs that were removed: an open file keeps its room on the disk.
func (c *readCache) forget(numbers []uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range numbers {
		if p := c.packs[n]; p != nil && p.table != nil {
			c.drop(p)
		}
	}
}

// block decodes a block, or finds it decoded. Whoever got it gives it back with release.
func (c *readCache) block(p *cachedPack, b pack.Block) (*cachedBlock, error) {
	key := blockKey{p.number, b.Offset}
	c.mu.Lock()
	cb := c.blocks[key]
	if cb == nil {
		cb = &cachedBlock{key: key}
		c.blocks[key] = cb
	}
	cb.users++
	if cb.place != nil {
		c.recent.MoveToFront(cb.place)
	}
	c.mu.Unlock()
	cb.once.Do(func() {
		payload, err := c.decode(p, b)
		c.mu.Lock()
		defer c.mu.Unlock()
		cb.payload, cb.err = payload, err
		if err != nil {
			delete(c.blocks, key)
			return
		}
		cb.place = c.recent.PushFront(cb)
		c.bytes += cap(cb.payload)
		c.evictBlocks()
	})
	if cb.err != nil {
		return nil, cb.err // it has no room that could be used again
	}
	return cb, nil
}

// release gives back what block gave; kept says that its bytes are still referred to.
func (c *readCache) release(cb *cachedBlock, kept bool) {
	c.mu.Lock()
	cb.users--
	cb.kept = cb.kept || kept
	free := cb.evicted && cb.users == 0 && !cb.kept
	c.mu.Unlock()
	if free {
		c.room.put(cb.payload)
	}
}

// evictBlocks drops the blocks used longest ago, but for those in use. Called with mu held.
func (c *readCache) evictBlocks() {
	for e := c.recent.Back(); e != nil && c.bytes > c.v.budget.blocks; {
		cb, before := e.Value.(*cachedBlock), e.Prev()
		if cb.users == 0 {
			c.recent.Remove(e)
			delete(c.blocks, cb.key)
			c.bytes -= cap(cb.payload)
			cb.place, cb.evicted = nil, true
			if !cb.kept {
				c.room.put(cb.payload)
			}
		}
		e = before
	}
}

func (c *readCache) decode(p *cachedPack, b pack.Block) ([]byte, error) {
	c.mu.Lock()
	if p.gone || c.packs[p.number] != p {
		// Evicted between the look-up and here: open it for this one read.
		c.mu.Unlock()
		f, size, err := c.v.store.OpenPack(p.number)
		if err != nil {
			return nil, fmt.Errorf("pack %d: %w", p.number, err)
		}
		defer f.Close()
		r, err := pack.Open(f, size, c.v.ring)
		if err != nil {
			return nil, fmt.Errorf("pack %d: %w", p.number, err)
		}
		return c.readBlock(r, p.number, b)
	}
	p.refs++
	c.mu.Unlock()
	payload, err := c.readBlock(p.reader, p.number, b)
	c.mu.Lock()
	p.refs--
	if p.gone && p.refs == 0 {
		_ = p.file.Close()
	}
	c.mu.Unlock()
	return payload, err
}

func (c *readCache) readBlock(r *pack.Reader, number uint32, b pack.Block) ([]byte, error) {
	d := c.v.decoders.Get().(*pack.Decoder)
	defer c.v.decoders.Put(d)
	c.decoded.Add(1)
	room := c.room.get(int(b.Raw) + pack.DecodeSlack)
	payload, _, err := r.ReadBlock(room, d, b.Offset, b.Stored)
	if err != nil {
		c.room.put(room)
		return nil, fmt.Errorf("pack %d: block %d: %w", number, b.Number, err)
	}
	return payload, nil
}

func (c *readCache) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, p := range c.packs {
		if p.file != nil {
			errs = append(errs, p.file.Close())
		}
	}
	clear(c.packs)
	clear(c.blocks)
	return errors.Join(errs...)
}

// buffers are used again and again, each a multiple of bufferStep long. The zero value is ready, and safe for concurrent use.
type buffers [2 + pack.MaxPayload/bufferStep]sync.Pool

const bufferStep = 256 << 10

// get returns an empty slice with room for n bytes; what the room holds is not cleared. Little rooms are made anew.
func (b *buffers) get(n int) []byte {
	class := (n + bufferStep - 1) / bufferStep
	if n < bufferStep/2 || class >= len(b) {
		return make([]byte, 0, n)
	}
	if p, ok := b[class].Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 0, class*bufferStep)
}

// put gives back what get gave, which nobody may use any more.
func (b *buffers) put(p []byte) {
	if class := cap(p) / bufferStep; class > 0 && class < len(b) && cap(p) == class*bufferStep {
		p = p[:0]
		b[class].Put(&p)
	}
}
