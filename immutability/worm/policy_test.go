package worm

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/policy"
)

// TestConfigurationLoosensNothing: whoever edits the configuration gets what is tighter and nothing that is looser, and a
// restart changes nothing of that.
func TestConfigurationLoosensNothing(t *testing.T) {
	d, src, s := newStore(t)
	src.Advance(100 * time.Hour) // what stands since init is hard
	changed, refused, err := s.Adopt(ctx, ledger.Policy{MinSeconds: 600, DefaultSeconds: 3000, MaxSeconds: 9000}, "a file")
	must(t, err)
	if !changed || len(refused) != 2 || len(s.Refused()) != 2 {
		t.Errorf("changed %t, refused %v", changed, refused)
	}
	want := initOptions().Policy
	want.MinSeconds = 600
	for range 2 {
		if got := s.Policy(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("policy %+v, want %+v", got, want)
		}
		must(t, s.Close())
		s = open(t, d, src)
	}
	size := s.Ledger().Size()
	if changed, refused, err = s.Adopt(ctx, want, "a file"); changed || len(refused) > 0 || err != nil || s.Ledger().Size() != size {
		t.Errorf("the same again: changed %t, refused %v, %v", changed, refused, err)
	}
	if snap := commit(t, s, "web1", "s1", ledger.Lock{ForSeconds: 1}); snap.Lock.ForSeconds != 600 {
		t.Errorf("a request below the minimum got %+v", snap.Lock)
	}
	if _, _, err := s.Adopt(ctx, ledger.Policy{MinSeconds: 5, MaxSeconds: 4}, ""); err == nil {
		t.Error("a policy that contradicts itself was taken")
	}
}

// TestRulesOfASource: a source's own rules are granted to its snapshots, and to nobody else's.
func TestRulesOfASource(t *testing.T) {
	_, _, s := newStore(t)
	_, refused, err := s.Adopt(ctx, ledger.Policy{Sources: map[string]policy.Rules{
		"db1": {Mode: ledger.Compliance, DefaultSeconds: 5000, MinSeconds: 4000, MaxSeconds: 6000},
	}}, "")
	must(t, err)
	if len(refused) > 0 {
		t.Fatal(refused)
	}
	for i, c := range []struct {
		source    string
		ask, want ledger.Lock
	}{
		{"db1", ledger.Lock{}, ledger.Lock{Mode: ledger.Compliance, ForSeconds: 5000}},
		{"db1", ledger.Lock{Mode: ledger.Governance, ForSeconds: 1}, ledger.Lock{Mode: ledger.Compliance, ForSeconds: 4000}},
		{"db1", ledger.Lock{ForSeconds: 1e9}, ledger.Lock{Mode: ledger.Compliance, ForSeconds: 6000}},
		{"web1", ledger.Lock{}, ledger.Lock{Mode: ledger.Governance, ForSeconds: 3600}},
		{"web1", ledger.Lock{ForSeconds: 1e9}, ledger.Lock{Mode: ledger.Governance, ForSeconds: 7200}},
	} {
		if snap := commit(t, s, c.source, fmt.Sprint("s", i), c.ask); snap.Lock != c.want {
			t.Errorf("%s asked for %+v and got %+v, want %+v", c.source, c.ask, snap.Lock, c.want)
		}
	}
	snap := commit(t, s, "db1", "more", ledger.Lock{})
	if _, err := s.Extend(ctx, snap.ID, ledger.Lock{ForSeconds: 6001}, "ann"); err == nil || !strings.Contains(err.Error(), "hold") {
		t.Errorf("beyond the source's maximum: %v", err)
	}
}

