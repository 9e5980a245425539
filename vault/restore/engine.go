package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

const segmentBytes = 8 << 20 // a file larger than this is fetched in parts of this size by several workers

// To restores what lies under path into target: the content of a directory goes directly under the target's top, whose
// attributes become those of the directory; anything else goes there under its own name.
//
// An entry that cannot be given back is counted, named and left out, and the restore goes on; at the end the error is an
// [*Error]. It stops early, with the cause and what failed before, when the catalog cannot be read on, when the target
// is full and when ctx ends. Memory does not depend on the size of the snapshot (about 50 MiB for what is being put into the
// order of the packs), save for a few bytes for each directory that its owner may not write to. All goroutines have ended when To returns.
func To(ctx context.Context, src Source, path string, target Target, o Options) (Report, error) {
	r := &run{src: src, root: path, target: target, tally: tally{events: o.Events}}
	workers := o.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0) + 1 // one may wait for the disk
	}
	err := r.everything(ctx, workers)
	return r.tally.report, errors.Join(err, r.tally.report.err())
}

// run is one restore. The planner's goroutine walks the catalog, makes directories and links, and gathers files in windows; the
// dispatcher's puts each window into the order of the packs and hands out tasks; the workers do them.
type run struct {
	src    Source
	root   string
	target Target
	tally  tally

	window  *window      // planner only: files not handed over yet
	made    uint64       // planner only: directories made, the top included
	windows chan *window // planner to dispatcher
	tasks   chan task    // dispatcher to workers
	stop    context.CancelCauseFunc
}

// task is some small files that lie next to each other in a pack, or a part of a large one.
type task struct {
	files []planned

	file   *largeFile // the large one, else nil
	refs   []snapshot.Ref
	offset uint64
}

func (r *run) everything(ctx context.Context, workers int) error {
	top, err := r.src.Lookup(ctx, r.root)
	if err != nil {
		return err
	}
	if err := r.content(ctx, workers); err != nil {
		return err
	}
	if top.Kind != snapshot.Directory {
		return nil
	}
	// Only now: making an entry changes the mtime of the directory that it lies in.
	return r.finishDirectories(ctx)
}

// content makes everything but the attributes of directories.
func (r *run) content(ctx context.Context, workers int) error {
	ctx, r.stop = context.WithCancelCause(ctx)
	defer r.stop(nil)
	r.window = &window{}
	r.windows = make(chan *window)
	r.tasks = make(chan task, 2*workers)
	var g errgroup.Group
	for range workers {
		g.Go(func() error { return r.work(ctx) })
	}
	g.Go(func() error {
		defer close(r.tasks)
		return r.dispatch(ctx)
	})
	g.Go(func() error {
		defer close(r.windows)
		return r.plan(ctx)
	})
	err := g.Wait()
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause // what made the others stop, not that they stopped
	}
	return err
}

// place returns where e goes below the target's top.
func (r *run) place(e *snapshot.Entry) (string, error) {
	p, err := below(r.root, e)
	if err == nil && p == "" && e.Kind != snapshot.Directory {
		p = e.Name
		err = CheckName(p)
	}
	return p, err
}

func (r *run) plan(ctx context.Context) error {
	for e, err := range r.src.Walk(ctx, r.root) {
		if err != nil {
			return errors.Join(r.handOver(ctx), fmt.Errorf("reading the catalog below %q: %w", r.root, err))
		}
		p, err := r.place(&e)
		if err != nil {
			r.tally.fail(e.Path(), "name", err)
			continue
		}
		if err := r.planEntry(ctx, p, &e); err != nil {
			return err
		}
	}
	return r.handOver(ctx)
}

// planEntry returns an error only when the whole restore must stop.
func (r *run) planEntry(ctx context.Context, p string, e *snapshot.Entry) error {
	var err error
	switch e.Kind {
	case snapshot.File:
		if r.window.add(e) {
			return r.handOver(ctx)
		}
		return nil
	case snapshot.Directory:
		if p != "" {
			err = r.target.Directory(ctx, p, e)
		}
		if err == nil {
			r.made++
			r.tally.done(func(n *Report) { n.Directories++ })
		}
	case snapshot.Symlink:
		if err = r.target.Link(ctx, p, e); err == nil {
			r.tally.done(func(n *Report) { n.Symlinks++ })
		}
	case snapshot.Fifo:
		if err = r.target.Link(ctx, p, e); err == nil {
			r.tally.done(func(n *Report) { n.Fifos++ })
		}
	default:
		r.tally.skip(e.Path(), "a "+e.Kind.String()+" is not restored")
	}
	return r.failed(ctx, e, err)
}

