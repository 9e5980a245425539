package worm

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
)

// town is a vault whose people do things in any order, under a wall clock that anybody sets.
type town struct {
	t       *rapid.T
	d       *crashdisk.Disk
	src     *clock.Manual
	s       *Store
	real    time.Duration            // that passed, machine on or off
	brought map[string]time.Duration // requests, with the real time at which they were
	vetoed  map[string]bool
	ids     []string
}

func (w *town) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// pass lets time pass, of which the ledger is told daily, as any daemon does; nothing that is due is carried out by that.
func (w *town) pass(d time.Duration) {
	w.real += d
	for ; d > 0; d -= day {
		w.src.Advance(min(d, day))
		w.s.write.Lock()
		_, err := w.s.clock.Now()
		err = errors.Join(err, w.s.noteClock(true))
		w.s.write.Unlock()
		w.must(err)
	}
}

// reopen demands that the ledger alone says what the process knew.
func (w *town) reopen() {
	now, err := w.s.Now()
	w.must(err)
	type known struct {
		people   PeopleInfo
		requests []RequestInfo
		secured  Secured
		policy   ledger.Policy
		holds    []int
		released []bool
	}
	what := func() (k known) {
		k.people, k.requests, k.policy = w.s.PeopleAt(now), w.s.RequestsAt(now), w.s.Policy()
		k.secured, _ = w.s.Secured()
		for _, snap := range w.s.state.snapshots {
			k.holds, k.released = append(k.holds, len(snap.holds)), append(k.released, snap.released)
		}
		return k
	}
	before := what()
	size := w.s.Ledger().Size()
	must := w.must
	must(w.s.ledger.Close()) // as a process that is killed: nothing more is written
	w.s, err = Open(w.d, w.src, Options{})
	must(err)
	if w.s.Ledger().Size() != size {
		return // recovery had something to record
	}
	if after := what(); !reflect.DeepEqual(before, after) {
		w.t.Fatalf("after a restart\n%+v\nbefore\n%+v", after, before)
	}
}

func (w *town) submit(body any, who []signer) {
	now, err := w.s.Now()
	w.must(err)
	data, err := request(w.s, now, body).Encode()
	w.must(err)
	info, err := w.s.Submit(ctx, data, signed(data, who...), "somebody")
	if err != nil {
		return
	}
	if len(who) < 2 {
		w.t.Fatalf("%d signatures were enough", len(who))
	}
	w.brought[info.ID] = w.real
}

func (w *town) act() {
	t := w.t
	some := func(label string) string { return rapid.SampledFrom(w.ids).Draw(t, label) }
	people := rapid.SampledFrom([]quorum.People{three, peopleOf(2, anna, bert), peopleOf(2, bert, carl, dora), peopleOf(3, anna, bert, carl, dora)})
	signers := rapid.SampledFrom([][]signer{{anna, bert}, {bert, carl}, {anna}, {bert, carl, dora}, {anna, bert, carl}, {}})
	switch rapid.SampledFrom([]string{
		"pass", "pass", "pass", "step", "off", "adopt", "delete", "delete", "release", "policy", "people", "resume", "clock", "veto", "secure", "hold", "extend", "commit",
		"carry", "carry", "tick", "mark", "sweep", "kill",
	}).Draw(t, "act") {
	case "pass":
		w.pass(rapid.SampledFrom([]time.Duration{time.Minute, 5 * time.Hour, 25 * time.Hour, requestDelay, requestDelay + time.Minute}).Draw(t, "time"))
	case "step":
		w.src.StepWall(rapid.SampledFrom([]time.Duration{-30 * time.Hour, -20 * time.Hour, time.Minute, 20 * time.Hour, 40 * day}).Draw(t, "step"))
	case "off":
		w.must(w.s.Close())
		off := rapid.SampledFrom([]time.Duration{time.Hour, 5 * day}).Draw(t, "off")
		w.src.Reboot(off)
		w.real += off
		var err error
		w.s, err = Open(w.d, w.src, Options{})
		w.must(err)
	case "adopt":
		_, _, err := w.s.AdoptPeople(ctx, people.Draw(t, "people"), "a file")
		w.must(err)
	case "delete":
		w.submit(quorum.Delete{Snapshots: []string{some("snapshot")}}, signers.Draw(t, "who"))
	case "release":
		id := some("snapshot")
		if have, _ := w.s.holds(id); len(have) > 0 {
			w.submit(quorum.Release{Snapshot: id, Holds: []uint64{have[0].Seq}}, signers.Draw(t, "who"))
		}
	case "policy":
		p := w.s.Policy()
		p.MinSeconds = rapid.SampledFrom([]int64{1, 60, 3600}).Draw(t, "minimum")
		p.Mode = rapid.SampledFrom([]ledger.Mode{ledger.Governance, ledger.Governance, ledger.Compliance}).Draw(t, "mode")
		body, err := marshal(p)
		w.must(err)
		w.submit(body, signers.Draw(t, "who"))
	case "people":
		w.submit(people.Draw(t, "people"), signers.Draw(t, "who"))
	case "resume":
		w.submit(quorum.Resume{}, signers.Draw(t, "who"))
	case "clock":
		r, err := w.s.Clock()
		w.must(err)
		if off := int64(r.Off / time.Second); off != 0 {
			w.submit(quorum.Clock{OffSeconds: off}, signers.Draw(t, "who"))
		}
	case "veto":
		all, err := w.s.Requests()
		w.must(err)
		if len(all) > 0 {
			id := rapid.SampledFrom(all).Draw(t, "request").ID
			if info, err := w.s.Veto(ctx, id, "no", "carl"); err == nil && info.State == RequestVetoed {
				w.vetoed[id] = true
			}
		}
	case "secure":
		w.must(w.s.Secure(ctx, "strange logins", "anna"))
	case "hold":
		if _, err := w.s.Hold(ctx, some("snapshot"), "a case", "anna"); err != nil && !errors.Is(err, ErrNoSnapshot) {
			t.Fatal(err)
		}
	case "extend":
		mode := rapid.SampledFrom([]ledger.Mode{ledger.Governance, ledger.Compliance}).Draw(t, "mode")
		_, _ = w.s.Extend(ctx, some("snapshot"), ledger.Lock{Mode: mode, ForSeconds: 7200}, "anna") // may be refused
	case "commit":
		w.commit()
	case "carry":
		_, err := w.s.CarryOut(ctx)
		w.must(err)
	case "tick":
		w.must(w.s.Tick())
	case "mark":
		_, _, err := w.s.Condemn(ctx)
		w.must(err)
	case "sweep":
		if _, err := w.s.Sweep(ctx); err != nil && !errors.Is(err, errEarly) {
			t.Fatal(err)
		}
	case "kill":
		w.reopen()
	}
}

