package worm

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
)

const day = 24 * time.Hour

func TestInitRefusesAClockBeforeThisProgram(t *testing.T) {
	d := crashdisk.New()
	_, err := Init(d, clock.NewManual(clock.Earliest().Add(-time.Second)), initOptions())
	if err == nil || !strings.Contains(err.Error(), "set the clock") {
		t.Errorf("error %v", err)
	}
	if len(d.Files()) != 0 {
		t.Errorf("files %v", d.Files())
	}
}

func TestInitNeverTouchesAVault(t *testing.T) {
	d, src, s := newStore(t)
	commit(t, s, "web1", "s1", ledger.Lock{})
	ops := d.Ops()
	if _, err := Init(d, src, initOptions()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("error %v", err)
	}
	if d.Ops() != ops {
		t.Error("it changed something")
	}
}

func TestSnapshotIsBornLocked(t *testing.T) {
	for _, test := range []struct {
		ask  ledger.Lock
		want ledger.Lock
	}{
		{ledger.Lock{}, ledger.Lock{Mode: ledger.Governance, ForSeconds: 3600}},
		{ledger.Lock{ForSeconds: 1}, ledger.Lock{Mode: ledger.Governance, ForSeconds: 60}},
		{ledger.Lock{ForSeconds: -5}, ledger.Lock{Mode: ledger.Governance, ForSeconds: 60}},
		{ledger.Lock{Mode: ledger.Compliance, ForSeconds: 1 << 62}, ledger.Lock{Mode: ledger.Compliance, ForSeconds: 7200}},
	} {
		_, src, s := newStore(t)
		snap := commit(t, s, "web1", "s1", test.ask)
		if snap.Lock != test.want || !snap.Locked {
			t.Errorf("asked %v, got %v, locked %t", test.ask, snap.Lock, snap.Locked)
		}
		now, _ := src.Read()
		if want := now.Wall.Add(time.Duration(test.want.ForSeconds) * time.Second); !snap.LockedUntil.Equal(want.UTC().Truncate(time.Second)) {
			t.Errorf("locked until %v, want %v", snap.LockedUntil, want)
		}
	}
}

func TestRunningLocksOnlyGrow(t *testing.T) {
	d, src, s := newStore(t)
	snap := commit(t, s, "web1", "s1", ledger.Lock{ForSeconds: 3600})
	for _, step := range []struct {
		after time.Duration
		lock  ledger.Lock
		fails bool
	}{
		{0, ledger.Lock{Mode: ledger.Governance, ForSeconds: 3599}, true},
		{0, ledger.Lock{Mode: ledger.Compliance, ForSeconds: 3599}, true},
		{0, ledger.Lock{Mode: "none", ForSeconds: 9999}, true},
		{0, ledger.Lock{Mode: ledger.Governance, ForSeconds: -1}, true},
		{time.Minute, ledger.Lock{Mode: ledger.Governance, ForSeconds: 3600}, false},
		{0, ledger.Lock{Mode: ledger.Compliance, ForSeconds: 3600}, false},
		{0, ledger.Lock{Mode: ledger.Governance, ForSeconds: 360000}, true},
		{0, ledger.Lock{Mode: ledger.Compliance, ForSeconds: 7201}, true}, // beyond the policy's maximum
		{0, ledger.Lock{Mode: ledger.Compliance, ForSeconds: 7200}, false},
	} {
		src.Advance(step.after)
		before, err := s.snapshot(snap.ID)
		must(t, err)
		got, err := s.Extend(ctx, snap.ID, step.lock, "ann")
		if step.fails != (err != nil) {
			t.Fatalf("%v: %v", step.lock, err)
		}
		if !step.fails && (got.LockedUntil.Before(before.LockedUntil) || got.Lock.Mode != step.lock.Mode) {
			t.Errorf("%v: from %v %v to %v %v", step.lock, before.LockedUntil, before.Lock, got.LockedUntil, got.Lock)
		}
	}
	if _, err := s.Extend(ctx, snap.ID, ledger.Lock{Mode: ledger.Governance, ForSeconds: 7200}, "ann"); !errors.Is(err, ErrShorter) {
		t.Errorf("compliance became governance: %v", err)
	}
	src.Advance(time.Hour)
	if got, err := s.Extend(ctx, snap.ID, ledger.Lock{}, "ann"); err != nil || got.Lock.Mode != ledger.Compliance || len(s.state.byID[snap.ID].grants) != 5 {
		t.Errorf("for as long as it runs: %+v, %v", got.Lock, err)
	}
	again, err := open(t, d, src).snapshot(snap.ID)
	must(t, err)
	if !again.Locked || again.Lock.Mode != ledger.Compliance {
		t.Errorf("after reopening: %+v", again)
	}
}

