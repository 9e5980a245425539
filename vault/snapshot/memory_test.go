package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"testing"

	"github.com/holdfast-vault/holdfast/vault/chunk"
)

// store is a Putter and Fetcher in memory. Packs are filled with perPack chunks each.
type store struct {
	mu      sync.Mutex
	chunks  map[chunk.ID][]byte
	at      map[chunk.ID]Ref
	perPack int
	puts    int // chunks that were not there before
	fetched int
	largest int
}

func newStore() *store {
	return &store{chunks: map[chunk.ID][]byte{}, at: map[chunk.ID]Ref{}, perPack: 8}
}

func (s *store) Put(ctx context.Context, data []byte) (Ref, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := chunk.ID(sha256.Sum256(data))
	if r, ok := s.at[id]; ok {
		return r, ctx.Err()
	}
	s.puts++
	s.largest = max(s.largest, len(data))
	r := Ref{ID: id, Size: uint32(len(data)), Pack: 1000 + uint32(s.puts/s.perPack)}
	s.chunks[id], s.at[id] = append([]byte(nil), data...), r
	return r, ctx.Err()
}

func (s *store) Fetch(ctx context.Context, r Ref) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetched++
	data, ok := s.chunks[r.ID]
	if !ok {
		return nil, fmt.Errorf("no chunk %v", r.ID)
	}
	return data, ctx.Err()
}

var testKey = [32]byte{1, 2, 3}

// build writes a catalog of the entries, which must be sorted.
func build(t testing.TB, s *store, entries []Entry) (Root, *Builder) {
	t.Helper()
	b := NewBuilder(s, testKey)
	for i := range entries {
		if err := b.Add(t.Context(), &entries[i]); err != nil {
			t.Fatal(err)
		}
	}
	root, err := b.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return root, b
}

func refOf(n int) Ref {
	return Ref{ID: sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n))), Size: uint32(1 + n%100_000), Pack: uint32(n / 100)}
}

func dirEntry(parent, name string) Entry {
	return Entry{Parent: parent, Name: name, Kind: Directory, Mode: 0o755, MTime: 1_700_000_000}
}

func fileEntry(parent, name string, n int) Entry {
	r := refOf(n)
	return Entry{Parent: parent, Name: name, Kind: File, Mode: 0o644, UID: 1000, GID: 1000, Size: uint64(r.Size), MTime: 1_700_000_000 + int64(n), Chunks: []Ref{r}}
}
