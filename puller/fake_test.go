package puller

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/puller/remote"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// host is a source in memory. Paths are those below the root "/src"; "" is the root.
type host struct {
	mu    sync.Mutex
	nodes map[string]*node
	now   func() (time.Time, bool) // the host's clock
	hook  func(op, path string) error
	ops   []string // "list a", "read a/b", "link c", in the order in which they came
	dials int
}

type node struct {
	attr   remote.Attr
	data   string
	target string
}

const longAgo = 1_700_000_000 // seconds since 1970: long before every test's clock

func newHost() *host {
	h := &host{nodes: map[string]*node{}, now: func() (time.Time, bool) { return time.Unix(longAgo+1_000_000, 0), true }}
	h.put("", remote.Directory, "")
	return h
}

// put makes a node and the directories above it.
func (h *host) put(path string, kind remote.Kind, data string) *node {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.putLocked(path, kind, data)
}

func (h *host) putLocked(path string, kind remote.Kind, data string) *node {
	if parent, _ := snapshot.Split(path); path != "" && h.nodes[parent] == nil {
		h.putLocked(parent, remote.Directory, "")
	}
	n := &node{attr: remote.Attr{Kind: kind, Mode: 0o644, UID: 1, GID: 2, MTime: longAgo, ModeKnown: true}}
	switch kind {
	case remote.File:
		n.data, n.attr.Size = data, uint64(len(data))
	case remote.Symlink:
		n.target, n.attr.Size = data, uint64(len(data))
	case remote.Directory:
		n.attr.Mode, n.attr.Size = 0o755, 4096
	}
	h.nodes[path] = n
	return n
}

func (h *host) file(path, data string) *node { return h.put(path, remote.File, data) }

// change runs f with the host held still.
func (h *host) change(f func(nodes map[string]*node)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(h.nodes)
}

// remove deletes path and everything below it.
func (h *host) remove(path string) {
	h.change(func(nodes map[string]*node) {
		maps.DeleteFunc(nodes, func(p string, _ *node) bool { return p == path || strings.HasPrefix(p, path+"/") })
	})
}

// did counts the operations that begin with prefix, and forget begins a new count.
func (h *host) did(prefix string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, op := range h.ops {
		if strings.HasPrefix(op, prefix) {
			n++
		}
	}
	return n
}

func (h *host) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = nil
}

// connect is a Job's Connect.
func (h *host) connect(ctx context.Context) (Remote, error) {
	h.mu.Lock()
	h.dials++
	h.mu.Unlock()
	if err := h.ask("dial", ""); err != nil {
		return nil, err
	}
	return &connection{host: h}, nil
}

func (h *host) ask(op, path string) error {
	h.mu.Lock()
	h.ops = append(h.ops, op+" "+path)
	hook := h.hook
	h.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(op, path)
}

// connection is the Remote of a host.
type connection struct {
	host   *host
	mu     sync.Mutex
	asked  int64
	closed bool
}

func (c *connection) begin(ctx context.Context, op, path string) (string, error) {
	below := strings.TrimPrefix(strings.TrimPrefix(path, "/src"), "/")
	c.mu.Lock()
	c.asked++
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return below, remote.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return below, context.Cause(ctx)
	}
	err := c.host.ask(op, below)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return below, err
}

// get finds a node: a copy, as the wire gives it.
func (h *host) get(op, path string) (node, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.nodes[path]
	if n == nil {
		return node{}, fmt.Errorf("%s %q: %w", op, path, fs.ErrNotExist)
	}
	return *n, nil
}

func (c *connection) Lstat(ctx context.Context, path string) (remote.Attr, error) {
	below, err := c.begin(ctx, "lstat", path)
	if err != nil {
		return remote.Attr{}, err
	}
	n, err := c.host.get("lstat", below)
	return n.attr, err
}

func (c *connection) ReadDir(ctx context.Context, path string) ([]remote.Entry, []remote.NameProblem, error) {
	below, err := c.begin(ctx, "list", path)
	if err != nil {
		var limit *remote.LimitError
		if !errors.As(err, &limit) {
			return nil, nil, err
		}
	}
	h := c.host
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := h.nodes[below]; n == nil || n.attr.Kind != remote.Directory {
		return nil, nil, fmt.Errorf("list %q: %w", below, fs.ErrNotExist)
	}
	var entries []remote.Entry
	var bad []remote.NameProblem
	for p, n := range h.nodes { // in no order
		parent, name := snapshot.Split(p)
		switch {
		case p == "" || parent != below:
		case strings.HasPrefix(name, "BAD"):
			bad = append(bad, remote.NameProblem{Name: name, Reason: "a name that cannot be"})
		default:
			entries = append(entries, remote.Entry{Name: name, Attr: n.attr})
		}
	}
	return entries, bad, err
}

