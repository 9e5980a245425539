package puller

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/holdfast-vault/holdfast/puller/remote"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

const (
	problemsShown = 1000    // problems that a Result carries with their paths
	notesShown    = 100     // notes that are told
	writerBytes   = 4 << 20 // memory that one large file takes at most
	progressEvery = time.Second
	walkersMax    = 512
)

// The memory of a pull, and the share of it that file contents on their way may take: 96 MiB of the default.
const (
	memoryDefault = 256 << 20
	memoryLeast   = 64 << 20
	memoryMost    = 16 << 30 // more waits in no pull
	contentsOf8   = 3        // eighths
)

// fidelity is what SFTP cannot tell, noted in every snapshot.
var fidelity = []string{
	"hard links are kept as separate files: SFTP does not tell link counts or inodes",
	"extended attributes, access control lists and file capabilities are not read: SFTP does not tell them",
	"modification times have whole seconds; access, change and birth times are not kept",
	"holes in files are read as zeros",
	"owners are numbers of the source",
	"files are read one after the other, not at one instant",
}

// errTimeUp ends a pull that took as long as it may.
var errTimeUp = errors.New("the time for this pull is up")

// pull is one running pull.
type pull struct {
	job      Job
	began    time.Time
	link     *link
	clock    *sourceClock
	session  Session
	previous *snapshot.Tree
	frontier *frontier
	files    chan task

	clockSeen chan struct{} // closed when clock has been looked at
	clockErr  error         // of that

	memory *semaphore.Weighted
	count  counters
	notes  atomic.Uint64

	mu       sync.Mutex // guards what follows
	problems []Problem
	kinds    map[string]uint64
	limited  bool // the walk was stopped at a limit
}

// Run makes one pull. It returns when every goroutine that it began has ended.
//
// With a nil error a snapshot was committed: complete, or partial when Result.Partial. With an error none was, and what
// was read is kept for the next pull where the session could be kept (*InterruptedError, which a cancelled context also
// gives). ErrEmpty, *remote.HostKeyError and remote.ErrAuth are found with errors.Is and errors.As. The Result's figures are good in every case.
func Run(ctx context.Context, job Job) (Result, error) {
	job, err := job.withDefaults()
	if err != nil {
		return Result{}, err
	}
	p := &pull{job: job, began: job.Now(), files: make(chan task), clockSeen: make(chan struct{}), memory: semaphore.NewWeighted(job.Memory / 8 * contentsOf8), kinds: map[string]uint64{}}
	p.link = newLink(&p.job)
	p.clock = &sourceClock{job: &p.job, link: p.link}
	p.frontier = newFrontier(job.Limits.Pending)
	p.frontier.heldMax = int(job.Memory >> 10)
	committed, err := p.run(ctx)
	result := p.result(committed, err)
	if f := job.Events.Done; f != nil {
		f(result, err)
	}
	return result, err
}

func (p *pull) run(ctx context.Context) (Committed, error) {
	work := ctx
	if d := p.job.Limits.Duration; d > 0 {
		var cancel context.CancelFunc
		work, cancel = context.WithTimeoutCause(ctx, d, errTimeUp)
		defer cancel()
	}
	if err := p.link.connect(work); err != nil {
		return Committed{}, err
	}
	defer func() { _ = p.link.close() }() // reading is over: a connection that does not close well has lost nothing
	session, end, err := p.beginSession(ctx)
	if err != nil {
		return Committed{}, err
	}
	defer end()
	p.session, p.previous = session, session.Previous()
	p.notElsewhere()
	err = p.read(ctx, work)
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return Committed{}, p.suspend(err)
	}
	for _, note := range fidelity {
		session.Fidelity(note)
	}
	stats := p.stats()
	committed, err := session.Commit(ctx, Summary{Stats: stats, Partial: stats.Problems > 0, Excludes: p.job.Excludes.Patterns()})
	if err != nil {
		return Committed{}, fmt.Errorf("pull of %q: %w", p.job.Source, err)
	}
	return committed, nil
}

// beginSession opens the session. Its context ends with ctx while it is being opened and with end after that: a pull that
// is cancelled must still be able to put away what it has.
func (p *pull) beginSession(ctx context.Context) (_ Session, end context.CancelFunc, err error) {
	inside, end := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, end)
	session, err := p.job.Begin(inside)
	stop()
	if err != nil {
		end()
		return nil, nil, err
	}
	return session, end, nil
}

// notElsewhere has everything read where the previous snapshot was made of another place: files of equal name, size and
// time may differ then, as on two hosts made from one image.
func (p *pull) notElsewhere() {
	s, ok := p.session.(Placed)
	if !ok {
		return
	}
	if was, elsewhere := s.Elsewhere(); elsewhere {
		p.job.FullReread = true
		p.note("the previous snapshot was made from %q, or of a host with another key: every file is read again", was)
	}
}

