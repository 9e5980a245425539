package config

import (
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"30d": 30 * Day, "400d": 400 * Day, "12w": 12 * Week, "1y": 365 * Day, "1h30m": 90 * time.Minute, "1d12h": 36 * time.Hour,
		"0s": 0, "90s": 90 * time.Second, "1y2w3d4h5m6s7ms": Year + 2*Week + 3*Day + 4*time.Hour + 5*time.Minute + 6*time.Second + 7*time.Millisecond,
		"292y": 292 * Year,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "30", "d", "-1d", "+1d", "1.5h", "1d 2h", " 1d", "1h1d", "1d1d", "1D", "1M", "1us", "1m1", "293y", "292y200d", "99999999999999999999d", "1é", "٣d", strings.Repeat("9", 5000)} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q was taken as %v", text, got)
		} else if len(err.Error()) > 400 {
			t.Errorf("%q: the error repeats it all", cut(text))
		}
	}
	for want, d := range map[string]time.Duration{"30d": 30 * Day, "1d12h": 36 * time.Hour, "1h30m": 90 * time.Minute, "0s": 999, "-5h": -5 * time.Hour, "400d": 400 * Day, "106751d23h47m16s854ms": math.MaxInt64, "-106751d23h47m16s854ms": math.MinInt64} {
		if got := FormatDuration(d); got != want {
			t.Errorf("%d: %s, want %s", d, got, want)
		}
	}
}

func TestFormattedDurationReadsAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, math.MaxInt64).Draw(t, "d"))
		if got, err := ParseDuration(FormatDuration(d)); err != nil || got != d.Truncate(time.Millisecond) {
			t.Fatalf("%v: %s: %v, %v", d, FormatDuration(d), got, err)
		}
	})
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"10GB": 10_000_000_000, "512MiB": 512 << 20, "8TiB": 8 << 40, "0": 0, "9223372036854775807": math.MaxInt64, "1.5 MiB": 3 << 19, "4k": 4000} {
		if got, err := ParseBytes(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-1", "+1", "lots", "1XB", "9223372036854775808", "8EiB", "99999EB", "1,000", "NaN", "inf", "0x10"} {
		if got, err := ParseBytes(text); err == nil {
			t.Errorf("%q was taken as %v", text, got)
		}
	}
}

func TestFormattedSizeReadsAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(0, math.MaxInt64).Draw(t, "n")
		n &^= 1<<rapid.IntRange(0, 62).Draw(t, "zeros") - 1
		if got, err := ParseBytes(FormatBytes(n)); err != nil || got != n {
			t.Fatalf("%d: %s: %v, %v", n, FormatBytes(n), got, err)
		}
	})
}

func FuzzParseDuration(f *testing.F) {
	f.Add("30d")
	f.Add("1y2w3d4h5m6s7ms")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseDuration(text)
		if err == nil && d < 0 {
			t.Fatalf("%q is %v", text, d)
		}
	})
}

func FuzzParseBytes(f *testing.F) {
	f.Add("512MiB")
	f.Add("1.5e3GB")
	f.Fuzz(func(t *testing.T, text string) {
		n, err := ParseBytes(text)
		if err == nil && n < 0 {
			t.Fatalf("%q is %d", text, n)
		}
	})
}
