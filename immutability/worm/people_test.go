package worm

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/policy"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
)

// TestWhoeverEditsTheSettingsNamesNoPeopleUnseen: the first people wait for 72 hours of running time, each time that they are
// exchanged anew, and once they are in force the settings change them no more.
func TestWhoeverEditsTheSettingsNamesNoPeopleUnseen(t *testing.T) {
	others := peopleOf(2, carl, dora)
	type step struct {
		after    time.Duration
		wall     time.Duration // the wall clock is set by
		off      bool          // the machine is switched off meanwhile
		adopt    quorum.People
		secure   bool
		changed  bool
		refused  string
		inForce  bool
		people   quorum.People
		restarts bool
	}
	for _, c := range []struct {
		name  string
		steps []step
	}{
		{"they count 72 hours later", []step{
			{adopt: three, changed: true, people: three},
			{after: 71 * time.Hour, adopt: three, people: three},
			{after: time.Hour + time.Minute, adopt: three, people: three, inForce: true, restarts: true},
		}},
		{"nobody is said", []step{{people: quorum.People{}}, {adopt: three, changed: true, people: three}, {people: three}}},
		{"exchanged within the 72 hours they wait anew", []step{
			{adopt: three, changed: true, people: three},
			{after: 71 * time.Hour, adopt: others, changed: true, people: others},
			{after: 71 * time.Hour, adopt: others, people: others, restarts: true},
			{after: 2 * time.Hour, adopt: others, people: others, inForce: true},
		}},
		{"in force others are not followed", []step{
			{adopt: three, changed: true, people: three},
			{after: 73 * time.Hour, adopt: others, refused: "only a request of theirs", people: three, inForce: true},
			{after: 100 * day, adopt: others, refused: "only a request of theirs", people: three, inForce: true, restarts: true},
		}},
		{"a wall clock that is set ahead does not hurry", []step{
			{adopt: three, changed: true, people: three},
			{after: time.Hour, wall: 20 * day, adopt: others, changed: true, people: others},
		}},
		{"a machine that is off does not count", []step{
			{adopt: three, changed: true, people: three},
			{after: 20 * day, off: true, people: three},
			{after: 73 * time.Hour, people: three, inForce: true},
		}},
		{"the first people of all are named under secure", []step{
			{secure: true, adopt: three, changed: true, people: three},
			{after: time.Hour, adopt: others, changed: true, people: others},
			{after: 71 * time.Hour, people: others},
			{after: 2 * time.Hour, adopt: three, refused: "only a request of theirs", people: others, inForce: true},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, src, s := newStore(t)
			for i, st := range c.steps {
				if st.off {
					must(t, s.Close())
					src.Reboot(st.after)
					s = open(t, d, src)
				} else {
					src.Advance(st.after)
				}
				src.StepWall(st.wall)
				if st.secure {
					must(t, s.Secure(ctx, "strange logins", "anna"))
				}
				size := s.Ledger().Size()
				changed, refused, err := s.AdoptPeople(ctx, st.adopt, "a file")
				if err != nil || changed != st.changed || !strings.Contains(refused, st.refused) || (refused != "") != (st.refused != "") {
					t.Errorf("step %d: changed %t, refused %q, %v", i, changed, refused, err)
				}
				if !changed && slices.ContainsFunc(slices.Collect(s.Ledger().Records()), func(r ledger.Record) bool { return r.Seq >= size && r.Kind == ledger.KindPeople }) {
					t.Errorf("step %d: a record that changes nothing", i)
				}
				for range 2 {
					p, err := s.People()
					must(t, err)
					if p.InForce != st.inForce || !p.People.Equal(st.people) {
						t.Errorf("step %d: %+v, want %+v in force %t", i, p, st.people, st.inForce)
					}
					if now, _ := s.Now(); len(st.people.People) > 0 && p.InForce == p.From.After(now.Wall) {
						t.Errorf("step %d: in force %t, from %v, and it is %v", i, p.InForce, p.From, now.Wall)
					}
					if !st.restarts {
						break
					}
					must(t, s.Close())
					s = open(t, d, src)
				}
			}
			must(t, independentlyAlways(d))
		})
	}
	_, _, s := newStore(t)
	for _, bad := range []quorum.People{peopleOf(1, anna, bert), peopleOf(3, anna, bert), peopleOf(2, anna, anna)} {
		if changed, _, err := s.AdoptPeople(ctx, bad, ""); changed || err == nil {
			t.Errorf("taken: %+v", bad)
		}
	}
}

