package chunk

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func keyFrom(first byte) (k [32]byte) {
	for i := range k {
		k[i] = first + byte(i)
	}
	return k
}

// cutAll returns the lengths of the chunks of p.
func cutAll(s *Splitter, p []byte) (lengths []int) {
	for len(p) > 0 {
		n := s.Cut(p, true)
		lengths = append(lengths, n)
		p = p[n:]
	}
	return lengths
}

// slowCut is the comment above Splitter word by word.
func slowCut(s *Splitter, p []byte) int {
	hash := func(end int) (h uint64) {
		for _, b := range p[end-window : end] {
			h = 2*h + s.gear[b]
		}
		return h
	}
	for n := MinSize + 1; n < len(p) && n < MaxSize; n++ {
		if n <= NormalSize && hash(n) < rare || n > NormalSize && hash(n) < frequent {
			return n
		}
	}
	return min(len(p), MaxSize)
}

// If this fails, the code no longer cuts or names chunks as version 1 does, and every vault would store everything
// anew. Mend the code, not the vector.
func TestCutPointsAndIDsAreForGood(t *testing.T) {
	var content []byte
	for i := range uint64(12 << 20 / sha256.Size) {
		sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, i))
		content = append(content, sum[:]...)
	}
	content = append(append(content, make([]byte, 3<<20)...), "final"...)
	var got strings.Builder
	h := NewHasher(keyFrom(32))
	for _, n := range cutAll(NewSplitter(keyFrom(0)), content) {
		fmt.Fprintln(&got, n, h.Sum(content[:n]))
		content = content[n:]
	}
	want, err := os.ReadFile("testdata/v1.txt")
	if err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	for line := range strings.Lines(string(want)) {
		if !strings.HasPrefix(line, "#") {
			lines.WriteString(line)
		}
	}
	if got.String() != lines.String() {
		t.Errorf("chunks are now\n%sand testdata/v1.txt has\n%s", got.String(), lines.String())
	}
}

// mixed draws content with runs, repeats and noise.
func mixed(t *rapid.T, most int) []byte {
	var p []byte
	size := rapid.IntRange(0, most).Draw(t, "size")
	for i := uint64(0); len(p) < size; i++ {
		n := rapid.IntRange(1, 1<<20).Draw(t, "part")
		switch rapid.IntRange(0, 2).Draw(t, "kind") {
		case 0:
			p = append(p, noise(rapid.Uint64().Draw(t, "seed"), n)...)
		case 1:
			p = append(p, bytes.Repeat([]byte{rapid.Byte().Draw(t, "byte")}, n)...)
		default:
			p = append(p, bytes.Repeat(noise(i, 777), n/777+1)...)
		}
	}
	return p[:size]
}

func TestFastLoopCutsWhereTheFormulaSays(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("the formula is slow")
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 6 {
		s := NewSplitter(keyFrom(byte(i)))
		p := noise(uint64(i), r.IntN(MaxSize+1000)) // any length modulo 8
		for len(p) > 0 {
			n := s.Cut(p, true)
			if want := slowCut(s, p); n != want {
				t.Fatalf("cut at %d, the formula says %d", n, want)
			}
			p = p[n:]
		}
	}
}

// rareWindow looks for 64 bytes that make a cut wherever they end.
func rareWindow(t *testing.T, s *Splitter) []byte {
	p, h := noise(1, 32<<20), uint64(0)
	for i, b := range p {
		if h = 2*h + s.gear[b]; h < rare && i >= window {
			return p[i+1-window : i+1]
		}
	}
	t.Fatal("no window found")
	return nil
}

// The loop looks at eight bytes at once: a cut point must be found at each of the eight places, and at each border.
func TestCutPointIsFoundAtEveryPlaceOfAStep(t *testing.T) {
	s := NewSplitter(keyFrom(0))
	trigger := rareWindow(t, s)
	for at := MinSize + 1; at < MinSize+40; at++ {
		q := make([]byte, MaxSize) // zeros do not cut under this key
		copy(q[at-window:], trigger)
		if n := s.Cut(q, true); n != at {
			t.Errorf("a cut point at %d was found at %d", at, n)
		}
	}
	for _, at := range []int{NormalSize - 1, NormalSize, NormalSize + 1, MaxSize - 1, MaxSize} {
		q := make([]byte, MaxSize)
		copy(q[at-window:], trigger)
		if n := s.Cut(q, true); n != at {
			t.Errorf("a cut point at %d was found at %d", at, n)
		}
	}
}

