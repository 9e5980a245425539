package worm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/policy"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
)

// clockNear is how far a wall clock that people take as right may be from what they signed.
const clockNear = 10 * time.Minute

// CarryOut carries out the requests that are due, oldest first, and says how many. A request is due 72 hours after it was
// brought, by the wall clock and by running time, and before its window ends. Each is judged anew: by the people in force, and
// by what is there. One record says that it is in force, or why it never will be, so that a crash carries it out whole or
// not at all, and never twice. Under the panic switch only a request to resume is carried out, and under a shifted clock only
// that and one of the clock; the others wait.
func (s *Store) CarryOut(ctx context.Context) (n int, err error) {
	if err := s.writable(); err != nil {
		return 0, err
	}
	s.write.Lock()
	defer s.write.Unlock()
	s.flush()
	return s.carry(ctx)
}

// carry is CarryOut. s.write is held.
func (s *Store) carry(ctx context.Context) (n int, err error) {
	s.mu.Lock()
	all := slices.DeleteFunc(slices.Clone(s.state.requests), func(q *requestState) bool { return q.end != "" })
	s.mu.Unlock()
	for _, q := range all {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		now, err := s.clock.Now()
		if err != nil {
			return n, err
		}
		if !q.due(now) || !q.open(now) || s.postponed(q.request.Action) {
			continue
		}
		c := &ledger.Carried{Request: q.id, Done: true}
		if why := s.verdict(q, now); why != nil {
			c.Done, c.Why = false, clip(why.Error())
		}
		if err := s.resumed(now); err != nil {
			return n, fmt.Errorf("request %s: %w", q.id, err)
		}
		// Power fails here: it is due, and the next one who looks carries it out. From the record on it is in force.
		if _, err := s.appendAt(now, ledger.Record{Kind: ledger.KindCarried, Carried: c}); err != nil {
			return n, fmt.Errorf("request %s: %w", q.id, err)
		}
		if c.Done {
			n++
		}
		switch {
		case c.Done && q.request.Action == quorum.ActionClock:
			s.clock.Accept()
		case c.Done && q.request.Action == quorum.ActionResume:
			more, err := s.carry(ctx) // those before it that had waited for it
			return n + more, err
		}
	}
	return n, nil
}

// clip keeps a reason within what a record carries.
func clip(text string) string {
	if len(text) <= ReasonMax {
		return text
	}
	return string(bytes.ToValidUTF8([]byte(text[:ReasonMax]), nil))
}

// postponed says whether a request that is due has to wait on.
func (s *Store) postponed(a quorum.Action) bool {
	if shifted, _ := s.clock.Shifted(); shifted && a != quorum.ActionClock && a != quorum.ActionResume {
		return true
	}
	return s.secured() != "" && a != quorum.ActionResume
}

// verdict says why a request that is due cannot be carried out, nil if it can.
func (s *Store) verdict(q *requestState, now clock.Stamp) error {
	people, err := s.inForce(now)
	if err != nil {
		return err
	}
	if n := agreed(q.text, q.signed, people); n < people.Threshold {
		return fmt.Errorf("%d of those who signed are among the people in force now, and it takes %d", n, people.Threshold)
	}
	return s.possible(q.body, q.seq, now)
}

// agreed counts those among the people whose signature a request carries. One of somebody who is not among them any more says
// nothing against the others'.
func agreed(text []byte, signed []quorum.Signed, people quorum.People) int {
	who := map[string]bool{}
	for _, sig := range signed {
		if person, _, _, err := quorum.Verify(text, sig.Signature, people); err == nil {
			who[person] = true
		}
	}
	return len(who)
}

// possible says why what a request asks for cannot be done now, nil if it can. seq is the number of the record that brings
// it. s.write is held.
func (s *Store) possible(body any, seq uint64, now clock.Stamp) error {
	switch b := body.(type) {
	case quorum.Delete:
		for _, id := range b.Snapshots {
			if err := s.mayDelete(id, now); err != nil {
				return fmt.Errorf("snapshot %s: %w", id, err)
			}
		}
		return nil
	case quorum.Release:
		return s.mayRelease(b)
	case quorum.PolicyChange:
		return s.mayChange(b, now)
	case quorum.People:
		return b.Check()
	case quorum.Clock:
		return s.mayAccept(b)
	case quorum.Resume:
		return s.mayResume(seq)
	}
	return fmt.Errorf("a request for %T is not carried out here", body)
}

