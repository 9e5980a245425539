package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
)

// follower is a ledger that goes after another process's, and what it was given.
type follower struct {
	l    *Ledger
	have [][]byte
	anew int // how often everything was read again
}

func follow(t testing.TB, d *crashdisk.Disk) *follower {
	t.Helper()
	l, err := Open(d, "ledger", "", "")
	must(t, err)
	f := &follower{l: l}
	must(t, l.Replay(func(r Record) { f.have = append(f.have, r.Raw) }))
	return f
}

func (f *follower) to(size uint64, root [32]byte) error {
	return f.l.Follow(size, root, func() { f.have = nil; f.anew++ }, func(r Record) { f.have = append(f.have, r.Raw) })
}

// agrees says whether a follower has exactly what the writer has, and whether proofs and checkpoints come from it as from
// the writer.
func (f *follower) agrees(w *Ledger, acknowledged [][]byte) error {
	size, root := w.Head()
	if err := f.to(size, root); err != nil {
		return err
	}
	lines := slices.DeleteFunc(slices.Clone(f.have), func(line []byte) bool {
		return bytes.Contains(line[:min(len(line), 100)], []byte(`"kind":"segment"`)) // which the writer makes by itself
	})
	if !slices.EqualFunc(lines[1:], acknowledged, bytes.Equal) || f.l.Size() != size || f.l.Root() != root {
		return fmt.Errorf("%d records were followed, %d are acknowledged", len(lines), len(acknowledged)+1)
	}
	if w.CheckpointError() == nil {
		if err := f.l.CheckpointError(); err != nil || !bytes.Equal(f.l.Checkpoint(), w.Checkpoint()) {
			return fmt.Errorf("the newest checkpoint is not told: %v", err)
		}
	}
	return nil
}

// TestFollowerMissesOrInventsRecords: whichever operation of the writer fails, however, a follower has at each mark exactly
// what was acknowledged: also one that was opened while a line stood there whose write had failed.
func TestFollowerMissesOrInventsRecords(t *testing.T) {
	for what, h := range map[string]struct {
		records []Record
		step    int64
	}{
		"one segment":      {[]Record{sealRecord(1), sealRecord(2), sealRecord(3)}, 1},
		"several segments": {[]Record{bigRecord(1), bigRecord(2), bigRecord(3), bigRecord(4), sealRecord(5), sealRecord(6)}, 12},
	} {
		t.Run(what, func(t *testing.T) { followedThroughFaults(t, h.records, stride(h.step)) })
	}
}

func followedThroughFaults(t *testing.T, records []Record, step int64) {
	d, l := newLedger(t)
	first := d.Ops()
	appendAll(t, l, records...)
	last := d.Ops()
	anew := 0
	for op := first + 1; op <= last; op += step {
		for _, fault := range []crashdisk.Fault{crashdisk.ShortWrite, crashdisk.IOError, crashdisk.SyncFail, crashdisk.IOErrorAfter} {
			d, l := newLedger(t)
			d.FailAt(op, fault)
			all, acknowledged := []*follower{follow(t, d)}, [][]byte{}
			for _, r := range records {
				done, err := l.Append(r)
				if err != nil {
					all = append(all, follow(t, d)) // it may see the line that was not acknowledged
					if done, err = l.Append(r); err != nil {
						t.Fatal(err)
					}
				}
				acknowledged = append(acknowledged, done.Raw)
				for i, f := range all {
					if err := f.agrees(l, acknowledged); err != nil {
						t.Fatalf("op %d %v, follower %d: %v", op, fault, i, err)
					}
				}
			}
			for _, f := range all {
				anew += f.anew
			}
		}
	}
	if anew == 0 {
		t.Error("no line was ever taken back: this tests nothing of it")
	}
	t.Logf("%d operations, %d times read anew", last-first, anew)
}

func TestAnotherLedgerIsNotFollowed(t *testing.T) {
	d, l := newLedger(t)
	appendAll(t, l, sealRecord(1))
	f := follow(t, d)
	size, root := l.Head()
	other := root
	other[0] ^= 1
	for what, err := range map[string]error{
		"another root": f.to(size, other), "more than there is": f.to(size+1, root), "another root of more": f.to(size+3, other),
	} {
		if !errors.Is(err, ErrNotFollowed) {
			t.Errorf("%s: %v, want ErrNotFollowed", what, err)
		}
	}
	appendAll(t, l, sealRecord(2), sealRecord(3))
	if err := f.to(l.Size(), other); !errors.Is(err, ErrNotFollowed) {
		t.Errorf("another root of what is there: %v, want ErrNotFollowed", err)
	}
	must(t, f.to(size, root)) // as it was before
	must(t, f.to(l.Head()))
	if f.l.Size() != l.Size() || len(f.have) != int(l.Size()) {
		t.Errorf("%d records were followed, of %d", len(f.have), l.Size())
	}
	if err := l.Follow(size, root, nil, nil); err == nil {
		t.Error("who writes follows")
	}
}
