package index

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// leftFilter is what the state file says of the filter, nil if it says nothing.
func leftFilter(t testing.TB, dir string) *kept {
	t.Helper()
	d, err := durable.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	s, err := load(d)
	if err != nil {
		t.Fatal(err)
	}
	return s.Filter
}

// mustWarm warms an index and says whether the filter came from its file.
func mustWarm(t testing.TB, x *Index) (fromFile bool) {
	t.Helper()
	if err := x.WarmFilter(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.write.Lock()
	defer x.write.Unlock()
	return x.filter.tail != nil
}

// keptDir is a closed index of 5000 chunks in pack 1 that has left its filter.
func keptDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	x := mustOpen(t, dir)
	mustAdd(t, x, 1, packOf(1, 0, 5000))
	mustWarm(t, x)
	mustClose(t, x)
	if leftFilter(t, dir) == nil {
		t.Fatal("a warm filter is not kept")
	}
	return dir
}

// wantFiltered checks that the warm filter knows all chunks below n and excludes most others.
func wantFiltered(t testing.TB, x *Index, n int) {
	t.Helper()
	excluded := 0
	for i := range n {
		if x.filter.excludes(idOf(i)) {
			t.Fatalf("chunk %d was added and is excluded", i)
		}
		if x.filter.excludes(idOf(1_000_000 + i)) {
			excluded++
		}
	}
	if excluded < n*9/10 {
		t.Fatalf("only %d of %d unknown chunks are excluded", excluded, n)
	}
}

func TestAKeptFilterIsReadInsteadOfAllKeys(t *testing.T) {
	dir := keptDir(t)
	for range 3 {
		x := mustOpen(t, dir)
		if x.FilterBytes() != 0 {
			t.Fatal("the filter is read though nobody has asked for it")
		}
		if !mustWarm(t, x) {
			t.Fatal("the filter is made from all keys though it was kept")
		}
		wantFiltered(t, x, 5000)
		wantHits(t, x, packOf(1, 0, 5000))
		mustClose(t, x)
	}
}

func TestWhatIsAddedWithoutTheFilterIsInTheKeptOne(t *testing.T) {
	dir := keptDir(t)
	n, rewritten := 5000, false
	for pack := uint32(2); pack < 40; pack++ {
		before := leftFilter(t, dir)
		x := mustOpen(t, dir)
		mustAdd(t, x, pack, packOf(pack, n, n+100))
		n += 100
		warmed := pack%4 == 0
		if warmed && !mustWarm(t, x) {
			t.Fatalf("pack %d: the filter is made anew", pack)
		}
		mustClose(t, x)
		after := leftFilter(t, dir)
		if after == nil {
			t.Fatalf("pack %d: the filter is not kept", pack)
		}
		rewritten = rewritten || after.Stamp != before.Stamp
		if after.Stamp == before.Stamp && after.Bytes <= before.Bytes {
			t.Fatalf("pack %d: %+v after %+v", pack, after, before)
		}
		if warmed && after.Bytes-after.Whole > after.Whole/4 {
			t.Fatalf("the file is never written as a whole: %+v", after)
		}
	}
	if !rewritten {
		t.Fatal("this test never saw the file written as a whole")
	}
	x := mustOpen(t, dir)
	if !mustWarm(t, x) {
		t.Fatal("the filter is made anew")
	}
	wantFiltered(t, x, n)
}

func TestMoreThanIsRememberedLoadsTheFilter(t *testing.T) {
	dir := keptDir(t)
	x := mustOpen(t, dir)
	n := 5000
	for pack := uint32(2); n < maxTail+10_000; pack++ {
		mustAdd(t, x, pack, packOf(pack, n, n+20_000))
		n += 20_000
	}
	if x.FilterBytes() == 0 {
		t.Fatal("the filter is still cold, and what was added is not remembered for it")
	}
	wantFiltered(t, x, n)
	mustClose(t, x)
	x = mustOpen(t, dir)
	if !mustWarm(t, x) {
		t.Fatal("the filter is not kept")
	}
	wantFiltered(t, x, n)
}

