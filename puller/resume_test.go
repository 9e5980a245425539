package puller

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/holdfast-vault/holdfast/puller/remote"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// interruptedRig is a rig whose first pull was interrupted at 2 MiB of the file "big" of 3.2 MB.
func interruptedRig(t *testing.T, mtime int64) *rig {
	r := newRig(t)
	r.host.file("big", strings.Repeat("0123456789abcdef", 200_000)).attr.MTime = mtime
	for i := range 100 {
		r.host.file(fmt.Sprintf("small%d", i), "x")
	}
	ctx, cancel := context.WithCancel(t.Context())
	r.host.hook = func(op, path string) error {
		if op == "piece" && path == "big 2097152" {
			cancel()
		}
		return nil
	}
	if _, err := Run(ctx, r.job); err == nil {
		t.Fatal("not interrupted")
	}
	r.host.hook = nil
	return r
}

func TestResumedFileWaitsForItsTurn(t *testing.T) {
	r := interruptedRig(t, longAgo)
	_, s := r.pull()
	if s.entries["big"].Flags != snapshot.Resumed {
		t.Fatalf("flags %b", s.entries["big"].Flags)
	}
	for range 2 { // pulls without the slow cycle leave it, and its mark, alone
		_, s = r.pull()
		if r.host.did("read") != 0 || s.entries["big"].Flags != snapshot.Resumed {
			t.Fatalf("%q, flags %b", r.host.ops, s.entries["big"].Flags)
		}
	}
	p := &pull{job: Job{Slice: Slice{Days: 30, Key: [32]byte{1}}}}
	whole := s.entries["big"]
	whole.Flags = 0
	for p.due(&whole, &whole) {
		p.job.Slice.Day++ // a day that is not its own
	}
	r.job.Slice = p.job.Slice
	result, s := r.pull()
	s.equals(t, r.host)
	if r.host.did("read big") != 1 || s.entries["big"].Flags != 0 || result.Stats.Reread == 0 || result.Stats.FilesUnchanged != 101 {
		t.Errorf("%q, flags %b, %+v", r.host.ops, s.entries["big"].Flags, result.Stats)
	}
	if n := r.host.did("read"); n > 20 {
		t.Errorf("%d of 101 files were read on one day of thirty", n)
	}
	r.pull()
	if r.host.did("read big") != 0 {
		t.Error("read again on the same day, whole as it is")
	}
}

func TestHugeFileUsesUpItsStrikesBitByBit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTimedRig(t)
		r.host.file("big", strings.Repeat("0123456789abcdef", 24<<16))
		lost, short := 0, false
		next := 0
		r.host.hook = func(op, path string) error {
			var at int
			if _, err := fmt.Sscanf(path, "big %d", &at); op != "piece" || err != nil || at < next {
				return nil
			}
			if lost++; short {
				next = at + 3<<19
			} else {
				next = at + 1<<17 // a loss soon after a loss: a strike
			}
			short = !short
			return remote.ErrLost
		}
		next = 1 << 20
		result, s := r.pull()
		s.equals(t, r.host)
		if result.Stats.ReadBytes != 24<<20 || lost < 12 {
			t.Errorf("%d bytes for 24 MiB, lost %d times", result.Stats.ReadBytes, lost)
		}
	})
}

// TestFileThatMustBeginAnewIsTriedForEver cuts the connection at one place of a file that was modified a moment ago, so that what was read of it
// cannot be gone on from: megabytes that are read again each time are no progress.
func TestFileThatMustBeginAnewIsTriedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTimedRig(t)
		now, _ := r.host.now()
		r.host.file("big", strings.Repeat("0123456789abcdef", 4<<16)).attr.MTime = now.Unix() + 3600
		for i := range 100 {
			r.host.file(fmt.Sprintf("small%d", i), "x")
		}
		cuts := 0
		r.host.hook = func(op, path string) error {
			if op != "piece" || path != "big 2097152" {
				return nil
			}
			if cuts++; cuts > 100 {
				return nil // the test has failed, and ends
			}
			return remote.ErrLost
		}
		_, s := r.pull(ProblemLost)
		if _, ok := s.entries["big"]; ok || cuts > 10 {
			t.Errorf("cut %d times; stored %v", cuts, ok)
		}
		for i := range 100 {
			s.content(t, fmt.Sprintf("small%d", i))
		}
	})
}

func TestPartOfAnotherVersionBecomesTheBeginning(t *testing.T) {
	for name, change := range map[string]func(n *node){
		"other size":  func(n *node) { n.data = strings.ToUpper(n.data) + "x"; n.attr.Size++ },
		"other mtime": func(n *node) { n.data = strings.ToUpper(n.data); n.attr.MTime++ },
		"shorter":     func(n *node) { n.data = strings.ToUpper(n.data[:1<<20]); n.attr.Size = 1 << 20 },
	} {
		t.Run(name, func(t *testing.T) {
			r := interruptedRig(t, longAgo)
			r.host.change(func(nodes map[string]*node) { change(nodes["big"]) })
			_, s := r.pull()
			s.equals(t, r.host)
			if !slices.Contains(r.host.ops, "piece big 0") || s.entries["big"].Flags != 0 {
				t.Errorf("flags %b, %q", s.entries["big"].Flags, r.host.ops)
			}
		})
	}
}
