package vault

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/vault/pack"
)

// TestDamageInAnEvacuatingPackIsNotSpread: what can be read is moved; the rest stays named where it is, and nothing fails.
func TestDamageInAnEvacuatingPackIsNotSpread(t *testing.T) {
	w := newWorld(t)
	v := w.open(Options{NoParity: true, rule: tinyRule()})
	src := newSource(1)
	const files = 4 * pack.BlockTarget / 60_000
	for i := range files {
		src.write(fmt.Sprintf("d/f%d", i), 60_000)
	}
	for i := range 3 {
		src.write(fmt.Sprintf("d/g%d", i), 20_000)
		for j := range files {
			if i == 2 && j%3 > 0 {
				delete(src.files, fmt.Sprintf("d/f%d", j))
			}
		}
		mustPull(t, src, v, "web1")
		w.clock.Advance(time.Hour)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	name := w.spoilable("00000001.pack")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[200_000] ^= 1 // in the first of its blocks
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	v = w.open(Options{NoParity: true, rule: tinyRule()})
	defer v.Close()
	src.write("d/new", 1000)
	snap, copied := mustPull(t, src, v, "web1")
	if copied == 0 || !slices.Contains(packsOf(t, snap), 1) {
		t.Fatalf("%d bytes copied, it relies on %v: this damage tests nothing", copied, packsOf(t, snap))
	}
	s, err := v.OpenSnapshot(t.Context(), snap.ID)
	if err != nil {
		t.Fatal(err)
	}
	lost := 0
	for path, version := range src.files {
		e, err := s.Lookup(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		var got []byte
		for r, err := range s.Content(t.Context(), e) {
			if err != nil {
				t.Fatal(err)
			}
			data, err := s.Fetch(t.Context(), r)
			if err != nil {
				lost++
				if r.Pack != 1 {
					t.Errorf("%s: lost in pack %d", path, r.Pack)
				}
			}
			got = append(got, data...)
		}
		if err == nil && len(got) > 0 && !slices.Equal(got, version.content()) {
			t.Errorf("%s differs", path)
		}
	}
	if lost == 0 || lost > len(src.files)/2 {
		t.Errorf("%d of %d files lost to one block", lost, len(src.files))
	}
}

func mustFirst(t testing.TB, v *Vault) string {
	t.Helper()
	all, err := v.store.Snapshots()
	if err != nil {
		t.Fatal(err)
	}
	return all[0].ID
}

// TestDamagedCatalogOfAnotherSourceStopsEvacuation: what it shares counts as used, and that is all that comes of it.
func TestDamagedCatalogOfAnotherSourceStopsEvacuation(t *testing.T) {
	m, src := tinyVault(t), newSource(1)
	src.write("d/shared", 30_000)
	first, _ := mustPull(t, src, m.Vault, "web1")
	other := newSource(1)
	other.files = maps.Clone(src.files)
	other.write("d/other", 10_000)
	theirs, _ := mustPull(t, other, m.Vault, "web2")
	for i := range 2 {
		m.clock.Advance(time.Hour)
		src.write(fmt.Sprintf("d/more%d", i), 9000)
		mustPull(t, src, m.Vault, "web1")
	}
	for _, n := range packsOf(t, theirs) {
		if !slices.Contains(packsOf(t, first), n) {
			if err := durable.Remove(m.disk, fmt.Sprintf("packs/%08d.pack", n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := durable.RemoveTree(m.disk, usageDir); err != nil {
		t.Fatal(err)
	}
	m.reopen(t)
	snap, copied := mustPull(t, src, m.Vault, "web1")
	if copied == 0 {
		t.Error("nothing is evacuated")
	}
	mustGiveBack(t, m.Vault, snap.ID, src.tree())
}

// TestCopyThatCannotBeReadTakesTheGoodOnesPlace: the index may know of a chunk in a pack that is lost without anybody having
// noticed. What is moved must not be named there.
func TestCopyThatCannotBeReadTakesTheGoodOnesPlace(t *testing.T) {
	m, src := tinyVault(t), newSource(1)
	smallPacks(t, m, "web1", src)
	m.index.mu.Lock()
	clear(m.index.places) // so that another source stores all of it once more
	m.index.mu.Unlock()
	theirs, _ := mustPull(t, src, m.Vault, "web2")
	lost := packsOf(t, theirs)
	for _, n := range lost {
		if err := durable.Remove(m.disk, fmt.Sprintf("packs/%08d.pack", n)); err != nil {
			t.Fatal(err)
		}
	}
	m.cache.forget(lost)
	m.clock.Advance(time.Hour)
	snap, copied := mustPull(t, src, m.Vault, "web1")
	if copied == 0 {
		t.Error("nothing is evacuated")
	}
	for _, n := range packsOf(t, snap) {
		if slices.Contains(lost, n) {
			t.Errorf("it relies on pack %d, which is lost, for what it had elsewhere", n)
		}
	}
	mustGiveBack(t, m.Vault, snap.ID, src.tree())
}

// TestIndexIsCalledWrongForACopyThatIsGone: a chunk that was copied is known in its new pack alone. If that goes and the old
// one stays, the index learns the old one again and is not built anew.
func TestIndexIsCalledWrongForACopyThatIsGone(t *testing.T) {
	w := newWorld(t)
	v := w.open(Options{NoParity: true, rule: tinyRule()})
	defer v.Close()
	src := newSource(1)
	for i := range 3 {
		src.write(fmt.Sprintf("d/g%d", i), 20000)
		mustPull(t, src, v, "web1")
		w.clock.Advance(time.Hour)
	}
	s, err := v.Begin(t.Context(), SessionOptions{Source: "web1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := src.record(t.Context(), s, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.move(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, copied := s.Evacuated(); copied == 0 {
		t.Fatal("nothing is evacuated")
	}
	if err := s.p.sealAll(); err != nil {
		t.Fatal(err)
	}
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	swept := 0
	for range 3 {
		w.clock.Advance(AbandonAfter)
		rep, err := v.Prune(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		swept += len(rep.Packs)
	}
	if swept == 0 {
		t.Fatal("the copies are still there")
	}
	if rep := mustCheck(t, v); rep.IndexRebuilt != "" {
		t.Errorf("the index was rebuilt: %s", rep.IndexRebuilt)
	}
	for _, info := range v.store.Packs() {
		footer, err := v.footer(info.Number)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range indexEntries(info.Number, footer) {
			if _, ok := v.lookup(e.ID); !ok {
				t.Fatalf("chunk %s of pack %d is unknown", e.ID, info.Number)
			}
		}
	}
}
