package fsck

import (
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/audit"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
)

const (
	// requestSeconds is how long a request waits by both clocks.
	requestSeconds = 72 * 3600
	// waitingMost is how many may wait at a time.
	waitingMost = 16
)

type (
	requestBody struct {
		id, text string
		signed   []signature
	}
	vetoBody    struct{ request, reason string }
	carriedBody struct {
		request, why string
		done         bool
	}
)

func readRequest(o *object) any {
	b := &requestBody{id: o.text("id"), text: o.text("request")}
	for _, raw := range o.list("signatures") {
		in := readObject(raw)
		b.signed = append(b.signed, signature{in.text("person"), in.text("key"), in.bytes("signature")})
		if in.err != nil && o.err == nil {
			o.err = in.err
		}
	}
	return b
}

func readVeto(o *object) any { return &vetoBody{o.text("request"), o.text("reason")} }

func readCarried(o *object) any {
	return &carriedBody{request: o.text("request"), done: o.truth("done"), why: o.text("why")}
}

// request is one that was brought.
type request struct {
	quorum.Request
	id     string
	body   any
	text   []byte
	signed []signature
	seq    uint64
	at     Stamp
	ended  string // by which record, "" while it waits
}

// takeRequest follows a request that people signed. It counts though something is wrong with it, as it does for the store.
func (h *history) takeRequest(r *record, b *requestBody) {
	text := []byte(b.text)
	q, err := quorum.Parse(text)
	if errors.Is(err, quorum.ErrNewer) && quorum.ID(text) == b.id {
		h.unread[b.id] = true
		h.r.note(KindRecord, recordName(r), "a request that this release cannot read: %v", err)
		return
	}
	var body any
	if err == nil {
		body, err = q.Body()
	}
	switch {
	case err != nil:
		h.wrong(r, KindRecord, "it carries no request: %v", err)
		return
	case quorum.ID(text) != b.id:
		h.wrong(r, KindRecord, "its ID %q is not that of the request that it carries", b.id)
		return
	case h.brought[b.id] || h.brought[q.Nonce]:
		h.wrong(r, KindRecord, "a request that was brought before, or one with its nonce: each counts once")
		return
	}
	h.brought[b.id], h.brought[q.Nonce] = true, true
	h.timely(r, q)
	switch {
	case q.Until.Sub(r.at.Wall) <= requestSeconds*time.Second:
		h.wrong(r, KindRecord, "a request until %s that was taken at %s, when no 72 hours were left", q.Until.Format(wallForm), r.at.Wall.Format(wallForm))
	case q.Action == quorum.ActionOrigin:
		h.wrong(r, KindRecord, "a request for another origin, which is no record of its own")
	case h.secured != nil && q.Action != quorum.ActionResume:
		h.wrong(r, KindLock, "a request for %q was taken while the vault was secured by record %d", q.Action, h.secured.seq)
	case h.waiting(r.at) >= waitingMost:
		h.wrong(r, KindRecord, "more than %d requests wait", waitingMost)
	}
	h.agreed(r, text, b.signed)
	h.requests[b.id] = &request{Request: q, id: b.id, body: body, text: text, signed: b.signed, seq: r.seq, at: r.at}
}

// timely holds a request against the vault, the moment and the records before it.
func (h *history) timely(r *record, q quorum.Request) {
	switch {
	case h.init != nil && q.Vault != h.init.vault:
		h.wrong(r, KindRecord, "a request of vault %s", q.Vault)
	case r.at.Wall.Before(q.From) || !r.at.Wall.Before(q.Until):
		h.wrong(r, KindRecord, "a request from %s until %s that was taken at %s", q.From.Format(wallForm), q.Until.Format(wallForm), r.at.Wall.Format(wallForm))
	case h.origin > 0 && q.Size <= h.origin:
		h.wrong(r, KindRecord, "a request made from %d records, before record %d began another origin: what became of it may have been lost", q.Size, h.origin)
	case q.Size > r.seq:
		h.wrong(r, KindRecord, "a request made from %d records, and %d stand before it", q.Size, r.seq)
	default:
		h.claims = append(h.claims, claim{recordName(r), q.Size, q.Root, false})
	}
}

