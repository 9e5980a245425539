package worm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/retention"
)

const (
	// abandonedAfter is how long a session may go without a seal before what it made is nobody's.
	abandonedAfter = 14 * 24 * time.Hour
	// intentFiles bounds the files of one intent, so that its record stays below 64 KiB (a manifest takes 238 bytes of it) and
	// fits into an entry bundle of C2SP tlog-tiles.
	intentFiles = 250
)

// PruneReport says what a prune removed, or with dry would remove.
type PruneReport struct {
	Decisions []retention.Decision // one for each snapshot, oldest first
	Snapshots []string             // IDs
	Packs     []uint32
	Bytes     int64 // of these packs
	// MarkedSnapshots and MarkedPacks are how many were newly marked, to be removed a day later at the earliest.
	MarkedSnapshots, MarkedPacks int
}

// Plan says for each snapshot whether it may go, and why.
func (s *Store) Plan(ctx context.Context) ([]retention.Decision, error) {
	p, err := s.plan(ctx)
	return p.report.Decisions, err
}

// Prune is Sweep, then Condemn: it removes what was marked at least a day before and still may go, and marks what may go now.
// So what may go is gone after two of them, a day apart. With dry it only says what may go now, marked or not.
//
// Each removal is first an intent in the ledger: from that record on the files are gone, and if the removal is cut the next
// Open or Prune carries it out. Prune refuses to remove or mark anything while a remaining snapshot's manifest cannot be
// read. What the report lists is gone, or marked, even when an error comes with it.
func (s *Store) Prune(ctx context.Context, dry bool) (PruneReport, error) {
	if !dry {
		if err := s.writable(); err != nil {
			return PruneReport{}, err
		}
	}
	s.write.Lock()
	defer s.write.Unlock()
	if dry {
		p, err := s.plan(ctx)
		return p.report, err
	}
	s.flush()
	_, _ = s.carry(ctx) // what cannot be recorded now is due the next time
	rep, err := s.sweepMarked(ctx)
	if err == nil {
		err = s.mark(ctx, &rep)
	}
	s.tell(&rep)
	return rep, err
}

// execute carries a plan out. s.write is held.
func (s *Store) execute(ctx context.Context, p plan) (PruneReport, error) {
	done := PruneReport{Decisions: p.report.Decisions}
	for _, in := range p.intents() {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		if err := s.carryOut(in, &done); err != nil {
			return done, fmt.Errorf("prune: %w", err)
		}
	}
	return done, nil
}

// plan is what may go, decided from one look at the state.
type plan struct {
	report  PruneReport
	orphans []string // manifests that were never committed
	at      clock.Stamp
	halt    string // why nothing may be removed at all, or ""
	sums    map[uint32]string
}

func (s *Store) plan(ctx context.Context) (plan, error) {
	now, err := s.clock.Now()
	if err != nil {
		return plan{}, err
	}
	h, unreadable, err := s.history(ctx, now)
	if err != nil {
		return plan{}, err
	}
	p := plan{report: PruneReport{Decisions: decided(h, unreadable)}, sums: map[uint32]string{}, at: now, halt: h.Halt}
	if unreadable != nil {
		return p, unreadable
	}
	for _, d := range p.report.Decisions {
		if d.Go {
			p.report.Snapshots = append(p.report.Snapshots, d.ID)
		}
	}
	if h.Halt != "" {
		return p, nil
	}
	return p, s.planFiles(&p, now)
}

// decided is what the rules say, while nothing is unreadable: then nothing goes.
func decided(h retention.History, unreadable error) []retention.Decision {
	all := retention.Decide(h)
	for i := range all {
		if d := &all[i]; unreadable != nil && d.Go {
			d.Go, d.Why = false, unreadable.Error()
			d.Reasons = []retention.Reason{{Rule: retention.RuleUnreadable, Text: d.Why}}
		}
	}
	return all
}

// halt says why nothing may be removed at all, or "".
func (s *Store) halt() string {
	if shifted, why := s.clock.Shifted(); shifted {
		return why
	}
	if err := s.ledger.Behind(); err != nil {
		return err.Error()
	}
	if why := haltFor(s.ledger.Unknown()); why != "" {
		return why
	}
	if why := s.strangeRequest(); why != "" {
		return why
	}
	if why := s.secured(); why != "" {
		return why
	}
	if d := s.ledger.Damages(); len(d) > 0 { // opened for reading only
		return "the ledger is damaged: " + d[0].Error()
	}
	return ""
}

