package durable

import (
	"errors"
	"slices"
	"syscall"
)

// Free is the room in bytes in all places together that say what they have; two on one file system have it once.
func (s *Span) Free() (int64, error) {
	var sum int64
	var errs []error
	asked := 0
	seen := map[uint64]bool{}
	for _, p := range s.places {
		r, ok := p.Disk.(interface{ Free() (int64, error) })
		if !ok {
			continue
		}
		n, err := r.Free()
		if err != nil {
			errs = append(errs, p.named(err))
			continue
		}
		asked++
		if dev, ok := device(p.Disk); ok && seen[dev] {
			continue
		} else if ok {
			seen[dev] = true
		}
		sum += n
	}
	if asked == 0 {
		return 0, errors.Join(errs...)
	}
	return sum, nil
}

// device gives the number of the file system that a disk lies on, where it has one.
func device(d Disk) (uint64, bool) {
	info, err := d.Stat(".")
	if err != nil {
		return 0, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return uint64(st.Dev), true
}

// keptFree bounds, in bytes, what a place keeps free as long as another one has room: four packs, and in the first place
// twice that, since ledger and manifests have no other. On a small disk it is a 16th.
const keptFree = 512 << 20

// choose picks the place of a new file: the newest that has more than keptFree, else the one with most room, of which the
// first is none as long as there are others. A place that cannot say what it has is taken to have enough.
func (s *Span) choose() *stage {
	var best *stage
	most := int64(-1)
	for i, p := range slices.Backward(s.places) {
		r, ok := p.Disk.(interface {
			Room() (free, total int64, err error)
		})
		if !ok {
			return p
		}
		free, total, err := r.Room()
		kept := min(keptFree, total/16)
		if i == 0 {
			kept *= 2
		}
		switch {
		case err != nil:
			free = 0
		case free > kept:
			return p
		}
		if i > 0 && free > most {
			best, most = p, free
		}
	}
	if best == nil {
		return s.places[0]
	}
	return best
}
