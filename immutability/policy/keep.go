package policy

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
)

// Bounds of the keep rules: what a person would ever write.
const (
	// KeepMost is the most hours, days, weeks, months or years that a rule names.
	KeepMost = 10_000
	// KeepWithin is the longest time in seconds for which everything is kept, 100 years of 365 days.
	KeepWithin = 100 * 365 * 24 * 3600
)

// Keep are the keep rules: of how many hours, days, weeks, months and years one snapshot each is kept, and for how long every
// one is. What is zero is not said: a source then has the vault's, and the vault none.
type Keep struct {
	Hourly        int64 `json:"hourly,omitempty"`
	Daily         int64 `json:"daily,omitempty"`
	Weekly        int64 `json:"weekly,omitempty"`
	Monthly       int64 `json:"monthly,omitempty"`
	Yearly        int64 `json:"yearly,omitempty"`
	WithinSeconds int64 `json:"within_s,omitempty"`
}

// keepMember is one rule of Keep: its name in a record, and the most that it may say.
type keepMember struct {
	name string
	most int64
	in   func(k *Keep) *int64
}

var keepMembers = []keepMember{
	{"hourly", KeepMost, func(k *Keep) *int64 { return &k.Hourly }},
	{"daily", KeepMost, func(k *Keep) *int64 { return &k.Daily }},
	{"weekly", KeepMost, func(k *Keep) *int64 { return &k.Weekly }},
	{"monthly", KeepMost, func(k *Keep) *int64 { return &k.Monthly }},
	{"yearly", KeepMost, func(k *Keep) *int64 { return &k.Yearly }},
	{"within_s", KeepWithin, func(k *Keep) *int64 { return &k.WithinSeconds }},
}

// String lists the rules that are said, as a record names them: "daily 7, within_s 1209600"; "none" where there are none.
func (k Keep) String() string {
	var said []string
	for _, m := range keepMembers {
		if n := *m.in(&k); n != 0 {
			said = append(said, fmt.Sprintf("%s %d", m.name, n))
		}
	}
	if len(said) == 0 {
		return "none"
	}
	return strings.Join(said, ", ")
}

// each makes a Keep of two, rule by rule.
func (k Keep) each(other Keep, of func(a, b int64) int64) Keep {
	for _, m := range keepMembers {
		*m.in(&k) = of(*m.in(&k), *m.in(&other))
	}
	return k
}

// with puts what a source says in the vault's place.
func (k Keep) with(own Keep) Keep {
	return k.each(own, func(vault, own int64) int64 { return cmp.Or(own, vault) })
}

// without leaves what a source has no rule of its own for.
func (k Keep) without(own Keep) Keep {
	return k.each(own, func(vault, own int64) int64 {
		if own != 0 {
			return 0
		}
		return vault
	})
}

// apart leaves what differs from the vault's.
func (k Keep) apart(vault Keep) Keep {
	return k.each(vault, func(own, vault int64) int64 {
		if own == vault {
			return 0
		}
		return own
	})
}

// loosest is the least of each rule: one that is not said keeps nothing.
func (k Keep) loosest(other Keep) Keep {
	return k.each(other, func(a, b int64) int64 { return min(a, b) })
}

// looser says whether some rule of k keeps less than that of other.
func (k Keep) looser(other Keep) bool { return k.loosest(other) != other }

func (k Keep) check() error {
	for _, m := range keepMembers {
		if n := *m.in(&k); n < 0 || n > m.most {
			return fmt.Errorf("keep rule %s says %d: from 1 to %d, or it is left out", m.name, n, m.most)
		}
	}
	return nil
}

// keep follows the keep rules that are said, rule by rule.
func (t *tightening) keep(own, all Keep) {
	for _, m := range keepMembers {
		least := *m.in(&t.floor.Keep)
		*m.in(&t.next.Keep) = t.pick("keep."+m.name, *m.in(&t.have.Keep), *m.in(&own), *m.in(&all),
			func(v int64) bool { return v >= least }, whyLooser)
	}
}

// KeptElsewhere lists the keep rules that a proposal says and by which one who follows it would keep more than the policy in
// force does: for whoever proposes to somebody who does not follow him.
func KeptElsewhere(inForce, said Policy, why string) []Refusal {
	var out []Refusal
	list := func(source string, said, have Keep) {
		for _, m := range keepMembers {
			if more, now := *m.in(&said), *m.in(&have); more > now {
				t := tightening{}
				t.refuse("keep."+m.name, now, more, why)
				t.refused[0].Source = source
				out = append(out, t.refused...)
			}
		}
	}
	list("", said.Keep, inForce.Keep)
	for _, name := range said.Names() {
		list(name, said.Sources[name].Keep, inForce.For(name).Keep)
	}
	return out
}

// Loosest gives the loosest of what a source has by several policies, member by member. The first is given in any case.
func Loosest(source string, first Policy, more ...Policy) Rules {
	r := first.For(source)
	for _, p := range more {
		r = loosest(r, p.For(source))
	}
	return r
}

// keepRules reads the member `keep`.
func (r *reader) keepRules(to *Keep) error {
	fields := map[string]func() error{}
	for _, m := range keepMembers {
		fields[m.name] = func() error { return r.bounded("keep."+m.name, m.most, m.in(to)) }
	}
	return r.object(fields)
}

func (r *reader) bounded(what string, most int64, to *int64) error {
	if err := r.number(what, to); err != nil {
		return err
	}
	if *to > most {
		return r.bad("%s is %d, and %d is the most", what, *to, most)
	}
	return nil
}

// fitsRecord says whether a policy of many sources is larger than a record can be.
func (p Policy) fitsRecord() error {
	const (
		apiece = 300 // bytes that the rules of one source take at most
		most   = 1000 << 10
	)
	if len(p.Sources)*apiece < most {
		return nil
	}
	b, err := json.Marshal(p)
	if err == nil && len(b) > most {
		err = fmt.Errorf("the rules of %d sources take %d bytes, more than %d: say less of each, or more for all", len(p.Sources), len(b), most)
	}
	return err
}
