// Package schedule says when a source is to be pulled next, from its policy and history alone.
//
// Nothing here reads a clock or keeps state: the same question has the same answer, on every machine and after every
// restart.
package schedule

import (
	"hash/fnv"
	"time"
)

// Policy is how often a source is pulled. The zero Policy never pulls.
type Policy struct {
	// Every is the time between two pulls. Pulls begin at whole multiples of it since midnight UTC of 1 January 1970, moved
	// by the source's own share of Jitter: a source that is pulled daily is pulled at the same time each day.
	Every time.Duration
	// Jitter spreads sources over the time after each multiple, so that they do not all begin at once. It counts up to Every.
	Jitter time.Duration
	// MinGap is the least time between the end of a pull and the beginning of the next, and the first pause before a pull that
	// failed is tried again.
	MinGap time.Duration
}

// History is what is known of a source's pulls. Zero times mean never.
type History struct {
	LastBegin time.Time // of the newest pull, whatever came of it
	LastEnd   time.Time // of the newest pull; zero or before LastBegin while it runs, or when the process died under it
	Failures  int       // pulls in a row, up to the newest, that made no snapshot
}

// retryMax bounds how often MinGap is doubled after failures.
const retryMax = 6

// Next returns when the source called name is to be pulled next; not after now means at once. ok is false when the policy
// never pulls.
//
// A pull that is overdue, because the machine was off or the pull before took too long, is made once and at once. A pull
// that failed is tried again after MinGap, then twice that and so on, but no later than the next regular one. Times in the future come
// from a clock that was set back, and count as now.
func Next(name string, p Policy, h History, now time.Time) (next time.Time, ok bool) {
	if p.Every <= 0 {
		return time.Time{}, false
	}
	begin, end := past(h.LastBegin, now), past(h.LastEnd, now)
	if begin.IsZero() {
		return now, true
	}
	next = p.after(name, begin)
	free := begin // an end before the begin is of the pull before
	if end.After(begin) {
		free = end
	}
	if h.Failures > 0 {
		if again := free.Add(p.MinGap << min(h.Failures-1, retryMax)); p.MinGap > 0 && again.Before(next) {
			next = again
		}
	}
	if least := free.Add(p.MinGap); next.Before(least) {
		next = least
	}
	return next, true
}

// past is t, or now if t lies in the future.
func past(t, now time.Time) time.Time {
	if t.After(now) {
		return now
	}
	return t
}

// after is the first regular time after t.
func (p Policy) after(name string, t time.Time) time.Time {
	offset := p.offset(name)
	since := t.Add(-offset).Sub(time.Unix(0, 0))
	passed := since / p.Every
	if since < 0 && since%p.Every != 0 {
		passed-- // division rounds towards zero, and we need the multiple before t
	}
	return time.Unix(0, 0).UTC().Add((passed + 1) * p.Every).Add(offset)
}

// offset is the source's share of the jitter: always the same for a name.
func (p Policy) offset(name string) time.Duration {
	jitter := min(p.Jitter, p.Every)
	if jitter <= 0 {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	// The multiplication spreads names that differ in their last letter alone.
	return time.Duration((h.Sum64() * 0x9e3779b97f4a7c15 >> 1) % uint64(jitter))
}
