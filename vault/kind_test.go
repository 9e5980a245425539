package vault

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/holdfast-vault/holdfast/vault/pack"
)

func evenBytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{0: byte(seed), 1: byte(seed >> 8), 2: byte(seed >> 16)}).Read(b)
	return b
}

// TestKindOf: what a compressor may shrink is not gathered with what it cannot, at every length that says something.
func TestKindOf(t *testing.T) {
	zeros := make([]byte, 1<<20)
	for n := sampleLeast; n <= 1<<20; n += n/3 + 1 {
		random := evenBytes(uint64(n), n)
		for name, c := range map[string]struct {
			data []byte
			want kind
		}{
			"noise":      {random, kindNoise},
			"zeros":      {zeros[:n], kindText},
			"hex":        {[]byte(hex.EncodeToString(random))[:n], kindText},
			"words":      {bytes.Repeat([]byte("the quick brown fox jumps over the lazy dog, 0123456789\n"), n/56+1)[:n], kindText},
			"half zeros": {append(bytes.Clone(random[:n/2]), zeros[:n-n/2]...), kindText},
		} {
			if got := kindOf(c.data); got != c.want {
				t.Errorf("%s of %d bytes: %v", name, n, got)
			}
		}
		if n >= 512 { // in less, base64 and noise look alike
			if got := kindOf([]byte(base64.StdEncoding.EncodeToString(random))[:n]); got != kindText {
				t.Errorf("base64 of %d bytes: %v", n, got)
			}
		}
	}
	if kindOf(nil) != kindText || kindOf(evenBytes(1, sampleLeast-1)) != kindText {
		t.Error("too little to tell, and told")
	}
}

// TestNoiseSpoilsText: text and noise that come by turns lie in blocks of their own, and what a crash costs is bounded: no
// block gathers for long while others overtake it.
func TestNoiseSpoilsText(t *testing.T) {
	w := newWorld(t)
	v := w.open(Options{})
	defer v.Close()
	s, err := v.Begin(t.Context(), SessionOptions{Source: "web1"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Abandon() }()
	begun := map[kind]uint64{}
	for i := range 3000 {
		data := evenBytes(uint64(i), 8<<10)
		if i%200 != 0 {
			data = bytes.Repeat([]byte(fmt.Sprintf("line %d of some log\n", i)), 20_000/len(fmt.Sprintf("line %d of some log\n", i)))
		}
		if _, _, _, err := s.p.put(s.v.chunkID(data), data); err != nil {
			t.Fatal(err)
		}
		s.p.mu.Lock()
		for k, b := range s.p.cur {
			if b == nil {
				continue
			}
			begun[kind(k)]++
			if s.p.seq-b.seq > lagMax+1 {
				t.Fatalf("block %d still gathers when block %d is begun", b.seq, s.p.seq)
			}
			for _, c := range b.chunks {
				if kindOf(b.payload[c.Offset:c.Offset+c.Size]) != kind(k) {
					t.Fatalf("a chunk of another kind among kind %d", k)
				}
			}
			if len(b.payload) > pack.MaxPayload {
				t.Fatalf("%d bytes in a block", len(b.payload))
			}
		}
		s.p.mu.Unlock()
	}
	if begun[kindText] == 0 || begun[kindNoise] == 0 {
		t.Fatalf("gathered by kind: %v", begun)
	}
}
