package vault

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/retention"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

const (
	// foreseenEvery is how often the future has a prune: once a day, and the seconds that a day of cut stamps asks on top.
	foreseenEvery = MarkedFor + 2*time.Second
	// ForeseeMax bounds how far the future is played.
	ForeseeMax = 100 * 366 * 24 * time.Hour
	// foreseenMax bounds the snapshots that the future holds at a time.
	foreseenMax = 1 << 20
)

// ForeseeOptions say what the future is like.
type ForeseeOptions struct {
	For time.Duration // how far it goes
	// NoPulls says that nothing new comes. Then what is foreseen is what happens, if the machine stays on, nobody sets the clock,
	// changes the policy, locks, holds, pulls or restores, and a prune runs once a day.
	NoPulls bool
}

// Foresight is what the policy makes of the vault by a later day.
type Foresight struct {
	From, To time.Time // by the vault's wall clock
	// Halt says why nothing may be removed today, "" for nothing; the future is played as if that ended today.
	Halt    string
	Rhythms []Rhythm // of the sources that go on, and those that do not, by name
	// Prunes are those days on which something goes or comes, oldest first.
	Prunes []ForeseenPrune
	// Kept are all that are there at the end, oldest first.
	Kept []ForeseenSnapshot
	// Begin and End are the bytes of sealed packs and manifests that are named or can be, at either end.
	Begin, End uint64
}

// ForeseenPrune is what one prune takes.
type ForeseenPrune struct {
	At        time.Time
	Snapshots []ForeseenSnapshot // that it removes
	Packs     int                // of today's
	Freed     uint64             // bytes that come back, of today's packs and of what comes later
	Pulls     int                // since the prune before
	Stored    uint64             // by these
	Taken     uint64             // bytes after it
}

// ForeseenSnapshot is one of today's, or one to come.
type ForeseenSnapshot struct {
	retention.Decision
	Committed time.Time
	// ToCome says that there is none yet: a pull of the future makes it.
	ToCome bool
}

// Foresee plays the policy in force forward, in memory, with the rules that prune decides by and with the locks' clocks advanced.
// Nothing is changed, and no key is needed. ctx may end it early.
func (v *Vault) Foresee(ctx context.Context, o ForeseeOptions) (Foresight, error) {
	if o.For <= 0 || o.For > ForeseeMax {
		return Foresight{}, fmt.Errorf("a future of %v: it is longer than nothing and at most 100 years", o.For)
	}
	inv, err := v.store.Inventory(ctx)
	if err != nil {
		return Foresight{}, err
	}
	for i := range inv.Snapshots {
		if s := &inv.Snapshots[i]; s.Err != nil {
			return Foresight{}, fmt.Errorf("nothing is removed while a manifest cannot be read: %w", s.Err)
		}
	}
	return foresee(ctx, &inv, o)
}

// future is the vault as it will be, at some time after now.
type future struct {
	now     time.Time
	history retention.History
	all     []*foreseen // those that are there, oldest first
	packs   []foreseenPack
	place   map[uint32]int // of today's packs
	taken   uint64
	rhythms []Rhythm
	out     Foresight
}

type foreseen struct {
	retention.Snapshot
	lockedFor time.Duration // after now; negative for ever
	packs     []int         // places in future.packs
	manifest  uint64
	own       uint64 // what a pull to come stored for it alone
	toCome    bool
	wanted    bool          // counted in its packs' wants
	marked    time.Duration // when it was, from now on
	isMarked  bool
	gone      bool
}

// foreseenPack is one of today's packs.
type foreseenPack struct {
	bytes    uint64
	needed   time.Duration // by its session, after now; negative for ever
	names    int           // snapshots that are there and name it
	wants    int           // of these, those that are not to go
	lasts    bool          // its source is pulled again, and what its newest snapshot has is needed from then on
	marked   time.Duration
	isMarked bool
	gone     bool
}

func foresee(ctx context.Context, inv *worm.Inventory, o ForeseeOptions) (Foresight, error) {
	f := newFuture(inv)
	f.out.To = f.now.Add(o.For).UTC()
	if !o.NoPulls {
		f.rhythms = rhythms(inv)
		f.out.Rhythms = f.rhythms
	}
	for at := time.Duration(0); at <= o.For; at += foreseenEvery {
		if err := ctx.Err(); err != nil {
			return Foresight{}, err
		}
		if err := f.day(at); err != nil {
			return Foresight{}, err
		}
	}
	for i, d := range f.decide(o.For) {
		f.out.Kept = append(f.out.Kept, f.all[i].told(d))
	}
	f.out.End = f.taken
	return f.out, nil
}

func newFuture(inv *worm.Inventory) *future {
	f := &future{now: inv.Now.Wall, history: inv.History, place: map[uint32]int{}}
	f.out.From, f.out.Halt = f.now.UTC(), inv.History.Halt
	f.history.Halt = ""
	for i := range inv.Packs {
		p := &inv.Packs[i]
		f.place[p.Number] = len(f.packs)
		fp := foreseenPack{bytes: uint64(p.Bytes), needed: p.SessionFor}
		fp.marked, fp.isMarked = since(inv.Now, p.Marked)
		f.packs = append(f.packs, fp)
		f.taken += fp.bytes
	}
	for i := range inv.Snapshots {
		s := &inv.Snapshots[i]
		x := &foreseen{Snapshot: inv.History.Snapshots[i], lockedFor: s.LockedFor, manifest: uint64(s.Manifest)}
		x.marked, x.isMarked = since(inv.Now, s.Marked)
		for n := range roaring.Values(s.Packs) {
			if at, there := f.place[n]; there {
				x.packs = append(x.packs, at)
				f.packs[at].names++
			}
		}
		f.all = append(f.all, x)
		f.taken += x.manifest
	}
	f.out.Begin = f.taken
	return f
}

