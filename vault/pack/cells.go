package pack

import (
	"fmt"
	"math/bits"
	"slices"
)

// Content in which text and noise take turns (an archive of pictures and notes, a disk image) is compressed apart: the
// payload is seen as cells of 2 KiB, the last one shorter, each of which is taken for text or for noise. In a block of codec
// 2 the place of the payload is taken by
//
//	bitmap    1 bit for each cell, from the lowest of the first byte on, 1 for noise; bits beyond the last cell are 0
//	 0   1    codec of the text: 0 as it is, 1 zstd
//	 1   4    its stored length
//	          the cells of text, one behind the other
//	 0   1    codec of the noise, likewise
//	          the cells of noise, one behind the other, to the end
//
// with at least one cell of each. Which cell is which is the writer's guess; a reader believes the bitmap.
const cellBytes = 2 << 10

// A block is compressed apart if it has at least one sixteenth of each: below, the bitmap and the second frame are not worth it.
const apartShare = 16

const (
	cellSample = 64 // bytes looked at at the beginning and in the middle of a cell
	// noiseValues is how many different values two samples of noise show at least: of 128 even draws from 256 values 101
	// are different on average, with a deviation of 4. Base64 has 64 at most, prose about 40.
	noiseValues = 84
)

// IsNoise guesses whether a piece of content, of some KiB, is what no compressor shrinks: compressed, encrypted, random. It
// looks at two samples; what is shorter than these, 128 bytes, is text.
func IsNoise(cell []byte) bool {
	half := len(cell) / 2
	if half < cellSample {
		return false
	}
	var seen [4]uint64
	for _, sample := range [2][]byte{cell[:cellSample], cell[half : half+cellSample]} {
		for _, c := range sample {
			seen[c>>6] |= 1 << (c & 63)
		}
	}
	return bits.OnesCount64(seen[0])+bits.OnesCount64(seen[1])+bits.OnesCount64(seen[2])+bits.OnesCount64(seen[3]) >= noiseValues
}

// cells is a payload seen as cells.
type cells struct {
	bitmap []byte
	count  int
	noise  int // bytes in cells of noise
}

func cellCount(payload int) int   { return (payload + cellBytes - 1) / cellBytes }
func bitmapBytes(payload int) int { return (cellCount(payload) + 7) / 8 }

// of looks at a payload.
func (c *cells) of(payload []byte) {
	n := bitmapBytes(len(payload))
	c.bitmap = slices.Grow(c.bitmap[:0], n)[:n]
	clear(c.bitmap)
	c.count, c.noise = cellCount(len(payload)), 0
	for i := range c.count {
		cell := payload[i*cellBytes : min((i+1)*cellBytes, len(payload))]
		if IsNoise(cell) {
			c.bitmap[i/8] |= 1 << (i % 8)
			c.noise += len(cell)
		}
	}
}

// read takes the bitmap of a payload of raw bytes from the beginning of body and returns what is behind it.
func (c *cells) read(body []byte, raw int) ([]byte, error) {
	n := bitmapBytes(raw)
	if len(body) < n {
		return nil, fmt.Errorf("its bitmap of %d bytes is cut", n)
	}
	c.bitmap, c.count, c.noise = body[:n], cellCount(raw), 0
	if over := c.count % 8; over != 0 && c.bitmap[n-1]>>over != 0 {
		return nil, fmt.Errorf("its bitmap has more than %d cells", c.count)
	}
	for i := range c.count {
		if c.isNoise(i) {
			c.noise += min(cellBytes, raw-i*cellBytes)
		}
	}
	if c.noise == 0 || c.noise == raw {
		return nil, fmt.Errorf("%d of its %d bytes are apart", c.noise, raw)
	}
	return body[n:], nil
}

func (c *cells) isNoise(i int) bool { return c.bitmap[i/8]>>(i%8)&1 != 0 }

// runs calls f with the bounds of each run of cells of one sort in a payload of raw bytes.
func (c *cells) runs(noise bool, raw int, f func(from, to int)) {
	for i := 0; i < c.count; {
		if c.isNoise(i) != noise {
			i++
			continue
		}
		from := i
		for i < c.count && c.isNoise(i) == noise {
			i++
		}
		f(from*cellBytes, min(i*cellBytes, raw))
	}
}

// compress appends a payload to dst in the best of the ways that there are, and says which.
func (e *Encoder) compress(dst, payload []byte) ([]byte, byte) {
	at := len(dst)
	codec := byte(codecZstd)
	if e.cells.of(payload); min(e.cells.noise, len(payload)-e.cells.noise) >= max(1, len(payload)/apartShare) {
		codec = codecApart
		dst = append(dst, e.cells.bitmap...)
		dst = append(dst, 0, 0, 0, 0, 0)
		text, part := len(dst), byte(0)
		dst, part = e.part(dst, payload, false)
		dst[text-5] = part
		order.PutUint32(dst[text-4:], uint32(len(dst)-text))
		dst = append(dst, 0)
		noise := len(dst)
		dst, part = e.part(dst, payload, true)
		dst[noise-1] = part
	} else {
		dst = e.zstd.EncodeAll(payload, dst)
	}
	if len(dst)-at >= len(payload) {
		return append(dst[:at], payload...), codecRaw
	}
	return dst, codec
}

// part appends the cells of one sort. Noise is tried to be compressed too: it costs little, and the guess may be wrong.
func (e *Encoder) part(dst, payload []byte, noise bool) ([]byte, byte) {
	e.gathered = e.gathered[:0]
	e.cells.runs(noise, len(payload), func(from, to int) { e.gathered = append(e.gathered, payload[from:to]...) })
	at := len(dst)
	if dst = e.zstd.EncodeAll(e.gathered, dst); len(dst)-at < len(e.gathered) {
		return dst, codecZstd
	}
	return append(dst[:at], e.gathered...), codecRaw
}

// merge is the way back of a payload whose text and noise lie apart. It is put into dst's storage, from its beginning.
func (d *Decoder) merge(dst []byte, raw int, body []byte) ([]byte, error) {
	rest, err := d.cells.read(body, raw)
	if err != nil {
		return nil, err
	}
	if len(rest) < 5 || uint64(order.Uint32(rest[1:])) >= uint64(len(rest)-5) {
		return nil, fmt.Errorf("its text is cut")
	}
	text, noise := rest[:5+order.Uint32(rest[1:])], rest[5+order.Uint32(rest[1:]):]
	dst = slices.Grow(dst[:0], raw+DecodeSlack)[:raw]
	if err := d.spread(dst, text[0], text[5:], false); err != nil {
		return nil, err
	}
	return dst, d.spread(dst, noise[0], noise[1:], true)
}

// spread brings the cells of one sort to their places in dst.
func (d *Decoder) spread(dst []byte, codec byte, body []byte, noise bool) error {
	length := d.cells.noise
	if !noise {
		length = len(dst) - length
	}
	if codec == codecApart {
		return fmt.Errorf("codec %d within itself", codec)
	}
	part, err := body, error(nil)
	if codec != codecRaw || len(body) != length {
		if part, err = d.expand(d.gathered, codec, uint32(length), body); err != nil {
			return err
		}
		d.gathered = part
	}
	d.cells.runs(noise, len(dst), func(from, to int) { part = part[copy(dst[from:to], part):] })
	return nil
}
