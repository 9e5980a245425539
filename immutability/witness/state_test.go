package witness

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"pgregory.net/rapid"
)

// slowDisk stops at the first Rename until told to go on: at the moment between the look and the new state.
type slowDisk struct {
	durable.Disk
	once    sync.Once
	reached chan struct{}
	goOn    chan struct{}
}

func (d *slowDisk) Rename(from, to string) error {
	d.once.Do(func() {
		close(d.reached)
		<-d.goOn
	})
	return d.Disk.Rename(from, to)
}

// TestTwoRequestsAtOnceDoNotRollBack is the race that the protocol's text warns of: a request with 8 records is verified,
// one with 20 overtakes it.
func TestTwoRequestsAtOnceDoNotRollBack(t *testing.T) {
	l := newLog(t, "log.example/a", names(20)...)
	d := crashdisk.New()
	_, err := newWitness(t, d, l).AddCheckpoint(l.request(0, 5, 0))
	must(t, err)
	slow := &slowDisk{Disk: d, reached: make(chan struct{}), goOn: make(chan struct{})}
	w := newWitness(t, slow)
	first, second := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := w.AddCheckpoint(l.request(5, 8, 5))
		first <- err
	}()
	<-slow.reached
	if lock := w.lock(l.origin); lock.mu.TryLock() {
		lock.mu.Unlock()
		t.Error("between the look and the new state anybody may come")
	}
	go func() {
		_, err := w.AddCheckpoint(l.request(5, 20, 5))
		second <- err
	}()
	close(slow.goOn)
	must(t, <-first)
	var refusal *Refusal
	if err := <-second; !errors.As(err, &refusal) || refusal.Status != 409 || refusal.Size != 8 {
		t.Errorf("the second: %v", err)
	}
}

