package ledger

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger/killpoint"
)

// history is what a writer was told before its disk failed.
type history struct {
	acknowledged []int // numbers of sealRecords
	attempted    map[int]bool
	checkpoints  [][]byte
	created      bool
	guard        bool // flags are used
}

func (h *history) make(d durable.Disk) error {
	if h.guard {
		return CreateGuarded(d.(durable.GuardedDisk), "ledger", testSigner, initRecord())
	}
	return Create(d, "ledger", testSigner, initRecord())
}

func (h *history) open(d durable.Disk) (*Ledger, error) {
	if h.guard {
		return OpenGuarded(d.(durable.GuardedDisk), "ledger", testSigner, testVerifier)
	}
	return Open(d, "ledger", testSigner, testVerifier)
}

// born are the histories of a ledger without and with flags.
var born = map[string]func() *history{
	"plain":   func() *history { return &history{} },
	"guarded": func() *history { return &history{guard: true} },
}

func (h *history) append(l *Ledger, n int) error {
	if h.attempted == nil {
		h.attempted = map[int]bool{}
	}
	h.attempted[n] = true
	if _, err := l.Append(sealRecord(n)); err != nil {
		return err
	}
	h.acknowledged = append(h.acknowledged, n)
	h.checkpoints = [][]byte{l.Checkpoint()} // whoever extends it extends all before it
	return nil
}

// run makes a ledger, appends, begins a second segment, reopens and appends again. With persist it
// goes on after an error, as a daemon does; else it stops there, as a process does that is killed.
func run(d durable.Disk, h *history, persist bool) {
	if durable.MkdirAll(d, "ledger", 0o700) != nil || h.make(d) != nil {
		return
	}
	h.created = true
	for round := range 2 {
		l, err := h.open(d)
		if err != nil && persist {
			l, err = h.open(d)
		}
		if err != nil {
			return
		}
		for k := range 3 {
			if k == 1 {
				l.fresh = true // as if the segment were full
			}
			n := 10*round + k
			err := h.append(l, n)
			if err != nil && persist {
				err = h.append(l, n) // issued again
			}
			if err != nil && !persist {
				return
			}
		}
		_ = l.Close()
	}
}

// prove checks that nothing acknowledged is lost and that the next append works, then lets the power
// fail once more, now losing everything that is not durable. What fails is tried as often as told.
func (h *history) prove(d *crashdisk.Disk, tries int) error {
	if !h.created {
		return nil
	}
	for round := range 2 {
		l, err := h.open(d)
		if err != nil && tries > 1 {
			l, err = h.open(d)
		}
		if err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		if err := errors.Join(h.holds(l), h.tidy(d, l)); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		err = h.append(l, 100+round)
		if err != nil && tries > 1 {
			err = h.append(l, 100+round)
		}
		if err != nil {
			return fmt.Errorf("round %d: next append: %w", round, err)
		}
		if err := h.holds(l); err != nil {
			return fmt.Errorf("round %d, after append: %w", round, err)
		}
		report, err := Inspect(d, "ledger", testVerifier)
		if err != nil || len(report.Damages) > 0 || report.Size != l.Size() || report.Root != l.Root() {
			return fmt.Errorf("round %d: inspect: %+v %v, size %d", round, report, err, l.Size())
		}
		d = d.Restart(crashdisk.LoseUnsynced, 0)
	}
	return nil
}

// tidy demands of a guarded ledger that every flag is set and nothing is left that its flag keeps for ever.
func (h *history) tidy(d *crashdisk.Disk, l *Ledger) error {
	if !h.guard {
		return nil
	}
	var errs []error
	for _, bad := range l.Exposed() {
		errs = append(errs, &bad)
	}
	for _, name := range d.Files() {
		if path.Dir(name) == "ledger" && !strings.HasSuffix(name, segmentSuffix) || path.Dir(name) == temporaryDir {
			errs = append(errs, fmt.Errorf("%s is left over", name))
		}
	}
	return errors.Join(errs...)
}

