package config

import (
	"fmt"

	"github.com/goccy/go-yaml/ast"
)

// Timetable is a limit of bandwidth as it was written, one line ("20 MB/s") or a list of them. What the lines mean is for
// whoever keeps the limit to say; At puts an error of theirs in its place.
type Timetable struct {
	Lines []string

	at []Error // of each line, without a message
}

// At gives an error in a line, counted from 0, the place where that line stands.
func (t Timetable) At(line int, err error) error {
	if line < 0 || line >= len(t.at) {
		return err
	}
	e := t.at[line]
	e.Message = err.Error()
	return Errors{&e}
}

// rawLines is a single value or a list of values.
type rawLines []value

// UnmarshalYAML takes both forms.
func (r *rawLines) UnmarshalYAML(n ast.Node) error {
	items := []ast.Node{n}
	if list, ok := n.(*ast.SequenceNode); ok {
		items = list.Values
	}
	for _, item := range items {
		var v value
		if err := v.UnmarshalYAML(item); err != nil {
			return err
		}
		*r = append(*r, v)
	}
	return nil
}

func (r *reader) timetable(p *page, raw rawLines) (t Timetable) {
	for _, v := range raw {
		t.Lines = append(t.Lines, v.text)
		t.at = append(t.at, Error{File: p.file, Line: v.at.line, Column: v.at.column, Excerpt: excerpt(p.data, v.at)})
	}
	return t
}

// The memory that a pull may use where nothing is said, and the bounds of what may be said.
const (
	DefaultMemory = 256 << 20
	LeastMemory   = 64 << 20
	MostMemory    = 1 << 40
)

// ParseMemory reads how much memory a pull may use, within the bounds.
func ParseMemory(s string) (int64, error) {
	n, err := ParseBytes(s)
	if err == nil && (n < LeastMemory || n > MostMemory) {
		err = fmt.Errorf("%q: a pull may use from %s to %s of memory", cut(s), FormatBytes(LeastMemory), FormatBytes(MostMemory))
	}
	return n, err
}

func (r *reader) memory(p *page, v value) int64 {
	if !v.set {
		return 0
	}
	n, err := ParseMemory(v.text)
	if err != nil {
		r.bad(p, v.at, "%v", err)
	}
	return n
}
