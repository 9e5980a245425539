package worm

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/witness"
	"golang.org/x/mod/sumdb/note"
	"pgregory.net/rapid"
)

// outsider is a witness whose clock the test holds.
type outsider struct {
	Witness
	signer *witness.Signer
	at     time.Time
}

func newOutsider(t testing.TB, n int) *outsider {
	t.Helper()
	o := &outsider{}
	secret, public, err := witness.NewKey(bytes.NewReader(bytes.Repeat([]byte{byte(n)}, 32)), fmt.Sprintf("w.example/%d", n))
	must(t, err)
	o.Witness = Witness{Name: fmt.Sprint("w", n), Key: public}
	o.signer, err = witness.NewSigner(secret, func() time.Time { return o.at })
	must(t, err)
	return o
}

func (o *outsider) cosign(t testing.TB, signed []byte) []byte {
	t.Helper()
	text := signed[:bytes.LastIndex(signed, []byte("\n\n"))+1]
	own, err := note.Sign(&note.Note{Text: string(text)}, o.signer)
	must(t, err)
	return append(bytes.Clone(signed), own[len(text)+1:]...)
}

func outsiders(t testing.TB, n, quorum int) ([]*outsider, Witnesses) {
	t.Helper()
	w := Witnesses{Quorum: quorum}
	var all []*outsider
	for i := range n {
		o := newOutsider(t, i+1)
		all, w.Members = append(all, o), append(w.Members, o.Witness)
	}
	return all, w
}

// tell has every witness cosign the newest checkpoint at a time, and brings that to the store.
func tell(t testing.TB, s *Store, all []*outsider, at time.Time) {
	t.Helper()
	signed := s.Ledger().Checkpoint()
	for _, o := range all {
		o.at = at
		must(t, s.Cosigned(ctx, o.cosign(t, signed)))
	}
}

func wallOf(t testing.TB, src *clock.Manual) time.Time {
	t.Helper()
	now, err := src.Read()
	must(t, err)
	return now.Wall
}

func countKind(s *Store, k ledger.Kind) (n int) {
	for r := range s.Ledger().Records() {
		if r.Kind == k {
			n++
		}
	}
	return n
}

func TestWitnessesStandInForAVaultThatWasSwitchedOff(t *testing.T) {
	for name, quorum := range map[string]int{"with witnesses": 2, "without": 0} {
		t.Run(name, func(t *testing.T) {
			d, src, s := newStore(t)
			all, trust := outsiders(t, 3, max(quorum, 1))
			if quorum > 0 {
				must(t, s.TrustWitnesses(trust))
			}
			snap := commit(t, s, "web1", "s1", ledger.Lock{ForSeconds: 3600})
			commit(t, s, "web1", "s2", ledger.Lock{}) // the newest one never goes
			if quorum > 0 {
				tell(t, s, all, wallOf(t, src))
			}
			must(t, s.Close())
			src.Reboot(2 * time.Hour)
			s = open(t, d, src)
			if quorum > 0 {
				must(t, s.TrustWitnesses(trust))
			}
			got, err := s.snapshot(snap.ID)
			must(t, err)
			if !got.Locked {
				t.Fatal("the wall clock alone ended a lock")
			}
			if quorum > 0 {
				src.Advance(time.Second)
				tell(t, s, all, wallOf(t, src))
			}
			got, err = s.snapshot(snap.ID)
			must(t, err)
			if got.Locked != (quorum == 0) {
				t.Errorf("locked %t", got.Locked)
			}
			report, err := s.Clock()
			must(t, err)
			if late := report.Late > time.Hour; late != (quorum == 0) {
				t.Errorf("locks are said to end %v late", report.Late)
			}
		})
	}
}

// TestAWitnessOfAnImpossibleTimeStopsNobody: one witness that claims a time which no record can hold keeps the others' word out of
// no record.
func TestAWitnessOfAnImpossibleTimeStopsNobody(t *testing.T) {
	_, src, s := newStore(t)
	all, trust := outsiders(t, 3, 2)
	must(t, s.TrustWitnesses(trust))
	commit(t, s, "web1", "s1", ledger.Lock{ForSeconds: 3600})
	signed := s.Ledger().Checkpoint()
	all[0].at = time.Unix(1<<40, 0)
	liar := all[0].cosign(t, signed)
	if err := s.Cosigned(ctx, liar); err == nil || !strings.Contains(err.Error(), "its clock is wrong") {
		t.Errorf("a time in the year %d: %v", all[0].at.Year(), err)
	}
	must(t, s.Ledger().KeepCosigned(liar)) // as a release did that did not look
	for _, o := range all[1:] {
		o.at = wallOf(t, src)
		must(t, s.Cosigned(ctx, o.cosign(t, signed)))
	}
	if n := countKind(s, ledger.KindWitnessed); n != 1 {
		t.Errorf("%d records of what an honest quorum said", n)
	}
}

