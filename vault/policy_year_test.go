package vault

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/policy"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/vault/keys"
)

// policyYear is a simulated year, or ten: several sources that share data are pulled every step, a prune runs every day, and
// packs are evacuated.
type policyYear struct {
	*memoryVault
	t         testing.TB
	names     []string
	sources   map[string]*source
	shared    *source
	r         *rand.Rand                    // of what the sources do
	luck      *rand.Rand                    // of when it is interrupted; nil for never
	want      map[string]map[string]version // by snapshot
	cuts      int
	fresh     float64 // bytes in packs for a byte of content, of first pulls
	worst     float64 // most bytes in packs for a byte that the kept snapshots hold, of first pulls' measure
	mostTaken uint64
}

// What the policy of the year keeps.
var (
	yearKeep = policy.Keep{Daily: 7, Weekly: 5, Monthly: 12, Yearly: 3, WithinSeconds: 3 * 86400}
	yearLock = 14 * 24 * time.Hour
)

func newPolicyYear(t testing.TB, interrupted bool) *policyYear {
	m := &memoryVault{
		clock: clock.NewManual(time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC)), disk: crashdisk.New(), index: newMemIndex(),
		o: Options{NoParity: true, rule: tinyRule()},
	}
	var recipients []string
	for range 2 {
		i, err := keys.NewIdentity()
		if err != nil {
			t.Fatal(err)
		}
		m.ident = i
		recipients = append(recipients, i.Recipient())
	}
	p := ledger.Policy{DefaultSeconds: int64(yearLock / time.Second), Keep: yearKeep}
	if _, err := Init(t.Context(), "", NewID(), InitOptions{Recipients: recipients, Clock: m.clock, Policy: p, disk: m.disk}); err != nil {
		t.Fatal(err)
	}
	y := &policyYear{
		memoryVault: m, t: t, names: []string{"db1", "web1", "web2"}, sources: map[string]*source{}, shared: newSource(1),
		r: rand.New(rand.NewPCG(5, 5)), want: map[string]map[string]version{},
	}
	if interrupted {
		y.luck = rand.New(rand.NewPCG(6, 6))
	}
	for i := range 20 {
		y.shared.write(fmt.Sprintf("common/%02d", i), 8_000)
	}
	for i, name := range y.names {
		s := newSource(uint64(i))
		s.next = int64(i+1) * 1_000_000 // so that only what is common has the same content
		y.sources[name] = s
		for k := range 25 {
			s.write(fmt.Sprintf("own/%02d", k), 2_000+y.r.IntN(8_000))
		}
		s.write("own/large", 150_000)
	}
	y.reopen(t)
	return y
}

// change is what happens at the sources between two pulls.
func (y *policyYear) change(step int) {
	if step%3 == 0 {
		y.shared.write(fmt.Sprintf("common/%02d", y.r.IntN(20)), 8_000)
	}
	for _, name := range y.names {
		s := y.sources[name]
		maps.Copy(s.files, y.shared.files)
		for range 3 {
			s.write(fmt.Sprintf("own/%02d", y.r.IntN(25)), 2_000+y.r.IntN(8_000))
		}
		s.write("own/log", 1_000+step%30*300)
		if y.r.IntN(10) == 0 {
			s.write("own/large", 150_000)
		}
	}
}

// surely does something that may be interrupted, again and again until it is done. done says whether it came through all the
// same.
func (y *policyYear) surely(what string, do func() error, done func() bool) {
	for range 20 {
		if y.luck != nil && y.luck.IntN(12) == 0 {
			faults := []crashdisk.Fault{crashdisk.Crash, crashdisk.CrashAfter, crashdisk.Torn}
			y.disk.FailAt(y.disk.Ops()+1+y.luck.Int64N(40), faults[y.luck.IntN(len(faults))])
		}
		err := do()
		fired := y.disk.Fired()
		if !fired {
			y.disk.FailAt(0, crashdisk.Crash) // never
		}
		if err == nil && !fired {
			return
		}
		if y.luck == nil {
			y.t.Fatalf("%s: %v", what, err)
		}
		y.cuts++
		_ = y.Close()
		y.disk = y.disk.Restart(crashdisk.Random, y.luck.Int64())
		y.Vault = nil
		y.reopen(y.t)
		if done() {
			return
		}
	}
	y.t.Fatalf("%s: interrupted 20 times", what)
}

func (y *policyYear) pull(name string) {
	newest := func() *worm.Snapshot {
		all, err := y.store.Snapshots()
		if err != nil {
			y.t.Fatal(err)
		}
		now, _ := y.clock.Read()
		for _, s := range slices.Backward(all) {
			if s.Source == name && s.Committed.Wall.Equal(now.Wall) {
				return &s
			}
		}
		return nil
	}
	s := y.sources[name]
	y.surely("pull", func() error {
		_, _, err := s.pull(y.t.Context(), y.Vault, name)
		return err
	}, func() bool { return newest() != nil })
	y.want[newest().ID] = maps.Clone(s.files)
}

func (y *policyYear) prune() {
	y.surely("prune", func() error {
		_, err := y.Prune(y.t.Context(), false)
		return err
	}, func() bool { return false })
}

// run plays so many days, with pulls every so many of them.
func (y *policyYear) run(days, every int) {
	for day := range days {
		began, _ := y.clock.Read()
		if day%every == 0 {
			y.change(day / every)
			for _, name := range y.names {
				y.pull(name)
				y.clock.Advance(time.Hour)
			}
		}
		y.prune()
		if day == 0 {
			y.measure()
			y.fresh, y.worst, y.mostTaken = y.worst, 0, 0
		}
		y.look(day)
		passed, _ := y.clock.Read()
		y.clock.Advance(foreseenEvery - passed.Wall.Sub(began.Wall))
	}
}

