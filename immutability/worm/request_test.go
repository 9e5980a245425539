package worm

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
)

// TestNobodyAloneMakesTheVaultForget: what is brought is refused unless it is whole, ours, in time, new, of this past and
// signed by enough different people and nobody else. Nothing is written for what is refused.
func TestNobodyAloneMakesTheVaultForget(t *testing.T) {
	type brought struct {
		data []byte
		sigs [][]byte
	}
	plain := func(s *Store, body any, change func(*quorum.Request)) brought {
		r := ask(t, s, body)
		if change != nil {
			change(&r)
		}
		data := encoded(t, r)
		return brought{data, both(data)}
	}
	by := func(change func(*quorum.Request)) func(*Store, any) brought {
		return func(s *Store, body any) brought { return plain(s, body, change) }
	}
	with := func(sigs func(data []byte) [][]byte) func(*Store, any) brought {
		return func(s *Store, body any) brought {
			b := plain(s, body, nil)
			b.sigs = sigs(b.data)
			return b
		}
	}
	for _, c := range []struct {
		name, want string // want "": it is taken
		make       func(s *Store, body any) brought
	}{
		{"two of three", "", by(nil)},
		{"all three", "", with(func(d []byte) [][]byte { return signed(d, carl, bert, anna) })},
		{"in armour", "", with(func(d []byte) [][]byte { return [][]byte{armoured(anna.sign(d)), carl.sign(d)} })},
		{"nobody", "0 of 3 people", with(func([]byte) [][]byte { return nil })},
		{"one", "1 of 3 people", with(func(d []byte) [][]byte { return signed(d, anna) })},
		{"one, twice", "signed it already", with(func(d []byte) [][]byte { return signed(d, anna, anna) })},
		{"enough, and a stranger", "none of the people", with(func(d []byte) [][]byte { return signed(d, anna, bert, dora) })},
		{"enough, and a signature of nothing", "SSH SIGNATURE", with(func(d []byte) [][]byte { return append(both(d), []byte("x")) })},
		{"of another namespace", "git", with(func(d []byte) [][]byte { return [][]byte{anna.sign(d), bert.signFor("git", d)} })},
		{"altered after it was signed", "altered", func(s *Store, body any) brought {
			b := plain(s, body, nil)
			b.data = []byte(strings.Replace(string(b.data), "a test", "A test", 1))
			return b
		}},
		{"a signature altered", "does not fit", with(func(d []byte) [][]byte {
			sigs := both(d)
			sigs[1][len(sigs[1])-1] ^= 1
			return sigs
		})},
		{"of another request", "does not fit", func(s *Store, body any) brought {
			b := plain(s, body, nil)
			b.sigs[0] = anna.sign(plain(s, body, nil).data)
			return b
		}},
		{"spelled otherwise", "request: line", func(s *Store, body any) brought {
			b := plain(s, body, nil)
			b.data = []byte(strings.Replace(string(b.data), ": \"", ":\"", 1))
			return brought{b.data, both(b.data)}
		}},
		{"of another vault", "is of vault", by(func(r *quorum.Request) { r.Vault = strings.Repeat("f", 32) })},
		{"before its window", "begins to count", by(func(r *quorum.Request) { r.From = r.From.Add(2 * time.Hour) })},
		{"after its window", "window ended", by(func(r *quorum.Request) { r.From, r.Until = r.From.Add(-2*day), r.From })},
		{"a window that leaves no room for the delay", "72 hours", by(func(r *quorum.Request) { r.Until = r.From.Add(time.Hour + requestDelay) })},
		{"a window that just does", "", by(func(r *quorum.Request) { r.Until = r.From.Add(time.Hour + requestDelay + 2*time.Second) })},
		{"of an older root that is still a part", "", by(func(r *quorum.Request) { r.Size, r.Root = 1, "" })},
		{"of another past", "another past", by(func(r *quorum.Request) { r.Root = strings.Repeat("A", 43) + "=" })},
		{"of a ledger that is longer", "another past", by(func(r *quorum.Request) { r.Size++ })},
		{"for another origin, which is not brought here", "holdfast-keeper origin", func(s *Store, _ any) brought {
			return plain(s, quorum.Origin{Note: "a note", Root: strings.Repeat("A", 43) + "="}, nil)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, s := newPeopled(t)
			snap := commit(t, s, "web1", "s1", ledger.Lock{})
			commit(t, s, "web1", "s2", ledger.Lock{})
			firstRoot, err := s.Ledger().RootAt(1)
			must(t, err)
			make := c.make
			if c.name == "of an older root that is still a part" {
				make = by(func(r *quorum.Request) { r.Size, r.Root = 1, firstRoot.String() })
			}
			b := make(s, quorum.Delete{Snapshots: []string{snap.ID}})
			size := s.Ledger().Size()
			info, err := s.Submit(ctx, b.data, b.sigs, "anna")
			if c.want != "" {
				refusal(t, c.name, err, c.want)
				if all, err := s.Requests(); err != nil || len(all) != 0 || s.Ledger().Size() != size {
					t.Errorf("%v requests, %d records more, %v", all, s.Ledger().Size()-size, err)
				}
				return
			}
			must(t, err)
			if info.State != RequestWaiting || info.ID != quorum.ID(b.data) || len(info.Signatures) != len(b.sigs) || info.By != "anna" || info.Seq != size {
				t.Errorf("%+v", info)
			}
			if _, err := s.Submit(ctx, b.data, b.sigs, "anna"); !errors.Is(err, ErrBrought) {
				t.Errorf("the same again: %v", err)
			}
		})
	}
}

