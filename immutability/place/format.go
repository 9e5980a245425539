// Package place opens a vault's directory together with the further directories that hold packs of it, and adds such ones.
//
// docs/PLACES.md says what lies where, and what is true if the power fails.
package place

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// ListFile is the list of the further places, in the vault's directory. A vault without it has none.
	ListFile = "places"
	// MarkerFile says in a further place whose it is.
	MarkerFile = "place.json"

	format = 1
	// Max is the highest number of a place.
	Max = 64
	// sizeMax bounds either file in bytes.
	sizeMax = 512 << 10
	pathMax = 4096
)

// ErrNewer is in the chain of the error of a file that a newer release of holdfast wrote.
var ErrNewer = errors.New("written by a newer release of holdfast: use that one")

// Entry is a further place, as the list has it.
type Entry struct {
	Number int    `json:"number"` // 2 to Max
	ID     string `json:"id"`     // 32 hex digits of chance, so that no other disk is taken for it
	Path   string `json:"path"`   // absolute
}

// List is the content of ListFile:
//
//	{"format":1,"vault":"<32 hex digits>","places":[{"number":2,"id":"<32 hex digits>","path":"/srv/disk2"}],"sha256":"<64 hex digits>"}\n
//
// sha256 is that of everything before the member's comma. Places are numbered upwards; none is on it twice.
type List struct {
	Vault  string
	Places []Entry
}

type listJSON struct {
	Format int     `json:"format"`
	Vault  string  `json:"vault"`
	Places []Entry `json:"places"`
}

const tail = `,"sha256":"`

// Encode gives the list's bytes.
func (l List) Encode() ([]byte, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	b, err := plain(listJSON{format, l.Vault, l.Places})
	if err != nil {
		return nil, err
	}
	b = b[:len(b)-len("}")]
	sum := sha256.Sum256(b)
	return append(b, tail+hex.EncodeToString(sum[:])+"\"}\n"...), nil
}

// plain is JSON in one spelling, on one line.
func plain(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// ParseList reads what Encode wrote, in that spelling and no other.
func ParseList(b []byte) (List, error) {
	var j listJSON
	if err := json.Unmarshal(b, &j); err != nil {
		return List{}, fmt.Errorf("%s is damaged: %w", ListFile, err)
	}
	if j.Format > format {
		return List{}, fmt.Errorf("%s: format %d: %w", ListFile, j.Format, ErrNewer)
	}
	l := List{j.Vault, j.Places}
	own, err := l.Encode()
	if err == nil && !bytes.Equal(own, b) {
		err = errors.New("its checksum or its spelling is not what holdfast writes")
	}
	if err != nil {
		return List{}, fmt.Errorf("%s is damaged: %w", ListFile, err)
	}
	return l, nil
}

func (l List) check() error {
	if !isHex(l.Vault) {
		return fmt.Errorf("vault %q is not 32 hex digits", l.Vault)
	}
	if len(l.Places) == 0 {
		return errors.New("no place is on it")
	}
	seen := map[string]bool{}
	before := 1
	for _, e := range l.Places {
		switch {
		case e.Number <= before || e.Number > Max:
			return fmt.Errorf("place %d comes after place %d; they are numbered upwards, to %d", e.Number, before, Max)
		case !isHex(e.ID) || seen[e.ID]:
			return fmt.Errorf("place %d has the ID %q", e.Number, e.ID)
		case seen[e.Path]:
			return fmt.Errorf("place %d: %q is on it twice", e.Number, e.Path)
		}
		if err := checkPath(e.Path); err != nil {
			return fmt.Errorf("place %d: %w", e.Number, err)
		}
		seen[e.ID], seen[e.Path] = true, true
		before = e.Number
	}
	return nil
}

// checkPath refuses a path that is not the only spelling of an absolute one.
func checkPath(p string) error {
	switch {
	case !filepath.IsAbs(p) || filepath.Clean(p) != p || p == "/":
		return fmt.Errorf("%q is no absolute path in its only spelling", p)
	case len(p) > pathMax || !utf8.ValidString(p) || strings.ContainsFunc(p, unicode.IsControl):
		return fmt.Errorf("%q: a path of at most %d bytes of UTF-8 without control characters is wanted", p, pathMax)
	}
	return nil
}

// at gives the position of a number, -1 for none.
func (l List) at(number int) int {
	for i, e := range l.Places {
		if e.Number == number {
			return i
		}
	}
	return -1
}

// Marker is the content of MarkerFile:
//
//	{"format":1,"vault":"<32 hex digits>","number":2,"id":"<32 hex digits>"}\n
type Marker struct {
	Format int    `json:"format"`
	Vault  string `json:"vault"`
	Number int    `json:"number"`
	ID     string `json:"id"`
}

// Encode gives the marker's bytes.
func (m Marker) Encode() ([]byte, error) {
	if m.Format != format || !isHex(m.Vault) || !isHex(m.ID) || m.Number < 2 || m.Number > Max {
		return nil, fmt.Errorf("%s: no marker of a place: %+v", MarkerFile, m)
	}
	b, err := plain(m)
	return append(b, '\n'), err
}

// ParseMarker reads what Encode wrote, in that spelling and no other.
func ParseMarker(b []byte) (Marker, error) {
	var m Marker
	if err := json.Unmarshal(b, &m); err != nil {
		return Marker{}, fmt.Errorf("%s is damaged: %w", MarkerFile, err)
	}
	if m.Format > format {
		return Marker{}, fmt.Errorf("%s: format %d: %w", MarkerFile, m.Format, ErrNewer)
	}
	own, err := m.Encode()
	if err == nil && !bytes.Equal(own, b) {
		err = errors.New("its spelling is not what holdfast writes")
	}
	if err != nil {
		return Marker{}, fmt.Errorf("%s is damaged: %w", MarkerFile, err)
	}
	return m, nil
}

func isHex(s string) bool { return len(s) == 32 && strings.Trim(s, "0123456789abcdef") == "" }