// failed counts err against e; it returns it when nothing further can succeed. What was only interrupted did not fail.
func (r *run) failed(ctx context.Context, e *snapshot.Entry, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return context.Cause(ctx)
	}
	r.tally.fail(e.Path(), "write", err)
	if hopeless(err) {
		return fmt.Errorf("the restore stopped at %q: %w", e.Path(), err)
	}
	return nil
}

func (r *run) send(ctx context.Context, t task) error {
	select {
	case r.tasks <- t:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *run) work(ctx context.Context) error {
	for t := range r.tasks {
		if err := r.do(ctx, t); err != nil {
			r.stop(err)
			r.drain()
			return err
		}
	}
	return nil
}

// do returns an error only when the whole restore must stop.
func (r *run) do(ctx context.Context, t task) error {
	if t.file != nil {
		return r.failed(ctx, t.file.entry, r.part(ctx, t))
	}
	for _, f := range t.files {
		p, err := r.place(f.entry)
		if err == nil {
			err = r.small(ctx, p, f.entry)
		}
		if err := r.failed(ctx, f.entry, err); err != nil {
			return err
		}
	}
	return nil
}

// drain lets go of the parts that nobody will write any more, until the dispatcher has seen that all is over.
func (r *run) drain() {
	for t := range r.tasks {
		if t.file != nil {
			t.file.fail(context.Canceled)
			t.file.release()
		}
	}
}

// small restores a whole file.
func (r *run) small(ctx context.Context, p string, e *snapshot.Entry) error {
	f, err := r.target.File(ctx, p, e)
	if err != nil {
		return err
	}
	w := writer{f: f, size: e.Size}
	for ref, err := range r.src.Content(ctx, *e) {
		if err == nil {
			err = w.chunk(ctx, r.src, ref)
		}
		if err != nil {
			return errors.Join(doing("read", err), f.Abort())
		}
	}
	return r.commit(f, e, w.offset, w.holes)
}

// commit ends a file whose content has been written. An error here may leave a file with the right content and the
// wrong attributes: it is named all the same.
func (r *run) commit(f TargetFile, e *snapshot.Entry, got, holes uint64) error {
	if got != e.Size {
		err := fmt.Errorf("%w: %d bytes of %d", ErrSize, got, e.Size)
		return errors.Join(doing("read", err), f.Abort())
	}
	if err := f.Commit(); err != nil {
		return err
	}
	r.tally.done(func(n *Report) {
		n.Files++
		n.Bytes += e.Size
		n.HoleBytes += holes
	})
	return nil
}

// writer puts chunks into a file one after the other and leaves runs of zeros out.
type writer struct {
	f      TargetFile
	size   uint64 // that the file must have in the end
	offset uint64
	holes  uint64
}

// chunk fetches one chunk and writes it behind the last. Beyond the recorded size nothing is written.
func (w *writer) chunk(ctx context.Context, c Content, ref snapshot.Ref) error {
	if o, ok := c.(Ordered); ok {
		if err := ctx.Err(); err != nil {
			return err
		}
		return o.Use(ctx, ref, func(data []byte) error {
			if err := sized(data, ref); err != nil {
				return err
			}
			return w.write(data)
		})
	}
	data, err := fetch(ctx, c, ref)
	if err != nil {
		return err
	}
	return w.write(data)
}

func (w *writer) write(data []byte) error {
	if uint64(len(data)) > w.size-w.offset {
		return fmt.Errorf("%w: more than %d bytes", ErrSize, w.size)
	}
	holes, err := writeAround(w.f, data, w.offset)
	w.offset += uint64(len(data))
	w.holes += holes
	return doing("write", err)
}

// fetch compares the size of what came with what the catalog says; the ID is Fetch's business.
func fetch(ctx context.Context, c Content, ref snapshot.Ref) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	data, err := c.Fetch(ctx, ref)
	if err != nil {
		return nil, err
	}
	return data, sized(data, ref)
}

func sized(data []byte, ref snapshot.Ref) error {
	if len(data) != int(ref.Size) {
		return fmt.Errorf("chunk %v: %w: %d bytes of %d", ref.ID, ErrSize, len(data), ref.Size)
	}
	return nil
}

