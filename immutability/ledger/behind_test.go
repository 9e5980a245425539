package ledger

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"golang.org/x/mod/sumdb/note"
)

// rolledBack gives a ledger of 3 records whose key signed a checkpoint of 5: an older state of its disk was put back.
func rolledBack(t testing.TB) (d *crashdisk.Disk, newest []byte) {
	t.Helper()
	d, l := newLedger(t)
	appendAll(t, l, sealRecord(1), sealRecord(2))
	old := d.Clone()
	appendAll(t, l, sealRecord(3), sealRecord(4))
	return old, l.Checkpoint()
}

func rootOf(l *Ledger) string { return l.Root().String() }

func TestLedgerBehindWhatItSignedSignsNothing(t *testing.T) {
	d, newest := rolledBack(t)
	l := reopen(t, d)
	must(t, l.Behind())
	before := l.Checkpoint()
	err := l.Remember(newest)
	var b *Behind
	if !errors.Is(err, ErrBehind) || !errors.As(err, &b) || b.Remembered.Size != 5 || b.Size != 3 || b.Fork || !bytes.Equal(b.Note, newest) {
		t.Fatalf("remembered: %v", err)
	}
	for range 2 {
		if _, err := l.Append(sealRecord(9)); !errors.Is(err, ErrBehind) {
			t.Fatalf("append: %v", err)
		}
		if !bytes.Equal(l.Checkpoint(), before) || l.Size() != 3 {
			t.Fatal("something was signed")
		}
		must(t, l.Close())
		d = d.Restart(crashdisk.LoseUnsynced, 0) // it is remembered durably
		l = reopen(t, d)
	}
	ro, err := Open(d, "ledger", "", "")
	must(t, err)
	if !errors.Is(ro.Behind(), ErrBehind) {
		t.Error("who only reads is not told")
	}
	if report, err := Inspect(d, "ledger", ""); err != nil || len(report.Damages) > 0 {
		t.Errorf("what is there is whole: %+v %v", report, err)
	}
}

// TestProofThatIsTooLongToReadAgainIsNotKept: whoever pads a note that shows the loss with signatures of nobody does not leave a
// file behind which no later process can read.
func TestProofThatIsTooLongToReadAgainIsNotKept(t *testing.T) {
	d, newest := rolledBack(t)
	l := reopen(t, d)
	padded := bytes.Clone(newest)
	for i := range 90 {
		padded = append(padded, "— nobody/"+fmt.Sprint(i)+" "+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{byte(i)}, 900))+"\n"...)
	}
	if _, err := ParseCheckpoint(padded, l.Verifier()); err != nil {
		t.Fatalf("this test is of a note that holds: %v", err)
	}
	if err := l.Remember(padded); err == nil || errors.Is(err, ErrBehind) {
		t.Errorf("padded: %v", err)
	}
	if err := l.Remember(newest); !errors.Is(err, ErrBehind) {
		t.Errorf("as it was signed: %v", err)
	}
	must(t, l.Close())
	l = reopen(t, d)
	if b := (*Behind)(nil); !errors.As(l.Behind(), &b) || b.Unreadable != nil {
		t.Errorf("after a restart: %v", l.Behind())
	}
}

func TestCheckpointThatTheLedgerExtendsHaltsNothing(t *testing.T) {
	d, l := newLedger(t)
	early := l.Checkpoint()
	appendAll(t, l, sealRecord(1))
	for _, note := range [][]byte{early, l.Checkpoint(), newCosigner("w.example/1", 1).cosign(t, early)} {
		must(t, l.Remember(note))
	}
	_, other := newLedger(t)
	appendAll(t, other, sealRecord(1), sealRecord(2))
	forged := bytes.Replace(other.Checkpoint(), []byte("\n3\n"), []byte("\n4\n"), 1)
	stranger, _, err := NewSigner(testOrigin)
	must(t, err)
	s, err := note.NewSigner(stranger)
	must(t, err)
	foreign, err := sign(Checkpoint{testOrigin, 9, l.Root()}, s)
	must(t, err)
	for what, bad := range map[string][]byte{"garbage": []byte("x"), "altered": forged, "another key": foreign} {
		if err := l.Remember(bad); err == nil || errors.Is(err, ErrBehind) {
			t.Errorf("%s: %v", what, err)
		}
	}
	must(t, l.Behind())
	appendAll(t, reopen(t, d), sealRecord(2))
}

