package vault

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/holdfast-vault/holdfast/vault/chunk"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// progressBytes is how much new content of an unfinished file lies between two records of how far it has come.
const progressBytes = 2 << 20

// largeBuffer holds the longest chunk and as much again, so that little is moved when a chunk has been cut.
const largeBuffer = 2 * chunk.MaxSize

var largeBuffers = sync.Pool{New: func() any { b := make([]byte, 0, largeBuffer); return &b }}

// FileWriter takes a file's content in order. One goroutine uses it at a time; many may be open at once. A writer for
// a file up to chunk.MinSize holds the file, a larger one 4 MiB.
type FileWriter struct {
	s    *Session
	ctx  context.Context
	e    snapshot.Entry
	buf  []byte
	from int // buf[from:] is not yet cut

	large  *[]byte // the pooled buffer behind buf
	lane   lane    // of its own; 0 if it has none
	refs   []snapshot.Ref
	size   uint64 // bytes taken, those of the interrupted run included
	offset uint64
	need   uint64 // the newest block that holds a chunk of this file

	recorded      int // refs already in the journal
	sinceRecorded uint64
	ended         bool
}

// File begins a file with content. The attributes in e are those the content is read under. If an interrupted run of
// the session held the beginning of the same version, the writer starts there: see Offset.
func (s *Session) File(ctx context.Context, e *snapshot.Entry) (*FileWriter, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w := &FileWriter{s: s, ctx: ctx, e: *e}
	w.e.Chunks, w.e.List, w.e.ListPacks = nil, nil, nil
	if s.resume != nil {
		if p := s.resume.unfinished[e.Path()]; p != nil && p.lasting() && sameVersion(&p.entry, e) {
			w.refs = slices.Clone(p.refs)
			for _, r := range w.refs {
				w.offset += uint64(r.Size)
			}
			w.size = w.offset
			if w.offset > e.Size {
				w.refs, w.offset, w.size = nil, 0, 0
			}
			w.recorded = len(w.refs) // in the journals of earlier runs, which stay as long as the session
		}
	}
	if e.Size >= laneLeast {
		w.lane, _ = s.p.borrow()
	}
	if e.Size > chunk.MinSize {
		w.large = largeBuffers.Get().(*[]byte)
		w.buf = (*w.large)[:0]
	} else {
		w.buf = make([]byte, 0, e.Size)
	}
	return w, nil
}

// Offset is how many of the file's bytes the session already holds: the content written must start there.
func (w *FileWriter) Offset() uint64 { return w.offset }

// Restart forgets what was taken, an interrupted run's part included: the content starts over at 0. It is for a file
// that turned out to be another version.
func (w *FileWriter) Restart() {
	w.e.Flags |= snapshot.Racy // what comes is not of the version that w.e describes: no later run goes on from it
	if w.recorded > 0 {
		// Nor from what the journal says already. w.need stays: records leave the journal in its order.
		w.s.journal.progress(w.need, &w.e, 0, nil)
	}
	w.refs, w.buf, w.from = w.refs[:0], w.buf[:0], 0
	w.size, w.offset, w.recorded, w.sinceRecorded = 0, 0, 0, 0
}

// Write takes the next bytes. It waits when the vault is slower than the source.
func (w *FileWriter) Write(p []byte) (int, error) {
	if w.ended {
		return 0, errPackerClosed
	}
	taken := 0
	for len(p) > 0 {
		if w.large == nil && len(w.buf)+len(p) > chunk.MinSize {
			w.grow()
		}
		n := len(p)
		if w.large != nil {
			w.makeRoom()
			n = min(n, cap(w.buf)-len(w.buf))
		}
		w.buf = append(w.buf, p[:n]...)
		p = p[n:]
		taken += n
		w.size += uint64(n)
		if w.large != nil {
			if err := w.cut(false); err != nil {
				return taken, err
			}
		}
	}
	return taken, w.ctx.Err()
}

// grow is for a file that is larger than it was said to be.
func (w *FileWriter) grow() {
	w.large = largeBuffers.Get().(*[]byte)
	w.buf = append((*w.large)[:0], w.buf...)
}

func (w *FileWriter) makeRoom() {
	if len(w.buf) < cap(w.buf) {
		return
	}
	n := copy(w.buf, w.buf[w.from:])
	w.buf, w.from = w.buf[:n], 0
}

func (w *FileWriter) cut(final bool) error {
	for w.from < len(w.buf) {
		n := w.s.v.splitter.Cut(w.buf[w.from:], final)
		if n == 0 {
			break
		}
		if err := w.chunk(w.buf[w.from : w.from+n]); err != nil {
			return err
		}
		w.from += n
	}
	if w.from == len(w.buf) {
		w.buf, w.from = w.buf[:0], 0
	}
	return nil
}

func (w *FileWriter) chunk(data []byte) error {
	l := w.lane
	if l == 0 {
		l = laneOf(data)
	}
	ref, seq, _, err := w.s.p.putIn(l, w.s.v.chunkID(data), data)
	if err != nil {
		return err
	}
	w.refs = append(w.refs, ref)
	w.need = max(w.need, seq)
	w.sinceRecorded += uint64(len(data))
	if w.sinceRecorded >= progressBytes {
		w.s.journal.progress(w.need, &w.e, w.recorded, w.refs[w.recorded:])
		w.recorded, w.sinceRecorded = len(w.refs), 0
	}
	return w.s.took(w.ctx, uint64(len(data)))
}

// Finish ends the file with its final attributes and flags; its size becomes the number of bytes taken. The entry is
// in the snapshot from then on.
func (w *FileWriter) Finish(e snapshot.Entry) error {
	if w.ended {
		return errPackerClosed
	}
	defer w.release()
	if err := w.cut(true); err != nil {
		return err
	}
	e.Size = w.size
	e.Chunks, e.List, e.ListPacks = nil, nil, nil
	if len(w.refs) <= snapshot.InlineChunks {
		e.Chunks = w.refs
	} else {
		put := &needPutter{s: w.s, need: &w.need}
		var err error
		if e.List, e.ListPacks, err = snapshot.WriteList(w.ctx, put, slices.Values(w.refs)); err != nil {
			return fmt.Errorf("chunk list: %w", err)
		}
	}
	if err := w.s.addEntry(&e); err != nil {
		return err
	}
	w.s.journal.entry(w.need, &e)
	return nil
}

// Abort gives the file up. What was taken stays known to the session: large parts are found again when it is resumed.
func (w *FileWriter) Abort() {
	if w.ended {
		return
	}
	if len(w.refs) > w.recorded {
		w.s.journal.progress(w.need, &w.e, w.recorded, w.refs[w.recorded:])
	}
	w.release()
}

func (w *FileWriter) release() {
	w.ended = true
	if w.lane != 0 {
		w.s.p.giveBack(w.lane)
		w.lane = 0
	}
	if w.large != nil {
		*w.large = (*w.large)[:0]
		largeBuffers.Put(w.large)
		w.large = nil
	}
	w.buf = nil
}

// needPutter notes the newest block that it needed.
type needPutter struct {
	s    *Session
	need *uint64
}

func (n *needPutter) Put(ctx context.Context, data []byte) (snapshot.Ref, error) {
	if err := ctx.Err(); err != nil {
		return snapshot.Ref{}, err
	}
	ref, seq, _, err := n.s.p.put(n.s.v.chunkID(data), data)
	if err != nil {
		return ref, err
	}
	*n.need = max(*n.need, seq)
	return ref, nil
}
