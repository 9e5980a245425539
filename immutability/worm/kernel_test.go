package worm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/ledger/killpoint"
)

// realFile systems have flags and leases, and can be stopped at once.
var realFileSystems = []string{"ext4", "xfs"}

// loop is a real file system in a file.
type loop struct {
	t            *testing.T
	image, mount string
	mounted      bool
	copies       int
}

// newLoop makes and mounts a file system, or skips: it needs root and loop devices.
func newLoop(t *testing.T, kind string) *loop {
	t.Helper()
	if os.Getenv("HOLDFAST_LOOP_TEST") == "" && (os.Getenv("HOLDFAST_REQUIRE_ALL") != "1" || os.Geteuid() != 0) {
		t.Skip("needs root, loop devices and mkfs: set HOLDFAST_LOOP_TEST=1")
	}
	dir := t.TempDir()
	l := &loop{t: t, image: filepath.Join(dir, "image"), mount: filepath.Join(dir, "mount")}
	must(t, os.Mkdir(l.mount, 0o700))
	t.Cleanup(l.unmount)
	l.make(kind)
	return l
}

// make makes the file system anew.
func (l *loop) make(kind string) {
	l.t.Helper()
	l.unmount()
	size, force := int64(96<<20), "-F"
	if kind == "xfs" {
		size, force = 320<<20, "-f" // the smallest that it has
	}
	must(l.t, os.RemoveAll(l.image))
	must(l.t, errors.Join(os.WriteFile(l.image, nil, 0o600), os.Truncate(l.image, size)))
	l.command("mkfs."+kind, "-q", force, l.image)
	l.remount()
	must(l.t, os.Mkdir(filepath.Join(l.mount, "vault"), 0o700))
	must(l.t, exec.CommandContext(context.WithoutCancel(l.t.Context()), "sync", "-f", l.mount).Run())
}

