package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/retention"
	"github.com/holdfast-vault/holdfast/vault"
)

func verbExplain() *verb {
	return &verb{
		use: "explain SNAPSHOT", short: "Say why a snapshot is kept, until when, and what comes free with it", min: 1, max: 1,
		long: `Say every reason for which a snapshot is kept: locks, holds, keep rules, that it is its source's
newest; the earliest moment at which a prune could remove it; and how many bytes come free when it goes
and no other. It is the same judgement that prune makes. Of a snapshot that has gone it says when it went
and why, from the ledger. Nothing is changed.

The earliest moment counts on nobody setting the clock. A snapshot may well stay for longer: while the
machine is off no time is credited, and newer snapshots decide what keep rules want.

` + addressHelp,
		flags: jsonFlag,
		run: func(ctx context.Context, c *call) error {
			snap, err := c.whole(ctx)
			if err != nil {
				return c.explainGone(err)
			}
			e, err := c.view.v.Explain(ctx, snap.ID)
			if err != nil {
				return err
			}
			locks, err := c.view.v.Store().Locks(snap.ID)
			if err != nil {
				return err
			}
			j := newExplainJSON(&e)
			for _, l := range locks {
				j.Locks = append(j.Locks, lockJSON{
					string(l.Lock.Mode), l.Lock.ForSeconds, l.Since.Wall.UTC(), l.By, l.Until.UTC().Truncate(time.Second), l.Running, momentJSON(l.Ended), seconds(l.WallLeft), seconds(l.RunningLeft),
				})
			}
			if c.json() {
				return writeJSON(c.out, j)
			}
			return printExplain(c.out, j)
		},
	}
}

type reasonJSON struct {
	Rule  string     `json:"rule"`
	Text  string     `json:"text"`
	Until *time.Time `json:"until,omitempty"`
}

func reasonsJSON(all []retention.Reason) []reasonJSON {
	out := []reasonJSON{}
	for _, r := range all {
		out = append(out, reasonJSON{r.Rule, r.Text, known(r.Until)})
	}
	return out
}

// known leaves out a time that is not.
func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}

type explainJSON struct {
	snapshotJSON
	MayGo   bool         `json:"may_go"`
	Reasons []reasonJSON `json:"reasons"`
	Locks   []lockJSON   `json:"locks"`
	Held    []holdJSON   `json:"held"`
	Marked  *time.Time   `json:"marked,omitempty"`
	// QuorumOnly says that nothing but several people's signatures ever makes it go.
	QuorumOnly bool `json:"quorum_only"`
	// Earliest is when a prune could remove it, at the earliest; a mark and a day are in it.
	Earliest *time.Time `json:"earliest,omitempty"`
	// MayGoFrom is exact if nothing new happens from now on and no reason is "halt" or "unreadable", whose end it does not know; left
	// out where it then stays for good.
	MayGoFrom *time.Time `json:"may_go_from,omitempty"`
	// Then is what is left of the reasons if it stays for good.
	Then []reasonJSON `json:"then,omitempty"`
	Now  time.Time    `json:"now"`

	Packs         uint64 `json:"packs"`
	PackBytes     uint64 `json:"pack_bytes"`
	AlonePacks    uint64 `json:"alone_packs"`
	AloneBytes    uint64 `json:"alone_bytes"` // of these packs
	ManifestBytes uint64 `json:"manifest_bytes"`
	FreedBytes    uint64 `json:"freed_bytes"` // both
}