// planFiles adds the packs and the manifests that nobody relies on once the snapshots are gone.
func (s *Store) planFiles(p *plan, now clock.Stamp) error {
	kept, err := s.relied(p.report.Snapshots)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(now)
	for _, c := range s.claims {
		kept.Or(c.packs)
	}
	for _, pack := range s.state.live() {
		if pack.condemned || kept.Contains(pack.Number) || !s.abandoned(pack, now) {
			continue
		}
		p.report.Packs = append(p.report.Packs, pack.Number)
		p.report.Bytes += pack.Bytes
		p.sums[pack.Number] = pack.SHA256
	}
	for _, id := range slices.Sorted(maps.Keys(s.state.manifests)) {
		m := s.state.manifests[id]
		if !m.swept && s.state.byID[id] == nil && clock.Elapsed(m.sealed, now, abandonedAfter) {
			p.orphans = append(p.orphans, id)
		}
	}
	return nil
}

// relied gives the packs that the snapshots that are not leaving rely on.
func (s *Store) relied(leaving []string) (*roaring.Bitmap, error) {
	gone := make(map[string]bool, len(leaving))
	for _, id := range leaving {
		gone[id] = true
	}
	s.mu.Lock()
	remaining := s.state.remaining()
	s.mu.Unlock()
	kept := roaring.New()
	for _, snap := range remaining {
		if gone[snap.Snapshot] {
			continue
		}
		head, err := s.head(snap)
		if err != nil {
			return nil, err
		}
		set, err := head.PackSet()
		if err != nil {
			return nil, fmt.Errorf("snapshot %s: %w", snap.Snapshot, err)
		}
		kept.Or(set)
	}
	return kept, nil
}

// abandoned says whether a pack's session needs it no more. s.mu is held.
func (s *Store) abandoned(p *packState, now clock.Stamp) bool {
	if p.Session == "" {
		return clock.Elapsed(p.Sealed, now, abandonedAfter)
	}
	session := s.state.sessions[p.Session]
	return session.committed || clock.Elapsed(session.lastSeal, now, abandonedAfter)
}

// intents cuts a plan into intents, the snapshots first: a pack never leaves before the last snapshot
// that names it.
func (p *plan) intents() []*ledger.Intent {
	var out []*ledger.Intent
	for ids := range slices.Chunk(p.report.Snapshots, intentFiles) {
		in := &ledger.Intent{Snapshots: ids, Reason: "prune: locks have run"}
		for _, id := range ids {
			in.Files = append(in.Files, ledger.IntentFile{File: manifestFile(id), SHA256: id})
		}
		out = append(out, in)
	}
	for ids := range slices.Chunk(p.orphans, intentFiles) {
		in := &ledger.Intent{Snapshots: []string{}, Reason: "prune: manifests that were never committed"}
		for _, id := range ids {
			in.Files = append(in.Files, ledger.IntentFile{File: manifestFile(id), SHA256: id})
		}
		out = append(out, in)
	}
	for packs := range slices.Chunk(p.report.Packs, intentFiles) {
		in := &ledger.Intent{Snapshots: []string{}, Reason: "prune: no snapshot and no session relies on these packs"}
		for _, n := range packs {
			in.Files = append(in.Files, ledger.IntentFile{File: packFile(n), SHA256: p.sums[n]})
		}
		out = append(out, in)
	}
	return out
}

