package worm

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
)

const (
	// requestDelay is how long a request waits, by the wall clock and by running time, before it is carried out: time for
	// anybody to see it and to object.
	requestDelay = 72 * time.Hour
	// waitingMax bounds the requests that wait: more than people can look at is a flood.
	waitingMax = 16
	// Requests that ended are listed for endedFor, and the newest endedListed of them for ever.
	endedFor    = 366 * 24 * time.Hour
	endedListed = 100
)

var (
	// ErrNoRequest says that no request of that ID was ever brought.
	ErrNoRequest = errors.New("no such request")
	// ErrBrought is in the chain of the error of a request that was brought before, by its ID or its nonce.
	ErrBrought = errors.New("it was brought before")
)

// RequestState is what became of a request.
type RequestState string

// The states. A request that waits is carried out, fails, is vetoed or lapses; none of these is ever left, but that a lapsed
// one may still be vetoed, and that a wall clock that is put back may find its window open again.
const (
	RequestWaiting RequestState = "waiting"
	RequestVetoed  RequestState = "vetoed"  // somebody objected
	RequestCarried RequestState = "carried" // what it asks for is in force since
	RequestFailed  RequestState = "failed"  // it was due and could not be carried out
	RequestLapsed  RequestState = "lapsed"  // its window ended before
)

// RequestInfo is a request that was brought.
type RequestInfo struct {
	ID         string
	Seq        uint64      // number of the record that brought it
	At         clock.Stamp // when
	Request    quorum.Request
	Signatures []quorum.Signed
	By         string // who brought it
	State      RequestState
	// Due is when it is carried out at the earliest, by the wall clock, if the machine stays on.
	Due time.Time
	// Why says of one that waits beyond Due what for, and of one that failed why; for people.
	Why   string
	Veto  Veto        // of one that was vetoed
	Ended clock.Stamp // of the record that ended it; zero if none did
}

// Veto is who objected to a request, and why.
type Veto struct {
	By, Reason string
	At         clock.Stamp
}

// requestState is a request of the ledger.
type requestState struct {
	id      string
	seq     uint64
	at      clock.Stamp
	text    []byte // as it was signed
	request quorum.Request
	body    any // of request
	signed  []quorum.Signed
	by      string
	end     RequestState // "" until a record ends it
	ended   clock.Stamp
	veto    Veto
	why     string
}

// open says that no record has ended it and its window has not.
func (q *requestState) open(now clock.Stamp) bool {
	return q.end == "" && now.Wall.Before(q.request.Until)
}

// due says whether it has waited for long enough.
func (q *requestState) due(now clock.Stamp) bool { return clock.Elapsed(q.at, now, requestDelay) }

// applyRequest follows a request that was brought. Whether it was right to take it is for fsck to say.
func (st *state) applyRequest(r ledger.Record) {
	text := []byte(r.Request.Request)
	req, err := quorum.Parse(text)
	if err != nil {
		st.unread[r.Request.ID] = true // a later release's
		return
	}
	body, err := req.Body()
	if err != nil || quorum.ID(text) != r.Request.ID || st.wasBrought(r.Request.ID, req.Nonce) {
		return
	}
	q := &requestState{id: r.Request.ID, seq: r.Seq, at: r.At, text: text, request: req, body: body, by: r.Request.By}
	for _, sig := range r.Request.Signatures {
		q.signed = append(q.signed, quorum.Signed(sig))
	}
	st.requests = append(st.requests, q)
	st.brought[q.id], st.brought[req.Nonce] = true, true
}

// wasBrought says whether a request's ID or nonce stands in the ledger already. The one has 64 digits, the other 32.
func (st *state) wasBrought(id, nonce string) bool { return st.brought[id] || st.brought[nonce] }

// waiting finds a request that no record has ended.
func (st *state) waiting(id string) *requestState {
	q := st.request(id)
	if q == nil || q.end != "" {
		return nil
	}
	return q
}

func (st *state) request(id string) *requestState {
	for _, q := range st.requests {
		if q.id == id {
			return q
		}
	}
	return nil
}

func (st *state) applyVeto(r ledger.Record) {
	if q := st.waiting(r.Veto.Request); q != nil {
		q.end, q.ended = RequestVetoed, r.At
		q.veto = Veto{By: r.Veto.By, Reason: r.Veto.Reason, At: r.At}
	}
}

