package worm

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/policy"
)

// roomy is a disk that says how much room it has.
type roomy struct {
	*crashdisk.Disk
	free int64
}

func (r *roomy) Free() (int64, error) { return r.free, nil }

// fill seals packs for a source until it is refused, at most most of them.
func fill(t testing.TB, s *Store, source, session string, most int) (sealed []uint32, err error) {
	t.Helper()
	must(t, s.Bind(session, source))
	for range most {
		p, err := seal(s, session)
		if err != nil {
			return sealed, err
		}
		sealed = append(sealed, p.Number)
	}
	return sealed, nil
}

// TestOneSourceFillsTheDisk: a source stops at its budget, with an error that says so, and the others go on; what it has stays
// as it is, a restart forgets nothing, and a day later it goes on by itself.
func TestOneSourceFillsTheDisk(t *testing.T) {
	d, src, s := newStore(t)
	_, _, err := s.Adopt(ctx, ledger.Policy{BudgetBytes: 1000, Sources: map[string]policy.Rules{"db1": {BudgetBytes: 3000}}}, "")
	must(t, err)
	snap := commit(t, s, "web1", "s0", ledger.Lock{})
	packs, err := fill(t, s, "web1", "s1", 100)
	var over *BudgetError
	if !errors.As(err, &over) || over.Source != "web1" || over.Share || over.Limit != 1000 || over.Used < 1000 || over.Used > 1000+200 {
		t.Fatalf("after %d packs: %v", len(packs), err)
	}
	if text := err.Error(); !strings.Contains(text, "web1") || !strings.Contains(text, "Nothing is deleted") {
		t.Error(text)
	}
	for round := range 2 { // the second after a restart
		if _, err := fill(t, s, "web1", fmt.Sprint("again", round), 1); !errors.As(err, &over) {
			t.Errorf("round %d: another session of the source: %v", round, err)
		}
		if more, err := fill(t, s, "db1", fmt.Sprint("d", round), 5); err != nil || len(more) != 5 {
			t.Errorf("round %d: another source: %d packs, %v", round, len(more), err)
		}
		after, err := s.snapshot(snap.ID)
		must(t, err)
		if !after.Locked || !after.LockedUntil.Equal(snap.LockedUntil) || after.Lock != snap.Lock {
			t.Errorf("its lock became %+v until %v", after.Lock, after.LockedUntil)
		}
		for _, n := range packs {
			must(t, samePack(s, n, content(n)))
		}
		must(t, s.Close())
		s = open(t, d, src)
	}
	src.StepWall(23 * time.Hour) // less than a shift; the running time has not gone
	if _, err := fill(t, s, "web1", "s2", 1); !errors.As(err, &over) {
		t.Errorf("a wall clock that was set ahead makes room: %v", err)
	}
	now, err := s.Now()
	must(t, err)
	if wait := over.Again.Sub(now.Wall); wait < 23*time.Hour || wait > 25*time.Hour {
		t.Errorf("it says that it goes on in %v", wait)
	}
	src.Advance(25 * time.Hour)
	if _, err := fill(t, s, "web1", "s2", 1); err != nil {
		t.Errorf("a day later: %v", err)
	}
}

// TestAWallClockThatWasAheadStopsNoSource: what was stored while the wall clock was a year ahead uses the budget up for a day, not
// for that year.
func TestAWallClockThatWasAheadStopsNoSource(t *testing.T) {
	_, src, s := newStore(t)
	_, _, err := s.Adopt(ctx, ledger.Policy{BudgetBytes: 1000}, "")
	must(t, err)
	src.StepWall(365 * day)
	if _, err := fill(t, s, "web1", "s1", 100); !errors.Is(err, ErrBudget) {
		t.Fatal(err)
	}
	src.StepWall(-365 * day)
	src.Advance(23 * time.Hour)
	var over *BudgetError
	if _, err := fill(t, s, "web1", "s2", 1); !errors.As(err, &over) || over.Again.Sub(wallOf(t, src)) > 2*time.Hour {
		t.Errorf("an hour too early: %v", err)
	}
	src.Advance(2 * time.Hour)
	if _, err := fill(t, s, "web1", "s2", 1); err != nil {
		t.Errorf("a day later: %v", err)
	}
}