func TestWitnessesAloneEndNoLock(t *testing.T) {
	_, src, s := newStore(t)
	all, trust := outsiders(t, 1, 1)
	must(t, s.TrustWitnesses(trust))
	snap := commit(t, s, "web1", "s1", ledger.Lock{ForSeconds: 3600})
	tell(t, s, all, wallOf(t, src))
	src.Advance(50 * time.Second)
	tell(t, s, all, wallOf(t, src).Add(1000*day))
	if got, err := s.snapshot(snap.ID); err != nil || !got.Locked {
		t.Errorf("%+v %v", got, err)
	}
}

// TestDishonestWitnessesBelowTheQuorumEndNoLockEarly: the wall clock is anybody's, the running time stands still, and fewer
// than a quorum of the witnesses say whatever they like. A lock ends only when its time has really passed; and when all but
// these are honest and asked, it does end.
func TestDishonestWitnessesBelowTheQuorumEndNoLockEarly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 7).Draw(t, "witnesses")
		q := rapid.IntRange(1, n).Draw(t, "quorum")
		liars := rapid.IntRange(0, q-1).Draw(t, "liars")
		trust := Witnesses{Quorum: q}
		for i := range n {
			trust.Members = append(trust.Members, Witness{Key: fmt.Sprint(i)})
		}
		const grantAt, seq = 1_000_000, uint64(10)
		d := time.Duration(rapid.IntRange(1, 100_000).Draw(t, "duration")) * time.Second
		var w sightings
		w.granted(seq)
		real, size := int64(grantAt-1000), uint64(3)
		for range rapid.IntRange(1, 12).Draw(t, "rounds") {
			real += rapid.Int64Range(0, 60_000).Draw(t, "passes")
			if real >= grantAt && rapid.Bool().Draw(t, "covers") {
				size = max(size, seq+1)
			}
			in := &ledger.Witnessed{Size: size, Quorum: q}
			for i := range n {
				at := real
				if i < liars {
					at = rapid.Int64Range(0, 1<<33).Draw(t, "lie")
				} else if rapid.IntRange(0, 9).Draw(t, "silent") == 0 {
					continue
				}
				in.Cosignatures = append(in.Cosignatures, ledger.Cosignature{Witness: fmt.Sprint(i), At: time.Unix(at, 0)})
			}
			w.apply(ledger.Record{Seq: 1000, Kind: ledger.KindWitnessed, Witnessed: in})
			g := grant{lock: ledger.Lock{Mode: ledger.Governance, ForSeconds: int64(d / time.Second)}, seq: seq, seen: w.since(seq, trust)}
			now := clock.Stamp{Wall: time.Unix(1<<40, 0)}
			if passed := real - grantAt; !g.running(now) && passed < g.lock.ForSeconds {
				t.Fatalf("a lock of %v ended after %d s: the witnesses saw %d", d, passed, g.seen)
			}
		}
		if n-liars < q || size <= seq {
			return
		}
		real += int64(d/time.Second) + 2
		in := &ledger.Witnessed{Size: size, Quorum: q}
		for i := liars; i < n; i++ {
			in.Cosignatures = append(in.Cosignatures, ledger.Cosignature{Witness: fmt.Sprint(i), At: time.Unix(real, 0)})
		}
		// What covered the lock first may be of liars that claim the far future: that only keeps it longer.
		covered := slices.ContainsFunc(w.covers, func(c cover) bool { return c.size > seq })
		w.apply(ledger.Record{Seq: 1000, Kind: ledger.KindWitnessed, Witnessed: in})
		if g := (grant{lock: ledger.Lock{Mode: ledger.Governance, ForSeconds: int64(d / time.Second)}, seq: seq, seen: w.since(seq, trust)}); liars == 0 && covered && g.running(clock.Stamp{Wall: time.Unix(1<<40, 0)}) {
			t.Fatalf("honest witnesses saw %d s and a lock of %v runs", g.seen, d)
		}
	})
}

