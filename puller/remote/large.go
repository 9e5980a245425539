package remote

import (
	"context"
	"errors"
	"sync"
	"time"
)

// budget is the memory that the blocks of large files may take, over the whole Source. Nobody waits for it: a file that gets none goes on with one
// block at a time, so that no file ever depends on another one's writer.
type budget struct {
	mu   sync.Mutex
	left int64
}

func (b *budget) take(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left < n {
		return false
	}
	b.left -= n
	return true
}

func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
}

// block is one request's worth of a file.
type block struct {
	buffer *[]byte
	n      int
	paid   bool // taken out of the budget
}

// assembly puts blocks that arrive in any order back into theirs. Readers take numbers and put blocks; one goroutine, the writer, takes them out.
type assembly struct {
	size  int    // bytes of every block but the last
	total uint64 // blocks; less once the file turns out to be shorter

	windowMin, windowMax uint64

	budget *budget

	mu      sync.Mutex // guards what follows
	changed *sync.Cond
	window  uint64 // blocks that may be between the reader in front and the writer
	next    uint64 // first number not yet taken
	head    uint64 // number that the writer wants
	ready   map[uint64]block
	err     error
	stopped bool
}

func newAssembly(bytes uint64, size, handles int, b *budget) *assembly {
	a := &assembly{size: size, total: (bytes + uint64(size) - 1) / uint64(size), budget: b, ready: map[uint64]block{},
		window: uint64(2 * handles), windowMin: uint64(2 * handles), windowMax: uint64(handles * readsPerHandle)}
	a.changed = sync.NewCond(&a.mu)
	return a
}

// widen makes room for the blocks of one more handle, and returns how many are left to be read.
func (a *assembly) widen() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.windowMin += 2
	a.windowMax += readsPerHandle
	a.window += 2
	a.changed.Broadcast()
	return a.left()
}

// worth says whether there is so much left to be read that a further handle pays.
func (a *assembly) worth() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.stopped && a.err == nil && a.left()*uint64(a.size) >= bytesPerHandle
}

// left is how many blocks nobody has taken. a.mu is held.
func (a *assembly) left() uint64 { return a.total - min(a.next, a.total) }

// take gives the next number to read; false when there is none any more. Without memory in the budget only the number that the writer waits for is given.
func (a *assembly) take() (number uint64, paid, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		if a.stopped || a.err != nil || a.next >= a.total {
			return 0, false, false
		}
		if a.next < a.head+a.window {
			if paid = a.budget.take(int64(a.size)); paid || a.next == a.head {
				number = a.next
				a.next++
				return number, paid, true
			}
		}
		a.changed.Wait()
	}
}

// put hands in a block. A block that is not full is the file's end, wherever that was expected. The window opens while answers come promptly, and
// closes while they do not: on a slow line a deep queue only makes every request in it look stalled.
func (a *assembly) put(number uint64, b block, prompt bool) {
	a.mu.Lock()
	if prompt {
		a.window = min(a.window+1, a.windowMax)
	} else {
		a.window = max(a.window-1, a.windowMin)
	}
	defer a.mu.Unlock()
	if a.stopped {
		a.free(b)
		return
	}
	if b.n < a.size {
		a.total = min(a.total, number+1)
	}
	a.ready[number] = b
	a.changed.Broadcast()
}

// fail makes the writer stop at once with err.
func (a *assembly) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil {
		a.err = err
	}
	a.changed.Broadcast()
}

// get waits for the next block in order; false at the end, or with an error.
func (a *assembly) get() (block, bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		if b, ok := a.ready[a.head]; ok && a.head < a.total {
			delete(a.ready, a.head)
			a.head++
			a.changed.Broadcast()
			return b, true, nil
		}
		if a.head >= a.total || a.err != nil {
			return block{}, false, a.err
		}
		a.changed.Wait()
	}
}

// free gives a block's memory back.
func (a *assembly) free(b block) {
	buffers.Put(b.buffer)
	if b.paid {
		a.budget.give(int64(a.size))
	}
}

// stop ends the taking of numbers and frees what nobody will write.
func (a *assembly) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = true
	for number, b := range a.ready {
		delete(a.ready, number)
		a.free(b)
	}
	a.changed.Broadcast()
}

