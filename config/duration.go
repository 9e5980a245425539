package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Day, Week and Year as durations: exactly 24 hours, 7 days, 365 days. Locks count seconds, not calendar days.
const (
	Day  = 24 * time.Hour
	Week = 7 * Day
	Year = 365 * Day
)

var durationUnits = []struct {
	name string
	size time.Duration
}{
	{"y", Year}, {"w", Week}, {"d", Day}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond},
}

// ParseDuration reads "30d", "12w", "1y", "1h30m", "1d12h", "250ms": whole numbers with the units y (365 days), w, d,
// h, m, s and ms, the larger before the smaller, each once. No sign, no fraction, no blank, and never without a unit.
func ParseDuration(s string) (time.Duration, error) {
	d, err := parseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration: %w; write it like 30d, 12w, 1y, 36h or 1h30m", cut(s), err)
	}
	return d, nil
}

func parseDuration(s string) (time.Duration, error) {
	if s == "" {
		return 0, errors.New("it is empty")
	}
	var sum time.Duration
	next := 0 // units before this one are spent
	for rest := s; rest != ""; {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		if digits == 0 {
			return 0, fmt.Errorf("a whole number must stand before %q", cut(rest))
		}
		number := rest[:digits]
		rest = rest[digits:]
		letters := strings.IndexAny(rest, "0123456789")
		if letters < 0 {
			letters = len(rest)
		}
		name := rest[:letters]
		rest = rest[letters:]
		if name == "" {
			return 0, fmt.Errorf("the number %s has no unit", cut(number))
		}
		unit := unitIndex(name)
		switch {
		case unit < 0:
			return 0, fmt.Errorf("the unit %q is none of y, w, d, h, m, s, ms", cut(name))
		case unit < next:
			return 0, fmt.Errorf("the unit %q must stand once and before smaller ones", name)
		}
		next = unit + 1
		n, err := strconv.ParseInt(number, 10, 64)
		size := durationUnits[unit].size
		if err != nil || n > int64(math.MaxInt64-sum)/int64(size) {
			return 0, errors.New("it is longer than 292 years")
		}
		sum += time.Duration(n) * size
	}
	return sum, nil
}

func unitIndex(name string) int {
	for i, u := range durationUnits {
		if u.name == name {
			return i
		}
	}
	return -1
}

// FormatDuration writes a duration in days, hours, minutes, seconds and milliseconds, as ParseDuration reads it:
// "30d", "1d12h", "1h30m", "0s". What is below a millisecond is cut off; a negative one has a minus sign in front, which
// ParseDuration refuses.
func FormatDuration(d time.Duration) string {
	if d < 0 {
		if d == math.MinInt64 {
			d++ // its opposite does not exist; a nanosecond is not shown anyway
		}
		text := FormatDuration(-d)
		if text == "0s" {
			return text
		}
		return "-" + text
	}
	var b strings.Builder
	for _, u := range durationUnits[2:] {
		if n := d / u.size; n > 0 {
			fmt.Fprintf(&b, "%d%s", int64(n), u.name)
			d -= n * u.size
		}
	}
	if b.Len() == 0 {
		return "0s"
	}
	return b.String()
}

// cut bounds what an error repeats of the input.
func cut(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	return s[:most] + "..."
}