// TestNobodysSignaturesCountBeforeTheyAreInForce: a request needs people, and people who have stood for 72 hours.
func TestNobodysSignaturesCountBeforeTheyAreInForce(t *testing.T) {
	_, src, s := newStore(t)
	snap := commit(t, s, "web1", "s1", ledger.Lock{})
	commit(t, s, "web1", "s2", ledger.Lock{})
	try := func(want string) {
		t.Helper()
		data := encoded(t, ask(t, s, quorum.Delete{Snapshots: []string{snap.ID}}))
		_, err := s.Submit(ctx, data, both(data), "")
		if want == "" {
			must(t, err)
		} else {
			refusal(t, "submit", err, want)
		}
	}
	try("names no people")
	_, _, err := s.AdoptPeople(ctx, three, "")
	must(t, err)
	try("count from")
	src.Advance(71 * time.Hour)
	try("count from")
	src.Advance(time.Hour + time.Minute)
	try("")
}

// TestSecuredVaultForgetsNothing: what the panic switch stops, and what it does not.
func TestSecuredVaultForgetsNothing(t *testing.T) {
	for _, c := range []struct {
		name    string
		stopped bool
		do      func(w *requestWorld) error // an error, or nothing done, where it is stopped
	}{
		{"commit", false, func(w *requestWorld) error { commit(w.t, w.s, "web1", "s9", ledger.Lock{}); return nil }},
		{"extend", false, func(w *requestWorld) error {
			_, err := w.s.Extend(ctx, w.new.ID, ledger.Lock{Mode: ledger.Compliance, ForSeconds: 7200}, "anna")
			return err
		}},
		{"hold", false, func(w *requestWorld) error { _, err := w.s.Hold(ctx, w.old.ID, "a case", "anna"); return err }},
		{"claim", false, func(w *requestWorld) error {
			if !w.s.ClaimOne("s9", 1) {
				return fmt.Errorf("refused")
			}
			return nil
		}},
		{"keyring", false, func(w *requestWorld) error { return w.s.SetKeyring(ctx, []byte("another ring"), "a recipient more") }},
		{"give back", false, func(w *requestWorld) error { _, err := w.s.Manifest(w.old.ID); return err }},
		{"veto", false, func(w *requestWorld) error { _, err := w.s.Veto(ctx, w.info.ID, "no", "anna"); return err }},
		{"secure again", false, func(w *requestWorld) error { return w.s.Secure(ctx, "more", "bert") }},
		{"request to resume", false, func(w *requestWorld) error { submit(w.t, w.s, quorum.Resume{}); return nil }},
		{"condemn", true, func(w *requestWorld) error {
			snapshots, _, err := w.s.Condemn(ctx)
			if err == nil && snapshots == 0 {
				err = fmt.Errorf("nothing is marked")
			}
			return err
		}},
		{"prune", true, func(w *requestWorld) error { return removes(w.s.Prune(ctx, false)) }},
		{"sweep", true, func(w *requestWorld) error { return removes(w.s.Sweep(ctx)) }},
		{"request", true, func(w *requestWorld) error {
			data := encoded(w.t, ask(w.t, w.s, quorum.Delete{Snapshots: []string{w.old.ID}}))
			_, err := w.s.Submit(ctx, data, both(data), "")
			return err
		}},
		{"carrying out", true, func(w *requestWorld) error {
			n, err := w.s.CarryOut(ctx)
			if n == 0 {
				err = fmt.Errorf("nothing is carried out")
			}
			return err
		}},
		{"a tighter policy", true, func(w *requestWorld) error {
			changed, refused, err := w.s.Adopt(ctx, ledger.Policy{MinSeconds: 600}, "")
			if !changed {
				err = fmt.Errorf("not followed: %v", refused)
			}
			return err
		}},
		{"other people", true, func(w *requestWorld) error {
			_, refused, err := w.s.AdoptPeople(ctx, peopleOf(2, carl, dora), "")
			if refused != "" {
				err = fmt.Errorf("refused: %s", refused)
			}
			return err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, secured := range []bool{false, true} {
				if !secured && (c.name == "request to resume" || c.name == "other people") {
					continue // nothing to resume; refused in any case
				}
				d, src, s := newPeopled(t)
				w := &requestWorld{t: t, src: src, s: s}
				w.old = commit(t, s, "web1", "s1", ledger.Lock{ForSeconds: 100})
				w.new = commit(t, s, "web1", "s4", ledger.Lock{ForSeconds: 7200})
				w.info = submit(t, s, quorum.Delete{Snapshots: []string{w.old.ID}})
				src.Advance(requestDelay - time.Hour)
				if c.name == "prune" || c.name == "sweep" {
					_, _, err := s.Condemn(ctx)
					must(t, err)
				}
				src.Advance(day + time.Hour)
				if secured {
					must(t, s.Secure(ctx, "strange logins", "anna"))
					must(t, s.Close())
					s = open(t, d, src)
					w.s = s
					if at, on := s.Secured(); !on || at.Reason != "strange logins" || at.By != "anna" {
						t.Fatalf("%+v %t", at, on)
					}
				}
				err := c.do(w)
				if stopped := secured && c.stopped; stopped != (err != nil) {
					t.Errorf("secured %t: %v", secured, err)
				}
				if bad := s.Check(ctx, true); len(bad) > 0 {
					t.Error(bad)
				}
				must(t, independentlyAlways(d))
			}
		})
	}
}

