package vault

import (
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/policy"
)

// TestArchiveLocksMoreEachMonth: a timer that locks what the yearly rule keeps locks one snapshot of each year, however often it runs:
// what it locked does not leave its place to the next.
func TestArchiveLocksMoreEachMonth(t *testing.T) {
	m := newMemoryVault(t, 30*24*time.Hour, Options{})
	_, _, err := m.Store().Adopt(t.Context(), ledger.Policy{Keep: policy.Keep{Yearly: 7, Weekly: 2}}, "")
	if err != nil {
		t.Fatal(err)
	}
	src := newSource(1)
	extended := map[string]int{} // by year
	for week := range 105 {      // from March 2027 to March 2029
		src.write("file", 100)
		if _, _, err := src.pull(t.Context(), m.Vault, "web1"); err != nil {
			t.Fatal(err)
		}
		m.clock.Advance(7 * 24 * time.Hour)
		if week%4 > 0 {
			continue
		}
		if _, err := m.Prune(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		wanted, err := m.KeptBy(t.Context(), "yearly", "")
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range wanted {
			if s.LockedFor > 340*24*time.Hour {
				continue
			}
			if _, err := m.Store().Extend(t.Context(), s.ID, ledger.Lock{Mode: ledger.Compliance, ForSeconds: 400 * 86400}, "a timer"); err != nil {
				t.Fatal(err)
			}
		}
	}
	all, err := m.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if s.Locked && s.Lock.Mode == ledger.Compliance {
			extended[s.Committed.Wall.Format("2006")]++
		}
	}
	if len(extended) != 3 || extended["2027"] != 1 || extended["2028"] != 1 || extended["2029"] != 1 {
		t.Errorf("locked, by year: %v, of %d snapshots", extended, len(all))
	}
}
