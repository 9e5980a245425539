package vault

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/retention"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

const oneDay = 24 * time.Hour

// pastOf makes what is left of a source that was pulled n times, every so often, the newest a moment ago: each pull stored 100 bytes that the next one
// replaced, and 10 that stayed.
func pastOf(inv *worm.Inventory, source string, n int, every, lock time.Duration) {
	lasting := roaring.New()
	for i := range n {
		at := inv.Now.Wall.Add(-time.Duration(n-1-i) * every)
		s := worm.Inventoried{Manifest: 7, BornFor: lock, LockedFor: max(0, lock-inv.Now.Wall.Sub(at)), Packs: lasting.Clone()}
		s.ID, s.Source, s.Session, s.Committed = fmt.Sprintf("%s-%d", source, i), source, fmt.Sprintf("%s-%d", source, i), clock.Stamp{Wall: at}
		for _, bytes := range []int64{100, 10} {
			number := uint32(len(inv.Packs) + 1)
			inv.Packs = append(inv.Packs, worm.InventoriedPack{PackInfo: worm.PackInfo{Number: number, Bytes: bytes, Session: s.Session}})
			s.Packs.Add(number)
			if bytes == 10 {
				lasting.Add(number)
			}
		}
		inv.Snapshots = append(inv.Snapshots, s)
		inv.History.Snapshots = append(inv.History.Snapshots, retention.Snapshot{
			ID: s.ID, Source: source, Committed: at, Complete: true, Clean: true, Locked: s.LockedFor > 0,
		})
	}
	inv.Decisions = retention.Decide(inv.History)
}

func newPast() *worm.Inventory {
	now := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	return &worm.Inventory{Now: clock.Stamp{Wall: now, Running: 400 * 86400}, History: retention.History{Now: now}}
}

// TestFutureForgetsWhatIsUsual: a source goes on as often as it did, with as much each time; space settles at what its locks keep, and grows by what
// lasts; one that is silent, and one that was pulled once, bring nothing.
func TestFutureForgetsWhatIsUsual(t *testing.T) {
	inv := newPast()
	pastOf(inv, "web1", 20, oneDay, 10*oneDay)
	quiet := newPast()
	quiet.Now.Wall = quiet.Now.Wall.Add(-30 * oneDay)
	pastOf(inv, "once", 1, oneDay, 10*oneDay)
	for i := range inv.Snapshots {
		if inv.Snapshots[i].Source == "web1" && i < 3 {
			inv.Gone = append(inv.Gone, worm.Departed{ID: "x", Source: "silent", Committed: clock.Stamp{Wall: quiet.Now.Wall.Add(time.Duration(i) * oneDay)}})
		}
	}
	f, err := foresee(t.Context(), inv, ForeseeOptions{For: 100 * oneDay})
	if err != nil {
		t.Fatal(err)
	}
	why := map[string]Rhythm{}
	for _, r := range f.Rhythms {
		why[r.Source] = r
	}
	// Named grows by what lasts, 10 a pull.
	if r := why["web1"]; r.Every != oneDay || r.Stored != 110 || r.Lasts != 10 || r.Pulls != 19 {
		t.Errorf("web1: %+v", r)
	}
	if why["once"].Every != 0 || why["once"].Why == "" || why["silent"].Every != 0 || why["silent"].Why == "" {
		t.Errorf("once: %+v, silent: %+v", why["once"], why["silent"])
	}
	here := map[string]int{}
	for _, s := range f.Kept {
		here[s.Source]++
	}
	if here["web1"] < 11 || here["web1"] > 14 || here["once"] != 1 { // its locks' ten days, and two of marks
		t.Errorf("kept: %v", here)
	}
	var pulls, gone int
	var stored, freed uint64
	for _, p := range f.Prunes {
		pulls += p.Pulls
		gone += len(p.Snapshots)
		stored += p.Stored
		freed += p.Freed
	}
	if pulls < 99 || pulls > 100 || stored != uint64(pulls)*117 || f.Begin+stored-freed != f.End || gone != 21+pulls-len(f.Kept) {
		t.Errorf("%d pulls stored %d, %d are gone, %d came free; from %d to %d", pulls, stored, gone, freed, f.Begin, f.End)
	}
	// What lasts of the past and of the future, the one snapshot of the other source, and what a dozen snapshots hold alone.
	if least := uint64(20*10 + 100 + pulls*10 + 117 + 11*107); f.End < least || f.End > least+400 {
		t.Errorf("it settles at %d, about %d was to be expected", f.End, least)
	}
	none, err := foresee(t.Context(), inv, ForeseeOptions{For: 100 * oneDay, NoPulls: true})
	if err != nil || len(none.Kept) != 2 || len(none.Rhythms) != 0 || none.End != 20*10+100+7+117 {
		t.Errorf("without pulls: %+v, %v", none, err)
	}
}

// TestFutureIsPlayedUnderAHalt: what is halted today is said, and the future is played as if it ended.
func TestFutureIsPlayedUnderAHalt(t *testing.T) {
	inv := newPast()
	pastOf(inv, "web1", 5, oneDay, oneDay)
	inv.History.Halt = "the panic switch is on"
	f, err := foresee(t.Context(), inv, ForeseeOptions{For: 10 * oneDay, NoPulls: true})
	if err != nil || f.Halt != inv.History.Halt || len(f.Kept) != 1 {
		t.Errorf("%+v, %v", f, err)
	}
}

// TestFutureNeverEnds: a play that takes long ends with its context.
func TestFutureNeverEnds(t *testing.T) {
	inv := newPast()
	pastOf(inv, "web1", 5, oneDay, oneDay)
	ctx, end := context.WithCancel(t.Context())
	end()
	if _, err := foresee(ctx, inv, ForeseeOptions{For: ForeseeMax}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// BenchmarkForesee plays a year of 20 sources that are pulled every six hours, with locks of 30 days.
func BenchmarkForesee(b *testing.B) {
	inv := newPast()
	for i := range 20 {
		pastOf(inv, fmt.Sprintf("web%d", i), 120, 6*time.Hour, 30*oneDay)
	}
	for b.Loop() {
		if _, err := foresee(b.Context(), inv, ForeseeOptions{For: 365 * oneDay}); err != nil {
			b.Fatal(err)
		}
	}
}
