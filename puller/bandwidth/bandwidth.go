// Package bandwidth says how fast a source may be read at a time of day, from a timetable as people write it.
//
// Nothing here reads a clock or keeps state. A timetable is a list of lines:
//
//	08:00-18:00 20 MB/s     from one time of day to another, on every day
//	18:00-08:00 unlimited   across midnight
//	100 Mbit/s              without times: whenever no other line holds; one line at most
//
// What no line covers is unlimited. Lines may not overlap: which of two would hold is a guess. Times are those of the clock on
// the wall of the time.Location of the time that is asked about: office hours stay office hours when summer time begins.
package bandwidth

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Rate is in bytes per second, 0 when there is no limit.
type Rate int64

// Unlimited is the Rate that is none.
const Unlimited Rate = 0

// The bounds of a Rate that is a limit. Below the least a login alone takes too long.
const (
	Least Rate = 10e3
	Most  Rate = 1e12
)

const (
	day      = 24 * 60 // minutes
	linesMax = 48
)

// units of a rate in bytes per second. The first that divides a rate is the one that it is written with.
var units = []struct {
	name  string
	bytes Rate
	alias bool // read, not written
}{
	{"GB/s", 1e9, false}, {"MB/s", 1e6, false}, {"kB/s", 1e3, false}, {"KB/s", 1e3, true},
	{"GiB/s", 1 << 30, false}, {"MiB/s", 1 << 20, false}, {"KiB/s", 1 << 10, false},
	{"Gbit/s", 125e6, true}, {"Mbit/s", 125e3, true}, {"kbit/s", 125, true}, {"B/s", 1, false},
}

// span is one line with times, in minutes of the day: from <= t < to, or across midnight when to < from.
type span struct {
	from, to int // 0 <= from < day, 0 < to <= day
	rate     Rate
}

func (s span) holds(minute int) bool {
	if s.from < s.to {
		return s.from <= minute && minute < s.to
	}
	return minute >= s.from || minute < s.to
}

// Timetable is a day's rates. The zero Timetable is unlimited. It is never changed once made.
type Timetable struct {
	spans []span // by from, without overlap
	rest  Rate   // where no span holds
}

// LineError says which line of a timetable is wrong.
type LineError struct {
	Line int // from 0
	Err  error
}

func (e *LineError) Error() string { return e.Err.Error() }
func (e *LineError) Unwrap() error { return e.Err }

// Parse reads a timetable. Its error is a *LineError.
func Parse(lines ...string) (Timetable, error) {
	var t Timetable
	whole := false // a line without times was there
	for i, line := range lines {
		if i == linesMax {
			return Timetable{}, &LineError{i, fmt.Errorf("a day has room for %d lines, not for %d", linesMax, len(lines))}
		}
		s, timed, err := parseLine(line)
		if err == nil && !timed && whole {
			err = errors.New("a second line without times: only one can hold for the rest of the day")
		}
		if err == nil && timed {
			err = t.fits(s)
		}
		if err != nil {
			return Timetable{}, &LineError{i, fmt.Errorf("%q: %w", cut(line), err)}
		}
		if timed {
			t.spans = append(t.spans, s)
		} else {
			t.rest, whole = s.rate, true
		}
	}
	slices.SortFunc(t.spans, func(a, b span) int { return a.from - b.from })
	return t, nil
}

// fits says whether the span overlaps none that is there.
func (t Timetable) fits(s span) error {
	for _, other := range t.spans {
		if s.holds(other.from) || other.holds(s.from) {
			return fmt.Errorf("it overlaps %q", other.String())
		}
	}
	return nil
}

func parseLine(line string) (s span, timed bool, err error) {
	text := strings.TrimSpace(line)
	if first, rest, _ := strings.Cut(text, " "); strings.Contains(first, ":") {
		timed = true
		if s.from, s.to, err = parseTimes(first); err != nil {
			return s, timed, err
		}
		text = strings.TrimSpace(rest)
	}
	s.rate, err = parseRate(text)
	return s, timed, err
}

