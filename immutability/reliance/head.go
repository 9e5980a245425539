// Package reliance is the open head of a manifest: what may be read of a snapshot without a key.
//
// A head says which source was pulled and when, the totals, and the exact set of packs that the
// snapshot relies on. Whoever guards packs decides from heads alone which pack may go, so it needs
// no key and no catalog. The head is bound to the sealed rest of the manifest (it is the additional
// data of that seal) and, through the manifest's hash, to the ledger record that commits it.
package reliance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
)

// Format is the newest head format that this release writes and reads.
const Format = 1

// States of a snapshot.
const (
	Complete = "complete" // everything that was asked for was read
	Partial  = "partial"  // some paths could not be had; the manifest lists them
)

// labelLayout is the form of a snapshot's label: UTC, whole seconds.
const labelLayout = "20060102T150405Z"

// ErrNewer is wrapped by every error that says that the bytes come from a release with a newer
// format: they are not damaged, this program is too old for them.
var ErrNewer = errors.New("written by a newer release of holdfast")

// Head is the open part of a manifest. Its JSON form is one line with the fields in this order,
// all of them always present; fields are only ever added together with a new Format.
type Head struct {
	Format      int       `json:"format"`
	Vault       string    `json:"vault"`        // 32 hex digits
	Source      string    `json:"source"`       // [a-z0-9][a-z0-9_-]{0,62}
	Session     string    `json:"session"`      // 1 to 64 of [A-Za-z0-9_-]
	Begin       time.Time `json:"begin"`        // vault's wall clock, UTC, whole seconds
	Label       string    `json:"label"`        // commit label, 20260701T030405Z, unique per source
	State       string    `json:"state"`        // complete or partial
	Clean       bool      `json:"clean"`        // nothing about this pull looked like an attack
	Files       uint64    `json:"files"`        // regular files
	Directories uint64    `json:"directories"`  // directories, the root included
	Entries     uint64    `json:"entries"`      // everything in the catalog
	Bytes       uint64    `json:"bytes"`        // content of all regular files
	NewBytes    uint64    `json:"new_bytes"`    // content that the vault did not hold before
	StoredBytes uint64    `json:"stored_bytes"` // what the new content takes in packs
	Previous    string    `json:"previous"`     // manifest hash of the source's previous snapshot, "" for the first
	Packs       []byte    `json:"packs"`        // Roaring bitmap in the portable serialisation, of pack numbers
}

// Encode gives the canonical form: one line of JSON without the newline. Begin is written in UTC
// and cut to the whole second. A head that Parse would refuse is an error here already.
func (h Head) Encode() ([]byte, error) {
	if err := h.validate(); err != nil {
		return nil, err
	}
	return h.encode()
}

func (h Head) encode() ([]byte, error) {
	h.Begin = h.Begin.UTC().Truncate(time.Second)
	if h.Packs == nil {
		h.Packs = []byte{} // "" rather than null
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(h); err != nil {
		return nil, fmt.Errorf("manifest head: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Parse reads a head. It is strict: an unknown field, a value out of its range or any other spelling
// of the same head is an error, so that what parses re-encodes to the same bytes. A head of a
// newer format gives an error that wraps ErrNewer.
func Parse(b []byte) (Head, error) {
	var version struct {
		Format *int `json:"format"`
	}
	if err := json.Unmarshal(b, &version); err != nil {
		return Head{}, fmt.Errorf("manifest head: %w", err)
	}
	if version.Format == nil {
		return Head{}, errors.New("manifest head: no format number")
	}
	if *version.Format > Format {
		return Head{}, fmt.Errorf("manifest head: format %d: %w", *version.Format, ErrNewer)
	}
	var h Head
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&h); err != nil {
		return Head{}, fmt.Errorf("manifest head: %w", err)
	}
	if err := h.validate(); err != nil {
		return Head{}, err
	}
	again, err := h.encode()
	if err != nil {
		return Head{}, err
	}
	if !bytes.Equal(again, b) {
		return Head{}, errors.New("manifest head: not in its canonical form")
	}
	return h, nil
}

// PackSet decodes the set of packs relied on. The bitmap is the caller's own.
func (h Head) PackSet() (*roaring.Bitmap, error) {
	if len(h.Packs) == 0 {
		return roaring.New(), nil
	}
	set := roaring.New()
	if _, err := set.ReadFrom(bytes.NewReader(h.Packs)); err != nil {
		return nil, fmt.Errorf("manifest head: pack set: %w", err)
	}
	if err := set.Validate(); err != nil {
		return nil, fmt.Errorf("manifest head: pack set: %w", err)
	}
	// The library skips offsets and believes counts: only what it would write itself is accepted.
	again, err := set.ToBytes()
	if err != nil {
		return nil, fmt.Errorf("manifest head: pack set: %w", err)
	}
	if !bytes.Equal(again, h.Packs) {
		return nil, errors.New("manifest head: pack set: not a well-formed bitmap")
	}
	return set, nil
}

// SetPacks stores the set of packs relied on. The bitmap is not kept and not changed.
func (h *Head) SetPacks(set *roaring.Bitmap) error {
	c := set.Clone()
	c.RunOptimize()
	b, err := c.ToBytes()
	if err != nil {
		return fmt.Errorf("manifest head: pack set: %w", err)
	}
	h.Packs = b
	return nil
}

func (h Head) validate() error {
	switch {
	case h.Format != Format:
		return fmt.Errorf("manifest head: format %d, this release writes %d", h.Format, Format)
	case !isHex(h.Vault, 32):
		return fmt.Errorf("manifest head: vault %q is not 32 hex digits", h.Vault)
	case !ValidSource(h.Source):
		return fmt.Errorf("manifest head: source name %q is not of the form [a-z0-9][a-z0-9_-]{0,62}", h.Source)
	case !ValidSession(h.Session):
		return fmt.Errorf("manifest head: session %q is not 1 to 64 of [A-Za-z0-9_-]", h.Session)
	case h.State != Complete && h.State != Partial:
		return fmt.Errorf("manifest head: state %q is neither complete nor partial", h.State)
	case h.Previous != "" && !isHex(h.Previous, 64):
		return fmt.Errorf("manifest head: previous %q is not 64 hex digits", h.Previous)
	case h.Begin.Year() < 1970 || h.Begin.Year() > 9999:
		return fmt.Errorf("manifest head: begin %v is out of range", h.Begin)
	}
	if t, err := time.Parse(labelLayout, h.Label); err != nil || t.Format(labelLayout) != h.Label {
		return fmt.Errorf("manifest head: label %q is not of the form 20260701T030405Z", h.Label)
	}
	_, err := h.PackSet()
	return err
}

// ValidSource says whether name may name a source: [a-z0-9][a-z0-9_-]{0,62}.
func ValidSource(name string) bool {
	const first = "abcdefghijklmnopqrstuvwxyz0123456789"
	if len(name) < 1 || len(name) > 63 || !strings.Contains(first, name[:1]) {
		return false
	}
	return strings.Trim(name, first+"_-") == ""
}

// ValidSession says whether id may name a session: 1 to 64 of [A-Za-z0-9_-].
func ValidSession(id string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
	return len(id) >= 1 && len(id) <= 64 && strings.Trim(id, letters) == ""
}

// isHex says whether s is n lower-case hex digits.
func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}
