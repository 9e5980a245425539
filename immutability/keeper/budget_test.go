package keeper

import (
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// TestDaemonFillsTheDiskWithPacks: whatever the daemon says, a source's packs stop at its budget, and a session has one source.
func TestDaemonFillsTheDiskWithPacks(t *testing.T) {
	h := newHouse(t)
	_, _, err := h.store.Adopt(t.Context(), ledger.Policy{BudgetBytes: 20000}, "")
	must(t, err)
	c, ctx := h.dial(), t.Context()
	n := 0
	for ; n < 10 && err == nil; n++ {
		in, cerr := c.CreatePack(ctx, "s1", "web1")
		if err = cerr; err == nil {
			_, err = in.File.Write(content(in.Number))
			must(t, err)
			_, err = c.Seal(ctx, in)
		}
	}
	if !errors.Is(err, worm.ErrBudget) || n < 3 || n > 5 || !strings.Contains(err.Error(), "web1") {
		t.Errorf("after %d packs: %v", n, err)
	}
	for _, to := range [][2]string{{"s1", "db1"}, {"s2", ""}, {"s2", "../x"}, {"s2", "web1"}} {
		if _, err := c.CreatePack(ctx, to[0], to[1]); err == nil {
			t.Errorf("session %q got a pack for source %q", to[0], to[1])
		}
	}
	in, err := c.CreatePack(ctx, "s3", "db1")
	must(t, err)
	must(t, c.Drop(ctx, in))
}

// TestHoldThroughTheSocket: whoever may ask the keeper may hold, and nobody there can end it.
func TestHoldThroughTheSocket(t *testing.T) {
	h := newHouse(t)
	c, ctx := h.dial(), t.Context()
	id := h.commit(c, "web1", "s1")
	for i, reason := range []string{"case 17", "case 18", "case 18"} { // asked again it is the same
		if n, err := c.Hold(ctx, id, reason, "ann"); err != nil || n != min(i+1, 2) {
			t.Errorf("%d holds, %v", n, err)
		}
	}
	var f *Failure
	if _, err := c.Hold(ctx, strings.Repeat("0", 64), "x", "ann"); !errors.As(err, &f) || f.Code != Absent {
		t.Errorf("a hold of no snapshot: %v", err)
	}
	m := h.mirror()
	snap, err := m.Hold(ctx, id, "case 19", "bob")
	must(t, err)
	if len(snap.Holds) != 3 || snap.Holds[2].By != "bob" {
		t.Errorf("%+v", snap.Holds)
	}
}
