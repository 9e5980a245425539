package worm

import (
	"slices"
	"sort"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
)

// Witness time. A lock that was granted in record G has run when its duration passed by the wall clock, and also by credited
// running time or by the quorum's time. With a quorum of q, of which fewer than q witnesses are dishonest:
//
//	start(G)  the first record `witnessed` whose checkpoint covers G and that q trusted witnesses signed: the q-th
//	          smallest of the times in it. Of the q smallest one is honest, so that it is not before G existed.
//	now       of each trusted witness the largest time that it ever claimed in a record; of these the q-th largest. Of the
//	          q largest one is honest, so that it is not after the present.
//
// So now - start(G) never exceeds the real time that passed since G. docs/format/proofs.md has it at length.

// sightings is what the ledger's records say of witnesses.
type sightings struct {
	quorum int            // the highest that any record had: it never goes down
	index  map[string]int // verifier keys, numbered as they came
	latest []int64        // largest time by number of the key, Unix seconds
	covers []cover        // in the order of their records, sizes never falling
	at     clock.Stamp    // of the newest record
	bare   []uint64       // records of locks that no quorum's checkpoint covers yet
}

type cover struct {
	size uint64
	by   []sighting
}

type sighting struct {
	key int
	at  int64
}

// granted follows a record that gives a lock.
func (w *sightings) granted(seq uint64) { w.bare = append(w.bare, seq) }

// apply follows a record of kind witnessed.
func (w *sightings) apply(r ledger.Record) {
	in := r.Witnessed
	if in.Size > r.Seq || in.Quorum < 1 || len(in.Cosignatures) < in.Quorum || len(w.covers) > 0 && in.Size < w.covers[len(w.covers)-1].size {
		return // it makes no sense, and so proves nothing
	}
	w.quorum = max(w.quorum, in.Quorum)
	if w.index == nil {
		w.index = map[string]int{}
	}
	c := cover{size: in.Size}
	for _, s := range in.Cosignatures {
		n, known := w.index[s.Witness]
		if !known {
			n = len(w.index)
			w.index[s.Witness] = n
			w.latest = append(w.latest, 0)
		}
		if slices.ContainsFunc(c.by, func(x sighting) bool { return x.key == n }) {
			continue // one witness is one
		}
		at := s.At.Unix()
		c.by = append(c.by, sighting{n, at})
		w.latest[n] = max(w.latest[n], at)
	}
	w.covers, w.at = append(w.covers, c), r.At
	w.bare = slices.DeleteFunc(w.bare, func(seq uint64) bool { return seq < in.Size })
}

// due says whether what a quorum said now is worth a record.
func (w *sightings) due(in *ledger.Witnessed, now clock.Stamp) bool {
	// By either clock: a machine that was switched off counts no running time, and is the one that needs this most.
	if len(w.covers) == 0 || time.Duration(now.Running-w.at.Running)*time.Second >= witnessedEvery ||
		now.Wall.Sub(w.at.Wall).Abs() >= witnessedEvery {
		return true
	}
	return slices.ContainsFunc(w.bare, func(seq uint64) bool { return seq < in.Size })
}

// since gives the seconds that passed, by the quorum's time, since a record was covered first; 0 if that is not known.
func (w *sightings) since(seq uint64, trust Witnesses) int64 {
	q := max(trust.Quorum, w.quorum)
	if trust.Quorum < 1 {
		return 0
	}
	trusted := make(map[int]bool, len(trust.Members))
	var latest []int64
	for _, m := range trust.Members {
		if n, known := w.index[m.Key]; known {
			trusted[n] = true
			latest = append(latest, w.latest[n])
		}
	}
	if len(latest) < q {
		return 0
	}
	slices.Sort(latest)
	now := latest[len(latest)-q]
	for i := sort.Search(len(w.covers), func(i int) bool { return w.covers[i].size > seq }); i < len(w.covers); i++ {
		var times []int64
		for _, s := range w.covers[i].by {
			if trusted[s.key] {
				times = append(times, s.at)
			}
		}
		if len(times) >= q {
			slices.Sort(times)
			return max(now-times[q-1], 0)
		}
	}
	return 0
}

// seen gives locks with what the witnesses saw of each. s.mu is held.
func (s *Store) seen(grants []grant) []grant {
	if len(s.state.seen.covers) == 0 || s.trust.Quorum < 1 {
		return grants
	}
	out := slices.Clone(grants)
	for i := range out {
		out[i].seen = s.state.seen.since(out[i].seq, s.trust)
	}
	return out
}