func TestForkIsToldFromAShorterLedger(t *testing.T) {
	d, newest := rolledBack(t)
	l := reopen(t, d)
	appendAll(t, l, sealRecord(7), sealRecord(8), sealRecord(9)) // nobody had told it yet
	var b *Behind
	if err := l.Remember(newest); !errors.As(err, &b) || !b.Fork || b.Size != 6 {
		t.Fatalf("remembered: %v", err)
	}
}

func TestNewestCopyPutBackEndsIt(t *testing.T) {
	d, newest := rolledBack(t)
	l := reopen(t, d)
	if err := l.Remember(newest); !errors.Is(err, ErrBehind) {
		t.Fatal(err)
	}
	must(t, l.Close())
	_, whole := newLedger(t)
	appendAll(t, whole, sealRecord(1), sealRecord(2), sealRecord(3), sealRecord(4))
	write(t, d, "ledger/000001.jsonl", read(t, whole.disk, "ledger/000001.jsonl"))
	write(t, d, "ledger/checkpoint", whole.Checkpoint())
	again := reopen(t, d)
	must(t, again.Behind())
	appendAll(t, again, sealRecord(5))
}

func TestSpoiltMemoryIsNotTakenForNone(t *testing.T) {
	d, newest := rolledBack(t)
	if err := reopen(t, d).Remember(newest); !errors.Is(err, ErrBehind) {
		t.Fatal(err)
	}
	write(t, d, "log/behind", []byte("x"))
	l := reopen(t, d)
	if _, err := l.Append(sealRecord(9)); !errors.Is(err, ErrBehind) {
		t.Fatalf("append: %v", err)
	}
	if _, err := l.BeginOrigin(stamp(9), rootOf(l), "ann", "r"); !errors.Is(err, ErrBehind) {
		t.Errorf("a new origin without the proof: %v", err)
	}
	if err := l.Remember(newest); !errors.Is(err, ErrBehind) {
		t.Fatal(err)
	}
	if _, err := l.BeginOrigin(stamp(9), rootOf(l), "ann", "r"); err != nil {
		t.Error(err)
	}
}

// TestACopyThatIsOriginsFurtherStaysKnown: a copy of the vault went on under later origins than the one that begins here. Until
// this ledger is past them it is behind, in the process that began the origin as in the next.
func TestACopyThatIsOriginsFurtherStaysKnown(t *testing.T) {
	d, l := newLedger(t)
	appendAll(t, l, sealRecord(1))
	key, err := originSigner(l.signerKey, 3)
	must(t, err)
	signer, err := note.NewSigner(key)
	must(t, err)
	copied, err := sign(Checkpoint{testOrigin + "/3", 9, l.Root()}, signer)
	must(t, err)
	if err := l.Remember(copied); !errors.Is(err, ErrBehind) {
		t.Fatal(err)
	}
	for number := 2; number <= 4; number++ {
		_, err := l.BeginOrigin(stamp(5), rootOf(l), "ann", "a copy went on")
		must(t, err)
		here := l.Behind()
		must(t, l.Close())
		l = reopen(t, d)
		if after := l.Behind(); (here == nil) != (after == nil) || (here == nil) != (number == 4) {
			t.Errorf("origin %d: behind %v, and after a restart %v", number, here, after)
		}
	}
	appendAll(t, l, sealRecord(2))
}

