package remote

import (
	"context"
	"sync"
	"time"
)

// ageMax is how many times OpTimeout an operation may last, whatever else the channel carries.
const ageMax = 10

// graceMax is how long a cancelled operation may still wait for its answer before its connection is closed for it.
const graceMax = 2 * time.Second

// watch is the watchdog of one operation. Each OpTimeout it looks at what its channel received since the last look. Its
// clock stands while the connection waits for its limit of bandwidth.
type watch struct {
	channel *channel
	begin   time.Time
	paced   time.Duration // by the connection, before
	unwatch func() bool   // of the context

	mu    sync.Mutex // guards what follows
	seen  int64
	last  time.Duration // age at the last look that counted
	timer *time.Timer
	over  bool
	bite  bool // the watchdog closed the connection
}

func (c *channel) watch(ctx context.Context) *watch {
	w := &watch{channel: c, begin: time.Now(), paced: c.link.wire.pacing.total(), seen: c.stream.done.Load()}
	timeout := c.link.source.config.Limits.OpTimeout
	w.mu.Lock()
	w.timer = time.AfterFunc(timeout, w.look)
	w.mu.Unlock()
	w.unwatch = context.AfterFunc(ctx, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if !w.over {
			w.timer.Stop()
			w.timer = time.AfterFunc(min(timeout, graceMax), func() { w.cancel(ctx) })
		}
	})
	return w
}

// age is how long the operation has been waiting for the source.
func (w *watch) age() time.Duration {
	return time.Since(w.begin) - (w.channel.link.wire.pacing.total() - w.paced)
}

// look closes the connection if the channel moved less than the floor, or if the operation is too old.
func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	limits := w.channel.link.source.config.Limits
	age := w.age()
	if early := limits.OpTimeout - (age - w.last); early > 0 {
		w.timer.Reset(early)
		return
	}
	seen := w.channel.stream.done.Load()
	floor := max(1, int64(limits.OpTimeout.Seconds()*float64(limits.FloorBytesPerSecond)))
	if seen-w.seen < floor || age > ageMax*limits.OpTimeout {
		w.bite = true
		w.channel.link.kill(ErrStalled)
		return
	}
	w.seen, w.last = seen, age
	w.timer.Reset(limits.OpTimeout)
}

func (w *watch) cancel(ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		w.channel.link.kill(context.Cause(ctx))
	}
}

// end stops the watchdog and says whether it bit.
func (w *watch) end() bool {
	w.unwatch()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.timer.Stop()
	return w.bite
}
