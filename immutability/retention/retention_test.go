package retention

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// history reads "web1 Ck" as an expired snapshot of web1 that is complete (C) and clean (k); L is
// locked, ? cannot be read.
func history(text string) []Snapshot {
	var out []Snapshot
	for i, line := range strings.Split(text, "\n") {
		source, marks, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		out = append(out, Snapshot{
			ID: fmt.Sprint(i), Source: source, Complete: strings.Contains(marks, "C"), Clean: strings.Contains(marks, "k"),
			Locked: strings.Contains(marks, "L"), Unknown: strings.Contains(marks, "?"), LockMode: "governance",
			LockedUntil: time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC),
		})
	}
	return out
}

func goes(d []Decision) string {
	var b strings.Builder
	for _, x := range d {
		if x.Go {
			b.WriteByte('g')
		} else {
			b.WriteByte('s')
		}
	}
	return b.String()
}

func TestDecide(t *testing.T) {
	for _, test := range []struct{ name, history, want string }{
		{"nothing", "", ""},
		{"the only one stays", "a Ck", "s"},
		{"older ones go", "a Ck\na Ck\na Ck", "ggs"},
		{"a lock stays", "a LCk\na Ck\na Ck", "sgs"},
		{"sources do not count for each other", "a Ck\nb Ck\na Ck", "gss"},
		{"a partial one does not push out the complete one", "a Ck\na -\na -", "sgg"},
		{"an encrypted one does not push out the clean one", "a Ck\na C\na C", "sgs"},
		{"a clean but partial one does not push out the complete clean one", "a Ck\na k\na C", "sss"},
		{"with nothing but partial ones the newest stays", "a -\na -\na -", "ggs"},
		{"what cannot be read does not push out what can", "a Ck\na Ck\na ?Ck", "gss"},
		{"what cannot be read stays", "a ?\na Ck\na Ck", "sgs"},
	} {
		got := Decide(History{Snapshots: history(test.history)})
		if goes(got) != test.want {
			t.Errorf("%s: %s, want %s", test.name, goes(got), test.want)
		}
		for _, d := range got {
			if d.Why == "" {
				t.Errorf("%s: no reason for %s", test.name, d.ID)
			}
		}
	}
}

func TestLockedIsToldWithItsEnd(t *testing.T) {
	d := Decide(History{Snapshots: history("a LCk")})[0]
	if d.Why != "its governance lock runs until 2026-08-01T00:00:00Z" || d.Until.IsZero() {
		t.Errorf("%+v", d)
	}
}

func TestHaltStopsEverything(t *testing.T) {
	for _, d := range Decide(History{Snapshots: history("a Ck\na Ck\nb C\na Ck"), Halt: "the clock moved"}) {
		if d.Go {
			t.Errorf("%+v", d)
		}
	}
}

func TestNoSourceLosesItsLast(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var all []Snapshot
		for i := range rapid.IntRange(1, 30).Draw(rt, "n") {
			all = append(all, Snapshot{
				ID: fmt.Sprint(i), Source: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "source"),
				Complete: rapid.Bool().Draw(rt, "complete"), Clean: rapid.Bool().Draw(rt, "clean"),
				Locked: rapid.Bool().Draw(rt, "locked"), Unknown: rapid.Bool().Draw(rt, "unknown"),
			})
		}
		kept, had := map[string]bool{}, map[string]bool{}
		for i, d := range Decide(History{Snapshots: all}) {
			s := all[i]
			if d.ID != s.ID || d.Go && (s.Locked || s.Unknown) {
				rt.Fatalf("%+v of %+v", d, s)
			}
			for _, what := range []struct {
				name string
				is   bool
			}{{"any", true}, {"complete", s.Complete}, {"clean", s.Clean}, {"both", s.Complete && s.Clean}} {
				key := s.Source + " " + what.name
				had[key] = had[key] || what.is
				kept[key] = kept[key] || what.is && !d.Go
			}
		}
		for key := range had {
			if had[key] && !kept[key] {
				rt.Fatalf("nothing is left of %s", key)
			}
		}
	})
}
