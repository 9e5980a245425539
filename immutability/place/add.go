package place

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// Added tells of a place that was added.
type Added struct {
	Entry
	Guarded  bool // it has the flags that the vault has
	Known    bool // it was a place of this vault already, and is on the list now with this path
	SameDisk bool // it lies on the file system of another place, and gives no more room
}

// Add makes an empty directory a place of the vault in first, or takes one up again that is a place of this vault: after a
// mount has moved, or where the list was lost. The caller holds the vault's lock (worm.Lock) and is the user whose the vault
// is. Where the vault's root is immutable the new place gets all flags that the vault has; a file system that has none is
// refused then.
//
// On return it is durable, and whoever opens the vault from then on uses it. A power cut before leaves the list as it was or
// as it is to be; what is left in dir by an attempt that was cut is used by the next one.
func Add(first *durable.Dir, dir string) (Added, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Added{}, err
	}
	if err := checkPath(dir); err != nil {
		return Added{}, err
	}
	if err := apart(first, dir); err != nil {
		return Added{}, err
	}
	at, err := durable.OpenDir(dir)
	if err != nil {
		return Added{}, fmt.Errorf("%w; make the directory first, for the user whose the vault is and with mode 0750", err)
	}
	defer at.Close()
	info, err := at.Stat(".")
	if err != nil {
		return Added{}, err
	}
	if err := owned(at); err != nil {
		return Added{}, fmt.Errorf("%q: %w; give it to the user whose the vault is", dir, err)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return Added{}, fmt.Errorf("%q has mode %o: others may write to it; give it 0750", dir, info.Mode().Perm())
	}
	if err := sameGroup(first, at); err != nil {
		return Added{}, fmt.Errorf("%q %w", dir, err)
	}
	a, err := add(first, at, dir)
	if err != nil {
		return a, fmt.Errorf("place %q: %w", dir, err)
	}
	a.SameDisk = sameDisk(first, dir, a.Number)
	return a, nil
}

// sameGroup refuses a directory that those who read the vault could not enter: once it is immutable nobody but root changes that.
func sameGroup(first, at durable.Disk) error {
	vault, err := first.Stat(packsDir)
	if err != nil {
		return err
	}
	info, err := at.Stat(".")
	if err != nil {
		return err
	}
	have, ok := info.Sys().(*syscall.Stat_t)
	want, is := vault.Sys().(*syscall.Stat_t)
	if ok && is && vault.Mode().Perm()&0o070 != 0 && have.Gid != want.Gid {
		return fmt.Errorf("is of group %d, and the vault of group %d, which reads it: give the directory to that group (chgrp %d)", have.Gid, want.Gid, want.Gid)
	}
	return nil
}

// apart refuses a directory that lies in another place, or another in it.
func apart(first *durable.Dir, dir string) error {
	list, err := Read(first)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unread(err)
	}
	others := []string{first.Path()}
	for _, e := range list.Places {
		if e.Path != dir {
			others = append(others, e.Path)
		}
	}
	for _, other := range others {
		if within(dir, other) || within(other, dir) {
			return fmt.Errorf("%q and %q lie in one another: a place is a directory of its own, on a disk of its own", dir, other)
		}
	}
	return nil
}

// unread says what to do about a list that cannot be read.
func unread(err error) error {
	return fmt.Errorf("%w; take it away (as root, with chattr -i of the vault's directory for as long as it takes, under a keeper), and add every place again", err)
}

// within says whether a directory is another one or lies below it, by name or through links.
func within(dir, root string) bool {
	real := func(p string) string {
		if r, err := filepath.EvalSymlinks(p); err == nil {
			p = r
		}
		if abs, err := filepath.Abs(p); err == nil {
			p = abs
		}
		return p
	}
	rel, err := filepath.Rel(real(root), real(dir))
	return err == nil && filepath.IsLocal(rel)
}

// sameDisk says whether a directory lies on the file system of another place.
func sameDisk(first *durable.Dir, dir string, number int) bool {
	list, _ := Read(first)
	others := []string{first.Path()}
	for _, e := range list.Places {
		if e.Number != number {
			others = append(others, e.Path)
		}
	}
	mine, err := deviceOf(dir)
	return err == nil && slices.ContainsFunc(others, func(o string) bool {
		other, err := deviceOf(o)
		return err == nil && other == mine
	})
}

// add does all of Add on any disks.
func add(first, at durable.GuardedDisk, path string) (Added, error) {
	vault, err := vaultOf(first)
	if err != nil {
		return Added{}, err
	}
	list, err := Read(first)
	if errors.Is(err, fs.ErrNotExist) {
		list = List{Vault: vault}
	} else if err != nil {
		return Added{}, unread(err)
	}
	if list.Vault != vault {
		return Added{}, fmt.Errorf("%s is of vault %s, and this is vault %s", ListFile, list.Vault, vault)
	}
	a, err := list.admit(at, path)
	if err != nil {
		return Added{}, err
	}
	if a.Guarded, err = guarded(first); err != nil {
		return Added{}, err
	}
	info, err := first.Stat(packsDir)
	if err != nil {
		return Added{}, err
	}
	if err := furnish(at, Marker{format, vault, a.Number, a.ID}, info.Mode().Perm(), a.Guarded); err != nil {
		return Added{}, err
	}
	// Power fails here: a place that no list names. Nothing lies in it, and adding it again goes on from here.
	return a, list.put(first, a, info.Mode().Perm()&^0o111)
}

