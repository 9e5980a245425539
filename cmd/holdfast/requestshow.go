package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/policy"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// shownRequest is a request as it is shown, to people and as JSON.
type shownRequest struct {
	ID         string           `json:"id"`
	Vault      string           `json:"vault"`
	Action     string           `json:"action"`
	What       json.RawMessage  `json:"what"`
	Reason     string           `json:"reason"`
	From       time.Time        `json:"from"`
	Until      time.Time        `json:"until"`
	Size       uint64           `json:"size"`
	Root       string           `json:"root"`
	Asks       []string         `json:"asks"`
	Signatures []shownSignature `json:"signatures"`
	// What only a vault can say; nil where none is at hand.
	Here *requestHere `json:"here,omitempty"`
}

type shownSignature struct {
	File   string `json:"file"`
	Key    string `json:"key,omitempty"`
	Person string `json:"person,omitempty"` // "" where no vault is at hand, or with Wrong
	Wrong  string `json:"wrong,omitempty"`
}

// requestHere is what a vault says of a request.
type requestHere struct {
	Vault     string   `json:"vault"`
	Threshold int      `json:"threshold"` // 0 while no people are in force
	People    []string `json:"people"`
	Signed    []string `json:"signed"`
	Wrong     []string `json:"wrong"` // why it would not be taken as it is
}

// asked is what is known of a vault when it is said what a request asks for.
type asked struct {
	names   map[string]string // addresses by snapshot ID
	inForce *policy.Policy    // nil: not known
	short   bool              // of many snapshots a few are named. Never for who signs: what is not shown is signed too
}

func newShownRequest(data []byte, r quorum.Request) *shownRequest {
	return &shownRequest{
		ID: quorum.ID(data), Vault: r.Vault, Action: string(r.Action), What: r.What, Reason: r.Reason, From: r.From.UTC(), Until: r.Until.UTC(),
		Size: r.Size, Root: r.Root, Signatures: []shownSignature{},
	}
}

// brought is a request with signatures, on its way to where the vault is.
type brought struct {
	Request    []byte             `json:"request"`
	Signatures []broughtSignature `json:"signatures"`
}

type broughtSignature struct {
	File      string `json:"file"`
	Signature []byte `json:"signature"`
}

const (
	showSignatureMax = quorum.MaxSignature
	showMax          = 4 << 20
)

func verbRequestShow() *verb {
	return &verb{
		use: "request-show FILE [--signature FILE]...", short: "Say in plain words what a request asks for, and who has signed it", min: 1, max: 1, keyless: true,
		long: `Say in plain words what FILE, a request, asks for. With signatures beside it (FILE*.sig, or those that
--signature names), say which key made each. Where a vault is at hand and is the one that is meant, also say whose
keys these are among the people in force, how many more have to sign, the names of snapshots, and what of a policy
would change. Nothing is changed by it. Through the door: cat FILE FILE.*.sig | ssh ... request-show - Where there is no vault it does without: --offline looks for none.`,
		flags: func(f *pflag.FlagSet) {
			jsonFlag(f)
			f.StringArray("signature", nil, "`FILE` of a signature (default every FILE*.sig)")
		},
		roles: []config.Role{config.Requester, config.Approver, config.Operator, config.Auditor},
		run: func(ctx context.Context, c *call) error {
			b, err := c.brought()
			if err != nil {
				return err
			}
			s, known, err := c.look(ctx, b)
			if err != nil {
				return err
			}
			return c.writeShown(s, known)
		},
	}
}

// brought is the request that comes as the input of a command.
func (c *call) brought() (brought, error) {
	raw, err := io.ReadAll(io.LimitReader(c.in, showMax))
	if err != nil {
		return brought{}, err
	}
	return readBrought(raw)
}

// readBrought reads what the command line hands over, or at the door a request with the signatures behind it.
func readBrought(raw []byte) (b brought, err error) {
	if json.Unmarshal(raw, &b) == nil && b.Request != nil {
		return b, nil
	}
	if !bytes.Contains(raw, []byte("\n"+signatureBegin)) {
		return brought{Request: raw}, nil
	}
	request, signatures, err := splitRequest(raw)
	for i, s := range signatures {
		b.Signatures = append(b.Signatures, broughtSignature{fmt.Sprintf("signature %d", i+1), s})
	}
	b.Request = request
	return b, err
}

