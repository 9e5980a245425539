package index

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/vault/chunk"
)

const (
	// growthEnv lists the numbers of chunks to measure at, ascending, separated by commas; growthDirEnv says where the index
	// may lie, with about 200 bytes free for each chunk, and whether it is kept there for a later run to go on with.
	growthEnv     = "HOLDFAST_INDEX_GROWTH"
	growthDirEnv  = "HOLDFAST_SCRATCH"
	growthKeepEnv = "HOLDFAST_SCRATCH_KEEP"

	growthPack = 8 << 10 // chunks of a pack: small files
	growthKept = 200     // bytes of disk for each chunk at most, with what compaction holds twice for a while
)

// BenchmarkGrowth fills an index through AddPack and says at each size what a look-up, opening, warming and a small pull's
// pack cost, and what memory and disk it takes. `make index-growth` runs it at 1, 10 and 50 million chunks.
func BenchmarkGrowth(b *testing.B) {
	sizes := growthSizes(b)
	scratch := os.Getenv(growthDirEnv)
	if scratch == "" {
		scratch = b.TempDir()
	}
	dir := filepath.Join(scratch, "holdfast-index-growth")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		b.Fatal(err)
	}
	if os.Getenv(growthKeepEnv) == "" {
		b.Cleanup(func() { os.RemoveAll(dir) })
	}
	free, err := freeBytes(dir)
	if err != nil {
		b.Fatal(err)
	}
	if need := int64(sizes[len(sizes)-1])*growthKept + defaultFreeFloor; free < need {
		b.Skipf("%d MB are free in %s and %d MB are needed; name another place with %s", free>>20, dir, need>>20, growthDirEnv)
	}
	for _, n := range sizes {
		start := time.Now()
		x := growthOpen(b, dir)
		if err := x.WarmFilter(b.Context()); err != nil {
			b.Fatal(err)
		}
		have := int(x.Count())
		for ; have < n; have += growthPack {
			pack := uint32(have / growthPack)
			if err := x.AddPack(b.Context(), pack, growthEntries(pack)); err != nil {
				b.Fatal(err)
			}
		}
		filled := time.Since(start)
		// What Badger does in the background is done before anything is measured: it would be half of what is measured.
		if err := x.db.Flatten(2); err != nil {
			b.Fatal(err)
		}
		growthClose(b, x)
		b.Logf("%d chunks: filled in %.0f s, compacted after %.0f s", have, filled.Seconds(), time.Since(start).Seconds())
		b.Run(fmt.Sprintf("chunks=%d", have), func(b *testing.B) { growthAt(b, dir, have) })
	}
}

func growthSizes(b *testing.B) (sizes []int) {
	list := os.Getenv(growthEnv)
	if list == "" {
		list = "50000"
	}
	for _, s := range strings.Split(list, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n <= 0 {
			b.Fatalf("%s=%q: want numbers separated by commas", growthEnv, list)
		}
		sizes = append(sizes, n)
	}
	return sizes
}

// growthAt measures at one size. Each row has the index opened anew, as each of the vault's processes does.
func growthAt(b *testing.B, dir string, have int) {
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			growthClose(b, growthOpen(b, dir))
		}
		b.ReportMetric(float64(growthDisk(b, dir))/float64(have), "disk-B/chunk")
	})
	b.Run("warm", func(b *testing.B) {
		resetPeak(b)
		var filter uint64
		for b.Loop() {
			x := growthOpen(b, dir)
			if err := x.WarmFilter(context.Background()); err != nil {
				b.Fatal(err)
			}
			filter = x.FilterBytes()
			growthMemory(b)
			growthClose(b, x)
		}
		b.ReportMetric(float64(filter)/float64(have), "filter-B/chunk")
	})
	random := rand.New(rand.NewPCG(1, 2))
	ids := make([]chunk.ID, 1<<17)
	rows := []struct {
		name string
		cold bool
		next func(i int) int
		hit  bool
	}{
		{"hit", false, func(int) int { return random.IntN(have) }, true},
		{"hit-in-order", false, func(i int) int { return (have/3 + i) % have }, true},
		{"miss", false, func(i int) int { return have + i }, false},
		{"miss-unwarmed", true, func(i int) int { return have + i }, false},
	}
	for _, row := range rows {
		b.Run(row.name, func(b *testing.B) {
			x := growthOpen(b, dir)
			defer growthClose(b, x)
			if !row.cold {
				if err := x.WarmFilter(context.Background()); err != nil {
					b.Fatal(err)
				}
			}
			for i := range ids {
				ids[i] = idOf(row.next(i))
			}
			for i := 0; b.Loop(); i++ {
				if _, ok := x.Lookup(ids[i%len(ids)]); ok != row.hit {
					b.Fatalf("chunk %d: found %v", i, ok)
				}
			}
			growthMemory(b)
		})
	}
}

func growthOpen(b *testing.B, dir string) *Index {
	b.Helper()
	x, err := Open(dir, ours, Options{Logf: b.Logf})
	if err != nil {
		b.Fatal(err)
	}
	return x
}

func growthClose(b *testing.B, x *Index) {
	b.Helper()
	if err := x.Close(); err != nil {
		b.Fatal(err)
	}
}

func growthEntries(pack uint32) []Entry {
	first := int(pack) * growthPack
	return packOf(pack, first, first+growthPack)
}

func growthDisk(b *testing.B, dir string) (n int64) {
	b.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		n += info.Size()
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// resetPeak makes the kernel forget the peak of this process's memory.
func resetPeak(b *testing.B) {
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		b.Logf("the peak is of the whole run: %v", err)
	}
}

// growthMemory reports what is resident: memory of our own, tables that are mapped (which the kernel takes back when it
// needs them), and the peak of both.
func growthMemory(b *testing.B) {
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return
	}
	for _, f := range []struct{ name, unit string }{{"RssAnon:", "own-MiB"}, {"RssFile:", "mapped-MiB"}, {"VmHWM:", "peak-MiB"}} {
		if _, rest, ok := strings.Cut(string(status), f.name); ok {
			var kib float64
			_, _ = fmt.Sscan(rest, &kib)
			b.ReportMetric(kib/1024, f.unit)
		}
	}
}
