package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/move"
	"github.com/holdfast-vault/holdfast/immutability/place"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// moving is a vault that moves: what the command line says, and the two places once they are open.
type moving struct {
	a          *app
	withDamage bool
	collect    bool
	nowAt      string
	asJSON     bool

	o    move.Options
	open []io.Closer // in the order in which they were opened
	line *progressLine
	then time.Time
}

func vaultMoveCommand(a *app) *cobra.Command {
	m := &moving{a: a}
	c := &cobra.Command{
		Use: "move NEW", Short: "Take the whole vault to another directory, on another disk",
		Long: `Take the whole vault to the directory NEW, which is empty or does not exist. Everything is read again
from the new disk and held against the ledger before the old place stops being the vault; ledger, locks,
holds, policy and proofs are the same, to the byte. The daemon must be stopped. Interrupted, the same
command goes on where it was; the vault can be used in its old place until the move is done, and by
nobody but readers afterwards. No key is needed.

The old place stays, and can be read, until "holdfast vault retire" has proved that the new one has
everything. What the daemon can make again is left behind: the index is built anew at its next start.
A vault with further places keeps them, or brings what lies in them with --collect.

A vault with a keeper is moved by the keeper's own user: holdfast-keeper move.`,
		Args: exactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return m.move(c.Context(), args[0]) },
	}
	c.Flags().BoolVar(&m.withDamage, "with-damage", false, "take damaged files along as they are, and list them")
	c.Flags().BoolVar(&m.collect, "collect", false, "bring what lies in further places into NEW as well")
	c.Flags().BoolVar(&m.asJSON, "json", false, "print JSON")
	return c
}

func vaultRetireCommand(a *app) *cobra.Command {
	m := &moving{a: a}
	c := &cobra.Command{
		Use: "retire OLD", Short: "Prove that the place that a vault moved to has everything, so that the old one may go",
		Long: `Prove that the vault which moved out of the directory OLD is whole in its new place: that its ledger goes
on from the one that moved, and that every file which it names is there, on another disk than the old
one's, with its hash. That reads every byte of the new place, which may be in use. What is in OLD is
then nowhere alone, and may be removed, which this command leaves to you.

A vault with a keeper is retired by the keeper's own user: holdfast-keeper retire.`,
		Args: exactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return m.retire(c.Context(), args[0]) },
	}
	c.Flags().BoolVar(&m.withDamage, "with-damage", false, "accept files that are damaged in both places")
	c.Flags().StringVar(&m.nowAt, "now-at", "", "the new place is mounted at `DIR` now")
	c.Flags().BoolVar(&m.asJSON, "json", false, "print JSON")
	return c
}

func (m *moving) close() error {
	var errs []error
	for i := len(m.open) - 1; i >= 0; i-- {
		errs = append(errs, m.open[i].Close())
	}
	return errors.Join(errs...)
}

// move takes the vault that is in force to another directory.
func (m *moving) move(ctx context.Context, to string) (err error) {
	dir, err := m.a.vaultDir()
	if err != nil {
		return err
	}
	made, err := makeEmpty(to)
	if err != nil {
		return fmt.Errorf("the new place: %w", err)
	}
	began := false
	defer func() {
		err = errors.Join(err, m.close())
		if made && !began {
			err = errors.Join(err, os.Remove(to))
		}
	}()
	oldDir, newDir, err := move.Apart(dir, to)
	if err != nil {
		return err
	}
	if err := m.oldPlace(oldDir, fmt.Sprintf("holdfast-keeper move --vault %s %s", oldDir, newDir)); err != nil {
		return fmt.Errorf("the old place: %w", err)
	}
	if err := m.newPlace(newDir); err != nil {
		return fmt.Errorf("the new place: %w", err)
	}
	began = true
	m.begin()
	r, err := move.Run(ctx, m.o)
	m.line.end()
	if err != nil {
		return asExit(err)
	}
	return m.sayMoved(r)
}

