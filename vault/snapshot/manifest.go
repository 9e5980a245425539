package snapshot

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/holdfast-vault/holdfast/immutability/reliance"
)

// Manifest is the head of a snapshot: the open part that the write-once store decides from, the sealed part
// that only key holders read, and the wrapped keyring, so that one manifest is enough to open the vault.
type Manifest struct {
	Head    reliance.Head
	Body    Body
	Keyring []byte
}

// bodyFormat is the newest format of a manifest's body that this release writes and reads.
const bodyFormat = 1

// bodyPurpose separates the key that seals manifest bodies from every other.
const bodyPurpose = "manifest"

// Limits on the problems that a body lists; ProblemCount always has the full number.
const (
	MaxProblems     = 1000
	maxProblemBytes = 1 << 20 // of paths and reasons together
)

// Body is the sealed part of a manifest. Its JSON form is one line with the fields in this order, all of them
// always present; fields are only ever added together with a new format.
type Body struct {
	Root         Root      `json:"root"`
	Stats        Stats     `json:"stats"`
	Fidelity     []string  `json:"fidelity"`      // what the protocol could not tell
	Problems     []Problem `json:"problems"`      // paths that could not be had, the first MaxProblems
	ProblemCount uint64    `json:"problem_count"` // all of them
	ProblemList  []Ref     `json:"problem_list"`  // chunks of JSON lines, a Problem each, when there are more than Problems holds
	Excludes     []string  `json:"excludes"`      // patterns in force
	Origin       string    `json:"origin"`        // where it was pulled from, a URL
	HostKey      string    `json:"host_key"`      // that the source showed
}

// Stats are the figures of the pull. Sizes are bytes.
type Stats struct {
	ReadBytes       uint64            `json:"read_bytes"`   // from the source
	NewBytes        uint64            `json:"new_bytes"`    // content that the vault did not hold
	StoredBytes     uint64            `json:"stored_bytes"` // what it takes in packs
	FilesNew        uint64            `json:"files_new"`
	FilesChanged    uint64            `json:"files_changed"`
	FilesUnchanged  uint64            `json:"files_unchanged"`
	DurationSeconds float64           `json:"duration_seconds"`
	Errors          map[string]uint64 `json:"errors"` // number by kind
}

// Problem is a path that could not be had.
type Problem struct {
	Path   []byte `json:"path"` // bytes as the source has them, base64 in JSON
	Reason string `json:"reason"`
}

// Sealer encrypts small blobs under the vault's keys; aad is bound to the blob and not contained in it.
type Sealer interface {
	SealBlob(purpose string, plaintext, aad []byte) ([]byte, error)
	OpenBlob(purpose string, blob, aad []byte) ([]byte, error)
}

// Encode gives the bytes of the manifest, whose hash is the snapshot's ID. Problems beyond the limits are cut off
// and counted, and text that is not UTF-8 is mended, in what is written, not in m. Encoding twice gives different
// bytes, since each seal has a key of its own. What was encoded has been decoded again before it is returned.
func (m *Manifest) Encode(s Sealer) ([]byte, error) {
	head, err := m.Head.Encode()
	if err != nil {
		return nil, err
	}
	body, err := m.Body.tidy().encode()
	if err != nil {
		return nil, err
	}
	sealed, err := s.SealBlob(bodyPurpose, body, head)
	if err != nil {
		return nil, fmt.Errorf("manifest body: %w", err)
	}
	framed := reliance.Frame(head, sealed, m.Keyring)
	if _, err := DecodeManifest(framed, s); err != nil {
		return nil, fmt.Errorf("the manifest just made cannot be read again: %w", err)
	}
	return framed, nil
}