// look holds the vault after a prune to what the policy promises of its space.
func (y *policyYear) look(day int) {
	t := y.t
	inv, err := y.store.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	named := roaring.New()
	for i := range inv.Snapshots {
		s := &inv.Snapshots[i]
		if s.Err != nil {
			t.Fatal(s.Err)
		}
		named.Or(s.Packs)
		// What nothing keeps any more stays for a mark and a day, and a prune that is cut short for another.
		if m := s.Marked; inv.Decisions[i].Go && (m.IsZero() || inv.Now.Wall.Sub(m.Wall) > MarkedFor+3*foreseenEvery/2) {
			t.Fatalf("day %d: %s@%s may go since %v and is there", day, s.Source, s.Label, m)
		}
	}
	for _, p := range inv.Packs {
		if m := p.Marked; !named.Contains(p.Number) && p.SessionFor == 0 && (m.IsZero() || inv.Now.Wall.Sub(m.Wall) > MarkedFor+3*foreseenEvery/2) {
			t.Fatalf("day %d: pack %d, that nobody needs, is there, marked %v", day, p.Number, m)
		}
	}
	if len(inv.Snapshots) > len(y.names)*(int(yearLock/(24*time.Hour))+7+5+12+3+4+4) {
		t.Fatalf("day %d: %d snapshots are kept", day, len(inv.Snapshots))
	}
	if day%30 == 29 {
		y.measure()
		s := inv.Snapshots[y.r.IntN(len(inv.Snapshots))]
		y.mustGiveBack(s.ID)
	}
}

func (y *policyYear) mustGiveBack(id string) {
	y.t.Helper()
	s := source{files: y.want[id]}
	mustGiveBack(y.t, y.Vault, id, s.tree())
}

// measure compares what the packs take with what the snapshots that are there hold, each content once.
func (y *policyYear) measure() {
	all, err := y.store.Snapshots()
	if err != nil {
		y.t.Fatal(err)
	}
	content := map[version]bool{}
	for _, s := range all {
		for _, v := range y.want[s.ID] {
			content[v] = true
		}
	}
	var held, taken uint64
	for v := range content {
		held += uint64(v.size)
	}
	for _, p := range y.store.Packs() {
		taken += uint64(p.Bytes)
	}
	ratio := float64(taken) / float64(held)
	if y.fresh > 0 {
		ratio /= y.fresh
	}
	y.worst, y.mostTaken = max(y.worst, ratio), max(y.mostTaken, taken)
}

// end lets nothing come any more until everything has settled, and gives what is left.
func (y *policyYear) end() (labels []string) {
	for range 17 {
		y.prune()
		y.clock.Advance(foreseenEvery)
	}
	inv, err := y.store.Inventory(y.t.Context())
	if err != nil {
		y.t.Fatal(err)
	}
	named := roaring.New()
	for i := range inv.Snapshots {
		s := &inv.Snapshots[i]
		labels = append(labels, s.Source+"@"+s.Label)
		y.mustGiveBack(s.ID)
		named.Or(s.Packs)
	}
	for _, p := range inv.Packs {
		if !named.Contains(p.Number) {
			y.t.Fatalf("pack %d is needed by nobody and there", p.Number)
		}
	}
	mustCheck(y.t, y.Vault)
	return labels
}

// spaceBound is how much more room the packs take, at any time of a simulated year, than the content of the snapshots that the policy
// keeps would take in packs of first pulls, each content once: docs/RETENTION.md.
const spaceBound = 3.0

// yearDays is how long a simulated year is: a tenth of one in CI, and HOLDFAST_YEARS for more, which thins what is longer.
func yearDays(t testing.TB) (days, every int) {
	text := os.Getenv("HOLDFAST_YEARS")
	if text == "" {
		if raceEnabled {
			return 16, 1
		}
		return 70, 1
	}
	years, err := strconv.Atoi(text)
	if err != nil || years < 1 || years > 50 {
		t.Fatalf("HOLDFAST_YEARS=%q: want 1 to 50", text)
	}
	return years * 365, min(years, 5)
}

// TestYearOutgrowsItsPolicy: through a simulated year of pulls of sources that share data, with keep rules, evacuation and a prune a day, space
// follows the policy: nothing stays for longer than two prunes once nobody needs it, and packs take no more than a bound times what the
// kept snapshots hold. Every snapshot that is kept gives back what was pulled. The same year interrupted at random moments, by
// power cuts and torn writes in pulls and prunes, ends with the same snapshots.
func TestYearOutgrowsItsPolicy(t *testing.T) {
	days, every := yearDays(t)
	var ends [2][]string
	for i, interrupted := range []bool{false, true} {
		began := time.Now()
		y := newPolicyYear(t, interrupted)
		y.run(days, every)
		y.measure()
		ends[i] = y.end()
		t.Logf("%d days, pulls every %d, %d cuts: %d snapshots at the end, at most %.2f times what they hold, %d bytes, %v", days, every, y.cuts, len(ends[i]), y.worst, y.mostTaken,
			time.Since(began).Round(time.Millisecond))
		if y.worst > spaceBound {
			t.Errorf("interrupted %v: packs take %.2f times what the kept snapshots hold, and %.1f is the bound", interrupted, y.worst, spaceBound)
		}
		if interrupted && y.cuts < days/20 {
			t.Errorf("only %d cuts", y.cuts)
		}
		if err := y.Close(); err != nil {
			t.Error(err)
		}
	}
	if !slices.Equal(ends[0], ends[1]) {
		t.Errorf("undisturbed it ends with\n%v\nand interrupted with\n%v", ends[0], ends[1])
	}
}