// requestCase is a life of a request: what is there, what is asked for, what happens while it waits, and what becomes of it.
type requestCase struct {
	name   string
	before func(w *requestWorld)
	ask    func(w *requestWorld) any // nil: to delete the old snapshot
	refuse string                    // what the refusal says when it is brought
	while  func(w *requestWorld)     // after it was brought; the time that passes in it counts
	wait   time.Duration             // 0: 72 hours and a minute
	want   RequestState
	why    string // what it says of itself
	after  func(w *requestWorld)
}

type requestWorld struct {
	t    *testing.T
	src  *clock.Manual
	s    *Store
	old  Snapshot // governance, one of two
	new  Snapshot
	hard Snapshot // compliance, one of two of its own source
	info RequestInfo
}

func (w *requestWorld) locked(id string) bool {
	w.t.Helper()
	snap, err := w.s.Snapshot(id)
	must(w.t, err)
	return snap.Locked
}

func (w *requestWorld) secure() { must(w.t, w.s.Secure(ctx, "strange logins", "anna")) }

func (w *requestWorld) hold(id string) Hold {
	snap, err := w.s.Hold(ctx, id, "a case", "anna")
	must(w.t, err)
	return snap.Holds[len(snap.Holds)-1]
}

func (w *requestWorld) policy(change func(p *ledger.Policy)) any {
	p := w.s.Policy()
	change(&p)
	return policyBody(w.t, p)
}

