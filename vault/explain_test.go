package vault

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"pgregory.net/rapid"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/policy"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
	"github.com/holdfast-vault/holdfast/immutability/retention"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

const toldVault = "0123456789abcdef0123456789abcdef"

// toldBorn is the disk of a new vault, to be cloned: making keys takes longer than a history.
var toldBorn = sync.OnceValues(func() (*crashdisk.Disk, error) {
	d := crashdisk.New()
	_, err := worm.Init(d, clock.NewManual(clock.Earliest().Add(24*time.Hour)), worm.InitOptions{
		Vault: toldVault, Identity: []byte(`{"format":1,"vault":"` + toldVault + `"}` + "\n"), Keyring: []byte("wrapped\n"),
		Policy: ledger.Policy{Mode: ledger.Governance, DefaultSeconds: 2 * 86400, MinSeconds: 3600, MaxSeconds: 30 * 86400},
	})
	return d, err
})

// told is a store with what was said of its snapshots.
type told struct {
	t     *rapid.T
	clock *clock.Manual
	disk  *crashdisk.Disk
	store *worm.Store
	v     *Vault
	n     int
	// earliest is the latest moment before which each snapshot was ever said to stay.
	earliest map[string]time.Time
	log      []string
}

func newTold(t *rapid.T) *told {
	born, err := toldBorn()
	w := &told{t: t, clock: clock.NewManual(clock.Earliest().Add(24 * time.Hour)), earliest: map[string]time.Time{}}
	w.must(err)
	w.disk = born.Clone()
	w.open()
	return w
}

func (w *told) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatalf("%v\n%s", err, strings.Join(w.log, "\n"))
	}
}

func (w *told) say(format string, args ...any) {
	w.log = append(w.log, w.now().Format("0102T150405 ")+fmt.Sprintf(format, args...))
}

func (w *told) now() time.Time {
	r, _ := w.clock.Read()
	return r.Wall.UTC()
}

func (w *told) open() {
	s, err := worm.Open(w.disk, w.clock, worm.Options{})
	w.must(err)
	w.store, w.v = s, &Vault{store: inProcess{s}, disk: w.disk, o: Options{Logf: func(string, ...any) {}}}
}

func (w *told) inventory() *worm.Inventory {
	inv, err := w.store.Inventory(w.t.Context())
	w.must(err)
	return &inv
}

func (w *told) draw(name string, n int) int { return rapid.IntRange(0, n-1).Draw(w.t, name) }

// pass lets whole seconds pass.
func (w *told) pass(most time.Duration) {
	d := time.Duration(w.draw("seconds", int(most/time.Second))) * time.Second
	w.clock.Advance(d)
	w.say("%v pass", d)
}

// commit makes a snapshot of a new pack, of some packs of its source, and of some of others.
func (w *told) commit() {
	source := []string{"a", "a", "b", "c"}[w.draw("source", 4)]
	w.n++
	session := fmt.Sprintf("s%d", w.n)
	var packs []uint32
	for range 1 + w.draw("packs", 3) {
		in, err := w.store.CreatePack(session)
		w.must(err)
		_, err = in.File.Write([]byte(strings.Repeat("x", 10+w.draw("bytes", 500))))
		w.must(err)
		p, err := w.store.Seal(w.t.Context(), in)
		w.must(err)
		packs = append(packs, p.Number)
	}
	for _, p := range w.store.Packs() {
		if k := w.draw("shared", 4); k == 0 && w.store.Reliable(p.Number) {
			packs = append(packs, p.Number)
		}
	}
	if w.draw("abandoned", 10) == 0 {
		w.say("%s: a session seals %v and is gone", source, packs)
		return
	}
	label, previous, err := w.store.NextLabel(source)
	w.must(err)
	h := reliance.Head{
		Format: reliance.Format, Vault: toldVault, Source: source, Session: session, Begin: w.now(), Label: label,
		State: reliance.Complete, Clean: w.draw("clean", 5) > 0, Previous: previous,
	}
	if w.draw("partial", 5) == 0 {
		h.State = reliance.Partial
	}
	w.must(h.SetPacks(roaring.BitmapOf(packs...)))
	head, err := h.Encode()
	w.must(err)
	lock := ledger.Lock{ForSeconds: int64(3600 + w.draw("lock", 20*86400))}
	snap, err := w.store.Commit(w.t.Context(), session, reliance.Frame(head, []byte("sealed"), []byte("keyring")), lock)
	w.must(err)
	w.say("%s %.6s commits %v, %s, clean %v, until %v", source, snap.ID, packs, h.State, h.Clean, snap.LockedUntil)
}

