package config

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// The shapes of the file. Every leaf is a value, which knows where it stood, so that a meaning that is wrong can be
// shown in its place as well as a form that is.
type rawConfig struct {
	Vault     value        `yaml:"vault"`
	Keeper    value        `yaml:"keeper"`
	Work      value        `yaml:"work"`
	UnlockKey value        `yaml:"unlock_key"`
	Lock      rawLock      `yaml:"lock"`
	Keep      rawKeep      `yaml:"keep"`
	Weaker    value        `yaml:"accept_weaker_protection"`
	Bandwidth rawLines     `yaml:"bandwidth"`
	Memory    value        `yaml:"memory"`
	Prune     value        `yaml:"prune"`
	Metrics   rawMetrics   `yaml:"metrics"`
	Witnesses rawWitnesses `yaml:"witnesses"`
	People    rawPeople    `yaml:"people"`
	Door      rawDoor      `yaml:"door"`
	Sources   []rawSource  `yaml:"sources"`
}

type rawLock struct {
	Mode value `yaml:"mode"`
	For  value `yaml:"for"`
	Min  value `yaml:"min"`
	Max  value `yaml:"max"`

	Budget value `yaml:"budget"`
}

type rawMetrics struct {
	Listen value `yaml:"listen"`
}

type rawDoor struct {
	Listen  value     `yaml:"listen"`
	HostKey value     `yaml:"host_key"`
	Users   []rawUser `yaml:"users"`
}

type rawUser struct {
	at      position
	Name    value   `yaml:"name"`
	Keys    []value `yaml:"keys"`
	Sources []value `yaml:"sources"`
	Role    value   `yaml:"role"`
}

type rawSource struct {
	at         position
	Name       value         `yaml:"name"`
	URL        value         `yaml:"url"`
	Identity   value         `yaml:"identity"`
	HostKey    value         `yaml:"host_key"`
	KnownHosts value         `yaml:"known_hosts"`
	Every      value         `yaml:"every"`
	Exclude    []value       `yaml:"exclude"`
	Lock       rawSourceLock `yaml:"lock"`
	Keep       rawKeep       `yaml:"keep"`
	Limits     rawLimits     `yaml:"limits"`
}

type rawSourceLock struct {
	Mode value `yaml:"mode"`
	For  value `yaml:"for"`
	Min  value `yaml:"min"`
	Max  value `yaml:"max"`

	Budget value `yaml:"budget"`
}

type rawLimits struct {
	Entries             value    `yaml:"entries"`
	EntriesPerDirectory value    `yaml:"entries_per_directory"`
	Depth               value    `yaml:"depth"`
	PathBytes           value    `yaml:"path_bytes"`
	FileBytes           value    `yaml:"file_bytes"`
	Bytes               value    `yaml:"bytes"`
	MinBytesPerSecond   value    `yaml:"min_bytes_per_second"`
	Timeout             value    `yaml:"timeout"`
	Connections         value    `yaml:"connections"`
	Channels            value    `yaml:"channels"`
	Bandwidth           rawLines `yaml:"bandwidth"`
}

// UnmarshalYAML keeps where the item began, for what is missing in it.
func (r *rawSource) UnmarshalYAML(n ast.Node) error {
	type plain rawSource
	if err := yaml.NodeToValue(n, (*plain)(r), yaml.Strict()); err != nil {
		return err
	}
	r.at = startOf(n)
	return nil
}

// UnmarshalYAML keeps where the item began, for what is missing in it.
func (r *rawUser) UnmarshalYAML(n ast.Node) error {
	type plain rawUser
	if err := yaml.NodeToValue(n, (*plain)(r), yaml.Strict()); err != nil {
		return err
	}
	r.at = startOf(n)
	return nil
}

// value is one scalar as it was written, numbers included, and its place.
type value struct {
	text string
	at   position
	set  bool
}

// UnmarshalYAML takes any scalar; null never comes here, see plain.
func (v *value) UnmarshalYAML(n ast.Node) error {
	at := positionOf(n.GetToken())
	switch n := n.(type) {
	case *ast.StringNode:
		*v = value{text: n.Value, at: at, set: true}
	case *ast.LiteralNode:
		*v = value{text: n.Value.Value, at: at, set: true}
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		*v = value{text: n.GetToken().Value, at: at, set: true}
	default:
		return &placed{at: at, message: "a single value belongs here, not a list and not keys of its own"}
	}
	if strings.ContainsFunc(v.text, func(c rune) bool { return c < ' ' || c == 0x7f }) || !utf8.ValidString(v.text) {
		return &placed{at: at, message: fmt.Sprintf("%q has a control character or is not UTF-8", cut(v.text))}
	}
	return nil
}

// placed is an error on its way through the YAML library.
type placed struct {
	at      position
	message string
}

func (p *placed) Error() string { return p.message }

func positionOf(t *token.Token) position {
	if t == nil || t.Position == nil {
		return position{}
	}
	return position{t.Position.Line, t.Position.Column}
}

// startOf gives the first key of a mapping: the library places a mapping at the colon of it.
func startOf(n ast.Node) position {
	switch n := n.(type) {
	case *ast.MappingNode:
		if n.IsFlowStyle {
			return positionOf(n.Start)
		}
		if len(n.Values) > 0 {
			return positionOf(n.Values[0].Key.GetToken())
		}
	case *ast.MappingValueNode:
		return positionOf(n.Key.GetToken())
	}
	return positionOf(n.GetToken())
}

