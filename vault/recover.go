package vault

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"path/filepath"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/keeper"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/vault/index"
	"github.com/holdfast-vault/holdfast/vault/pack"
)

// rebuildFrom is the number of unknown packs from which building a new index is cheaper than adding them one by one.
const rebuildFrom = 8

// recover finishes what an interrupted process left, by the functions that run every day: the index learns the packs it
// has not seen, and complete blocks of unsealed packs go into new, sealed ones. Every step can be cut and repeated.
func (v *Vault) recover(ctx context.Context) error {
	if v.index == nil {
		// Without an index nothing can be deduplicated, so leave the salvage to a process that has one. Everything sealed
		// can be read.
		v.o.Logf("index: %v; the vault can be read, pulls are refused until this is mended", v.indexErr)
		return nil
	}
	if err := v.catchUp(ctx); err != nil {
		return err
	}
	err := v.salvage(ctx)
	if !durable.IsNoSpace(err) && !errors.Is(err, worm.ErrBudget) && !errors.Is(err, ledger.ErrBehind) && !errors.Is(err, keeper.ErrHalted) {
		return err
	}
	// Reading, and removing what may go, must be possible on a full disk, where a day's budget is used up, and while nothing is
	// written because the ledger is behind what it signed.
	v.o.Logf("%v; nothing is lost, and the next pull tries again", err)
	return nil
}

// openIndex opens or makes the index. A vault without a usable index can still be read.
func (v *Vault) openIndex(ctx context.Context) {
	if v.o.index != nil {
		v.index = v.o.index
		return
	}
	v.indexDir = v.o.IndexDir
	if v.indexDir == "" {
		if v.o.ReadOnly {
			return
		}
		v.indexDir = filepath.Join(v.place(), "index")
	}
	x, err := index.Open(v.indexDir, v.ID(), v.indexOptions())
	if err != nil {
		v.indexErr = err
		return
	}
	if fresh, reason := x.Fresh(); fresh && reason != "" && len(v.store.Packs()) > 0 {
		v.o.Logf("index: %s; it is rebuilt from the packs", reason)
	}
	v.index = x
	if v.o.ReadOnly {
		// An index outside a read-only vault: build it there.
		if err := v.catchUp(ctx); err != nil {
			v.o.Logf("index: %v", err)
		}
	}
}

// catchUp makes the index know exactly the sealed packs. An unreadable pack is left out: check reports it, and nobody
// deduplicates against it. The turn is held, or nobody else has the vault yet. A session may be sealing: the store knows
// a pack before the index does, so the index is asked first.
func (v *Vault) catchUp(ctx context.Context) error {
	sealed, unknown := roaring.New(), roaring.New()
	indexed := v.index.Indexed()
	for _, info := range v.store.Packs() {
		sealed.Add(info.Number)
		if !indexed.Contains(info.Number) {
			unknown.Add(info.Number)
		}
	}
	if gone := roaring.AndNot(indexed, sealed); !gone.IsEmpty() {
		if err := v.index.DropPacks(gone); err != nil {
			return fmt.Errorf("index: forget %d swept packs: %w", gone.GetCardinality(), err)
		}
	}
	if unknown.IsEmpty() {
		return nil
	}
	if v.o.index == nil && unknown.GetCardinality() == sealed.GetCardinality() && unknown.GetCardinality() >= rebuildFrom {
		_, err := v.rebuildIndex(ctx)
		return err
	}
	for _, number := range unknown.ToArray() {
		footer, err := v.footer(number)
		if err != nil {
			v.o.Logf("index: pack %d cannot be indexed: %v", number, err)
			continue
		}
		if err := v.index.AddPack(ctx, number, indexEntries(number, footer)); err != nil {
			return fmt.Errorf("index: pack %d: %w", number, err)
		}
	}
	return nil
}

// footer reads a sealed pack's footer, past the cache.
func (v *Vault) footer(number uint32) (_ *pack.Footer, err error) {
	defer func() { v.judge(number, err) }()
	f, size, err := v.store.OpenPack(number)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := pack.Open(f, size, v.ring)
	if err != nil {
		return nil, err
	}
	if r.Number() != number || r.Vault() != v.id {
		return nil, fmt.Errorf("its header says pack %d of vault %x: %w", r.Number(), r.Vault(), ErrDamaged)
	}
	return r.Footer()
}

// RebuildIndex throws the index away and makes it anew from the footers of the packs. Pulls that run wait for it.
func (v *Vault) RebuildIndex(ctx context.Context) (RebuildReport, error) {
	if err := v.needKey(); err != nil {
		return RebuildReport{}, err
	}
	if v.o.ReadOnly {
		return RebuildReport{}, ErrReadOnly
	}
	if err := v.takeIndexTurn(ctx); err != nil {
		return RebuildReport{}, err
	}
	defer func() { <-v.indexTurn }()
	return v.rebuildIndex(ctx)
}

