package fsck

import (
	"path"
	"slices"
	"strings"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/reliance"
)

const (
	packsDir     = "packs"
	manifestsDir = "manifests"
	incomingDir  = "incoming"
)

// Pack is a pack that was sealed.
type Pack struct {
	Number uint32
	File   string
	SHA256 string
	Bytes  int64

	sealed  place
	removed *place // of the intent that took it
	damaged bool
}

// Damaged says whether the pack's file is not what was sealed, as far as it was looked at.
func (p *Pack) Damaged() bool { return p.damaged }

// Snapshot is a snapshot that was committed.
type Snapshot struct {
	ID, Source, Label string
	Complete, Clean   bool
	// Relies is the set of packs that its manifest names; nil while the manifest is missing or damaged.
	Relies *roaring.Bitmap

	commit  *commitBody
	at      place
	grants  []grant
	holds   map[uint64]bool // by the numbers of their records
	removed *place
	damaged bool
	// released says that people let it go, and that nobody locked or held it since.
	released bool
}

// Address is SOURCE@TIME.
func (s *Snapshot) Address() string { return s.Source + "@" + s.Label }

// File is its manifest.
func (s *Snapshot) File() string { return manifestFile(s.ID) }

func manifestFile(id string) string { return manifestsDir + "/" + id + ".manifest" }

// place is where and when a record stands.
type place struct {
	order int // among all records read, also where leaves cannot be counted
	seq   uint64
	at    Stamp
}

// grant is a lock and the moment from which it runs.
type grant struct {
	at   Stamp
	lock lock
	seq  uint64 // of the record that gave it
	let  bool   // people ended it
}

// secondsMax keeps durations within what can be added to a moment; no lock is longer.
const secondsMax = 100 * 366 * 24 * 3600

// ended says whether a lock had run at a moment by the vault's own clocks: wall clock and running time alike. A mode that is
// not known never ends here.
func (g grant) ended(now Stamp) bool {
	return g.let || knownMode(g.lock.mode) && elapsed(g.at, now, g.seconds())
}

// endedWitnessed is the same where seen seconds passed by the witnesses' time, which may stand in for running time.
func (g grant) endedWitnessed(now Stamp, seen int64) bool {
	now.Running = max(now.Running, g.at.Running+seen)
	return g.ended(now)
}

func (g grant) seconds() int64 { return min(max(g.lock.seconds, 0), secondsMax) }

// until says when a lock ends by the wall clock alone.
func (g grant) until() time.Time {
	return g.at.Wall.Add(time.Duration(g.seconds()) * time.Second)
}

func knownMode(m string) bool { return m == "governance" || m == "compliance" }

type sourceState struct{ label, snapshot string }

// history is what the records say, one after the other.
type history struct {
	r *Report
	// quiet says that records are missing, so that what a record refers to may be among them.
	quiet func() bool

	order     int
	init      *initBody
	policies  []inForce
	origins   []*originBody
	origin    uint64 // number of the newest record that began one, 0 for none
	claims    []claim
	covers    []covered
	latest    map[string]int64 // the latest time of each witness, by verifier
	quorum    int              // the highest that any record had
	trusted   map[string]bool  // witnesses that count, nil for all
	keyring   []byte
	keyrings  map[string]bool // all that ever counted
	packs     map[uint32]*Pack
	packOrder []*Pack
	manifests map[string]*place // sealed by a record of their own
	snapshots []*Snapshot
	byID      map[string]*Snapshot
	sources   map[string]sourceState
	remaining map[string][]*Snapshot // by source, oldest first
	intents   map[uint64]*intentBody // not done
	done      map[uint64]bool
	removed   map[string]uint64 // file to the number of the intent that took it
	last      *Stamp
	clock     stamps
	marks     marks
	people    *deciders // nil while nobody is named
	requests  map[string]*request
	unread    map[string]bool // requests of a later release
	brought   map[string]bool // IDs and nonces
	secured   *place          // of the newest record that did it, nil while it is not
	unmarked  bool            // something was removed before there were marks, and that was told
}

