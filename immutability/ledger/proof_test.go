package ledger

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/audit"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"golang.org/x/mod/sumdb/note"
)

// reader is somebody who has the verifier and nothing else.
func reader(t testing.TB) *audit.Policy {
	t.Helper()
	k, err := audit.ParseKey(testVerifier)
	must(t, err)
	return &audit.Policy{Log: k}
}

// TestEveryRecordIsProvedToAStranger proves each record of ledgers of each size to the independent checker, and each
// ledger to extend each shorter one.
func TestEveryRecordIsProvedToAStranger(t *testing.T) {
	d, l := newLedger(t)
	roots := map[uint64]audit.Hash{1: audit.Hash(l.Root())}
	policy := reader(t)
	for n := range 40 {
		if n%15 == 14 {
			l.fresh = true
		}
		appendAll(t, l, sealRecord(n))
		size := l.Size()
		roots[size] = audit.Hash(l.Root())
		for seq := range size {
			b, err := l.Prove(seq)
			must(t, err)
			p, err := audit.ParseProof(b)
			must(t, err)
			if _, err := p.Check(p.Extra, policy); err != nil {
				t.Fatalf("record %d of %d: %v", seq, size, err)
			}
			if p.Index != seq || p.Checkpoint.Size != size || !bytes.Contains(p.Extra, fmt.Appendf(nil, `{"seq":%d,`, seq)) {
				t.Fatalf("record %d of %d: proof of %d in %d: %s", seq, size, p.Index, p.Checkpoint.Size, p.Extra)
			}
			if _, err := p.Check(append(bytes.Clone(p.Extra), ' '), policy); !errors.Is(err, audit.ErrRefuted) {
				t.Fatalf("another line passes for record %d of %d: %v", seq, size, err)
			}
		}
		for old, root := range roots {
			b, err := l.Consistency(old)
			must(t, err)
			e, err := audit.ParseExtension(b)
			must(t, err)
			if _, err := e.Check(old, root, policy); err != nil {
				t.Fatalf("from %d to %d: %v", old, size, err)
			}
			root[5] ^= 1
			if _, err := e.Check(old, root, policy); !errors.Is(err, audit.ErrRefuted) {
				t.Fatalf("from another tree of %d to %d: %v", old, size, err)
			}
		}
	}
	ro, err := Open(d, "ledger", "", testVerifier)
	must(t, err)
	for _, x := range []*Ledger{l, ro} {
		if _, err := x.Prove(l.Size()); !errors.Is(err, ErrNoRecord) {
			t.Errorf("proof of a record that is not there: %v", err)
		}
		if _, err := x.Consistency(l.Size() + 1); err == nil {
			t.Error("proof from a larger tree")
		}
		if b, err := x.Consistency(0); err != nil || !bytes.HasPrefix(b, []byte("old 0\n\n"+testOrigin+"\n")) {
			t.Errorf("proof from nothing: %q, %v", b, err)
		}
		if root, err := x.RootAt(1); err != nil || audit.Hash(root) != roots[1] {
			t.Errorf("root at 1: %v, %v", root, err)
		}
		if _, err := x.RootAt(0); err == nil {
			t.Error("a root of nothing")
		}
	}
}

// TestAlteredProofProvesNothing flips every byte of a proof.
func TestAlteredProofProvesNothing(t *testing.T) {
	_, l := newLedger(t)
	for n := range 6 {
		appendAll(t, l, sealRecord(n))
	}
	policy := reader(t)
	b, err := l.Prove(3)
	must(t, err)
	line, err := l.line(3)
	must(t, err)
	for i := range b {
		for _, mask := range []byte{1, 0x20, 0x80} {
			bad := bytes.Clone(b)
			bad[i] ^= mask
			p, err := audit.ParseProof(bad)
			if err != nil {
				continue
			}
			if _, err := p.Check(p.Extra, policy); err == nil && !bytes.Equal(p.Extra, line) {
				t.Errorf("byte %d mask %#x: another record is proved", i, mask)
			}
			if _, err := p.Check(line, policy); err == nil && bytes.Equal(p.Extra, line) {
				t.Errorf("byte %d mask %#x: not found", i, mask)
			}
		}
	}
}

