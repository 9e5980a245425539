package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// printable shows bytes that came from outside on a terminal: as they are if nothing in them can do harm, quoted
// otherwise. Control, bidirectional and invalid characters never reach the terminal.
func printable(s string) string {
	if s != "" && utf8.ValidString(s) && !strings.ContainsFunc(s, unsafeRune) && s[0] != '"' {
		return s
	}
	return fmt.Sprintf("%+q", s)
}

func unsafeRune(r rune) bool {
	return !unicode.IsPrint(r) || unicode.Is(unicode.Bidi_Control, r)
}

// writeJSON writes v, indented, with control and bidirectional characters \u-escaped.
func writeJSON(w io.Writer, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(escapeUnsafe(b), '\n'))
	return err
}

// escapeUnsafe \u-escapes what encoding/json leaves raw and a terminal would obey. Only strings can hold such runes:
// the encoder's own white space is newline and blank.
func escapeUnsafe(b []byte) []byte {
	if !strings.ContainsFunc(string(b), func(r rune) bool { return r != '\n' && unsafeRune(r) }) {
		return b
	}
	var out []byte
	for _, r := range string(b) {
		switch {
		case r == '\n' || !unsafeRune(r):
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			r -= 0x10000
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+(r>>10), 0xdc00+(r&0x3ff))
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}

// pathJSON is how a path stands in JSON: as text, and in base64 too if it is not UTF-8.
type pathJSON struct {
	Path    string `json:"path"`
	PathB64 string `json:"path_b64,omitempty"`
}

func newPathJSON(p string) pathJSON {
	j := pathJSON{Path: p}
	if !utf8.ValidString(p) {
		j.PathB64 = base64.StdEncoding.EncodeToString([]byte(p))
	}
	return j
}