// carryOut condemns, records and removes. s.write is held.
func (s *Store) carryOut(in *ledger.Intent, done *PruneReport) error {
	if !s.condemn(in) {
		return nil // every pack of it was claimed, or spared, since the plan was made
	}
	// The plan may be minutes old, and the wall clock may have been set since.
	now, err := s.clock.Now()
	if err == nil {
		err = errors.Join(s.ended(in.Snapshots, now), s.marked(in, now))
	}
	if err == nil && len(in.Snapshots) > 0 {
		err = s.resumed(now)
	}
	if err != nil {
		s.pardon(in)
		return err
	}
	// Power fails here: nothing happened.
	r, err := s.appendAt(now, ledger.Record{Kind: ledger.KindIntent, Intent: in})
	if err != nil {
		s.pardon(in)
		return err
	}
	// Power fails here or later: the files are gone by the ledger, and sweep removes what is left.
	done.Snapshots = append(done.Snapshots, in.Snapshots...)
	for _, f := range in.Files {
		if n, ok := sealedPack(f.File); ok {
			info := s.sweptPack(n)
			done.Packs = append(done.Packs, n)
			done.Bytes += info.Bytes
		}
	}
	return s.finish(r.Seq, in)
}

// ended says of which snapshot that is about to go a lock runs at a moment after all. s.write is held.
func (s *Store) ended(ids []string, now clock.Stamp) error {
	for _, id := range ids {
		_, grants, _ := s.grants(id)
		for _, g := range grants {
			if g.running(now) {
				return fmt.Errorf("the wall clock was set back to %s since this was decided, and by it snapshot %s is locked until %s: nothing of it is removed; look at the clock, and prune again",
					now.Wall.Format(time.RFC3339), id, g.until(now).Format(time.RFC3339))
			}
		}
	}
	return nil
}

// condemn marks the packs of an intent, so that no session begins to rely on them, and takes those
// out that one has claimed. It says whether anything is left.
func (s *Store) condemn(in *ledger.Intent) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	in.Files = slices.DeleteFunc(in.Files, func(f ledger.IntentFile) bool {
		n, isPack := sealedPack(f.File)
		if !isPack {
			return false
		}
		if s.claimed(n) || s.spared[n] {
			return true
		}
		s.state.packs[n].condemned = true
		return false
	})
	return len(in.Files) > 0
}

// pardon takes condemn back.
func (s *Store) pardon(in *ledger.Intent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range in.Files {
		if n, ok := sealedPack(f.File); ok {
			s.state.packs[n].condemned = false
		}
	}
}

func (s *Store) sweptPack(n uint32) PackInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.packs[n].PackInfo
}

// finish removes the files of an intent and records that. s.write is held.
func (s *Store) finish(seq uint64, in *ledger.Intent) error {
	files := make([]string, 0, len(in.Files))
	dirs := map[string][]string{}
	for _, f := range in.Files {
		if !removable(f.File) {
			return fmt.Errorf("intent %d names %q, which is no pack and no manifest", seq, f.File)
		}
		dir := path.Dir(f.File)
		dirs[dir] = append(dirs[dir], f.File)
		files = append(files, f.File)
	}
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		if err := s.removeFinal(dir, dirs[dir]); err != nil {
			return err
		}
	}
	// Power fails here: the files are gone, and the next sweep finds that and says so.
	_, err := s.append(ledger.Record{Kind: ledger.KindDone, Done: &ledger.Done{Intent: seq, Files: files}})
	return err
}

// removable says whether a name is one of those that prune removes. An intent of a newer release may
// name others; nothing else is ever unlinked on a record's word.
func removable(file string) bool {
	_, pack := sealedPack(file)
	_, manifest := sealedManifest(file)
	return pack || manifest
}

// sweep carries out the intents that are not done, and removes files again that came back after they
// were: a failed sync of a directory may have left their names on the medium. What fails is left for
// the next time. s.write is held.
func (s *Store) sweep() {
	if s.ledger.Behind() != nil {
		return // what the ledger intended is not all that it knew
	}
	s.mu.Lock()
	intents := maps.Clone(s.state.intents)
	s.mu.Unlock()
	for _, seq := range slices.Sorted(maps.Keys(intents)) {
		_ = s.finish(seq, intents[seq]) // what is left is gone by the ledger, and tried again
	}
	for _, dir := range []string{packsDir, manifestsDir} {
		names, err := s.list(dir)
		if err != nil {
			continue
		}
		var back []string
		for base := range names {
			file := path.Join(dir, base)
			s.mu.Lock()
			gone := s.state.removed[file] != 0 && !s.state.named(file)
			s.mu.Unlock()
			if gone && removable(file) {
				back = append(back, file)
			}
		}
		if len(back) > 0 {
			_ = s.removeFinal(dir, back)
		}
	}
}
