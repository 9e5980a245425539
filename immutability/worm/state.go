package worm

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
)

// state is what the ledger says. The same apply builds it at Open and follows every record that is
// written afterwards.
type state struct {
	vault    string
	identity string
	keyring  []byte
	older    map[string]bool // earlier keyrings
	policies []policyState   // all that were ever in force, oldest first
	first    clock.Stamp     // of the first record
	newest   clock.Stamp     // of any record
	records  uint64          // that were applied, or stand before one that was
	noted    clock.Noted     // what clock records say
	// corrections counts clock records of a wall clock that moved.
	corrections int

	packs     map[uint32]*packState
	manifests map[string]*manifestState // sealed by a record of their own, for lack of a commit
	snapshots []*snapshotState          // in the order of their commits
	byID      map[string]*snapshotState
	sources   map[string]sourceState
	sessions  map[string]*sessionState
	spent     map[string][]spending     // by source, what was sealed for it lately
	heads     map[string][]spending     // by source, the manifests that were committed lately
	intents   map[uint64]*ledger.Intent // not done yet, by number
	removed   map[string]uint64         // files that an intent names, with its number
	maxPack   uint32                    // highest pack number that a record names

	marks marks

	people   *namedPeople    // nil as long as nobody is named
	requests []*requestState // all that were ever brought, oldest first
	brought  map[string]bool // their IDs and nonces, and those of origins
	unread   map[string]bool // requests of a later release, by ID
	strange  string          // one of these that was carried out
	secure   *securedState   // nil while nothing is secured
	origin   uint64          // number of the newest record that began another origin, 0 for none

	newestCommit uint64 // number of the newest record that committed
	seen         sightings
}

type packState struct {
	PackInfo
	condemned bool // an intent is being written
	swept     bool // an intent names it
	// unfit says why nobody should rely on the pack any more although it must be kept: its file is
	// missing or damaged.
	unfit string
	// misread says that only reading its content can show that it is fit again.
	misread bool
}

type manifestState struct {
	sealed clock.Stamp
	bytes  int64
	swept  bool
}

type snapshotState struct {
	ledger.Commit
	seq    uint64
	at     clock.Stamp
	grants []grant
	holds  []Hold
	// released says that a quorum ended its locks, and that nobody locked or held it since: keep rules do not want it.
	released bool
	swept    bool
	head     *reliance.Head // nil until it was read and verified
}

type sourceState struct{ label, snapshot string }

type sessionState struct {
	source    string // "" where its seals do not say
	committed bool
	lastSeal  clock.Stamp
}

func newState() *state {
	return &state{
		older: map[string]bool{}, packs: map[uint32]*packState{}, manifests: map[string]*manifestState{},
		byID: map[string]*snapshotState{}, sources: map[string]sourceState{}, sessions: map[string]*sessionState{},
		spent: map[string][]spending{}, heads: map[string][]spending{}, marks: newMarks(),
		intents: map[uint64]*ledger.Intent{}, removed: map[string]uint64{},
		brought: map[string]bool{}, unread: map[string]bool{},
	}
}

// apply follows one record. It never fails: a record that makes no sense changes nothing.
func (st *state) apply(r ledger.Record) {
	st.records = max(st.records, r.Seq+1)
	if st.newest.IsZero() || st.newest.Before(r.At) {
		st.newest = r.At
	}
	switch r.Kind {
	case ledger.KindClock:
		st.applyClock(r)
	case ledger.KindInit:
		st.first = r.At
		st.vault, st.identity, st.keyring = r.Init.Vault, r.Init.Identity, r.Init.Keyring
		st.applyPolicy(r.Init.Policy, r.At, false)
	case ledger.KindKeyring:
		st.older[string(st.keyring)] = true
		st.keyring = r.Keyring.Keyring
		delete(st.older, string(st.keyring))
	case ledger.KindSeal:
		st.applySeal(r)
	case ledger.KindCommit:
		st.applyCommit(r)
	case ledger.KindExtend:
		if s := st.byID[r.Extend.Snapshot]; s != nil {
			s.grants = append(s.grants, grant{at: r.At, lock: r.Extend.Lock, by: r.Extend.By, seq: r.Seq})
			s.released = false
			st.seen.granted(r.Seq)
			delete(st.marks.snapshots, r.Extend.Snapshot)
		}
	case ledger.KindHold:
		if s := st.byID[r.Hold.Snapshot]; s != nil {
			s.holds = append(s.holds, Hold{Seq: r.Seq, At: r.At, Reason: r.Hold.Reason, By: r.Hold.By})
			s.released = false
			delete(st.marks.snapshots, r.Hold.Snapshot)
		}
	case ledger.KindPolicy:
		st.applyPolicy(r.Policy.Policy, r.At, false)
	case ledger.KindIntent:
		st.applyIntent(r)
	case ledger.KindDone:
		delete(st.intents, r.Done.Intent)
	case ledger.KindMark:
		st.applyMark(r)
	case ledger.KindWitnessed:
		st.seen.apply(r)
	case ledger.KindPeople:
		st.applyPeople(r)
	case ledger.KindRequest:
		st.applyRequest(r)
	case ledger.KindVeto:
		st.applyVeto(r)
	case ledger.KindCarried:
		st.applyCarried(r)
	case ledger.KindSecure:
		st.applySecure(r)
		st.marks = newMarks() // once that is over, people have a day to look again
	case ledger.KindOrigin:
		st.applyOrigin(r)
	}
}

