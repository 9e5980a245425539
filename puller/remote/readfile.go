package remote

import (
	"context"
	"fmt"
	"io"
	"sync"
)

const (
	largeFile      = 8 << 20 // from here on a file is opened on several channels
	bytesPerHandle = 4 << 20 // a further handle has to be worth its opening
	readsPerHandle = 10      // READ requests in flight on one handle
)

// Read says what came of reading a file.
type Read struct {
	N       uint64 // bytes given to the writer
	After   Attr   // attributes of the handle after the last byte was read
	Changed bool   // size or mtime are not those that were listed: the bytes may be of two versions
	Short   bool   // the file ended before its listed size; N says where
	Grew    bool   // the file is longer now; the listed size was read
}

// ReadFile reads the bytes of a file from an offset up to the size it was listed with, in order, into w. Not one byte is read beyond that
// size, however long the file says it is now.
//
// It opens the file (and so must not be called for anything that was not listed as a regular file: opening a FIFO hangs), reads with several exact requests
// in flight, and asks the handle for its attributes before it closes it. A large file is read over all channels. A file without bytes is not
// opened at all. When w is slow the reading waits; what is held in memory is bounded by Limits.BufferBytes over all files. The writers of two calls must not
// wait for each other.
//
// With an error, Read.N bytes have reached w and are good as far as it is known; the rest may be asked for again from there.
func (s *Source) ReadFile(ctx context.Context, path string, want Attr, from uint64, w io.Writer) (Read, error) {
	limits := s.config.Limits
	if err := limits.checkPath("read", path); err != nil {
		return Read{}, err
	}
	switch {
	case want.Kind != File:
		return Read{}, fmt.Errorf("read %q: a %v has no content to read", path, want.Kind)
	case want.Size > uint64(limits.FileBytes):
		return Read{}, &LimitError{What: "bytes of one file", Path: path, Limit: limits.FileBytes, Got: int64(want.Size)}
	case from > want.Size:
		return Read{}, fmt.Errorf("read %q: offset %d is behind the listed end %d", path, from, want.Size)
	case from == want.Size:
		return Read{After: want}, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &reading{source: s, path: path, want: want, from: from, out: w}
	read, err := r.run(ctx)
	if err == nil {
		read.Changed = read.After.Size != want.Size || read.After.MTime != want.MTime || r.differ
		read.Short = read.N < want.Size-from
		read.Grew = read.After.Size > want.Size
		read.Changed = read.Changed || read.Short
	}
	return read, err
}

// reading is one file being read.
type reading struct {
	source *Source
	path   string
	want   Attr
	from   uint64
	out    io.Writer
	n      uint64 // delivered
	differ bool   // the handles did not agree on the file's attributes
}

func (r *reading) run(ctx context.Context) (Read, error) {
	c, err := r.source.pick(ctx)
	if err != nil {
		return Read{}, err
	}
	packet := packetSmall // whatever the limits are, but for the first READ of a channel, which is to be the longest
	if r.want.Size-r.from > packetSmall || !c.warm.Load() {
		if packet, err = c.packet(ctx, r.path); err != nil {
			return Read{}, err
		}
	}
	if r.want.Size-r.from <= uint64(packet) {
		return r.small(ctx, c, packet)
	}
	first, err := c.open(ctx, r.path)
	if err != nil {
		return Read{}, err
	}
	defer first.close()
	return r.large(ctx, first, packet)
}

// deliver hands bytes to the writer and counts them.
func (r *reading) deliver(p []byte) error {
	if total := r.source.bytes.Add(int64(len(p))); total > r.source.config.Limits.Bytes {
		return &LimitError{What: "bytes of the source", Path: r.path, Limit: r.source.config.Limits.Bytes, Got: total}
	}
	n, err := r.out.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	r.n += uint64(max(n, 0))
	return err
}

// buffers are for the requests of large files, smaller ones for small files: thousands of those are in flight on a long line, and cost what they weigh.
var (
	buffers = pool(packetLarge)
	smaller = [...]*sync.Pool{pool(4 << 10), pool(8 << 10), pool(16 << 10), pool(packetSmall), pool(64 << 10), pool(128 << 10)}
)

func pool(size int) *sync.Pool {
	return &sync.Pool{New: func() any {
		b := make([]byte, size)
		return &b
	}}
}

func poolFor(n int) *sync.Pool {
	for i, p := range smaller {
		if n <= 4<<10<<i {
			return p
		}
	}
	return buffers
}

func newBuffer(n int) *[]byte   { return poolFor(n).Get().(*[]byte) }
func freeBuffer(buffer *[]byte) { poolFor(len(*buffer)).Put(buffer) }
