package vault

import (
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/fsck"
)

// secondOpinion has the checker that shares no code with what writes look at a vault that check finds sound.
func secondOpinion(t testing.TB, dir string) {
	t.Helper()
	d, err := fsck.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	r, err := fsck.Look(t.Context(), d, fsck.Options{ReadData: true})
	if err != nil {
		t.Fatal(err)
	}
	if r.Moving {
		return // others write: what it saw may be half of something
	}
	for _, f := range r.Damage {
		t.Errorf("fsck finds what check does not: %+v", f)
	}
}