// TestUncommittedPacksCostNothing: what no snapshot names counts like everything else, growing packs too.
func TestUncommittedPacksCostNothing(t *testing.T) {
	_, _, s := newStore(t)
	_, _, err := s.Adopt(ctx, ledger.Policy{BudgetBytes: 1000}, "")
	must(t, err)
	must(t, s.Bind("s1", "web1"))
	in, err := s.CreatePack("s1")
	must(t, err)
	_, err = in.File.Write(make([]byte, 1100))
	must(t, err)
	var over *BudgetError
	if _, err := s.CreatePack("s1"); !errors.As(err, &over) {
		t.Errorf("a second pack beside one that grew over the budget: %v", err)
	}
	must(t, s.Drop(in))
	if _, err := s.CreatePack("s1"); err != nil {
		t.Errorf("once it was given up: %v", err)
	}
	many := 0
	for ; many < 100 && err == nil; many++ {
		_, err = s.CreatePack("s1")
	}
	if !errors.As(err, &over) {
		t.Errorf("%d empty packs: %v", many, err)
	}
}

// TestSessionSpendsForAnother: a session has one source, and its snapshot is of that source.
func TestSessionSpendsForAnother(t *testing.T) {
	d, src, s := newStore(t)
	_, err := fill(t, s, "web1", "s1", 1)
	must(t, err)
	for range 2 {
		if err := s.Bind("s1", "db1"); err == nil {
			t.Error("it was bound to another source")
		}
		m, err := manifest(s, "db1", "s1", 1)
		must(t, err)
		if _, err := s.Commit(ctx, "s1", m, ledger.Lock{}); err == nil {
			t.Error("it committed for another source")
		}
		must(t, s.Close())
		s = open(t, d, src)
	}
	for _, bad := range []string{"", "../x", "Web1"} {
		if err := s.Bind("s2", bad); err == nil {
			t.Errorf("a session of source %q", bad)
		}
	}
}

// TestSessionsThatNobodyEndsFillTheList: sessions that only ever said what they are for keep no later one out, and a pack counts
// against the source that it was begun for.
func TestSessionsThatNobodyEndsFillTheList(t *testing.T) {
	_, _, s := newStore(t)
	must(t, s.Bind("first", "db1"))
	in, err := s.CreatePack("first")
	must(t, err)
	for i := range boundMax + 1 {
		if err := s.Bind(fmt.Sprint("s", i), "web1"); err != nil {
			t.Fatalf("session %d: %v", i, err)
		}
	}
	_, err = in.File.Write(content(in.Number))
	must(t, err)
	_, err = s.Seal(ctx, in)
	must(t, err)
	if b, err := s.Budget("db1"); err != nil || b.Used != int64(len(content(in.Number))) {
		t.Errorf("%+v, %v", b, err)
	}
}

// TestClaimsKeepGarbageForEver: what a session saves from being removed counts as stored anew, and beyond the budget it is a
// miss.
func TestClaimsKeepGarbageForEver(t *testing.T) {
	_, src, s := newStore(t)
	_, _, err := s.Adopt(ctx, ledger.Policy{BudgetBytes: 300}, "")
	must(t, err)
	var old []uint32
	for i := range 4 {
		commit(t, s, "db1", fmt.Sprint("d", i), ledger.Lock{})
		src.Advance(30 * time.Hour)
		old = append(old, uint32(i+1))
	}
	_, marked, err := s.Condemn(ctx)
	must(t, err)
	if marked != 3 {
		t.Fatalf("%d packs condemned", marked)
	}
	must(t, s.Bind("s1", "web1"))
	if missing := s.Claim("s1", roaring.BitmapOf(old[0], old[3])); !missing.IsEmpty() {
		t.Errorf("within the budget %v are missing", missing)
	}
	missing := s.Claim("s1", roaring.BitmapOf(old...))
	if missing.GetCardinality() != 2 || missing.Contains(old[0]) || missing.Contains(old[3]) || s.ClaimOne("s1", old[1]) {
		t.Errorf("beyond the budget %v are missing", missing)
	}
	if b, err := s.Budget("web1"); err != nil || b.Used < 150 || b.Used > 200 {
		t.Errorf("%+v, %v", b, err)
	}
	src.Advance(25 * time.Hour)
	rep, err := s.Sweep(ctx)
	must(t, err)
	if len(rep.Packs) != 2 {
		t.Errorf("removed %v", rep.Packs)
	}
}