func TestNewOriginNamesBothHeads(t *testing.T) {
	d, newest := rolledBack(t)
	l := reopen(t, d)
	if _, err := l.BeginOrigin(stamp(5), rootOf(l), "ann", "r"); err == nil {
		t.Error("a ledger that is behind nothing began another origin")
	}
	_ = l.Remember(newest)
	own, early := rootOf(l), l.Checkpoint()
	if _, err := l.BeginOrigin(stamp(5), "AAAA"+own[4:], "ann", "r"); err == nil {
		t.Error("with a root that is not its own")
	}
	r, err := l.BeginOrigin(stamp(5), own, "ann", "the machine was rolled back")
	must(t, err)
	o := r.Origin
	if r.Seq != 3 || o.Number != 2 || o.Origin != testOrigin+"/2" || o.Before != testOrigin || o.Own != (Head{3, own}) ||
		o.Lost.Size != 5 || o.Note != string(newest) || len(o.Quorum) != 0 || o.By != "ann" {
		t.Fatalf("record %+v", o)
	}
	appendAll(t, l, sealRecord(7))
	must(t, l.Close())
	l = reopen(t, d)
	must(t, l.Behind())
	must(t, l.Remember(newest)) // of an origin that is over
	now, err := ParseCheckpoint(l.Checkpoint(), testVerifier)
	must(t, err)
	if now.Origin != testOrigin+"/2" || now.Size != 5 {
		t.Errorf("checkpoint %+v", now)
	}
	name, verifier := l.Origin()
	v, err := note.NewVerifier(verifier)
	must(t, err)
	if n, err := note.Open(l.Checkpoint(), note.VerifierList(v)); err != nil || v.Name() != name || len(n.Sigs) != 1 {
		t.Errorf("whoever is given %q cannot verify: %v", verifier, err)
	}
	// What was saved before holds as far as it went on, and is refuted where it did not.
	must(t, l.Extends(early))
	if err := l.Extends(newest); err == nil || !strings.Contains(err.Error(), "given up for lost") {
		t.Errorf("extends what was lost: %v", err)
	}
	report, err := Inspect(d, "ledger", testVerifier)
	must(t, err)
	if len(report.Damages) > 0 || len(report.Origins) != 1 || report.Checkpoint.Origin != name {
		t.Errorf("report %+v", report)
	}
	// The next origin follows the second.
	ahead := d.Clone()
	appendAll(t, reopen(t, ahead), sealRecord(8))
	longer := reopen(t, ahead).Checkpoint()
	_ = l.Remember(longer)
	r, err = l.BeginOrigin(stamp(9), rootOf(l), "ann", "again")
	must(t, err)
	if r.Origin.Number != 3 || r.Origin.Before != name {
		t.Errorf("record %+v", r.Origin)
	}
	must(t, reopen(t, d).Behind())
}

// TestForgedOriginIsDamage: whoever can write lines and not sign checkpoints cannot give records up.
func TestForgedOriginIsDamage(t *testing.T) {
	base, newest := rolledBack(t)
	_ = reopen(t, base).Remember(newest)
	good := func() *Origin {
		r, err := reopen(t, base.Clone()).BeginOrigin(stamp(5), rootOf(reopen(t, base)), "ann", "r")
		must(t, err)
		return r.Origin
	}
	for what, spoil := range map[string]func(*Origin){
		"number":     func(o *Origin) { o.Number = 3 },
		"name":       func(o *Origin) { o.Origin = testOrigin + "/3" },
		"verifier":   func(o *Origin) { o.Verifier = testVerifier },
		"before":     func(o *Origin) { o.Before = testOrigin + "/2" },
		"own size":   func(o *Origin) { o.Own.Size = 9 },
		"own root":   func(o *Origin) { o.Own.Root = o.Lost.Root },
		"lost size":  func(o *Origin) { o.Lost.Size++ },
		"lost root":  func(o *Origin) { o.Lost.Root = o.Own.Root },
		"no note":    func(o *Origin) { o.Note = "" },
		"its own":    func(o *Origin) { o.Note, o.Lost = string(reopen(t, base).Checkpoint()), o.Own },
		"other note": func(o *Origin) { o.Note = strings.Replace(o.Note, "\n5\n", "\n6\n", 1); o.Lost.Size = 6 },
	} {
		d := base.Clone()
		l := reopen(t, d)
		o := good()
		spoil(o)
		l.behind = nil
		_, err := l.put(Record{Kind: KindOrigin, At: stamp(5), Origin: o})
		must(t, err)
		if report, err := Inspect(d, "ledger", ""); err != nil || len(report.Damages) == 0 {
			t.Errorf("%s: %v %v", what, report, err)
		}
	}
}

