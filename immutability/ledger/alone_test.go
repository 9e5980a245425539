package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
)

// TestSecondWriterForksTheLedger: somebody removed the vault's lock and started a second program. Whoever comes second to
// write finds that out and writes nothing, for good; what the other one was told stands.
func TestSecondWriterForksTheLedger(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, d *crashdisk.Disk, first *Ledger){
		"between two records": func(*testing.T, *crashdisk.Disk, *Ledger) {},
		"after a failed write": func(t *testing.T, d *crashdisk.Disk, first *Ledger) {
			d.FailAt(d.Ops()+1, crashdisk.ShortWrite)
			if _, err := first.Append(sealRecord(8)); !errors.Is(err, ErrBroken) {
				t.Fatalf("append: %v", err)
			}
		},
		"after a write that failed whole": func(t *testing.T, d *crashdisk.Disk, first *Ledger) {
			d.FailAt(d.Ops()+2, crashdisk.SyncFail)
			if _, err := first.Append(sealRecord(8)); !errors.Is(err, ErrBroken) {
				t.Fatalf("append: %v", err)
			}
		},
		"at the end of a segment": func(_ *testing.T, _ *crashdisk.Disk, first *Ledger) { first.fresh = true },
	} {
		t.Run(name, func(t *testing.T) {
			d, first := newLedger(t)
			appendAll(t, first, sealRecord(1))
			prepare(t, d, first)
			second := reopen(t, d)
			appendAll(t, second, sealRecord(2), sealRecord(3))
			for range 2 {
				if _, err := first.Append(sealRecord(9)); !errors.Is(err, ErrForeign) {
					t.Errorf("the first writer goes on: %v", err)
				}
			}
			appendAll(t, second, sealRecord(4))
			l := reopen(t, d)
			must(t, l.Extends(second.Checkpoint()))
			must(t, l.Extends(first.Checkpoint()))
			if got := kinds(l); strings.Count(got, "seal") != 4 {
				t.Errorf("records: %s", got)
			}
		})
	}
}

// TestRootThatIsTakenBackIsTold: a pin that no record follows may be left out by the next Open, so neither size nor root
// may have counted it: they are what the world outside remembers the vault by.
func TestRootThatIsTakenBackIsTold(t *testing.T) {
	d, l := newLedger(t)
	appendAll(t, l, sealRecord(1))
	told := fmt.Sprint(l.Size(), l.Root())
	d.FailAt(d.Ops()+1, crashdisk.IOError) // the line
	for range 2 {
		if _, err := l.Append(sealRecord(2)); !errors.Is(err, ErrBroken) {
			t.Fatalf("append: %v", err)
		}
		if now := fmt.Sprint(l.Size(), l.Root()); now != told {
			t.Errorf("told %s, then %s", told, now)
		}
		d.FailAt(d.Ops()+8, crashdisk.IOError) // the line behind the pin of a new segment
	}
	if r, err := Inspect(d, "ledger", ""); err != nil || len(r.Damages) > 0 || fmt.Sprint(r.Size, r.Root) != told {
		t.Errorf("told %s, the disk has %+v (%v)", told, r, err)
	}
	again := reopen(t, d.Restart(crashdisk.KeepAll, 0))
	if now := fmt.Sprint(again.Size(), again.Root()); now != told {
		t.Errorf("told %s, after a restart %s", told, now)
	}
}

// flaky is a disk that reads something else than is there.
type flaky struct {
	durable.Disk
	read func(name string) (durable.File, error)
}

func (f *flaky) Open(name string) (durable.File, error) {
	if f.read != nil {
		return f.read(name)
	}
	return f.Disk.Open(name)
}

// TestReplayLeavesARecordOut: a process that cannot open one more file for a moment must not take a ledger without some of
// its segments for the whole of it.
func TestReplayLeavesARecordOut(t *testing.T) {
	d, l := newLedger(t)
	appendAll(t, l, sealRecord(1))
	l.fresh = true
	appendAll(t, l, sealRecord(2))
	const first = "ledger/000001.jsonl"
	other := bytes.Replace(read(t, d, first), []byte(`"kind":"seal"`), []byte(`"kind":"sale"`), 1)
	for name, broken := range map[string]func(string) (durable.File, error){
		"cannot be opened": func(string) (durable.File, error) { return nil, errors.New("too many open files") },
		"reads otherwise": func(string) (durable.File, error) {
			fake := crashdisk.New()
			write(t, fake, "x", other)
			return fake.Open("x")
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := &flaky{Disk: d}
			l, err := Open(f, "ledger", "", "")
			must(t, err)
			n := 0
			must(t, l.Replay(func(Record) { n++ }))
			if n != 4 {
				t.Errorf("%d records", n)
			}
			f.read = func(name string) (durable.File, error) {
				if name == first {
					return broken(name)
				}
				return d.Open(name)
			}
			if err := l.Replay(func(Record) {}); err == nil {
				t.Error("the first segment is missing, and nobody says so")
			}
		})
	}
}
