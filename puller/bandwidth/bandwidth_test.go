package bandwidth

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"

	"pgregory.net/rapid"
)

func at(clock string) time.Time {
	t, err := time.Parse("15:04:05", clock)
	if err != nil {
		panic(err)
	}
	return t.AddDate(2027, 2, 0)
}

func TestOfficeHoursAreKept(t *testing.T) {
	for _, c := range []struct {
		lines []string
		clock string
		want  Rate
	}{
		{nil, "12:00:00", Unlimited},
		{[]string{"20 MB/s"}, "12:00:00", 20e6},
		{[]string{"08:00-18:00 20 MB/s", "18:00-08:00 unlimited"}, "07:59:59", Unlimited},
		{[]string{"08:00-18:00 20 MB/s", "18:00-08:00 unlimited"}, "08:00:00", 20e6},
		{[]string{"08:00-18:00 20 MB/s", "18:00-08:00 unlimited"}, "17:59:59", 20e6},
		{[]string{"08:00-18:00 20 MB/s", "18:00-08:00 unlimited"}, "18:00:00", Unlimited},
		{[]string{"08:00-18:00 20MB/s"}, "20:00:00", Unlimited},
		{[]string{"08:00-18:00 20 MB/s", "100 Mbit/s"}, "20:00:00", 12_500_000},
		{[]string{"22:00-06:00 1 MiB/s", "64 KiB/s"}, "23:00:00", 1 << 20},
		{[]string{"22:00-06:00 1 MiB/s", "64 KiB/s"}, "05:59:59", 1 << 20},
		{[]string{"22:00-06:00 1 MiB/s", "64 KiB/s"}, "06:00:00", 64 << 10},
		{[]string{"18:00-00:00 10 kB/s"}, "23:59:59", 10e3},
		{[]string{"18:00-00:00 10 kB/s"}, "00:00:00", Unlimited},
		{[]string{"00:00-24:00 10 kB/s"}, "00:00:00", 10e3},
	} {
		table, err := Parse(c.lines...)
		if err != nil {
			t.Errorf("%q: %v", c.lines, err)
			continue
		}
		if got := table.Rate(at(c.clock)); got != c.want {
			t.Errorf("%q at %s: %v, want %v", c.lines, c.clock, got, c.want)
		}
	}
}

func TestWhatIsNotClearIsRefused(t *testing.T) {
	for _, c := range []struct {
		lines []string
		line  int
		says  string
	}{
		{[]string{""}, 0, "no rate"},
		{[]string{"20"}, 0, "no rate"},
		{[]string{"20 MB"}, 0, "no rate"},
		{[]string{"20 Mb/s"}, 0, "no rate"},
		{[]string{"-20 MB/s"}, 0, "no rate"},
		{[]string{"2.5 MB/s"}, 0, "no rate"},
		{[]string{"MB/s"}, 0, "no rate"},
		{[]string{"Unlimited"}, 0, "no rate"},
		{[]string{"0 MB/s"}, 0, "less than 10 kB/s"},
		{[]string{"9999 B/s"}, 0, "less than 10 kB/s"},
		{[]string{"99999999999999999999 GB/s"}, 0, "unlimited"},
		{[]string{"9223372036854775807 GiB/s"}, 0, "unlimited"},
		{[]string{"08:00 20 MB/s"}, 0, "no time of day"},
		{[]string{"8:00-18:00 20 MB/s"}, 0, "no time of day"},
		{[]string{"08:60-18:00 20 MB/s"}, 0, "no time of day"},
		{[]string{"08:00-24:01 20 MB/s"}, 0, "no time of day"},
		{[]string{"0\xff:00-18:00 20 MB/s"}, 0, "no time of day"},
		{[]string{"24:00-18:00 20 MB/s"}, 0, "only an end"},
		{[]string{"08:00-08:00 20 MB/s"}, 0, "begins when it ends"},
		{[]string{"08:00-18:00"}, 0, "no rate"},
		{[]string{"20 MB/s", "10 MB/s"}, 1, "second line"},
		{[]string{"08:00-18:00 20 MB/s", "17:59-20:00 1 MB/s"}, 1, "overlaps"},
		{[]string{"22:00-06:00 20 MB/s", "05:00-07:00 1 MB/s"}, 1, "overlaps"},
		{[]string{"05:00-07:00 1 MB/s", "22:00-06:00 20 MB/s"}, 1, "overlaps"},
		{[]string{"00:00-24:00 1 MB/s", "12:00-13:00 20 MB/s"}, 1, "overlaps"},
		{slices.Repeat([]string{"x"}, 100), 0, "no rate"},
	} {
		_, err := Parse(c.lines...)
		var line *LineError
		if !errors.As(err, &line) || line.Line != c.line || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: %v", c.lines, err)
		}
	}
}