func TestChunksAreWithinTheirSizesAndStreamingCutsTheSame(t *testing.T) {
	s := NewSplitter(keyFrom(3))
	rapid.Check(t, func(t *rapid.T) {
		p := mixed(t, 8<<20)
		want := cutAll(s, p)
		total := 0
		for i, n := range want {
			if total += n; n > MaxSize || n <= MinSize && i < len(want)-1 {
				t.Fatalf("chunk %d of %d has %d bytes", i, len(want), n)
			}
		}
		if total != len(p) {
			t.Fatalf("%d bytes of %d", total, len(p))
		}
		var got []int
		for start, end := 0, 0; start < len(p); { // a reader that gets a little at a time
			n := s.Cut(p[start:end], end == len(p))
			if n == 0 {
				if end-start >= MaxSize {
					t.Fatal("wants more than MaxSize bytes")
				}
				end = min(len(p), end+rapid.IntRange(1, 3<<20).Draw(t, "read"))
				continue
			}
			got = append(got, n)
			start += n
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("in a stream %v, in one piece %v", got, want)
		}
	})
}

func TestNothingIsCutFromNothing(t *testing.T) {
	s := NewSplitter(keyFrom(0))
	if n := s.Cut(nil, true); n != 0 {
		t.Error(n)
	}
	if n := s.Cut(make([]byte, MaxSize-1), false); n != 0 {
		t.Error("cut before enough was there:", n)
	}
	if n := s.Cut([]byte{1}, true); n != 1 {
		t.Error(n)
	}
}

func TestAnotherKeyCutsElsewhere(t *testing.T) {
	p := noise(1, 8<<20)
	a, b := cutAll(NewSplitter(keyFrom(0)), p), cutAll(NewSplitter(keyFrom(1)), p)
	if fmt.Sprint(a) == fmt.Sprint(b) {
		t.Error("the key has no influence")
	}
}

func TestMeanSizeIsNearNormalSize(t *testing.T) {
	if raceEnabled {
		t.Skip("nothing here runs beside anything")
	}
	p := noise(5, 96<<20)
	mean := len(p) / len(cutAll(NewSplitter(keyFrom(9)), p))
	if mean < 450<<10 || mean > 700<<10 {
		t.Errorf("mean size of a chunk: %d", mean)
	}
}

func TestHashingAndCuttingAllocateNothing(t *testing.T) {
	s, h, p := NewSplitter(keyFrom(0)), NewHasher(keyFrom(0)), noise(1, MaxSize)
	var id ID
	if n := testing.AllocsPerRun(20, func() { id = h.Sum(p[:s.Cut(p, true)]) }); n != 0 {
		t.Errorf("%v allocations per chunk", n)
	}
	if id.IsZero() {
		t.Error("no ID")
	}
}

func TestIDIsHMACOfTheContent(t *testing.T) {
	key := keyFrom(7)
	h := NewHasher(key)
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SliceOf(rapid.Byte()).Draw(t, "content")
		mac := hmac.New(sha256.New, key[:])
		mac.Write(p)
		if got := h.Sum(p); !bytes.Equal(got[:], mac.Sum(nil)) {
			t.Fatalf("%x has ID %s", p, got)
		}
	})
}

func TestOneSplitterServesManyGoroutines(t *testing.T) {
	s, p := NewSplitter(keyFrom(0)), noise(1, 6<<20)
	want := fmt.Sprint(cutAll(s, p))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if got := fmt.Sprint(cutAll(s, p)); got != want {
				t.Error("another answer beside others")
			}
		})
	}
	wg.Wait()
}

func TestIDHasOneSpelling(t *testing.T) {
	id := NewHasher(keyFrom(0)).Sum([]byte("x"))
	if got, err := Parse(id.String()); err != nil || got != id {
		t.Fatal(got, err)
	}
	text, err := id.MarshalText()
	var back ID
	if err != nil || back.UnmarshalText(text) != nil || back != id {
		t.Fatal("text does not come back")
	}
	if (ID{}).Compare(ID{31: 1}) >= 0 || !(ID{}).IsZero() || id.IsZero() {
		t.Error("order or zero")
	}
	s := id.String()
	for _, bad := range []string{"", s[1:], s + "0", strings.ToUpper(s), "g" + s[1:], " " + s[1:], strings.Repeat("é", 32)} {
		if _, err := Parse(bad); err == nil {
			t.Errorf("%q parses", bad)
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add(ID{1, 2}.String())
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := Parse(s); err == nil && id.String() != s {
			t.Errorf("%q parses and is written %q", s, id)
		}
	})
}
