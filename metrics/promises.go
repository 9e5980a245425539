package metrics

import "time"

// Promises is what the vault promised beside its locks, and what that may cost.
type Promises struct {
	Holds, Held uint64    // holds, and snapshots that have some
	Mode        string    // of the policy in force for sources without rules of their own
	Hardens     time.Time // when nobody can take its compliance mode back any more; zero where it is not compliance
	Refused     uint64    // things in the configuration that are looser than the policy in force, and not followed
	Budgets     []Budget
}

// Budget is what a source stored newly within 24 hours.
type Budget struct {
	Source      string
	Used, Limit uint64 // Limit is 0 where there is none yet
}

var (
	holds         = gauge("holds", "Holds that were placed; a held snapshot never goes.")
	held          = gauge("held_snapshots", "Snapshots that are held.")
	policyMode    = gauge("policy_info", "The mode of the lock policy in force for sources without rules of their own; always 1.", "mode")
	policyHardens = gauge("policy_hardens_timestamp_seconds", "When nobody can take the compliance mode of the policy back any more; absent where it is not compliance.")
	policyRefused = gauge("policy_refused", "Things in the configuration that are not followed: looser than the policy in force, or keep rules that a keeper's own settings do not say.")
	budgetUsed    = gauge("source_budget_used_bytes", "What the source stored newly within 24 hours, of its budget.", "source")
	budgetLimit   = gauge("source_budget_bytes", "What the source may store newly within 24 hours; absent while nothing limits it.", "source")

	ofPromises = []series{holds, held, policyMode, policyHardens, policyRefused, budgetUsed, budgetLimit}
)

func (p page) promises(v Promises) {
	p.put(holds, float64(v.Holds))
	p.put(held, float64(v.Held))
	if v.Mode != "" {
		p.put(policyMode, 1, label(v.Mode))
	}
	if !v.Hardens.IsZero() {
		p.put(policyHardens, seconds(v.Hardens))
	}
	p.put(policyRefused, float64(v.Refused))
	seen := map[string]bool{}
	for _, b := range v.Budgets {
		if !validName(b.Source) || seen[b.Source] {
			continue
		}
		seen[b.Source] = true
		p.put(budgetUsed, float64(b.Used), b.Source)
		if b.Limit > 0 {
			p.put(budgetLimit, float64(b.Limit), b.Source)
		}
	}
}
