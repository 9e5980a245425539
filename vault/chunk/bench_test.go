package chunk

import (
	"math/rand/v2"
	"testing"
)

func noise(seed uint64, n int) []byte {
	p := make([]byte, n)
	var s [32]byte
	s[0], s[1] = byte(seed), byte(seed>>8)
	rand.NewChaCha8(s).Read(p)
	return p
}

func BenchmarkSplitter(b *testing.B) {
	s := NewSplitter([32]byte{1})
	p := noise(1, 32<<20)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		for q := p; len(q) > 0; {
			q = q[s.Cut(q, true):]
		}
	}
}

func BenchmarkHasher(b *testing.B) {
	h := NewHasher([32]byte{1})
	p := noise(1, NormalSize)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		h.Sum(p)
	}
}