func TestWhatWitnessesSaidIsRecordedOnceAnHourAndForEachLock(t *testing.T) {
	d, src, s := newStore(t)
	all, trust := outsiders(t, 3, 2)
	must(t, s.TrustWitnesses(trust))
	count := func(want int, why string) {
		t.Helper()
		if got := countKind(s, ledger.KindWitnessed); got != want {
			t.Fatalf("%s: %d records, want %d", why, got, want)
		}
	}
	all[0].at = wallOf(t, src)
	must(t, s.Cosigned(ctx, all[0].cosign(t, s.Ledger().Checkpoint())))
	count(0, "one of two")
	tell(t, s, all, wallOf(t, src))
	count(1, "the first")
	tell(t, s, all, wallOf(t, src))
	count(1, "at once again")
	commit(t, s, "web1", "s1", ledger.Lock{})
	tell(t, s, all, wallOf(t, src))
	count(2, "a commit")
	src.Advance(59 * time.Minute)
	tell(t, s, all, wallOf(t, src))
	count(2, "before the hour")
	src.Advance(time.Minute)
	tell(t, s, all, wallOf(t, src))
	count(3, "after it")
	// It is evidence: whoever has the witnesses' keys finds that the signatures hold.
	for r := range s.Ledger().Records() {
		w := r.Witnessed
		if w == nil {
			continue
		}
		text := fmt.Sprintf("%s\n%d\n%s\n\n", w.Origin, w.Size, w.Root)
		for i, c := range w.Cosignatures {
			v, err := witness.NewVerifier(c.Witness)
			must(t, err)
			n, err := note.Open([]byte(text+"— "+v.Name()+" "+c.Signature+"\n"), note.VerifierList(v))
			if err != nil || len(n.Sigs) != 1 || c.Witness != all[i].Key {
				t.Errorf("record %d: %v", r.Seq, err)
			}
		}
	}
	again := open(t, d, src)
	must(t, again.TrustWitnesses(trust))
	tell(t, again, all, wallOf(t, src))
	if got := countKind(again, ledger.KindWitnessed); got != 3 {
		t.Errorf("after reopening: %d", got)
	}
}

func TestCosignaturesOfStrangersAreDropped(t *testing.T) {
	_, src, s := newStore(t)
	all, trust := outsiders(t, 2, 1)
	trust.Members = trust.Members[:1]
	must(t, s.TrustWitnesses(trust))
	all[0].at, all[1].at = wallOf(t, src), wallOf(t, src)
	cp := s.Ledger().Checkpoint()
	if err := s.Cosigned(ctx, all[1].cosign(t, cp)); !errors.Is(err, ErrNoWitness) || s.Ledger().Cosigned() != nil {
		t.Errorf("a stranger alone: %v", err)
	}
	must(t, s.Cosigned(ctx, all[1].cosign(t, all[0].cosign(t, cp))))
	if got := string(s.Ledger().Cosigned()); strings.Contains(got, "w.example/2") || !strings.Contains(got, "w.example/1") {
		t.Errorf("kept:\n%s", got)
	}
	signed := all[0].cosign(t, cp)
	signed[len(signed)-20] ^= 1
	if err := s.Cosigned(ctx, signed); err == nil {
		t.Error("a signature that does not hold was taken")
	}
}

func TestLevelWitnessedNeedsAFreshQuorum(t *testing.T) {
	_, src, s := newStore(t)
	all, trust := outsiders(t, 3, 2)
	holds := func(want bool, why string) {
		t.Helper()
		st, err := s.Witnessed()
		must(t, err)
		if st.Holds != want || (st.Why == "") != want || !strings.Contains(st.Why, why) {
			t.Errorf("%q: %+v", why, st)
		}
	}
	holds(false, "no witnesses are configured")
	must(t, s.TrustWitnesses(trust))
	commit(t, s, "web1", "s1", ledger.Lock{})
	holds(false, "fewer than 2")
	tell(t, s, all[:1], wallOf(t, src))
	holds(false, "fewer than 2")
	tell(t, s, all[:2], wallOf(t, src))
	holds(true, "")
	src.Advance(25 * time.Hour)
	holds(false, "longer than 24 hours ago")
	all[0].at = wallOf(t, src).Add(999 * day) // one alone cannot make it look fresh
	must(t, s.Cosigned(ctx, all[0].cosign(t, s.Ledger().Cosigned())))
	holds(false, "longer than 24 hours ago")
	tell(t, s, all[1:], wallOf(t, src))
	holds(true, "")
	commit(t, s, "web1", "s2", ledger.Lock{})
	holds(false, "the newest commit is record")
}