// largeFile is a file that several workers write. It is begun by the dispatcher; whoever releases it last commits it.
type largeFile struct {
	run   *run
	entry *snapshot.Entry
	f     TargetFile

	mu     sync.Mutex // guards what follows
	users  int        // the dispatcher and the parts not done
	err    error      // the first failure
	got    uint64
	holes  uint64
	failed bool
}

// large cuts a large file into parts. The list of its chunks streams past; at most the tasks' channel is held.
func (r *run) large(ctx context.Context, e *snapshot.Entry) error {
	p, err := r.place(e)
	if err != nil {
		return r.failed(ctx, e, err)
	}
	f, err := r.target.File(ctx, p, e)
	if err != nil {
		return r.failed(ctx, e, err)
	}
	l := &largeFile{run: r, entry: e, f: f, users: 1}
	err = l.cut(ctx)
	if err != nil {
		l.fail(doing("read", err))
	}
	return r.failed(ctx, e, l.release())
}

// cut sends the parts; it stops when one of them has failed.
func (l *largeFile) cut(ctx context.Context) error {
	part := task{file: l}
	next, bytes := uint64(0), uint64(0)
	send := func() error {
		l.mu.Lock()
		l.users++
		l.mu.Unlock()
		if err := l.run.send(ctx, part); err != nil {
			l.fail(err)
			return l.release() // never the last: the dispatcher holds one
		}
		part.offset, part.refs, bytes = next, nil, 0
		return nil
	}
	for ref, err := range l.run.src.Content(ctx, *l.entry) {
		if err != nil {
			return err
		}
		if l.broken() {
			return nil
		}
		if uint64(ref.Size) > l.entry.Size-next {
			return fmt.Errorf("%w: more than %d bytes", ErrSize, l.entry.Size)
		}
		part.refs = append(part.refs, ref)
		next += uint64(ref.Size)
		if bytes += uint64(ref.Size); bytes >= segmentBytes {
			if err := send(); err != nil {
				return err
			}
		}
	}
	if len(part.refs) > 0 {
		return send()
	}
	return nil
}

func (l *largeFile) broken() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

func (l *largeFile) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.failed {
		l.failed, l.err = true, err
	}
}

// release gives up one use of the file. The last one ends it, and gets the error of the whole file.
func (l *largeFile) release() error {
	l.mu.Lock()
	l.users--
	last, err := l.users == 0, l.err
	l.mu.Unlock()
	switch {
	case !last:
		return nil
	case err != nil:
		return errors.Join(err, l.f.Abort())
	}
	return l.run.commit(l.f, l.entry, l.got, l.holes)
}

// part writes one part of a large file; the error, if any, is that of the whole file and comes once.
func (r *run) part(ctx context.Context, t task) error {
	w := writer{f: t.file.f, size: t.file.entry.Size, offset: t.offset}
	for _, ref := range t.refs {
		if t.file.broken() {
			break
		}
		if err := w.chunk(ctx, r.src, ref); err != nil {
			t.file.fail(doing("read", err))
			break
		}
	}
	t.file.mu.Lock()
	t.file.got += w.offset - t.offset
	t.file.holes += w.holes
	t.file.mu.Unlock()
	return t.file.release()
}

// finishDirectories goes through the catalog once more and gives directories their attributes. One that its owner may
// not write to and search comes after everything below it, deepest first; those are the only ones remembered.
func (r *run) finishDirectories(ctx context.Context) error {
	type later struct {
		path  string
		entry snapshot.Entry
	}
	var closed []later
	missing := r.made
	finish := func(p string, e *snapshot.Entry) error {
		err := r.target.Finish(ctx, p, e)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it could not be made, and was named then
		}
		missing--
		return r.failed(ctx, e, err)
	}
	for e, err := range r.src.Walk(ctx, r.root) {
		if err != nil {
			return fmt.Errorf("reading the catalog below %q: %w", r.root, err)
		}
		p, err := r.place(&e)
		if err != nil || e.Kind != snapshot.Directory {
			continue
		}
		if e.Mode&0o700 != 0o700 {
			closed = append(closed, later{p, e})
			continue
		}
		if err := finish(p, &e); err != nil {
			return err
		}
	}
	for _, l := range slices.Backward(closed) {
		if err := finish(l.path, &l.entry); err != nil {
			return err
		}
	}
	if missing != 0 {
		return fmt.Errorf("%d directories were removed or replaced by somebody else during the restore", missing)
	}
	return nil
}
