package vault

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
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

// TestALedgerThatIsBehindKeepsTheVaultShut: after a rollback nothing is written until a person decides; what is there must be
// given back meanwhile, though a pull that was cut has left something to salvage.
func TestALedgerThatIsBehindKeepsTheVaultShut(t *testing.T) {
	for _, kept := range []bool{false, true} {
		w := newWorld(t)
		if w.keeper != nil {
			return // it opens the store itself, and then has a keeper too
		}
		src := randomTree(1, 5)
		v := w.open(Options{})
		snap := pull(t, v, "web1", src)
		d, err := durable.OpenDir(w.dir)
		if err = errors.Join(err, v.Close()); err != nil {
			t.Fatal(err)
		}
		s, err := worm.Open(d, w.clock, worm.Options{})
		if err != nil {
			t.Fatal(err)
		}
		in, err := s.CreatePack("s1")
		if err == nil {
			_, err = in.File.Write([]byte("no pack"))
			err = errors.Join(err, in.File.Close())
		}
		key, kerr := durable.ReadFile(d, "keeper/log.key", 4096)
		signer, serr := note.NewSigner(strings.TrimSuffix(string(key), "\n"))
		if err := errors.Join(err, kerr, serr); err != nil {
			t.Fatal(err)
		}
		signed, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n1000\n%s\n", signer.Name(), tlog.Hash{1})}, signer)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Ledger().Remember(signed); !errors.Is(err, ledger.ErrBehind) {
			t.Fatal(err)
		}
		if err := errors.Join(s.Close(), d.Close()); err != nil {
			t.Fatal(err)
		}
		if kept {
			w.keep()
		}
		v = w.open(Options{})
		if _, err := v.OpenSnapshot(t.Context(), snap.ID); err != nil {
			t.Errorf("kept %v: %v", kept, err)
		}
		if _, err := tryPull(t.Context(), v, "web1", src); err == nil {
			t.Errorf("kept %v: it writes", kept)
		}
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	}
}
