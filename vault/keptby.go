package vault

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-vault/holdfast/immutability/retention"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// AnyRule stands for all keep rules.
const AnyRule = "any"

// KeepRules are the names of the keep rules.
var KeepRules = []string{
	retention.RuleHourly, retention.RuleDaily, retention.RuleWeekly, retention.RuleMonthly, retention.RuleYearly, retention.RuleWithin,
}

// KeptBy gives the snapshots that a keep rule (or AnyRule) wants, oldest first: those that it would keep today had they the lock
// alone that they were committed with, and those that it would keep had all locks run. Whoever locks them is given the same ones
// the next time: if today's locks counted, what is locked would leave its place to the next of its span, which would be
// locked in its turn. source is one, or "" for all. A rule that is said for none of them is an error.
func (v *Vault) KeptBy(ctx context.Context, rule, source string) ([]worm.Inventoried, error) {
	if rule != AnyRule && !slices.Contains(KeepRules, rule) {
		return nil, fmt.Errorf("%q is no keep rule: they are %s, and %s for all of them", rule, strings.Join(KeepRules, ", "), AnyRule)
	}
	inv, err := v.store.Inventory(ctx)
	if err != nil {
		return nil, err
	}
	if err := said(&inv, rule, source); err != nil {
		return nil, err
	}
	born, run := inv.History, inv.History
	born.Snapshots, run.Snapshots = slices.Clone(born.Snapshots), slices.Clone(run.Snapshots)
	born.Least, run.Least = nil, nil
	for i := range run.Snapshots {
		locks, err := v.store.Locks(run.Snapshots[i].ID)
		if err != nil {
			return nil, err
		}
		endless := run.Snapshots[i].Locked && run.Snapshots[i].Endless
		run.Snapshots[i].Locked = endless
		born.Snapshots[i].Locked = endless || len(locks) > 0 && locks[0].Running
	}
	first, later := retention.Decide(born), retention.Decide(run)
	var out []worm.Inventoried
	for i := range inv.Snapshots {
		if source != "" && inv.Snapshots[i].Source != source {
			continue
		}
		if wants(rule, first[i]) || wants(rule, later[i]) {
			out = append(out, inv.Snapshots[i])
		}
	}
	return out, nil
}

func wants(rule string, d retention.Decision) bool {
	return slices.ContainsFunc(d.Reasons, func(r retention.Reason) bool {
		return r.Rule == rule || rule == AnyRule && slices.Contains(KeepRules, r.Rule)
	})
}

// said makes sure that a rule is said for some source that has snapshots.
func said(inv *worm.Inventory, rule, source string) error {
	found := false
	for i := range inv.Snapshots {
		if s := inv.Snapshots[i].Source; source == "" || s == source {
			if found = true; inv.History.Keep != nil && saysRule(inv.History.Keep(s), rule) {
				return nil
			}
		}
	}
	switch {
	case !found && source != "":
		return fmt.Errorf("source %q has no snapshots here", source)
	case rule == AnyRule:
		rule = "keep"
	}
	return fmt.Errorf("the policy in force has no %s rule for it; see: holdfast lock show", rule)
}

func saysRule(k retention.Keep, rule string) bool {
	n := map[string]int64{
		retention.RuleHourly: k.Hourly, retention.RuleDaily: k.Daily, retention.RuleWeekly: k.Weekly, retention.RuleMonthly: k.Monthly,
		retention.RuleYearly: k.Yearly, retention.RuleWithin: k.WithinSeconds,
	}
	return n[rule] > 0 || rule == AnyRule && k != (retention.Keep{})
}
