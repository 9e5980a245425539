package keeper

import (
	"context"
	"slices"

	"github.com/holdfast-vault/holdfast/immutability/policy"
)

// Adopt compares what the daemon's configuration says with the policy in force, and changes nothing: no message changes the
// policy, which the keeper takes from its own settings. What is looser is refused and said; what is tighter the daemon asks
// for with each commit, as far as it is of locks. Keep rules can be asked for by nobody: what they say beyond those in force is
// refused and said too, or who wrote them here would believe that they keep something.
func (m *Mirror) Adopt(_ context.Context, said policy.Policy, _ string) (changed bool, refused []policy.Refusal, err error) {
	_, refused, err = m.Weigh(said)
	if err != nil {
		return false, nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refused = refused
	return false, slices.Clone(refused), nil
}

// Refused gives what the newest Adopt did not follow.
func (m *Mirror) Refused() []policy.Refusal {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.refused)
}

// Weigh says what the keeper would make of such settings now, by what is known here, and what of them is not followed from here.
func (m *Mirror) Weigh(said policy.Policy) (next policy.Policy, refused []policy.Refusal, err error) {
	if next, refused, err = m.store.Weigh(said); err == nil {
		refused = append(refused, policy.KeptElsewhere(m.store.Policy(), said, whyKeptElsewhere)...)
	}
	return next, refused, err
}

const whyKeptElsewhere = "a keeper keeps this vault, and what is kept for longer is read from its own settings alone (policy.json): say it there"
