package vault

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/vault/keys"
)

// crashWorld is a vault on a disk that fails, with one acknowledged snapshot.
type crashWorld struct {
	t          *testing.T
	disk       *crashdisk.Disk
	clock      *clock.Manual
	ident      *keys.Identity
	index      *memIndex // as it stood after the first snapshot
	first      worm.Snapshot
	firstTree  tree
	second     tree
	checkpoint []byte
}

func newCrashWorld(t *testing.T) *crashWorld {
	w := &crashWorld{
		t: t, disk: crashdisk.New(), clock: clock.NewManual(time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)), index: newMemIndex(),
		firstTree: randomTree(1, 6), second: randomTree(1, 6),
	}
	for p, b := range randomTree(2, 4) {
		w.second["more/"+p[4:]] = b
	}
	var recipients []string
	for range 2 {
		i, err := keys.NewIdentity()
		if err != nil {
			t.Fatal(err)
		}
		w.ident = i
		recipients = append(recipients, i.Recipient())
	}
	if _, err := Init(t.Context(), "", NewID(), InitOptions{Recipients: recipients, Clock: w.clock, disk: w.disk}); err != nil {
		t.Fatal(err)
	}
	v, err := w.open(t.Context(), w.disk, w.index)
	if err != nil {
		t.Fatal(err)
	}
	w.first = pull(t, v, "web1", w.firstTree)
	w.checkpoint = v.Store().Ledger().Checkpoint()
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	w.clock.Advance(time.Hour)
	w.disk = w.disk.Restart(crashdisk.KeepAll, 1)
	return w
}

func (w *crashWorld) open(ctx context.Context, d *crashdisk.Disk, x *memIndex) (*Vault, error) {
	return w.openAs(ctx, Options{}, d, x)
}

func (w *crashWorld) openAs(ctx context.Context, o Options, d *crashdisk.Disk, x *memIndex) (*Vault, error) {
	o.Identities, o.Clock, o.Workers, o.disk, o.index = []*keys.Identity{w.ident}, w.clock, 1, d, x
	return Open(ctx, "", o)
}

// run is what is cut: open, pull, commit, close. It says whether the snapshot was acknowledged.
func (w *crashWorld) run(d *crashdisk.Disk, x *memIndex) (acknowledged *worm.Snapshot) {
	v, err := w.open(context.Background(), d, x)
	if err != nil {
		return nil
	}
	defer v.Close()
	snap, err := tryPull(context.Background(), v, "web1", w.second)
	if err != nil {
		return nil
	}
	return &snap
}

// mustHold opens the vault after the fault and asks for everything that was promised.
func (w *crashWorld) mustHold(d *crashdisk.Disk, x *memIndex, acknowledged *worm.Snapshot) error {
	ctx := context.Background()
	v, err := w.open(ctx, d, x)
	if err != nil {
		return fmt.Errorf("open after the fault: %w", err)
	}
	defer v.Close()
	if err := v.Store().Ledger().Extends(w.checkpoint); err != nil {
		return fmt.Errorf("the ledger does not extend the checkpoint saved before: %w", err)
	}
	if err := w.snapshotHolds(ctx, v, w.first, w.firstTree); err != nil {
		return err
	}
	if acknowledged != nil {
		if err := w.snapshotHolds(ctx, v, *acknowledged, w.second); err != nil {
			return err
		}
	}
	for _, name := range d.Files() {
		if info, err := d.Stat(name); strings.HasPrefix(name, "incoming/") && (err != nil || info.Size() > 0) { // an empty file keeps a number
			return fmt.Errorf("recovery left %s", name)
		}
	}
	next, err := tryPull(ctx, v, "web1", w.second)
	if err != nil {
		return fmt.Errorf("the next pull: %w", err)
	}
	if err := w.snapshotHolds(ctx, v, next, w.second); err != nil {
		return err
	}
	rep, err := v.Check(ctx, CheckOptions{ReadData: true})
	if err != nil {
		return err
	}
	if len(rep.Damage) > 0 || rep.TouchedCount > 0 {
		return fmt.Errorf("check: %v, %d files touched", rep.Damage, rep.TouchedCount)
	}
	return nil
}

