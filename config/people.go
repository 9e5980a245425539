package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
)

// Bounds of what is written: people are a handful.
const (
	maxPeople  = 64
	maxKeys    = 16 // of one person
	leastToAct = 2  // people who must sign
)

// People are those of whom Threshold must sign what makes the vault forget faster. None, and nobody is proposed.
type People struct {
	Threshold int
	People    []Person
}

// Person is one of the people.
type Person struct {
	Name string
	Keys []string // "TYPE BASE64", checked for form only, without comment
}

// personKeys are the types of keys whose signatures count.
var personKeys = []string{
	"ssh-ed25519", "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com",
	"ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa",
}

type rawPeople struct {
	Threshold value       `yaml:"threshold"`
	People    []rawPerson `yaml:"people"`
}

type rawPerson struct {
	at   position
	Name value   `yaml:"name"`
	Keys []value `yaml:"keys"`
}

// UnmarshalYAML keeps where the item began, for what is missing in it.
func (r *rawPerson) UnmarshalYAML(n ast.Node) error {
	type plain rawPerson
	if err := yaml.NodeToValue(n, (*plain)(r), yaml.Strict()); err != nil {
		return err
	}
	r.at = startOf(n)
	return nil
}

func (r rawPerson) who() string { return who("person", r.Name) }

// people reads who must sign. Beside a keeper its own file says so, and what stood here would count for nothing.
func (r *reader) people(p *page, raw rawPeople, keeper value) {
	if !raw.Threshold.set && len(raw.People) == 0 {
		return
	}
	at := raw.Threshold.at
	if !raw.Threshold.set {
		at = raw.People[0].at
		r.bad(p, at, "people has no threshold: how many of them must sign, at least %d", leastToAct)
	}
	if keeper.set {
		r.bad(p, at, "a keeper keeps this vault, and people stand in its own settings: write \"people\" into its policy.json, in the same form, and remove it here")
		return
	}
	before := len(r.errs)
	seen := map[string]string{} // key -> whose
	for _, one := range raw.People {
		r.person(p, one, seen)
	}
	out, n := &r.config.People, len(raw.People)
	if raw.Threshold.set {
		out.Threshold = r.count(p, raw.Threshold, maxPeople)
	}
	switch {
	case len(r.errs) > before || !raw.Threshold.set:
	case n > maxPeople:
		r.bad(p, raw.People[maxPeople].at, "%d people: at most %d", n, maxPeople)
	case out.Threshold < leastToAct:
		r.bad(p, raw.Threshold.at, "a threshold of %d: one person alone must never make the vault forget, so at least %d", out.Threshold, leastToAct)
	case out.Threshold > n:
		r.bad(p, raw.Threshold.at, "a threshold of %d among %d people", out.Threshold, n)
	}
}

func (r *reader) person(p *page, raw rawPerson, seen map[string]string) {
	out := Person{Name: raw.Name.text}
	switch {
	case !raw.Name.set:
		r.bad(p, raw.at, "this person has no name")
	case !sourceName.MatchString(out.Name):
		r.bad(p, raw.Name.at, "%q cannot be the name of a person: small letters, digits, dash and underscore, beginning with a letter or digit, at most 63", cut(out.Name))
	case slices.ContainsFunc(r.config.People.People, func(o Person) bool { return o.Name == out.Name }):
		r.bad(p, raw.Name.at, "the person %q is there twice", out.Name)
	}
	switch {
	case len(raw.Keys) == 0:
		r.bad(p, raw.at, "%s has no keys: add the line of a public key", raw.who())
	case len(raw.Keys) > maxKeys:
		r.bad(p, raw.Keys[maxKeys].at, "%s has %d keys: at most %d", raw.who(), len(raw.Keys), maxKeys)
	}
	for _, k := range raw.Keys {
		key, err := personKey(k.text)
		whose, twice := seen[key]
		switch {
		case err != nil:
			r.bad(p, k.at, "this is not a key that can sign a request: %v", err)
		case twice && whose == out.Name:
			r.bad(p, k.at, "this key is there twice")
		case twice:
			r.bad(p, k.at, "this key is %s's already: nobody counts for two", cut(whose))
		}
		seen[key] = out.Name
		out.Keys = append(out.Keys, key)
	}
	r.config.People.People = append(r.config.People.People, out)
}

// personKey leaves the comment of a public key out.
func personKey(line string) (string, error) {
	if err := checkPublicKey(line); err != nil {
		return "", err
	}
	f := strings.Fields(line)
	if !slices.Contains(personKeys, f[0]) {
		return "", fmt.Errorf("its type is %q; make one with ssh-keygen -t ed25519, or -t ed25519-sk for a key in hardware", cut(f[0]))
	}
	return f[0] + " " + f[1], nil
}
