package puller

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/reliance"
	"github.com/holdfast-vault/holdfast/puller/remote"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// Tree is the names of a source. Paths are absolute and built by joining names with slashes, never cleaned.
type Tree interface {
	Lstat(ctx context.Context, path string) (remote.Attr, error)
	ReadDir(ctx context.Context, path string) ([]remote.Entry, []remote.NameProblem, error)
	Readlink(ctx context.Context, path string) (string, error)
}

// Content is the files of a source.
type Content interface {
	// ReadFile writes the file's bytes from `from` up to want.Size to w, in order, and says what the file was afterwards.
	ReadFile(ctx context.Context, path string, want remote.Attr, from uint64, w io.Writer) (remote.Read, error)
}

// Remote is a source that has been connected to. It is used from many goroutines at once; *remote.Source is one. Errors
// are those of package remote.
type Remote interface {
	Tree
	Content
	// Now is the source's own clock, if it can be seen.
	Now(ctx context.Context) (t time.Time, known bool, err error)
	Stats() remote.Stats
	Close() error
}

// History is what a session knows of earlier runs.
type History interface {
	// Previous is the catalog of the source's newest snapshot, nil if there is none.
	Previous() *snapshot.Tree
	// Resumed is a file that an interrupted run of this session finished.
	Resumed(parent, name string) (snapshot.Entry, bool)
}

// Recorder takes entries, in any order and each once.
type Recorder interface {
	// Add records an entry without content.
	Add(ctx context.Context, e *snapshot.Entry) error
	// Reuse records e with the content of old; false, and nothing is recorded, when that content is gone.
	Reuse(ctx context.Context, e, old *snapshot.Entry) (bool, error)
	// File begins a file with content.
	File(ctx context.Context, e *snapshot.Entry) (FileWriter, error)
}

// FileWriter takes one file's content in order, from Offset on. Finish or Abort ends it; Abort after Finish does nothing.
type FileWriter interface {
	io.Writer
	Offset() uint64                // bytes that an interrupted run of the session had stored already
	Restart()                      // forget what was taken: the content starts over at 0
	Finish(e snapshot.Entry) error // records the entry; its size becomes the number of bytes taken
	Abort()
}

// Notes takes what is to be said of the snapshot.
type Notes interface {
	Problem(path, kind, reason string) // makes the snapshot partial
	Fidelity(note string)
}

// Ending ends a session, in one of three ways, once.
type Ending interface {
	Commit(ctx context.Context, s Summary) (Committed, error)
	Suspend() error // keeps what was read for the next session of the source
	Abandon() error
}

// Session is a snapshot being made. It is used from many goroutines at once until it is ended. FromVault makes one.
type Session interface {
	History
	Recorder
	Notes
	Ending
}

// Teller is a Session that tells what it has written so far; one that is none is as good, but for Progress.
type Teller interface {
	Written() (newBytes, storedBytes uint64) // content that the vault did not hold; what it takes in packs
}

// Placed is a Session that knows whether its previous snapshot was made from another address or host, and from which.
type Placed interface {
	Elsewhere() (origin string, elsewhere bool)
}

// Summary is what a pull tells the session that it commits.
type Summary struct {
	Stats    Stats
	Partial  bool
	Excludes []string
}

// Committed is a snapshot that exists, durable and locked.
type Committed struct {
	ID          string        // 64 hexadecimal digits
	Head        reliance.Head // source, times, totals
	Mode        string        // of its lock
	LockedUntil time.Time
}

