package clock

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
)

// keeping is a clock with what a ledger would know of it.
type keeping struct {
	c *Clock
	m *Manual
	k Known
}

func newKeeping(t *testing.T) *keeping {
	m := NewManual(start)
	p := &keeping{m: m, c: opened(t, crashdisk.New(), m, Stamp{})}
	p.k.First = now(t, p.c)
	p.k.Newest = p.k.First
	return p
}

// due asks, and records what is due.
func (p *keeping) due(t *testing.T, quiet bool, want EventKind, words ...string) Event {
	t.Helper()
	at := now(t, p.c)
	e, due := p.c.Due(p.k, quiet)
	if due != (want != "") || e.Kind != want {
		t.Fatalf("due is %q (%s), want %q", e.Kind, e.Detail, want)
	}
	for _, w := range words {
		if !strings.Contains(e.Detail, w) {
			t.Errorf("%q does not say %q", e.Detail, w)
		}
	}
	if !due {
		return e
	}
	p.c.Recorded(e)
	p.k.Newest = at
	n := &p.k.Noted
	switch e.Kind {
	case Moved:
		n.Moved = at
	case Stopped, Resumed:
		n.Turned, n.Stopped = at, e.Kind == Stopped
	case State:
		n.State = at
	}
	if e.Kind != Ran {
		n.At, n.Off = at, e.Off
	}
	return e
}

// What moves within an hour of running time is told at its end, as a sum; nothing is told twice.
func TestEventsAreAnHourApart(t *testing.T) {
	p := newKeeping(t)
	p.m.Advance(time.Minute) // not the very first second, which is no stamp's
	p.m.StepWall(movedLimit - 2*time.Second)
	p.due(t, true, "")
	p.m.StepWall(2 * time.Second)
	p.due(t, false, Moved, "set ahead by 10 minutes")
	p.due(t, false, "")
	p.m.StepWall(time.Hour)
	p.m.Advance(eventEvery - time.Second)
	p.due(t, false, "")
	p.m.StepWall(-3 * time.Hour)
	p.due(t, false, "")
	p.m.Advance(time.Second)
	if e := p.due(t, false, Moved, "set back by 2 hours, in 2 steps", "110 minutes behind"); e.Times != 2 || e.Moved != -2*time.Hour || e.Off != -110*time.Minute {
		t.Errorf("%+v", e)
	}
	p.m.StepWall(30 * 24 * time.Hour)
	p.due(t, false, Stopped, "30 days ahead", "nothing expires")
	p.m.StepWall(-29*24*time.Hour - 10*time.Hour)
	p.due(t, false, "")
	p.m.Advance(eventEvery)
	p.due(t, false, Resumed, "within bounds again", "12 hours ahead", "expires again")
}

func TestAQuietDayIsRecordedOnlyWhenAsked(t *testing.T) {
	p := newKeeping(t)
	p.m.Advance(ranEvery)
	p.due(t, false, "")
	p.due(t, true, Ran, "24 hours of running time")
	p.due(t, true, "")
}

