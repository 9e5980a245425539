package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

func verbPeopleShow() *verb {
	return &verb{
		use: "people-show", short: "Show who must sign what makes the vault forget faster", keyless: true,
		roles: []config.Role{config.Operator, config.Auditor},
		long: `Show the people whose signatures count, with the fingerprints of their keys as ssh-keygen -l shows them,
and how many of them must sign; or those who were named and will count once 72 hours have passed.`,
		flags: jsonFlag,
		run:   runPeopleShow,
	}
}

type peopleJSON struct {
	InForce   bool         `json:"in_force"`
	Threshold int          `json:"threshold,omitempty"`
	People    []personJSON `json:"people"`
	Named     *time.Time   `json:"named,omitempty"` // when the ledger learned of them
	By        string       `json:"by,omitempty"`
	From      *time.Time   `json:"from,omitempty"` // since when they count, or from when on
}

type personJSON struct {
	Name string    `json:"name"`
	Keys []keyJSON `json:"keys"`
}

type keyJSON struct {
	Key         string `json:"key"`
	Fingerprint string `json:"fingerprint"`
}

func newPeopleJSON(p worm.PeopleInfo) peopleJSON {
	j := peopleJSON{InForce: p.InForce, Threshold: p.Threshold, People: []personJSON{}, By: p.By}
	if len(p.People.People) == 0 {
		return peopleJSON{People: j.People}
	}
	named, from := p.At.Wall.UTC(), p.From.UTC().Truncate(time.Second)
	j.Named, j.From = &named, &from
	for _, who := range p.People.People {
		one := personJSON{Name: who.Name}
		for _, k := range who.Keys {
			one.Keys = append(one.Keys, keyJSON{k, fingerprintOf(k)})
		}
		j.People = append(j.People, one)
	}
	return j
}

func runPeopleShow(_ context.Context, c *call) error {
	p, err := c.view.v.Store().People()
	if err != nil {
		return err
	}
	j := newPeopleJSON(p)
	if c.json() {
		return writeJSON(c.out, j)
	}
	return printPeople(c.out, j)
}

// noPeople says what it means that there are none.
const noPeople = "No people are named, so nobody can end a lock or a hold early, loosen a policy that has hardened, or resume what was secured"

func printPeople(w io.Writer, j peopleJSON) error {
	if len(j.People) == 0 {
		_, err := fmt.Fprintln(w, noPeople+".")
		return err
	}
	var b strings.Builder
	if j.InForce {
		fmt.Fprintf(&b, "In force since %s (named by %s): %d of these %d sign what makes the vault forget faster.\n", minute(*j.From), printable(j.By), j.Threshold, len(j.People))
	} else {
		fmt.Fprintf(&b, "Named by %s, and in force from %s on if this machine stays on: %d of these %d will sign. Until then the settings can name others.\n",
			printable(j.By), minute(*j.From), j.Threshold, len(j.People))
	}
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, who := range j.People {
		for i, k := range who.Keys {
			name := who.Name
			if i > 0 {
				name = ""
			}
			kind, _, _ := strings.Cut(k.Key, " ")
			fmt.Fprintf(t, "  %s\t%s\t%s\n", name, kind, k.Fingerprint)
		}
	}
	_ = t.Flush() // into memory
	_, err := io.WriteString(w, b.String())
	return err
}

// fingerprintOf a key of somebody who is in force, which has been checked.
func fingerprintOf(key string) string {
	print, err := quorum.Fingerprint(key)
	if err != nil {
		return "?"
	}
	return print
}

// peopleSaid is whom a configuration proposes, in the ledger's form.
func peopleSaid(cfg *config.Config) quorum.People {
	out := quorum.People{Threshold: cfg.People.Threshold}
	for _, p := range cfg.People.People {
		out.People = append(out.People, quorum.Person{Name: p.Name, Keys: p.Keys})
	}
	return out
}

// sayPeople proposes the people of the configuration, and says what becomes of that. Behind a keeper its own file does.
func (h *host) sayPeople(ctx context.Context, cfg *config.Config, changed func(worm.PeopleInfo), warn func(text string)) {
	said := peopleSaid(cfg)
	if len(said.People) == 0 {
		return
	}
	store := h.v.Store()
	did, refused, err := store.AdoptPeople(ctx, said, adopter(cfg))
	if err != nil {
		warn(fmt.Sprintf("the people stay as they are: %v", err))
	}
	if refused != "" {
		warn("the people of the configuration are not followed: " + refused)
	}
	if !did {
		return
	}
	if p, err := store.People(); err == nil {
		changed(p)
	}
}