func newExplainJSON(e *vault.Explanation) explainJSON {
	s := &e.Snapshot
	j := explainJSON{
		snapshotJSON: newSnapshotJSON(s.Snapshot), MayGo: e.Decision.Go, Reasons: reasonsJSON(e.Decision.Reasons), Locks: []lockJSON{}, Held: holdsJSON(s.Snapshot),
		QuorumOnly: e.Decision.Never, Earliest: known(e.Leaves()), MayGoFrom: known(e.Quiet), Now: e.Now.Wall.UTC(),
		Packs: e.Packs, PackBytes: e.PackBytes, AlonePacks: e.Alone, AloneBytes: e.AloneBytes, ManifestBytes: uint64(s.Manifest),
		FreedBytes: e.AloneBytes + uint64(s.Manifest),
	}
	if len(e.Then) > 0 {
		j.Then = reasonsJSON(e.Then)
	}
	if !s.Marked.IsZero() {
		j.Marked = known(s.Marked.Wall)
	}
	return j
}

func printExplain(w io.Writer, j explainJSON) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s@%s  %s\n", j.Source, j.Time, j.ID)
	quality := "clean"
	if !j.Clean {
		quality = "not clean"
	}
	if j.Damage != "" {
		quality = "DAMAGED: " + printable(j.Damage)
	}
	fmt.Fprintf(&b, "Committed %s, %s, %s.\n\n", minute(j.Commit), j.State, quality)
	if j.MayGo {
		fmt.Fprintln(&b, "Nothing keeps it: its locks have run, nobody holds it, no keep rule wants it, and newer ones are kept.")
	} else {
		fmt.Fprintf(&b, "It is kept, for %s:\n", counted(len(j.Reasons), "reason"))
		for _, r := range j.Reasons {
			fmt.Fprintf(&b, "  %-11s%s\n", r.Rule, printable(r.Text))
			j.details(&b, r.Rule)
		}
	}
	fmt.Fprintf(&b, "\n%s\n", j.when())
	fmt.Fprintf(&b, "With it alone %s come free: %s of the %d that it names, and its manifest. What else it names, others need too.\n",
		humanize.IBytes(j.FreedBytes), counted(int(j.AlonePacks), "pack"), j.Packs)
	_, err := io.WriteString(w, b.String())
	return err
}

// details lists the locks and holds where there are several.
func (j *explainJSON) details(b *strings.Builder, rule string) {
	switch rule {
	case retention.RuleLock:
		running := 0
		for _, l := range j.Locks {
			if l.Running {
				running++
			}
		}
		for _, l := range j.Locks {
			if l.Running && running > 1 {
				fmt.Fprintf(b, "             - %s for %s from %s, until %s%s\n", l.Mode, lasting(l.Seconds), minute(l.Since), minute(l.Until), by(l.By))
			}
		}
	case retention.RuleHold:
		for _, h := range j.Held {
			if len(j.Held) > 1 {
				fmt.Fprintf(b, "             - since %s%s: %s\n", minute(h.Since), by(h.By), printable(h.Reason))
			}
		}
	}
}

func by(name string) string {
	if name == "" {
		return ""
	}
	return ", by " + printable(name)
}

// stopped says whether something stops all removal, of whose end nobody knows.
func (j *explainJSON) stopped() bool {
	return slices.ContainsFunc(j.Reasons, func(r reasonJSON) bool { return r.Rule == retention.RuleHalt || r.Rule == retention.RuleUnreadable })
}

// when says when it could go.
func (j *explainJSON) when() string {
	people := "unless several people sign for it"
	for _, l := range j.Locks {
		if l.Running && l.Mode == string(ledger.Compliance) {
			people = "and nobody can end a compliance lock before"
		}
	}
	var s string
	switch {
	case j.QuorumOnly:
		s = "No time ends that: only several people who sign for it can."
	case j.MayGo && j.Marked != nil:
		s = fmt.Sprintf("It is marked since %s. The first prune from %s on removes it, unless something keeps it by then.", minute(*j.Marked), minute(*j.Earliest))
	case j.MayGo:
		s = fmt.Sprintf("The next prune marks it, and one a day later removes it: not before %s.", minute(*j.Earliest))
	default:
		s = fmt.Sprintf("Not before %s, %s: what may go is marked first, and removed a day later.", minute(*j.Earliest), people)
	}
	switch {
	case j.MayGo || j.QuorumOnly:
	case j.MayGoFrom == nil:
		s += "\nIf nothing new comes it stays for good, for what is left once locks have run:"
		for _, r := range j.Then {
			s += fmt.Sprintf("\n  %-11s%s", r.Rule, printable(r.Text))
		}
	case j.stopped():
		s += fmt.Sprintf("\nIf nothing new comes and this machine stays on, it may be marked from %s, once nothing stops all removal any more.", j.MayGoFrom.Format("2006-01-02 15:04:05 UTC"))
	default:
		s += fmt.Sprintf("\nIf nothing new comes and this machine stays on, it may be marked from %s, exactly.", j.MayGoFrom.Format("2006-01-02 15:04:05 UTC"))
	}
	return s
}