// large reads with several requests in flight on one or several handles. It returns when all of them have been answered.
func (r *reading) large(ctx context.Context, first *handle, packet int) (Read, error) {
	rest := r.want.Size - r.from
	a := newAssembly(rest, packet, 0, r.source.buffer)
	team := &team{reading: r, assembly: a}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	team.read(ctx, first)
	gathering, enough := context.WithCancel(ctx)
	defer enough()
	if rest >= largeFile {
		team.work.Go(func() { team.gather(ctx, gathering, first) })
	}
	err := r.write(a)
	a.stop()
	enough()
	if err != nil {
		cancel()
	}
	team.work.Wait()
	if err != nil {
		team.closeAll()
		return Read{N: r.n}, err
	}
	after, err := team.compare(ctx, first)
	return Read{N: r.n, After: after}, err
}

// gather has the file read over all channels, also over those that are opened while it is being read, until that is over.
func (t *team) gather(ctx, gathering context.Context, first *handle) {
	before, err := first.stat(ctx)
	if err != nil {
		t.assembly.fail(err)
		return
	}
	t.before = before
	joined := map[*channel]bool{first.channel: true}
	for {
		changed := t.reading.source.changes()
		for _, c := range t.reading.source.all() {
			if !t.assembly.worth() {
				return
			}
			if !joined[c] {
				joined[c] = true
				t.join(ctx, c)
			}
		}
		select {
		case <-changed:
		case <-gathering.Done():
			return
		}
	}
}

// write hands the blocks to the writer in order.
func (r *reading) write(a *assembly) error {
	for {
		b, ok, err := a.get()
		if err != nil || !ok {
			return err
		}
		err = r.deliver((*b.buffer)[:b.n])
		a.free(b)
		if err != nil {
			return err
		}
	}
}

// team is the handles that read one file together.
type team struct {
	reading  *reading
	assembly *assembly
	before   Attr // what the first handle said, when there are several
	work     sync.WaitGroup

	mu     sync.Mutex // guards further
	others []*handle  // besides the first
}

// join opens the file on a further channel. It reads along only if it is the same file: the path may name another one by now. A refusal is
// no error, some servers allow one open file; nor is a channel without room for one more, which is not waited for: two files that are each open on the
// channel that the other one wants would wait for ever.
func (t *team) join(ctx context.Context, c *channel) {
	t.work.Go(func() {
		h, err := c.openNow(ctx, t.reading.path)
		if err != nil || h == nil {
			return
		}
		attr, err := h.stat(ctx)
		packet := 0
		if err == nil {
			packet, err = c.packet(ctx, t.reading.path)
		}
		if err != nil || attr != t.before || packet < t.assembly.size {
			h.close()
			return
		}
		t.mu.Lock()
		t.others = append(t.others, h)
		t.mu.Unlock()
		t.read(ctx, h)
	})
}

// read starts the readers of one handle.
func (t *team) read(ctx context.Context, h *handle) {
	h.channel.warm.Store(true)
	for range min(readsPerHandle, t.assembly.widen()) {
		t.work.Go(func() {
			for {
				number, paid, ok := t.assembly.take()
				if !ok {
					return
				}
				t.one(ctx, h, number, paid)
			}
		})
	}
}

func (t *team) one(ctx context.Context, h *handle, number uint64, paid bool) {
	r, a := t.reading, t.assembly
	b := block{buffer: buffers.Get().(*[]byte), paid: paid}
	start := number * uint64(a.size)
	ask := int(min(uint64(a.size), r.want.Size-r.from-start))
	begin := time.Now()
	n, err := h.readAt(ctx, (*b.buffer)[:ask], r.from+start)
	if err != nil {
		a.free(b)
		a.fail(err)
		return
	}
	b.n = n
	a.put(number, b, time.Since(begin) < r.source.config.Limits.OpTimeout/8)
}

// compare asks every handle for its attributes and closes all but the first.
func (t *team) compare(ctx context.Context, first *handle) (Attr, error) {
	defer t.closeAll()
	after, err := first.stat(ctx)
	if err != nil {
		return Attr{}, err
	}
	for _, h := range t.others {
		other, err := h.stat(ctx)
		switch {
		case err != nil && !errors.Is(err, ErrLost):
			return Attr{}, err
		case err != nil || other != after:
			t.reading.differ = true
		}
	}
	return after, nil
}

func (t *team) closeAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, h := range t.others {
		h.close()
	}
	t.others = nil
}