// TestProofOfARecordThatWasChangedOnTheDisk: what is read for a proof is not what was verified when the ledger was opened.
func TestProofOfARecordThatWasChangedOnTheDisk(t *testing.T) {
	d, l := newLedger(t)
	appendAll(t, l, sealRecord(1), sealRecord(2))
	r := sealRecord(7)
	r.Seq = 1
	line, err := encodeLine(&r)
	must(t, err)
	lines := bytes.SplitAfter(read(t, d, "ledger/000001.jsonl"), []byte("\n"))
	lines[1] = append(line, '\n')
	write(t, d, "ledger/000001.jsonl", bytes.Join(lines, nil))
	if b, err := l.Prove(1); err == nil {
		t.Errorf("proved:\n%s", b)
	}
	if _, err := l.Prove(2); err != nil {
		t.Error(err)
	}
}

// cosigner makes cosignatures without any code of ours.
type cosigner struct {
	name string
	key  ed25519.PrivateKey
	at   uint64
}

func newCosigner(name string, seed byte) *cosigner {
	return &cosigner{name, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32)), 1_800_000_000}
}

func (c *cosigner) Name() string    { return c.name }
func (c *cosigner) KeyHash() uint32 { return uint32(c.key[40]) | 0x4000 }
func (c *cosigner) Sign(text []byte) ([]byte, error) {
	sig := binary.BigEndian.AppendUint64(nil, c.at)
	return append(sig, ed25519.Sign(c.key, append(fmt.Appendf(nil, "cosignature/v1\ntime %d\n", c.at), text...))...), nil
}

func (c *cosigner) cosign(t testing.TB, signed []byte) []byte {
	t.Helper()
	v, err := note.NewVerifier(testVerifier)
	must(t, err)
	n, err := note.Open(signed, note.VerifierList(v))
	must(t, err)
	// The ledger's own signature comes first, as it does in an answer that is put behind a checkpoint.
	both, err := note.Sign(&note.Note{Text: n.Text}, c)
	must(t, err)
	_, line, _ := bytes.Cut(both, []byte("\n\n"))
	return append(bytes.Clone(signed), line...)
}

func TestCosignedCheckpointIsKept(t *testing.T) {
	d, l := newLedger(t)
	one, two := newCosigner("w.example/1", 1), newCosigner("w.example/2", 2)
	appendAll(t, l, sealRecord(1))
	first := l.Checkpoint()
	appendAll(t, l, sealRecord(2))
	second := l.Checkpoint()
	must(t, l.KeepCosigned(one.cosign(t, second)))
	must(t, l.KeepCosigned(two.cosign(t, second)))
	must(t, l.KeepCosigned(one.cosign(t, first))) // late: it changes nothing
	one.at++
	must(t, l.KeepCosigned(one.cosign(t, second))) // again, younger
	got := string(l.Cosigned())
	if strings.Count(got, "\n— w.example/1 ") != 1 || strings.Count(got, "\n— w.example/2 ") != 1 || !strings.HasPrefix(got, string(second)) {
		t.Fatalf("cosigned:\n%s", got)
	}
	appendAll(t, l, sealRecord(3))
	again := reopen(t, d)
	if string(again.Cosigned()) != got {
		t.Errorf("after reopening:\n%s", again.Cosigned())
	}
	// A proof takes the cosigned checkpoint where it covers the record, and the newest where it does not.
	for seq, want := range map[uint64]int{0: 3, 2: 3, 3: 4} {
		b, err := again.Prove(seq)
		must(t, err)
		p, err := audit.ParseProof(b)
		must(t, err)
		if p.Checkpoint.Size != uint64(want) {
			t.Errorf("record %d is proved in a tree of %d, want %d", seq, p.Checkpoint.Size, want)
		}
	}
	report, err := Inspect(d, "ledger", testVerifier)
	must(t, err)
	if len(report.Damages) > 0 || len(report.Strays) > 0 || report.Cosigned.Size != 3 || report.Verifier != testVerifier {
		t.Errorf("report %+v", report)
	}
	must(t, again.KeepCosigned(one.cosign(t, again.Checkpoint())))
	if strings.Contains(string(again.Cosigned()), "w.example/2") {
		t.Error("a signature of another size was kept")
	}
}

