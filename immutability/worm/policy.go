package worm

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/policy"
)

// coolingOff is how long a change of the policy may be taken back, by running time alone. A wall clock that is set back would
// bring back what nobody can take back any more, and one that was ahead when a change was recorded would let it be taken back for
// as long. What has been
// in force for longer is loosened by a quorum alone, and a compliance mode by nobody.
const coolingOff = 72 * time.Hour

// policyState is a policy and since when it is in force.
type policyState struct {
	at clock.Stamp
	ledger.Policy
	// decided says that a request of several people put it into force: nobody takes it back alone.
	decided bool
}

// applyPolicy follows a policy of the ledger. One that contradicts itself was not written by this program and changes nothing.
func (st *state) applyPolicy(p ledger.Policy, at clock.Stamp, decided bool) {
	if p.Check() == nil {
		st.policies = append(st.policies, policyState{at, p, decided})
		clear(st.marks.snapshots) // another policy may keep them, for a while too
	}
}

// policy is the one in force.
func (st *state) policy() ledger.Policy {
	if len(st.policies) == 0 { // a ledger whose first record is damaged, which is only read
		return ledger.Policy{}.Fill()
	}
	return st.policies[len(st.policies)-1].Policy
}

// cooled says whether what began then has stood for that long. Stamps are cut to seconds, so one second is asked on top.
func cooled(since, now clock.Stamp) bool {
	return now.Running-since.Running > int64(coolingOff/time.Second)
}

// cooling gives the policies that were in force at any time within the last 72 hours, but for the newest. A vault that was
// made with compliance had governance before, for this purpose: that too can be taken back. What several people decided
// cannot: what was in force before that does not come back.
func (st *state) cooling(now clock.Stamp) []ledger.Policy {
	var out []ledger.Policy
	first := 0
	for i, p := range st.policies {
		if p.decided {
			first = i
		}
	}
	for i := first; i+1 < len(st.policies); i++ {
		if !cooled(st.policies[i+1].at, now) {
			out = append(out, st.policies[i].Policy)
		}
	}
	if len(st.policies) > 0 && first == 0 && !cooled(st.policies[0].at, now) {
		out = append(out, softer(st.policies[0].Policy))
	}
	return out
}

// softer is a policy with governance in place of compliance.
func softer(p ledger.Policy) ledger.Policy {
	p.Mode = ledger.Governance
	sources := make(map[string]policy.Rules, len(p.Sources))
	for name, r := range p.Sources {
		if r.Mode == ledger.Compliance {
			r.Mode = ""
		}
		sources[name] = r
	}
	p.Sources = sources
	return p
}

// Policy gives the policy in force, which is the ledger's.
func (s *Store) Policy() ledger.Policy {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.policy()
}

// Adopt compares what somebody configured with the policy in force. What is tighter is in force on return, by a record in the
// ledger; so is what takes back a change of the last 72 hours. What is looser is refused and waits for a quorum: it is
// returned, and kept for Refused. While the vault is secured nothing is followed. What is not said stays. by says for the record where it came from. A record that is cut by
// a crash applies whole or not at all.
func (s *Store) Adopt(ctx context.Context, said policy.Policy, by string) (changed bool, refused []policy.Refusal, err error) {
	if err := s.writable(); err != nil {
		return false, nil, err
	}
	if err := errors.Join(said.Proposes(), freeText("where the policy comes from", by, ByMax)); err != nil {
		return false, nil, fmt.Errorf("policy: %w", err)
	}
	s.write.Lock()
	defer s.write.Unlock()
	s.flush()
	if err := ctx.Err(); err != nil {
		return false, nil, err
	}
	now, err := s.clock.Now()
	if err != nil {
		return false, nil, err
	}
	inForce := s.Policy()
	next, refused := s.weigh(said, now)
	if !reflect.DeepEqual(next, inForce) {
		// Power fails here: the policy before. From the record on: the new one.
		if _, err := s.appendAt(now, ledger.Record{Kind: ledger.KindPolicy, Policy: &ledger.PolicyChange{Policy: next, By: by}}); err != nil {
			return false, nil, fmt.Errorf("policy: %w", err)
		}
		changed = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = refused
	return changed, slices.Clone(refused), nil
}

// Weigh says what Adopt would make of a proposal now, and changes nothing.
func (s *Store) Weigh(said policy.Policy) (next ledger.Policy, refused []policy.Refusal, err error) {
	if err := said.Proposes(); err != nil {
		return ledger.Policy{}, nil, fmt.Errorf("policy: %w", err)
	}
	now, err := s.clock.Now()
	if err != nil {
		return ledger.Policy{}, nil, err
	}
	next, refused = s.weigh(said, now)
	return next, refused, nil
}

func (s *Store) weigh(said policy.Policy, now clock.Stamp) (ledger.Policy, []policy.Refusal) {
	secured := s.secured()
	s.mu.Lock()
	defer s.mu.Unlock()
	inForce := s.state.policy()
	next, refused := policy.Tighten(inForce, s.state.cooling(now), said, func(source string) bool {
		return s.state.sources[source].snapshot == ""
	})
	if secured != "" && !reflect.DeepEqual(next, inForce) {
		return inForce, append(refused, policy.Refusal{Member: "policy", InForce: "as it is", Said: "the proposal", Why: secured})
	}
	return next, refused
}

// Refused gives what the newest Adopt of this process did not follow.
func (s *Store) Refused() []policy.Refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.refused)
}

// Hardening says of a compliance policy since when it stands and when nobody can take it back any more.
type Hardening struct {
	Source string // "" for the vault
	Since  clock.Stamp
	At     time.Time // by the wall clock, if the machine stays on
	Hard   bool
}

// Hardening lists the vault, and the sources with rules of their own, whose policy is compliance: the vault first, then by
// name. Sources that are as the vault is are not listed.
func (s *Store) Hardening() ([]Hardening, error) {
	now, err := s.clock.Now()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Hardening
	for _, source := range append([]string{""}, s.state.policy().Names()...) {
		if h, compliance := s.state.hardening(source, now); compliance && (source == "" || len(out) == 0 || h.Since != out[0].Since || out[0].Source != "") {
			out = append(out, h)
		}
	}
	return out, nil
}

// hardening looks for the beginning of the compliance that holds today.
func (st *state) hardening(source string, now clock.Stamp) (h Hardening, compliance bool) {
	for _, p := range slices.Backward(st.policies) {
		if p.For(source).Mode != ledger.Compliance {
			break
		}
		h, compliance = Hardening{Source: source, Since: p.at}, true
	}
	if compliance {
		left := coolingOff - time.Duration(now.Running-h.Since.Running)*time.Second
		h.At, h.Hard = now.Wall.Add(left).UTC(), cooled(h.Since, now)
	}
	return h, compliance
}
