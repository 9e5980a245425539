package corpus

import (
	"archive/tar"
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// Form is how content is made.
type Form uint8

// The forms of content.
const (
	Text  Form = iota // words of a small language, in lines
	Noise             // what no compressor shrinks
	Dump              // rows of a database
	Image             // 64 KiB blocks: zeros, text and noise in runs
	Tar               // a Small tree on day 1
)

// Content is what a file holds; equal values are equal bytes.
type Content struct {
	Form  Form
	Seed  uint64
	Size  int64 // bytes; of a Dump on day 2: of the day before
	Day   uint8 // 2 for the next day's content of a Dump or an Image
	Files int   // of a Tar: how many files the tree has
}

// blockBytes is what an image is made of.
const blockBytes = 64 << 10

// Write writes the whole content.
func (c Content) Write(w io.Writer) error {
	switch c.Form {
	case Text:
		return writeAll(w, c.Size, newText(c.Seed, 0).fill)
	case Noise:
		return writeAll(w, c.Size, noise(c.Seed, 0))
	case Dump:
		return c.writeDump(w)
	case Image:
		return c.writeImage(w)
	case Tar:
		return Small(c.Files, 1).writeTar(w)
	}
	return fmt.Errorf("content of unknown form %d", c.Form)
}

// writeAll writes size bytes as fill makes them, a buffer at a time.
func writeAll(w io.Writer, size int64, fill func([]byte)) error {
	buf := make([]byte, min(size, blockBytes))
	for size > 0 {
		b := buf[:min(size, int64(len(buf)))]
		fill(b)
		if _, err := w.Write(b); err != nil {
			return err
		}
		size -= int64(len(b))
	}
	return nil
}

// noise fills buffers from ChaCha8, which promises the same stream in every release of Go.
func noise(seed, part uint64) func([]byte) {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	binary.LittleEndian.PutUint64(key[8:], part)
	r := rand.NewChaCha8(key)
	return func(b []byte) { _, _ = r.Read(b) } // documented never to fail
}

// words has 4096 places; the more a word is used, the more places are its own. About 2.7 times smaller with zstd -3.
var words = vocabulary()

func vocabulary() (out [4096]string) {
	r := rand.New(rand.NewPCG(41, 1))
	for i := 0; i < len(out); {
		b := make([]byte, 2+r.IntN(9))
		for k := range b {
			b[k] = "etaoinshrdlcumwfgypbvk"[min(r.IntN(22), r.IntN(22))]
		}
		for places := 1 + 60/(1+i/8); places > 0 && i < len(out); places-- {
			out[i] = string(b)
			i++
		}
	}
	return out
}

// text makes lines of words for ever.
type text struct {
	rng  *rand.PCG
	left []byte // of a word that did not fit into the last buffer
	line int
}

func newText(seed, part uint64) *text { return &text{rng: rand.NewPCG(seed, part)} }

func (t *text) fill(b []byte) {
	n := copy(b, t.left)
	t.left = t.left[n:]
	for n < len(b) {
		draw := t.rng.Uint64()
		for range 5 {
			word := words[draw&4095]
			draw >>= 12
			end := byte(' ')
			if t.line += len(word) + 1; t.line > 90 {
				t.line, end = 0, '\n'
			}
			k := copy(b[n:], word)
			if n += k; n == len(b) {
				t.left = append(append(t.left, word[k:]...), end)
				break
			}
			b[n] = end
			n++
			if n == len(b) {
				break
			}
		}
	}
}

// row appends one row of a dump.
func row(b []byte, id uint64, r *rand.PCG) []byte {
	x, y := r.Uint64(), r.Uint64()
	at := time.Unix(int64(firstDay-x%(400*aDay)), 0).UTC()
	b = fmt.Appendf(b, "INSERT INTO orders VALUES (%d,'", id)
	b = at.AppendFormat(b, time.DateTime)
	b = append(b, "','"...)
	for i := range 3 {
		if i > 0 {
			b = append(b, ' ')
		}
		b = append(b, words[y>>(12*i)&4095]...)
	}
	state := [...]string{"open", "paid", "sent", "returned"}[y>>40&3]
	return fmt.Appendf(b, "',%d.%02d,'%s','%08x');\n", x>>32%10_000, x>>48%100, state, uint32(y>>32)^uint32(x))
}

// writeDump writes rows until day 1 has its size. Day 2 leaves out one of 200 of them and puts a new one before
// another one of 200.
func (c Content) writeDump(w io.Writer) error {
	out := bufio.NewWriterSize(w, blockBytes)
	rows, edits, fresh := rand.NewPCG(c.Seed, 1), rand.New(rand.NewPCG(c.Seed, 2)), rand.NewPCG(c.Seed, 3)
	var line, extra []byte
	id := uint64(1_000_000)
	for left := c.Size; left > 0; {
		id++
		line = row(line[:0], id, rows)
		if int64(len(line)) > left {
			line = line[:left]
		}
		left -= int64(len(line))
		if c.Day == 2 {
			switch edits.IntN(200) {
			case 0:
				continue
			case 1:
				extra = row(extra[:0], id+1<<40, fresh)
				if _, err := out.Write(extra); err != nil {
					return err
				}
			}
		}
		if _, err := out.Write(line); err != nil {
			return err
		}
	}
	return out.Flush()
}

// writeImage writes runs of 4 to 67 blocks of one kind: two of five are zeros. Day 2 rewrites one of 50 blocks.
func (c Content) writeImage(w io.Writer) error {
	runs, edits := rand.New(rand.NewPCG(c.Seed, 1)), rand.New(rand.NewPCG(c.Seed, 2))
	buf := make([]byte, blockBytes)
	left, kind := 0, 0
	for n := uint64(0); n*blockBytes < uint64(c.Size); n++ {
		if left == 0 {
			left, kind = 4+runs.IntN(64), runs.IntN(5)
		}
		left--
		k, part := kind, n
		if c.Day == 2 && edits.IntN(50) == 0 {
			k, part = 2+edits.IntN(3), n+1<<40
		}
		switch {
		case k < 2:
			clear(buf)
		case k == 2:
			noise(c.Seed, part)(buf)
		default:
			newText(c.Seed, part).fill(buf)
		}
		if _, err := w.Write(buf[:min(blockBytes, c.Size-int64(n*blockBytes))]); err != nil {
			return err
		}
	}
	return nil
}

// counted counts what is written.
type counted int64

func (c *counted) Write(b []byte) (int, error) { *c += counted(len(b)); return len(b), nil }

// tarContent knows how long its tar will be: the headers' and the padding's lengths follow from the plan.
func tarContent(files int) Content {
	c := Content{Form: Tar, Files: files}
	var n counted
	t := Small(files, 1)
	padded := int64(0)
	w := tar.NewWriter(&n)
	for i := range t.Entries {
		h := t.Entries[i].header()
		padded += (h.Size + 511) / 512 * 512
		h.Size = 0
		if err := w.WriteHeader(h); err != nil {
			panic(err) // a plan of ours, written to memory
		}
	}
	_ = w.Close()
	c.Size = int64(n) + padded
	return c
}

func (e *Entry) header() *tar.Header {
	h := &tar.Header{
		Name: e.Path, Mode: int64(e.Mode), ModTime: time.Unix(e.MTime, 0), Uname: "backup", Gname: "backup", Uid: 34, Gid: 34,
		Format: tar.FormatGNU,
	}
	switch e.Kind {
	case Dir:
		h.Typeflag, h.Name = tar.TypeDir, e.Path+"/"
	case File:
		h.Typeflag, h.Size = tar.TypeReg, e.Content.Size
	case Symlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Target
	case Hardlink:
		h.Typeflag, h.Linkname = tar.TypeLink, e.Target
	}
	return h
}

func (t *Tree) writeTar(w io.Writer) error {
	out := tar.NewWriter(w)
	for i := range t.Entries {
		e := &t.Entries[i]
		if err := out.WriteHeader(e.header()); err != nil {
			return fmt.Errorf("tar: %q: %w", e.Path, err)
		}
		if e.Kind == File {
			if err := e.Content.Write(out); err != nil {
				return fmt.Errorf("tar: %q: %w", e.Path, err)
			}
		}
	}
	return out.Close()
}
