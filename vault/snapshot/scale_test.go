package snapshot

import (
	"fmt"
	"runtime"
	"testing"
)

// TestMemoryDoesNotGrowWithTheTree walks a tree far larger than what is kept of it.
func TestMemoryDoesNotGrowWithTheTree(t *testing.T) {
	const n = 200_000
	s := newStore()
	b := NewBuilder(s, testKey)
	for i := range n {
		e := fileEntry("d", fmt.Sprintf("%09d-with-a-name-of-some-length", i), i)
		if err := b.Add(t.Context(), &e); err != nil {
			t.Fatal(err)
		}
	}
	held := 0
	for _, l := range b.levels {
		held += cap(l.body)
	}
	if held += cap(b.scratch); held > 4*maxWeight {
		t.Fatalf("the builder holds %d bytes", held)
	}
	root, err := b.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tree := OpenTree(s, root)
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	most := uint64(0)
	i := 0
	for _, err := range tree.Walk(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if i++; i%50_000 == 0 {
			runtime.GC()
			runtime.ReadMemStats(&now)
			most = max(most, now.HeapAlloc)
		}
	}
	if grown := int64(most) - int64(before.HeapAlloc); grown > 3*cacheBytes {
		t.Fatalf("a walk holds %d bytes", grown)
	}
	if tree.cache.free < 0 {
		t.Fatalf("the cache is over its limit by %d", -tree.cache.free)
	}
}
