package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"github.com/spf13/cobra"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
)

func ledgerTilesCommand(a *app) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "tiles DIR",
		Short: "Lay the ledger out as C2SP tlog-tiles, for a static web server",
		Long: `Write checkpoint, Merkle tree tiles and entry bundles of the ledger into DIR, as C2SP tlog-tiles has
them. Served as they are, auditors and mirrors can follow the ledger without asking the vault. Done again
it adds what is new. The records are readable: names of sources, times and locks. Nothing in the
vault is changed.`,
		Args: exactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir, err := a.vaultDir()
			if err != nil {
				return err
			}
			if inside(args[0], dir) {
				return usage("%q lies inside the vault; choose another place", args[0])
			}
			t, err := writeTiles(dir, args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(a.out, t)
			}
			for _, name := range t.LeftOut {
				fmt.Fprintf(a.out, "left out %s: a record in it is too long for the format; it stands in the ledger's segments\n", name)
			}
			_, err = fmt.Fprintf(a.out, "Wrote %s for a checkpoint of %s.\n", counted(t.Written, "file"), counted(int(t.Size), "record"))
			return err
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// tiles is what an export wrote.
type tiles struct {
	Size    uint64   `json:"size"`
	Written int      `json:"written"` // files that were not there as they are
	LeftOut []string `json:"left_out"`
}

func writeTiles(vaultDir, to string) (*tiles, error) {
	from, err := durable.OpenDir(vaultDir)
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	defer from.Close()
	l, err := ledger.Open(from, ledgerDir, "", "")
	if err != nil {
		return nil, err
	}
	if bad := l.Damages(); len(bad) > 0 {
		return nil, &exitError{exitDamage, fmt.Errorf("%w; see: holdfast ledger verify", &bad[0])}
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return nil, err
	}
	out, err := durable.OpenDir(to)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	t := &tiles{}
	t.LeftOut, err = l.Tiles(func(f ledger.TileFile) error {
		if path.Dir(f.Name) == "." {
			c, err := ledger.PeekCheckpoint(f.Data)
			if err != nil {
				return err
			}
			t.Size = c.Size
		}
		return t.put(out, f)
	})
	if t.LeftOut == nil {
		t.LeftOut = []string{}
	}
	return t, err
}

// put writes a file unless it is there. A full tile that is there with other content belongs to another ledger.
func (t *tiles) put(d durable.Disk, f ledger.TileFile) error {
	there, err := durable.ReadFile(d, f.Name, int64(len(f.Data)))
	switch {
	case err == nil && bytes.Equal(there, f.Data):
		return nil
	case err == nil && f.Final, errors.Is(err, durable.ErrTooLarge) && f.Final:
		return &exitError{exitDamage, fmt.Errorf("%s is there with other content: it is of another ledger, or the past was changed; see: holdfast ledger verify", f.Name)}
	case err != nil && !errors.Is(err, durable.ErrTooLarge) && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := durable.MkdirAll(d, path.Dir(f.Name), 0o755); err != nil {
		return err
	}
	t.Written++
	return durable.Replace(d, f.Name, f.Data, 0o644)
}
