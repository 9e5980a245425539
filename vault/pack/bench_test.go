package pack

import (
	"bytes"
	"io"
	"testing"
)

func benchBlock(kind string) testBlock {
	if kind == "noise" {
		return blockOf(0, noise(1, 512<<10), noise(2, 512<<10))
	}
	// Words in random order: compresses about as text does.
	var p []byte
	words := bytes.Fields([]byte("lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor 1024 0xff config true"))
	for _, b := range noise(3, 400<<10) {
		p = append(append(p, words[int(b)%len(words)]...), " \n\t;"[b>>6])
	}
	p = p[:1<<20]
	return blockOf(0, p[:512<<10], p[512<<10:])
}

func BenchmarkEncode(b *testing.B) {
	for _, kind := range []string{"text", "noise"} {
		b.Run(kind, func(b *testing.B) {
			block, e, frame := benchBlock(kind), NewEncoder(), []byte(nil)
			w := begin(b, new(memory), false)
			b.SetBytes(int64(len(block.payload)))
			b.ReportAllocs()
			for n := uint32(0); b.Loop(); n++ {
				var err error
				if frame, err = w.Encode(frame, e, n, block.payload, block.chunks); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(block.payload))/float64(len(frame)), "ratio")
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, kind := range []string{"text", "noise"} {
		b.Run(kind, func(b *testing.B) {
			block, d, payload := benchBlock(kind), NewDecoder(), []byte(nil)
			pack := written(b, false, block)
			r, stored := opened(b, pack), order.Uint32(pack[headerSize+8:])
			b.SetBytes(int64(len(block.payload)))
			b.ReportAllocs()
			for b.Loop() {
				var err error
				if payload, _, err = r.ReadBlock(payload, d, headerSize, stored); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// fullPack is a pack of 64 MiB of noise in blocks of 1 MiB and chunks of 8 KiB.
func fullPack(b *testing.B) (*memory, *Writer) {
	m := &memory{b: make([]byte, 0, 80<<20)}
	w, e, frame := begin(b, m, true), NewEncoder(), []byte(nil)
	p := noise(1, BlockTarget)
	var contents [][]byte
	for i := 0; i < len(p); i += 8 << 10 {
		contents = append(contents, p[i:i+8<<10])
	}
	block := blockOf(0, contents...)
	for n := range uint32(64) {
		var err error
		if frame, err = w.Encode(frame, e, n, block.payload, block.chunks); err != nil {
			b.Fatal(err)
		}
		if _, err := w.Append(frame, n, uint32(len(block.payload)), block.chunks); err != nil {
			b.Fatal(err)
		}
	}
	return m, w
}

func BenchmarkFooter(b *testing.B) {
	m, w := fullPack(b)
	if _, err := w.Finish(); err != nil {
		b.Fatal(err)
	}
	r := opened(b, m.b)
	b.SetBytes(int64(r.tail.footerLen))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Footer(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParity(b *testing.B) {
	m, _ := fullPack(b)
	n := int64(len(m.b))
	b.SetBytes(n)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := computeParity(m, n, geometryFor(n)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	m, w := fullPack(b)
	if _, err := w.Finish(); err != nil {
		b.Fatal(err)
	}
	r := opened(b, m.b)
	b.SetBytes(int64(len(m.b)))
	for b.Loop() {
		if d, err := r.Verify(b.Context()); err != nil || len(d) > 0 {
			b.Fatal(d, err)
		}
	}
}

func BenchmarkRepair(b *testing.B) {
	m, w := fullPack(b)
	if _, err := w.Finish(); err != nil {
		b.Fatal(err)
	}
	clear(m.b[1<<20:][:64<<10])
	b.SetBytes(int64(len(m.b)))
	for b.Loop() {
		if err := Repair(m, int64(len(m.b)), io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}
