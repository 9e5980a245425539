package place

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// The directories that are in every place, and the suffix of what may lie in any of them; immutability/worm gives the names.
const (
	packsDir    = "packs"
	incomingDir = "incoming"
	packSuffix  = ".pack"

	identityFile = "vault.json"
)

// Options for Open.
type Options struct {
	// All has every place be there: for whoever writes, or has somebody write. Else those that are away are left out, and
	// Home.Away tells of them.
	All bool
	// Mine has every place belong to this process's user.
	Mine bool
	// At says where a place is, by its number, in place of what the list says: after a mount has moved. A number that the list
	// does not have, as where the list is lost, is looked for there too.
	At map[int]string
}

// Home is what a vault lies on.
type Home struct {
	// Disk is the vault's directory, or all its places as one.
	Disk durable.GuardedDisk
	// First is the vault's directory.
	First *durable.Dir
	// Damage is why the list of places could not be read, nil where it could or there is none.
	Damage error

	places []durable.Place
	list   List // as it was when it was read
}

// Open opens the further places of the vault in first, which is the Home's from then on; where Open fails it stays the
// caller's.
func Open(first *durable.Dir, o Options) (*Home, error) {
	h := &Home{Disk: first, First: first, places: []durable.Place{{Number: 1, Path: first.Path(), Disk: first}}}
	list, err := Read(first)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil && o.All:
		return nil, fmt.Errorf("%w; which further places the vault has is not known, and nothing is written before it is: docs/PLACES.md says how the list is made anew", err)
	case err != nil:
		h.Damage = err
	}
	h.list = list
	for _, e := range list.with(o.At) {
		p, err := h.open(e, list.Vault, o)
		if err != nil {
			return nil, errors.Join(err, h.closeFurther())
		}
		h.places = append(h.places, p)
	}
	if h.Damage != nil {
		h.places = append(h.places, durable.Place{Number: Max + 1, Path: "?", Away: h.Damage})
	}
	if len(h.places) == 1 {
		return h, nil
	}
	span, err := durable.NewSpan(h.places, durable.SpanOptions{Sealed: packsDir, Growing: incomingDir, Suffix: packSuffix, ReadOnly: !o.All})
	if err != nil {
		return nil, errors.Join(err, h.closeFurther())
	}
	h.Disk = span
	return h, nil
}

// OpenDir is Open of a directory by its name.
func OpenDir(dir string, o Options) (*Home, error) {
	first, err := durable.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	h, err := Open(first, o)
	if err != nil {
		return nil, errors.Join(err, first.Close())
	}
	return h, nil
}

// Read gives the list of the further places of a vault. None is fs.ErrNotExist.
func Read(first durable.Disk) (List, error) {
	b, err := durable.ReadFile(first, ListFile, sizeMax)
	if err != nil {
		return List{}, err
	}
	return ParseList(b)
}

// with gives the entries, with their paths as somebody says they are.
func (l List) with(at map[int]string) []Entry {
	all := slices.Clone(l.Places)
	for _, n := range slices.Sorted(maps.Keys(at)) {
		path := at[n]
		if i := l.at(n); i >= 0 {
			all[i].Path = path
		} else {
			all = append(all, Entry{Number: n, Path: path})
		}
	}
	slices.SortFunc(all, func(a, b Entry) int { return a.Number - b.Number })
	return all
}

// open opens one place.
func (h *Home) open(e Entry, vault string, o Options) (durable.Place, error) {
	p := durable.Place{Number: e.Number, Path: e.Path}
	d, err := h.reach(e, vault)
	if err == nil && o.Mine {
		if err = owned(d); err != nil {
			return p, errors.Join(fmt.Errorf("%v: %w", &p, err), d.Close())
		}
	}
	if err == nil {
		p.Disk = d
		return p, nil
	}
	if o.All {
		return p, fmt.Errorf("%v of the vault: %w: %w. Nothing is written while a part of the vault is away: mount it there and try again (in a unit: RequiresMountsFor=, and BindPaths= or BindReadOnlyPaths=), or say where it is now with --place %d=DIR",
			&p, durable.ErrAway, err, e.Number)
	}
	p.Away = err
	return p, nil
}

// reach opens the directory of a place and makes sure that it is the one.
func (h *Home) reach(e Entry, vault string) (*durable.Dir, error) {
	if err := checkPath(e.Path); err != nil {
		return nil, err
	}
	d, err := durable.OpenDir(e.Path)
	if err != nil {
		return nil, err
	}
	if err := h.isPlace(d, e, vault); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (h *Home) isPlace(d durable.Disk, e Entry, vault string) error {
	m, err := readMarker(d)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no %s in it: its disk is not mounted there", MarkerFile)
	}
	if err != nil {
		return err
	}
	if e.ID == "" { // the list does not have it: the vault's own identity must do
		if vault, err = vaultOf(h.First); err != nil {
			return err
		}
		e.ID = m.ID
	}
	if m.Vault != vault || m.Number != e.Number || m.ID != e.ID {
		return fmt.Errorf("it is place %d, %s, of vault %s, and not place %d, %s, of vault %s: another disk is mounted there", m.Number, m.ID, m.Vault, e.Number, e.ID, vault)
	}
	return nil
}