func removes(rep PruneReport, err error) error {
	if err == nil && len(rep.Snapshots)+len(rep.Packs) == 0 {
		err = fmt.Errorf("nothing is removed: %+v", rep.Decisions)
	}
	return err
}

// TestPanicSwitchFillsNoLedger: secured again and again is one record, unless somebody asked to resume meanwhile.
func TestPanicSwitchFillsNoLedger(t *testing.T) {
	_, _, s := newPeopled(t)
	records := func() (n int) {
		for r := range s.Ledger().Records() {
			if r.Kind == ledger.KindSecure {
				n++
			}
		}
		return n
	}
	for i := range 5 {
		must(t, s.Secure(ctx, fmt.Sprint("reason ", i), "anna"))
	}
	if records() != 1 {
		t.Errorf("%d records", records())
	}
	submit(t, s, quorum.Resume{})
	for range 3 {
		must(t, s.Secure(ctx, "not yet", "bert"))
	}
	if records() != 2 {
		t.Errorf("%d records", records())
	}
	for _, bad := range []string{"", "a\nb", strings.Repeat("x", ReasonMax+1)} {
		if s.Secure(ctx, bad, "anna") == nil {
			t.Errorf("taken: %.20q", bad)
		}
	}
}

// TestFloodOfRequestsIsRefused: more than people can look at do not wait at a time; what ended gives its place back.
func TestFloodOfRequestsIsRefused(t *testing.T) {
	d, src, s := newPeopled(t)
	snap := commit(t, s, "web1", "s1", ledger.Lock{})
	commit(t, s, "web1", "s2", ledger.Lock{})
	body := quorum.Delete{Snapshots: []string{snap.ID}}
	var first RequestInfo
	for i := range waitingMax {
		info := submit(t, s, body)
		if i == 0 {
			first = info
		}
	}
	data := encoded(t, ask(t, s, body))
	_, err := s.Submit(ctx, data, both(data), "")
	refusal(t, "one more", err, "16 requests wait")
	for range 2 { // a second veto changes nothing
		if _, err := s.Veto(ctx, first.ID, "too many", "carl"); err != nil {
			t.Fatal(err)
		}
	}
	_, err = s.Submit(ctx, data, both(data), "")
	must(t, err)
	_, err = s.Veto(ctx, strings.Repeat("0", 64), "what?", "carl")
	refusal(t, "a veto of nothing", err, "no such request")
	src.Advance(requestDelay + time.Minute)
	if n, err := s.CarryOut(ctx); n != waitingMax || err != nil {
		t.Errorf("%d carried out, %v", n, err)
	}
	_, err = s.Veto(ctx, quorum.ID(data), "too late", "carl")
	refusal(t, "a veto of what is in force", err, "carried out")
	// The newest hundred stay listed, and everything of a year.
	for i := range endedListed + 5 {
		info := submit(t, s, body)
		_, err := s.Veto(ctx, info.ID, fmt.Sprint(i), "carl")
		must(t, err)
	}
	all, err := s.Requests()
	must(t, err)
	if want := waitingMax + 1 + endedListed + 5; len(all) != want || all[0].ID != first.ID || all[0].Veto.By != "carl" {
		t.Errorf("%d listed, want %d", len(all), want)
	}
	src.Advance(400 * day)
	if all, err = s.Requests(); err != nil || len(all) != endedListed {
		t.Errorf("%d listed after a year, %v", len(all), err)
	}
	must(t, s.Close())
	s = open(t, d, src)
	if _, err := s.Submit(ctx, data, both(data), ""); err == nil || !strings.Contains(err.Error(), ErrBrought.Error()) {
		t.Errorf("what is not listed any more was brought again: %v", err)
	}
	must(t, independentlyAlways(d))
}

