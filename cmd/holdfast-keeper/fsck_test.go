package main

import (
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/fsck"
)

// secondOpinion has the checker that shares no code with the keeper look at a guarded vault: nothing is wrong with it, and no
// file or directory lacks its flag.
func secondOpinion(t testing.TB, dir string, flagged bool) {
	t.Helper()
	d, err := fsck.OpenDir(dir)
	must(t, err)
	defer d.Close()
	d.OpenPlaces(nil)
	if _, appendOnly, ok := d.Flags("packs"); flagged && (!ok || !appendOnly) {
		t.Errorf("packs/ is not append-only, or its flags are not seen")
	}
	r, err := fsck.Look(t.Context(), d, fsck.Options{ReadData: true})
	must(t, err)
	if r.Moving {
		return // somebody writes: what it saw may be half of something
	}
	for _, f := range r.Damage {
		t.Errorf("fsck finds what check does not: %+v", f)
	}
	for _, f := range r.Notes {
		if f.Kind == fsck.KindMode || f.Kind == fsck.KindUnnamed && f.What != "incoming" {
			t.Errorf("fsck notes: %+v", f)
		}
	}
}
