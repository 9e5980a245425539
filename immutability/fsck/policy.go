package fsck

import (
	"fmt"
	"math"
	"sort"

	"github.com/holdfast-vault/holdfast/immutability/reliance"
)

const (
	// longestLock is the longest lock that any policy may set by itself, in seconds.
	longestLock = 400 * 24 * 3600
	// sourcesMax bounds the sources with rules of their own in one policy.
	sourcesMax = 5000
)

// rules are those of the vault or of one source. What is zero is not said.
type rules struct {
	mode                             string
	defaultSeconds, minimum, maximum int64
	budget                           int64 // 0 is none
	keep                             keepRules
}

// policy is what locks are made of when nobody asks for more.
type policy struct {
	rules
	sources map[string]rules
}

// keeps says whether it has any keep rule, which no release had that had no marks.
func (p policy) keeps() bool {
	for _, r := range p.sources {
		if r.keep != (keepRules{}) {
			return true
		}
	}
	return p.keep != (keepRules{})
}

// inForce is a policy and since when.
type inForce struct {
	policy
	at Stamp
	// decided says that a request of several people put it into force: nothing before it may come back.
	decided bool
}

// readPolicy reads the members of a policy.
func readPolicy(o *object) policy {
	p := policy{rules: rules{mode: o.text("mode"), defaultSeconds: o.number("default_s"), minimum: o.number("min_s"), maximum: o.number("max_s")}}
	if o.has("budget_bytes") {
		p.budget = o.number("budget_bytes")
	}
	p.keep = readKeep(o)
	if !o.has("sources") {
		return p
	}
	in := o.within("sources")
	p.sources = map[string]rules{}
	for name := range in.of {
		own := in.within(name)
		var r rules
		for member, to := range map[string]*int64{"default_s": &r.defaultSeconds, "min_s": &r.minimum, "max_s": &r.maximum, "budget_bytes": &r.budget} {
			if own.has(member) {
				*to = own.number(member)
			}
		}
		if own.has("mode") {
			r.mode = own.text("mode")
		}
		r.keep = readKeep(own)
		if own.err != nil && o.err == nil {
			o.err = own.err
		}
		p.sources[name] = r
	}
	return p
}

// of gives the rules of a source: the stronger mode and the longer minimum of both, its own maximum, budget, default and keep
// rules where it has them. A default that comes from the vault is cut to its maximum and raised to its minimum.
func (p policy) of(source string) rules {
	r, own := p.rules, p.sources[source]
	if own.mode == "compliance" {
		r.mode = own.mode
	}
	r.minimum = max(r.minimum, own.minimum)
	if own.maximum != 0 {
		r.maximum = own.maximum
	}
	if own.budget != 0 {
		r.budget = own.budget
	}
	r.keep = r.keep.of(own.keep)
	if own.defaultSeconds != 0 {
		r.defaultSeconds = own.defaultSeconds
	} else {
		r.defaultSeconds = max(min(r.defaultSeconds, r.maximum), r.minimum)
	}
	return r
}

// sane says why a policy contradicts itself. Such a one changes nothing.
func (p policy) sane() error {
	if len(p.sources) > sourcesMax {
		return fmt.Errorf("it has rules for %d sources, more than %d", len(p.sources), sourcesMax)
	}
	names := []string{""}
	for name, own := range p.sources {
		if !reliance.ValidSource(name) || own.mode != "" && !knownMode(own.mode) {
			return fmt.Errorf("source %q with mode %q", name, own.mode)
		}
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		r := p.rules
		if name != "" {
			r = p.of(name)
		}
		if !knownMode(r.mode) || r.minimum < 0 || r.defaultSeconds < 1 || r.minimum > r.defaultSeconds || r.defaultSeconds > r.maximum || r.maximum > longestLock || r.budget < 0 {
			return fmt.Errorf("source %q: mode %q, at least %d s, by default %d s, at most %d s, budget %d", name, r.mode, r.minimum, r.defaultSeconds, r.maximum, r.budget)
		}
		if !r.keep.sane() || !p.sources[name].keep.sane() {
			return fmt.Errorf("source %q (empty for all): keep rules %v of %v", name, r.keep, keepNames)
		}
	}
	return nil
}