// TestSameNonceIsAReplay: another request with the nonce of one that was brought is none that people meant.
func TestSameNonceIsAReplay(t *testing.T) {
	d, src, s := newPeopled(t)
	snap := commit(t, s, "web1", "s1", ledger.Lock{})
	commit(t, s, "web1", "s2", ledger.Lock{})
	r := ask(t, s, quorum.Delete{Snapshots: []string{snap.ID}})
	data := encoded(t, r)
	info, err := s.Submit(ctx, data, both(data), "")
	must(t, err)
	_, err = s.Veto(ctx, info.ID, "no", "")
	must(t, err)
	r.Reason = "another reason"
	again := encoded(t, r)
	for range 2 {
		_, err = s.Submit(ctx, again, both(again), "")
		refusal(t, "the same nonce", err, ErrBrought.Error())
		_, err = s.Submit(ctx, data, both(data), "")
		refusal(t, "what was vetoed", err, ErrBrought.Error())
		must(t, s.Close())
		s = open(t, d, src)
	}
}

// TestAnotherOriginTakesTheirSignatures: once people are in force nobody gives up a part of the ledger alone.
func TestAnotherOriginTakesTheirSignatures(t *testing.T) {
	d, src, s := newPeopled(t)
	snap := commit(t, s, "web1", "s1", ledger.Lock{})
	commit(t, s, "web1", "s1b", ledger.Lock{})
	old := d.Clone()
	vetoed := encoded(t, ask(t, s, quorum.Delete{Snapshots: []string{snap.ID}}))
	asked, err := s.Submit(ctx, vetoed, both(vetoed), "anna")
	must(t, err)
	_, err = s.Veto(ctx, asked.ID, "no", "carl")
	must(t, err)
	commit(t, s, "web1", "s2", ledger.Lock{})
	some := s.Ledger().Checkpoint()
	commit(t, s, "web1", "s3", ledger.Lock{})
	lost := s.Ledger().Checkpoint()
	must(t, s.Close())
	s = open(t, old, src)
	root := s.Ledger().Root().String()
	if _, err := s.BeginOrigin(ctx, lost, root, "ann", "alone"); err == nil || !strings.Contains(err.Error(), "2 people signed") {
		t.Errorf("alone: %v", err)
	}
	now, err := s.Now()
	must(t, err)
	begin := func(sigs func([]byte) [][]byte, typed string, change func(r *quorum.Request), body any) error {
		r := request(s, now, body)
		if change != nil {
			change(&r)
		}
		data := encoded(t, r)
		_, err := s.BeginOriginSigned(ctx, data, sigs(data), typed, "anna", "the machine was rolled back")
		return err
	}
	right := quorum.Origin{Note: string(lost), Root: root}
	other := strings.Repeat("A", 43) + "="
	for _, c := range []struct {
		name, want string
		err        error
	}{
		{"one of two", "1 of 3", begin(func(d []byte) [][]byte { return signed(d, anna) }, root, nil, right)},
		{"a stranger", "none of the people", begin(func(d []byte) [][]byte { return signed(d, anna, dora) }, root, nil, right)},
		{"another root", "was typed", begin(both, other, nil, right)},
		{"a root that is not here", "is not that of", begin(both, other, nil, quorum.Origin{Note: string(lost), Root: other})},
		{"a checkpoint that is extended", "nothing is lost", begin(both, root, nil, quorum.Origin{Note: string(s.Ledger().Checkpoint()), Root: root})},
		{"less than is lost", "known of", begin(both, root, nil, quorum.Origin{Note: string(some), Root: root})},
		{"another action", "not for another origin", begin(both, root, nil, quorum.Resume{})},
		{"another vault", "is of vault", begin(both, root, func(r *quorum.Request) { r.Vault = strings.Repeat("f", 32) }, right)},
		{"another past", "another past", begin(both, root, func(r *quorum.Request) { r.Root = other }, right)},
		{"out of its window", "window ended", begin(both, root, func(r *quorum.Request) { r.From, r.Until = r.From.Add(-2*day), r.From.Add(-day) }, right)},
	} {
		if c.name == "less than is lost" {
			continue // it is shown the longer one first, below
		}
		refusal(t, c.name, c.err, c.want)
	}
	if err := s.Ledger().Remember(lost); err == nil {
		t.Fatal("it is not behind")
	}
	refusal(t, "less than is lost", begin(both, root, nil, quorum.Origin{Note: string(some), Root: root}), "known of")

	data := encoded(t, request(s, now, right))
	r, err := s.BeginOriginSigned(ctx, data, both(data), root, "anna", "the machine was rolled back")
	must(t, err)
	if len(r.Origin.Quorum) != 3 || r.Origin.Quorum[0] != string(data) {
		t.Errorf("%+v", r.Origin.Quorum)
	}
	for i, who := range []signer{anna, bert} {
		blob, err := base64.StdEncoding.DecodeString(r.Origin.Quorum[i+1])
		must(t, err)
		if name, _, _, err := quorum.Verify(data, blob, three); name != who.name || err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, s.Close())
	s = open(t, old, src)
	if s.Ledger().Behind() != nil || !s.state.wasBrought(quorum.ID(data), "") {
		t.Errorf("behind %v, brought %v", s.Ledger().Behind(), s.state.brought)
	}
	// What was vetoed in the part that is lost does not come again.
	_, err = s.Submit(ctx, vetoed, both(vetoed), "eve")
	refusal(t, "vetoed in what is lost", err, "another origin")
	submit(t, s, quorum.Delete{Snapshots: []string{snap.ID}})
	must(t, independentlyAlways(old))
}

