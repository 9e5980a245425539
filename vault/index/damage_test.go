package index

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// Damage is tried in a process of its own, because Badger may end the process it runs in. A process that ends so
// is started again on the same directory, as a service manager would: it has to come back by itself.

const childEnv = "HOLDFAST_INDEX_DAMAGED_DIR"

// damagePacks are the packs of the index that gets damaged: several tables, and chunks that lie in two packs.
func damagePacks() (packs []PackEntries) {
	for p := range uint32(6) {
		packs = append(packs, PackEntries{p + 1, packOf(p+1, int(p)*4000, int(p)*4000+5000)})
	}
	return packs
}

func damageWant() map[int]Place {
	want := map[int]Place{}
	for i, p := range damagePacks() {
		for j, e := range p.Entries {
			want[i*4000+j] = e.Place
		}
	}
	return want
}

// TestDamagedChild is the process under damage; it does nothing when run as a test.
func TestDamagedChild(t *testing.T) {
	dir := os.Getenv(childEnv)
	if dir == "" {
		t.Skip("only run by the damage tests")
	}
	for round := range 3 {
		x, err := Open(dir, ours, small(t))
		if err != nil {
			t.Fatal(err)
		}
		if useDamaged(t, x) {
			mustClose(t, x)
			fmt.Printf("sound after %d openings\n", round+1)
			return
		}
		mustClose(t, x)
	}
	t.Fatal("damage was found three times in a row: the index was not replaced")
}

// useDamaged does with an index what a vault does, and reports whether it was sound in the end.
func useDamaged(t *testing.T, x *Index) bool {
	want := damageWant()
	neverWrong := func() (missing int) {
		for n, w := range want {
			p, ok := x.Lookup(idOf(n))
			if ok && p != w && !inLowerPack(n, p) {
				t.Fatalf("chunk %d: WRONG PLACE %+v, want %+v", n, p, w)
			}
			if !ok {
				missing++
			}
		}
		wantMisses(t, x, 100_000, 100_100)
		return missing
	}
	if fresh, why := x.Fresh(); fresh {
		fmt.Println("fresh:", why)
	}
	neverWrong()
	err := errors.Join(x.WarmFilter(t.Context()), x.Verify(t.Context()))
	neverWrong()
	if err != nil {
		fmt.Println("found:", strings.ReplaceAll(err.Error(), "\n", "; "))
		return false
	}
	indexed := x.Indexed()
	for _, p := range damagePacks() {
		if !indexed.Contains(p.Pack) {
			mustAdd(t, x, p.Pack, p.Entries)
		}
	}
	if n := neverWrong(); n > 0 {
		t.Fatalf("verified and complete, but %d chunks are missing", n)
	}
	mustAdd(t, x, 99, packOf(99, 200_000, 203_000))
	if err := x.Verify(t.Context()); err != nil {
		fmt.Println("found later:", err)
		return false
	}
	return true
}

// inLowerPack allows the answer of before a chunk's second pack was added: the packs are added again one by one.
func inLowerPack(n int, p Place) bool {
	for i, pack := range damagePacks() {
		if j := n - i*4000; pack.Pack == p.Pack && j >= 0 && j < len(pack.Entries) && pack.Entries[j].Place == p {
			return true
		}
	}
	return false
}

// damageTemplate makes an index directory: closed, or as it stands while a process that never closes it works.
func damageTemplate(t *testing.T, clean bool) string {
	dir := t.TempDir()
	x := mustOpen(t, dir)
	for _, p := range damagePacks() {
		mustAdd(t, x, p.Pack, p.Entries)
	}
	if clean {
		mustWarm(t, x) // so that a filter is left
		mustClose(t, x)
		return dir
	}
	frozen := t.TempDir()
	copyTree(t, dir, frozen)
	return frozen
}

// memoryDir is a directory in memory where the system has one: the children sync often, and none of it has to last.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "holdfast-index-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
}

// runDamaged starts children on dir until one succeeds, four at most, and returns how many died.
func runDamaged(t *testing.T, dir, what string) (died int) {
	t.Helper()
	for ; died < 4; died++ {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestDamagedChild$", "-test.v")
		cmd.Env = append(os.Environ(), childEnv+"="+dir)
		out, err := cmd.CombinedOutput()
		cancel()
		if err == nil {
			return died
		}
		if strings.Contains(string(out), "--- FAIL") {
			t.Fatalf("%s:\n%s", what, out)
		}
		t.Logf("%s: the process died: %v: …%s", what, err, out[max(0, len(out)-1500):])
	}
	t.Fatalf("%s: four processes died, the index does not come back", what)
	return died
}

