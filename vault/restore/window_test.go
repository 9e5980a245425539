package restore

import (
	"testing"

	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// TestWindowOfFilesInManyPacksHasNoBound: what an entry says of the packs of a long file takes memory, too.
func TestWindowOfFilesInManyPacksHasNoBound(t *testing.T) {
	const packs = 1000
	w, n := &window{}, 1
	for !w.add(&snapshot.Entry{Size: 1 << 40, List: make([]snapshot.Ref, 1), ListPacks: make([]snapshot.PackUse, packs)}) {
		n++
	}
	if n*packs*16 > windowBytes {
		t.Errorf("%d files in %d packs each are one window", n, packs)
	}
}