// chosen is one of the snapshots, or nil.
func (w *told) chosen() *worm.Snapshot {
	all, err := w.store.Snapshots()
	w.must(err)
	if len(all) == 0 {
		return nil
	}
	return &all[w.draw("which", len(all))]
}

func (w *told) step() {
	switch k := w.draw("step", 20); {
	case k < 8:
		w.commit()
	case k < 12:
		w.pass(5 * 24 * time.Hour)
	case k == 12:
		w.must(w.store.Close())
		gap := time.Duration(w.draw("gap", 5*86400)) * time.Second
		w.clock.Reboot(gap)
		w.say("off for %v", gap)
		w.open()
	case k == 13:
		w.must(w.store.Close())
		w.open()
	case k == 14:
		if s := w.chosen(); s != nil {
			_, err := w.store.Extend(w.t.Context(), s.ID, ledger.Lock{ForSeconds: int64(1 + w.draw("extend", 20*86400))}, "test")
			if err != nil && !errors.Is(err, worm.ErrShorter) {
				w.must(err)
			}
			w.say("extend %.6s: %v", s.ID, err)
		}
	case k == 15 && w.draw("hold", 3) == 0:
		if s := w.chosen(); s != nil {
			_, err := w.store.Hold(w.t.Context(), s.ID, "why", "test")
			w.must(err)
			w.say("hold %.6s", s.ID)
		}
	case k == 16:
		w.adopt()
	default:
		w.prune()
	}
}

// adopt proposes other keep rules: more of them apply at once, and fewer where they take back what is young.
func (w *told) adopt() {
	n := func(name string, most int) int64 { return int64(w.draw(name, most)) }
	said := policy.Policy{Keep: policy.Keep{
		Hourly: n("hourly", 4), Daily: n("daily", 4), Weekly: n("weekly", 3), Monthly: n("monthly", 3), Yearly: n("yearly", 2), WithinSeconds: n("within", 4) * 86400,
	}}
	if w.draw("own", 3) == 0 {
		said = policy.Policy{Sources: map[string]policy.Rules{"a": {Keep: said.Keep}}}
	}
	changed, _, err := w.store.Adopt(w.t.Context(), said, "test")
	w.must(err)
	w.say("adopt %+v: %v", said, changed)
}

// prune holds what goes to what was said of it.
func (w *told) prune() {
	before := w.inventory()
	rep, err := w.store.Prune(w.t.Context(), false)
	w.must(err)
	w.say("prune: %d go, %d packs, %d bytes; %d marked", len(rep.Snapshots), len(rep.Packs), rep.Bytes, rep.MarkedSnapshots)
	for _, id := range rep.Snapshots {
		if e := w.earliest[id]; w.now().Before(e) {
			w.t.Fatalf("%.6s went, and was said to stay until %v\n%s", id, e, strings.Join(w.log, "\n"))
		}
	}
	if len(rep.Snapshots) != 1 {
		return
	}
	at := slices.IndexFunc(before.Snapshots, func(s worm.Inventoried) bool { return s.ID == rep.Snapshots[0] })
	e := explain(before, at)
	if freed := w.freed(before, at, rep.Packs); freed > e.AloneBytes {
		w.t.Fatalf("%.6s: %d bytes promised, %d came free\n%s", e.Snapshot.ID, e.AloneBytes, freed, strings.Join(w.log, "\n"))
	}
}

// freed is what went of the packs of one snapshot.
func (w *told) freed(inv *worm.Inventory, at int, packs []uint32) (bytes uint64) {
	for _, p := range inv.Packs {
		if inv.Snapshots[at].Packs.Contains(p.Number) && slices.Contains(packs, p.Number) {
			bytes += uint64(p.Bytes)
		}
	}
	return bytes
}

