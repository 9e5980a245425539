package move

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// moved is a vault that has moved and was written to in its new place.
func moved(t testing.TB, guard bool) *two {
	w := newTwo(guard).build(t)
	_, err := Run(ctx, w.options())
	must(t, err)
	s, err := w.open(w.new)
	must(t, err)
	commit(t, s, "web1", "after", ledger.Lock{})
	must(t, s.Close())
	w.on(w.d.Restart(crashdisk.KeepAll, 0))
	return w
}

// TestAnOldPlaceMayGo: its flags go, no name of it does, and the new place keeps its own.
func TestAnOldPlaceMayGo(t *testing.T) {
	for _, guard := range []bool{false, true} {
		w := moved(t, guard)
		files := len(w.d.Files())
		r, err := Retire(ctx, w.options())
		must(t, err)
		if r.Vault != testVault || r.Files != 9 || len(r.Damaged) > 0 {
			t.Errorf("%+v", r)
		}
		if len(w.d.Files()) != files {
			t.Error("something was taken away")
		}
		if guard {
			must(t, errors.Join(w.d.Remove("old/packs/00000001.pack"), w.d.Remove("old/ledger/000001.jsonl"), w.d.Remove("old/keyring")))
			if w.d.Remove("new/packs/00000001.pack") == nil {
				t.Error("the new place lost its flags")
			}
		}
		if _, err := w.open(w.old); !errors.Is(err, worm.ErrMoved) {
			t.Errorf("the old place opens for writing: %v", err)
		}
	}
}

// TestTheOnlyCopyIsReleased: whatever makes the new place less than the old one keeps the old one's flags where they are.
func TestTheOnlyCopyIsReleased(t *testing.T) {
	for harm, do := range map[string]func(w *two) error{
		"bears no mark": func(w *two) error { return durable.RemoveGuarded(w.old, movedName) },
		"moved is damaged": func(w *two) error {
			return durable.ReplaceGuarded(w.old, "incoming/x.tmp", movedName, []byte("{"), 0o600)
		},
		"not the vault that moved": func(w *two) error {
			return worm.MarkMoved(w.old, w.old, worm.Moved{Vault: testVault, To: "/new", Size: 3, Root: "AAAA"})
		},
		"had 5 when": func(w *two) error { // as if somebody had gone on in the old place
			l, err := takeInventory(w.old)
			if err != nil {
				return err
			}
			root, err := l.ledger.RootAt(5)
			if err != nil {
				return err
			}
			return worm.MarkMoved(w.old, w.old, worm.Moved{Vault: testVault, To: "/new", Size: 5, Root: root.String()})
		},
		"on to": func(w *two) error {
			return worm.MarkMoved(w.new, w.new, worm.Moved{Vault: testVault, To: "/third", Size: 5, Root: "AAAA"})
		},
		"moving in here": func(w *two) error {
			return durable.ReplaceGuarded(w.new, "incoming/x.tmp", movingName, []byte("{}"), 0o600)
		},
		"the old place has it whole": func(w *two) error { return w.d.Flip("new/packs/00000002.pack", 4, 1) },
		"it is missing":              func(w *two) error { return durable.RemoveFinal(w.new, "packs", []string{"packs/00000001.pack"}) },
		"readdir new/ledger":         func(w *two) error { return w.gone("ledger") },
		"older copy":                 func(w *two) error { return w.ahead() },
		"lacks its flag":             func(w *two) error { return w.new.SetFlags("packs/00000001.pack", 0, durable.Immutable) },
		"not immutable":              func(w *two) error { return w.bare() },
		"is damaged in":              func(w *two) error { return w.d.Flip("new/ledger/000001.jsonl", 300, 1) },
	} {
		w := moved(t, true)
		must(t, do(w))
		o := w.options()
		if _, err := Retire(ctx, o); err == nil || !strings.Contains(err.Error(), harm) {
			t.Errorf("%s: %v", harm, err)
		}
		for _, name := range []string{"old", "old/packs", "old/packs/00000001.pack", "old/ledger/000001.jsonl"} {
			if f, err := w.d.Flags(name); err != nil || f == 0 {
				t.Errorf("%s: %s lost its flag: %v", harm, name, err)
			}
		}
	}
}

