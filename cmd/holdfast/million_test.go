package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

// TestMillionEntries pulls, lists and restores a million small files from a real sshd and holds the peak memory of each
// under 500 MiB. It runs with HOLDFAST_MILLION=1 (or a smaller number of files); otherwise 20,000 files show that it works.
func TestMillionEntries(t *testing.T) {
	files := 20_000
	if v := os.Getenv("HOLDFAST_MILLION"); v == "1" {
		files = 1_000_000
	} else if n, err := strconv.Atoi(v); err == nil {
		files = n
	}
	srv := sshdtest.Start(t, sshdtest.Options{})
	s := initialised(t)
	src := filepath.Join(t.TempDir(), "src")
	writeMany(t, src, files)

	const most = 500 << 10 // KiB
	r := s.peak(t, "pull", most, pullArgs(srv, "web1", src)...)
	var pulled []pullJSON
	r.json(t, &pulled)
	if pulled[0].Files != uint64(files) || pulled[0].State != "complete" {
		t.Fatalf("%+v", pulled[0])
	}
	r = s.peak(t, "unchanged pull", most, pullArgs(srv, "web1", src)...)
	r.json(t, &pulled)
	if pulled[0].ReadBytes != 0 || pulled[0].Unchanged != uint64(files) {
		t.Fatalf("%+v", pulled[0])
	}
	r = s.peak(t, "list", most, "ls", "-R", "web1@latest")
	if n := bytes.Count([]byte(r.out), []byte("\n")); n < files {
		t.Fatalf("%d lines for %d files", n, files)
	}
	to := filepath.Join(s.dir, "out")
	s.peak(t, "restore", most, "restore", "web1@latest", "--to", to)
	s.peak(t, "check", most, "check")
	sameAsSource(t, src, to)
}

// peak runs the program and says what it took. The kernel's figure for an ended child would be the larger of the child's
// and of ours when it was started, so the child's own VmHWM is read while it runs.
func (s *site) peak(t *testing.T, what string, mostKiB int64, args ...string) result {
	t.Helper()
	c := s.command(args...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	start := time.Now()
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	var peak int64
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("%s: %v: %s", what, err, errs.String())
			}
			running = false
		case <-tick.C:
			peak = max(peak, vmHWM(c.Process.Pid))
		}
	}
	t.Logf("%-15s %8.1f s, peak %4d MiB, user %.1f s, system %.1f s", what, time.Since(start).Seconds(), peak>>10,
		c.ProcessState.UserTime().Seconds(), c.ProcessState.SystemTime().Seconds())
	if peak == 0 || peak > mostKiB {
		t.Errorf("%s: peak memory %d KiB, at most %d", what, peak, mostKiB)
	}
	return result{out: out.String(), err: errs.String()}
}

// vmHWM is the peak memory of a process so far, in KiB; 0 when it has ended, or has not begun to run the program yet.
func vmHWM(pid int) int64 {
	exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil || exe != program {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	var kib int64
	_, _ = fmt.Sscan(rest, &kib)
	return kib
}

// writeMany writes small files, a thousand to a directory, all a day old.
func writeMany(t *testing.T, dir string, files int) {
	old := time.Now().Add(-24 * time.Hour)
	for i := 0; i < files; i += 1000 {
		d := filepath.Join(dir, fmt.Sprintf("d%04d", i/1000))
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		for j := i; j < min(i+1000, files); j++ {
			p := filepath.Join(d, fmt.Sprintf("entry-%07d.txt", j))
			if err := os.WriteFile(p, fmt.Appendf(nil, "entry %d of many\n", j), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(p, old, old); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chtimes(d, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(dir, old, old); err != nil {
		t.Fatal(err)
	}
}
