package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/vault"
)

func runSimulate(ctx context.Context, c *call) error {
	if c.bool("dry-run") {
		return usage("prune: --simulate changes nothing; leave --dry-run away")
	}
	d, err := config.ParseDuration(c.string("simulate"))
	if err != nil || d < time.Hour || d > vault.ForeseeMax {
		return usage("--simulate %q: want a duration of an hour to 100 years, such as 90d or 5y", c.string("simulate"))
	}
	f, err := c.view.v.Foresee(ctx, vault.ForeseeOptions{For: d, NoPulls: c.bool("no-pulls")})
	if err != nil {
		return fmt.Errorf("prune: %w; see: holdfast check", err)
	}
	j := newForesightJSON(&f, c.bool("no-pulls"))
	if c.json() {
		return writeJSON(c.out, j)
	}
	return printForesight(c.out, j)
}

type foresightJSON struct {
	From    time.Time      `json:"from"`
	To      time.Time      `json:"to"`
	NoPulls bool           `json:"no_pulls"`
	Halted  string         `json:"halted,omitempty"` // why nothing is removed today; played as if it ended today
	Rhythms []rhythmJSON   `json:"rhythms"`
	Prunes  []foreseenJSON `json:"prunes"`
	Kept    []willKeepJSON `json:"kept"`
	// Bytes of sealed packs and manifests at either end, what came and what went in between.
	Begin  uint64 `json:"begin_bytes"`
	Stored uint64 `json:"stored_bytes"`
	Freed  uint64 `json:"freed_bytes"`
	End    uint64 `json:"end_bytes"`
}

type rhythmJSON struct {
	Source string `json:"source"`
	Every  int64  `json:"every_s,omitempty"` // left out where no pulls are foreseen
	Stored uint64 `json:"stored_bytes,omitempty"`
	Lasts  uint64 `json:"grows_by_bytes,omitempty"`
	Pulls  int    `json:"of_pulls,omitempty"` // that are there and tell that
	Why    string `json:"why,omitempty"`      // why not
}

type foreseenJSON struct {
	At        time.Time        `json:"at"`
	Snapshots []willRemoveJSON `json:"snapshots"`
	Packs     int              `json:"packs"` // of today's
	Freed     uint64           `json:"freed_bytes"`
	Pulls     int              `json:"pulls"`
	Stored    uint64           `json:"stored_bytes"`
	Taken     uint64           `json:"taken_bytes"`
}

type willRemoveJSON struct {
	Snapshot string    `json:"snapshot"`
	ID       string    `json:"id,omitempty"` // left out where there is none yet
	Commit   time.Time `json:"commit"`
}

type willKeepJSON struct {
	willRemoveJSON
	Source  string       `json:"source"`
	Reasons []reasonJSON `json:"reasons"`
}

func newForesightJSON(f *vault.Foresight, noPulls bool) foresightJSON {
	j := foresightJSON{
		From: f.From.Truncate(time.Second), To: f.To.Truncate(time.Second), NoPulls: noPulls, Halted: f.Halt, Begin: f.Begin, End: f.End,
		Rhythms: []rhythmJSON{}, Prunes: []foreseenJSON{}, Kept: []willKeepJSON{},
	}
	for _, r := range f.Rhythms {
		j.Rhythms = append(j.Rhythms, rhythmJSON{r.Source, int64(r.Every / time.Second), r.Stored, r.Lasts, r.Pulls, r.Why})
	}
	for _, p := range f.Prunes {
		pj := foreseenJSON{p.At.Truncate(time.Second), []willRemoveJSON{}, p.Packs, p.Freed, p.Pulls, p.Stored, p.Taken}
		for _, s := range p.Snapshots {
			pj.Snapshots = append(pj.Snapshots, newWillRemoveJSON(s))
		}
		j.Prunes = append(j.Prunes, pj)
		j.Stored += p.Stored
		j.Freed += p.Freed
	}
	for _, s := range f.Kept {
		j.Kept = append(j.Kept, willKeepJSON{newWillRemoveJSON(s), s.Source, reasonsJSON(s.Reasons)})
	}
	return j
}

