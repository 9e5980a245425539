package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

func verbSecure() *verb {
	return &verb{
		use: "secure --reason TEXT", short: "The panic switch: nothing is forgotten until a quorum says otherwise", access: writeAccess, keyless: true,
		roles: []config.Role{config.Operator},
		long: `Press the panic switch, at once and by anybody who may run commands: when an account was taken over, when
something is being deleted that should not be, when nobody understands what is going on.

From then on nothing is marked or removed, no request is brought or carried out but one to resume, and
neither policy nor people in force change. Pulls, locks, holds, checks and restores go on as before. It costs room
while it lasts, and nothing else. It ends by a request to resume, which people sign and which waits for
72 hours as every request does: whoever presses it by mistake has lost nothing.`,
		flags: func(f *pflag.FlagSet) {
			jsonFlag(f)
			f.String("reason", "", "what happened, for those who are to end it (necessary)")
			byFlag(f)
		},
		prepare: prepareBy,
		run: func(ctx context.Context, c *call) error {
			if c.string("reason") == "" {
				return usage("secure: say what happened with --reason TEXT")
			}
			store := c.view.v.Store()
			if err := store.Secure(ctx, c.string("reason"), c.by()); err != nil {
				return err
			}
			return showSecured(c)
		},
	}
}

func verbSecureShow() *verb {
	return &verb{
		use: "secure-show", short: "Say whether the panic switch is on, since when, and how it is undone", keyless: true,
		roles: []config.Role{config.Operator, config.Auditor},
		flags: jsonFlag,
		run:   func(_ context.Context, c *call) error { return showSecured(c) },
	}
}

type securedJSON struct {
	Secured bool       `json:"secured"`
	Since   *time.Time `json:"since,omitempty"`
	By      string     `json:"by,omitempty"`
	Reason  string     `json:"reason,omitempty"`
}

func newSecuredJSON(s worm.Secured, on bool) securedJSON {
	if !on {
		return securedJSON{}
	}
	at := s.At.Wall.UTC()
	return securedJSON{true, &at, s.By, s.Reason}
}

func showSecured(c *call) error {
	store := c.view.v.Store()
	j := newSecuredJSON(store.Secured())
	if c.json() {
		return writeJSON(c.out, j)
	}
	if !j.Secured {
		_, err := fmt.Fprintln(c.out, "The vault is not secured: it forgets what its policy lets it forget.")
		return err
	}
	people, err := store.People()
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "The vault is secured since %s by %s: %s\n", minute(*j.Since), printable(j.By), printable(j.Reason))
	b.WriteString("Stopped: marking, removing, every request but one to resume, changes of policy and people.\n" +
		"Going on: pulls, locks, holds, checks, restores.\n" + undoSecure(people) + "\n")
	_, err = io.WriteString(c.out, b.String())
	return err
}

// undoSecure says what it takes to end the panic switch.
func undoSecure(p worm.PeopleInfo) string {
	const how = "To undo it: holdfast request make resume --reason TEXT"
	switch {
	case len(p.People.People) == 0:
		return "Nobody can undo it yet: name people in the settings (people), and their signatures count 72 hours later."
	case !p.InForce:
		return fmt.Sprintf("%s, once the people who are named count (%s).", how, minute(p.From))
	}
	return fmt.Sprintf("%s; %s it, then: holdfast request submit FILE", how, peopleWords(p.People))
}
