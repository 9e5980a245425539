package fsck

import (
	"errors"

	"github.com/holdfast-vault/holdfast/immutability/quorum"
)

// peopleSeconds is how long of running time people that settings name wait before their signatures count.
const peopleSeconds = 72 * 3600

type (
	peopleBody struct{ people quorum.People }
	secureBody struct{ reason, by string }
)

func readPeople(o *object) any {
	b := &peopleBody{}
	b.people.Threshold = int(min(max(o.number("threshold"), -1), 1<<20))
	for _, raw := range o.list("people") {
		in := readObject(raw)
		b.people.People = append(b.people.People, quorum.Person{Name: in.text("name"), Keys: in.texts("keys")})
		if in.err != nil && o.err == nil {
			o.err = in.err
		}
	}
	return b
}

func readSecure(o *object) any { return &secureBody{o.text("reason"), o.text("by")} }

// deciders are the people that a record named.
type deciders struct {
	quorum.People
	at      Stamp
	carried bool // by a request of those before them: they count at once
}

// inForce says whether their signatures count at a moment.
func (d *deciders) inForce(now Stamp) bool {
	return d != nil && (d.carried || now.Running-d.at.Running > peopleSeconds)
}

// takePeople follows people that settings name. Once some are in force only a request changes them.
func (h *history) takePeople(r *record, b *peopleBody) {
	switch err := b.people.Check(); {
	case err != nil:
		h.wrong(r, KindRecord, "people who cannot be, so that it changes nothing: %v", err)
		return
	case h.people.inForce(r.at):
		h.wrong(r, KindLock, "it names other people although %d are in force, whom only a request of theirs changes; it changes nothing", len(h.people.People.People))
		return
	}
	h.people = &deciders{People: b.people, at: r.at}
}

// takeSecure follows the panic switch. Nothing is marked any more: once it is over, people have a day to look again.
func (h *history) takeSecure(r *record, p place) {
	h.secured = &p
	h.marks = newMarks(h.marks.any)
	h.r.note(KindRecord, recordName(r), "the vault was secured: nothing is forgotten until a request to resume is carried out")
}

// whileSecured tells of a record that must not be while the panic switch is on.
func (h *history) whileSecured(r *record) {
	switch r.kind {
	case "mark", "intent", "policy":
		if h.secured != nil {
			h.wrong(r, KindLock, "a record of kind %q while the vault was secured by record %d, when nothing is forgotten and nothing gets looser", r.kind, h.secured.seq)
		}
	}
}

// signature is one that a record carries.
type signature struct {
	person, key string
	blob        []byte
}

// signed says which people a text's signatures are of. exact demands what was demanded when it was brought: every signature
// is good, of a person in force, and of another one than the others.
func (d *deciders) signed(text []byte, all []signature, exact bool) (map[string]bool, error) {
	who := map[string]bool{}
	var first error
	for _, s := range all {
		person, key, _, err := quorum.Verify(text, s.blob, d.People)
		switch {
		case err != nil:
		case who[person]:
			err = errors.New(person + " signed twice")
		case s.person != "" && (s.person != person || s.key != key):
			err = errors.New("a signature of " + person + " is said to be of somebody else or of another key")
		}
		if err != nil && first == nil {
			first = err
		}
		if person != "" {
			who[person] = true
		}
	}
	if !exact {
		first = nil
	}
	return who, first
}