// young is what of the packs that a snapshot alone names has not been marked for a day.
func (w *told) young(inv *worm.Inventory, at int) (bytes uint64) {
	others := roaring.New()
	for i, s := range inv.Snapshots {
		if i != at {
			others.Or(s.Packs)
		}
	}
	for _, p := range inv.Packs {
		marked := !p.Marked.IsZero() && clock.Elapsed(p.Marked, inv.Now, MarkedFor)
		if inv.Snapshots[at].Packs.Contains(p.Number) && !others.Contains(p.Number) && p.SessionFor == 0 && !marked {
			bytes += uint64(p.Bytes)
		}
	}
	return bytes
}

// look compares what is explained with what prune would do.
func (w *told) look() {
	inv := w.inventory()
	plan, err := w.store.Prune(w.t.Context(), true)
	w.must(err)
	goes := map[string]bool{}
	for _, id := range plan.Snapshots {
		goes[id] = true
	}
	for i := range inv.Snapshots {
		e := explain(inv, i)
		id := e.Snapshot.ID
		if e.Decision.Go != goes[id] || e.Decision.Go != (len(e.Decision.Reasons) == 0) {
			w.t.Fatalf("%.6s: explained %+v, planned %v\n%s", id, e.Decision, goes[id], strings.Join(w.log, "\n"))
		}
		if e.Decision.Go && !e.Quiet.Equal(w.now()) {
			w.t.Fatalf("%.6s may go, and quiet says %v\n%s", id, e.Quiet, strings.Join(w.log, "\n"))
		}
		if !e.Quiet.IsZero() && e.Quiet.Before(e.Decision.Earliest) {
			w.t.Fatalf("%.6s: not before %v, and if nothing comes from %v\n%s", id, e.Decision.Earliest, e.Quiet, strings.Join(w.log, "\n"))
		}
		if (len(e.Then) == 0) == e.Quiet.IsZero() {
			w.t.Fatalf("%.6s: from %v on, and kept by %v\n%s", id, e.Quiet, e.Then, strings.Join(w.log, "\n"))
		}
		leaves := e.Leaves()
		if leaves.IsZero() {
			leaves = w.now().AddDate(1000, 0, 0)
		}
		if leaves.After(w.earliest[id]) {
			w.earliest[id] = leaves
		}
	}
}

// quiet lets nothing new happen, and holds every prune to what was foreseen.
func (w *told) quiet() {
	for _, s := range w.inventory().Snapshots {
		if e, err := w.v.Explain(w.t.Context(), s.ID); err != nil || e.Snapshot.ID != s.ID {
			w.t.Fatalf("%v, %+v", err, e)
		}
	}
	w.exactly()
	w.prune() // what is young or stale of the marks is set right by one prune, and within a day by no other
	w.clock.Advance(foreseenEvery)
	days := 30
	if raceEnabled {
		days = 8
	}
	f, err := w.v.Foresee(w.t.Context(), ForeseeOptions{For: time.Duration(days) * foreseenEvery, NoPulls: true})
	w.must(err)
	for day := range days + 1 {
		var want ForeseenPrune
		if len(f.Prunes) > 0 && f.Prunes[0].At.Equal(w.now()) {
			want, f.Prunes = f.Prunes[0], f.Prunes[1:]
		}
		before := w.inventory()
		rep, err := w.store.Prune(w.t.Context(), false)
		w.must(err)
		w.same(day, before, want, rep)
		w.clock.Advance(foreseenEvery)
	}
	if left := w.inventory(); len(left.Snapshots) != len(f.Kept) || len(f.Prunes) > 0 {
		w.t.Fatalf("%d are left, %d were foreseen; %d prunes are\n%s", len(left.Snapshots), len(f.Kept), len(f.Prunes), strings.Join(w.log, "\n"))
	}
}

