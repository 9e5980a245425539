package main

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-vault/holdfast/puller"
	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

func at(seconds int, files, read, kept, totalFiles, totalBytes uint64) puller.Progress {
	return puller.Progress{
		Stats: puller.Stats{Files: files, ReadBytes: read}, Elapsed: time.Duration(seconds) * time.Second,
		KeptBytes: kept, TotalFiles: totalFiles, TotalBytes: totalBytes,
	}
}

func TestTimeLeftFollowsTheRateOfLate(t *testing.T) {
	var m meter
	var got pullProgress
	for s := range 60 { // 10 MB/s for a minute
		got = m.add(at(s+1, 0, uint64(s+1)*10e6, 0, 1, 1e9))
	}
	if got.BytesPerSecond != 10e6 || !got.Known || got.Left < 39*time.Second || got.Left > 41*time.Second {
		t.Errorf("%+v", got)
	}
	for s := 60; s < 80; s++ { // then a timetable says 1 MB/s
		got = m.add(at(s+1, 0, 600e6+uint64(s-59)*1e6, 0, 1, 1e9))
	}
	if got.BytesPerSecond != 1e6 || got.Left < 379*time.Second || got.Left > 381*time.Second {
		t.Errorf("%+v", got)
	}
	if want := "web1: 62%, 6m20s left, 591 MiB of 954 MiB, 977 KiB/s, 0 of 1 files, 591 MiB read"; got.line("web1") != want {
		t.Errorf("%s", got.line("web1"))
	}
	got.NewTold, got.NewBytes, got.KeptBytes = true, 20<<20, 1<<20
	if !strings.Contains(got.line("web1"), ", 20 MiB new, 572 MiB known") {
		t.Errorf("%s", got.line("web1"))
	}
}

func TestFirstPullClaimsNoTotal(t *testing.T) {
	var m meter
	m.add(at(1, 10, 1e6, 0, 0, 0))
	got := m.add(at(2, 20, 2e6, 0, 0, 0))
	if got.Known || got.line("web1") != "web1: 1.9 MiB, 977 KiB/s, 20 files, 1.9 MiB read" {
		t.Errorf("%+v %s", got, got.line("web1"))
	}
}

func TestAnyProgressGivesSaneFigures(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m meter
		var now puller.Progress
		for range rapid.IntRange(1, 40).Draw(t, "seconds") {
			n := func(name string) uint64 { return rapid.Uint64Range(0, 1<<40).Draw(t, name) }
			now.Elapsed += time.Duration(rapid.IntRange(0, 3).Draw(t, "elapsed")) * time.Second
			now.Files += n("files")
			now.ReadBytes += n("read")
			now.KeptBytes += n("kept")
			now.TotalFiles, now.TotalBytes = n("total files"), n("total bytes")
			got := m.add(now)
			if got.Left < 0 || got.BytesPerSecond > now.ReadBytes || len(m.samples) > int(meterSpan/time.Second)+42 {
				t.Fatalf("%+v", got)
			}
			if l := got.line("web1"); strings.Contains(l, "-") || now.TotalBytes > 0 && got.DoneBytes() > now.TotalBytes {
				t.Fatal(l)
			}
		}
	})
}

// In a pipe nothing is said of progress; on a terminal, whose word the flag is, a line that can be gone over. A pull with the
// least memory is as good as any.
func TestProgressIsForTerminals(t *testing.T) {
	s := initialised(t)
	src := filepath.Join(t.TempDir(), "src")
	writeTree(t, src, 51, 60, 3)
	srv := sshdtest.Start(t, sshdtest.Options{})
	args := slices.DeleteFunc(pullArgs(srv, "web1", src, "--memory", "64MiB"), func(a string) bool { return a == "--json" })
	if r := s.must(args...); r.err != "" {
		t.Errorf("said in a pipe: %q", r.err)
	}
	r := s.must(append(args, "--progress")...)
	if !strings.Contains(r.err, "\rweb1: 100%") && !strings.Contains(r.err, "\r\x1b[?7lweb1: 100%") || !strings.Contains(r.err, " of 63 files") {
		t.Errorf("%q", r.err)
	}
	if r := s.must(append(args, "--progress", "--json")...); r.err != "" {
		t.Errorf("said beside JSON: %q", r.err)
	}
	s.must("check", "--read-data")
}
