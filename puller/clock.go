package puller

import (
	"context"
	"sync"
	"time"
)

const (
	// clockEvery is how old the last look at the source's clock may be.
	clockEvery = 5 * time.Second
	// skewMax is what is allowed for between the source's clock and ours where the source's cannot be seen.
	skewMax = 10 * time.Minute
)

// sourceClock tells what the source's clock shows at the least. A file whose mtime is not older than that may be
// modified again without its mtime, of whole seconds, changing: it is racy, and read again by the next pull.
type sourceClock struct {
	job  *Job
	link *link

	mu    sync.Mutex
	seen  bool // the source shows its clock
	at    time.Time
	asked time.Time // by our clock
	busy  bool      // somebody is asking
}

// begin looks at the clock for the first time and says whether it can be seen.
func (c *sourceClock) begin(ctx context.Context) (bool, error) {
	var known bool
	err := c.link.do(ctx, nil, func(ctx context.Context, r Remote) error {
		asked := c.job.Now()
		t, ok, err := r.Now(ctx)
		if err == nil && ok {
			c.mu.Lock()
			c.at, c.asked, c.seen, known = t, asked, true, true
			c.mu.Unlock()
		}
		if transient(err) {
			return err
		}
		return nil // a clock that cannot be read is one that cannot be seen
	})
	return known, err
}

// least returns what the source's clock shows at the least now, in whole seconds. It must be asked before what is
// to be judged is looked at. Where the clock can be seen it is looked at every few seconds, by one caller for all.
func (c *sourceClock) least(ctx context.Context, r Remote) int64 {
	c.mu.Lock()
	if !c.seen {
		c.mu.Unlock()
		return c.job.Now().Add(-skewMax).Unix()
	}
	now := c.job.Now()
	age := now.Sub(c.asked)
	if c.busy || age >= 0 && age < clockEvery {
		defer c.mu.Unlock()
		return c.at.Unix()
	}
	c.busy = true
	c.mu.Unlock()
	t, ok, err := r.Now(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = false
	if err == nil && ok {
		// What was seen before may be later than what is seen now: the source's clock was set back, and what is
		// modified from now on carries earlier times. The newest look counts.
		c.at = t
	}
	c.asked = now
	return c.at.Unix()
}

// last returns what least would, from the last look.
func (c *sourceClock) last() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.seen {
		return c.job.Now().Add(-skewMax).Unix()
	}
	return c.at.Unix()
}

// racy says whether a file with this mtime must be read again, given what the clock showed before it was read. An mtime
// of 0 may mean that the source told none, which proves nothing.
func racy(mtime, least int64) bool { return mtime == 0 || mtime >= least }
