package ledger

import (
	"bytes"
	"os"
	"reflect"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/policy"
)

// TestPromisesOfTheFirstReleaseAreStillRead holds the lines of holds, policies and of packs that count against a budget to
// those that were written when their form was fixed.
func TestPromisesOfTheFirstReleaseAreStillRead(t *testing.T) {
	const golden = "testdata/kinds/promises.jsonl"
	records := []Record{
		{Seq: 7, Kind: KindHold, At: stamp(3), Hold: &Hold{Snapshot: "ab", Reason: "case <17> & more", By: "ann"}},
		{Seq: 8, Kind: KindPolicy, At: stamp(4), Policy: &PolicyChange{By: "/etc/holdfast/policy.json", Policy: Policy{
			Mode: Compliance, DefaultSeconds: 2592000, MinSeconds: 604800, MaxSeconds: 34560000,
		}}},
		{Seq: 9, Kind: KindPolicy, At: stamp(5), Policy: &PolicyChange{Policy: Policy{
			Mode: Governance, DefaultSeconds: 3, MaxSeconds: 4, BudgetBytes: 5,
			Sources: map[string]policy.Rules{"web1": {BudgetBytes: 6}, "db1": {Mode: Compliance, DefaultSeconds: 2, MinSeconds: 1, MaxSeconds: 3}},
		}}},
		{Seq: 10, Kind: KindSeal, At: stamp(6), Seal: &Seal{File: "packs/00000001.pack", SHA256: "ab", Bytes: 7, Session: "s", Source: "web1"}},
		{Seq: 11, Kind: KindPolicy, At: stamp(7), Policy: &PolicyChange{By: "ann", Policy: Policy{
			Mode: Governance, DefaultSeconds: 3, MaxSeconds: 4, Keep: policy.Keep{Hourly: 24, Daily: 7, Weekly: 5, Monthly: 12, Yearly: 7, WithinSeconds: 1209600},
			Sources: map[string]policy.Rules{"web1": {Keep: policy.Keep{Daily: 30}}},
		}}},
	}
	asWritten(t, golden, records)
	for _, k := range []Kind{KindHold, KindPolicy} {
		if _, err := encodeLine(&Record{Kind: k}); err == nil {
			t.Errorf("a %s without its body was written", k)
		}
	}
}

// asWritten holds records to the lines that were written when their form was fixed, and to what is read of those.
func asWritten(t *testing.T, golden string, records []Record) {
	t.Helper()
	var now []byte
	for i := range records {
		line, err := encodeLine(&records[i])
		must(t, err)
		now = append(append(now, line...), '\n')
	}
	if *update {
		must(t, os.WriteFile(golden, now, 0o644))
	}
	then, err := os.ReadFile(golden)
	must(t, err)
	if !bytes.Equal(now, then) {
		t.Errorf("they are now\n%s\nthey were\n%s", now, then)
	}
	for i, line := range bytes.Split(bytes.TrimSuffix(then, []byte("\n")), []byte("\n")) {
		back, err := parseLine(line)
		must(t, err)
		back.Raw = nil
		if !reflect.DeepEqual(back, records[i]) || !back.Known() {
			t.Errorf("%+v", back)
		}
	}
}
