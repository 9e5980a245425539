package puller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/puller/remote"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

func TestSlowCycleReadsEveryFileOnce(t *testing.T) {
	r := newRig(t)
	for i := range 200 {
		r.host.file(fmt.Sprintf("d%d/f%d", i%7, i), "x")
	}
	r.pull()
	const days = 5
	r.job.Slice = Slice{Days: days, Key: [32]byte{7}}
	seen := map[string]int{}
	for day := range int64(days) {
		r.job.Slice.Day = 20_000 + day
		r.pull()
		for _, op := range r.host.ops {
			if path, ok := strings.CutPrefix(op, "read "); ok {
				seen[path]++
			}
		}
		if n := r.host.did("read"); n < 20 || n > 60 {
			t.Errorf("day %d: %d of 200 files", day, n)
		}
	}
	if len(seen) != 200 {
		t.Errorf("%d files were read in all", len(seen))
	}
	for path, n := range seen {
		if n != 1 {
			t.Errorf("%s was read %d times", path, n)
		}
	}
	r.job.FullReread = true
	if result, _ := r.pull(); r.host.did("read") != 200 || result.Stats.Reread != 200 {
		t.Errorf("full: %d", r.host.did("read"))
	}
}

func TestAPanicEndsOnePullOnly(t *testing.T) {
	for _, at := range []string{"read", "list", "link"} {
		r := newRig(t)
		someTree(r.host)
		r.host.hook = func(op, path string) error {
			if op == at && path != "" {
				panic("boom")
			}
			return nil
		}
		if err := r.fail(); !strings.Contains(err.Error(), "internal error") {
			t.Errorf("%v", err)
		}
	}
}

func TestTroubleInTheVaultEndsThePull(t *testing.T) {
	r := newRig(t)
	someTree(r.host)
	full := errors.New("no space left")
	r.keep.full = func(string) error { return full }
	if err := r.fail(); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
	r.keep.full = nil
	_, s := r.pull()
	s.equals(t, r.host)
}

func TestLimits(t *testing.T) {
	t.Run("bytes", func(t *testing.T) {
		r := newRig(t)
		someTree(r.host)
		r.job.Limits.Bytes = 1000
		result, s := r.pull(ProblemLimit)
		if result.Problems[0].Path != "var/big" || s.content(t, "etc/hosts") == "" {
			t.Errorf("%+v", result.Problems)
		}
	})
	t.Run("bytes of a file that grows", func(t *testing.T) {
		r := newRig(t)
		r.host.file("f", strings.Repeat("x", 900))
		r.host.hook = func(op, _ string) error {
			if op == "fstat" {
				r.host.file("f", strings.Repeat("y", 2000)).attr.MTime = 5
			}
			return nil
		}
		r.job.Limits.Bytes = 1000
		r.pull(ProblemLimit)
	})
	t.Run("entries", func(t *testing.T) {
		r := newRig(t)
		for i := range 50 {
			r.host.file(fmt.Sprintf("d%02d/f", i), "x")
		}
		r.job.Limits.Entries = 60
		_, s := r.pull(ProblemLimit)
		if n := len(s.entries); n < 20 || n > 70 {
			t.Errorf("%d entries", n)
		}
	})
	t.Run("entries of a directory", func(t *testing.T) {
		r := newRig(t)
		r.host.file("d/f", "x")
		r.host.hook = func(op, path string) error {
			if op == "list" && path == "d" {
				return &remote.LimitError{What: "entries of one directory", Path: path, Limit: 1, Got: 2}
			}
			return nil
		}
		_, s := r.pull(ProblemLimit)
		if s.content(t, "d/f") != "x" {
			t.Error("what was within the limit is missing")
		}
	})
}

func TestAWideTreeDoesNotFillTheMemory(t *testing.T) {
	r := newRig(t)
	for i := range 1000 {
		r.host.file(fmt.Sprintf("wide/d%04d/f", i), "x")
	}
	r.job.Limits.Pending = 600
	r.job.Walkers = 3
	_, s := r.pull()
	s.equals(t, r.host)
	if n := r.host.did("list wide"); n < 1000+2 {
		t.Errorf("%d listings: the wide directory was kept whole", n)
	}
}

func TestProgressAndDoneAreTold(t *testing.T) {
	r := newRig(t)
	someTree(r.host)
	var told, done int
	var last Progress
	r.job.Events = Events{
		Progress:  func(p Progress) { told, last = told+1, p },
		Done:      func(Result, error) { done++ },
		Connected: func(again bool) { told += 100 },
	}
	result, _ := r.pull()
	if told != 101 || done != 1 || last.Files != result.Stats.Files {
		t.Errorf("%d %d %+v", told, done, last)
	}
}

func TestACancelledPullIsSuspendedAndResumed(t *testing.T) {
	r := newRig(t)
	someTree(r.host)
	ctx, cancel := context.WithCancel(t.Context())
	r.host.hook = func(op, path string) error {
		if op == "piece" && path == "var/big 2097152" {
			cancel()
		}
		return nil
	}
	_, err := Run(ctx, r.job)
	var interrupted *InterruptedError
	if !errors.As(err, &interrupted) || !errors.Is(err, context.Canceled) || r.keep.session.ended != "suspended" || r.keep.session.writers != 0 {
		t.Fatalf("%v, session %s", err, r.keep.session.ended)
	}
	finished := len(r.keep.left)
	r.host.hook = nil
	result, s := r.pull()
	s.equals(t, r.host)
	e := s.entries["var/big"]
	if e.Flags != snapshot.Resumed || result.Stats.ReadBytes > 3_200_000-2<<20+1000 {
		t.Errorf("flags %b, %d bytes read", e.Flags, result.Stats.ReadBytes)
	}
	if int(result.Stats.FilesResumed) < finished-1 { // the empty one is not counted
		t.Errorf("%d resumed of %d", result.Stats.FilesResumed, finished)
	}
	_, s = r.pull()
	s.equals(t, r.host)
	if r.host.did("read") != 0 {
		t.Errorf("%q", r.host.ops)
	}
}

func TestARacyFileIsNotContinuedInTheMiddle(t *testing.T) {
	r := newRig(t)
	big := strings.Repeat("0123456789abcdef", 200_000)
	r.host.file("big", big).attr.MTime = longAgo + 1_000_000 // the host's very second
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
	// The same second, the same size: the beginning differs from what was stored of it.
	r.host.change(func(nodes map[string]*node) { nodes["big"].data = strings.ToUpper(big) })
	r.host.now = func() (time.Time, bool) { return time.Unix(longAgo+2_000_000, 0), true }
	_, s := r.pull()
	s.equals(t, r.host)
}
