package ledger

import "testing"

// TestMarksOfTheFirstReleaseThatHadThemAreStillRead holds the lines of marks to those that were written when their form was
// fixed.
func TestMarksOfTheFirstReleaseThatHadThemAreStillRead(t *testing.T) {
	const golden = "testdata/kinds/marks.jsonl"
	records := []Record{
		{Seq: 11, Kind: KindMark, At: stamp(3), Mark: &Mark{Snapshots: []string{"ab", "cd"}, Packs: []uint32{1, 4294967295}, Manifests: []string{"ef"}}},
		{Seq: 12, Kind: KindMark, At: stamp(4), Mark: &Mark{Snapshots: []string{}, Packs: []uint32{}, Manifests: []string{},
			Kept: &Kept{Snapshots: []string{"ab"}, Packs: []uint32{1}, Manifests: []string{}}}},
	}
	asWritten(t, golden, records)
}
