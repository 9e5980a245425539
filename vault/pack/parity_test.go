package pack

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// packOf builds header to footer of n bytes of noise and what parity adds: Repair knows no keys, so it need not be
// a pack that opens.
func packOf(t testing.TB, n int) ([]byte, tail) {
	t.Helper()
	b := noise(uint64(n), n)
	tl := tail{flags: flagParity, number: 9, footerAt: int64(n - n/3), footerLen: uint32(n / 3), geometry: geometryFor(int64(n))}
	p, err := computeParity(bytes.NewReader(b), int64(n), tl.geometry)
	if err != nil {
		t.Fatal(err)
	}
	tl.tableSum = crc32.Checksum(p.table, castagnoli)
	tl.size = int64(n) + 2*tailSize + 2*tl.tableSize() + int64(len(p.shards))
	if err := tl.check("tail"); err != nil {
		t.Fatal(err)
	}
	e := tl.encode()
	return slices.Concat(b, e[:], p.table, p.shards, p.table, e[:]), tl
}

// sizes has the first and last size of every tier, and some between.
var sizes = []int{300, 4096, 4097, 65536, 238*4096 - 1, 238 * 4096, 238*4096 + 1, 246 * 8192, 246*8192 + 1, 250 * 16384, 250*16384 + 1, 64*65536 + 1, 9_000_001}

func mended(b, want []byte) error {
	out := bytes.NewBuffer(make([]byte, 0, len(want)))
	if err := Repair(bytes.NewReader(b), int64(len(b)), out); err != nil {
		return err
	}
	if !bytes.Equal(out.Bytes(), want) {
		return errors.New("the repaired pack differs")
	}
	return nil
}

// hurtAndMend destroys b[from:to], repairs, and puts the bytes back.
func hurtAndMend(t *testing.T, b []byte, from, to int) {
	t.Helper()
	good := slices.Clone(b[from:to])
	for i := range b[from:to] {
		b[from+i] ^= byte(i) | 1
	}
	hurt := slices.Clone(b)
	copy(b[from:to], good)
	if err := mended(hurt, b); err != nil {
		t.Fatalf("%d bytes with [%d,%d) destroyed: %v", len(b), from, to, err)
	}
}

func TestBurstOf64KiBAnywhereIsRepaired(t *testing.T) {
	const burst = 64 << 10
	for _, n := range sizes {
		if n > 5<<20 && testing.Short() || n > 100_000 && raceEnabled { // nothing here runs beside anything
			continue
		}
		b, tl := packOf(t, n)
		at := []int{0, 1, n - burst, n - 1, n, int(tl.tableAt()) - 1, int(tl.parityAt()), int(tl.parityAt()) - burst/2,
			int(tl.secondTableAt()) - burst, int(tl.secondTableAt()), len(b) - tailSize, len(b) - burst, len(b) - 1,
			int(tl.shard) - 1, int(tl.shard) - burst + 1, int(tl.shard)*(tl.data-1) - burst + 1, int(tl.shard)*(tl.data-1) - 1}
		r := rand.New(rand.NewPCG(uint64(n), 1))
		for range 12 {
			at = append(at, r.IntN(len(b)))
		}
		for _, from := range at {
			from = max(0, from)
			hurtAndMend(t, b, from, min(from+burst, len(b)))
		}
	}
}

// The same by arithmetic, for every place and many sizes: a burst never takes more cells of a row than parity has,
// nor both tables, nor both tails.
func TestNoBurstTakesMoreThanParityHas(t *testing.T) {
	const burst = 64 << 10
	touched := func(tl tail, from int64) (worst int) {
		perRow := make(map[int]int)
		for shard := range tl.data + tl.parity {
			for row := range tl.rows() {
				off, stored := tl.cellAt(shard, row)
				if stored > 0 && off < from+burst && off+int64(stored) > from {
					perRow[row]++
					worst = max(worst, perRow[row])
				}
			}
		}
		return worst
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.OneOf(rapid.Int64Range(200, 5<<20), rapid.Int64Range(200, 2*MaxBytes), rapid.Map(rapid.IntRange(0, len(sizes)-1),
			func(i int) int64 { return int64(sizes[i]) })).Draw(t, "n")
		tl := tail{footerAt: n - 40, footerLen: 40, geometry: geometryFor(n)}
		size := tl.secondTableAt() + tl.tableSize() + tailSize
		edge := rapid.SampledFrom([]int64{0, n, int64(tl.data-1) * tl.shard, tl.parityAt(), tl.secondTableAt(), size}).Draw(t, "edge")
		from := max(0, min(size, edge-rapid.Int64Range(-1, burst+1).Draw(t, "before")))
		if worst := touched(tl, from); worst > tl.parity {
			t.Fatalf("%d bytes: a burst at %d takes %d cells of a row, parity has %d", n, from, worst, tl.parity)
		}
		if tl.secondTableAt()-tl.parityAt() < burst {
			t.Fatalf("%d bytes: the two tables are only %d bytes apart", n, tl.secondTableAt()-tl.parityAt())
		}
	})
}

