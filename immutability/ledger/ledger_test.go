package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"golang.org/x/mod/sumdb/note"
)

const (
	testVault  = "0123456789abcdef0123456789abcdef"
	testOrigin = "holdfast/" + testVault
)

// Fixed keys, so that golden lines and checkpoints do not change.
const (
	testSigner   = "PRIVATE+KEY+holdfast/0123456789abcdef0123456789abcdef+c9fbd915+AQMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fICEi"
	testVerifier = "holdfast/0123456789abcdef0123456789abcdef+c9fbd915+AUge3nctoVeFyeWaCGIBuMP5wwcSnj/G1/NKpN/tWBTl"
)

func stamp(n int) clock.Stamp {
	return clock.Stamp{Wall: time.Date(2026, 7, 1, 3, 4, 5+n, 0, time.UTC), Running: int64(n), Boot: "boot"}
}

func initRecord() Record {
	return Record{Kind: KindInit, At: stamp(0), Init: &Init{
		Format: Format, Vault: testVault, Verifier: testVerifier, Identity: "{}\n", Keyring: []byte("keyring"),
		Policy: Policy{Mode: Governance, DefaultSeconds: 10, MaxSeconds: 20},
	}}
}

func sealRecord(n int) Record {
	return Record{Kind: KindSeal, At: stamp(n), Seal: &Seal{
		File: fmt.Sprintf("packs/%08d.pack", n), SHA256: strings.Repeat("ab", 32), Bytes: int64(n), Session: "s",
	}}
}

// bigRecord takes about 1 MB, so that five of them fill a segment.
func bigRecord(n int) Record {
	return Record{Kind: KindIntent, At: stamp(n), Intent: &Intent{Reason: strings.Repeat("x", 1000_000)}}
}

func newLedger(t testing.TB) (*crashdisk.Disk, *Ledger) {
	t.Helper()
	d := crashdisk.New()
	must(t, durable.MkdirAll(d, "ledger", 0o700))
	must(t, Create(d, "ledger", testSigner, initRecord()))
	return d, reopen(t, d)
}

