package move

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// Retire takes the flags off an old place, so that whoever owns it may remove it, after it has proved that nothing is there
// alone: the old place bears its mark and was not written to since; the new one is another directory, is no place that the
// vault moved out of or into, and its ledger goes on from the one that moved; every file that its ledger names is there with
// its hash, read from the medium, and is not the old place's own file under a second name; and what both checks find in it,
// they find in the old one too. Removing is left to a person: Retire takes no name away.
//
// The new place may be in use. A cut leaves some of the flags, and Retire may simply be called again.
func Retire(ctx context.Context, o Options) (*Report, error) {
	m := &mover{o: o, r: &Report{}}
	moved, is, err := worm.ReadMoved(o.Old)
	if err != nil {
		return m.r, fmt.Errorf("the old place: %w", err)
	}
	if !is {
		return m.r, fmt.Errorf("%q bears no mark that its vault has moved: it is the vault, or something else, and nothing is lifted", o.OldPath)
	}
	m.r.Vault, m.r.Size, m.r.Root = moved.Vault, moved.Size, moved.Root
	if m.old, err = flagged(o.Old); err != nil {
		return m.r, fmt.Errorf("the old place: %w", err)
	}
	if err := m.join(); err != nil {
		return m.r, err
	}
	if err := m.untouched(moved); err != nil {
		return m.r, fmt.Errorf("the old place: %w", err)
	}
	if err := m.successor(ctx, moved); err != nil {
		return m.r, fmt.Errorf("the new place %q: %w; the old one stays as it is", o.NewPath, err)
	}
	return m.r, m.unseal()
}

// untouched demands that the old place is what it was when the vault left.
func (m *mover) untouched(moved worm.Moved) error {
	list, err := takeInventory(m.o.Old)
	if err != nil {
		return err
	}
	if err := list.extends(moved); err != nil {
		return err
	}
	if list.size != moved.Size {
		return fmt.Errorf("its ledger has %d records, and had %d when the vault moved: somebody wrote to it since, and what he wrote is nowhere else", list.size, moved.Size)
	}
	return nil
}

// successor proves that the new place has everything.
func (m *mover) successor(ctx context.Context, moved worm.Moved) error {
	if further, is, err := worm.ReadMoved(m.o.New); err != nil {
		return err
	} else if is {
		return fmt.Errorf("%w on to %q: name that place", worm.ErrMoved, further.To)
	}
	if _, is, err := worm.ReadMoving(m.o.New); err != nil || is {
		return errors.Join(worm.ErrMoving, err)
	}
	// It may be gone in the cache alone, where the end of the move failed. Once the old place is gone nobody could give the move
	// again.
	if err := m.o.New.SyncDir("."); err != nil {
		return err
	}
	list, err := takeInventory(m.o.New)
	if err != nil {
		return err
	}
	if err := list.extends(moved); err != nil {
		return err
	}
	if err := m.guarded(list); err != nil {
		return err
	}
	if err := m.apart(list); err != nil {
		return err
	}
	if err := m.prove(ctx, m.newAll, list, "verifying"); err != nil {
		return err
	}
	if err := m.judge(ctx, list); err != nil {
		return err
	}
	return m.compare(ctx)
}

// guarded counts what the new place holds and looks at its flags.
func (m *mover) guarded(list *inventory) error {
	if err := list.measure(m.newAll); err != nil {
		return err
	}
	if err := m.staying(list); err != nil {
		return err
	}
	guard, err := flagged(m.o.New)
	switch {
	case err != nil:
		return err
	case guard != nil:
		return exposed(m.newAll, list)
	case m.old != nil && !m.o.AcceptWeaker:
		return errors.New("its files are not immutable, and those of the old one are: start its keeper, or accept it with --accept-weaker-protection")
	}
	return nil
}

