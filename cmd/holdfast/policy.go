package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/policy"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/metrics"
)

// proposal is what a configuration says of locks and keep rules, in the ledger's form. What it leaves out says nothing.
func proposal(cfg *config.Config) policy.Policy {
	l := cfg.LockSaid
	p := policy.Policy{
		Mode: policy.Mode(l.Mode), DefaultSeconds: seconds(l.For), MinSeconds: seconds(l.Min), MaxSeconds: seconds(l.Max), BudgetBytes: l.Budget,
		Keep: keepRules(cfg.Keep),
	}
	for _, s := range cfg.Sources {
		own := policy.Rules{
			Mode: policy.Mode(s.Lock.Mode), DefaultSeconds: seconds(s.Lock.For), MinSeconds: seconds(s.Lock.Min),
			MaxSeconds: seconds(s.Lock.Max), BudgetBytes: s.Lock.Budget, Keep: keepRules(s.Keep),
		}
		if own == (policy.Rules{}) {
			continue
		}
		if p.Sources == nil {
			p.Sources = map[string]policy.Rules{}
		}
		p.Sources[s.Name] = own
	}
	return p
}

// keepRules are keep rules of a configuration in the ledger's form.
func keepRules(k config.Keep) policy.Keep {
	return policy.Keep{
		Hourly: int64(k.Hourly), Daily: int64(k.Daily), Weekly: int64(k.Weekly), Monthly: int64(k.Monthly), Yearly: int64(k.Yearly),
		WithinSeconds: seconds(k.Within),
	}
}

