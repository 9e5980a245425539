package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"slices"
	"sync"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// ErrBroken is wrapped by the error of an Append whose write or fsync failed. Whether the line
// stands on the disk is not known; it was not acknowledged, does not count, and the next Append puts
// that in writing by beginning a new segment. The caller issues the record again.
var ErrBroken = errors.New("ledger: the record was not acknowledged; its segment is closed")

// ErrReadOnly is the error of an Append to a ledger that was opened without the signing key.
var ErrReadOnly = errors.New("ledger: opened for reading only")

// ErrForeign is wrapped by the error of every Append after somebody else was found to have written to the ledger. Going on
// would fork it: two records of one number, and no way to tell which of them was acknowledged.
var ErrForeign = errors.New("somebody else writes to this ledger")

// Ledger is an open ledger. It is safe for concurrent use; one process at a time may write.
type Ledger struct {
	disk     durable.Disk
	dir      string
	notes    string              // directory of checkpoint and cosigned
	guard    durable.GuardedDisk // nil without flags
	verifier string              // of the first origin
	signer   note.Signer         // of the present origin; nil when read only
	// signerKey is that of the first origin, of which the others are made.
	signerKey string
	init      *Init
	damages   []*Damage
	// unguarded counts what had no flag at Open; movedIn says that nothing had ever had one.
	unguarded int
	movedIn   bool

	follows sync.Mutex // held by Follow; taken before mu

	mu       sync.Mutex // guards all below
	unknown  map[Kind]int
	segments []segment // as counted; the last one is the one that grows
	tree     tree
	note     []byte // newest signed checkpoint
	noted    int64  // leaves that the checkpoint on the disk covers
	// cosigned is the newest checkpoint that a witness cosigned, nil if none did; cosignedOf is what it says.
	cosigned   []byte
	cosignedOf Checkpoint
	// origins are the records of kind origin. behind is what somebody remembers that the ledger does not hold: nil, or
	// nothing is signed any more.
	origins []Origin
	behind  *Behind
	unkept  bool // behind could not be written down yet
	// acked is how many leaves are acknowledged: all, but for a pin behind which no record came to stand yet. The next
	// Open may leave that one out, so nobody outside is told of it.
	acked int64
	file  durable.File
	// extent is the size that the last segment's file has by what this process did to it, or at most has after a write
	// that failed. foreign is set once that is found to be otherwise, and stays.
	extent  int64
	foreign error
	// following says that another process writes this ledger, and that Follow goes after it.
	following bool
	// next is the number of a segment that was never used.
	next int
	// fresh says that the next record begins a new segment: the last one ends in a torn or
	// unacknowledged line, is full, or may not be durable itself.
	fresh bool
}

// Create begins a ledger in an existing, empty directory with its init record. On return the record
// and its checkpoint are durable. A power cut before leaves nothing, or the record without its
// checkpoint, which the next Open signs.
func Create(d durable.Disk, dir string, signerKey string, first Record) error {
	return create(d, nil, dir, signerKey, first)
}

// CreateGuarded is Create for a disk with flags: see OpenGuarded.
func CreateGuarded(d durable.GuardedDisk, dir string, signerKey string, first Record) error {
	return create(d, d, dir, signerKey, first)
}

func create(d durable.Disk, guard durable.GuardedDisk, dir string, signerKey string, first Record) error {
	if first.Kind != KindInit || first.Init == nil {
		return errors.New("ledger: the first record must be an init record")
	}
	if first.Init.Format != Format {
		return fmt.Errorf("ledger: format %d, this release writes %d", first.Init.Format, Format)
	}
	if err := CheckSigner(signerKey, first.Init.Verifier); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	first.Seq = 0
	line, err := encodeLine(&first)
	if err != nil {
		return err
	}
	notes, err := settledHome(d, dir, guard)
	if err != nil {
		return err
	}
	if err := writeSegment(d, dir, notes, guard, 1, append(line, '\n')); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	// Power fails here: a ledger of one record without a checkpoint. Open takes it as it is.
	l, err := open(d, guard, dir, signerKey, first.Init.Verifier)
	if err != nil {
		return err
	}
	return errors.Join(l.CheckpointError(), l.Close())
}

// Open reads a ledger and verifies every line, the pins of the segments, the checkpoint's signature,
// and that the tree of today extends the checkpoint.
//
// With a signerKey the ledger can be written: what an earlier process left in the cache is made
// durable or found missing first, a checkpoint that lags is signed anew, and damage is an error, a
// *Damage. Without one nothing is written, and damage is told by Damages: every line that is whole
// can still be read. An empty verifier stands for the one that the init record names; whoever has
// the verifier from elsewhere should demand it.
func Open(d durable.Disk, dir string, signerKey string, verifier string) (*Ledger, error) {
	return open(d, nil, dir, signerKey, verifier)
}

