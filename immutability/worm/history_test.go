package worm_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// schedules are the ways in which clocks lie, each as often as it stands here.
var schedules = []lies{
	{}, {wall: true}, {wall: true}, {wall: true, boot: true}, {wall: true, boot: true}, {raw: true, boot: true}, {raw: true, boot: true}, {wall: true, raw: true, boot: true},
}

// born are the disks of new vaults, without and with a guard, to be cloned: making keys takes longer than many a history.
var born = sync.OnceValues(func() (d *crashdisk.Disk, err error) {
	d = crashdisk.New()
	_, err = worm.Init(d, newMachine(lies{}), worm.InitOptions{
		Vault: historyVault, Identity: []byte(`{"format":1,"vault":"` + historyVault + `"}` + "\n"), Keyring: []byte("wrapped\n"),
		Policy: ledger.Policy{Mode: ledger.Governance, DefaultSeconds: 2 * 86400, MinSeconds: 3600, MaxSeconds: 30 * 86400},
	})
	return d, err
})

func newMachine(l lies) *machine {
	return &machine{lies: l, origin: clock.Earliest().Add(day), boots: 1}
}

func newHistory(seed uint64, guard, tame bool) (*history, error) {
	d, err := born()
	if err != nil {
		return nil, err
	}
	r := rand.New(rand.NewPCG(seed, 1))
	l := schedules[r.IntN(len(schedules))]
	h := &history{r: r, m: newMachine(l), disk: d.Clone(), guard: guard, tame: tame}
	if r.IntN(6) == 0 {
		h.liars = r.IntN(4)
		if err := h.witnesses(); err != nil {
			return h, err
		}
	}
	// BOOTTIME can be steered, and is believed only as far as MONOTONIC_RAW goes, so that one is what has to be honest; and
	// with it the quorum of the witnesses, whose time stands in for running time.
	h.mod = newModel(!l.wall || !l.raw && h.liars < 2)
	h.say("lies: %+v, guard %v, %d witnesses of whom %d lie", l, guard, len(h.seers), h.liars)
	h.mod.shift.born = true
	if err := h.open(); err != nil {
		return h, err
	}
	h.saw()
	return h, h.keepRules(seed)
}

// live runs a history of so many steps. The last thing in it is always a prune and a look.
func live(seed uint64, guard, tame bool, steps int) (h *history, err error) {
	if h, err = newHistory(seed, guard, tame); err != nil {
		return h, err
	}
	for range steps {
		if err = h.step(); err == nil {
			err = h.look()
		}
		if err != nil {
			return h, err
		}
	}
	if err = h.remove(0); err == nil {
		err = h.look()
	}
	if err == nil {
		h.pass(25*time.Hour, false)
		err = h.remove(0)
	}
	if err == nil {
		err = h.look()
	}
	if err == nil && h.r.IntN(4) == 0 {
		err = h.end()
	}
	if err == nil {
		err = h.followed()
	}
	return h, err
}

func (h *history) step() error {
	if h.rules != nil && h.rules.IntN(40) == 0 {
		if err := h.adopt(); err != nil {
			return err
		}
	}
	k := h.r.IntN(100)
	switch {
	case k < 26:
		return h.commit()
	case k < 33:
		return h.extend()
	case k < 55:
		d := h.span(500 * day)
		h.say("%v pass", d)
		h.pass(d, false)
		if h.seers != nil && h.r.IntN(2) == 0 {
			return h.ask()
		}
	case k < 58:
		d := h.span(500 * day)
		h.say("asleep for %v", d)
		h.pass(d, true)
	case k < 68:
		h.lie()
	case k < 76:
		return h.remove(0)
	case k < 79:
		return h.remove(1)
	case k < 82:
		return h.remove(2)
	case k < 84:
		h.say("tick")
		return h.store.Tick()
	case k < 88:
		return h.restart(k)
	case k < 93:
		return h.reboot(k)
	case k < 95:
		return h.lose()
	default:
		return h.cut()
	}
	return nil
}

// lie makes one of the clocks that may lie do so.
func (h *history) lie() {
	d := h.span(500 * day)
	if h.r.IntN(2) == 0 {
		d = -d
	}
	which, frozen := h.r.IntN(4), h.r.IntN(2) == 0
	switch m := h.m; {
	case which < 2 && m.lies.wall:
		// A wall clock before 1970 is refused, and nobody is asked about it here.
		m.wall = max(m.wall+d, -50*365*day)
		m.frozen = frozen
		h.say("the wall clock is set by %v, frozen %v", d, frozen)
	case which == 2 && m.lies.raw:
		m.raw = max(0, m.raw+d)
		h.say("MONOTONIC_RAW jumps by %v", d)
		h.mod.shift.forget()
	case which == 3 && m.lies.boot && m.still:
		m.boot, m.owed, m.still = m.boot+m.owed, 0, false
		h.say("BOOTTIME catches up")
	case which == 3 && m.lies.boot && frozen:
		m.still = true
		h.say("BOOTTIME stands still")
	case which == 3 && m.lies.boot:
		m.boot = max(0, m.boot+d)
		h.say("BOOTTIME jumps by %v", d)
	}
}