// decode reads the one document in data into v, strictly. empty says that there is none. The error is what is wrong
// and where.
func decode(data []byte, v any) (empty bool, bad *placed) {
	defer func() {
		// The file is the operator's, yet a panic inside the library is no answer to a typing error.
		if r := recover(); r != nil {
			empty, bad = false, &placed{message: fmt.Sprintf("this is not YAML that can be read (%.200q)", fmt.Sprint(r))}
		}
	}()
	if !utf8.Valid(data) {
		return false, &placed{message: "the file is not UTF-8 text"}
	}
	if i := loneReturn(data); i >= 0 {
		return false, &placed{at: position{bytes.Count(data[:i], []byte("\n")) + 1, 1}, message: "this line ends in a carriage return alone: end lines as Unix does"}
	}
	if bad := nesting(data); bad != nil {
		return false, bad
	}
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return false, translate(err)
	}
	var body ast.Node
	for _, doc := range file.Docs {
		if doc == nil || doc.Body == nil {
			continue
		}
		if body != nil {
			return false, &placed{at: startOf(doc.Body), message: "a second document begins here: a file holds one"}
		}
		body = doc.Body
	}
	if body == nil {
		return true, nil
	}
	if bad := plain(body); bad != nil {
		return false, bad
	}
	if err := yaml.NodeToValue(body, v, yaml.Strict()); err != nil {
		return false, translate(err)
	}
	return false, nil
}

// loneReturn finds a carriage return that no newline follows: YAML takes it for the end of a line, editors and people
// do not, and what they read must be what is read here. -1 if there is none.
func loneReturn(data []byte) int {
	for i, c := range data {
		if c == '\r' && (i+1 == len(data) || data[i+1] != '\n') {
			return i
		}
	}
	return -1
}

// nesting refuses what is nested deeper than any configuration, before a recursive parser sees it.
func nesting(data []byte) *placed {
	for number, line := range strings.Split(string(data), "\n") {
		if dashes := strings.Count(line, "- ") + strings.Count(line, "? ") + strings.Count(line, ": "); dashes > 100*maxNesting {
			return &placed{at: position{number + 1, 1}, message: "this line holds more than a configuration ever needs"}
		}
	}
	var flow int
	for _, t := range lexer.Tokenize(string(data)) {
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow--
		}
		if flow > maxNesting || (t.Position != nil && t.Position.IndentLevel > maxNesting) {
			return &placed{at: positionOf(t), message: fmt.Sprintf("nested deeper than %d", maxNesting)}
		}
	}
	return nil
}

// plain refuses anchors, aliases, merges and tags: a configuration that means what it shows needs none, and with
// aliases a page of text can unfold into gigabytes.
func plain(body ast.Node) *placed {
	var v plainVisitor
	ast.Walk(&v, body)
	return v.bad
}

// mayBeEmpty are the keys under which everything may be commented out.
var mayBeEmpty = map[string]bool{
	"lock": true, "keep": true, "metrics": true, "door": true, "users": true, "sources": true, "exclude": true, "limits": true,
}

// plainVisitor also refuses keys and items without a value, which the library would skip: more often an accident than a
// wish.
type plainVisitor struct{ bad *placed }

func (v *plainVisitor) Visit(n ast.Node) ast.Visitor {
	if v.bad != nil || n == nil {
		return nil
	}
	what := ""
	switch n := n.(type) {
	case *ast.MappingValueNode:
		if key := n.Key.GetToken(); n.Value.Type() == ast.NullType && !mayBeEmpty[key.Value] {
			v.bad = &placed{at: positionOf(key), message: "this key has no value: give it one or remove the line"}
		}
	case *ast.SequenceNode:
		for _, item := range n.Values {
			if item.Type() == ast.NullType {
				v.bad = &placed{at: positionOf(item.GetToken()), message: "this item of a list is empty: remove the dash"}
			}
		}
	case *ast.AnchorNode:
		what = "an anchor (&)"
	case *ast.AliasNode:
		what = "an alias (*)"
	case *ast.MergeKeyNode:
		what = "a merge (<<)"
	case *ast.TagNode:
		what = "a tag (!)"
	}
	if v.bad != nil {
		return nil
	}
	if what != "" {
		v.bad = &placed{at: positionOf(n.GetToken()), message: what + " is not used in a configuration: write the value itself, in quotes if it begins so"}
		return nil
	}
	return v
}

// translate turns an error of the library into words of ours and keeps its place.
func translate(err error) *placed {
	var own *placed
	if errors.As(err, &own) {
		return own
	}
	var e yaml.Error
	if !errors.As(err, &e) {
		return &placed{message: fmt.Sprintf("this is not YAML that can be read: %.200q", err.Error())}
	}
	p := &placed{at: positionOf(e.GetToken()), message: printable(e.GetMessage())}
	var kind reflect.Type
	switch e := e.(type) {
	case *yaml.UnknownFieldError:
		p.message += ": no such key here; holdfast.example.yaml shows all there are"
	case *yaml.SyntaxError:
		// The parser sees a key given twice before the decoder does.
		if strings.HasPrefix(p.message, "mapping key ") {
			p.message = "this key is there twice: keep one"
		}
	case *yaml.TypeError:
		kind = e.DstType
	case *yaml.UnexpectedNodeTypeError:
		p.message = "keys with values (key: value) belong here"
		if e.Expected == ast.SequenceType {
			p.message = "a list belongs here (one item a line, each after a dash)"
		}
	}
	if kind != nil {
		p.message = "keys with values (key: value) belong here"
		if kind.Kind() == reflect.Slice {
			p.message = "a list belongs here (one item a line, each after a dash)"
		}
	}
	return p
}

// printable replaces what a terminal would obey.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || c == utf8.RuneError || (c >= 0x80 && c < 0xa0) || (c >= 0x200b && c <= 0x200f) || (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069) {
			return '·'
		}
		return c
	}, s)
}
