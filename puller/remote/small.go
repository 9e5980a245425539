package remote

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
)

// dripsMax is how many times a server may answer a whole small file short before files are no longer asked for in bursts.
const dripsMax = 8

// burst is a small file's requests behind OPEN, sent together:
//
//	READ of exactly the listed size | FSTAT | CLOSE
//
// A server that answers strictly in order has read before it looks at the attributes, and costs one round trip for the three. Whoever waits is woken
// once, when READ and FSTAT are answered; CLOSE is a call of its own, since its answer decides nothing.
type burst struct {
	answers [2]answer
	waiting atomic.Int32
	done    chan struct{}
	calls   [3]call
	sent    bool
}

const (
	partRead = iota
	partStat
	partClose
)

// take is called once for each part, by the stream.
func (b *burst) take(part int, a answer) {
	b.answers[part] = a
	if b.waiting.Add(-1) == 0 {
		close(b.done)
	}
}

// small reads what fits into one request, and asks for no byte beyond the file's end: a server that answers such a request in drips would be asked
// for each of them. What a burst does not bring is asked for again with care: a server that closes a file before it has read it is a slow one then, and not
// one whose files cannot be read.
func (r *reading) small(ctx context.Context, c *channel, packet int) (Read, error) {
	if !c.deep || r.source.drips.Load() >= dripsMax {
		return r.careful(ctx, c)
	}
	read, ok, err := r.burst(ctx, c, packet)
	if err != nil || ok {
		return read, err
	}
	if read, err = r.careful(ctx, c); err == nil {
		r.source.drips.Add(1)
	}
	return read, err
}

// content lends memory for the whole file, to be given back with free.
func (r *reading) content(ctx context.Context) (p []byte, free func(), err error) {
	size := int(r.want.Size - r.from)
	if size > packetSmall {
		select {
		case r.source.middle <- struct{}{}:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
	buffer := newBuffer(size)
	return (*buffer)[:size], func() {
		freeBuffer(buffer)
		if size > packetSmall {
			<-r.source.middle
		}
	}, nil
}

// careful asks for one thing after the other, and again for what did not come.
func (r *reading) careful(ctx context.Context, c *channel) (Read, error) {
	h, err := c.open(ctx, r.path)
	if err != nil {
		return Read{}, err
	}
	defer h.close()
	p, free, err := r.content(ctx)
	if err != nil {
		return Read{}, err
	}
	defer free()
	n, err := h.readAt(ctx, p, r.from)
	if err != nil {
		return Read{}, err
	}
	after, err := h.stat(ctx)
	if err != nil {
		return Read{}, err
	}
	err = r.deliver(p[:n])
	return Read{N: r.n, After: after}, err
}

// burst reads in two round trips. It is not ok when the answer was shorter than the file, which the protocol allows, or a refusal: nothing was delivered then.
func (r *reading) burst(ctx context.Context, c *channel, packet int) (read Read, ok bool, err error) {
	h, err := c.open(ctx, r.path)
	if err != nil {
		return Read{}, false, err
	}
	p, free, err := r.content(ctx)
	if err != nil {
		h.close()
		return Read{}, false, err
	}
	defer free()
	ask := len(p)
	if !c.warm.Swap(true) {
		ask = packet // OpenSSH 9.2 leaks memory when the lengths of a channel's READs grow: what is beyond the file is dropped
	}
	b := &burst{done: make(chan struct{})}
	n, after, why := 0, Attr{}, ""
	err = c.do(ctx, "read", r.path, func() (err error) {
		n, after, why, err = b.run(h, p, r.from, uint32(ask))
		return err
	})
	if b.sent {
		c.link.source.requests.Add(2)
		h.closed(b)
	} else {
		h.close()
	}
	if b.sent && refused(err) {
		return Read{}, false, nil
	}
	if err != nil {
		return Read{}, false, err
	}
	if after, err = h.opened(after, why); err != nil {
		return Read{}, false, err
	}
	if n < len(p) && after.Size > r.from+uint64(n) {
		return Read{}, false, nil
	}
	err = r.deliver(p[:n])
	return Read{N: r.n, After: after}, true, err
}

// run sends the burst and waits for its first two answers.
func (b *burst) run(h *handle, p []byte, offset uint64, ask uint32) (n int, attr Attr, why string, err error) {
	b.sent = true
	b.waiting.Store(2)
	b.calls[partRead] = call{max: frameMax, into: p, burst: b, part: partRead}
	b.calls[partStat] = call{max: frameMax, burst: b, part: partStat}
	b.calls[partClose] = call{max: frameMax, answer: make(chan answer, 1)}
	h.channel.stream.sendBurst(b, h.raw, offset, ask)
	<-b.done
	return b.taken()
}

// taken makes of the two answers what they mean.
func (b *burst) taken() (n int, attr Attr, why string, err error) {
	for _, a := range b.answers {
		defer a.drop()
	}
	for _, a := range b.answers {
		if a.err != nil {
			return 0, Attr{}, "", a.err
		}
	}
	if n, err = contentOf(b.answers[partRead]); err == nil {
		attr, why, err = attrsOf(b.answers[partStat])
	}
	return n, attr, why, err
}

// packets are the memory in which bursts are put together.
var packets = sync.Pool{New: func() any { return new(make([]byte, 0, 256)) }}

// sendBurst sends READ, FSTAT and CLOSE of a handle in one go. All parts are told, also when they could not be sent.
func (s *stream) sendBurst(b *burst, handle string, offset uint64, ask uint32) {
	first, err := s.register(&b.calls[partRead], &b.calls[partStat], &b.calls[partClose])
	if err != nil {
		for i := range b.calls {
			b.calls[i].tell(answer{err: err})
		}
		return
	}
	buffer := packets.Get().(*[]byte)
	defer packets.Put(buffer)
	p, id := (*buffer)[:0], first
	for part, kind := range [...]byte{partRead: packetRead, partStat: packetFstat, partClose: packetClose} {
		start := len(p)
		p = append(p, 0, 0, 0, 0, kind)
		p = binary.BigEndian.AppendUint32(p, id)
		if part == partRead {
			p = readBody(p, handle, offset, ask)
		} else {
			p = appendString(p, handle)
		}
		binary.BigEndian.PutUint32(p[start:], uint32(len(p)-start-4))
		id = nextID(id)
	}
	*buffer = p
	if err := s.put(p); err != nil {
		for id, n := first, len(b.calls); n > 0; id, n = nextID(id), n-1 {
			s.withdraw(id, err)
		}
	}
}

// closed gives back the slot of a handle whose CLOSE went with a burst: at once if that is answered, as it mostly is, else when it is.
func (h *handle) closed(b *burst) {
	answers := b.calls[partClose].answer
	select {
	case a := <-answers:
		a.drop()
		h.channel.slots.give()
		return
	default:
	}
	c := h.channel
	c.link.source.background(func(ctx context.Context) {
		c.drain(ctx, "close", h.path, answers, 1)
		c.slots.give()
	})
}
