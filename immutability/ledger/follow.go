package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"golang.org/x/mod/sumdb/tlog"
)

// ErrNotFollowed is wrapped by the error of a Follow whose root is not that of the lines on the disk: who named it keeps
// another ledger.
var ErrNotFollowed = errors.New("the ledger on the disk is not the one that is meant")

// errAnew says that what was read before does not go on as it began, so that all of it is to be read again.
var errAnew = errors.New("the ledger went on otherwise")

// Follow brings a ledger that was opened for reading up to the first size records, which another process has acknowledged,
// and holds them against their root. The records that are new are given to apply, in their order and once each. A line
// behind them is never taken: it may not have been acknowledged. A size that the ledger had before is compared alone.
//
// It happens that a line was read early whose write then failed, so that it does not count. Then again is called, and
// apply gets every record from the first one on.
//
// With an error nothing has changed, and neither again nor apply was called, unless the files change while they are read.
func (l *Ledger) Follow(size uint64, root [32]byte, again func(), apply func(Record)) error {
	l.follows.Lock()
	defer l.follows.Unlock()
	l.mu.Lock()
	w := walk{l: l, tree: l.tree, segments: l.segments, unknown: l.unknown, origins: l.origins}
	damages, writer, fresh, following := l.damages, l.signer != nil, l.fresh, l.following
	l.mu.Unlock()
	switch {
	case writer:
		return errors.New("ledger: who writes it does not follow it")
	case len(damages) > 0:
		return fmt.Errorf("ledger: %w", damages[0])
	}
	if size <= uint64(w.tree.n) {
		if !following {
			l.mu.Lock()
			l.following = true
			l.mu.Unlock()
		}
		return w.compare(size, root)
	}
	err := errAnew
	if !fresh {
		err = w.goOn(size, root)
	}
	if err == nil {
		l.become(&w)
		for i := range w.records {
			apply(w.records[i])
		}
		return nil
	}
	if w, err = l.walkAnew(size, root); err != nil {
		return err
	}
	again()
	l.become(&w)
	return l.Replay(apply)
}

// become takes what a walk has found. l.follows is held.
func (l *Ledger) become(w *walk) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tree, l.segments, l.unknown, l.origins = w.tree, w.segments, w.unknown, w.origins
	l.acked, l.fresh, l.following = w.tree.n, false, true
}

// walk is a pass over lines that are acknowledged.
type walk struct {
	l        *Ledger
	tree     tree
	segments []segment
	unknown  map[Kind]int
	origins  []Origin
	records  []Record // of a walk that goes on
}

func (w *walk) compare(size uint64, root tlog.Hash) error {
	have, err := w.tree.root(int64(size))
	if err != nil {
		return err
	}
	if have != root {
		return fmt.Errorf("%w: of its first %d records the root is %s, not %s", ErrNotFollowed, size, have, root)
	}
	return nil
}

// goOn reads from where the last look ended. Whatever is not as simple as that is errAnew, or another reason to read anew.
func (w *walk) goOn(size uint64, root tlog.Hash) error {
	l := w.l
	w.segments, w.unknown, w.origins = slices.Clone(w.segments), maps.Clone(w.unknown), slices.Clone(w.origins)
	if w.unknown == nil {
		w.unknown = map[Kind]int{}
	}
	for {
		last := &w.segments[len(w.segments)-1]
		data, err := readFrom(l.disk, segmentName(l.dir, last.number), last.bytes)
		if err != nil {
			return err
		}
		w.lines(data, size, true)
		if uint64(w.tree.n) == size {
			return w.compare(size, root)
		}
		numbers, err := (&scan{disk: l.disk, dir: l.dir}).list()
		if err != nil {
			return err
		}
		next := 0
		for _, n := range numbers {
			if n > last.number && next == 0 {
				next = n
			}
		}
		if next == 0 {
			return errAnew
		}
		p, err := l.pin(next)
		if err != nil || p == nil || p.Size != uint64(w.tree.n) {
			return errAnew
		}
		w.segments = append(w.segments, segment{number: next})
	}
}