func (c *call) writeShown(s *shownRequest, known asked) error {
	if !c.json() {
		return printRequest(c.out, s, known)
	}
	r := quorum.Request{Action: quorum.Action(s.Action), What: s.What}
	s.Asks = asksFor(r, known)
	return writeJSON(c.out, s)
}

// showRequest is request show where the user is: it reads the files, and finds a vault or does without.
func showRequest(a *app, c *cobra.Command) {
	c.Flags().Bool("offline", false, "look for no vault")
	c.RunE = func(c *cobra.Command, args []string) error {
		v := verbRequestShow()
		if err := v.check(args); err != nil {
			return err
		}
		signatures, err := c.Flags().GetStringArray("signature")
		if err != nil {
			return err
		}
		b, err := gatherShown(args[0], signatures)
		if err != nil {
			return err
		}
		offline, _ := c.Flags().GetBool("offline")
		if _, err := a.vaultDir(); err != nil || offline {
			s, err := alone(b)
			if err != nil {
				return err
			}
			return (&call{flags: c.Flags(), out: a.out}).writeShown(s, asked{})
		}
		raw, err := json.Marshal(b)
		if err != nil {
			return err
		}
		a.in = bytes.NewReader(raw)
		words := []string{v.name(), "--", "FILE"}
		if json, _ := c.Flags().GetBool("json"); json {
			words = slices.Insert(words, 1, "--json")
		}
		return a.runVerb(c.Context(), v, words)
	}
}

// gatherShown reads a request and the signatures named, or those beside it.
func gatherShown(file string, signatures []string) (b brought, err error) {
	if b.Request, err = readSmall(file, quorum.MaxRequest); err != nil {
		return b, err
	}
	if len(signatures) == 0 {
		if signatures, err = signaturesBeside(file); err != nil {
			return b, err
		}
	}
	if len(signatures) > quorum.MostPeople {
		return b, usage("%d signatures, and there are at most %d people", len(signatures), quorum.MostPeople)
	}
	for _, name := range signatures {
		data, err := readSmall(name, showSignatureMax)
		if err != nil {
			return b, err
		}
		b.Signatures = append(b.Signatures, broughtSignature{name, data})
	}
	return b, nil
}

// alone looks at a request without a vault.
func alone(b brought) (*shownRequest, error) {
	r, err := quorum.Parse(b.Request)
	if err != nil {
		return nil, err
	}
	s := newShownRequest(b.Request, r)
	for _, sig := range b.Signatures {
		shown := shownSignature{File: sig.File}
		if shown.Key, err = quorum.Inspect(b.Request, sig.Signature); err != nil {
			shown.Wrong = err.Error()
		}
		s.Signatures = append(s.Signatures, shown)
	}
	return s, nil
}

// peopled is a store that knows whose signatures count.
type peopled interface {
	People() (worm.PeopleInfo, error)
}

// look holds a request against this vault.
func (c *call) look(ctx context.Context, b brought) (*shownRequest, asked, error) {
	s, err := alone(b)
	if err != nil {
		return nil, asked{}, err
	}
	here := &requestHere{Vault: c.view.v.ID(), People: []string{}, Signed: []string{}, Wrong: []string{}}
	s.Here = here
	if s.Vault != here.Vault {
		here.Wrong = append(here.Wrong, fmt.Sprintf("it is of vault %s, and this one is %s", s.Vault, here.Vault))
		return s, asked{}, nil
	}
	if err := c.lookAtPeople(s, b); err != nil {
		return nil, asked{}, err
	}
	if err := c.lookAtTime(s); err != nil {
		return nil, asked{}, err
	}
	known := asked{names: map[string]string{}}
	all, err := c.view.list(ctx)
	if err != nil {
		return nil, asked{}, err
	}
	for _, snap := range all {
		known.names[snap.ID] = snap.Source + "@" + snap.Label
	}
	if c.view.whole() { // it names sources
		p := c.view.v.Store().Policy()
		known.inForce = &p
	}
	return s, known, nil
}