// Submit takes a request that people signed, as it is in its file, with their signatures, armoured or not. It is refused unless
// it is of this vault, in its window with room for the delay, made from this very ledger, new, and signed by enough
// different people in force and by nobody else; and unless what it asks for could be done now. On return it stands in the
// ledger, and waits for 72 hours. by says who brought it. One that was brought before is ErrBrought.
func (s *Store) Submit(ctx context.Context, request []byte, signatures [][]byte, by string) (RequestInfo, error) {
	if err := s.writable(); err != nil {
		return RequestInfo{}, err
	}
	if err := freeText("who brings the request", by, ByMax); err != nil {
		return RequestInfo{}, err
	}
	r, err := quorum.Parse(request)
	if err != nil {
		return RequestInfo{}, err
	}
	s.write.Lock()
	defer s.write.Unlock()
	s.flush()
	if err := ctx.Err(); err != nil {
		return RequestInfo{}, err
	}
	now, err := s.clock.Now()
	if err != nil {
		return RequestInfo{}, err
	}
	signed, err := s.admitRequest(request, signatures, r, now)
	if err != nil {
		return RequestInfo{}, fmt.Errorf("request refused: %w", err)
	}
	record := &ledger.Request{ID: quorum.ID(request), Request: string(request), By: by}
	for _, sig := range signed {
		record.Signatures = append(record.Signatures, ledger.Signature(sig))
	}
	// Power fails here: it was not brought, and may be brought again. From the record on: it waits.
	if _, err := s.appendAt(now, ledger.Record{Kind: ledger.KindRequest, Request: record}); err != nil {
		return RequestInfo{}, fmt.Errorf("request: %w", err)
	}
	return s.requestInfo(record.ID, now)
}

// admitRequest says why a request is not taken, or whose signatures it carries. s.write is held.
func (s *Store) admitRequest(request []byte, signatures [][]byte, r quorum.Request, now clock.Stamp) ([]quorum.Signed, error) {
	if r.Action == quorum.ActionOrigin {
		return nil, errors.New("another origin is begun at once and by whoever may run commands as the keeper's user: holdfast-keeper origin --request FILE --signature FILE, once for each of them")
	}
	if err := s.timely(request, r, now); err != nil {
		return nil, err
	}
	if room := r.Until.Sub(now.Wall); room <= requestDelay {
		return nil, fmt.Errorf("it may be carried out until %s and not before 72 hours have passed, and it is %s now: make it anew", r.Until.Format(time.RFC3339), now.Wall.UTC().Format(time.RFC3339))
	}
	if why := s.secured(); why != "" && r.Action != quorum.ActionResume {
		return nil, errors.New(why + ", and no other request is taken")
	}
	if n := s.waitingRequests(now); n >= waitingMax {
		return nil, fmt.Errorf("%d requests wait, and no more are taken: look at them (holdfast request list), and veto what nobody meant", n)
	}
	people, err := s.inForce(now)
	if err != nil {
		return nil, err
	}
	signed, err := quorum.Judge(request, signatures, people)
	if err != nil {
		return nil, err
	}
	body, err := r.Body()
	if err != nil {
		return nil, err
	}
	return signed, s.possible(body, s.ledger.Size(), now)
}

// timely says why a request is not of this vault, of this time and of this ledger, or not new. s.write is held.
func (s *Store) timely(request []byte, r quorum.Request, now clock.Stamp) error {
	s.mu.Lock()
	vault, again, origin := s.state.vault, s.state.wasBrought(quorum.ID(request), r.Nonce), s.state.origin
	s.mu.Unlock()
	switch {
	case r.Vault != vault:
		return fmt.Errorf("it is of vault %s, and this one is %s", r.Vault, vault)
	case again:
		return fmt.Errorf("%w, or another one with its nonce: each is brought once; make it anew", ErrBrought)
	case origin > 0 && r.Size <= origin:
		return fmt.Errorf("it was made before the ledger went on under another origin (record %d), and what became of it then may be what was lost: make it anew", origin)
	case now.Wall.Before(r.From):
		return fmt.Errorf("it begins to count at %s, and it is %s now", r.From.Format(time.RFC3339), now.Wall.UTC().Format(time.RFC3339))
	case !now.Wall.Before(r.Until):
		return fmt.Errorf("its window ended at %s: make it anew", r.Until.Format(time.RFC3339))
	}
	root, err := s.ledger.RootAt(r.Size)
	if err != nil {
		return fmt.Errorf("it was made from a ledger of another past: %w", err)
	}
	if base64.StdEncoding.EncodeToString(root[:]) != r.Root {
		return fmt.Errorf("it was made from a ledger of another past: the root of the first %d records is %s here, and it says %s", r.Size, root, r.Root)
	}
	return nil
}

