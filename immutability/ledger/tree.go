package ledger

import (
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// tree holds the hashes of the Merkle tree in memory, in the order of tlog's storage: 64 bytes a
// leaf. A vault writes a leaf for each pack and for each snapshot, so a million leaves are years.
type tree struct {
	hashes []tlog.Hash
	n      int64
}

// ReadHashes implements tlog.HashReader.
func (t *tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x < 0 || x >= int64(len(t.hashes)) {
			return nil, fmt.Errorf("ledger: hash %d of %d", x, len(t.hashes))
		}
		out[i] = t.hashes[x]
	}
	return out, nil
}

// add appends a leaf.
func (t *tree) add(line []byte) error {
	h, err := tlog.StoredHashes(t.n, line, t)
	if err != nil {
		return fmt.Errorf("ledger: leaf %d: %w", t.n, err)
	}
	t.hashes = append(t.hashes, h...)
	t.n++
	return nil
}

// cut drops all leaves from n on.
func (t *tree) cut(n int64) {
	if n < t.n {
		t.hashes = t.hashes[:tlog.StoredHashCount(n)]
		t.n = n
	}
}

// root gives the root of the first n leaves, n at most t.n.
func (t *tree) root(n int64) (tlog.Hash, error) {
	h, err := tlog.TreeHash(n, t)
	if err != nil {
		return tlog.Hash{}, fmt.Errorf("ledger: root at %d: %w", n, err)
	}
	return h, nil
}
