package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/dustin/go-humanize"

	"github.com/holdfast-vault/holdfast/vault"
)

func verbUsage() *verb {
	return &verb{
		use: "usage", short: "Say who takes the room on the vault's disk",
		long: `Say who takes the room on the vault's disk. Every file counts in exactly one place, with its size, so
that all of them add up to what is there. A source's unique bytes are packs that its snapshots name and
no other source's; what it shares comes free only when the last source that names it lets it go. Packs of
nobody are those that no snapshot names: of a session that may still go on, or to be taken by a prune.
Dead bytes lie in packs beside others that are used, or are used by older snapshots alone.`,
		flags: jsonFlag,
		run: func(ctx context.Context, c *call) error {
			s, err := c.view.v.Space(ctx)
			if err != nil {
				return err
			}
			j := newUsageJSON(&s)
			if c.json() {
				return writeJSON(c.out, j)
			}
			return printUsage(c.out, j)
		},
	}
}

type filesJSON struct {
	Files uint64 `json:"files"`
	Bytes uint64 `json:"bytes"`
}

type sourceUsageJSON struct {
	Source    string    `json:"source"`
	Snapshots int       `json:"snapshots"`
	Unique    filesJSON `json:"unique"`
	Manifests filesJSON `json:"manifests"`
	// Shared are packs that other sources name too: the same pack stands here for each of them, and once in the total.
	Shared filesJSON `json:"shared"`
}

type unfinishedJSON struct {
	Source string `json:"source,omitempty"`
	filesJSON
}

type usageJSON struct {
	Sources    []sourceUsageJSON `json:"sources"`
	Shared     filesJSON         `json:"shared"`
	Unfinished []unfinishedJSON  `json:"unfinished"`
	Nobody     filesJSON         `json:"nobody"`
	Growing    filesJSON         `json:"growing"`
	Orphans    filesJSON         `json:"manifests_never_committed"`
	Leaving    filesJSON         `json:"leaving"`
	Unknown    filesJSON         `json:"unknown"`
	Ledger     filesJSON         `json:"ledger"`
	Index      filesJSON         `json:"index"`
	Other      filesJSON         `json:"other"`
	Total      filesJSON         `json:"total"`
	Dead       uint64            `json:"dead_bytes"`
	// DeadKnown is false without a key: then packs count as dead only as a whole.
	DeadKnown bool     `json:"dead_bytes_known"`
	Unseen    []string `json:"unseen,omitempty"`
}

func newUsageJSON(s *vault.Space) usageJSON {
	f := func(x vault.Files) filesJSON { return filesJSON{x.Count, x.Bytes} }
	j := usageJSON{
		Sources: []sourceUsageJSON{}, Shared: f(s.Shared), Unfinished: []unfinishedJSON{}, Nobody: f(s.Nobody), Growing: f(s.Growing),
		Orphans: f(s.Orphans), Leaving: f(s.Leaving), Unknown: f(s.Unknown), Ledger: f(s.Ledger), Index: f(s.Index), Other: f(s.Other),
		Total: f(s.Total), Dead: s.Dead, DeadKnown: !s.Keyless, Unseen: s.Unseen,
	}
	for _, x := range s.Largest() {
		j.Sources = append(j.Sources, sourceUsageJSON{x.Source, x.Snapshots, f(x.Unique), f(x.Manifests), f(x.Shared)})
	}
	for _, name := range slices.Sorted(maps.Keys(s.Unfinished)) {
		j.Unfinished = append(j.Unfinished, unfinishedJSON{name, f(s.Unfinished[name])})
	}
	return j
}

func printUsage(w io.Writer, j usageJSON) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "SOURCE\tSNAPSHOTS\tUNIQUE\tSHARED\t")
	for _, s := range j.Sources {
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t\n", s.Source, s.Snapshots, humanize.IBytes(s.Unique.Bytes+s.Manifests.Bytes), humanize.IBytes(s.Shared.Bytes))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(j.Sources) == 0 {
		b.Reset()
		fmt.Fprintln(&b, "No snapshots are here yet.")
	}
	fmt.Fprintln(&b)
	t = tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(what string, f filesJSON, always bool) {
		if f.Files > 0 || always {
			fmt.Fprintf(t, "%s\t%s\t%s\n", humanize.IBytes(f.Bytes), counted(int(f.Files), "file"), what)
		}
	}
	var unique filesJSON
	for _, s := range j.Sources {
		unique.Files += s.Unique.Files + s.Manifests.Files
		unique.Bytes += s.Unique.Bytes + s.Manifests.Bytes
	}
	row("of one source each: packs and manifests", unique, true)
	row("packs that several sources share", j.Shared, true)
	for _, u := range j.Unfinished {
		of := "packs of a session that may still go on"
		if u.Source != "" {
			of += ", of " + u.Source
		}
		row(of, u.filesJSON, false)
	}
	row("packs that nobody needs: a prune takes them", j.Nobody, false)
	row("growing: not sealed yet", j.Growing, false)
	row("manifests that were never committed: a prune takes them", j.Orphans, false)
	row("gone by the ledger, files still there: a prune goes on", j.Leaving, false)
	row("packs and manifests that no record names; see: holdfast check", j.Unknown, false)
	row("the ledger", j.Ledger, true)
	row("the index and what can be resumed", j.Index, false)
	row("other: identity, keyring, clock", j.Other, false)
	row("in all", j.Total, true)
	if err := t.Flush(); err != nil {
		return err
	}
	switch {
	case !j.DeadKnown:
		fmt.Fprintf(&b, "\nAt least %s of that are not used by the newest snapshots; without a key it cannot be told how much more.\n", humanize.IBytes(j.Dead))
	case j.Dead > 0:
		fmt.Fprintf(&b, "\n%s of that are not used by the newest snapshots: older ones need them, or they lie in packs beside what is used.\n", humanize.IBytes(j.Dead))
	}
	if len(j.Unseen) > 0 {
		fmt.Fprintf(&b, "Not looked into, and not counted, for want of permission: %s.\n", strings.Join(j.Unseen, ", "))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