// TestCompliancePolicyHardens: for 72 hours of running time it can be taken back, then never again, whatever the wall clock
// is made to show and however long the machine is switched off.
func TestCompliancePolicyHardens(t *testing.T) {
	back, strict := ledger.Policy{Mode: ledger.Governance}, ledger.Policy{Mode: ledger.Compliance}
	for _, c := range []struct {
		name string
		pass func(src *clock.Manual)
		hard bool
	}{
		{"at once", func(*clock.Manual) {}, false},
		{"71 hours", func(src *clock.Manual) { src.Advance(71 * time.Hour) }, false},
		{"72 hours", func(src *clock.Manual) { src.Advance(72*time.Hour + 2*time.Second) }, true},
		{"the wall clock set ahead", func(src *clock.Manual) { src.StepWall(365 * day) }, false},
		{"72 hours and the wall clock set back", func(src *clock.Manual) { src.Advance(73 * time.Hour); src.StepWall(-2 * time.Hour) }, true},
		{"a year, and the wall clock set back by more", func(src *clock.Manual) { src.Advance(365 * day); src.StepWall(-370 * day) }, true},
		{"71 hours, and the wall clock set ahead", func(src *clock.Manual) { src.Advance(71 * time.Hour); src.StepWall(20 * time.Hour) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, src, s := newStore(t)
			src.Advance(100 * time.Hour)
			_, _, err := s.Adopt(ctx, strict, "")
			must(t, err)
			c.pass(src)
			list, err := s.Hardening()
			must(t, err)
			if len(list) != 1 || list[0].Hard != c.hard || list[0].Source != "" {
				t.Errorf("hardening %+v", list)
			}
			_, refused, err := s.Adopt(ctx, back, "")
			must(t, err)
			if hard := s.Policy().Mode == ledger.Compliance; hard != c.hard || hard != (len(refused) == 1) {
				t.Errorf("policy %+v, refused %v", s.Policy(), refused)
			}
		})
	}
	d, src := crashdisk.New(), newClock()
	o := initOptions()
	o.Policy.Mode = ledger.Compliance
	_, err := Init(d, src, o)
	must(t, err)
	s := open(t, d, src)
	_, _, err = s.Adopt(ctx, back, "")
	must(t, err)
	if s.Policy().Mode != ledger.Governance {
		t.Error("what init set could not be taken back on the first day")
	}
	must(t, s.Close())
	src.Advance(100 * time.Hour)
	s = open(t, d, src)
	_, _, err = s.Adopt(ctx, strict, "")
	must(t, err)
	src.Advance(100 * time.Hour)
	if _, refused, err := s.Adopt(ctx, back, ""); err != nil || len(refused) != 1 {
		t.Errorf("refused %v, %v", refused, err)
	}
}

// TestTakingBackCompliancePolicyTakesNoLockBack: snapshots that were born under it keep what they were promised.
func TestTakingBackCompliancePolicyTakesNoLockBack(t *testing.T) {
	_, src, s := newStore(t)
	src.Advance(100 * time.Hour)
	_, _, err := s.Adopt(ctx, ledger.Policy{Mode: ledger.Compliance}, "")
	must(t, err)
	snap := commit(t, s, "web1", "s1", ledger.Lock{})
	_, _, err = s.Adopt(ctx, ledger.Policy{Mode: ledger.Governance}, "")
	must(t, err)
	after, err := s.snapshot(snap.ID)
	must(t, err)
	if s.Policy().Mode != ledger.Governance || after.Lock != snap.Lock || after.Lock.Mode != ledger.Compliance {
		t.Errorf("policy %+v, lock %+v", s.Policy(), after.Lock)
	}
}

