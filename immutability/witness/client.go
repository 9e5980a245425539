package witness

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// Errors of Client.Cosign that call for a person; test with errors.Is. All others are worth another try later.
var (
	// ErrAhead: the witness remembers more records than the ledger has. The ledger was rolled back, or there is a second
	// copy of it that goes on.
	ErrAhead = errors.New("the witness remembers more records than this ledger has: it was rolled back, or a copy of it goes on elsewhere")
	// ErrFork: the ledger does not begin with the records that the witness remembers.
	ErrFork = errors.New("this ledger does not begin with the records that the witness cosigned: its past was changed, or a copy of it goes on elsewhere")
	// ErrUnknown: the witness does not know this ledger's origin or key.
	ErrUnknown = errors.New("the witness does not know this ledger: its operator must add the ledger's verifier")
)

// AheadError says how many records a witness remembers. errors.Is(err, ErrAhead) holds.
type AheadError struct{ Witness, Ledger uint64 }

func (e *AheadError) Error() string {
	return fmt.Sprintf("%v: %d, and here are %d", ErrAhead, e.Witness, e.Ledger)
}

// Is implements errors.Is.
func (e *AheadError) Is(target error) bool { return target == ErrAhead }

// Ledger proves that its newest checkpoint extends an older tree: it gives the whole body of a request.
type Ledger interface {
	Consistency(old uint64) ([]byte, error)
}

// Client asks one witness. It is safe for concurrent use.
type Client struct {
	url      string // submission prefix
	verifier *Verifier
	http     *http.Client
}

// NewClient takes the witness's submission prefix, an http or https URL, and its verifier key. A nil client is one with a
// deadline of 30 seconds that follows no redirection.
func NewClient(submission, verifierKey string, client *http.Client) (*Client, error) {
	u, err := url.Parse(submission)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("witness URL %q: want https://HOST/PREFIX", submission)
	}
	v, err := NewVerifier(verifierKey)
	if err != nil {
		return nil, err
	}
	if client == nil {
		client = &http.Client{Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}}
	}
	return &Client{url: strings.TrimRight(submission, "/"), verifier: v, http: client}, nil
}

// Name gives the witness's name.
func (c *Client) Name() string { return c.verifier.Name() }

// Cosigned is what a witness answered.
type Cosigned struct {
	Checkpoint []byte // the ledger's note with the witness's signature behind the ledger's own
	Size       uint64
	At         time.Time // as the witness claims
}

// Cosign asks for a cosignature of the ledger's newest checkpoint. Old is the size that this witness cosigned last as far
// as is known, 0 if nothing is; when the witness remembers another size it is asked again from there, twice at most (others may
// be asking for this ledger at the same time). What comes back is verified with the witness's key.
func (c *Client) Cosign(ctx context.Context, l Ledger, old uint64) (*Cosigned, error) {
	for range 3 {
		body, err := l.Consistency(old)
		if err != nil {
			return nil, err
		}
		r, err := parseRequest(body)
		if err != nil {
			return nil, fmt.Errorf("the ledger's own proof: %w", err)
		}
		text, _, _ := splitNote(r.signed)
		h, err := parseHead(string(text))
		if err != nil {
			return nil, fmt.Errorf("the ledger's own checkpoint: %w", err)
		}
		answer, err := c.post(ctx, body)
		if err != nil {
			return nil, fmt.Errorf("witness %q: %w", c.Name(), err)
		}
		if answer.status == http.StatusOK {
			return c.accept(r.signed, h, answer.body)
		}
		size, err := answer.refusal(h.size, r.old)
		if errors.Is(err, ErrAhead) {
			// The ledger may have grown, and been cosigned, since this request was made.
			if _, gone := l.Consistency(uint64(size)); gone == nil {
				err = nil
			}
		}
		if err != nil {
			return nil, fmt.Errorf("witness %q: %w", c.Name(), err)
		}
		old = uint64(size)
	}
	return nil, fmt.Errorf("witness %q: it remembers another size each time it is asked: others ask it for this ledger too", c.Name())
}

// Remembered asks for the checkpoint of an origin that the witness cosigned last, as the log signed it. The protocol has no such
// request: holdfast's own witness answers it, others say 404. Nothing is verified here: whoever has the log's key does.
func (c *Client) Remembered(ctx context.Context, origin string) ([]byte, error) {
	sum := sha256.Sum256([]byte(origin))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+"/checkpoint/"+hex.EncodeToString(sum[:]), nil)
	if err != nil {
		return nil, err
	}
	a, err := c.do(req)
	if err == nil && a.status != http.StatusOK {
		err = fmt.Errorf("it answered %d, %q", a.status, shorten(a.body))
	}
	if err != nil {
		return nil, fmt.Errorf("witness %q: %w", c.Name(), err)
	}
	return a.body, nil
}

