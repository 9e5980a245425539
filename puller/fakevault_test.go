package puller

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

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
