// Package move takes a whole vault to another directory, on another disk, and says when the old one may go.
//
// Packs, manifests, ledger, keys and clock are copied byte for byte, read again from the new medium and held against the
// hashes in the ledger; flags and permissions are set anew. Two marks see to it that no more than one of the two places can
// ever be written to: `moving` stands in the new one until everything in it was verified and `moved` stands in the old one,
// durably. Whatever cuts a move, giving the same command again finishes it. docs/PLACES.md says for each step what is true if
// the power fails there.
package move

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// Options for Run and Retire.
type Options struct {
	// Old and New are the two places. The caller holds the vault's lock in both (worm.Lock), and has looked with Apart
	// whether they are two. Retire does not write to New, which may be in use, and needs no lock there.
	Old, New durable.Disk
	// OldFurther are the further places of the vault, opened, where it has any: packs may lie in them (docs/PLACES.md). Run
	// leaves what lies there where it is, and the list of them comes along, unless Collect is set: then all of it comes into the
	// new directory. NewFurther are those of the new place, for Retire.
	OldFurther, NewFurther []durable.Place
	Collect                bool
	// OldPath and NewPath are their directories, for marks and messages.
	OldPath, NewPath string
	// Guard gives the new place flags and the permissions that go with them, as worm.Options.Guard keeps it. New must be a
	// durable.GuardedDisk then, and the process may set flags. Where the old place has flags and the new one does not get
	// any, Run refuses unless AcceptWeaker is set, and so does Retire.
	Guard        bool
	AcceptWeaker bool
	// WithDamage takes files along that are not what the ledger says, as they are, and files that cannot be read as far as
	// they can; both are listed. Otherwise Run refuses and names them, and nothing has moved.
	WithDamage bool
	// Clock is what the vault's stamps come from.
	Clock clock.Source
	// Progress is told after each file, and after each 16 MiB of one, how many bytes are done of how many. Nil means that
	// nobody listens.
	Progress func(step string, done, total int64)
}

// Report says what Run or Retire did.
type Report struct {
	Vault string
	// Size and Root of the ledger: in Run of both, in Retire of the old one.
	Size uint64
	Root string
	// Files and Bytes were looked at; of these Copied and CopiedBytes were copied by this run, the rest was there already.
	Files, Copied      int
	Bytes, CopiedBytes int64
	// Stayed are files in further places, which did not move.
	Stayed int
	// Damaged are files that are not what the ledger says, and came along as they are.
	Damaged []Damaged
	// Left are names that were not taken along, with a word why.
	Left []string
	// Already says that the move was done before, and nothing was left to do.
	Already bool
}

// Damaged is a file that is not what the ledger says of it.
type Damaged struct{ File, Detail string }

func (d Damaged) String() string { return d.File + ": " + d.Detail }

// ErrDamaged is in the chain of the error of Run and Retire where files are damaged and that was not accepted.
var ErrDamaged = errors.New("files of the vault are not what its ledger says")

// The vault's directory as docs/ARCHITECTURE.md draws it.
const (
	packsDir     = "packs"
	manifestsDir = "manifests"
	ledgerDir    = "ledger"
	notesDir     = "log"
	keeperDir    = "keeper"
	incomingDir  = "incoming"
	signerFile   = "keeper/log.key"
	clockFile    = "keeper/clock"
	lockName     = "lock"
	identityFile = "vault.json"
	keyringFile  = "keyring"
	placesFile   = "places"

	movingName = "moving"
	movedName  = "moved"

	tmpSuffix      = ".tmp"
	packSuffix     = ".pack"
	manifestSuffix = ".manifest"
)

// finals are the directories of files that never change.
var finals = []string{packsDir, manifestsDir}

// mover is one run.
type mover struct {
	o     Options
	old   durable.GuardedDisk // nil where the old place has no flags
	guard durable.GuardedDisk // the new place, nil without flags
	// oldAll and newAll are the places with their further ones.
	oldAll, newAll durable.Disk
	list           *inventory
	r              *Report
	done           int64 // bytes looked at
	total          int64
}

// Run moves the vault in o.Old to o.New. On return without an error everything is in the new place, verified and durable,
// the old one can only be read, and the new one is the vault. After any error, and after a cut at any moment, at most one of
// the two can be written to, and Run with the same options goes on; what is there and has the right hash is not copied again.
//
// New is an empty directory, or what an interrupted run left.
func Run(ctx context.Context, o Options) (*Report, error) {
	m := &mover{o: o, r: &Report{}}
	gone, err := m.where()
	if err != nil {
		return m.r, err
	}
	stays := !o.Collect
	if gone != nil {
		_, err := o.New.Stat(placesFile)
		stays = err == nil // as the run that was cut had it
	}
	if m.o.NewFurther = nil; stays {
		m.o.NewFurther = o.OldFurther
	}
	if err := m.join(); err != nil {
		return m.r, err
	}
	if gone != nil {
		return m.r, m.finish(ctx, *gone)
	}
	for _, step := range []func(context.Context) error{m.begin, m.copyFinals, m.copyRest, m.seal, m.verify} {
		if err := step(ctx); err != nil {
			return m.r, err
		}
	}
	return m.r, m.handOver()
}