func TestCosignedCheckpointOfAnotherLedgerIsRefused(t *testing.T) {
	_, l := newLedger(t)
	appendAll(t, l, sealRecord(1), sealRecord(2))
	w := newCosigner("w.example/1", 1)
	_, fork := newLedger(t)
	appendAll(t, fork, sealRecord(1), sealRecord(9))
	_, longer := newLedger(t)
	appendAll(t, longer, sealRecord(1), sealRecord(2), sealRecord(3))
	for name, other := range map[string]*Ledger{"fork": fork, "longer": longer} {
		if err := l.KeepCosigned(w.cosign(t, other.Checkpoint())); err == nil {
			t.Errorf("%s: kept", name)
		}
	}
	if l.Cosigned() != nil {
		t.Error("something was kept")
	}
	if err := l.KeepCosigned([]byte("x")); err == nil {
		t.Error("garbage was kept")
	}
}

// TestRolledBackLedgerIsRefutedByItsCosignedCheckpoint: lines and checkpoint of last week are put back, the cosigned
// checkpoint was forgotten.
func TestRolledBackLedgerIsRefutedByItsCosignedCheckpoint(t *testing.T) {
	w := newCosigner("w.example/1", 1)
	for name, other := range map[string][]Record{
		"records missing":   {sealRecord(1)},
		"another past":      {sealRecord(1), sealRecord(9), sealRecord(3)},
		"another, and more": {sealRecord(9), sealRecord(9), sealRecord(9), sealRecord(9)},
	} {
		t.Run(name, func(t *testing.T) {
			_, l := newLedger(t)
			appendAll(t, l, sealRecord(1), sealRecord(2))
			d, forged := newLedger(t)
			appendAll(t, forged, other...)
			write(t, d, "ledger/cosigned", w.cosign(t, l.Checkpoint()))
			report, err := Inspect(d, "ledger", testVerifier)
			must(t, err)
			if len(report.Damages) == 0 || !strings.Contains(report.Damages[0].Detail, "witnesses cosigned") {
				t.Errorf("found %v", report.Damages)
			}
			if _, err := Open(d, "ledger", testSigner, ""); err == nil {
				t.Error("it can be written")
			}
		})
	}
}

func TestEveryFlippedByteOfTheCosignedCheckpointIsHarmless(t *testing.T) {
	d, l := newLedger(t)
	appendAll(t, l, sealRecord(1))
	must(t, l.KeepCosigned(newCosigner("w.example/1", 1).cosign(t, l.Checkpoint())))
	own := len(l.Checkpoint())
	for i := range len(l.Cosigned()) {
		for _, mask := range []byte{1, 0x20, 0x80} {
			must(t, d.Flip("ledger/cosigned", int64(i), mask))
			report, err := Inspect(d, "ledger", testVerifier)
			must(t, err)
			// The witness's own line is not the ledger's to verify: it is text to it.
			if len(report.Damages) == 0 && i < own {
				t.Errorf("byte %d mask %#x: not found", i, mask)
			}
			must(t, d.Flip("ledger/cosigned", int64(i), mask))
		}
	}
}

