package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// ErrWriter is in the chain of an error that says that somebody still has a file open for writing, or has it mapped so.
var ErrWriter = errors.New("it is still open for writing somewhere")

// Flags are what a file system refuses to do to a file or a directory, whoever asks, its owner and root included, until
// they are lifted. Lifting them needs a capability of its own (CAP_LINUX_IMMUTABLE).
type Flags uint8

// The flags, as chattr calls them.
const (
	// Immutable is +i. A file gets no new name, loses none, and cannot be opened for writing; a directory's names stay as
	// they are. A descriptor that was open for writing before may still write, on some file systems: see Held.Lease.
	Immutable Flags = 1 << iota
	// AppendOnly is +a. A file can only grow, and neither gets nor loses a name; a directory takes new names and loses none.
	AppendOnly
)

func (f Flags) String() string {
	var s []string
	for _, one := range []struct {
		flag Flags
		name string
	}{{Immutable, "i"}, {AppendOnly, "a"}} {
		if f&one.flag != 0 {
			s = append(s, one.name)
		}
	}
	return strings.Join(s, "")
}

// Held is a file that is open for reading, through which it is made final. It must have been opened before the last of its
// writing was synced by anybody else: the kernel tells each open file of a failed write once, and one opened later may
// never hear of it. Write fails always. It is used by one goroutine at a time.
type Held interface {
	File
	// Lease returns nil once nobody, in any process, has the file open for writing or mapped as writable and shared. From
	// then on, until Close, whoever tries to open it for writing waits until the kernel takes the lease away, and Leased
	// tells. Somebody having it open is ErrWriter and changes nothing. Only the file's owner may ask.
	Lease() error
	// Leased tells whether the lease has held without a break until now.
	Leased() (bool, error)
	// SetFlags sets and lifts flags; the others stay. It is durable after Sync.
	SetFlags(set, lift Flags) error
	// Is tells whether a name stands for this very file.
	Is(name string) (bool, error)
}

// Guard is what a Disk offers besides where its file system has flags and leases. A file system that has none answers
// errors.ErrUnsupported, and one that has them, to a process that may not set them, fs.ErrPermission. What a flag refuses
// is fs.ErrPermission.
type Guard interface {
	// Hold opens an existing file in order to make it final.
	Hold(name string) (Held, error)
	// Flags tells the flags of a file or directory as they are now, durable or not.
	Flags(name string) (Flags, error)
	// SetFlags sets and lifts flags of a file or directory; the others stay. It is durable after a sync of the file, or
	// after SyncDir of the directory itself. What is immutable, and is to stay so, keeps its other flag too.
	SetFlags(name string, set, lift Flags) error
	// Chmod gives a file or directory that has no flags the permissions perm; one that has some is fs.ErrPermission. It is
	// durable as a flag is.
	Chmod(name string, perm fs.FileMode) error
}

// GuardedDisk is a Disk with a Guard.
type GuardedDisk interface {
	Disk
	Guard
}

// PublishHeld gives a finished file its name for good, as Publish does, and makes it immutable. The caller holds the lease
// of h, has synced h after getting it, and h was opened as from. to's directory may be append-only; from's may not, since
// a file cannot lose a name once it is immutable.
//
// An existing to is fs.ErrExist, and nothing has changed, except that the existing name is durable. After nil the file has
// the name to alone and is immutable, both durably, and since the lease was granted nobody could write to it. After any
// other error it is open how much of that is done; after ErrWriter all of it is, and somebody may have written.
func PublishHeld(d GuardedDisk, h Held, from, to string) error {
	// Power fails here: from alone, as before.
	if err := d.Link(from, to); err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = settled(d, to, err)
		}
		return fmt.Errorf("publish %s: %w", to, err)
	}
	if same, err := h.Is(to); err != nil {
		return fmt.Errorf("publish %s: %w", to, err)
	} else if !same {
		return fmt.Errorf("publish %s: %s is not the file that was read: its name was changed by somebody else", to, from)
	}
	// Power fails here: from, and perhaps to; both name the same finished bytes.
	if err := d.SyncDir(path.Dir(to)); err != nil {
		return fmt.Errorf("publish %s: %w", to, err)
	}
	// Published. Power fails here: to, and from as well.
	if err := Remove(d, from); err != nil {
		return fmt.Errorf("publish %s: it is published, but its old name is left over: %w", to, err)
	}
	// Power fails here: to alone, and anybody who may write to it can.
	if err := h.SetFlags(Immutable, 0); err != nil {
		return fmt.Errorf("publish %s: it is published and not immutable: %w", to, err)
	}
	// Power fails here: the same, or immutable already.
	if err := h.Sync(); err != nil {
		return fmt.Errorf("publish %s: it is published, and may not be immutable after a power cut: %w", to, err)
	}
	// Final, unless somebody came in between: opening for writing breaks the lease first.
	held, err := h.Leased()
	if err == nil && !held {
		err = fmt.Errorf("%w: the lease was broken while it was published", ErrWriter)
	}
	if err != nil {
		return fmt.Errorf("publish %s: %w", to, err)
	}
	return nil
}

// RemoveFinal takes files away that PublishHeld made, durably, from a directory that is append-only and is so again
// afterwards. All names must be in that directory; one that is absent counts as removed. A power cut or an error leaves
// some of the names, the files behind them perhaps without their flags, and the directory perhaps without its own: whoever
// starts sets flags before anything else, and calls again.
func RemoveFinal(d GuardedDisk, dir string, names []string) error {
	for _, name := range names {
		if path.Dir(name) != path.Clean(dir) {
			return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrInvalid}
		}
	}
	if s, ok := d.(*Span); ok {
		return s.removeFinal(dir, names)
	}
	if err := d.SetFlags(dir, 0, AppendOnly); err != nil {
		return err
	}
	// Power fails here: the directory may have lost its flag, and no name.
	err := removeFlagged(d, names)
	// The flag comes back in any case, and before the sync, which makes both durable.
	err = errors.Join(err, setAgain(d, dir, AppendOnly))
	// Power fails here: any of the names may be back.
	return errors.Join(err, d.SyncDir(dir))
}

// setAgain gives a directory the flag back that was lifted for a moment. It tries twice: what kept the first from it may be of
// the moment, such as no room for the change, and without the flag the directory stays open until the next start.
func setAgain(d GuardedDisk, dir string, flag Flags) error {
	err := d.SetFlags(dir, flag, 0)
	if err != nil && d.SetFlags(dir, flag, 0) == nil {
		return nil
	}
	return err
}

func removeFlagged(d GuardedDisk, names []string) error {
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		err := d.SetFlags(name, 0, Immutable|AppendOnly)
		if err == nil {
			err = d.Remove(name)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