// same compares a prune with what was foreseen of it.
func (w *told) same(day int, before *worm.Inventory, want ForeseenPrune, rep worm.PruneReport) {
	ids := map[string]bool{}
	var manifests uint64
	for _, s := range want.Snapshots {
		ids[s.ID] = true
	}
	for i, s := range before.Snapshots {
		if !slices.Contains(rep.Snapshots, s.ID) {
			continue
		}
		manifests += uint64(s.Manifest)
		// A pack that a session needed until a moment ago is marked later than its snapshot, and goes as much later.
		if e := explain(before, i); len(rep.Snapshots) == 1 && w.freed(before, i, rep.Packs)+w.young(before, i) != e.AloneBytes {
			w.t.Fatalf("%.6s: %d bytes promised, %d came free, %d are marked later\n%s", s.ID, e.AloneBytes, w.freed(before, i, rep.Packs), w.young(before, i), strings.Join(w.log, "\n"))
		}
		if e := w.earliest[s.ID]; w.now().Before(e) {
			w.t.Fatalf("%.6s went, and was said to stay until %v\n%s", s.ID, e, strings.Join(w.log, "\n"))
		}
		delete(ids, s.ID)
	}
	if len(ids) > 0 || len(want.Snapshots) != len(rep.Snapshots) || want.Packs != len(rep.Packs) || want.Freed != uint64(rep.Bytes)+manifests {
		w.t.Fatalf("day %d: %d snapshots go, %d packs, %d bytes; foreseen were %+v (not gone: %v)\n%s", day, len(rep.Snapshots), len(rep.Packs), uint64(rep.Bytes)+manifests,
			want, slices.Collect(maps.Keys(ids)), strings.Join(w.log, "\n"))
	}
}

// exactly goes to the moment from which the next snapshot may go if nothing new comes.
func (w *told) exactly() {
	inv := w.inventory()
	next, which := time.Time{}, ""
	for i := range inv.Snapshots {
		if e := explain(inv, i); e.Quiet.After(w.now()) && (next.IsZero() || e.Quiet.Before(next)) {
			next, which = e.Quiet, e.Snapshot.ID
		}
	}
	if which == "" {
		return
	}
	for _, then := range []struct {
		at   time.Time
		goes bool
	}{{next.Add(-time.Second), false}, {next, true}} {
		w.clock.Advance(then.at.Sub(w.now()))
		plan, err := w.store.Prune(w.t.Context(), true)
		w.must(err)
		if slices.Contains(plan.Snapshots, which) != then.goes {
			w.t.Fatalf("%.6s may go from %v exactly, and at %v it is %v\n%s", which, next, then.at, !then.goes, strings.Join(w.log, "\n"))
		}
	}
}

// TestExplainSaysOtherThanPruneDoes: over random histories of sources that share data, with other keep rules, holds, longer locks, reboots and
// prunes in between, what is explained is what prune plans; nothing leaves before a moment until which it was ever said to stay;
// what is said to come free with a snapshot that goes alone does; and once nothing new happens, what was foreseen happens, on
// the day and to the byte.
func TestExplainSaysOtherThanPruneDoes(t *testing.T) {
	most := 40
	if raceEnabled {
		most = 8
	}
	rapid.Check(t, func(rt *rapid.T) {
		w := newTold(rt)
		if w.draw("rules", 4) > 0 {
			w.adopt()
		}
		for range 4 + w.draw("steps", most) {
			w.step()
			w.look()
		}
		w.quiet()
	})
}

// TestExplainWaitsForAClockThatWasAhead: what was committed while the wall clock was ahead makes older ones too old once that time has
// come, and not at the end of any lock: that is the moment that is told.
func TestExplainWaitsForAClockThatWasAhead(t *testing.T) {
	inv := newPast()
	inv.History.Keep = func(string) retention.Keep { return retention.Keep{WithinSeconds: 14 * 86400} }
	pastOf(inv, "web1", 3, 2*oneDay, 0)
	pastOf(inv, "web1", 1, oneDay, 0)
	comes := inv.Now.Wall.Add(13*oneDay + time.Hour)
	inv.Snapshots[3].LockedFor, inv.History.Snapshots[3].Locked, inv.History.Snapshots[3].Committed = 30*oneDay, true, comes
	inv.Decisions = retention.Decide(inv.History)
	for i, want := range []time.Time{comes, comes, {}, {}} {
		if e := explain(inv, i); !e.Quiet.Equal(want) || e.Decision.Go || e.Quiet.IsZero() == (len(e.Then) == 0) || !want.IsZero() && want.Before(e.Decision.Earliest) {
			t.Errorf("%d of %s: from %s, not before %s, then %+v", i, inv.Snapshots[i].Committed.Wall, e.Quiet, e.Decision.Earliest, e.Then)
		}
	}
}