// RebuildReport says what a rebuilt index holds.
type RebuildReport struct {
	Packs, Chunks uint64
	Unreadable    map[uint32]string // packs that could not be read, and why
}

// rebuildIndex replaces the index. If that fails, the old one stays in use where it still opens, and otherwise the next
// session tries again. The turn is held, or nobody else has the vault yet.
func (v *Vault) rebuildIndex(ctx context.Context) (RebuildReport, error) {
	v.indexMu.Lock()
	defer v.indexMu.Unlock()
	rep := RebuildReport{Unreadable: map[uint32]string{}}
	if c, ok := v.index.(interface{ Close() error }); ok && v.index != nil {
		if err := c.Close(); err != nil {
			v.o.Logf("index: closing the old one: %v", err)
		}
	}
	v.index, v.indexErr = nil, errors.New("the index is being rebuilt")
	if err := index.Rebuild(ctx, v.indexDir, v.ID(), v.allEntries(ctx, &rep)); err != nil {
		v.indexErr = fmt.Errorf("rebuild: %w", err)
		if old, oerr := index.Open(v.indexDir, v.ID(), v.indexOptions()); oerr == nil {
			v.index, v.indexErr = old, nil
		}
		return rep, fmt.Errorf("index: rebuild: %w", err)
	}
	x, err := index.Open(v.indexDir, v.ID(), v.indexOptions())
	if err != nil {
		v.indexErr = err
		return rep, fmt.Errorf("index: %w", err)
	}
	v.index, v.indexErr = x, nil
	return rep, nil
}

func (v *Vault) allEntries(ctx context.Context, rep *RebuildReport) iter.Seq2[index.PackEntries, error] {
	return func(yield func(index.PackEntries, error) bool) {
		for _, info := range v.store.Packs() {
			if err := ctx.Err(); err != nil {
				yield(index.PackEntries{}, err)
				return
			}
			footer, err := v.footer(info.Number)
			if err != nil {
				rep.Unreadable[info.Number] = err.Error()
				v.o.Logf("index: pack %d cannot be indexed: %v", info.Number, err)
				continue
			}
			e := indexEntries(info.Number, footer)
			rep.Packs++
			rep.Chunks += uint64(len(e))
			if !yield(index.PackEntries{Pack: info.Number, Entries: e}, nil) {
				return
			}
		}
	}
}

// Salvaged is the source of what salvage stores: whose it was is not known, so it has a budget of its own. It also begins the
// names of its sessions, which nobody knows beforehand: a session is of one source for good, and one that somebody gave to
// another source would keep the vault shut.
const Salvaged = "salvaged"

// salvage copies the complete blocks of packs that an interrupted process left unsealed into new packs with new keys,
// and discards the old ones. Cut here, the next run copies again what is not yet known; nothing that was acknowledged
// lies in an unsealed pack.
func (v *Vault) salvage(ctx context.Context) error {
	left, err := v.store.Leftovers()
	if err != nil {
		return fmt.Errorf("unsealed packs: %w", err)
	}
	if len(left) == 0 {
		return nil
	}
	session := Salvaged + "-" + rand.Text()
	if err := v.store.Bind(session, Salvaged); err != nil {
		return fmt.Errorf("salvage: %w", err)
	}
	p := v.newPacker(ctx, session)
	p.drop = true
	defer v.store.Release(session)
	for _, l := range left {
		n, err := v.salvagePack(p, l.Number)
		if err != nil {
			_ = p.close(false)
			return fmt.Errorf("salvage of pack %d: %w", l.Number, err)
		}
		v.o.Logf("recovery: pack %d was cut off before its seal; %d bytes of content in complete blocks were kept", l.Number, n)
	}
	if err := p.close(true); err != nil {
		return fmt.Errorf("salvage: %w", err)
	}
	for _, l := range left {
		if err := v.store.Discard(l.Number); err != nil {
			return fmt.Errorf("salvage: discard pack %d: %w", l.Number, err)
		}
	}
	return nil
}

func (v *Vault) salvagePack(p *packer, number uint32) (content uint64, err error) {
	f, err := v.store.OpenLeftover(number)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return 0, err
	}
	for b, err := range pack.Salvage(f, size, v.ring) {
		if err != nil {
			v.o.Logf("recovery: pack %d: %v", number, err)
			return content, nil
		}
		for _, c := range b.Chunks {
			data := b.Payload[c.Offset : c.Offset+c.Size]
			if v.chunkID(data) != c.ID {
				continue
			}
			if _, _, _, err := p.put(c.ID, data); err != nil {
				return content, err
			}
			content += uint64(len(data))
		}
	}
	return content, nil
}
