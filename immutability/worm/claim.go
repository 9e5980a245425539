package worm

import (
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/holdfast-vault/holdfast/immutability/clock"
)

// A claim says that a running session relies on a pack that no snapshot names yet, or that may lose its last one. It keeps
// and never frees. It lives in memory, and as long as it is renewed: whoever is gone claims nothing for ever.

const (
	// claimedFor is how long a session's claims last after it claimed or sealed something for the last time, in running time.
	claimedFor = 3 * time.Hour
	// claimersMax bounds how many sessions have claims at a time, whoever makes them up.
	claimersMax = 4096
	// missingMax bounds how many packs an error names.
	missingMax = 1 << 20
)

// claims are those of one session.
type claims struct {
	packs   *roaring.Bitmap
	renewed clock.Stamp // zero where the clock could not be read
}

// Claim says that a session relies on packs: none of them is condemned until Release, or until the session has claimed and
// sealed nothing for 3 hours of running time. It gives those that cannot be relied on, because they are unknown, swept,
// missing or damaged; these are not claimed. The empty set renews what the session has.
func (s *Store) Claim(session string, packs *roaring.Bitmap) (missing *roaring.Bitmap) {
	now := s.claimedAt()
	lost := s.unsaved(session, packs)
	s.mu.Lock()
	defer s.mu.Unlock()
	missing = roaring.Or(s.state.unreliable(packs), lost)
	granted := roaring.AndNot(packs, missing)
	if !s.renew(session, now) {
		return packs.Clone()
	}
	if granted.IsEmpty() {
		return missing
	}
	s.claim(session, now).packs.Or(granted)
	s.spare(granted)
	return missing
}

// ClaimOne is Claim for one pack; false means that it is not to be relied on.
func (s *Store) ClaimOne(session string, pack uint32) bool {
	now := s.claimedAt()
	s.mu.Lock()
	_, marked := s.state.marks.packs[pack]
	marked = marked && !s.spared[pack]
	s.mu.Unlock()
	if marked {
		return !s.Claim(session, roaring.BitmapOf(pack)).Contains(pack)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.state.reliable(pack) || !s.renew(session, now) {
		return false
	}
	s.claim(session, now).packs.Add(pack)
	if _, marked := s.state.marks.packs[pack]; marked {
		s.spared[pack] = true
	}
	return true
}

// among gives those of a set of packs that are marked and not spared. The work is bounded by the smaller of set and marks,
// since a session that comes back to much that is marked claims it one by one. s.mu is held.
func (s *Store) among(packs *roaring.Bitmap) (out []uint32) {
	add := func(n uint32) {
		if _, marked := s.state.marks.packs[n]; marked && !s.spared[n] {
			out = append(out, n)
		}
	}
	if packs.GetCardinality() <= uint64(len(s.state.marks.packs)) {
		for n := range roaring.Values(packs) {
			add(n)
		}
		return out
	}
	for n := range s.state.marks.packs {
		if packs.Contains(n) {
			add(n)
		}
	}
	return out
}

// claimedAt is the moment of a claim, zero where the clock cannot be read: the claim then lasts until it can.
func (s *Store) claimedAt() clock.Stamp {
	now, err := s.clock.Now()
	if err != nil {
		return clock.Stamp{}
	}
	return now
}

// renew renews what a session has, and says whether it may have claims. s.mu is held.
func (s *Store) renew(session string, now clock.Stamp) bool {
	if c := s.claims[session]; c != nil {
		c.renewed = now
		return true
	}
	if len(s.claims) >= claimersMax && !now.IsZero() {
		s.expire(now)
	}
	return len(s.claims) < claimersMax
}

// claim gives the claims of a session, renewed. s.mu is held.
func (s *Store) claim(session string, now clock.Stamp) *claims {
	c := s.claims[session]
	if c == nil {
		c = &claims{packs: roaring.New()}
		s.claims[session] = c
	}
	c.renewed = now
	return c
}

// expire drops the claims that nobody renewed. s.mu is held.
func (s *Store) expire(now clock.Stamp) {
	for session, c := range s.claims {
		if c.renewed.IsZero() {
			c.renewed = now
		}
		// Running time alone: a wall clock that was set must not take a running session's packs.
		if now.Running-c.renewed.Running >= int64(claimedFor/time.Second) {
			delete(s.claims, session)
		}
	}
}

// Release drops all claims of a session.
func (s *Store) Release(session string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.claims, session)
	delete(s.bound, session)
}

// unreliable gives those of packs on which no snapshot may be built. The work is bounded by the packs that the vault has,
// whatever set somebody names.
func (st *state) unreliable(packs *roaring.Bitmap) *roaring.Bitmap {
	reliable := roaring.New()
	if packs.GetCardinality() <= uint64(len(st.packs)) {
		for n := range roaring.Values(packs) {
			if st.reliable(n) {
				reliable.Add(n)
			}
		}
	} else {
		for n := range st.packs {
			if st.reliable(n) {
				reliable.Add(n)
			}
		}
	}
	return roaring.AndNot(packs, reliable)
}
