package keeper

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// TestAPeerFloodsTheLog: lines that a daemon causes at will would push those out that say what it did.
func TestAPeerFloodsTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c complaints
		var said []string
		logf := func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }
		for i := range 1000 {
			c.say(logf, "line %d", i)
		}
		if len(said) != complaintsMax || said[0] != "line 0" {
			t.Errorf("%d lines: %q", len(said), said[:min(len(said), 3)])
		}
		time.Sleep(time.Minute)
		c.say(logf, "another minute")
		want := []string{"keeper: 970 more connections were refused or ended badly since 2000-01-01T00:00:00Z", "another minute"}
		if got := said[complaintsMax:]; !slices.Equal(got, want) {
			t.Errorf("%q", got)
		}
	})
}
