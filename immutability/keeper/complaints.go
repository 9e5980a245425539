package keeper

import (
	"sync"
	"time"
)

// complaintsMax is how many lines within a minute peers may cause that do not do as they should.
const complaintsMax = 30

// complaints are lines of the log that a peer causes. Whoever keeps the log leaves out what comes too fast (journald does so
// for a whole service), and the lines that matter with it: so a few are said, and how many more there were.
type complaints struct {
	mu     sync.Mutex // guards all below
	since  time.Time
	said   int
	unsaid int
}

func (c *complaints) say(logf func(string, ...any), format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.since) >= time.Minute {
		if c.unsaid > 0 {
			logf("keeper: %d more connections were refused or ended badly since %s", c.unsaid, c.since.UTC().Format(time.RFC3339))
		}
		c.since, c.said, c.unsaid = now, 0, 0
	}
	if c.said >= complaintsMax {
		c.unsaid++
		return
	}
	c.said++
	logf(format, args...)
}
