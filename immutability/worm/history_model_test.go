package worm_test

import (
	"fmt"
	"slices"
	"time"
)

// model is what ought to be true of a vault, told in real time, which no program can see. It is written from the promises
// and knows nothing of how the vault decides: no stamps, no credited time, no ledger.
type model struct {
	real  time.Duration // since the vault was made
	snaps []*promised   // in the order of their commits
	packs map[uint32]*stored

	// trusted says that the promise about early expiry holds: the wall clock is honest, or a counter of the kernel is.
	trusted bool
	shift   shiftModel
}

// promised is a snapshot that the vault acknowledged.
type promised struct {
	id, source      string
	complete, clean bool
	grants          []promise
	packs           []uint32
	held, gone      bool
	marked          notice
}

// notice is since when something is told to go a day later: not at all, or from a real moment on.
type notice struct {
	told bool
	at   time.Duration
	// spared says that somebody who cannot be seen in the ledger needed it since.
	spared bool
}

// tells follows what the vault says after it may have marked something.
func (n *notice) tells(marked bool, real time.Duration) {
	switch {
	case !marked:
		*n = notice{}
	case !n.told || n.spared:
		*n = notice{told: true, at: real}
	}
}

// due says why it must not go yet, or "".
func (m *model) due(n notice) string {
	switch {
	case !n.told:
		return "it was never marked"
	case n.spared:
		return "it was claimed since it was marked"
	case m.trusted && m.real-n.at < day:
		return fmt.Sprintf("it was marked %v ago", m.real-n.at)
	}
	return ""
}

// promise is a lock: from this real moment for so long.
type promise struct {
	at         time.Duration
	length     time.Duration
	compliance bool
	until      time.Time // the least that may be shown as its end
}

type stored struct {
	sealed    time.Duration
	committed bool
	gone      bool
	marked    notice
}

func newModel(trusted bool) *model { return &model{trusted: trusted, packs: map[uint32]*stored{}} }

func (m *model) find(id string) *promised {
	for _, s := range m.snaps {
		if s.id == id {
			return s
		}
	}
	return nil
}

// protected says why a snapshot must be locked at this real moment, or "".
func (m *model) protected(s *promised) string {
	if !m.trusted {
		return ""
	}
	for _, p := range s.grants {
		if passed := m.real - p.at; passed < p.length {
			return fmt.Sprintf("locked for %v, and %v have passed", p.length, passed)
		}
	}
	return ""
}

// keeps says why a snapshot never goes: the newest complete one of its source, the newest clean one, the newest that is both.
func (m *model) keeps(s *promised) string {
	for name, is := range map[string]func(*promised) bool{
		"complete": func(p *promised) bool { return p.complete }, "clean": func(p *promised) bool { return p.clean },
		"complete and clean": func(p *promised) bool { return p.complete && p.clean },
	} {
		for _, p := range slices.Backward(m.snaps) {
			if p.source == s.source && !p.gone && is(p) {
				if p == s {
					return "it is the newest " + name + " one of its source"
				}
				break
			}
		}
	}
	only := s
	for _, p := range m.snaps {
		if p.source != s.source || p.gone {
			continue
		}
		if p.complete || p.clean {
			return ""
		}
		only = p
	}
	if only == s {
		return "it is the newest of a source that has no good one"
	}
	return ""
}

// mayGo says why a snapshot must not go, or "".
func (m *model) mayGo(s *promised) string {
	if s.gone {
		return "it went before"
	}
	if s.held {
		return "it is held"
	}
	if why := m.shift.holds(); why != "" {
		return why
	}
	if why := m.protected(s); why != "" {
		return why
	}
	if why := m.due(s.marked); why != "" {
		return why
	}
	return m.keeps(s)
}

// packMayGo says why a pack must not go, or "".
func (m *model) packMayGo(n uint32) string {
	p := m.packs[n]
	if p == nil || p.gone {
		return "it is none, or went before"
	}
	if why := m.shift.holds(); why != "" {
		return why
	}
	if why := m.due(p.marked); why != "" {
		return why
	}
	for _, s := range m.snaps {
		if !s.gone && slices.Contains(s.packs, n) {
			return "snapshot " + s.id[:8] + " relies on it"
		}
	}
	if m.trusted && !p.committed && m.real-p.sealed < 14*24*time.Hour {
		return fmt.Sprintf("its session was at work %v ago", m.real-p.sealed)
	}
	return ""
}

// shiftModel says when nothing may expire since the wall clock has moved: as it is documented, and only where that is beyond
// doubt. What it does not say it leaves open.
type shiftModel struct {
	born      bool          // since the first reading of all, so that nothing had moved before
	known     bool          // a reading of this boot was seen
	base      time.Duration // the wall clock's lead on BOOTTIME then
	lead      time.Duration // at the last reading
	wall      time.Duration
	raw, boot time.Duration
	ran       time.Duration // since the shift was seen, by the slower of the counters
	since     time.Duration // the lead when it was seen
	shifted   bool
}

const (
	day     = 24 * time.Hour
	settles = 7*day - 2*time.Second
)

// saw is told each moment at which the vault read its clocks and lived on, and whether expiry stands still by its own word.
// Where the model does not know how the clocks moved before, it begins only when the vault says that all is well, and allows
// for a day that they may have moved by.
func (s *shiftModel) saw(wall, raw, boot time.Duration, said bool) {
	lead := wall - boot
	stray := 2 * time.Second
	switch {
	case s.born:
		stray += day
	default:
		stray += 2 * day
	}
	if !s.known {
		if said {
			return
		}
		*s = shiftModel{known: true, base: lead, since: lead, born: s.born}
	} else if ran := min(raw-s.raw, boot-s.boot); ran > 0 {
		s.ran += ran
	}
	s.wall, s.raw, s.boot, s.lead = wall, raw, boot, lead
	off := (lead - s.base).Abs()
	switch {
	case off <= stray && said, s.shifted && s.ran >= settles:
		s.forget() // what the vault takes for right from here on is not sure
	case off <= stray:
		s.shifted = false
	case !s.shifted || (lead-s.since).Abs() > day-2*time.Second:
		s.shifted, s.since, s.ran = true, lead, 0
	}
}

// forget leaves everything open until the next reading.
func (s *shiftModel) forget() { *s = shiftModel{} }

// rebooted carries a step forward into the next boot, where the wall clock shows wall and the counters begin at nought.
func (s *shiftModel) rebooted(wall time.Duration) {
	s.born = false
	if !s.known || !s.shifted || s.lead < s.base || wall < s.wall || wall-s.wall > 300*day {
		s.forget()
		return
	}
	ahead := s.lead - s.base
	s.lead = wall
	s.base, s.since = wall-ahead, wall
	s.wall, s.raw, s.boot = wall, 0, 0
}

func (s *shiftModel) holds() string {
	if s.known && s.shifted && s.ran < settles {
		return fmt.Sprintf("the wall clock moved by %v, %v of running time ago", s.lead-s.base, s.ran)
	}
	return ""
}
