package worm

import (
	"errors"
	"io/fs"
	"path"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
)

// TestTheGroupCannotReadWhatMovedIn: a daemon that cannot read a leftover of before, or a pack that was half published, or the
// notes, does not start.
func TestTheGroupCannotReadWhatMovedIn(t *testing.T) {
	d, src, s := newStore(t)
	commit(t, s, "web1", "s1", ledger.Lock{})
	var grew [2]*Incoming
	for i := range grew {
		in, err := s.CreatePack("s2")
		must(t, err)
		_, err = in.File.Write(content(in.Number))
		must(t, errors.Join(err, in.File.Sync(), in.File.Close()))
		grew[i] = in
	}
	half, left := grew[0].Number, grew[1].Number
	must(t, d.Link(incomingPack(half), packFile(half)))
	must(t, s.Close())
	// As a process with umask 077 makes it that found itself behind.
	must(t, durable.MkdirAll(d, "log", 0o700))
	create(t, d, "log/behind", s.Ledger().Checkpoint())
	must(t, d.Chmod("log/behind", 0o600))
	openGuarded(t, d, src)
	for name, want := range map[string]fs.FileMode{incomingPack(left): 0o440, packFile(half): 0o440, "log": 0o750, "log/behind": 0o640} {
		info, err := d.Stat(name)
		must(t, err)
		if info.Mode().Perm() != want {
			t.Errorf("%s has %o, want %o", name, info.Mode().Perm(), want)
		}
	}
	if f, err := d.Flags(packFile(half)); err != nil || f != durable.Immutable {
		t.Errorf("the half-published pack has the flags %q, %v", f, err)
	}
}

// TestAnOldWriterMovesIn: whoever kept what he had open from before there was a guard writes to it afterwards too, on some
// file systems whatever the flags are.
func TestAnOldWriterMovesIn(t *testing.T) {
	for _, what := range []string{packFile(1), "manifest", "ledger/000001.jsonl"} {
		d, src, s := newStore(t)
		snap := commit(t, s, "web1", "s1", ledger.Lock{})
		must(t, s.Close())
		if what == "manifest" {
			what = manifestFile(snap.ID)
		}
		w, err := d.Append(what)
		must(t, err)
		if _, err := Open(d, src, Options{Guard: true}); !errors.Is(err, durable.ErrWriter) {
			t.Fatalf("open beside a writer of %s: %v, want ErrWriter", what, err)
		}
		must(t, w.Close())
		if bad := openGuarded(t, d, src).Check(ctx, true); len(bad) > 0 {
			t.Error(bad)
		}
	}
}

// TestGivenUpPacksFillTheDisk: whoever begins packs and gives them up, or gives up what never was, leaves one empty file and
// no more, and no number comes again.
func TestGivenUpPacksFillTheDisk(t *testing.T) {
	d, src, s := newGuardedStore(t)
	left := func() (n int) {
		for _, name := range d.Files() {
			if path.Dir(name) == incomingDir {
				n++
			}
		}
		return n
	}
	var last uint32
	for range 20 {
		a, err := s.CreatePack("s1")
		must(t, err)
		b, err := s.CreatePack("s1")
		must(t, err)
		must(t, s.Drop(b))
		must(t, s.Drop(a))
		last = b.Number
	}
	if n := left(); n != 1 {
		t.Errorf("%d files are left", n)
	}
	for _, n := range []uint32{last, last - 1, last + 7, 1 << 31} {
		must(t, s.Discard(n))
		must(t, s.Discard(n))
	}
	if n := left(); n != 1 {
		t.Errorf("%d files are left", n)
	}
	must(t, s.Close())
	s = openGuarded(t, d.Restart(crashdisk.LoseUnsynced, 0), src)
	in, err := s.CreatePack("s2")
	must(t, err)
	if in.Number <= last {
		t.Errorf("number %d comes again", in.Number)
	}
}

// TestPacksGrowIntoALedgerThatIsBehind: what cannot be sealed any more is closed.
func TestPacksGrowIntoALedgerThatIsBehind(t *testing.T) {
	for name, end := range map[string]func(*Store, *Incoming) error{
		"seal":  func(s *Store, in *Incoming) error { _, err := s.Seal(ctx, in); return err },
		"drop":  (*Store).Drop,
		"leave": (*Store).Leave,
	} {
		d, src, s := newGuardedStore(t)
		old := d.Clone()
		commit(t, s, "web1", "s1", ledger.Lock{})
		newest := s.Ledger().Checkpoint()
		s = openGuarded(t, old, src)
		in, err := s.CreatePack("s2")
		must(t, err)
		w := in.File
		if err := s.Ledger().Remember(newest); !errors.Is(err, ledger.ErrBehind) {
			t.Fatal(err)
		}
		if err := end(s, in); !errors.Is(err, ledger.ErrBehind) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := w.Write([]byte("x")); !errors.Is(err, fs.ErrClosed) || in.held != nil {
			t.Errorf("%s left it open: %v", name, err)
		}
	}
}

// TestAnOldNoticeCounts: what was kept in between has its day again, also where nobody looked meanwhile.
func TestAnOldNoticeCounts(t *testing.T) {
	s, first, pass := aged(t)
	condemned(t, s, 1, 1)
	_, err := s.Extend(ctx, first.ID, ledger.Lock{Mode: ledger.Governance, ForSeconds: 3600}, "a person")
	must(t, err)
	pass(25 * time.Hour)
	swept(t, s, 0, 0)
	condemned(t, s, 1, 1)
	m, err := manifest(s, "web2", "s9", 1) // without a claim
	must(t, err)
	_, err = s.Commit(ctx, "s9", m, ledger.Lock{})
	must(t, err)
	pass(time.Minute)
	commit(t, s, "web2", "s10", ledger.Lock{})
	pass(25 * time.Hour)
	swept(t, s, 1, 0)
	condemned(t, s, 1, 1)
	pass(25 * time.Hour)
	swept(t, s, 1, 1)
}
