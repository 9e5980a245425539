package quorum

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Action says what a request asks for.
type Action string

// The actions.
const (
	ActionDelete  Action = "delete"  // governance locks of snapshots end, and keep rules no longer want them
	ActionRelease Action = "release" // holds end
	ActionPolicy  Action = "policy"  // another policy, looser or not
	ActionPeople  Action = "people"  // other people
	ActionClock   Action = "clock"   // the wall clock is right as it is
	ActionResume  Action = "resume"  // the panic switch is off
	ActionOrigin  Action = "origin"  // a ledger that was rolled back goes on
)

func (a Action) known() bool {
	switch a {
	case ActionDelete, ActionRelease, ActionPolicy, ActionPeople, ActionClock, ActionResume, ActionOrigin:
		return true
	}
	return false
}

// What bounds the bodies.
const (
	mostSnapshots = 500
	mostHolds     = 1000
	noteMax       = 16 << 10
	depthMax      = 8
	// farOff is the furthest that a clock can be off: a hundred years.
	farOff = 100 * 366 * 24 * 3600
)

// Delete names snapshots by their IDs, ascending.
type Delete struct {
	Snapshots []string `json:"snapshots"`
}

// Release names holds of one snapshot by the numbers of their records, ascending.
type Release struct {
	Snapshot string   `json:"snapshot"`
	Holds    []uint64 `json:"holds"`
}

// PolicyChange is a whole policy as its record has it, compact. Whether it is a good one is for package policy to say:
// here only its spelling is looked at.
type PolicyChange json.RawMessage

// Clock takes the wall clock for right if it is off by OffSeconds.
type Clock struct {
	OffSeconds int64 `json:"off_s"`
}

// Resume takes the panic switch back.
type Resume struct{}

// Origin lets a ledger go on that is behind what it signed.
type Origin struct {
	Note string `json:"note"` // the checkpoint that proves what was lost
	Root string `json:"root"` // base64, of the records that are here
}

// What gives the action and the bytes of a body: one of Delete, Release, PolicyChange, People, Clock, Resume and Origin.
func What(body any) (Action, json.RawMessage, error) {
	var a Action
	switch b := body.(type) {
	case Delete:
		a = ActionDelete
	case Release:
		a = ActionRelease
	case People:
		a = ActionPeople
	case Clock:
		a = ActionClock
	case Resume:
		a = ActionResume
	case Origin:
		a = ActionOrigin
	case PolicyChange:
		if _, err := (Request{Action: ActionPolicy, What: json.RawMessage(b)}).Body(); err != nil {
			return "", nil, err
		}
		return ActionPolicy, json.RawMessage(b), nil
	default:
		return "", nil, fmt.Errorf("request: %T is no body of a request", body)
	}
	raw, err := compact(body)
	if err != nil {
		return "", nil, err
	}
	if _, err := (Request{Action: a, What: raw}).Body(); err != nil {
		return "", nil, err
	}
	return a, raw, nil
}

// Body reads What as the action's type, a value of one of those that What takes, and says what of it cannot be.
func (r Request) Body() (any, error) {
	switch r.Action {
	case ActionDelete:
		return read(r.What, Delete.check)
	case ActionRelease:
		return read(r.What, Release.check)
	case ActionPolicy:
		if err := spelled(r.What); err != nil {
			return nil, err
		}
		return PolicyChange(r.What), nil
	case ActionPeople:
		return read(r.What, People.Check)
	case ActionClock:
		return read(r.What, Clock.check)
	case ActionResume:
		return read(r.What, func(Resume) error { return nil })
	case ActionOrigin:
		return read(r.What, Origin.check)
	}
	return nil, fmt.Errorf("%.80q is no action that this release knows", string(r.Action))
}

// read takes only what compact would have written.
func read[T any](raw json.RawMessage, check func(T) error) (any, error) {
	var body T
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&body); err != nil {
		return nil, fmt.Errorf("%.80q: %w", raw, err)
	}
	again, err := compact(body)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, raw) {
		return nil, fmt.Errorf("%.80q is not in its only spelling: compact, each member once, in its order, and no other", raw)
	}
	if err := check(body); err != nil {
		return nil, err
	}
	return body, nil
}