// Possible gives the error with which Run would refuse the two places before it changes anything in either.
func Possible(o Options) error {
	_, err := (&mover{o: o, r: &Report{}}).where()
	return err
}

// join makes of each place and its further ones what a store works on.
func (m *mover) join() (err error) {
	if m.oldAll, err = join(m.o.Old, m.o.OldPath, m.o.OldFurther); err != nil {
		return fmt.Errorf("the old place: %w", err)
	}
	if m.newAll, err = join(m.o.New, m.o.NewPath, m.o.NewFurther); err != nil {
		return fmt.Errorf("the new place: %w", err)
	}
	return nil
}

func join(first durable.Disk, path string, further []durable.Place) (durable.Disk, error) {
	if len(further) == 0 {
		return first, nil
	}
	g, ok := first.(durable.GuardedDisk)
	if !ok {
		return nil, errors.New("a disk that cannot have further places")
	}
	return durable.NewSpan(append([]durable.Place{{Number: 1, Path: path, Disk: g}}, further...),
		durable.SpanOptions{Sealed: packsDir, Growing: incomingDir, Suffix: packSuffix})
}

// where finds out what an earlier run did. gone is the old place's mark where that stands already.
func (m *mover) where() (gone *worm.Moved, err error) {
	if m.old, err = flagged(m.o.Old); err != nil {
		return nil, fmt.Errorf("the old place: %w", err)
	}
	if m.o.Guard {
		g, ok := m.o.New.(durable.GuardedDisk)
		if !ok {
			return nil, errors.New("the new disk has neither flags nor leases")
		}
		m.guard = g
	}
	if m.old != nil && m.guard == nil && !m.o.AcceptWeaker {
		return nil, fmt.Errorf("sealed files in %q are immutable, and in %q they could not be: choose a file system that has flags (ext4, XFS, Btrfs), or accept it with --accept-weaker-protection", m.o.OldPath, m.o.NewPath)
	}
	moved, is, err := worm.ReadMoved(m.o.Old)
	if err != nil {
		return nil, fmt.Errorf("the old place: %w", err)
	}
	if is && moved.To != m.o.NewPath {
		return nil, fmt.Errorf("%w out of %q to %q already: that is where it is", worm.ErrMoved, m.o.OldPath, moved.To)
	}
	if is {
		return &moved, nil
	}
	return nil, m.usable()
}

// usable refuses a new place in which something is that no earlier run left.
func (m *mover) usable() error {
	moving, is, err := worm.ReadMoving(m.o.New)
	if err != nil {
		return fmt.Errorf("the new place: %w", err)
	}
	if is {
		if vault, err := identity(m.o.Old); err != nil || vault != moving.Vault {
			return errors.Join(fmt.Errorf("another vault (%s) is moving into %q; give another directory", moving.Vault, m.o.NewPath), err)
		}
		return nil
	}
	entries, err := m.o.New.ReadDir(".")
	if err != nil {
		return fmt.Errorf("the new place: %w", err)
	}
	for _, e := range entries {
		if e.Name() == keeperDir && e.IsDir() {
			if inner, err := m.o.New.ReadDir(keeperDir); err == nil && !slices.ContainsFunc(inner, func(e fs.DirEntry) bool { return e.Name() != lockName && !strings.HasSuffix(e.Name(), tmpSuffix) }) {
				continue // taking the lock, or trying flags, made it
			}
		}
		if e.Name() == movingName+tmpSuffix {
			continue // a cut while the mark was written
		}
		return fmt.Errorf("%q is not empty (it holds %q), and no interrupted move left that: give an empty directory (below a mounted file system, not its root); nothing was changed", m.o.NewPath, e.Name())
	}
	return nil
}

// flagged gives a place as a disk with flags, nil where its files have none.
func flagged(d durable.Disk) (durable.GuardedDisk, error) {
	g, ok := d.(durable.GuardedDisk)
	if !ok {
		return nil, nil
	}
	for _, name := range []string{".", packsDir, manifestsDir, ledgerDir} {
		f, err := g.Flags(name)
		switch {
		case errors.Is(err, errors.ErrUnsupported):
			return nil, nil
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		case f != 0:
			return g, nil
		}
	}
	return nil, nil
}

