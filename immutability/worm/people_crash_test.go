package worm

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/ledger/killpoint"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
)

// civics is what a process was told of people, requests and the panic switch, and holds the vault to it.
type civics struct {
	guard    bool
	people   bool // were adopted, acknowledged
	requests map[string]RequestState
	effects  []effect
	secured  bool            // acknowledged
	resumes  bool            // a request to resume may have been carried out
	held     map[string]bool // snapshots whose hold was acknowledged
	ids      []string
	// checkpoint is the newest that was told.
	checkpoint []byte
	began      int64  // operations of the disk until the people come
	store      *Store // of the newest life
}

// effect is what a request does once it is carried out, and not before.
type effect struct {
	request string
	done    func(s *Store) bool
}

func newCivics(guard bool) *civics {
	return &civics{guard: guard, requests: map[string]RequestState{}, held: map[string]bool{}}
}

func (c *civics) clone() *civics {
	o := *c
	o.requests, o.held, o.effects, o.ids = maps.Clone(c.requests), maps.Clone(c.held), slices.Clip(c.effects), slices.Clip(c.ids)
	return &o
}

func (c *civics) options() Options { return Options{Guard: c.guard} }

// life brings people, has them decide everything that they can, and ends with what they let go. With persist the process
// goes on after an error and tries once more; else it ends there.
func (c *civics) life(d durable.Disk, src *clock.Manual, ops func() int64, persist bool) error {
	o := initOptions()
	o.Guard = c.guard
	if _, err := Init(d, src, o); err != nil {
		return err
	}
	s, err := Open(d, src, c.options())
	if err != nil {
		return err
	}
	c.store = s
	for i := range 3 {
		session := fmt.Sprint("s", i)
		p, err := seal(s, session)
		if err != nil {
			return err
		}
		m, err := manifest(s, "web1", session, p.Number)
		if err != nil {
			return err
		}
		snap, err := s.Commit(ctx, session, m, ledger.Lock{})
		if err != nil {
			return err
		}
		c.ids = append(c.ids, snap.ID)
	}
	c.began = ops()
	// A way of doing things: once more after an error, and what was acknowledged is remembered.
	do := func(f func() error) error {
		err := f()
		if err != nil && persist {
			err = f()
		}
		if err == nil {
			c.checkpoint = s.Ledger().Checkpoint()
		}
		return err
	}
	steps := []func() error{
		func() error {
			_, _, err := s.AdoptPeople(ctx, three, "a file")
			c.people = c.people || err == nil
			return err
		},
		func() error {
			_, err := s.Hold(ctx, c.ids[1], "a case", "anna")
			if err == nil {
				c.held[c.ids[1]] = true
			}
			return err
		},
	}
	for _, f := range steps {
		if err := do(f); err != nil {
			return err
		}
	}
	src.Advance(requestDelay + time.Minute)
	bring := func(body any, done func(s *Store) bool) (string, error) {
		now, err := s.Now()
		if err != nil {
			return "", err
		}
		data, err := request(s, now, body).Encode()
		if err != nil {
			return "", err
		}
		id := quorum.ID(data)
		c.effects = append(c.effects, effect{id, done})
		return id, do(func() error {
			_, err := s.Submit(ctx, data, both(data), "anna")
			if err == nil {
				c.requests[id] = RequestWaiting
			}
			return err
		})
	}
	gone := func(i int) func(s *Store) bool {
		return func(s *Store) bool {
			snap := s.state.byID[c.ids[i]]
			return snap.released && len(snap.grants) > 0 && !snap.grants[0].running(snap.at) && !snap.grants[len(snap.grants)-1].ended.IsZero()
		}
	}
	looser := initOptions().Policy
	looser.MinSeconds, looser.MaxSeconds = 1, 9000
	var vetoed string
	for i, b := range []struct {
		body any
		done func(s *Store) bool
	}{
		{quorum.Delete{Snapshots: []string{c.ids[0]}}, gone(0)},
		{quorum.Release{Snapshot: c.ids[1], Holds: []uint64{c.holdOf(s)}}, func(s *Store) bool { return len(s.state.byID[c.ids[1]].holds) == 0 }},
		{mustPolicy(looser), func(s *Store) bool { return s.Policy().MinSeconds == 1 }},
		{quorum.Delete{Snapshots: []string{c.ids[1]}}, func(s *Store) bool { return s.state.byID[c.ids[1]].released }},
		{peopleOf(2, anna, bert, dora), func(s *Store) bool { return s.state.people.Equal(peopleOf(2, anna, bert, dora)) }},
	} {
		if i == 3 { // it is held until the release is carried out
			continue
		}
		id, err := bring(b.body, b.done)
		if err != nil {
			return err
		}
		vetoed = id
	}
	if err := do(func() error {
		_, err := s.Veto(ctx, vetoed, "who is dora?", "an operator")
		if err == nil {
			c.requests[vetoed] = RequestVetoed
		}
		return err
	}); err != nil {
		return err
	}
	src.Advance(requestDelay)
	if err := do(func() error { _, err := s.Extend(ctx, c.ids[0], ledger.Lock{ForSeconds: 7200}, "anna"); return err }); err != nil {
		return err
	}
	src.Advance(time.Minute)
	carry := func() error {
		if _, err := s.CarryOut(ctx); err != nil {
			return err
		}
		for id, state := range c.requests {
			if state == RequestWaiting {
				c.requests[id] = RequestCarried
			}
		}
		return nil
	}
	if err := do(carry); err != nil {
		return err
	}
	if _, err := bring(quorum.Delete{Snapshots: []string{c.ids[1]}}, gone(1)); err != nil {
		return err
	}
	if err := do(func() error {
		err := s.Secure(ctx, "strange logins", "anna")
		c.secured = c.secured || err == nil
		return err
	}); err != nil {
		return err
	}
	if _, err := bring(quorum.Resume{}, func(s *Store) bool { _, on := s.Secured(); return !on }); err != nil {
		return err
	}
	src.Advance(requestDelay + time.Minute)
	c.resumes = true
	// Under the switch the one to delete waits, though it is due first; both are carried out once it is off.
	if err := do(func() error { return errors.Join(s.Tick(), s.Tick()) }); err != nil {
		return err
	}
	if err := do(carry); err != nil {
		return err
	}
	if err := do(func() error { _, _, err := s.Condemn(ctx); return err }); err != nil {
		return err
	}
	src.Advance(day + 4*time.Hour)
	if err := do(func() error { _, err := s.Sweep(ctx); return err }); err != nil {
		return err
	}
	return s.Close()
}

