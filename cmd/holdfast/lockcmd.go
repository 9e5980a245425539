package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/pflag"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/policy"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/vault"
)

const neverShorter = `Running locks only grow: one that would end earlier or be weaker than what runs is refused.
governance may become compliance, never back. Nobody ends a compliance lock, and a governance lock
only several people who sign for it (holdfast request make delete). A request below the policy's minimum is raised; one above its maximum is refused.`

func verbLock() *verb {
	return &verb{
		use: "lock SNAPSHOT|--kept-by RULE [--for DURATION] [--mode MODE]", short: "Give a snapshot a further, longer or stronger lock", max: 1, access: writeAccess, keyless: true,
		long: `Give a snapshot a further lock, which runs from now. Without --for it is as long as what runs, so
that --mode compliance alone makes a governance lock one that nobody can end.

With --kept-by RULE [SOURCE], lock everything that the keep rule wants (hourly, daily, weekly, monthly,
yearly, within, or any), today or once all locks have run. What is locked so already is left alone, and
so is what is short by less than 30 days (or half of DURATION): a monthly timer may give this command.

` + neverShorter + "\n\n" + addressHelp,
		flags: func(f *pflag.FlagSet) {
			jsonFlag(f)
			f.String("for", "", "lock from now for this `DURATION`, for example 90d")
			f.String("mode", "", "lock `MODE`: governance or compliance (default that of what runs)")
			f.String("kept-by", "", "lock what the keep rule `RULE` wants, of one source or of all")
			byFlag(f)
		},
		prepare: prepareBy,
		run:     runLock,
	}
}

func byFlag(f *pflag.FlagSet) {
	f.String("by", "", "`NAME` for the record (default the user who runs this, at this machine)")
}

// prepareBy names who asks, where he asks.
func prepareBy(f *pflag.FlagSet, args []string) ([]string, error) {
	if by, _ := f.GetString("by"); by != "" {
		return args, nil
	}
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return args, f.Set("by", name)
}

// by is who asks, for the record: at the door the user whose key was shown, on this machine whom prepareBy names.
func (c *call) by() string {
	if c.view.user != "" {
		return c.view.user + " (door)"
	}
	return c.string("by")
}

// whole resolves an address that names a whole snapshot. It need not be readable to be locked.
func (c *call) whole(ctx context.Context) (worm.Snapshot, error) {
	return c.view.find(ctx, c.args[0])
}

func runLock(ctx context.Context, c *call) error {
	if c.string("kept-by") != "" {
		return runLockKept(ctx, c)
	}
	if len(c.args) == 0 {
		return usage("lock: which snapshot? name one, or a keep rule with --kept-by RULE")
	}
	if c.string("for") == "" && c.string("mode") == "" {
		return usage("lock: say for how long with --for DURATION, or --mode compliance for what runs")
	}
	lock, err := c.lockOf("for")
	if err != nil {
		return err
	}
	snap, err := c.whole(ctx)
	if err != nil {
		return err
	}
	after, err := c.view.v.Store().Extend(ctx, snap.ID, lock, c.by())
	if err != nil {
		return err
	}
	if c.json() {
		return writeJSON(c.out, newSnapshotJSON(after))
	}
	_, err = fmt.Fprintf(c.out, "%s@%s is locked (%s) until %s\n", after.Source, after.Label, after.Lock.Mode, minute(after.LockedUntil))
	return err
}

