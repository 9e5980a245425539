package vault

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/holdfast-vault/holdfast/vault/chunk"
	"github.com/holdfast-vault/holdfast/vault/pack"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

func evenBytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{0: byte(seed), 1: byte(seed >> 8), 2: byte(seed >> 16)}).Read(b)
	return b
}

// TestLaneOf: what a compressor may shrink is not gathered with what it cannot, at every length that says something.
func TestLaneOf(t *testing.T) {
	zeros := make([]byte, 1<<20)
	for n := 128; n <= 1<<20; n += n/3 + 1 {
		random := evenBytes(uint64(n), n)
		for name, c := range map[string]struct {
			data []byte
			want lane
		}{
			"noise":      {random, laneNoise},
			"zeros":      {zeros[:n], laneText},
			"hex":        {[]byte(hex.EncodeToString(random))[:n], laneText},
			"words":      {bytes.Repeat([]byte("the quick brown fox jumps over the lazy dog, 0123456789\n"), n/56+1)[:n], laneText},
			"base64":     {[]byte(base64.StdEncoding.EncodeToString(random))[:n], laneText},
			"half zeros": {append(bytes.Clone(random[:n/2]), zeros[:n-n/2]...), laneText},
		} {
			if got := laneOf(c.data); got != c.want {
				t.Errorf("%s of %d bytes: %v", name, n, got)
			}
		}
	}
	if laneOf(nil) != laneText || laneOf(evenBytes(1, 127)) != laneText {
		t.Error("too little to tell, and told")
	}
}

func laneSession(t *testing.T) *Session {
	t.Helper()
	v := newWorld(t).open(Options{})
	s, err := v.Begin(t.Context(), SessionOptions{Source: "web1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.Abandon()
		_ = v.Close()
	})
	return s
}

// TestNoiseSpoilsText: text and noise that come by turns lie in blocks of their own, and what a crash costs is bounded: no
// block gathers for long while others overtake it.
func TestNoiseSpoilsText(t *testing.T) {
	s := laneSession(t)
	begun := map[lane]uint64{}
	for i := range 3000 {
		data := evenBytes(uint64(i), 8<<10)
		if i%200 != 0 {
			data = bytes.Repeat([]byte(fmt.Sprintf("line %d of some log\n", i)), 20_000/len(fmt.Sprintf("line %d of some log\n", i)))
		}
		if _, _, _, err := s.p.put(s.v.chunkID(data), data); err != nil {
			t.Fatal(err)
		}
		looked(t, s.p, begun)
	}
	if begun[laneText] == 0 || begun[laneNoise] == 0 {
		t.Fatalf("gathered by lane: %v", begun)
	}
}

// looked holds what gathers to the rules, and counts it by lane.
func looked(t *testing.T, p *packer, begun map[lane]uint64) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, b := range p.cur {
		if b == nil {
			continue
		}
		begun[lane(k)]++
		if p.seq-b.seq > lagMax+1 {
			t.Fatalf("block %d still gathers when block %d is begun", b.seq, p.seq)
		}
		for _, c := range b.chunks {
			if laneOf(b.payload[c.Offset:c.Offset+c.Size]) != lane(k) {
				t.Fatalf("a chunk of another kind in lane %d", k)
			}
		}
		if len(b.payload) > pack.MaxPayload {
			t.Fatalf("%d bytes in a block", len(b.payload))
		}
	}
}

// TestLargeFilesShareBlocks: files that are read at the same time are each given back from blocks of their own; and there is
// an end to the lanes.
func TestLargeFilesShareBlocks(t *testing.T) {
	s := laneSession(t)
	const size = 3 * laneLeast
	var writers []*FileWriter
	for i := range fileLanes + 2 {
		e := snapshot.Entry{Name: fmt.Sprint(i), Kind: snapshot.File, Size: size}
		f, err := s.File(t.Context(), &e)
		if err != nil {
			t.Fatal(err)
		}
		writers = append(writers, f)
	}
	owner := map[chunk.ID]int{}
	for part := range size / (1 << 20) {
		for i, f := range writers {
			before := len(f.refs)
			if _, err := f.Write(evenBytes(uint64(i*1000+part), 1<<20)); err != nil {
				t.Fatal(err)
			}
			for _, r := range f.refs[before:] {
				owner[r.ID] = i
			}
			s.p.mu.Lock()
			for l := laneFile; int(l) < lanes; l++ {
				if b := s.p.cur[l]; b != nil {
					for _, c := range b.chunks {
						if owner[c.ID] != owner[b.chunks[0].ID] {
							t.Errorf("files %d and %d share a block", owner[c.ID], owner[b.chunks[0].ID])
						}
					}
				}
			}
			s.p.mu.Unlock()
		}
	}
	lent := 0
	for _, f := range writers {
		if f.lane != 0 {
			lent++
		}
		f.Abort()
	}
	if lent != fileLanes {
		t.Errorf("%d files had a lane, of %d that there are", lent, fileLanes)
	}
	for l := laneFile; int(l) < lanes; l++ {
		if s.p.lent[l] {
			t.Errorf("lane %d was not given back", l)
		}
	}
}
