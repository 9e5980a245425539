package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"

	"github.com/RoaringBitmap/roaring/v2"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/vault/chunk"
	"github.com/holdfast-vault/holdfast/vault/keys"
	"github.com/holdfast-vault/holdfast/vault/pack"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// touchedMax bounds the files that a report names; it counts the rest.
const touchedMax = 10_000

// CheckOptions says how deep a check goes.
type CheckOptions struct {
	// ReadData reads every byte: packs against their recorded hashes, every block, every chunk against its ID.
	ReadData bool
	// Progress is told how far the check has come, in packs; nil means nobody listens.
	Progress func(done, total int)
}

// CheckReport is what a check found. A vault without Damage is as it was when it was written, as far as the check looked.
type CheckReport struct {
	Damage       []worm.Damage
	Touched      []Touched // files of snapshots that cannot be given back whole, at most 10,000
	TouchedCount uint64
	Snapshots    int
	Packs        int
	Chunks       uint64
	BytesRead    uint64
	IndexRebuilt string // why the index was rebuilt, empty if it was right
}

// Touched is a file that damage reaches.
type Touched struct {
	Snapshot string // ID
	Source   string
	Label    string
	Path     string
}

// Check verifies the vault: the store below, every manifest and catalog, that every chunk a snapshot names lies in a
// pack that the manifest names, and the index. With ReadData also every byte. It changes nothing but the index, which
// it rebuilds if it is wrong and the vault is open for writing.
func (v *Vault) Check(ctx context.Context, o CheckOptions) (*CheckReport, error) {
	if err := v.needKey(); err != nil {
		return nil, err
	}
	c := &checker{v: v, o: o, rep: &CheckReport{}, lost: map[chunk.ID]struct{}{}, known: map[uint32][]chunk.ID{}}
	c.rep.Damage = v.store.Check(ctx, o.ReadData)
	if err := c.packs(ctx); err != nil {
		return nil, err
	}
	if err := c.snapshots(ctx); err != nil {
		return nil, err
	}
	if err := c.index(ctx); err != nil {
		return nil, err
	}
	return c.rep, ctx.Err()
}

// CheckDir opens the vault in dir, checks it and closes it. A vault that cannot be opened for writing because it is
// damaged is checked read-only: what recovery or a rebuilt index would mend is then left as it is.
func CheckDir(ctx context.Context, dir string, o Options, co CheckOptions) (rep *CheckReport, err error) {
	v, err := Open(ctx, dir, o)
	if err != nil && (errors.Is(err, durable.ErrLocked) || errors.Is(err, keys.ErrWrongIdentity) || ctx.Err() != nil) {
		return nil, err
	}
	if err != nil {
		cause := err
		o.ReadOnly = true
		if v, err = Open(ctx, dir, o); err != nil {
			return nil, errors.Join(cause, err)
		}
		defer func() {
			if rep != nil && len(rep.Damage) == 0 {
				rep.Damage = append(rep.Damage, worm.Damage{What: "vault", Detail: "it cannot be opened for writing: " + cause.Error()})
			}
		}()
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	return v.Check(ctx, co)
}

type checker struct {
	v   *Vault
	o   CheckOptions
	rep *CheckReport

	mu    sync.Mutex
	known map[uint32][]chunk.ID // readable packs and the sorted IDs of the chunks they hold
	lost  map[chunk.ID]struct{} // chunks whose only copy seen so far cannot be read
	wrong string                // the first thing the index had wrong
}

func (c *checker) damage(d worm.Damage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rep.Damage = append(c.rep.Damage, d)
}

// packs reads every pack's footer and, if asked, every byte.
func (c *checker) packs(ctx context.Context) error {
	all := c.v.store.Packs()
	c.rep.Packs = len(all)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(c.v.o.Workers)
	done := 0
	for _, info := range all {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			c.pack(ctx, info)
			c.mu.Lock()
			defer c.mu.Unlock()
			done++
			if c.o.Progress != nil {
				c.o.Progress(done, len(all))
			}
			return nil
		})
	}
	return g.Wait()
}

