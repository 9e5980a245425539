// Package policy says what locks are made of when nobody asks for more, which change of that is tighter, and reads it from a file.
//
// It is pure: it reads no clock and no disk, and imports nothing of ours. The policy in force is the newest one in the
// ledger; what a person writes into a file only proposes another.
package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Mode is the strength of a lock.
type Mode string

// The modes: a governance lock can be ended early by a quorum, a compliance lock by nobody.
const (
	Governance Mode = "governance"
	Compliance Mode = "compliance"
)

// Valid says whether m is one of the modes.
func (m Mode) Valid() bool { return m == Governance || m == Compliance }

// Longest is the longest lock in seconds that is ever set automatically, 400 days: a longer one on every snapshot, by mistake
// or malice, would fill a disk with what nobody may remove.
const Longest = 400 * 24 * 3600

// Most bounds the sources of one policy, so that its record stays well within a line of the ledger.
const Most = 5000

// Rules are those of the vault or of one source. What is zero is not said: a source then has the vault's.
type Rules struct {
	Mode           Mode  `json:"mode,omitempty"`
	DefaultSeconds int64 `json:"default_s,omitempty"`    // of a lock for which no duration is asked
	MinSeconds     int64 `json:"min_s,omitempty"`        // requests below are raised
	MaxSeconds     int64 `json:"max_s,omitempty"`        // automatic locks above are cut
	BudgetBytes    int64 `json:"budget_bytes,omitempty"` // that may be stored newly for one source within 24 hours; 0 no number
	Keep           Keep  `json:"keep,omitzero"`          // what is kept of what no lock keeps any more
}

// Policy is what locks are made of when nobody asks for more, as a record of the ledger and a file of settings carry it.
type Policy struct {
	Mode           Mode  `json:"mode"`
	DefaultSeconds int64 `json:"default_s"`
	MinSeconds     int64 `json:"min_s"`
	MaxSeconds     int64 `json:"max_s"`
	// BudgetBytes is the budget of each source that has none of its own.
	BudgetBytes int64 `json:"budget_bytes,omitempty"`
	// Keep is what each source keeps, rule by rule, where it has none of its own.
	Keep    Keep             `json:"keep,omitzero"`
	Sources map[string]Rules `json:"sources,omitempty"`
}

// Vault gives the rules of every source that has none of its own.
func (p Policy) Vault() Rules {
	return Rules{p.Mode, p.DefaultSeconds, p.MinSeconds, p.MaxSeconds, p.BudgetBytes, p.Keep}
}

// For gives the rules of a source: its own where it has some, the vault's elsewhere, and never below the vault's mode and
// minimum. A default that it has from the vault follows its own bounds.
func (p Policy) For(source string) Rules { return p.Vault().with(p.Sources[source]) }

// Compliance says whether snapshots of any source are born with locks of mode compliance.
func (p Policy) Compliance() bool {
	for _, own := range p.Sources {
		if own.Mode == Compliance {
			return true
		}
	}
	return p.Mode == Compliance
}

func (r Rules) with(own Rules) Rules {
	if stronger(own.Mode, r.Mode) {
		r.Mode = own.Mode
	}
	r.MinSeconds = max(r.MinSeconds, own.MinSeconds)
	r.MaxSeconds = cmp.Or(own.MaxSeconds, r.MaxSeconds)
	r.BudgetBytes = cmp.Or(own.BudgetBytes, r.BudgetBytes)
	r.Keep = r.Keep.with(own.Keep)
	if r.DefaultSeconds = cmp.Or(own.DefaultSeconds, r.DefaultSeconds); own.DefaultSeconds == 0 {
		r.DefaultSeconds = max(min(r.DefaultSeconds, r.MaxSeconds), r.MinSeconds)
	}
	return r
}

func stronger(a, b Mode) bool { return a == Compliance && b != Compliance }

// Check says what of a whole policy, in which everything is said for the vault, contradicts itself.
func (p Policy) Check() error {
	if err := p.Vault().check(); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	if len(p.Sources) > Most {
		return fmt.Errorf("policy: %d sources, more than %d", len(p.Sources), Most)
	}
	for _, name := range p.Names() {
		if !validSource(name) {
			return fmt.Errorf("policy: source name %.80q is not of the form [a-z0-9][a-z0-9_-]{0,62}", name)
		}
		own := p.Sources[name]
		if own.Mode != "" && !own.Mode.Valid() {
			return fmt.Errorf("policy: source %q: lock mode %.80q is neither governance nor compliance", name, own.Mode)
		}
		if err := p.For(name).check(); err != nil {
			return fmt.Errorf("policy: source %q: %w", name, err)
		}
	}
	if err := p.fitsRecord(); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	return nil
}

