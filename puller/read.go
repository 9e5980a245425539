package puller

import (
	"context"
	"fmt"
	"time"

	"github.com/holdfast-vault/holdfast/puller/remote"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// changedPause is the pause before a file that changed while it was read is read again, doubled each time.
const changedPause = 100 * time.Millisecond

// readFiles takes tasks until there will be none.
func (p *pull) readFiles(ctx context.Context) error {
	if err := p.awaitClock(ctx); err != nil {
		return err
	}
	for {
		select {
		case t, ok := <-p.files:
			if !ok {
				return nil
			}
			var err error
			if t.attr.Kind == remote.Symlink {
				err = p.readLink(ctx, t)
			} else {
				err = p.readFile(ctx, t)
			}
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// readFile reads a file into the session, within the limit of bytes and the memory for contents.
func (p *pull) readFile(ctx context.Context, t task) error {
	if !p.plan(t.attr.Size, t.path(), t.attr.Size) {
		return nil
	}
	weight := int64(min(t.attr.Size, writerBytes))
	if err := p.memory.Acquire(ctx, weight); err != nil {
		return context.Cause(ctx)
	}
	defer p.memory.Release(weight)
	e := entryOf(t.parent, t.name, t.attr)
	if racy(e.MTime, p.clock.last()) {
		e.Flags |= snapshot.Racy // so that a part of it is not continued by a later run
	}
	w, err := p.writer(ctx, &e)
	if err != nil {
		return err
	}
	defer w.Abort()
	p.count.keptBytes.Add(w.Offset())
	f := &reading{
		pull: p, task: t, out: &sink{w: w, count: p.countBytes}, planned: t.attr.Size,
		want: t.attr, at: w.Offset(), resumed: w.Offset() > 0,
	}
	return f.run(ctx)
}

// writer begins a file in the session: a large one at once, since an interrupted run may have stored a part of it, any other when there is content.
func (p *pull) writer(ctx context.Context, e *snapshot.Entry) (FileWriter, error) {
	open := func() (FileWriter, error) { return p.session.File(ctx, e) }
	if e.Size > lateBytes {
		return open()
	}
	return &lateWriter{open: open}, nil
}

// lateBytes is the size up to which a file is begun in the session when its content comes. A part of such a file is not worth going on from.
const lateBytes = 1 << 20

// lateWriter is a FileWriter that is opened by the first byte. Thousands of files may be on their way over a long line, and what a writer
// holds is then held for the time that the vault needs, not for theirs.
type lateWriter struct {
	open func() (FileWriter, error)
	w    FileWriter // nil until then
	anew bool       // Restart was called before
}

func (l *lateWriter) begin() error {
	if l.w != nil {
		return nil
	}
	w, err := l.open()
	if err != nil {
		return err
	}
	if l.w = w; l.anew || w.Offset() > 0 {
		w.Restart()
	}
	return nil
}

func (l *lateWriter) Write(b []byte) (int, error) {
	if err := l.begin(); err != nil {
		return 0, err
	}
	return l.w.Write(b)
}

// Offset is 0: there is nothing that could be gone on from.
func (l *lateWriter) Offset() uint64 { return 0 }

func (l *lateWriter) Restart() {
	if l.w == nil {
		l.anew = true
		return
	}
	l.w.Restart()
}

func (l *lateWriter) Finish(e snapshot.Entry) error {
	if err := l.begin(); err != nil {
		return err
	}
	return l.w.Finish(e)
}

func (l *lateWriter) Abort() {
	if l.w != nil {
		l.w.Abort()
	}
}

func (p *pull) countBytes(n int) { p.count.readBytes.Add(uint64(n)) }

// sink is a FileWriter that remembers its error, so that trouble with the vault is not taken for trouble with the source.
type sink struct {
	w     FileWriter
	count func(int)
	n     uint64 // bytes taken
	err   error
}

func (s *sink) Write(b []byte) (int, error) {
	n, err := s.w.Write(b)
	s.n += uint64(n)
	s.count(n)
	if err != nil && s.err == nil {
		s.err = err
	}
	return n, err
}

// reading is one file being read.
type reading struct {
	*pull
	task
	out     *sink
	planned uint64      // bytes counted against the limit
	want    remote.Attr // what the content is expected to be the content of
	at      uint64      // bytes of it that the writer has
	far     uint64      // most bytes of it that the writer had after an attempt: one that may not be continued begins again
	resumed bool        // some of them from an interrupted run
	least   int64       // what the source's clock showed before the oldest of them was read
	after   remote.Read
}

// growingOnce is the size from which a file that grew is not read again at once.
const growingOnce = 64 << 20

// run reads the file until it did not change meanwhile, a few times at most.
func (f *reading) run(ctx context.Context) error {
	for tries := 0; ; tries++ {
		err := f.version(ctx)
		switch {
		case f.out.err != nil:
			return fmt.Errorf("store %q: %w", f.path(), f.out.err)
		case err != nil:
			again, err := f.failed(ctx, err, tries)
			if err != nil || !again {
				return err
			}
		case !f.after.Changed && !f.after.Short && !f.after.Grew:
			return f.finish()
		case f.after.After.Kind != remote.File:
			f.becameOther(f.after.After.Kind)
			return nil
		case f.after.Grew && !f.after.Short && (tries >= f.job.Retry.Changed || f.want.Size >= growingOnce):
			// A log that is written to all day: what was listed was had, whole. It is marked and read again next time; to call
			// the snapshot partial for it would cry wolf on every host.
			return f.finish()
		case tries >= f.job.Retry.Changed:
			f.problem(f.path(), ProblemChanged, fmt.Sprintf("changed while it was read, %d times: what was read last is kept, and marked", tries+1))
			return f.finish()
		default:
			again, err := f.nextVersion(ctx)
			if err != nil || !again {
				return err
			}
		}
		if err := f.job.Sleep(ctx, changedPause<<min(tries, 6)); err != nil {
			return err
		}
	}
}

// nextVersion asks what stands under the path now, and begins with that. The handle that was read is no witness: it may be
// of a file that was replaced, or of another one altogether.
func (f *reading) nextVersion(ctx context.Context) (again bool, err error) {
	var now remote.Attr
	err = f.link.do(ctx, nil, func(ctx context.Context, r Remote) (err error) {
		now, err = r.Lstat(ctx, f.remotePath(f.path()))
		return err
	})
	switch {
	case err != nil:
		return f.failed(ctx, err, f.job.Retry.Changed)
	case now.Kind != remote.File:
		f.becameOther(now.Kind)
		return false, nil
	}
	return f.restart(now), nil
}

// becameOther says that there is no file any more where one was.
func (f *reading) becameOther(kind remote.Kind) {
	f.problem(f.path(), ProblemChanged, fmt.Sprintf("was a file when it was listed, and is a %v now", kind))
}

// restart begins with another version of the file; false when that would go beyond the limit of bytes.
func (f *reading) restart(want remote.Attr) bool {
	more := want.Size - min(want.Size, f.planned)
	if !f.plan(more, f.path(), want.Size) {
		return false
	}
	f.planned += more
	f.out.w.Restart()
	f.want, f.at, f.resumed = want, 0, false
	return true
}

// plan counts bytes that are to be read; false, with a problem noted, when they would go beyond the limit.
func (p *pull) plan(bytes uint64, path string, size uint64) bool {
	limit := p.job.Limits.Bytes
	if limit == 0 || p.count.planned.Add(bytes) <= limit {
		return true
	}
	p.count.planned.Add(-bytes)
	p.problem(path, ProblemLimit, fmt.Sprintf("its %d bytes would go beyond the limit of %d bytes for one pull", size, limit))
	return false
}

// version reads one version of the file to its end, over as many connections as it takes. Content that is there already
// is continued only if the version cannot have changed without showing it.
func (f *reading) version(ctx context.Context) error {
	began := false
	f.far = 0
	return f.link.do(ctx, func() uint64 { return f.far }, func(ctx context.Context, r Remote) error {
		if least := f.clock.least(ctx, r); !began {
			f.least, began = least, true
		}
		if f.at > 0 && racy(f.want.MTime, f.least) {
			f.restart(f.want) // of the size that was planned for: always within the limit
		}
		if f.want.Size == 0 {
			f.after = remote.Read{After: f.want}
			return nil
		}
		before := f.out.n
		read, err := r.ReadFile(ctx, f.remotePath(f.path()), f.want, f.at, f.out)
		f.at += f.out.n - before
		f.far = max(f.far, f.at)
		f.after = read
		if f.out.err != nil {
			return f.out.err
		}
		return err
	})
}

// failed deals with a file that could not be read: again says that there is another version to be read.
func (f *reading) failed(ctx context.Context, cause error, tries int) (again bool, err error) {
	v, err := f.judge(ctx, f.path(), cause)
	switch {
	case err != nil:
		return false, err
	case v.gone:
		f.vanished(f.path())
	case v.now != nil && v.now.Kind != remote.File:
		f.becameOther(v.now.Kind)
	case v.now != nil && tries < f.job.Retry.Changed:
		return f.restart(*v.now), nil // another file was put in its place
	default:
		f.problem(f.path(), v.kind, v.reason)
	}
	return false, nil
}

// finish records the file as it was read.
func (f *reading) finish() error {
	e := entryOf(f.parent, f.name, f.want)
	if a := f.after.After; a.ModeKnown && a.Kind == remote.File {
		e = entryOf(f.parent, f.name, a)
	}
	if f.resumed {
		e.Flags |= snapshot.Resumed
	}
	if racy(e.MTime, f.least) {
		e.Flags |= snapshot.Racy
		f.count.racy.Add(1)
	}
	for flag, set := range map[snapshot.Flags]bool{snapshot.Changed: f.after.Changed, snapshot.Short: f.after.Short, snapshot.Grew: f.after.Grew} {
		if set {
			e.Flags |= flag
		}
	}
	if err := f.out.w.Finish(e); err != nil {
		return fmt.Errorf("store %q: %w", f.path(), err)
	}
	f.count.read.Add(1)
	listed := entryOf(f.parent, f.name, f.attr)
	f.countFile(f.known, f.unchanged && same(&e, &listed))
	return nil
}