func (c *civics) holdOf(s *Store) uint64 {
	have, _ := s.holds(c.ids[1])
	return have[0].Seq
}

func mustPolicy(p ledger.Policy) quorum.PolicyChange {
	b, err := marshal(p)
	if err != nil {
		panic(err)
	}
	return b
}

// prove opens the vault, holds it to what was told, lets what is due be carried out, cuts the power losing what is not durable,
// and proves again.
func (c *civics) prove(d *crashdisk.Disk, src clock.Source) error {
	for round := range 2 {
		if err := independently(d); err != nil {
			return fmt.Errorf("round %d: before it is opened: %w", round, err)
		}
		s, err := Open(d, src, c.options())
		if err != nil {
			return fmt.Errorf("round %d: open: %w", round, err)
		}
		err = c.holds(s)
		if err == nil {
			_, err = s.CarryOut(ctx)
		}
		if err = errors.Join(err, c.holds(s)); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		if bad := s.Check(ctx, true); len(bad) > 0 {
			return fmt.Errorf("round %d: check: %v", round, bad)
		}
		c.checkpoint = s.Ledger().Checkpoint()
		if err := errors.Join(s.Close(), independently(d)); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		d = d.Restart(crashdisk.LoseUnsynced, 0)
	}
	return nil
}

func (c *civics) holds(s *Store) error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.checkpoint != nil {
		if err := s.Ledger().Extends(c.checkpoint); err != nil {
			add("checkpoint: %w", err)
		}
	}
	now, err := s.Now()
	if err != nil {
		return err
	}
	if p := s.PeopleAt(now); c.people && len(p.People.People) == 0 {
		add("the people are lost")
	}
	if _, on := s.Secured(); c.secured && !c.resumes && !on {
		add("it is not secured any more")
	}
	for id, want := range c.requests {
		info, err := s.requestInfo(id, now)
		switch {
		case err != nil:
			add("request %.8s was brought and is lost: %w", id, err)
		case want != RequestWaiting && info.State != want:
			add("request %.8s is %s (%s), and %s was told", id, info.State, info.Why, want)
		case info.State == RequestFailed || info.State == RequestLapsed:
			add("request %.8s is %s: %s", id, info.State, info.Why)
		}
	}
	for _, e := range c.effects {
		info, err := s.requestInfo(e.request, now)
		carried := err == nil && info.State == RequestCarried
		if info.Request.Action == quorum.ActionResume && !c.secured {
			continue
		}
		if done := e.done(s); done != carried && (carried || info.Request.Action != quorum.ActionResume || err == nil) {
			add("request %.8s (%s) is %s, and its effect is there: %t", e.request, info.Request.Action, info.State, done)
		}
	}
	for id := range c.held {
		released := slices.ContainsFunc(c.effects, func(e effect) bool {
			info, err := s.requestInfo(e.request, now)
			return err == nil && info.Request.Action == quorum.ActionRelease && info.State == RequestCarried
		})
		if len(s.state.byID[id].holds) == 0 && !released {
			add("a hold is lost")
		}
	}
	return errors.Join(errs...)
}

