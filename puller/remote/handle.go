package remote

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
)

// handle is one open file on one channel.
type handle struct {
	channel *channel
	raw     string // the server's name for it
	path    string
}

// open opens a file on the channel, within the number of handles that a channel may have.
func (c *channel) open(ctx context.Context, path string) (*handle, error) {
	raw, err := c.openRaw(ctx, "open", packetOpen, path, openBody(path))
	if err != nil {
		return nil, err
	}
	return &handle{channel: c, raw: raw, path: path}, nil
}

// openNow is open for a handle that can be done without, and nil where the channel has no room for it: whoever holds a handle and waits for another's slot may
// be what that other one waits for.
func (c *channel) openNow(ctx context.Context, path string) (*handle, error) {
	alone, ok := c.slots.takeNow()
	if !ok {
		return nil, nil
	}
	raw, _, err := c.openOnce(ctx, "open", packetOpen, path, openBody(path), alone)
	if err != nil {
		return nil, err
	}
	return &handle{channel: c, raw: raw, path: path}, nil
}

// openBody is the body of an OPEN for reading: string path | uint32 flags | attributes.
func openBody(path string) []byte {
	const read = 0x1
	body := make([]byte, 0, 12+len(path))
	body = binary.BigEndian.AppendUint32(appendString(body, path), read)
	return binary.BigEndian.AppendUint32(body, 0) // no attributes
}

// openRaw sends OPEN or OPENDIR and returns the handle, in a slot of the channel that whoever closes it gives back.
func (c *channel) openRaw(ctx context.Context, op string, kind byte, path string, body []byte) (string, error) {
	for tries := 1; ; tries++ {
		alone, err := c.slots.take(ctx, c.link.dead)
		if err == errEnded {
			return "", &lostError{op: op, path: path, cause: c.link.cause}
		}
		if err != nil {
			return "", err
		}
		raw, again, err := c.openOnce(ctx, op, kind, path, body, alone)
		if err == nil || !again || tries == opensMax {
			return raw, err
		}
	}
}

// openOnce is one try, in a slot that was taken for it. again says that it may have failed for what else was open.
func (c *channel) openOnce(ctx context.Context, op string, kind byte, path string, body []byte, alone int) (raw string, again bool, err error) {
	err = c.do(ctx, op, path, func() error {
		a, err := c.stream.askBody(kind, body)
		if err != nil {
			return err
		}
		defer a.drop()
		raw, err = handleOf(a)
		return err
	})
	if err == nil {
		c.slots.opened()
		return raw, false, nil
	}
	var r *refusal
	return "", c.slots.refused(alone, errors.As(err, &r) && r.code == statusFailure), err
}

// close gives the handle back without waiting for the answer.
func (h *handle) close() {
	h.channel.link.source.background(func(ctx context.Context) {
		h.channel.closeHandle(ctx, h.path, h.raw)
		h.channel.slots.give()
	})
}

// stat asks the handle, not the path: the path may name another file by now.
func (h *handle) stat(ctx context.Context) (attr Attr, err error) {
	var why string
	err = h.channel.do(ctx, "fstat", h.path, func() error {
		a, err := h.channel.stream.ask(packetFstat, h.raw)
		if err != nil {
			return err
		}
		defer a.drop()
		attr, why, err = attrsOf(a)
		return err
	})
	if err != nil {
		return Attr{}, err
	}
	return h.opened(attr, why)
}

// opened judges what the server says of the open file.
func (h *handle) opened(attr Attr, why string) (Attr, error) {
	if why == "" && attr.ModeKnown && attr.Kind != File {
		why = "listed as a file, opened as a " + attr.Kind.String()
	}
	if why != "" {
		return Attr{}, &ProtocolError{Op: "fstat", Path: h.path, Detail: why}
	}
	return attr, nil
}

// attrsOf reads the answer to FSTAT; why is set when it is well formed and impossible.
func attrsOf(a answer) (attr Attr, why string, err error) {
	c := cursor{b: a.body}
	switch a.kind {
	case packetAttrs:
		attr, why = c.attr()
		return attr, why, c.err
	case packetStatus:
		return Attr{}, "", statusOf(&c, "attributes")
	}
	return Attr{}, "", fmt.Errorf("packet of type %d instead of attributes", a.kind)
}

// readAt fills p from an offset, or as far as the file goes: fewer bytes mean its end. It asks again after a short answer, which the protocol
// allows; p is never longer than one packet, since a server may answer longer requests short every time. All of it is one operation to the
// watchdog: a server that answers a byte at a time would move a byte in each of them, and end none.
func (h *handle) readAt(ctx context.Context, p []byte, offset uint64) (n int, err error) {
	err = h.channel.do(ctx, "read", h.path, func() error {
		for n < len(p) {
			if n > 0 {
				h.channel.link.source.requests.Add(1)
			}
			m, err := h.ask(p[n:], offset+uint64(n))
			if err != nil || m == 0 {
				return err
			}
			n += m
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return n, nil
}

// read asks once for len(p) bytes; none mean the end of the file.
func (h *handle) read(ctx context.Context, p []byte, offset uint64) (n int, err error) {
	err = h.channel.do(ctx, "read", h.path, func() (err error) {
		n, err = h.ask(p, offset)
		return err
	})
	return n, err
}

// ask sends one READ and waits for its answer.
func (h *handle) ask(p []byte, offset uint64) (int, error) {
	c := &call{max: frameMax, answer: make(chan answer, 1), into: p}
	err := h.channel.stream.issue(c, packetRead, readBody(nil, h.raw, offset, uint32(len(p))))
	a, err := c.await(err)
	if err != nil {
		return 0, err
	}
	defer a.drop()
	return contentOf(a)
}

// readBody appends the body of a READ: string handle | uint64 offset | uint32 length.
func readBody(b []byte, handle string, offset uint64, n uint32) []byte {
	b = binary.BigEndian.AppendUint64(appendString(b, handle), offset)
	return binary.BigEndian.AppendUint32(b, n)
}

// contentOf reads the answer to a READ whose content went into the memory that the call named; 0 is the end of the file.
func contentOf(a answer) (int, error) {
	switch a.kind {
	case packetData:
		return a.n, nil
	case packetStatus:
		c := cursor{b: a.body}
		err := statusOf(&c, "data")
		var r *refusal
		if errors.As(err, &r) && r.code == statusEOF {
			return 0, nil
		}
		return 0, err
	}
	return 0, fmt.Errorf("packet of type %d instead of data", a.kind)
}
