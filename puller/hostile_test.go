package puller_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/puller"
	"github.com/holdfast-vault/holdfast/puller/hostile"
	"github.com/holdfast-vault/holdfast/puller/remote"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

const (
	// hostileRowsMin is the number of hostile behaviours that a whole pull is known to survive. It only ever grows.
	hostileRowsMin = 167
	// hostileDeadline is how long one of them may keep a pull.
	hostileDeadline = 90 * time.Second
)

// spoilsItsOwn are behaviours that reach the honest part, too, when much is asked at once, as a whole pull does: their bytes
// get between those of honest answers, and nobody can tell the content that a server makes up from any other.
var spoilsItsOwn = map[string]bool{"drips-answers": true}

func hostileTarget(s *hostile.Server) target {
	return target{addr: s.Addr, user: "vault", signer: hostile.ClientKey(), key: s.HostKey, limits: remote.Limits{
		OpTimeout: 400 * time.Millisecond, HandshakeTimeout: time.Second, EntriesPerDirectory: 20_000, Depth: 64,
		FileBytes: 1 << 30, Bytes: 1 << 32, Redials: 3, RedialWait: 10 * time.Millisecond,
	}}
}

// TestHostileSourcesThroughWholePulls pulls every hostile behaviour into one vault: each ends in time, leaves earlier
// snapshots as they were, is not taken for a complete source where it is none, and does not keep the next honest
// pull from being complete.
func TestHostileSourcesThroughWholePulls(t *testing.T) {
	rows := hostile.Behaviours()
	t.Logf("%d hostile behaviours", len(rows))
	if len(rows) < hostileRowsMin {
		t.Errorf("%d hostile behaviours, there were %d", len(rows), hostileRowsMin)
	}
	if testing.Short() {
		rows = rows[:10]
	}
	s := newStore(t)
	around := filepath.Dir(s.dir)
	_, _, honest := hostile.Serve(t, hostile.Behaviour{Name: "honest"})
	t.Run("rows", func(t *testing.T) {
		for i, b := range rows {
			t.Run(b.Name, func(t *testing.T) {
				t.Parallel()
				hostileRow(t, s, fmt.Sprintf("row-%03d", i), b, honest)
			})
		}
	})
	s.restart()
	s.sound()
	found, err := os.ReadDir(around)
	must(t, err)
	if len(found) != 1 {
		t.Errorf("beside the vault lies %v", found)
	}
}

func hostileRow(t *testing.T, shared *store, source string, b hostile.Behaviour, honest *hostile.Server) {
	s := *shared
	s.t = t
	if spoilsItsOwn[b.Name] {
		b.Outcome = hostile.Lost
	}
	first := s.pull(s.job(source, hostile.Root, hostileTarget(honest)))
	if first.Partial {
		t.Fatalf("an honest source: %+v", first.Problems)
	}

	_, _, server := hostile.Serve(t, b)
	job := s.job(source, hostile.Root, hostileTarget(server))
	job.FullReread = true
	r, err := pullInTime(t, job)
	switch {
	case err != nil && b.Outcome != hostile.Lost:
		t.Errorf("%v was expected, and it failed: %v", b.Outcome, err)
	case err == nil && b.Outcome == hostile.Whole && r.Partial:
		t.Errorf("problems with what is odd and allowed: %+v", r.Problems[:min(len(r.Problems), 5)])
	case err == nil && b.Outcome == hostile.Partial && !r.Partial && b.Name != "file-grows": // what only grows was had as it was listed
		t.Errorf("the source was taken for a complete one: %+v", r.Stats)
	}
	if err == nil && b.Outcome != hostile.Lost {
		s.honest(r.Snapshot.ID)
	}
	for _, text := range append(reasons(r), fmt.Sprint(err)) {
		if strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f || c == 0x202e }) {
			t.Errorf("a reason carries control characters: %q", text)
		}
	}
	s.honest(first.Snapshot.ID) // as it was

	server.Reform()
	job = s.job(source, hostile.Root, hostileTarget(server))
	job.FullReread = spoilsItsOwn[b.Name]
	again, err := pullInTime(t, job)
	if err != nil || again.Partial {
		t.Fatalf("the next honest pull: %v, %+v", err, again.Problems)
	}
	s.honest(again.Snapshot.ID)
}

// pullInTime pulls and fails the test when that takes too long.
func pullInTime(t *testing.T, job puller.Job) (puller.Result, error) {
	t.Helper()
	type outcome struct {
		r   puller.Result
		err error
	}
	ctx, cancel := context.WithTimeout(t.Context(), hostileDeadline)
	defer cancel()
	done := make(chan outcome, 1)
	go func() {
		r, err := puller.Run(ctx, job)
		done <- outcome{r, err}
	}()
	select {
	case o := <-done:
		if ctx.Err() != nil {
			t.Errorf("did not end within %v: %v", hostileDeadline, o.err)
		}
		return o.r, o.err
	case <-time.After(hostileDeadline + 10*time.Second):
		stacks := make([]byte, 1<<20)
		t.Fatalf("hangs:\n%s", stacks[:runtime.Stack(stacks, true)])
		return puller.Result{}, nil
	}
}

func reasons(r puller.Result) (texts []string) {
	for _, p := range r.Problems {
		texts = append(texts, p.Reason)
	}
	return texts
}

// honest wants the honest part of the hostile tree in a snapshot, byte for byte.
func (s *store) honest(id string) {
	s.t.Helper()
	snap, err := s.v.OpenSnapshot(s.t.Context(), id)
	must(s.t, err)
	below := func(path string) string { return strings.TrimPrefix(path, hostile.Root+"/") }
	for path, want := range hostile.HonestFiles() {
		e, err := snap.Lookup(s.t.Context(), below(path))
		if err != nil {
			s.t.Errorf("%q: %v", path, err)
		} else if got := s.content(snap, e); !bytes.Equal(got, want) {
			s.t.Errorf("%q: %d bytes instead of %d", path, len(got), len(want))
		}
	}
	for path, want := range hostile.HonestLinks() {
		if e, err := snap.Lookup(s.t.Context(), below(path)); err != nil || e.Kind != snapshot.Symlink || e.Target != want {
			s.t.Errorf("%q: %+v, %v", path, e, err)
		}
	}
}