// Job says what to pull. Source, Root, Connect and Begin are needed.
type Job struct {
	Source string // the source's name, for messages
	Root   string // absolute path on the source, without a slash at its end unless it is "/"

	// Connect dials the source; it is called again, with growing pauses, after the connection was lost for good.
	Connect func(ctx context.Context) (Remote, error)
	// Begin opens the session. It is called once, after the first Connect.
	Begin func(ctx context.Context) (Session, error)

	Excludes   *Excludes
	AllowEmpty bool  // commit even if the source is empty and was not before
	FullReread bool  // read every file, changed or not
	Slice      Slice // read a share of the unchanged files, another one each day

	Limits Limits
	Retry  Retry

	// Memory is what the pull may use, in bytes: for contents on their way, and for what was listed and waits. What the Remote
	// and the session take comes on top and is theirs to bound. 0 means 256 MiB; less than 64 MiB counts as that.
	Memory int64

	Walkers int // directories in flight; 0 means a quarter of the Readers beyond 384, within 16 and 512
	Readers int // files in flight; 0 means what the Remote suggests (Parallel() int), else 64

	Now   func() time.Time                                 // the vault's wall clock; nil means time.Now
	Sleep func(ctx context.Context, d time.Duration) error // nil means a timer; returns ctx's error when it ends first

	Events Events
}

// Slice is the slow cycle in which unchanged files are read again, since equal attributes do not prove equal content:
// files fall into Days shares by a keyed hash of their path, and the share of the day Day is read. Who does not know the
// key cannot tell which files are due. A file whose reading was interrupted and resumed by a later run (snapshot.Resumed)
// is due whatever the day. Days 0 means none.
type Slice struct {
	Days int
	Day  int64 // days since 1970, say
	Key  [32]byte
}

// Limits bound one pull, beside those of the connection (remote.Limits). What lies beyond is not read, and the snapshot
// is partial. Zero means no limit, but for Pending.
type Limits struct {
	Bytes    uint64        // content to read; a file that would go beyond is left out, others are still read
	Entries  uint64        // entries to list; the walk ends there
	Duration time.Duration // of the whole pull
	Pending  int           // directories kept in memory while they wait to be listed; 0 means one for each KiB of Memory. More are found again by listing their parent again
}

// Retry says how much patience a pull has. Zero fields take the values said here.
type Retry struct {
	Changed int           // how often a file that changed while it was read is read again; 3
	Strikes int           // how often one path may end the connection, or get no answer, before it is left out; 3
	Struck  int           // how many paths may be left out so before the pull is suspended; 100
	Losses  int           // how often having a lost connection again may fail before the pull is suspended; 8
	First   time.Duration // the first pause after such a failure, doubled each time; 1 s
	Max     time.Duration // the longest pause; 1 min
}

// Progress is how far a pull has come.
type Progress struct {
	Stats
	Elapsed    time.Duration
	KeptBytes  uint64 // content that did not have to be read: of unchanged files, and of what an interrupted run had read
	TotalFiles uint64 // files that there will be, as far as is known: see Walked
	TotalBytes uint64 // and their content; both 0 while nothing is known
	// Walked says that the totals are what was found. Until then they are the previous snapshot's, or more once more was found.
	Walked   bool
	NewBytes uint64 // of the content read, what the vault did not hold
	NewTold  bool   // the session tells NewBytes
}

// DoneBytes is the content that is dealt with, TotalBytes at most if that is known.
func (p Progress) DoneBytes() uint64 {
	done := p.KeptBytes + p.ReadBytes // a file that changed is read more than once
	if p.TotalBytes > 0 {
		done = min(done, p.TotalBytes)
	}
	return done
}

// Problem is a path that could not be had, or not as it should.
type Problem struct {
	Path   string // below the root, bytes as the source has them; "" is the root, or the pull as a whole
	Kind   string // one of the Problem constants
	Reason string
}

// The kinds of problems.
const (
	ProblemDenied     = "denied"     // the source does not let us read it
	ProblemUnreadable = "unreadable" // the source cannot read it, or says nonsense about it
	ProblemChanged    = "changed"    // changed each time that it was read
	ProblemName       = "name"       // a name that cannot be kept
	ProblemKind       = "kind"       // the source does not say what it is
	ProblemStalled    = "stalled"    // no answer, again and again
	ProblemLost       = "lost"       // the connection ended, again and again
	ProblemLimit      = "limit"      // beyond a limit
	ProblemVanished   = "vanished"   // the source became empty while it was read
)

