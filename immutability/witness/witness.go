package witness

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"sync"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Witness cosigns checkpoints of the logs that AddLog made known. It is safe for concurrent use; one process at a time may
// have its directory.
type Witness struct {
	disk   durable.Disk
	signer note.Signer
	logf   func(format string, args ...any)

	mu   sync.Mutex // guards logs
	logs map[string]*logLock
}

// logLock keeps the requests for one log apart, and knows what of it is durable for certain.
type logLock struct {
	mu      sync.Mutex
	durable string // the checkpoint that this process saw reach the medium
}

// New gives the witness whose logs lie on a disk. The signer is a Signer; logf is told of each refusal and of trouble.
func New(d durable.Disk, signer note.Signer, logf func(format string, args ...any)) *Witness {
	return &Witness{disk: d, signer: signer, logf: logf, logs: make(map[string]*logLock)}
}

// Refusal is why a request was not cosigned, with the HTTP status that says so.
type Refusal struct {
	Status int
	Size   int64 // with 409: the size that the witness remembers
	Why    string
}

func (r *Refusal) Error() string { return r.Why }

func refuse(status int, format string, args ...any) error {
	return &Refusal{Status: status, Why: fmt.Sprintf(format, args...)}
}

// AddCheckpoint takes the body of an add-checkpoint request and gives the cosignature's line. When it returns one, the
// checkpoint is durable, and no checkpoint that does not extend it will ever be cosigned. An error that is no *Refusal is
// trouble of the witness's own, and nothing was signed.
func (w *Witness) AddCheckpoint(body []byte) ([]byte, error) {
	if len(body) > requestMax {
		return nil, refuse(http.StatusBadRequest, "a request of more than %d bytes", requestMax)
	}
	r, err := parseRequest(body)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	text, _, ok := splitNote(r.signed)
	if !ok {
		return nil, refuse(http.StatusBadRequest, "no signature")
	}
	claimed, err := parseHead(string(text))
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	if _, err := w.disk.Stat(stateName(claimed.origin)); errors.Is(err, fs.ErrNotExist) {
		return nil, refuse(http.StatusNotFound, "no log %q is known here", claimed.origin)
	}
	lock := w.lock(claimed.origin)
	// From the look at what is remembered until the new state is durable nobody else comes between.
	lock.mu.Lock()
	defer lock.mu.Unlock()
	s, known, v, err := load(w.disk, claimed.origin)
	if err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	verified, err := verify(r, claimed, known, v)
	if err != nil {
		return nil, err
	}
	found := s.Checkpoint
	if found == "" || claimed.size > known.size { // of the same tree once more, what is remembered stays
		if s.Checkpoint, err = keep(verified); err != nil {
			return nil, err
		}
	}
	if err := w.remember(lock, s, found); err != nil {
		return nil, err
	}
	signed, err := note.Sign(&note.Note{Text: string(text)}, w.signer)
	if err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	_, lines, _ := splitNote(signed)
	return lines, nil
}

// verify says why a request is not to be cosigned, or gives its note.
func verify(r request, claimed, known head, v note.Verifier) (*note.Note, error) {
	n, err := note.Open(r.signed, note.VerifierList(v))
	if err == nil {
		err = canonical(n)
	}
	if err != nil {
		return nil, refuse(http.StatusForbidden, "%q is not signed by the key that is known here: %v", claimed.origin, err)
	}
	switch {
	case r.old > claimed.size:
		return nil, refuse(http.StatusBadRequest, "old size %d is above the checkpoint's %d", r.old, claimed.size)
	case r.old != known.size:
		return nil, &Refusal{http.StatusConflict, known.size, fmt.Sprintf("old size %d, %d are remembered", r.old, known.size)}
	case r.old == claimed.size && claimed.root != known.root:
		return nil, &Refusal{http.StatusConflict, known.size, fmt.Sprintf("another root of %d records than the one that is remembered", known.size)}
	case r.old == 0 || r.old == claimed.size:
		if len(r.proof) > 0 {
			return nil, refuse(http.StatusUnprocessableEntity, "a proof from %d records to %d has no hashes", r.old, claimed.size)
		}
		return n, nil
	}
	if err := tlog.CheckTree(r.proof, claimed.size, claimed.root, r.old, known.root); err != nil {
		return nil, refuse(http.StatusUnprocessableEntity, "%d records of %q are not proved to begin with the %d that are remembered", claimed.size, claimed.origin, known.size)
	}
	return n, nil
}

