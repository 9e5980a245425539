//go:build !race

// These go through so much content, or so many pulls, that the race detector would take minutes over them: the Makefile runs
// them without it. What in them is concurrent is run with it by others.
package vault

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/vault/restore"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// TestPacksGrowWithoutEnd pulls a slowly changing tree every hour, with locks of two days: after a few times that, nothing
// grows any more. The same without evacuation shows that there is something to be kept from growing.
func TestPacksGrowWithoutEnd(t *testing.T) {
	const days, perMonth, lock = 40, 4, 48
	months := simulate(t, newMemoryVault(t, lock*time.Hour, Options{}), days, perMonth)
	most := func(months []month, of func(month) uint64) (n uint64) {
		for _, m := range months {
			n = max(n, of(m))
		}
		return n
	}
	for _, c := range []struct {
		what  string
		of    func(month) uint64
		limit uint64
	}{
		// Fewer than 16 in each of three tiers, and those that are merged at the next pull.
		{"packs that the newest snapshot relies on", func(m month) uint64 { return m.relied }, 3*16 + 1},
		// Each pull makes one, and each is locked for two days and removed within another.
		{"packs", func(m month) uint64 { return m.packs }, lock + 24 + 3*16 + 1},
		// What two days and the one until prune brought, and as much again copied.
		{"pinned dead bytes", func(m month) uint64 { return m.dead }, 2 * 3 * months[0].written / perMonth},
		{"bytes copied by one pull", func(m month) uint64 { return m.mostMoved }, 4 << 20},
		{"bytes copied in a month", func(m month) uint64 { return m.copied }, months[0].written / 4},
	} {
		first, second := most(months[1:len(months)/2], c.of), most(months[len(months)/2:], c.of)
		t.Logf("%s: at most %d, then %d", c.what, first, second)
		if max(first, second) > c.limit {
			t.Errorf("%s: %d, the bound is %d", c.what, max(first, second), c.limit)
		}
		if second > 2*first {
			t.Errorf("%s: at most %d in the first half, %d in the second", c.what, first, second)
		}
	}
	without := simulate(t, newMemoryVault(t, lock*time.Hour, Options{NoEvacuation: true}), days, perMonth)
	last, evacuated := without[len(without)-1], months[len(months)-1]
	if last.relied < 4*evacuated.relied || last.bytes < 2*evacuated.bytes {
		t.Errorf("without evacuation %+v, with it %+v: this tree shows nothing", last, evacuated)
	}
}

// TestRestoreDecodesBlocksAgainAndAgain: the files of a block lie all over the tree, as they do when many directories are
// pulled at once; still each block is decoded once, though the cache holds only a few of them.
func TestRestoreDecodesBlocksAgainAndAgain(t *testing.T) {
	src := randomTree(5, 3000)
	w := newWorld(t)
	v := w.open(Options{})
	snap := pull(t, v, "web1", src) // in the random order of a map
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	v = w.open(Options{ReadOnly: true})
	defer v.Close()
	v.budget.blocks = 16 << 20
	s, err := v.OpenSnapshot(t.Context(), snap.ID)
	if err != nil {
		t.Fatal(err)
	}
	blocks := blocksOf(t, v)
	dir := filepath.Join(t.TempDir(), "to")
	if _, err := restore.ToDirectory(t.Context(), s, "", dir, restore.Options{NoSync: true}); err != nil {
		t.Fatal(err)
	}
	// The catalog is read twice, for files and then for the attributes of directories; a file may reach into its neighbour.
	if n := int(v.cache.decoded.Load()); blocks < 100 || n > blocks+blocks/10+10 {
		t.Errorf("%d blocks were decoded %d times", blocks, n)
	}
	if v.cache.bytes > v.budget.blocks {
		t.Errorf("%d bytes of decoded blocks are kept, and %d may be", v.cache.bytes, v.budget.blocks)
	}
	for path, want := range src {
		if got, err := os.ReadFile(filepath.Join(dir, path)); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s: %d bytes of %d, %v", path, len(got), len(want), err)
		}
	}
}

// TestLargeFilesAreNamedWrongAfterEvacuation moves chunks of a file that has a list of them.
func TestLargeFilesAreNamedWrongAfterEvacuation(t *testing.T) {
	m := newMemoryVault(t, 24*time.Hour, Options{NoParity: true})
	noise := func(seed uint64, n int) []byte {
		b := make([]byte, n)
		r := rand.New(rand.NewPCG(seed, 1))
		for i := 0; i+8 <= n; i += 8 {
			x := r.Uint64()
			for j := range 8 {
				b[i+j] = byte(x >> (8 * j))
			}
		}
		return b
	}
	files := tree{"large": noise(1, 80<<20), "gone": noise(2, 110<<20)}
	s, err := m.Begin(t.Context(), SessionOptions{Source: "web1"})
	if err != nil {
		t.Fatal(err)
	}
	// In this order, so that a little of the large file is in a pack with much that goes.
	for _, name := range []string{"gone", "large"} {
		if err := recordFile(t.Context(), s, snapshot.Entry{Name: name, Kind: snapshot.File, Size: uint64(len(files[name]))}, files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Commit(t.Context(), CommitOptions{}); err != nil {
		t.Fatal(err)
	}
	delete(files, "gone")
	m.clock.Advance(time.Hour)
	second := pull(t, m.Vault, "web1", files)
	m.clock.Advance(time.Hour)
	if s, err = m.Begin(t.Context(), SessionOptions{Source: "web1"}); err != nil {
		t.Fatal(err)
	}
	if n, _ := s.Evacuated(); n == 0 {
		t.Fatal("nothing is evacuated")
	}
	for e, err := range s.Previous().Walk(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == snapshot.File && len(e.List) == 0 {
			t.Fatalf("%s has no list", e.Path())
		}
		if e.Kind != snapshot.File {
			err = s.Add(t.Context(), &e)
		} else if ok, rerr := s.Reuse(t.Context(), &e, &e); rerr != nil || !ok {
			t.Fatalf("%v, %v", ok, rerr)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	third, err := s.Commit(t.Context(), CommitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, copied := s.Evacuated(); copied == 0 {
		t.Error("nothing was copied")
	}
	left := false
	for _, n := range packsOf(t, second) {
		left = left || !slices.Contains(packsOf(t, third), n)
	}
	if !left {
		t.Errorf("it relies on %v, the one before on %v", packsOf(t, third), packsOf(t, second))
	}
	holds(t.Context(), t, m.Vault, map[string]tree{
		mustFirst(t, m.Vault): {"large": files["large"], "gone": noise(2, 110<<20)}, second.ID: files, third.ID: files,
	})
}
