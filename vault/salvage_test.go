package vault

import (
	"errors"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// TestATakenNameKeepsTheVaultShut: a session is of one source for good, by records that nobody takes back. Were the name of the
// session that salvages known beforehand, a daemon that was taken over once could give it to a source, and no later one would
// open the vault where anything is left to salvage.
func TestATakenNameKeepsTheVaultShut(t *testing.T) {
	w := newWorld(t)
	if w.keeper != nil {
		return // it opens the store itself, and what it shows is the daemon's
	}
	d, err := durable.OpenDir(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	s, err := worm.Open(d, w.clock, worm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	begin := func(session string) *worm.Incoming {
		in, err := s.CreatePack(session)
		if err == nil {
			_, err = in.File.Write([]byte("no pack"))
		}
		if err != nil {
			t.Fatal(err)
		}
		return in
	}
	_, serr := s.Seal(t.Context(), func() *worm.Incoming { _ = s.Bind("salvaged", "web1"); return begin("salvaged") }())
	left := begin("s1")
	if err := errors.Join(serr, left.File.Close(), s.Close(), d.Close()); err != nil {
		t.Fatal(err)
	}
	v := w.open(Options{})
	if left, err := v.store.Leftovers(); err != nil || len(left) > 0 {
		t.Errorf("%v %v", left, err)
	}
	pull(t, v, "web1", randomTree(1, 5))
	if err := v.Close(); err != nil {
		t.Error(err)
	}
}
