package move

import (
	"errors"
	"fmt"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// TestACutMoveLosesOrDoublesTheVault puts every fault at every operation of a move, on either disk, which share their power.
// After each, at most one of the two places can be written to, and the command again finishes the move, with all that the
// vault promised.
func TestACutMoveLosesOrDoublesTheVault(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *two) {
		before, err := w.gather(w.old)
		must(t, err)
		quiet := w.at(w.d.Clone())
		_, err = Run(ctx, quiet.options())
		must(t, err)
		step, points, survived := every(40), int64(0), 0
		for op := int64(1); op <= quiet.d.Ops(); op++ {
			for _, fault := range crashdisk.Faults() {
				// Around the two marks none is left out, but under the race detector.
				marks := op >= marking(quiet)-1 && !raceEnabled && (fault == crashdisk.Crash || fault == crashdisk.CrashAfter)
				if points++; points%step != 0 && !marks {
					continue
				}
				cut := w.at(w.d.Clone())
				cut.d.FailAt(op, fault)
				_, err := Run(ctx, cut.options())
				fail := func(how string, err2 error) {
					survived++
					if err2 != nil {
						t.Errorf("op %d %v (%v), %s: %v\n%q", op, fault, err, how, err2, cut.d.Log()[max(0, op-4):min(int64(len(cut.d.Log())), op+3)])
					}
				}
				switch fault {
				case crashdisk.Crash, crashdisk.CrashAfter, crashdisk.Torn, crashdisk.ReadOnly:
					fail("kept", cut.at(cut.d.Restart(crashdisk.KeepAll, 0)).goesOn(before, err == nil))
				default:
					live := cut.at(cut.d.Clone())
					live.d.Refill()
					fail("killed", live.goesOn(before, err == nil))
				}
				fail("lost", cut.at(cut.d.Restart(crashdisk.LoseUnsynced, 0)).goesOn(before, err == nil))
				for seed := range int64(2) {
					fail(fmt.Sprintf("random %d", seed), cut.at(cut.d.Restart(crashdisk.Random, op*10+seed)).goesOn(before, err == nil))
				}
			}
		}
		t.Logf("%d operations, %d states after a fault", quiet.d.Ops(), survived)
	})
}

// goesOn demands what must be true after a move that something cut, and finishes it.
func (w *two) goesOn(before *facts, moved bool) error {
	writable, err := w.writers()
	if err != nil {
		return err
	}
	if moved && writable != "new" {
		return fmt.Errorf("the move was acknowledged, and who can be written to is %q", writable)
	}
	// Whoever only reads finds all of it, in one of them at least.
	if f, oerr := w.gather(w.old); oerr != nil || f.Root != before.Root {
		return fmt.Errorf("the old place cannot be read any more: %w", oerr)
	}
	if _, err := Run(ctx, w.options()); err != nil {
		return fmt.Errorf("the command again: %w", err)
	}
	w.on(w.d.Restart(crashdisk.LoseUnsynced, 0))
	if writable, err := w.writers(); err != nil || writable != "new" {
		return fmt.Errorf("the move is done, and who can be written to is %q: %w", writable, err)
	}
	// The old place may have recorded since what the fault did to its clock.
	last, err := w.gather(w.old)
	if err != nil {
		return err
	}
	after, err := w.gather(w.new)
	if err != nil {
		return err
	}
	if err := last.same(after); err != nil {
		return err
	}
	if err := w.sound(w.new); err != nil {
		return err
	}
	s, err := w.open(w.new)
	if err != nil {
		return err
	}
	if s.Unguarded() != 0 {
		return fmt.Errorf("%d files and directories lacked their flags", s.Unguarded())
	}
	if _, err := tryCommit(s, "web1", "after", ledger.Lock{}); err != nil {
		return err
	}
	return errors.Join(before.covers(s), s.Close(), w.sound(w.new))
}

// writers says which of the two places can be opened for writing: "old", "new" or neither. Both is an error.
func (w *two) writers() (which string, err error) {
	for name, place := range map[string]func(*two) below{"old": func(x *two) below { return x.old }, "new": func(x *two) below { return x.new }} {
		looked := w.at(w.d.Clone())
		s, err := looked.open(place(looked))
		switch {
		case err != nil && name == "old" && !errors.Is(err, worm.ErrMoved):
			return "", fmt.Errorf("the old place does not open: %w", err)
		case err != nil:
			continue
		case which != "":
			return "", errors.New("both places can be written to")
		}
		which = name
		if err := s.Close(); err != nil {
			return "", err
		}
	}
	return which, nil
}

// TestACutRetirementLosesAnything: whatever cuts the lifting of flags, the new place is untouched, and the command again
// finishes.
func TestACutRetirementLosesAnything(t *testing.T) {
	t.Parallel()
	w := newTwo(true).build(t)
	before, err := w.gather(w.old)
	must(t, err)
	_, err = Run(ctx, w.options())
	must(t, err)
	w.on(w.d.Restart(crashdisk.KeepAll, 0))
	quiet := w.at(w.d.Clone())
	_, err = Retire(ctx, quiet.options())
	must(t, err)
	step, points := every(7), int64(0)
	for op := int64(1); op <= quiet.d.Ops(); op++ {
		for _, fault := range crashdisk.Faults() {
			if points++; points%step != 0 {
				continue
			}
			cut := w.at(w.d.Clone())
			cut.d.FailAt(op, fault)
			_, _ = Retire(ctx, cut.options())
			for _, loss := range []crashdisk.Loss{crashdisk.LoseUnsynced, crashdisk.KeepAll, crashdisk.Random} {
				after := cut.at(cut.d.Restart(loss, op))
				if _, err := Retire(ctx, after.options()); err != nil {
					t.Fatalf("op %d %v: %v", op, fault, err)
				}
				for name, flags := range map[string]durable.Flags{"old": 0, "old/packs": 0, "old/packs/00000001.pack": 0, "old/ledger/000001.jsonl": 0, "new": durable.Immutable, "new/packs/00000001.pack": durable.Immutable} {
					if f, err := after.d.Flags(name); err != nil || f != flags {
						t.Errorf("op %d %v: %s has the flags %q: %v", op, fault, name, f, err)
					}
				}
				if which, err := after.writers(); err != nil || which != "new" {
					t.Errorf("op %d %v: who can be written to is %q: %v", op, fault, which, err)
				}
				got, err := after.gather(after.new)
				must(t, err)
				must(t, before.same(got))
			}
		}
	}
}
