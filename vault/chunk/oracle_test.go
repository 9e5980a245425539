package chunk

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"
	_ "github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc"
)

// edited returns p with n small insertions, deletions and changes strewn over it.
func edited(p []byte, n int) []byte {
	r := rand.New(rand.NewPCG(3, 4))
	q := bytes.Clone(p)
	for range n {
		at := r.IntN(len(q) - 100)
		switch r.IntN(3) {
		case 0:
			q = append(q[:at:at], append(noise(r.Uint64(), 1+r.IntN(50)), q[at:]...)...)
		case 1:
			q = append(q[:at], q[at+1+r.IntN(50):]...)
		default:
			q[at] ^= 1
		}
	}
	return q
}

// foundAgain is the share of b's bytes that lie in chunks that a has too.
func foundAgain(a, b []byte, chunks func([]byte, func([]byte))) float64 {
	h, known, found := NewHasher(keyFrom(0)), map[ID]bool{}, 0
	chunks(a, func(c []byte) { known[h.Sum(c)] = true })
	chunks(b, func(c []byte) {
		if known[h.Sum(c)] {
			found += len(c)
		}
	})
	return float64(found) / float64(len(b))
}

// A library of good repute is the measure: an edited copy is found again as well as there, or better.
func TestEditedCopyIsFoundAgainAsWellAsByAKnownSplitter(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("64 MiB are cut four times")
	}
	a := noise(11, 64<<20)
	b := edited(a, 12)
	s := NewSplitter(keyFrom(5))
	ours := foundAgain(a, b, func(p []byte, chunk func([]byte)) {
		for len(p) > 0 {
			n := s.Cut(p, true)
			chunk(p[:n])
			p = p[n:]
		}
	})
	theirs := foundAgain(a, b, func(p []byte, chunk func([]byte)) {
		c, err := chunkers.NewChunker("fastcdc-v1.0.0", bytes.NewReader(p),
			&chunkers.ChunkerOpts{MinSize: MinSize, NormalSize: NormalSize, MaxSize: MaxSize})
		if err != nil {
			t.Fatal(err)
		}
		for {
			piece, err := c.Next()
			if err != nil && err != io.EOF {
				t.Fatal(err)
			}
			if len(piece) > 0 {
				chunk(piece)
			}
			if err == io.EOF {
				return
			}
		}
	})
	t.Logf("found again: %.1f %% here, %.1f %% there", 100*ours, 100*theirs)
	if ours < theirs-0.05 || ours < 0.8 {
		t.Errorf("found again: %.1f %% here, %.1f %% there", 100*ours, 100*theirs)
	}
}

// An insertion at the front must not move every cut point.
func TestInsertionAtTheFrontCostsAChunkOrTwo(t *testing.T) {
	p := noise(12, 32<<20)
	s := NewSplitter(keyFrom(6))
	share := foundAgain(p, append([]byte("new first line\n"), p...), func(p []byte, chunk func([]byte)) {
		for len(p) > 0 {
			n := s.Cut(p, true)
			chunk(p[:n])
			p = p[n:]
		}
	})
	if share < 0.9 {
		t.Errorf("only %.1f %% found again", 100*share)
	}
}