func (l *loop) command(name string, args ...string) {
	l.t.Helper()
	if out, err := exec.CommandContext(context.WithoutCancel(l.t.Context()), name, args...).CombinedOutput(); err != nil {
		l.t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
}

func (l *loop) remount() {
	l.t.Helper()
	l.unmount()
	l.detach()
	l.command("mount", "-o", "loop", l.image, l.mount)
	l.mounted = true
}

func (l *loop) unmount() {
	l.t.Helper()
	if !l.mounted {
		return
	}
	l.mounted = false
	if err := exec.CommandContext(context.WithoutCancel(l.t.Context()), "umount", l.mount).Run(); err != nil {
		l.command("umount", "--lazy", l.mount)
	}
}

// detach gives the image a file of its own again where the file system that was mounted of it lives on: a process in another
// mount namespace, whoever started that, may still have it. What a file system that was stopped wrote is all there is.
func (l *loop) detach() {
	l.t.Helper()
	devices, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	must(l.t, err)
	for _, device := range devices {
		if b, err := os.ReadFile(device); err == nil && strings.TrimSpace(string(b)) == l.image {
			l.copies++
			image := fmt.Sprintf("%s.%d", strings.TrimRight(l.image, ".0123456789"), l.copies)
			l.command("cp", "--sparse=always", l.image, image)
			must(l.t, os.Remove(l.image))
			l.image = image
			return
		}
	}
}

// cut stops the file system where it stands; nothing more reaches the image.
func (l *loop) cut() {
	l.t.Helper()
	const (
		ioctlShutdown   = 0x8004587d // EXT4_IOC_SHUTDOWN, the same as XFS_IOC_GOINGDOWN
		withoutLogFlush = 2
	)
	f, err := os.Open(l.mount)
	must(l.t, err)
	defer f.Close()
	must(l.t, unix.IoctlSetPointerInt(int(f.Fd()), ioctlShutdown, withoutLogFlush))
}

func (l *loop) open() *durable.Dir {
	l.t.Helper()
	d, err := durable.OpenDir(filepath.Join(l.mount, "vault"))
	must(l.t, err)
	return d
}

// TestRealKernelKeepsTheGuardedVault cuts real file systems under a guarded vault that seals, commits, extends, claims,
// condemns, sweeps and changes its keyring, at a random operation of a random history, and holds the vault to all that it
// acknowledged. HOLDFAST_LOOP_TEST is the number of cuts, 20 where nothing may be left out.
func TestRealKernelKeepsTheGuardedVault(t *testing.T) {
	cuts, err := strconv.Atoi(os.Getenv("HOLDFAST_LOOP_TEST"))
	switch {
	case err != nil && raceEnabled:
		cuts = 4 // nothing in it is concurrent
	case err != nil || cuts == 1:
		cuts = 20
	}
	for i, kind := range realFileSystems {
		t.Run(kind, func(t *testing.T) {
			k := &cutting{loop: newLoop(t, kind), kind: kind, rng: rand.New(rand.NewPCG(7, uint64(i)))}
			for range cuts / len(realFileSystems) {
				k.life()
				if t.Failed() {
					return
				}
			}
			if k.lost == 0 {
				t.Errorf("in %d cuts nothing unsynced was lost: this proves nothing", k.cuts)
			}
			if k.cuts >= vaultLives && (k.marked == 0 || k.removed == 0) {
				t.Errorf("in %d cuts %d were marked and %d removed: this proves nothing", k.cuts, k.marked, k.removed)
			}
			t.Logf("%d cuts, %d of them while a vault was made or opened; %d files lost bytes that nobody had synced; %d snapshots and packs marked, %d snapshots removed; %d snapshots and %d packs kept in the last of %d vaults",
				k.cuts, k.early, k.lost, k.marked, k.removed, len(k.m.snapshots), len(k.m.packs), k.vaults)
		})
	}
}

// cutting is a history of vaults whose power fails again and again.
type cutting struct {
	*loop
	kind string
	rng  *rand.Rand
	m    *memory
	src  *clock.Manual

	cuts, early, lost, vaults, sessions int
	marked, removed                     int // snapshots and packs that were marked, snapshots that were removed
	// grew is a pack whose bytes nobody synced before the last cut, 0 for none.
	grew uint32
}

// unsynced is how many bytes such a pack has.
const unsynced = 300 << 10

// vaultLives is after how many cuts a new vault begins.
const vaultLives = 25

// life is what a process does until the power fails, and what is found afterwards.
func (k *cutting) life() {
	k.t.Helper()
	if k.cuts%vaultLives == 0 {
		k.make(k.kind)
		k.m, k.src, k.grew = newGuarded(), newClock(), 0
		k.vaults++
	}
	d := k.open()
	ops, until := 0, 1+k.rng.IntN(220)
	spy := &killpoint.Disk{GuardedDisk: d, Before: func() {
		if ops++; ops == until {
			k.cut()
		}
	}}
	was := k.m.created
	end := k.work(spy, func() bool { return ops >= until })
	if ops < until {
		must(k.t, end) // nothing but the cut ends it
	}
	if !was || ops < 40 {
		k.early++
	}
	k.cuts++
	must(k.t, d.Close())
	k.remount()
	k.src.Reboot(time.Minute)
	d = k.open()
	defer d.Close()
	if was {
		if err := k.m.flagged(d); err != nil {
			k.t.Errorf("cut %d, before operation %d (%v): %v", k.cuts, until, end, err)
		}
	}
	if err := k.proven(d); err != nil {
		k.t.Errorf("cut %d, before operation %d (%v): %v", k.cuts, until, end, err)
	}
}

// work is a process; every error ends it.
func (k *cutting) work(d durable.Disk, cut func() bool) error {
	if !k.m.created {
		k.m.tried = true
		if _, err := Init(d, k.src, k.m.birth()); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		k.m.created = true
	}
	s, err := Open(d, k.src, k.m.options())
	if err != nil {
		return err
	}
	var growing []*Incoming
	defer func() {
		for _, in := range growing {
			in.close()
		}
		_ = s.Close()
	}()
	// Something that nobody syncs, so that it is seen that the kernel drops what it may.
	in, err := s.CreatePack("never")
	if err != nil {
		return err
	}
	growing = append(growing, in)
	if _, err := in.File.Write(make([]byte, unsynced)); err != nil {
		return err
	}
	k.grew = in.Number
	for !cut() {
		if err := k.step(s); err != nil {
			return err
		}
	}
	return nil
}

func (k *cutting) step(s *Store) error {
	k.src.Advance(time.Minute)
	var ids []string
	for id := range k.m.snapshots {
		if !k.m.mayGo[id] {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	switch choice := k.rng.IntN(10); {
	case choice < 5 || len(ids) == 0:
		return k.pull(s)
	case choice == 5:
		err := k.m.extend(s, ids[k.rng.IntN(len(ids))], ledger.Lock{Mode: ledger.Compliance, ForSeconds: 7200})
		if errors.Is(err, ErrNoSnapshot) || errors.Is(err, ErrShorter) {
			return nil
		}
		return err
	case choice == 6:
		if packs := s.Packs(); len(packs) > 0 && k.rng.IntN(2) == 0 {
			s.ClaimOne("s", packs[k.rng.IntN(len(packs))].Number)
		}
		snapshots, packs, err := s.Condemn(ctx)
		k.marked += snapshots + packs
		return err
	case choice == 7:
		k.src.Advance(condemnedFor + 2*time.Second)
		defer k.counts(len(k.m.gone))
		return k.m.removing(s, k.src, s.Sweep)
	case choice == 8:
		k.src.Advance(30 * time.Hour)
		defer k.counts(len(k.m.gone))
		return k.m.prune(s, k.src)
	}
	ring := make([]byte, 1+k.rng.IntN(keyringMax/2)) // large ones fill segments
	for i := range ring {
		ring[i] = byte(k.rng.Uint32())
	}
	return k.m.rekey(s, string(ring))
}

// counts adds what was removed since.
func (k *cutting) counts(before int) { k.removed += len(k.m.gone) - before }

// pull is a session of one to three packs.
func (k *cutting) pull(s *Store) error {
	k.sessions++
	session := fmt.Sprintf("s%d", k.sessions)
	var packs []uint32
	for range 1 + k.rng.IntN(3) {
		n, err := k.m.seal(s, session)
		if err != nil {
			return err
		}
		packs = append(packs, n)
	}
	man, err := manifest(s, fmt.Sprintf("web%d", k.rng.IntN(2)), session, packs...)
	if err != nil {
		return err
	}
	lock := ledger.Lock{ForSeconds: int64(60 + k.rng.IntN(7000))}
	if k.rng.IntN(3) == 0 {
		lock.Mode = ledger.Compliance
	}
	return k.m.commit(s, session, man, lock)
}

// proven holds what is found after a cut to what was told before.
func (k *cutting) proven(d *durable.Dir) error {
	if !k.m.created {
		s, openErr := Open(d, k.src, k.m.options())
		if openErr != nil {
			if _, err := Init(d, k.src, k.m.birth()); err != nil {
				return fmt.Errorf("neither open (%w) nor init (%w)", openErr, err)
			}
			var err error
			if s, err = Open(d, k.src, k.m.options()); err != nil {
				return err
			}
		}
		k.m.created = true
		return errors.Join(k.m.holds(s), s.Close())
	}
	s, err := Open(d, k.src, k.m.options())
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	k.m.lifted = false
	if k.grew != 0 {
		if info, err := d.Stat(incomingPack(k.grew)); err != nil || info.Size() < unsynced {
			k.lost++
		}
		k.grew = 0
	}
	k.sessions++
	err = errors.Join(k.m.holds(s), k.m.goesOn(s, k.sessions, 1), k.m.holds(s), s.Close(), independently(d))
	for id := range k.m.gone {
		// Removed for good, and told so: nothing is owed to it any more but to stay away, which holds has seen.
		if len(k.m.gone) > 50 {
			delete(k.m.gone, id)
			delete(k.m.snapshots, id)
			delete(k.m.mayGo, id)
		}
	}
	return err
}

// TestOldWritersOnRealFileSystems: whoever kept a descriptor or a mapping from before the seal can write to the file on some
// file systems even once it is immutable. So it is not sealed as long as anybody has one, and afterwards nobody gets one.
func TestOldWritersOnRealFileSystems(t *testing.T) {
	for _, kind := range realFileSystems {
		t.Run(kind, func(t *testing.T) {
			l := newLoop(t, kind)
			d := l.open()
			defer d.Close()
			src, m := newClock(), newGuarded()
			_, err := Init(d, src, m.birth())
			must(t, err)
			s := openGuarded(t, d, src)
			defer s.Close()
			in, err := s.CreatePack("s1")
			must(t, err)
			w, err := in.Hand()
			must(t, err)
			_, err = w.Write(content(in.Number))
			must(t, err)
			refused := func(who string) {
				t.Helper()
				if _, err := s.Seal(ctx, in); !errors.Is(err, durable.ErrWriter) {
					t.Fatalf("sealed beside %s: %v", who, err)
				}
			}
			refused("its writer")
			twin, err := unix.FcntlInt(w.Fd(), unix.F_DUPFD_CLOEXEC, 0)
			must(t, err)
			mapped, err := unix.Mmap(int(w.Fd()), 0, len(content(in.Number)), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			must(t, err)
			must(t, w.Close())
			refused("a second descriptor and a mapping")
			must(t, unix.Close(twin))
			refused("a mapping alone")
			mapped[0] = 'X' // what the last writer did is what is sealed
			must(t, unix.Munmap(mapped))
			info, err := s.Seal(ctx, in)
			must(t, err)
			want := append([]byte("X"), content(in.Number)[1:]...)
			must(t, samePack(s, in.Number, want))
			file := filepath.Join(l.mount, "vault", packFile(in.Number))
			for how, flag := range map[string]int{"writing": os.O_RDWR, "appending": os.O_WRONLY | os.O_APPEND, "nothing but shortening": os.O_WRONLY | os.O_TRUNC} {
				if f, err := os.OpenFile(file, flag, 0); err == nil {
					f.Close()
					t.Errorf("it was opened for %s", how)
				}
			}
			r, err := os.Open(file)
			must(t, err)
			defer r.Close()
			if b, err := unix.Mmap(int(r.Fd()), 0, len(want), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
				_ = unix.Munmap(b)
				t.Error("it was mapped for writing")
			}
			again, _, err := s.hash(ctx, packFile(in.Number))
			if err != nil || again != info.SHA256 {
				t.Errorf("it has the SHA-256 %s, sealed was %s, %v", again, info.SHA256, err)
			}
			man, err := manifest(s, "web1", "s1", in.Number)
			must(t, err)
			_, err = s.Commit(ctx, "s1", man, ledger.Lock{})
			must(t, err)
			if bad := s.Check(ctx, true); len(bad) > 0 {
				t.Error(bad)
			}
		})
	}
}
