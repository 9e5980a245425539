package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/keeper"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// TestTheAttacksBiteWithoutTheGuard has the same attacks tried on a vault whose keeper has a disk with flags and leases that
// do nothing: what the guard stops must get through then, or it was never tried. Once that keeper has a user of its own
// still, so that what gets through is what the guard alone stops, and once it is the daemon's, who then owns everything.
func TestTheAttacksBiteWithoutTheGuard(t *testing.T) {
	needRoot(t)
	guardAlone := []string{
		"seal beside a descriptor", "seal beside a mapping", "seal beside a mapping that becomes writable later", "seal beside a duplicate in another process",
		"seal beside a descriptor in a socket's queue",
	}
	owner := append([]string{
		"unlink a pack", "unlink a manifest", "unlink a segment", "rename a pack away", "rename a file over a pack", "rename the directories", "rename the vault",
		"replace packs/ by a directory of one's own", "open a pack for writing", "open a pack through /proc for writing", "truncate a pack", "empty a manifest",
		"put an older ledger back", "write to a pack after chmod", "a program that removes everything",
	}, guardAlone...)
	for _, c := range []struct {
		name string
		uid  int
		want []string
	}{{"with a user of its own", keeperUID, guardAlone}, {"as the daemon's user", daemonUID, owner}} {
		t.Run(c.name, func(t *testing.T) {
			through := unguarded(t, c.uid)
			t.Logf("without the guard %d attacks get through: %s", len(through), strings.Join(through, "; "))
			for _, name := range c.want {
				if !slices.Contains(through, name) {
					t.Errorf("%q does not get through an unguarded vault: it proves nothing of a guarded one", name)
				}
			}
		})
	}
}

// unguarded tries everything on files against a mutant of a user, and gives what got through. The vault is put back as it
// was after each.
func unguarded(t *testing.T, uid int) (through []string) {
	w := prepareWar(t, "ext4")
	w.unguard = true
	w.m.found()
	must(t, filepath.WalkDir(w.m.vault, func(name string, e fs.DirEntry, err error) error {
		mode := fs.FileMode(0o640)
		if e.IsDir() {
			mode = 0o750
		}
		if e.Name() == "keeper" {
			mode = 0o700
		}
		return errors.Join(err, os.Lchown(name, uid, daemonUID), os.Chmod(name, mode))
	}))
	for _, dir := range []string{filepath.Dir(w.m.socket), w.m.dir} {
		command(t, "chown", strconv.Itoa(uid), dir)
	}
	serve := func() *soldier {
		s := w.enlist("mutant", uid)
		if line, err := s.out.ReadString('\n'); err != nil {
			t.Fatalf("%q %v\n%s", line, err, s.errs.String())
		}
		return s
	}
	mutant := serve()
	w.muster()
	saved := filepath.Join(w.m.dir, "saved")
	command(t, "cp", "-a", w.m.vault, saved)
	for _, a := range slices.Concat(attacksOnNames(), attacksOnContent(), attacksOnRights(), attacksOnHandles()) {
		if !strings.Contains(a.by, "D") {
			continue
		}
		got := w.daemon.order(a.name, w.pid())
		if h := w.harm(); h == nil && stopped(a, got) {
			continue
		}
		through = append(through, a.name)
		mutant.dismiss()
		command(t, "rm", "-rf", w.m.vault, w.m.vault+".moved")
		command(t, "cp", "-a", saved, w.m.vault)
		w.before = nil
		before, err := w.look()
		must(t, err)
		w.before = before
		mutant = serve()
	}
	return through
}

// playMutant serves a vault as the keeper does, on a disk whose flags and leases are words.
func playMutant() error {
	d, err := durable.OpenDir(os.Getenv("ATTACK_VAULT"))
	if err != nil {
		return err
	}
	s, err := worm.Open(paperDisk{d}, clock.Kernel(), worm.Options{Guard: true})
	if err != nil {
		return err
	}
	socket := os.Getenv("ATTACK_SOCKET")
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := listenUnix(socket)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	return keeper.NewServer(s, keeper.Options{UID: daemonUID}).Serve(context.Background(), l)
}

// paperDisk says of flags and leases that they are had.
type paperDisk struct{ durable.GuardedDisk }

func (d paperDisk) Flags(string) (durable.Flags, error) {
	return durable.Immutable | durable.AppendOnly, nil
}
func (d paperDisk) SetFlags(string, durable.Flags, durable.Flags) error { return nil }
func (d paperDisk) Hold(name string) (durable.Held, error) {
	h, err := d.GuardedDisk.Hold(name)
	return paperHeld{h}, err
}

type paperHeld struct{ durable.Held }

func (paperHeld) Lease() error                                { return nil }
func (paperHeld) Leased() (bool, error)                       { return true, nil }
func (paperHeld) SetFlags(durable.Flags, durable.Flags) error { return nil }
