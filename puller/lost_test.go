package puller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfast-vault/holdfast/puller/remote"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// newTimedRig is for a synctest bubble: pauses take the bubble's time.
func newTimedRig(t testing.TB) *rig {
	r := newRig(t)
	r.job.Sleep = nil
	return r
}

func TestAConnectionLostNowAndThenLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTimedRig(t)
		someTree(r.host)
		for i := range 300 {
			r.host.file(fmt.Sprintf("many/d%d/f%d", i%10, i), fmt.Sprint("content ", i))
		}
		var n atomic.Int64
		var mu sync.Mutex
		hits := map[string]int{} // what loses the connection three times is left out, and that is another test
		r.host.hook = func(op, path string) error {
			mu.Lock()
			defer mu.Unlock()
			file, _, _ := strings.Cut(path, " ") // a piece is named by its offset, too
			file = file[strings.LastIndexByte(file, '/')+1:]
			if n.Add(1)%17 == 0 && hits[file] < 2 {
				hits[file]++
				return fmt.Errorf("%s %q: %w", op, path, remote.ErrLost)
			}
			return nil
		}
		result, s := r.pull()
		s.equals(t, r.host)
		if result.Stats.Losses == 0 || result.Stats.Vanished != 0 {
			t.Errorf("%+v", result.Stats)
		}
	})
}

func TestALargeFileGoesOnWhereTheConnectionWasLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTimedRig(t)
		r.host.file("big", strings.Repeat("0123456789abcdef", 10<<16))
		lost := map[string]bool{}
		r.host.hook = func(op, path string) error {
			if op == "piece" && path != "big 0" && strings.HasSuffix(path, "0") && !lost[path] { // every 1.25 MiB, once each
				lost[path] = true
				return remote.ErrLost
			}
			return nil
		}
		result, s := r.pull()
		s.equals(t, r.host)
		if result.Stats.ReadBytes != 10<<20 || len(lost) != 7 {
			t.Errorf("%d bytes for 10 MiB, lost at %v", result.Stats.ReadBytes, lost)
		}
		if s.entries["big"].Flags != 0 {
			t.Errorf("flags %b", s.entries["big"].Flags)
		}
	})
}

func TestAPathThatEndsConnectionsIsLeftOut(t *testing.T) {
	for name, cause := range map[string]error{ProblemLost: remote.ErrLost, ProblemStalled: remote.ErrStalled} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newTimedRig(t)
				someTree(r.host)
				for i := range 100 {
					r.host.file(fmt.Sprintf("many/f%d", i), "x")
				}
				r.host.file("many/killer", "x")
				r.host.file("killer/f", "x")
				var killing atomic.Bool
				r.host.hook = func(op, path string) error {
					if op == "read" && path == "many/killer" || op == "list" && path == "killer" {
						killing.Store(true)
						time.Sleep(time.Second)
						killing.Store(false)
						return cause
					}
					if killing.Load() && op == "read" {
						return remote.ErrLost // whoever is on the same connection
					}
					return nil
				}
				_, s := r.pull(name, name)
				if n := r.host.did("read many/killer"); n != 3 {
					t.Errorf("tried %d times", n)
				}
				if _, ok := s.entries["killer"]; !ok {
					t.Error("the directory's own entry is missing")
				}
				for i := range 100 {
					s.content(t, fmt.Sprintf("many/f%d", i))
				}
			})
		})
	}
}

func TestAHostThatGoesAwaySuspendsThePull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTimedRig(t)
		someTree(r.host)
		for i := range 100 {
			r.host.file(fmt.Sprintf("many/f%d", i), "x")
		}
		var reads atomic.Int64
		var waits []time.Duration
		r.job.Events.Lost = func(_ error, wait time.Duration) { waits = append(waits, wait) }
		r.host.hook = func(op, path string) error {
			if op == "read" && reads.Add(1) > 50 || reads.Load() > 50 {
				return fmt.Errorf("%s: %w", op, remote.ErrLost)
			}
			return nil
		}
		began := time.Now()
		err := r.fail()
		var interrupted *InterruptedError
		if !errors.As(err, &interrupted) || !errors.Is(err, remote.ErrLost) || !strings.Contains(err.Error(), "resumes") {
			t.Fatalf("%v", err)
		}
		if took := time.Since(began); took < 30*time.Second || took > 10*time.Minute {
			t.Errorf("gave up after %v, pauses %v", took, waits)
		}
		if r.host.dials < 2 {
			t.Errorf("%d dials", r.host.dials)
		}
		r.host.hook = nil
		result, s := r.pull()
		s.equals(t, r.host)
		if result.Stats.FilesResumed < 40 || result.Stats.FilesRead > 70 {
			t.Errorf("%+v", result.Stats)
		}
	})
}

func TestAChangedHostKeyEndsThePullAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTimedRig(t)
		someTree(r.host)
		r.host.hook = func(op, path string) error {
			switch {
			case op == "dial" && r.host.dials > 1:
				return &remote.HostKeyError{Host: "web1", Want: []string{"a"}, Got: "b"}
			case op != "dial" && r.host.did("") > 5:
				return remote.ErrLost
			}
			return nil
		}
		err := r.fail()
		var key *remote.HostKeyError
		if !errors.As(err, &key) || r.host.dials != 2 {
			t.Errorf("%v after %d dials", err, r.host.dials)
		}
	})
}

func TestThePullEndsWhenItsTimeIsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTimedRig(t)
		for i := range 100 {
			r.host.file(fmt.Sprintf("d%d/f%d", i%10, i), "x")
		}
		r.host.hook = func(op, path string) error {
			if op == "read" {
				time.Sleep(time.Minute)
			}
			return nil
		}
		r.job.Limits.Duration = 5*time.Minute + time.Second
		began := time.Now()
		result, s := r.pull(ProblemLimit)
		if took := time.Since(began); took > 7*time.Minute {
			t.Errorf("it took %v", took)
		}
		if n := result.Stats.FilesRead; n < 16 || n > 48 || s.writers != 0 {
			t.Errorf("%d files were read, %d writers open", n, s.writers)
		}
		r.job.Limits.Duration = 0
		_, s = r.pull()
		s.equals(t, r.host)
		if n := r.host.did("read"); n > 100-16 {
			t.Errorf("%d files were read after a partial snapshot", n)
		}
	})
}

func TestASlowVaultSlowsTheWalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTimedRig(t)
		for i := range 400 {
			r.host.file(fmt.Sprintf("d%d/f", i), "x")
		}
		gate := make(chan struct{})
		r.keep.full = func(string) error { <-gate; return nil }
		done := make(chan error, 1)
		go func() {
			_, err := Run(t.Context(), r.job)
			done <- err
		}()
		synctest.Wait()
		if n := r.host.did("list"); n > 1+4+8 {
			t.Errorf("%d directories were listed while nothing could be stored", n)
		}
		close(gate)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

func TestTheSourcesClockIsLookedAtNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTimedRig(t)
		var looks atomic.Int64
		r.host.now = func() (time.Time, bool) { looks.Add(1); return time.Now().Add(-time.Hour), true }
		for i := range 100 {
			r.host.file(fmt.Sprintf("f%d", i), "x")
		}
		r.host.hook = func(op, path string) error {
			if op == "read" {
				time.Sleep(time.Second)
			}
			return nil
		}
		r.job.Readers = 4
		r.host.file("f99", "x").attr.MTime = time.Now().Add(-time.Hour).Unix() - 1
		r.host.file("young", "x").attr.MTime = time.Now().Add(-time.Hour).Unix() + 2
		_, s := r.pull()
		if n := looks.Load(); n < 3 || n > 12 {
			t.Errorf("%d looks in 25 seconds", n)
		}
		if s.entries["f99"].Flags&snapshot.Racy != 0 {
			t.Error("older than the clock, and racy")
		}
	})
}

func TestCancellingWhileTheHostHangsEndsThePull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTimedRig(t)
		someTree(r.host)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		r.host.hook = func(op, path string) error {
			if op == "read" || op == "list" && path != "" {
				<-ctx.Done()
			}
			return nil
		}
		if _, err := Run(ctx, r.job); !errors.Is(err, context.DeadlineExceeded) || r.keep.session.ended != "suspended" {
			t.Errorf("%v, %s", err, r.keep.session.ended)
		}
	})
}

func TestARacyFileIsNotContinuedAfterALoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newTimedRig(t)
		big := strings.Repeat("0123456789abcdef", 200_000)
		r.host.file("big", big).attr.MTime = longAgo + 1_000_000 // the host's very second
		lost := false
		r.host.hook = func(op, path string) error {
			if op == "piece" && path == "big 2097152" && !lost {
				lost = true
				// The same second, the same size: the first half differs from what was read of it.
				r.host.change(func(nodes map[string]*node) { nodes["big"].data = strings.ToUpper(big) })
				return remote.ErrLost
			}
			return nil
		}
		_, s := r.pull()
		s.equals(t, r.host)
	})
}
