package move

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/fsck"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// seal makes every name in the new place durable, and gives directories and ledger their flags.
func (m *mover) seal(context.Context) error {
	if m.guard != nil {
		if err := m.guardAll(); err != nil {
			return fmt.Errorf("the new place: %w", err)
		}
	}
	for _, dir := range []string{packsDir, manifestsDir, incomingDir, ledgerDir, notesDir, keeperDir, "."} {
		if err := m.o.New.SyncDir(dir); err != nil {
			return fmt.Errorf("the new place: %w", err)
		}
	}
	return nil
}

// guardAll sets what the store of the new place would set when it is opened. Its mark stays in the root, which is immutable
// from here on.
func (m *mover) guardAll() error {
	for i, name := range m.list.segments {
		flag := durable.Immutable
		if i == len(m.list.segments)-1 {
			flag = durable.AppendOnly
		}
		if err := durable.SetFileFlags(m.guard, name, flag); err != nil {
			return err
		}
	}
	for _, dir := range []string{packsDir, manifestsDir, ledgerDir} {
		if err := m.guard.SetFlags(dir, durable.AppendOnly, 0); err != nil {
			return err
		}
	}
	return m.guardRoot()
}

func (m *mover) guardRoot() error {
	f, err := m.guard.Flags(".")
	if err == nil && f == 0 {
		err = m.guard.Chmod(".", groupDir)
	}
	if err != nil {
		return err
	}
	return m.guard.SetFlags(".", durable.Immutable, 0)
}

// verify opens the new place as everybody will, and holds it against the old one. Every byte of packs and manifests was read
// from the new medium when it was written, or found.
func (m *mover) verify(ctx context.Context) error {
	list, err := takeInventory(m.o.New)
	if err != nil {
		return fmt.Errorf("the new place: %w", err)
	}
	if list.size != m.list.size || list.root != m.list.root || list.verifier != m.list.verifier {
		return fmt.Errorf("the new place: its ledger has %d records with root %s, and the old one %d with %s", list.size, list.root, m.list.size, m.list.root)
	}
	if err := list.measure(m.newAll); err != nil {
		return fmt.Errorf("the new place: %w", err)
	}
	if len(list.items) != len(m.list.items) {
		return fmt.Errorf("the new place: %d files, and %d were taken along", len(list.items), len(m.list.items))
	}
	for i, it := range m.list.items {
		if list.items[i].name != it.name || list.items[i].has != it.has {
			return fmt.Errorf("the new place: %s has %d bytes, and %s with %d was taken along", list.items[i].name, list.items[i].has, it.name, it.has)
		}
	}
	if m.guard != nil {
		if err := exposed(m.newAll, list); err != nil {
			return fmt.Errorf("the new place: %w", err)
		}
	}
	return m.compare(ctx)
}

// exposed gives an error for the first file or directory that lacks the flag that it must have.
func exposed(place durable.Disk, list *inventory) error {
	d, ok := place.(durable.GuardedDisk)
	if !ok {
		return errors.New("a disk without flags")
	}
	want := func(name string, flag durable.Flags) error {
		f, err := d.Flags(name)
		if err == nil && f&flag == 0 {
			err = fmt.Errorf("%s lacks its flag (%v)", name, flag)
		}
		return err
	}
	for _, it := range list.items {
		if it.final {
			if err := want(it.name, durable.Immutable); err != nil {
				return err
			}
		}
	}
	for i, name := range list.segments {
		flag := durable.Immutable
		if i == len(list.segments)-1 {
			flag |= durable.AppendOnly
		}
		if err := want(name, flag); err != nil {
			return err
		}
	}
	for _, dir := range []string{packsDir, manifestsDir, ledgerDir} {
		if err := want(dir, durable.AppendOnly); err != nil {
			return err
		}
	}
	return want(".", durable.Immutable)
}

// compare has both places looked at by the store's own check and by the checker that shares no code with it: whatever either
// finds in the new one and not in the old one came in with the move.
func (m *mover) compare(ctx context.Context) error {
	before, err := findings(ctx, m.oldAll, m)
	if err != nil {
		return fmt.Errorf("the old place: %w", err)
	}
	after, err := findings(ctx, m.newAll, m)
	if err != nil {
		return fmt.Errorf("the new place: %w", err)
	}
	for _, f := range after {
		if !slices.Contains(before, f) {
			return fmt.Errorf("the new place: %s, which is not so in the old one", f)
		}
	}
	return nil
}

// lookAgain is how often a place is looked at that somebody writes to meanwhile.
const lookAgain = 5

// findings are what the checks find in a place.
func findings(ctx context.Context, d durable.Disk, m *mover) (out []string, err error) {
	s, err := worm.Open(d, m.o.Clock, worm.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	for _, f := range s.Check(ctx, false) {
		if !f.Stray { // what a seal that was cut leaves, beside a process that writes now as well
			out = append(out, f.String())
		}
	}
	if err := s.Close(); err != nil {
		return nil, err
	}
	var r *fsck.Report
	for range lookAgain {
		if r, err = fsck.Look(ctx, files{d}, fsck.Options{}); err != nil {
			return nil, err
		}
		if !r.Moving {
			break // else somebody writes to it, and what was seen may be half of what he did
		}
	}
	for _, f := range r.Damage {
		out = append(out, f.What+": "+f.Detail)
	}
	return out, ctx.Err()
}

// files shows a disk to the independent checker.
type files struct{ durable.Disk }

func (f files) Lstat(name string) (fs.FileInfo, error) { return f.Stat(name) }

func (f files) Open(name string) (fs.File, error) {
	g, err := f.Disk.Open(name)
	if err != nil {
		return nil, err
	}
	return file{g, func() (fs.FileInfo, error) { return f.Stat(name) }}, nil
}

type file struct {
	durable.File
	stat func() (fs.FileInfo, error)
}

func (f file) Stat() (fs.FileInfo, error) { return f.stat() }

// prove reads every file that the ledger of a place names and that does not stay where it is, from the medium, and adds those
// that are not what it says to the damaged ones.
func (m *mover) prove(ctx context.Context, d durable.Disk, list *inventory, step string) error {
	bad := map[string]bool{}
	for _, b := range list.damaged {
		bad[b.File] = true
	}
	m.done, m.total = 0, 0
	for _, it := range list.items {
		if !it.stays {
			m.total += it.has
		}
	}
	for _, it := range list.items {
		if it.stays {
			m.r.Stayed++
			continue
		}
		m.r.Files++
		m.r.Bytes += it.has
		if it.sum == "" || bad[it.name] {
			continue
		}
		sum, _, err := m.read(ctx, d, it.name, step)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, fs.ErrNotExist):
			list.bad(it.name, "it is missing")
		case err != nil:
			list.bad(it.name, "%s", strings.TrimPrefix(err.Error(), "read "))
		case sum != it.sum:
			list.bad(it.name, "its SHA-256 is %s, recorded is %s", sum, it.sum)
		}
	}
	return nil
}
