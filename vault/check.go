package vault

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"syscall"

	"github.com/RoaringBitmap/roaring/v2"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/vault/chunk"
	"github.com/holdfast-vault/holdfast/vault/index"
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
	IndexRebuilt string        // why the index was rebuilt, empty if it was right
	Unseen       []worm.Damage // no damage: what could not be looked at, because the keeper does not answer or a place is away
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
	c := &checker{v: v, o: o, rep: &CheckReport{}, lost: map[lostChunk]struct{}{}, known: map[uint32][]uint64{}, told: map[uint32]bool{}, away: map[uint32]bool{}}
	// Listed before the packs: what is committed while the check runs may rely on packs that it does not look at.
	all, err := v.store.Snapshots()
	if err != nil {
		return nil, err
	}
	for _, d := range v.store.Check(ctx, false) { // the packs are read below, once for all that is to be verified
		if d.Unseen {
			c.rep.Unseen = append(c.rep.Unseen, d)
			if d.Pack != 0 {
				c.told[d.Pack], c.away[d.Pack] = true, true
			}
			continue
		}
		c.rep.Damage = append(c.rep.Damage, d)
		if d.Pack != 0 {
			c.told[d.Pack] = true
		}
	}
	if err := c.packs(ctx); err != nil {
		return nil, err
	}
	if err := c.snapshots(ctx, all); err != nil {
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
			if rep != nil && len(rep.Damage) == 0 && !unwritable(cause) {
				rep.Damage = append(rep.Damage, worm.Damage{What: "vault", Detail: "it cannot be opened for writing: " + cause.Error()})
			}
		}()
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	return v.Check(ctx, co)
}

// unwritable says whether an error tells of the place where a vault lies and nothing about the vault.
func unwritable(err error) bool {
	return durable.IsNoSpace(err) || errors.Is(err, ErrAway) || errors.Is(err, ErrKeeperGone) || errors.Is(err, ErrNotItsDaemon) || errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission)
}

type checker struct {
	v   *Vault
	o   CheckOptions
	rep *CheckReport

	told   map[uint32]bool // packs that the store's own check has told of; not changed while packs are read
	away   map[uint32]bool // of these, those that may lie in a place that cannot be reached: nothing is known of them
	blocks chan blockToCheck
	room   buffers

	mu sync.Mutex
	// known has the readable packs, with the sorted beginnings of the IDs of their chunks: 8 bytes for each chunk of the
	// vault. IDs are keyed hashes, so two of one pack that begin alike are not to be met.
	known  map[uint32][]uint64
	lost   map[lostChunk]struct{} // copies that cannot be read
	wrong  string                 // the first thing the index had wrong
	behind bool                   // the index has not learnt a pack yet
}

type lostChunk struct {
	pack uint32
	id   chunk.ID
}

func beginning(id chunk.ID) uint64 { return binary.BigEndian.Uint64(id[:]) }

func (c *checker) damage(d worm.Damage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rep.Damage = append(c.rep.Damage, d)
}