func minute(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

func verbLockShow() *verb {
	return &verb{
		use: "lock-show [SNAPSHOT]", short: "Show the policy in force, or the locks of a snapshot", max: 1, keyless: true,
		long: `Without SNAPSHOT show the policy in force, which is the ledger's: what locks are made of for the
vault and for each source, what of the configuration is not followed because it is looser, when a
compliance policy hardens, and how much of its budget each source used within 24 hours.
With SNAPSHOT show each of its locks, who asked for it and until when it runs, and its holds.

` + addressHelp,
		flags: jsonFlag,
		run: func(ctx context.Context, c *call) error {
			if len(c.args) == 1 {
				return showLocks(ctx, c)
			}
			return showPolicy(c)
		},
	}
}

type lockJSON struct {
	Mode    string    `json:"mode"`
	Seconds int64     `json:"for_s"`
	Since   time.Time `json:"since"`
	By      string    `json:"by,omitempty"`
	Until   time.Time `json:"until"`
	Running bool      `json:"running"`
	// When several people ended it, absent if they did not.
	Ended *time.Time `json:"ended,omitempty"`
	// What each clock still asks for.
	WallLeft    int64 `json:"wall_left_s"`
	RunningLeft int64 `json:"running_left_s"`
}

type holdJSON struct {
	Record   uint64    `json:"record"` // by which a request to release names it
	Snapshot string    `json:"snapshot"`
	ID       string    `json:"id"`
	Since    time.Time `json:"since"`
	Reason   string    `json:"reason"`
	By       string    `json:"by"`
}

func holdsJSON(s worm.Snapshot) []holdJSON {
	out := []holdJSON{}
	for _, h := range s.Holds {
		out = append(out, holdJSON{h.Seq, s.Source + "@" + s.Label, s.ID, h.At.Wall.UTC(), h.Reason, h.By})
	}
	return out
}

type locksJSON struct {
	snapshotJSON
	Locks []lockJSON `json:"locks"`
	Holds []holdJSON `json:"holds"`
}

func showLocks(ctx context.Context, c *call) error {
	snap, err := c.whole(ctx)
	if err != nil {
		return err
	}
	list, err := c.view.v.Store().Locks(snap.ID)
	if err != nil {
		return err
	}
	j := locksJSON{snapshotJSON: newSnapshotJSON(snap), Locks: []lockJSON{}, Holds: holdsJSON(snap)}
	for _, l := range list {
		j.Locks = append(j.Locks, lockJSON{
			string(l.Lock.Mode), l.Lock.ForSeconds, l.Since.Wall.UTC(), l.By, l.Until.UTC().Truncate(time.Second), l.Running, momentJSON(l.Ended), seconds(l.WallLeft), seconds(l.RunningLeft),
		})
	}
	if c.json() {
		return writeJSON(c.out, j)
	}
	return printLocks(c.out, j)
}

// momentJSON is a time that JSON leaves out where there is none.
func momentJSON(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}

func printLocks(w io.Writer, j locksJSON) error {
	var b strings.Builder
	switch {
	case len(j.Holds) > 0:
		fmt.Fprintf(&b, "%s@%s is held: it does not go, whatever its locks say.\n", j.Source, j.Time)
	case j.Locked:
		fmt.Fprintf(&b, "%s@%s is locked (%s) until %s.\n", j.Source, j.Time, j.Mode, minute(j.LockedUntil))
	default:
		fmt.Fprintf(&b, "%s@%s is not locked any more: it may go once newer snapshots of %s are kept.\n", j.Source, j.Time, j.Source)
	}
	var most int64
	for i, l := range j.Locks {
		why := "it was born with it"
		if i > 0 {
			why = "asked for later by " + printable(l.By)
		}
		until := "ran out " + minute(l.Until)
		if l.Ended != nil {
			until = "ended " + minute(*l.Ended) + " by people who signed for it"
		}
		if l.Running {
			until = "until " + minute(l.Until)
			most = max(most, l.RunningLeft)
		}
		fmt.Fprintf(&b, "  lock  %-10s  %s from %s, %s; %s\n", l.Mode, lasting(l.Seconds), minute(l.Since), until, why)
	}
	for _, h := range j.Holds {
		fmt.Fprintf(&b, "  hold  number %d since %s by %s: %s\n", h.Record, minute(h.Since), printable(h.By), printable(h.Reason))
	}
	if most > 0 {
		fmt.Fprintf(&b, "The times are right if this machine stays on. A lock ends when the wall clock says so and the machine has also run\n"+
			"that long: %s more. Each hour that it is switched off moves the end by an hour, unless witnesses saw it pass.\n", lasting(most))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// lasting is a duration in its two largest units.
func lasting(s int64) string {
	d := time.Duration(s) * time.Second
	switch {
	case d > config.Day:
		d = d.Truncate(time.Hour)
	case d > time.Hour:
		d = d.Truncate(time.Minute)
	}
	return config.FormatDuration(d)
}

type policyJSON struct {
	Policy     policy.Policy   `json:"policy"`
	NotTaken   []string        `json:"not_followed"`
	Hardening  []hardeningJSON `json:"hardening"`
	Budgets    []budgetJSON    `json:"budgets"`
	Configured bool            `json:"configuration_decides"` // and not a keeper's own file
}

type hardeningJSON struct {
	Source string    `json:"source,omitempty"`
	Since  time.Time `json:"since"`
	At     time.Time `json:"hardens"`
	Hard   bool      `json:"hard"`
}

type budgetJSON struct {
	Source string     `json:"source"`
	Used   int64      `json:"used_bytes"`
	Limit  int64      `json:"limit_bytes,omitempty"`
	Share  bool       `json:"share_of_disk,omitempty"`
	Again  *time.Time `json:"again,omitempty"`
}

func showPolicy(c *call) error {
	j, err := c.policyNow()
	if err != nil {
		return err
	}
	if c.json() {
		return writeJSON(c.out, j)
	}
	return printPolicy(c.out, j)
}

func (c *call) policyNow() (j policyJSON, err error) {
	store := c.view.v.Store()
	// What the keeper adopted by itself is known here once it has answered something. One that is away changes nothing.
	if _, err := store.Clock(); err != nil && !errors.Is(err, vault.ErrKeeperGone) {
		return j, err
	}
	j = policyJSON{Policy: c.view.v.Store().Policy(), NotTaken: []string{}, Hardening: []hardeningJSON{}, Budgets: []budgetJSON{}}
	if c.host != nil {
		_, no, err := store.Weigh(proposal(c.host.settings.config()))
		if err != nil {
			return j, err
		}
		j.Configured, j.NotTaken = !c.view.v.Kept() && c.host.settings.config().Keeper == "", append(j.NotTaken, refusals(no)...)
	}
	hard, err := store.Hardening()
	if err != nil {
		return j, err
	}
	for _, h := range hard {
		j.Hardening = append(j.Hardening, hardeningJSON{h.Source, h.Since.Wall.UTC(), h.At.UTC().Truncate(time.Second), h.Hard})
	}
	used, err := store.Budgets()
	if err != nil {
		return j, err
	}
	for _, b := range used {
		bj := budgetJSON{Source: b.Source, Used: b.Used, Limit: b.Limit, Share: b.Share}
		if !b.Again.IsZero() {
			again := b.Again.UTC().Truncate(time.Second)
			bj.Again = &again
		}
		j.Budgets = append(j.Budgets, bj)
	}
	return j, nil
}

func printPolicy(w io.Writer, j policyJSON) error {
	fmt.Fprintln(w, "Policy in force, as the ledger has it:")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  SOURCE\tMODE\tDEFAULT\tMIN\tMAX\tBUDGET A DAY\tKEEPS OF WHAT HAS RUN OUT")
	line := func(name string, r policy.Rules) {
		budget := "9/10 of the free room"
		if r.BudgetBytes > 0 {
			budget = humanize.IBytes(uint64(r.BudgetBytes))
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\n", name, r.Mode, lasting(r.DefaultSeconds), lasting(r.MinSeconds), lasting(r.MaxSeconds), budget, keeping(r.Keep))
	}
	line("(any)", j.Policy.Vault())
	for _, name := range j.Policy.Names() {
		line(name, j.Policy.For(name))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, h := range j.Hardening {
		of := "Compliance"
		if h.Source != "" {
			of += " of " + h.Source
		}
		if h.Hard {
			fmt.Fprintf(w, "%s has hardened (%s): nobody takes it back.\n", of, minute(h.At))
		} else {
			fmt.Fprintf(w, "%s can be taken back until %s, if this machine stays on; after that nobody can.\n", of, minute(h.At))
		}
	}
	for _, no := range j.NotTaken {
		fmt.Fprintf(w, "Not followed: %s\n", printable(no))
	}
	if len(j.NotTaken) > 0 {
		fmt.Fprintln(w, "To loosen what is in force, enough people sign for it: holdfast request make policy.")
	}
	if !j.Configured {
		fmt.Fprintln(w, "The keeper's own file proposes it; what this configuration says of locks are requests.")
	}
	for _, b := range j.Budgets {
		of := ""
		if b.Limit > 0 {
			of = " of " + humanize.IBytes(uint64(b.Limit))
		}
		who := b.Source
		if who == vault.Salvaged {
			who = "What was salvaged of pulls that were cut"
		}
		fmt.Fprintf(w, "%s stored %s%s within 24 hours", who, humanize.IBytes(uint64(b.Used)), of)
		if b.Again != nil {
			fmt.Fprintf(w, ": its budget is used up, and it goes on from %s", minute(*b.Again))
		}
		fmt.Fprintln(w, ".")
	}
	return nil
}

func verbHoldAdd() *verb {
	return &verb{
		use: "hold-add SNAPSHOT --reason TEXT", short: "Keep a snapshot until a quorum says otherwise", min: 1, max: 1, access: writeAccess, keyless: true,
		long: `Hold a snapshot: it does not go, whatever its locks say, and prune and the list say why. Holds have no
end and are counted; one person places one. Only several people who sign for it end one:
"holdfast hold remove" says how.

` + addressHelp,
		flags: func(f *pflag.FlagSet) {
			jsonFlag(f)
			f.String("reason", "", "why, for whoever finds it in years (necessary)")
			byFlag(f)
		},
		prepare: prepareBy,
		run: func(ctx context.Context, c *call) error {
			if c.string("reason") == "" {
				return usage("hold add: say why with --reason TEXT")
			}
			snap, err := c.whole(ctx)
			if err != nil {
				return err
			}
			after, err := c.view.v.Store().Hold(ctx, snap.ID, c.string("reason"), c.by())
			if err != nil {
				return err
			}
			if c.json() {
				return writeJSON(c.out, holdsJSON(after))
			}
			_, err = fmt.Fprintf(c.out, "%s@%s is held (%s), and does not go until people sign for its end\n", after.Source, after.Label, counted(len(after.Holds), "hold"))
			return err
		},
	}
}

func verbHoldList() *verb {
	return &verb{
		use: "hold-list", short: "List what is held, why, and the number by which a request names each hold", flags: jsonFlag, keyless: true,
		run: func(ctx context.Context, c *call) error {
			all, err := c.view.list(ctx)
			if err != nil {
				return err
			}
			list := []holdJSON{}
			for _, s := range all {
				list = append(list, holdsJSON(s)...)
			}
			if c.json() {
				return writeJSON(c.out, list)
			}
			if len(list) == 0 {
				_, err := fmt.Fprintln(c.err, "Nothing is held.")
				return err
			}
			t := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "HOLD\tSNAPSHOT\tSINCE\tBY\tREASON")
			for _, h := range list {
				fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\n", h.Record, h.Snapshot, minute(h.Since), printable(h.By), printable(h.Reason))
			}
			return t.Flush()
		},
	}
}

func verbHoldRemove() *verb {
	return &verb{
		use: "hold-remove SNAPSHOT", short: "Say what it takes to end a hold", min: 1, max: 1, keyless: true,
		long: `Say what it takes to end the holds of a snapshot: a request that several people sign. Nothing is changed.

` + addressHelp,
		run: runHoldRemove,
	}
}

// runHoldRemove is a refusal that says the way.
func runHoldRemove(ctx context.Context, c *call) error {
	snap, err := c.whole(ctx)
	if err != nil {
		return err
	}
	if len(snap.Holds) == 0 {
		return fmt.Errorf("%s@%s is not held; nothing was changed", snap.Source, snap.Label)
	}
	var numbers []string
	for _, h := range snap.Holds {
		numbers = append(numbers, fmt.Sprintf("--hold %d", h.Seq))
	}
	people, err := c.view.v.Store().People()
	if err != nil {
		return err
	}
	who := "Nobody is in force yet who could sign it (holdfast people show)"
	if people.InForce {
		who = peopleWords(people.People) + " it"
	}
	return fmt.Errorf("no one person ends a hold; nothing was changed. Several do by a request:\n"+
		"  holdfast request make release %s@%s %s --reason TEXT\n"+
		"%s; then: holdfast request submit FILE", snap.Source, snap.Label, strings.Join(numbers, " "), who)
}
