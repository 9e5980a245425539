package puller

import (
	"bytes"
	"context"
	"crypto/sha256"
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

// keep is a vault in memory, of one source.
type keep struct {
	mu       sync.Mutex
	chunks   map[[32]byte][]byte
	lost     map[uint32]bool // packs that are gone; every chunk is a pack of its own
	previous *snapshot.Tree
	left     map[string]snapshot.Entry // files that a suspended session had finished
	partial  map[string]partly         // and those that it had not
	session  *fakeSession              // the newest
	full     func(path string) error   // refuses content
}

type partly struct {
	entry snapshot.Entry
	data  []byte
}

func newKeep() *keep {
	return &keep{chunks: map[[32]byte][]byte{}, lost: map[uint32]bool{}, left: map[string]snapshot.Entry{}, partial: map[string]partly{}}
}

func (k *keep) Put(_ context.Context, data []byte) (snapshot.Ref, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	id := sha256.Sum256(data)
	k.chunks[id] = bytes.Clone(data)
	return snapshot.Ref{ID: id, Size: uint32(len(data)), Pack: uint32(id[0])<<8 | uint32(id[1])}, nil
}

func (k *keep) Fetch(_ context.Context, r snapshot.Ref) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if data, ok := k.chunks[r.ID]; ok {
		return data, nil
	}
	return nil, &snapshot.DamageError{What: "chunk", Detail: "it is gone"}
}

// begin is a Job's Begin.
func (k *keep) begin(context.Context) (Session, error) {
	k.session = &fakeSession{keep: k, entries: map[string]snapshot.Entry{}}
	return k.session, nil
}

// fakeSession records.
type fakeSession struct {
	keep *keep

	mu       sync.Mutex
	entries  map[string]snapshot.Entry
	problems []Problem
	fidelity []string
	ended    string // how
	summary  Summary
	twice    []string // entries recorded more than once
	writers  int      // open
}

func (s *fakeSession) Previous() *snapshot.Tree { return s.keep.previous }

func (s *fakeSession) Resumed(parent, name string) (snapshot.Entry, bool) {
	s.keep.mu.Lock()
	defer s.keep.mu.Unlock()
	e, ok := s.keep.left[join(parent, name)]
	return e, ok
}

func (s *fakeSession) record(e snapshot.Entry) error {
	if err := e.Check(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != "" {
		return errors.New("the session has ended")
	}
	if _, ok := s.entries[e.Path()]; ok {
		s.twice = append(s.twice, e.Path())
	}
	s.entries[e.Path()] = e
	return nil
}

func (s *fakeSession) Add(ctx context.Context, e *snapshot.Entry) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return s.record(*e)
}

func (s *fakeSession) Reuse(ctx context.Context, e, old *snapshot.Entry) (bool, error) {
	s.keep.mu.Lock()
	for _, r := range old.Chunks {
		if s.keep.lost[r.Pack] {
			s.keep.mu.Unlock()
			return false, nil
		}
	}
	s.keep.mu.Unlock()
	n := *e
	n.Chunks = old.Chunks
	return true, s.record(n)
}

func (s *fakeSession) File(ctx context.Context, e *snapshot.Entry) (FileWriter, error) {
	w := &fakeWriter{s: s, ctx: ctx, e: *e}
	s.keep.mu.Lock()
	defer s.keep.mu.Unlock()
	if p, ok := s.keep.partial[e.Path()]; ok && p.entry.Size == e.Size && p.entry.MTime == e.MTime && p.entry.Flags&snapshot.Racy == 0 {
		w.data = bytes.Clone(p.data)
		w.offset = uint64(len(p.data))
	}
	s.mu.Lock()
	s.writers++
	s.mu.Unlock()
	return w, nil
}

type fakeWriter struct {
	s      *fakeSession
	ctx    context.Context
	e      snapshot.Entry
	data   []byte
	offset uint64
	ended  bool
}

func (w *fakeWriter) Write(b []byte) (int, error) {
	if full := w.s.keep.full; full != nil {
		if err := full(w.e.Path()); err != nil {
			return 0, err
		}
	}
	if w.ctx.Err() != nil {
		return 0, w.ctx.Err()
	}
	w.data = append(w.data, b...)
	return len(b), nil
}

