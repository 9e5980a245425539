package fsck

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// member is one name and value of a JSON object.
type member struct {
	name  string
	value json.RawMessage
}

// members reads the members of a JSON object in their order. A name that stands twice, also in other capitals, is an
// error: readers differ on which of the two counts, and a record must mean one thing.
func members(object []byte) ([]member, error) {
	d := json.NewDecoder(bytes.NewReader(object))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	var out []member
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, fmt.Errorf("not JSON: %w", err)
		}
		m := member{name: t.(string)} // in an object the decoder gives nothing else here
		if err := d.Decode(&m.value); err != nil {
			return nil, fmt.Errorf("not JSON: %w", err)
		}
		if low := strings.ToLower(m.name); seen[low] {
			return nil, fmt.Errorf("member %q stands twice", m.name)
		} else {
			seen[low] = true
		}
		out = append(out, m)
	}
	if _, err := d.Token(); err != nil {
		return nil, fmt.Errorf("not JSON: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the JSON object")
	}
	return out, nil
}

// object is a JSON object that is being read member by member. The first thing that is wrong with it is kept in err, and
// every later answer is a zero. Members that nobody asks for are passed over: a release may add some.
type object struct {
	of  map[string]json.RawMessage
	err error
}

func readObject(raw []byte) *object {
	list, err := members(raw)
	o := &object{of: make(map[string]json.RawMessage, len(list)), err: err}
	for _, m := range list {
		o.of[m.name] = m.value
	}
	return o
}

func (o *object) fail(name, format string, args ...any) {
	if o.err == nil {
		o.err = fmt.Errorf("member %q: "+format, append([]any{name}, args...)...)
	}
}

// take decodes a member into p, which is never a null.
func (o *object) take(name string, p any) {
	raw, ok := o.of[name]
	switch {
	case o.err != nil:
	case !ok:
		o.fail(name, "it is missing")
	case string(raw) == "null":
		o.fail(name, "it is null")
	default:
		if err := json.Unmarshal(raw, p); err != nil {
			o.fail(name, "%v", err)
		}
	}
}

func (o *object) has(name string) bool { _, ok := o.of[name]; return ok }

func (o *object) text(name string) (s string)    { o.take(name, &s); return s }
func (o *object) number(name string) (n int64)   { o.take(name, &n); return n }
func (o *object) count(name string) (n uint64)   { o.take(name, &n); return n }
func (o *object) truth(name string) (b bool)     { o.take(name, &b); return b }
func (o *object) texts(name string) (s []string) { o.takeList(name, &s); return s }
func (o *object) list(name string) (l []json.RawMessage) {
	o.takeList(name, &l)
	return l
}

// optional is a number that records of before do not have, -1 then.
func (o *object) optional(name string) int64 {
	if !o.has(name) {
		return -1
	}
	return o.number(name)
}

// takeList decodes a list; a null is an empty one.
func (o *object) takeList(name string, p any) {
	if string(o.of[name]) != "null" {
		o.take(name, p)
	}
}

// bytes reads base64 in its only spelling.
func (o *object) bytes(name string) []byte {
	b, err := decodeBase64(o.text(name))
	if err != nil {
		o.fail(name, "%v", err)
	}
	return b
}

func decodeBase64(s string) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || base64.StdEncoding.EncodeToString(b) != s {
		return nil, errors.New("not base64 in its only spelling")
	}
	return b, nil
}

// within gives the object that a member holds.
func (o *object) within(name string) *object {
	var raw json.RawMessage
	o.take(name, &raw)
	if o.err != nil {
		return &object{err: o.err}
	}
	in := readObject(raw)
	if in.err != nil {
		o.fail(name, "%v", in.err)
	}
	return in
}

// wallForm is how moments are written: UTC, whole seconds.
const wallForm = "2006-01-02T15:04:05Z"

func (o *object) moment(name string) time.Time {
	s := o.text(name)
	t, err := time.Parse(wallForm, s)
	if o.err == nil && (err != nil || t.Format(wallForm) != s) {
		o.fail(name, "%q is not a moment like %s", s, wallForm)
	}
	return t
}

// labelForm is how a snapshot's time stands in its address.
const labelForm = "20060102T150405Z"

func parseLabel(s string) (time.Time, bool) {
	t, err := time.Parse(labelForm, s)
	return t, err == nil && t.Format(labelForm) == s
}

// isHex says whether s is n lower-case hexadecimal digits.
func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}
