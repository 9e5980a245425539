package vault

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// tinyRule evacuates what a test can make.
func tinyRule() *evacuationRule {
	return &evacuationRule{full: 1 << 20, fan: 3, deadLeast: 4 << 10, deadMost: 4 << 10, deadShare: 256, room: 8 << 20, factor: 4, chunks: 64 << 10}
}

func tinyVault(t testing.TB) *memoryVault {
	return newMemoryVault(t, 10*24*time.Hour, Options{NoParity: true, rule: tinyRule()})
}

func mustPull(t testing.TB, src *source, v *Vault, name string) (worm.Snapshot, uint64) {
	t.Helper()
	snap, copied, err := src.pull(t.Context(), v, name)
	if err != nil {
		t.Fatal(err)
	}
	return snap, copied
}

func packsOf(t testing.TB, s worm.Snapshot) []uint32 {
	t.Helper()
	set, err := s.Head.PackSet()
	if err != nil {
		t.Fatal(err)
	}
	return set.ToArray()
}

// TestEvacuationChangesWhatComesBack plays random histories of two sources that share content: pulls, cuts, prunes, restarts,
// lost caches. Whatever happens, each snapshot that is left gives back what was pulled, and is accounted for exactly.
func TestEvacuationChangesWhatComesBack(t *testing.T) {
	var copied uint64
	var swept int
	steps := 40
	if raceEnabled {
		steps = 20
	}
	rapid.Check(t, func(r *rapid.T) {
		ctx := context.Background()
		m := tinyVault(t)
		defer func() { _ = m.Close() }()
		sources := map[string]*source{"web1": newSource(1), "web2": newSource(2)}
		want := map[string]tree{}
		name := rapid.SampledFrom([]string{"web1", "web2"})
		write := func(src *source) {
			n := rapid.Int64Range(1, 60).Draw(r, "version")
			src.files[fmt.Sprintf("d%d/f%d", n%3, rapid.IntRange(0, 15).Draw(r, "file"))] = version{n, int(300 + n*n*23)}
		}
		for range rapid.IntRange(5, steps).Draw(r, "steps") {
			source := name.Draw(r, "source")
			src := sources[source]
			switch rapid.IntRange(0, 9).Draw(r, "what") {
			case 0, 1, 2, 3, 4:
				for range rapid.IntRange(1, 3).Draw(r, "writes") {
					write(src)
				}
				snap, n, err := src.pull(ctx, m.Vault, source)
				if err != nil {
					r.Fatal(err)
				}
				copied += n
				want[snap.ID] = src.tree()
			case 5:
				cutPull(ctx, r, m.Vault, source, src, rapid.IntRange(0, 10).Draw(r, "files before the cut"))
			case 6:
				for p := range src.files {
					delete(src.files, p)
					break
				}
			case 7:
				rep, err := pruneTwice(t, m.Vault, m.clock.Advance)
				if err != nil {
					r.Fatal(err)
				}
				swept += len(rep.Packs)
				for _, id := range rep.Snapshots {
					delete(want, id)
				}
			case 8:
				if rapid.Bool().Draw(r, "the index is lost") {
					m.index = newMemIndex()
				}
				if rapid.Bool().Draw(r, "usage is lost") {
					if err := durable.RemoveTree(m.disk, usageDir); err != nil {
						r.Fatal(err)
					}
				}
				m.reopen(t)
			case 9:
				m.clock.Advance(time.Duration(rapid.IntRange(1, 15*24).Draw(r, "hours")) * time.Hour)
			}
			m.clock.Advance(time.Minute)
		}
		holds(ctx, r, m.Vault, want)
	})
	t.Logf("%d bytes were copied, %d packs removed", copied, swept)
	if copied == 0 || swept == 0 {
		t.Error("nothing was evacuated or nothing removed: these histories prove nothing")
	}
}

func cutPull(ctx context.Context, r *rapid.T, v *Vault, name string, src *source, files int) {
	s, err := v.Begin(ctx, SessionOptions{Source: name})
	if err != nil {
		r.Fatal(err)
	}
	if err := src.record(ctx, s, func() bool { files--; return files < 0 }); err != nil {
		r.Fatal(err)
	}
	if s.p.evac != nil && rapid.Bool().Draw(r, "cut while it moves") {
		if _, err := s.move(ctx); err != nil {
			r.Fatal(err)
		}
	}
	end := s.Suspend
	if rapid.Bool().Draw(r, "abandon") {
		end = s.Abandon
	}
	if err := end(); err != nil {
		r.Fatal(err)
	}
}