// TestHeldSnapshotNeverGoes: a hold has no end, is counted, and survives a restart.
func TestHeldSnapshotNeverGoes(t *testing.T) {
	d, src, s := newStore(t)
	snap := commit(t, s, "web1", "s1", ledger.Lock{})
	src.Advance(time.Minute)
	commit(t, s, "web1", "s2", ledger.Lock{})
	for _, h := range []struct{ reason, by string }{{"case 17", "ann"}, {"case 17", "ann"}, {"case 17", "bob"}, {"audit", "ann"}} {
		_, err := s.Hold(ctx, snap.ID, h.reason, h.by)
		must(t, err)
	}
	for _, bad := range []string{"", "a\nb", "\x1b[2J", "\xff", strings.Repeat("x", ReasonMax+1)} {
		if _, err := s.Hold(ctx, snap.ID, bad, "ann"); err == nil {
			t.Errorf("a hold for %.20q was placed", bad)
		}
	}
	src.Advance(1000 * day)
	must(t, s.Close())
	s = open(t, d, src)
	rep := gone(t, s, src)
	all, err := s.Snapshots()
	must(t, err)
	if len(rep.Snapshots)+len(rep.Packs) > 0 || len(all) != 2 || len(all[0].Holds) != 3 {
		t.Errorf("%+v, %+v", rep, all)
	}
	if why := rep.Decisions[0].Why; !strings.Contains(why, `held by "ann"`) || !strings.Contains(why, "2 more") {
		t.Errorf("prune says %q", why)
	}
	for i := range holdsMax {
		if _, err := s.Hold(ctx, snap.ID, fmt.Sprint("again ", i), "ann"); (err != nil) != (i >= holdsMax-3) {
			t.Fatalf("hold %d: %v", i+3, err)
		}
	}
}

// TestPromisesOnlyGrow: over random requests, proposals, holds, restarts and prunes no running lock becomes shorter or weaker,
// no held snapshot goes, and no policy becomes looser than all that were in force within 72 hours.
func TestPromisesOnlyGrow(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d, src := crashdisk.New(), newClock()
		_, err := Init(d, src, initOptions())
		if err != nil {
			t.Fatal(err)
		}
		w := &promises{t: t, d: d, src: src, s: reopened(t, d, src)}
		w.policies = append(w.policies, promisedPolicy{w.now(), w.s.Policy()})
		t.Repeat(map[string]func(*rapid.T){
			"commit": w.commit, "extend": w.extend, "hold": w.hold, "adopt": w.adopt, "wait": w.wait, "prune": w.prune, "reopen": w.reopen,
			"": func(*rapid.T) { w.check() },
		})
	})
}

