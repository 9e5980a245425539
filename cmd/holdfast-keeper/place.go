package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/place"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// place adds a place to a vault whose keeper is stopped. No message does that, neither the daemon's nor an operator's: whoever
// could name a directory to a running keeper could have packs made where they are lost.
func (o *options) place(rest []string, out io.Writer) (err error) {
	switch {
	case len(rest) != 1:
		return usage("place add takes one directory, and %q was given", rest)
	case o.vault == "":
		return usage("which vault? give --vault DIR")
	case !filepath.IsAbs(rest[0]):
		return usage("the place %q is not an absolute path", rest[0])
	}
	if err := harden(); err != nil {
		return err
	}
	me, err := itself()
	if err != nil {
		return err
	}
	if err := me.refuse(); err != nil {
		return err
	}
	d, err := durable.OpenDir(o.vault)
	if err != nil {
		return fmt.Errorf("vault: %w", err)
	}
	defer d.Close()
	l, err := worm.Lock(d)
	if errors.Is(err, durable.ErrLocked) {
		return fmt.Errorf("%w; stop the keeper first (systemctl stop holdfast holdfast-keeper)", err)
	}
	if err != nil {
		return err
	}
	defer l.Close()
	if err := worm.AtHome(d); err != nil {
		return err
	}
	if err := durable.Above(rest[0], os.Geteuid()); err != nil && !o.acceptWeaker {
		return fmt.Errorf("%w; put that right, or say --accept-weaker-protection", err)
	}
	a, err := place.Add(d, rest[0])
	if err != nil {
		return err
	}
	return sayAdded(out, a)
}

// sayAdded tells what became of a directory, and what to do next.
func sayAdded(out io.Writer, a place.Added) error {
	what := "is place"
	if a.Known {
		what = "was a place of this vault already, and is place"
	}
	fmt.Fprintf(out, "%q %s %d of the vault from now on; new packs go there once keeper and daemon are started\n", a.Path, what, a.Number)
	if a.SameDisk {
		fmt.Fprintln(out, "note: it lies on the file system of another place, and gives no more room")
	}
	_, err := fmt.Fprintf(out, "both units must reach it: BindPaths=%s for the keeper, BindReadOnlyPaths=%s for the daemon, and RequiresMountsFor=%s for both\n", a.Path, a.Path, a.Path)
	return err
}