func (c *checker) pack(ctx context.Context, info worm.PackInfo) {
	name := fmt.Sprintf("packs/%08d.pack", info.Number)
	bad := func(detail string) {
		c.damage(worm.Damage{What: name, Detail: detail, Pack: info.Number})
	}
	f, size, err := c.v.store.OpenPack(info.Number)
	if err != nil {
		return // the store's own check has said so
	}
	defer f.Close()
	r, err := pack.Open(f, size, c.v.ring)
	if err != nil {
		bad(err.Error())
		return
	}
	if r.Number() != info.Number || r.Vault() != c.v.id {
		bad(fmt.Sprintf("its header says pack %d of vault %x", r.Number(), r.Vault()))
		return
	}
	footer, err := r.Footer()
	if err != nil {
		bad(err.Error())
		return
	}
	if c.o.ReadData {
		found, err := r.Verify(ctx)
		if err != nil && ctx.Err() == nil {
			bad(err.Error())
		}
		for _, d := range found {
			bad(d.Error())
		}
	}
	ids := make([]chunk.ID, 0, 64)
	var lost []chunk.ID
	for i := range footer.Blocks {
		b := &footer.Blocks[i]
		for _, ch := range b.Chunks {
			ids = append(ids, ch.ID)
		}
		if c.o.ReadData {
			lost = append(lost, c.block(r, info.Number, b, bad)...)
		}
	}
	c.indexHas(info.Number, footer)
	slices.SortFunc(ids, compareIDs)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[info.Number] = ids
	c.rep.Chunks += uint64(len(ids))
	for _, id := range lost {
		c.lost[id] = struct{}{}
	}
}

// block reads one block and returns the chunks that it does not give back.
func (c *checker) block(r *pack.Reader, number uint32, b *pack.Block, bad func(string)) (lost []chunk.ID) {
	d := c.v.decoders.Get().(*pack.Decoder)
	defer c.v.decoders.Put(d)
	payload, _, err := r.ReadBlock(make([]byte, 0, b.Raw), d, b.Offset, b.Stored)
	if err != nil {
		bad(fmt.Sprintf("block %d: %v", b.Number, err))
	}
	for _, ch := range b.Chunks {
		end := uint64(ch.Offset) + uint64(ch.Size)
		if err == nil && end <= uint64(len(payload)) && c.v.chunkID(payload[ch.Offset:end]) == ch.ID {
			continue
		}
		lost = append(lost, ch.ID)
		if err == nil {
			bad(fmt.Sprintf("block %d: chunk %s has other content than its ID says", b.Number, ch.ID))
		}
	}
	c.mu.Lock()
	c.rep.BytesRead += uint64(len(payload))
	c.mu.Unlock()
	return lost
}

// indexHas compares the index with one footer. A chunk may lie in several packs; any place will do that is right.
func (c *checker) indexHas(number uint32, f *pack.Footer) {
	if c.v.o.ReadOnly {
		return
	}
	for i := range f.Blocks {
		b := &f.Blocks[i]
		for _, ch := range b.Chunks {
			p, ok := c.v.lookup(ch.ID)
			if ok && (p.Pack != number || p.Offset == b.Offset && p.Stored == b.Stored && p.InBlock == ch.Offset && p.Size == ch.Size) {
				continue
			}
			c.mu.Lock()
			if c.wrong == "" {
				c.wrong = fmt.Sprintf("it does not know where in pack %d chunk %s lies", number, ch.ID)
			}
			c.mu.Unlock()
			return
		}
	}
}

func compareIDs(a, b chunk.ID) int { return slices.Compare(a[:], b[:]) }

