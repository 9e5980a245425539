package pace

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-vault/holdfast/puller/bandwidth"
)

func table(t testing.TB, lines ...string) bandwidth.Timetable {
	t.Helper()
	table, err := bandwidth.Parse(lines...)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

const piece64 = 64 << 10

// near says whether got is within a percent of want, or a piece.
func near(got, want float64) bool {
	return got-want < want/100+piece64*2 && want-got < want/100+piece64*2
}

// pull takes pieces through a share on so many connections for a time, and counts its bytes.
func pull(ctx context.Context, wg *sync.WaitGroup, s interface {
	Wait(context.Context, int) error
}, connections int, got *atomic.Int64) {
	for range connections {
		wg.Go(func() {
			for s.Wait(ctx, piece64) == nil {
				got.Add(piece64)
				if ctx.Err() != nil { // an unlimited line never looks
					return
				}
			}
		})
	}
}

func TestLimitHoldsForAllConnectionsTogether(t *testing.T) {
	for _, connections := range []int{1, 3, 16} {
		synctest.Test(t, func(t *testing.T) {
			l := NewLine(table(t, "1 MB/s"), nil)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var wg sync.WaitGroup
			var got atomic.Int64
			pull(ctx, &wg, l.Share(), connections, &got)
			wg.Wait()
			if !near(float64(got.Load()), 60e6) {
				t.Errorf("%d connections: %d bytes in a minute", connections, got.Load())
			}
		})
	}
}

func TestManyConnectionsGetNoMoreThanOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vault := NewLine(table(t, "3 MB/s"), nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var wg sync.WaitGroup
		var greedy, modest, capped atomic.Int64
		pull(ctx, &wg, vault.Share(), 16, &greedy)
		pull(ctx, &wg, vault.Share(), 2, &modest)
		pull(ctx, &wg, Shares{NewLine(table(t, "500 kB/s"), nil).Share(), vault.Share()}, 4, &capped)
		wg.Wait()
		// What the capped one leaves of its third goes to the others, in equal parts.
		for _, c := range []struct {
			got  int64
			want float64
		}{{greedy.Load(), 75e6}, {modest.Load(), 75e6}, {capped.Load(), 30e6}} {
			if !near(float64(c.got), c.want) {
				t.Errorf("got %d of %d, %d of them the greedy, %d the modest, %d the capped", c.got, int64(c.want), greedy.Load(), modest.Load(), capped.Load())
			}
		}
	})
}

func TestChangeReachesWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLine(table(t, "10 kB/s"), nil)
		s := l.Share()
		begin := time.Now()
		if err := s.Wait(t.Context(), 1_000_000); err != nil { // owes 100 s
			t.Fatal(err)
		}
		done := make(chan time.Duration)
		go func() {
			if err := s.Wait(t.Context(), 1); err != nil {
				t.Error(err)
			}
			done <- time.Since(begin)
		}()
		synctest.Wait()
		l.Set(table(t, "100 kB/s"))
		if took := <-done; took < 9*time.Second || took > 11*time.Second {
			t.Errorf("after the limit was raised tenfold it waited %v", took)
		}
		if err := s.Wait(t.Context(), 1_000_000); err != nil {
			t.Fatal(err)
		}
		go func() {
			if err := s.Wait(t.Context(), 1); err != nil {
				t.Error(err)
			}
			done <- time.Since(begin)
		}()
		synctest.Wait()
		before := time.Since(begin)
		l.Set(bandwidth.Timetable{})
		if took := <-done; took != before {
			t.Errorf("after the limit was lifted it still waited %v", took-before)
		}
	})
}

func TestTimetableTurnsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // its clock begins at midnight UTC
		l := NewLine(table(t, "00:00-00:02 100 kB/s", "1 MB/s"), func() time.Time { return time.Now().UTC() })
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
		defer cancel()
		var wg sync.WaitGroup
		var got atomic.Int64
		pull(ctx, &wg, l.Share(), 4, &got)
		wg.Wait()
		if !near(float64(got.Load()), 12e6+120e6) {
			t.Errorf("%d bytes", got.Load())
		}
	})
}

func TestClockThatWasSetIsBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var shift atomic.Int64
		l := NewLine(table(t, "00:00-12:00 100 kB/s", "10 MB/s"), func() time.Time { return time.Now().UTC().Round(0).Add(time.Duration(shift.Load())) })
		s := l.Share()
		take := func(n int) time.Duration {
			begin := time.Now()
			for range n {
				if err := s.Wait(t.Context(), 100_000); err != nil {
					t.Fatal(err)
				}
			}
			return time.Since(begin)
		}
		if took := take(10); took < 8*time.Second || took > 10*time.Second {
			t.Errorf("%v", took)
		}
		shift.Store(int64(13 * time.Hour))
		if took := take(700); took > 65*time.Second { // noticed within a minute
			t.Errorf("put on: %v", took)
		}
		shift.Store(0)
		if took := take(10); took > 10*time.Second {
			t.Errorf("put back: %v", took)
		}
	})
}

func TestWhoGivesUpLetsTheOthersPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLine(table(t, "10 kB/s"), nil)
		s := l.Share()
		if err := s.Wait(t.Context(), 100_000); err != nil {
			t.Fatal(err)
		}
		gone := errors.New("gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := s.Wait(ctx, 1_000_000_000); !errors.Is(err, gone) {
				t.Errorf("%v", err)
			}
		})
		synctest.Wait()
		begin := time.Now()
		wg.Go(func() {
			if err := l.Share().Wait(t.Context(), 1); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		cancel(gone)
		wg.Wait()
		if took := time.Since(begin); took > 11*time.Second {
			t.Errorf("waited %v for a piece that nobody wants", took)
		}
	})
}

// Whatever the pieces, the shares and the rate: never more than the rate and a burst gets through, and nobody waits for ever.
func TestNoMoreThanTheRateEver(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rate := bandwidth.Rate(rapid.Int64Range(int64(bandwidth.Least), 1e9).Draw(rt, "rate"))
		sizes := rapid.SliceOfN(rapid.IntRange(1, 256<<10), 1, 60).Draw(rt, "sizes")
		shares := rapid.IntRange(1, 5).Draw(rt, "shares")
		synctest.Test(t, func(t *testing.T) {
			l := NewLine(table(t, rate.String()), nil)
			begin := time.Now()
			var total, last atomic.Int64
			var wg sync.WaitGroup
			all := make([]*Share, shares)
			for i := range all {
				all[i] = l.Share()
			}
			for i, n := range sizes {
				wg.Go(func() {
					if err := all[i%shares].Wait(t.Context(), n); err != nil {
						t.Error(err)
					}
					total.Add(int64(n))
					last.Store(int64(n))
				})
			}
			wg.Wait()
			// The last piece is paid for after it went.
			least := time.Duration(float64(total.Load()-(256<<10))/float64(rate)*1e9) - burst - time.Millisecond
			most := time.Duration(float64(total.Load())/float64(rate)*1e9) + time.Millisecond
			if took := time.Since(begin); took < least || took > most {
				t.Errorf("%d bytes at %v took %v", total.Load(), rate, took)
			}
		})
	})
}