func TestSteppedWallClockEndsNoLock(t *testing.T) {
	_, src, s := newStore(t)
	commit(t, s, "web1", "s1", ledger.Lock{})
	commit(t, s, "web1", "s2", ledger.Lock{})
	src.StepWall(365 * day)
	all, err := s.Snapshots()
	must(t, err)
	if len(all) != 2 || !all[0].Locked {
		t.Fatalf("%+v", all)
	}
	src.Advance(2 * time.Hour) // now the locks have run by both clocks, but the wall clock is not to be believed
	plan, err := s.Plan(ctx)
	must(t, err)
	for _, p := range plan {
		if p.Go {
			t.Errorf("%s may go: %s", p.Label, p.Why)
		}
	}
	if rep := gone(t, s, src); len(rep.Snapshots)+len(rep.Packs)+rep.MarkedSnapshots+rep.MarkedPacks > 0 {
		t.Errorf("pruned %+v", rep)
	}
	commit(t, s, "web1", "s3", ledger.Lock{}) // locking goes on
}

func TestCommitIsTheSameAskedTwice(t *testing.T) {
	_, _, s := newStore(t)
	p, err := seal(s, "s1")
	must(t, err)
	m, err := manifest(s, "web1", "s1", p.Number)
	must(t, err)
	one, err := s.Commit(ctx, "s1", m, ledger.Lock{})
	must(t, err)
	size := s.Ledger().Size()
	two, err := s.Commit(ctx, "s1", m, ledger.Lock{ForSeconds: 5000})
	must(t, err)
	if one.ID != two.ID || one.Lock != two.Lock || s.Ledger().Size() != size {
		t.Errorf("%+v, then %+v, size %d to %d", one, two, size, s.Ledger().Size())
	}
}

// TestCommitWhoseLineReachedTheDisk fails the sync of the commit's line: the process is told of a
// failure, and the line is there when the next one looks.
func TestCommitWhoseLineReachedTheDisk(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		d, src, s := newStore(t)
		p, err := seal(s, "s1")
		must(t, err)
		m, err := manifest(s, "web1", "s1", p.Number)
		must(t, err)
		d.FailAt(syncOfCommit(t, d, src, m), crashdisk.IOErrorAfter)
		if _, err = s.Commit(ctx, "s1", m, ledger.Lock{}); !errors.Is(err, ledger.ErrBroken) {
			t.Fatalf("error %v", err)
		}
		if restarted {
			s = open(t, d, src)
			if all, err := s.Snapshots(); err != nil || len(all) != 1 {
				t.Fatalf("the line is on the disk, and %d snapshots are there (%v)", len(all), err)
			}
		}
		snap, err := s.Commit(ctx, "s1", m, ledger.Lock{})
		must(t, err)
		again := open(t, d, src)
		all, err := again.Snapshots()
		must(t, err)
		if len(all) != 1 || all[0].ID != snap.ID {
			t.Errorf("restarted %t: %d snapshots", restarted, len(all))
		}
		if bad := again.Check(ctx, true); len(bad) > 0 {
			t.Errorf("restarted %t: %v", restarted, bad)
		}
	}
}

// syncOfCommit gives the number of the operation that syncs the commit's line, counted on d, by a
// rehearsal on a copy. Opening the copy takes operations of its own.
func syncOfCommit(t *testing.T, d *crashdisk.Disk, src clock.Source, m []byte) int64 {
	t.Helper()
	copyOf := d.Clone()
	s := open(t, copyOf, src)
	from := copyOf.Ops()
	_, err := s.Commit(ctx, "s1", m, ledger.Lock{})
	must(t, err)
	for i, op := range copyOf.Log()[from:] {
		if strings.HasPrefix(op, "sync ledger/0") {
			return d.Ops() + int64(i) + 1
		}
	}
	t.Fatal("no sync of a segment")
	return 0
}

