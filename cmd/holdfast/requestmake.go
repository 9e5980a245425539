package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/policy"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
)

// requestWindow is for how long a request may be brought and carried out when nobody says otherwise.
const requestWindow = 14 * config.Day

func verbRequestMake() *verb {
	return &verb{
		use: "request-make ACTION [ARGUMENT]...", short: "Write a request for several people to sign", min: 1, max: -1, keyless: true,
		roles: []config.Role{config.Requester, config.Operator},
		long: `Write a request, to be signed by several people. Nothing is changed by it. ACTION and what follows it:

  delete SNAPSHOT...            let snapshots go before their governance locks have run
  release SNAPSHOT [--hold N]   end the holds of a snapshot, or those of these numbers
  policy [FILE]                 change the policy as FILE says, or as the configuration does, looser or not; what
                                it does not say stays as it is. FILE has the form of the keeper's policy.json
  people [FILE]                 have these people sign from then on. FILE holds
                                {"threshold": 2, "people": [{"name": "anna", "keys": ["ssh-ed25519 AAAA..."]}, ...]}
  clock                         take the wall clock as right as it is now
  resume                        end what "holdfast secure" began
  origin SAVED                  let a ledger go on that was rolled back; SAVED is the checkpoint that it is behind of

It names this vault and the newest root of its ledger, and counts from now for 14 days. Who signs looks at it first,
on a machine of their own: holdfast request sign-with KEY FILE shows it and signs it. Then: holdfast request submit.

` + addressHelp,
		flags: func(f *pflag.FlagSet) {
			f.String("reason", "", "why, for those who sign and for whoever reads it in years (necessary)")
			f.String("from", "", "count from this `TIME` on, such as 2026-07-01T00:00:00Z (default now)")
			f.String("for", "", "count for this `DURATION`, at most 30d; 72 hours of it are the delay (default 14d)")
			f.Bool("whole", false, "with policy: what is not said is not as it is now, but as in a new vault")
			f.StringArray("hold", nil, "with release: `NUMBER` of a hold, from holdfast hold list (default all)")
		},
		prepare: prepareRequest,
		run:     runRequestMake,
	}
}

// prepareRequest reads the file that an action names, where the user is: its content travels.
func prepareRequest(_ *pflag.FlagSet, args []string) ([]string, error) {
	switch quorum.Action(args[0]) {
	case quorum.ActionPolicy, quorum.ActionPeople, quorum.ActionOrigin:
	default:
		return args, nil
	}
	if len(args) != 2 {
		return args, nil
	}
	data, err := readSmall(args[1], quorum.MaxRequest)
	return []string{args[0], string(data)}, err
}

func runRequestMake(ctx context.Context, c *call) error {
	action := quorum.Action(c.args[0])
	if c.flags.Changed("hold") && action != quorum.ActionRelease {
		return usage("request make: --hold belongs to release")
	}
	if c.flags.Changed("whole") && action != quorum.ActionPolicy {
		return usage("request make: --whole belongs to policy")
	}
	body, err := c.requestBody(ctx, action, c.args[1:])
	if err != nil {
		return err
	}
	what, raw, err := quorum.What(body)
	if err != nil {
		return usage("request make %s: %v", action, err)
	}
	r := quorum.Request{Vault: c.view.v.ID(), Action: what, What: raw, Reason: c.string("reason")}
	if err := c.requestWindow(&r); err != nil {
		return err
	}
	var nonce [16]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return fmt.Errorf("chance for the request's nonce: %w", err)
	}
	r.Nonce = hex.EncodeToString(nonce[:])
	size, root := c.view.v.Store().Ledger().Head()
	r.Size, r.Root = size, root.String()
	data, err := r.Encode()
	if err != nil {
		return usage("request make: %v", err)
	}
	_, err = c.out.Write(data)
	return err
}

// requestWindow says from when and until when a request counts, by the vault's clock.
func (c *call) requestWindow(r *quorum.Request) error {
	if c.string("reason") == "" {
		return usage("request make: say why with --reason TEXT")
	}
	if from := c.string("from"); from != "" {
		t, err := time.Parse(time.RFC3339, from)
		if err != nil {
			return usage("--from %q: want a time such as 2026-07-01T00:00:00Z", from)
		}
		r.From = t.UTC().Truncate(time.Second)
	} else {
		now, err := c.view.v.Store().Now()
		if err != nil {
			return err
		}
		r.From = now.Wall.UTC().Truncate(time.Second)
	}
	window := time.Duration(requestWindow)
	if said := c.string("for"); said != "" {
		d, err := config.ParseDuration(said)
		if err != nil {
			return usage("--for: %v", err)
		}
		window = d.Truncate(time.Second)
	}
	if window <= 72*time.Hour && r.Action != quorum.ActionOrigin {
		return usage("--for %s: it is carried out 72 hours after it was brought, and no later than this: give it more", config.FormatDuration(window))
	}
	r.Until = r.From.Add(window)
	return nil
}

