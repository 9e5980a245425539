package schedule

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var monday = time.Date(2026, 7, 6, 0, 0, 0, 0, time.UTC)

func at(hours float64) time.Time { return monday.Add(time.Duration(hours * float64(time.Hour))) }

func TestNext(t *testing.T) {
	day := Policy{Every: 24 * time.Hour, MinGap: time.Hour}
	for _, c := range []struct {
		name string
		p    Policy
		h    History
		now  time.Time
		want time.Time
	}{
		{"never pulled: at once", day, History{}, at(5), at(5)},
		{"pulled today: tomorrow", day, History{LastBegin: at(0), LastEnd: at(1)}, at(5), at(24)},
		{"by hand in the day: tomorrow all the same", day, History{LastBegin: at(15), LastEnd: at(16)}, at(17), at(24)},
		{"by hand just before: after the gap", day, History{LastBegin: at(23), LastEnd: at(23.5)}, at(23.6), at(24.5)},
		{"missed while off: once, at once", day, History{LastBegin: at(0), LastEnd: at(1)}, at(24 * 9), at(24)},
		{"took longer than the interval: after the gap", day, History{LastBegin: at(0), LastEnd: at(50)}, at(50), at(51)},
		{"failed once: after the gap", day, History{LastBegin: at(0), LastEnd: at(1), Failures: 1}, at(1), at(2)},
		{"failed three times: after four gaps", day, History{LastBegin: at(4), LastEnd: at(5), Failures: 3}, at(5), at(9)},
		{"failed often: no later than the next regular one", day, History{LastBegin: at(20), LastEnd: at(21), Failures: 99}, at(21), at(24)},
		{"died while it ran: the regular one", day, History{LastBegin: at(20), LastEnd: at(1)}, at(22), at(24)},
		{"a begin in the future: the clock was set back", day, History{LastBegin: at(2400), LastEnd: at(2401)}, at(5), at(24)},
		{"failed, and no gap: the regular one", Policy{Every: time.Hour}, History{LastBegin: at(1), LastEnd: at(1.1), Failures: 2}, at(1.2), at(2)},
		{"every 15 minutes", Policy{Every: 15 * time.Minute}, History{LastBegin: at(1.3), LastEnd: at(1.31)}, at(1.4), at(1.5)},
		{"begun at the very time", Policy{Every: time.Hour}, History{LastBegin: at(1), LastEnd: at(1.1)}, at(1.2), at(2)},
	} {
		if got, ok := Next("web1", c.p, c.h, c.now); !ok || !got.Equal(c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if _, ok := Next("web1", Policy{Jitter: time.Hour, MinGap: time.Hour}, History{}, at(0)); ok {
		t.Error("a policy without an interval pulls")
	}
}

func TestSourcesAreSpreadAndStayWhereTheyAre(t *testing.T) {
	p := Policy{Every: 24 * time.Hour, Jitter: 4 * time.Hour}
	var quarter [4]int
	for i := range 400 {
		name := fmt.Sprintf("web%d", i)
		h := History{LastBegin: at(12), LastEnd: at(12)}
		first, _ := Next(name, p, h, at(13))
		again, _ := Next(name, p, h, at(23))
		later, _ := Next(name, p, History{LastBegin: first, LastEnd: first}, first)
		if !first.Equal(again) || later.Sub(first) != p.Every {
			t.Fatalf("%s: %v, %v, then %v", name, first, again, later)
		}
		if off := first.Sub(at(24)); off < 0 || off >= p.Jitter {
			t.Fatalf("%s is moved by %v", name, off)
		}
		quarter[first.Sub(at(24))/time.Hour]++
	}
	for i, n := range quarter {
		if n < 60 || n > 140 {
			t.Errorf("%d of 400 sources in hour %d: %v", n, i, quarter)
		}
	}
}

// TestASourceIsPulledWhenItsTimeComes plays a year of pulls that take any time and fail at will.
func TestASourceIsPulledWhenItsTimeComes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hours := rapid.Float64Range(0.1, 100)
		p := Policy{
			Every:  time.Duration(hours.Draw(t, "every") * float64(time.Hour)),
			Jitter: time.Duration(rapid.Float64Range(0, 30).Draw(t, "jitter") * float64(time.Hour)),
			MinGap: time.Duration(rapid.Float64Range(0, 2).Draw(t, "gap") * float64(time.Hour)),
		}
		now, h := monday, History{}
		for range 50 {
			next, ok := Next("db", p, h, now)
			if !ok {
				t.Fatal("never")
			}
			begin := next
			if begin.Before(now) {
				begin = now // catching up
			}
			if !h.LastEnd.IsZero() && begin.Sub(h.LastEnd) < p.MinGap {
				t.Fatalf("begins %v after the end", begin.Sub(h.LastEnd))
			}
			if most := max(p.Every, h.LastEnd.Sub(h.LastBegin)+p.MinGap); !h.LastBegin.IsZero() && next.Sub(h.LastBegin) > most {
				t.Fatalf("begins %v after the one before, at most %v", next.Sub(h.LastBegin), most)
			}
			h.LastBegin = begin
			h.LastEnd = begin.Add(time.Duration(hours.Draw(t, "took") * float64(time.Hour)))
			if rapid.Bool().Draw(t, "failed") {
				h.Failures++
			} else {
				h.Failures = 0
			}
			now = h.LastEnd.Add(time.Duration(rapid.Float64Range(0, 10).Draw(t, "asleep") * float64(time.Hour)))
		}
	})
}