// softened is a policy with governance in place of compliance: what counts as in force before a vault's first policy.
func (p policy) softened() policy {
	p.mode = "governance"
	sources := make(map[string]rules, len(p.sources))
	for name, r := range p.sources {
		if r.mode == "compliance" {
			r.mode = ""
		}
		sources[name] = r
	}
	p.sources = sources
	return p
}

// coolingOff is for how many seconds of running time a change of the policy may be taken back. A minute is added here: the
// vault decides a moment before its record is stamped.
const coolingOff = 72*3600 + 60

// cooled says whether what began then had stood for that long. The wall clock does not count: one that is set back would
// bring back what had become hard.
func cooled(since, now Stamp) bool { return now.Running-since.Running > coolingOff }

// takePolicy follows a policy of the ledger. None may be looser than the loosest of the last 72 hours.
func (h *history) takePolicy(r *record, p policy) {
	if err := p.sane(); err != nil {
		h.wrong(r, KindRecord, "a policy that contradicts itself, which changes nothing: %v", err)
		return
	}
	if n := len(h.policies); n > 0 {
		if what := h.loosened(r, p); what != "" {
			h.wrong(r, KindLock, "it makes the policy looser than any of the last 72 hours: %s; the vault waits for a quorum with that", what)
		}
	}
	h.adopt(r, p, false)
}

// adopt puts a policy in force.
func (h *history) adopt(r *record, p policy, decided bool) {
	h.policies = append(h.policies, inForce{p, r.at, decided})
	clear(h.marks.snapshots) // it may want them
	h.marks.any = h.marks.any || p.keeps()
}

// policy is the one in force.
func (h *history) policy() policy {
	if len(h.policies) == 0 {
		return policy{rules: rules{mode: "governance", defaultSeconds: 1, maximum: math.MaxInt64}}
	}
	return h.policies[len(h.policies)-1].policy
}

// loosened says what of a policy is looser than the loosest of those in force within the last 72 hours, "" for nothing.
func (h *history) loosened(r *record, p policy) string {
	last := len(h.policies) - 1
	recent := []policy{h.policies[last].policy}
	decided := h.policies[last].decided
	for i := last; i > 0 && !decided; i-- {
		if !cooled(h.policies[i].at, r.at) {
			recent = append(recent, h.policies[i-1].policy)
		}
		decided = h.policies[i-1].decided
	}
	if !decided && !cooled(h.policies[0].at, r.at) {
		recent = append(recent, h.policies[0].softened())
	}
	names := map[string]bool{"": true}
	for _, x := range append(recent, p) {
		for name := range x.sources {
			names[name] = true
		}
	}
	for _, name := range sorted(names) {
		floor := recent[0].of(name)
		for _, x := range recent[1:] {
			floor = looser(floor, x.of(name))
		}
		if _, committed := h.sources[name]; name != "" && !committed {
			floor.defaultSeconds, floor.budget, floor.keep = 0, 0, keepRules{} // nothing of it is there that could be kept for less
		}
		if looser(floor, p.of(name)) != floor {
			return fmt.Sprintf("source %q (empty for all): %+v, and %+v is the loosest before", name, p.of(name), floor)
		}
	}
	return ""
}

// looser gives, member by member, the looser of two.
func looser(a, b rules) rules {
	if b.mode == "governance" {
		a.mode = b.mode
	}
	a.minimum = min(a.minimum, b.minimum)
	a.defaultSeconds = min(a.defaultSeconds, b.defaultSeconds)
	a.maximum = max(a.maximum, b.maximum)
	if a.budget == 0 || b.budget == 0 {
		a.budget = 0
	} else {
		a.budget = max(a.budget, b.budget)
	}
	a.keep = a.keep.looser(b.keep)
	return a
}

// elapsed says whether seconds have passed between two stamps by both clocks. Stamps are cut to whole seconds, so one more is
// asked.
func elapsed(since, now Stamp, seconds int64) bool {
	return now.Wall.Unix()-since.Wall.Unix() > seconds && now.Running-since.Running > seconds
}
