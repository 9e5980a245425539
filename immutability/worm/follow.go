package worm

import (
	"errors"
	"fmt"

	"github.com/holdfast-vault/holdfast/immutability/ledger"
)

// ErrNotFollowed is wrapped by the error of a Follow of a ledger that is not the one on this disk.
var ErrNotFollowed = ledger.ErrNotFollowed

// Follow brings a store that was opened for reading up to the first size records of its ledger, which the process that
// writes it has acknowledged, and compares the root of their tree: ErrNotFollowed where it is another one. What has been
// read before is compared alone. From then on the store tells what it would tell had it been opened now.
func (s *Store) Follow(size uint64, root [32]byte) error {
	if !s.readOnly {
		return errors.New("a store that is open for writing follows nobody")
	}
	s.write.Lock()
	defer s.write.Unlock()
	var anew *state
	err := s.ledger.Follow(size, root, func() { anew = newState() }, func(r ledger.Record) {
		if anew != nil {
			anew.apply(r)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.state.apply(r)
	})
	if err != nil || anew == nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if anew.vault != s.state.vault {
		return fmt.Errorf("%w: it is of vault %q, not of %q", ErrNotFollowed, anew.vault, s.state.vault)
	}
	for n, p := range s.state.packs {
		if q := anew.packs[n]; q != nil {
			q.unfit, q.misread = p.unfit, p.misread // what was found on the disk does not stand in the ledger
		}
	}
	s.state = anew
	return nil
}

// Snapshot gives a committed snapshot by its ID; ErrNoSnapshot where there is none.
func (s *Store) Snapshot(id string) (Snapshot, error) { return s.snapshot(id) }

// Reliable says whether a snapshot may be built on a pack, as far as is known here: it is sealed, there, and not swept.
func (s *Store) Reliable(n uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.reliable(n)
}