// since tells when something was marked, by the clock that asks for more: before now, and so below nought.
func since(now, marked clock.Stamp) (time.Duration, bool) {
	if marked.IsZero() {
		return 0, false
	}
	return -time.Duration(max(0, min(now.Wall.Unix()-marked.Wall.Unix(), now.Running-marked.Running))) * time.Second, true
}

func (x *foreseen) told(d retention.Decision) ForeseenSnapshot {
	return ForeseenSnapshot{Decision: d, Committed: x.Committed, ToCome: x.toCome}
}

// decide asks the rules at a time.
func (f *future) decide(at time.Duration) []retention.Decision {
	h := f.history
	h.Now, h.Least = f.now.Add(at), nil
	h.Snapshots = make([]retention.Snapshot, len(f.all))
	for i, x := range f.all {
		x.Locked = x.lockedFor < 0 || at < x.lockedFor
		h.Snapshots[i] = x.Snapshot
	}
	return retention.Decide(h)
}

// day is what happens until a prune, and the prune.
func (f *future) day(at time.Duration) error {
	p := ForeseenPrune{At: f.now.Add(at).UTC()}
	if err := f.pull(at, &p); err != nil {
		return err
	}
	decisions := f.decide(at)
	f.want(decisions)
	f.sweep(at, decisions, &p)
	f.mark(at, decisions)
	f.all = without(f.all)
	p.Taken = f.taken
	if len(p.Snapshots) > 0 || p.Packs > 0 || p.Pulls > 0 {
		f.out.Prunes = append(f.out.Prunes, p)
	}
	return nil
}

// want counts by whom each pack is needed that is not to go.
func (f *future) want(decisions []retention.Decision) {
	for i, x := range f.all {
		if x.wanted == !decisions[i].Go {
			continue
		}
		by := 1
		if x.wanted {
			by = -1
		}
		x.wanted = !x.wanted
		for _, n := range x.packs {
			f.packs[n].wants += by
		}
	}
}

func ripe(isMarked bool, marked, at time.Duration) bool { return isMarked && at-marked > MarkedFor }

// sweep removes what was marked a day before and still may go, the snapshots first.
func (f *future) sweep(at time.Duration, decisions []retention.Decision, p *ForeseenPrune) {
	for i, x := range f.all {
		if !decisions[i].Go || !ripe(x.isMarked, x.marked, at) {
			continue
		}
		p.Snapshots = append(p.Snapshots, x.told(decisions[i]))
		p.Freed += x.manifest + x.own
		for _, n := range x.packs {
			f.packs[n].names--
		}
		x.gone = true
	}
	for i := range f.packs {
		pack := &f.packs[i]
		if !pack.gone && pack.names == 0 && pack.free(at) && ripe(pack.isMarked, pack.marked, at) {
			pack.gone = true
			p.Packs++
			p.Freed += pack.bytes
		}
	}
	f.taken -= p.Freed
}

// free says whether no session needs a pack any more, and no pull to come.
func (p *foreseenPack) free(at time.Duration) bool {
	return !p.lasts && p.needed >= 0 && at >= p.needed
}

// mark marks what may go, and takes away the mark of what may not.
func (f *future) mark(at time.Duration, decisions []retention.Decision) {
	for i, x := range f.all {
		if !decisions[i].Go {
			x.isMarked = false
		} else if !x.isMarked {
			x.isMarked, x.marked = true, at
		}
	}
	for i := range f.packs {
		p := &f.packs[i]
		if p.wants > 0 || !p.free(at) {
			p.isMarked = false
		} else if !p.isMarked {
			p.isMarked, p.marked = true, at
		}
	}
}

// without leaves those that are still there.
func without(all []*foreseen) []*foreseen {
	out := all[:0]
	for _, x := range all {
		if !x.gone {
			out = append(out, x)
		}
	}
	return out
}

var errForeseen = errors.New("the future holds too many snapshots at a time")

// pull lets the pulls come that are due until a prune.
func (f *future) pull(at time.Duration, p *ForeseenPrune) error {
	for i := range f.rhythms {
		r := &f.rhythms[i]
		for r.Every > 0 && r.next <= at {
			if len(f.all) >= foreseenMax {
				return fmt.Errorf("%w: %d; ask for a shorter time, or without pulls", errForeseen, len(f.all))
			}
			if f.all = append(f.all, r.make(f.now, r.next)); r.n == 1 {
				for _, n := range r.packs {
					f.packs[n].lasts = true
				}
			}
			stored := r.Stored + r.manifest
			p.Pulls++
			p.Stored += stored
			f.taken += stored
			r.next += r.Every
		}
	}
	return nil
}
