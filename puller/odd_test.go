package puller_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/metrics"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/puller/sshdtest"
	"github.com/holdfast-vault/holdfast/puller/throwaway"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// TestClockOfTheSourceIsHoursOff has a source show a clock of its own: what may still change without showing it is told by
// that clock and by no other.
func TestClockOfTheSourceIsHoursOff(t *testing.T) {
	for _, off := range []time.Duration{-5 * time.Hour, 5 * time.Hour, -40 * 24 * time.Hour, 40 * 24 * time.Hour} {
		t.Run(off.String(), func(t *testing.T) {
			dir := t.TempDir()
			now := time.Now().Add(off).Truncate(time.Second)
			must(t, os.MkdirAll(filepath.Join(dir, "proc"), 0o755))
			must(t, os.WriteFile(filepath.Join(dir, "proc/stat"), fmt.Appendf(nil, "cpu 1 2 3\nbtime %d\nprocesses 7\n", now.Unix()-1000), 0o444))
			must(t, os.WriteFile(filepath.Join(dir, "proc/uptime"), []byte("1000.25 2000.00\n"), 0o444))
			ages := map[string]time.Duration{"this second": 0, "a second ago": time.Second, "an hour ago": time.Hour, "in a minute": -time.Minute}
			must(t, os.MkdirAll(filepath.Join(dir, "src"), 0o755))
			for name, ago := range ages {
				path := filepath.Join(dir, "src", name)
				must(t, os.WriteFile(path, []byte("before"), 0o644))
				must(t, os.Chtimes(path, now.Add(-ago), now.Add(-ago)))
			}
			_, at := serveThrowaway(t, dir, throwaway.Options{})
			s := newStore(t)
			first := s.pull(s.job("web1", "/src", at))
			for name, ago := range ages {
				if racy := s.flags(first, name)&snapshot.Racy != 0; racy != (ago <= 0) {
					t.Errorf("%s: racy is %v", name, racy)
				}
				if ago > 0 {
					continue
				}
				path := filepath.Join(dir, "src", name) // other content, and nothing else shows it
				must(t, os.WriteFile(path, []byte("behind"), 0o644))
				must(t, os.Chtimes(path, now.Add(-ago), now.Add(-ago)))
			}
			s.whole(s.pull(s.job("web1", "/src", at)), filepath.Join(dir, "src"))
		})
	}
}

// TestMillionEntriesOfOneDirectory pulls a directory with very many entries, first and unchanged, and holds the memory that
// is in use meanwhile to a number: the listing is in it whole, and little else may be. HOLDFAST_MILLION=1 is the million.
func TestMillionEntriesOfOneDirectory(t *testing.T) {
	entries, most := 50_000, uint64(200<<20)
	if v := os.Getenv("HOLDFAST_MILLION"); v == "1" {
		entries, most = 1_000_000, 500<<20
	} else if n, err := strconv.Atoi(v); err == nil {
		entries, most = n, 500<<20
	}
	dir := t.TempDir()
	for i := range entries {
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("entry-%07d.txt", i)), os.O_CREATE|os.O_WRONLY, 0o644)
		must(t, err)
		must(t, f.Close())
	}
	must(t, os.WriteFile(filepath.Join(dir, "one with content"), []byte("content"), 0o644))
	age(t, dir)
	server := sshdtest.Start(t, sshdtest.Options{})
	at := target{addr: server.Addr, user: server.User, signer: server.Signer, key: server.HostKey}
	s := newStore(t)
	for _, name := range []string{"first", "unchanged"} {
		job := s.job("web1", dir, at)
		peak := peakOf(func() {
			r := s.pull(job)
			if r.Partial || r.Stats.Files != uint64(entries)+1 {
				t.Errorf("%+v", r.Stats)
			}
			t.Logf("%-9s pull of %d entries: %d requests, %v", name, entries, r.Stats.Requests, r.Stats.Duration)
		})
		t.Logf("%-9s pull: %d MiB in use at the most", name, peak>>20)
		if peak > most {
			t.Errorf("%s pull: %d bytes of memory, more than %d", name, peak, most)
		}
	}
}

// peakOf is the most memory that objects took while f ran, garbage included, as far as looks now and then show.
func peakOf(f func()) (peak uint64) {
	end := make(chan struct{})
	var looking sync.WaitGroup
	looking.Go(func() {
		sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			metrics.Read(sample)
			peak = max(peak, sample[0].Value.Uint64())
			select {
			case <-tick.C:
			case <-end:
				return
			}
		}
	})
	f()
	close(end)
	looking.Wait()
	return peak
}