// Names lists the sources with rules of their own, sorted.
func (p Policy) Names() []string {
	names := make([]string, 0, len(p.Sources))
	for name := range p.Sources {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// check is for rules in which everything is said.
func (r Rules) check() error {
	switch {
	case !r.Mode.Valid():
		return fmt.Errorf("lock mode %.80q is neither governance nor compliance", r.Mode)
	case r.MinSeconds < 0 || r.DefaultSeconds < 1 || r.MinSeconds > r.DefaultSeconds || r.DefaultSeconds > r.MaxSeconds:
		return fmt.Errorf("lock durations of at least %d s, by default %d s and at most %d s do not fit together", r.MinSeconds, r.DefaultSeconds, r.MaxSeconds)
	case r.MaxSeconds > Longest:
		return fmt.Errorf("an automatic lock of %d s: %d s (400 days) is the longest", r.MaxSeconds, int64(Longest))
	case r.BudgetBytes < 0:
		return fmt.Errorf("a budget of %d bytes", r.BudgetBytes)
	}
	return r.Keep.check()
}

// Fill says what is not said for the vault: governance, 30 days within the bounds, at most 400 days.
func (p Policy) Fill() Policy {
	if p.Mode == "" {
		p.Mode = Governance
	}
	if p.MaxSeconds == 0 {
		p.MaxSeconds = Longest
	}
	if p.DefaultSeconds == 0 {
		p.DefaultSeconds = min(max(30*24*3600, p.MinSeconds), p.MaxSeconds)
	}
	return p
}

// Proposes says what contradicts itself in a proposal, in which anything may be left unsaid.
func (p Policy) Proposes() error {
	vault := p.Vault()
	if err := vault.fits(); err != nil {
		return err
	}
	if len(p.Sources) > Most {
		return fmt.Errorf("%d sources, more than %d", len(p.Sources), Most)
	}
	for _, name := range p.Names() {
		own := p.Sources[name]
		err := own.fits()
		switch {
		case !validSource(name):
			err = errors.New("the name is not of the form [a-z0-9][a-z0-9_-]{0,62}")
		case err != nil:
		case own.Mode == Governance && vault.Mode == Compliance:
			err = errors.New("a source's mode cannot be weaker than the vault's, which is compliance")
		case own.MinSeconds != 0 && own.MinSeconds < vault.MinSeconds:
			err = fmt.Errorf("its minimum of %d s is below the vault's of %d s", own.MinSeconds, vault.MinSeconds)
		default:
			own.MinSeconds = max(own.MinSeconds, vault.MinSeconds)
			own.MaxSeconds = cmp.Or(own.MaxSeconds, vault.MaxSeconds)
			err = own.fits()
		}
		if err != nil {
			return fmt.Errorf("source %.80q: %w", name, err)
		}
	}
	return nil
}

// fits compares what is said.
func (r Rules) fits() error {
	if r.Mode != "" && !r.Mode.Valid() {
		return fmt.Errorf("lock mode %.80q is neither governance nor compliance", r.Mode)
	}
	if r.MinSeconds < 0 || r.DefaultSeconds < 0 || r.MaxSeconds < 0 || r.BudgetBytes < 0 {
		return errors.New("a number below 0")
	}
	if err := r.Keep.check(); err != nil {
		return err
	}
	most := cmp.Or(r.MaxSeconds, Longest)
	for _, said := range []int64{r.MinSeconds, r.DefaultSeconds, r.MaxSeconds} {
		if said > min(most, Longest) {
			return fmt.Errorf("a lock of %d s, and %d s is the longest", said, min(most, Longest))
		}
	}
	if r.DefaultSeconds != 0 && r.DefaultSeconds < r.MinSeconds {
		return fmt.Errorf("a default of %d s below the minimum of %d s", r.DefaultSeconds, r.MinSeconds)
	}
	return nil
}

// validSource is the form of a source's name.
func validSource(name string) bool {
	return len(name) >= 1 && len(name) <= 63 && name[0] != '_' && name[0] != '-' &&
		strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") == ""
}