func TestTheFilterOfBeforeIsNotUsedAfterAProcessDied(t *testing.T) {
	dir, frozen := keptDir(t), t.TempDir()
	x := mustOpen(t, dir)
	mustAdd(t, x, 2, packOf(2, 5000, 6000))
	copyTree(t, dir, frozen) // as it stands when the process dies
	mustClose(t, x)
	y := mustOpen(t, frozen)
	wantKept(t, y)
	if mustWarm(t, y) {
		t.Fatal("a filter that lacks what the dead process added is in use")
	}
	wantHits(t, y, packOf(2, 5000, 6000))
}

func TestARebuiltIndexDoesNotUseTheFilterOfBefore(t *testing.T) {
	dir := keptDir(t)
	packs := seqOf(PackEntries{1, packOf(1, 10_000, 15_000)}) // as many
	if err := Rebuild(t.Context(), dir, ours, packs); err != nil {
		t.Fatal(err)
	}
	x := mustOpen(t, dir)
	if mustWarm(t, x) {
		t.Fatal("the filter of other chunks is in use")
	}
	wantHits(t, x, packOf(1, 10_000, 15_000))
}

func TestADamagedFilterFileIsMadeAnew(t *testing.T) {
	dir := keptDir(t)
	path := filepath.Join(dir, filterName)
	x := mustOpen(t, dir)
	mustAdd(t, x, 2, packOf(2, 5000, 5100)) // a second part
	mustClose(t, x)
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	k := *leftFilter(t, dir)
	d, err := durable.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	vault, _ := parseVault(ours)
	if _, err := readFilter(d, vault, k); err != nil {
		t.Fatal(err)
	}
	use := func(b []byte) error {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := readFilter(d, vault, k)
		return err
	}
	for at := 0; at < len(sound); at += 1 + at/40 {
		b := bytes.Clone(sound)
		b[at] ^= 1 << (at % 8)
		if use(b) == nil {
			t.Fatalf("a filter with a flipped bit at %d is in use", at)
		}
		if use(sound[:at]) == nil {
			t.Fatalf("a filter of %d bytes instead of %d is in use", at, len(sound))
		}
	}
	if err := use(append(bytes.Clone(sound), "what a dead process left"...)); err != nil {
		t.Fatal(err)
	}
	other, _ := parseVault(theirs)
	if _, err := readFilter(d, other, k); err == nil {
		t.Fatal("another vault's filter is in use")
	}

	// The index goes on without: it reads its keys, and keeps the filter again.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	x = mustOpen(t, dir)
	if mustWarm(t, x) {
		t.Fatal("there was none")
	}
	wantFiltered(t, x, 5100)
	mustClose(t, x)
	x = mustOpen(t, dir)
	if !mustWarm(t, x) {
		t.Fatal("the filter is not kept")
	}
}

func TestAColdIndexWarmsItselfAfterManyMisses(t *testing.T) {
	x := mustOpen(t, t.TempDir())
	mustAdd(t, x, 1, packOf(1, 0, 5000))
	wantHits(t, x, packOf(1, 0, 5000))
	wantMisses(t, x, 10_000, 10_000+warmAfter-1)
	x.warmer.runs.Wait()
	if x.FilterBytes() != 0 {
		t.Fatal("warm too early: a pull that stores nothing new pays for it")
	}
	wantMisses(t, x, 20_000, 20_001)
	x.warmer.runs.Wait()
	wantFiltered(t, x, 5000)
	wantHits(t, x, packOf(1, 0, 5000))
}

func TestClosingEndsWarming(t *testing.T) {
	x := mustOpen(t, t.TempDir())
	mustAdd(t, x, 1, packOf(1, 0, 5000))
	wantMisses(t, x, 10_000, 10_000+warmAfter)
	mustClose(t, x)
	x.missed()
	x.warmer.missed.Store(warmAfter - 1)
	x.missed() // begins nothing any more; goleak says so
}

func TestASecondWarmingWaitsForTheFirstOrItsContext(t *testing.T) {
	x := mustOpen(t, t.TempDir())
	x.warmer.turn <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := x.WarmFilter(ctx); err != context.Canceled {
		t.Fatal(err)
	}
	<-x.warmer.turn
	mustWarm(t, x)
}

