package vault

import (
	"cmp"
	"slices"
)

// The rule of evacuation. docs/ARCHITECTURE.md argues for it and says what it bounds.
const (
	// fullBytes is from where on a pack counts as full: half of what packs grow to.
	fullBytes = 64 << 20
	// tierFan is how many small packs of one tier are merged, and how much larger those of the next tier are.
	tierFan = 16
	// smallTiers is the number of tiers below fullBytes: from 4 MiB, from 256 KiB, and all that is smaller.
	smallTiers = 3
	// deadLeast and deadMost bound from how many dead bytes on a pack is worth its evacuation for their sake alone; between
	// them it is a share (deadShare) of what the source uses.
	deadLeast, deadMost, deadShare = 1 << 20, 16 << 20, 256
)

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
func (p *packFacts) tier() int {
	t, least := smallTiers, uint64(fullBytes)
	for ; t > 0 && p.live() < least; t-- {
		least /= tierFan
	}
	return t
}

// evacuees says which packs a session evacuates, given all packs that its source's current snapshots rely on. What it
// copies out of them stays within room, unless the first pack alone exceeds that.
//
// Mostly dead packs come first, those that give most for what they cost before the others. A tier of small packs is
// drained whole, oldest first, once it has tierFan of them; the tier of the cheapest comes first.
func evacuees(packs []packFacts, room uint64) (out []uint32) {
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
	worth := min(max(source/deadShare, deadLeast), deadMost)
	var left uint64 = room
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
			tiers[p.tier()] = append(tiers[p.tier()], p)
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
		if len(tier) < tierFan {
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