// OpenGuarded is Open for writing on a disk with flags: the directory and the last segment can only grow, the segments
// before it are immutable, and the notes lie in log/ beside the directory, new segments on their way in incoming/. A ledger
// that was not guarded before becomes so. Unguarded tells what had no flag.
func OpenGuarded(d durable.GuardedDisk, dir string, signerKey string, verifier string) (*Ledger, error) {
	if signerKey == "" {
		return nil, ErrReadOnly
	}
	return open(d, d, dir, signerKey, verifier)
}

func open(d durable.Disk, guard durable.GuardedDisk, dir string, signerKey string, verifier string) (*Ledger, error) {
	if verifier != "" {
		if err := checkVerifier(verifier); err != nil {
			return nil, err
		}
	}
	notes := dir
	if signerKey != "" {
		var err error
		if notes, err = settledHome(d, dir, guard); err == nil {
			err = settle(d, dir)
		}
		if err != nil {
			return nil, err
		}
	}
	s := scan{disk: d, dir: dir, verifier: verifier}
	if err := s.read(); err != nil {
		return nil, err
	}
	l := &Ledger{
		disk: d, dir: dir, notes: notes, guard: guard, verifier: s.verifier, init: s.init, damages: s.damages, unknown: s.unknown,
		segments: s.segments, tree: s.tree, note: s.checkpoint, noted: int64(s.signed.Size),
		cosigned: s.cosigned, cosignedOf: s.cosignedOf, origins: s.origins,
	}
	last := s.segments[len(s.segments)-1]
	l.acked, l.extent = s.tree.n, last.size
	l.next = last.number + 1
	l.fresh = s.abandoned || last.tail > 0
	if s.verifier != "" && !s.broken {
		l.recall()
	}
	if signerKey == "" {
		return l, nil
	}
	if len(s.damages) > 0 {
		return nil, fmt.Errorf("the ledger cannot be written (open it for reading only, or put the file back from a copy): %w", s.damages[0])
	}
	if err := CheckSigner(signerKey, s.verifier); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	l.signerKey = signerKey
	now, err := originSigner(signerKey, len(s.origins)+1)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	if l.signer, err = note.NewSigner(now); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	if s.checkpoint != nil && path.Dir(s.checkpointAt) != notes {
		// As it is: a ledger that is behind what it signed signs nothing.
		if err := durable.Replace(d, path.Join(notes, checkpointName), s.checkpoint, 0o644); err != nil {
			return nil, fmt.Errorf("ledger: %w", err)
		}
	}
	// Only a ledger that never had a checkpoint must get one now; one that lags may go on lagging.
	if err := l.publish(); err != nil && l.noted == 0 && l.behind == nil {
		return nil, err
	}
	if guard != nil {
		if err := l.moveIn(&s); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// settle makes what is seen durable, or finds out that it is not. A process that was killed may have
// left a line in the cache that it never synced, and one whose sync failed a line that the medium
// does not have: the first is synced now, the second is forgotten, so that what is read afterwards
// is what a power cut would leave.
func settle(d durable.Disk, dir string) error {
	if err := d.SyncDir(dir); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	s := scan{disk: d, dir: dir}
	numbers, err := s.list()
	if err != nil {
		return err
	}
	if len(numbers) > 0 {
		name := segmentName(dir, slices.Max(numbers))
		if err := syncFile(d, name); err != nil {
			return fmt.Errorf("ledger: %s: %w", name, err)
		}
	}
	for _, n := range numbers {
		if err := d.Forget(segmentName(dir, n)); err != nil {
			return fmt.Errorf("ledger: %w", err)
		}
	}
	for _, in := range noteDirs(dir) {
		for _, name := range []string{checkpointName, cosignedName} {
			if err := d.Forget(path.Join(in, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("ledger: %w", err)
			}
		}
	}
	return nil
}

func syncFile(d durable.Disk, name string) error {
	f, err := d.Open(name) // not to write: where the newest segment is gone, the last one is immutable
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// CheckpointError says whether the checkpoint on the disk lags behind the records: the end of the ledger is then not yet
// covered by a signature. The next Append or Open makes it good, if the disk lets it.
func (l *Ledger) CheckpointError() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.renote()
	if (l.signer != nil || l.following) && l.noted != l.tree.n {
		return fmt.Errorf("ledger: the checkpoint covers %d of %d records", l.noted, l.tree.n)
	}
	return nil
}

func (l *Ledger) cosignedPath() string { return path.Join(l.notes, cosignedName) }

func (l *Ledger) closeFile() {
	if l.file != nil {
		_ = l.file.Close() // nothing is owed: what counts was synced
		l.file = nil
	}
}

// Close closes the file that grows. The ledger must not be written afterwards.
func (l *Ledger) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closeFile()
	l.signer = nil
	return nil
}

// Records gives all records that count, oldest first, pins included, as they were when the walk began.
// Lines that are damaged are left out; a segment that can no longer be read ends the walk early, and
// Inspect tells why. Nothing of the ledger is kept in memory for it but one segment.
func (l *Ledger) Records() iter.Seq[Record] {
	return func(yield func(Record) bool) {
		l.mu.Lock()
		segments := slices.Clone(l.segments)
		l.mu.Unlock()
		for _, seg := range segments {
			data, err := durable.ReadFile(l.disk, segmentName(l.dir, seg.number), segmentMax)
			if err != nil {
				continue
			}
			for range seg.lines {
				line, rest, whole := bytes.Cut(data, []byte("\n"))
				if !whole {
					break
				}
				data = rest
				r, err := parseLine(line)
				if err != nil {
					continue
				}
				if !yield(r) {
					return
				}
			}
		}
	}
}

// Init gives the ledger's first record, nil if it is damaged.
func (l *Ledger) Init() *Init { return l.init }

// Replay gives all records that are acknowledged to apply, oldest first, pins included, each proved to be the leaf that was
// verified when the ledger was opened. It is for who builds on what it is given: a segment that can no longer be read, or
// a line that is another one now, is an error, where Records would leave it out. A damaged ledger has no such answer.
func (l *Ledger) Replay(apply func(Record)) error {
	if len(l.damages) > 0 {
		return fmt.Errorf("ledger: %w", l.damages[0])
	}
	l.mu.Lock()
	segments, hashes, acked := slices.Clone(l.segments), l.tree.hashes, l.acked
	l.mu.Unlock()
	n := int64(0)
	for _, seg := range segments {
		data, err := durable.ReadFile(l.disk, segmentName(l.dir, seg.number), segmentMax)
		if err != nil {
			return fmt.Errorf("ledger: %w", err)
		}
		for k := range seg.lines {
			line, rest, _ := bytes.Cut(data, []byte("\n"))
			data = rest
			r, err := parseLine(line)
			if err != nil || tlog.RecordHash(line) != hashes[tlog.StoredHashIndex(0, n)] {
				return fmt.Errorf("ledger: %s line %d is not what it was a moment ago: run check", segmentName(l.dir, seg.number), k+1)
			}
			if n++; n <= acked {
				apply(r)
			}
		}
	}
	return nil
}

// Size gives the number of records that count and are acknowledged.
func (l *Ledger) Size() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(l.acked)
}

// Root gives the root of the tree of the first Size records.
func (l *Ledger) Root() tlog.Hash {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, err := l.tree.root(l.acked)
	if err != nil {
		return tlog.Hash{} // cannot be: the tree holds all its own hashes
	}
	return h
}

// Checkpoint gives the newest signed checkpoint. Saved elsewhere, it proves or refutes later ledgers.
func (l *Ledger) Checkpoint() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.renote()
	return bytes.Clone(l.note)
}