// drawn gives any timetable that there can be.
func drawn(t *rapid.T) Timetable {
	var table Timetable
	rate := rapid.OneOf(rapid.Just(Unlimited), rapid.Map(rapid.Int64Range(int64(Least), int64(Most)), func(n int64) Rate { return Rate(n) }))
	edges := rapid.SliceOfNDistinct(rapid.IntRange(0, day-1), 0, 12, rapid.ID).Draw(t, "edges")
	slices.Sort(edges)
	for i := 0; i+1 < len(edges); i += 2 {
		table.spans = append(table.spans, span{edges[i], edges[i+1], rate.Draw(t, "rate")})
	}
	if n := len(edges); n > 2 && n%2 == 1 && edges[0] > 0 {
		table.spans = append(table.spans, span{edges[n-1], edges[0], rate.Draw(t, "across midnight")})
	}
	table.rest = rate.Draw(t, "rest")
	return table
}

func TestCanonicalFormIsReadAsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := drawn(t)
		again, err := Parse(table.Lines()...)
		if err != nil || !again.Equal(table) || !slices.Equal(again.Lines(), table.Lines()) {
			t.Fatalf("%q became %q, %v", table.Lines(), again.Lines(), err)
		}
	})
}

func TestNextIsTheFirstTimeOfAnotherRate(t *testing.T) {
	for _, zone := range []string{"UTC", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu"} {
		loc, err := time.LoadLocation(zone)
		if err != nil {
			t.Fatal(err)
		}
		rapid.Check(t, func(t *rapid.T) {
			table := drawn(t)
			from := time.Unix(rapid.Int64Range(1<<30, 2<<30).Draw(t, "seconds"), rapid.Int64Range(0, 1e9-1).Draw(t, "ns")).In(loc)
			now := table.Rate(from)
			next, ok := table.Next(from)
			if !ok {
				next = from.Add(50 * time.Hour)
			} else if table.Rate(next) == now || table.Rate(next.Add(-1)) != now {
				t.Fatalf("%q: from %v the next change is %v, where %v becomes %v", table.Lines(), from, next, table.Rate(next.Add(-1)), table.Rate(next))
			}
			for range 20 {
				between := from.Add(time.Duration(rapid.Int64Range(0, int64(next.Sub(from))-1).Draw(t, "between")))
				if table.Rate(between) != now {
					t.Fatalf("%q: %v holds at %v, before the next change at %v", table.Lines(), table.Rate(between), between, next)
				}
			}
		})
	}
}

func FuzzTimetable(f *testing.F) {
	for _, s := range []string{"20 MB/s", "08:00-18:00 20 MB/s\n18:00-08:00 unlimited", "22:00-06:00 1 MiB/s\n64 KiB/s", "00:00-24:00 100 Mbit/s", "unlimited", "9:0-1 x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		table, err := Parse(strings.Split(text, "\n")...)
		if err != nil {
			var line *LineError
			if !errors.As(err, &line) || len(err.Error()) > 2000 {
				t.Fatalf("%v", err)
			}
			return
		}
		again, err := Parse(table.Lines()...)
		if err != nil || !again.Equal(table) {
			t.Fatalf("%q became %q: %v", text, table.Lines(), err)
		}
		for m := range day {
			r := table.Rate(time.Date(2027, 3, 1, 0, m, 0, 0, time.UTC))
			if r != Unlimited && (r < Least || r > Most) {
				t.Fatalf("%q: %d", text, r)
			}
		}
	})
}
