package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/pkg/sftp"
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

// handle is one open file on one channel.
type handle struct {
	channel *channel
	file    *sftp.File
	path    string
}

func (r *reading) run(ctx context.Context) (Read, error) {
	c, err := r.source.pick(ctx)
	if err != nil {
		return Read{}, err
	}
	first, err := c.open(ctx, r.path)
	if err != nil {
		return Read{}, err
	}
	defer first.close()
	packet, err := c.packet(ctx, r.path)
	if err != nil {
		return Read{}, err
	}
	if r.want.Size-r.from <= uint64(packet) {
		return r.small(ctx, first, packet)
	}
	return r.large(ctx, first, packet)
}

// open opens a file on the channel, within the number of handles that a channel may have.
func (c *channel) open(ctx context.Context, path string) (*handle, error) {
	select {
	case c.handles <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-c.link.dead:
		return nil, &lostError{op: "open", path: path, cause: c.link.cause}
	}
	var file *sftp.File
	err := c.do(ctx, "open", path, func() (err error) {
		file, err = c.sftp.Open(path)
		if err == nil && file == nil {
			err = errors.New("status OK instead of a handle")
		}
		return noEOF(err)
	})
	if err != nil {
		<-c.handles
		return nil, err
	}
	return &handle{channel: c, file: file, path: path}, nil
}

// close gives the handle back without waiting for the answer.
func (h *handle) close() {
	h.channel.link.source.background(func(ctx context.Context) {
		h.channel.do(ctx, "close", h.path, func() error { return noEOF(h.file.Close()) })
		<-h.channel.handles
	})
}

// stat asks the handle, not the path: the path may name another file by now.
func (h *handle) stat(ctx context.Context) (Attr, error) {
	var info os.FileInfo
	err := h.channel.do(ctx, "fstat", h.path, func() (err error) {
		info, err = h.file.Stat()
		return noEOF(err)
	})
	if err != nil {
		return Attr{}, err
	}
	a, err := fromInfo("fstat", h.path, info)
	if err == nil && a.ModeKnown && a.Kind != File {
		err = &ProtocolError{Op: "fstat", Path: h.path, Detail: "listed as a file, opened as a " + a.Kind.String()}
	}
	return a, err
}

// readAt fills p from an offset, or as far as the file goes: fewer bytes mean its end. pkg/sftp asks again after a short answer, which the protocol
// allows; p is never longer than one packet, since longer ones are cut without an error.
func (h *handle) readAt(ctx context.Context, p []byte, offset uint64) (n int, err error) {
	end := false
	err = h.channel.do(ctx, "read", h.path, func() error {
		var err error
		n, err = h.file.ReadAt(p, int64(offset))
		switch {
		case n < 0 || n > len(p):
			return fmt.Errorf("%d bytes for %d", n, len(p))
		case n == len(p):
			return nil
		case err == nil:
			return fmt.Errorf("%d of %d bytes and no error", n, len(p))
		case err == io.EOF:
			end = true
			return nil
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	if !end && n < len(p) {
		return 0, &ProtocolError{Op: "read", Path: h.path, Detail: "bytes are missing"}
	}
	return n, nil
}

// small reads what fits into one request, and asks for no byte beyond the file's end: a server that answers such a request in drips would be asked
// for each of them.
func (r *reading) small(ctx context.Context, h *handle, packet int) (Read, error) {
	size := int(r.want.Size - r.from)
	if h.channel.deep && !h.channel.warm.Swap(true) {
		h.channel.warmUp(ctx, r.path, packet)
	}
	ask := size
	if ask > packetSmall {
		select {
		case r.source.middle <- struct{}{}:
			defer func() { <-r.source.middle }()
		case <-ctx.Done():
			return Read{}, context.Cause(ctx)
		}
	}
	buffer := newBuffer(ask)
	defer freeBuffer(buffer)
	n, err := h.readAt(ctx, (*buffer)[:ask], r.from)
	if err != nil {
		return Read{}, err
	}
	after, err := h.stat(ctx)
	if err != nil {
		return Read{}, err
	}
	if err := r.deliver((*buffer)[:n]); err != nil {
		return Read{N: r.n}, err
	}
	return Read{N: r.n, After: after}, nil
}

// warmUp makes the first READ on a channel of OpenSSH a full one: the server of OpenSSH 9.2 leaks memory when lengths grow. It is one request, whatever
// comes of it; the file's own reading tells of trouble.
func (c *channel) warmUp(ctx context.Context, path string, packet int) {
	select {
	case c.handles <- struct{}{}:
	default:
		return
	}
	handle, err := c.openRaw(ctx, path)
	if err != nil {
		<-c.handles
		return
	}
	_, _ = c.readRaw(ctx, path, handle, 0, uint32(packet))
	c.closeRaw(path, handle)
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

// Buffers come in three sizes, so that thousands of small files in flight cost what they weigh.
var buffersTiny, buffersSmall, buffers = pool(4 << 10), pool(packetSmall), pool(packetLarge)

func pool(size int) *sync.Pool {
	return &sync.Pool{New: func() any {
		b := make([]byte, size)
		return &b
	}}
}

func poolFor(n int) *sync.Pool {
	switch {
	case n <= 4<<10:
		return buffersTiny
	case n <= packetSmall:
		return buffersSmall
	}
	return buffers
}

func newBuffer(n int) *[]byte   { return poolFor(n).Get().(*[]byte) }
func freeBuffer(buffer *[]byte) { poolFor(len(*buffer)).Put(buffer) }
