package vault

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/keeper"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// throughKeeper in the environment has the worlds of these tests kept by a keeper.
const throughKeeper = "HOLDFAST_TEST_KEEPER"

// keptBy is a keeper in this process, of a guarded vault.
type keptBy struct {
	t      testing.TB
	dir    string
	socket string
	clock  clock.Source
	disk   *durable.Dir
	store  *worm.Store
	lock   *durable.FileLock
	end    func()
}

// startKeeper lets a keeper serve the vault in dir until the test ends; it skips where there are no flags for us.
func startKeeper(t testing.TB, dir string, src clock.Source) *keptBy {
	t.Helper()
	sockets, err := os.MkdirTemp("", "keeper") // short: a socket's path has little room
	if err != nil {
		t.Fatal(err)
	}
	k := &keptBy{t: t, dir: dir, socket: filepath.Join(sockets, "s"), clock: src}
	if k.disk, err = durable.OpenDir(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		k.stop()
		unflag(t, k.disk, ".")
		_ = k.disk.Close()
		_ = os.RemoveAll(sockets)
	})
	err = k.disk.SetFlags("ledger", durable.AppendOnly, 0)
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission) {
		if os.Getenv("HOLDFAST_REQUIRE_ALL") == "1" && os.Geteuid() == 0 {
			t.Fatal(err)
		}
		t.Skipf("needs a file system with flags, and CAP_LINUX_IMMUTABLE: %v", err)
	}
	if err = errors.Join(err, k.disk.SetFlags("ledger", 0, durable.AppendOnly)); err != nil {
		t.Fatal(err)
	}
	if k.lock, err = durable.LockFile(filepath.Join(dir, "keeper", "lock")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.lock.Close() })
	k.start()
	return k
}

func (k *keptBy) start() {
	k.t.Helper()
	var err error
	if k.store, err = worm.Open(k.disk, k.clock, worm.Options{Guard: true}); err != nil {
		k.t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: k.socket, Net: "unix"})
	if err != nil {
		k.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	server := keeper.NewServer(k.store, keeper.Options{UID: uint32(os.Getuid())})
	go func() { done <- server.Serve(ctx, l) }()
	store := k.store
	k.end = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-done, store.Close()); err != nil {
			k.t.Error(err)
		}
	})
}

// stop ends the keeper as SIGTERM does; start begins another life of it.
func (k *keptBy) stop() {
	if k.end != nil {
		k.end()
	}
}

// prune removes what may go, which takes a day.
func (w *world) prune(v *Vault) (worm.PruneReport, error) {
	return pruneTwice(w.t, v, w.clock.Advance)
}

// pruneTwice marks what may go, waits for more than a day and removes it.
func pruneTwice(t testing.TB, v *Vault, wait func(time.Duration)) (worm.PruneReport, error) {
	first, err := v.Prune(t.Context(), false)
	if err != nil {
		return first, err
	}
	wait(25 * time.Hour)
	second, err := v.Prune(t.Context(), false)
	second.Snapshots = append(first.Snapshots, second.Snapshots...) // what an earlier one had marked
	second.Packs = append(first.Packs, second.Packs...)
	second.Bytes += first.Bytes
	return second, err
}

// spoilable gives the path of a pack that the test is about to damage, as only a disk or root can.
func (w *world) spoilable(pack string) string {
	w.t.Helper()
	if w.keeper != nil {
		err := errors.Join(w.keeper.disk.SetFlags("packs", 0, durable.AppendOnly), w.keeper.disk.SetFlags("packs/"+pack, 0, durable.Immutable))
		if err != nil {
			w.t.Fatal(err)
		}
	}
	return filepath.Join(w.dir, "packs", pack)
}

// unflag lets the test's directory be removed.
func unflag(t testing.TB, d *durable.Dir, name string) {
	t.Helper()
	if err := d.SetFlags(name, 0, durable.Immutable|durable.AppendOnly); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v", name, err)
	}
	entries, err := d.ReadDir(name)
	if err != nil {
		return // a file
	}
	for _, e := range entries {
		if e.IsDir() || e.Type().IsRegular() {
			unflag(t, d, filepath.Join(name, e.Name()))
		}
	}
}

