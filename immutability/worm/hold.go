package worm

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
)

const (
	// ByMax and ReasonMax bound in bytes what a record says of who asked and why.
	ByMax     = 256
	ReasonMax = 1024
	// holdsMax bounds the holds of one snapshot: one keeps it already, and each is a record.
	holdsMax = 100
)

// Hold keeps a snapshot until a quorum ends it. One person places it.
type Hold struct {
	Seq        uint64 // number of its record, by which a request to release names it
	At         clock.Stamp
	Reason, By string
}

// Hold places a hold on a snapshot, which only a request of several people ends. On return it is in the ledger. One of the same reason by the same person is placed once,
// so that a hold of which it is not known whether it was placed can be asked for again.
func (s *Store) Hold(ctx context.Context, id, reason, by string) (Snapshot, error) {
	if err := s.writable(); err != nil {
		return Snapshot{}, err
	}
	if reason == "" {
		return Snapshot{}, errors.New("a hold needs a reason: who finds it in years must know what for")
	}
	if err := errors.Join(freeText("the reason", reason, ReasonMax), freeText("who asks", by, ByMax)); err != nil {
		return Snapshot{}, err
	}
	s.write.Lock()
	defer s.write.Unlock()
	s.flush()
	if err := ctx.Err(); err != nil {
		return Snapshot{}, err
	}
	have, ok := s.holds(id)
	if !ok {
		return Snapshot{}, fmt.Errorf("snapshot %s: %w", id, ErrNoSnapshot)
	}
	for _, h := range have {
		if h.Reason == reason && h.By == by {
			return s.snapshot(id)
		}
	}
	if len(have) >= holdsMax {
		return Snapshot{}, fmt.Errorf("snapshot %s is held %d times, and is kept by any one of them until a quorum ends it: no further hold is recorded", id, len(have))
	}
	if _, err := s.append(ledger.Record{Kind: ledger.KindHold, Hold: &ledger.Hold{Snapshot: id, Reason: reason, By: by}}); err != nil {
		return Snapshot{}, fmt.Errorf("snapshot %s: hold: %w", id, err)
	}
	s.kept(id)
	return s.snapshot(id)
}

func (s *Store) holds(id string) ([]Hold, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	snap := s.state.byID[id]
	if snap == nil || snap.swept {
		return nil, false
	}
	return snap.holds, true
}

// freeText bounds what a record carries for people.
func freeText(what, text string, most int) error {
	if len(text) > most || !utf8.ValidString(text) {
		return fmt.Errorf("%s: at most %d bytes of UTF-8", what, most)
	}
	for _, r := range text {
		if unicode.IsControl(r) {
			return fmt.Errorf("%s: %q holds a control character", what, text)
		}
	}
	return nil
}

// held says for people why a snapshot never goes, "" when nobody holds it.
func held(holds []Hold) string {
	if len(holds) == 0 {
		return ""
	}
	h := holds[0]
	who := ""
	if h.By != "" {
		who = fmt.Sprintf(" by %q", h.By)
	}
	more := ""
	if n := len(holds) - 1; n > 0 {
		more = fmt.Sprintf(", and %d more", n)
	}
	return fmt.Sprintf("it is held%s since %s (%q%s), and only a quorum ends a hold", who, h.At.Wall.UTC().Format(time.RFC3339), h.Reason, more)
}

// LockInfo is one lock of a snapshot.
type LockInfo struct {
	Lock  ledger.Lock
	Since clock.Stamp
	By    string    // who asked for it later; "" for that of the commit
	Until time.Time // by the wall clock, if the machine stays on
	// WallLeft is what the wall clock still asks for, RunningLeft what running time (or the witnesses' time, where that is
	// more) does. The lock runs while one of them is above nought.
	WallLeft, RunningLeft time.Duration
	Running               bool
	Ended                 time.Time // when a quorum ended it, by the wall clock; zero if none did
}

// Locks lists the locks of a snapshot, oldest first, and those that have run too.
func (s *Store) Locks(id string) ([]LockInfo, error) {
	now, err := s.clock.Now()
	if err != nil {
		return nil, err
	}
	_, grants, ok := s.grants(id)
	if !ok {
		return nil, fmt.Errorf("snapshot %s: %w", id, ErrNoSnapshot)
	}
	out := make([]LockInfo, len(grants))
	for i, g := range grants {
		out[i] = LockInfo{
			Lock: g.lock, Since: g.at, By: g.by, Until: g.until(now), Running: g.running(now),
			WallLeft:    max(g.at.Wall.Add(g.duration()).Sub(now.Wall), 0),
			RunningLeft: max(g.duration()-time.Duration(max(now.Running-g.at.Running, g.seen))*time.Second, 0),
		}
		if !g.ended.IsZero() {
			out[i].WallLeft, out[i].RunningLeft, out[i].Ended = 0, 0, g.ended.Wall
		}
	}
	return out, nil
}