func (st *state) applySeal(r ledger.Record) {
	if n, ok := sealedPack(r.Seal.File); ok {
		st.maxPack = max(st.maxPack, n)
		if st.packs[n] != nil {
			return // the first record stands: what it hashed is what was acknowledged
		}
		st.packs[n] = &packState{PackInfo: PackInfo{
			Number: n, Bytes: r.Seal.Bytes, SHA256: r.Seal.SHA256, Session: r.Seal.Session, Sealed: r.At,
		}}
		session := st.session(r.Seal.Session)
		session.lastSeal = r.At
		if r.Seal.Source != "" {
			session.source = r.Seal.Source
			spend(st.spent, r.Seal.Source, r.At, r.Seal.Bytes)
		}
	} else if id, ok := sealedManifest(r.Seal.File); ok && st.manifests[id] == nil {
		st.manifests[id] = &manifestState{sealed: r.At, bytes: r.Seal.Bytes}
	}
}

func (st *state) applyCommit(r ledger.Record) {
	if st.byID[r.Commit.Snapshot] != nil {
		return // issued twice; the first one committed
	}
	s := &snapshotState{Commit: *r.Commit, seq: r.Seq, at: r.At, grants: []grant{{at: r.At, lock: r.Commit.Lock, seq: r.Seq}}}
	st.newestCommit = r.Seq
	st.seen.granted(r.Seq)
	st.snapshots = append(st.snapshots, s)
	st.byID[s.Snapshot] = s
	st.sources[s.Source] = sourceState{label: s.Label, snapshot: s.Snapshot}
	st.session(s.Session).committed = true
	if s.Bytes > 0 {
		spend(st.heads, s.Source, r.At, s.Bytes)
	}
	delete(st.marks.manifests, s.Snapshot)
}

func (st *state) applyIntent(r ledger.Record) {
	st.intents[r.Seq] = r.Intent
	for _, id := range r.Intent.Snapshots {
		if s := st.byID[id]; s != nil {
			s.swept = true
		}
		delete(st.marks.snapshots, id)
	}
	for _, f := range r.Intent.Files {
		st.removed[f.File] = r.Seq
		if n, ok := sealedPack(f.File); ok {
			st.maxPack = max(st.maxPack, n)
			if p := st.packs[n]; p != nil {
				p.swept = true
			}
			delete(st.marks.packs, n)
		} else if id, ok := sealedManifest(f.File); ok && st.manifests[id] != nil {
			st.manifests[id].swept = true
			delete(st.marks.manifests, id)
		}
	}
}

func (st *state) session(id string) *sessionState {
	s := st.sessions[id]
	if s == nil {
		s = &sessionState{}
		st.sessions[id] = s
	}
	return s
}

// reliable says whether a snapshot may be built on a pack.
func (st *state) reliable(n uint32) bool {
	p := st.packs[n]
	return p != nil && !p.swept && !p.condemned && p.unfit == ""
}

// live gives the packs that are sealed and not swept, ascending.
func (st *state) live() []*packState {
	var out []*packState
	for _, p := range st.packs {
		if !p.swept {
			out = append(out, p)
		}
	}
	// After years most packs are swept ones.
	slices.SortFunc(out, func(a, b *packState) int { return cmp.Compare(a.Number, b.Number) })
	return out
}

// remaining gives the snapshots that are committed and not removed, oldest first.
func (st *state) remaining() []*snapshotState {
	out := make([]*snapshotState, 0, len(st.snapshots))
	for _, s := range st.snapshots {
		if !s.swept {
			out = append(out, s)
		}
	}
	return out
}

// named says whether some record names a file below packs or manifests that should be there.
func (st *state) named(file string) bool {
	if n, ok := sealedPack(file); ok {
		return st.packs[n] != nil && !st.packs[n].swept
	}
	if id, ok := sealedManifest(file); ok {
		if s := st.byID[id]; s != nil && !s.swept {
			return true
		}
		return st.manifests[id] != nil && !st.manifests[id].swept
	}
	return false
}

// haltFor says why nothing at all may be removed, given the kinds of records that are not known.
func haltFor(unknown map[ledger.Kind]int) string {
	for _, k := range slices.Sorted(maps.Keys(unknown)) {
		return fmt.Sprintf("the ledger holds %d records of kind %q, written by a newer release of holdfast, which may ask to keep it: remove with that release", unknown[k], k)
	}
	return ""
}