// TestWithoutANumberATenthIsLeftToOthers is the rule for sources whose budget nobody wrote down.
func TestWithoutANumberATenthIsLeftToOthers(t *testing.T) {
	now := clock.Stamp{Wall: clock.Earliest(), Running: 1e6}
	ago := func(h int64) clock.Stamp {
		return clock.Stamp{Wall: now.Wall.Add(-time.Duration(h) * time.Hour), Running: now.Running - h*3600}
	}
	const gib = 1 << 30
	for _, c := range []struct {
		name    string
		number  int64
		used    []spending
		growing []int64
		free    int64
		spent   bool
	}{
		{"nobody can tell", 0, []spending{{ago(1), 100 * gib}}, nil, -1, false},
		{"half of the room", 0, []spending{{ago(1), 50 * gib}}, nil, 50 * gib, false},
		{"nine tenths", 0, []spending{{ago(1), 60 * gib}, {ago(2), 30 * gib}}, nil, 10 * gib, true},
		{"nine tenths, a part of it yesterday", 0, []spending{{ago(25), 60 * gib}, {ago(2), 30 * gib}}, nil, 10 * gib, false},
		{"nine tenths, a part of it growing", 0, []spending{{ago(2), 30 * gib}}, []int64{60 * gib}, 10 * gib, true},
		{"a small disk", 0, []spending{{ago(1), gib - 1}}, nil, 0, false},
		{"a number that is more than the share", 1000 * gib, []spending{{ago(1), 90 * gib}}, nil, 9 * gib, true},
		{"a number that is less", 10 * gib, []spending{{ago(1), 10 * gib}}, nil, 500 * gib, true},
	} {
		b := budget("web1", policy.Rules{BudgetBytes: c.number}, c.used, c.growing, c.free, now)
		if b.spent() != c.spent || b.spent() && !b.Again.After(now.Wall) && len(c.used) > 0 {
			t.Errorf("%s: %+v", c.name, b)
		}
	}
	d, src := crashdisk.New(), newClock()
	_, err := Init(d, src, initOptions())
	must(t, err)
	if s := open(t, &roomy{d, 5}, src); s.free() != 5 {
		t.Error("the disk's room is not asked for")
	}
}

// TestManifestsFillTheDisk: who takes the daemon over can commit one manifest after the other, each locked. They have a part of
// the budget, and past it nothing is committed for that source; the first of a day always is, of whatever size.
func TestManifestsFillTheDisk(t *testing.T) {
	d, src := &roomy{crashdisk.New(), 4 << 30}, newClock()
	_, err := Init(d, src, initOptions())
	must(t, err)
	s := open(t, d, src)
	now, err := s.Now()
	must(t, err)
	most := (d.free / 10 * 9) / 16
	s.mu.Lock()
	spend(s.state.heads, "web1", now, most-10000)
	s.mu.Unlock()
	commit(t, s, "web1", "s1", ledger.Lock{}) // some hundred bytes
	s.mu.Lock()
	spend(s.state.heads, "web1", now, 10000)
	s.mu.Unlock()
	_, err = seal(s, "s2")
	must(t, err)
	m, err := manifest(s, "web1", "s2", 2)
	must(t, err)
	_, err = s.Commit(ctx, "s2", m, ledger.Lock{})
	var over *BudgetError
	if !errors.As(err, &over) || !over.Manifests || over.Limit < most || over.Limit > most+1000 {
		t.Fatalf("a manifest too many: %v", err)
	}
	if wait := over.Again.Sub(now.Wall); wait < 23*time.Hour || wait > 25*time.Hour {
		t.Errorf("it says that it goes on in %v", wait)
	}
	commit(t, s, "web2", "s3", ledger.Lock{})
	src.Advance(25 * time.Hour)
	commit(t, s, "web1", "s4", ledger.Lock{})
	if got := s.state.heads["web1"]; len(got) != 1 || got[0].bytes == 0 {
		t.Errorf("the record does not say what the manifest takes: %+v", got)
	}
}
