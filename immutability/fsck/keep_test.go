package fsck

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/retention"
)

// TestTwoReadingsOfTheKeepRules holds what this checker makes of the keep rules against what the store decides by: two programs
// that share nothing, over sources that flood, go bad, are held, locked and let go, under a wall clock that is now and then set.
func TestTwoReadingsOfTheKeepRules(t *testing.T) {
	wanted := 0
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		k := keepRules{r.Int64N(4), r.Int64N(5), r.Int64N(3), r.Int64N(3), r.Int64N(3), r.Int64N(3) * r.Int64N(20*86400)}
		now := Stamp{Wall: time.Date(2026, 12, 25, 20, 0, 0, 0, time.UTC), Running: 1 << 30}
		h := newHistory(&Report{}, func() bool { return false })
		h.policies = []inForce{{policy: policy{rules: rules{keep: k}}}}
		in := retention.History{Keep: func(string) retention.Keep {
			return retention.Keep{Hourly: k[0], Daily: k[1], Weekly: k[2], Monthly: k[3], Yearly: k[4], WithinSeconds: k[5]}
		}}
		for i := range 1 + r.IntN(40) {
			now.Wall = now.Wall.Add(time.Duration([]int64{60, 3600, 20000, 86400, 86400, 4 * 86400, 30 * 86400}[r.IntN(7)]) * time.Second)
			at := now
			if r.IntN(20) == 0 {
				at.Wall = at.Wall.Add(time.Duration(r.Int64N(60*86400)-30*86400) * time.Second)
			}
			fate := r.IntN(16)
			s := &Snapshot{ID: fmt.Sprint(i), Source: "web1", Complete: r.IntN(4) > 0, Clean: r.IntN(5) > 0, at: place{at: at}, released: fate == 0}
			lock := lock{"governance", 100}
			if fate == 1 {
				s.holds = map[uint64]bool{7: true}
			}
			locked := fate > 1 && fate < 6
			if fate == 5 { // the wall clock was years ahead
				at.Wall = at.Wall.Add(2000 * 24 * time.Hour)
				s.at = place{at: at}
			}
			if locked {
				lock.seconds = secondsMax
			}
			s.grants = []grant{{at: Stamp{Wall: at.Wall, Running: 1}, lock: lock}}
			h.remaining["web1"] = append(h.remaining["web1"], s)
			x := retention.Snapshot{ID: s.ID, Source: s.Source, Committed: at.Wall, Complete: s.Complete, Clean: s.Clean, Locked: locked, Released: s.released}
			if len(s.holds) > 0 {
				x.Held = "it is held"
			}
			in.Snapshots = append(in.Snapshots, x)
		}
		now.Wall = now.Wall.Add(400 * 24 * time.Hour) // but for those that are locked all locks have run
		in.Now = now.Wall
		out := map[*Snapshot]string{}
		h.wanted("web1", now, out)
		for i, d := range retention.Decide(in) {
			s, want := h.remaining["web1"][i], false
			for _, reason := range d.Reasons {
				switch reason.Rule {
				case retention.RuleHourly, retention.RuleDaily, retention.RuleWeekly, retention.RuleMonthly, retention.RuleYearly, retention.RuleWithin:
					want = true
				}
			}
			if want {
				wanted++
			}
			if got := out[s] != ""; got != want {
				t.Fatalf("seed %d, rules %v: snapshot %d of %s: wanted here by %q, there %v: %+v", seed, k, i, s.at.at.Wall, out[s], want, d.Reasons)
			}
		}
	}
	if wanted < 1000 {
		t.Errorf("%d were ever wanted", wanted)
	}
}