func reopen(t testing.TB, d durable.Disk) *Ledger {
	t.Helper()
	l, err := Open(d, "ledger", testSigner, "")
	must(t, err)
	return l
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func appendAll(t testing.TB, l *Ledger, records ...Record) {
	t.Helper()
	for _, r := range records {
		_, err := l.Append(r)
		must(t, err)
	}
}

func kinds(l *Ledger) string {
	var all []string
	for r := range l.Records() {
		all = append(all, string(r.Kind))
	}
	return strings.Join(all, " ")
}

func read(t testing.TB, d durable.Disk, name string) []byte {
	t.Helper()
	b, err := durable.ReadFile(d, name, segmentMax)
	must(t, err)
	return b
}

func write(t testing.TB, d durable.Disk, name string, b []byte) {
	t.Helper()
	must(t, durable.Replace(d, name, b, 0o600))
}

func TestLineIsAFormat(t *testing.T) {
	r := sealRecord(7)
	r.Seq = 7
	line, err := encodeLine(&r)
	must(t, err)
	body := `{"seq":7,"kind":"seal","at":{"wall":"2026-07-01T03:04:12Z","running_s":7,"boot":"boot"},` +
		`"seal":{"file":"packs/00000007.pack","sha256":"` + strings.Repeat("ab", 32) + `","bytes":7,"session":"s","recovered":false}`
	sum := sha256.Sum256([]byte(body))
	want := body + `,"hash":"` + hex.EncodeToString(sum[:]) + `"}`
	if string(line) != want {
		t.Fatalf("line\n%s\nwant\n%s", line, want)
	}
}

func TestCheckpointIsAFormat(t *testing.T) {
	d, l := newLedger(t)
	appendAll(t, l, sealRecord(1), sealRecord(2))
	want := testOrigin + "\n3\n" + l.Root().String() + "\n\n— " + testOrigin + " "
	if got := string(read(t, d, "ledger/checkpoint")); !strings.HasPrefix(got, want) || strings.Count(got, "\n") != 5 {
		t.Fatalf("checkpoint\n%s\nshould begin\n%s", got, want)
	}
	const golden = "G7uwUinJFSM89GsA89y+2V7ojLnbIBfQwDSsaPCbyoc="
	if got := l.Root().String(); got != golden {
		t.Errorf("root %s, golden %s: the bytes of a record changed", got, golden)
	}
}

// TestRootIsThatOfRFC6962 computes the root from the lines alone, as an auditor with another program would.
func TestRootIsThatOfRFC6962(t *testing.T) {
	d, l := newLedger(t)
	for n := range 12 {
		appendAll(t, l, sealRecord(n))
		lines := bytes.Split(bytes.TrimSuffix(read(t, d, "ledger/000001.jsonl"), []byte("\n")), []byte("\n"))
		if got, want := l.Root(), merkle(lines); got != want {
			t.Fatalf("root of %d lines is %x, want %x", len(lines), got, want)
		}
	}
}

func merkle(leaves [][]byte) [32]byte {
	if len(leaves) == 1 {
		return sha256.Sum256(append([]byte{0}, leaves[0]...))
	}
	k := 1
	for 2*k < len(leaves) {
		k *= 2
	}
	left, right := merkle(leaves[:k]), merkle(leaves[k:])
	return sha256.Sum256(append(append([]byte{1}, left[:]...), right[:]...))
}

func TestRecordsComeBack(t *testing.T) {
	d, l := newLedger(t)
	appendAll(t, l, sealRecord(1), sealRecord(2))
	again := reopen(t, d)
	if got := kinds(again); got != "init seal seal" {
		t.Errorf("records %s", got)
	}
	if again.Size() != 3 || again.Root() != l.Root() {
		t.Errorf("size %d root %v, want 3 %v", again.Size(), again.Root(), l.Root())
	}
	var seqs []uint64
	for r := range again.Records() {
		seqs = append(seqs, r.Seq)
		if !r.Known() || len(r.Raw) == 0 {
			t.Errorf("record %d: known %t, raw %q", r.Seq, r.Known(), r.Raw)
		}
	}
	if fmt.Sprint(seqs) != "[0 1 2]" {
		t.Errorf("numbers %v", seqs)
	}
}

func TestFullSegmentIsFollowedByAPin(t *testing.T) {
	d, l := newLedger(t)
	early := l.Checkpoint()
	for n := range 6 {
		appendAll(t, l, bigRecord(n))
	}
	appendAll(t, l, sealRecord(1))
	again := reopen(t, d)
	if got := kinds(again); got != "init intent intent intent intent intent segment intent seal" {
		t.Errorf("records %s", got)
	}
	if err := again.Extends(early); err != nil {
		t.Error(err)
	}
}

func TestKindOfANewerReleaseIsListed(t *testing.T) {
	d, l := newLedger(t)
	appendAll(t, l, sealRecord(1))
	// Also one that uses a name of ours for something else, and one that adds a field to a kind of ours.
	for _, body := range []string{
		`{"seq":%d,"kind":"oath","at":{"wall":"2026-07-01T03:04:12Z","running_s":7,"boot":"b"},"oath":{"snapshot":"x"}`,
		`{"seq":%d,"kind":"witness","at":{"wall":"2026-07-01T03:04:12Z","running_s":7,"boot":"b"},"commit":[1,2]`,
		`{"seq":%d,"kind":"done","at":{"wall":"2026-07-01T03:04:12Z","running_s":7,"boot":"b"},"done":{"intent":1,"files":[],"by":"x"}`,
	} {
		newer := fmt.Appendf(nil, body, l.Size())
		sum := sha256.Sum256(newer)
		line := fmt.Appendf(newer, `,"hash":"%x"}`, sum)
		write(t, d, "ledger/000001.jsonl", append(append(read(t, d, "ledger/000001.jsonl"), line...), '\n'))
		l = reopen(t, d)
	}
	appendAll(t, l, sealRecord(2))
	if got := kinds(l); got != "init seal oath witness done seal" {
		t.Errorf("records %s", got)
	}
	if u := l.Unknown(); u["oath"] != 1 || u["witness"] != 1 || len(u) != 2 {
		t.Errorf("unknown kinds %v", u)
	}
	for r := range l.Records() {
		if r.Kind == "witness" && r.Commit != nil {
			t.Error("an unknown kind has a body of ours")
		}
	}
}

func TestFormatOfTheFutureIsNotDamage(t *testing.T) {
	d, _ := newLedger(t)
	r := initRecord()
	r.Init.Format = 2
	line, err := encodeLine(&r)
	must(t, err)
	write(t, d, "ledger/000001.jsonl", append(line, '\n'))
	for _, key := range []string{"", testSigner} {
		_, err := Open(d, "ledger", key, "")
		if !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "written by a newer release of holdfast") {
			t.Errorf("error %v", err)
		}
	}
}