// restart ends the process, in good order or not, and holds what is decided afterwards to what was before.
func (h *history) restart(k int) error {
	killed := k%2 == 0
	before, err := h.store.Plan(context.Background())
	if err != nil {
		return err
	}
	if killed {
		h.say("the process is killed")
	} else {
		h.say("the process ends")
		if err := h.store.Close(); err != nil {
			return err
		}
	}
	if err := h.open(); err != nil {
		return err
	}
	after, err := h.store.Plan(context.Background())
	if err != nil {
		return err
	}
	if len(after) != len(before) {
		return broken("%d snapshots before the restart, %d after it", len(before), len(after))
	}
	for i := range after {
		b, a := before[i], after[i]
		// Counters that lie are believed less by a process that did not see how.
		same := b.Go == a.Go || b.Go && (killed || h.m.lies.raw || h.m.lies.boot)
		if b.ID != a.ID || !same {
			return broken("%.8s may go before the restart: %v (%s); after it: %v (%s)", b.ID, b.Go, b.Why, a.Go, a.Why)
		}
	}
	return nil
}

// reboot starts the machine anew, mostly after the process has ended in good order.
func (h *history) reboot(k int) error {
	gap := h.span(500 * day)
	if k%4 != 0 {
		if err := h.store.Close(); err != nil {
			return err
		}
		h.saw()
	} else {
		h.mod.shift.forget()
	}
	h.say("the machine is off for %v", gap)
	h.off(gap)
	h.mod.shift.rebooted(h.m.wall)
	return h.open()
}

// lose takes the clock's state away, changes it, or puts an older one back, while no process runs.
func (h *history) lose() error {
	what := h.r.IntN(4)
	old := h.old
	h.old = readState(h.disk)
	if h.r.IntN(2) == 0 {
		if err := h.store.Close(); err != nil {
			return err
		}
	}
	h.mod.shift.forget()
	var err error
	switch {
	case what == 0:
		h.say("the clock's state is removed")
		err = durable.Remove(h.disk, stateFile)
	case what == 1:
		h.say("the clock's state is damaged")
		err = h.disk.Flip(stateFile, h.r.Int64N(300), 1)
	case old != nil:
		h.say("the clock's state is put back")
		err = durable.Replace(h.disk, stateFile, old, 0o600)
	}
	if err != nil {
		return err
	}
	return h.open()
}

// cut lets the power fail, or the process die, in the middle of something.
func (h *history) cut() error {
	h.disk.FailAt(h.disk.Ops()+1+h.r.Int64N(14), []crashdisk.Fault{crashdisk.Crash, crashdisk.CrashAfter, crashdisk.Torn}[h.r.IntN(3)])
	var err error
	switch h.r.IntN(4) {
	case 0:
		err = h.remove(0)
	case 1:
		err = h.extend()
	default:
		err = h.commit()
	}
	if errors.Is(err, errBroken) {
		return err
	}
	loss, seed, gap := crashdisk.Random, h.r.Int64(), h.span(500*day)
	h.mod.shift.forget()
	if h.r.IntN(3) == 0 || !h.disk.Fired() {
		h.say("the process is killed there")
		h.disk = h.disk.Restart(crashdisk.KeepAll, seed)
	} else {
		h.say("the power fails there, for %v", gap)
		h.disk = h.disk.Restart(loss, seed)
		h.off(gap)
	}
	if err := h.open(); err != nil {
		return err
	}
	return h.afterCut()
}

// afterCut finds out what became of what was under way. What is gone must have been allowed to go.
func (h *history) afterCut() error {
	all, err := h.store.Snapshots()
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, s := range all {
		there[s.ID] = true
	}
	var gone []string
	for _, p := range h.mod.snaps {
		if !p.gone && !there[p.id] && p.grants[0].length > 0 {
			gone = append(gone, p.id)
		}
	}
	if err := h.went(worm.PruneReport{Snapshots: gone}); err != nil {
		return err
	}
	packs := map[uint32]bool{}
	for _, p := range h.store.Packs() {
		packs[p.Number] = true
		if h.mod.packs[p.Number] == nil {
			h.mod.packs[p.Number] = &stored{sealed: h.mod.real} // its seal came through
		}
	}
	var rep worm.PruneReport
	for n, p := range h.mod.packs {
		if !p.gone && !packs[n] {
			rep.Packs = append(rep.Packs, n)
		}
	}
	return h.went(rep)
}