// TestNoFaultLosesACosignedCheckpoint puts each fault at each operation of keeping one.
func TestNoFaultLosesACosignedCheckpoint(t *testing.T) {
	w := newCosigner("w.example/1", 1)
	base, l := newLedger(t)
	appendAll(t, l, sealRecord(1))
	must(t, l.KeepCosigned(w.cosign(t, l.Checkpoint())))
	kept := l.Cosigned()
	appendAll(t, l, sealRecord(2))
	must(t, l.Close())
	next := w.cosign(t, reopen(t, base).Checkpoint())
	for _, fault := range crashdisk.Faults() {
		for op := int64(1); ; op++ {
			d := base.Clone()
			l := reopen(t, d)
			begin := d.Ops()
			d.FailAt(begin+op, fault)
			err := l.KeepCosigned(next)
			if !d.Fired() {
				must(t, err)
				break
			}
			for _, loss := range []crashdisk.Loss{crashdisk.LoseUnsynced, crashdisk.KeepAll, crashdisk.Random} {
				after := d.Restart(loss, op)
				got, rerr := durable.ReadFile(after, "ledger/cosigned", checkpointMax)
				must(t, rerr)
				if !bytes.Equal(got, next) && (err == nil || !bytes.Equal(got, kept)) {
					t.Errorf("%v at %d, %v: told %v, found %q", fault, op, loss, err, got)
				}
				reopen(t, after)
			}
			if op > 100 {
				t.Fatal("it does not end")
			}
		}
	}
}

func TestReadOnlyLedgerKeepsNoCosignature(t *testing.T) {
	d, l := newLedger(t)
	signed := newCosigner("w.example/1", 1).cosign(t, l.Checkpoint())
	ro, err := Open(d, "ledger", "", testVerifier)
	must(t, err)
	if err := ro.KeepCosigned(signed); !errors.Is(err, ErrReadOnly) {
		t.Errorf("error %v", err)
	}
}

func TestReportAgainstWhatIsRemembered(t *testing.T) {
	d, l := newLedger(t)
	appendAll(t, l, sealRecord(1))
	size, root := l.Size(), l.Root()
	appendAll(t, l, sealRecord(2))
	r, err := Inspect(d, "ledger", testVerifier)
	must(t, err)
	other := root
	other[0] ^= 1
	for _, test := range []struct {
		size uint64
		root [32]byte
		want Verdict
	}{{0, other, Extended}, {size, root, Extended}, {size, other, Changed}, {3, l.Root(), Extended}, {4, root, Shorter}, {1 << 62, root, Shorter}} {
		if got := r.Against(test.size, test.root); got != test.want {
			t.Errorf("%d records: verdict %d, want %d", test.size, got, test.want)
		}
	}
}

// TestTilesAreTheTree lays ledgers out and computes every hash of every tile from the bundles alone.
func TestTilesAreTheTree(t *testing.T) {
	_, l := newLedger(t)
	for _, size := range []int{1, 2, 255, 256, 257, 700} {
		for n := int(l.Size()); n < size; n++ {
			appendAll(t, l, sealRecord(n))
		}
		files := map[string][]byte{}
		var order []string
		left, err := l.Tiles(func(f TileFile) error {
			files[f.Name] = f.Data
			order = append(order, f.Name)
			if f.Final == (strings.Contains(f.Name, ".p/") || f.Name == "checkpoint") {
				t.Errorf("%s: final %t", f.Name, f.Final)
			}
			return nil
		})
		must(t, err)
		if len(left) > 0 || order[len(order)-1] != "checkpoint" || !bytes.Equal(files["checkpoint"], l.Checkpoint()) {
			t.Fatalf("left out %q, order %q", left, order)
		}
		var leaves [][]byte
		for n := 0; n < size; n += 256 {
			b := files[tilePath("entries", n/256, min(256, size-n))]
			for len(b) > 0 {
				k := int(b[0])<<8 | int(b[1])
				leaves = append(leaves, b[2:2+k])
				b = b[2+k:]
			}
		}
		if len(leaves) != size || merkle(leaves) != [32]byte(l.Root()) {
			t.Fatalf("%d leaves of %d, or another root", len(leaves), size)
		}
		want := []string{"checkpoint"}
		for n := 0; n < size; n += 256 {
			want = append(want, tilePath("entries", n/256, min(256, size-n)))
		}
		for level, span := 0, 1; size/span > 0; level, span = level+1, span*256 {
			for n := 0; n*256 < size/span; n++ {
				width := min(256, size/span-n*256)
				name := tilePath(fmt.Sprint(level), n, width)
				want = append(want, name)
				var tile []byte
				for i := range width {
					at := (n*256 + i) * span
					h := merkle(leaves[at : at+span])
					tile = append(tile, h[:]...)
				}
				if !bytes.Equal(files[name], tile) {
					t.Errorf("%d records: %s is not what it should be", size, name)
				}
			}
		}
		slices.Sort(want)
		if slices.Sort(order); !slices.Equal(order, want) {
			t.Errorf("files %q, want %q", order, want)
		}
	}
}

