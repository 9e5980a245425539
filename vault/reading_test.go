package vault

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestAPruneTakesWhatIsBeingRestored: what a restore needs stays as long as it runs, the snapshot itself may go, and
// afterwards the packs go too.
func TestAPruneTakesWhatIsBeingRestored(t *testing.T) {
	w := newWorld(t)
	v := w.open(Options{})
	defer func() { _ = v.Close() }()
	first := pull(t, v, "web1", randomTree(1, 20))
	w.clock.Advance(time.Minute)
	pull(t, v, "web1", randomTree(2, 20))
	w.clock.Advance(40 * 24 * time.Hour)
	if _, err := v.Prune(t.Context(), false); err != nil { // marks
		t.Fatal(err)
	}
	s, err := v.OpenSnapshot(t.Context(), first.ID)
	if err != nil {
		t.Fatal(err)
	}
	reading, end := context.WithCancel(t.Context())
	twin, endTwin := context.WithCancel(t.Context())
	s.ClaimUntil(reading)
	s.ClaimUntil(twin)
	packs := packsOf(t, first)
	for hour := range 75 {
		if hour%25 == 0 {
			rep, err := v.Prune(t.Context(), false)
			if err != nil {
				t.Fatal(err)
			}
			if len(rep.Packs) > 0 {
				t.Fatalf("hour %d: packs %v were removed from under a restore", hour, rep.Packs)
			}
		}
		w.clock.Advance(time.Hour)
		v.reads.renew(v)
	}
	if all, err := v.store.Snapshots(); err != nil || len(all) != 1 {
		t.Errorf("%d snapshots are left, %v", len(all), err)
	}
	v.cache.forget(packs) // nothing of it is open any more
	got, err := readBack(t.Context(), s)
	if err != nil {
		t.Fatalf("what is being restored: %v", err)
	}
	sameTree(t, got, randomTree(1, 20))
	end()
	waitFor(t, func() bool { return v.readers(first.ID) == 1 })
	v.reads.renew(v)
	if rep, err := v.Prune(t.Context(), false); err != nil || len(rep.Packs)+rep.MarkedPacks > 0 {
		t.Errorf("the other one still reads, and %v went, or %d are marked: %v", rep.Packs, rep.MarkedPacks, err)
	}
	v.reads.mu.Lock()
	r := v.reads.of[first.ID]
	v.reads.mu.Unlock()
	endTwin()
	waitFor(t, func() bool {
		r.turn.Lock()
		defer r.turn.Unlock()
		return r.left
	})
	rep, err := w.prune(v)
	if err != nil || len(rep.Packs) == 0 {
		t.Errorf("nobody reads, and %v went: %v", rep.Packs, err)
	}
}

// readers counts who reads a snapshot.
func (v *Vault) readers(id string) int {
	v.reads.mu.Lock()
	defer v.reads.mu.Unlock()
	if r := v.reads.of[id]; r != nil {
		return r.readers
	}
	return 0
}

// waitFor lets goroutines of others run until something is so.
func waitFor(t *testing.T, so func() bool) {
	t.Helper()
	for range 1_000_000 {
		if so() {
			return
		}
		runtime.Gosched()
	}
	t.Fatal("it does not come to pass")
}

// TestAReaderWithoutAClaimIsToldNothing: who cannot claim reads all the same, and is told why a pack is gone.
func TestAReaderWithoutAClaimIsToldNothing(t *testing.T) {
	w := newWorld(t)
	v := w.open(Options{})
	defer func() { _ = v.Close() }()
	first := pull(t, v, "web1", randomTree(1, 20))
	w.clock.Advance(time.Minute)
	pull(t, v, "web1", randomTree(2, 20))
	w.clock.Advance(40 * 24 * time.Hour)
	r := w.open(Options{ReadOnly: true})
	defer func() { _ = r.Close() }()
	s, err := r.OpenSnapshot(t.Context(), first.ID)
	if err != nil {
		t.Fatal(err)
	}
	s.ClaimUntil(t.Context())
	if rep, err := w.prune(v); err != nil || len(rep.Packs) == 0 {
		t.Fatalf("%+v %v", rep, err)
	}
	_, err = readBack(t.Context(), s)
	if err == nil || !strings.Contains(err.Error(), "nothing can be claimed: a prune beside this") {
		t.Errorf("reading what was removed: %v", err)
	}
}