func compact(body any) (json.RawMessage, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(body); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func (d Delete) check() error {
	if len(d.Snapshots) < 1 || len(d.Snapshots) > mostSnapshots {
		return fmt.Errorf("%d snapshots: from 1 to %d fit into one request", len(d.Snapshots), mostSnapshots)
	}
	for i, id := range d.Snapshots {
		if !isHex(id, 64) {
			return fmt.Errorf("%.80q is not the ID of a snapshot, 64 lower-case hex digits", id)
		}
		if i > 0 && d.Snapshots[i-1] >= id {
			return errors.New("the snapshots do not ascend, each once")
		}
	}
	return nil
}

func (r Release) check() error {
	switch {
	case !isHex(r.Snapshot, 64):
		return fmt.Errorf("%.80q is not the ID of a snapshot, 64 lower-case hex digits", r.Snapshot)
	case len(r.Holds) < 1 || len(r.Holds) > mostHolds:
		return fmt.Errorf("%d holds: from 1 to %d fit into one request", len(r.Holds), mostHolds)
	}
	for i, n := range r.Holds {
		if n > sizeMax || i > 0 && r.Holds[i-1] >= n {
			return errors.New("the holds do not ascend, each once")
		}
	}
	return nil
}

func (c Clock) check() error {
	if c.OffSeconds == 0 || c.OffSeconds > farOff || c.OffSeconds < -farOff {
		return fmt.Errorf("off by %d s: that is no shift that anybody has to sign for", c.OffSeconds)
	}
	return nil
}

func (o Origin) check() error {
	switch {
	case o.Note == "" || len(o.Note) > noteMax:
		return fmt.Errorf("a checkpoint of %d bytes: from 1 to %d can be", len(o.Note), noteMax)
	case !isRoot(o.Root):
		return fmt.Errorf("%.80q is not the base64 of 32 bytes", o.Root)
	}
	return printable(o.Note, "\n")
}

// spelled holds JSON of any members to one spelling: compact, whole numbers, strings as quote writes them, no member
// twice, printable, not too deep.
func spelled(raw []byte) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var b strings.Builder
	if err := respell(d, &b, 0); err != nil {
		return fmt.Errorf("%.80q: %w", raw, err)
	}
	if b.String() != string(raw) || raw[0] != '{' {
		return fmt.Errorf("%.80q is not an object in compact JSON in its only spelling", raw)
	}
	return nil
}

func respell(d *json.Decoder, b *strings.Builder, depth int) error {
	t, err := d.Token()
	if err != nil {
		if errors.Is(err, io.EOF) {
			return errShort
		}
		return err
	}
	switch t := t.(type) {
	case string:
		b.WriteString(quote(t))
		return printable(t, "")
	case json.Number:
		if strings.ContainsAny(t.String(), ".eE") || t.String() == "-0" {
			return fmt.Errorf("%.80q is no whole number", t.String())
		}
		b.WriteString(t.String())
	case bool:
		fmt.Fprint(b, t)
	case json.Delim:
		if depth >= depthMax {
			return fmt.Errorf("more than %d levels", depthMax)
		}
		return respellAll(d, b, t, depth+1)
	default:
		return errors.New("null says nothing")
	}
	return nil
}

// respellAll writes what an object or list holds.
func respellAll(d *json.Decoder, b *strings.Builder, open json.Delim, depth int) error {
	b.WriteRune(rune(open))
	seen := map[string]bool{}
	for n := 0; d.More(); n++ {
		if n > 0 {
			b.WriteByte(',')
		}
		if open == '{' {
			t, err := d.Token()
			if err != nil {
				return err
			}
			name, _ := t.(string) // names are strings, or the decoder would not go on
			if low := strings.ToLower(name); seen[low] {
				return fmt.Errorf("member %.80q stands twice", name)
			} else {
				seen[low] = true
			}
			if err := printable(name, ""); err != nil {
				return err
			}
			b.WriteString(quote(name) + ":")
		}
		if err := respell(d, b, depth); err != nil {
			return err
		}
	}
	end, err := d.Token()
	if err != nil {
		return err
	}
	close, _ := end.(json.Delim)
	b.WriteRune(rune(close))
	return nil
}
