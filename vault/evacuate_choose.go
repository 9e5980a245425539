package vault

import (
	"cmp"
	"slices"
)

// smallTiers is the number of tiers of packs that are not full.
const smallTiers = 3

// evacuationRule says which packs are left. docs/ARCHITECTURE.md argues for it and says what it bounds.
type evacuationRule struct {
	// full is from how many bytes on, of those that are used, a pack is full.
	full uint64
	// fan is how many small packs of one tier are merged, and how much larger those of the next tier are.
	fan int
	// deadLeast and deadMost bound from how many dead bytes on a pack that is mostly dead is left for their sake alone; between
	// them that is one in deadShare of the bytes that the source uses.
	deadLeast, deadMost, deadShare uint64
	// room is what a session may copy, catalog included, in bytes of plaintext; to it comes factor times what the source's
	// pulls brought lately, so that evacuation keeps up with whatever comes in.
	room, factor uint64
	// chunks bounds the chunks that one session moves, and with them its memory: about 200 bytes each.
	chunks int
}

// A pack is full at half of what packs grow to. The tiers begin at 4 MiB, at 256 KiB and at nothing.
var defaultRule = evacuationRule{
	full: 64 << 20, fan: 16, deadLeast: 1 << 20, deadMost: 16 << 20, deadShare: 256, room: 256 << 20, factor: 4, chunks: 64 << 10,
}

// packFacts is what is known of a pack that a source's current snapshots rely on.
type packFacts struct {
	number  uint32
	bytes   uint64 // of the sealed file
	content uint64 // plaintext in it, 0 if that is not known
	used    uint64 // of the content, by the current snapshots of all sources
	own     uint64 // of that, by this source's
	pinned  bool   // something else keeps it for longer than this session could
}

// live estimates what the used part of a pack takes in another one. A chunk that is named twice counts twice in used, so
// a pack can look fuller than it is, never emptier.
func (p *packFacts) live() uint64 {
	if p.used >= p.content {
		return min(p.content, p.bytes)
	}
	// A small pack consists of its parity mostly, which does not move.
	return min(p.used, uint64(float64(p.bytes)*(float64(p.used)/float64(p.content))))
}

func (p *packFacts) dead() uint64 {
	if p.used >= p.content {
		return 0
	}
	return uint64(float64(p.bytes) * (1 - float64(p.used)/float64(p.content)))
}

// cost bounds what a session copies out of the pack.
func (p *packFacts) cost() uint64 { return min(p.own, p.content) }

// tier is 0 for the smallest packs, and smallTiers for full ones.
func (r *evacuationRule) tier(p *packFacts) int {
	t, least := smallTiers, r.full
	for ; t > 0 && p.live() < least; t-- {
		least /= uint64(r.fan)
	}
	return t
}

// evacuees says which packs a session evacuates, given all packs that its source's current snapshots rely on. What it
// copies out of them stays within room, unless the first pack alone exceeds that.
//
// Mostly dead packs come first, those that give most for what they cost before the others. A tier of small packs is
// drained whole, oldest first, once it has fan of them; the tier of the cheapest comes first.
func (r *evacuationRule) evacuees(packs []packFacts, room uint64) (out []uint32) {
	var source uint64
	var candidates []packFacts
	for _, p := range packs {
		if p.content == 0 || p.bytes == 0 {
			continue
		}
		source += p.live()
		if !p.pinned {
			candidates = append(candidates, p)
		}
	}
	worth := min(max(source/r.deadShare, r.deadLeast), r.deadMost)
	left := room
	take := func(p *packFacts) bool {
		if p.cost() > left && len(out) > 0 {
			return false
		}
		left -= min(left, p.cost())
		out = append(out, p.number)
		return true
	}
	var tiers [smallTiers + 1][]packFacts
	var dead []packFacts
	for _, p := range candidates {
		if p.used < p.content/2 && p.dead() >= worth {
			dead = append(dead, p)
		} else {
			tiers[r.tier(&p)] = append(tiers[r.tier(&p)], p)
		}
	}
	slices.SortFunc(dead, func(a, b packFacts) int {
		// a.dead/a.cost against b.dead/b.cost
		return cmp.Or(cmp.Compare(float64(b.dead())*float64(a.cost()), float64(a.dead())*float64(b.cost())), cmp.Compare(a.number, b.number))
	})
	for i := range dead {
		take(&dead[i])
	}
	for _, tier := range tiers[:smallTiers] {
		if len(tier) < r.fan {
			continue
		}
		slices.SortFunc(tier, func(a, b packFacts) int { return cmp.Compare(a.number, b.number) })
		for i := range tier {
			if !take(&tier[i]) {
				break
			}
		}
	}
	return out
}
