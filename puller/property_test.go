package puller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-vault/holdfast/puller/remote"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// TestACompleteSnapshotIsTheSourceAsItIs changes a source between pulls, also within the second that it was pulled in, while
// the connection is lost and pulls are cancelled at any moment. Whatever becomes a complete snapshot is the source.
func TestACompleteSnapshotIsTheSourceAsItIs(t *testing.T) {
	complete := 0
	rapid.Check(t, func(t *rapid.T) {
		r := newPropertyRig(t)
		for range rapid.IntRange(2, 6).Draw(t, "pulls") {
			for range rapid.IntRange(0, 6).Draw(t, "changes") {
				r.mutate(t)
			}
			if r.pull(t) {
				complete++
			}
			r.tick(rapid.SampledFrom([]int{0, 0, 1, 3, 30}).Draw(t, "seconds"))
		}
	})
	if complete == 0 {
		t.Error("no pull was complete")
	}
}

type propertyRig struct {
	*rig
	mu     sync.Mutex
	second int64
}

func newPropertyRig(t *rapid.T) *propertyRig {
	p := &propertyRig{rig: &rig{host: newHost(), keep: newKeep()}, second: longAgo}
	known := rapid.Bool().Draw(t, "clock seen")
	now := func() time.Time {
		p.mu.Lock()
		defer p.mu.Unlock()
		return time.Unix(p.second, 0)
	}
	p.host.now = func() (time.Time, bool) { return now(), known }
	p.job = Job{
		Source: "web1", Root: "/src", Connect: p.host.connect, Begin: p.keep.begin, AllowEmpty: true, Now: now,
		Walkers: rapid.IntRange(1, 4).Draw(t, "walkers"), Readers: rapid.IntRange(1, 6).Draw(t, "readers"),
		Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
	}
	return p
}

func (p *propertyRig) tick(seconds int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.second += int64(seconds)
}

// mutate changes one thing on the host, with the mtime of the present second.
func (p *propertyRig) mutate(t *rapid.T) {
	h := p.host
	path := rapid.SampledFrom([]string{"a", "b", "d/a", "d/b", "d/e/a", "f/g/h/a", "link", "f/x"}).Draw(t, "path")
	content := strings.Repeat(rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "content"), rapid.SampledFrom([]int{0, 1, 5, 700_000}).Draw(t, "size"))
	switch what := rapid.SampledFrom([]string{"write", "write", "write", "delete", "mode", "rmdir"}).Draw(t, "what"); {
	case what == "delete":
		h.remove(path)
	case what == "rmdir":
		dir, _, _ := strings.Cut(path, "/")
		h.remove(dir)
	case what == "mode":
		h.change(func(nodes map[string]*node) {
			if n := nodes[path]; n != nil && n.attr.Kind == remote.File {
				n.attr.Mode ^= 0o100
			}
		})
	case path == "link":
		n := h.put(path, remote.Symlink, "to "+content[:min(len(content), 3)])
		n.attr.MTime = p.second
	default:
		n := h.file(path, content)
		n.attr.MTime = p.second
	}
}

// pull pulls with trouble; true when the snapshot is complete, and then it has been compared.
func (p *propertyRig) pull(t *rapid.T) bool {
	random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
	loses := rapid.SampledFrom([]int{0, 0, 5, 20}).Draw(t, "loses one in")
	cancelAt := rapid.SampledFrom([]int{0, 0, 10, 25}).Draw(t, "cancel at")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var mu sync.Mutex
	ops := 0
	p.host.hook = func(op, path string) error {
		mu.Lock()
		defer mu.Unlock()
		if ops++; ops == cancelAt {
			cancel()
		}
		if op != "dial" && loses > 0 && random.IntN(loses) == 0 {
			return fmt.Errorf("%s: %w", op, remote.ErrLost)
		}
		return nil
	}
	result, err := Run(ctx, p.job)
	s := p.keep.session
	if err != nil {
		var interrupted *InterruptedError
		if !errors.As(err, &interrupted) || s.ended != "suspended" || cancelAt == 0 && loses == 0 {
			t.Fatalf("%v, session %q", err, s.ended)
		}
		return false
	}
	for _, problem := range result.Problems {
		if problem.Kind != ProblemLost || loses == 0 {
			t.Fatalf("%+v", problem)
		}
	}
	if len(s.twice) > 0 || s.writers != 0 {
		t.Fatalf("recorded twice: %q; %d writers open", s.twice, s.writers)
	}
	if result.Partial {
		return false
	}
	p.compare(t, s)
	return true
}

func (p *propertyRig) compare(t *rapid.T, s *fakeSession) {
	want := slices.Sorted(maps.Keys(p.host.nodes))
	if got := slices.Sorted(maps.Keys(s.entries)); !slices.Equal(got, want) {
		t.Fatalf("the snapshot has %q, the source %q", got, want)
	}
	for path, n := range p.host.nodes {
		e := s.entries[path]
		var content strings.Builder
		for _, ref := range e.Chunks {
			data, err := p.keep.Fetch(context.Background(), ref)
			if err != nil {
				t.Fatal(err)
			}
			content.Write(data)
		}
		if e.Kind != snapshot.Kind(n.attr.Kind) || e.Mode != n.attr.Mode || e.MTime != n.attr.MTime || e.Target != n.target || content.String() != n.data {
			t.Fatalf("%q: %d bytes of %.20q to %q, the source has %d of %.20q to %q", path, content.Len(), content.String(), e.Target, len(n.data), n.data, n.target)
		}
	}
}