func (h *history) holds(l *Ledger) error {
	have := map[int]int{}
	for r := range l.Records() {
		if r.Seal != nil {
			have[int(r.Seal.Bytes)]++
		}
	}
	var errs []error
	for _, n := range h.acknowledged {
		if have[n] == 0 {
			errs = append(errs, fmt.Errorf("acknowledged record %d is lost", n))
		}
	}
	for n := range have {
		if !h.attempted[n] {
			errs = append(errs, fmt.Errorf("record %d was never written", n))
		}
	}
	for _, c := range h.checkpoints {
		if err := l.Extends(c); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func TestNoFaultLosesAnAcknowledgedRecord(t *testing.T) {
	for name, begin := range born {
		t.Run(name, func(t *testing.T) { noFaultLoses(t, begin) })
	}
}

func noFaultLoses(t *testing.T, begin func() *history) {
	quiet := crashdisk.New()
	run(quiet, begin(), false)
	last := quiet.Ops()
	points := 0
	for op := int64(1); op <= last; op += stride(1) {
		for _, fault := range crashdisk.Faults() {
			for _, persist := range []bool{false, true} {
				d := crashdisk.New()
				d.FailAt(op, fault)
				h := begin()
				run(d, h, persist)
				fail := func(how string, err error) {
					if err != nil {
						t.Errorf("op %d %v, persist %t, %s: %v\n%v", op, fault, persist, how, err, d.Log()[max(0, op-4):min(int64(len(d.Log())), op+3)])
					}
				}
				survive(d, h, fault, fail)
				for seed := range int64(3) {
					fail(fmt.Sprintf("random %d", seed), h.clone().prove(d.Restart(crashdisk.Random, seed), 1))
				}
				points++
			}
		}
	}
	t.Logf("%d operations, %d faults survived", last, points)
}

// survive proves the history on the disk as it is (the process was killed), and after a power cut.
func survive(d *crashdisk.Disk, h *history, fault crashdisk.Fault, fail func(string, error)) {
	dead := fault == crashdisk.Crash || fault == crashdisk.CrashAfter || fault == crashdisk.Torn || fault == crashdisk.ReadOnly
	if !dead {
		live := d.Clone()
		live.Refill()
		fail("killed", h.clone().prove(live, 2))
	}
	fail("lost", h.clone().prove(d.Restart(crashdisk.LoseUnsynced, 0), 1))
	fail("kept", h.clone().prove(d.Restart(crashdisk.KeepAll, 0), 1))
}

func (h *history) clone() *history {
	c := *h // created and guard too
	c.attempted = map[int]bool{}
	maps.Copy(c.attempted, h.attempted)
	c.acknowledged, c.checkpoints = slices.Clip(h.acknowledged), slices.Clip(h.checkpoints)
	return &c
}

// TestKilledAnywhere takes the process away at every operation and leaves the machine running; the
// power fails later.
func TestKilledAnywhere(t *testing.T) {
	for name, begin := range born {
		t.Run(name, func(t *testing.T) { killedAnywhere(t, begin()) })
	}
}

func killedAnywhere(t *testing.T, h *history) {
	inner := crashdisk.New()
	points := 0
	spy := &killpoint.Disk{GuardedDisk: inner, Before: func() {
		points++
		err := h.clone().prove(inner.Clone(), 1)
		if looked := inner.Clone(); err == nil && h.created {
			// Somebody opens the ledger and saves its checkpoint before the power fails.
			var l *Ledger
			if l, err = h.open(looked); err == nil {
				c := h.clone()
				c.checkpoints = append(c.checkpoints, l.Checkpoint())
				err = c.prove(looked.Restart(crashdisk.LoseUnsynced, 0), 1)
			}
		}
		if err != nil {
			t.Errorf("killed before op %d: %v\n%v", inner.Ops()+1, err, inner.Log()[max(0, inner.Ops()-3):])
		}
	}}
	run(spy, h, false)
	if points < 50 || len(h.acknowledged) != 6 {
		t.Errorf("%d points, %d records", points, len(h.acknowledged))
	}
}

// TestSegmentWithNothingButItsPinIsLeftOut has a segment whose making may have failed come and go.
func TestSegmentWithNothingButItsPinIsLeftOut(t *testing.T) {
	d, l := newLedger(t)
	appendAll(t, l, sealRecord(1))
	size, root := l.Size(), l.Root()
	must(t, l.begin(sealRecord(2)))
	l = reopen(t, d)
	if l.Size() != size || l.Root() != root {
		t.Fatalf("the pin counts: size %d", l.Size())
	}
	appendAll(t, l, sealRecord(3))
	if got := kinds(reopen(t, d)); got != "init seal segment seal" {
		t.Errorf("records %s", got)
	}
	must(t, d.Remove("ledger/000002.jsonl")) // as a power cut may
	l = reopen(t, d)
	if got := kinds(l); got != "init seal segment seal" {
		t.Errorf("records %s", got)
	}
	appendAll(t, l, sealRecord(4))
}

// TestTwoFaults lets the recovery from one fault meet a second.
func TestTwoFaults(t *testing.T) {
	for name, begin := range born {
		t.Run(name, func(t *testing.T) { twoFaults(t, begin) })
	}
}

func twoFaults(t *testing.T, begin func() *history) {
	faults := []crashdisk.Fault{crashdisk.IOError, crashdisk.SyncFail, crashdisk.ShortWrite, crashdisk.IOErrorAfter}
	quiet := crashdisk.New()
	run(quiet, begin(), false)
	for first := int64(10); first <= quiet.Ops(); first += stride(2) {
		for _, gap := range []int64{1, 2, 4, 7} {
			for i, fault := range faults {
				d := crashdisk.New()
				d.FailAt(first, fault)
				d.FailAt(first+gap, faults[(i+int(gap))%len(faults)])
				h := begin()
				run(d, h, true)
				survive(d, h, fault, func(how string, err error) {
					if err != nil {
						t.Errorf("ops %d and %d, %v, %s: %v", first, first+gap, fault, how, err)
					}
				})
			}
		}
	}
}

// stride thins a sweep out where it would take minutes; with HOLDFAST_SWEEP=full it is whole.
func stride(n int64) int64 {
	switch {
	case os.Getenv("HOLDFAST_SWEEP") == "full":
		return n
	case raceEnabled || testing.Short():
		return 41 * n
	}
	return 2 * n
}
