package index

import (
	"os"
	"runtime/debug"
	"syscall"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"golang.org/x/sys/unix"
)

// openBadger opens Badger with settings that hold 10 million chunks in about 124 MiB. Tables are not verified by
// Badger when they are read: there it would panic in goroutines of its own; inspect and Verify do it instead.
func openBadger(path string, o Options) (db *badger.DB, err error) {
	err = guard("open", func() error {
		db, err = badger.Open(badgerOptions(path, o))
		return err
	})
	return db, err
}

func badgerOptions(path string, o Options) badger.Options {
	b := badger.DefaultOptions(path)
	b.SyncWrites = true
	b.Compression = options.None
	b.BlockCacheSize = 0
	b.IndexCacheSize = 0
	b.MemTableSize = min(max(o.MemoryBytes/2, 1<<20), 64<<20)
	b.NumMemtables = 2
	b.NumCompactors = 2
	b.ValueLogFileSize = 1 << 20 // no value is large enough for it; it is mapped twice as large, and grown and cut at every opening
	b.ValueThreshold = 1 << 10
	b.ChecksumVerificationMode = options.NoVerification
	b.DetectConflicts = false
	b.MetricsEnabled = false
	b.Logger = logger{o.Logf}
	return b
}

// logger passes on what Badger says when something is wrong, and nothing else.
type logger struct {
	logf func(format string, args ...any)
}

func (l logger) Errorf(format string, args ...any)   { l.logf("badger: "+format, args...) }
func (l logger) Warningf(format string, args ...any) { l.logf("badger: "+format, args...) }
func (l logger) Infof(string, ...any)                {}
func (l logger) Debugf(string, ...any)               {}

// panicOnFault makes a memory map that cannot be read (a bad sector, a file cut short) a panic of this goroutine
// instead of the end of the process.
func panicOnFault() (restore func()) {
	old := debug.SetPanicOnFault(true)
	return func() { debug.SetPanicOnFault(old) }
}

// freeBytes is the room that an ordinary user has left on the file system of dir.
func freeBytes(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(s.Bavail) * int64(s.Bsize), nil
}

// dirLock is the exclusive right to an index directory. The kernel takes it back when the process ends.
type dirLock struct{ f *os.File }

func lockDir(dir string) (*dirLock, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if err == syscall.EWOULDBLOCK {
			return nil, ErrInUse
		}
		return nil, &os.PathError{Op: "lock", Path: dir, Err: err}
	}
	return &dirLock{f}, nil
}

func (l *dirLock) close() error { return l.f.Close() }
