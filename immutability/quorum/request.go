package quorum

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// What bounds a request. With the signatures of all people it fits into a line of the ledger.
const (
	MaxRequest = 64 << 10            // bytes
	MaxWindow  = 30 * 24 * time.Hour // from From to Until
	reasonMax  = 1000                // bytes
	sizeMax    = 1 << 53             // leaves; what every reader of JSON can count
)

// Request is what people ask for. Its bytes are those of Encode and no others: they are what is signed.
//
//	{
//	  "holdfast_request": 1,
//	  "vault": "0123456789abcdef0123456789abcdef",
//	  "action": "delete",
//	  "nonce": "00112233445566778899aabbccddeeff",
//	  "from": "2026-11-23T04:00:00Z",
//	  "until": "2026-12-07T04:00:00Z",
//	  "size": 4711,
//	  "root": "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=",
//	  "reason": "why, for those who sign and for those who read it in years",
//	  "what": {"snapshots":["..."]}
//	}
type Request struct {
	Vault  string // 32 hex digits
	Action Action
	Nonce  string // 32 hex digits of chance
	// From and Until are whole seconds, UTC: when the request may be brought and carried out.
	From, Until time.Time
	Size        uint64          // leaves of the ledger that it was made from
	Root        string          // base64, the root of these leaves
	Reason      string          // one line for people
	What        json.RawMessage // compact, as What gives it; see Body
}

// ErrNewer is in the chain of the error of a request that may be right, and not for this release to read.
var ErrNewer = errors.New("written for a newer release of holdfast")

// form is the number of this form of a request.
const form = "1"

// momentForm is how moments are written.
const momentForm = "2006-01-02T15:04:05Z"

// members of a request, in their order.
var members = [...]string{"holdfast_request", "vault", "action", "nonce", "from", "until", "size", "root", "reason", "what"}