func TestCommitRefusesWhatCannotBeReliedOn(t *testing.T) {
	_, src, s := newStore(t)
	first := commit(t, s, "web1", "s1", ledger.Lock{})
	p, err := seal(s, "s2")
	must(t, err)
	open, err := s.CreatePack("s2")
	must(t, err)
	head := func(change func(*reliance.Head)) []byte {
		label, previous, err := s.NextLabel("web1")
		must(t, err)
		now, err := s.Now()
		must(t, err)
		h := reliance.Head{
			Format: 1, Vault: testVault, Source: "web1", Session: "s2", Begin: now.Wall, Label: label,
			State: reliance.Complete, Previous: previous,
		}
		must(t, h.SetPacks(roaring.BitmapOf(p.Number)))
		change(&h)
		b, err := h.Encode()
		must(t, err)
		return reliance.Frame(b, []byte("x"), nil)
	}
	label := func(d time.Duration) func(*reliance.Head) {
		return func(h *reliance.Head) {
			now, _ := src.Read()
			h.Label, _ = clock.Label(now.Wall.Add(d), "")
		}
	}
	var missing *MissingPacks
	var stale *StaleHead
	for _, test := range []struct {
		name   string
		change func(*reliance.Head)
		as     any
	}{
		{"another vault", func(h *reliance.Head) { h.Vault = strings.Repeat("f", 32) }, nil},
		{"another session", func(h *reliance.Head) { h.Session = "s1" }, nil},
		{"another previous", func(h *reliance.Head) { h.Previous = strings.Repeat("0", 64) }, &stale},
		{"no previous", func(h *reliance.Head) { h.Previous = "" }, &stale},
		{"the last label", func(h *reliance.Head) { h.Label = first.Label }, &stale},
		{"a label of the day before", label(-25 * time.Hour), &stale},
		{"a label of tomorrow", label(time.Hour), &stale},
		{"an unknown pack", func(h *reliance.Head) { must(t, h.SetPacks(roaring.BitmapOf(p.Number, 77))) }, &missing},
		{"a growing pack", func(h *reliance.Head) { must(t, h.SetPacks(roaring.BitmapOf(open.Number))) }, &missing},
	} {
		_, err := s.Commit(ctx, "s2", head(test.change), ledger.Lock{})
		if err == nil || test.as != nil && !errors.As(err, test.as) {
			t.Errorf("%s: error %v", test.name, err)
		}
	}
	if _, err := s.Commit(ctx, "s2", []byte("holdfast-manifest/2 1 2 3\n"), ledger.Lock{}); !errors.Is(err, reliance.ErrNewer) {
		t.Errorf("a manifest of the future: %v", err)
	}
	if all, _ := s.Snapshots(); len(all) != 1 {
		t.Errorf("%d snapshots", len(all))
	}
	_, err = s.Commit(ctx, "s2", head(func(*reliance.Head) {}), ledger.Lock{})
	must(t, err)
}

func TestLabelsGoOnAfterTheWallClockWentBack(t *testing.T) {
	_, src, s := newStore(t)
	src.StepWall(10 * day)
	first := commit(t, s, "web1", "s1", ledger.Lock{})
	src.StepWall(-10 * day)
	second := commit(t, s, "web1", "s2", ledger.Lock{})
	if second.Label <= first.Label || second.Head.Previous != first.ID {
		t.Errorf("%s, then %s", first.Label, second.Label)
	}
}

func TestMissingPackIsToldAndNotReliedOn(t *testing.T) {
	d, src, s := newStore(t)
	commit(t, s, "web1", "s1", ledger.Lock{})
	must(t, durable.Remove(d, packFile(1)))
	s = open(t, d, src)
	if s.ClaimOne("s2", 1) {
		t.Error("a session may rely on a missing pack")
	}
	bad := s.Check(ctx, false)
	if len(bad) != 1 || bad[0].Pack != 1 || bad[0].What != packFile(1) {
		t.Errorf("%v", bad)
	}
}

func TestForeignFilesAreTold(t *testing.T) {
	d, src, s := newStore(t)
	commit(t, s, "web1", "s1", ledger.Lock{})
	must(t, s.Close())
	must(t, durable.WriteNew(d, "packs/notes.txt", []byte("x"), 0o600))
	must(t, durable.WriteNew(d, "packs/00000009.pack", []byte("x"), 0o600))
	must(t, durable.WriteNew(d, manifestFile(strings.Repeat("a", 64)), []byte("x"), 0o600))
	must(t, durable.WriteNew(d, "ledger/notes.txt", []byte("x"), 0o600))
	s, err := Open(d, src, Options{ReadOnly: true})
	must(t, err)
	if bad := s.Check(ctx, true); len(bad) != 4 {
		t.Errorf("%v", bad)
	}
}

func TestReadOnlyStoreWritesNothing(t *testing.T) {
	d, src, s := newStore(t)
	snap := commit(t, s, "web1", "s1", ledger.Lock{})
	must(t, s.Close())
	must(t, d.Remove(signerFile)) // on a foreign host it is not there
	ops := d.Ops()
	s, err := Open(d, src, Options{ReadOnly: true})
	must(t, err)
	if _, err := s.Manifest(snap.ID); err != nil {
		t.Error(err)
	}
	must(t, samePack(s, 1, content(1)))
	_, e1 := s.CreatePack("s2")
	_, e2 := s.Commit(ctx, "s2", nil, ledger.Lock{})
	_, e3 := s.Extend(ctx, snap.ID, ledger.Lock{Mode: ledger.Governance, ForSeconds: 1}, "")
	_, e4 := s.Prune(ctx, false)
	_, e5 := s.Hold(ctx, snap.ID, "a trial", "ann")
	_, _, e6 := s.Adopt(ctx, ledger.Policy{Mode: ledger.Compliance}, "")
	for _, err := range []error{e1, e2, e3, e4, e5, e6, s.Discard(1), s.SetKeyring(ctx, []byte("x"), "")} {
		if !errors.Is(err, ErrReadOnly) {
			t.Errorf("error %v", err)
		}
	}
	must(t, s.Close())
	if d.Ops() != ops {
		t.Errorf("%v", d.Log()[ops:])
	}
}

