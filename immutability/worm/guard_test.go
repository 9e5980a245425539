package worm

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
)

func openGuarded(t testing.TB, d durable.Disk, src clock.Source) *Store {
	t.Helper()
	s, err := Open(d, src, Options{Guard: true})
	must(t, err)
	return s
}

func newGuardedStore(t testing.TB) (*crashdisk.Disk, *clock.Manual, *Store) {
	t.Helper()
	d, src := crashdisk.New(), newClock()
	o := initOptions()
	o.Guard = true
	_, err := Init(d, src, o)
	must(t, err)
	s := openGuarded(t, d, src)
	if s.Unguarded() != 0 {
		t.Errorf("%d files and directories were born without their flags", s.Unguarded())
	}
	return d, src, s
}

// TestASealedPackIsStillWritten: whoever has a pack open for writing could change it after it was hashed.
func TestASealedPackIsStillWritten(t *testing.T) {
	d, src, s := newGuardedStore(t)
	in, err := s.CreatePack("s1")
	must(t, err)
	_, err = in.File.Write(content(in.Number))
	must(t, err)
	spy, err := d.Append(incomingPack(in.Number)) // as a descriptor that was passed on
	must(t, err)
	if _, err := s.Seal(ctx, in); !errors.Is(err, durable.ErrWriter) {
		t.Fatalf("seal beside a writer: %v, want ErrWriter", err)
	}
	if len(s.Packs()) > 0 {
		t.Error("it is sealed")
	}
	if _, err := d.Stat(packFile(in.Number)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is among the packs: %v", err)
	}
	must(t, s.Leave(in))
	must(t, spy.Close())
	left, err := s.Leftovers()
	must(t, err)
	if len(left) != 1 || left[0].Number != in.Number {
		t.Errorf("leftovers %v", left)
	}
	commit(t, openGuarded(t, d, src), "web1", "s2", ledger.Lock{})
}

// TestWriterBetweenHashAndFlag: whoever opens the pack for writing behind the lease is seen, and it is not acknowledged.
func TestWriterBetweenHashAndFlag(t *testing.T) {
	d, src, s := newGuardedStore(t)
	must(t, s.Close())
	h := &hasty{Disk: d}
	s = openGuarded(t, h, src)
	in, err := s.CreatePack("s1")
	must(t, err)
	_, err = in.File.Write(content(in.Number))
	must(t, err)
	h.before = func(name string) {
		if name == packFile(in.Number) {
			w, err := d.Append(incomingPack(in.Number))
			must(t, err)
			must(t, w.Close())
		}
	}
	if _, err := s.Seal(ctx, in); !errors.Is(err, durable.ErrWriter) {
		t.Fatalf("seal: %v, want ErrWriter", err)
	}
	h.before = nil
	s = openGuarded(t, d, src)
	if p, ok := s.Pack(in.Number); !ok || p.Session != "" {
		t.Errorf("recovery did not hash it anew: %+v", p)
	}
}

// hasty is a disk on which something happens before a link.
type hasty struct {
	*crashdisk.Disk
	before func(newname string)
}

func (h *hasty) Link(oldname, newname string) error {
	if h.before != nil {
		h.before(newname)
	}
	return h.Disk.Link(oldname, newname)
}

