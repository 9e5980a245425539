package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// Append gives r its number and writes it. On return without an error the line is on the medium: the
// record is acknowledged and will be found by every later Open. The checkpoint is replaced after
// that; if this fails the record stands all the same, and the checkpoint follows with the next one.
//
// After an error the record does not count. When the error wraps ErrBroken the line may nevertheless
// have reached the disk, and counts if the process ends before another Append succeeds; so what a
// record asks for must be the same asked twice.
func (l *Ledger) Append(r Record) (Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.signer == nil {
		return Record{}, ErrReadOnly
	}
	if r.Kind == KindInit || r.Kind == KindSegment || r.Kind == KindOrigin {
		return Record{}, fmt.Errorf("ledger: a record of kind %q cannot be appended", r.Kind)
	}
	if l.foreign != nil {
		return Record{}, l.foreign
	}
	if l.behind != nil {
		return Record{}, l.behind
	}
	r, err := l.put(r)
	if err != nil {
		return Record{}, err
	}
	_ = l.publish() // told by CheckpointError, made good by the next Append or Open
	return r, nil
}

// put gives a record its number and makes its line durable. l.mu is held.
func (l *Ledger) put(r Record) (Record, error) {
	if l.fresh || l.segments[len(l.segments)-1].bytes >= segmentFull {
		if err := l.begin(r); err != nil {
			return Record{}, err
		}
	}
	r.Seq = uint64(l.tree.n)
	line, err := encodeLine(&r)
	if err != nil {
		return Record{}, err
	}
	if err := l.write(line); err != nil {
		if l.foreign != nil {
			return Record{}, l.foreign
		}
		return Record{}, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	if err := l.count(line); err != nil {
		return Record{}, err
	}
	l.acked = l.tree.n
	r.Raw = line
	return r, nil
}

// begin makes the next segment, which pins what is counted so far.
func (l *Ledger) begin(r Record) error {
	root, err := l.tree.root(l.tree.n)
	if err != nil {
		return err
	}
	l.closeFile()
	info, err := l.disk.Stat(segmentName(l.dir, l.segments[len(l.segments)-1].number))
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	if info.Size() > l.extent {
		return l.stop(info.Size())
	}
	l.fresh = true
	number := l.next
	l.next++ // used up, whatever happens: a name that failed once may come and go with a power cut
	pin := Record{
		Seq: uint64(l.tree.n), Kind: KindSegment, At: r.At,
		Segment: &Segment{Number: number, Size: uint64(l.tree.n), Root: root.String()},
	}
	line, err := encodeLine(&pin)
	if err != nil {
		return err
	}
	err = writeSegment(l.disk, l.dir, l.notes, l.guard, number, append(line, '\n'))
	if errors.Is(err, fs.ErrExist) {
		l.foreign = fmt.Errorf("ledger: %s was made by another process: %w; stop all of them and start one, this one writes nothing more",
			segmentName(l.dir, number), ErrForeign)
		return l.foreign
	}
	if err != nil {
		// Power fails here: the segment may be there with nothing but its pin; Open leaves it out.
		return fmt.Errorf("ledger: new segment: %w", err)
	}
	// Power fails here: the same; the line behind which this segment was made necessary is now out
	// of the count only once a record follows, and nothing was acknowledged that relies on it.
	if l.guard != nil {
		// Where that fails it goes on being append-only: Exposed tells, and the next Open makes it good.
		_ = durable.CloseGrowing(l.guard, segmentName(l.dir, l.segments[len(l.segments)-1].number))
	}
	l.segments = append(l.segments, segment{number: number})
	l.fresh, l.extent = false, int64(len(line))+1
	return l.count(line)
}

// stop ends all writing: the last segment has another size than this process gave it.
func (l *Ledger) stop(size int64) error {
	l.foreign = fmt.Errorf("ledger: %s has %d bytes, and this process left it with %d: %w; stop all of them and start one, this one writes nothing more",
		segmentName(l.dir, l.segments[len(l.segments)-1].number), size, l.extent, ErrForeign)
	return l.foreign
}

// write puts a line at the end of the last segment and syncs it.
func (l *Ledger) write(line []byte) (err error) {
	defer func() {
		if err != nil {
			l.closeFile()
			l.fresh = true
		}
	}()
	if l.file == nil {
		if l.file, err = l.disk.Append(segmentName(l.dir, l.segments[len(l.segments)-1].number)); err != nil {
			l.file = nil
			return err
		}
	}
	// The vault's lock keeps other writers out, until a person removes its file.
	size, err := l.file.Size()
	if err != nil {
		return err
	}
	if size != l.extent {
		return l.stop(size)
	}
	l.extent += int64(len(line)) + 1
	if _, err = l.file.Write(append(slices.Clip(line), '\n')); err != nil {
		return err // power fails here: perhaps a part of the line, which is no line
	}
	// Power fails here: the line, a part of it or nothing. If it is whole it counts after the next
	// Open: its caller was told nothing.
	return l.file.Sync()
}

// count adds a durable line to the tree and to the last segment.
func (l *Ledger) count(line []byte) error {
	if err := l.tree.add(line); err != nil {
		return err
	}
	last := &l.segments[len(l.segments)-1]
	last.lines++
	last.bytes += int64(len(line)) + 1
	return nil
}

// publish signs and replaces the checkpoint if it lags.
func (l *Ledger) publish() error {
	if l.noted == l.tree.n {
		return nil
	}
	if l.behind != nil {
		return l.behind
	}
	root, err := l.tree.root(l.tree.n)
	if err != nil {
		return err
	}
	signed, err := sign(Checkpoint{Origin: l.signer.Name(), Size: uint64(l.tree.n), Root: root}, l.signer)
	if err != nil {
		return err
	}
	l.note = signed
	if err := durable.Replace(l.disk, path.Join(l.notes, checkpointName), signed, 0o644); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	l.noted = l.tree.n
	return nil
}
