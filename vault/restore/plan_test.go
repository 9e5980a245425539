package restore_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/holdfast-vault/holdfast/vault/restore"
	"github.com/holdfast-vault/holdfast/vault/restore/restoretest"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// blocked is a snapshot whose chunks lie in blocks; it notes in which block each chunk lay that was used.
type blocked struct {
	*restoretest.Source
	block map[snapshot.Ref]int64

	mu   sync.Mutex
	seen []string
}

func (b *blocked) Places(_ context.Context, pack uint32, refs []snapshot.Ref, at []int64) {
	for i, r := range refs {
		at[i] = -1
		if n, ok := b.block[r]; ok && r.Pack == pack {
			at[i] = n
		}
	}
}

func (b *blocked) Use(ctx context.Context, r snapshot.Ref, f func([]byte) error) error {
	data, err := b.Fetch(ctx, r)
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.seen = append(b.seen, fmt.Sprintf("%d/%d", r.Pack, b.block[r]))
	b.mu.Unlock()
	lent := append([]byte(nil), data...)
	defer clear(lent) // whoever keeps it has zeros
	return f(lent)
}

// scattered is a tree whose neighbours lie in different blocks.
func scattered() *blocked {
	b := &blocked{Source: restoretest.New(), block: map[snapshot.Ref]int64{}}
	for d := range 10 {
		b.Dir(fmt.Sprintf("d%d", d), 0o755)
		for i := range 200 {
			e := b.File(fmt.Sprintf("d%d/f%03d", d, i), 0o644, []byte(fmt.Sprintf("content of %d %d", d, i)), 1000)
			b.block[e.Chunks[0]] = int64((i*7 + d) % 13)
		}
	}
	return b
}

// TestScatteredFilesDecodeABlockAgainAndAgain: all small files of a block follow each other, whatever their names.
func TestScatteredFilesDecodeABlockAgainAndAgain(t *testing.T) {
	src := scattered()
	dir := filepath.Join(t.TempDir(), "t")
	mustRestore(t, src, "", dir, restore.Options{Workers: 1, NoSync: true})
	if len(src.seen) != 2000 {
		t.Fatalf("%d chunks were used", len(src.seen))
	}
	changes, blocks := 0, map[string]bool{}
	for i, at := range src.seen {
		blocks[at] = true
		if i == 0 || src.seen[i-1] != at {
			changes++
		}
	}
	if changes != len(blocks) {
		t.Errorf("%d blocks were gone to %d times", len(blocks), changes)
	}
	same(t, "scattered", listing(t, dir), expected(t, src.Source, ""))
}

// TestBrokenChunkTakesItsNeighboursAlong: of files that are restored together only the broken one is missing, and named.
func TestBrokenChunkTakesItsNeighboursAlong(t *testing.T) {
	src := scattered()
	e, err := src.Lookup(t.Context(), "d3/f017")
	if err != nil {
		t.Fatal(err)
	}
	src.Break(e.Chunks[0])
	r, err := restore.ToDirectory(t.Context(), src, "", filepath.Join(t.TempDir(), "t"), restore.Options{NoSync: true})
	if err == nil || r.FailureCount != 1 || r.Failures[0].Path != "d3/f017" || r.Files != 1999 {
		t.Errorf("%v: %d files, %d failures", err, r.Files, r.FailureCount)
	}
}
