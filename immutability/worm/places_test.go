package worm

import (
	"errors"
	"fmt"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
)

// pair is a vault in two places under one power, into which packs go in turn.
type pair struct {
	*durable.Span
	one, two *crashdisk.Disk
}

// swinging is a second place that is full at every other look.
type swinging struct {
	*crashdisk.Disk
	looks int
}

func (d *swinging) Room() (free, total int64, err error) {
	d.looks++
	return int64(d.looks%2) << 40, 1 << 41, nil
}

func newPair(one, two *crashdisk.Disk) pair {
	crashdisk.Together(one, two)
	s, err := durable.NewSpan([]durable.Place{{Number: 1, Path: "/disk1", Disk: one}, {Number: 2, Path: "/disk2", Disk: &swinging{Disk: two}}},
		durable.SpanOptions{Sealed: packsDir, Growing: incomingDir, Suffix: packSuffix})
	if err != nil {
		panic(err) // the test's own mistake
	}
	return pair{s, one, two}
}

func (p pair) restart(l crashdisk.Loss, seed int64) medium {
	return newPair(p.one.Restart(l, seed), p.two.Restart(l, seed+1000))
}

// TestQuietLifeInTwoPlaces is the run that the faults are put into.
func TestQuietLifeInTwoPlaces(t *testing.T) {
	for _, born := range []func() *memory{newMemory, newGuarded} {
		m, p, src := born(), newPair(crashdisk.New(), crashdisk.New()), newClock()
		must(t, m.life(p, src, false))
		if len(m.snapshots) != 3 || len(m.gone) != 2 || len(m.packs) != 3 {
			t.Fatalf("%d snapshots, %d of them removed, %d packs", len(m.snapshots), len(m.gone), len(m.packs))
		}
		seals, removes := 0, 0
		for _, line := range p.one.Log() {
			switch line {
			case "#2 link incoming/00000001.pack packs/00000001.pack", "link incoming/00000002.pack packs/00000002.pack", "#2 link incoming/00000003.pack packs/00000003.pack":
				seals++
			case "#2 remove packs/00000001.pack", "remove packs/00000002.pack":
				removes++
			}
		}
		if seals != 3 || removes != 2 {
			t.Errorf("%d packs sealed where they began, %d removed:\n%q", seals, removes, p.one.Log())
		}
		must(t, m.proveOn(p, src, 1))
	}
}

// TestNoFaultBreaksAPromiseInTwoPlaces puts every fault at every operation of a vault's life in two places: a pack that is
// sealed in the second while the ledger is in the first, and the other way round.
func TestNoFaultBreaksAPromiseInTwoPlaces(t *testing.T) {
	t.Parallel()
	for _, born := range []func() *memory{newMemory, newGuarded} {
		quiet := newPair(crashdisk.New(), crashdisk.New())
		must(t, born().life(quiet, newClock(), false))
		points, some := 0, newSlice(23)
		for op := int64(1); op <= quiet.one.Ops(); op++ {
			for _, fault := range crashdisk.Faults() {
				for _, persist := range []bool{false, true} {
					dead := fault == crashdisk.Crash || fault == crashdisk.CrashAfter || fault == crashdisk.Torn || fault == crashdisk.ReadOnly
					if dead && persist || !some.takes() {
						continue
					}
					p, src, m := newPair(crashdisk.New(), crashdisk.New()), newClock(), born()
					p.one.FailAt(op, fault)
					err := m.life(p, src, persist)
					for how, loss := range []crashdisk.Loss{crashdisk.LoseUnsynced, crashdisk.KeepAll, crashdisk.Random, crashdisk.Random} {
						if perr := m.clone().proveOn(p.restart(loss, op*10+int64(how)), src, 1); perr != nil {
							log := p.one.Log()
							t.Errorf("guard %t, op %d %v, persist %t (%v), %v %d: %v\n%q", m.guard, op, fault, persist, err, loss, how, perr, log[max(0, op-4):min(int64(len(log)), op+3)])
						}
					}
					points++
				}
			}
		}
		t.Logf("%d operations, %d faults survived", quiet.one.Ops(), points)
	}
}