func newHistory(r *Report, quiet func() bool) *history {
	return &history{
		r: r, quiet: quiet, keyrings: map[string]bool{}, packs: map[uint32]*Pack{}, manifests: map[string]*place{}, byID: map[string]*Snapshot{},
		sources: map[string]sourceState{}, remaining: map[string][]*Snapshot{}, intents: map[uint64]*intentBody{}, done: map[uint64]bool{}, removed: map[string]uint64{},
		latest: map[string]int64{}, clock: newStamps(), marks: newMarks(false),
		requests: map[string]*request{}, unread: map[string]bool{}, brought: map[string]bool{},
	}
}

// wrong tells of a record that cannot be what the vault wrote.
func (h *history) wrong(r *record, kind string, format string, args ...any) {
	if !h.quiet() {
		h.r.damage(kind, recordName(r), format, args...)
	}
}

// take follows one record.
func (h *history) take(r *record) {
	h.order++
	h.r.Kinds[r.kind]++
	if h.order == 1 && r.kind != "init" {
		h.wrong(r, KindLedger, "the first record is not the one that begins a vault")
	}
	h.stamp(r)
	h.whileSecured(r)
	switch r.kind {
	case "people", "request", "veto", "carried", "secure":
		h.marks.any = true
	}
	p := place{h.order, r.seq, r.at}
	switch b := r.body.(type) {
	case *initBody:
		h.takeInit(r, b)
	case *segmentBody: // counted already
	case *keyringBody:
		h.keyring = b.keyring
		h.keyrings[string(b.keyring)] = true
	case *sealBody:
		h.takeSeal(r, b, p)
	case *commitBody:
		h.takeCommit(r, b, p)
	case *extendBody:
		h.takeExtend(r, b)
	case *intentBody:
		h.takeIntent(r, b, p)
	case *doneBody:
		h.takeDone(r, b)
	case *holdBody:
		h.takeHold(r, b)
	case *policyBody:
		h.takePolicy(r, b.policy)
	case *originBody:
		h.takeOrigin(r, b)
	case *witnessedBody:
		h.takeWitnessed(r, b)
	case *clockBody:
		h.takeClock(r, b)
	case *markBody:
		h.takeMark(r, b)
	case *peopleBody:
		h.takePeople(r, b)
	case *requestBody:
		h.takeRequest(r, b)
	case *vetoBody:
		h.takeVeto(r, b)
	case *carriedBody:
		h.takeCarried(r, b)
	case *secureBody:
		h.takeSecure(r, p)
	default:
		h.r.Unknown[r.kind]++
	}
}

func (h *history) takeInit(r *record, b *initBody) {
	switch {
	case h.init != nil || r.seq != 0:
		h.wrong(r, KindLedger, "a second record that begins a vault")
		return
	case b.format != 1:
		h.wrong(r, KindLedger, "format %d: written by a newer release of holdfast, use its holdfast-fsck", b.format)
	case !isHex(b.vault, 32):
		h.wrong(r, KindLedger, "vault %q is not 32 hex digits", b.vault)
	}
	h.takePolicy(r, b.policy)
	h.init, h.keyring = b, b.keyring
	h.keyrings[string(b.keyring)] = true
}

func (h *history) takeSeal(r *record, b *sealBody, p place) {
	number, isPack := packNumber(b.file)
	id, isManifest := manifestID(b.file)
	switch {
	case !isPack && !isManifest:
		h.wrong(r, KindRecord, "it seals %q, which is no pack and no manifest", b.file)
		return
	case !isHex(b.sha256, 64) || b.bytes < 1:
		h.wrong(r, KindRecord, "it seals %q with %d bytes and SHA-256 %q", b.file, b.bytes, b.sha256)
		return
	case h.removed[b.file] != 0:
		h.wrong(r, KindRecord, "it seals %q, which had been removed: names are never used again", b.file)
	}
	if isManifest {
		if b.sha256 != id {
			h.wrong(r, KindRecord, "it seals %q with another SHA-256 than its name", b.file)
		}
		if h.manifests[id] == nil {
			h.manifests[id] = &p
		}
		return
	}
	if old := h.packs[number]; old != nil {
		if old.SHA256 != b.sha256 || old.Bytes != b.bytes {
			h.wrong(r, KindRecord, "it seals %q anew, with other content than record %d: the first one counts", b.file, old.sealed.seq)
		}
		return
	}
	pack := &Pack{Number: number, File: b.file, SHA256: b.sha256, Bytes: b.bytes, sealed: p}
	h.packs[number] = pack
	h.packOrder = append(h.packOrder, pack)
}