// suspend ends the session without a snapshot and gives the error its form.
func (p *pull) suspend(err error) error {
	lasting := p.session.Suspend()
	if plain := (*refusedError)(nil); errors.As(err, &plain) && lasting == nil {
		return fmt.Errorf("pull of %q: %w", p.job.Source, plain.cause)
	}
	var over *overError
	if errors.As(err, &over) {
		err = over.cause
	}
	return &InterruptedError{Source: p.job.Source, Cause: err, Lasting: lasting}
}

// refusedError marks an error that was found before anything was read: there is nothing to resume.
type refusedError struct{ cause error }

func (e *refusedError) Error() string { return e.cause.Error() }
func (e *refusedError) Unwrap() error { return e.cause }

// read reads the source into the session. work is ctx with the pull's own limit of time.
func (p *pull) read(ctx, work context.Context) error {
	err := p.readAll(work)
	if err == nil || ctx.Err() != nil {
		return err
	}
	if errors.Is(err, errTimeUp) || errors.Is(err, context.DeadlineExceeded) && context.Cause(work) == errTimeUp {
		if p.count.listed.Load() == 0 {
			return fmt.Errorf("%w after %v, before its root could be listed", errTimeUp, p.job.Limits.Duration)
		}
		p.problem("", ProblemLimit, fmt.Sprintf("stopped after %v, the longest that a pull of this source may take: the rest was not read", p.job.Limits.Duration))
		return nil
	}
	return err
}

func (p *pull) readAll(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var clock sync.WaitGroup
	defer clock.Wait()
	defer cancel()
	clock.Go(func() { p.lookAtClock(ctx) })
	if err := p.begin(ctx); err != nil {
		return err
	}
	group, inside := errgroup.WithContext(ctx)
	run := func(f func(context.Context) error) {
		group.Go(func() (err error) {
			defer guard(&err)
			return f(inside)
		})
	}
	var walkers sync.WaitGroup
	for range p.walkers() {
		walkers.Add(1)
		run(func(ctx context.Context) error {
			defer walkers.Done()
			return p.walk(ctx)
		})
	}
	for range p.readers() {
		run(p.readFiles)
	}
	run(func(context.Context) error {
		walkers.Wait() // walkers end by themselves, or with ctx
		p.count.walked.Store(true)
		close(p.files)
		return nil
	})
	stop := p.report()
	err := group.Wait()
	stop()
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return p.lookAgain(ctx)
}

// guard turns a panic into an error: one source's trouble ends one pull.
func guard(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("internal error while pulling: %v: please report it", r)
	}
}

// readers is how many files are in flight.
func (p *pull) readers() int {
	if p.job.Readers > 0 {
		return p.job.Readers
	}
	if r, ok := p.link.remote.(interface{ Parallel() int }); ok {
		return min(max(r.Parallel(), 1), 4096)
	}
	return 64
}

// walkers is how many directories are in flight: few on a short line, where some hundreds of readers are there for the processors' sake, and files of one
// directory should stay together.
func (p *pull) walkers() int {
	if p.job.Walkers > 0 {
		return p.job.Walkers
	}
	return min(max((p.readers()-384)/4, 16), walkersMax)
}

// lookAtClock looks at the source's clock, beside the walk: no content is read before that is done, which is what it is for.
func (p *pull) lookAtClock(ctx context.Context) {
	defer close(p.clockSeen)
	defer guard(&p.clockErr)
	seen, err := p.clock.begin(ctx)
	if p.clockErr = err; err == nil && !seen {
		p.session.Fidelity("the source's clock cannot be seen: files modified less than 10 minutes before they were read are read again next time")
	}
}