func TestEverySingleByteIsRepaired(t *testing.T) {
	b, _ := packOf(t, 20_000)
	step := 7
	if testing.Short() || raceEnabled {
		step = 997
	}
	for i := 0; i < len(b); i += step {
		hurtAndMend(t, b, i, i+1)
	}
	for i := 0; i < len(b); i += 100 * step { // a sector
		hurtAndMend(t, b, i, min(i+512, len(b)))
	}
}

func TestRealPackIsRepairedByteForByte(t *testing.T) {
	b := written(t, true, someBlocks()...)
	hurtAndMend(t, b, 0, headerSize)
	hurtAndMend(t, b, 0, 4000)
	hurtAndMend(t, b, len(b)-64<<10, len(b))
	if err := mended(b, b); err != nil {
		t.Error("an intact pack is not copied:", err)
	}
}

// Strewn damage is repaired row by row: many bad sectors in one pack, each row of cells within its parity.
func TestStrewnDamageIsRepaired(outer *testing.T) {
	rapid.Check(outer, func(t *rapid.T) {
		n := rapid.SampledFrom([]int{5000, 300_000, 1_500_000, 4_500_000}).Draw(t, "n")
		b, tl := packOf(outer, n)
		hurt := slices.Clone(b)
		for row := range tl.rows() {
			for range rapid.IntRange(0, tl.parity).Draw(t, "lost") {
				shard := rapid.IntRange(0, tl.data+tl.parity-1).Draw(t, "shard")
				if off, stored := tl.cellAt(shard, row); stored > 0 {
					hurt[off+int64(rapid.IntRange(0, stored-1).Draw(t, "byte"))] ^= 0x55
				}
			}
		}
		if err := mended(hurt, b); err != nil {
			t.Fatal(err)
		}
	})
}

func TestLostEndAndGarbageBehindAreRepaired(t *testing.T) {
	for _, n := range []int{5000, 300_000, 4_500_000} {
		b, _ := packOf(t, n)
		for _, cut := range []int{1, tailSize, 5000, 64 << 10} {
			if err := mended(b[:len(b)-cut], b); err != nil {
				t.Errorf("%d bytes without the last %d: %v", len(b), cut, err)
			}
		}
		if err := mended(append(slices.Clone(b), noise(3, 70_000)...), b); err != nil {
			t.Errorf("%d bytes with garbage behind: %v", len(b), err)
		}
	}
}

func TestUnreadableSectorsAreRepaired(t *testing.T) {
	b, tl := packOf(t, 300_000)
	for _, from := range []int64{0, 100_000, tl.tableAt(), tl.parityAt() + 100, int64(len(b)) - 4096} {
		var out bytes.Buffer
		r := &badSector{Reader: bytes.NewReader(b), from: from, to: from + 4096}
		if err := Repair(r, int64(len(b)), &out); err != nil || !bytes.Equal(out.Bytes(), b) {
			t.Errorf("bad sector at %d: %v", from, err)
		}
	}
}