// TestRolledBackStoreRefusesToGoOn: a copy of the disk from before is put back, and somebody brings what the vault signed since.
func TestRolledBackStoreRefusesToGoOn(t *testing.T) {
	d, src, s := newStore(t)
	all, trust := outsiders(t, 1, 1)
	first := commit(t, s, "web1", "s1", ledger.Lock{ForSeconds: 60})
	commit(t, s, "web1", "s2", ledger.Lock{ForSeconds: 60})
	must(t, s.Close())
	old := d.Clone()
	s = open(t, d, src)
	commit(t, s, "web1", "s3", ledger.Lock{})
	all[0].at = wallOf(t, src)
	newest := all[0].cosign(t, s.Ledger().Checkpoint())
	must(t, s.Close())

	src.Advance(2 * day)
	s = open(t, old, src)
	must(t, s.TrustWitnesses(trust))
	before := s.Ledger().Checkpoint()
	if err := s.Cosigned(ctx, newest); !errors.Is(err, ledger.ErrBehind) {
		t.Fatalf("told: %v", err)
	}
	refused := func() {
		t.Helper()
		_, create := s.CreatePack("s9")
		_, extend := s.Extend(ctx, first.ID, ledger.Lock{Mode: ledger.Compliance, ForSeconds: 7200}, "ann")
		_, prune := s.Prune(ctx, false)
		_, _, condemn := s.Condemn(ctx)
		_, sweep := s.Sweep(ctx)
		for i, err := range []error{create, extend, prune, condemn, sweep, s.SetKeyring(ctx, []byte("x"), "r")} {
			if !errors.Is(err, ledger.ErrBehind) {
				t.Errorf("%d: %v", i, err)
			}
		}
		plan, err := s.Plan(ctx)
		must(t, err)
		for _, p := range plan {
			if p.Go {
				t.Errorf("%s may go: %s", p.Label, p.Why)
			}
		}
		if st, err := s.Witnessed(); err != nil || st.Holds || !errors.Is(st.Behind, ledger.ErrBehind) {
			t.Errorf("standing %+v %v", st, err)
		}
		if _, err := s.Manifest(first.ID); err != nil {
			t.Errorf("reading does not go on: %v", err)
		}
		if !bytes.Equal(s.Ledger().Checkpoint(), before) {
			t.Error("something was signed")
		}
	}
	refused()
	must(t, s.Close())
	old = old.Restart(crashdisk.LoseUnsynced, 0)
	s = open(t, old, src)
	must(t, s.TrustWitnesses(trust))
	refused()

	if _, err := s.BeginOrigin(ctx, before, s.Ledger().Root().String(), "ann", "r"); err == nil {
		t.Error("a checkpoint that the ledger extends was taken for a loss")
	}
	r, err := s.BeginOrigin(ctx, nil, s.Ledger().Root().String(), "ann", "restored from the copy of last month")
	must(t, err)
	if r.Origin.Number != 2 {
		t.Errorf("%+v", r.Origin)
	}
	src.Advance(time.Hour)
	ran, err := s.Now()
	must(t, err)
	must(t, s.Close())
	s = open(t, old, src)
	must(t, s.TrustWitnesses(trust))
	if now, err := s.Now(); err != nil || now.Running != ran.Running {
		t.Errorf("running time was %d and is %d after another origin", ran.Running, now.Running)
	}
	commit(t, s, "web1", "s4", ledger.Lock{})
	tell(t, s, all, wallOf(t, src))
	if err := s.Cosigned(ctx, newest); err == nil || errors.Is(err, ledger.ErrBehind) || s.Ledger().Behind() != nil {
		t.Errorf("what is over halts again, or is kept: %v", err)
	}
	if bad := s.Check(ctx, true); len(bad) > 0 {
		t.Errorf("check: %v", bad)
	}
}

