package crashdisk

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

var _ durable.GuardedDisk = (*Disk)(nil)

// Flags are kept like names: in force at once, on the medium after a sync of the file or a SyncDir of the directory itself.
// Crueler than any one file system: a file that was open for writing before it became immutable still takes writes, as on
// XFS. Kinder: mappings do not exist, and a process that dies with files open is only seen to be dead after Restart.

var (
	errFlagged = syscall.EPERM
	errHeld    = errors.New("it is held to be made final, and takes no more bytes")
)

// mayGain tells whether a directory may get a new name.
func (n *inode) mayGain() error {
	if n.flags&durable.Immutable != 0 {
		return errFlagged
	}
	return nil
}

// mayMove tells whether a file or directory may get or lose a name.
func (n *inode) mayMove() error {
	if n.flags != 0 {
		return errFlagged
	}
	return nil
}

// mayLose tells whether a directory may lose the name of a file or directory in it.
func (n *inode) mayLose(victim *inode) error {
	if n.flags != 0 {
		return errFlagged
	}
	return victim.mayMove()
}

// flaggedRename tells whether flags forbid a rename; replaced is nil for none.
func flaggedRename(from, to, n, replaced *inode) error {
	if err := from.mayLose(n); err != nil {
		return err
	}
	if replaced != nil {
		return to.mayLose(replaced)
	}
	return to.mayGain()
}

func (n *inode) setFlags(f durable.Flags) {
	n.flags = f
	n.changed = append(n.changed, f)
}

func (n *inode) syncFlags() {
	n.mediumFlags, n.changed = n.flags, nil
}

// Hold implements durable.Guard.
func (d *Disk) Hold(name string) (durable.Held, error) {
	if name == "." {
		return nil, &fs.PathError{Op: "hold", Path: name, Err: fs.ErrInvalid}
	}
	f, err := d.open(name, false)
	if err != nil {
		return nil, err
	}
	return &held{file: f}, nil
}

// Flags implements durable.Guard.
func (d *Disk) Flags(name string) (durable.Flags, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.alive("flags", name); err != nil {
		return 0, err
	}
	n, err := d.lookup("flags", name)
	if err != nil {
		return 0, err
	}
	return n.flags, nil
}

// SetFlags implements durable.Guard. It is an operation where flags change.
func (d *Disk) SetFlags(name string, set, lift durable.Flags) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.alive("flags", name); err != nil {
		return err
	}
	n, err := d.lookup("flags", name)
	if err != nil {
		return err
	}
	return d.changeFlags(n, name, set, lift)
}

// Chmod implements durable.Guard. It is an operation where the permissions change, and durable at once: nothing that is
// promised depends on them.
func (d *Disk) Chmod(name string, perm fs.FileMode) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.alive("chmod", name); err != nil {
		return err
	}
	n, err := d.lookup("chmod", name)
	if err != nil {
		return err
	}
	if n.flags != 0 {
		return &fs.PathError{Op: "chmod", Path: name, Err: errFlagged}
	}
	if n.perm == perm.Perm() {
		return nil
	}
	_, err = d.run(operation{
		kind: frees, verb: "chmod", name: name, text: fmt.Sprintf("chmod %s %o", name, perm.Perm()),
		do: func() { n.perm = perm.Perm() },
	})
	return err
}

// changeFlags counts and does the operation. d.mu is held.
func (d *Disk) changeFlags(n *inode, name string, set, lift durable.Flags) error {
	wanted := n.flags&^lift | set
	if wanted == n.flags {
		return nil
	}
	if n.flags&wanted&durable.Immutable != 0 {
		return &fs.PathError{Op: "flags", Path: name, Err: errFlagged}
	}
	text := "flags " + name
	if less := n.flags &^ wanted; less != 0 {
		text += " -" + less.String()
	}
	if more := wanted &^ n.flags; more != 0 {
		text += " +" + more.String()
	}
	_, err := d.run(operation{
		kind: frees, verb: "flags", name: name, text: text,
		do: func() { n.setFlags(wanted) },
	})
	return err
}

// held is a file that is being made final.
type held struct{ *file }

func (h *held) Write([]byte) (int, error) {
	return 0, &fs.PathError{Op: "write", Path: h.name, Err: errHeld}
}

// Lease implements durable.Held.
func (h *held) Lease() error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if err := h.ready("lease"); err != nil {
		return err
	}
	if h.n.writers > 0 {
		return &fs.PathError{Op: "lease", Path: h.name, Err: durable.ErrWriter}
	}
	h.n.lease = h
	return nil
}

// Leased implements durable.Held.
func (h *held) Leased() (bool, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if err := h.ready("lease"); err != nil {
		return false, err
	}
	return h.n.lease == h, nil
}

// SetFlags implements durable.Held.
func (h *held) SetFlags(set, lift durable.Flags) error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if err := h.ready("flags"); err != nil {
		return err
	}
	return h.d.changeFlags(h.n, h.name, set, lift)
}

// Is implements durable.Held.
func (h *held) Is(name string) (bool, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if err := h.ready("stat"); err != nil {
		return false, err
	}
	n, err := h.d.lookup("stat", name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return n == h.n, nil
}

// Close gives the lease back.
func (h *held) Close() error {
	h.d.mu.Lock()
	if h.n.lease == h {
		h.n.lease = nil
	}
	h.d.mu.Unlock()
	return h.file.Close()
}