func (s *Store) waitingRequests(now clock.Stamp) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range s.state.requests {
		if q.open(now) {
			n++
		}
	}
	return n
}

// Veto ends a request that waits, for ever. Whoever may run commands may: who can only stop things needs no key. On return
// it is in the ledger. A second veto changes nothing.
func (s *Store) Veto(ctx context.Context, id, reason, by string) (RequestInfo, error) {
	if err := s.writable(); err != nil {
		return RequestInfo{}, err
	}
	if reason == "" {
		return RequestInfo{}, errors.New("a veto needs a reason: those who signed must know what is wrong")
	}
	if err := errors.Join(freeText("the reason", reason, ReasonMax), freeText("who objects", by, ByMax)); err != nil {
		return RequestInfo{}, err
	}
	s.write.Lock()
	defer s.write.Unlock()
	s.flush()
	if err := ctx.Err(); err != nil {
		return RequestInfo{}, err
	}
	now, err := s.clock.Now()
	if err != nil {
		return RequestInfo{}, err
	}
	info, err := s.requestInfo(id, now)
	switch {
	case err != nil || info.State == RequestVetoed:
		return info, err
	case info.State == RequestCarried || info.State == RequestFailed:
		return info, fmt.Errorf("request %s: it has %s at %s: nothing is left to object to", id,
			map[RequestState]string{RequestCarried: "been carried out", RequestFailed: "failed"}[info.State], info.Ended.Wall.UTC().Format(time.RFC3339))
	}
	// Power fails here: the request waits, and nobody was told otherwise. From the record on: it is never carried out.
	if _, err := s.appendAt(now, ledger.Record{Kind: ledger.KindVeto, Veto: &ledger.Veto{Request: id, Reason: reason, By: by}}); err != nil {
		return RequestInfo{}, fmt.Errorf("request %s: veto: %w", id, err)
	}
	return s.requestInfo(id, now)
}

// Requests lists the requests: all that wait, and of those that ended the ones of the last year and the newest hundred. Oldest
// first.
func (s *Store) Requests() ([]RequestInfo, error) {
	now, err := s.clock.Now()
	if err != nil {
		return nil, err
	}
	return s.RequestsAt(now), nil
}

// RequestsAt is Requests for who only follows the vault: now is that of the process that writes to it.
func (s *Store) RequestsAt(now clock.Stamp) []RequestInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []RequestInfo
	old := 0
	for _, q := range slices.Backward(s.state.requests) {
		info := s.describeRequest(q, now)
		if info.State != RequestWaiting {
			over := cmp.Or(info.Ended.Wall, q.request.Until)
			if old++; old > endedListed && now.Wall.Sub(over) > endedFor {
				continue
			}
		}
		out = append(out, info)
	}
	slices.Reverse(out)
	return out
}

// requestInfo gives one request.
func (s *Store) requestInfo(id string, now clock.Stamp) (RequestInfo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q := s.state.request(id); q != nil {
		return s.describeRequest(q, now), nil
	}
	return RequestInfo{}, fmt.Errorf("request %.80q: %w", id, ErrNoRequest)
}

// describeRequest says how a request stands. s.mu is held.
func (s *Store) describeRequest(q *requestState, now clock.Stamp) RequestInfo {
	out := RequestInfo{
		ID: q.id, Seq: q.seq, At: q.at, Request: q.request, Signatures: slices.Clone(q.signed), By: q.by,
		State: q.end, Why: q.why, Veto: q.veto, Ended: q.ended,
	}
	out.Due = q.at.Wall.Add(requestDelay)
	if left := requestDelay - time.Duration(now.Running-q.at.Running)*time.Second; q.end == "" && left > 0 {
		if byRunning := now.Wall.Add(left); byRunning.After(out.Due) {
			out.Due = byRunning
		}
	}
	out.Due = out.Due.UTC()
	switch {
	case q.end != "":
	case !q.open(now):
		out.State, out.Why = RequestLapsed, "its window ended at "+q.request.Until.Format(time.RFC3339)
	default:
		out.State = RequestWaiting
		if s.state.secure != nil && q.request.Action != quorum.ActionResume {
			out.Why = "the vault is secured: it waits until people resume, or its window ends"
		} else if a := q.request.Action; s.state.noted.Stopped && a != quorum.ActionClock && a != quorum.ActionResume {
			out.Why = "the wall clock is shifted: it waits until that is put right, or its window ends"
		}
	}
	return out
}