// labelSlack are how far a label may lie behind and ahead of the wall clock at its commit.
const (
	labelPast   = 24 * time.Hour
	labelFuture = 10 * time.Minute
)

func (h *history) takeCommit(r *record, b *commitBody, p place) {
	if old := h.byID[b.snapshot]; old != nil {
		if *old.commit != *b {
			h.wrong(r, KindRecord, "it commits the snapshot of record %d anew, and says other things of it", old.at.seq)
		}
		return // issued again after a failure: the first one counts
	}
	label, labelled := parseLabel(b.label)
	switch {
	case !isHex(b.snapshot, 64) || !reliance.ValidSource(b.source) || !reliance.ValidSession(b.session) || !labelled:
		h.wrong(r, KindRecord, "a commit of snapshot %q of source %q, label %q, session %q", b.snapshot, b.source, b.label, b.session)
		return
	case b.state != reliance.Complete && b.state != reliance.Partial:
		h.wrong(r, KindRecord, "state %q is neither complete nor partial", b.state)
	case h.removed[manifestFile(b.snapshot)] != 0:
		h.wrong(r, KindRecord, "it commits a snapshot that had been removed")
	}
	last := h.sources[b.source]
	if b.previous != last.snapshot {
		h.wrong(r, KindRecord, "it follows snapshot %q of %s, and the newest before it is %q: a snapshot of this source was left out, added or exchanged", b.previous, b.source, last.snapshot)
	}
	if last.label != "" && b.label <= last.label {
		h.wrong(r, KindRecord, "its label %s does not come after %s", b.label, last.label)
	}
	latest := r.at.Wall.Add(labelFuture)
	if t, ok := parseLabel(last.label); ok && t.Add(time.Second).After(latest) {
		latest = t.Add(time.Second)
	}
	if label.Before(r.at.Wall.Add(-labelPast)) || label.After(latest) {
		h.wrong(r, KindRecord, "its label is %s, and the record was written at %s: the label or the stamp was changed", b.label, r.at.Wall.Format(time.RFC3339))
	}
	h.bornLocked(r, b.lock, h.policy().of(b.source))
	delete(h.marks.manifests, b.snapshot)
	s := &Snapshot{
		ID: b.snapshot, Source: b.source, Label: b.label, Complete: b.state == reliance.Complete, Clean: b.clean,
		commit: b, at: p, grants: []grant{{at: r.at, lock: b.lock, seq: r.seq}},
	}
	h.snapshots = append(h.snapshots, s)
	h.byID[s.ID] = s
	h.remaining[s.Source] = append(h.remaining[s.Source], s)
	h.sources[b.source] = sourceState{b.label, b.snapshot}
}

// bornLocked holds the lock of a commit against the rules of its source.
func (h *history) bornLocked(r *record, l lock, in rules) {
	switch {
	case l.seconds < 1 || l.seconds < in.minimum:
		h.wrong(r, KindLock, "a lock of %d s, and the policy in force demands at least %d s", l.seconds, max(in.minimum, 1))
	case l.seconds > in.maximum:
		h.wrong(r, KindLock, "a lock of %d s, and the policy in force allows at most %d s", l.seconds, in.maximum)
	case l.mode == "governance" && in.mode == "compliance":
		h.wrong(r, KindLock, "a governance lock, and the policy in force demands compliance")
	}
	if !knownMode(l.mode) {
		h.r.note(KindLock, r.where(), "lock mode %q is not known to this release: it never ends here", l.mode)
	}
}