func TestTooMuchDamageIsSaidBeforeAnythingIsWritten(t *testing.T) {
	b, tl := packOf(t, 300_000)
	hurt := slices.Clone(b)
	for i := range tl.parity + 1 { // the last data shards: the first ones could be written before it is noticed
		off, _ := tl.cellAt(tl.data-1-i, 0)
		hurt[off] ^= 1
	}
	var out bytes.Buffer
	if err := Repair(bytes.NewReader(hurt), int64(len(hurt)), &out); !isDamage(err) || out.Len() > 0 {
		t.Errorf("%d bytes written, %v", out.Len(), err)
	}
	hurt = slices.Clone(b)
	hurt[tl.tableAt()] ^= 1
	hurt[tl.secondTableAt()] ^= 1
	if err := mended(hurt, b); !isDamage(err) {
		t.Error("both tables lost:", err)
	}
	hurt = slices.Clone(b)
	hurt[tl.dataEnd()] ^= 1
	hurt[len(hurt)-1] ^= 1
	if err := mended(hurt, b); !isDamage(err) {
		t.Error("both tails lost:", err)
	}
}

func TestPackWithoutParitySaysSo(t *testing.T) {
	b := written(t, false, someBlocks()...)
	if err := mended(b, b); !errors.Is(err, ErrNoParity) {
		t.Error(err)
	}
	b[len(b)-1] ^= 1
	if err := mended(b, b); !errors.Is(err, ErrNoParity) {
		t.Error("with a damaged tail:", err)
	}
}

func TestFullDiskDuringRepairIsAnError(t *testing.T) {
	b, _ := packOf(t, 5000)
	for _, n := range []int{0, 4999, 5010, len(b) - 1} {
		if err := Repair(bytes.NewReader(b), int64(len(b)), &fullDisk{n: n}); !errors.Is(err, errFull) {
			t.Errorf("full at %d: %v", n, err)
		}
	}
}

func TestParityCostsAtMostFivePercentAndALittle(t *testing.T) {
	for _, n := range append(sizes, 60<<20, TargetBytes, MaxBytes, 2*MaxBytes) {
		g := geometryFor(int64(n))
		if err := g.check(int64(n)); err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		more := int64(g.parity)*g.shard + 2*g.tableSize() + 2*tailSize
		if limit := int64(n)/20 + 96<<10; more > limit {
			t.Errorf("%d bytes: %d more, and %d are allowed", n, more, limit)
		}
	}
	g := geometryFor(TargetBytes)
	share := float64(int64(g.parity)*g.shard+2*g.tableSize()+2*tailSize) / TargetBytes
	if share > 0.048 {
		t.Errorf("a full pack grows by %.2f %%", 100*share)
	}
}

// The format is the formula of parity.go, not whatever the library does: the same sums by schoolbook arithmetic.
func TestParityIsTheDocumentedCode(t *testing.T) {
	times := func(a, b byte) (p byte) {
		for ; b > 0; b >>= 1 {
			if b&1 != 0 {
				p ^= a
			}
			carry := a & 0x80
			if a <<= 1; carry != 0 {
				a ^= 0x1d
			}
		}
		return p
	}
	inverse := func(a byte) byte {
		for b := range 256 {
			if times(a, byte(b)) == 1 {
				return byte(b)
			}
		}
		return 0
	}
	for _, n := range []int{300, 300_000, 1_000_000, 4_200_000} {
		b, tl := packOf(t, n)
		r := rand.New(rand.NewPCG(uint64(n), 2))
		for range 40 {
			i, j := r.IntN(tl.parity), r.Int64N(tl.shard)
			var want byte
			for c := range tl.data {
				if at := int64(c)*tl.shard + j; at < int64(n) {
					want ^= times(inverse(byte((tl.data+i)^c)), b[at])
				}
			}
			if got := b[tl.parityAt()+int64(i)*tl.shard+j]; got != want {
				t.Fatalf("%d bytes: parity shard %d byte %d is %#x, the formula gives %#x", n, i, j, got, want)
			}
		}
	}
}

func ExampleRepair() {
	var m memory
	w, _ := NewWriter(&m, WriterOptions{Number: 7, Keys: epochKeys(1), Parity: true})
	b := blockOf(0, []byte("precious"))
	frame, _ := w.Encode(nil, NewEncoder(), 0, b.payload, b.chunks)
	w.Append(frame, 0, uint32(len(b.payload)), b.chunks)
	w.Finish()

	rotten := slices.Clone(m.b)
	clear(rotten[:200])
	var out bytes.Buffer
	err := Repair(bytes.NewReader(rotten), int64(len(rotten)), &out)
	fmt.Println(err, bytes.Equal(out.Bytes(), m.b))
	// Output: <nil> true
}
