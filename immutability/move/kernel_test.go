package move

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/ledger/killpoint"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// loop is a real file system in a file.
type loop struct {
	t            *testing.T
	kind         string
	image, mount string
}

func newLoop(t *testing.T, dir, name, kind string) *loop {
	l := &loop{t, kind, filepath.Join(dir, name+".image"), filepath.Join(dir, name)}
	must(t, os.Mkdir(l.mount, 0o755))
	size, force := int64(64<<20), "-F"
	if kind == "xfs" {
		size, force = 320<<20, "-f" // the smallest that it has
	}
	must(t, errors.Join(os.WriteFile(l.image, nil, 0o600), os.Truncate(l.image, size)))
	l.run("mkfs."+kind, "-q", force, l.image)
	l.run("mount", "-o", "loop", l.image, l.mount)
	t.Cleanup(func() { l.run("umount", l.mount) })
	must(t, os.Mkdir(filepath.Join(l.mount, "vault"), 0o750))
	l.run("sync", "-f", l.mount)
	return l
}

func (l *loop) run(name string, args ...string) {
	l.t.Helper()
	if out, err := exec.CommandContext(context.WithoutCancel(l.t.Context()), name, args...).CombinedOutput(); err != nil {
		l.t.Fatalf("%s %q: %v: %s", name, args, err, out)
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

// remount brings it back as a machine does that has its power again.
func (l *loop) remount() {
	l.t.Helper()
	l.run("umount", l.mount)
	l.detach()
	options := "loop"
	if l.kind == "xfs" {
		options += ",nouuid" // beside one that lives on
	}
	l.run("mount", "-o", options, l.image, l.mount)
}

// detach gives the image a file of its own again where the file system that was mounted of it lives on, in the mount namespace
// of a process that somebody else started. What a file system that was stopped wrote is all there is.
func (l *loop) detach() {
	l.t.Helper()
	devices, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	must(l.t, err)
	for _, device := range devices {
		if b, err := os.ReadFile(device); err == nil && strings.TrimSpace(string(b)) == l.image {
			l.run("cp", "--sparse=always", l.image, l.image+".again")
			l.image += ".again"
			return
		}
	}
}

func (l *loop) dir() string { return filepath.Join(l.mount, "vault") }

// TestRealKernelKeepsTheMovingVault stops a real ext4 and a real XFS together at a random operation of a move from one to the
// other: at most one of them can be written to, and the command again ends with everything in the new one. HOLDFAST_LOOP_TEST
// is the number of cuts, 3 where nothing may be left out.
func TestRealKernelKeepsTheMovingVault(t *testing.T) {
	cuts, err := strconv.Atoi(os.Getenv("HOLDFAST_LOOP_TEST"))
	if err != nil && (os.Getenv("HOLDFAST_REQUIRE_ALL") != "1" || os.Geteuid() != 0) {
		t.Skip("needs root, loop devices and mkfs: set HOLDFAST_LOOP_TEST=1")
	}
	if err != nil || cuts == 1 {
		cuts = 3
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	ops := 0 // of a move that nothing disturbs: the first one counts them
	for i := range cuts + 1 {
		at := 0
		if i > 0 {
			at = 1 + r.IntN(ops)
			if i%2 == 0 {
				at = ops - r.IntN(12) // near the marks
			}
		}
		t.Run(fmt.Sprintf("operation %d", at), func(t *testing.T) {
			n := cutMove(t, at)
			if at == 0 {
				ops = n
			}
		})
		if t.Failed() {
			return
		}
	}
}

// cutMove moves a vault, stops both file systems before an operation (0 for none), and holds them to what must be true. It
// gives how many operations there were.
func cutMove(t *testing.T, at int) (ops int) {
	scratch := t.TempDir()
	from, to := newLoop(t, scratch, "old", "ext4"), newLoop(t, scratch, "new", "xfs")
	w := newTwo(true)
	before := w.settle(t, from.dir())
	before.Running = 0
	err := w.moveReal(from.dir(), to.dir(), func() {
		if ops++; ops == at {
			from.cut()
			to.cut()
		}
	})
	if at == 0 {
		must(t, err)
		return ops
	}
	from.remount()
	to.remount()
	writable := 0
	for _, dir := range []string{from.dir(), to.dir()} {
		d, err := durable.OpenDir(dir)
		must(t, err)
		if worm.AtHome(d) == nil {
			if _, err := d.Stat("vault.json"); err == nil {
				writable++
			}
		}
		must(t, d.Close())
	}
	if writable > 1 || writable == 0 && err == nil {
		t.Errorf("%d of the two places take writers (%v)", writable, err)
	}
	if err := w.moveReal(from.dir(), to.dir(), func() {}); err != nil {
		t.Fatalf("cut before operation %d (%v), the command again: %v", at, err, err)
	}
	d, err := durable.OpenDir(to.dir())
	must(t, err)
	defer d.Close()
	after, err := w.gather(d)
	must(t, err)
	after.Running = 0
	must(t, before.same(after))
	must(t, w.sound(d))
	s, err := w.open(d)
	must(t, err)
	if s.Unguarded() != 0 {
		t.Errorf("%d without flags", s.Unguarded())
	}
	commit(t, s, "web1", "after", ledger.Lock{})
	must(t, errors.Join(before.covers(s), s.Close()))
	return ops
}

// settle makes a small guarded vault in a directory.
func (w *two) settle(t *testing.T, dir string) *facts {
	d, err := durable.OpenDir(dir)
	must(t, err)
	defer d.Close()
	_, err = worm.Init(d, w.src, worm.InitOptions{
		Vault: testVault, Identity: []byte(`{"format":1,"vault":"` + testVault + `"}` + "\n"), Keyring: []byte("a second ring\n"), Guard: true,
		Policy: ledger.Policy{Mode: ledger.Governance, DefaultSeconds: 3600, MinSeconds: 60, MaxSeconds: 90 * 24 * 3600},
	})
	must(t, err)
	s, err := w.open(d)
	must(t, err)
	for i := range 4 {
		w.src.Advance(time.Minute)
		commit(t, s, "web1", fmt.Sprint("s", i), ledger.Lock{ForSeconds: 7200})
	}
	must(t, s.Close())
	f, err := w.gather(d)
	must(t, err)
	return f
}

// moveReal is a move between two directories, with a word before each operation on either.
func (w *two) moveReal(from, to string, before func()) error {
	a, err := durable.OpenDir(from)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := durable.OpenDir(to)
	if err != nil {
		return err
	}
	defer b.Close()
	_, err = Run(ctx, Options{
		Old: &killpoint.Disk{GuardedDisk: a, Before: before}, New: &killpoint.Disk{GuardedDisk: b, Before: before},
		OldPath: from, NewPath: to, Guard: true, Clock: w.src,
	})
	return err
}
