package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// state is how one thing is.
type state string

// The states, and what each means for the exit code.
const (
	isWell    state = "ok"
	isNote    state = "note"   // as it is meant, and worth knowing
	isWeak    state = "weak"   // it works, and protects less or tells less than it should: partial
	isBroken  state = "broken" // something does not work: failed
	isDamaged state = "damage" // what is stored is not what was stored
)

func (s state) exit() int {
	return map[state]int{isWeak: exitPartial, isBroken: exitFailed, isDamaged: exitDamage}[s]
}

// finding is one line of doctor: how a thing is, and what to do where that is not well.
type finding struct {
	About string `json:"about"`
	State state  `json:"state"`
	Text  string `json:"text"`
	Do    string `json:"do,omitempty"`
}

// examined gathers findings.
type examined struct{ findings []finding }

func (e *examined) say(about string, s state, do, format string, args ...any) {
	e.findings = append(e.findings, finding{about, s, fmt.Sprintf(format, args...), do})
}

func (e *examined) well(about, format string, args ...any) { e.say(about, isWell, "", format, args...) }

func doctorCommand(a *app) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "doctor", Short: "Say how the vault is kept, and what to do about what is not well", Args: cobra.NoArgs, GroupID: "care",
		Long: `Look at everything around the vault: who keeps it, which protection its sealed files really have
and what got through it, its disk and the directories above it, clock, ledger and witnesses, whether
the unlock key can be read, and how old the newest snapshots are. Each thing that is not well says
what to do. It reads only, needs no key, and works beside a running daemon.

Exit code: 0 well, 3 works but is weaker than it should be, 1 something does not work, 4 damage.`,
		RunE: func(c *cobra.Command, _ []string) error { return a.doctor(c.Context(), asJSON) },
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func (a *app) doctor(ctx context.Context, asJSON bool) error {
	dir, err := a.vaultDir()
	if err != nil {
		return err
	}
	p := &patient{a: a, dir: dir}
	p.examine(ctx)
	code := exitDone
	for _, f := range p.findings {
		code = worse(code, f.State.exit())
	}
	if asJSON {
		err = writeJSON(a.out, p.asJSON(code))
	} else {
		err = printFindings(a.out, p.findings)
	}
	if err == nil && code != exitDone {
		err = &exitError{code: code}
	}
	return err
}

type doctorJSON struct {
	Vault      string         `json:"vault"`
	Exit       int            `json:"exit"`
	Findings   []finding      `json:"findings"`
	Protection protectionJSON `json:"protection"`
}

func (p *patient) asJSON(code int) doctorJSON {
	j := doctorJSON{Vault: p.id, Exit: code, Findings: p.findings, Protection: p.protection}
	if j.Protection.Attempts == nil {
		j.Protection.Attempts = []attemptJSON{}
	}
	return j
}

func printFindings(w io.Writer, all []finding) error {
	for _, f := range all {
		if _, err := fmt.Fprintf(w, "%-7s %-12s %s\n", f.State, f.About, printable(f.Text)); err != nil {
			return err
		}
		if f.Do == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "%-7s %-12s -> %s\n", "", "", printable(f.Do)); err != nil {
			return err
		}
	}
	return nil
}