// makeEmpty makes a directory where there is none; what is above it must be there, lest a disk that is not mounted is not
// noticed.
func makeEmpty(dir string) (made bool, err error) {
	err = os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

// asExit gives damage the exit code that it has everywhere.
func asExit(err error) error {
	if errors.Is(err, move.ErrDamaged) {
		return &exitError{exitDamage, err}
	}
	return err
}

// oldPlace opens and locks the place that the vault is in, or was. kept is the command of a keeper's user.
func (m *moving) oldPlace(dir, kept string) error {
	at, err := m.a.places()
	if err != nil {
		return err
	}
	home, err := place.OpenDir(dir, place.Options{All: true, Mine: true, At: at})
	if err != nil {
		return err
	}
	m.open = append(m.open, home)
	socket, _, err := m.a.keeper(dir)
	if err != nil {
		return err
	}
	if f, err := home.First.Flags("."); socket != "" || err == nil && f&durable.Immutable != 0 {
		return fmt.Errorf("a keeper keeps it: stop daemon and keeper, and run, as the keeper's user and with its capability (docs/PLACES.md has the command whole): %s", kept)
	}
	if _, err := home.First.Stat("vault.json"); err != nil {
		return fmt.Errorf("%q is not a vault: %w", dir, err)
	}
	if err := worm.Owned(home.First); err != nil {
		return err
	}
	own, err := home.First.Lock("lock")
	if err != nil {
		return explainOpen(dir, dir, err)
	}
	m.open = append(m.open, own)
	guard, err := worm.Lock(home.First)
	if err != nil {
		return explainOpen(dir, dir, err)
	}
	m.open = append(m.open, guard)
	m.o = move.Options{
		Old: home.First, OldPath: dir, OldFurther: home.Places()[1:], Collect: m.collect, WithDamage: m.withDamage,
		Clock: clock.Kernel(), Progress: m.progress,
	}
	return nil
}

func (m *moving) newPlace(dir string) error {
	for _, p := range m.o.OldFurther {
		if _, _, err := move.Apart(p.Path, dir); err != nil {
			return err
		}
	}
	d, err := durable.OpenDir(dir)
	if err != nil {
		return err
	}
	m.open = append(m.open, d)
	m.o.New, m.o.NewPath = d, dir
	if err := move.Possible(m.o); err != nil {
		return err
	}
	lock, err := worm.Lock(d)
	if err != nil {
		return err
	}
	m.open = append(m.open, lock)
	return nil
}

// retire proves that an old place holds nothing alone.
func (m *moving) retire(ctx context.Context, old string) (err error) {
	defer func() { err = errors.Join(err, m.close()) }()
	to := m.nowAt
	if to == "" {
		if to, err = movedTo(old); err != nil {
			return err
		}
	}
	oldDir, newDir, err := move.Apart(old, to)
	if err != nil {
		return err
	}
	if err := m.oldPlace(oldDir, "holdfast-keeper retire "+oldDir); err != nil {
		return fmt.Errorf("the old place: %w", err)
	}
	at, err := m.a.places()
	if err != nil {
		return err
	}
	home, err := place.OpenDir(newDir, place.Options{All: true, At: at})
	if err != nil {
		return fmt.Errorf("the new place: %w", err)
	}
	m.open = append(m.open, home)
	m.o.New, m.o.NewPath, m.o.NewFurther = home.First, newDir, home.Places()[1:]
	if err := move.ApartAll(oldDir, newDir, m.o.OldFurther, m.o.NewFurther); err != nil {
		return err
	}
	m.begin()
	r, err := move.Retire(ctx, m.o)
	m.line.end()
	if err != nil {
		return asExit(err)
	}
	return m.sayRetired(r)
}

// movedTo reads where the vault went that a directory held.
func movedTo(dir string) (string, error) {
	d, err := durable.OpenDir(dir)
	if err != nil {
		return "", fmt.Errorf("the old place: %w", err)
	}
	defer d.Close()
	moved, is, err := worm.ReadMoved(d)
	if err == nil && !is {
		err = fmt.Errorf("%q bears no mark that its vault has moved: it is the vault, or something else", dir)
	}
	return moved.To, err
}

func (m *moving) begin() {
	m.line, m.then = &progressLine{}, time.Now()
	if isTerminal(m.a.err) && !m.asJSON {
		m.line.w = m.a.err
	}
}

func (m *moving) progress(step string, done, total int64) {
	rate := float64(done) / max(time.Since(m.then).Seconds(), 0.001)
	m.line.show(fmt.Sprintf("%s %s of %s, %s/s%s", step, humanize.IBytes(uint64(done)), humanize.IBytes(uint64(total)), humanize.IBytes(uint64(rate)), eta(m.then, uint64(done), uint64(total))))
}

// movedJSON is what both commands print with --json.
type movedJSON struct {
	Vault       string   `json:"vault"`
	From        string   `json:"from"`
	To          string   `json:"to"`
	Size        uint64   `json:"ledger_size"` // when it moved
	Root        string   `json:"ledger_root"`
	Files       int      `json:"files"`
	Bytes       int64    `json:"bytes"`
	Copied      int      `json:"copied_files"` // by this run
	CopiedBytes int64    `json:"copied_bytes"`
	Stayed      int      `json:"stayed_files"` // in further places
	Already     bool     `json:"already_moved"`
	Damaged     []string `json:"damaged"`
	Left        []string `json:"left"`
}

func (m *moving) json(r *move.Report) error {
	j := movedJSON{r.Vault, m.o.OldPath, m.o.NewPath, r.Size, r.Root, r.Files, r.Bytes, r.Copied, r.CopiedBytes, r.Stayed, r.Already, []string{}, append([]string{}, r.Left...)}
	for _, d := range r.Damaged {
		j.Damaged = append(j.Damaged, d.String())
	}
	return writeJSON(m.a.out, j)
}

func (m *moving) sayMoved(r *move.Report) error {
	out := m.a.out
	switch {
	case m.asJSON:
		return m.json(r)
	case r.Already:
		_, err := fmt.Fprintf(out, "Vault %s had moved to %s before; nothing was left to do.\n", r.Vault, printable(m.o.NewPath))
		return err
	}
	fmt.Fprintf(out, "Vault %s has moved to %s\n", r.Vault, printable(m.o.NewPath))
	fmt.Fprintf(out, "  ledger  %d records, root %s, the same in both\n", r.Size, r.Root)
	fmt.Fprintf(out, "  files   %d, %s, verified on the new disk; %d copied by this run\n", r.Files, humanize.IBytes(uint64(r.Bytes)), r.Copied)
	if r.Stayed > 0 {
		fmt.Fprintf(out, "  stayed  %d files in further places, which the vault keeps\n", r.Stayed)
	}
	m.sayRest(r)
	_, err := fmt.Fprintf(out, "Next: name the new directory wherever the old one was named (vault: in the configuration, the daemon's unit), and start the daemon.\n"+
		"The old place can be read, and written to by nobody. When the new one has proved itself: holdfast vault retire %s\n", printable(m.o.OldPath))
	return err
}

func (m *moving) sayRest(r *move.Report) {
	for _, d := range r.Damaged {
		fmt.Fprintf(m.a.out, "  damaged %s\n", printable(d.String()))
	}
	for _, l := range r.Left {
		fmt.Fprintf(m.a.out, "  left    %s\n", printable(l))
	}
}

func (m *moving) sayRetired(r *move.Report) error {
	if m.asJSON {
		return m.json(r)
	}
	fmt.Fprintf(m.a.out, "Vault %s: %s has all that moved there, and goes on from it\n", r.Vault, printable(m.o.NewPath))
	fmt.Fprintf(m.a.out, "  files   %d, %s, read from the new disk and whole\n", r.Files, humanize.IBytes(uint64(r.Bytes)))
	m.sayRest(r)
	_, err := fmt.Fprintf(m.a.out, "Next: %s may be removed, or its disk overwritten: the key that signs the ledger lies in it, and every sealed file.\n"+
		"Look first that the backup of the new disk, and whatever watches it, is in place; then: rm -r -- %q\n", printable(m.o.OldPath), m.o.OldPath)
	return err
}