// staying marks the files that are not read: those that lie in a further place which the new place shares with the old one, and
// nowhere else in the old one, so that nothing that is given up holds them.
func (m *mover) staying(list *inventory) error {
	list.stay(m.o.New, m.o.NewFurther)
	given := []durable.Disk{m.o.Old}
	for _, p := range m.o.OldFurther {
		if !m.shared(p) {
			given = append(given, p.Disk)
		}
	}
	for i := range list.items {
		for _, d := range given {
			if !list.items[i].stays {
				break
			}
			if _, err := d.Stat(list.items[i].name); err == nil {
				list.items[i].stays = false
			} else if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// shared says whether the new place has a further place of the old one.
func (m *mover) shared(p durable.Place) bool {
	return slices.ContainsFunc(m.o.NewFurther, func(q durable.Place) bool { return samePlace(p, q) })
}

// apart refuses a new place whose files are the old one's, by whatever mounts and names that came to be.
func (m *mover) apart(list *inventory) error {
	names := slices.Clone(list.segments)
	for _, it := range list.items {
		if !it.stays {
			names = append(names, it.name)
		}
	}
	for _, name := range names {
		here, err := m.newAll.Stat(name)
		if err != nil {
			continue // told by who reads it
		}
		if there, err := m.oldAll.Stat(name); err == nil && os.SameFile(here, there) {
			return fmt.Errorf("%s is the same file as in %q: the two are one, by a mount or a second name", name, m.o.OldPath)
		}
	}
	return nil
}

// judge says what damage in the new place means. What left the vault while it was read is no damage.
func (m *mover) judge(ctx context.Context, list *inventory) error {
	if len(list.damaged) == 0 {
		return nil
	}
	now, err := takeInventory(m.o.New)
	if err != nil {
		return err
	}
	for _, bad := range list.damaged {
		if now.removed[bad.File] {
			continue
		}
		m.r.Damaged = append(m.r.Damaged, bad)
		sum, _, err := m.read(ctx, m.oldAll, bad.File, "")
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil && sum == list.named[bad.File].sum {
			return fmt.Errorf("%w: %s; the old place has it whole: mend the new one first (holdfast check)", ErrDamaged, bad)
		}
	}
	if len(m.r.Damaged) > 0 && !m.o.WithDamage {
		return fmt.Errorf("%w, %d of them, and the old place has them no better, the first: %s; accept it with --with-damage", ErrDamaged, len(m.r.Damaged), m.r.Damaged[0])
	}
	return nil
}

// unseal lifts the flags of the old place, and of those of its further places that the new one does not have. Nothing is
// taken away.
func (m *mover) unseal() error {
	if m.old == nil {
		return nil
	}
	for _, p := range m.o.OldFurther {
		if m.shared(p) {
			continue
		}
		if err := unsealPlace(p.Disk, packsDir, incomingDir); err != nil {
			return fmt.Errorf("%v of the old place: %w", &p, err)
		}
	}
	if err := unsealPlace(m.old, packsDir, manifestsDir, ledgerDir, incomingDir); err != nil {
		return fmt.Errorf("the old place: %w", err)
	}
	return nil
}

// samePlace says whether two further places are one directory, wherever it is mounted.
func samePlace(p, q durable.Place) bool {
	if p.Path == q.Path || p.Disk == q.Disk {
		return true
	}
	a, aerr := p.Disk.Stat(".")
	b, berr := q.Disk.Stat(".")
	return aerr == nil && berr == nil && os.SameFile(a, b)
}

// unsealPlace lifts the flags in a directory: files first, then their directories, the root last.
func unsealPlace(d durable.GuardedDisk, dirs ...string) error {
	for _, dir := range dirs {
		names, err := sizes(d, dir)
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			if names[name] < 0 {
				continue // no file, so none of ours
			}
			if err := d.SetFlags(name, 0, durable.Immutable|durable.AppendOnly); err != nil {
				return err
			}
		}
	}
	for _, dir := range append(dirs, ".") {
		if err := d.SetFlags(dir, 0, durable.Immutable|durable.AppendOnly); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