// awaitClock waits until lookAtClock is done.
func (p *pull) awaitClock(ctx context.Context) error {
	select {
	case <-p.clockSeen:
		return p.clockErr
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// first is what is asked before anything is recorded.
type first struct {
	attr    remote.Attr // of the root
	attrErr error
	listing *listing // of the root
	listErr error
}

// look asks for all of it at once: on a long line each answer that is waited for by itself costs a round trip. Listing what turns out to be no
// directory harms nothing.
func (p *pull) look(ctx context.Context) first {
	var f first
	var asked sync.WaitGroup
	asked.Go(func() {
		defer guard(&f.listErr)
		f.listing, f.listErr = p.list(ctx, "")
	})
	func() {
		defer guard(&f.attrErr)
		f.attrErr = p.link.do(ctx, nil, func(ctx context.Context, r Remote) (err error) {
			f.attr, err = r.Lstat(ctx, p.job.Root)
			return err
		})
	}()
	asked.Wait()
	return f
}

// begin looks at the root, before anything is recorded.
func (p *pull) begin(ctx context.Context) error {
	f := p.look(ctx)
	attr, err := f.attr, f.attrErr
	switch {
	case errors.Is(err, fs.ErrNotExist):
		had, listErr := p.had(ctx)
		if listErr != nil {
			return listErr
		}
		if had {
			return &refusedError{fmt.Errorf("%q is missing: %w", p.job.Root, ErrEmpty)}
		}
		return &refusedError{fmt.Errorf("path %q on the source: %w", p.job.Root, fs.ErrNotExist)}
	case err != nil:
		return p.refuse(err)
	case attr.Kind == remote.Symlink:
		return &refusedError{fmt.Errorf("path %q on the source is a symbolic link, which is not followed: name the directory that it leads to", p.job.Root)}
	case attr.Kind != remote.Directory:
		return &refusedError{fmt.Errorf("path %q on the source is a %v and not a directory: name the directory that it is in, and exclude the rest", p.job.Root, attr.Kind)}
	}
	listing, err := f.listing, f.listErr
	if err != nil && !isLimit(err) {
		return p.refuse(fmt.Errorf("path %q on the source cannot be listed: %w", p.job.Root, err))
	}
	if len(listing.entries) == 0 && len(listing.bad) == 0 && !p.job.AllowEmpty {
		had, err := p.had(ctx)
		if err != nil {
			return err
		}
		if had {
			return &refusedError{ErrEmpty}
		}
	}
	listing.err = err
	p.frontier.pushDir(dir{attr: attr, listing: listing})
	return nil
}

// refuse marks an answer of the source about its root; a connection that is gone is another matter.
func (p *pull) refuse(err error) error {
	var over *overError
	if errors.As(err, &over) || transient(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errTimeUp) {
		return err
	}
	return &refusedError{err}
}

// had says whether the previous snapshot had anything in its root. A previous catalog that cannot be read had.
func (p *pull) had(ctx context.Context) (bool, error) {
	if p.previous == nil {
		return false, nil
	}
	for _, err := range p.previous.List(ctx, "") {
		if err != nil && ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		return true, nil
	}
	return false, nil
}

// lookAgain makes sure, when entries vanished while they were read, that not the whole source did.
func (p *pull) lookAgain(ctx context.Context) error {
	if p.count.vanished.Load() == 0 || p.job.AllowEmpty {
		return nil
	}
	again, err := p.list(ctx, "")
	if over := (*overError)(nil); errors.As(err, &over) {
		return err
	}
	if err != nil || len(again.entries) == 0 && len(again.bad) == 0 {
		p.problem("", ProblemVanished, "the source was empty when it had been read: what was missing may have been taken away with a file system, not deleted")
	}
	return nil
}

// stopWalk ends the walk at a limit; what is being read is read to its end.
func (p *pull) stopWalk(path, reason string) {
	p.mu.Lock()
	first := !p.limited
	p.limited = true
	p.mu.Unlock()
	if first {
		p.problem(path, ProblemLimit, reason)
	}
	p.frontier.stop()
}

// problem notes a path that could not be had.
func (p *pull) problem(path, kind, reason string) {
	found := Problem{Path: path, Kind: kind, Reason: reason}
	p.mu.Lock()
	p.kinds[kind]++
	if len(p.problems) < problemsShown {
		p.problems = append(p.problems, found)
	}
	p.mu.Unlock()
	p.count.problems.Add(1)
	p.session.Problem(path, kind, reason)
	if f := p.job.Events.Problem; f != nil {
		f(found)
	}
}

// note tells the first notesShown notes: a source can make as many as it likes.
func (p *pull) note(format string, args ...any) {
	f := p.job.Events.Note
	if f == nil {
		return
	}
	switch n := p.notes.Add(1); {
	case n <= notesShown:
		f(fmt.Sprintf(format, args...))
	case n == notesShown+1:
		f("more notes are not shown")
	}
}

// report tells of the progress until it is stopped; the last time then.
func (p *pull) report() (stop func()) {
	tell := p.job.Events.Progress
	if tell == nil {
		return func() {}
	}
	end := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				tell(p.progress())
			case <-end:
				tell(p.progress())
				return
			}
		}
	})
	return func() {
		close(end)
		done.Wait()
	}
}

func (p *pull) progress() Progress {
	s := p.stats()
	g := Progress{
		Stats: s, Elapsed: s.Duration, KeptBytes: p.count.keptBytes.Load(), Walked: p.count.walked.Load(),
		TotalFiles: p.count.foundFiles.Load(), TotalBytes: p.count.foundBytes.Load(),
	}
	switch {
	case g.Walked:
	case p.previous == nil:
		g.TotalFiles, g.TotalBytes = 0, 0
	default:
		last := p.previous.Root()
		g.TotalFiles, g.TotalBytes = max(g.TotalFiles, last.Files), max(g.TotalBytes, last.Bytes)
	}
	if w, ok := p.session.(Teller); ok {
		g.NewBytes, _ = w.Written()
		g.NewTold = true
	}
	return g
}

func (p *pull) result(c Committed, err error) Result {
	s := p.stats()
	p.mu.Lock()
	defer p.mu.Unlock()
	return Result{
		Snapshot: c, Partial: err == nil && s.Problems > 0, Stats: s, Problems: p.problems,
		Began: p.began, Ended: p.began.Add(s.Duration),
	}
}