// Each way in which a state can be wrong is told once, and credits nothing that it should not.
func TestAWrongStateIsTold(t *testing.T) {
	const vault, other = "0123456789abcdef0123456789abcdef", "ffffffffffffffffffffffffffffffff"
	newest := Stamp{Wall: start, Running: 100_000, Boot: "some"}
	saved := func(s state) string { return encoded(t, s) }
	base := state{Vault: vault, Records: 5, Running: 100_000 * time.Second, Boot: "some", Wall: start, ExpectedWall: start}
	later := base
	later.Running += time.Hour
	with := func(change func(*state)) string {
		s := base
		change(&s)
		return saved(s)
	}
	for name, c := range map[string]struct {
		file    string
		found   error
		running int64
	}{
		"right":              {saved(base), nil, 100_000},
		"a little behind":    {with(func(s *state) { s.Running -= 30 * time.Minute }), nil, 100_000},
		"ahead by a day":     {with(func(s *state) { s.Running += day }), nil, 100_000 + 86400},
		"an hour behind":     {with(func(s *state) { s.Running -= time.Hour }), ErrOlder, 100_000},
		"another vault's":    {with(func(s *state) { s.Vault = other; s.Running *= 9 }), ErrForeign, 100_000},
		"ahead by 8 days":    {with(func(s *state) { s.Running += 8 * day }), ErrAhead, 100_000 + 7*86400},
		"ahead of the wall":  {with(func(s *state) { s.Running += 5 * day; s.Wall = s.Wall.Add(-20 * day) }), nil, 100_000 + 5*86400},
		"of fewer records":   {with(func(s *state) { s.Records = 4; s.Running += time.Hour }), ErrOlder, 100_000},
		"damaged":            {"x", ErrDamaged, 100_000},
		"missing":            {"", fs.ErrNotExist, 100_000},
		"of an older format": {old(t, base), nil, 100_000},
		"of an older format, an hour after the newest record": {old(t, later), nil, 103_600},
	} {
		d := crashdisk.New()
		if c.file != "" {
			must(t, durable.WriteNew(d, "clock", []byte(c.file), 0o600))
		}
		m := NewManual(start.Add(10 * day))
		k := Known{Vault: vault, First: Stamp{Wall: start.Add(-30 * day)}, Newest: newest, Records: 5}
		clk, err := Open(d, "clock", m, k)
		must(t, err)
		if !errors.Is(clk.Found(), c.found) || (clk.Found() == nil) != (c.found == nil) {
			t.Errorf("%s: found %v, want %v", name, clk.Found(), c.found)
		}
		if got := now(t, clk).Running; got != c.running {
			t.Errorf("%s: goes on from %d s, want %d", name, got, c.running)
		}
		e, due := clk.Due(k, false)
		if due != (c.found != nil) || due && e.Kind != State {
			t.Errorf("%s: due %v %+v", name, due, e)
		}
		text := strings.Join(clk.Report(k).Sentences(), "\n")
		if due == !strings.Contains(text, "state was") {
			t.Errorf("%s: said is\n%s", name, text)
		}
		clk.Recorded(e)
		if e, again := clk.Due(k, false); again {
			t.Errorf("%s: told again: %+v", name, e)
		}
	}
}

func old(t *testing.T, s state) string {
	t.Helper()
	b, err := s.encodeAs(1)
	must(t, err)
	return string(b)
}

func TestPeopleAreToldWhatItMeans(t *testing.T) {
	shifted := Report{Now: Stamp{Wall: start, Running: 3 * 86400}, Since: Stamp{Wall: start.Add(-20 * day)}, Shifted: true, Why: "it moved", ShiftedFor: 5 * time.Hour, ShiftedAt: start}
	for _, c := range []struct {
		r    Report
		want []string
	}{
		{Report{Now: Stamp{Wall: start, Running: 90}}, []string{"2026-12-01T12:00:00Z", "90 seconds of running time", "Both agree."}},
		{shifted, []string{"shifted since 2026-12-01T12:00:00Z", "5 hours of running time ago: it moved.", "locked as ever", "17 days of the time on the wall clock it was switched off or asleep"}},
		{Report{Off: -time.Hour}, []string{"60 minutes behind where running time puts it", "no reason to stop"}},
		{Report{SaveError: errors.New("no space")}, []string{"cannot be saved (no space)"}},
		{Report{Found: fmt.Errorf("x: %w", ErrAhead)}, []string{"ledger verify --against"}},
	} {
		text := strings.Join(c.r.Sentences(), "\n")
		for _, w := range c.want {
			if !strings.Contains(text, w) {
				t.Errorf("%q is not said:\n%s", w, text)
			}
		}
	}
	if late := Lateness(59 * time.Minute); late != nil {
		t.Errorf("an hour less a minute: %q", late)
	}
	if late := Lateness(5 * day); len(late) != 1 || !strings.Contains(late[0], "5 days later than their date") {
		t.Errorf("%q", late)
	}
}