// TestManyRequestsAtOnceNeverGoBack has many clients push the same log forward; each cosignature that anybody got must
// be of a tree no smaller than every one that was given out before it was asked for.
func TestManyRequestsAtOnceNeverGoBack(t *testing.T) {
	const most = 200
	l := newLog(t, "log.example/a", names(most)...)
	d := crashdisk.New()
	w := newWitness(t, d, l)
	var given atomic.Int64
	var all sync.WaitGroup
	for client := range 8 {
		all.Go(func() {
			old := int64(0)
			for step := range 60 {
				n := min(old+int64(1+(client*7+step)%9), most)
				floor := given.Load()
				_, err := w.AddCheckpoint(l.request(old, n, old))
				var refusal *Refusal
				switch {
				case err == nil:
					if n < floor {
						t.Errorf("%d records are cosigned after %d", n, floor)
					}
					for g := given.Load(); g < n && !given.CompareAndSwap(g, n); g = given.Load() {
					}
					old = n
				case errors.As(err, &refusal) && refusal.Status == 409:
					old = refusal.Size
				default:
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	logs, err := Logs(d)
	must(t, err)
	if logs[0].Size != uint64(given.Load()) {
		t.Errorf("remembered %d, given out %d", logs[0].Size, given.Load())
	}
}

// TestNoFaultMakesAWitnessForget puts each fault at each operation of a witness that is asked for a growing log, and then
// has the power fail: whatever was cosigned must be remembered, and a fork of it refused.
func TestNoFaultMakesAWitnessForget(t *testing.T) {
	l := newLog(t, "log.example/a", names(12)...)
	fork := newLog(t, "log.example/a", "another beginning")
	fork.add(names(20)...)
	for _, fault := range crashdisk.Faults() {
		for op := int64(1); ; op++ {
			d := crashdisk.New()
			must(t, AddLog(d, l.verifier))
			w := newWitness(t, d)
			d.FailAt(d.Ops()+op, fault)
			cosigned, old := int64(0), int64(0)
			for _, n := range []int64{3, 3, 7, 12} {
				lines, err := w.AddCheckpoint(l.request(old, n, old))
				var refusal *Refusal
				if errors.As(err, &refusal) && refusal.Status == 409 {
					old = refusal.Size // as after a failure midway
					lines, err = w.AddCheckpoint(l.request(old, n, old))
				}
				if err == nil {
					checkCosigned(t, l.text(n), lines)
					cosigned, old = n, n
				}
			}
			fired := d.Fired()
			for _, loss := range []crashdisk.Loss{crashdisk.LoseUnsynced, crashdisk.KeepAll, crashdisk.Random} {
				after := d.Restart(loss, op)
				logs, err := Logs(after)
				must(t, err)
				if len(logs) != 1 || logs[0].Err != nil || logs[0].Size < uint64(cosigned) {
					t.Fatalf("%v at %d, %v: cosigned %d, remembered %+v", fault, op, loss, cosigned, logs)
				}
				again := newWitness(t, after)
				size := int64(logs[0].Size)
				if size > 0 {
					if _, err := again.AddCheckpoint(fork.request(size, 20, size)); err == nil {
						t.Fatalf("%v at %d, %v: a fork is cosigned", fault, op, loss)
					}
				}
				_, err = again.AddCheckpoint(l.request(size, 12, size))
				must(t, err)
			}
			if !fired {
				break
			}
			if op > 200 {
				t.Fatal("it does not end")
			}
		}
	}
}

// TestLostOrSpoiltMemoryIsNotTakenForNone: a witness that lost a log's file must not begin anew.
func TestLostOrSpoiltMemoryIsNotTakenForNone(t *testing.T) {
	l := newLog(t, "log.example/a", names(12)...)
	d := crashdisk.New()
	w := newWitness(t, d, l)
	_, err := w.AddCheckpoint(l.request(0, 5, 0))
	must(t, err)
	name := stateName(l.origin)
	good, err := durable.ReadFile(d, name, stateMax)
	must(t, err)
	for i := range good {
		must(t, d.Flip(name, int64(i), 1))
		if lines, err := w.AddCheckpoint(l.request(0, 12, 0)); err == nil {
			t.Errorf("byte %d: %q", i, lines)
		}
		_, err := w.AddCheckpoint(l.request(5, 12, 5))
		var refusal *Refusal
		if err == nil || errors.As(err, &refusal) {
			t.Errorf("byte %d: not told as trouble of its own: %v", i, err)
		}
		must(t, d.Flip(name, int64(i), 1))
	}
	must(t, d.Remove(name))
	if _, err := w.AddCheckpoint(l.request(0, 12, 0)); err == nil {
		t.Error("a log whose memory is lost is cosigned from its beginning")
	}
	// Adding it anew is a decision of the operator's; adding it twice forgets nothing.
	must(t, AddLog(d, l.verifier))
	_, err = w.AddCheckpoint(l.request(0, 12, 0))
	must(t, err)
	must(t, AddLog(d, l.verifier))
	if logs, err := Logs(d); err != nil || logs[0].Size != 12 {
		t.Errorf("%+v, %v", logs, err)
	}
	other := newLog(t, "log.example/a")
	_, other.verifier = logKey(t, l.origin, 3)
	if AddLog(d, other.verifier) == nil {
		t.Error("another key took over what is remembered")
	}
}

// TestHistoriesAreMonotonic draws requests of a log and of its fork at random: what is cosigned is always one history.
func TestHistoriesAreMonotonic(t *testing.T) {
	l := newLog(t, "log.example/a", names(30)...)
	fork := newLog(t, "log.example/a", names(11)...)
	fork.add("another", "path")
	fork.add(names(30)...)
	rapid.Check(t, func(rt *rapid.T) {
		w := newWitness(t, crashdisk.New(), l)
		var size int64
		var text string
		for range rapid.IntRange(1, 12).Draw(rt, "requests") {
			from := rapid.SampledFrom([]*log{l, fork}).Draw(rt, "log")
			n := rapid.Int64Range(1, 30).Draw(rt, "size")
			old := rapid.Int64Range(0, n).Draw(rt, "old")
			if rapid.Bool().Draw(rt, "knows") {
				old = min(size, n)
			}
			if _, err := w.AddCheckpoint(from.request(old, n, old)); err != nil {
				continue
			}
			if n < size || size > 0 && from.text(size) != text {
				rt.Fatalf("cosigned %d records that do not begin with the %d before", n, size)
			}
			size, text = n, from.text(n)
		}
	})
}