// takeHold follows a hold: only a request ends one.
func (h *history) takeHold(r *record, b *holdBody) {
	s := h.byID[b.snapshot]
	if s == nil {
		h.wrong(r, KindRecord, "it holds snapshot %q, which no record commits", b.snapshot)
		return
	}
	if s.removed != nil {
		h.wrong(r, KindRecord, "it holds %s, which record %d removed", s.Address(), s.removed.seq)
	}
	if s.holds == nil {
		s.holds = map[uint64]bool{}
	}
	s.holds[r.seq], s.released = true, false
	delete(h.marks.snapshots, s.ID)
}

func (h *history) takeExtend(r *record, b *extendBody) {
	s := h.byID[b.snapshot]
	switch {
	case s == nil:
		h.wrong(r, KindRecord, "it extends the lock of snapshot %q, which no record commits", b.snapshot)
		return
	case s.removed != nil:
		h.wrong(r, KindRecord, "it extends the lock of %s, which record %d removed", s.Address(), s.removed.seq)
	case b.lock.seconds < 1 || b.lock.seconds > secondsMax:
		h.wrong(r, KindLock, "a lock of %d s", b.lock.seconds)
	}
	g := grant{at: r.at, lock: b.lock, seq: r.seq}
	for _, have := range s.grants {
		if have.endedWitnessed(r.at, h.witnessTime(have.seq, nil)) {
			continue
		}
		if have.lock.mode == "compliance" && b.lock.mode != "compliance" {
			h.wrong(r, KindLock, "it would weaken the compliance lock of %s, which the vault refuses", s.Address())
			break
		}
		if g.until().Before(have.until()) || r.at.Running+b.lock.seconds < have.at.Running+have.lock.seconds {
			h.wrong(r, KindLock, "it would shorten the lock of %s, which runs until %s, to %s, which the vault refuses", s.Address(), have.until().Format(time.RFC3339), g.until().Format(time.RFC3339))
			break
		}
	}
	s.grants, s.released = append(s.grants, g), false
	delete(h.marks.snapshots, s.ID)
}

func (h *history) takeIntent(r *record, b *intentBody, p place) {
	if len(b.snapshots) > 0 && h.clock.stopped {
		h.wrong(r, KindLock, "it removes snapshots while the wall clock was shifted, when nothing expires")
	}
	leaving := map[string]bool{}
	for _, id := range b.snapshots {
		leaving[id] = true
	}
	kept, wanted, seen := map[*Snapshot]string{}, map[*Snapshot]string{}, map[string]bool{}
	for _, id := range b.snapshots {
		if s := h.byID[id]; s != nil && !seen[s.Source] {
			seen[s.Source] = true
			h.newestKept(s.Source, kept)
			h.wanted(s.Source, r.at, wanted)
		}
	}
	for _, id := range b.snapshots {
		if s := h.byID[id]; s != nil && wanted[s] != "" {
			h.wrong(r, KindLock, "it removes %s, which the keep rule %s wants of what has run out", s.Address(), wanted[s])
		}
		h.takeAway(r, id, kept, p)
	}
	for _, f := range b.files {
		h.takeFile(r, f, leaving, p)
	}
	h.intents[r.seq] = b
}

// takeAway follows the removal of one snapshot.
func (h *history) takeAway(r *record, id string, kept map[*Snapshot]string, p place) {
	s := h.byID[id]
	switch {
	case s == nil:
		h.wrong(r, KindRecord, "it removes snapshot %q, which no record commits", id)
		return
	case s.removed != nil:
		h.r.note(KindRecord, r.where(), "it removes %s, which record %d removed already", s.Address(), s.removed.seq)
		return
	}
	for _, g := range s.grants {
		if g.ended(r.at) {
			continue
		}
		if seen := h.witnessTime(g.seq, h.trusted); seen > 0 && g.endedWitnessed(r.at, seen) {
			if h.trusted == nil {
				h.r.note(KindLock, recordName(r), "it removes %s, whose lock ended by the word of witnesses that the ledger names itself: give their keys to have that proved", s.Address())
			}
			continue
		}
		h.wrong(r, KindLock, "it removes %s, whose %s lock of %d s since %s had not run by both clocks", s.Address(), g.lock.mode, g.lock.seconds, g.at.Wall.Format(time.RFC3339))
		break
	}
	if n := len(s.holds); n > 0 {
		h.wrong(r, KindLock, "it removes %s, which %d holds keep for ever", s.Address(), n)
	}
	if why := kept[s]; why != "" {
		h.wrong(r, KindLock, "it removes %s, the newest %s snapshot of its source, which never goes", s.Address(), why)
	}
	ripe(h, r, h.marks.snapshots, id, s.Address())
	s.removed = &p
	h.remaining[s.Source] = slices.DeleteFunc(h.remaining[s.Source], func(o *Snapshot) bool { return o == s })
}

