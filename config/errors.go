package config

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Error is one thing wrong in one place. Line and Column count from 1; 0 means the file as a whole.
type Error struct {
	File    string
	Line    int
	Column  int
	Message string
	Excerpt string // the line, and a caret below the column; no newline at the end; "" without a place
}

// Error gives FILE:LINE:COLUMN: MESSAGE, and the excerpt on lines of its own. Nothing from the file is printed raw.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(visible(e.File))
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": ")
	b.WriteString(e.Message)
	if e.Excerpt != "" {
		b.WriteString("\n")
		b.WriteString(e.Excerpt)
	}
	return b.String()
}

// Errors is everything that is wrong, in the order of the files.
type Errors []*Error

// Error joins them by newlines.
func (e Errors) Error() string {
	all := make([]string, len(e))
	for i, one := range e {
		all[i] = one.Error()
	}
	return strings.Join(all, "\n")
}

// Unwrap gives errors.As each of them.
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i, one := range e {
		all[i] = one
	}
	return all
}

type position struct{ line, column int }

const excerptRunes = 100

// excerpt draws the line with its number, and a caret below the column:
//
//	12 |     every: 6 hours
//	   |            ^
//
// Control and format characters are drawn as a middle dot each, so that the caret stays true and a terminal is safe.
func excerpt(data []byte, p position) string {
	line, ok := lineOf(data, p.line)
	if !ok || p.column < 1 {
		return ""
	}
	runes := []rune(line)
	column := min(p.column, len(runes)+1)
	first := 0
	if column > excerptRunes {
		first = column - excerptRunes/2
	}
	last := min(len(runes), first+excerptRunes)
	shown := make([]rune, 0, last-first)
	for _, c := range runes[first:last] {
		if !unicode.IsPrint(c) || c == utf8.RuneError {
			c = '·'
		}
		shown = append(shown, c)
	}
	number := strconv.Itoa(p.line)
	gap := strings.Repeat(" ", len(number))
	return fmt.Sprintf("  %s | %s\n  %s | %s^", number, strings.TrimRight(string(shown), " "), gap, strings.Repeat(" ", column-1-first))
}

func lineOf(data []byte, number int) (string, bool) {
	if number < 1 {
		return "", false
	}
	for ; number > 1; number-- {
		i := bytes.IndexByte(data, '\n')
		if i < 0 {
			return "", false
		}
		data = data[i+1:]
	}
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		data = data[:i]
	}
	return strings.TrimSuffix(string(data), "\r"), true
}

// visible leaves a name that is plain as it is and quotes any other.
func visible(s string) string {
	quoted := strconv.Quote(s)
	if quoted == `"`+s+`"` {
		return s
	}
	return quoted
}