func TestKeyringFollowsTheLedger(t *testing.T) {
	d, src, s := newStore(t)
	must(t, s.SetKeyring(ctx, []byte("second"), "rotation"))
	must(t, durable.Replace(d, keyringFile, initOptions().Keyring, 0o600)) // as if the power had failed in between
	s = open(t, d, src)
	if b, _ := durable.ReadFile(d, keyringFile, 100); string(s.Keyring()) != "second" || string(b) != "second" {
		t.Errorf("keyring %q, file %q", s.Keyring(), b)
	}
	must(t, durable.Replace(d, keyringFile, []byte("foreign"), 0o600))
	s = open(t, d, src)
	if bad := s.Check(ctx, false); len(bad) != 1 || bad[0].What != keyringFile {
		t.Errorf("%v", bad)
	}
}

// TestFullDiskDoesNotEndTheProcess: a daemon goes on when there is room again, without a restart.
func TestFullDiskDoesNotEndTheProcess(t *testing.T) {
	d, src, s := newStore(t)
	commit(t, s, "web1", "s1", ledger.Lock{})
	p, err := seal(s, "s2")
	must(t, err)
	m, err := manifest(s, "web1", "s2", p.Number)
	must(t, err)
	d.FailAt(d.Ops()+1, crashdisk.NoSpace)
	if _, err := s.Commit(ctx, "s2", m, ledger.Lock{}); !durable.IsNoSpace(err) {
		t.Fatalf("error %v", err)
	}
	if _, err := seal(s, "s3"); !durable.IsNoSpace(err) {
		t.Fatalf("error %v", err)
	}
	ro := open(t, d.Clone(), src) // a full disk keeps nobody from opening
	if all, err := ro.Snapshots(); err != nil || len(all) != 1 {
		t.Errorf("%d snapshots, %v", len(all), err)
	}
	d.Refill()
	_, err = s.Commit(ctx, "s2", m, ledger.Lock{})
	must(t, err)
	commit(t, s, "web2", "s4", ledger.Lock{})
	if bad := s.Check(ctx, true); len(bad) > 0 {
		t.Error(bad)
	}
}

func TestSealsAndClaimsRunBesidePruneAndCheck(t *testing.T) {
	d, src, s := newStore(t)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 5 {
				session := fmt.Sprintf("s%d-%d", w, i)
				p, err := seal(s, session)
				if err != nil {
					t.Error(err)
					return
				}
				m, err := manifest(s, fmt.Sprintf("web%d", w), session, p.Number)
				if err == nil {
					_, err = s.Commit(ctx, session, m, ledger.Lock{})
				}
				if err != nil {
					t.Error(err)
				}
				s.ClaimOne("reader", p.Number)
				src.Advance(time.Hour)
			}
		})
	}
	wg.Go(func() {
		for range 10 {
			if _, err := s.Prune(ctx, false); err != nil {
				t.Error(err)
			}
			if bad := s.Check(ctx, true); len(bad) > 0 {
				t.Error(bad)
			}
		}
	})
	wg.Wait()
	must(t, s.Close())
	if bad := open(t, d, src).Check(ctx, true); len(bad) > 0 {
		t.Error(bad)
	}
}

// TestEveryFlippedByteIsFound goes over every byte of a small vault.
func TestEveryFlippedByteIsFound(t *testing.T) {
	d, src, s := newStore(t)
	commit(t, s, "web1", "s1", ledger.Lock{})
	commit(t, s, "web1", "s2", ledger.Lock{}, 1)
	must(t, s.Close())
	for _, name := range d.Files() {
		b, err := durable.ReadFile(d, name, 1<<20)
		must(t, err)
		for i := int64(0); i < int64(len(b)); i += min(stride(1), 3) {
			mask := byte(1) << (i % 8)
			must(t, d.Flip(name, i, mask))
			s, err := Open(d, src, Options{ReadOnly: true})
			if err != nil {
				t.Errorf("%s byte %d mask %#x: cannot be opened: %v", name, i, mask, err)
			} else if bad := s.Check(ctx, true); len(bad) == 0 {
				t.Errorf("%s byte %d mask %#x: not found", name, i, mask)
			} else if !strings.HasPrefix(bad[0].What, name) && !strings.HasPrefix(name, "ledger/") {
				t.Errorf("%s byte %d: told as %v", name, i, bad)
			}
			must(t, d.Flip(name, i, mask))
		}
	}
}