// goneJSON is what the ledger says of a snapshot that is no more.
type goneJSON struct {
	ID        string     `json:"id"`
	Source    string     `json:"source"`
	Time      string     `json:"time"`
	State     string     `json:"state"`
	Commit    time.Time  `json:"commit"`
	Marked    *time.Time `json:"marked,omitempty"`
	MarkedBy  uint64     `json:"mark_record,omitempty"`
	Gone      time.Time  `json:"gone"`
	Intent    uint64     `json:"intent_record"`
	Reason    string     `json:"reason"`
	Done      *time.Time `json:"done,omitempty"` // left out while files of it may still be there
	Policy    uint64     `json:"policy_record"`  // the one in force then
	PolicyBy  string     `json:"policy_by,omitempty"`
	PolicyAt  time.Time  `json:"policy_since"`
	Locked    time.Time  `json:"locked_until"` // the latest end of its locks, by the wall clock
	Request   string     `json:"request,omitempty"`
	RequestBy []string   `json:"request_signed_by,omitempty"`
	Carried   uint64     `json:"carried_record,omitempty"`
}

// explainGone says of a snapshot that is not there when and why it went, or else what was wrong with the address.
func (c *call) explainGone(otherwise error) error {
	var e *exitError
	if errors.As(otherwise, &e) {
		return otherwise
	}
	a, err := vault.ParseAddress(c.args[0])
	if err != nil {
		return otherwise
	}
	found := gone(c.view.v.Store().Ledger(), a, c.view.sees)
	switch len(found) {
	case 0:
		return otherwise
	case 1:
	default:
		return fmt.Errorf("%s is gone, and so are others: %d IDs begin so; give more digits", c.args[0], len(found))
	}
	if c.json() {
		return writeJSON(c.out, found[0])
	}
	return printGone(c.out, found[0])
}

func printGone(w io.Writer, j *goneJSON) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s@%s  %s\n", j.Source, j.Time, j.ID)
	fmt.Fprintf(&b, "Committed %s, %s. It is gone since %s: record %d, %s.\n", minute(j.Commit), j.State, minute(j.Gone), j.Intent, printable(j.Reason))
	if j.Request != "" {
		fmt.Fprintf(&b, "Several people asked for that: request %s, signed by %s, carried out by record %d.\n", j.Request, strings.Join(j.RequestBy, ", "), j.Carried)
	} else {
		fmt.Fprintf(&b, "By its locks it was kept until %s.\n", minute(j.Locked))
	}
	if j.Marked != nil {
		fmt.Fprintf(&b, "It was marked on %s, by record %d.\n", minute(*j.Marked), j.MarkedBy)
	}
	fmt.Fprintf(&b, "The policy in force was that of record %d, since %s%s.\n", j.Policy, minute(j.PolicyAt), by(j.PolicyBy))
	if j.Done == nil {
		fmt.Fprintln(&b, "Its files are not all removed yet; the next prune goes on.")
	} else {
		fmt.Fprintf(&b, "Its manifest was removed by %s. Packs that nothing else named went then or later.\n", minute(*j.Done))
	}
	_, err := io.WriteString(w, b.String())
	return err
}
