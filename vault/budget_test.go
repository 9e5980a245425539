package vault

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/policy"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// TestPullBeyondTheBudget: the pull of a source that stored too much within a day fails and says why, the other source is
// pulled, what is there stays readable and checks, also after the vault was opened anew, and a day later it goes on.
func TestPullBeyondTheBudget(t *testing.T) {
	w := newWorld(t)
	v := w.open(Options{})
	_, _, err := v.Store().Adopt(t.Context(), ledger.Policy{Sources: map[string]policy.Rules{"web1": {BudgetBytes: 1 << 20}}}, "")
	if err != nil {
		t.Fatal(err)
	}
	first, more := randomTree(1, 40), randomTree(2, 40)
	snap := pull(t, v, "web1", first)
	for b, err := v.Store().Budgets(); err != nil || len(b) != 1 || b[0].Used < 1<<20; {
		t.Fatalf("the test's tree is too small for it: %+v, %v", b, err)
	}
	for i := range uint64(2) {
		if _, err := tryPull(t.Context(), v, "web1", more); !errors.Is(err, worm.ErrBudget) {
			t.Fatalf("a pull beyond the budget: %v", err)
		}
		pull(t, v, "db1", randomTree(3+i, 10)) // other content: what is there costs nothing
		mustGiveBack(t, v, snap.ID, first)
		mustCheck(t, v)
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		v = w.open(Options{})
	}
	w.clock.Advance(25 * time.Hour)
	after := pull(t, v, "web1", more)
	mustGiveBack(t, v, after.ID, more)
	if got, err := v.Snapshots(context.Background()); err != nil || len(got) != 4 {
		t.Errorf("%d snapshots, %v", len(got), err)
	}
}