// TestAcceptedClockSurvivesEveryCut: the record says that the wall clock is right; the clock's own file may be of before.
func TestAcceptedClockSurvivesEveryCut(t *testing.T) {
	for _, later := range []time.Duration{0, time.Second, time.Hour} {
		d, src, s := newPeopled(t)
		src.StepWall(30 * day)
		off, err := s.Clock()
		must(t, err)
		if !off.Shifted {
			t.Fatal("it is not shifted")
		}
		submit(t, s, quorum.Clock{OffSeconds: int64(off.Off / time.Second)})
		src.Advance(requestDelay + time.Minute)
		must(t, s.clock.Save()) // the file is of the very second of the record
		before, err := durable.ReadFile(d, clockFile, 1<<20)
		must(t, err)
		if n, err := s.CarryOut(ctx); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		must(t, durable.Replace(d, clockFile, before, 0o600)) // as after a cut
		src.Advance(later)
		s = open(t, d.Restart(crashdisk.KeepAll, 0), src)
		if r, err := s.Clock(); err != nil || r.Shifted || r.Off.Abs() > time.Minute {
			t.Errorf("%v later: %+v %v", later, r, err)
		}
		if p, _ := s.Now(); p.Running < s.state.newest.Running {
			t.Error("running time went back")
		}
	}
}

// TestPeopleAreReadStrictly: a file of settings is a person's, and says each thing once.
func TestPeopleAreReadStrictly(t *testing.T) {
	key := func(s signer) string { return s.person().Keys[0] }
	good := fmt.Sprintf(`{"threshold":2,"people":[{"name":"anna","keys":["%s anna@desk"]},{"name":"bert","keys":[%q]}]}`, key(anna), key(bert))
	p, err := ParsePeople([]byte(good))
	must(t, err)
	if !p.Equal(peopleOf(2, anna, bert)) {
		t.Errorf("%+v", p)
	}
	if p, err := ParsePeople(nil); err != nil || p.Threshold != 0 {
		t.Errorf("%+v %v", p, err)
	}
	for _, bad := range []string{
		strings.Replace(good, `:2,`, `:1,`, 1), strings.Replace(good, `:2,`, `:3,`, 1), strings.Replace(good, `{"threshold":2,`, `{"threshold":2,"threshold":2,`, 1),
		strings.Replace(good, `{"threshold":2,`, `{"Threshold":3,"threshold":2,`, 1), strings.Replace(good, `"name":"anna",`, `"name":"anna","name":"x",`, 1),
		strings.Replace(good, `"keys"`, `"key"`, 1), strings.Replace(good, key(bert), key(anna), 1), strings.Replace(good, "ssh-ed25519 A", "ssh-dss A", 1),
		good + "{}", "[]", "{", `{"threshold":2}`, "null",
	} {
		if _, err := ParsePeople([]byte(bad)); err == nil {
			t.Errorf("taken: %s", bad)
		}
	}
}