// DecodeManifest reads a manifest. The body is accepted only with the very head that it was sealed with.
func DecodeManifest(b []byte, s Sealer) (*Manifest, error) {
	head, sealed, keyring, err := reliance.Unframe(b)
	if err != nil {
		return nil, err
	}
	m := &Manifest{Keyring: bytes.Clone(keyring)}
	if m.Head, err = reliance.Parse(head); err != nil {
		return nil, err
	}
	body, err := s.OpenBlob(bodyPurpose, sealed, head)
	if err != nil {
		return nil, fmt.Errorf("manifest body: %w", err)
	}
	if m.Body, err = decodeBody(body); err != nil {
		return nil, err
	}
	return m, nil
}

// bodyJSON is a body as it is written.
type bodyJSON struct {
	Format int `json:"format"`
	Body
}

// tidy returns the body as it can be written.
func (b Body) tidy() Body {
	b.ProblemCount = max(b.ProblemCount, uint64(len(b.Problems)))
	problems, room := make([]Problem, 0, min(len(b.Problems), MaxProblems)), maxProblemBytes
	for _, p := range b.Problems {
		p.Reason = strings.ToValidUTF8(p.Reason, "\uFFFD")
		if room -= len(p.Path) + len(p.Reason); room < 0 || len(problems) == MaxProblems {
			break
		}
		if p.Path == nil {
			p.Path = []byte{}
		}
		problems = append(problems, p)
	}
	b.Problems = problems
	if b.ProblemList == nil {
		b.ProblemList = []Ref{}
	}
	b.Fidelity = validTexts(b.Fidelity)
	b.Excludes = validTexts(b.Excludes)
	b.Origin = strings.ToValidUTF8(b.Origin, "\uFFFD")
	b.HostKey = strings.ToValidUTF8(b.HostKey, "\uFFFD")
	errs := make(map[string]uint64, len(b.Stats.Errors))
	for k, n := range b.Stats.Errors {
		errs[strings.ToValidUTF8(k, "\uFFFD")] += n
	}
	b.Stats.Errors = errs
	return b
}

func validTexts(in []string) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = strings.ToValidUTF8(s, "\uFFFD")
	}
	return out
}

func (b Body) encode() ([]byte, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(bodyJSON{bodyFormat, b}); err != nil {
		return nil, fmt.Errorf("manifest body: %w", err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

func (b Body) check() error {
	if err := b.Root.check(); err != nil {
		return err
	}
	bytes := 0
	for _, p := range b.Problems {
		bytes += len(p.Path) + len(p.Reason)
	}
	for i, r := range b.ProblemList {
		if r.Size == 0 || r.Size > maxRefSize {
			return damaged("manifest body", "chunk %d of the problem list has %d bytes", i, r.Size)
		}
	}
	d := b.Stats.DurationSeconds
	switch {
	case len(b.Problems) > MaxProblems || bytes > maxProblemBytes:
		return damaged("manifest body", "%d problems of %d bytes", len(b.Problems), bytes)
	case b.ProblemCount < uint64(len(b.Problems)):
		return damaged("manifest body", "%d problems listed, %d counted", len(b.Problems), b.ProblemCount)
	case math.IsNaN(d) || math.IsInf(d, 0) || d < 0:
		return damaged("manifest body", "a duration of %v s", d)
	}
	return nil
}

func decodeBody(p []byte) (Body, error) {
	var version struct {
		Format *int `json:"format"`
	}
	if err := json.Unmarshal(p, &version); err != nil {
		return Body{}, damaged("manifest body", "%v", err)
	}
	switch {
	case version.Format == nil:
		return Body{}, damaged("manifest body", "no format number")
	case *version.Format > bodyFormat:
		return Body{}, &newerError{"manifest body", *version.Format}
	}
	var j bodyJSON
	d := json.NewDecoder(bytes.NewReader(p))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return Body{}, damaged("manifest body", "%v", err)
	}
	again, err := j.Body.tidy().encode()
	if err != nil {
		return Body{}, err
	}
	if !bytes.Equal(again, p) {
		return Body{}, &DamageError{"manifest body", errCanonical.Error()}
	}
	return j.Body, nil
}

var errCanonical = errors.New("it is not in its canonical form")
