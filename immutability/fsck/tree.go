package fsck

import (
	"crypto/sha256"

	"github.com/holdfast-vault/holdfast/immutability/audit"
)

// tree is an RFC 6962 tree that only grows. It holds one hash for each bit that is set in its size: the roots of the whole
// subtrees that its leaves make, from the largest on.
type tree struct {
	n     uint64
	peaks []audit.Hash
}

func branch(left, right audit.Hash) audit.Hash {
	b := make([]byte, 0, 1+2*sha256.Size)
	b = append(append(append(b, 1), left[:]...), right[:]...)
	return sha256.Sum256(b)
}

func (t *tree) add(leaf audit.Hash) {
	for n := t.n; n&1 == 1; n >>= 1 {
		last := len(t.peaks) - 1
		leaf = branch(t.peaks[last], leaf)
		t.peaks = t.peaks[:last]
	}
	t.peaks = append(t.peaks, leaf)
	t.n++
}

// root is that of all leaves so far; of none it is the hash of nothing.
func (t *tree) root() audit.Hash {
	if len(t.peaks) == 0 {
		return sha256.Sum256(nil)
	}
	last := len(t.peaks) - 1
	h := t.peaks[last]
	for i := last - 1; i >= 0; i-- {
		h = branch(t.peaks[i], h)
	}
	return h
}

func (t *tree) clone() tree {
	return tree{t.n, append([]audit.Hash(nil), t.peaks...)}
}
