package worm

import (
	"errors"
	"io/fs"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// A pack's number means one pack for ever. An interrupted session's journal names chunks by the packs that they were
// written to, and takes a pack that is sealed for the one that it knew; under a number that is used twice a snapshot would
// rely on chunks that are nowhere. The highest number in use is what the ledger's records and the files in packs and
// incoming show. So the file of an unsealed pack above all recorded numbers does not go without a trace: it becomes empty,
// and the empty file keeps the number, and all below it, until a record or another such file has a higher one.

// farNumber is how far above every recorded number a file's number may lie to be taken for one that this vault gave out.
// Without that limit one stray file could use up all numbers at once.
const farNumber = 1 << 20

// near says whether a number can have been given out by this vault.
func (s *Store) near(n uint32) bool { return uint64(n) <= uint64(s.state.maxPack)+farNumber }

// giveUp removes the file of an unsealed pack, durably, and keeps its number from being used again. s.write is held.
func (s *Store) giveUp(n uint32) error {
	file := incomingPack(n)
	s.mu.Lock()
	// A number that was never given out is kept by nothing: whatever has it is a stranger's file.
	spent := n <= s.state.maxPack || n < s.keeps || n > s.next
	s.mu.Unlock()
	if spent || s.recorded(packFile(n)) {
		return s.removeIncoming(file)
	}
	err := durable.Replace(s.disk, file, nil, 0o600)
	if err == nil {
		// The file before keeps nothing any more. Else whoever begins packs and gives them up would fill the disk with them.
		if before := s.keeps; before != 0 && before != n {
			_ = s.disk.Remove(incomingPack(before)) // power fails here: it stays until the next Open
		}
		s.keeps = n
	}
	if !durable.IsNoSpace(err) {
		return err
	}
	// A full disk has no room for an empty file, but has it once this one is gone. Power fails between the two: the
	// number may be used again. Where even that fails, this process at least does not.
	if err := s.removeIncoming(file); err != nil {
		return err
	}
	if err := durable.Replace(s.disk, file, nil, 0o600); err != nil && !durable.IsNoSpace(err) {
		return err
	}
	return nil
}

func (s *Store) removeIncoming(file string) error {
	if err := durable.Remove(s.disk, file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