// TestQuietCivics is the run that the faults are put into: without one everything must come to pass.
func TestQuietCivics(t *testing.T) {
	for _, guard := range []bool{false, true} {
		c, d, src := newCivics(guard), crashdisk.New(), newClock()
		must(t, c.life(d, src, d.Ops, false))
		s, err := Open(d, src, c.options())
		must(t, err)
		all, err := s.Requests()
		must(t, err)
		states := map[RequestState]int{}
		for _, r := range all {
			states[r.State]++
		}
		if states[RequestCarried] != 5 || states[RequestVetoed] != 1 || len(all) != 6 {
			t.Errorf("%v", states)
		}
		left, err := s.Snapshots()
		must(t, err)
		if len(left) != 1 || left[0].ID != c.ids[2] {
			t.Errorf("%d snapshots are left", len(left))
		}
		must(t, s.Close())
		must(t, independentlyAlways(d))
		must(t, c.prove(d, src))
	}
}

// TestNoFaultBreaksWhatPeopleDecided puts every fault at every operation of adopting people, holding, submitting, vetoing,
// carrying out, securing and removing what was let go, into a process that ends at the first error and into one that goes
// on.
func TestNoFaultBreaksWhatPeopleDecided(t *testing.T) {
	t.Parallel()
	for _, guard := range []bool{false, true} {
		quiet, first := crashdisk.New(), newCivics(guard)
		must(t, first.life(quiet, newClock(), quiet.Ops, false))
		points, some := 0, newSlice(30)
		for op := first.began + 1; op <= quiet.Ops(); op++ {
			for _, fault := range crashdisk.Faults() {
				dead := fault == crashdisk.Crash || fault == crashdisk.CrashAfter || fault == crashdisk.Torn || fault == crashdisk.ReadOnly
				for _, persist := range []bool{false, true} {
					if dead && persist || !some.takes() {
						continue
					}
					d, src, c := crashdisk.New(), newClock(), newCivics(guard)
					d.FailAt(op, fault)
					err := c.life(d, src, d.Ops, persist)
					fail := func(how string, err2 error) {
						if err2 != nil {
							t.Errorf("guard %t, op %d %v, persist %t (%v), %s: %v\n%q", guard, op, fault, persist, err, how, err2,
								d.Log()[max(0, op-4):min(int64(len(d.Log())), op+3)])
						}
					}
					if !dead {
						live := d.Clone()
						live.Refill()
						fail("killed", c.clone().prove(live, src))
					}
					fail("lost", c.clone().prove(d.Restart(crashdisk.LoseUnsynced, 0), src))
					fail("kept", c.clone().prove(d.Restart(crashdisk.KeepAll, 0), src))
					fail("random", c.clone().prove(d.Restart(crashdisk.Random, op), src))
					points++
				}
			}
		}
		t.Logf("guard %t: %d operations, %d faults survived", guard, quiet.Ops()-first.began, points)
	}
}

// TestPeopleKilledAnywhere takes the process away before every operation and leaves the machine running.
func TestPeopleKilledAnywhere(t *testing.T) {
	t.Parallel()
	for _, guard := range []bool{false, true} {
		c, inner, src := newCivics(guard), crashdisk.New(), newClock()
		points, some := 0, newSlice(6)
		spy := &killpoint.Disk{GuardedDisk: inner, Before: func() {
			if c.began == 0 {
				return
			}
			if points++; !some.takes() {
				return
			}
			if err := c.clone().prove(inner.Clone(), src); err != nil {
				t.Errorf("killed before op %d: %v\n%q", inner.Ops()+1, err, inner.Log()[max(0, inner.Ops()-3):])
			}
		}}
		must(t, c.life(spy, src, inner.Ops, false))
		if points < 100 {
			t.Errorf("%d points", points)
		}
	}
}
