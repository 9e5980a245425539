//go:build !race

// The race detector allocates for itself: what is counted here is run without it (see the Makefile).
package puller_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

// TestMemoryThatAPullTurnsOver holds allocations to a number by byte pulled and by file. Whatever copies content into memory
// that it has just allocated, instead of into a buffer that goes round, shows here.
func TestMemoryThatAPullTurnsOver(t *testing.T) {
	large, larger, small := t.TempDir(), t.TempDir(), t.TempDir()
	addLarge(t, large, 32<<20)
	addLarge(t, larger, 96<<20)
	const files = 2000
	for i := range files {
		must(t, os.MkdirAll(filepath.Join(small, fmt.Sprint("d", i/200)), 0o755))
		must(t, os.WriteFile(filepath.Join(small, fmt.Sprintf("d%d/f%d", i/200, i)), version(byte(i), 4000+i%100), 0o644))
	}
	age(t, small)
	server := sshdtest.Start(t, sshdtest.Options{}) // another process: what it allocates is not counted
	at := target{addr: server.Addr, user: server.User, signer: server.Signer, key: server.HostKey}
	s := newStore(t)
	pull := func(name, dir string) (bytes, objects float64) {
		job := s.job(name, dir, at)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s.pull(job)
		runtime.ReadMemStats(&after)
		return float64(after.TotalAlloc - before.TotalAlloc), float64(after.Mallocs - before.Mallocs)
	}
	pull("warm", small) // pools are filled, and what is made once is made
	b, n := pull("large", large)
	more, times := pull("larger", larger) // of which the first third is known
	t.Logf("a large file: %.0f bytes for 32 MiB; for what is larger %.3f bytes for each byte, %.0f allocations for each MiB", b, (more-b)/(64<<20), (times-n)/64)
	// x/crypto/ssh gives each packet memory of its own: one byte for a byte. There is to be no other copy like it; what a
	// collection of garbage takes out of pools meanwhile comes to some tenths.
	if (more-b)/(64<<20) > 1.9 || (times-n)/64 > 500 {
		t.Error("more than 1.9 bytes for a byte, or 500 allocations for a MiB")
	}
	b, n = pull("again", small)
	t.Logf("small files: %.0f bytes and %.1f allocations for each", b/files, n/files)
	if b/files > 25_000 || n/files > 120 {
		t.Error("more than 25 kB or 120 allocations for a file")
	}
	b, n = pull("again", small)
	t.Logf("unchanged files: %.0f bytes and %.1f allocations for each", b/files, n/files)
	if b/files > 8_000 || n/files > 30 {
		t.Error("more than 8 kB or 30 allocations for an unchanged file")
	}
}
