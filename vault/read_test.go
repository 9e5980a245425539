package vault

import (
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/vault/pack"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// blocksOf counts the blocks of all packs.
func blocksOf(t *testing.T, v *Vault) (n int) {
	t.Helper()
	for _, info := range v.store.Packs() {
		p, err := v.cache.pack(info.Number)
		if err != nil {
			t.Fatal(err)
		}
		n += len(p.footer.Blocks)
	}
	return n
}

// TestRoomIsUsedAgainWhileSomebodyReadsInIt: chunks that were fetched stay what they are, whatever is decoded after them.
func TestRoomIsUsedAgainWhileSomebodyReadsInIt(t *testing.T) {
	src := randomTree(6, 300)
	w := newWorld(t)
	v := w.open(Options{})
	defer v.Close()
	snap := pull(t, v, "web1", src)
	v.budget.blocks = 3 << 20
	s, err := v.OpenSnapshot(t.Context(), snap.ID)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			kept := map[*snapshot.Ref][]byte{}
			for e, err := range s.Walk(t.Context(), "") {
				if err != nil {
					t.Error(err)
					return
				}
				for _, r := range e.Chunks {
					check := func(data []byte) error {
						if v.chunkID(data) != r.ID {
							return fmt.Errorf("%q: a chunk changed while it was read", e.Path())
						}
						return nil
					}
					if g%2 == 0 {
						if err := s.Use(t.Context(), r, check); err != nil {
							t.Error(err)
						}
						continue
					}
					data, err := s.Fetch(t.Context(), r)
					if err != nil {
						t.Error(err)
						return
					}
					kept[&r] = data
				}
			}
			for r, data := range kept {
				if v.chunkID(data) != r.ID {
					t.Errorf("chunk %s changed after it was fetched", r.ID)
				}
			}
		})
	}
	wg.Wait()
}

// flaky reads other bytes than those of the file, once, or does not open packs.
type flaky struct {
	durable.Disk
	mu      sync.Mutex
	left    int
	refused int // openings of packs that fail yet
}

type flakyFile struct {
	durable.File
	d *flaky
}

func (d *flaky) Open(name string) (durable.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refused > 0 && filepath.Ext(name) == ".pack" {
		d.refused--
		return nil, syscall.EIO
	}
	f, err := d.Disk.Open(name)
	if err == nil && filepath.Ext(name) == ".pack" {
		f = &flakyFile{f, d}
	}
	return f, err
}

func (f *flakyFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.left > 0 && off == 72 && n > 100 { // the first block
		f.d.left--
		p[100] ^= 1
	}
	return n, err
}

// TestFailureThatPassesGoesUnnoticed: a pack that reads wrong once and right the second time is no sound pack.
func TestFailureThatPassesGoesUnnoticed(t *testing.T) {
	w := newWorld(t)
	v := w.open(Options{})
	pull(t, v, "web1", randomTree(7, 50))
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	real, err := durable.OpenDir(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer real.Close()
	for _, times := range []int{0, 1} {
		d := &flaky{Disk: real, left: times}
		v := w.open(Options{ReadOnly: true, disk: d})
		rep, err := v.Check(t.Context(), CheckOptions{ReadData: true})
		if err != nil {
			t.Fatal(err)
		}
		if d.left != 0 || len(rep.Damage) != times {
			t.Errorf("%d reads went wrong: %v", times, rep.Damage)
		}
		if slices.ContainsFunc(rep.Damage, func(d worm.Damage) bool { return d.Pack == 0 }) {
			t.Errorf("the pack is not named: %v", rep.Damage)
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPackThatCannotBeOpenedIsNotNamed: its files are touched, and a person must learn where to look.
func TestPackThatCannotBeOpenedIsNotNamed(t *testing.T) {
	w := newWorld(t)
	v := w.open(Options{})
	pull(t, v, "web1", randomTree(9, 50))
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	real, err := durable.OpenDir(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer real.Close()
	for _, readData := range []bool{false, true} {
		for _, times := range []int{1, 1 << 20} {
			d := &flaky{Disk: real}
			v := w.open(Options{ReadOnly: true, disk: d})
			d.refused = times
			rep, err := v.Check(t.Context(), CheckOptions{ReadData: readData})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(rep.Damage, func(d worm.Damage) bool { return d.Pack != 0 }) {
				t.Errorf("read data %v: %d openings failed: %v", readData, times, rep.Damage)
			}
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestFetchedChunkKeepsTheRoomOfItsBlock: a stream of little files would hold a block for each of them.
func TestFetchedChunkKeepsTheRoomOfItsBlock(t *testing.T) {
	w := newWorld(t)
	v := w.open(Options{})
	defer v.Close()
	snap := pull(t, v, "web1", randomTree(10, 200))
	s, err := v.OpenSnapshot(t.Context(), snap.ID)
	if err != nil {
		t.Fatal(err)
	}
	shared := 0
	for e, err := range s.Walk(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range e.Chunks {
			if _, err := s.Fetch(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			p, err := v.cache.pack(r.Pack)
			if err != nil {
				t.Fatal(err)
			}
			at, _ := p.find(r.ID)
			cb := v.cache.blocks[blockKey{r.Pack, p.footer.Blocks[at.block].Offset}]
			if cb == nil || len(cb.payload) == int(r.Size) {
				continue
			}
			if shared++; cb.kept {
				t.Fatalf("a chunk of %d bytes keeps %d", r.Size, cap(cb.payload))
			}
		}
	}
	if shared < 10 {
		t.Errorf("only %d chunks share a block", shared)
	}
}

// TestCheckVerifiesWhatWasRead: the plaintext of every block is looked at, once.
func TestCheckVerifiesWhatWasRead(t *testing.T) {
	w := newWorld(t)
	v := w.open(Options{Workers: 3})
	defer v.Close()
	pull(t, v, "web1", randomTree(8, 400))
	var want uint64
	for _, info := range v.store.Packs() {
		f, size, err := v.store.OpenPack(info.Number)
		if err != nil {
			t.Fatal(err)
		}
		r, err := pack.Open(f, size, v.ring)
		if err != nil {
			t.Fatal(err)
		}
		footer, err := r.Footer()
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range footer.Blocks {
			want += uint64(b.Raw)
		}
		f.Close()
	}
	rep, err := v.Check(t.Context(), CheckOptions{ReadData: true})
	if err != nil || len(rep.Damage) != 0 || rep.BytesRead != want || want == 0 {
		t.Errorf("%d bytes of %d, damage %v, %v", rep.BytesRead, want, rep.Damage, err)
	}
}