// TestSealedFilesCanBeTouched: nothing but the store's own removal takes a sealed file away, and that still does.
func TestSealedFilesCanBeTouched(t *testing.T) {
	d, src, s := newGuardedStore(t)
	first := commit(t, s, "web1", "s1", ledger.Lock{})
	src.Advance(time.Minute)
	second := commit(t, s, "web1", "s2", ledger.Lock{})
	create(t, d, "incoming/forged", []byte("forged"))
	for _, file := range []string{packFile(1), packFile(2), manifestFile(first.ID), manifestFile(second.ID)} {
		for harm, err := range map[string]error{
			"remove": d.Remove(file), "rename": d.Rename(file, "incoming/gone"), "replace": d.Rename("incoming/forged", file), "link": d.Link(file, "incoming/other"),
		} {
			if !errors.Is(err, fs.ErrPermission) {
				t.Errorf("%s of %s: %v, want fs.ErrPermission", harm, file, err)
			}
		}
		if f, err := d.Append(file); err == nil {
			f.Close()
			t.Errorf("%s was opened for writing", file)
		}
	}
	src.Advance(3 * time.Hour)
	rep := gone(t, s, src)
	if len(rep.Snapshots) != 1 || rep.Snapshots[0] != first.ID || len(rep.Packs) != 1 {
		t.Errorf("%+v", rep)
	}
	if _, err := d.Stat(packFile(1)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("pack 1 is still there: %v", err)
	}
	if bad := s.Check(ctx, true); len(bad) > 0 {
		t.Error(bad)
	}
}

// TestAVaultFromElsewhereIsOpen: a copy has no flags; the next start gives them, and what is lifted later is told.
func TestAVaultFromElsewhereIsOpen(t *testing.T) {
	d, src, s := newStore(t)
	snap := commit(t, s, "web1", "s1", ledger.Lock{})
	must(t, s.Close())
	s = openGuarded(t, d, src)
	if s.Unguarded() != 0 {
		t.Errorf("%d lacked flags that they never had", s.Unguarded())
	}
	must(t, s.Close())
	d = unflagged(t, d)
	if s = openGuarded(t, d, src); s.Unguarded() != 7 {
		t.Errorf("%d had no flags, want pack, manifest, segment, three directories and the root", s.Unguarded())
	}
	s = openGuarded(t, d.Restart(crashdisk.LoseUnsynced, 0), src)
	d = s.disk.(*crashdisk.Disk)
	if s.Unguarded() != 0 {
		t.Errorf("%d files lost their flags in the cut", s.Unguarded())
	}
	if bad := s.Check(ctx, true); len(bad) > 0 {
		t.Error(bad)
	}
	for _, file := range []string{".", packsDir, manifestsDir, ledgerDir, "ledger/000001.jsonl", packFile(1), manifestFile(snap.ID)} {
		must(t, d.SetFlags(file, 0, durable.Immutable|durable.AppendOnly))
		if bad := s.Check(ctx, false); len(bad) != 1 || bad[0].What != file || !strings.Contains(bad[0].Detail, "any more") {
			t.Errorf("%s has lost its flag, check: %v", file, bad)
		}
		if s = openGuarded(t, d, src); s.Unguarded() != 1 {
			t.Errorf("%s has lost its flag, and %d are missing", file, s.Unguarded())
		}
		if bad := s.Check(ctx, true); len(bad) > 0 {
			t.Errorf("%s has its flag again: %v", file, bad)
		}
	}
}

// TestRecoveryRecordsWhatSomebodyWrites: a file without a record that somebody can write to must not get one.
func TestRecoveryRecordsWhatSomebodyWrites(t *testing.T) {
	d, src, s := newStore(t)
	in, err := s.CreatePack("s1")
	must(t, err)
	_, err = in.File.Write(content(in.Number))
	must(t, err)
	_, err = s.publishPack(ctx, in)
	must(t, err)
	w, err := d.Append(packFile(in.Number))
	must(t, err)
	if _, err := Open(d, src, Options{Guard: true}); !errors.Is(err, durable.ErrWriter) {
		t.Fatalf("open: %v, want ErrWriter", err)
	}
	must(t, w.Close())
	s = openGuarded(t, d, src)
	must(t, samePack(s, in.Number, content(in.Number)))
	if f, err := d.Flags(packFile(in.Number)); err != nil || f != durable.Immutable {
		t.Errorf("flags %q, %v", f, err)
	}
}