// agreed holds the signatures of a request against the people in force.
func (h *history) agreed(r *record, text []byte, signed []signature) {
	if !h.people.inForce(r.at) {
		h.wrong(r, KindLock, "a request was taken when no people were in force whose signatures count")
		return
	}
	who, err := h.people.signed(text, signed, true)
	if err != nil {
		h.wrong(r, KindLock, "a request with a signature that does not count: %v", err)
	}
	if len(who) < h.people.Threshold {
		h.wrong(r, KindLock, "a request that %d of the people in force signed, and it takes %d", len(who), h.people.Threshold)
	}
}

func (h *history) waiting(now Stamp) (n int) {
	for _, q := range h.requests {
		if q.ended == "" && now.Wall.Before(q.Until) {
			n++
		}
	}
	return n
}

// takeVeto follows an objection.
func (h *history) takeVeto(r *record, b *vetoBody) {
	if q := h.open(r, b.request, "it objects to"); q != nil {
		q.ended = recordName(r) + ", a veto"
	}
}

// open finds a request that no record has ended.
func (h *history) open(r *record, id, what string) *request {
	q := h.requests[id]
	switch {
	case h.unread[id]:
		h.r.note(KindRecord, recordName(r), "%s request %q, which this release cannot read", what, id)
		return nil
	case q == nil:
		h.wrong(r, KindLock, "%s request %q, which nobody brought", what, id)
		return nil
	case q.ended != "":
		h.wrong(r, KindLock, "%s request %s, which %s ended", what, id, q.ended)
		return nil
	}
	return q
}

// takeCarried follows a request that was carried out, or could not be.
func (h *history) takeCarried(r *record, b *carriedBody) {
	q := h.open(r, b.request, "it carries out")
	if q == nil {
		return
	}
	q.ended = recordName(r)
	if !elapsed(q.at, r.at, requestSeconds) {
		h.wrong(r, KindLock, "it ends request %s of record %d less than 72 hours after it was brought, by one of the clocks", q.id, q.seq)
	}
	if !r.at.Wall.Before(q.Until) {
		h.wrong(r, KindLock, "it ends request %s of record %d, which had lapsed at %s", q.id, q.seq, q.Until.Format(wallForm))
	}
	if h.secured != nil && q.Action != quorum.ActionResume {
		h.wrong(r, KindLock, "it ends a request for %q while the vault was secured by record %d", q.Action, h.secured.seq)
	}
	if h.clock.stopped && q.Action != quorum.ActionResume && q.Action != quorum.ActionClock {
		h.wrong(r, KindLock, "it ends a request for %q while the wall clock was shifted", q.Action)
	}
	if !b.done {
		return
	}
	if !h.people.inForce(r.at) {
		h.wrong(r, KindLock, "it carries out request %s, and no people were in force", q.id)
	} else if who, _ := h.people.signed(q.text, q.signed, false); len(who) < h.people.Threshold {
		h.wrong(r, KindLock, "it carries out request %s, which %d of the people in force then had signed, and it takes %d", q.id, len(who), h.people.Threshold)
	}
	h.carry(r, q)
}

// carry does what a request asks for, and says what of it could not be.
func (h *history) carry(r *record, q *request) {
	switch b := q.body.(type) {
	case quorum.Delete:
		for _, id := range b.Snapshots {
			h.letGo(r, id)
		}
	case quorum.Release:
		h.endHolds(r, b)
	case quorum.PolicyChange:
		h.carryPolicy(r, b)
	case quorum.People:
		h.people = &deciders{People: b, at: r.at, carried: true}
	case quorum.Clock:
		h.clock.stopped = false
	case quorum.Resume:
		if h.secured == nil || h.secured.seq > q.seq {
			h.wrong(r, KindLock, "it ends what no record before request %s had secured", q.id)
		}
		h.secured = nil
	}
}

