package keeper

import (
	"encoding/binary"
	"errors"
	"fmt"
)

var (
	errShort   = errors.New("it ends early")
	errTrails  = errors.New("bytes follow its last field")
	errTooLong = errors.New("a field is too long")
)

// coder walks over the fields of a body, writing or reading them: one description serves both ways, so that they cannot
// differ. After the first error it does nothing more.
type coder struct {
	b     []byte // what was written, or what is still to be read
	write bool
	err   error
}

// take gives the next n bytes to be read.
func (c *coder) take(n int) []byte {
	if c.err != nil {
		return nil
	}
	if n > len(c.b) {
		c.err = errShort
		return nil
	}
	out := c.b[:n]
	c.b = c.b[n:]
	return out
}

func (c *coder) fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

func (c *coder) uint8(v *uint8) {
	if c.write {
		c.b = append(c.b, *v)
	} else if b := c.take(1); b != nil {
		*v = b[0]
	}
}

func (c *coder) uint32(v *uint32) {
	if c.write {
		c.b = binary.LittleEndian.AppendUint32(c.b, *v)
	} else if b := c.take(4); b != nil {
		*v = binary.LittleEndian.Uint32(b)
	}
}

func (c *coder) uint64(v *uint64) {
	if c.write {
		c.b = binary.LittleEndian.AppendUint64(c.b, *v)
	} else if b := c.take(8); b != nil {
		*v = binary.LittleEndian.Uint64(b)
	}
}

func (c *coder) flag(v *bool) {
	var b uint8
	if *v {
		b = 1
	}
	c.uint8(&b)
	if b > 1 {
		c.fail(fmt.Errorf("%d is neither yes nor no", b))
	}
	*v = b == 1
}

func (c *coder) id(v *ID) {
	if c.write {
		c.b = append(c.b, v[:]...)
	} else if b := c.take(len(v)); b != nil {
		copy(v[:], b)
	}
}

// str is a text of at most limit bytes, below 64 KiB.
func (c *coder) str(v *string, limit int) {
	if c.write {
		if len(*v) > limit {
			c.fail(fmt.Errorf("%w: %d bytes, at most %d", errTooLong, len(*v), limit))
			return
		}
		c.b = binary.LittleEndian.AppendUint16(c.b, uint16(len(*v)))
		c.b = append(c.b, *v...)
		return
	}
	b := c.take(2)
	if b == nil {
		return
	}
	n := int(binary.LittleEndian.Uint16(b))
	if n > limit {
		c.fail(fmt.Errorf("%w: %d bytes, at most %d", errTooLong, n, limit))
		return
	}
	*v = string(c.take(n))
}

// blob is a row of at most limit bytes. What is read is a part of the body, not a copy.
func (c *coder) blob(v *[]byte, limit int) {
	n := uint32(len(*v))
	if c.write && len(*v) > limit {
		c.fail(fmt.Errorf("%w: %d bytes, at most %d", errTooLong, len(*v), limit))
		return
	}
	c.uint32(&n)
	if c.write {
		c.b = append(c.b, *v...)
		return
	}
	if uint64(n) > uint64(limit) {
		c.fail(fmt.Errorf("%w: %d bytes, at most %d", errTooLong, n, limit))
		return
	}
	*v = c.take(int(n))
}

// count is the length of a list of at most limit elements, each of which takes at least size bytes.
func (c *coder) count(have, limit, size int) int {
	n := uint32(have)
	c.uint32(&n)
	if c.err == nil && (uint64(n) > uint64(limit) || !c.write && uint64(n)*uint64(size) > uint64(len(c.b))) {
		c.fail(fmt.Errorf("%w: %d elements", errTooLong, n))
	}
	if c.err != nil {
		return 0
	}
	return int(n)
}

// blobs is a list of at most most rows.
func (c *coder) blobs(v *[][]byte, most, limit int) {
	n := c.count(len(*v), most, 4)
	if !c.write {
		*v = make([][]byte, n)
	}
	for i := range n {
		c.blob(&(*v)[i], limit)
	}
}

// body is what a message consists of.
type body interface {
	// fields gives each field of the body to c, in the order in which they stand.
	fields(c *coder)
}

// encode appends a body.
func encode(dst []byte, m body) ([]byte, error) {
	c := coder{b: dst, write: true}
	m.fields(&c)
	return c.b, c.err
}

// decode fills a body from exactly the bytes given, some of which it may keep.
func decode(b []byte, m body) error {
	c := coder{b: b}
	m.fields(&c)
	if c.err == nil && len(c.b) > 0 {
		c.err = errTrails
	}
	return c.err
}