var requestCases = []requestCase{
	{name: "delete ends a governance lock", want: RequestCarried, after: func(w *requestWorld) {
		if w.locked(w.old.ID) || !w.locked(w.new.ID) {
			w.t.Error("locks")
		}
	}},
	{name: "nothing before 72 hours", wait: requestDelay - time.Minute, want: RequestWaiting, after: func(w *requestWorld) {
		if !w.locked(w.old.ID) {
			w.t.Error("it is not locked")
		}
	}},
	{name: "a veto ends it", while: func(w *requestWorld) {
		if _, err := w.s.Veto(ctx, w.info.ID, "who is anna?", "an operator"); err != nil {
			w.t.Error(err)
		}
	}, want: RequestVetoed, after: func(w *requestWorld) {
		if !w.locked(w.old.ID) {
			w.t.Error("it is not locked")
		}
	}},
	{name: "the window ended before", ask: nil, wait: 21 * day, want: RequestLapsed, why: "window ended"},
	{name: "delete of what does not exist", ask: func(*requestWorld) any {
		return quorum.Delete{Snapshots: []string{strings.Repeat("0", 64)}}
	}, refuse: "no such snapshot"},
	{name: "delete of a compliance lock that runs", ask: func(w *requestWorld) any { return quorum.Delete{Snapshots: []string{w.hard.ID}} }, refuse: "compliance lock"},
	{name: "delete of a compliance lock that has run", before: func(w *requestWorld) { w.src.Advance(3 * time.Hour) },
		ask: func(w *requestWorld) any { return quorum.Delete{Snapshots: []string{w.hard.ID}} }, want: RequestCarried},
	{name: "delete of what is held", before: func(w *requestWorld) { w.hold(w.old.ID) }, refuse: "it is held"},
	{name: "delete of the newest", ask: func(w *requestWorld) any { return quorum.Delete{Snapshots: []string{w.new.ID}} }, refuse: "never goes"},
	{name: "delete of what became compliance while it waited", while: func(w *requestWorld) {
		w.src.Advance(71 * time.Hour)
		_, err := w.s.Extend(ctx, w.old.ID, ledger.Lock{Mode: ledger.Compliance, ForSeconds: 7200}, "anna")
		must(w.t, err)
	}, wait: time.Hour + time.Minute, want: RequestFailed, why: "compliance lock"},
	{name: "delete of what was held while it waited", while: func(w *requestWorld) { w.hold(w.old.ID) }, want: RequestFailed, why: "it is held"},
	{name: "delete ends locks that were added while it waited", while: func(w *requestWorld) {
		w.src.Advance(71 * time.Hour)
		_, err := w.s.Extend(ctx, w.old.ID, ledger.Lock{Mode: ledger.Governance, ForSeconds: 7200}, "anna")
		must(w.t, err)
	}, wait: time.Hour + time.Minute, want: RequestCarried, after: func(w *requestWorld) {
		if w.locked(w.old.ID) || !w.s.state.byID[w.old.ID].released {
			w.t.Error("it is locked")
		}
	}},
	{name: "a lock after it was carried out is a lock", want: RequestCarried, after: func(w *requestWorld) {
		_, err := w.s.Extend(ctx, w.old.ID, ledger.Lock{Mode: ledger.Governance, ForSeconds: 100}, "anna")
		must(w.t, err)
		if !w.locked(w.old.ID) || w.s.state.byID[w.old.ID].released {
			w.t.Error("it is not locked")
		}
	}},

	{name: "release ends the hold that it names and no other", before: func(w *requestWorld) {
		w.hold(w.old.ID)
		_, err := w.s.Hold(ctx, w.old.ID, "another case", "bert")
		must(w.t, err)
	}, ask: func(w *requestWorld) any {
		return quorum.Release{Snapshot: w.old.ID, Holds: []uint64{w.s.state.byID[w.old.ID].holds[0].Seq}}
	}, want: RequestCarried, after: func(w *requestWorld) {
		if snap, err := w.s.Snapshot(w.old.ID); err != nil || len(snap.Holds) != 1 || snap.Holds[0].Reason != "another case" {
			w.t.Errorf("%+v, %v", snap.Holds, err)
		}
	}},
	{name: "release of a number that is no hold", before: func(w *requestWorld) { w.hold(w.old.ID) },
		ask: func(w *requestWorld) any { return quorum.Release{Snapshot: w.old.ID, Holds: []uint64{1}} }, refuse: "no hold of number 1"},
	{name: "release of another snapshot's hold", before: func(w *requestWorld) { w.hold(w.new.ID) },
		ask: func(w *requestWorld) any {
			return quorum.Release{Snapshot: w.old.ID, Holds: []uint64{w.s.state.byID[w.new.ID].holds[0].Seq}}
		}, refuse: "no hold of number"},
	{name: "two requests to release the same", before: func(w *requestWorld) { w.hold(w.old.ID) }, ask: func(w *requestWorld) any {
		release := quorum.Release{Snapshot: w.old.ID, Holds: []uint64{w.s.state.byID[w.old.ID].holds[0].Seq}}
		submit(w.t, w.s, release)
		return release
	}, want: RequestFailed, why: "no hold of number"},

	{name: "policy becomes looser", before: func(w *requestWorld) { w.src.Advance(100 * time.Hour) },
		ask: func(w *requestWorld) any {
			return w.policy(func(p *ledger.Policy) { p.MinSeconds, p.DefaultSeconds, p.MaxSeconds = 0, 1, 9000 })
		},
		want: RequestCarried, after: func(w *requestWorld) {
			if p := w.s.Policy(); p.MinSeconds != 0 || p.DefaultSeconds != 1 || p.MaxSeconds != 9000 {
				w.t.Errorf("%+v", p)
			}
		}},
	{name: "policy beyond its bounds", ask: func(w *requestWorld) any { return w.policy(func(p *ledger.Policy) { p.MaxSeconds = 1 << 40 }) }, refuse: "400 days"},
	{name: "policy of what is none", ask: func(*requestWorld) any { return quorum.PolicyChange(`{"colour":"blue"}`) }, refuse: "colour"},
	{name: "policy in other letters", ask: func(*requestWorld) any { return quorum.PolicyChange(`{"Mode":"governance"}`) }, refuse: "small letters"},
	{name: "compliance that has hardened stays", before: func(w *requestWorld) {
		_, _, err := w.s.Adopt(ctx, ledger.Policy{Mode: ledger.Compliance}, "")
		must(w.t, err)
		w.src.Advance(73 * time.Hour)
	}, ask: func(w *requestWorld) any { return w.policy(func(p *ledger.Policy) { p.Mode = ledger.Governance }) }, refuse: "has hardened"},
	{name: "compliance that hardens while it waits stays", before: func(w *requestWorld) {
		_, _, err := w.s.Adopt(ctx, ledger.Policy{Mode: ledger.Compliance}, "")
		must(w.t, err)
	}, ask: func(w *requestWorld) any { return w.policy(func(p *ledger.Policy) { p.Mode = ledger.Governance }) }, want: RequestFailed, why: "has hardened"},
	{name: "durations under a hardened compliance may become shorter", before: func(w *requestWorld) {
		_, _, err := w.s.Adopt(ctx, ledger.Policy{Mode: ledger.Compliance}, "")
		must(w.t, err)
		w.src.Advance(73 * time.Hour)
	}, ask: func(w *requestWorld) any { return w.policy(func(p *ledger.Policy) { p.MinSeconds = 1 }) }, want: RequestCarried},

	{name: "people become others", ask: func(*requestWorld) any { return peopleOf(2, carl, dora) }, want: RequestCarried, after: func(w *requestWorld) {
		p, err := w.s.People()
		must(w.t, err)
		if !p.InForce || !p.People.Equal(peopleOf(2, carl, dora)) || p.By != w.info.ID {
			w.t.Errorf("%+v", p)
		}
		data := encoded(w.t, ask(w.t, w.s, quorum.Delete{Snapshots: []string{w.old.ID}}))
		_, err = w.s.Submit(ctx, data, both(data), "anna")
		refusal(w.t, "the people of before", err, "none of the people")
		_, err = w.s.Submit(ctx, data, signed(data, carl, dora), "carl")
		must(w.t, err)
	}},
	{name: "a removed person's signature counts no more", before: func(w *requestWorld) {
		submit(w.t, w.s, peopleOf(2, bert, carl)) // brought first, carried out first
	}, want: RequestFailed, why: "1 of those who signed"},
	{name: "a removed person's signature says nothing against the others'", before: func(w *requestWorld) {
		submit(w.t, w.s, peopleOf(1+1, anna, bert))
	}, want: RequestCarried},
	{name: "a higher threshold counts at once", before: func(w *requestWorld) {
		submit(w.t, w.s, peopleOf(3, anna, bert, carl))
	}, want: RequestFailed, why: "it takes 3"},

	{name: "resume while nothing is secured", ask: func(*requestWorld) any { return quorum.Resume{} }, refuse: "not secured"},
	{name: "resume ends what was secured", before: (*requestWorld).secure, ask: func(*requestWorld) any { return quorum.Resume{} }, want: RequestCarried,
		after: func(w *requestWorld) {
			if _, on := w.s.Secured(); on {
				w.t.Error("still secured")
			}
		}},
	{name: "resume ends nothing that was secured later", before: (*requestWorld).secure, ask: func(*requestWorld) any { return quorum.Resume{} },
		while: func(w *requestWorld) { must(w.t, w.s.Secure(ctx, "and again", "bert")) }, want: RequestFailed, why: "secured again",
		after: func(w *requestWorld) {
			if at, on := w.s.Secured(); !on || at.By != "bert" {
				w.t.Errorf("%+v", at)
			}
		}},
	{name: "under secure nothing else is brought", before: (*requestWorld).secure, refuse: "secured"},
	{name: "what waits waits on under secure", while: (*requestWorld).secure, want: RequestWaiting, why: "secured", after: func(w *requestWorld) {
		if !w.locked(w.old.ID) || w.s.state.byID[w.old.ID].released {
			w.t.Error("carried out")
		}
	}},
	{name: "what waits lapses under secure", while: (*requestWorld).secure, wait: 21 * day, want: RequestLapsed},
	{name: "what waited goes on after resume", while: func(w *requestWorld) {
		w.secure()
		submit(w.t, w.s, quorum.Resume{})
	}, want: RequestCarried},
	{name: "secured in the moment in which it is due", while: func(w *requestWorld) {
		w.src.Advance(requestDelay + time.Minute)
		w.secure()
	}, wait: time.Second, want: RequestWaiting, why: "secured"},

	{name: "clock that is not off", ask: func(*requestWorld) any { return quorum.Clock{OffSeconds: 7200} }, refuse: "off by 0 s"},
	{name: "clock that is shifted is taken as right", before: func(w *requestWorld) { w.src.StepWall(30 * day) },
		ask: func(*requestWorld) any { return quorum.Clock{OffSeconds: 30*24*3600 + 60} }, want: RequestCarried, after: func(w *requestWorld) {
			if shifted, why := w.s.ClockShifted(); shifted {
				w.t.Error(why)
			}
		}},
	{name: "clock that moved on while it waited", before: func(w *requestWorld) { w.src.StepWall(2 * day) },
		ask: func(*requestWorld) any { return quorum.Clock{OffSeconds: 2 * 24 * 3600} }, while: func(w *requestWorld) { w.src.StepWall(time.Hour) },
		want: RequestFailed, why: "off by"},
	{name: "a shifted clock stops the others", while: func(w *requestWorld) { w.src.StepWall(2 * day) }, want: RequestWaiting},

	{name: "72 hours though the wall clock is set ahead", while: func(w *requestWorld) { w.src.StepWall(20 * time.Hour) }, wait: 70 * time.Hour, want: RequestWaiting},
	{name: "72 hours though the wall clock is set back", while: func(w *requestWorld) { w.src.StepWall(-20 * time.Hour) }, wait: 73 * time.Hour, want: RequestWaiting},
	{name: "72 hours of running: a machine that is off does not count", while: func(w *requestWorld) { w.src.StepWall(23 * time.Hour) }, wait: 71 * time.Hour, want: RequestWaiting},
}