// lookAtPeople says whose the signatures are, and whether they suffice.
func (c *call) lookAtPeople(s *shownRequest, b brought) error {
	here := s.Here
	store, ok := any(c.view.v.Store()).(peopled)
	if !ok {
		return nil
	}
	people, err := store.People()
	if err != nil {
		return err
	}
	if len(people.People.People) == 0 {
		here.Wrong = append(here.Wrong, "no people are named in this vault, so that nobody's signature counts")
		return nil
	}
	if !people.InForce {
		here.Wrong = append(here.Wrong, "the people who are named count from "+minute(people.From)+" on")
	}
	here.Threshold = people.Threshold
	for _, who := range people.People.People {
		here.People = append(here.People, who.Name)
	}
	for i, sig := range b.Signatures {
		shown := &s.Signatures[i]
		who, key, _, err := quorum.Verify(b.Request, sig.Signature, people.People)
		switch {
		case err != nil:
			shown.Wrong = err.Error()
		case slices.Contains(here.Signed, who):
			shown.Wrong = who + " signed already, and counts once"
		default:
			shown.Person, shown.Key = who, key
			here.Signed = append(here.Signed, who)
		}
		if shown.Wrong != "" {
			here.Wrong = append(here.Wrong, fmt.Sprintf("%s: %s", sig.File, shown.Wrong))
		}
	}
	if missing := here.Threshold - len(here.Signed); missing > 0 {
		here.Wrong = append(here.Wrong, fmt.Sprintf("%d more of %s must sign", missing, strings.Join(here.People, ", ")))
	}
	return nil
}

// lookAtTime says whether now is within the window, and whether the ledger is the one that it was made from.
func (c *call) lookAtTime(s *shownRequest) error {
	now, err := c.view.v.Store().Now()
	if err != nil {
		return err
	}
	room := s.Until.Sub(now.Wall)
	switch {
	case now.Wall.Before(s.From):
		s.Here.Wrong = append(s.Here.Wrong, "it counts from "+minute(s.From)+" on")
	case room <= 0:
		s.Here.Wrong = append(s.Here.Wrong, "its window ended "+minute(s.Until))
	case room <= 72*time.Hour && s.Action != string(quorum.ActionOrigin):
		s.Here.Wrong = append(s.Here.Wrong, "it can be carried out until "+minute(s.Until)+", and not before 72 hours have passed: make it anew")
	}
	root, err := c.view.v.Store().Ledger().RootAt(s.Size)
	if err != nil || root.String() != s.Root {
		s.Here.Wrong = append(s.Here.Wrong, fmt.Sprintf("it was made from another past: the first %d records here are not those that it names", s.Size))
	}
	return nil
}