// TestNoFaultHidesThatALedgerIsBehind puts each fault at each operation of remembering and of beginning another origin.
func TestNoFaultHidesThatALedgerIsBehind(t *testing.T) {
	base, newest := rolledBack(t)
	for _, fault := range crashdisk.Faults() {
		for op := int64(1); ; op++ {
			d := base.Clone()
			l := reopen(t, d)
			d.FailAt(d.Ops()+op, fault)
			remembered := l.Remember(newest)
			if !errors.Is(remembered, ErrBehind) {
				t.Fatalf("%v at %d: %v", fault, op, remembered)
			}
			if _, err := l.Append(sealRecord(9)); !errors.Is(err, ErrBehind) {
				t.Fatalf("%v at %d: this process goes on: %v", fault, op, err)
			}
			durably := l.behind == remembered // nothing but the finding: its file is in place
			_, begun := l.BeginOrigin(stamp(5), rootOf(l), "ann", "r")
			if !d.Fired() {
				must(t, begun)
				break
			}
			for _, loss := range []crashdisk.Loss{crashdisk.LoseUnsynced, crashdisk.KeepAll, crashdisk.Random} {
				again := reopen(t, d.Restart(loss, op))
				switch n := len(again.Origins()); {
				case begun == nil && n != 1:
					t.Errorf("%v at %d, %v: the new origin is lost", fault, op, loss)
				case n == 0 && durably && again.Behind() == nil:
					t.Errorf("%v at %d, %v: it is forgotten", fault, op, loss)
				case n == 0:
					_ = again.Remember(newest)
					if _, err := again.BeginOrigin(stamp(5), rootOf(again), "ann", "r"); err != nil {
						t.Errorf("%v at %d, %v: again: %v", fault, op, loss, err)
					}
				}
				if _, err := again.Append(sealRecord(9)); err != nil {
					t.Errorf("%v at %d, %v: %v", fault, op, loss, err)
				}
			}
			if op > 200 {
				t.Fatal("it does not end")
			}
		}
	}
}

// TestRecordsOfWitnessesAndOriginsAreAFormat holds their lines to what was written when they were fixed.
func TestRecordsOfWitnessesAndOriginsAreAFormat(t *testing.T) {
	const file = "testdata/v1-origin/000001.jsonl"
	d, newest := rolledBack(t)
	l := reopen(t, d)
	appendAll(t, l, Record{Kind: KindWitnessed, At: stamp(3), Witnessed: &Witnessed{
		Origin: testOrigin, Size: 3, Root: rootOf(l), Quorum: 1,
		Cosignatures: []Cosignature{{"w.example/1+00000000+BAAA", time.Date(2026, 7, 1, 3, 0, 0, 0, time.UTC), "AAAA"}},
	}})
	_ = l.Remember(newest)
	_, err := l.BeginOrigin(stamp(5), rootOf(l), "ann <x&y>", "rolled back")
	must(t, err)
	now := read(t, d, "ledger/000001.jsonl")
	if *update {
		must(t, os.MkdirAll("testdata/v1-origin", 0o755))
		must(t, os.WriteFile(file, now, 0o644))
	}
	then, err := os.ReadFile(file)
	must(t, err)
	if !bytes.Equal(now, then) {
		t.Errorf("now\n%s\nthen\n%s", now, then)
	}
	old := crashdisk.New()
	must(t, durable.MkdirAll(old, "ledger", 0o700))
	write(t, old, "ledger/000001.jsonl", then)
	write(t, old, "ledger/checkpoint", l.Checkpoint())
	again := reopen(t, old)
	if got := kinds(again); got != "init seal seal witnessed origin" {
		t.Errorf("records %s", got)
	}
	for r := range again.Records() {
		if r.Kind == KindWitnessed && !json.Valid(r.Raw) || !r.Known() {
			t.Errorf("record %+v", r)
		}
	}
}

