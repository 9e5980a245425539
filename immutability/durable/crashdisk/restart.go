package crashdisk

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// Loss says how much of what was not synced is lost with the power. What a failed sync dropped is lost in every case.
type Loss int

// The losses.
const (
	// LoseUnsynced: everything that was not synced is lost.
	LoseUnsynced Loss = iota + 1
	// KeepAll: nothing is lost, as after a kill of the process alone, or when the kernel happened to write all out in time.
	KeepAll
	// Random: anything between, drawn from the seed. Each directory entry that changed since its directory was synced
	// stands for any of the things it stood for since. Of each file's unsynced writes a prefix is there, its last write
	// perhaps torn at any byte; in one file of four some of the bytes before that end are zeros, or bytes of anything else.
	Random
)

func (l Loss) String() string {
	switch l {
	case LoseUnsynced:
		return "lose unsynced"
	case KeepAll:
		return "keep all"
	case Random:
		return "random"
	}
	return fmt.Sprintf("loss %d", int(l))
}

// Restart returns the disk as it is found when the power comes back: all of it durable, no faults planned, counting from
// nought, with room again. d itself does not change, whether its power has failed or not, so that one cut can be survived
// in many ways. The seed matters for Random alone.
func (d *Disk) Restart(l Loss, seed int64) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := restart{
		loss: l,
		rng:  rand.New(rand.NewPCG(uint64(seed), 0x6372617368)),
		seen: map[*inode]*inode{},
	}
	nd := New()
	nd.root = r.inode(d.root)
	return nd
}

type restart struct {
	loss Loss
	rng  *rand.Rand
	seen map[*inode]*inode // what was found so far: a file may have several names
}

func (r *restart) inode(n *inode) *inode {
	if !n.dir {
		found := newFile(n.perm)
		found.flags = r.flags(n)
		found.mediumFlags = found.flags
		found.data = r.content(n)
		found.medium = slices.Clip(found.data)
		r.seen[n] = found
		return found
	}
	found := newDirectory(n.perm)
	found.flags = r.flags(n)
	found.mediumFlags = found.flags
	r.seen[n] = found
	for _, name := range names(n) {
		e := r.entry(n, name)
		if e == nil {
			continue
		}
		c, ok := r.seen[e]
		if ok && e.dir {
			continue // a directory has one name, whatever became of a rename between two others
		}
		if !ok {
			c = r.inode(e)
		}
		found.entries[name] = c
		found.durable[name] = c
	}
	return found
}

// names are all that may be found in a directory, in an order that does not change from run to run.
func names(n *inode) []string {
	all := slices.Collect(maps.Keys(n.durable))
	for name := range n.pending {
		if _, ok := n.durable[name]; !ok {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

// entry picks what a name stands for.
func (r *restart) entry(n *inode, name string) *inode {
	pending := n.pending[name]
	pick := 0 // of the durable one and the pending ones
	switch r.loss {
	case KeepAll:
		pick = len(pending)
	case Random:
		pick = r.rng.IntN(len(pending) + 1)
	}
	if pick == 0 {
		return n.durable[name]
	}
	return pending[pick-1]
}

// flags picks the flags of a file or directory.
func (r *restart) flags(n *inode) durable.Flags {
	switch {
	case len(n.changed) == 0 || r.loss == KeepAll:
		return n.flags
	case r.loss == Random:
		if pick := r.rng.IntN(len(n.changed) + 1); pick > 0 {
			return n.changed[pick-1]
		}
	}
	return n.mediumFlags
}

// content picks what a file consists of.
func (r *restart) content(n *inode) []byte {
	kept := n.dirty
	switch {
	case r.loss == LoseUnsynced || len(n.dirty) == 0:
		kept = nil
	case r.loss == Random:
		kept = slices.Clone(n.dirty[:r.rng.IntN(len(n.dirty)+1)])
		if i := len(kept); i < len(n.dirty) {
			next := n.dirty[i] // torn: from nothing to all of it
			kept = append(kept, extent{next.start, next.start + r.rng.IntN(next.end-next.start+1)})
		}
	}
	if len(kept) == 0 {
		return slices.Clip(n.medium) // never written in place: the two disks may share it
	}
	end := kept[len(kept)-1].end
	b := make([]byte, end) // zeros where a failed sync left a hole
	copy(b, n.medium)
	holes := r.loss == Random && r.rng.IntN(4) == 0
	for _, e := range kept {
		copy(b[e.start:e.end], n.data[e.start:e.end])
		if holes {
			r.spoil(b[e.start:e.end])
		}
	}
	return b
}

// spoil leaves a write whole, or takes away its tail or a stretch in it, as when the length reached the medium before the
// bytes did.
func (r *restart) spoil(b []byte) {
	if len(b) == 0 || r.rng.IntN(2) == 0 {
		return
	}
	from := r.rng.IntN(len(b))
	to := len(b)
	if r.rng.IntN(2) == 0 {
		to = from + 1 + r.rng.IntN(len(b)-from)
	}
	stale := r.rng.IntN(4) == 0
	for i := from; i < to; i++ {
		b[i] = 0
		if stale {
			b[i] = byte(r.rng.Uint32())
		}
	}
}