func (w *town) commit() {
	session := fmt.Sprint("s", len(w.ids))
	p, err := seal(w.s, session)
	w.must(err)
	m, err := manifest(w.s, "web1", session, p.Number)
	w.must(err)
	snap, err := w.s.Commit(ctx, session, m, ledger.Lock{})
	w.must(err)
	w.ids = append(w.ids, snap.ID)
}

// right says of every request that it was carried out no sooner than after 72 hours of real time (running time is honest here, whatever
// the wall clock is set to), and never after a veto.
func (w *town) right() {
	for _, q := range w.s.state.requests {
		if at, ok := w.brought[q.id]; q.end == RequestCarried && (!ok || w.vetoed[q.id] || w.real-at < requestDelay) {
			w.t.Fatalf("request %.8s (%s) was carried out %v after it was brought, vetoed %t", q.id, q.request.Action, w.real-at, w.vetoed[q.id])
		}
	}
}

// TestRandomHistoriesOfPeople: whatever is done in whatever order, nothing is carried out too soon or against a veto, a restart
// changes nothing, and the independent checker finds nothing wrong.
func TestRandomHistoriesOfPeople(t *testing.T) {
	carried, n := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		if raceEnabled && n >= 25 {
			return // nothing in it is concurrent, and the race detector makes it ten times slower
		}
		w := &town{t: rt, d: crashdisk.New(), src: newClock(), brought: map[string]time.Duration{}, vetoed: map[string]bool{}}
		_, err := Init(w.d, w.src, initOptions())
		w.must(err)
		w.s, err = Open(w.d, w.src, Options{})
		w.must(err)
		_, _, err = w.s.AdoptPeople(ctx, three, "a file")
		w.must(err)
		for range 3 {
			w.commit()
		}
		w.pass(requestDelay + time.Minute)
		for range rapid.IntRange(5, 40).Draw(rt, "acts") {
			w.act()
			w.right()
		}
		w.reopen()
		w.right()
		bad := slices.DeleteFunc(w.s.Check(ctx, true), func(d Damage) bool {
			return d.What == clockFile // a wall clock that was set back leaves less than the file claims: the clock's own tests have that
		})
		if len(bad) > 0 {
			rt.Fatal(bad)
		}
		w.must(independentlyAlways(w.d))
		n++
		carried += len(slices.DeleteFunc(slices.Clone(w.s.state.requests), func(q *requestState) bool { return q.end != RequestCarried }))
	})
	if carried < n/20 {
		t.Errorf("%d requests were carried out in %d histories: they show nothing", carried, n)
	}
}
