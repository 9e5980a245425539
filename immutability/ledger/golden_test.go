package ledger

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
)

var update = flag.Bool("update", false, "write testdata anew: a change of format")

// TestLedgerOfTheFirstReleaseIsStillRead opens files that were written when the format was fixed, and
// writes the same records again.
func TestLedgerOfTheFirstReleaseIsStillRead(t *testing.T) {
	const dir = "testdata/v1"
	d, l := newLedger(t)
	appendAll(t, l, sealRecord(1), Record{Kind: KindCommit, At: stamp(2), Commit: &Commit{
		Snapshot: "ab", Source: "web1", Label: "20260701T030405Z", Session: "s", State: "complete", Clean: true,
		Lock: Lock{Mode: Compliance, ForSeconds: 86400},
	}})
	l.fresh = true
	appendAll(t, l,
		Record{Kind: KindExtend, At: stamp(3), Extend: &Extend{Snapshot: "ab", Lock: Lock{Governance, 5}, By: "ann <x&y>"}},
		Record{Kind: KindKeyring, At: stamp(4), Keyring: &KeyringChange{Keyring: []byte{1, 2, 255}, Reason: "r"}},
		Record{Kind: KindIntent, At: stamp(5), Intent: &Intent{Files: []IntentFile{{"packs/00000001.pack", "ab"}}, Snapshots: []string{"ab"}, Reason: "r"}},
		Record{Kind: KindDone, At: stamp(6), Done: &Done{Intent: 6, Files: []string{"packs/00000001.pack"}}},
	)
	old := crashdisk.New()
	must(t, durable.MkdirAll(old, "ledger", 0o700))
	for _, name := range []string{"000001.jsonl", "000002.jsonl", "checkpoint"} {
		now := read(t, d, "ledger/"+name)
		if *update {
			must(t, os.MkdirAll(dir, 0o755))
			must(t, os.WriteFile(filepath.Join(dir, name), now, 0o644))
		}
		then, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		if string(now) != string(then) {
			t.Errorf("%s is now\n%s\nit was\n%s", name, now, then)
		}
		write(t, old, "ledger/"+name, then)
	}
	again := reopen(t, old)
	if got := kinds(again); got != "init seal commit segment extend keyring intent done" || again.Root() != l.Root() {
		t.Errorf("records %s", got)
	}
}