// packs reads every pack's footer and, if asked, every byte.
func (c *checker) packs(ctx context.Context) error {
	all := c.v.store.Packs()
	c.rep.Packs = len(all)
	atOnce := c.v.o.Workers
	if c.o.ReadData {
		defer c.startDecoding()()
		atOnce = min(atOnce, readAtOnce)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
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
	open := c.v.store.OpenPack
	if c.o.ReadData {
		open = c.v.store.OpenPackAnew
	}
	f, size, err := open(info.Number)
	if err != nil {
		// A pack is swept before its file goes, so one that is not has to open. What is missing the store's own check has told.
		c.follow()
		if _, still := c.v.store.Pack(info.Number); still && !c.told[info.Number] && !c.readAgain(ctx, info.Number) && ctx.Err() == nil {
			bad(err.Error())
		}
		return
	}
	defer f.Close()
	r, err := pack.Open(f, size, c.v.ring)
	if err != nil {
		c.readAgain(ctx, info.Number)
		c.v.judge(info.Number, err)
		bad(err.Error())
		return
	}
	if r.Number() != info.Number || r.Vault() != c.v.id {
		c.readAgain(ctx, info.Number)
		c.v.judge(info.Number, ErrDamaged)
		bad(fmt.Sprintf("its header says pack %d of vault %x", r.Number(), r.Vault()))
		return
	}
	footer, err := r.Footer()
	c.v.judge(info.Number, err)
	if err != nil {
		c.readAgain(ctx, info.Number)
		bad(err.Error())
		return
	}
	var lost []chunk.ID
	if c.o.ReadData {
		lost = c.read(ctx, info.Number, r, footer, bad)
	}
	var ids []uint64
	for i := range footer.Blocks {
		for _, ch := range footer.Blocks[i].Chunks {
			ids = append(ids, beginning(ch.ID))
		}
	}
	c.indexHas(ctx, info.Number, footer)
	slices.Sort(ids)
	ids = slices.Clip(ids)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[info.Number] = ids
	c.rep.Chunks += uint64(len(ids))
	for _, id := range lost {
		c.lost[lostChunk{info.Number, id}] = struct{}{}
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

// indexHas compares the index with one footer. A chunk may lie in several packs; any place will do that is right. A pack
// that was sealed just now, or that was swept meanwhile, says nothing about the index.
//
// The index remembers one pack for each chunk. If that has gone and this one has not (it was evacuated, and is kept longer
// than the copy), the chunk is unknown and nothing is wrong: the pack is added again. Verify finds what is.
func (c *checker) indexHas(ctx context.Context, number uint32, f *pack.Footer) {
	if c.v.o.ReadOnly {
		return
	}
	if !c.v.isIndexed(number) {
		c.mu.Lock()
		c.behind = true
		c.mu.Unlock()
		return
	}
	known, right := c.inIndex(number, f)
	if known && right {
		return
	}
	if _, still := c.v.store.Pack(number); !still {
		return
	}
	wrong := fmt.Sprintf("it does not know where in pack %d some chunks lie", number)
	if right {
		err := c.v.indexPack(ctx, number, indexEntries(number, f))
		if err == nil || ctx.Err() != nil {
			c.v.o.Logf("index: pack %d is added again: of some of its chunks only packs were known that are gone", number)
			return
		}
		wrong = err.Error()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wrong == "" {
		c.wrong = wrong
	}
}

// inIndex says whether the index knows all chunks of a pack, and whether what it knows of them is right.
func (c *checker) inIndex(number uint32, f *pack.Footer) (known, right bool) {
	known = true
	for i := range f.Blocks {
		b := &f.Blocks[i]
		for _, ch := range b.Chunks {
			p, ok := c.v.lookup(ch.ID)
			known = known && ok
			if ok && p.Pack == number && (p.Offset != b.Offset || p.Stored != b.Stored || p.InBlock != ch.Offset || p.Size != ch.Size) {
				return known, false
			}
		}
	}
	return known, true
}

// snapshots walks every catalog: each chunk must lie in the pack that is named for it, and the packs named must be those
// that the manifest relies on.
func (c *checker) snapshots(ctx context.Context, all []worm.Snapshot) error {
	c.rep.Snapshots = len(all)
	for _, info := range all {
		if info.Err != nil {
			continue // the store's own check has said so
		}
		before := *c.rep
		if err := c.open(ctx, info); err != nil {
			return err
		}
		if len(c.rep.Damage) == len(before.Damage) && c.rep.TouchedCount == before.TouchedCount {
			continue
		}
		if there, err := c.remains(info.ID); err != nil {
			return err
		} else if !there {
			*c.rep = before // pruned while it was looked at
			c.rep.Snapshots--
		}
	}
	return nil
}

// follow makes sure that what a keeper removed up to now is known here: that comes with whatever it answers.
func (c *checker) follow() { _, _ = c.v.store.Clock() }

func (c *checker) remains(id string) (bool, error) {
	c.follow()
	all, err := c.v.store.Snapshots()
	return slices.ContainsFunc(all, func(s worm.Snapshot) bool { return s.ID == id }), err
}

func (c *checker) open(ctx context.Context, info worm.Snapshot) error {
	s, err := c.v.openSnapshot(info)
	if err != nil {
		c.trouble(worm.Damage{What: "manifest of " + info.Source + "@" + info.Label, Snapshot: info.ID}, err)
		return nil
	}
	return c.snapshot(ctx, s)
}

// trouble is damage, unless it is that a place cannot be reached.
func (c *checker) trouble(d worm.Damage, err error) {
	d.Detail = err.Error()
	if d.Unseen = errors.Is(err, ErrAway); d.Unseen {
		c.rep.Unseen = append(c.rep.Unseen, d)
		return
	}
	c.damage(d)
}

func (c *checker) snapshot(ctx context.Context, s *Snapshot) error {
	name := s.info.Source + "@" + s.info.Label
	used := roaring.New()
	for _, r := range s.Body().ProblemList {
		used.Add(r.Pack)
		if !c.has(r) {
			c.damage(worm.Damage{What: "list of problems of " + name, Detail: fmt.Sprintf("chunk %s cannot be had", r.ID), Snapshot: s.info.ID})
		}
	}
	for e, err := range s.tree.Walk(ctx, "") {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			c.trouble(worm.Damage{What: "catalog of " + name, Snapshot: s.info.ID}, err)
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
		c.trouble(worm.Damage{What: "catalog of " + name, Snapshot: s.info.ID}, err)
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
			return errors.Is(err, ErrAway)
		}
		used.Add(r.Pack)
		size += uint64(r.Size)
		whole = whole && c.has(r)
	}
	return whole && size == e.Size
}

// has says whether a chunk can be had, by the ways that a restore goes: from the pack that is named for it, or from
// another that the index knows.
func (c *checker) has(r snapshot.Ref) bool {
	if c.readable(r.Pack, r.ID) {
		return true
	}
	p, ok := c.v.lookup(r.ID)
	return ok && p.Pack != r.Pack && c.readable(p.Pack, r.ID)
}

func (c *checker) readable(number uint32, id chunk.ID) bool {
	if c.away[number] {
		return true
	}
	if _, ok := slices.BinarySearch(c.known[number], beginning(id)); !ok {
		return false
	}
	_, lost := c.lost[lostChunk{number, id}]
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
	}
	if c.wrong == "" && c.behind {
		if err := c.catchUp(ctx); err != nil {
			return err
		}
	}
	if x, ok := c.v.currentIndex().(interface{ Verify(context.Context) error }); ok && c.wrong == "" {
		err := x.Verify(ctx)
		if err != nil && ctx.Err() == nil && !errors.Is(err, index.ErrClosed) { // closed: somebody replaced it
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

// catchUp lets the index learn what it missed, unless that is under way.
func (c *checker) catchUp(ctx context.Context) error {
	if err := c.v.takeIndexTurn(ctx); err != nil {
		return err
	}
	defer func() { <-c.v.indexTurn }()
	if c.v.index == nil {
		return nil
	}
	return c.v.catchUp(ctx)
}