// TestAHalfPublishedPackWithAWriterIsALeftover: it goes back to where packs grow.
func TestAHalfPublishedPackWithAWriterIsALeftover(t *testing.T) {
	d, src, s := newStore(t)
	in, err := s.CreatePack("s1")
	must(t, err)
	_, err = in.File.Write(content(in.Number))
	must(t, err)
	must(t, d.Link(incomingPack(in.Number), packFile(in.Number)))
	must(t, s.Close())
	s = openGuarded(t, d, src) // in.File is still open
	if len(s.Packs()) > 0 {
		t.Error("it is sealed")
	}
	left, err := s.Leftovers()
	must(t, err)
	if len(left) != 1 {
		t.Errorf("leftovers %v", left)
	}
	must(t, in.File.Close())
	if bad := s.Check(ctx, true); len(bad) > 0 {
		t.Error(bad)
	}
}

// unguardable is a disk without flags.
type unguardable struct{ durable.Disk }

func TestAGuardIsNotPretended(t *testing.T) {
	d, src, s := newStore(t)
	must(t, s.Close())
	if _, err := Open(unguardable{d}, src, Options{Guard: true}); err == nil {
		t.Error("it claims to guard a disk without flags")
	}
}

// TestARealFileSystemGuardsTheVault lives a vault's life on the file system of the tests' directory.
func TestARealFileSystemGuardsTheVault(t *testing.T) {
	dir := t.TempDir()
	d, err := durable.OpenDir(dir)
	must(t, err)
	err = d.SetFlags(".", durable.AppendOnly, 0)
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission) {
		if os.Getenv("HOLDFAST_REQUIRE_ALL") == "1" && os.Geteuid() == 0 {
			t.Fatal(err)
		}
		t.Skipf("needs a file system with flags, and CAP_LINUX_IMMUTABLE: %v", err)
	}
	must(t, errors.Join(err, d.SetFlags(".", 0, durable.AppendOnly)))
	t.Cleanup(func() {
		unflag(t, d, ".")
		must(t, d.Close())
	})
	src, m := newClock(), newGuarded()
	must(t, m.life(d, src, false))
	if len(m.snapshots) != 3 || len(m.gone) != 2 {
		t.Errorf("%d snapshots, %d of them removed", len(m.snapshots), len(m.gone))
	}
	s := openGuarded(t, d, src)
	must(t, m.holds(s))
	if s.Unguarded() != 0 {
		t.Errorf("%d files were not immutable", s.Unguarded())
	}
	left := packFile(s.Packs()[0].Number)
	for harm, err := range map[string]error{
		"remove":   os.Remove(filepath.Join(dir, left)),
		"truncate": os.Truncate(filepath.Join(dir, left), 0),
		"rename":   os.Rename(filepath.Join(dir, left), filepath.Join(dir, "gone")),
		"chmod":    os.Chmod(filepath.Join(dir, left), 0o666),
		"packs":    os.Rename(filepath.Join(dir, packsDir), filepath.Join(dir, "gone")),
		"log":      os.Rename(filepath.Join(dir, "log"), filepath.Join(dir, "incoming/log")),
		"keeper":   os.Rename(filepath.Join(dir, keeperDir), filepath.Join(dir, "incoming/keeper")),
		"root":     os.Rename(dir, dir+"x"),
		"new name": os.WriteFile(filepath.Join(dir, "new"), nil, 0o600),
		"segment":  os.Remove(filepath.Join(dir, "ledger/000001.jsonl")),
		"shorten":  os.Truncate(filepath.Join(dir, "ledger/000001.jsonl"), 0),
		"rewrite":  os.WriteFile(filepath.Join(dir, "ledger/000001.jsonl"), nil, 0o600),
	} {
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: %v, want fs.ErrPermission, even for root", harm, err)
		}
	}
	must(t, m.holds(s))
	must(t, s.Close())
}

// TestUnsyncedBytesAreSealed: whoever was handed a pack may never have synced it. What is hashed must be on the medium.
func TestUnsyncedBytesAreSealed(t *testing.T) {
	d, src, s := newGuardedStore(t)
	in, err := s.CreatePack("s1")
	must(t, err)
	_, err = in.File.Write(content(in.Number))
	must(t, err)
	must(t, in.File.Close())
	in.File = nil // as after Hand
	_, err = s.Seal(ctx, in)
	must(t, err)
	s = openGuarded(t, d.Restart(crashdisk.LoseUnsynced, 0), src)
	must(t, samePack(s, in.Number, content(in.Number)))
	if bad := s.Check(ctx, true); len(bad) > 0 {
		t.Error(bad)
	}
}

