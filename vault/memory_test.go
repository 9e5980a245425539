package vault

import "testing"

// TestCachesOutgrowTheirMemory adds up what each part may take, at every size that can be asked for.
func TestCachesOutgrowTheirMemory(t *testing.T) {
	for memory := int64(64 << 20); memory <= 1<<40; memory *= 2 {
		b := budgetOf(memory)
		const entry = 48
		sum := b.index + int64(b.sorter) + int64(b.blocks) + int64(b.chunks)*entry
		if sum > memory*3/4 {
			t.Errorf("%d MiB: caches of %d MiB leave no room for content", memory>>20, sum>>20)
		}
		if b.workers < 1 || b.index < 1<<20 || b.chunks < packChunksMax {
			t.Errorf("%d MiB: %+v", memory>>20, b)
		}
	}
	if budgetOf(0) != budgetOf(defaultMemory) {
		t.Error("nothing said is not the default")
	}
}
