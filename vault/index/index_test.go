package index

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/RoaringBitmap/roaring/v2"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/vault/chunk"
)

const (
	ours   = "00112233445566778899aabbccddeeff"
	theirs = "ffeeddccbbaa99887766554433221100"
)

func idOf(n int) chunk.ID {
	return sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n)))
}

// packOf makes the entries of a pack: chunks first to last-1, laid out one after the other.
func packOf(pack uint32, first, last int) []Entry {
	var out []Entry
	for n := first; n < last; n++ {
		at := n - first
		out = append(out, Entry{idOf(n), Place{Pack: pack, Offset: int64(at/4) * 1000, Stored: 1000, InBlock: uint32(at%4) * 300, Size: 300}})
	}
	return out
}

// small options make tables appear after a few thousand chunks.
func small(t testing.TB) Options {
	return Options{MemoryBytes: 2 << 20, FreeFloorBytes: -1, Logf: t.Logf}
}

func mustOpen(t testing.TB, dir string) *Index {
	t.Helper()
	x, err := Open(dir, ours, small(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Close() })
	return x
}

func mustClose(t testing.TB, x *Index) {
	t.Helper()
	if err := x.Close(); err != nil {
		t.Fatal(err)
	}
}

func mustAdd(t testing.TB, x *Index, pack uint32, entries []Entry) {
	t.Helper()
	if err := x.AddPack(t.Context(), pack, entries); err != nil {
		t.Fatal(err)
	}
}

// wantHits checks that every entry is found at its place.
func wantHits(t testing.TB, x *Index, entries []Entry) {
	t.Helper()
	for _, e := range entries {
		if p, ok := x.Lookup(e.ID); !ok || p != e.Place {
			t.Fatalf("chunk %v: found %v at %+v, want %+v", e.ID, ok, p, e.Place)
		}
	}
}

func wantMisses(t testing.TB, x *Index, first, last int) {
	t.Helper()
	for n := first; n < last; n++ {
		if p, ok := x.Lookup(idOf(n)); ok {
			t.Fatalf("chunk %d that was never added is found at %+v", n, p)
		}
	}
}

func wantFresh(t testing.TB, x *Index, why string) {
	t.Helper()
	fresh, reason := x.Fresh()
	if !fresh || !strings.Contains(reason, why) {
		t.Fatalf("fresh %v because %q, want a reason with %q", fresh, reason, why)
	}
}

func wantKept(t testing.TB, x *Index) {
	t.Helper()
	if fresh, reason := x.Fresh(); fresh {
		t.Fatalf("the index was thrown away: %s", reason)
	}
}

func seqOf(packs ...PackEntries) iter.Seq2[PackEntries, error] {
	return func(yield func(PackEntries, error) bool) {
		for _, p := range packs {
			if !yield(p, nil) {
				return
			}
		}
	}
}

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" { // Badger's failed openings leave goroutines behind
		os.Exit(m.Run())
	}
	goleak.VerifyTestMain(m)
}