func readMarker(d durable.Disk) (Marker, error) {
	b, err := durable.ReadFile(d, MarkerFile, sizeMax)
	if err != nil {
		return Marker{}, err
	}
	return ParseMarker(b)
}

// vaultOf reads the vault's ID from its open identity.
func vaultOf(first durable.Disk) (string, error) {
	b, err := durable.ReadFile(first, identityFile, sizeMax)
	if err != nil {
		return "", err
	}
	var id struct {
		Vault string `json:"vault"`
	}
	if err := json.Unmarshal(b, &id); err != nil || !isHex(id.Vault) {
		return "", fmt.Errorf("%s does not name a vault", identityFile)
	}
	return id.Vault, nil
}

// owned refuses a place of another user: what this process makes in it he could not use.
func owned(d durable.Disk) error {
	for _, name := range []string{".", packsDir, incomingDir} {
		info, err := d.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() && (name != "." || st.Uid != 0) {
			return fmt.Errorf("%s in it belongs to user %d, and this process is of user %d", name, st.Uid, os.Geteuid())
		}
	}
	return nil
}

// Share lets the group read the list and the markers, and enter the further places, as it may the rest of a vault that a
// keeper keeps: a vault that had none before let nobody. What has flags was shared before it got them.
func (h *Home) Share() error {
	share := func(d durable.GuardedDisk, name string, perm fs.FileMode) error {
		info, err := d.Stat(name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode().Perm()&0o040 != 0 {
			return nil
		}
		if err != nil {
			return err
		}
		return d.Chmod(name, perm)
	}
	errs := []error{share(h.First, ListFile, 0o640)}
	for _, p := range h.places[1:] {
		if p.Disk == nil {
			continue
		}
		for _, dir := range []string{packsDir, incomingDir, "."} {
			errs = append(errs, share(p.Disk, dir, 0o750))
		}
		errs = append(errs, share(p.Disk, MarkerFile, 0o640))
	}
	return errors.Join(errs...)
}

// ErrOutdated is in the chain of the error of Unchanged.
var ErrOutdated = errors.New("the vault has got another place since this process opened it: start it anew (systemctl restart holdfast)")

// Unchanged makes sure that the places on the vault's list are still those that were opened: in one that was added since,
// packs may lie that would seem to be missing.
func (h *Home) Unchanged() error {
	list, err := Read(h.First)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return err
	}
	if list.Vault != h.list.Vault || !slices.Equal(list.Places, h.list.Places) {
		return ErrOutdated
	}
	return nil
}

// Places tells of all places, the vault's directory first.
func (h *Home) Places() []durable.Place { return slices.Clone(h.places) }

// Away gives the places that cannot be reached.
func (h *Home) Away() (away []durable.Place) {
	for _, p := range h.places {
		if p.Disk == nil {
			away = append(away, p)
		}
	}
	return away
}

// Close closes all places.
func (h *Home) Close() error { return errors.Join(h.closeFurther(), h.First.Close()) }

func (h *Home) closeFurther() error {
	var errs []error
	for _, p := range h.places[1:] {
		if d, ok := p.Disk.(*durable.Dir); ok {
			errs = append(errs, d.Close())
		}
	}
	return errors.Join(errs...)
}

// Row is a place as people are told of it.
type Row struct {
	Number      int
	Path        string
	Away        error // nothing else is known then
	Packs       int
	Bytes       int64 // of the packs
	Free, Total int64 // of the file system, in bytes
}

// Survey counts what lies in each place.
func (h *Home) Survey() ([]Row, error) {
	rows := make([]Row, 0, len(h.places))
	for _, p := range h.places {
		row := Row{Number: p.Number, Path: p.Path, Away: p.Away}
		d, ok := p.Disk.(*durable.Dir)
		if !ok {
			rows = append(rows, row)
			continue
		}
		if err := row.count(d); err != nil {
			return rows, fmt.Errorf("%v: %w", &p, err)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// Room is Survey without packs: it asks the file systems alone. A place that cannot be asked is away.
func (h *Home) Room() []Row {
	rows := make([]Row, 0, len(h.places))
	for _, p := range h.places {
		row := Row{Number: p.Number, Path: p.Path, Away: p.Away}
		if d, ok := p.Disk.(*durable.Dir); ok {
			row.Free, row.Total, row.Away = d.Room()
		}
		rows = append(rows, row)
	}
	return rows
}

func (r *Row) count(d *durable.Dir) (err error) {
	if r.Free, r.Total, err = d.Room(); err != nil {
		return err
	}
	entries, err := d.ReadDir(packsDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if filepath.Ext(e.Name()) == packSuffix {
			r.Packs++
			r.Bytes += info.Size()
		}
	}
	return nil
}

// device gives the number of a file system.
func device(info fs.FileInfo) (uint64, error) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, errors.New("no device is known")
	}
	return uint64(st.Dev), nil
}