func (c *connection) Readlink(ctx context.Context, path string) (string, error) {
	below, err := c.begin(ctx, "link", path)
	if err != nil {
		return "", err
	}
	n, err := c.host.get("readlink", below)
	return n.target, err
}

// pieceBytes is how much a fake read delivers at once.
const pieceBytes = 256 << 10

func (c *connection) ReadFile(ctx context.Context, path string, want remote.Attr, from uint64, w io.Writer) (remote.Read, error) {
	var read remote.Read
	below, err := c.begin(ctx, "read", path)
	if err != nil {
		return read, err
	}
	n, err := c.host.get("open", below)
	if err != nil {
		return read, err
	}
	if n.attr.Kind == remote.Fifo {
		return read, errors.New("a fifo was opened")
	}
	for at := from; at < min(want.Size, uint64(len(n.data))); at += pieceBytes {
		if err := c.host.ask("piece", fmt.Sprintf("%s %d", below, at)); err != nil {
			return read, err
		}
		if n, err = c.host.get("read", below); err != nil {
			return read, err
		}
		end := min(at+pieceBytes, want.Size, uint64(len(n.data)))
		if end <= at {
			break
		}
		k, err := io.WriteString(w, n.data[at:end])
		if read.N += uint64(k); err != nil {
			return read, err
		}
	}
	if err := c.host.ask("fstat", below); err != nil {
		return read, err
	}
	if n, err = c.host.get("fstat", below); err != nil {
		return read, err
	}
	read.After = n.attr
	read.Short = read.N < want.Size-from
	read.Grew = n.attr.Size > want.Size
	read.Changed = read.Short || n.attr.Size != want.Size || n.attr.MTime != want.MTime
	return read, nil
}

func (c *connection) Now(context.Context) (time.Time, bool, error) {
	t, known := c.host.now()
	return t, known, nil
}

func (c *connection) Stats() remote.Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return remote.Stats{Requests: c.asked}
}

func (c *connection) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	return nil
}

// rig is a host, a vault and a job between them.
type rig struct {
	t    testing.TB
	host *host
	keep *keep
	job  Job
}

func newRig(t testing.TB) *rig {
	r := &rig{t: t, host: newHost(), keep: newKeep()}
	r.job = Job{
		Source: "web1", Root: "/src", Connect: r.host.connect, Begin: r.keep.begin, Walkers: 4, Readers: 8,
		Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
	}
	return r
}

// pull pulls and wants a snapshot; with problems it wants those kinds, sorted.
func (r *rig) pull(problems ...string) (Result, *fakeSession) {
	r.t.Helper()
	r.host.forget()
	result, err := Run(r.t.Context(), r.job)
	if err != nil {
		r.t.Fatalf("pull: %v", err)
	}
	var kinds []string
	for _, p := range result.Problems {
		kinds = append(kinds, p.Kind)
	}
	slices.Sort(kinds)
	if !slices.Equal(kinds, problems) {
		r.t.Errorf("problems: %+v, want of the kinds %q", result.Problems, problems)
	}
	if result.Partial != (len(problems) > 0) || r.keep.session.summary.Partial != result.Partial || len(r.keep.session.problems) != len(problems) {
		r.t.Errorf("partial: %v, the session's problems %v", result.Partial, r.keep.session.problems)
	}
	if r.keep.session.ended != "committed" {
		r.t.Errorf("session %s", r.keep.session.ended)
	}
	return result, r.keep.session
}

// fail pulls and wants an error, and the session suspended if it was begun.
func (r *rig) fail() error {
	r.t.Helper()
	r.host.forget()
	r.keep.session = nil
	_, err := Run(r.t.Context(), r.job)
	if err == nil {
		r.t.Fatal("the pull succeeded")
	}
	if s := r.keep.session; s != nil && s.ended != "suspended" {
		r.t.Errorf("session %q", s.ended)
	}
	return err
}
