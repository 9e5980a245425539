package config

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
)

// maxWitnesses bounds how many are asked.
const maxWitnesses = 16

// Witnesses are who the daemon asks to cosign the ledger's checkpoints. No members, nobody.
type Witnesses struct {
	Quorum  int // how many must agree; more than half of them when not given
	Members []Witness
}

// Witness is one of them.
type Witness struct {
	Name string // for people and metrics: as a source's
	URL  string // submission prefix, http or https, checked for form only
	Key  string // verifier key NAME+KEYID+BASE64, checked for form only
}

type rawWitnesses struct {
	Quorum  value        `yaml:"quorum"`
	Members []rawWitness `yaml:"members"`
}

type rawWitness struct {
	at   position
	Name value `yaml:"name"`
	URL  value `yaml:"url"`
	Key  value `yaml:"key"`
}

// UnmarshalYAML keeps where the item began, for what is missing in it.
func (r *rawWitness) UnmarshalYAML(n ast.Node) error {
	type plain rawWitness
	if err := yaml.NodeToValue(n, (*plain)(r), yaml.Strict()); err != nil {
		return err
	}
	r.at = startOf(n)
	return nil
}

func (r rawWitness) who() string { return who("witness", r.Name) }

func (r *reader) witnesses(p *page, raw rawWitnesses) {
	w := &r.config.Witnesses
	before := len(r.errs)
	for _, m := range raw.Members {
		r.witness(p, m)
	}
	if len(r.errs) > before {
		return
	}
	n := len(w.Members)
	w.Quorum = n/2 + 1
	if n == 0 {
		w.Quorum = 0
	}
	if raw.Quorum.set {
		w.Quorum = r.count(p, raw.Quorum, maxWitnesses)
	}
	switch {
	case n > maxWitnesses:
		r.bad(p, raw.Members[maxWitnesses].at, "%d witnesses: at most %d are asked", n, maxWitnesses)
	case len(r.errs) == before && (w.Quorum > n || raw.Quorum.set && w.Quorum < 1):
		r.bad(p, raw.Quorum.at, "a quorum of %d among %d witnesses", w.Quorum, n)
	}
}

func (r *reader) witness(p *page, raw rawWitness) {
	out := Witness{Name: raw.Name.text, URL: strings.TrimRight(raw.URL.text, "/"), Key: raw.Key.text}
	known := func(same func(Witness) bool) bool { return slices.ContainsFunc(r.config.Witnesses.Members, same) }
	switch {
	case !raw.Name.set:
		r.bad(p, raw.at, "this witness has no name")
	case !sourceName.MatchString(out.Name):
		r.bad(p, raw.Name.at, "%q cannot be the name of a witness: small letters, digits, dash and underscore, beginning with a letter or digit, at most 63", cut(out.Name))
	case known(func(w Witness) bool { return w.Name == out.Name }):
		r.bad(p, raw.Name.at, "the witness %q is there twice", out.Name)
	}
	switch u, err := url.Parse(out.URL); {
	case !raw.URL.set:
		r.bad(p, raw.at, "%s has no url", raw.who())
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		r.bad(p, raw.URL.at, "this is not the address of a witness: write https://HOST/PREFIX, without add-checkpoint")
	}
	switch err := checkWitnessKey(out.Key); {
	case !raw.Key.set:
		r.bad(p, raw.at, "%s has no key: the verifier that its operator publishes", raw.who())
	case err != nil:
		r.bad(p, raw.Key.at, "this is not the verifier of a witness: %v", err)
	case known(func(w Witness) bool { return w.Key == out.Key }):
		r.bad(p, raw.Key.at, "this key is there twice: a witness counts once")
	}
	r.config.Witnesses.Members = append(r.config.Witnesses.Members, out)
}

var witnessKeyID = regexp.MustCompile(`^[0-9a-f]{8}$`)

func checkWitnessKey(key string) error {
	name, rest, _ := strings.Cut(key, "+")
	id, b64, _ := strings.Cut(rest, "+")
	raw, err := base64.StdEncoding.DecodeString(b64)
	switch {
	case name == "" || !witnessKeyID.MatchString(id) || err != nil || len(raw) != 33:
		return fmt.Errorf("it has the form NAME+KEYID+BASE64")
	case raw[0] == 1:
		return fmt.Errorf("it is a ledger's, of type 1; a witness's is of type 4")
	case raw[0] != 4:
		return fmt.Errorf("keys of type %d are not known; a witness's is of type 4", raw[0])
	}
	return nil
}