// gone takes a directory of the new place away.
func (w *two) gone(dir string) error {
	names, err := sizes(w.new, dir)
	if err != nil {
		return err
	}
	if err := errors.Join(w.new.SetFlags(".", 0, durable.Immutable), w.new.SetFlags(dir, 0, durable.AppendOnly)); err != nil {
		return err
	}
	for name := range names {
		if err := errors.Join(w.new.SetFlags(name, 0, durable.Immutable|durable.AppendOnly), w.new.Remove(name)); err != nil {
			return err
		}
	}
	return w.new.Remove(dir)
}

// ahead lets the old place go on without its mark, and marks it anew.
func (w *two) ahead() error {
	if err := durable.RemoveGuarded(w.old, movedName); err != nil {
		return err
	}
	s, err := w.open(w.old)
	if err != nil {
		return err
	}
	for _, session := range []string{"s20", "s21"} {
		if _, err := tryCommit(s, "db1", session, ledger.Lock{}); err != nil {
			return err
		}
	}
	size, root := s.Ledger().Size(), s.Ledger().Root().String()
	return errors.Join(s.Close(), worm.MarkMoved(w.old, w.old, worm.Moved{Vault: testVault, To: "/new", Size: size, Root: root}))
}

// bare lifts every flag of the new place.
func (w *two) bare() error {
	return unsealPlace(w.new, packsDir, manifestsDir, ledgerDir, incomingDir)
}

// TestDamageThatBothHave: what came along damaged keeps nobody from giving the old place up, once that is said.
func TestDamageThatBothHave(t *testing.T) {
	w := newTwo(true).build(t)
	must(t, w.d.Flip("old/packs/00000001.pack", 5, 1))
	o := w.options()
	o.WithDamage = true
	_, err := Run(ctx, o)
	must(t, err)
	if _, err := Retire(ctx, w.options()); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "--with-damage") {
		t.Errorf("%v", err)
	}
	r, err := Retire(ctx, o)
	must(t, err)
	if len(r.Damaged) != 1 {
		t.Errorf("%+v", r.Damaged)
	}
}

// TestWhatLeftSinceIsNoLoss: a snapshot that ran out in the new place is not missed.
func TestWhatLeftSinceIsNoLoss(t *testing.T) {
	w := moved(t, true)
	s, err := w.open(w.new)
	must(t, err)
	w.src.Advance(85 * 24 * 3600e9)
	must(t, removeAll(w, s))
	if n := len(s.Packs()); n != 2 {
		t.Fatalf("%d packs remain", n)
	}
	must(t, s.Close())
	_, err = Retire(ctx, w.options())
	must(t, err)
}

// TestOneDirectoryTwice: a link, a mount or a directory inside is no second place.
func TestOneDirectoryTwice(t *testing.T) {
	dir := t.TempDir()
	old, other := filepath.Join(dir, "old"), filepath.Join(dir, "other")
	for _, d := range []string{old, other, filepath.Join(old, "incoming"), filepath.Join(other, "in")} {
		must(t, os.MkdirAll(d, 0o700))
	}
	must(t, os.Symlink(old, filepath.Join(dir, "link")))
	must(t, os.Symlink(filepath.Join(old, "incoming"), filepath.Join(dir, "deep")))
	for _, bad := range []string{old, old + "/.", filepath.Join(dir, "link"), filepath.Join(old, "incoming"), filepath.Join(dir, "deep"), dir} {
		if _, _, err := Apart(old, bad); err == nil {
			t.Errorf("%s and %s are taken for two places", old, bad)
		}
	}
	if _, _, err := Apart(old, filepath.Join(dir, "nowhere")); err == nil {
		t.Error("a directory that is not there is a place")
	}
	a, b, err := Apart(filepath.Join(dir, "link"), filepath.Join(dir, "other"))
	if err != nil || filepath.Base(a) != "old" || filepath.Base(b) != "other" {
		t.Errorf("%q %q %v", a, b, err)
	}
	mounts(t, old, other)
}

