package fsck

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// lineMax bounds a line of the ledger, in bytes without its newline.
const lineMax = 1 << 20

// Stamp is a moment by the vault's clocks, in whole seconds.
type Stamp struct {
	Wall    time.Time `json:"wall"`
	Running int64     `json:"running_s"` // credited running time
	Boot    string    `json:"boot"`
}

// record is a line of the ledger.
type record struct {
	seq  uint64
	kind string
	at   Stamp
	body any // one of the types below; nil for a kind that is not known
	line []byte
	// where it stands: the segment's number and the line's, from 1.
	segment, number int
}

func (r *record) where() string { return lineName(r.segment, r.number) }

func lineName(segment, number int) string {
	return fmt.Sprintf("%s line %d", segmentName(segment), number)
}

type (
	initBody struct {
		format                    int64
		vault, verifier, identity string
		keyring                   []byte
		policy                    policy
	}
	segmentBody struct {
		number int64
		size   uint64
		root   string
	}
	keyringBody struct {
		keyring []byte
		reason  string
	}
	sealBody struct {
		file, sha256 string
		bytes        int64
		session      string
		recovered    bool
	}
	lock struct {
		mode    string
		seconds int64
	}
	commitBody struct {
		snapshot, source, label, session, state string
		clean                                   bool
		lock                                    lock
		previous                                string
		bytes                                   int64 // of the manifest; -1 in records of before
	}
	extendBody struct {
		snapshot string
		lock     lock
		by       string
	}
	intentFile struct{ file, sha256 string }
	intentBody struct {
		files     []intentFile
		snapshots []string
		reason    string
	}
	doneBody struct {
		intent uint64
		files  []string
	}
	holdBody   struct{ snapshot, reason, by string }
	policyBody struct {
		policy policy
		by     string
	}
	clockBody struct {
		event, detail     string
		off, moved, times int64
	}
)

const (
	hashMember  = `,"hash":"`
	hashTailLen = len(hashMember) + 2*sha256.Size + len(`"}`)
)

var errHash = errors.New("its hash does not match its content")

// readLine reads a line of the ledger, without its newline, and checks its hash and form.
func readLine(line []byte) (record, error) {
	if err := checkHash(line); err != nil {
		return record{}, err
	}
	r, err := readBody(line)
	r.line = line
	return r, err
}

// checkHash says whether a line ends in the hash of what stands before it.
func checkHash(line []byte) error {
	switch {
	case len(line) > lineMax:
		return fmt.Errorf("it has %d bytes, more than %d", len(line), lineMax)
	case len(line) <= hashTailLen:
		return fmt.Errorf("%d bytes are too few for a record", len(line))
	}
	body, tail := line[:len(line)-hashTailLen], line[len(line)-hashTailLen:]
	sum := sha256.Sum256(body)
	if string(tail) != hashMember+hex.EncodeToString(sum[:])+`"}` {
		return errHash
	}
	return nil
}

// readBody reads what stands before a line's hash.
func readBody(line []byte) (record, error) {
	var r record
	list, err := members(append(bytes.Clone(line[:len(line)-hashTailLen]), '}'))
	if err != nil {
		return r, err
	}
	if len(list) < 3 || list[0].name != "seq" || list[1].name != "kind" || list[2].name != "at" {
		return r, errors.New("it does not begin with seq, kind and at")
	}
	if err := json.Unmarshal(list[0].value, &r.seq); err != nil {
		return r, fmt.Errorf("seq: %w", err)
	}
	if err := json.Unmarshal(list[1].value, &r.kind); err != nil || r.kind == "" {
		return r, errors.New("it has no kind")
	}
	// The form is drawn to the letter, so that jq, grep and every reader see the same.
	kind, err := json.Marshal(r.kind)
	if err != nil || !bytes.HasPrefix(line, fmt.Appendf(nil, `{"seq":%d,"kind":%s,"at":{`, r.seq, kind)) {
		return r, errors.New(`it does not begin as {"seq":N,"kind":"K","at":{`)
	}
	at := readObject(list[2].value)
	r.at = Stamp{Wall: at.moment("wall"), Running: at.number("running_s"), Boot: at.text("boot")}
	if at.err == nil && r.at.Running < 0 {
		at.fail("running_s", "it is negative")
	}
	if at.err != nil {
		return r, fmt.Errorf("at: %w", at.err)
	}
	read := bodies[r.kind]
	if read == nil {
		return r, nil
	}
	if len(list) != 4 || list[3].name != r.kind {
		return r, fmt.Errorf("kind %q without exactly its own body", r.kind)
	}
	o := readObject(list[3].value)
	body := read(o)
	if o.err != nil {
		return r, fmt.Errorf("%s: %w", r.kind, o.err)
	}
	r.body = body
	return r, nil
}

// bodies read the member that a kind has its name from.
var bodies = map[string]func(*object) any{
	"init": func(o *object) any {
		return &initBody{format: o.number("format"), vault: o.text("vault"), verifier: o.text("verifier"), identity: o.text("identity"),
			keyring: o.bytes("keyring"), policy: readPolicyIn(o, "policy")}
	},
	"segment": func(o *object) any {
		return &segmentBody{number: o.number("number"), size: o.count("size"), root: o.text("root")}
	},
	"keyring": func(o *object) any { return &keyringBody{keyring: o.bytes("keyring"), reason: o.text("reason")} },
	"seal": func(o *object) any {
		return &sealBody{file: o.text("file"), sha256: o.text("sha256"), bytes: o.number("bytes"), session: o.text("session"), recovered: o.truth("recovered")}
	},
	"commit": func(o *object) any {
		return &commitBody{snapshot: o.text("snapshot"), source: o.text("source"), label: o.text("label"), session: o.text("session"),
			state: o.text("state"), clean: o.truth("clean"), lock: readLock(o), previous: o.text("previous"), bytes: o.optional("bytes")}
	},
	"extend": func(o *object) any {
		return &extendBody{snapshot: o.text("snapshot"), lock: readLock(o), by: o.text("by")}
	},
	"intent": func(o *object) any {
		b := &intentBody{snapshots: o.texts("snapshots"), reason: o.text("reason")}
		for _, raw := range o.list("files") {
			f := readObject(raw)
			b.files = append(b.files, intentFile{f.text("file"), f.text("sha256")})
			if f.err != nil && o.err == nil {
				o.err = f.err
			}
		}
		return b
	},
	"hold": func(o *object) any {
		return &holdBody{snapshot: o.text("snapshot"), reason: o.text("reason"), by: o.text("by")}
	},
	"policy":    func(o *object) any { return &policyBody{readPolicy(o), o.text("by")} },
	"origin":    readOrigin,
	"mark":      readMark,
	"people":    readPeople,
	"request":   readRequest,
	"veto":      readVeto,
	"carried":   readCarried,
	"secure":    readSecure,
	"witnessed": readWitnessed,
	"clock": func(o *object) any {
		return &clockBody{event: o.text("event"), detail: o.text("detail"), off: o.number("off_s"), moved: o.number("moved_s"), times: o.number("times")}
	},
	"done": func(o *object) any { return &doneBody{intent: o.count("intent"), files: o.texts("files")} },
}

func readLock(o *object) lock {
	in := o.within("lock")
	l := lock{mode: in.text("mode"), seconds: in.number("for_s")}
	if in.err != nil && o.err == nil {
		o.err = in.err
	}
	return l
}

func readPolicyIn(o *object, name string) policy {
	in := o.within(name)
	p := readPolicy(in)
	if in.err != nil && o.err == nil {
		o.err = in.err
	}
	return p
}
