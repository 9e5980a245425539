package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/pflag"

	"github.com/holdfast-vault/holdfast/immutability/retention"
	"github.com/holdfast-vault/holdfast/vault"
)

func verbCheck() *verb {
	return &verb{
		use: "check [--read-data]", short: "Verify the vault", access: writeAccess, lookAnyway: true,
		long: `Verify ledger, checkpoint, manifests, catalogs and packs; with --read-data every byte of every
pack. Names what is damaged and which files of which snapshots that touches. A wrong index is
rebuilt and is no damage: it is a cache.`,
		flags: func(fs *pflag.FlagSet) {
			jsonFlag(fs)
			fs.Bool("read-data", false, "read and verify every byte")
			progressFlag(fs)
		},
		run: func(ctx context.Context, c *call) error {
			line := newProgressLine(c)
			start := time.Now()
			rep, err := c.view.v.Check(ctx, vault.CheckOptions{ReadData: c.bool("read-data"), Progress: func(done, total int) {
				line.show(fmt.Sprintf("check: %d of %d packs%s", done, total, eta(start, uint64(done), uint64(total))))
			}})
			line.end()
			if err != nil {
				return err
			}
			return reportCheck(c, rep)
		},
	}
}

type damageJSON struct {
	What     string `json:"what"`
	Detail   string `json:"detail"`
	Pack     uint32 `json:"pack,omitempty"`
	Snapshot string `json:"snapshot,omitempty"`
}

type touchedJSON struct {
	pathJSON
	Snapshot string `json:"snapshot"`
	Source   string `json:"source"`
	Time     string `json:"time"`
}

func reportCheck(c *call, rep *vault.CheckReport) error {
	j := struct {
		Snapshots    int           `json:"snapshots"`
		Packs        int           `json:"packs"`
		Chunks       uint64        `json:"chunks"`
		BytesRead    uint64        `json:"bytes_read"`
		IndexRebuilt string        `json:"index_rebuilt,omitempty"`
		Damage       []damageJSON  `json:"damage"`
		Touched      []touchedJSON `json:"touched"`
		TouchedCount uint64        `json:"touched_count"`
		Unseen       []damageJSON  `json:"unseen,omitempty"`
	}{rep.Snapshots, rep.Packs, rep.Chunks, rep.BytesRead, rep.IndexRebuilt, []damageJSON{}, []touchedJSON{}, rep.TouchedCount, nil}
	for _, d := range rep.Unseen {
		j.Unseen = append(j.Unseen, damageJSON{d.What, d.Detail, d.Pack, d.Snapshot})
	}
	for _, d := range rep.Damage {
		j.Damage = append(j.Damage, damageJSON{d.What, d.Detail, d.Pack, d.Snapshot})
	}
	for _, t := range rep.Touched {
		j.Touched = append(j.Touched, touchedJSON{newPathJSON(t.Path), t.Snapshot, t.Source, t.Label})
	}
	if c.json() {
		if err := writeJSON(c.out, j); err != nil {
			return err
		}
	} else {
		for _, d := range j.Damage {
			fmt.Fprintf(c.out, "DAMAGE %s: %s\n", printable(d.What), printable(d.Detail))
		}
		for _, d := range j.Unseen {
			fmt.Fprintf(c.out, "UNSEEN %s: %s\n", printable(d.What), printable(d.Detail))
		}
		for _, t := range j.Touched {
			fmt.Fprintf(c.out, "TOUCHED %s@%s %s\n", t.Source, t.Time, printable(t.Path))
		}
		if more := j.TouchedCount - uint64(len(j.Touched)); more > 0 {
			fmt.Fprintf(c.out, "TOUCHED and %d more files\n", more)
		}
		if j.IndexRebuilt != "" {
			fmt.Fprintf(c.out, "The index was wrong (%s) and was rebuilt; nothing that is stored was affected.\n", printable(j.IndexRebuilt))
		}
		fmt.Fprintf(c.out, "Checked %d snapshots, %d packs, %d chunks", j.Snapshots, j.Packs, j.Chunks)
		if j.BytesRead > 0 {
			fmt.Fprintf(c.out, ", every byte of %s", humanize.IBytes(j.BytesRead))
		}
		fmt.Fprintln(c.out, ".")
	}
	if len(j.Damage) > 0 || j.TouchedCount > 0 {
		return &exitError{exitDamage, fmt.Errorf("%d places are damaged, which touches %d files of snapshots; the rest can be given back: do not prune, and take a copy of the vault before you mend anything", len(j.Damage), j.TouchedCount)}
	}
	if len(j.Unseen) > 0 {
		return &exitError{exitFailed, errors.New("no damage was found, and not everything was looked at; start the keeper (systemctl status holdfast-keeper) and mount every place of the vault (holdfast vault place list), and run this again")}
	}
	return nil
}