func TestReadOnlyLedgerRefusesToWrite(t *testing.T) {
	d, _ := newLedger(t)
	l, err := Open(d, "ledger", "", testVerifier)
	must(t, err)
	before := d.Ops()
	if _, err := l.Append(sealRecord(1)); !errors.Is(err, ErrReadOnly) {
		t.Errorf("error %v", err)
	}
	if d.Ops() != before {
		t.Error("something was written")
	}
}

func TestForeignKeyCannotSign(t *testing.T) {
	d, _ := newLedger(t)
	signer, verifier, err := NewSigner(testOrigin)
	must(t, err)
	if _, err := Open(d, "ledger", signer, ""); err == nil {
		t.Error("a foreign signing key was accepted")
	}
	if _, err := Open(d, "ledger", testSigner, verifier); err == nil {
		t.Error("a foreign verifier was accepted")
	}
}

// TestChangedPastIsFound plays whoever can write the files but not sign.
func TestChangedPastIsFound(t *testing.T) {
	const segment, cp = "ledger/000001.jsonl", "ledger/checkpoint"
	lines := func(d durable.Disk) [][]byte { return bytes.SplitAfter(read(t, d, segment), []byte("\n"))[:4] }
	for _, test := range []struct {
		name  string
		spoil func(d *crashdisk.Disk)
		where string
	}{
		{"last line cut off", func(d *crashdisk.Disk) { write(t, d, segment, bytes.Join(lines(d)[:3], nil)) }, segment + " line 4"},
		{"middle line cut out", func(d *crashdisk.Disk) {
			l := lines(d)
			write(t, d, segment, bytes.Join([][]byte{l[0], l[1], l[3]}, nil))
		}, segment + " line 3"},
		{"lines exchanged", func(d *crashdisk.Disk) {
			l := lines(d)
			write(t, d, segment, bytes.Join([][]byte{l[0], l[2], l[1], l[3]}, nil))
		}, segment + " line 2"},
		{"line written anew", func(d *crashdisk.Disk) {
			r := sealRecord(9)
			r.Seq = 2
			line, err := encodeLine(&r)
			must(t, err)
			l := lines(d)
			l[2] = append(line, '\n')
			write(t, d, segment, bytes.Join(l, nil))
		}, "ledger"},
		{"checkpoint removed", func(d *crashdisk.Disk) { must(t, d.Remove(cp)) }, cp},
		{"checkpoint of another key", func(d *crashdisk.Disk) {
			key, _, err := NewSigner(testOrigin)
			must(t, err)
			signer, err := note.NewSigner(key)
			must(t, err)
			l := reopen(t, d)
			forged, err := sign(Checkpoint{Origin: testOrigin, Size: l.Size(), Root: l.Root()}, signer)
			must(t, err)
			write(t, d, cp, forged)
		}, cp},
		{"segment removed", func(d *crashdisk.Disk) {
			must(t, d.Rename(segment, "ledger/000002.jsonl"))
		}, segment},
		{"lines dropped by a forged pin", func(d *crashdisk.Disk) {
			l := reopen(t, d)
			root, err := l.tree.root(2)
			must(t, err)
			pin := Record{Seq: 2, Kind: KindSegment, Segment: &Segment{Number: 2, Size: 2, Root: root.String()}}
			line, err := encodeLine(&pin)
			must(t, err)
			write(t, d, "ledger/000002.jsonl", append(line, '\n'))
		}, "ledger/000002.jsonl line 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d, l := newLedger(t)
			appendAll(t, l, sealRecord(1), sealRecord(2), sealRecord(3))
			test.spoil(d)
			report, err := Inspect(d, "ledger", testVerifier)
			must(t, err)
			if len(report.Damages) == 0 || report.Damages[0].Where != test.where {
				t.Errorf("found %v, want it at %s", report.Damages, test.where)
			}
			ro, err := Open(d, "ledger", "", testVerifier)
			must(t, err)
			if len(ro.Damages()) == 0 {
				t.Error("a reader is told nothing")
			}
			if _, err := Open(d, "ledger", testSigner, ""); err == nil {
				t.Error("it can be written")
			}
		})
	}
}

