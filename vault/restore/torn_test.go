package restore_test

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/holdfast-vault/holdfast/vault/restore/restoretest"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

var errTorn = errors.New("catalog leaf is damaged")

// torn is a snapshot whose catalog ends with an error.
type torn struct{ *restoretest.Source }

func tear(seq iter.Seq2[snapshot.Entry, error]) iter.Seq2[snapshot.Entry, error] {
	return func(yield func(snapshot.Entry, error) bool) {
		n := 0
		for e, err := range seq {
			if n++; n == 4 {
				yield(snapshot.Entry{}, errTorn)
				return
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

func (s torn) List(ctx context.Context, dir string) iter.Seq2[snapshot.Entry, error] {
	return tear(s.Source.List(ctx, dir))
}

func (s torn) Walk(ctx context.Context, path string) iter.Seq2[snapshot.Entry, error] {
	return tear(s.Source.Walk(ctx, path))
}

func unixTime(s int64) time.Time { return time.Unix(s, 0) }
