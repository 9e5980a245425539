package worm

import (
	"errors"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
)

// aged is a vault in which the first of two snapshots, with its pack, may go.
func aged(t *testing.T) (s *Store, first Snapshot, pass func(time.Duration)) {
	t.Helper()
	_, src, s := newStore(t)
	first = commit(t, s, "web1", "s1", ledger.Lock{})
	src.Advance(time.Minute)
	commit(t, s, "web1", "s2", ledger.Lock{})
	src.Advance(3 * time.Hour)
	return s, first, src.Advance
}

func condemned(t *testing.T, s *Store, snapshots, packs int) {
	t.Helper()
	gotS, gotP, err := s.Condemn(ctx)
	must(t, err)
	if gotS != snapshots || gotP != packs {
		t.Errorf("%d snapshots and %d packs are newly condemned, want %d and %d", gotS, gotP, snapshots, packs)
	}
}

func swept(t *testing.T, s *Store, snapshots, packs int) {
	t.Helper()
	rep, err := s.Sweep(ctx)
	must(t, err)
	if len(rep.Snapshots) != snapshots || len(rep.Packs) != packs {
		t.Errorf("swept %d snapshots and packs %v, want %d and %d", len(rep.Snapshots), rep.Packs, snapshots, packs)
	}
}

func TestSweptWithoutADaysNotice(t *testing.T) {
	s, first, pass := aged(t)
	swept(t, s, 0, 0)
	condemned(t, s, 1, 1)
	condemned(t, s, 0, 0)
	swept(t, s, 0, 0)
	pass(23 * time.Hour)
	condemned(t, s, 0, 0)
	swept(t, s, 0, 0)
	if _, err := s.Manifest(first.ID); err != nil {
		t.Error(err)
	}
	pass(time.Hour + 2*time.Second)
	swept(t, s, 1, 1)
	if _, err := s.Manifest(first.ID); !errors.Is(err, ErrNoSnapshot) {
		t.Errorf("manifest: %v", err)
	}
	swept(t, s, 0, 0)
	if bad := s.Check(ctx, true); len(bad) > 0 {
		t.Error(bad)
	}
}

// A pack that a session began to rely on gets its day again.
func TestAClaimEndsTheNotice(t *testing.T) {
	s, _, pass := aged(t)
	condemned(t, s, 1, 1)
	pass(25 * time.Hour)
	if !s.ClaimOne("s3", 1) {
		t.Fatal("it cannot be claimed")
	}
	swept(t, s, 1, 0)
	s.Release("s3")
	swept(t, s, 0, 0)
	condemned(t, s, 0, 1)
	pass(25 * time.Hour)
	if missing := s.Claim("s4", roaring.BitmapOf(1)); !missing.IsEmpty() {
		t.Fatal("it cannot be claimed")
	}
	s.Release("s4")
	swept(t, s, 0, 0)
	condemned(t, s, 0, 1)
	pass(25 * time.Hour)
	swept(t, s, 0, 1)
}

// A snapshot that is locked anew is no longer condemned, and keeps its packs.
func TestALockEndsTheNotice(t *testing.T) {
	s, first, pass := aged(t)
	condemned(t, s, 1, 1)
	pass(25 * time.Hour)
	_, err := s.Extend(ctx, first.ID, ledger.Lock{Mode: ledger.Governance, ForSeconds: 3600}, "a person")
	must(t, err)
	swept(t, s, 0, 0)
	condemned(t, s, 0, 0)
	pass(2 * time.Hour)
	condemned(t, s, 1, 1)
	swept(t, s, 0, 0)
	pass(25 * time.Hour)
	swept(t, s, 1, 1)
}

// A clock that was put forward is no day.
func TestAWallClockSetForwardEndsNoNotice(t *testing.T) {
	_, src, s := newStore(t)
	commit(t, s, "web1", "s1", ledger.Lock{})
	src.Advance(time.Minute)
	commit(t, s, "web1", "s2", ledger.Lock{})
	src.Advance(3 * time.Hour)
	condemned(t, s, 1, 1)
	src.StepWall(23 * time.Hour) // a shift below a day stops nothing by itself
	src.Advance(2 * time.Hour)
	swept(t, s, 0, 0)
}

func TestReadersSweepNothing(t *testing.T) {
	d, src, _ := newStore(t)
	s, err := Open(d, src, Options{ReadOnly: true})
	must(t, err)
	if _, _, err := s.Condemn(ctx); !errors.Is(err, ErrReadOnly) {
		t.Error(err)
	}
	if _, err := s.Sweep(ctx); !errors.Is(err, ErrReadOnly) {
		t.Error(err)
	}
}
