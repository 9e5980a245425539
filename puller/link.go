package puller

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/holdfast-vault/holdfast/puller/remote"
)

const (
	// workForTrust is how much must be achieved between two losses for the second to be tried again without a pause. A
	// unit is an operation done or a mebibyte read.
	workForTrust = 4
	// lossesUntilRedial is after how many failures in a row to recover a Remote it is given up for a new one. It dials
	// again by itself, too; this is for one that does not.
	lossesUntilRedial = 3
	// restlessMax bounds the pause between losses of a connection that recovers each time.
	restlessMax = 16 * time.Second
	// progressBytes is how much an operation must have read for its connection's end not to count as a strike.
	progressBytes = 256 << 10
	// together is how many operations may run beside each other; one that is suspected of ending connections takes all.
	together = 1 << 20
)

// link keeps a Remote at hand. It mends what is lost, paces what is tried again and decides when to give up.
type link struct {
	job   *Job
	turns *semaphore.Weighted // held with weight 1 by an operation, with all of it by a suspect
	work  atomic.Int64        // achieved since the last loss

	// lock guards what follows. It is a channel, held through dialling and pauses, so that whoever waits for the
	// connection waits for both and still hears of the context's end.
	lock     chan struct{}
	remote   Remote // nil when it must be dialled
	epoch    int    // grows with every loss, so that one that hits many operations is mended once
	restless int    // losses in a row between which little was achieved
	struck   int    // paths that were left out
	fatal    error  // why there will be no connection any more

	lost     atomic.Uint64
	requests atomic.Int64 // of remotes that were replaced
}

func newLink(job *Job) *link {
	return &link{job: job, turns: semaphore.NewWeighted(together), lock: make(chan struct{}, 1)}
}