// ID names a request: the SHA-256 of its bytes, in hex.
func ID(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Encode gives the bytes of a request, or says what of it cannot be.
func (r Request) Encode() ([]byte, error) {
	if _, at, err := r.check(); err != nil {
		return nil, fmt.Errorf("request: %s: %w", members[at], err)
	}
	out := r.spell()
	if len(out) > MaxRequest {
		return nil, fmt.Errorf("request: %d bytes, more than %d", len(out), MaxRequest)
	}
	return out, nil
}

func (r Request) spell() []byte {
	values := [len(members)]string{
		form, quote(r.Vault), quote(string(r.Action)), quote(r.Nonce), quote(r.From.UTC().Format(momentForm)), quote(r.Until.UTC().Format(momentForm)),
		strconv.FormatUint(r.Size, 10), quote(r.Root), quote(r.Reason), string(r.What),
	}
	var b bytes.Buffer
	b.WriteString("{\n")
	for i, value := range values {
		end := ",\n"
		if i == len(values)-1 {
			end = "\n"
		}
		b.WriteString(`  "` + members[i] + `": ` + value + end)
	}
	b.WriteString("}\n")
	return b.Bytes()
}

// Parse reads a request: the bytes that Encode gives, and no others. The error names the line.
func Parse(data []byte) (Request, error) {
	values, err := split(data)
	if err != nil {
		return Request{}, err
	}
	var r Request
	var texts [len(members)]string
	for i, name := range members {
		var err error
		switch name {
		case "holdfast_request":
			if values[i] != form {
				err = fmt.Errorf("form %.80q, and this release knows form %s: it is %w", values[i], form, ErrNewer)
			}
		case "size":
			r.Size, err = number(values[i])
		case "what":
			r.What = json.RawMessage(values[i])
		default:
			texts[i], err = unquote(values[i])
		}
		if err == nil && name == "from" {
			r.From, err = moment(texts[i])
		}
		if err == nil && name == "until" {
			r.Until, err = moment(texts[i])
		}
		if err != nil {
			return Request{}, atLine(i, err)
		}
	}
	r.Vault, r.Action, r.Nonce, r.Root, r.Reason = texts[1], Action(texts[2]), texts[3], texts[7], texts[8]
	if _, at, err := r.check(); err != nil {
		return Request{}, atLine(at, err)
	}
	if !bytes.Equal(r.spell(), data) {
		return Request{}, errors.New("request: it is not written in its only spelling")
	}
	return r, nil
}

// atLine is an error of a member, which stands on a line of its own.
func atLine(member int, err error) error {
	return fmt.Errorf("request: line %d: %s: %w", member+2, members[member], err)
}

// split gives the values of the members.
func split(data []byte) (values [len(members)]string, err error) {
	if len(data) > MaxRequest {
		return values, fmt.Errorf("request: %d bytes, more than %d", len(data), MaxRequest)
	}
	if !utf8.Valid(data) {
		return values, errors.New("request: not UTF-8")
	}
	lines := strings.SplitN(string(data), "\n", len(members)+3)
	if lines[0] != "{" {
		return values, fmt.Errorf("request: line 1: %.80q, and \"{\" alone belongs here: holdfast request make writes it", lines[0])
	}
	for i, name := range members {
		if i+1 >= len(lines) {
			return values, fmt.Errorf("request: line %d: it ends before %q", i+2, name)
		}
		value, found := strings.CutPrefix(lines[i+1], `  "`+name+`": `)
		comma := ","
		if i == len(members)-1 {
			comma = ""
		}
		value, ended := strings.CutSuffix(value, comma)
		if !found || !ended {
			return values, fmt.Errorf("request: line %d: %.80q, and   \"%s\": VALUE%s belongs here", i+2, lines[i+1], name, comma)
		}
		values[i] = value
	}
	if rest := lines[len(members)+1:]; len(rest) != 2 || rest[0] != "}" || rest[1] != "" {
		return values, fmt.Errorf("request: line %d: %.80q, and \"}\" and the end belong here", len(members)+2, strings.Join(rest, "\n"))
	}
	return values, nil
}

// check says what of a request cannot be, and of which member.
func (r Request) check() (body any, at int, err error) {
	whole := func(t time.Time) bool {
		return t.Equal(t.Truncate(time.Second)) && t.Year() >= 1970 && t.Year() < 10000
	}
	switch {
	case !isHex(r.Vault, 32):
		return nil, 1, fmt.Errorf("%.80q is not 32 lower-case hex digits", r.Vault)
	case !r.Action.known():
		return nil, 2, fmt.Errorf("%.80q is no action that this release knows: it is wrong, or %w", string(r.Action), ErrNewer)
	case !isHex(r.Nonce, 32):
		return nil, 3, fmt.Errorf("%.80q is not 32 lower-case hex digits", r.Nonce)
	case !whole(r.From.UTC()):
		return nil, 4, fmt.Errorf("%s is no whole second of the years 1970 to 9999", r.From)
	case !whole(r.Until.UTC()):
		return nil, 5, fmt.Errorf("%s is no whole second of the years 1970 to 9999", r.Until)
	case !r.Until.After(r.From):
		return nil, 5, errors.New("it does not come after from")
	case r.Until.Sub(r.From) > MaxWindow:
		return nil, 5, fmt.Errorf("%s after from, and %s are the most", r.Until.Sub(r.From), MaxWindow)
	case r.Size < 1 || r.Size > sizeMax:
		return nil, 6, fmt.Errorf("%d leaves, and from 1 to %d can be", r.Size, uint64(sizeMax))
	case !isRoot(r.Root):
		return nil, 7, fmt.Errorf("%.80q is not the base64 of 32 bytes", r.Root)
	}
	if err := line(r.Reason, reasonMax); err != nil {
		return nil, 8, err
	}
	if body, err = r.Body(); err != nil {
		return nil, 9, err
	}
	return body, 0, nil
}

// line holds text to one line that people can read: no control characters, and none that turn the direction of writing.
func line(text string, most int) error {
	if strings.TrimSpace(text) == "" {
		return errors.New("it is empty: say why in a few words")
	}
	if len(text) > most {
		return fmt.Errorf("%d bytes, more than %d", len(text), most)
	}
	return printable(text, "")
}

// printable refuses what is not seen when it is shown, except the characters named.
func printable(text, except string) error {
	if !utf8.ValidString(text) {
		return fmt.Errorf("%.80q is not UTF-8", text)
	}
	for _, c := range text {
		if !unicode.IsPrint(c) && !strings.ContainsRune(except, c) {
			return fmt.Errorf("it holds the character %U, which cannot be seen", c)
		}
	}
	return nil
}

// quote spells a string as JSON: of what may stand in a request only the quotation mark, the backslash and the newline
// are escaped.
func quote(text string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(text); err != nil {
		return "" // a string always has a spelling
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func unquote(value string) (text string, err error) {
	if err := json.Unmarshal([]byte(value), &text); err != nil || quote(text) != value {
		return "", fmt.Errorf("%.80q is not a string in its only spelling", value)
	}
	return text, nil
}

func number(value string) (uint64, error) {
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil || strconv.FormatUint(n, 10) != value {
		return 0, fmt.Errorf("%.80q is not a whole number in its only spelling", value)
	}
	return n, nil
}

func moment(text string) (time.Time, error) {
	t, err := time.Parse(momentForm, text)
	if err != nil || t.Format(momentForm) != text {
		return time.Time{}, fmt.Errorf("%.80q is not a moment like %s", text, momentForm)
	}
	return t, nil
}

func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}

// isRoot says whether s is the base64 of a hash in its only spelling.
func isRoot(s string) bool {
	b, err := base64.StdEncoding.DecodeString(s)
	return err == nil && len(b) == sha256.Size && base64.StdEncoding.EncodeToString(b) == s
}
