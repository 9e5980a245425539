package vault

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestClaimsRunOutUnderALongPull: a pull that takes days relies on packs that it claimed on the first.
func TestClaimsRunOutUnderALongPull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		renewed := 0
		r := startRenewal(renewEvery, func() { renewed++ })
		time.Sleep(48*time.Hour + time.Minute)
		r.end()
		if renewed != 48 {
			t.Errorf("renewed %d times in 48 hours", renewed)
		}
		time.Sleep(48 * time.Hour)
		if renewed != 48 {
			t.Error("it renews after its end")
		}
	})
}
