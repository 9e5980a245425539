package worm

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
)

// putRight moves the wall clock, has the ledger told, and puts it right within the hour in which the ledger is not told again.
func putRight(t *testing.T, s *Store, step func(time.Duration), pass func(time.Duration)) {
	t.Helper()
	step(48 * time.Hour)
	must(t, s.Tick())
	pass(10 * time.Minute)
	step(-48 * time.Hour)
	must(t, s.Tick())
	if shifted, _ := s.ClockShifted(); shifted || !s.state.noted.Stopped {
		t.Fatalf("shifted %t, and the ledger says stopped %t", shifted, s.state.noted.Stopped)
	}
	pass(25 * time.Minute)
}

// TestWhatIsCarriedOutAfterAShiftIsNoDamage: the wall clock was put right, and the ledger is told within an hour. What is carried out in
// between looked wrong to whoever reads the ledger.
func TestWhatIsCarriedOutAfterAShiftIsNoDamage(t *testing.T) {
	d, src, s := newPeopled(t)
	snap := commit(t, s, "web1", "s1", ledger.Lock{})
	commit(t, s, "web1", "s2", ledger.Lock{})
	r := submit(t, s, quorum.Delete{Snapshots: []string{snap.ID}})
	src.Advance(requestDelay - 30*time.Minute)
	putRight(t, s, src.StepWall, src.Advance)
	must(t, s.Tick())
	if is := stateOf(t, s, r.ID).State; is != RequestCarried {
		t.Errorf("it is %s", is)
	}
	must(t, independentlyAlways(d))
}

// TestWhatIsRemovedAfterAShiftIsNoDamage is the same of a prune.
func TestWhatIsRemovedAfterAShiftIsNoDamage(t *testing.T) {
	d, src, s := newStore(t)
	commit(t, s, "web1", "s1", ledger.Lock{})
	commit(t, s, "web1", "s2", ledger.Lock{})
	src.Advance(2 * time.Hour)
	_, _, err := s.Condemn(ctx)
	must(t, err)
	src.Advance(24*time.Hour - 30*time.Minute)
	putRight(t, s, src.StepWall, src.Advance)
	rep, err := s.Sweep(ctx)
	must(t, err)
	if len(rep.Snapshots) != 1 {
		t.Errorf("%d snapshots were removed, want 1", len(rep.Snapshots))
	}
	must(t, independentlyAlways(d))
}

// TestNobodyTakesBackAloneWhatPeopleDecided: the settings may take a change of their own back for 72 hours. A policy that several
// people signed would else last until the next start of whoever reads the settings of before.
func TestNobodyTakesBackAloneWhatPeopleDecided(t *testing.T) {
	d, src, s := newPeopled(t)
	before := s.Policy()
	decided := before
	decided.MinSeconds, decided.DefaultSeconds, decided.Keep.Daily = 1800, 7000, 7
	submit(t, s, policyBody(t, decided))
	src.Advance(requestDelay + time.Minute)
	if n, err := s.CarryOut(ctx); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	said := before
	said.Keep.Daily = 1
	for range 2 {
		changed, refused, err := s.Adopt(ctx, said, "a file")
		must(t, err)
		if now := s.Policy(); changed || len(refused) == 0 || now.MinSeconds != decided.MinSeconds || now.DefaultSeconds != decided.DefaultSeconds || now.Keep != decided.Keep {
			t.Errorf("changed %t, refused %v, and it is %+v", changed, refused, now)
		}
		must(t, s.Close())
		s = open(t, d, src)
	}
	// What the settings tighten since is theirs to take back, down to what people decided.
	said.MinSeconds, said.DefaultSeconds, said.Keep.Daily = 3600, 7200, 30
	for _, p := range []ledger.Policy{said, decided} {
		if changed, _, err := s.Adopt(ctx, p, "a file"); !changed || err != nil || s.Policy().Keep != p.Keep || s.Policy().MinSeconds != p.MinSeconds {
			t.Errorf("changed %t, %v: %+v", changed, err, s.Policy())
		}
	}
	must(t, independentlyAlways(d))
}

// TestPlantedPeopleCanBeExchangedUnderThePanicSwitch: somebody names first people, an operator sees it and presses the switch. Were
// that to keep others from being named, the planted ones would count for good.
func TestPlantedPeopleCanBeExchangedUnderThePanicSwitch(t *testing.T) {
	d, src, s := newStore(t)
	_, _, err := s.AdoptPeople(ctx, peopleOf(2, dora, carl), "planted")
	must(t, err)
	must(t, s.Secure(ctx, "who named these?", "anna"))
	src.Advance(requestDelay - time.Hour)
	if changed, refused, err := s.AdoptPeople(ctx, three, "a file"); !changed || err != nil {
		t.Fatal(changed, refused, err)
	}
	src.Advance(2 * time.Hour)
	if p, err := s.People(); p.InForce || !p.Equal(three) || err != nil {
		t.Errorf("they count without waiting anew, or others do: %+v, %v", p, err)
	}
	src.Advance(requestDelay)
	submit(t, s, quorum.Resume{})
	if changed, refused, err := s.AdoptPeople(ctx, peopleOf(2, dora, carl), "planted"); changed || refused == "" || err != nil {
		t.Error(changed, refused, err)
	}
	must(t, independentlyAlways(d))
}

// TestARequestThatWaitsForTheClockSaysSo: else it is said to be carried out at a moment that has passed.
func TestARequestThatWaitsForTheClockSaysSo(t *testing.T) {
	_, src, s := newPeopled(t)
	info := submit(t, s, policyBody(t, s.Policy()))
	src.StepWall(10 * day)
	src.Advance(requestDelay + time.Minute)
	must(t, s.Tick())
	if is := stateOf(t, s, info.ID); is.State != RequestWaiting || !strings.Contains(is.Why, "clock is shifted") {
		t.Errorf("%s: %q", is.State, is.Why)
	}
}
