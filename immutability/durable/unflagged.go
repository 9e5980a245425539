package durable

import "errors"

// WithoutFlags is a disk for a file system that has no flags, or for a process that may not set them: everything else of a
// guarded disk is as it was, modes and leases above all, and who is neither the files' owner nor root can still do nothing
// to them. SetFlags changes nothing and succeeds. Flags answers by the mode: what the group may read was made to stay as it
// is, and what it may not was not yet. A lease that the file system does not have counts as granted.
//
// Who uses it must not promise what flags promise: the files' own user can do anything to them.
func WithoutFlags(d GuardedDisk) GuardedDisk { return unflagged{d} }

type unflagged struct{ GuardedDisk }

// Flags implements Guard.
func (u unflagged) Flags(name string) (Flags, error) {
	info, err := u.Stat(name)
	if err != nil || info.Mode().Perm()&0o040 == 0 {
		return 0, err
	}
	return Immutable | AppendOnly, nil
}

// SetFlags implements Guard.
func (u unflagged) SetFlags(name string, _, _ Flags) error {
	_, err := u.Stat(name)
	return err
}

// Hold implements Guard.
func (u unflagged) Hold(name string) (Held, error) {
	h, err := u.GuardedDisk.Hold(name)
	if err != nil {
		return nil, err
	}
	return &unflaggedHeld{Held: h}, nil
}

// Free implements what a Disk may offer besides.
func (u unflagged) Free() (int64, error) {
	if r, ok := u.GuardedDisk.(interface{ Free() (int64, error) }); ok {
		return r.Free()
	}
	return 0, errors.ErrUnsupported
}

// Room implements what a Disk may offer besides.
func (u unflagged) Room() (free, total int64, err error) {
	if r, ok := u.GuardedDisk.(interface {
		Room() (free, total int64, err error)
	}); ok {
		return r.Room()
	}
	return 0, 0, errors.ErrUnsupported
}

// Places implements what a Span offers besides; none where the disk is no Span.
func (u unflagged) Places() []Place {
	if s, ok := u.GuardedDisk.(*Span); ok {
		return s.Places()
	}
	return nil
}

type unflaggedHeld struct {
	Held
	none bool // there are no leases
}

// SetFlags implements Held.
func (h *unflaggedHeld) SetFlags(Flags, Flags) error { return nil }

// Lease implements Held.
func (h *unflaggedHeld) Lease() error {
	err := h.Held.Lease()
	if errors.Is(err, errors.ErrUnsupported) {
		h.none, err = true, nil
	}
	return err
}

// Leased implements Held.
func (h *unflaggedHeld) Leased() (bool, error) {
	if h.none {
		return true, nil
	}
	return h.Held.Leased()
}