// end is the other half of the promise: on an honest machine that runs, locks do end. The clocks are put right, and whatever
// was not stamped in the future goes once the longest lock has passed.
func (h *history) end() error {
	h.m.lies, h.m.frozen, h.m.still = lies{}, false, false
	h.m.wall = h.mod.real
	h.mod.shift.forget()
	h.say("the clocks are put right")
	for range 6 {
		h.pass(20*day, false)
		if err := h.store.Tick(); err != nil {
			return err
		}
	}
	h.mod.trusted = false // what was promised by clocks that lied ends as they said
	for range 2 {
		if err := h.remove(0); err != nil {
			return err
		}
		h.pass(25*time.Hour, false)
	}
	if err := h.remove(2); err != nil {
		return err
	}
	all, err := h.store.Snapshots()
	if err != nil {
		return err
	}
	for _, s := range all {
		p := h.mod.find(s.ID)
		if h.mod.keeps(p) == "" && h.wanted[s.ID] == "" && !p.held && !s.Committed.Wall.After(h.m.origin.Add(h.m.wall-61*day)) && len(p.grants) == 1 {
			return broken("%.8s of %s is still there (locked %v until %v)", p.id, p.source, s.Locked, s.LockedUntil)
		}
	}
	return nil
}

// judge runs the history of a seed, and for some the life of the same vault with a source that behaves.
func judge(seed uint64, guard bool, steps int) error {
	h, err := live(seed, guard, false, steps)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, strings.Join(h.log, "\n"))
	}
	if seed%16 != 0 {
		return nil
	}
	other, err := live(seed, guard, true, steps)
	if err != nil {
		return fmt.Errorf("with a source that behaves: %w\n%s", err, strings.Join(other.log, "\n"))
	}
	if h.fate.String() != other.fate.String() {
		return broken("what a source claims of its times changed the fate of others\n%s\n\nother fate:\n%s\n\nthis fate:\n%s", strings.Join(h.log, "\n"), other.fate.String(), h.fate.String())
	}
	return nil
}

const historySteps = 20

// histories judges n seeds from first on, on all processors, and reports the first that breaks a promise with the shortest
// history of that seed that does.
func histories(t *testing.T, first, n uint64, guard bool) {
	var next, done atomic.Uint64
	var mu sync.Mutex
	bad := ^uint64(0)
	var group sync.WaitGroup
	began := time.Now()
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for {
				seed := first + next.Add(1) - 1
				mu.Lock()
				stop := seed >= first+n || seed > bad
				mu.Unlock()
				if stop {
					return
				}
				if judge(seed, guard, historySteps) != nil {
					mu.Lock()
					bad = min(bad, seed)
					mu.Unlock()
				}
				done.Add(1)
			}
		})
	}
	group.Wait()
	t.Logf("%d histories of %d steps in %v", done.Load(), historySteps, time.Since(began).Round(time.Millisecond))
	if bad == ^uint64(0) {
		return
	}
	for steps := range historySteps + 1 {
		if err := judge(bad, guard, steps); err != nil {
			t.Fatalf("seed %d, %d steps: %v", bad, steps, err)
		}
	}
	t.Fatalf("seed %d broke a promise once and not again", bad)
}

// number reads an environment variable that says how much to do.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q: %v", name, s, err)
	}
	return n
}

// TestNoHistoryBreaksAPromise: over random lives of a vault and random schedules of its clocks no lock expires early while the
// wall clock or the running time is honest, running locks never get shorter, nothing expires during a shift while locking
// goes on, the newest complete and the newest clean snapshot of a source stay, a source's dates change nothing for others,
// and a restart decides as before.
func TestNoHistoryBreaksAPromise(t *testing.T) {
	n := uint64(1200)
	if worm.RaceEnabled {
		n = 150
	}
	histories(t, number(t, "HOLDFAST_HISTORY_FIRST", 1), number(t, "HOLDFAST_HISTORIES", n), false)
}

// TestNoHistoryBreaksAPromiseOnAGuardedDisk is the same with flags and leases.
func TestNoHistoryBreaksAPromiseOnAGuardedDisk(t *testing.T) {
	n := uint64(150)
	if worm.RaceEnabled {
		n = 20
	}
	histories(t, number(t, "HOLDFAST_HISTORY_FIRST", 1), max(n, number(t, "HOLDFAST_HISTORIES", n)/20), true)
}