// answer is what came back over HTTP.
type answer struct {
	status int
	kind   string
	body   []byte
}

func (c *Client) post(ctx context.Context, body []byte) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+"/add-checkpoint", bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	return c.do(req)
}

func (c *Client) do(req *http.Request) (answer, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, requestMax+1))
	if err != nil {
		return answer{}, err
	}
	if len(b) > requestMax {
		return answer{}, fmt.Errorf("its answer has more than %d bytes", requestMax)
	}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return answer{resp.StatusCode, kind, b}, nil
}

// refusal gives the size to ask from again, or why that is no use.
func (a answer) refusal(ours, asked int64) (int64, error) {
	switch a.status {
	case http.StatusConflict:
		size, err := parseSize(strings.TrimSuffix(string(a.body), "\n"))
		switch {
		case a.kind != "text/x.tlog.size" || err != nil:
			return 0, fmt.Errorf("%w (409, %q)", ErrFork, shorten(a.body))
		case size > ours:
			return size, &AheadError{uint64(size), uint64(ours)}
		case size == asked:
			return 0, fmt.Errorf("%w (409: another root of %d records)", ErrFork, size)
		}
		return size, nil
	case http.StatusUnprocessableEntity:
		return 0, fmt.Errorf("%w (422 from %d records to %d)", ErrFork, asked, ours)
	case http.StatusForbidden, http.StatusNotFound:
		return 0, fmt.Errorf("%w (%d, %q)", ErrUnknown, a.status, shorten(a.body))
	}
	return 0, fmt.Errorf("it answered %d, %q", a.status, shorten(a.body))
}

func shorten(b []byte) string { return strings.TrimSpace(string(b[:min(len(b), 200)])) }

// accept verifies the lines of an answer and puts the witness's own behind the ledger's signatures.
func (c *Client) accept(signed []byte, h head, lines []byte) (*Cosigned, error) {
	text, own, ok := splitNote(signed)
	if !ok {
		return nil, errors.New("the ledger's own checkpoint has no signature")
	}
	// Only what the witness says now counts: earlier cosignatures may stand in what was sent.
	answer := append(append(bytes.Clone(text), '\n'), lines...)
	n, err := note.Open(answer, note.VerifierList(c.verifier))
	if err != nil {
		return nil, fmt.Errorf("witness %q: its answer to %d records does not hold: %w", c.Name(), h.size, err)
	}
	at, err := signedAt(n.Sigs[0])
	if err != nil {
		return nil, fmt.Errorf("witness %q: %w", c.Name(), err)
	}
	out := append(bytes.Clone(text), '\n')
	for line := range strings.Lines(string(own)) {
		if !c.own(line) {
			out = append(out, line...)
		}
	}
	return &Cosigned{append(out, signatureLine(n.Sigs[0])...), uint64(h.size), at}, nil
}

// own says whether a signature line is of this witness's key.
func (c *Client) own(line string) bool {
	_, err := note.Open([]byte("x\n\n"+line), note.VerifierList())
	var unverified *note.UnverifiedNoteError
	if err == nil || !errors.As(err, &unverified) {
		return false
	}
	n := unverified.Note
	return len(n.UnverifiedSigs) == 1 && n.UnverifiedSigs[0].Name == c.verifier.Name() && n.UnverifiedSigs[0].Hash == c.verifier.KeyHash()
}

// LastCosigned gives the time that the youngest cosignature of a checkpoint claims; ok is false if it has none. It verifies
// nothing: what a ledger keeps was verified when it came.
func LastCosigned(cosigned []byte) (at time.Time, ok bool) {
	_, err := note.Open(cosigned, note.VerifierList())
	var unverified *note.UnverifiedNoteError
	if err == nil || !errors.As(err, &unverified) {
		return time.Time{}, false
	}
	for _, s := range unverified.Note.UnverifiedSigs {
		if t, err := signedAt(s); err == nil && (!ok || t.After(at)) {
			at, ok = t, true
		}
	}
	return at, ok
}

// Alarming says whether an error of Client.Cosign means that somebody changed or doubled the ledger.
func Alarming(err error) bool { return errors.Is(err, ErrAhead) || errors.Is(err, ErrFork) }