func FuzzFilterFile(f *testing.F) {
	l := newLayers(1)
	for i := range 3 {
		l.add(idOf(i))
	}
	vault, _ := parseVault(ours)
	dir := f.TempDir()
	d, err := durable.OpenDir(dir)
	if err != nil {
		f.Fatal(err)
	}
	defer d.Close()
	k, err := writeFilter(d, vault, l)
	if err != nil {
		f.Fatal(err)
	}
	more := tail{file: k}
	more.add(idOf(3))
	if k, err = more.append(d); err != nil {
		f.Fatal(err)
	}
	sound, err := os.ReadFile(filepath.Join(dir, filterName))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sound, k.Whole)
	f.Add(sound[:100], int64(100))
	f.Fuzz(func(t *testing.T, b []byte, whole int64) {
		got, err := decodeFilter(bytes.NewReader(b), vault, kept{Stamp: k.Stamp, Bytes: int64(len(b)), Whole: whole})
		if err == nil && got.bytes() > uint64(len(b))+1<<20 {
			t.Fatalf("%d bytes of filter out of %d bytes", got.bytes(), len(b))
		}
	})
}

// TestAFilterTakesTheLastRoom: with less than the floor free the index could not be opened again.
func TestAFilterTakesTheLastRoom(t *testing.T) {
	for _, warm := range []bool{false, true} {
		dir := keptDir(t)
		x := mustOpen(t, dir)
		mustAdd(t, x, 2, packOf(2, 5000, 9000))
		if warm {
			mustWarm(t, x)
		}
		x.o.FreeFloorBytes = 1 << 60
		mustClose(t, x)
		wantNoFilter(t, dir)
		x = mustOpen(t, dir)
		wantKept(t, x)
		wantHits(t, x, packOf(2, 5000, 9000))
	}
}

// TestAFilterThatIsNotKeptStaysOnTheDisk: nobody would ever read it again, and it can have a hundred megabytes.
func TestAFilterThatIsNotKeptStaysOnTheDisk(t *testing.T) {
	dir := keptDir(t)
	x := mustOpen(t, dir)
	mustAdd(t, x, 2, packOf(2, 5000, 5100))
	if err := os.Truncate(filepath.Join(dir, filterName), 10); err != nil {
		t.Fatal(err)
	}
	mustClose(t, x)
	wantNoFilter(t, dir)

	dir, frozen := keptDir(t), t.TempDir()
	x = mustOpen(t, dir)
	copyTree(t, dir, frozen) // as it stands when the process dies
	mustClose(t, x)
	x = mustOpen(t, frozen)
	mustClose(t, x)
	wantNoFilter(t, frozen)
}

func wantNoFilter(t *testing.T, dir string) {
	t.Helper()
	if k := leftFilter(t, dir); k != nil {
		t.Errorf("the filter is kept: %+v", k)
	}
	if _, err := os.Stat(filepath.Join(dir, filterName)); !os.IsNotExist(err) {
		t.Errorf("its file is there: %v", err)
	}
}

// TestThePowerFailsBeforeARebuiltIndexHasItsState: the state of before, with as many chunks, names a filter of other chunks.
func TestThePowerFailsBeforeARebuiltIndexHasItsState(t *testing.T) {
	dir := keptDir(t)
	before, err := os.ReadFile(filepath.Join(dir, stateName))
	if err != nil {
		t.Fatal(err)
	}
	if err := Rebuild(t.Context(), dir, ours, seqOf(PackEntries{1, packOf(1, 10_000, 15_000)})); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, stateName), before, 0o600); err != nil {
		t.Fatal(err)
	}
	x := mustOpen(t, dir)
	if mustWarm(t, x) {
		t.Error("the filter of the old index is in use")
	}
	wantHits(t, x, packOf(1, 10_000, 15_000))
}

// TestClosingLooksAtTheFilterWhileSomebodyChangesIt: a pack may be on its way in when the index is closed.
func TestClosingLooksAtTheFilterWhileSomebodyChangesIt(t *testing.T) {
	dir := keptDir(t)
	x := mustOpen(t, dir)
	x.write.Lock() // as AddPack has it
	closed := make(chan error)
	go func() { closed <- x.Close() }()
	for !x.db.IsClosed() {
		runtime.Gosched()
	}
	x.filter.tail = nil // AddPack could not read it
	x.write.Unlock()
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	wantNoFilter(t, dir)
}