func TestNoDamageToAFileGivesAWrongPlaceOrIsThereForGood(t *testing.T) {
	if testing.Short() {
		t.Skip("starts many processes")
	}
	// Each case is a process with an index of its own: an eighth of them here, all of them several times in the sweep.
	full, rounds := os.Getenv("HOLDFAST_SWEEP") == "full", 1
	if full {
		rounds = 4
	}
	hows := slices.Sorted(maps.Keys(harms))
	for _, clean := range []bool{true, false} {
		template := damageTemplate(t, clean)
		files, err := filepath.Glob(filepath.Join(template, "db", "*"))
		if err != nil || len(files) < 5 {
			t.Fatalf("files %v: %v", files, err)
		}
		files = append(files, filepath.Join(template, stateName))
		if clean {
			files = append(files, filepath.Join(template, filterName))
		}
		for fi, f := range files {
			name, _ := filepath.Rel(template, f)
			for hi, how := range hows {
				if !full && (fi+3*hi)%8 != 0 {
					continue
				}
				harm := harms[how]
				t.Run(fmt.Sprintf("clean=%v/%s/%s", clean, name, how), func(t *testing.T) {
					died := 0
					for seed := range rounds {
						if how == "deleted" && seed > 0 {
							break
						}
						dir := memoryDir(t)
						copyTree(t, template, dir)
						harm(t, filepath.Join(dir, name), rand.New(rand.NewPCG(uint64(seed), 7)))
						died += runDamaged(t, dir, fmt.Sprintf("seed %d", seed))
						os.RemoveAll(dir)
					}
					if died > 0 {
						t.Logf("%d processes died on the way", died)
					}
				})
			}
		}
	}
}

var harms = map[string]func(t *testing.T, path string, r *rand.Rand){
	"flipped": func(t *testing.T, path string, r *rand.Rand) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) == 0 {
			return
		}
		at := r.IntN(used(b))
		b[at] ^= 1 << r.IntN(8)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	},
	"truncated": func(t *testing.T, path string, r *rand.Rand) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, r.Int64N(int64(used(b))+1)); err != nil {
			t.Fatal(err)
		}
	},
	"zeroed": func(t *testing.T, path string, r *rand.Rand) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		n := used(b)
		clear(b[r.IntN(n):n])
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	},
	"deleted": func(t *testing.T, path string, _ *rand.Rand) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	},
}

// used is the length of b without the zeros that a preallocated log ends with; at least 1.
func used(b []byte) int {
	n := len(b)
	for n > 1 && b[n-1] == 0 {
		n--
	}
	return max(n, 1)
}

func TestTheStateFileDecidesWhatIsMovedAside(t *testing.T) {
	template := damageTemplate(t, true)
	good, err := os.ReadFile(filepath.Join(template, stateName))
	if err != nil {
		t.Fatal(err)
	}
	var s state
	if err := json.Unmarshal(good, &s); err != nil {
		t.Fatal(err)
	}
	set := func(f func(s *state)) []byte {
		c := s
		f(&c)
		b, _ := json.Marshal(c)
		return b
	}
	for _, c := range []struct {
		name    string
		content []byte
		why     string // "" if it is kept
	}{
		{"unchanged", good, ""},
		{"one failed opening", set(func(s *state) { s.Failed = 1 }), ""},
		{"two failed openings", set(func(s *state) { s.Failed = 2 }), "failed to open 2 times"},
		{"killed nine times", set(func(s *state) { s.Unclean = 9 }), ""},
		{"killed ten times", set(func(s *state) { s.Unclean = 10 }), "10 processes in a row"},
		{"found damaged", set(func(s *state) { s.Damaged = "block 7" }), "block 7"},
		{"another vault's", set(func(s *state) { s.Vault = theirs }), "belongs to the vault"},
		{"from the future", set(func(s *state) { s.Format = 2 }), "newer release of holdfast"},
		{"fewer chunks", set(func(s *state) { s.Chunks-- }), "when it was closed"},
		{"garbage", []byte("{{{"), "cannot be read"},
		{"absent", nil, "no state file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			copyTree(t, template, dir)
			if c.content == nil {
				os.Remove(filepath.Join(dir, stateName))
			} else if err := os.WriteFile(filepath.Join(dir, stateName), c.content, 0o600); err != nil {
				t.Fatal(err)
			}
			x := mustOpen(t, dir)
			if c.why == "" {
				wantKept(t, x)
				wantHits(t, x, packOf(1, 0, 1000))
				return
			}
			wantFresh(t, x, c.why)
			wantMisses(t, x, 0, 1000)
			if !exists(filepath.Join(dir, asideName)) {
				t.Fatal("the old index is gone, it should be aside")
			}
			mustAdd(t, x, 1, packOf(1, 0, 1000))
			mustClose(t, x)
			y := mustOpen(t, dir)
			wantKept(t, y)
			wantHits(t, y, packOf(1, 0, 1000))
		})
	}
}