func TestAddedChunksAreFoundAlsoAfterReopening(t *testing.T) {
	dir := t.TempDir()
	x := mustOpen(t, dir)
	wantFresh(t, x, "there was none")
	a, b := packOf(1, 0, 3000), packOf(2, 3000, 20000)
	mustAdd(t, x, 1, a)
	mustAdd(t, x, 2, b)
	for _, warm := range []bool{false, true} {
		if warm {
			if err := x.WarmFilter(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		wantHits(t, x, a)
		wantHits(t, x, b)
		wantMisses(t, x, 20000, 21000)
	}
	mustClose(t, x)
	mustClose(t, x)
	if _, ok := x.Lookup(a[0].ID); ok {
		t.Fatal("a closed index answers")
	}

	y := mustOpen(t, dir)
	wantKept(t, y)
	wantHits(t, y, a)
	wantHits(t, y, b)
	if n := y.Count(); n != 20000 {
		t.Fatalf("%d chunks, want 20000", n)
	}
	if !y.Indexed().Equals(roaring.BitmapOf(1, 2)) {
		t.Fatalf("packs %v", y.Indexed())
	}
	if err := y.WarmFilter(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := packOf(3, 20000, 60000) // grows the filter beyond its first layer
	mustAdd(t, y, 3, c)
	wantHits(t, y, a)
	wantHits(t, y, c)
	if err := y.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestDroppedPacksAreMisses(t *testing.T) {
	dir := t.TempDir()
	x := mustOpen(t, dir)
	a, b := packOf(1, 0, 100), packOf(2, 50, 150) // 50 to 99 lie in both
	mustAdd(t, x, 1, a)
	mustAdd(t, x, 2, b)
	wantHits(t, x, b)
	if err := x.DropPacks(roaring.BitmapOf(2, 7)); err != nil {
		t.Fatal(err)
	}
	wantHits(t, x, a[:50])
	wantMisses(t, x, 50, 150)
	mustAdd(t, x, 1, a) // adding again mends what a dropped pack had taken over
	wantHits(t, x, a)
	mustClose(t, x)
	y := mustOpen(t, dir)
	wantHits(t, y, a)
	wantMisses(t, y, 100, 150)
	mustAdd(t, y, 2, b)
	wantHits(t, y, b)
	if err := y.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestAPackThatIsNotWhollyInIsAMiss(t *testing.T) {
	dir := t.TempDir()
	x := mustOpen(t, dir)
	a := packOf(1, 0, 2*batch)
	// The process is cut off after the first batch.
	x.write.Lock()
	if _, err := x.addBatch(t.Context(), a[:batch]); err != nil {
		t.Fatal(err)
	}
	x.write.Unlock()
	wantMisses(t, x, 0, 2*batch)
	mustClose(t, x)
	y := mustOpen(t, dir)
	wantKept(t, y)
	wantMisses(t, y, 0, 2*batch)
	mustAdd(t, y, 1, a)
	wantHits(t, y, a)
	if err := y.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestAnswersDoNotDependOnTheOrderOfPacksOrOnHowTheyWereAdded(t *testing.T) {
	ctx := context.Background()
	base := t.TempDir()
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		n := rapid.IntRange(1, 5).Draw(rt, "packs")
		var packs []PackEntries
		for i := range n {
			first := rapid.IntRange(0, 60).Draw(rt, "first")
			e := packOf(uint32(i+1), first, first+rapid.IntRange(0, 60).Draw(rt, "chunks"))
			if len(e) > 1 { // the same chunk twice in one pack
				twice := e[0]
				twice.Place.Offset += 5000
				e = append([]Entry{twice}, e...)
			}
			packs = append(packs, PackEntries{uint32(i + 1), e})
		}
		want := map[chunk.ID]Place{}
		for _, p := range packs {
			for _, e := range p.Entries {
				if old, ok := want[e.ID]; !ok || comparePlaces(e.Place, old) < 0 {
					want[e.ID] = e.Place
				}
			}
		}
		order := rapid.Permutation(packs).Draw(rt, "order")
		check := func(how string, x *Index) {
			for i := range 130 {
				p, ok := x.Lookup(idOf(i))
				w, there := want[idOf(i)]
				if ok != there || p != w {
					rt.Fatalf("%s: chunk %d: %v %+v, want %v %+v", how, i, ok, p, there, w)
				}
			}
			if got := x.Count(); got != uint64(len(want)) {
				rt.Fatalf("%s: %d chunks, want %d", how, got, len(want))
			}
			if err := x.Verify(ctx); err != nil {
				rt.Fatalf("%s: %v", how, err)
			}
		}
		dir := filepath.Join(base, fmt.Sprint(round))
		defer os.RemoveAll(dir)
		x, err := Open(dir, ours, Options{MemoryBytes: 2 << 20, FreeFloorBytes: -1})
		if err != nil {
			rt.Fatal(err)
		}
		warm := rapid.Bool().Draw(rt, "warm")
		for i, p := range order {
			if warm && i == 1 {
				if err := x.WarmFilter(ctx); err != nil {
					rt.Fatal(err)
				}
			}
			if err := x.AddPack(ctx, p.Pack, p.Entries); err != nil {
				rt.Fatal(err)
			}
		}
		check("added", x)
		if err := x.Close(); err != nil {
			rt.Fatal(err)
		}
		if err := Rebuild(ctx, dir, ours, seqOf(order...)); err != nil {
			rt.Fatal(err)
		}
		if x, err = Open(dir, ours, Options{MemoryBytes: 2 << 20, FreeFloorBytes: -1}); err != nil {
			rt.Fatal(err)
		}
		if fresh, why := x.Fresh(); fresh {
			rt.Fatalf("a rebuilt index is thrown away: %s", why)
		}
		check("rebuilt", x)
		x.Close()
	})
}

func TestRebuildOfManyChunks(t *testing.T) {
	dir := t.TempDir()
	var packs []PackEntries
	for p := range uint32(20) {
		packs = append(packs, PackEntries{p + 1, packOf(p+1, int(p)*5000, int(p+1)*5000)})
	}
	if err := Rebuild(t.Context(), dir, ours, seqOf(packs...)); err != nil {
		t.Fatal(err)
	}
	for _, left := range []string{newName, sortName, asideName} {
		if exists(filepath.Join(dir, left)) {
			t.Fatalf("%s is left behind", left)
		}
	}
	x := mustOpen(t, dir)
	wantKept(t, x)
	if x.Count() != 100_000 || x.Indexed().GetCardinality() != 20 {
		t.Fatalf("%d chunks in %d packs", x.Count(), x.Indexed().GetCardinality())
	}
	for _, p := range packs {
		wantHits(t, x, p.Entries[:200])
	}
	if err := errors.Join(x.Verify(t.Context()), x.WarmFilter(t.Context())); err != nil {
		t.Fatal(err)
	}
	mustAdd(t, x, 21, packOf(21, 100_000, 110_000))
	wantHits(t, x, packOf(21, 100_000, 110_000))
}

func TestARebuildThatFailsLeavesTheOldIndexAlone(t *testing.T) {
	dir := t.TempDir()
	x := mustOpen(t, dir)
	a := packOf(1, 0, 500)
	mustAdd(t, x, 1, a)
	if err := Rebuild(t.Context(), dir, ours, seqOf()); !errors.Is(err, ErrInUse) {
		t.Fatalf("rebuilding an open index: %v", err)
	}
	mustClose(t, x)
	boom := errors.New("boom")
	err := Rebuild(t.Context(), dir, ours, func(yield func(PackEntries, error) bool) {
		if yield(PackEntries{2, packOf(2, 0, 1000)}, nil) {
			yield(PackEntries{}, boom)
		}
	})
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Rebuild(cancelled, dir, ours, seqOf(PackEntries{2, packOf(2, 0, 10)})); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	y := mustOpen(t, dir)
	wantKept(t, y)
	wantHits(t, y, a)
}

func TestASecondProcessIsToldAndNothingIsMoved(t *testing.T) {
	dir := t.TempDir()
	x := mustOpen(t, dir)
	a := packOf(1, 0, 10)
	mustAdd(t, x, 1, a)
	for range 5 {
		if _, err := Open(dir, ours, small(t)); !errors.Is(err, ErrInUse) {
			t.Fatalf("a second opening: %v", err)
		}
	}
	wantHits(t, x, a)
	mustClose(t, x)
	y := mustOpen(t, dir)
	wantKept(t, y)
	wantHits(t, y, a)
}

func TestAFullDiskIsRefusedBeforeBadgerMeetsIt(t *testing.T) {
	dir := t.TempDir()
	x := mustOpen(t, dir)
	mustAdd(t, x, 1, packOf(1, 0, 10))
	x.o.FreeFloorBytes = 1 << 60
	for what, err := range map[string]error{
		"add":  x.AddPack(t.Context(), 2, packOf(2, 10, 20)),
		"drop": x.DropPacks(roaring.BitmapOf(1)),
	} {
		if !durable.IsNoSpace(err) || !strings.Contains(err.Error(), "make room") {
			t.Errorf("%s: %v", what, err)
		}
	}
	mustClose(t, x)
	if _, err := Open(dir, ours, Options{FreeFloorBytes: 1 << 60}); !durable.IsNoSpace(err) {
		t.Fatalf("open: %v", err)
	}
	y := mustOpen(t, dir)
	wantKept(t, y)
}

func TestEntriesOfAnotherPackAreRefused(t *testing.T) {
	x := mustOpen(t, t.TempDir())
	if err := x.AddPack(t.Context(), 2, packOf(1, 0, 10)); err == nil {
		t.Fatal("entries of pack 1 were added as pack 2")
	}
	if _, err := Open(t.TempDir(), "not a vault", small(t)); err == nil {
		t.Fatal("a vault of that name was opened")
	}
}

func TestTheFilterHasNoFalseNegativesAndFewFalsePositives(t *testing.T) {
	l := newLayers(1000)
	const n = 50_000
	for i := range n {
		l.add(idOf(i))
	}
	for i := range n {
		if !l.has(idOf(i)) {
			t.Fatalf("chunk %d was added and is excluded", i)
		}
	}
	wrong := 0
	for i := n; i < 2*n; i++ {
		if l.has(idOf(i)) {
			wrong++
		}
	}
	if share := float64(wrong) / n; share > 0.02 {
		t.Fatalf("%.2f %% false positives over %d layers", 100*share, len(*l.list.Load()))
	}
	b := newBloom(n)
	for i := range n {
		b.add(idOf(i))
	}
	wrong = 0
	for i := n; i < 2*n; i++ {
		if b.has(idOf(i)) {
			wrong++
		}
	}
	if share := float64(wrong) / n; share > 0.008 {
		t.Fatalf("%.2f %% false positives in one layer", 100*share)
	}
}

// TestTheFilterTakesMoreMemoryThanIsDocumented adds chunks one by one, as a vault does that grows for years.
func TestTheFilterTakesMoreMemoryThanIsDocumented(t *testing.T) {
	l := newLayers(0)
	random := rand.New(rand.NewPCG(3, 4))
	var id chunk.ID
	const n = 5_000_000
	worst := 0.0
	for i := 1; i <= n; i++ {
		binary.BigEndian.PutUint64(id[:], random.Uint64())
		binary.BigEndian.PutUint64(id[8:], random.Uint64())
		l.add(id)
		if i > 2<<20 && i%1000 == 0 {
			worst = max(worst, float64(l.bytes())/float64(i))
		}
	}
	if worst > 2.5 {
		t.Errorf("%.2f bytes for each chunk", worst)
	}
	if layers := len(*l.list.Load()); layers > 12 {
		t.Errorf("%d layers are asked for each chunk", layers)
	}
}

func TestLookupsRunBesideAddsAndWarming(t *testing.T) {
	x := mustOpen(t, t.TempDir())
	mustAdd(t, x, 1, packOf(1, 0, 5000))
	done := make(chan error, 2)
	go func() { done <- x.WarmFilter(t.Context()) }()
	go func() {
		var err error
		for p := 2; p < 12 && err == nil; p++ {
			err = x.AddPack(t.Context(), uint32(p), packOf(uint32(p), p*5000, p*5000+1000))
		}
		done <- err
	}()
	for left := 2; left > 0; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			left--
		default:
			wantHits(t, x, packOf(1, 0, 100))
		}
	}
	for p := 2; p < 12; p++ {
		wantHits(t, x, packOf(uint32(p), p*5000, p*5000+1000))
	}
	if err := x.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
}
