package ledger

import (
	"bytes"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
)

func FuzzLine(f *testing.F) {
	for _, r := range []Record{initRecord(), sealRecord(3)} {
		line, err := encodeLine(&r)
		must(f, err)
		f.Add(line)
	}
	f.Add([]byte(`{"seq":1,"kind":"x","hash":"` + `00"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := parseLine(line)
		if err != nil {
			return
		}
		if r.Kind == "" || !bytes.Equal(r.Raw, line) {
			t.Errorf("record %+v of %q", r, line)
		}
		if set, known := r.body(); set != known {
			t.Errorf("kind %q: known %t, body %t", r.Kind, known, set)
		}
		if r.Known() {
			again, err := encodeLine(&r)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := parseLine(again); err != nil {
				t.Errorf("%q does not parse again: %v", again, err)
			}
		}
	})
}

func FuzzCheckpoint(f *testing.F) {
	_, l := newLedger(f)
	f.Add(l.Checkpoint())
	f.Add([]byte("holdfast/x\n1\nAAAA\n\n— x y\n"))
	good := l.Checkpoint()
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := ParseCheckpoint(b, testVerifier); err == nil && !bytes.Equal(b, good) {
			// Only cosignatures of others may stand beside our own.
			if !bytes.HasPrefix(b, good[:bytes.Index(good, []byte("\n\n"))]) {
				t.Errorf("accepted %q", b)
			}
		}
	})
}

// FuzzSegments opens whatever stands in the two files of a ledger.
func FuzzSegments(f *testing.F) {
	d, l := newLedger(f)
	appendAll(f, l, sealRecord(1))
	l.fresh = true
	appendAll(f, l, sealRecord(2))
	one, two := read(f, d, "ledger/000001.jsonl"), read(f, d, "ledger/000002.jsonl")
	cp := l.Checkpoint()
	f.Add(one, two)
	f.Add(one, []byte{})
	f.Add(one[:len(one)-3], two)
	f.Add([]byte{}, two)
	f.Add(two, one)
	f.Fuzz(func(t *testing.T, a, b []byte) {
		d := crashdisk.New()
		must(t, durable.MkdirAll(d, "ledger", 0o700))
		write(t, d, "ledger/000001.jsonl", a)
		write(t, d, "ledger/000002.jsonl", b)
		write(t, d, "ledger/checkpoint", cp)
		report, err := Inspect(d, "ledger", testVerifier)
		if err == nil && len(report.Damages) == 0 && report.Size < 4 {
			t.Errorf("%d records without damage under a checkpoint of 4", report.Size)
		}
		ro, err := Open(d, "ledger", "", testVerifier)
		if err != nil {
			return
		}
		for range ro.Records() {
		}
		if rw, err := Open(d, "ledger", testSigner, testVerifier); err == nil {
			if _, err := rw.Append(sealRecord(3)); err != nil {
				t.Error(err)
			}
		}
	})
}