func newWillRemoveJSON(s vault.ForeseenSnapshot) willRemoveJSON {
	j := willRemoveJSON{Snapshot: s.Source + "@" + s.Label, ID: s.ID, Commit: s.Committed.UTC().Truncate(time.Second)}
	if s.ToCome {
		j.ID, j.Snapshot = "", s.Source+"@"+s.Committed.UTC().Format("20060102T150405Z")
	}
	return j
}

func printForesight(w io.Writer, j foresightJSON) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Played forward from %s to %s, with a prune each day, as far as the policy in force goes.\n", minute(j.From), minute(j.To))
	if j.Halted != "" {
		fmt.Fprintf(&b, "Today nothing is removed: %s. This is played as if that ended now.\n", printable(j.Halted))
	}
	if j.NoPulls {
		fmt.Fprintln(&b, "Nothing new comes: no pulls.")
	}
	for _, r := range j.Rhythms {
		if r.Every == 0 {
			fmt.Fprintf(&b, "  %s: no pulls are foreseen: %s\n", r.Source, printable(r.Why))
			continue
		}
		fmt.Fprintf(&b, "  %s: pulled every %s, %s each, of which it grows by %s (as its last %s did)\n", r.Source, lasting(r.Every), humanize.IBytes(r.Stored), humanize.IBytes(r.Lasts), counted(r.Pulls, "pull"))
	}
	if err := printTimeline(&b, j); err != nil {
		return err
	}
	printKept(&b, j)
	_, err := io.WriteString(w, b.String())
	return err
}

// printTimeline writes a row a day where that is few, else one a month.
func printTimeline(w io.Writer, j foresightJSON) error {
	form, word := "2006-01-02", "DAY"
	if len(j.Prunes) > 40 {
		form, word = "2006-01", "MONTH"
	}
	if len(j.Prunes) == 0 {
		_, err := fmt.Fprint(w, "\nNothing goes, and nothing comes.\n")
		return err
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "%s\tGO\tCOMES BACK\tPULLS\tSTORED\tTAKEN AFTER\t\n", word)
	var row foreseenJSON
	gone := 0
	end := func() {
		if !row.At.IsZero() {
			fmt.Fprintf(t, "%s\t%d\t%s\t%d\t%s\t%s\t\n", row.At.Format(form), gone, humanize.IBytes(row.Freed), row.Pulls, humanize.IBytes(row.Stored), humanize.IBytes(row.Taken))
		}
		row, gone = foreseenJSON{}, 0
	}
	for _, p := range j.Prunes {
		if row.At.Format(form) != p.At.Format(form) {
			end()
		}
		row.At, row.Taken = p.At, p.Taken
		row.Freed += p.Freed
		row.Pulls += p.Pulls
		row.Stored += p.Stored
		gone += len(p.Snapshots)
	}
	end()
	return t.Flush()
}

// printKept says by what everything is kept at the end, a line for each source.
func printKept(w io.Writer, j foresightJSON) {
	fmt.Fprintf(w, "\nFrom %s to %s: %s comes back, %s is stored.\nAt the end are kept:\n", humanize.IBytes(j.Begin), humanize.IBytes(j.End), humanize.IBytes(j.Freed), humanize.IBytes(j.Stored))
	bySource := map[string]map[string]int{}
	total := map[string]int{}
	for _, k := range j.Kept {
		if bySource[k.Source] == nil {
			bySource[k.Source] = map[string]int{}
		}
		total[k.Source]++
		if len(k.Reasons) == 0 {
			bySource[k.Source]["only until a prune"]++
		}
		for _, r := range k.Reasons {
			bySource[k.Source][r.Rule]++
		}
	}
	for _, source := range slices.Sorted(maps.Keys(bySource)) {
		rules := slices.SortedFunc(maps.Keys(bySource[source]), func(a, b string) int {
			return cmp.Or(cmp.Compare(bySource[source][b], bySource[source][a]), cmp.Compare(a, b))
		})
		for i, r := range rules {
			rules[i] = fmt.Sprintf("%s %d", r, bySource[source][r])
		}
		fmt.Fprintf(w, "  %s: %s (by %s)\n", source, counted(total[source], "snapshot"), strings.Join(rules, ", "))
	}
	if len(j.Kept) == 0 {
		fmt.Fprintln(w, "  nothing")
	}
}