// snapshots walks every catalog: each chunk must lie in the pack that is named for it, and the packs named must be those
// that the manifest relies on.
func (c *checker) snapshots(ctx context.Context) error {
	all, err := c.v.store.Snapshots()
	if err != nil {
		return err
	}
	c.rep.Snapshots = len(all)
	for _, info := range all {
		if info.Err != nil {
			continue // the store's own check has said so
		}
		s, err := c.v.openSnapshot(info)
		if err != nil {
			c.damage(worm.Damage{What: "manifest of " + info.Source + "@" + info.Label, Detail: err.Error(), Snapshot: info.ID})
			continue
		}
		if err := c.snapshot(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) snapshot(ctx context.Context, s *Snapshot) error {
	name := s.info.Source + "@" + s.info.Label
	used := roaring.New()
	for e, err := range s.tree.Walk(ctx, "") {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			c.damage(worm.Damage{What: "catalog of " + name, Detail: err.Error(), Snapshot: s.info.ID})
			return nil
		}
		if e.Kind != snapshot.File || c.file(ctx, s, e, used) {
			continue
		}
		c.rep.TouchedCount++
		if len(c.rep.Touched) < touchedMax {
			c.rep.Touched = append(c.rep.Touched, Touched{Snapshot: s.info.ID, Source: s.info.Source, Label: s.info.Label, Path: e.Path()})
		}
	}
	recomputed, err := s.tree.Packs(ctx)
	if err != nil {
		c.damage(worm.Damage{What: "catalog of " + name, Detail: err.Error(), Snapshot: s.info.ID})
		return nil
	}
	recomputed.Or(used)
	named, err := s.info.Head.PackSet()
	if err != nil {
		c.damage(worm.Damage{What: "manifest of " + name, Detail: err.Error(), Snapshot: s.info.ID})
		return nil
	}
	if short := roaring.AndNot(recomputed, named); !short.IsEmpty() {
		c.damage(worm.Damage{What: "manifest of " + name, Detail: fmt.Sprintf("it does not name packs %v, which its files need", short.ToArray()), Snapshot: s.info.ID})
	}
	return nil
}

// file says whether every chunk of a file can be had.
func (c *checker) file(ctx context.Context, s *Snapshot, e snapshot.Entry, used *roaring.Bitmap) bool {
	whole := true
	var size uint64
	for _, r := range e.List {
		used.Add(r.Pack)
	}
	for r, err := range s.Content(ctx, e) {
		if err != nil {
			return false
		}
		used.Add(r.Pack)
		size += uint64(r.Size)
		whole = whole && c.has(r)
	}
	return whole && size == e.Size
}

func (c *checker) has(r snapshot.Ref) bool {
	ids := c.known[r.Pack]
	i := sort.Search(len(ids), func(i int) bool { return compareIDs(ids[i], r.ID) >= 0 })
	if i == len(ids) || ids[i] != r.ID {
		return false
	}
	_, lost := c.lost[r.ID]
	return !lost
}

// index rebuilds the index if it is wrong. That loses nothing and is no damage to the vault: the index is a cache.
func (c *checker) index(ctx context.Context) error {
	if c.v.o.ReadOnly || c.v.o.index != nil {
		return nil
	}
	err := c.v.needIndex()
	if durable.IsNoSpace(err) {
		return nil // nothing is known to be wrong with it, and on a full disk there is no place for another
	}
	if err != nil {
		c.wrong = err.Error()
	} else if x, ok := c.v.index.(interface{ Verify(context.Context) error }); ok && c.wrong == "" {
		if err := x.Verify(ctx); err != nil && ctx.Err() == nil {
			c.wrong = err.Error()
		}
	}
	if c.wrong == "" {
		return nil
	}
	c.rep.IndexRebuilt = c.wrong
	if _, err := c.v.RebuildIndex(ctx); err != nil {
		return errors.Join(fmt.Errorf("the index is wrong (%s) and could not be rebuilt", c.wrong), err)
	}
	return nil
}