// TestReplayBelievesNoNonsense: records that no program of ours writes change nothing, and one of a request that a later release
// carried out stops removal.
func TestReplayBelievesNoNonsense(t *testing.T) {
	_, _, s := newPeopled(t)
	snap := commit(t, s, "web1", "s1", ledger.Lock{})
	now, err := s.Now()
	must(t, err)
	st := s.state
	data := encoded(t, ask(t, s, quorum.Delete{Snapshots: []string{snap.ID}}))
	id := quorum.ID(data)
	rec := func(kind ledger.Kind, set func(r *ledger.Record)) {
		r := ledger.Record{Seq: 100, Kind: kind, At: now}
		set(&r)
		st.apply(r)
	}
	carried := func(id string, done bool) {
		rec(ledger.KindCarried, func(r *ledger.Record) { r.Carried = &ledger.Carried{Request: id, Done: done} })
	}
	carried(id, true)
	rec(ledger.KindVeto, func(r *ledger.Record) { r.Veto = &ledger.Veto{Request: id} })
	rec(ledger.KindRequest, func(r *ledger.Record) {
		r.Request = &ledger.Request{ID: strings.Repeat("0", 64), Request: string(data)}
	})
	rec(ledger.KindPeople, func(r *ledger.Record) {
		r.People = &ledger.People{Threshold: 1, People: []ledger.Person{ledger.Person(anna.person())}}
	})
	rec(ledger.KindPeople, func(r *ledger.Record) {
		r.People = &ledger.People{Threshold: 2, People: []ledger.Person{ledger.Person(carl.person()), ledger.Person(dora.person())}}
	})
	if len(st.requests) != 0 || !st.people.Equal(three) || st.byID[snap.ID].released || s.halt() != "" {
		t.Errorf("%d requests, people %+v, released %t, %q", len(st.requests), st.people, st.byID[snap.ID].released, s.halt())
	}
	rec(ledger.KindRequest, func(r *ledger.Record) { r.Request = &ledger.Request{ID: id, Request: string(data)} })
	rec(ledger.KindVeto, func(r *ledger.Record) { r.Veto = &ledger.Veto{Request: id} })
	carried(id, true)
	if st.byID[snap.ID].released {
		t.Error("a vetoed request was carried out")
	}
	rec(ledger.KindRequest, func(r *ledger.Record) { r.Request = &ledger.Request{ID: "later", Request: "{\"holdfast_request\": 2"} })
	carried("later", false)
	if s.halt() != "" {
		t.Error(s.halt())
	}
	carried("later", true)
	if !strings.Contains(s.halt(), "newer release") {
		t.Errorf("%q", s.halt())
	}
}

// TestCarriedPolicyIsTheOneInForce: also for whoever configures afterwards, and across a restart.
func TestCarriedPolicyIsTheOneInForce(t *testing.T) {
	d, src, s := newPeopled(t)
	p := s.Policy()
	p.MinSeconds, p.Keep = 30, policy.Keep{Daily: 3}
	p.Sources = map[string]policy.Rules{"db1": {MaxSeconds: 9000}}
	submit(t, s, policyBody(t, p))
	src.Advance(requestDelay + time.Minute)
	must(t, s.Tick()) // which carries out what is due
	for range 2 {
		if got := s.Policy(); fmt.Sprint(got) != fmt.Sprint(p) {
			t.Errorf("%+v, want %+v", got, p)
		}
		must(t, s.Close())
		s = open(t, d, src)
	}
	if snap := commit(t, s, "db1", "s1", ledger.Lock{ForSeconds: 8000}); snap.Lock.ForSeconds != 8000 {
		t.Errorf("%+v", snap.Lock)
	}
	if changed, refused, err := s.Adopt(ctx, ledger.Policy{MinSeconds: 10}, ""); changed || len(refused) != 1 || err != nil {
		t.Errorf("changed %t, refused %v, %v", changed, refused, err)
	}
	must(t, independentlyAlways(d))
}