func TestWitnessesAreReadStrictly(t *testing.T) {
	_, trust := outsiders(t, 2, 2)
	member := func(i int) string { return fmt.Sprintf(`{"name":"w%d","key":%q}`, i+1, trust.Members[i].Key) }
	good := `{"quorum":2,"members":[` + member(0) + `,` + member(1) + `]}`
	w, err := ParseWitnesses([]byte(good))
	must(t, err)
	if w.Quorum != 2 || !slices.Equal(w.Members, trust.Members) {
		t.Errorf("%+v", w)
	}
	for _, bad := range []string{
		`{"quorum":3,"members":[` + member(0) + `,` + member(1) + `]}`,
		`{"quorum":0,"members":[` + member(0) + `]}`,
		`{"quorum":1,"members":[` + member(0) + `,` + member(0) + `]}`,
		`{"quorum":1,"members":[{"name":"x","key":"holdfast/0123456789abcdef0123456789abcdef+c9fbd915+AUge3nctoVeFyeWaCGIBuMP5wwcSnj/G1/NKpN/tWBTl"}]}`,
		`{"quorum":1,"members":[` + member(0) + `],"x":1}`, good + `{}`, `[]`, `{"quorum":1}`,
	} {
		if _, err := ParseWitnesses([]byte(bad)); err == nil {
			t.Errorf("taken: %s", bad)
		}
	}
	if w, err := ParseWitnesses(nil); err != nil || len(w.Members) > 0 {
		t.Errorf("nothing: %+v %v", w, err)
	}
}

// TestNoFaultLosesWhatWitnessesSaid puts each fault at each operation of taking a cosigned checkpoint. What was acknowledged is
// there after a cut; what was not is taken when it comes again; the vault is whole either way, and is not behind.
func TestNoFaultLosesWhatWitnessesSaid(t *testing.T) {
	base, src, s := newStore(t)
	all, trust := outsiders(t, 2, 2)
	commit(t, s, "web1", "s1", ledger.Lock{})
	all[0].at, all[1].at = wallOf(t, src), wallOf(t, src)
	signed := all[1].cosign(t, all[0].cosign(t, s.Ledger().Checkpoint()))
	must(t, s.Close())
	for _, fault := range crashdisk.Faults() {
		for op := int64(1); ; op++ {
			d := base.Clone()
			s := open(t, d, src)
			must(t, s.TrustWitnesses(trust))
			d.FailAt(d.Ops()+op, fault)
			told := s.Cosigned(ctx, signed)
			if !d.Fired() {
				must(t, told)
				break
			}
			for _, loss := range []crashdisk.Loss{crashdisk.LoseUnsynced, crashdisk.KeepAll, crashdisk.Random} {
				again := open(t, d.Restart(loss, op), src)
				must(t, again.TrustWitnesses(trust))
				if n := countKind(again, ledger.KindWitnessed); told == nil && n != 1 {
					t.Errorf("%v at %d, %v: %d records of what was acknowledged", fault, op, loss, n)
				}
				if err := again.Cosigned(ctx, signed); err != nil {
					t.Errorf("%v at %d, %v: again: %v", fault, op, loss, err)
				}
				if n := countKind(again, ledger.KindWitnessed); n != 1 || again.Ledger().Behind() != nil {
					t.Errorf("%v at %d, %v: %d records, behind %v", fault, op, loss, n, again.Ledger().Behind())
				}
				if bad := again.Check(ctx, false); len(bad) > 0 {
					t.Errorf("%v at %d, %v: %v", fault, op, loss, bad)
				}
			}
			if op > 200 {
				t.Fatal("it does not end")
			}
		}
	}
}

// FuzzWitnesses: the keeper's list is a person's to write, and no mistake in it makes a quorum of nobody.
func FuzzWitnesses(f *testing.F) {
	_, trust := outsiders(f, 2, 1)
	f.Add([]byte(fmt.Sprintf(`{"quorum":1,"members":[{"name":"a","key":%q},{"name":"b","key":%q}]}`, trust.Members[0].Key, trust.Members[1].Key)))
	f.Add([]byte(`{"quorum":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		w, err := ParseWitnesses(data)
		if err == nil && (len(w.Members) > 0 || w.Quorum != 0) && (w.Quorum < 1 || w.Quorum > len(w.Members) || len(w.Members) > witnessesMax) {
			t.Errorf("%+v", w)
		}
	})
}
