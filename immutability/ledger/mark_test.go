package ledger

import (
	"bytes"
	"os"
	"reflect"
	"testing"
)

// TestMarksOfTheFirstReleaseThatHadThemAreStillRead holds the lines of marks to those that were written when their form was
// fixed.
func TestMarksOfTheFirstReleaseThatHadThemAreStillRead(t *testing.T) {
	const golden = "testdata/kinds/marks.jsonl"
	records := []Record{
		{Seq: 11, Kind: KindMark, At: stamp(3), Mark: &Mark{Snapshots: []string{"ab", "cd"}, Packs: []uint32{1, 4294967295}, Manifests: []string{"ef"}}},
		{Seq: 12, Kind: KindMark, At: stamp(4), Mark: &Mark{Snapshots: []string{}, Packs: []uint32{}, Manifests: []string{},
			Kept: &Kept{Snapshots: []string{"ab"}, Packs: []uint32{1}, Manifests: []string{}}}},
	}
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