// letGo ends the governance locks of a snapshot.
func (h *history) letGo(r *record, id string) {
	s := h.byID[id]
	if s == nil || s.removed != nil {
		h.wrong(r, KindRecord, "it lets snapshot %q go, which is not there", id)
		return
	}
	if len(s.holds) > 0 {
		h.wrong(r, KindLock, "it lets %s go, which %d holds keep", s.Address(), len(s.holds))
	}
	kept := map[*Snapshot]string{}
	h.newestKept(s.Source, kept)
	if why := kept[s]; why != "" {
		h.wrong(r, KindLock, "it lets %s go, the newest %s snapshot of its source, which never goes", s.Address(), why)
	}
	for i := range s.grants {
		switch g := &s.grants[i]; {
		case g.lock.mode == "governance":
			g.let = true
		case !g.endedWitnessed(r.at, h.witnessTime(g.seq, h.trusted)):
			h.wrong(r, KindLock, "it lets %s go, whose %s lock of %d s since %s nobody ends early", s.Address(), g.lock.mode, g.lock.seconds, g.at.Wall.Format(wallForm))
		}
	}
	s.released = true
}

// endHolds ends holds by the numbers of their records.
func (h *history) endHolds(r *record, b quorum.Release) {
	s := h.byID[b.Snapshot]
	if s == nil || s.removed != nil {
		h.wrong(r, KindRecord, "it ends holds of snapshot %q, which is not there", b.Snapshot)
		return
	}
	for _, n := range b.Holds {
		if !s.holds[n] {
			h.wrong(r, KindRecord, "it ends hold %d of %s, which is none", n, s.Address())
		}
		delete(s.holds, n)
	}
}

// carryPolicy puts a policy in force, looser or not. A compliance mode that has hardened stays.
func (h *history) carryPolicy(r *record, raw quorum.PolicyChange) {
	o := readObject(raw)
	p := readPolicy(o)
	if err := o.err; err != nil {
		h.wrong(r, KindRecord, "its policy, which changes nothing: %v", err)
		return
	}
	if err := p.sane(); err != nil {
		h.wrong(r, KindRecord, "a policy that contradicts itself, which changes nothing: %v", err)
		return
	}
	names := map[string]bool{"": true}
	for _, x := range []policy{h.policy(), p} {
		for name := range x.sources {
			names[name] = true
		}
	}
	for _, name := range sorted(names) {
		if h.hardened(name, r.at) && p.of(name).mode != "compliance" {
			h.wrong(r, KindLock, "its policy takes compliance of source %q (empty for all) back, which had hardened: nobody does that", name)
		}
	}
	h.adopt(r, p, true)
}

// hardened says whether compliance of a source has stood for longer than it can be taken back.
func (h *history) hardened(source string, now Stamp) bool {
	var since *Stamp
	for i := len(h.policies) - 1; i >= 0 && h.policies[i].of(source).mode == "compliance"; i-- {
		since = &h.policies[i].at
	}
	return since != nil && cooled(*since, now)
}

// originAgreed holds an origin against the people in force: it carries the request that they signed.
func (h *history) originAgreed(r *record, b *originBody) {
	if len(b.quorum) == 0 {
		if h.people.inForce(r.at) {
			h.wrong(r, KindLock, "it begins another origin, and none of the %d people in force had signed that", len(h.people.People.People))
		}
		return
	}
	if err := h.originRequest(r, b); err != nil {
		h.wrong(r, KindLock, "the request that it carries does not allow it: %v", err)
	}
}

func (h *history) originRequest(r *record, b *originBody) error {
	text := []byte(b.quorum[0])
	q, err := quorum.Parse(text)
	if err != nil {
		return err
	}
	body, err := q.Body()
	if err != nil {
		return err
	}
	what, is := body.(quorum.Origin)
	if !is {
		return fmt.Errorf("it asks for %q", q.Action)
	}
	if h.brought[quorum.ID(text)] || h.brought[q.Nonce] {
		return errors.New("it was brought before, or one with its nonce")
	}
	h.brought[quorum.ID(text)], h.brought[q.Nonce] = true, true
	h.timely(r, q)
	var signed []signature
	for _, s := range b.quorum[1:] {
		blob, err := decodeBase64(s)
		if err != nil {
			return fmt.Errorf("signature: %w", err)
		}
		signed = append(signed, signature{blob: blob})
	}
	h.agreed(r, text, signed)
	c, err := audit.ParseCheckpoint([]byte(what.Note))
	switch {
	case err != nil:
		return fmt.Errorf("its note: %w", err)
	case what.Root != b.own.root:
		return fmt.Errorf("it is for a ledger of the root %s", what.Root)
	case c.Size != b.lost.size || c.Root.String() != b.lost.root:
		return fmt.Errorf("it gives up a ledger of %d records with another root", c.Size)
	}
	return nil
}
