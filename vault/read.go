package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sort"
	"sync"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/vault/chunk"
	"github.com/holdfast-vault/holdfast/vault/pack"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// cachedPacks is how many packs stay open for reading, with their sorted chunk tables. Those, and decoded blocks, are bounded
// by the budget besides: a restore of small files decodes each block once without holding the vault in memory.
const cachedPacks = 48

// ErrDamaged marks content that could not be had as it was stored.
var ErrDamaged = errors.New("damaged")

// Snapshot is a committed snapshot open for reading. Safe for concurrent use.
type Snapshot struct {
	v        *Vault
	info     worm.Snapshot
	manifest *snapshot.Manifest
	tree     *snapshot.Tree
}

// OpenSnapshot opens a snapshot by its ID.
func (v *Vault) OpenSnapshot(ctx context.Context, id string) (*Snapshot, error) {
	if err := v.needKey(); err != nil {
		return nil, err
	}
	all, err := v.store.Snapshots()
	if err != nil {
		return nil, err
	}
	for _, info := range all {
		if info.ID == id {
			return v.openSnapshot(info)
		}
	}
	return nil, fmt.Errorf("snapshot %s: the ledger names no such snapshot", id)
}

func (v *Vault) openSnapshot(info worm.Snapshot) (*Snapshot, error) {
	b, err := v.store.Manifest(info.ID)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s@%s: manifest: %w", info.Source, info.Label, err)
	}
	m, err := snapshot.DecodeManifest(b, v.ring)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s@%s: manifest: %w", info.Source, info.Label, err)
	}
	s := &Snapshot{v: v, info: info, manifest: m}
	s.tree = snapshot.OpenTree(s, m.Body.Root)
	return s, nil
}

// newest is a source's newest snapshot that can be read, nil if there is none: a damaged one costs a full pull, not
// the pull.
func (v *Vault) newest(ctx context.Context, source string) (*Snapshot, error) {
	all, err := v.store.Snapshots()
	if err != nil {
		return nil, err
	}
	for _, info := range slices.Backward(all) {
		if info.Source != source {
			continue
		}
		s, err := v.openSnapshot(info)
		if err == nil {
			return s, nil
		}
		v.o.Logf("%v; comparing with an older snapshot instead", err)
	}
	return nil, ctx.Err()
}

// Info is the snapshot as the ledger and the manifest's open head know it.
func (s *Snapshot) Info() worm.Snapshot { return s.info }

// Body is the sealed part of the manifest.
func (s *Snapshot) Body() *snapshot.Body { return &s.manifest.Body }

// Problems yields the paths that could not be had, as far as the session remembered them (Body().ProblemCount has the
// number of all).
func (s *Snapshot) Problems(ctx context.Context) iter.Seq2[snapshot.Problem, error] {
	return func(yield func(snapshot.Problem, error) bool) {
		if len(s.manifest.Body.ProblemList) == 0 {
			for _, p := range s.manifest.Body.Problems {
				if !yield(p, nil) {
					return
				}
			}
			return
		}
		for _, r := range s.manifest.Body.ProblemList {
			data, err := s.Fetch(ctx, r)
			if err != nil {
				yield(snapshot.Problem{}, fmt.Errorf("list of problems: %w", err))
				return
			}
			for line := range bytes.Lines(data) {
				var p snapshot.Problem
				if err := json.Unmarshal(line, &p); err != nil {
					yield(snapshot.Problem{}, fmt.Errorf("list of problems: %w", err))
					return
				}
				if !yield(p, nil) {
					return
				}
			}
		}
	}
}

// Tree is the snapshot's catalog.
func (s *Snapshot) Tree() *snapshot.Tree { return s.tree }

// Lookup finds the entry with the given path; fs.ErrNotExist if there is none.
func (s *Snapshot) Lookup(ctx context.Context, path string) (snapshot.Entry, error) {
	return s.tree.Lookup(ctx, path)
}

// List yields the entries directly below dir, by name.
func (s *Snapshot) List(ctx context.Context, dir string) iter.Seq2[snapshot.Entry, error] {
	return s.tree.List(ctx, dir)
}

// Walk yields the entry at path and everything below it, in catalog order.
func (s *Snapshot) Walk(ctx context.Context, path string) iter.Seq2[snapshot.Entry, error] {
	return s.tree.Walk(ctx, path)
}