// admit says what a directory becomes: a new place, or one that it was before.
func (l List) admit(at durable.Disk, path string) (Added, error) {
	m, err := readMarker(at)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := empty(at); err != nil {
			return Added{}, err
		}
		return l.fresh(path)
	case err != nil:
		return Added{}, err
	case m.Vault != l.Vault:
		return Added{}, fmt.Errorf("it is place %d of vault %s already, and this is vault %s", m.Number, m.Vault, l.Vault)
	}
	if i := l.at(m.Number); i >= 0 && l.Places[i].ID != m.ID {
		return Added{}, fmt.Errorf("it says that it is place %d, which is another directory (%q): it is from a copy of this vault", m.Number, l.Places[i].Path)
	}
	return Added{Entry: Entry{m.Number, m.ID, path}, Known: true}, nil
}

func (l List) fresh(path string) (Added, error) {
	number := 2
	for _, e := range l.Places {
		if e.Path == path {
			return Added{}, fmt.Errorf("it is place %d, and holds nothing of it: its disk is not mounted there", e.Number)
		}
		number = e.Number + 1
	}
	if number > Max {
		return Added{}, fmt.Errorf("the vault has %d places, and no more than that", Max)
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	return Added{Entry: Entry{number, hex.EncodeToString(id[:]), path}}, nil
}

// empty refuses a directory in which something lies that a cut attempt did not leave.
func empty(at durable.Disk) error {
	entries, err := at.ReadDir(".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch e.Name() {
		case "lost+found", MarkerFile + ".tmp":
			continue
		case packsDir, incomingDir:
			if !e.IsDir() {
				break
			}
			in, err := at.ReadDir(e.Name())
			if err != nil {
				return err
			}
			if len(in) == 0 {
				continue
			}
		}
		return fmt.Errorf("it is not empty (it holds %q), and no place of this vault: give an empty directory; nothing was changed", e.Name())
	}
	return nil
}

// guarded says whether the vault's files have flags. The root may be without its own after a cut.
func guarded(first durable.GuardedDisk) (bool, error) {
	root, err := first.Flags(".")
	if errors.Is(err, errors.ErrUnsupported) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	packs, err := first.Flags(packsDir)
	return (root | packs) != 0, err
}

// furnish puts into a place what belongs there, durably, with the permissions that the vault's directories have. Each step
// may have been done before.
func furnish(at durable.GuardedDisk, m Marker, perm fs.FileMode, guard bool) error {
	if guard {
		// Before anything is made: a file system without flags takes no part in a vault that has them.
		if _, err := at.Flags("."); err != nil {
			return fmt.Errorf("the vault's files are immutable, and here they could not be: %w", err)
		}
	}
	if info, err := at.Stat("."); err != nil {
		return err
	} else if info.Mode().Perm() != perm {
		if err := at.Chmod(".", perm); err != nil {
			return err
		}
	}
	for _, dir := range []string{packsDir, incomingDir} {
		if err := durable.MkdirAll(at, dir, perm); err != nil {
			return err
		}
	}
	b, err := m.Encode()
	if err != nil {
		return err
	}
	// Power fails here: empty directories.
	if err := durable.WriteNew(at, MarkerFile, b, perm&^0o111); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if !guard {
		return nil
	}
	// Power fails here: a place without its flags, or with some of them; the start of whoever writes sets the rest.
	for _, x := range []struct {
		dir  string
		flag durable.Flags
	}{{packsDir, durable.AppendOnly}, {".", durable.Immutable}} {
		if err := at.SetFlags(x.dir, x.flag, 0); err != nil {
			return fmt.Errorf("the vault's files are immutable, and here they cannot be: %w", err)
		}
		if err := at.SyncDir(x.dir); err != nil {
			return err
		}
	}
	return nil
}

// put writes the list with a place on it: from then on it is one.
func (l List) put(first durable.GuardedDisk, a Added, perm fs.FileMode) error {
	if i := l.at(a.Number); i >= 0 {
		if l.Places[i] == a.Entry && !a.Guarded {
			return first.SyncDir(".")
		}
		l.Places[i] = a.Entry
	} else {
		l.Places = append(l.Places, a.Entry)
	}
	slices.SortFunc(l.Places, func(a, b Entry) int { return a.Number - b.Number })
	b, err := l.Encode()
	if err != nil {
		return err
	}
	if a.Guarded {
		err = durable.ReplaceGuarded(first, incomingDir+"/"+ListFile+".tmp", ListFile, b, perm)
	} else {
		err = durable.Replace(first, ListFile, b, perm)
	}
	if durable.IsNoSpace(err) {
		return fmt.Errorf("%w: the list of places is a few hundred bytes in the vault's own directory, and not even they have room: as root, truncate -s 0 the vault's incoming/*.pack, which no snapshot needs (docs/OPERATIONS.md)", err)
	}
	return err
}

// ParseAt reads what --place is given: N=DIR.
func ParseAt(words []string) (map[int]string, error) {
	at := map[int]string{}
	for _, w := range words {
		number, dir, ok := strings.Cut(w, "=")
		var n int
		if _, err := fmt.Sscanf(number, "%d", &n); !ok || err != nil || fmt.Sprint(n) != number || n < 2 || n > Max {
			return nil, fmt.Errorf("--place %q is not of the form N=DIR, N from 2 to %d", w, Max)
		}
		if at[n] != "" {
			return nil, fmt.Errorf("--place %d is given twice", n)
		}
		abs, err := filepath.Abs(dir)
		if err != nil {
			return nil, err
		}
		if err := checkPath(abs); err != nil {
			return nil, fmt.Errorf("--place %d: %w", n, err)
		}
		at[n] = abs
	}
	return at, nil
}

// deviceOf gives the number of the file system that a directory lies on.
func deviceOf(dir string) (uint64, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return 0, err
	}
	return device(info)
}
