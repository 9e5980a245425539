package config

import "cmp"

// said leaves of a lock policy what the file says.
func said(raw rawLock, l Lock) (out Lock) {
	if raw.Mode.set {
		out.Mode = l.Mode
	}
	if raw.For.set {
		out.For = l.For
	}
	if raw.Min.set {
		out.Min = l.Min
	}
	if raw.Max.set {
		out.Max = l.Max
	}
	out.Budget = l.Budget
	return out
}

// sourceLock compares a source's lock with the policy.
func (r *reader) sourceLock(p *page, raw rawSourceLock, l SourceLock) {
	policy := r.config.Lock
	least, most := max(l.Min, policy.Min), cmp.Or(l.Max, policy.Max)
	switch {
	case raw.For.set && l.For == 0:
		r.bad(p, raw.For.at, "lock.for is 0: a snapshot is never without a lock")
	case l.Mode == DefaultLockMode && policy.Mode != DefaultLockMode:
		r.bad(p, raw.Mode.at, "lock.mode is %s, weaker than the policy's, which is %s", l.Mode, policy.Mode)
	case raw.Min.set && l.Min < policy.Min:
		r.bad(p, raw.Min.at, "lock.min (%s) is below the policy's min (%s)", FormatDuration(l.Min), FormatDuration(policy.Min))
	case l.Max > MaxLockFor:
		r.bad(p, raw.Max.at, "lock.max is %s: an automatic lock is %s at most", FormatDuration(l.Max), FormatDuration(MaxLockFor))
	case raw.Max.set && l.Max == 0:
		r.bad(p, raw.Max.at, "lock.max is 0: a snapshot is never without a lock")
	case least > most:
		r.bad(p, first(raw.Min, raw.Max), "lock.min (%s) is longer than lock.max (%s)", FormatDuration(least), FormatDuration(most))
	case raw.For.set && (l.For < least || l.For > most):
		r.bad(p, raw.For.at, "lock.for (%s) must be between the policy's min (%s) and max (%s)", FormatDuration(l.For), FormatDuration(least), FormatDuration(most))
	}
}