// TestASealThatFailedIsTriedAgain: only a writer that is left makes it worth trying.
func TestASealThatFailedIsTriedAgain(t *testing.T) {
	d, _, s := newGuardedStore(t)
	in, err := s.CreatePack("s1")
	must(t, err)
	w := in.File
	in.File = nil // as after Hand
	if _, err := s.Seal(ctx, in); !errors.Is(err, durable.ErrWriter) {
		t.Fatalf("seal beside a writer: %v, want ErrWriter", err)
	}
	_, err = w.Write(content(in.Number))
	must(t, err)
	must(t, w.Close())
	d.FailAt(d.Ops()+1, crashdisk.SyncFail)
	if _, err := s.Seal(ctx, in); err == nil || errors.Is(err, durable.ErrWriter) {
		t.Fatalf("seal with a failed sync: %v", err)
	}
	if _, err := s.Seal(ctx, in); err == nil {
		t.Error("a pack whose sync failed was sealed the second time")
	}
	must(t, s.Drop(in))
	if len(s.Packs()) > 0 {
		t.Error("it is sealed")
	}
}

// TestRecordBeforeTheFlag: a record says that a file is final, so recovery makes it so before.
func TestRecordBeforeTheFlag(t *testing.T) {
	d, src, s := newStore(t)
	in, err := s.CreatePack("s1")
	must(t, err)
	_, err = in.File.Write(content(in.Number))
	must(t, err)
	_, err = s.publishPack(ctx, in)
	must(t, err)
	before := len(d.Log())
	openGuarded(t, d, src)
	log := strings.Join(d.Log()[before:], "\n")
	flag, record := strings.Index(log, "flags packs/00000001.pack +i\nsync packs/00000001.pack"), strings.LastIndex(log, "write ledger/")
	if flag < 0 || record < 0 || record < flag {
		t.Errorf("the order is\n%s", log)
	}
}

// TestHalfAPackIsPublished: nothing gets a name among the packs before its bytes are on the medium, wherever the power fails.
func TestHalfAPackIsPublished(t *testing.T) {
	for k := int64(1); ; k++ {
		d, _, s := newGuardedStore(t)
		in, err := s.CreatePack("s1")
		must(t, err)
		_, err = in.File.Write(content(in.Number))
		must(t, err)
		must(t, in.File.Close())
		in.File = nil // as after Hand: nobody has synced it
		d.FailAt(d.Ops()+k, crashdisk.CrashAfter)
		_, err = s.Seal(ctx, in)
		if !d.Fired() {
			must(t, err)
			if k < 8 {
				t.Errorf("a seal of %d operations", k)
			}
			return
		}
		b, err := durable.ReadFile(d.Restart(crashdisk.LoseUnsynced, 0), packFile(in.Number), 1<<20)
		if !errors.Is(err, fs.ErrNotExist) && string(b) != string(content(in.Number)) {
			t.Errorf("cut after operation %d: among the packs are %d bytes of %d, %v", k, len(b), len(content(in.Number)), err)
		}
	}
}

// unflag lifts every flag below a name, so that what a test made can be removed.
func unflag(t *testing.T, d *durable.Dir, name string) {
	t.Helper()
	must(t, d.SetFlags(name, 0, durable.Immutable|durable.AppendOnly))
	info, err := d.Stat(name)
	must(t, err)
	if !info.IsDir() {
		return
	}
	entries, err := d.ReadDir(name)
	must(t, err)
	for _, e := range entries {
		unflag(t, d, filepath.Join(name, e.Name()))
	}
}