// keptSample are the tests of this package that run through a keeper every time; with HOLDFAST_SWEEP=full all of them do.
const keptSample = "^(TestTwoProcessesWriteToOneVault|TestRemovedPacksKeepTheirRoom|TestCheckNamesFilesThatComeBackWhole|" +
	"TestLostPackOfInterruptedRunStopsEveryCommit|TestCutResumeLosesTheJournal)$"

// TestKeeperChangesWhatTheVaultDoes runs this package's own tests once more, with their vaults kept by a keeper. Flipped bytes
// are left out: they need files that can be written to, one byte after the other.
func TestKeeperChangesWhatTheVaultDoes(t *testing.T) {
	if os.Getenv(throughKeeper) != "" {
		return // this is such a run
	}
	startKeeper(t, newWorld(t).dir, clock.Kernel()) // skips where none can be had
	args := []string{"-test.run=" + keptSample}
	if os.Getenv("HOLDFAST_SWEEP") == "full" {
		args = []string{"-test.skip=^TestFlippedByteGoesUnnoticed$", "-test.timeout=60m"}
	}
	c := exec.CommandContext(t.Context(), os.Args[0], args...)
	c.Env = append(os.Environ(), throughKeeper+"=1")
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("through a keeper: %v\n%s", err, out)
	}
}

// TestLostKeeperLosesWhatWasAcknowledged ends the keeper at random moments of pulls, before the commit and within it. The next
// pull goes on with the keeper's next life; every snapshot that was acknowledged comes back whole, and nothing is damaged.
func TestLostKeeperLosesWhatWasAcknowledged(t *testing.T) {
	w := newWorld(t)
	if w.keeper == nil {
		w.keep()
	}
	v := w.open(Options{})
	defer v.Close()
	rounds := 3
	if os.Getenv("HOLDFAST_SWEEP") == "full" {
		rounds = 200
	}
	r := rand.New(rand.NewPCG(7, 7))
	acknowledged := map[string]tree{}
	failed := 0
	for round := range rounds {
		src := randomTree(uint64(round), 40)
		if snap, err := pullWithoutKeeper(t, w.keeper, v, src, r.IntN(len(src)+2)); err == nil {
			acknowledged[snap.ID] = src
		} else if failed++; !errors.Is(err, ErrKeeperGone) && !errors.Is(err, worm.ErrNoPack) && !strings.Contains(err.Error(), "again") {
			t.Errorf("round %d: %v, which does not say what to do", round, err)
		}
		snap, err := tryPull(t.Context(), v, "web1", src)
		if err != nil {
			t.Fatalf("round %d: the next pull: %v", round, err)
		}
		acknowledged[snap.ID] = src
		w.clock.Advance(time.Minute)
	}
	for id, src := range acknowledged {
		mustGiveBack(t, v, id, src)
	}
	mustCheck(t, v)
	t.Logf("%d snapshots, %d pulls were cut", len(acknowledged), failed)
}

// pullWithoutKeeper pulls, and ends the keeper for a moment before file number at, or while the snapshot is committed.
func pullWithoutKeeper(t *testing.T, k *keptBy, v *Vault, src tree, at int) (worm.Snapshot, error) {
	t.Helper()
	s, err := v.Begin(t.Context(), SessionOptions{Source: "web1"})
	if err != nil {
		return worm.Snapshot{}, err
	}
	cut := func() { k.stop(); k.start() }
	err = recordWith(t.Context(), s, src, func() {
		if at == 0 {
			cut()
		}
		at--
	})
	if err != nil {
		return worm.Snapshot{}, errors.Join(err, s.Suspend())
	}
	if at < 0 {
		return s.Commit(t.Context(), CommitOptions{})
	}
	var beside sync.WaitGroup
	beside.Go(cut)
	defer beside.Wait()
	return s.Commit(t.Context(), CommitOptions{})
}
