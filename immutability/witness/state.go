package witness

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"golang.org/x/mod/sumdb/note"
)

// logsDir holds a file for each log.
const logsDir = "logs"

// stateFormat is the newest form of a log's file that this release writes and reads.
const stateFormat = 1

// state is what a witness remembers of a log: its file, one line of JSON.
type state struct {
	Format     int    `json:"format"`
	Origin     string `json:"origin"`
	Verifier   string `json:"verifier"`
	Checkpoint string `json:"checkpoint"` // the log's note as it was cosigned last; "" before the first
}

func stateName(origin string) string {
	sum := sha256.Sum256([]byte(origin))
	return path.Join(logsDir, hex.EncodeToString(sum[:])+".json")
}

func (s *state) encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(s)
	return b.Bytes(), err
}

// parseState reads a log's file in its only spelling and verifies the checkpoint in it.
func parseState(b []byte) (*state, head, note.Verifier, error) {
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, head{}, nil, err
	}
	if s.Format > stateFormat {
		return nil, head{}, nil, fmt.Errorf("format %d: written by a newer release of holdfast", s.Format)
	}
	if s.Format != stateFormat {
		return nil, head{}, nil, fmt.Errorf("format %d", s.Format)
	}
	if again, err := s.encode(); err != nil || !bytes.Equal(again, b) {
		return nil, head{}, nil, errors.New("not in its canonical form")
	}
	v, err := note.NewVerifier(s.Verifier)
	if err != nil || v.Name() != s.Origin {
		return nil, head{}, nil, fmt.Errorf("the verifier %q is none of origin %q", s.Verifier, s.Origin)
	}
	if s.Checkpoint == "" {
		return &s, head{s.Origin, 0, emptyRoot}, v, nil
	}
	n, err := note.Open([]byte(s.Checkpoint), note.VerifierList(v))
	if err != nil {
		return nil, head{}, nil, err
	}
	if err := canonical(n); err != nil {
		return nil, head{}, nil, err
	}
	h, err := parseHead(n.Text)
	if err == nil && h.origin != s.Origin {
		err = fmt.Errorf("a checkpoint of %q", h.origin)
	}
	return &s, h, v, err
}

// canonical refuses a verified signature with bits in its base64 text that mean nothing.
func canonical(n *note.Note) error {
	for _, sig := range n.Sigs {
		if raw, err := base64.StdEncoding.DecodeString(sig.Base64); err != nil || base64.StdEncoding.EncodeToString(raw) != sig.Base64 {
			return errors.New("its signature is not in its canonical form")
		}
	}
	return nil
}

// stateMax bounds a log's file: a request's note with every newline escaped, and the key.
const stateMax = 4 * requestMax

// load reads a log's file.
func load(d durable.Disk, origin string) (*state, head, note.Verifier, error) {
	name := stateName(origin)
	b, err := durable.ReadFile(d, name, stateMax)
	if err != nil {
		return nil, head{}, nil, err
	}
	s, h, v, err := parseState(b)
	if err == nil && s.Origin != origin {
		err = fmt.Errorf("it is of %q, not of %q", s.Origin, origin)
	}
	if err != nil {
		return nil, head{}, nil, fmt.Errorf("%s is damaged: %w", name, err)
	}
	return s, h, v, nil
}

// AddLog makes a witness know a log by its verifier key, whose name is the origin. On return it is durable. A log that is known
// keeps what is remembered of it; with another key it is refused.
func AddLog(d durable.Disk, verifierKey string) error {
	v, err := note.NewVerifier(verifierKey)
	if err != nil {
		return fmt.Errorf("log %q: %w", verifierKey, err)
	}
	s := state{Format: stateFormat, Origin: v.Name(), Verifier: verifierKey}
	b, err := s.encode()
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(d, logsDir, 0o700); err != nil {
		return fmt.Errorf("witness: %w", err)
	}
	// Power fails here, or within: no log, or the whole log with nothing remembered.
	err = durable.WriteNew(d, stateName(v.Name()), b, 0o600)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	known, _, _, err := load(d, v.Name())
	if err == nil && known.Verifier != verifierKey {
		err = fmt.Errorf("log %q is known with another key, %q", v.Name(), known.Verifier)
	}
	return err
}

// Log is what a witness remembers of a log.
type Log struct {
	Origin, Verifier string
	Size             uint64
	Root             string // base64
	Err              error  // why its file does not hold; the rest is then empty but for Origin, the file's name
}

// Logs gives all logs that a witness knows, by origin.
func Logs(d durable.Disk) ([]Log, error) {
	entries, err := d.ReadDir(logsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []Log
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".tmp") {
			continue // of a Replace that was cut
		}
		b, err := durable.ReadFile(d, path.Join(logsDir, e.Name()), stateMax)
		if err == nil {
			var s *state
			var h head
			if s, h, _, err = parseState(b); err == nil && stateName(s.Origin) != path.Join(logsDir, e.Name()) {
				err = fmt.Errorf("it is of %q, whose file has another name", s.Origin)
			}
			if err == nil {
				out = append(out, Log{Origin: s.Origin, Verifier: s.Verifier, Size: uint64(h.size), Root: h.root.String()})
				continue
			}
		}
		out = append(out, Log{Origin: e.Name(), Err: err})
	}
	slices.SortFunc(out, func(a, b Log) int { return strings.Compare(a.Origin, b.Origin) })
	return out, nil
}