// tilePath spells a path for numbers below a thousand.
func tilePath(level string, n, width int) string {
	name := fmt.Sprintf("tile/%s/%03d", level, n)
	if width < 256 {
		name += fmt.Sprintf(".p/%d", width)
	}
	return name
}

func TestTileNamesAreThoseOfTheFormat(t *testing.T) {
	for _, test := range []struct {
		level string
		n     uint64
		width int
		want  string
	}{
		{"0", 0, 256, "tile/0/000"}, {"entries", 7, 12, "tile/entries/007.p/12"},
		{"1", 1000, 256, "tile/1/x001/000"}, {"0", 1234067, 1, "tile/0/x001/x234/067.p/1"},
	} {
		if got := tileName(test.level, test.n, test.width); got != test.want {
			t.Errorf("%s, want %s", got, test.want)
		}
	}
}

func TestRecordTooLongForABundleIsNamed(t *testing.T) {
	_, l := newLedger(t)
	appendAll(t, l, bigRecord(1))
	left, err := l.Tiles(func(f TileFile) error {
		if strings.Contains(f.Name, "entries") {
			t.Errorf("%s is there", f.Name)
		}
		return nil
	})
	must(t, err)
	if !slices.Equal(left, []string{"tile/entries/000.p/2"}) {
		t.Errorf("left out %q", left)
	}
	// Its proof is no longer than any other.
	b, err := l.Prove(1)
	must(t, err)
	p, err := audit.ParseProof(b)
	must(t, err)
	if _, err := p.Check(p.Extra, reader(t)); err != nil {
		t.Error(err)
	}
}

// TestProofIsAFormat holds the bytes of both proofs.
func TestProofIsAFormat(t *testing.T) {
	_, l := newLedger(t)
	appendAll(t, l, sealRecord(1), sealRecord(2))
	line, err := l.line(1)
	must(t, err)
	sibling := merkle([][]byte{mustLine(t, l, 0)})
	end := merkle([][]byte{mustLine(t, l, 2)})
	b64 := func(h [32]byte) string { return base64.StdEncoding.EncodeToString(h[:]) }
	want := "c2sp.org/tlog-proof@v1\nextra " + base64.StdEncoding.EncodeToString(line) + "\nindex 1\n" +
		b64(sibling) + "\n" + b64(end) + "\n\n" + string(l.Checkpoint())
	if got, err := l.Prove(1); err != nil || string(got) != want {
		t.Errorf("proof\n%s\nwant\n%s", got, want)
	}
	want = "old 2\n" + b64(end) + "\n\n" + string(l.Checkpoint())
	if got, err := l.Consistency(2); err != nil || string(got) != want {
		t.Errorf("proof\n%s\nwant\n%s", got, want)
	}
}

func mustLine(t testing.TB, l *Ledger, seq uint64) []byte {
	t.Helper()
	line, err := l.line(seq)
	must(t, err)
	return line
}
