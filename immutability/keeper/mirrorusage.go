package keeper

import (
	"context"

	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// Inventory is worm.Store.Inventory of what is known here, with what this process claims. The keeper alone knows what
// others do.
func (m *Mirror) Inventory(ctx context.Context) (worm.Inventory, error) {
	inv, err := m.store.Inventory(ctx)
	if err != nil {
		return inv, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range inv.Packs {
		for _, c := range m.claims {
			if c.granted.Contains(inv.Packs[i].Number) {
				inv.Packs[i].Claimed = true
			}
		}
	}
	return inv, nil
}