// newestKept adds the snapshots of a source that never go: the newest complete one, the newest clean one and the newest
// that is both, or the newest of all where there is none of these.
func (h *history) newestKept(source string, kept map[*Snapshot]string) {
	var complete, clean, both bool
	all := h.remaining[source]
	for _, s := range slices.Backward(all) {
		switch {
		case s.Complete && s.Clean && !both:
			kept[s], complete, clean, both = "complete and clean", true, true, true
		case s.Complete && !complete:
			kept[s], complete = "complete", true
		case s.Clean && !clean:
			kept[s], clean = "clean", true
		}
		if both {
			return
		}
	}
	if !complete && !clean && len(all) > 0 {
		kept[all[len(all)-1]] = "remaining"
	}
}

// takeFile follows the removal of one file.
func (h *history) takeFile(r *record, f intentFile, leaving map[string]bool, p place) {
	if n, ok := packNumber(f.file); ok {
		pack := h.packs[n]
		switch {
		case pack == nil:
			h.wrong(r, KindRecord, "it removes %q, which no record seals", f.file)
		case pack.removed != nil:
		case pack.SHA256 != f.sha256:
			h.wrong(r, KindRecord, "it removes %q with another SHA-256 than was sealed", f.file)
			fallthrough
		default:
			ripe(h, r, h.marks.packs, n, f.file)
			pack.removed = &p
		}
	} else if id, ok := manifestID(f.file); ok {
		s := h.byID[id]
		switch {
		case f.sha256 != id:
			h.wrong(r, KindRecord, "it removes %q with another SHA-256 than its name", f.file)
		case s != nil && s.removed == nil && !leaving[id]:
			h.wrong(r, KindLock, "it removes the manifest of %s, and not the snapshot", s.Address())
		case s == nil && h.removed[f.file] == 0:
			ripe(h, r, h.marks.manifests, id, f.file)
		}
	} else {
		h.wrong(r, KindRecord, "it removes %q, which is no pack and no manifest", f.file)
		return
	}
	if h.removed[f.file] == 0 {
		h.removed[f.file] = r.seq
	}
}

func (h *history) takeDone(r *record, b *doneBody) {
	in := h.intents[b.intent]
	if in == nil {
		if !h.done[b.intent] {
			h.wrong(r, KindRecord, "it says that record %d was carried out, which is no removal", b.intent)
		}
		return
	}
	named := map[string]bool{}
	for _, f := range in.files {
		named[f.file] = true
	}
	for _, f := range b.files {
		if !named[f] {
			h.wrong(r, KindRecord, "it says that %q was removed, which record %d does not name", f, b.intent)
		}
	}
	delete(h.intents, b.intent)
	h.done[b.intent] = true
}

// packNumber reads a pack's number from its name in the vault.
func packNumber(file string) (uint32, bool) {
	if path.Dir(file) != packsDir {
		return 0, false
	}
	n, ok := parseNumbered(path.Base(file), 8, ".pack", 32)
	return uint32(n), ok
}

// manifestID reads a snapshot's ID from its manifest's name in the vault.
func manifestID(file string) (string, bool) {
	id, ok := strings.CutSuffix(path.Base(file), ".manifest")
	return id, ok && path.Dir(file) == manifestsDir && isHex(id, 64)
}