// lines takes the lines of data, which follow what the last segment has, up to limit records.
func (w *walk) lines(data []byte, limit uint64, keep bool) {
	last := &w.segments[len(w.segments)-1]
	for uint64(w.tree.n) < limit {
		line, rest, whole := bytes.Cut(data, []byte("\n"))
		if !whole {
			return
		}
		r, err := parseLine(line)
		if err != nil || r.Seq != uint64(w.tree.n) {
			return
		}
		if r.Origin != nil && checkOrigin(r.Origin, w.l.verifier, w.origins, w.tree.root, w.tree.n) != nil || w.tree.add(line) != nil {
			return
		}
		if r.Origin != nil {
			w.origins = append(w.origins, *r.Origin)
		}
		if !r.Known() {
			w.unknown[r.Kind]++
		}
		if keep {
			w.records = append(w.records, r)
		}
		last.lines++
		last.bytes += int64(len(line)) + 1
		data = rest
	}
}

// walkAnew reads everything from the first segment on.
func (l *Ledger) walkAnew(size uint64, root tlog.Hash) (walk, error) {
	w := walk{l: l, unknown: map[Kind]int{}}
	numbers, err := (&scan{disk: l.disk, dir: l.dir}).list()
	if err != nil {
		return w, err
	}
	for i, n := range numbers {
		limit := size
		if i+1 < len(numbers) {
			// What a segment has beyond the pin of the next one was never acknowledged.
			if p, err := l.pin(numbers[i+1]); err == nil && p != nil {
				limit = min(limit, p.Size)
			}
		}
		data, err := durable.ReadFile(l.disk, segmentName(l.dir, n), segmentMax)
		if err != nil {
			return w, fmt.Errorf("ledger: %w", err)
		}
		w.segments = append(w.segments, segment{number: n})
		w.lines(data, limit, false)
		if uint64(w.tree.n) == size {
			return w, w.compare(size, root)
		}
	}
	return w, fmt.Errorf("%w: %d records are there, and %d are meant", ErrNotFollowed, w.tree.n, size)
}

// pin gives the pin that a segment begins with, nil if it has none yet.
func (l *Ledger) pin(number int) (*Segment, error) {
	data, err := durable.ReadFile(l.disk, segmentName(l.dir, number), segmentMax)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	line, _, whole := bytes.Cut(data, []byte("\n"))
	if !whole {
		return nil, nil
	}
	r, err := parseLine(line)
	if err != nil {
		return nil, err
	}
	return r.Segment, nil
}

// readFrom reads a segment from an offset on.
func readFrom(d durable.Disk, name string, from int64) ([]byte, error) {
	f, err := d.Open(name)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	if size < from || size > segmentMax {
		return nil, errAnew
	}
	data := make([]byte, size-from)
	n, err := f.ReadAt(data, from)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	return data[:n], nil
}

// renote reads the checkpoints again where another process writes them. One that covers more than was followed is not taken
// yet, and one that does not hold never is: what was read before stays. l.mu is held.
func (l *Ledger) renote() {
	if !l.following {
		return
	}
	s := scan{disk: l.disk, dir: l.dir}
	if s.readCheckpoint() == nil {
		if c, ok := l.holds(s.checkpoint); ok {
			l.note, l.noted = s.checkpoint, int64(c.Size)
		}
	}
	s.readCosigned()
	if c, ok := l.holds(s.cosigned); ok && s.cosignedErr == nil {
		l.cosigned, l.cosignedOf = s.cosigned, c
	}
}

// holds says whether a signed checkpoint is one of this ledger as far as it was followed.
func (l *Ledger) holds(signed []byte) (Checkpoint, bool) {
	c, err := ParseCheckpoint(signed, l.verifier)
	if err != nil || c.Size == 0 || c.Size > uint64(l.tree.n) {
		return c, false
	}
	root, err := l.tree.root(int64(c.Size))
	return c, err == nil && root == c.Root && onChain(c, l.verifier, l.origins) == nil
}