func reopened(t *rapid.T, d *crashdisk.Disk, src clock.Source) *Store {
	s, err := Open(d, src, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

type promises struct {
	t         *rapid.T
	d         *crashdisk.Disk
	src       *clock.Manual
	s         *Store
	n         int
	ids       []string
	snapshots map[string]*promised
	policies  []promisedPolicy
}

type promised struct {
	grants []grant
	holds  int
}

type promisedPolicy struct {
	at clock.Stamp
	p  ledger.Policy
}

func (w *promises) now() clock.Stamp {
	now, err := w.s.Now()
	if err != nil {
		w.t.Fatal(err)
	}
	return now
}

func drawLock(t *rapid.T) ledger.Lock {
	return ledger.Lock{
		Mode:       rapid.SampledFrom([]ledger.Mode{"", ledger.Governance, ledger.Compliance, "none"}).Draw(t, "mode"),
		ForSeconds: rapid.SampledFrom([]int64{-1, 0, 1, 60, 3600, 5000, 7200, 7201, 1 << 40}).Draw(t, "for"),
	}
}

func (w *promises) commit(t *rapid.T) {
	w.n++
	session := fmt.Sprint("s", w.n)
	source := rapid.SampledFrom([]string{"web1", "db1"}).Draw(t, "source")
	p, err := seal(w.s, session)
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest(w.s, source, session, p.Number)
	if err != nil {
		t.Fatal(err)
	}
	snap, err := w.s.Commit(ctx, session, m, drawLock(t))
	if err != nil {
		return
	}
	if rules := w.s.Policy().For(source); snap.Lock.ForSeconds < rules.MinSeconds || snap.Lock.ForSeconds > rules.MaxSeconds ||
		rules.Mode == ledger.Compliance && snap.Lock.Mode != ledger.Compliance {
		t.Fatalf("%+v under %+v", snap.Lock, rules)
	}
	if w.snapshots == nil {
		w.snapshots = map[string]*promised{}
	}
	w.ids = append(w.ids, snap.ID)
	w.snapshots[snap.ID] = &promised{grants: []grant{{at: snap.Committed, lock: snap.Lock}}}
}

func (w *promises) some(t *rapid.T) string {
	if len(w.ids) == 0 {
		t.Skip()
	}
	return rapid.SampledFrom(w.ids).Draw(t, "snapshot")
}

func (w *promises) extend(t *rapid.T) {
	id := w.some(t)
	if _, err := w.s.Extend(ctx, id, drawLock(t), "ann"); err == nil {
		_, grants, _ := w.s.grants(id)
		w.snapshots[id].grants = append(w.snapshots[id].grants, grants[len(grants)-1])
	}
}

func (w *promises) hold(t *rapid.T) {
	id := w.some(t)
	w.n++
	if _, err := w.s.Hold(ctx, id, fmt.Sprint("case ", w.n), "ann"); err == nil {
		w.snapshots[id].holds++
	}
}

func (w *promises) adopt(t *rapid.T) {
	n := func(what string) int64 {
		return rapid.SampledFrom([]int64{0, 1, 60, 600, 3600, 7200, 9000}).Draw(t, what)
	}
	rules := func() policy.Rules {
		return policy.Rules{Mode: rapid.SampledFrom([]ledger.Mode{"", ledger.Governance, ledger.Compliance}).Draw(t, "mode"),
			DefaultSeconds: n("default"), MinSeconds: n("min"), MaxSeconds: n("max"), BudgetBytes: n("budget") << 30}
	}
	v := rules()
	said := ledger.Policy{Mode: v.Mode, DefaultSeconds: v.DefaultSeconds, MinSeconds: v.MinSeconds, MaxSeconds: v.MaxSeconds, BudgetBytes: v.BudgetBytes}
	if rapid.Bool().Draw(t, "of a source") {
		said.Sources = map[string]policy.Rules{"db1": rules()}
	}
	now, fresh := w.now(), map[string]bool{}
	for _, source := range []string{"web1", "db1"} {
		_, previous, err := w.s.NextLabel(source)
		fresh[source] = err == nil && previous == ""
	}
	if changed, _, err := w.s.Adopt(ctx, said, "a file"); err == nil && changed {
		w.loosened(now, w.s.Policy(), fresh)
		w.policies = append(w.policies, promisedPolicy{w.now(), w.s.Policy()})
	}
}

func (w *promises) wait(t *rapid.T) {
	w.src.Advance(time.Duration(rapid.SampledFrom([]int{1, 60, 3000, 7300, 86400, 73 * 3600}).Draw(t, "seconds")) * time.Second)
}

func (w *promises) prune(t *rapid.T) {
	if _, err := w.s.Prune(ctx, false); err != nil {
		t.Fatal(err)
	}
}

func (w *promises) reopen(t *rapid.T) {
	if err := w.s.Close(); err != nil {
		t.Fatal(err)
	}
	w.s = reopened(t, w.d, w.src)
}

func (w *promises) check() {
	now := w.now()
	all, err := w.s.Snapshots()
	if err != nil {
		w.t.Fatal(err)
	}
	listed := map[string]Snapshot{}
	for _, snap := range all {
		listed[snap.ID] = snap
	}
	for id, p := range w.snapshots {
		snap, there := listed[id]
		if len(snap.Holds) != p.holds && there || !there && p.holds > 0 {
			w.t.Fatalf("%d holds, there %t with %d", p.holds, there, len(snap.Holds))
		}
		for _, g := range p.grants {
			if !g.running(now) {
				continue
			}
			if !there || !snap.Locked || snap.LockedUntil.Before(g.until(now)) || g.lock.Mode == ledger.Compliance && snap.Lock.Mode != ledger.Compliance {
				w.t.Fatalf("promised %+v, there %t, %+v until %v", g, there, snap.Lock, snap.LockedUntil)
			}
		}
		if !there {
			delete(w.snapshots, id)
		}
	}
}

// loosened fails where a policy is looser than all that has been in force within 72 hours, member by member: what has stood
// longer without a break is the least.
func (w *promises) loosened(now clock.Stamp, next ledger.Policy, fresh map[string]bool) {
	for _, source := range []string{"web1", "db1"} {
		got := next.For(source)
		for member, leave := range map[string]func(policy.Rules) policy.Rules{
			"mode":    func(r policy.Rules) policy.Rules { return policy.Rules{Mode: r.Mode} },
			"min":     func(r policy.Rules) policy.Rules { return policy.Rules{MinSeconds: r.MinSeconds} },
			"default": func(r policy.Rules) policy.Rules { return policy.Rules{DefaultSeconds: r.DefaultSeconds} },
			"max":     func(r policy.Rules) policy.Rules { return policy.Rules{MaxSeconds: r.MaxSeconds} },
			"budget":  func(r policy.Rules) policy.Rules { return policy.Rules{BudgetBytes: r.BudgetBytes} },
		} {
			fits := member == "mode" && now.Running-w.policies[0].at.Running <= 72*3600
			fits = fits || fresh[source] && (member == "default" || member == "budget")
			for i, p := range w.policies {
				lately := i+1 == len(w.policies) || now.Running-w.policies[i+1].at.Running <= 72*3600
				fits = fits || lately && !policy.Looser(leave(got), leave(p.p.For(source)))
			}
			if !fits {
				w.t.Fatalf("%s: %s of %+v is looser than all that was in force lately", source, member, got)
			}
		}
	}
}

// TestNoFaultCutsAPromiseInHalf puts every fault at every operation of a policy's change, a hold and a further lock: what was
// acknowledged holds, and what was not is there whole or not at all.
func TestNoFaultCutsAPromiseInHalf(t *testing.T) {
	t.Parallel()
	born, src, s := newStore(t)
	id := commit(t, s, "web1", "s1", ledger.Lock{}).ID
	must(t, s.Close())
	src.Advance(100 * time.Hour)
	said := ledger.Policy{Mode: ledger.Compliance, MinSeconds: 600, BudgetBytes: 1 << 40, Sources: map[string]policy.Rules{"db1": {MaxSeconds: 5000}}}
	life := func(d *crashdisk.Disk) (adopted, held, extended bool) {
		s, err := Open(d, src, Options{})
		if err != nil {
			return false, false, false
		}
		_, _, err = s.Adopt(ctx, said, "a file")
		adopted = err == nil
		_, err = s.Hold(ctx, id, "case 17", "ann")
		held = err == nil
		_, err = s.Extend(ctx, id, ledger.Lock{Mode: ledger.Compliance, ForSeconds: 7000}, "ann")
		return adopted, held, err == nil
	}
	quiet := born.Clone()
	if a, h, e := life(quiet); !a || !h || !e {
		t.Fatal("without a fault", a, h, e)
	}
	for op := born.Ops() + 1; op <= quiet.Ops(); op += stride(1) {
		for _, fault := range crashdisk.Faults() {
			d := born.Clone()
			d.FailAt(op, fault)
			adopted, held, extended := life(d)
			for seed := range int64(3) {
				how := []crashdisk.Loss{crashdisk.LoseUnsynced, crashdisk.KeepAll, crashdisk.Random}[seed]
				s, err := Open(d.Restart(how, op), src, Options{})
				if err != nil {
					t.Fatalf("op %d %v: %v", op, fault, err)
				}
				p := s.Policy()
				isNew := p.Mode == ledger.Compliance && p.MinSeconds == 600 && p.BudgetBytes == 1<<40 && p.For("db1").MaxSeconds == 5000
				isOld := fmt.Sprint(p) == fmt.Sprint(initOptions().Policy)
				snap, err := s.snapshot(id)
				must(t, err)
				if adopted && !isNew || !isNew && !isOld || held && len(snap.Holds) != 1 || len(snap.Holds) > 1 ||
					extended && (!snap.Locked || snap.Lock.Mode != ledger.Compliance) {
					t.Errorf("op %d %v: told %t %t %t; policy %+v, %+v", op, fault, adopted, held, extended, p, snap)
				}
				must(t, s.Close())
			}
		}
	}
}
