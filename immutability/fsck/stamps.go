package fsck

import "time"

// shiftTold is how far the wall clock must move against the running time before a person is told.
const shiftTold = 10 * time.Minute

// stamps follows the vault's clocks from record to record.
type stamps struct {
	boots   map[string]bool
	stopped bool // the newest of "stopped" and "resumed" is the first
}

func newStamps() stamps { return stamps{boots: map[string]bool{}} }

// takeClock follows a record of what the clocks did to each other. It is told, and judged by nobody here.
func (h *history) takeClock(r *record, b *clockBody) {
	switch b.event {
	case "stopped":
		h.clock.stopped = true
	case "resumed":
		h.clock.stopped = false
	case "ran":
		return
	}
	h.r.note(KindClock, recordName(r), "%s: the wall clock was %d s ahead of what it should show, and had moved by %d s: %s", b.event, b.off, b.moved, b.detail)
}

// stamp holds a record's moment against the one before. Credited running time never goes back; the wall clock may have
// been corrected, which is told and judged by nobody here.
func (h *history) stamp(r *record) {
	last := h.last
	at := r.at
	h.last = &at
	h.r.Newest = &at
	if last == nil {
		h.clock.boots[at.Boot] = true
		return
	}
	if at.Running < last.Running {
		h.wrong(r, KindClock, "its running time is %d s, less than the %d s of the record before: credited time never goes back, so this record, or one before it, was changed, or stands in another's place", at.Running, last.Running)
	}
	if at.Boot != last.Boot {
		if h.clock.boots[at.Boot] {
			h.r.note(KindClock, r.where(), "boot %q comes again after another: the machine was put back to an earlier moment", at.Boot)
		}
		h.clock.boots[at.Boot] = true
	}
	wall := at.Wall.Sub(last.Wall)
	ran := time.Duration(min(max(at.Running-last.Running, 0), secondsMax)) * time.Second
	switch {
	case wall < -shiftTold:
		h.r.note(KindClock, recordName(r), "the wall clock went back by %v, to %s", -wall.Round(time.Second), at.Wall.Format(time.RFC3339))
	case ran-wall > shiftTold:
		h.r.note(KindClock, recordName(r), "the wall clock fell behind the running time by %v, to %s", (ran - wall).Round(time.Second), at.Wall.Format(time.RFC3339))
	}
}