func verbPrune() *verb {
	return &verb{
		use: "prune [--dry-run | --simulate DURATION]", short: "Remove what may go, and say why the rest stays", access: writeAccess,
		looks: func(f *pflag.FlagSet) bool { return f.Changed("dry-run") || f.Changed("simulate") },
		long: `Remove snapshots whose lock has run out and that no keep rule wants, and then the packs that nothing
relies on any more. The newest complete snapshot of a source never goes. What stays is listed with every
reason for it. It takes two runs, more than a day apart: the first marks what may go, in the ledger, and
the second removes what is marked and may still go.

--dry-run and --simulate change nothing and need no write access. --simulate plays the policy in force
forward and says what would go on which day, what comes back, and what is kept at the end. Each source is
taken to go on as it did lately: pulled as often, each pull storing as much, of which it grows by as much,
and the rest being replaced by the next pull; one that has been silent for long brings nothing. With
--no-pulls nothing new comes: then it is what happens if the machine stays on, a prune runs every day and
nobody changes anything.`,
		flags: func(fs *pflag.FlagSet) {
			jsonFlag(fs)
			fs.Bool("dry-run", false, "only say what would go")
			fs.String("simulate", "", "play the policy forward for this `DURATION`, for example 365d")
			fs.Bool("no-pulls", false, "with --simulate: nothing new comes")
		},
		run: func(ctx context.Context, c *call) error {
			if c.string("simulate") != "" {
				return runSimulate(ctx, c)
			}
			if c.bool("no-pulls") {
				return usage("prune: --no-pulls goes with --simulate DURATION")
			}
			return runPrune(ctx, c)
		},
	}
}

func runPrune(ctx context.Context, c *call) error {
	dry := c.bool("dry-run")
	names := map[string]string{}
	all, err := c.view.v.Snapshots(ctx)
	if err != nil {
		return err
	}
	for _, s := range all {
		names[s.ID] = s.Source + "@" + s.Label
	}
	rep, err := c.view.v.Prune(ctx, dry)
	if errors.Is(err, vault.ErrKeeperGone) {
		return fmt.Errorf("prune: %w", err)
	}
	if err != nil {
		return fmt.Errorf("prune: %w; see: holdfast check", err)
	}
	j := pruneJSON{DryRun: dry, Snapshots: []decisionJSON{}, Packs: len(rep.Packs), Bytes: uint64(rep.Bytes), MarkedSnapshots: rep.MarkedSnapshots, MarkedPacks: rep.MarkedPacks}
	for _, d := range rep.Decisions {
		j.Snapshots = append(j.Snapshots, newDecisionJSON(names[d.ID], d))
	}
	return reportPrune(c, j)
}

type decisionJSON struct {
	Snapshot string     `json:"snapshot"`
	ID       string     `json:"id"`
	Goes     bool       `json:"goes"`
	Why      string     `json:"why"`
	Until    *time.Time `json:"until,omitempty"`
	// Reasons are all for which it stays, Why is the first of them.
	Reasons []reasonJSON `json:"reasons"`
	// Earliest is a time before which nothing but several people's consent lets it go; it is marked for a day then. Left out where
	// only they ever do.
	Earliest *time.Time `json:"earliest,omitempty"`
}

func newDecisionJSON(name string, d retention.Decision) decisionJSON {
	return decisionJSON{
		Snapshot: name, ID: d.ID, Goes: d.Go, Why: d.Why, Until: known(d.Until), Reasons: reasonsJSON(d.Reasons), Earliest: known(d.Earliest),
	}
}

// reasons says all of them in a line.
func (d *decisionJSON) reasons() string {
	if d.Goes || len(d.Reasons) == 0 {
		return d.Why
	}
	texts := make([]string, len(d.Reasons))
	for i, r := range d.Reasons {
		texts[i] = r.Text
	}
	return strings.Join(texts, "; ")
}

type pruneJSON struct {
	DryRun    bool           `json:"dry_run"`
	Snapshots []decisionJSON `json:"snapshots"`
	Packs     int            `json:"packs"`
	Bytes     uint64         `json:"bytes"`
	// Newly marked, to be removed by a run more than a day later.
	MarkedSnapshots int `json:"marked_snapshots,omitempty"`
	MarkedPacks     int `json:"marked_packs,omitempty"`
}

func reportPrune(c *call, j pruneJSON) error {
	if c.json() {
		return writeJSON(c.out, j)
	}
	t := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	gone := 0
	for _, d := range j.Snapshots {
		word := "stays"
		if d.Goes {
			word = "goes"
			gone++
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", d.Snapshot, word, printable(d.reasons()))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	verb := "Removed"
	if j.DryRun {
		verb = "Would remove"
	}
	_, err := fmt.Fprintf(c.out, "%s %d of %d snapshots and %d packs, %s.\n", verb, gone, len(j.Snapshots), j.Packs, humanize.IBytes(j.Bytes))
	if err == nil && j.DryRun && gone+j.Packs > 0 {
		_, err = fmt.Fprintln(c.out, "It takes two runs: one marks them, and one more than a day later removes them.")
	}
	if err == nil && j.MarkedSnapshots+j.MarkedPacks > 0 {
		_, err = fmt.Fprintf(c.out, "Marked %d snapshots and %d packs: a prune that runs more than a day from now removes them, unless something keeps them by then.\n", j.MarkedSnapshots, j.MarkedPacks)
	}
	return err
}

func verbIndexRebuild() *verb {
	return &verb{
		use: "index-rebuild", short: "Make the index anew from the packs", access: writeAccess, flags: jsonFlag,
		long: "Throw the index away and make it anew from the footers of the packs. Nothing else is touched.",
		run: func(ctx context.Context, c *call) error {
			rep, err := c.view.v.RebuildIndex(ctx)
			if err != nil {
				return err
			}
			if c.json() {
				err = writeJSON(c.out, map[string]any{"packs": rep.Packs, "chunks": rep.Chunks, "unreadable": len(rep.Unreadable)})
			} else {
				_, err = fmt.Fprintf(c.out, "The index knows %d chunks of %d packs.\n", rep.Chunks, rep.Packs)
			}
			if err == nil && len(rep.Unreadable) > 0 {
				err = &exitError{exitDamage, fmt.Errorf("%d packs could not be read; see: holdfast check", len(rep.Unreadable))}
			}
			return err
		},
	}
}
