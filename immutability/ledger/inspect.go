package ledger

import (
	"fmt"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"golang.org/x/mod/sumdb/tlog"
)

// Report is what a look at the files of a ledger finds, without any memory of earlier looks.
type Report struct {
	Size       uint64
	Root       tlog.Hash
	Segments   int
	Verifier   string       // key that checkpoints are verified with: the one asked for, or the init record's
	Checkpoint Checkpoint   // zero when there is no valid one
	Cosigned   Checkpoint   // newest that a witness cosigned, zero when there is no valid one
	Origins    []Origin     // origins that followed the first, oldest first
	Behind     *Behind      // what somebody remembers that the ledger does not extend; nil if nobody showed that
	Unknown    map[Kind]int // kinds of records that this release does not know
	Strays     []string     // files in the ledger's directory that are nobody's
	Damages    []Damage
	// Torn are the places where a write was cut that was never acknowledged: no damage.
	Torn []string

	tree tree
}

// Inspect reads the whole ledger from the medium and says what is wrong, each damaged line by its
// name. An empty verifier stands for the one that the init record names. It may run beside a writer.
func Inspect(d durable.Disk, dir, verifier string) (*Report, error) {
	s := scan{disk: d, dir: dir, verifier: verifier}
	numbers, err := s.list()
	if err != nil {
		return nil, err
	}
	for _, n := range numbers {
		_ = d.Forget(segmentName(dir, n)) // a request: where it fails the cache is what there is to look at
	}
	s.strays = nil
	if err := s.read(); err != nil {
		return nil, err
	}
	root, err := s.tree.root(s.tree.n)
	if err != nil {
		return nil, err
	}
	r := &Report{
		Size: uint64(s.tree.n), Root: root, Segments: len(s.segments),
		Verifier: s.verifier, Checkpoint: s.signed, Cosigned: s.cosignedOf, tree: s.tree, Origins: s.origins, Unknown: s.unknown, Strays: s.strays,
	}
	for _, seg := range s.segments {
		if seg.tail > 0 && len(s.damages) == 0 {
			r.Torn = append(r.Torn, fmt.Sprintf("%s behind line %d", segmentName(dir, seg.number), seg.lines))
		}
	}
	for _, bad := range s.damages {
		r.Damages = append(r.Damages, *bad)
	}
	if !s.broken && s.verifier != "" {
		l := &Ledger{disk: d, dir: dir, verifier: s.verifier, tree: s.tree, acked: s.tree.n, origins: s.origins}
		l.recall()
		r.Behind = l.behind
	}
	return r, nil
}