func parseTimes(text string) (from, to int, err error) {
	first, second, _ := strings.Cut(text, "-")
	if from, err = parseTime(first); err != nil {
		return 0, 0, err
	}
	if to, err = parseTime(second); err != nil {
		return 0, 0, err
	}
	switch {
	case from == to:
		return 0, 0, errors.New("it begins when it ends: for the whole day leave the times out")
	case from == day:
		return 0, 0, errors.New("24:00 is only an end: a day begins at 00:00")
	case to == 0:
		to = day
	}
	return from, to, nil
}

// parseTime gives the minutes of "HH:MM", 24:00 included.
func parseTime(text string) (int, error) {
	if len(text) == 5 && text[2] == ':' && strings.Trim(text[:2]+text[3:], "0123456789") == "" {
		hour, minute := int(text[0]-'0')*10+int(text[1]-'0'), int(text[3]-'0')*10+int(text[4]-'0')
		if total := hour*60 + minute; minute < 60 && total <= day {
			return total, nil
		}
	}
	return 0, fmt.Errorf("%q is no time of day: write times like 08:00-18:00", cut(text))
}

func parseRate(text string) (Rate, error) {
	if text == "unlimited" {
		return Unlimited, nil
	}
	number := text[:len(text)-len(strings.TrimLeft(text, "0123456789"))]
	unit := strings.TrimSpace(text[len(number):])
	for _, u := range units {
		if unit != u.name || number == "" {
			continue
		}
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n > int64(Most/u.bytes) {
			return 0, fmt.Errorf("more than %v: write unlimited", Most)
		}
		if rate := Rate(n) * u.bytes; rate >= Least {
			return rate, nil
		}
		return 0, fmt.Errorf("less than %v, with which hardly a login is possible", Least)
	}
	return 0, fmt.Errorf("%q is no rate: write a whole number and a unit, like 20 MB/s (10^6 bytes), 4 MiB/s (2^20) or 100 Mbit/s, or unlimited", cut(text))
}

// String writes the rate as Parse reads it.
func (r Rate) String() string {
	if r == Unlimited {
		return "unlimited"
	}
	for _, u := range units {
		if !u.alias && r%u.bytes == 0 {
			return fmt.Sprintf("%d %s", r/u.bytes, u.name)
		}
	}
	return "" // B/s divides every rate
}

func (s span) String() string {
	return fmt.Sprintf("%02d:%02d-%02d:%02d %v", s.from/60, s.from%60, s.to/60, s.to%60, s.rate)
}

// Lines writes the timetable in its one canonical form, which Parse reads as the same timetable. Without any limit it has
// no lines.
func (t Timetable) Lines() []string {
	var lines []string
	for _, s := range t.spans {
		lines = append(lines, s.String())
	}
	if t.rest != Unlimited {
		lines = append(lines, t.rest.String())
	}
	return lines
}

// Equal says whether two timetables were written alike, but for order and spelling.
func (t Timetable) Equal(o Timetable) bool { return t.rest == o.rest && slices.Equal(t.spans, o.spans) }

// Rate is the rate that holds at a time, by the clock of its location.
func (t Timetable) Rate(at time.Time) Rate {
	if len(t.spans) == 0 {
		return t.rest
	}
	minute := at.Hour()*60 + at.Minute()
	for _, s := range t.spans {
		if s.holds(minute) {
			return s.rate
		}
	}
	return t.rest
}

// Next is the first time after `at` from which another rate holds; ok is false when none does within two days, which is
// never then. It is exact where clocks are put on and back by whole minutes.
func (t Timetable) Next(at time.Time) (next time.Time, ok bool) {
	if len(t.spans) == 0 {
		return time.Time{}, false
	}
	now := t.Rate(at)
	begin := at.Add(-time.Duration(at.Second())*time.Second - time.Duration(at.Nanosecond()))
	for i := 1; i <= 2*day; i++ {
		if next = begin.Add(time.Duration(i) * time.Minute); t.Rate(next) != now {
			return next, true
		}
	}
	return time.Time{}, false
}

// cut keeps what is quoted in an error short.
func cut(s string) string {
	const most = 60
	if len(s) > most {
		return s[:most]
	}
	return s
}
