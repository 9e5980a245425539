package worm

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/RoaringBitmap/roaring/v2"
)

// replay builds the state from the ledger. A record that is left out would be a lock that is not seen, so each one must be
// what was verified; only a ledger that is known to be damaged, and so cannot be written, gives what it has.
func (s *Store) replay() error {
	if len(s.ledger.Damages()) == 0 {
		return s.ledger.Replay(s.state.apply)
	}
	for r := range s.ledger.Records() {
		s.state.apply(r)
	}
	return nil
}

// newestLedger looks for proof that the ledger is not the newest one that this vault had. A ledger that was put back to an
// earlier state together with its checkpoint is whole in itself, and what was acknowledged since is gone from it. But a
// manifest is published only when every pack that it names, and the snapshot that it follows, stand in the ledger. Going
// on would record those packs as nobody's and remove them one day, and sign a second past.
//
// Who only reads is not asked: beside a process that writes, manifests may be newer than the ledger that was just read.
func (s *Store) newestLedger() error {
	if s.readOnly {
		return nil
	}
	entries, err := s.disk.ReadDir(manifestsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // recovery makes the directory
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		id, ok := parseManifest(e.Name())
		if !ok || s.state.byID[id] != nil || s.state.removed[manifestFile(id)] != 0 {
			continue
		}
		why := s.ahead(id)
		if why == "" {
			continue
		}
		return fmt.Errorf("the ledger is older than the vault: %s. It was put back to an earlier state, or its end was cut off together with its checkpoint. "+
			"Nothing was changed. Put the newest copy of the directory %s back; until then the vault can be opened for reading. "+
			"If no newer copy exists, move the manifest out of the vault: its snapshot is lost to this vault then", why, ledgerDir)
	}
	return nil
}

// ahead says what an uncommitted manifest relies on that the ledger does not have, "" for nothing.
func (s *Store) ahead(id string) string {
	b, err := s.readManifest(id)
	if err != nil {
		return "" // it is nobody's, and check says so
	}
	head, packs, err := s.readHead(b)
	if err != nil {
		return ""
	}
	if head.Previous != "" && s.state.byID[head.Previous] == nil {
		return fmt.Sprintf("%s (%s@%s) follows snapshot %s, which no record names", manifestFile(id), head.Source, head.Label, head.Previous)
	}
	for n := range roaring.Values(packs) {
		if s.state.packs[n] == nil {
			return fmt.Sprintf("%s (%s@%s) relies on pack %d, which no record names", manifestFile(id), head.Source, head.Label, n)
		}
	}
	return ""
}
