package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// shortIDLen is how much of a request's ID people are shown, and may type.
const (
	shortIDLen   = 16
	leastIDTyped = 8
)

func shortID(id string) string { return id[:min(len(id), shortIDLen)] }

// requestJSON is a request that was brought.
type requestJSON struct {
	ID         string          `json:"id"`
	Record     uint64          `json:"record"`
	Brought    time.Time       `json:"brought"`
	By         string          `json:"by"`
	Action     string          `json:"action"`
	What       json.RawMessage `json:"what"`
	Reason     string          `json:"reason"`
	From       time.Time       `json:"from"`
	Until      time.Time       `json:"until"`
	Size       uint64          `json:"size"`
	Root       string          `json:"root"`
	Signatures []signedJSON    `json:"signatures"`
	State      string          `json:"state"`
	Due        time.Time       `json:"due"`
	Why        string          `json:"why,omitempty"`
	Ended      *time.Time      `json:"ended,omitempty"`
	Veto       *vetoJSON       `json:"veto,omitempty"`
}

type signedJSON struct {
	Person string `json:"person"`
	Key    string `json:"key"`
}

type vetoJSON struct {
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

func newRequestJSON(r worm.RequestInfo) requestJSON {
	j := requestJSON{
		ID: r.ID, Record: r.Seq, Brought: r.At.Wall.UTC(), By: r.By, Action: string(r.Request.Action), What: r.Request.What, Reason: r.Request.Reason,
		From: r.Request.From.UTC(), Until: r.Request.Until.UTC(), Size: r.Request.Size, Root: r.Request.Root,
		Signatures: []signedJSON{}, State: string(r.State), Due: r.Due.UTC().Truncate(time.Second), Why: r.Why,
	}
	for _, s := range r.Signatures {
		j.Signatures = append(j.Signatures, signedJSON{s.Person, s.Key})
	}
	j.Ended = momentJSON(r.Ended.Wall)
	if r.State == worm.RequestVetoed {
		j.Veto = &vetoJSON{r.Veto.By, r.Veto.Reason, r.Veto.At.Wall.UTC()}
	}
	return j
}

// signers are the people who signed, as a sentence has them.
func (j requestJSON) signers() string {
	var names []string
	for _, s := range j.Signatures {
		names = append(names, s.Person)
	}
	return listed(names)
}

// listed joins words: "anna", "anna and bert", "anna, bert and carol".
func listed(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}

// fate says what becomes of it, or what became.
func (j requestJSON) fate() string {
	switch worm.RequestState(j.State) {
	case worm.RequestWaiting:
		if j.Why != "" {
			return fmt.Sprintf("It waits: %s.\nTo stop it: holdfast request veto %s --reason TEXT", printable(j.Why), shortID(j.ID))
		}
		return fmt.Sprintf("It waits, and is carried out %s if this machine stays on.\nTo stop it: holdfast request veto %s --reason TEXT", minute(j.Due), shortID(j.ID))
	case worm.RequestVetoed:
		return fmt.Sprintf("It was stopped %s by %s: %s", minute(j.Veto.At), printable(j.Veto.By), printable(j.Veto.Reason))
	case worm.RequestCarried:
		return "It was carried out " + minute(*j.Ended)
	case worm.RequestFailed:
		return fmt.Sprintf("It could not be carried out (%s): %s", minute(*j.Ended), printable(j.Why))
	}
	return "It has lapsed: " + printable(j.Why)
}

func verbRequestList() *verb {
	return &verb{
		use: "request-list [--all]", short: "List the requests that wait, and how each is stopped", keyless: true,
		roles: []config.Role{config.Operator, config.Auditor},
		long: `List the requests that several people signed and that wait: what each asks for, who signed it, who
brought it, when the vault carries it out, and how it is stopped until then. With --all also those that
were carried out, stopped, lapsed, or could not be carried out, and why.`,
		flags: func(f *pflag.FlagSet) {
			jsonFlag(f)
			f.Bool("all", false, "also those that do not wait any more")
		},
		run: runRequestList,
	}
}

func runRequestList(ctx context.Context, c *call) error {
	all, err := c.view.v.Store().Requests()
	if err != nil {
		return err
	}
	list := []requestJSON{}
	var shown []worm.RequestInfo
	for _, r := range all {
		if !c.bool("all") && r.State != worm.RequestWaiting {
			continue
		}
		if r.Request.Action == quorum.ActionPolicy && !c.view.whole() { // it names sources
			r.Request.What = json.RawMessage(`"a policy, shown to who sees all sources"`)
		}
		list, shown = append(list, newRequestJSON(r)), append(shown, r)
	}
	if c.json() {
		return writeJSON(c.out, list)
	}
	if len(list) == 0 {
		none := "No request waits."
		if c.bool("all") {
			none = "No request was ever brought."
		}
		_, err := fmt.Fprintln(c.err, none)
		return err
	}
	known, err := c.known(ctx)
	if err != nil {
		return err
	}
	var b strings.Builder
	for i, j := range list {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s  %s, %s\n", shortID(j.ID), j.Action, j.State)
		entry(&b, "asks", asksFor(shown[i].Request, known)...)
		entry(&b, "because", j.Reason)
		entry(&b, "signed", j.signers())
		entry(&b, "brought", fmt.Sprintf("%s by %s, record %d", minute(j.Brought), printable(j.By), j.Record))
		entry(&b, "so", strings.Split(j.fate(), "\n")...)
	}
	_, err = io.WriteString(c.out, b.String())
	return err
}

// entry writes a member of a request, its word before the first line.
func entry(b *strings.Builder, word string, lines ...string) {
	for _, line := range lines {
		fmt.Fprintf(b, "  %-8s %s\n", word, printable(line))
		word = ""
	}
}

// known is what this vault knows of what requests ask for.
func (c *call) known(ctx context.Context) (asked, error) {
	all, err := c.view.list(ctx)
	if err != nil {
		return asked{}, err
	}
	p := c.view.v.Store().Policy()
	out := asked{names: make(map[string]string, len(all)), inForce: &p, short: true}
	for _, s := range all {
		out.names[s.ID] = s.Source + "@" + s.Label
	}
	return out, nil
}

// peopleWords says who must sign.
func peopleWords(p quorum.People) string {
	var names []string
	for _, who := range p.People {
		names = append(names, who.Name)
	}
	return fmt.Sprintf("%d of %s sign", p.Threshold, listed(names))
}

func verbRequestVeto() *verb {
	return &verb{
		use: "request-veto ID --reason TEXT", short: "Stop a request for ever", min: 1, max: 1, access: writeAccess, keyless: true,
		roles: []config.Role{config.Operator},
		long: `Stop a request that waits: it is never carried out. Nobody has to sign for that, since it only keeps what
is there. ID is as "holdfast request list" shows it, or its first 8 digits. Whoever still wants it has to
make, sign and bring it anew.`,
		flags: func(f *pflag.FlagSet) {
			jsonFlag(f)
			f.String("reason", "", "what is wrong with it, for those who signed it (necessary)")
			byFlag(f)
		},
		prepare: prepareBy,
		run: func(ctx context.Context, c *call) error {
			if c.string("reason") == "" {
				return usage("request veto: say what is wrong with --reason TEXT")
			}
			id, err := c.requestID(c.args[0])
			if err != nil {
				return err
			}
			r, err := c.view.v.Store().Veto(ctx, id, c.string("reason"), c.by())
			if err != nil {
				return err
			}
			if c.json() {
				return writeJSON(c.out, newRequestJSON(r))
			}
			_, err = fmt.Fprintf(c.out, "Request %s (%s) is stopped, and never carried out.\n", shortID(r.ID), r.Request.Action)
			return err
		},
	}
}

// requestID finds the one request whose ID begins so. One that waits comes before those that do not.
func (c *call) requestID(typed string) (string, error) {
	if len(typed) < leastIDTyped {
		return "", usage("%q: at least %d digits of the ID, as holdfast request list shows it", typed, leastIDTyped)
	}
	all, err := c.view.v.Store().Requests()
	if err != nil {
		return "", err
	}
	var waiting, found []string
	for _, r := range all {
		if !strings.HasPrefix(r.ID, typed) {
			continue
		}
		found = append(found, r.ID)
		if r.State == worm.RequestWaiting {
			waiting = append(waiting, r.ID)
		}
	}
	if len(waiting) > 0 {
		found = waiting
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("%q: no such request: holdfast request list --all shows them", typed)
	}
	return "", usage("%q: %d requests begin so; type more of it", typed, len(found))
}
