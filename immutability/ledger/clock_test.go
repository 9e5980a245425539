package ledger

import (
	"os"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/clock"
)

// TestClockRecordOfTheFirstReleaseIsStillRead holds the line of a clock record to the one that was written when its form
// was fixed.
func TestClockRecordOfTheFirstReleaseIsStillRead(t *testing.T) {
	const golden = "testdata/kinds/clock.jsonl"
	r := Record{Seq: 7, Kind: KindClock, At: stamp(3), Clock: &Clock{
		Event: clock.Stopped, OffSeconds: 90000, MovedSeconds: -1500, Times: 2, Detail: "the wall clock <moved>",
	}}
	line, err := encodeLine(&r)
	must(t, err)
	line = append(line, '\n')
	if *update {
		must(t, os.MkdirAll("testdata/kinds", 0o755))
		must(t, os.WriteFile(golden, line, 0o644))
	}
	then, err := os.ReadFile(golden)
	must(t, err)
	if string(line) != string(then) {
		t.Errorf("it is now\n%s\nit was\n%s", line, then)
	}
	back, err := parseLine(then[:len(then)-1])
	must(t, err)
	if back.Clock == nil || *back.Clock != *r.Clock || !back.Known() {
		t.Errorf("%+v", back)
	}
	if _, err := encodeLine(&Record{Kind: KindClock}); err == nil {
		t.Error("a clock record without its body was written")
	}
}