// printRequest shows a request to people. Everything in it came from outside.
func printRequest(w io.Writer, s *shownRequest, known asked) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Request %s\n  of vault  %s, made when its ledger had %s\n", s.ID, s.Vault, counted(int(s.Size), "record"))
	for i, line := range asksFor(quorum.Request{Action: quorum.Action(s.Action), What: s.What}, known) {
		lead := "  asks      "
		if i > 0 {
			lead = "            "
		}
		fmt.Fprintf(&b, "%s%s\n", lead, printable(line))
	}
	fmt.Fprintf(&b, "  because   %s\n  counts    from %s until %s\n", printable(s.Reason), minute(s.From), minute(s.Until))
	for _, sig := range s.Signatures {
		switch {
		case sig.Wrong != "":
			fmt.Fprintf(&b, "  refused   %s: %s\n", printable(sig.File), printable(sig.Wrong))
		case sig.Person != "":
			fmt.Fprintf(&b, "  signed    by %s, %s (%s)\n", sig.Person, sig.Key, printable(sig.File))
		default:
			fmt.Fprintf(&b, "  signed    with %s (%s); whose key that is, the vault knows\n", sig.Key, printable(sig.File))
		}
	}
	if h := s.Here; h != nil {
		switch {
		case len(h.Wrong) > 0:
			b.WriteString("It would not be taken as it is:\n")
			for _, why := range h.Wrong {
				fmt.Fprintf(&b, "  %s\n", printable(why))
			}
		case s.Action == string(quorum.ActionOrigin):
			b.WriteString("Enough people signed it. It is carried out at once, where the vault is: holdfast ledger origin --request FILE; beside a keeper: holdfast-keeper origin --request FILE --signature FILE...\n")
		default:
			b.WriteString("Enough people signed it. Bring it with: holdfast request submit\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// listedMost bounds what a list of requests names one by one of each.
const listedMost = 30

// asksFor says in plain sentences what a request is for.
func asksFor(r quorum.Request, known asked) []string {
	body, err := r.Body()
	if err != nil { // of a later release: who reads it sees all of it
		return []string{string(r.What)}
	}
	name := func(id string) string {
		if n := known.names[id]; n != "" {
			return n + " (" + id[:16] + ")"
		}
		return "snapshot " + id
	}
	switch b := body.(type) {
	case quorum.Delete:
		out := []string{counted(len(b.Snapshots), "snapshot") + " may be forgotten before the governance locks have run:"}
		for i, id := range b.Snapshots {
			if known.short && i == listedMost {
				return append(out, fmt.Sprintf("and %d more", len(b.Snapshots)-i))
			}
			out = append(out, "  "+name(id))
		}
		return out
	case quorum.Release:
		var holds []string
		for _, n := range b.Holds {
			holds = append(holds, fmt.Sprint(n))
		}
		return []string{fmt.Sprintf("%s of %s ends: number %s", counted(len(b.Holds), "hold"), name(b.Snapshot), strings.Join(holds, ", "))}
	case quorum.PolicyChange:
		return append([]string{"another policy:"}, policyWords(known.inForce, b)...)
	case quorum.People:
		out := []string{fmt.Sprintf("from then on %d of these people must sign:", b.Threshold)}
		for _, who := range b.People {
			for _, key := range who.Keys {
				out = append(out, "  "+who.Name+"  "+keyWords(key))
			}
		}
		return out
	case quorum.Clock:
		off := time.Duration(b.OffSeconds) * time.Second
		if off < 0 {
			return []string{"the wall clock is taken as right although it is " + lasting(-b.OffSeconds) + " behind the time that the machine ran"}
		}
		return []string{"the wall clock is taken as right although it is " + config.FormatDuration(off) + " ahead of the time that the machine ran"}
	case quorum.Resume:
		return []string{"what \"holdfast secure\" began ends: the vault forgets again what its policy lets it forget"}
	case quorum.Origin:
		return []string{"a ledger that was rolled back goes on from the root " + b.Root, "and what it had more is given up for good, as this checkpoint proves:", b.Note}
	}
	return []string{string(r.What)}
}

// keyWords is a key as people compare it.
func keyWords(key string) string {
	kind, _, _ := strings.Cut(key, " ")
	if print, err := quorum.Fingerprint(key); err == nil {
		return kind + " " + print
	}
	return key
}

// policyWords says what of a policy changes, or all of it where the one in force is not known.
func policyWords(inForce *policy.Policy, raw quorum.PolicyChange) []string {
	var next, was policy.Policy
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&next); err != nil { // of a later release
		return []string{"  " + string(raw)}
	}
	names := next.Names()
	if inForce != nil {
		was = *inForce
		for _, name := range was.Names() {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		slices.Sort(names)
	}
	var out []string
	for _, name := range append([]string{""}, names...) {
		before, after, of := was.Vault(), next.Vault(), "the vault"
		if name != "" {
			before, after, of = was.For(name), next.For(name), "source "+name
		}
		for _, line := range rulesWords(inForce != nil, before, after) {
			out = append(out, "  "+of+": "+line)
		}
	}
	if len(out) == 0 {
		return []string{"  the same as the one in force"}
	}
	return out
}

// rulesWords says of rules what they are, and what they were where that is known and differs.
func rulesWords(known bool, before, after policy.Rules) (out []string) {
	one := func(what, was, is string) {
		switch {
		case !known:
			out = append(out, what+" "+is)
		case was != is:
			out = append(out, what+" "+is+", which is "+was+" now")
		}
	}
	span := func(s int64) string {
		if s == 0 {
			return "none"
		}
		return lasting(s)
	}
	room := func(n int64) string {
		if n == 0 {
			return "none"
		}
		return fmt.Sprintf("%d bytes", n)
	}
	keep := func(k policy.Keep) string {
		b, err := json.Marshal(k)
		if err != nil || k == (policy.Keep{}) {
			return "nothing"
		}
		return string(b)
	}
	one("mode", string(before.Mode), string(after.Mode))
	one("locks by default", span(before.DefaultSeconds), span(after.DefaultSeconds))
	one("locks at least", span(before.MinSeconds), span(after.MinSeconds))
	one("locks at most", span(before.MaxSeconds), span(after.MaxSeconds))
	one("budget a day", room(before.BudgetBytes), room(after.BudgetBytes))
	one("keeps of what no lock keeps", keep(before.Keep), keep(after.Keep))
	return out
}