// holds compares every snapshot with the model, and what is remembered of it with its catalog.
func holds(ctx context.Context, t rapid.TB, v *Vault, want map[string]tree) {
	all, err := v.store.Snapshots()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != len(want) {
		t.Fatalf("%d snapshots, %d were made and not removed", len(all), len(want))
	}
	for i := range all {
		got, err := giveBack(ctx, v, all[i].ID)
		if err != nil {
			t.Fatal(err)
		}
		if !maps.EqualFunc(got, want[all[i].ID], slices.Equal[[]byte]) {
			t.Fatalf("%s@%s gives back something else", all[i].Source, all[i].Label)
		}
		s, err := v.OpenSnapshot(ctx, all[i].ID)
		if err != nil {
			t.Fatal(err)
		}
		uses, err := s.Tree().Uses(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if known, ok := v.knownUses(&all[i]); ok && !maps.Equal(known, uses) {
			t.Fatalf("%s@%s uses %v, remembered is %v", all[i].Source, all[i].Label, uses, known)
		}
	}
	rep, err := v.Check(ctx, CheckOptions{ReadData: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Damage) > 0 || rep.TouchedCount > 0 {
		t.Fatalf("check: %v, %d files touched", rep.Damage, rep.TouchedCount)
	}
}

// smallPacks pulls until the next pull will evacuate.
func smallPacks(t testing.TB, m *memoryVault, name string, src *source) {
	for i := range 12 {
		src.write(fmt.Sprintf("d/f%d", i), 2000+100*i)
	}
	for i := range 3 {
		src.write(fmt.Sprintf("d/g%d", i), 20000)
		mustPull(t, src, m.Vault, name)
		m.clock.Advance(time.Hour)
	}
}

func TestCutWhileEvacuating(t *testing.T) {
	m, src := tinyVault(t), newSource(1)
	smallPacks(t, m, "web1", src)
	before := mustNewest(t, m.Vault)
	had := src.tree()
	src.write("d/new", 5000)
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	disk, index := m.disk.Restart(crashdisk.KeepAll, 1), m.index
	reopen := func(d *crashdisk.Disk, x *memIndex) error {
		m.disk, m.index, m.Vault = d, x, nil
		o := m.o
		var err error
		w := crashWorld{ident: m.ident, clock: m.clock}
		if m.Vault, err = w.openAs(t.Context(), o, d, x); err != nil {
			m.Vault = nil
		}
		return err
	}
	if err := reopen(disk.Clone(), index.clone()); err != nil {
		t.Fatal(err)
	}
	end, copied := mustPull(t, src, m.Vault, "web1")
	if copied == 0 {
		t.Fatal("nothing is evacuated")
	}
	goal := len(packsOf(t, end))
	_ = m.Close()
	full, points := os.Getenv("HOLDFAST_SWEEP") == "full", 0
	r := rand.New(rand.NewPCG(3, 9))
	for op := int64(1); ; op++ {
		fired := false
		for _, fault := range crashFaults {
			d, x := disk.Clone(), index.clone()
			d.FailAt(op, fault)
			if reopen(d, x) == nil {
				_, _, _ = src.pull(t.Context(), m.Vault, "web1")
				_ = m.Close()
			}
			if !d.Fired() {
				continue
			}
			fired = true
			if points++; !full && r.IntN(3) > 0 {
				continue
			}
			loss := []crashdisk.Loss{crashdisk.LoseUnsynced, crashdisk.KeepAll, crashdisk.Random}[r.IntN(3)]
			lost := []*memIndex{newMemIndex(), index.clone(), x.clone()}[r.IntN(3)]
			fail := func(err error) {
				t.Fatalf("operation %d, fault %v, loss %v: %v\n%s", op, fault, loss, err, strings.Join(d.Log(), "\n"))
			}
			if err := reopen(d.Restart(loss, op), lost); err != nil {
				fail(err)
			}
			again, _, err := src.pull(t.Context(), m.Vault, "web1")
			if err != nil {
				fail(err)
			}
			for id, want := range map[string]tree{before: had, again.ID: src.tree()} {
				got, err := giveBack(t.Context(), m.Vault, id)
				if err != nil || !maps.EqualFunc(got, want, slices.Equal[[]byte]) {
					fail(fmt.Errorf("snapshot %s: %d of %d files, or they differ: %w", id, len(got), len(want), err))
				}
			}
			// A run that was cut may have left a pack or two more, none of those that were to be left.
			if n := len(packsOf(t, again)); n > goal+2 {
				fail(fmt.Errorf("it relies on %d packs, %d without the cut", n, goal))
			}
			_ = m.Close()
		}
		if !fired {
			break
		}
	}
	t.Logf("%d points", points)
	if points < 100 {
		t.Errorf("only %d points: the run has become too small to prove anything", points)
	}
}

func TestTwoSessionsThatLeaveTheSamePacksLoseSomething(t *testing.T) {
	m, src := tinyVault(t), newSource(1)
	smallPacks(t, m, "web1", src)
	mustPull(t, src, m.Vault, "web2") // relies on what the first one stored
	m.clock.Advance(time.Hour)
	var sessions []*Session
	for _, name := range []string{"web1", "web2"} {
		s, err := m.Begin(t.Context(), SessionOptions{Source: name})
		if err != nil {
			t.Fatal(err)
		}
		if n, _ := s.Evacuated(); n == 0 {
			t.Fatalf("%s evacuates nothing", name)
		}
		sessions = append(sessions, s)
	}
	// Every lock of before has run: only what the sessions rely on keeps the packs.
	m.clock.Advance(11 * 24 * time.Hour)
	want := map[string]tree{}
	var relied [][]uint32
	for _, s := range sessions {
		if err := src.record(t.Context(), s, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Prune(t.Context(), false); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range sessions {
		snap, err := s.Commit(t.Context(), CommitOptions{})
		if err != nil {
			t.Fatal(err)
		}
		want[snap.ID] = src.tree()
		relied = append(relied, packsOf(t, snap))
	}
	if !slices.Contains(relied[1], relied[0][0]) || len(relied[1]) > 2 {
		t.Errorf("the second session relies on %v, the first one on %v: it copied what the first had copied", relied[1], relied[0])
	}
	m.clock.Advance(time.Hour)
	rep, err := pruneTwice(t, m.Vault, m.clock.Advance)
	if err != nil {
		t.Fatal(err)
	}
	if len(rep.Packs) < 3 {
		t.Errorf("prune removed the packs %v: those that were left stay", rep.Packs)
	}
	holds(t.Context(), t, m.Vault, want)
}

// TestPacksThatOthersKeepAreCopiedForNothing: what another source's snapshot keeps anyway is not copied out.
func TestPacksThatOthersKeepAreCopiedForNothing(t *testing.T) {
	m, src := tinyVault(t), newSource(1)
	smallPacks(t, m, "web1", src)
	mustPull(t, src, m.Vault, "gone")
	// It is never pulled again: its newest snapshot stays for ever.
	for range 12 {
		m.clock.Advance(24 * time.Hour)
		src.write("d/hot", 3000)
		mustPull(t, src, m.Vault, "web1")
	}
	m.clock.Advance(24 * time.Hour)
	kept := packsOf(t, mustNewestOf(t, m.Vault, "gone"))
	s, err := m.Begin(t.Context(), SessionOptions{Source: "web1"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Abandon()
	for _, n := range kept {
		if s.p.evac != nil && s.p.evac.packs.Contains(n) {
			t.Errorf("pack %d is evacuated, which the last snapshot of another source keeps for ever", n)
		}
	}
}

func mustNewestOf(t testing.TB, v *Vault, source string) worm.Snapshot {
	t.Helper()
	all, err := v.store.Snapshots()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range slices.Backward(all) {
		if s.Source == source {
			return s
		}
	}
	t.Fatalf("no snapshot of %s", source)
	return worm.Snapshot{}
}

// TestOnePullCopiesWithoutBound: with little room a large, mostly dead pack is left in several pulls.
func TestOnePullCopiesWithoutBound(t *testing.T) {
	m, src := tinyVault(t), newSource(1)
	m.o.rule.room, m.o.rule.factor = 300<<10, 0
	for i := range 60 {
		src.write(fmt.Sprintf("d/keep%d", i), 20_000)
		src.write(fmt.Sprintf("d/drop%d", i), 25_000)
	}
	first, _ := mustPull(t, src, m.Vault, "web1")
	for i := range 60 {
		delete(src.files, fmt.Sprintf("d/drop%d", i))
	}
	old := packsOf(t, first)[0]
	pulls := 0
	for {
		m.clock.Advance(time.Hour)
		snap, copied := mustPull(t, src, m.Vault, "web1")
		if copied > m.o.rule.room+20_000 {
			t.Errorf("a pull copied %d bytes, it may copy %d", copied, m.o.rule.room)
		}
		mustGiveBack(t, m.Vault, snap.ID, src.tree())
		if !slices.Contains(packsOf(t, snap), old) {
			break
		}
		if pulls++; pulls > 20 {
			t.Fatal("the pack is never left")
		}
	}
	if pulls < 3 {
		t.Errorf("it was left after %d pulls: the room does not bound", pulls)
	}
}
