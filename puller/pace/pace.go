// Package pace lets what arrives from the sources arrive no faster than a timetable says.
//
// A Line is one limit, of the vault or of a source. Who shares it has a Share each, and waits there for every piece that
// arrived. Pieces are let through one after the other, at the line's rate; next comes always a piece of the share that had
// least so far, so a source with sixteen connections gets no more of the vault's limit than one with a single connection,
// and what one does not use the others do.
package pace

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-vault/holdfast/puller/bandwidth"
)

const (
	// burst is how much time that nobody used may be used later: timers are no finer than that.
	burst = 50 * time.Millisecond
	// lookAgain is how long a rate is believed: the wall clock may be set at any time.
	lookAgain = time.Minute
)

// Line is a limit. It is safe for concurrent use.
type Line struct {
	clock func() time.Time // on the wall: it says which rate holds, and nothing is measured by it

	mu      sync.Mutex // guards what follows
	table   bandwidth.Timetable
	rate    bandwidth.Rate // holds until `until`
	until   time.Time
	free    time.Time // when what was let through has been paid for
	waiting []*piece  // in the order in which they came
	virtual int64     // the start of the piece that was let through last: where a share begins that had nothing lately
	timer   *time.Timer
}

// piece is so many bytes that arrived and wait to be let through.
type piece struct {
	bytes int
	start int64         // bytes that its share had before it, counted from where the line was
	ready chan struct{} // closed when it may go
}

// NewLine makes a line; clock is the clock on the wall, in the location whose times of day count; nil is time.Now.
func NewLine(t bandwidth.Timetable, clock func() time.Time) *Line {
	if clock == nil {
		clock = time.Now
	}
	return &Line{table: t, clock: clock}
}

// Set gives the line another timetable. Who waits now waits by that one.
func (l *Line) Set(t bandwidth.Timetable) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.table, l.until = t, time.Time{}
	l.serve()
}

// Share makes one more share of the line, for one source. It needs no end.
func (l *Line) Share() *Share { return &Share{line: l} }

// Share is what one source has of a Line. It is safe for concurrent use.
type Share struct {
	line *Line
	next int64 // start of its next piece; guarded by line.mu
}

// Wait waits until so many bytes may have arrived, or for the context's end.
func (s *Share) Wait(ctx context.Context, bytes int) error {
	l := s.line
	l.mu.Lock()
	now := time.Now()
	if len(l.waiting) == 0 && l.rateAt(now) == bandwidth.Unlimited {
		l.mu.Unlock()
		return nil
	}
	p := &piece{bytes: bytes, start: max(s.next, l.virtual), ready: make(chan struct{})}
	s.next = p.start + int64(bytes)
	l.waiting = append(l.waiting, p)
	l.serve()
	l.mu.Unlock()
	select {
	case <-p.ready:
		return nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = slices.DeleteFunc(l.waiting, func(other *piece) bool { return other == p })
	l.serve()
	return context.Cause(ctx)
}

// rateAt is the rate that holds now. When it has changed, what is not paid for yet is paid at the new one. l.mu is held.
func (l *Line) rateAt(now time.Time) bandwidth.Rate {
	if now.Before(l.until) {
		return l.rate
	}
	wall := l.clock()
	rate := l.table.Rate(wall)
	l.until = now.Add(lookAgain)
	if next, ok := l.table.Next(wall); ok {
		l.until = now.Add(min(lookAgain, next.Sub(wall)))
	}
	if debt := l.free.Sub(now); rate != l.rate && debt > 0 {
		l.free = now
		if rate != bandwidth.Unlimited {
			l.free = now.Add(time.Duration(float64(debt) * float64(l.rate) / float64(rate)))
		}
	}
	l.rate = rate
	return rate
}

// serve lets through what may go now, and sets the timer for what may go later. l.mu is held.
func (l *Line) serve() {
	for len(l.waiting) > 0 {
		now := time.Now()
		rate := l.rateAt(now)
		if wait := l.free.Sub(now); rate != bandwidth.Unlimited && wait > 0 {
			l.later(min(wait, l.until.Sub(now)))
			return
		}
		p := l.take()
		l.virtual = max(l.virtual, p.start)
		if rate != bandwidth.Unlimited {
			if earliest := now.Add(-burst); l.free.Before(earliest) {
				l.free = earliest
			}
			l.free = l.free.Add(time.Duration(float64(p.bytes) / float64(rate) * float64(time.Second)))
		}
		close(p.ready)
	}
	if l.timer != nil {
		l.timer.Stop()
	}
}

// take removes the piece of the share that had least. l.mu is held and something waits.
func (l *Line) take() *piece {
	best := 0
	for i, p := range l.waiting {
		if p.start < l.waiting[best].start {
			best = i
		}
	}
	p := l.waiting[best]
	l.waiting = slices.Delete(l.waiting, best, best+1)
	return p
}

// later serves again after a while. l.mu is held.
func (l *Line) later(d time.Duration) {
	if l.timer != nil {
		l.timer.Reset(d)
		return
	}
	l.timer = time.AfterFunc(d, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.serve()
	})
}

// Shares are several limits that hold together: a source's own and the vault's.
type Shares []*Share

// Wait waits at each of them in turn.
func (s Shares) Wait(ctx context.Context, bytes int) error {
	for _, share := range s {
		if err := share.Wait(ctx, bytes); err != nil {
			return err
		}
	}
	return nil
}