// requestBody makes what a request asks for.
func (c *call) requestBody(ctx context.Context, action quorum.Action, args []string) (any, error) {
	fits := func(least, most int) error {
		if len(args) < least || len(args) > most {
			return usage("request make %s: %s given; see: holdfast request make -h", action, counted(len(args), "argument"))
		}
		return nil
	}
	switch action {
	case quorum.ActionDelete:
		if err := fits(1, len(args)); err != nil {
			return nil, err
		}
		return c.deletion(ctx, args)
	case quorum.ActionRelease:
		if err := fits(1, 1); err != nil {
			return nil, err
		}
		return c.release(ctx, args[0])
	case quorum.ActionPolicy:
		if err := fits(0, 1); err != nil {
			return nil, err
		}
		return c.policyRequest(args)
	case quorum.ActionPeople:
		if err := fits(0, 1); err != nil {
			return nil, err
		}
		return c.peopleRequest(args)
	case quorum.ActionClock:
		if err := fits(0, 0); err != nil {
			return nil, err
		}
		return c.clockRequest()
	case quorum.ActionResume:
		return quorum.Resume{}, fits(0, 0)
	case quorum.ActionOrigin:
		if err := fits(1, 1); err != nil {
			return nil, err
		}
		return c.originRequest(args[0])
	}
	return nil, usage("request make: %q is none of delete, release, policy, people, clock, resume and origin", string(action))
}

func (c *call) deletion(ctx context.Context, args []string) (any, error) {
	var d quorum.Delete
	for _, address := range args {
		s, err := c.view.find(ctx, address)
		if err != nil {
			return nil, err
		}
		d.Snapshots = append(d.Snapshots, s.ID)
	}
	slices.Sort(d.Snapshots)
	d.Snapshots = slices.Compact(d.Snapshots)
	return d, nil
}

func (c *call) release(ctx context.Context, address string) (any, error) {
	s, err := c.view.find(ctx, address)
	if err != nil {
		return nil, err
	}
	r := quorum.Release{Snapshot: s.ID}
	there := map[uint64]bool{}
	for _, h := range s.Holds {
		there[h.Seq] = true
		r.Holds = append(r.Holds, h.Seq)
	}
	said, err := c.flags.GetStringArray("hold")
	if err != nil {
		return nil, err
	}
	if len(said) > 0 {
		r.Holds = nil
	}
	for _, word := range said {
		n, err := strconv.ParseUint(word, 10, 53)
		if err != nil || !there[n] {
			return nil, usage("--hold %q: no hold of %s@%s has this number; see: holdfast hold list", word, s.Source, s.Label)
		}
		r.Holds = append(r.Holds, n)
	}
	if len(r.Holds) == 0 {
		return nil, fmt.Errorf("%s@%s is not held", s.Source, s.Label)
	}
	slices.Sort(r.Holds)
	r.Holds = slices.Compact(r.Holds)
	return r, nil
}

// policyRequest is the policy in force with everything that is said put into its place.
func (c *call) policyRequest(args []string) (any, error) {
	if !c.view.whole() {
		return nil, usage("request make policy: it holds the rules of every source, and you see some of them: have somebody make it who sees all")
	}
	var said policy.Policy
	if len(args) == 1 {
		settings, err := policy.Parse("FILE", []byte(args[0]))
		if err != nil {
			return nil, usage("request make policy: %v", err)
		}
		said = settings.Policy
	} else if c.host != nil {
		said = proposal(c.host.settings.config())
	}
	inForce := c.view.v.Store().Policy()
	next := overlaid(inForce, said)
	if c.bool("whole") {
		next = said.Fill()
	}
	if err := next.Check(); err != nil {
		return nil, usage("request make policy: %v", err)
	}
	was, err := compactJSON(inForce)
	if err != nil {
		return nil, err
	}
	raw, err := compactJSON(next)
	if err != nil {
		return nil, err
	}
	if bytes.Equal(was, raw) {
		return nil, usage("request make policy: all of this is in force already; see: holdfast lock show")
	}
	return quorum.PolicyChange(raw), nil
}