func TestAnotherVaultsDirectoryUnderOurStateFileIsRecognised(t *testing.T) {
	mine, foreign := t.TempDir(), t.TempDir()
	x := mustOpen(t, mine)
	mustAdd(t, x, 1, packOf(1, 0, 100))
	mustClose(t, x)
	f, err := Open(foreign, theirs, small(t))
	if err != nil {
		t.Fatal(err)
	}
	mustAdd(t, f, 1, packOf(1, 0, 100))
	mustClose(t, f)
	if err := os.RemoveAll(filepath.Join(mine, dbName)); err != nil {
		t.Fatal(err)
	}
	copyTree(t, filepath.Join(foreign, dbName), filepath.Join(mine, dbName))
	y := mustOpen(t, mine)
	wantFresh(t, y, "another vault's")
	wantMisses(t, y, 0, 100)
}

func TestAnOlderCopyOfTheIndexIsRecognised(t *testing.T) {
	dir, old := t.TempDir(), t.TempDir()
	x := mustOpen(t, dir)
	mustAdd(t, x, 1, packOf(1, 0, 100))
	mustClose(t, x)
	copyTree(t, dir, old)
	x = mustOpen(t, dir)
	mustAdd(t, x, 2, packOf(2, 100, 200))
	mustClose(t, x)

	// Only Badger's directory is put back: the state file knows better.
	mixed := t.TempDir()
	copyTree(t, filepath.Join(old, dbName), filepath.Join(mixed, dbName))
	b, _ := os.ReadFile(filepath.Join(dir, stateName))
	if err := os.WriteFile(filepath.Join(mixed, stateName), b, 0o600); err != nil {
		t.Fatal(err)
	}
	wantFresh(t, mustOpen(t, mixed), "when it was closed")

	// All of it is put back: it is sound, and Indexed tells what is to be added.
	y := mustOpen(t, old)
	wantKept(t, y)
	if y.Indexed().Contains(2) {
		t.Fatal("an old copy claims a pack of later")
	}
	mustAdd(t, y, 2, packOf(2, 100, 200))
	wantHits(t, y, packOf(2, 100, 200))
}

func TestAPanicInsideBadgerIsDamageAndNotTheEnd(t *testing.T) {
	err := guard("test", func() error { panic("boom") })
	if !isDamage(err) {
		t.Fatal(err)
	}
	err = guard("test", func() error { return []error{}[len(t.Name())] })
	if !isDamage(err) {
		t.Fatal(err)
	}
}

func TestDamageSeenAtRunTimeThrowsTheIndexAwayAtTheNextOpening(t *testing.T) {
	dir := t.TempDir()
	x := mustOpen(t, dir)
	mustAdd(t, x, 1, packOf(1, 0, 100))
	// A value under a wrong key, as a damaged table can offer it.
	key := appendChunkKey(nil, idOf(5))
	wrong := x.codec.sealPlace(appendChunkKey(nil, idOf(6)), Place{Pack: 1})
	wb := x.db.NewWriteBatch()
	if err := errors.Join(wb.Set(key, wrong), wb.Flush()); err != nil {
		t.Fatal(err)
	}
	if _, ok := x.Lookup(idOf(5)); ok {
		t.Fatal("a value that belongs to another key is an answer")
	}
	if x.Damaged() == nil {
		t.Fatal("nobody noticed")
	}
	if err := x.Verify(t.Context()); !isDamage(err) {
		t.Fatal(err)
	}
	mustClose(t, x)
	wantFresh(t, mustOpen(t, dir), "damaged when last in use")
}

func TestLeftoversOfARebuildAreSwept(t *testing.T) {
	dir := t.TempDir()
	x := mustOpen(t, dir)
	mustAdd(t, x, 1, packOf(1, 0, 10))
	mustClose(t, x)
	for _, name := range []string{newName, sortName} {
		if err := os.MkdirAll(filepath.Join(dir, name, "deep"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	y := mustOpen(t, dir)
	wantKept(t, y)
	if exists(filepath.Join(dir, newName)) || exists(filepath.Join(dir, sortName)) {
		t.Fatal("leftovers stay")
	}
	mustClose(t, y)

	// Power failed in the middle of a swap: no directory, or the new one under the old state.
	d, err := durable.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Rename(dbName, asideName); err != nil {
		t.Fatal(err)
	}
	wantFresh(t, mustOpen(t, dir), "there was none")
}

func TestLostChunksAreNoticedByTheirNumber(t *testing.T) {
	dir := t.TempDir()
	x := mustOpen(t, dir)
	mustAdd(t, x, 1, packOf(1, 0, 1000))
	// A table or a log lost an entry, and Badger does not say so.
	wb := x.db.NewWriteBatch()
	if err := errors.Join(wb.Delete(appendChunkKey(nil, idOf(5))), wb.Flush()); err != nil {
		t.Fatal(err)
	}
	if err := x.WarmFilter(t.Context()); !isDamage(err) {
		t.Fatalf("warming the filter: %v", err)
	}
	if x.FilterBytes() != 0 {
		t.Fatal("a filter of what is left is in use")
	}
	x.harm.Store(nil)
	if err := x.Verify(t.Context()); !isDamage(err) {
		t.Fatalf("verify: %v", err)
	}
	mustClose(t, x)
	wantFresh(t, mustOpen(t, dir), "1000 chunks were added")
}