// TestTransitionsOfRequests: what may be asked for, what happens to a request that waits, and what comes of it.
func TestTransitionsOfRequests(t *testing.T) {
	for _, c := range requestCases {
		t.Run(c.name, func(t *testing.T) {
			d, src, s := newPeopled(t)
			w := &requestWorld{t: t, src: src, s: s}
			w.old = commit(t, s, "web1", "s1", ledger.Lock{ForSeconds: 7200})
			w.hard = commit(t, s, "db1", "s2", ledger.Lock{Mode: ledger.Compliance, ForSeconds: 7200})
			commit(t, s, "db1", "s3", ledger.Lock{})
			// Locks of this vault last two hours, and requests wait for three days: the locks are renewed where a case asks.
			w.new = commit(t, s, "web1", "s4", ledger.Lock{ForSeconds: 7200})
			if c.before != nil {
				c.before(w)
			}
			var body any = quorum.Delete{Snapshots: []string{w.old.ID}}
			if c.ask != nil {
				body = c.ask(w)
			}
			data := encoded(t, ask(t, s, body))
			size := s.Ledger().Size()
			info, err := s.Submit(ctx, data, both(data), "anna")
			if c.refuse != "" {
				refusal(t, "submit", err, c.refuse)
				if s.Ledger().Size() != size {
					t.Error("a refusal was recorded")
				}
				return
			}
			must(t, err)
			w.info = info
			if c.while != nil {
				c.while(w)
			}
			if c.wait == 0 {
				c.wait = requestDelay + time.Minute
			}
			src.Advance(c.wait)
			for _, id := range []string{w.new.ID, w.old.ID} { // so that a lock runs that is ended, or is not
				if _, err := s.Extend(ctx, id, ledger.Lock{}, "the test"); err != nil && !errors.Is(err, ErrShorter) {
					t.Fatal(err)
				}
			}
			for range 2 {
				if _, err := s.CarryOut(ctx); err != nil {
					t.Fatal(err)
				}
			}
			for round := range 2 { // the second time after a restart
				got := stateOf(t, s, info.ID)
				if got.State != c.want || !strings.Contains(got.Why, c.why) {
					t.Errorf("round %d: %s (%q), want %s (%q)", round, got.State, got.Why, c.want, c.why)
				}
				if round == 0 {
					must(t, s.Close())
					s = open(t, d, src)
					w.s = s
				}
			}
			if c.after != nil {
				c.after(w)
			}
			if got := stateOf(t, s, info.ID); got.State != c.want {
				t.Errorf("in the end: %s", got.State)
			}
			must(t, independentlyAlways(d))
		})
	}
}
