// Package restoretest holds a snapshot in memory, honest or not, for tests of what gives snapshots back.
package restoretest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/holdfast-vault/holdfast/vault/chunk"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// MTime is what entries get that do not say otherwise: 2026-07-01T03:04:05Z.
const MTime = 1782875045

// ErrBroken is what Fetch answers for a chunk that Break has marked.
var ErrBroken = errors.New("chunk does not have its ID: the pack is damaged")

// Source is a snapshot in memory. It accepts any entry, also those that no honest catalog holds. Fill it before use; then
// its methods are safe for concurrent use.
type Source struct {
	Fetches atomic.Int64 // calls of Fetch

	mu      sync.Mutex
	entries []*snapshot.Entry
	sorted  bool
	chunks  map[chunk.ID][]byte
	broken  map[chunk.ID]bool
	packs   uint32
}

// New returns a snapshot that holds only its root, a directory of mode 0755.
func New() *Source {
	s := &Source{chunks: map[chunk.ID][]byte{}, broken: map[chunk.ID]bool{}}
	s.Add(snapshot.Entry{Kind: snapshot.Directory, Mode: 0o755, MTime: MTime})
	return s
}

// Add adds e as it is and returns it for further changes.
func (s *Source) Add(e snapshot.Entry) *snapshot.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sorted = false
	s.entries = append(s.entries, &e)
	return &e
}

func at(path string, kind snapshot.Kind, mode uint32) snapshot.Entry {
	parent, name := snapshot.Split(path)
	return snapshot.Entry{Parent: parent, Name: name, Kind: kind, Mode: mode, MTime: MTime}
}

// Dir adds a directory.
func (s *Source) Dir(path string, mode uint32) *snapshot.Entry {
	return s.Add(at(path, snapshot.Directory, mode))
}

// Special adds an entry without content.
func (s *Source) Special(path string, kind snapshot.Kind) *snapshot.Entry {
	return s.Add(at(path, kind, 0o644))
}

// Symlink adds a symbolic link.
func (s *Source) Symlink(path, target string) *snapshot.Entry {
	e := at(path, snapshot.Symlink, 0o777)
	e.Target = target
	return s.Add(e)
}

// File adds a regular file whose content is cut into chunks of at most chunkBytes.
func (s *Source) File(path string, mode uint32, content []byte, chunkBytes int) *snapshot.Entry {
	e := at(path, snapshot.File, mode)
	e.Size = uint64(len(content))
	for c := range slices.Chunk(content, chunkBytes) {
		e.Chunks = append(e.Chunks, s.Put(c))
	}
	return s.Add(e)
}

// Put stores a chunk and returns its reference.
func (s *Source) Put(data []byte) snapshot.Ref {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := chunk.ID(sha256.Sum256(data))
	s.chunks[id] = slices.Clone(data)
	s.packs++
	return snapshot.Ref{ID: id, Size: uint32(len(data)), Pack: 1 + s.packs%7}
}

// Break makes Fetch fail for the chunk.
func (s *Source) Break(r snapshot.Ref) { s.broken[r.ID] = true }

// all returns the entries in catalog order.
func (s *Source) all() []*snapshot.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.sorted {
		slices.SortStableFunc(s.entries, func(a, b *snapshot.Entry) int {
			return snapshot.Compare(a.Parent, a.Name, b.Parent, b.Name)
		})
		s.sorted = true
	}
	return s.entries
}

// Lookup finds an entry by its path.
func (s *Source) Lookup(_ context.Context, path string) (snapshot.Entry, error) {
	for _, e := range s.all() {
		if e.Path() == path {
			return *e, nil
		}
	}
	return snapshot.Entry{}, fmt.Errorf("%q: %w", path, fs.ErrNotExist)
}

// List yields the children of a directory.
func (s *Source) List(ctx context.Context, dir string) iter.Seq2[snapshot.Entry, error] {
	return func(yield func(snapshot.Entry, error) bool) {
		for _, e := range s.all() {
			if e.Parent != dir || (e.Parent == "" && e.Name == "") {
				continue
			}
			if ctx.Err() != nil {
				yield(snapshot.Entry{}, ctx.Err())
				return
			}
			if !yield(*e, nil) {
				return
			}
		}
	}
}

// Walk yields an entry and everything below it.
func (s *Source) Walk(ctx context.Context, path string) iter.Seq2[snapshot.Entry, error] {
	return func(yield func(snapshot.Entry, error) bool) {
		top, err := s.Lookup(ctx, path)
		if !yield(top, err) || err != nil {
			return
		}
		for _, e := range s.all() {
			isRoot := e.Parent == "" && e.Name == ""
			if isRoot || (path != "" && e.Parent != path && !strings.HasPrefix(e.Parent, path+"/")) {
				continue
			}
			if ctx.Err() != nil {
				yield(snapshot.Entry{}, ctx.Err())
				return
			}
			if !yield(*e, nil) {
				return
			}
		}
	}
}

// Content yields the chunks of a file.
func (s *Source) Content(_ context.Context, e snapshot.Entry) iter.Seq2[snapshot.Ref, error] {
	return func(yield func(snapshot.Ref, error) bool) {
		for _, r := range e.Chunks {
			if !yield(r, nil) {
				return
			}
		}
	}
}

// Fetch returns a chunk, or ErrBroken.
func (s *Source) Fetch(ctx context.Context, r snapshot.Ref) ([]byte, error) {
	s.Fetches.Add(1)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b, ok := s.chunks[r.ID]
	if !ok || s.broken[r.ID] {
		return nil, fmt.Errorf("chunk %v: %w", r.ID, ErrBroken)
	}
	return b, nil
}

// Replace puts e in the place of the entry with the same path.
func (s *Source) Replace(e snapshot.Entry) {
	for _, old := range s.all() {
		if old.Parent == e.Parent && old.Name == e.Name {
			*old = e
		}
	}
}
