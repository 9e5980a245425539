package vault

import (
	"errors"
	"iter"
	"testing"
)

// TestEntriesAreLostOrReorderedByWorkingAhead takes all of a sequence, a part of it, and one that fails, at every length
// around the bounds of what is handed over at once.
func TestEntriesAreLostOrReorderedByWorkingAhead(t *testing.T) {
	broken := errors.New("broken")
	count := func(n int, fails bool) (seq iter.Seq2[int, error], ended *bool) {
		ended = new(bool)
		return func(yield func(int, error) bool) {
			defer func() { *ended = true }()
			for i := range n {
				if !yield(i, nil) {
					return
				}
			}
			if fails {
				yield(0, broken)
			}
		}, ended
	}
	for _, n := range []int{0, 1, 127, 128, 129, 256, 1000, 5000} {
		for _, fails := range []bool{false, true} {
			for _, stop := range []int{-1, 0, 1, 128, n - 1} {
				seq, ended := count(n, fails)
				next, failed := 0, false
				for v, err := range ahead(seq) {
					if err != nil {
						if failed = true; err != broken || next != n {
							t.Fatalf("%d: %v after %d", n, err, next)
						}
						continue
					}
					if v != next {
						t.Fatalf("%d: %d where %d belongs", n, v, next)
					}
					if next++; v == stop {
						break
					}
				}
				if stopped := stop >= 0 && stop < n; !stopped && (next != n || failed != fails) {
					t.Fatalf("%d: %d came, failed %v", n, next, failed)
				}
				if !*ended {
					t.Fatalf("%d: still at work after the loop", n)
				}
			}
		}
	}
}
