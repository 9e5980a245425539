package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/place"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// placeCommand holds what concerns further directories of packs.
func placeCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "place", Short: "Further directories of packs, on other disks", RunE: helpOnly,
		Long: `A vault whose disk is full of locked packs goes on in a second directory, on another disk. New packs
go there; what is sealed stays where it is, under its locks. Ledger and manifests stay in the vault's
own directory. The vault remembers its places: nothing of this needs to be configured.`,
	}
	c.AddCommand(placeAddCommand(a), placeListCommand(a))
	return c
}

func placeAddCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "add DIR", Short: "Make an empty directory on another disk a place of the vault",
		Long: `Make the empty directory DIR, on a disk of its own, a place of the vault. It must belong to the
vault's user, and nobody else may write to it. The daemon must be stopped. A place whose mount has
moved is added again under its new path, and keeps its number.

A vault with a keeper gets its places from the keeper's own user: holdfast-keeper place add.`,
		Args: exactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := a.vaultDir()
			if err != nil {
				return err
			}
			added, err := a.addPlace(dir, args[0])
			if err != nil {
				return err
			}
			return sayAdded(a.out, added)
		},
	}
}

// addPlace adds a place to a vault that this process's user owns and nobody has open.
func (a *app) addPlace(dir, to string) (place.Added, error) {
	d, err := durable.OpenDir(dir)
	if err != nil {
		return place.Added{}, fmt.Errorf("vault: %w", err)
	}
	defer d.Close()
	if _, err := d.Stat("vault.json"); err != nil {
		return place.Added{}, fmt.Errorf("%q is not a vault: %w; give the right directory with --vault", dir, err)
	}
	if f, err := d.Flags("."); err == nil && f&durable.Immutable != 0 {
		return place.Added{}, fmt.Errorf("a keeper keeps %q: its own user adds places, while it is stopped: holdfast-keeper place add --vault %s %s", dir, dir, to)
	}
	if err := worm.Owned(d); err != nil {
		return place.Added{}, err
	}
	own, err := d.Lock("lock")
	if err != nil {
		return place.Added{}, explainOpen(dir, dir, err)
	}
	defer own.Close()
	guard, err := worm.Lock(d)
	if errors.Is(err, durable.ErrLocked) {
		return place.Added{}, fmt.Errorf("a keeper has this vault: %w; its own user adds places, while it is stopped: holdfast-keeper place add", err)
	}
	if err != nil {
		return place.Added{}, err
	}
	defer guard.Close()
	if err := worm.AtHome(d); err != nil {
		return place.Added{}, err
	}
	return place.Add(d, to)
}

func sayAdded(out io.Writer, a place.Added) error {
	what := "is place"
	if a.Known {
		what = "was a place of this vault already, and is place"
	}
	_, err := fmt.Fprintf(out, "%s %s %d of the vault from now on; new packs go there.\n", printable(a.Path), what, a.Number)
	if a.SameDisk {
		_, err = fmt.Fprintln(out, "Note: it lies on the file system of another place, and gives no more room.")
	}
	return err
}

type placeJSON struct {
	Number int    `json:"number"`
	Path   string `json:"path"`
	Away   string `json:"away,omitempty"` // why it cannot be reached; the rest is not known then
	Packs  int    `json:"packs"`
	Bytes  int64  `json:"pack_bytes"`
	Free   int64  `json:"free_bytes"`
	Total  int64  `json:"total_bytes"`
}

func placeListCommand(a *app) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "list", Short: "The vault's places: where they are, what lies in them, what room is left", Args: exactArgs(0),
		RunE: func(*cobra.Command, []string) error {
			rows, err := a.listPlaces()
			if err != nil {
				return err
			}
			return showPlaces(a.out, rows, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// listPlaces looks at the files, beside whoever has the vault open.
func (a *app) listPlaces() ([]placeJSON, error) {
	dir, err := a.vaultDir()
	if err != nil {
		return nil, err
	}
	at, err := a.places()
	if err != nil {
		return nil, err
	}
	h, err := place.OpenDir(dir, place.Options{At: at})
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("%w; run this as the vault's user, or as root", err)
	}
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	defer h.Close()
	rows, err := h.Survey()
	if err != nil {
		return nil, err
	}
	out := make([]placeJSON, len(rows))
	for i, r := range rows {
		out[i] = placeJSON{Number: r.Number, Path: r.Path, Packs: r.Packs, Bytes: r.Bytes, Free: r.Free, Total: r.Total}
		if r.Away != nil {
			out[i].Away = r.Away.Error()
		}
	}
	return out, nil
}

// showPlaces prints the list. A place that is away is a failure: nothing can be written.
func showPlaces(out io.Writer, rows []placeJSON, asJSON bool) error {
	away := 0
	for _, r := range rows {
		if r.Away != "" {
			away++
		}
	}
	var err error
	if asJSON {
		err = writeJSON(out, rows)
	} else {
		t := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
		fmt.Fprintln(t, "PLACE\tPACKS\tBYTES\tFREE\tOF\tDIRECTORY")
		for _, r := range rows {
			if r.Away != "" {
				fmt.Fprintf(t, "%d\t-\t-\t-\t-\t%s: AWAY: %s\n", r.Number, printable(r.Path), printable(r.Away))
				continue
			}
			fmt.Fprintf(t, "%d\t%d\t%s\t%s\t%s\t%s\n", r.Number, r.Packs, humanize.IBytes(uint64(r.Bytes)), humanize.IBytes(uint64(r.Free)), humanize.IBytes(uint64(r.Total)), printable(r.Path))
		}
		err = t.Flush()
	}
	if err == nil && away > 0 {
		err = fmt.Errorf("%d of the vault's places cannot be reached: nothing is written, and what lies in them cannot be given back, until they can; nothing is lost by that", away)
	}
	return err
}