// mayDelete says why no quorum makes a snapshot go.
func (s *Store) mayDelete(id string, now clock.Stamp) error {
	_, grants, ok := s.grants(id)
	if !ok {
		return ErrNoSnapshot
	}
	for _, g := range grants {
		if g.running(now) && g.lock.Mode != ledger.Governance {
			return fmt.Errorf("it has a %s lock until %s, which nobody ends early", g.lock.Mode, g.until(now).Format(time.RFC3339))
		}
	}
	if have, _ := s.holds(id); len(have) > 0 {
		return fmt.Errorf("it is held (%q): a request to release comes first", have[0].Reason)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if why := s.state.newestOf(id); why != "" {
		return errors.New(why)
	}
	return nil
}

// newestOf says why a snapshot is one that its source never loses, "" if it is none of these.
func (st *state) newestOf(id string) string {
	of := st.byID[id].Source
	newest := map[string]string{}
	for _, snap := range st.remaining() {
		if snap.Source != of {
			continue
		}
		complete := snap.State == reliance.Complete
		newest["the newest"] = snap.Snapshot
		if complete {
			newest["the newest complete"] = snap.Snapshot
		}
		if snap.Clean {
			newest["the newest clean"] = snap.Snapshot
		}
		if complete && snap.Clean {
			newest["the newest complete and clean"] = snap.Snapshot
		}
	}
	for _, what := range []string{"the newest complete and clean", "the newest complete", "the newest clean"} {
		if newest[what] == id {
			return fmt.Sprintf("it is %s snapshot of %s, which never goes", what, of)
		}
	}
	if newest["the newest complete"] == "" && newest["the newest clean"] == "" && newest["the newest"] == id {
		return fmt.Sprintf("it is the newest snapshot of %s, which never goes", of)
	}
	return ""
}

// mayRelease says why holds cannot end.
func (s *Store) mayRelease(b quorum.Release) error {
	have, ok := s.holds(b.Snapshot)
	if !ok {
		return fmt.Errorf("snapshot %s: %w", b.Snapshot, ErrNoSnapshot)
	}
	for _, n := range b.Holds {
		if !slices.ContainsFunc(have, func(h Hold) bool { return h.Seq == n }) {
			return fmt.Errorf("snapshot %s has no hold of number %d: holdfast hold list shows them", b.Snapshot, n)
		}
	}
	return nil
}

// mayChange says why a policy cannot be in force.
func (s *Store) mayChange(b quorum.PolicyChange, now clock.Stamp) error {
	p, err := readPolicy(b)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sources := append([]string{""}, p.Names()...)
	for _, source := range append(sources, s.state.policy().Names()...) {
		if h, compliance := s.state.hardening(source, now); compliance && h.Hard && p.For(source).Mode != ledger.Compliance {
			of := "the vault"
			if source != "" {
				of = "source " + source
			}
			return fmt.Errorf("the policy of %s is compliance since %s and has hardened: nobody takes it back, and the request must say so too", of, h.Since.Wall.UTC().Format(time.RFC3339))
		}
	}
	return nil
}

// readPolicy reads the whole policy that a request carries: the members of a policy record, in whatever order, and no others.
// What a request may hold at all is in package quorum; there no member stands twice.
func readPolicy(raw []byte) (ledger.Policy, error) {
	for _, c := range raw {
		if c >= 0x80 || c >= 'A' && c <= 'Z' { // encoding/json takes capitals, and some letters beyond ASCII, for small ones
			return ledger.Policy{}, errors.New("policy: it is written in small letters of ASCII alone")
		}
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	var p policy.Policy
	if err := d.Decode(&p); err != nil {
		return ledger.Policy{}, fmt.Errorf("policy: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return ledger.Policy{}, errors.New("policy: something follows it")
	}
	return p, p.Check()
}

// mayAccept says why the wall clock cannot be taken as right.
func (s *Store) mayAccept(b quorum.Clock) error {
	s.mu.Lock()
	k := s.known()
	s.mu.Unlock()
	off, n := s.clock.Report(k).Off, time.Duration(b.OffSeconds)*time.Second
	if (off - n).Abs() > clockNear {
		return fmt.Errorf("the wall clock is off by %d s now, and the request is for one that is off by %d s", int64(off/time.Second), b.OffSeconds)
	}
	return nil
}

// mayResume says why the panic switch stays as it is. A request ends what it was brought for, and nothing that came later.
func (s *Store) mayResume(seq uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch on := s.state.secure; {
	case on == nil:
		return errors.New("the vault is not secured: there is nothing to resume")
	case on.seq > seq:
		return fmt.Errorf("the vault was secured again at %s, after this request was brought", on.At.Wall.UTC().Format(time.RFC3339))
	}
	return nil
}

// applyCarried follows a request that was carried out, or failed. From here on it is in force.
func (st *state) applyCarried(r ledger.Record) {
	q := st.waiting(r.Carried.Request)
	if q == nil {
		if st.unread[r.Carried.Request] && r.Carried.Done {
			st.strange = r.Carried.Request
		}
		return
	}
	q.ended, q.why, q.end = r.At, r.Carried.Why, RequestFailed
	if !r.Carried.Done {
		return
	}
	q.end = RequestCarried
	switch b := q.body.(type) {
	case quorum.Delete:
		for _, id := range b.Snapshots {
			st.letGo(id, r.At)
		}
	case quorum.Release:
		if snap := st.byID[b.Snapshot]; snap != nil {
			snap.holds = slices.DeleteFunc(slices.Clone(snap.holds), func(h Hold) bool { return slices.Contains(b.Holds, h.Seq) })
		}
	case quorum.PolicyChange:
		if p, err := readPolicy(b); err == nil {
			st.applyPolicy(p, r.At, true)
		}
	case quorum.People:
		st.people = &namedPeople{People: b, at: r.At, by: q.id, carried: true}
	case quorum.Clock:
		st.noted.At, st.noted.Turned, st.noted.Accepted = r.At, r.At, r.At
		st.noted.Off, st.noted.Stopped = 0, false
	case quorum.Resume:
		st.secure = nil
	}
}

// letGo ends the governance locks of a snapshot, and lets no keep rule want it. Whoever reads its locks may have them at hand, so
// that they are never changed in place.
func (st *state) letGo(id string, at clock.Stamp) {
	snap := st.byID[id]
	if snap == nil {
		return
	}
	snap.released = true
	snap.grants = slices.Clone(snap.grants)
	for i := range snap.grants {
		if g := &snap.grants[i]; g.lock.Mode == ledger.Governance && g.ended.IsZero() {
			g.ended = at
		}
	}
}

// strangeRequest says why nothing is removed after a request was carried out that this release cannot read, "" if none was.
func (s *Store) strangeRequest() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.strange == "" {
		return ""
	}
	return fmt.Sprintf("request %.80q was carried out by a newer release of holdfast, and may ask to keep something: remove with that release", s.state.strange)
}
