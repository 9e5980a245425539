package worm

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
)

// BeginOrigin lets a store whose ledger is behind what it signed go on under another origin, from what it holds: what the
// ledger had more, and somebody remembers, is given up. saved is a checkpoint that shows it, nil if the store knows of one.
// root is the root of the records that are here, typed by the person who decides; by and reason stand in the record, which
// says that no quorum signed it. Once people are in force it takes their request: see BeginOriginSigned, and ledger.BeginOrigin.
func (s *Store) BeginOrigin(ctx context.Context, saved []byte, root, by, reason string) (ledger.Record, error) {
	return s.beginOrigin(ctx, root, by, reason, func(now clock.Stamp) ([]string, error) {
		if people, err := s.inForce(now); err == nil {
			// What is lost is remembered all the same: nothing is written from here on, and the root that people sign stays.
			if err := s.lost(saved); err != nil {
				return nil, err
			}
			return nil, fmt.Errorf("another origin takes a request that %d people signed: make it with holdfast request make origin, and give it with --request and --signature", people.Threshold)
		}
		return nil, s.lost(saved)
	})
}

// BeginOriginSigned is BeginOrigin in a vault with people in force: a request of theirs, of action origin, says what is given
// up and what goes on, and is carried out at once, because a ledger that is behind writes nothing down that could wait. The record
// carries it. It is judged as Submit judges one.
func (s *Store) BeginOriginSigned(ctx context.Context, request []byte, signatures [][]byte, root, by, reason string) (ledger.Record, error) {
	return s.beginOrigin(ctx, root, by, reason, func(now clock.Stamp) ([]string, error) {
		agreed, err := s.agreedOrigin(request, signatures, root, now)
		if err != nil {
			return nil, fmt.Errorf("request refused: %w", err)
		}
		return agreed, nil
	})
}

// beginOrigin begins one once agree has found no objection, and has shown the ledger what is lost.
func (s *Store) beginOrigin(ctx context.Context, root, by, reason string, agree func(clock.Stamp) ([]string, error)) (ledger.Record, error) {
	if s.readOnly {
		return ledger.Record{}, ErrReadOnly
	}
	s.write.Lock()
	defer s.write.Unlock()
	if err := ctx.Err(); err != nil {
		return ledger.Record{}, err
	}
	now, err := s.clock.Now()
	if err != nil {
		return ledger.Record{}, err
	}
	agreed, err := agree(now)
	if err != nil {
		return ledger.Record{}, err
	}
	r, err := s.ledger.BeginOrigin(now, root, by, reason, agreed...)
	if err != nil {
		return ledger.Record{}, err
	}
	s.mu.Lock()
	s.state.apply(r)
	s.mu.Unlock()
	s.clock.Follow(r.Seq + 1)
	s.flush()
	return r, nil
}

// lost holds a checkpoint against the ledger that is to show what it lost. nil: what it knows of already does.
func (s *Store) lost(saved []byte) error {
	if saved == nil {
		return nil
	}
	if err := s.ledger.Remember(saved); err == nil {
		return errors.New("the ledger extends that checkpoint: nothing is lost, and it goes on under its origin")
	} else if !errors.Is(err, ledger.ErrBehind) {
		return err
	}
	return nil
}

// agreedOrigin judges a request for another origin, and gives what the record says of it. s.write is held.
func (s *Store) agreedOrigin(request []byte, signatures [][]byte, root string, now clock.Stamp) ([]string, error) {
	r, err := quorum.Parse(request)
	if err != nil {
		return nil, err
	}
	body, err := r.Body()
	if err != nil {
		return nil, err
	}
	what, is := body.(quorum.Origin)
	if !is {
		return nil, fmt.Errorf("it asks for %q, and not for another origin", r.Action)
	}
	if err := s.timely(request, r, now); err != nil {
		return nil, err
	}
	if what.Root != root {
		return nil, fmt.Errorf("it is for a ledger of the root %s, and %s was typed", what.Root, root)
	}
	people, err := s.inForce(now)
	if err != nil {
		return nil, err
	}
	signed, err := quorum.Judge(request, signatures, people)
	if err != nil {
		return nil, err
	}
	if err := s.lost([]byte(what.Note)); err != nil {
		return nil, err
	}
	if err := s.nothingMoreLost(what.Note); err != nil {
		return nil, err
	}
	agreed := []string{string(request)}
	for _, sig := range signed {
		agreed = append(agreed, base64.StdEncoding.EncodeToString(sig.Signature))
	}
	return agreed, nil
}

// nothingMoreLost says whether more is known to be lost than the checkpoint says that people agreed to give up.
func (s *Store) nothingMoreLost(note string) error {
	theirs, err := ledger.ParseCheckpoint([]byte(note), s.ledger.Verifier())
	if err != nil {
		return err
	}
	var b *ledger.Behind
	if !errors.As(s.ledger.Behind(), &b) || b.Unreadable != nil {
		return errors.New("the ledger knows of nothing that it lost")
	}
	if b.Remembered.Size != theirs.Size || b.Remembered.Root != theirs.Root {
		return fmt.Errorf("it gives up a ledger of %d records, and one of %d is known of: make it anew with that checkpoint (log/behind)", theirs.Size, b.Remembered.Size)
	}
	return nil
}

// applyOrigin remembers the request that began another origin: neither its nonce nor itself counts again. Nor does one that was
// made before: that it was vetoed, or carried out, may be what was lost.
func (st *state) applyOrigin(r ledger.Record) {
	st.origin = r.Seq
	if len(r.Origin.Quorum) == 0 {
		return
	}
	text := []byte(r.Origin.Quorum[0])
	if req, err := quorum.Parse(text); err == nil {
		st.brought[quorum.ID(text)], st.brought[req.Nonce] = true, true
	}
}
