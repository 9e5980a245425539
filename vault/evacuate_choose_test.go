package vault

import (
	"slices"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"pgregory.net/rapid"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

func facts(number uint32, bytes, content, used uint64) packFacts {
	return packFacts{number: number, bytes: bytes, content: content, used: used, own: used}
}

// several are n packs alike, numbered from first on.
func several(n int, first uint32, bytes, used uint64) (out []packFacts) {
	for i := range n {
		out = append(out, facts(first+uint32(i), bytes, bytes, used))
	}
	return out
}

func numbers(first uint32, n int) (out []uint32) {
	for i := range n {
		out = append(out, first+uint32(i))
	}
	return out
}

func TestWrongPacksAreLeft(t *testing.T) {
	const mb = 1 << 20
	full := several(4, 1, 128*mb, 128*mb)
	pinned := func(p packFacts) packFacts { p.pinned = true; return p }
	shared := facts(9, 128*mb, 128*mb, 100*mb)
	shared.own = 1000
	for _, c := range []struct {
		name  string
		packs []packFacts
		want  []uint32
	}{
		{"nothing", nil, nil},
		{"full packs", full, nil},
		{"a full pack that is half used", append(full, facts(9, 128*mb, 128*mb, 64*mb)), nil},
		{"one that is mostly dead", append(full, facts(9, 128*mb, 128*mb, 63*mb)), []uint32{9}},
		{"one that is kept anyway", append(full, pinned(facts(9, 128*mb, 128*mb, 63*mb))), nil},
		{"one that others use", append(full, shared), nil},
		{"one that compresses well and is used", append(full, facts(9, 20*mb, 128*mb, 128*mb)), nil},
		{"one of which nobody knows what it holds", append(full, facts(9, 128*mb, 0, 1)), nil},
		{"a dead one too small to matter", append(full, facts(9, mb, mb, 1)), nil},
		{"a small dead one in a small vault", []packFacts{facts(9, 2*mb, 2*mb, 1)}, []uint32{9}},
		{"too few small ones", several(15, 1, 200<<10, 100<<10), nil},
		{"enough small ones", several(16, 1, 200<<10, 100<<10), numbers(1, 16)},
		{"as many of different tiers", append(several(8, 1, 100<<10, 100<<10), several(8, 20, mb, mb)...), nil},
		{"what a pack of parity alone would be", several(16, 1, 90<<10, 5000), numbers(1, 16)},
		{"more than a pull may copy", several(20, 1, 30*mb, 30*mb), numbers(1, 4)},
		{"more than a pull may copy, in one", []packFacts{facts(9, 128*mb, 1000*mb, 400*mb)}, []uint32{9}},
		{"the cheaper of two first", []packFacts{facts(8, 128*mb, 400*mb, 199*mb), facts(9, 128*mb, 400*mb, mb)}, []uint32{9}},
	} {
		if got := defaultRule.evacuees(c.packs, 128*mb); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestRuleBreaksItsBounds(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var packs []packFacts
		for i := range rapid.IntRange(0, 120).Draw(r, "packs") {
			p := facts(uint32(i+1), rapid.Uint64Range(0, 128<<20).Draw(r, "bytes"), rapid.Uint64Range(0, 1<<30).Draw(r, "content"), rapid.Uint64Range(0, 1<<31).Draw(r, "used"))
			p.own = rapid.Uint64Range(0, p.used).Draw(r, "own")
			p.pinned = rapid.IntRange(0, 3).Draw(r, "pinned") == 0
			packs = append(packs, p)
		}
		room := rapid.Uint64Range(1<<20, 1<<32).Draw(r, "room")
		out := defaultRule.evacuees(packs, room)
		var cost uint64
		seen := map[uint32]bool{}
		for _, n := range out {
			p := packs[n-1]
			cost += p.cost()
			if p.pinned || p.content == 0 || seen[n] || defaultRule.tier(&p) == smallTiers && p.used >= p.content/2 {
				r.Fatalf("%+v is left", p)
			}
			seen[n] = true
		}
		if cost > room && len(out) > 1 && packs[out[0]-1].cost() <= room {
			r.Fatalf("%d bytes, the room is %d", cost, room)
		}
	})
}

func TestKeptPacksAreMistaken(t *testing.T) {
	now := clock.Stamp{Wall: time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC)}
	const day = 24 * time.Hour
	snap := func(source string, pack uint32, until time.Duration, state string, forDays int64) worm.Snapshot {
		s := worm.Snapshot{Source: source, State: state, LockedUntil: now.Wall.Add(until), Locked: until > 0, Lock: ledger.Lock{ForSeconds: forDays * 86400}}
		if err := s.Head.SetPacks(roaring.BitmapOf(pack)); err != nil {
			t.Fatal(err)
		}
		return s
	}
	const complete, partial = reliance.Complete, reliance.Partial
	for _, c := range []struct {
		name string
		all  []worm.Snapshot
		want []uint32
	}{
		{"its own, locked as usual", []worm.Snapshot{snap("a", 1, 10*day, complete, 30), snap("a", 2, 29*day, complete, 30)}, nil},
		{"its own, held for longer", []worm.Snapshot{snap("a", 1, 3000*day, complete, 3010), snap("a", 2, 29*day, complete, 30)}, []uint32{1}},
		{"its newest, held for longer", []worm.Snapshot{snap("a", 1, 10*day, complete, 30), snap("a", 2, 3000*day, complete, 3000)}, []uint32{2}},
		{"its newest, whose lock has run", []worm.Snapshot{snap("a", 1, -day, complete, 30)}, nil},
		{"its newest complete one, whose lock has run", []worm.Snapshot{snap("a", 1, -day, complete, 30), snap("a", 2, 29*day, partial, 30)}, []uint32{1}},
		{"an old one that prune takes soon", []worm.Snapshot{snap("a", 1, -day, complete, 30), snap("a", 2, 29*day, complete, 30)}, nil},
		{"another source that is pulled", []worm.Snapshot{snap("b", 1, 29*day, complete, 30), snap("a", 2, 29*day, complete, 30)}, nil},
		{"another source with long locks", []worm.Snapshot{snap("b", 1, 399*day, complete, 400), snap("a", 2, 29*day, complete, 30)}, []uint32{1}},
		{"another source that is pulled no more", []worm.Snapshot{snap("b", 1, -day, complete, 30), snap("a", 2, 29*day, complete, 30)}, []uint32{1}},
	} {
		got, err := pinnedBeyond(c.all, "a", now)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.ToArray(), append([]uint32{}, c.want...)) {
			t.Errorf("%s: %v, want %v", c.name, got.ToArray(), c.want)
		}
	}
}