// keep gives what is kept of a note: its text and the log's own signature.
func keep(n *note.Note) (string, error) {
	b, err := note.Sign(&note.Note{Text: n.Text, Sigs: n.Sigs})
	return string(b), err
}

// remember makes a log's state durable, unless its file was found with it and this process saw that reach the medium.
func (w *Witness) remember(lock *logLock, s *state, found string) error {
	if s.Checkpoint == found && found == lock.durable {
		return nil
	}
	b, err := s.encode()
	if err != nil {
		return err
	}
	lock.durable = "" // until it is
	// Power fails here, or within: the older state or the newer. Neither is ahead of what anybody was told.
	if err := durable.Replace(w.disk, stateName(s.Origin), b, 0o600); err != nil {
		return fmt.Errorf("witness: %w", err)
	}
	// Power fails here: the newer state, which nobody saw a signature of; the log asks again.
	lock.durable = s.Checkpoint
	return nil
}

func (w *Witness) lock(origin string) *logLock {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.logs[origin]
	if l == nil {
		l = &logLock{}
		w.logs[origin] = l
	}
	return l
}

// Remembered gives the checkpoint of a log that was cosigned last, with the log's own signature, nil if there is none. The name is
// the hex SHA-256 of the log's origin. It is what proves to a log that it was rolled back; nobody needs to believe the
// witness for that.
func (w *Witness) Remembered(name string) ([]byte, error) {
	if b, err := hex.DecodeString(name); err != nil || len(b) != sha256.Size || strings.ToLower(name) != name {
		return nil, nil
	}
	b, err := durable.ReadFile(w.disk, path.Join(logsDir, name+".json"), stateMax)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("witness: %w", err)
	}
	s, _, _, err := parseState(b)
	if err != nil || s.Checkpoint == "" {
		return nil, err
	}
	return []byte(s.Checkpoint), nil
}

// serveRemembered answers GET /checkpoint/HEX.
func (w *Witness) serveRemembered(rw http.ResponseWriter, name string) {
	signed, err := w.Remembered(name)
	switch {
	case err != nil:
		w.logf("%v", err)
		http.Error(rw, "the witness has trouble of its own", http.StatusInternalServerError)
	case signed == nil:
		http.Error(rw, "nothing of that log is remembered here", http.StatusNotFound)
	default:
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = rw.Write(signed)
	}
}

// ServeHTTP answers POST /add-checkpoint and GET /checkpoint/HEX.
func (w *Witness) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	if name, ok := strings.CutPrefix(req.URL.Path, "/checkpoint/"); ok && req.Method == http.MethodGet {
		w.serveRemembered(rw, name)
		return
	}
	if req.URL.Path != "/add-checkpoint" {
		http.NotFound(rw, req)
		return
	}
	if req.Method != http.MethodPost {
		rw.Header().Set("Allow", http.MethodPost)
		http.Error(rw, "only POST", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(io.LimitReader(req.Body, requestMax+1))
	if err != nil {
		http.Error(rw, "the request was cut", http.StatusBadRequest)
		return
	}
	lines, err := w.AddCheckpoint(body)
	var refusal *Refusal
	switch {
	case err == nil:
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = rw.Write(lines) // whoever does not get it asks again
	case errors.As(err, &refusal):
		w.logf("refused (%d): %v", refusal.Status, err)
		if refusal.Status == http.StatusConflict {
			rw.Header().Set("Content-Type", "text/x.tlog.size")
			rw.WriteHeader(http.StatusConflict)
			fmt.Fprintf(rw, "%d\n", refusal.Size)
			return
		}
		http.Error(rw, refusal.Why, refusal.Status)
	default:
		w.logf("%v", err)
		http.Error(rw, "the witness has trouble of its own", http.StatusInternalServerError)
	}
}