// mounts tries what only root can do.
func mounts(t *testing.T, old, other string) {
	if os.Geteuid() != 0 {
		if os.Getenv("HOLDFAST_REQUIRE_ALL") == "1" {
			t.Fatal("needs root")
		}
		t.Skip("needs root")
	}
	target := filepath.Join(t.TempDir(), "target")
	must(t, os.Mkdir(target, 0o700))
	for _, from := range []string{old, filepath.Join(old, "incoming")} {
		if out, err := exec.CommandContext(t.Context(), "mount", "--bind", from, target).CombinedOutput(); err != nil {
			t.Fatalf("mount: %v %s", err, out)
		}
		_, _, err := Apart(old, target)
		_, _, inner := Apart(old, filepath.Join(target, "."))
		if out, uerr := exec.Command("umount", target).CombinedOutput(); uerr != nil {
			t.Fatalf("umount: %v %s", uerr, out)
		}
		if err == nil || inner == nil {
			t.Errorf("%s, mounted elsewhere, is taken for a second place", from)
		}
	}
	// A directory of the new place that is one of the old one's.
	if out, err := exec.CommandContext(t.Context(), "mount", "--bind", filepath.Join(old, "incoming"), filepath.Join(other, "in")).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v %s", err, out)
	}
	_, _, err := Apart(old, other)
	if out, uerr := exec.Command("umount", filepath.Join(other, "in")).CombinedOutput(); uerr != nil {
		t.Fatalf("umount: %v %s", uerr, out)
	}
	if err == nil {
		t.Error("a place that has the other's directory is taken for a second one")
	}
}

// TestTheSameFilesUnderAnotherName: hard links are not a copy.
func TestTheSameFilesUnderAnotherName(t *testing.T) {
	dir := t.TempDir()
	w := newTwo(false)
	var places []*durable.Dir
	for _, name := range []string{"old", "new"} {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		d, err := durable.OpenDir(filepath.Join(dir, name))
		must(t, err)
		defer d.Close()
		places = append(places, d)
	}
	_, err := worm.Init(places[0], w.src, worm.InitOptions{
		Vault: testVault, Identity: []byte(`{"format":1,"vault":"` + testVault + `"}` + "\n"), Keyring: []byte("ring\n"),
		Policy: ledger.Policy{Mode: ledger.Governance, DefaultSeconds: 3600, MinSeconds: 60, MaxSeconds: 7200},
	})
	must(t, err)
	s, err := w.open(places[0])
	must(t, err)
	commit(t, s, "web1", "s1", ledger.Lock{})
	must(t, s.Close())
	o := Options{Old: places[0], New: places[1], OldPath: filepath.Join(dir, "old"), NewPath: filepath.Join(dir, "new"), Clock: w.src}
	_, err = Run(ctx, o)
	must(t, err)
	_, err = Retire(ctx, o)
	must(t, err)
	pack := filepath.Join(dir, "new", "packs", "00000001.pack")
	must(t, errors.Join(os.Remove(pack), os.Link(filepath.Join(dir, "old", "packs", "00000001.pack"), pack)))
	if _, err := Retire(ctx, o); err == nil || !strings.Contains(err.Error(), "is the same file") {
		t.Errorf("%v", err)
	}
}

// TestAMarkThatComesBackAfterRetirement: where the end of a move failed, the new place's mark may be gone in the cache alone. It
// must not be back with a power cut once the old place has gone: nobody could write to the vault then, or move it again.
func TestAMarkThatComesBackAfterRetirement(t *testing.T) {
	for _, guard := range []bool{false, true} {
		w := newTwo(guard).build(t)
		quiet := w.at(w.d.Clone())
		_, err := Run(ctx, quiet.options())
		must(t, err)
		retired := 0
		for op := quiet.d.Ops() - 6; op <= quiet.d.Ops(); op++ {
			cut := w.at(w.d.Clone())
			cut.d.FailAt(op, crashdisk.IOError)
			if _, err := Run(ctx, cut.options()); err == nil {
				continue
			}
			if _, err := Retire(ctx, cut.options()); err != nil {
				continue
			}
			retired++
			after := cut.at(cut.d.Restart(crashdisk.LoseUnsynced, 0))
			s, err := after.open(after.new)
			if err != nil {
				t.Errorf("guard %t, op %d: %v", guard, op, err)
				continue
			}
			must(t, s.Close())
		}
		if retired == 0 {
			t.Errorf("guard %t: no old place was given up after a move whose end failed", guard)
		}
	}
}