func (w *crashWorld) snapshotHolds(ctx context.Context, v *Vault, want worm.Snapshot, content tree) error {
	all, err := v.Snapshots(ctx)
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.ID != want.ID {
			continue
		}
		if !s.Locked || s.LockedUntil.Before(want.LockedUntil) || s.Lock.Mode != want.Lock.Mode {
			return fmt.Errorf("snapshot %s: lock until %v became %v", want.ID, want.LockedUntil, s.LockedUntil)
		}
		got, err := giveBack(ctx, v, s.ID)
		if err != nil {
			return err
		}
		if len(got) != len(content) {
			return fmt.Errorf("snapshot %s: %d of %d files", want.ID, len(got), len(content))
		}
		for p, b := range content {
			if string(got[p]) != string(b) {
				return fmt.Errorf("snapshot %s: %s differs", want.ID, p)
			}
		}
		return nil
	}
	return fmt.Errorf("snapshot %s was acknowledged and is gone", want.ID)
}

var crashFaults = []crashdisk.Fault{
	crashdisk.Crash, crashdisk.CrashAfter, crashdisk.Torn, crashdisk.ShortWrite, crashdisk.NoSpace, crashdisk.IOError, crashdisk.SyncFail,
}

// TestCutAtEveryOperation fails each operation of a pull and commit in every way, lets the power come back in every
// way, and finds all that was acknowledged, with the index absent, stale and intact. The full sweep is
// HOLDFAST_SWEEP=full; otherwise every operation meets every fault once, with a seeded choice of the rest. Under the race
// detector every operation meets two of the faults.
func TestCutAtEveryOperation(t *testing.T) {
	w := newCrashWorld(t)
	full := os.Getenv("HOLDFAST_SWEEP") == "full"
	r := rand.New(rand.NewPCG(4, 2))
	points, states := 0, 0
	for op := int64(1); ; op++ {
		reached := false
		for i, fault := range crashFaults {
			if raceEnabled && !full && (int(op)+i)%4 != 0 {
				continue
			}
			d, x := w.disk.Clone(), w.index.clone()
			d.FailAt(op, fault)
			acknowledged := w.run(d, x)
			reached = reached || d.Ops() >= op
			if !d.Fired() {
				continue
			}
			points++
			for _, after := range w.aftermaths(d, x, full, r) {
				states++
				if err := w.mustHold(after.disk, after.index, acknowledged); err != nil {
					t.Fatalf("operation %d, fault %v, %s: %v\n%s", op, fault, after.name, err, strings.Join(d.Log(), "\n"))
				}
			}
		}
		if !reached {
			break
		}
	}
	t.Logf("%d points, %d states survived", points, states)
	if points < 300 && !raceEnabled {
		t.Errorf("only %d points: the run has become too small to prove anything", points)
	}
}

type aftermath struct {
	name  string
	disk  *crashdisk.Disk
	index *memIndex
}

func (w *crashWorld) aftermaths(d *crashdisk.Disk, x *memIndex, full bool, r *rand.Rand) []aftermath {
	var all []aftermath
	for _, loss := range []crashdisk.Loss{crashdisk.LoseUnsynced, crashdisk.KeepAll, crashdisk.Random} {
		for i, name := range []string{"index absent", "index stale", "index intact"} {
			all = append(all, aftermath{
				name: fmt.Sprintf("loss %v, %s", loss, name), disk: d.Restart(loss, r.Int64()),
				index: []*memIndex{newMemIndex(), w.index.clone(), x.clone()}[i],
			})
		}
	}
	if full {
		return all
	}
	i := r.IntN(len(all))
	return all[i : i+1]
}
