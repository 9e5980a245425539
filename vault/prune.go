package vault

import (
	"context"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// Prune removes the snapshots that may go, and then the packs that no snapshot, session or salvage needs; with dry it
// only says which. It decides nothing itself: see worm.Store.Prune. The index forgets swept packs afterwards; if that is
// cut off, a stale hint is a miss, since the store does not let anybody rely on a swept pack.
func (v *Vault) Prune(ctx context.Context, dry bool) (worm.PruneReport, error) {
	if v.o.ReadOnly && !dry {
		return worm.PruneReport{}, ErrReadOnly
	}
	rep, err := v.store.Prune(ctx, dry)
	if dry || len(rep.Packs) == 0 {
		return rep, err
	}
	v.usage.forget(rep.Packs)
	if v.cache != nil {
		v.cache.forget(rep.Packs)
	}
	v.indexMu.RLock()
	defer v.indexMu.RUnlock()
	if v.index != nil {
		if derr := v.index.DropPacks(roaring.BitmapOf(rep.Packs...)); derr != nil {
			v.o.Logf("index: forget swept packs: %v", derr)
		}
	}
	return rep, err
}
