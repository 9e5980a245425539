package vault

import (
	"context"
	"maps"
	"sync"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/vault/chunk"
	"github.com/holdfast-vault/holdfast/vault/index"
)

// memIndex is an index in memory, for tests that open thousands of vaults. What Badger does is tested with Badger.
type memIndex struct {
	mu      sync.Mutex
	places  map[chunk.ID]index.Place
	indexed *roaring.Bitmap
}

func newMemIndex() *memIndex {
	return &memIndex{places: map[chunk.ID]index.Place{}, indexed: roaring.New()}
}

func (m *memIndex) clone() *memIndex {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &memIndex{places: maps.Clone(m.places), indexed: m.indexed.Clone()}
}

func (m *memIndex) Lookup(id chunk.ID) (index.Place, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.places[id]
	return p, ok
}

func (m *memIndex) AddPack(_ context.Context, pack uint32, entries []index.Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range entries {
		m.places[e.ID] = e.Place
	}
	m.indexed.Add(pack)
	return nil
}

func (m *memIndex) Indexed() *roaring.Bitmap {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.indexed.Clone()
}

func (m *memIndex) DropPacks(packs *roaring.Bitmap) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.indexed.AndNot(packs)
	return nil
}