// TestTornLineIsToldAndNoDamage: a write that was cut is named by a look at the files, and is not taken for a lost record; one
// that the checkpoint covers is.
func TestTornLineIsToldAndNoDamage(t *testing.T) {
	d, l := newLedger(t)
	appendAll(t, l, sealRecord(1), sealRecord(2))
	whole := read(t, d, "ledger/000001.jsonl")
	for _, tail := range []string{`{"seq":3,"kind":"se`, `{"seq":3}` + "\n", "\x00\x00\x00"} {
		write(t, d, "ledger/000001.jsonl", append(bytes.Clone(whole), tail...))
		report, err := Inspect(d, "ledger", testVerifier)
		must(t, err)
		if len(report.Damages) > 0 || len(report.Torn) != 1 || report.Size != 3 {
			t.Errorf("%q: %+v", tail, report)
		}
		again := d.Clone()
		l := reopen(t, again)
		appendAll(t, l, sealRecord(3))
		if got := kinds(reopen(t, again)); got != "init seal seal segment seal" {
			t.Errorf("%q: records %s", tail, got)
		}
	}
	write(t, d, "ledger/000001.jsonl", whole[:len(whole)-3])
	report, err := Inspect(d, "ledger", testVerifier)
	must(t, err)
	if len(report.Damages) != 1 || len(report.Torn) > 0 {
		t.Errorf("a torn line that was acknowledged: %+v", report)
	}
	if _, err := Open(d, "ledger", testSigner, ""); err == nil {
		t.Error("it can be written")
	}
}

// TestLedgerThatIsBehindMovesUnderAKeeper: it still signs nothing there, and another origin begins there.
func TestLedgerThatIsBehindMovesUnderAKeeper(t *testing.T) {
	d, newest := rolledBack(t)
	if err := reopen(t, d).Remember(newest); !errors.Is(err, ErrBehind) {
		t.Fatal(err)
	}
	must(t, durable.MkdirAll(d, "incoming", 0o750))
	for range 2 {
		l, err := OpenGuarded(d, "ledger", testSigner, "")
		must(t, err)
		if _, err := l.Append(sealRecord(9)); !errors.Is(err, ErrBehind) {
			t.Fatal(err)
		}
		must(t, l.Close())
	}
	l, err := OpenGuarded(d, "ledger", testSigner, "")
	must(t, err)
	_, err = l.BeginOrigin(stamp(5), rootOf(l), "ann", "r")
	must(t, err)
	must(t, l.Close())
	if l, err = OpenGuarded(d, "ledger", testSigner, ""); err != nil || l.Behind() != nil {
		t.Fatal(err, l)
	}
	appendAll(t, l, sealRecord(9))
	if report, err := Inspect(d, "ledger", ""); err != nil || len(report.Damages) > 0 || report.Checkpoint.Origin != testOrigin+"/2" {
		t.Errorf("%+v %v", report, err)
	}
}

// TestFullDiskForgetsThatItIsBehind: what could not be written down is written down when it is shown again.
func TestFullDiskForgetsThatItIsBehind(t *testing.T) {
	d, newest := rolledBack(t)
	l := reopen(t, d)
	d.FailAt(d.Ops()+1, crashdisk.NoSpace)
	if err := l.Remember(newest); !errors.Is(err, ErrBehind) || !durable.IsNoSpace(err) {
		t.Fatalf("remembered on a full disk: %v", err)
	}
	d.Refill()
	if err := l.Remember(newest); !errors.Is(err, ErrBehind) || durable.IsNoSpace(err) {
		t.Fatalf("remembered again: %v", err)
	}
	if err := reopen(t, d.Restart(crashdisk.LoseUnsynced, 0)).Behind(); !errors.Is(err, ErrBehind) {
		t.Errorf("the next process does not know: %v", err)
	}
}