func (w *fakeWriter) Offset() uint64 { return w.offset }
func (w *fakeWriter) Restart()       { w.data, w.offset = nil, 0 }

func (w *fakeWriter) end() {
	w.ended = true
	w.s.mu.Lock()
	w.s.writers--
	w.s.mu.Unlock()
}

func (w *fakeWriter) Finish(e snapshot.Entry) error {
	w.end()
	e.Size = uint64(len(w.data))
	for part := range slices.Chunk(w.data, 1<<20) {
		r, _ := w.s.keep.Put(w.ctx, part)
		e.Chunks = append(e.Chunks, r)
	}
	return w.s.record(e)
}

func (w *fakeWriter) Abort() {
	if w.ended {
		return
	}
	w.end()
	w.s.keep.mu.Lock()
	defer w.s.keep.mu.Unlock()
	w.s.keep.partial[w.e.Path()] = partly{w.e, w.data}
}

func (s *fakeSession) Problem(path, kind, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problems = append(s.problems, Problem{path, kind, reason})
}

func (s *fakeSession) Fidelity(note string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fidelity = append(s.fidelity, note)
}

func (s *fakeSession) Commit(ctx context.Context, summary Summary) (Committed, error) {
	s.mu.Lock()
	s.ended, s.summary = "committed", summary
	all := slices.Collect(maps.Values(s.entries))
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b snapshot.Entry) int { return snapshot.Compare(a.Parent, a.Name, b.Parent, b.Name) })
	b := snapshot.NewBuilder(s.keep, [32]byte{1})
	for _, e := range all {
		if err := b.Add(ctx, &e); err != nil {
			return Committed{}, err
		}
	}
	root, err := b.Finish(ctx)
	if err != nil {
		return Committed{}, err
	}
	s.keep.previous = snapshot.OpenTree(s.keep, root)
	clear(s.keep.left)
	clear(s.keep.partial)
	return Committed{ID: "committed"}, nil
}

func (s *fakeSession) Suspend() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = "suspended"
	for path, e := range s.entries {
		if e.Kind == snapshot.File {
			s.keep.left[path] = e
		}
	}
	return nil
}

func (s *fakeSession) Abandon() error {
	s.ended = "abandoned"
	return nil
}

// content is what the session recorded of a file.
func (s *fakeSession) content(t testing.TB, path string) string {
	t.Helper()
	s.mu.Lock()
	e, ok := s.entries[path]
	s.mu.Unlock()
	if !ok {
		t.Fatalf("%q was not recorded", path)
	}
	var b strings.Builder
	for _, r := range e.Chunks {
		data, err := s.keep.Fetch(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(data)
	}
	if uint64(b.Len()) != e.Size {
		t.Errorf("%q: %d bytes under a size of %d", path, b.Len(), e.Size)
	}
	return b.String()
}

// equals compares what was recorded with the host as it is now.
func (s *fakeSession) equals(t testing.TB, h *host) {
	t.Helper()
	h.mu.Lock()
	nodes := maps.Clone(h.nodes)
	h.mu.Unlock()
	if len(s.twice) > 0 {
		t.Errorf("recorded twice: %q", s.twice)
	}
	if s.writers != 0 {
		t.Errorf("%d writers are still open", s.writers)
	}
	for path, n := range nodes {
		e, ok := s.entries[path]
		if !ok {
			t.Errorf("%q is missing", path)
			continue
		}
		if e.Kind != snapshot.Kind(n.attr.Kind) || e.Mode != n.attr.Mode || e.MTime != n.attr.MTime || e.UID != n.attr.UID || e.GID != n.attr.GID || e.Target != n.target {
			t.Errorf("%q: %+v, the host has %+v", path, e, *n)
		}
		if e.Kind == snapshot.File && s.content(t, path) != n.data {
			t.Errorf("%q: other content", path)
		}
	}
	for path := range s.entries {
		if nodes[path] == nil {
			t.Errorf("%q is not on the host", path)
		}
	}
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