// A pack in a place that is away is neither missing nor damaged, and whoever only reads can use the rest.
func TestAPlaceThatIsAwayIsNoDamage(t *testing.T) {
	p, src := newPair(crashdisk.New(), crashdisk.New()), newClock()
	_, err := Init(p, src, initOptions())
	must(t, err)
	s := open(t, p, src)
	for i := range 4 {
		commit(t, s, "web1", fmt.Sprintf("s%d", i), ledger.Lock{})
	}
	must(t, s.Close())
	span, err := durable.NewSpan([]durable.Place{{Number: 1, Path: "/disk1", Disk: p.one}, {Number: 2, Path: "/disk2", Away: errors.New("not mounted")}},
		durable.SpanOptions{Sealed: packsDir, Growing: incomingDir, Suffix: packSuffix, ReadOnly: true})
	must(t, err)
	r, err := Open(span, src, Options{ReadOnly: true})
	must(t, err)
	unseen := 0
	for _, d := range r.Check(ctx, true) {
		if !d.Unseen || d.Pack%2 != 1 {
			t.Errorf("%+v", d)
		}
		unseen++
	}
	if unseen != 2 {
		t.Errorf("%d packs are unseen", unseen)
	}
	// A copy of a pack in the other place is told by name, and nobody opens the vault for writing on top of it.
	b, err := durable.ReadFile(p, packFile(1), 1<<20)
	must(t, err)
	must(t, durable.WriteNew(p.one, packFile(1), b, 0o600))
	if _, err := Open(p, src, Options{}); err == nil {
		t.Error("opened with a pack in two places")
	}
	twice, err := durable.NewSpan(p.Places(), durable.SpanOptions{Sealed: packsDir, Growing: incomingDir, Suffix: packSuffix, ReadOnly: true})
	must(t, err)
	if r, err = Open(twice, src, Options{ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	if bad := r.Check(ctx, true); len(bad) != 1 || bad[0].Pack != 1 {
		t.Errorf("%v", bad)
	}
}

// Probes go round the places, and lie where they are to be attacked.
func TestProbesGoRound(t *testing.T) {
	p, src := newPair(crashdisk.New(), crashdisk.New()), newClock()
	_, err := Init(p, src, initOptions())
	must(t, err)
	s := open(t, p, src)
	for _, want := range []int{1, 2, 1} {
		probe, err := s.NextProbe()
		must(t, err)
		in := []*crashdisk.Disk{p.one, p.two}[want-1]
		if ProbeIn(probe.File) != want || len(in.Files()) == 0 {
			t.Errorf("%s", probe.File)
		}
		if _, err := in.Stat(probe.growing()); err != nil {
			t.Error(err)
		}
		must(t, probe.Seal(ctx))
		if _, err := in.Stat(probe.File); err != nil {
			t.Error(err)
		}
		must(t, probe.Remove(ctx))
		if _, err := in.Stat(probe.File); err == nil {
			t.Error("it is still there")
		}
	}
}

// small is a disk of which a test says how much is free.
type small struct {
	*crashdisk.Disk
	free int64
}

func (d *small) Room() (free, total int64, err error) { return d.free, 64 << 20, nil }

// Small packs must not take the room in which the ledger says that they are there, and in which a further place is named.
func TestPacksLeaveRoomForTheLedger(t *testing.T) {
	d, src := &small{crashdisk.New(), 1 << 20}, newClock()
	_, err := Init(d, src, initOptions())
	must(t, err)
	s := open(t, d, src)
	commit(t, s, "web1", "s1", ledger.Lock{})
	d.free--
	if _, err := s.CreatePack("s2"); !durable.IsNoSpace(err) {
		t.Errorf("a pack is begun in the ledger's room: %v", err)
	}
	must(t, s.Close())
	span, err := durable.NewSpan([]durable.Place{{Number: 1, Path: "/disk1", Disk: d}, {Number: 2, Path: "/disk2", Disk: crashdisk.New()}},
		durable.SpanOptions{Sealed: packsDir, Growing: incomingDir, Suffix: packSuffix})
	must(t, err)
	s = open(t, span, src)
	commit(t, s, "web1", "s2", ledger.Lock{})
	must(t, s.Close())
}