// TestAGroupCannotRead: who reads for the daemon is not the owner.
func TestAGroupCannotRead(t *testing.T) {
	for name, born := range map[string]func(testing.TB) (*crashdisk.Disk, *clock.Manual, *Store){"born": newGuardedStore, "moved in": func(t testing.TB) (*crashdisk.Disk, *clock.Manual, *Store) {
		d, src, s := newStore(t)
		must(t, s.Close())
		return d, src, openGuarded(t, d, src)
	}} {
		t.Run(name, func(t *testing.T) {
			d, src, s := born(t)
			snap := commit(t, s, "web1", "s1", ledger.Lock{})
			must(t, s.SetKeyring(ctx, []byte("another\n"), "a test"))
			must(t, s.Close())
			openGuarded(t, d, src)
			for name, want := range map[string]fs.FileMode{
				".": 0o750, packsDir: 0o750, manifestsDir: 0o750, ledgerDir: 0o750, "log": 0o750, incomingDir: 0o750, keeperDir: 0o700,
				packFile(1): 0o440, manifestFile(snap.ID): 0o440, "ledger/000001.jsonl": 0o640, "log/checkpoint": 0o644,
				keyringFile: 0o640, identityFile: 0o644, signerFile: 0o600,
			} {
				info, err := d.Stat(name)
				if err != nil {
					t.Error(err)
				} else if info.Mode().Perm() != want {
					t.Errorf("%s has %o, want %o", name, info.Mode().Perm(), want)
				}
			}
			if _, err := d.Stat("ledger/checkpoint"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("there is a checkpoint in a directory that only grows: %v", err)
			}
		})
	}
}

// TestCutWhileBecomingGuarded puts every fault at every operation of the first start with a guard, into a vault that had none.
func TestCutWhileBecomingGuarded(t *testing.T) {
	plain, src, m := crashdisk.New(), newClock(), newMemory()
	must(t, m.life(plain, src, false))
	m.guard, m.moving = true, true
	some := newSlice(5)
	for _, fault := range crashdisk.Faults() {
		for k := int64(1); k < 200; k++ {
			if !some.takes() {
				continue
			}
			d := plain.Restart(crashdisk.LoseUnsynced, 0)
			d.FailAt(k, fault)
			s, err := Open(d, src, m.options())
			if err == nil {
				err = m.holds(s)
			}
			if !d.Fired() {
				must(t, err)
				break
			}
			for seed := range int64(4) {
				loss := []crashdisk.Loss{crashdisk.LoseUnsynced, crashdisk.KeepAll, crashdisk.Random, crashdisk.Random}[seed]
				if found := d.Restart(loss, 100*k+10*int64(fault)+seed); flagged(t, found, ledgerDir) {
					for _, name := range found.Files() {
						if path.Dir(name) == ledgerDir && path.Ext(name) != ".jsonl" {
							t.Errorf("%v at %d, %v: %s stays for ever in a directory that only grows", fault, k, loss, name)
						}
					}
				}
				if err := m.clone().prove(d.Restart(loss, 100*k+10*int64(fault)+seed), src, 1); err != nil {
					t.Errorf("%v at %d, %v: %v\n%q", fault, k, loss, err, d.Log())
				}
				// Without its guard again, from a copy that has no flags.
				c := m.clone()
				c.guard = false
				if err := c.prove(unflagged(t, d.Restart(loss, seed)), src, 1); err != nil {
					t.Errorf("%v at %d, %v, opened without a guard: %v", fault, k, loss, err)
				}
			}
		}
	}
}

func flagged(t *testing.T, d *crashdisk.Disk, name string) bool {
	t.Helper()
	f, err := d.Flags(name)
	must(t, err)
	return f != 0
}

// unflagged is the disk as a copy has it.
func unflagged(t *testing.T, d *crashdisk.Disk) *crashdisk.Disk {
	t.Helper()
	for _, name := range append(d.Files(), ".", packsDir, manifestsDir, ledgerDir) {
		must(t, d.SetFlags(name, 0, durable.Immutable|durable.AppendOnly))
	}
	return d
}
