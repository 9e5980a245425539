package worm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
)

// The panic switch: one record, by anybody who may run commands, and the vault forgets nothing until people sign a request to
// resume. It keeps nobody from pulling, locking, holding and giving back.

// Secured says since when the vault forgets nothing, who said so and why.
type Secured struct {
	At         clock.Stamp
	Reason, By string
}

// securedState is the newest record that secures the vault.
type securedState struct {
	Secured
	seq uint64
}

func (st *state) applySecure(r ledger.Record) {
	st.secure = &securedState{Secured{At: r.At, Reason: r.Secure.Reason, By: r.Secure.By}, r.Seq}
}

// Secured says whether the panic switch is on.
func (s *Store) Secured() (Secured, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.secure == nil {
		return Secured{}, false
	}
	return s.state.secure.Secured, true
}

// secured says for people why everything that makes the vault forget stands still, "" if it does not.
func (s *Store) secured() string {
	at, on := s.Secured()
	if !on {
		return ""
	}
	who := ""
	if at.By != "" {
		who = fmt.Sprintf(" by %q", at.By)
	}
	return fmt.Sprintf("the vault was secured%s at %s (%q): nothing is forgotten until people sign a request to resume", who, at.At.Wall.UTC().Format(time.RFC3339), at.Reason)
}

// Secure turns the panic switch on: from its record on nothing is marked or removed, no request is brought or carried out but
// one to resume, and neither policy nor people in force change (those who are not yet may be named and exchanged: without
// people nobody could end it). A
// vault that is secured already stays so, without another record, unless a request to resume was brought since: that ends
// only what it was brought for, and not this. On return it is in the ledger.
func (s *Store) Secure(ctx context.Context, reason, by string) error {
	if err := s.writable(); err != nil {
		return err
	}
	if reason == "" {
		return errors.New("securing the vault needs a reason: the people who are to end it must know what happened")
	}
	if err := errors.Join(freeText("the reason", reason, ReasonMax), freeText("who asks", by, ByMax)); err != nil {
		return err
	}
	s.write.Lock()
	defer s.write.Unlock()
	s.flush()
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.securedSinceAsked() {
		return nil
	}
	// Power fails here: not secured, and nobody was told that it is. From the record on: secured.
	if _, err := s.append(ledger.Record{Kind: ledger.KindSecure, Secure: &ledger.Secure{Reason: reason, By: by}}); err != nil {
		return fmt.Errorf("secure: %w", err)
	}
	return nil
}

// securedSinceAsked says whether the switch is on and nobody asked to resume since.
func (s *Store) securedSinceAsked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.secure == nil {
		return false
	}
	for _, q := range s.state.requests {
		if q.request.Action == quorum.ActionResume && q.end == "" && q.seq > s.state.secure.seq {
			return false
		}
	}
	return true
}
