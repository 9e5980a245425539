package restore_test

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/holdfast-vault/holdfast/vault/restore"
	"github.com/holdfast-vault/holdfast/vault/restore/restoretest"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// store keeps the chunks of a real catalog.
type store struct {
	mu sync.Mutex
	*restoretest.Source
}

func (s *store) Put(_ context.Context, data []byte) (snapshot.Ref, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Source.Put(data), nil
}

// cataloged builds a real catalog of src, with lists for files of many chunks.
func cataloged(t *testing.T, src *restoretest.Source) restore.Source {
	t.Helper()
	s := &store{Source: src}
	b := snapshot.NewBuilder(s, [32]byte{1})
	for e, err := range src.Walk(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if len(e.Chunks) > snapshot.InlineChunks {
			e.List, e.ListPacks, err = snapshot.WriteList(t.Context(), s, slices.Values(e.Chunks))
			e.Chunks = nil
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Add(t.Context(), &e); err != nil {
			t.Fatal(err)
		}
	}
	root, err := b.Finish(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return restore.FromTree(snapshot.OpenTree(s, root), s)
}

func TestRealCatalogRestoresAsTheOneInMemory(t *testing.T) {
	src := tree()
	src.Dir("many", 0o755)
	src.File("many/listed", 0o644, noise(5, 12<<20), 20_011) // more than 600 chunks
	src.File("many/small", 0o644, noise(6, 3000), 10)        // 300 chunks
	want := expected(t, src, "")
	real := cataloged(t, src)
	dir := t.TempDir()
	mustRestore(t, real, "", dir, quick)
	same(t, "real catalog", listing(t, dir), want)
	if !bytes.Equal(tarOf(t, real, "", restore.TarOptions{}), tarOf(t, src, "", restore.TarOptions{})) {
		t.Error("the tar stream differs")
	}
	if got := changes(t, real, src, "etc"); got != nil {
		t.Errorf("diff: %q", got)
	}
	e, err := restore.Resolve(t.Context(), real, "", "many/listed", true)
	if err != nil || len(e.List) == 0 {
		t.Fatalf("%v: not listed", err)
	}
	f, err := restore.OpenFile(t.Context(), real, e)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, 100_000)
	if _, err := f.ReadAt(got, 7_000_000); err != nil || !bytes.Equal(got, noise(5, 12<<20)[7_000_000:7_100_000]) {
		t.Errorf("read in the middle: %v", err)
	}
}
