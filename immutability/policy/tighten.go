package policy

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
)

// Refusal is one thing that a proposal says and that is not followed.
type Refusal struct {
	Source  string // "" for the vault
	Member  string // as the ledger's record names it
	InForce string
	Said    string
	Why     string
}

// String is the refusal as a clause for people.
func (r Refusal) String() string {
	where := ""
	if r.Source != "" {
		where = fmt.Sprintf("source %s: ", r.Source)
	}
	return fmt.Sprintf("%s%s stays %s, %s is not followed: %s", where, r.Member, r.InForce, r.Said, r.Why)
}

// Tighten gives the policy that follows from one in force and a proposal, member by member, and what of the proposal is not
// followed. Unsaid is zero. cooling are the policies that were in force at any time within the last 72 hours, the one at
// their beginning included: what is looser than the one in force is followed only down to the loosest of them, so that a
// change can be taken back for 72 hours and not later. Without cooling nothing becomes looser.
//
// The members, and which way is tighter:
//
//	mode          compliance is tighter than governance
//	min_s         longer is tighter
//	default_s     longer is tighter, up to the maximum in force
//	max_s         shorter is tighter, down to the default in force; longer would let more room be pinned
//	budget_bytes  less is tighter, and any number is tighter than none
//	keep          rule by rule: more is tighter, and any number is tighter than none
//
// A source of which fresh says that the vault has had no snapshot yet may be given any default, budget and keep rules: nothing of it is
// there that was promised more. The vault's mode, minimum and maximum hold for it all the same.
//
// What a proposal leaves out stays as it is: a source's own rules too, which go on above the vault's mode and minimum.
func Tighten(inForce Policy, cooling []Policy, said Policy, fresh func(source string) bool) (next Policy, refused []Refusal) {
	floor := func(source string) Rules {
		f := Loosest(source, inForce, cooling...)
		if source != "" && fresh(source) {
			f.DefaultSeconds, f.BudgetBytes, f.Keep = 1, 0, Keep{}
		}
		return f
	}
	vault, refused := tighten(inForce.Vault(), floor(""), said.Vault(), Rules{})
	next = Policy{vault.Mode, vault.DefaultSeconds, vault.MinSeconds, vault.MaxSeconds, vault.BudgetBytes, vault.Keep, nil}
	names := map[string]bool{}
	// Sources that had rules of their own lately are among them: what they were promised is not the vault's to take back.
	for _, p := range slices.Concat([]Policy{inForce, said}, cooling) {
		for name := range p.Sources {
			names[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		rules, no := tighten(inForce.For(name), floor(name), said.Sources[name], vault.without(inForce.Sources[name]))
		for i := range no {
			no[i].Source = name
		}
		refused = append(refused, no...)
		// What a source keeps is not below what the vault has now: an entry below would say nothing, and be gone the next time.
		rules.MinSeconds = max(rules.MinSeconds, vault.MinSeconds)
		rules.DefaultSeconds = max(rules.DefaultSeconds, rules.MinSeconds)
		if stronger(vault.Mode, rules.Mode) {
			rules.Mode = vault.Mode
		}
		if own := rules.apart(vault); own != (Rules{}) {
			if next.Sources == nil {
				next.Sources = map[string]Rules{}
			}
			next.Sources[name] = own
		}
	}
	why := next.Check()
	if why == nil && !sameFor(next, names, inForce, floor) {
		why = errors.New("it would make something looser")
	}
	if why != nil { // nothing that is not understood is followed
		return inForce, append(refused, Refusal{Member: "policy", InForce: "as it is", Said: "the proposal",
			Why: fmt.Sprintf("its members do not fit together, or not with what a source has: %v", why)})
	}
	return next, refused
}

// sameFor proves of every source that the outcome is nowhere looser than its floor.
func sameFor(next Policy, names map[string]bool, inForce Policy, floor func(string) Rules) bool {
	for name := range names {
		if Looser(next.For(name), floor(name)) {
			return false
		}
	}
	return !Looser(next.Vault(), floor(""))
}

// Looser says whether some member of a is looser than that of b.
func Looser(a, b Rules) bool {
	return looserMode(a.Mode, b.Mode) || a.MinSeconds < b.MinSeconds || a.DefaultSeconds < b.DefaultSeconds ||
		a.MaxSeconds > b.MaxSeconds || budget(a) > budget(b) || a.Keep.looser(b.Keep)
}

func looserMode(a, b Mode) bool { return stronger(b, a) }

// budget takes no number for the largest.
func budget(r Rules) int64 {
	if r.BudgetBytes == 0 {
		return math.MaxInt64
	}
	return r.BudgetBytes
}

func loosest(a, b Rules) Rules {
	if looserMode(b.Mode, a.Mode) {
		a.Mode = b.Mode
	}
	a.MinSeconds = min(a.MinSeconds, b.MinSeconds)
	a.DefaultSeconds = min(a.DefaultSeconds, b.DefaultSeconds)
	a.MaxSeconds = max(a.MaxSeconds, b.MaxSeconds)
	if budget(b) > budget(a) {
		a.BudgetBytes = b.BudgetBytes
	}
	a.Keep = a.Keep.loosest(b.Keep)
	return a
}

const (
	whyLooser = "it is looser, and that takes a quorum"
	whyRoom   = "a longer maximum lets more room be pinned, and that takes a quorum"
)

// tighten follows what is said for one source, own, or where that is silent what all have now. What does not suit a source
// with rules of its own is not followed silently: it was not said for it.
func tighten(have, floor, own, all Rules) (Rules, []Refusal) {
	t := &tightening{have: have, floor: floor, next: have, own: own}
	t.mode(own.Mode, all.Mode)
	minimum := t.pick("min_s", have.MinSeconds, own.MinSeconds, all.MinSeconds, func(v int64) bool { return v >= floor.MinSeconds }, whyLooser)
	byDefault := t.pick("default_s", have.DefaultSeconds, own.DefaultSeconds, all.DefaultSeconds, func(v int64) bool { return v >= floor.DefaultSeconds }, whyLooser)
	longest := t.pick("max_s", have.MaxSeconds, own.MaxSeconds, all.MaxSeconds, func(v int64) bool { return v <= floor.MaxSeconds }, whyRoom)
	t.durations(minimum, byDefault, longest)
	t.next.BudgetBytes = t.pick("budget_bytes", have.BudgetBytes, own.BudgetBytes, all.BudgetBytes,
		func(v int64) bool { return v <= budget(floor) }, whyLooser)
	t.keep(own.Keep, all.Keep)
	return t.next, t.refused
}

type tightening struct {
	have, floor, next, own Rules
	refused                []Refusal
}

func (t *tightening) refuse(member string, have, said any, why string) {
	show := func(v any) string {
		if v == int64(0) {
			return "unset"
		}
		return fmt.Sprint(v)
	}
	t.refused = append(t.refused, Refusal{Member: member, InForce: show(have), Said: show(said), Why: why})
}

func (t *tightening) mode(own, all Mode) {
	said := own
	if said == "" {
		said = all
	}
	switch {
	case said == "":
	case !looserMode(said, t.floor.Mode):
		t.next.Mode = said
	case own != "":
		t.refuse("mode", t.have.Mode, said, "a compliance policy that has hardened is never weakened")
	}
}

// pick gives the value of one member that is followed.
func (t *tightening) pick(member string, have, own, all int64, may func(int64) bool, why string) int64 {
	said := own
	if said == 0 {
		said = all
	}
	switch {
	case said == 0 || said == have:
	case may(said):
		return said
	case own != 0:
		t.refuse(member, have, said, why)
	}
	return have
}

// durations puts together what may be followed one by one. Where two do not fit, the one that is new gives way.
func (t *tightening) durations(minimum, byDefault, longest int64) {
	n := &t.next
	if minimum > longest {
		if minimum != t.have.MinSeconds && minimum > t.have.MaxSeconds {
			t.sayOwn("min_s", t.have.MinSeconds, minimum, t.own.MinSeconds, "it is longer than the maximum in force")
			minimum = t.have.MinSeconds
		} else {
			t.sayOwn("max_s", t.have.MaxSeconds, longest, t.own.MaxSeconds, "it is shorter than the minimum in force")
			longest = t.have.MaxSeconds
		}
	}
	if byDefault > longest {
		if byDefault != t.have.DefaultSeconds && byDefault > t.have.MaxSeconds {
			t.sayOwn("default_s", t.have.DefaultSeconds, byDefault, t.own.DefaultSeconds, "it is longer than the maximum in force")
			byDefault = t.have.DefaultSeconds
		}
		if byDefault > longest {
			t.sayOwn("max_s", t.have.MaxSeconds, longest, t.own.MaxSeconds, "it is shorter than the default in force")
			longest = t.have.MaxSeconds
		}
	}
	byDefault = max(byDefault, minimum)
	if minimum > longest || byDefault > longest {
		return // as they were: cannot be, since those in force fit
	}
	n.MinSeconds, n.DefaultSeconds, n.MaxSeconds = minimum, byDefault, longest
}

// sayOwn refuses what was said for this source or the vault itself.
func (t *tightening) sayOwn(member string, have, said, own int64, why string) {
	if own != 0 {
		t.refuse(member, have, said, why)
	}
}

// without leaves of the vault's rules what a source with rules of its own takes from them.
func (r Rules) without(own Rules) Rules {
	if own.DefaultSeconds != 0 {
		r.DefaultSeconds = 0
	}
	if own.MaxSeconds != 0 {
		r.MaxSeconds = 0
	}
	if own.BudgetBytes != 0 {
		r.BudgetBytes = 0
	}
	if r.MinSeconds < own.MinSeconds {
		r.MinSeconds = 0
	}
	if own.Mode == Compliance {
		r.Mode = ""
	}
	r.Keep = r.Keep.without(own.Keep)
	return r
}

// apart gives the rules of a source's own that make r of the vault's.
func (r Rules) apart(vault Rules) (own Rules) {
	if r.Mode != vault.Mode {
		own.Mode = r.Mode
	}
	if r.MinSeconds != vault.MinSeconds {
		own.MinSeconds = r.MinSeconds
	}
	if r.MaxSeconds != vault.MaxSeconds {
		own.MaxSeconds = r.MaxSeconds
	}
	if r.BudgetBytes != vault.BudgetBytes {
		own.BudgetBytes = r.BudgetBytes
	}
	own.Keep = r.Keep.apart(vault.Keep)
	if vault.with(own).DefaultSeconds != r.DefaultSeconds {
		own.DefaultSeconds = r.DefaultSeconds
	}
	return own
}
