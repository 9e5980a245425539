package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/holdfast-vault/holdfast/vault/door"
	"github.com/holdfast-vault/holdfast/vault/restore"
)

func restoreCommand(a *app) *cobra.Command {
	var to string
	var o restore.Options
	var asJSON bool
	c := &cobra.Command{
		Use:   "restore SNAPSHOT[:PATH] --to DIR",
		Short: "Give a snapshot, or a part of it, back into a directory",
		Long: addressHelp + `

What lay directly under the source's path, or under PATH, lies directly under DIR. Every byte is
verified; a file that cannot be had is named, the others are restored, and the command fails.
DIR must be empty or new unless --overwrite is given. Ownership is set where this user may.`,
		Args: exactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if to == "" {
				return usage("restore: where to? give --to DIR")
			}
			return a.restore(c.Context(), args[0], to, o, asJSON)
		},
	}
	f := c.Flags()
	f.StringVar(&to, "to", "", "restore into `DIR`")
	f.BoolVar(&o.Overwrite, "overwrite", false, "DIR may hold something: files of the same name are replaced")
	f.BoolVar(&o.Owner, "owner", true, "give files their recorded owner where permitted")
	f.BoolVar(&asJSON, "json", false, "print the report as JSON")
	return c
}

// restore writes as the user who asks, whoever has the vault open: beside a daemon the content comes through its
// socket.
func (a *app) restore(ctx context.Context, address, to string, o restore.Options, asJSON bool) error {
	start := time.Now()
	line := &progressLine{}
	if isTerminal(a.err) && !asJSON {
		line.w = a.err
	}
	o.Events = restore.Events{
		Note: func(path, text string) {
			line.end()
			fmt.Fprintf(a.err, "holdfast: note: %s: %s\n", printable(path), printable(text))
		},
	}
	if line.w != nil { // a line for each file costs more than many a file
		o.Events.Progress = func(p restore.Progress) {
			rate := uint64(float64(p.Bytes) / max(time.Since(start).Seconds(), 0.001))
			line.show(fmt.Sprintf("restore: %d files, %s, %s/s", p.Files, humanize.IBytes(p.Bytes), humanize.IBytes(rate)))
		}
	}
	dir, err := a.vaultDir()
	if err != nil {
		return err
	}
	place, err := a.lockPlace(dir)
	if err != nil {
		return err
	}
	var rep restore.Report
	if h, held := lockHolder(place); held && h.Socket != "" {
		rep, err = a.restoreThroughDaemon(ctx, h, address, to, o)
	} else {
		rep, err = a.restoreHere(ctx, dir, address, to, o)
	}
	line.end()
	return a.reportRestore(rep, err, address, to, asJSON, time.Since(start))
}

func (a *app) restoreHere(ctx context.Context, dir, address, to string, o restore.Options) (rep restore.Report, err error) {
	h, err := a.open(ctx, dir, readAccess)
	if err != nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, h.v.Close()) }()
	c := &call{view: &view{v: h.v}, host: h, err: a.err}
	s, path, err := c.open(ctx, address)
	if err != nil {
		return rep, err
	}
	return restore.ToDirectory(ctx, s, path, to, o)
}

func (a *app) restoreThroughDaemon(ctx context.Context, h holder, address, to string, o restore.Options) (restore.Report, error) {
	r, w := io.Pipe()
	type result struct {
		code int
		err  error
	}
	sent := make(chan result, 1)
	go func() {
		code, err := door.RunLocal(ctx, h.Socket, []string{"tar", "--for-restore", address}, door.IO{Out: w, Err: a.err})
		_ = w.CloseWithError(err)
		sent <- result{code, err}
	}()
	rep, err := restore.FromTar(ctx, r, to, o)
	ended := errors.New("the restore ended")
	_ = r.CloseWithError(ended)
	s := <-sent
	switch {
	case errors.Is(s.err, ended) && err != nil: // by itself: the daemon only heard of it
		return rep, err
	case s.err != nil && ctx.Err() == nil && !errors.Is(s.err, io.ErrClosedPipe):
		return rep, errors.Join(fmt.Errorf("the daemon (process %d): %w", h.PID, s.err), err)
	case s.code != exitDone && (err == nil || rep.Files == 0 && rep.FailureCount == 0):
		return rep, &exitError{code: s.code} // the daemon has said why
	}
	return rep, err
}

type restoreJSON struct {
	Files       uint64        `json:"files"`
	Directories uint64        `json:"directories"`
	Symlinks    uint64        `json:"symlinks"`
	Bytes       uint64        `json:"bytes"`
	Skipped     uint64        `json:"skipped"`
	Unowned     uint64        `json:"unowned"`
	FailedCount uint64        `json:"failed_count"`
	Failed      []problemJSON `json:"failed"`
	Seconds     float64       `json:"seconds"`
}

func (a *app) reportRestore(rep restore.Report, err error, address, to string, asJSON bool, took time.Duration) error {
	j := restoreJSON{rep.Files, rep.Directories, rep.Symlinks, rep.Bytes, rep.Skipped, rep.Unowned, rep.FailureCount, []problemJSON{}, took.Seconds()}
	for _, f := range rep.Failures {
		j.Failed = append(j.Failed, problemJSON{newPathJSON(f.Path), f.Op + ": " + f.Err.Error()})
	}
	if asJSON {
		if jerr := writeJSON(a.out, j); jerr != nil {
			return jerr
		}
	} else {
		for _, f := range j.Failed {
			fmt.Fprintf(a.err, "holdfast: NOT RESTORED %s: %s\n", printable(f.Path), printable(f.Reason))
		}
		if err == nil {
			fmt.Fprintf(a.out, "Restored %s to %s: %d files, %d directories, %s in %s, every byte verified.\n",
				printable(address), to, rep.Files, rep.Directories, humanize.IBytes(rep.Bytes), took.Round(10*time.Millisecond))
			if rep.Unowned > 0 {
				fmt.Fprintf(a.out, "The owner of %d entries could not be set; run restore as root for that.\n", rep.Unowned)
			}
		}
	}
	var failed *restore.Error
	if errors.As(err, &failed) {
		return fmt.Errorf("restore of %s is incomplete: %d entries could not be given back; the others are in %s; see what is damaged with: holdfast check --read-data", address, failed.Count, to)
	}
	if errors.Is(err, restore.ErrNotEmpty) {
		return fmt.Errorf("restore: %q is not empty; give another directory, or --overwrite to replace files of the same name", to)
	}
	return notThere(err, address)
}
