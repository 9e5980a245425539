package worm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
)

// The people are those of whose signatures a number makes the vault forget faster. The first ones come from a file of settings,
// which whoever may edit it may edit again: so they count only once they have stood in the ledger for 72 hours of running
// time, and until then may be replaced. From then on a request of theirs alone changes them.

// namedPeople are the people of the newest record that names any.
type namedPeople struct {
	quorum.People
	at      clock.Stamp
	by      string
	carried bool // a request named them: they count at once
}

// inForce says whether their signatures count. Nobody's do in a vault that names nobody.
func (p *namedPeople) inForce(now clock.Stamp) bool {
	return p != nil && (p.carried || cooled(p.at, now))
}

// applyPeople follows people that settings named. Once some are in force no program of ours writes such a record, and it changes
// nothing.
func (st *state) applyPeople(r ledger.Record) {
	p := quorum.People{Threshold: r.People.Threshold}
	for _, who := range r.People.People {
		p.People = append(p.People, quorum.Person(who))
	}
	if !st.people.inForce(r.At) && p.Check() == nil {
		st.people = &namedPeople{People: p, at: r.At, by: r.People.By}
	}
}

// ParsePeople reads {"threshold":2,"people":[{"name":"anna","keys":["ssh-ed25519 AAAA... anna@desk"]},...]}, strictly; what follows
// a key is its comment, and is left out. Nothing at all is nobody.
func ParsePeople(data []byte) (quorum.People, error) {
	if len(data) == 0 {
		return quorum.People{}, nil
	}
	if err := once(json.NewDecoder(bytes.NewReader(data))); err != nil {
		return quorum.People{}, fmt.Errorf("people: %w", err)
	}
	var p quorum.People
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return quorum.People{}, fmt.Errorf("people: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return quorum.People{}, errors.New("people: something follows them")
	}
	for i, who := range p.People {
		for n, line := range who.Keys {
			key, err := quorum.Key(line)
			if err != nil {
				return quorum.People{}, fmt.Errorf("people: key %d of %.80q: %w", n+1, who.Name, err)
			}
			p.People[i].Keys[n] = key
		}
	}
	return p, p.Check()
}

// once says which member of one object or list stands twice: of two readers each could take another one.
func once(d *json.Decoder) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	open, is := t.(json.Delim)
	if !is {
		return nil
	}
	seen := map[string]bool{}
	for d.More() {
		if open == '{' {
			t, err := d.Token()
			if err != nil {
				return err
			}
			name, _ := t.(string) // names are strings, or the decoder would not go on
			if low := strings.ToLower(name); seen[low] {
				return fmt.Errorf("%.80q is there twice", name)
			} else {
				seen[low] = true
			}
		}
		if err := once(d); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

// PeopleInfo is whose signatures count. The zero value is nobody's.
type PeopleInfo struct {
	quorum.People
	InForce bool
	At      clock.Stamp // of the record that names them
	By      string      // where they come from; the ID of the request that named them
	From    time.Time   // since when they are in force, or from when on, by the wall clock, if the machine stays on
}

// People says whose signatures count, or will.
func (s *Store) People() (PeopleInfo, error) {
	now, err := s.clock.Now()
	if err != nil {
		return PeopleInfo{}, err
	}
	return s.PeopleAt(now), nil
}

// PeopleAt is People for who only follows the vault: now is that of the process that writes to it.
func (s *Store) PeopleAt(now clock.Stamp) PeopleInfo {
	s.mu.Lock()
	p := s.state.people
	s.mu.Unlock()
	if p == nil {
		return PeopleInfo{}
	}
	out := PeopleInfo{People: p.People, InForce: p.inForce(now), At: p.at, By: p.by, From: p.at.Wall}
	if !p.carried {
		out.From = now.Wall.Add(coolingOff - time.Duration(now.Running-p.at.Running)*time.Second)
	}
	return out
}

// AdoptPeople compares the people that settings name with those of the ledger. The first ones are named by a record, and
// count 72 hours of running time later; until then others take their place the same way, and wait anew. Once people are in force
// others are not followed: refused says so then, in a clause for people. Settings that name nobody change nothing. The panic
// switch does not keep others from being named: whoever presses it because somebody planted the first ones would give the vault
// into their hands for good. On return
// a change is in the ledger; one that is cut by a crash applies whole or not at all.
func (s *Store) AdoptPeople(ctx context.Context, said quorum.People, by string) (changed bool, refused string, err error) {
	if err := s.writable(); err != nil {
		return false, "", err
	}
	if said.Threshold == 0 && len(said.People) == 0 {
		return false, "", nil
	}
	if err := errors.Join(said.Check(), freeText("where the people come from", by, ByMax)); err != nil {
		return false, "", err
	}
	s.write.Lock()
	defer s.write.Unlock()
	s.flush()
	if err := ctx.Err(); err != nil {
		return false, "", err
	}
	now, err := s.clock.Now()
	if err != nil {
		return false, "", err
	}
	s.mu.Lock()
	have := s.state.people
	s.mu.Unlock()
	switch {
	case have != nil && have.Equal(said):
		return false, "", nil
	case have.inForce(now):
		return false, fmt.Sprintf("%d people are in force, of whom %d must sign, and only a request of theirs changes them: holdfast request make people",
			len(have.People.People), have.Threshold), nil
	}
	r := &ledger.People{Threshold: said.Threshold, By: by}
	for _, who := range said.People {
		r.People = append(r.People, ledger.Person(who))
	}
	// Power fails here: the people of before. From the record on: these, once 72 hours have passed.
	if _, err := s.appendAt(now, ledger.Record{Kind: ledger.KindPeople, People: r}); err != nil {
		return false, "", fmt.Errorf("people: %w", err)
	}
	return true, "", nil
}

// inForce gives the people whose signatures count at a moment, or says why nobody's do. s.write is held.
func (s *Store) inForce(now clock.Stamp) (quorum.People, error) {
	s.mu.Lock()
	p := s.state.people
	s.mu.Unlock()
	switch {
	case p == nil:
		return quorum.People{}, errors.New("the vault names no people whose signatures count: name them in the settings (people), and they do 72 hours later")
	case !p.inForce(now):
		from := s.PeopleAt(now).From
		return quorum.People{}, fmt.Errorf("the people who are named count from %s on, if the machine stays on: 72 hours of running time after they were named", from.UTC().Format(time.RFC3339))
	}
	return p.People, nil
}