// overlaid is a policy with what a proposal says in its place, looser or not.
func overlaid(inForce, said policy.Policy) policy.Policy {
	vault := overRules(inForce.Vault(), said.Vault())
	next := policy.Policy{
		Mode: vault.Mode, DefaultSeconds: vault.DefaultSeconds, MinSeconds: vault.MinSeconds, MaxSeconds: vault.MaxSeconds,
		BudgetBytes: vault.BudgetBytes, Keep: vault.Keep,
	}
	for _, p := range []policy.Policy{inForce, said} {
		for name := range p.Sources {
			if next.Sources == nil {
				next.Sources = map[string]policy.Rules{}
			}
			next.Sources[name] = overRules(inForce.Sources[name], said.Sources[name])
		}
	}
	return next
}

func overRules(r, said policy.Rules) policy.Rules {
	k, over := r.Keep, said.Keep
	return policy.Rules{
		Mode: cmp.Or(said.Mode, r.Mode), DefaultSeconds: cmp.Or(said.DefaultSeconds, r.DefaultSeconds), MinSeconds: cmp.Or(said.MinSeconds, r.MinSeconds),
		MaxSeconds: cmp.Or(said.MaxSeconds, r.MaxSeconds), BudgetBytes: cmp.Or(said.BudgetBytes, r.BudgetBytes),
		Keep: policy.Keep{
			Hourly: cmp.Or(over.Hourly, k.Hourly), Daily: cmp.Or(over.Daily, k.Daily), Weekly: cmp.Or(over.Weekly, k.Weekly),
			Monthly: cmp.Or(over.Monthly, k.Monthly), Yearly: cmp.Or(over.Yearly, k.Yearly), WithinSeconds: cmp.Or(over.WithinSeconds, k.WithinSeconds),
		},
	}
}

func compactJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// peopleRequest reads who is to sign from then on: a file's people, or settings with a member of that name.
func (c *call) peopleRequest(args []string) (any, error) {
	var p quorum.People
	switch {
	case len(args) == 1:
		data := []byte(args[0])
		var within struct {
			People json.RawMessage `json:"people"`
		}
		if json.Unmarshal(data, &within) == nil && bytes.HasPrefix(bytes.TrimSpace(within.People), []byte("{")) {
			data = within.People
		}
		d := json.NewDecoder(bytes.NewReader(data))
		d.DisallowUnknownFields()
		if err := d.Decode(&p); err != nil {
			return nil, usage("request make people: %v; see: holdfast request make -h", err)
		}
	case c.host != nil:
		said := c.host.settings.config().People
		p.Threshold = said.Threshold
		for _, who := range said.People {
			p.People = append(p.People, quorum.Person{Name: who.Name, Keys: slices.Clone(who.Keys)})
		}
	}
	if len(p.People) == 0 {
		return nil, usage("request make people: say who in a FILE; see: holdfast request make -h")
	}
	for i, who := range p.People {
		for n, line := range who.Keys {
			key, err := quorum.Key(line)
			if err != nil {
				return nil, usage("request make people: key %d of %q: %v", n+1, who.Name, err)
			}
			p.People[i].Keys[n] = key
		}
	}
	if err := p.Check(); err != nil {
		return nil, usage("request make people: %v", err)
	}
	return p, nil
}

func (c *call) clockRequest() (any, error) {
	r, err := c.view.v.Store().Clock()
	if err != nil {
		return nil, err
	}
	off := int64(r.Off / time.Second)
	if off == 0 {
		return nil, errors.New("the wall clock is not off: there is nothing to sign for; see: holdfast doctor")
	}
	return quorum.Clock{OffSeconds: off}, nil
}

func (c *call) originRequest(note string) (any, error) {
	s, err := parseSaved("SAVED", []byte(note))
	if err != nil {
		return nil, err
	}
	_, root := c.view.v.Store().Ledger().Head()
	return quorum.Origin{Note: string(s.note), Root: root.String()}, nil
}

// intoFile gives a command --out: what it prints goes into a file, where the user is, that was not there before.
func intoFile(a *app, c *cobra.Command, next string) {
	c.Flags().StringP("out", "o", "", "write to `FILE`, which is new, in place of standard output")
	run := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		name, err := c.Flags().GetString("out")
		if err != nil || name == "" {
			return errors.Join(err, run(c, args))
		}
		if _, err := os.Lstat(name); err == nil {
			return usage("--out: %q is there already", name)
		}
		var made bytes.Buffer
		out := a.out
		a.out = &made
		err = run(c, args)
		a.out = out
		if err != nil {
			return err
		}
		if err := writeNew(name, made.Bytes()); err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.err, strings.ReplaceAll(next, "FILE", "%[1]s")+"\n", printable(name))
		return err
	}
}

// writeNew writes a file that must not be there. It is no part of the vault: a crash may lose it.
func writeNew(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Close(), os.Remove(name))
	}
	return f.Close()
}
