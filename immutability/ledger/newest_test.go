package ledger

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
)

// TestNewestSegmentIsTakenAway: whoever starts is told what is missing, and not that a closed segment cannot be written.
func TestNewestSegmentIsTakenAway(t *testing.T) {
	d := crashdisk.New()
	must(t, durable.MkdirAll(d, "ledger", 0o700))
	must(t, CreateGuarded(d, "ledger", testSigner, initRecord()))
	l, err := OpenGuarded(d, "ledger", testSigner, testVerifier)
	must(t, err)
	appendAll(t, l, sealRecord(1))
	l.fresh = true // as if the segment were full
	appendAll(t, l, sealRecord(2))
	must(t, l.Close())
	for _, name := range []string{"ledger", "ledger/000002.jsonl"} {
		must(t, d.SetFlags(name, 0, durable.AppendOnly|durable.Immutable))
	}
	must(t, d.Remove("ledger/000002.jsonl"))
	_, err = OpenGuarded(d, "ledger", testSigner, testVerifier)
	var bad *Damage
	if errors.Is(err, fs.ErrPermission) || !errors.As(err, &bad) || !strings.Contains(bad.Detail, "missing") {
		t.Errorf("open: %v, want the damage", err)
	}
}