// Events are told what happens. Each func may be nil. They are called from several goroutines, and must return soon.
type Events struct {
	Connected func(again bool)                    // a connection stands
	Lost      func(err error, wait time.Duration) // a connection was lost, and how long we wait
	Progress  func(Progress)                      // once a second, and at the end
	Problem   func(Problem)                       // as they are found
	Note      func(text string)                   // worth saying, and no problem; the first hundred
	Done      func(Result, error)                 // what Run returns
}

// Result is what came of a pull.
type Result struct {
	Snapshot Committed // zero unless a snapshot was committed
	Partial  bool
	Stats    Stats
	Problems []Problem // the first 1000; Stats.Problems counts all
	Began    time.Time
	Ended    time.Time
}

// Stats are a pull's figures.
type Stats struct {
	Files, FilesNew, FilesChanged, FilesUnchanged uint64 // recorded; new, changed and unchanged compared with the previous snapshot
	FilesRead, FilesResumed                       uint64 // of those: content read; finished by an interrupted run
	Directories, Symlinks, Specials               uint64 // recorded
	Excluded                                      uint64 // entries that a pattern left out
	Vanished                                      uint64 // entries that were gone before they could be read
	Racy                                          uint64 // files to be read again next time, since they were modified a moment ago
	Reread                                        uint64 // unchanged files read nevertheless
	ReadBytes                                     uint64 // content read from the source
	Requests                                      uint64 // to the source
	Losses                                        uint64 // connections lost
	Problems                                      uint64
	ProblemKinds                                  map[string]uint64 // Problems by kind
	Duration                                      time.Duration
}

// ErrEmpty says that a source is empty that was not. Nothing was committed.
var ErrEmpty = errors.New("source is empty, and its previous snapshot was not: an empty source deletes nothing, so no snapshot was " +
	"made; see whether its file system is mounted, and allow an empty source if this is meant")

// InterruptedError says that a pull ended before its snapshot was made. What it had read is kept, unless Lasting says why
// it could not be.
type InterruptedError struct {
	Source  string
	Cause   error
	Lasting error // why the session could not be kept; nil when it was
}

func (e *InterruptedError) Error() string {
	if e.Lasting != nil {
		return fmt.Sprintf("pull of %q was interrupted: %v; what it had read could not be kept: %v", e.Source, e.Cause, e.Lasting)
	}
	return fmt.Sprintf("pull of %q was interrupted: %v; what it had read is kept, and the next pull resumes there", e.Source, e.Cause)
}

func (e *InterruptedError) Unwrap() []error {
	if e.Lasting == nil {
		return []error{e.Cause}
	}
	return []error{e.Cause, e.Lasting}
}

// withDefaults checks a job and fills in what it leaves open.
func (j Job) withDefaults() (Job, error) {
	switch {
	case j.Connect == nil || j.Begin == nil:
		return j, errors.New("pull: a job needs Connect and Begin")
	case !strings.HasPrefix(j.Root, "/") || j.Root != "/" && strings.HasSuffix(j.Root, "/") || strings.IndexByte(j.Root, 0) >= 0:
		return j, fmt.Errorf("pull of %q: %q is not an absolute path without a slash at its end", j.Source, j.Root)
	}
	if j.Memory <= 0 {
		j.Memory = memoryDefault
	}
	j.Memory = min(max(j.Memory, memoryLeast), memoryMost)
	fill(&j.Limits.Pending, int(j.Memory>>10))
	fill(&j.Retry.Changed, 3)
	fill(&j.Retry.Strikes, 3)
	fill(&j.Retry.Struck, 100)
	fill(&j.Retry.Losses, 8)
	fill(&j.Retry.First, time.Second)
	fill(&j.Retry.Max, time.Minute)
	if j.Now == nil {
		j.Now = time.Now
	}
	if j.Sleep == nil {
		j.Sleep = sleep
	}
	return j, nil
}

func fill[T int | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
