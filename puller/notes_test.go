package puller

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
)

// TestVanishingFilesFloodTheLog lists many files that are gone when they are to be read: what is told of them is bounded,
// and they are counted.
func TestVanishingFilesFloodTheLog(t *testing.T) {
	const files = 3 * notesShown
	r := newRig(t)
	r.host.file("stays", "x")
	for i := range files {
		r.host.file(fmt.Sprintf("f%03d", i), "gone")
	}
	r.host.hook = func(op, path string) error {
		if op == "read" && strings.HasPrefix(path, "f") {
			r.host.remove(path)
		}
		return nil
	}
	var told atomic.Int64
	r.job.Events.Note = func(string) { told.Add(1) }
	result, _ := r.pull()
	if result.Stats.Vanished != files {
		t.Errorf("%d vanished, want %d", result.Stats.Vanished, files)
	}
	if n := told.Load(); n != notesShown+1 {
		t.Errorf("%d notes of %d files", n, files)
	}
}