// TestSignedRewriteIsRefutedByASavedCheckpoint plays whoever has the signing key as well.
func TestSignedRewriteIsRefutedByASavedCheckpoint(t *testing.T) {
	_, l := newLedger(t)
	appendAll(t, l, sealRecord(1), sealRecord(2))
	saved := l.Checkpoint()
	_, forged := newLedger(t)
	appendAll(t, forged, sealRecord(1), sealRecord(5), sealRecord(6))
	if err := forged.Extends(saved); err == nil {
		t.Error("a rewritten ledger passes for an extension")
	}
	_, short := newLedger(t)
	if err := short.Extends(saved); err == nil {
		t.Error("a shortened ledger passes for an extension")
	}
	appendAll(t, l, sealRecord(3))
	if err := l.Extends(saved); err != nil {
		t.Error(err)
	}
}

func TestLaggingCheckpointIsSignedAnew(t *testing.T) {
	d, l := newLedger(t)
	old := l.Checkpoint()
	appendAll(t, l, sealRecord(1), sealRecord(2))
	write(t, d, "ledger/checkpoint", old)
	l = reopen(t, d)
	c, err := ParseCheckpoint(read(t, d, "ledger/checkpoint"), testVerifier)
	must(t, err)
	if c.Size != 3 || l.Size() != 3 {
		t.Errorf("checkpoint covers %d of %d", c.Size, l.Size())
	}
}

func TestEveryFlippedByteIsFound(t *testing.T) {
	d, l := newLedger(t)
	appendAll(t, l, sealRecord(1), sealRecord(2))
	l.fresh = true // a second segment
	appendAll(t, l, sealRecord(3), sealRecord(4))
	for _, name := range d.Files() {
		for i := range len(read(t, d, name)) {
			for _, mask := range []byte{1, 0x20, 0x80} {
				must(t, d.Flip(name, int64(i), mask))
				report, err := Inspect(d, "ledger", testVerifier)
				if err == nil && len(report.Damages) == 0 {
					t.Errorf("%s byte %d mask %#x: not found", name, i, mask)
				}
				if ro, err := Open(d, "ledger", "", ""); err == nil && len(ro.Damages()) == 0 {
					t.Errorf("%s byte %d mask %#x: not found at open", name, i, mask)
				}
				must(t, d.Flip(name, int64(i), mask))
			}
		}
	}
}

func TestSignerInAnotherSpellingIsRefused(t *testing.T) {
	must(t, CheckSigner(testSigner, testVerifier))
	for i := range testSigner {
		for _, mask := range []byte{1, 0x20, 0x80} {
			b := []byte(testSigner)
			b[i] ^= mask
			if CheckSigner(string(b), testVerifier) == nil {
				t.Errorf("byte %d mask %#x: not found", i, mask)
			}
		}
	}
}