// keeping writes keep rules as a configuration does: "daily 7, within 14d".
func keeping(k policy.Keep) string {
	var said []string
	for _, r := range []struct {
		name string
		n    int64
	}{{"hourly", k.Hourly}, {"daily", k.Daily}, {"weekly", k.Weekly}, {"monthly", k.Monthly}, {"yearly", k.Yearly}} {
		if r.n > 0 {
			said = append(said, fmt.Sprintf("%s %d", r.name, r.n))
		}
	}
	if k.WithinSeconds > 0 {
		said = append(said, "within "+config.FormatDuration(time.Duration(k.WithinSeconds)*time.Second))
	}
	if len(said) == 0 {
		return "the newest alone"
	}
	return strings.Join(said, ", ")
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

// adoptPolicy has the configuration compared with the policy in force. What is tighter is in force on return, but behind a
// keeper, whose own file proposes its policy; what is looser is returned in sentences.
func (h *host) adoptPolicy(ctx context.Context, cfg *config.Config) (changed bool, refused []string, err error) {
	changed, no, err := h.v.Store().Adopt(ctx, proposal(cfg), adopter(cfg))
	if err != nil {
		return false, nil, err
	}
	return changed, refusals(no), nil
}

// adopter says for a record where a proposal came from.
func adopter(cfg *config.Config) string {
	by := cmp.Or(cfg.File, "command line")
	return by[:min(len(by), worm.ByMax)]
}

// sayPolicy adopts a configuration and says what of it is not followed. That it could not be written, on a full disk for one,
// keeps nobody from pulling: the policy in force stays.
func (h *host) sayPolicy(ctx context.Context, cfg *config.Config, changed func(), warn func(text string)) {
	did, no, err := h.adoptPolicy(ctx, cfg)
	if err != nil {
		warn(fmt.Sprintf("the policy in force stays as it is: %v", err))
	}
	for _, text := range no {
		warn("the configuration is not followed: " + text)
	}
	if did {
		changed()
	}
}

// promises gathers what metrics show of holds, policy and budgets.
func (d *daemonState) promises(all []worm.Snapshot) metrics.Promises {
	store := d.h.v.Store()
	p := metrics.Promises{Mode: string(d.h.v.Store().Policy().Mode), Refused: uint64(len(store.Refused()))}
	for _, s := range all {
		p.Holds += uint64(len(s.Holds))
		if len(s.Holds) > 0 {
			p.Held++
		}
	}
	hard, err := store.Hardening()
	if err != nil {
		d.log.Error("metrics: policy", "error", err)
	} else if len(hard) > 0 && hard[0].Source == "" {
		p.Hardens = hard[0].At
	}
	used, err := store.Budgets()
	if err != nil {
		d.log.Error("metrics: budgets", "error", err)
	}
	for _, b := range used {
		p.Budgets = append(p.Budgets, metrics.Budget{Source: b.Source, Used: uint64(max(b.Used, 0)), Limit: uint64(max(b.Limit, 0))})
	}
	return p
}

func refusals(no []policy.Refusal) []string {
	var out []string
	for _, r := range no {
		out = append(out, readable(r))
	}
	return out
}

// readable is a refusal with durations and sizes as people write them.
func readable(r policy.Refusal) string {
	word := map[string]string{"default_s": "for", "min_s": "min", "max_s": "max", "budget_bytes": "budget"}[r.Member]
	budget := r.Member == "budget_bytes"
	show := func(s string) string {
		var n int64
		if _, err := fmt.Sscan(s, &n); err != nil || word == "" {
			return s
		}
		if budget {
			return config.FormatBytes(n)
		}
		return config.FormatDuration(time.Duration(n) * time.Second)
	}
	switch {
	case r.Member == "keep.within_s":
		word, r.Member = "within", "keep.within"
	case strings.HasPrefix(r.Member, "keep."): // a number
	case word == "":
		r.Member = "lock." + r.Member
	default:
		r.Member = "lock." + word
	}
	r.InForce, r.Said = show(r.InForce), show(r.Said)
	return r.String()
}

// lockFor is the lock that a pull asks for. What nobody asks for by name is the policy's, which is the ledger's and knows what
// this configuration says as far as it is followed. A keeper does not read this configuration: there what it has more than
// the policy is asked for, and what it has less is not.
func (h *host) lockFor(s config.Source, asked ledger.Lock) ledger.Lock {
	cfg, rules := h.settings.config(), h.v.Store().Policy().For(s.Name)
	if mode, _ := cfg.LockFor(s); asked.Mode == "" && mode == string(ledger.Compliance) && h.v.Kept() {
		asked.Mode = ledger.Compliance
	}
	if asked.ForSeconds == 0 && h.v.Kept() {
		asked.ForSeconds = max(rules.DefaultSeconds, cmp.Or(seconds(s.Lock.For), seconds(cfg.LockSaid.For)))
	}
	return asked
}

// adopt has the configuration compared with the policy in force, and logs what becomes of it.
func (s *server) adopt(ctx context.Context, cfg *config.Config) {
	s.h.sayPolicy(ctx, cfg, func() {
		p := s.h.v.Store().Policy()
		s.log.Info("the configuration changed the lock policy in force", "mode", p.Mode, "default_s", p.DefaultSeconds, "min_s", p.MinSeconds, "max_s", p.MaxSeconds, "budget_bytes", p.BudgetBytes, "keep", p.Keep.String(), "sources", len(p.Sources))
	}, func(text string) { s.log.Warn(text) })
	s.h.sayPeople(ctx, cfg, func(p worm.PeopleInfo) {
		s.log.Warn("the configuration names people who will decide what the vault forgets", "threshold", p.Threshold, "people", len(p.People.People), "from", p.From)
	}, func(text string) { s.log.Warn(text) })
}

// policy says what of the policy is not as somebody may think.
func (p *patient) policy() {
	if p.store == nil {
		return
	}
	_, no, err := p.store.Weigh(proposal(p.cfg))
	if err != nil {
		p.say("policy", isBroken, "mend the configuration", "%v", err)
	}
	for _, text := range refusals(no) {
		p.say("policy", isNote, "write into the configuration what is in force; to loosen it: holdfast request make policy, and enough people sign it", "%s", text)
	}
	hard, err := p.store.Hardening()
	if err != nil {
		return // the clock, which is told of by itself
	}
	for _, h := range hard {
		of := "compliance"
		if h.Source != "" {
			of += " of " + h.Source
		}
		if h.Hard {
			p.well("policy", "%s has hardened (%s): nobody takes it back", of, minute(h.At))
		} else {
			p.say("policy", isNote, "to take it back, write mode: governance into the configuration before then", "%s hardens %s, if this machine stays on; nobody takes it back after that", of, minute(h.At))
		}
	}
	if len(no) == 0 && len(hard) == 0 {
		r := p.store.Policy().Vault()
		p.well("policy", "%s, %s by default, from %s to %s; of what has run out it keeps %s", r.Mode, lasting(r.DefaultSeconds), lasting(r.MinSeconds), lasting(r.MaxSeconds), keeping(r.Keep))
	}
	used, err := p.store.Budgets()
	if err != nil {
		return
	}
	for _, b := range used {
		if !b.Again.IsZero() {
			p.say("budget", isWeak, "look at what it is sending; it goes on by itself", "%s stored %d bytes within 24 hours, which is all it may: its pulls stop until %s", b.Source, b.Used, minute(b.Again))
		}
	}
}
