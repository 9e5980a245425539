package fsck

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// A vault may lie in several directories: its own, and further ones that hold packs of it. The file `places` lists them, and
// place.json in each says whose it is; a pack's name does not say where it lies. See docs/PLACES.md.
const (
	placesFile = "places"
	markerFile = "place.json"
	placesMax  = 512 << 10
	placeMost  = 64
)

// ErrAway is wrapped by the error of a file that may lie in a place which cannot be reached.
var ErrAway = errors.New("it may lie in a place of the vault that cannot be reached")

// further is a place besides the vault's directory.
type further struct {
	number int
	id     string // as the list has it; "" where it does not have the place
	path   string
	root   *os.Root // nil where it is away
	away   error
}

func (f *further) String() string { return fmt.Sprintf("place %d (%q)", f.number, f.path) }

// OpenPlaces opens the further places of the vault: those on its list, and those that at names by number, which says where
// they are now. One that cannot be reached is told by Look. It is called once, before the first look.
func (d *Dir) OpenPlaces(at map[int]string) {
	list, vault, err := d.readPlaces()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.listed = err
	}
	for _, n := range slices.Sorted(maps.Keys(at)) {
		i := slices.IndexFunc(list, func(f further) bool { return f.number == n })
		if i < 0 {
			list = append(list, further{number: n, path: at[n]})
		} else {
			list[i].path = at[n]
		}
	}
	for i := range list {
		list[i].root, list[i].away = list[i].reach(vault)
	}
	d.further = list
}

// reach opens a place and looks whether it is the one. Without an entry on the list any place of that number will do: Look
// holds its vault against the ledger.
func (f *further) reach(vault string) (*os.Root, error) {
	root, err := os.OpenRoot(f.path)
	if err != nil {
		return nil, err
	}
	m, err := readMarker(root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("there is no %s in it: its disk is not mounted there", markerFile)
	case err == nil && (m.number != f.number || f.id != "" && (m.id != f.id || m.vault != vault)):
		err = fmt.Errorf("it is place %d, %s, of vault %s: another disk is mounted there", m.number, m.id, m.vault)
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	f.id = m.id
	return root, nil
}

type marker struct {
	vault, id string
	number    int
}

// readMarker reads place.json, which is one line in one spelling.
func readMarker(root *os.Root) (marker, error) {
	b, err := read(&Dir{root: root}, markerFile, smallMax)
	if err != nil {
		return marker{}, err
	}
	o := readObject(b)
	format := o.number("format")
	m := marker{vault: o.text("vault"), id: o.text("id"), number: int(o.number("number"))}
	switch {
	case o.err != nil:
		return marker{}, fmt.Errorf("%s: %w", markerFile, o.err)
	case format != 1:
		return marker{}, fmt.Errorf("%s: format %d: written by a newer release of holdfast", markerFile, format)
	case string(b) != fmt.Sprintf("{\"format\":1,\"vault\":%q,\"number\":%d,\"id\":%q}\n", m.vault, m.number, m.id) || !isHex(m.vault, 32) || !isHex(m.id, 32):
		return marker{}, fmt.Errorf("%s is damaged", markerFile)
	}
	return m, nil
}

// readPlaces reads the list.
func (d *Dir) readPlaces() (list []further, vault string, err error) {
	b, err := read(d, placesFile, placesMax)
	if err != nil {
		return nil, "", err
	}
	line, ok := bytes.CutSuffix(b, []byte("\n"))
	if !ok {
		return nil, "", errors.New("it does not end in a newline")
	}
	if err := checkTail(line, `,"sha256":"`); err != nil {
		return nil, "", err
	}
	o := readObject(line)
	format := o.number("format")
	vault = o.text("vault")
	entries := o.list("places")
	switch {
	case o.err != nil:
		return nil, "", o.err
	case format != 1:
		return nil, "", fmt.Errorf("format %d: written by a newer release of holdfast", format)
	case !isHex(vault, 32):
		return nil, "", fmt.Errorf("vault %q", vault)
	}
	before := 1
	for _, raw := range entries {
		f, err := readEntry(raw, before)
		if err != nil {
			return nil, "", err
		}
		before = f.number
		list = append(list, f)
	}
	return list, vault, nil
}

func readEntry(raw json.RawMessage, before int) (further, error) {
	o := readObject(raw)
	f := further{number: int(o.number("number")), id: o.text("id"), path: o.text("path")}
	switch {
	case o.err != nil:
		return f, o.err
	case f.number <= before || f.number > placeMost:
		return f, fmt.Errorf("place %d follows place %d", f.number, before)
	case !isHex(f.id, 32) || !filepath.IsAbs(f.path) || filepath.Clean(f.path) != f.path:
		return f, fmt.Errorf("place %d: ID %q, path %q", f.number, f.id, f.path)
	}
	return f, nil
}

// in gives the root that has a name, looked for in every place where packs lie.
func (d *Dir) in(name string) (*os.Root, error) {
	dir := path.Dir(name)
	if len(d.further) == 0 && d.listed == nil || dir != packsDir && dir != incomingDir {
		return d.root, nil
	}
	var found []string
	var at *os.Root
	var failed error
	look := func(where string, root *os.Root) {
		_, err := root.Lstat(name)
		switch {
		case err == nil:
			if at == nil {
				at = root
			}
			found = append(found, where)
		case !errors.Is(err, fs.ErrNotExist):
			failed = errors.Join(failed, fmt.Errorf("%s: %w", where, err))
		}
	}
	look("the vault's directory", d.root)
	for i := range d.further {
		if f := &d.further[i]; f.root != nil {
			look(f.String(), f.root)
		}
	}
	switch {
	case len(found) > 1 && dir == packsDir:
		return nil, fmt.Errorf("it lies in %s: one of them is a copy", strings.Join(found, " and in "))
	case len(found) > 0:
		return at, nil
	case failed != nil:
		return nil, failed
	case d.away():
		return nil, &fs.PathError{Op: "open", Path: name, Err: ErrAway}
	}
	return d.root, nil
}

// away says whether any place cannot be reached, or may be one that nobody knows of.
func (d *Dir) away() bool {
	return d.listed != nil || slices.ContainsFunc(d.further, func(f further) bool { return f.root == nil })
}

// places tells what is wrong with the places themselves.
func (l *look) places() {
	d, ok := l.d.(*Dir)
	if !ok {
		return
	}
	if d.listed != nil {
		l.r.damage(KindPlace, placesFile, "%v; which further places the vault has is not known", d.listed)
	}
	for i := range d.further {
		f := &d.further[i]
		if f.away != nil {
			l.r.note(KindPlace, f.String(), "it cannot be reached: %v", f.away)
			continue
		}
		if m, err := readMarker(f.root); err == nil && l.h.init != nil && m.vault != l.h.init.vault {
			l.r.damage(KindPlace, f.String(), "it is a place of vault %s", m.vault)
		}
		entries, err := fs.ReadDir(f.root.FS(), ".")
		if err != nil {
			l.r.damage(KindPlace, f.String(), "it cannot be listed: %v", err)
		}
		for _, e := range entries {
			switch name := e.Name(); {
			case slices.Contains([]string{packsDir, incomingDir}, name) && !e.IsDir():
				l.r.damage(KindPlace, f.String(), "%s is no directory: somebody put that in its place", name)
			case !slices.Contains([]string{packsDir, incomingDir, markerFile, "lost+found"}, name) && !strings.HasSuffix(name, tmpSuffix):
				l.r.note(KindUnnamed, f.String(), "%q is no part of a place", name)
			}
		}
	}
}
