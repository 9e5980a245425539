package keeper

import (
	"context"
	"encoding/json"
	"reflect"
	"slices"

	"github.com/holdfast-vault/holdfast/immutability/policy"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// Adopt compares what the daemon's configuration says with the policy in force, and changes nothing: no message changes the
// policy, which the keeper takes from its own settings. So what is tighter is refused too, and said.
func (m *Mirror) Adopt(_ context.Context, said policy.Policy, _ string) (changed bool, refused []policy.Refusal, err error) {
	if err := said.Proposes(); err != nil {
		return false, nil, err
	}
	inForce := m.Policy()
	known, err := m.store.Snapshots()
	if err != nil {
		return false, nil, err
	}
	next, refused := policy.Tighten(inForce, nil, said, func(source string) bool {
		return !slices.ContainsFunc(known, func(s worm.Snapshot) bool { return s.Source == source })
	})
	if !reflect.DeepEqual(next, inForce) {
		refused = append(refused, policy.Refusal{
			Member: "the policy", InForce: inWords(inForce), Said: inWords(next),
			Why: "a keeper keeps this vault, and takes its policy from its own settings alone (holdfast-keeper --policy)",
		})
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

func inWords(p policy.Policy) string {
	b, err := json.Marshal(p)
	if err != nil {
		return "another"
	}
	return string(b)
}