// Verifier gives the key that checkpoints are verified with, as init printed it. Those of later origins are signed by the
// same key under another name: see Origin.
func (l *Ledger) Verifier() string { return l.verifier }

// Damages gives what was wrong with the ledger when it was opened.
func (l *Ledger) Damages() []Damage {
	out := make([]Damage, len(l.damages))
	for i, d := range l.damages {
		out[i] = *d
	}
	return out
}

// Unknown gives the kinds of records that this release does not know, with how many there are.
func (l *Ledger) Unknown() map[Kind]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unknown // exchanged as a whole, never changed
}

// Extends says whether this ledger still holds everything that an earlier checkpoint of it covers:
// nil if it does, else an error that says what does not agree.
func (l *Ledger) Extends(checkpoint []byte) error {
	c, err := ParseCheckpoint(checkpoint, l.verifier)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := onChain(c, l.verifier, l.origins); err != nil {
		return err
	}
	if c.Size > uint64(l.tree.n) {
		return fmt.Errorf("the checkpoint covers %d records, the ledger holds %d: records are missing", c.Size, l.tree.n)
	}
	root, err := l.tree.root(int64(c.Size))
	if err != nil {
		return err
	}
	if root != c.Root {
		return fmt.Errorf("the ledger's first %d records are not those that the checkpoint covers: the past was changed", c.Size)
	}
	return nil
}
