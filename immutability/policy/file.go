package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
)

// FileMax bounds a file of settings: it is written by a person.
const FileMax = 1 << 20

// Settings are what the keeper's own file proposes: a policy, and the witnesses and people, whose form is theirs to read.
type Settings struct {
	Policy
	Witnesses json.RawMessage // "" when the file names none
	People    json.RawMessage // the same
}

// Load reads a file of settings; see Parse.
func Load(file string) (Settings, error) {
	f, err := os.Open(file)
	if err != nil {
		return Settings{}, fmt.Errorf("policy: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, FileMax+1))
	if err != nil {
		return Settings{}, fmt.Errorf("policy: %w", err)
	}
	return Parse(file, data)
}

// Parse reads settings: one JSON object with the members of a policy record of the ledger (mode, default_s, min_s, max_s,
// budget_bytes, keep, sources), witnesses and people. Each may be left out and then says nothing. An unknown member, one that is there
// twice, a number that is 0 or no whole number, and what contradicts itself are errors that name the file and the line.
func Parse(name string, data []byte) (Settings, error) {
	r := &reader{name: name, data: data, dec: json.NewDecoder(bytes.NewReader(data))}
	r.dec.UseNumber()
	var s Settings
	if len(data) > FileMax {
		return Settings{}, fmt.Errorf("%s: larger than %d bytes: this is no policy", name, FileMax)
	}
	fields := r.rules(&s.Mode, &s.DefaultSeconds, &s.MinSeconds, &s.MaxSeconds, &s.BudgetBytes, &s.Keep)
	fields["sources"] = func() error { return r.sources(&s.Policy) }
	fields["witnesses"] = func() error {
		if err := r.dec.Decode(&s.Witnesses); err != nil {
			return r.bad("witnesses: %v", err)
		}
		return nil
	}
	fields["people"] = func() error {
		if err := r.dec.Decode(&s.People); err != nil {
			return r.bad("people: %v", err)
		}
		return nil
	}
	if err := r.object(fields); err != nil {
		return Settings{}, err
	}
	if _, err := r.dec.Token(); !errors.Is(err, io.EOF) {
		return Settings{}, r.bad("something follows the settings")
	}
	if err := s.Proposes(); err != nil {
		return Settings{}, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

type reader struct {
	name string
	data []byte
	dec  *json.Decoder
}

// bad is an error at the place that was read last.
func (r *reader) bad(format string, args ...any) error {
	at := min(int(r.dec.InputOffset()), len(r.data))
	return fmt.Errorf("%s: line %d: %s", r.name, 1+bytes.Count(r.data[:at], []byte("\n")), fmt.Sprintf(format, args...))
}

func (r *reader) token() (json.Token, error) {
	t, err := r.dec.Token()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, r.bad("it ends too early")
	}
	if err != nil {
		return nil, r.bad("not JSON: %v", err)
	}
	return t, nil
}

// object reads one object whose members are known.
func (r *reader) object(fields map[string]func() error) error {
	return r.members(func(key string) error {
		read, known := fields[key]
		if !known {
			return r.bad("unknown member %.80q", key)
		}
		return read()
	})
}

// members reads an object and hands each key on, to have its value read.
func (r *reader) members(read func(key string) error) error {
	if t, err := r.token(); err != nil {
		return err
	} else if t != json.Delim('{') {
		return r.bad("an object belongs here, in { }")
	}
	seen := map[string]bool{}
	for {
		t, err := r.token()
		if err != nil {
			return err
		}
		if t == json.Delim('}') {
			return nil
		}
		key, _ := t.(string) // keys are strings, or the decoder would not go on
		if seen[key] {
			return r.bad("%.80q is there twice", key)
		}
		seen[key] = true
		if err := read(key); err != nil {
			return err
		}
	}
}

func (r *reader) rules(mode *Mode, byDefault, minimum, longest, budget *int64, keep *Keep) map[string]func() error {
	return map[string]func() error{
		"mode":         func() error { return r.mode(mode) },
		"default_s":    func() error { return r.number("default_s", byDefault) },
		"min_s":        func() error { return r.number("min_s", minimum) },
		"max_s":        func() error { return r.number("max_s", longest) },
		"budget_bytes": func() error { return r.number("budget_bytes", budget) },
		"keep":         func() error { return r.keepRules(keep) },
	}
}

func (r *reader) mode(to *Mode) error {
	t, err := r.token()
	if err != nil {
		return err
	}
	text, ok := t.(string)
	if !ok || !Mode(text).Valid() {
		return r.bad("mode is \"governance\" or \"compliance\", not %.80q", fmt.Sprint(t))
	}
	*to = Mode(text)
	return nil
}

func (r *reader) number(what string, to *int64) error {
	t, err := r.token()
	if err != nil {
		return err
	}
	n, isNumber := t.(json.Number)
	v, perr := strconv.ParseInt(n.String(), 10, 64)
	if !isNumber || perr != nil || v < 1 {
		return r.bad("%s is a whole number from 1, not %.80q; leave the member out to say nothing", what, fmt.Sprint(t))
	}
	*to = v
	return nil
}

func (r *reader) sources(p *Policy) error {
	p.Sources = map[string]Rules{}
	return r.members(func(name string) error {
		if !validSource(name) {
			return r.bad("source name %.80q is not of the form [a-z0-9][a-z0-9_-]{0,62}", name)
		}
		if len(p.Sources) >= Most {
			return r.bad("more than %d sources", Most)
		}
		var s Rules
		if err := r.object(r.rules(&s.Mode, &s.DefaultSeconds, &s.MinSeconds, &s.MaxSeconds, &s.BudgetBytes, &s.Keep)); err != nil {
			return err
		}
		p.Sources[name] = s
		return nil
	})
}