// begin brings the old place to rest, counts what it has, and keeps every writer out of the new one.
func (m *mover) begin(ctx context.Context) error {
	// Whatever an interrupted process left there is finished or recorded first, by the functions that run every day.
	store, err := worm.Open(m.oldAll, m.o.Clock, worm.Options{Guard: m.old != nil})
	if err != nil {
		return fmt.Errorf("the old place: %w", err)
	}
	now, err := store.Now()
	if err = errors.Join(err, store.Close()); err != nil {
		return fmt.Errorf("the old place: %w", err)
	}
	if m.list, err = takeInventory(m.o.Old); err != nil {
		return fmt.Errorf("the old place: %w", err)
	}
	m.r.Vault, m.r.Size, m.r.Root = m.list.vault, m.list.size, m.list.root
	if err := m.list.measure(m.oldAll); err != nil {
		return fmt.Errorf("the old place: %w", err)
	}
	m.list.stay(m.o.Old, m.o.NewFurther)
	if bad := m.list.damaged; len(bad) > 0 && !m.o.WithDamage {
		m.r.Damaged = bad
		return m.refuseDamage()
	}
	// Power fails here or in what follows: the old place is what it was, and the new one is empty or bears the mark.
	if err := m.lift(); err != nil {
		return fmt.Errorf("the new place: %w", err)
	}
	if err := worm.MarkMoving(m.o.New, worm.Moving{Vault: m.list.vault, From: m.o.OldPath, At: now.Wall.UTC()}); err != nil {
		return fmt.Errorf("the new place: %w", err)
	}
	if err := m.reserve(); err != nil {
		return err
	}
	if err := m.directories(); err != nil {
		return fmt.Errorf("the new place: %w", err)
	}
	if err := m.clear(); err != nil {
		return fmt.Errorf("the new place: what an earlier run left: %w", err)
	}
	return m.room(ctx)
}

// refuseDamage says what to do about damage.
func (m *mover) refuseDamage() error {
	return fmt.Errorf("%w, %d of them, the first: %s. Heal them first (holdfast check), or take them along as they are with --with-damage; nothing has moved, and the vault is where it was",
		ErrDamaged, len(m.r.Damaged), m.r.Damaged[0])
}

// handOver makes the new place the vault. Everything was verified.
func (m *mover) handOver() error {
	now, err := m.o.Clock.Read()
	if err != nil {
		return err
	}
	return m.switchOver(worm.Moved{Vault: m.list.vault, To: m.o.NewPath, Size: m.list.size, Root: m.list.root, At: now.Wall.UTC().Truncate(time.Second)})
}

// switchOver is the moment of the move. Before the first step the old place can be written to; between the two neither can,
// and giving the command again goes on here; after the second the new one can.
func (m *mover) switchOver(moved worm.Moved) error {
	if err := m.unreserve(); err != nil {
		return fmt.Errorf("the old place: %w", err)
	}
	if err := worm.MarkMoved(m.o.Old, m.old, moved); err != nil {
		return fmt.Errorf("the old place: %w; give the command again", err)
	}
	// Power fails here: neither can be written to.
	if err := worm.ClearMoving(m.o.New, m.guard); err != nil {
		return fmt.Errorf("the new place: %w; give the command again", err)
	}
	return nil
}

// finish is the rest of a run that was cut when the old place had its mark already. All was verified before that, and is once
// more, against the mark. The new place may have been written to since, if its own mark went and came back with a power cut.
func (m *mover) finish(ctx context.Context, moved worm.Moved) error {
	moving, is, err := worm.ReadMoving(m.o.New)
	if err != nil {
		return fmt.Errorf("the new place: %w", err)
	}
	if is && moving.Vault != moved.Vault {
		return fmt.Errorf("another vault (%s) is moving into %q", moving.Vault, m.o.NewPath)
	}
	list, err := takeInventory(m.o.New)
	if err != nil {
		return fmt.Errorf("the new place: %w", err)
	}
	m.r.Vault, m.r.Size, m.r.Root = list.vault, moved.Size, moved.Root
	if err := list.extends(moved); err != nil {
		return fmt.Errorf("the new place: %w", err)
	}
	if !is {
		m.r.Already = true
		if m.guard != nil { // a cut between removing the mark and setting the flag again
			if err := m.guardRoot(); err != nil {
				return fmt.Errorf("the new place: %w", err)
			}
		}
		// It may be gone in the cache alone, and so may the flag.
		return m.o.New.SyncDir(".")
	}
	if err := list.measure(m.newAll); err != nil {
		return fmt.Errorf("the new place: %w", err)
	}
	list.stay(m.o.New, m.o.NewFurther)
	m.list = list
	if err := m.prove(ctx, m.o.New, list, "verifying"); err != nil {
		return err
	}
	if m.r.Damaged = list.damaged; len(list.damaged) > 0 && !m.o.WithDamage {
		return fmt.Errorf("the new place: %w, the first: %s. If they were so before and came along with --with-damage, give it again", ErrDamaged, list.damaged[0])
	}
	if m.guard != nil {
		if err := m.guardRoot(); err != nil {
			return fmt.Errorf("the new place: %w", err)
		}
	}
	return m.switchOver(moved)
}
