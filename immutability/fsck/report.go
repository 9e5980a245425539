package fsck

import (
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/audit"
)

// findingsMax bounds how many findings are kept of each sort; the rest is counted.
const findingsMax = 1000

// The kinds of findings. They only ever grow: programs look at them.
const (
	KindLedger     = "ledger"     // lines, numbers, pins, roots: the ledger is not what it was
	KindCheckpoint = "checkpoint" // a checkpoint, ours or one that witnesses signed, that does not hold
	KindRefuted    = "refuted"    // a saved checkpoint, or a witness's, refutes today's ledger
	KindRecord     = "record"     // a record that says what cannot be, given those before it
	KindLock       = "lock"       // something left, or was shortened, against a lock
	KindMissing    = "missing"    // a file that must be there is not
	KindChanged    = "changed"    // a file is not what was recorded
	KindUnnamed    = "unnamed"    // a file that no record names
	KindIdentity   = "identity"   // vault.json, keyring, signing key
	KindClock      = "clock"      // the clock's state, stamps
	KindContent    = "content"    // what only the key can tell
	KindMode       = "mode"       // rights and flags
	KindPlace      = "place"      // the directories that the vault lies in
)

// Finding is one thing that is wrong, or that a person should know.
type Finding struct {
	Kind   string `json:"kind"`
	What   string `json:"what"` // file, record, source
	Detail string `json:"detail"`
	// Snapshots that cannot be given back whole because of it, as SOURCE@TIME; at most 100.
	Snapshots []string `json:"snapshots,omitempty"`
}

// snapshotsMax bounds the snapshots that one finding names.
const snapshotsMax = 100

// Verdict is what a saved checkpoint says of today's ledger.
type Verdict struct {
	Saved   string `json:"saved"`
	Size    uint64 `json:"size"`
	Extends bool   `json:"extends"`
	Verdict string `json:"verdict"` // extends, shorter, changed, foreign or unsigned
	Detail  string `json:"detail"`
}

// SourceState sums up what is left of a source.
type SourceState struct {
	Source      string `json:"source"`
	Snapshots   int    `json:"snapshots"`              // that the ledger says are kept
	Damaged     int    `json:"damaged"`                // of these, not whole
	NewestWhole string `json:"newest_whole,omitempty"` // the newest complete one that nothing is known to be wrong with
}

// Report is what a look at a vault found. A vault without Damage is what its ledger says, as far as the look went; Notes
// are what a person may want to know about a vault that is well.
type Report struct {
	Vault         string `json:"vault"`
	Verifier      string `json:"verifier"`
	VerifierGiven bool   `json:"verifier_given"` // by whoever asks; otherwise the ledger's own word was taken

	Size       uint64         `json:"size"` // records that count
	Root       string         `json:"root"`
	Segments   int            `json:"segments"`
	Checkpoint uint64         `json:"checkpoint"` // records that the newest checkpoint covers
	Cosigned   uint64         `json:"cosigned"`   // records that the newest cosigned checkpoint covers
	Witnesses  []WitnessSaid  `json:"witnesses"`
	Kinds      map[string]int `json:"kinds"`         // records by kind
	Unknown    map[string]int `json:"unknown_kinds"` // of these, kinds that this release does not know
	Newest     *Stamp         `json:"newest,omitempty"`

	Sources   []SourceState `json:"sources"`
	PackCount int           `json:"packs"`
	PackBytes int64         `json:"pack_bytes"`
	BytesRead int64         `json:"bytes_read"` // of packs

	Against     []Verdict `json:"against"`
	Damage      []Finding `json:"damage"`
	DamageCount int       `json:"damage_count"`
	Notes       []Finding `json:"notes"`
	NoteCount   int       `json:"note_count"`

	// Unseen are files that may lie in a place which cannot be reached: nothing is known of them, and nothing was found wrong.
	Unseen []string `json:"unseen,omitempty"`

	// Moving says that somebody wrote to the vault while it was looked at: look again, at a stopped vault, before you
	// believe a finding.
	Moving bool `json:"moving"`

	// Snapshots and Packs that remain by the ledger, for who looks into their content.
	Snapshots []*Snapshot `json:"-"`
	Packs     []*Pack     `json:"-"`
	// Keyring is the newest wrapped keyring that the ledger holds.
	Keyring []byte `json:"-"`
}

// WitnessSaid is a witness's cosignature that holds.
type WitnessSaid struct {
	Witness string    `json:"witness"`
	Size    uint64    `json:"size"`
	At      time.Time `json:"at"`
}

// OK says whether nothing is wrong and nothing saved is refuted.
func (r *Report) OK() bool {
	return r.DamageCount == 0 && !slices.ContainsFunc(r.Against, func(v Verdict) bool { return !v.Extends })
}

// Damaged adds a finding of a caller that looked further.
func (r *Report) Damaged(kind, what string, snapshots []*Snapshot, format string, args ...any) {
	r.DamageCount++
	if len(r.Damage) < findingsMax {
		r.Damage = append(r.Damage, Finding{kind, what, fmt.Sprintf(format, args...), addresses(snapshots)})
	}
	for _, s := range snapshots {
		s.damaged = true
	}
}

func (r *Report) damage(kind, what, format string, args ...any) {
	r.Damaged(kind, what, nil, format, args...)
}

func (r *Report) note(kind, what, format string, args ...any) {
	r.NoteCount++
	if len(r.Notes) < findingsMax {
		r.Notes = append(r.Notes, Finding{Kind: kind, What: what, Detail: fmt.Sprintf(format, args...)})
	}
}

func addresses(snapshots []*Snapshot) []string {
	var out []string
	for _, s := range snapshots[:min(len(snapshots), snapshotsMax)] {
		out = append(out, s.Address())
	}
	return out
}

// Conclude sums the sources up, after the last finding.
func (r *Report) Conclude() {
	by := map[string]*SourceState{}
	r.Sources = []SourceState{}
	var names []string
	for _, s := range r.Snapshots {
		state := by[s.Source]
		if state == nil {
			state = &SourceState{Source: s.Source}
			by[s.Source] = state
			names = append(names, s.Source)
		}
		state.Snapshots++
		if s.damaged {
			state.Damaged++
		} else if s.Complete {
			state.NewestWhole = s.Address()
		}
	}
	slices.Sort(names)
	for _, n := range names {
		r.Sources = append(r.Sources, *by[n])
	}
}

func witnessSaid(size uint64, all []audit.Cosigned) (out []WitnessSaid) {
	for _, c := range all {
		out = append(out, WitnessSaid{c.Witness, size, c.At})
	}
	return out
}
