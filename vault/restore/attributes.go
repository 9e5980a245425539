package restore

import (
	"errors"
	"fmt"
	"math"

	"golang.org/x/sys/unix"

	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// setID are the bits that make a program run with its owner's rights.
const setID = unix.S_ISUID | unix.S_ISGID

// place is where something restored stands: by name in an open directory, and by its own descriptor when it has one (else
// -1). name is "" when dirfd itself is meant.
type place struct {
	dirfd int
	name  string
	fd    int
	given *owner // that it has already, nil when that is not known
}

type owner struct{ uid, gid uint32 }

// attributes gives what stands at p the recorded owner, mtime and mode. Owner before mode, since a change of owner clears
// set-id bits; mode last, since a directory that may not be searched cannot be reached any more.
func (d *directory) attributes(path string, e *snapshot.Entry, p place) error {
	owned := false
	if d.o.Owner {
		var err error
		if owned, err = d.own(p, e); err != nil {
			return doing("owner", err)
		}
		if !owned {
			d.mu.Lock()
			d.unowned++
			d.mu.Unlock()
		}
	}
	if err := setTime(p, e.MTime); err != nil {
		return doing("mtime", err)
	}
	if e.Kind != snapshot.Symlink { // a link has no mode of its own
		mode := e.Mode & snapshot.MaxMode
		if mode&setID != 0 && !owned {
			// With another owner the bits would lend somebody's rights who never agreed to it.
			mode &^= setID
			d.note(path, fmt.Sprintf("set-id bits of mode %04o were left out, since the recorded owner is not set", e.Mode))
		}
		if err := chmod(p, mode); err != nil {
			return doing("mode", err)
		}
	}
	return nil
}

// own sets uid and gid; it answers false when the system does not permit that.
func (d *directory) own(p place, e *snapshot.Entry) (bool, error) {
	if e.UID == math.MaxUint32 || e.GID == math.MaxUint32 {
		return false, nil // the system's word for "leave it as it is"
	}
	if p.given != nil && *p.given == (owner{e.UID, e.GID}) {
		return true, nil
	}
	err := again(func() error {
		return unix.Fchownat(p.dirfd, p.name, int(e.UID), int(e.GID), unix.AT_SYMLINK_NOFOLLOW|p.empty())
	})
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP):
		// EINVAL: an id that this user namespace does not have.
		return false, nil
	}
	return false, err
}

func (p place) empty() int {
	if p.name == "" {
		return unix.AT_EMPTY_PATH
	}
	return 0
}

// chmod works on the descriptor where there is one. A fifo has none, since opening one can wait for ever; it was made a
// moment ago under a name that nobody else knows, in a directory that is not followed into.
func chmod(p place, mode uint32) error {
	return again(func() error {
		if p.fd >= 0 {
			return unix.Fchmod(p.fd, mode)
		}
		return unix.Fchmodat(p.dirfd, p.name, mode, 0)
	})
}

func setTime(p place, seconds int64) error {
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: seconds}}
	return again(func() error {
		if p.name == "" {
			return unix.UtimesNanoAt(p.dirfd, ".", times, 0)
		}
		return unix.UtimesNanoAt(p.dirfd, p.name, times, unix.AT_SYMLINK_NOFOLLOW)
	})
}