// Content yields the chunks of a file in order.
func (s *Snapshot) Content(ctx context.Context, e snapshot.Entry) iter.Seq2[snapshot.Ref, error] {
	return snapshot.Chunks(ctx, s, e)
}

// Fetch returns a chunk's bytes, which are those that were stored: they are checked against the chunk's ID. The slice
// is shared and must not be changed.
func (s *Snapshot) Fetch(ctx context.Context, r snapshot.Ref) ([]byte, error) {
	return s.v.fetch(ctx, r)
}

// fetch looks for a chunk where its reference says, by that pack's own footer, and then, if it cannot be had there,
// wherever the index knows of another copy. Whatever comes is checked against the ID.
func (v *Vault) fetch(ctx context.Context, r snapshot.Ref) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	data, err := v.fetchFrom(r.Pack, r)
	if err == nil {
		return data, nil
	}
	if place, ok := v.lookup(r.ID); ok && place.Pack != r.Pack {
		if data, err2 := v.fetchFrom(place.Pack, r); err2 == nil {
			return data, nil
		}
	}
	return nil, err
}

func (v *Vault) fetchFrom(number uint32, r snapshot.Ref) ([]byte, error) {
	p, err := v.cache.pack(number)
	if err != nil {
		return nil, err
	}
	at, ok := p.find(r.ID)
	if !ok {
		return nil, fmt.Errorf("pack %d holds no chunk %s: %w", number, r.ID, ErrDamaged)
	}
	b := p.footer.Blocks[at.block]
	payload, err := v.cache.block(p, b)
	if err != nil {
		return nil, err
	}
	if uint64(at.offset)+uint64(at.size) > uint64(len(payload)) || at.size != r.Size {
		return nil, fmt.Errorf("pack %d: block %d: chunk %s does not lie where the footer says: %w", number, b.Number, r.ID, ErrDamaged)
	}
	data := payload[at.offset : at.offset+at.size : at.offset+at.size]
	if v.chunkID(data) != r.ID {
		return nil, fmt.Errorf("pack %d: block %d: chunk %s has other content than its ID says: %w", number, b.Number, r.ID, ErrDamaged)
	}
	return data, nil
}

// packContent is the number of plaintext bytes in a pack.
func (v *Vault) packContent(number uint32) (uint64, error) {
	p, err := v.cache.pack(number)
	if err != nil {
		return 0, err
	}
	var n uint64
	for i := range p.footer.Blocks {
		n += uint64(p.footer.Blocks[i].Raw)
	}
	return n, nil
}

// readCache holds open packs and decoded blocks, each least recently used first out. Safe for concurrent use.
type readCache struct {
	v  *Vault
	mu sync.Mutex

	packs  map[uint32]*cachedPack
	chunks int

	blocks map[blockKey]*cachedBlock
	bytes  int

	tick uint64
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

type cachedBlock struct {
	once    sync.Once
	payload []byte
	err     error
	used    uint64
}

func newReadCache(v *Vault) *readCache {
	return &readCache{v: v, packs: map[uint32]*cachedPack{}, blocks: map[blockKey]*cachedBlock{}}
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
		return err
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
	table := []chunkPlace{}
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

// block decodes a block, or finds it decoded.
func (c *readCache) block(p *cachedPack, b pack.Block) ([]byte, error) {
	key := blockKey{p.number, b.Offset}
	c.mu.Lock()
	cb := c.blocks[key]
	if cb == nil {
		cb = &cachedBlock{}
		c.blocks[key] = cb
	}
	c.tick++
	cb.used = c.tick
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
		c.bytes += len(cb.payload)
		c.evictBlocks(cb)
	})
	return cb.payload, cb.err
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
	payload, _, err := r.ReadBlock(make([]byte, 0, b.Raw), d, b.Offset, b.Stored)
	if err != nil {
		return nil, fmt.Errorf("pack %d: block %d: %w", number, b.Number, err)
	}
	return payload, nil
}

func (c *readCache) evictBlocks(keep *cachedBlock) {
	for c.bytes > c.v.budget.blocks {
		var key blockKey
		var oldest *cachedBlock
		for k, b := range c.blocks {
			if b != keep && b.payload != nil && (oldest == nil || b.used < oldest.used) {
				key, oldest = k, b
			}
		}
		if oldest == nil {
			return
		}
		delete(c.blocks, key)
		c.bytes -= len(oldest.payload)
	}
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