func (l *link) acquire(ctx context.Context) error {
	select {
	case l.lock <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *link) release() { <-l.lock }

// connect dials for the first time. Its errors are the caller's to see: nothing was lost yet.
func (l *link) connect(ctx context.Context) error {
	r, err := l.job.Connect(ctx)
	if err != nil {
		return fmt.Errorf("source %q: %w", l.job.Source, err)
	}
	l.remote = r
	l.connected(false)
	return nil
}

func (l *link) connected(again bool) {
	if f := l.job.Events.Connected; f != nil {
		f(again)
	}
}

// close closes the connection, if there is one. l.lock is held, or nothing uses the link any more.
func (l *link) close() error {
	if l.remote == nil {
		return nil
	}
	l.requests.Add(l.remote.Stats().Requests)
	err := l.remote.Close()
	l.remote = nil
	return err
}

// get returns the Remote, and the epoch to report its loss with.
func (l *link) get(ctx context.Context) (Remote, int, error) {
	if err := l.acquire(ctx); err != nil {
		return nil, 0, err
	}
	defer l.release()
	return l.remote, l.epoch, l.fatal
}

// mend is told of a loss and returns when the connection answers again, or with an error when there is nothing more to
// hope for. A loss that somebody else has told of meanwhile is mended already.
func (l *link) mend(ctx context.Context, epoch int, cause error) error {
	if err := l.acquire(ctx); err != nil {
		return err
	}
	defer l.release()
	if l.fatal != nil || epoch != l.epoch {
		return l.fatal
	}
	l.epoch++
	l.lost.Add(1)
	if l.work.Swap(0) >= workForTrust {
		l.restless = 0
	}
	if err := l.rest(ctx, cause, l.pause(l.restless, restlessMax)); err != nil {
		return err
	}
	l.restless++
	for failures := 1; ; failures++ {
		err := l.probe(ctx, failures%lossesUntilRedial == 0)
		if err == nil || ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var key *remote.HostKeyError
		if errors.As(err, &key) || errors.Is(err, remote.ErrAuth) {
			l.fatal = err
			return l.fatal
		}
		if failures >= l.job.Retry.Losses {
			l.fatal = fmt.Errorf("the connection is lost and %d attempts to have it again failed: %w", failures, err)
			return l.fatal
		}
		if err := l.rest(ctx, err, l.pause(failures, l.job.Retry.Max)); err != nil {
			return err
		}
	}
}

// probe makes sure that the connection answers, for the root; anew says to dial another. Any answer will do.
func (l *link) probe(ctx context.Context, anew bool) error {
	if anew {
		_ = l.close() // it does not answer: how it closes does not matter
	}
	if l.remote == nil {
		r, err := l.job.Connect(ctx)
		if err != nil {
			return err
		}
		l.remote = r
		l.connected(true)
	}
	if _, err := l.remote.Lstat(ctx, l.job.Root); transient(err) {
		return err
	}
	return nil
}

// rest waits before something is tried again.
func (l *link) rest(ctx context.Context, cause error, wait time.Duration) error {
	if f := l.job.Events.Lost; f != nil {
		f(cause, wait)
	}
	if wait == 0 {
		return nil
	}
	return l.job.Sleep(ctx, wait)
}

// pause is the n-th pause: none for 0, then doubling.
func (l *link) pause(n int, longest time.Duration) time.Duration {
	if n == 0 {
		return 0
	}
	wait := l.job.Retry.First << min(n-1, 20)
	if wait <= 0 || wait > longest {
		return longest
	}
	return wait
}

// leaveOut counts a path that is left out; with too many of them it is the source that is at fault.
func (l *link) leaveOut(ctx context.Context, cause error) error {
	if err := l.acquire(ctx); err != nil {
		return err
	}
	defer l.release()
	if l.struck++; l.struck > l.job.Retry.Struck && l.fatal == nil {
		l.fatal = fmt.Errorf("the source gives no answer for more than %d paths: %w", l.job.Retry.Struck, cause)
	}
	return l.fatal
}

// stats returns requests made and connections lost.
func (l *link) stats() (requests, lost uint64) {
	n := l.requests.Load()
	select {
	case l.lock <- struct{}{}:
		if l.remote != nil {
			n += l.remote.Stats().Requests
		}
		l.release()
	default: // dialling: the figure is of a progress line
	}
	return uint64(max(n, 0)), l.lost.Load()
}

// struckError says that one path ended connections, or got no answer, until nobody wanted to try it again.
type struckError struct {
	strikes int
	cause   error
}

func (e *struckError) Error() string {
	return fmt.Sprintf("given up after %d attempts: %v", e.strikes, e.cause)
}

func (e *struckError) Unwrap() error { return e.cause }

// overError marks an error that ends the pull.
type overError struct{ cause error }

func (e *overError) Error() string { return e.cause.Error() }
func (e *overError) Unwrap() error { return e.cause }

// transient says whether an error is the connection's and not the path's.
func transient(err error) bool {
	return errors.Is(err, remote.ErrLost) || errors.Is(err, remote.ErrStalled) || errors.Is(err, remote.ErrClosed)
}

// nonsense says whether an operation was answered against the protocol.
func nonsense(err error) bool {
	var protocol *remote.ProtocolError
	return errors.As(err, &protocol) && !transient(err)
}

// do runs one operation, again and again while the connection is lost under it. read tells how far the operation has come so far, in bytes, at its
// best; nil if it takes none. An operation that begins anew has come no further: one that is cut at the same place each time would be tried for ever.
//
// The last attempt is made alone: whatever ends the connection then is the operation's own doing, as long as the connection
// answers before and after. It returns a *struckError for such an operation, an *overError when the link has given up, and
// every other error of the operation as it is, an answer against the protocol the second time.
func (l *link) do(ctx context.Context, read func() uint64, op func(context.Context, Remote) error) error {
	distrusted := false
	for strikes := 0; ; {
		before := tell(read)
		epoch, err := l.attempt(ctx, strikes >= l.job.Retry.Strikes-1, op)
		achieved := tell(read) - before
		if nonsense(err) && !distrusted && ctx.Err() == nil {
			distrusted = true // once may be a packet cut in the middle; the connection has been closed for it
			continue
		}
		if !transient(err) || ctx.Err() != nil || epoch < 0 {
			l.work.Add(1 + int64(achieved>>20))
			return err
		}
		l.work.Add(int64(achieved >> 20))
		if err := l.mend(ctx, epoch, err); err != nil {
			return &overError{err}
		}
		if strikes++; achieved >= progressBytes {
			strikes = 0 // a huge file over a line that fails now and then must not use them up bit by bit
		}
		if strikes < l.job.Retry.Strikes {
			continue
		}
		if over := l.leaveOut(ctx, err); over != nil {
			return &overError{over}
		}
		return &struckError{strikes, err}
	}
}

func tell(read func() uint64) uint64 {
	if read == nil {
		return 0
	}
	return read()
}

// attempt runs an operation beside others, or alone. It returns the epoch that it ran in, -1 when it did not run.
func (l *link) attempt(ctx context.Context, alone bool, op func(context.Context, Remote) error) (int, error) {
	weight := int64(1)
	if alone {
		weight = together
	}
	if err := l.turns.Acquire(ctx, weight); err != nil {
		return -1, context.Cause(ctx)
	}
	defer l.turns.Release(weight)
	r, epoch, err := l.get(ctx)
	if err != nil {
		return -1, &overError{err}
	}
	return epoch, op(ctx, r)
}
