// Package ledger is an append-only log of records over an RFC 6962 Merkle tree, with signed checkpoints.
//
// The log lives in segments of JSON lines that jq can read. Its newest root is signed as a C2SP
// checkpoint, so that whoever saved a checkpoint can prove or refute the log of today. A record is
// acknowledged once its line is on the medium; the checkpoint follows and can be made again.
package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/policy"
)

// Format is the newest ledger format that this release writes and reads. It stands in the init
// record. Whatever a later format changes, the first line keeps the form of a line, hash included.
const Format = 1

// ErrNewer is wrapped by errors that say that a ledger was written by a newer release: it is not
// damaged, this program is too old for it.
var ErrNewer = errors.New("written by a newer release of holdfast")

// Kind says what a record is about. Kinds of later releases are kept and listed, never an error.
type Kind string

// The kinds of this release.
const (
	KindInit    Kind = "init"    // the first record: the vault's identity, keyring and policy
	KindSegment Kind = "segment" // the first line of each segment but the first
	KindKeyring Kind = "keyring" // a new wrapped keyring
	KindSeal    Kind = "seal"    // a file is published and will not change again
	KindCommit  Kind = "commit"  // a snapshot exists, and is locked, from this line on
	KindExtend  Kind = "extend"  // a lock grows
	KindIntent  Kind = "intent"  // files are about to be removed
	KindDone    Kind = "done"    // files of an intent are removed
	KindHold    Kind = "hold"    // a snapshot is held for ever
	KindPolicy  Kind = "policy"  // another policy is in force
	KindClock   Kind = "clock"   // what the clocks did to each other

	KindMark    Kind = "mark"    // what may be removed a day later, if it still may then
	KindPeople  Kind = "people"  // whose signatures count, and how many it takes
	KindRequest Kind = "request" // enough people signed it; it is carried out after a delay
	KindVeto    Kind = "veto"    // a request is never carried out
	KindCarried Kind = "carried" // a request was carried out, or could not be
	KindSecure  Kind = "secure"  // nothing is forgotten until a quorum says otherwise

	KindWitnessed Kind = "witnessed" // what a quorum of witnesses said of a checkpoint, and when
	KindOrigin    Kind = "origin"    // after a rollback: checkpoints go on under another name
)

// Record is one line of the ledger. Exactly one of the pointers is set for a kind of this release,
// none for a kind that it does not know.
type Record struct {
	Seq  uint64      `json:"seq"` // leaf index in the tree, from 0
	Kind Kind        `json:"kind"`
	At   clock.Stamp `json:"at"`

	Init    *Init          `json:"init,omitempty"`
	Segment *Segment       `json:"segment,omitempty"`
	Keyring *KeyringChange `json:"keyring,omitempty"`
	Seal    *Seal          `json:"seal,omitempty"`
	Commit  *Commit        `json:"commit,omitempty"`
	Extend  *Extend        `json:"extend,omitempty"`
	Intent  *Intent        `json:"intent,omitempty"`
	Done    *Done          `json:"done,omitempty"`
	Clock   *Clock         `json:"clock,omitempty"`
	Hold    *Hold          `json:"hold,omitempty"`
	Policy  *PolicyChange  `json:"policy,omitempty"`
	Mark    *Mark          `json:"mark,omitempty"`
	People  *People        `json:"people,omitempty"`
	Request *Request       `json:"request,omitempty"`
	Veto    *Veto          `json:"veto,omitempty"`
	Carried *Carried       `json:"carried,omitempty"`
	Secure  *Secure        `json:"secure,omitempty"`

	Witnessed *Witnessed `json:"witnessed,omitempty"`
	Origin    *Origin    `json:"origin,omitempty"`

	// Raw is the line as it stands in the ledger, without its newline: the data of the leaf.
	Raw []byte `json:"-"`
}

// Init begins a ledger.
type Init struct {
	Format   int    `json:"format"`
	Vault    string `json:"vault"`    // 32 hex digits
	Verifier string `json:"verifier"` // note verifier key of the checkpoints
	Identity string `json:"identity"` // content of vault.json
	Keyring  []byte `json:"keyring"`  // the wrapped keyring
	Policy   Policy `json:"policy"`
}

// Segment pins what stands before a segment. Lines of older segments beyond Size were never
// acknowledged: they do not count, and the leaf numbers go on from Size.
type Segment struct {
	Number int    `json:"number"`
	Size   uint64 `json:"size"` // leaves before this segment
	Root   string `json:"root"` // base64, root of the tree of these leaves
}

// KeyringChange replaces the wrapped keyring.
type KeyringChange struct {
	Keyring []byte `json:"keyring"`
	Reason  string `json:"reason"`
}

// Seal says that a file is whole, published and final.
type Seal struct {
	File      string `json:"file"` // packs/00000001.pack or manifests/<64 hex>.manifest
	SHA256    string `json:"sha256"`
	Bytes     int64  `json:"bytes"`
	Session   string `json:"session"`   // "" when recovery no longer knows it
	Recovered bool   `json:"recovered"` // recorded after a crash, from what was found
	// Source is whose budget the file counts against; "" for none: manifests, what was recovered, and older records.
	Source string `json:"source,omitempty"`
}

// Commit makes a snapshot. Its lock runs from the stamp of this record.
type Commit struct {
	Snapshot string `json:"snapshot"` // hex SHA-256 of the manifest file
	Source   string `json:"source"`
	Label    string `json:"label"`
	Session  string `json:"session"`
	State    string `json:"state"` // complete or partial
	Clean    bool   `json:"clean"`
	Lock     Lock   `json:"lock"`
	Previous string `json:"previous"` // snapshot of the source before this one, "" for the first
	// Bytes are those of the manifest; 0 in records of before.
	Bytes int64 `json:"bytes,omitempty"`
}

// Extend adds a lock that runs from the stamp of this record, beside those that run already.
type Extend struct {
	Snapshot string `json:"snapshot"`
	Lock     Lock   `json:"lock"`
	By       string `json:"by"`
}

// Intent is the point from which files and snapshots are gone, whatever still stands on the disk.
type Intent struct {
	Files     []IntentFile `json:"files"`
	Snapshots []string     `json:"snapshots"`
	Reason    string       `json:"reason"`
}

// IntentFile names one file that leaves.
type IntentFile struct {
	File   string `json:"file"`
	SHA256 string `json:"sha256"`
}

// Done says that the files of an intent are removed.
type Done struct {
	Intent uint64   `json:"intent"` // seq of the intent
	Files  []string `json:"files"`
}

// Clock says what the clocks did to each other. It promises nothing and takes nothing back: locks run by the stamps.
type Clock struct {
	Event clock.EventKind `json:"event"` // ones of later releases change nothing
	// OffSeconds is by how much the wall clock is ahead of what it should show after the time that the machine ran;
	// negative if it is behind.
	OffSeconds int64 `json:"off_s"`
	// MovedSeconds is by how much that changed since it was recorded last, Times in how many steps.
	MovedSeconds int64  `json:"moved_s"`
	Times        int    `json:"times"`
	Detail       string `json:"detail"` // a sentence for people
}

// Mode is the strength of a lock.
type Mode = policy.Mode

// The modes: a governance lock can be ended early by a quorum, a compliance lock by nobody.
const (
	Governance = policy.Governance
	Compliance = policy.Compliance
)

// Lock is a promise to keep, from the stamp of the record that carries it.
type Lock struct {
	Mode       Mode  `json:"mode"`
	ForSeconds int64 `json:"for_s"`
}

// Policy is what locks are made of when nobody asks for more.
type Policy = policy.Policy

// PolicyChange is the policy from this record on. Running locks stay as they are.
type PolicyChange struct {
	Policy
	By string `json:"by"` // where it came from
}

// Hold keeps a snapshot for ever, beside its locks. Holds are counted; nothing in this format ends one.
type Hold struct {
	Snapshot string `json:"snapshot"`
	Reason   string `json:"reason"`
	By       string `json:"by"`
}

// Mark says what could be removed at its stamp. What no mark of at least a day before names is not removed. The newest
// mark of something counts.
type Mark struct {
	Snapshots []string `json:"snapshots"` // IDs
	Packs     []uint32 `json:"packs"`     // numbers
	Manifests []string `json:"manifests"` // IDs of manifests that were never committed
	Kept      *Kept    `json:"kept,omitempty"`
}

// Kept names what was marked before and may not go at the stamp of the record: its mark counts no more.
type Kept struct {
	Snapshots []string `json:"snapshots"`
	Packs     []uint32 `json:"packs"`
	Manifests []string `json:"manifests"`
}

// People are those of whom Threshold must sign what makes the vault forget faster.
type People struct {
	Threshold int      `json:"threshold"`
	People    []Person `json:"people"`
	By        string   `json:"by"` // where it came from
}

// Person is one of the people, with every key that is theirs.
type Person struct {
	Name string   `json:"name"`
	Keys []string `json:"keys"` // as in authorized_keys: type and base64, nothing else
}

// Request is what people ask for. It counts from the stamp of this record on.
type Request struct {
	ID         string      `json:"id"`      // hex SHA-256 of Request
	Request    string      `json:"request"` // the file that was signed, byte by byte
	Signatures []Signature `json:"signatures"`
	By         string      `json:"by"` // who brought it
}

// Signature is an SSHSIG over a request.
type Signature struct {
	Person    string `json:"person"`
	Key       string `json:"key"`       // fingerprint, SHA256:...
	Signature []byte `json:"signature"` // the SSHSIG blob, without its armour
}

// Veto ends a request.
type Veto struct {
	Request string `json:"request"` // ID
	Reason  string `json:"reason"`
	By      string `json:"by"`
}

// Carried ends a request too: what it asks for is in force from this record on if Done, and else never.
type Carried struct {
	Request string `json:"request"` // ID
	Done    bool   `json:"done"`
	Why     string `json:"why"` // a clause for people, of one that could not be carried out; "" otherwise
}

// Secure stops removal, requests and changes of policy until a request of a quorum ends that.
type Secure struct {
	Reason string `json:"reason"`
	By     string `json:"by"`
}

// body says which of the bodies a kind of this release carries, and whether the kind is known.
func (r *Record) body() (set, known bool) {
	switch r.Kind {
	case KindInit:
		return r.Init != nil, true
	case KindSegment:
		return r.Segment != nil, true
	case KindKeyring:
		return r.Keyring != nil, true
	case KindSeal:
		return r.Seal != nil, true
	case KindCommit:
		return r.Commit != nil, true
	case KindExtend:
		return r.Extend != nil, true
	case KindIntent:
		return r.Intent != nil, true
	case KindDone:
		return r.Done != nil, true
	case KindClock:
		return r.Clock != nil, true
	case KindWitnessed:
		return r.Witnessed != nil, true
	case KindOrigin:
		return r.Origin != nil, true
	case KindHold:
		return r.Hold != nil, true
	case KindPolicy:
		return r.Policy != nil, true
	case KindMark:
		return r.Mark != nil, true
	case KindPeople:
		return r.People != nil, true
	case KindRequest:
		return r.Request != nil, true
	case KindVeto:
		return r.Veto != nil, true
	case KindCarried:
		return r.Carried != nil, true
	case KindSecure:
		return r.Secure != nil, true
	}
	return false, false
}

// Known says whether this release knows the record's kind. Who decides what may be removed must not
// go on where a record is not known: it may be a promise to keep.
func (r *Record) Known() bool {
	_, known := r.body()
	return known
}

// A line of the ledger:
//
//	{"seq":N,"kind":"K","at":{..},"K":{..},"hash":"64 hex digits"}\n
//	\____________________________________/
//	 the bytes that are hashed (SHA-256)
//
// The leaf of the tree is the line without its newline, hash included. The hash in the line lets jq
// and sha256sum tell which line is damaged; the tree proves the order and that none is missing.
const (
	hashField   = `,"hash":"`
	hashTailLen = len(hashField) + 2*sha256.Size + len(`"}`)
	// lineMax bounds one line; longer ones are neither written nor read.
	lineMax = 1 << 20
)

// encodeLine gives the line of r without its newline.
func encodeLine(r *Record) ([]byte, error) {
	if set, known := r.body(); !known || !set {
		return nil, fmt.Errorf("ledger: record of kind %q without its body", r.Kind)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return nil, fmt.Errorf("ledger: record of kind %q: %w", r.Kind, err)
	}
	line := bytes.TrimSuffix(b.Bytes(), []byte("}\n"))
	sum := sha256.Sum256(line)
	line = append(line, hashField...)
	line = hex.AppendEncode(line, sum[:])
	line = append(line, `"}`...)
	if len(line) > lineMax {
		return nil, fmt.Errorf("ledger: record of kind %q takes %d bytes, more than %d", r.Kind, len(line), lineMax)
	}
	return line, nil
}

// parseLine reads a line without its newline and checks its hash. The record keeps line as its Raw.
func parseLine(line []byte) (Record, error) {
	if len(line) > lineMax {
		return Record{}, fmt.Errorf("%d bytes, more than %d", len(line), lineMax)
	}
	if len(line) < hashTailLen {
		return Record{}, fmt.Errorf("%d bytes are too short for a record", len(line))
	}
	body, tail := line[:len(line)-hashTailLen], line[len(line)-hashTailLen:]
	sum := sha256.Sum256(body)
	want := hex.AppendEncode([]byte(hashField), sum[:])
	if !bytes.Equal(tail, append(want, `"}`...)) {
		return Record{}, errors.New("its hash does not match its content")
	}
	object := append(bytes.Clone(body), '}')
	var r Record
	if err := json.Unmarshal(object, &r); err != nil {
		// A kind of a later release may well use one of our names for something of its own.
		var head struct {
			Seq  uint64      `json:"seq"`
			Kind Kind        `json:"kind"`
			At   clock.Stamp `json:"at"`
		}
		if json.Unmarshal(object, &head) != nil {
			return Record{}, fmt.Errorf("not a record: %w", err)
		}
		r = Record{Seq: head.Seq, Kind: head.Kind, At: head.At}
		if r.Known() {
			return Record{}, fmt.Errorf("not a record: %w", err)
		}
	}
	if r.Kind == "" {
		return Record{}, errors.New("no kind")
	}
	if set, known := r.body(); known && !set {
		return Record{}, fmt.Errorf("kind %q without its body", r.Kind)
	}
	r = r.bare()
	r.Raw = line
	return r, nil
}

// bare leaves only the body that belongs to the record's kind.
func (r Record) bare() Record {
	out := Record{Seq: r.Seq, Kind: r.Kind, At: r.At}
	switch r.Kind {
	case KindInit:
		out.Init = r.Init
	case KindSegment:
		out.Segment = r.Segment
	case KindKeyring:
		out.Keyring = r.Keyring
	case KindSeal:
		out.Seal = r.Seal
	case KindCommit:
		out.Commit = r.Commit
	case KindExtend:
		out.Extend = r.Extend
	case KindIntent:
		out.Intent = r.Intent
	case KindDone:
		out.Done = r.Done
	case KindClock:
		out.Clock = r.Clock
	case KindWitnessed:
		out.Witnessed = r.Witnessed
	case KindOrigin:
		out.Origin = r.Origin
	case KindHold:
		out.Hold = r.Hold
	case KindPolicy:
		out.Policy = r.Policy
	case KindMark:
		out.Mark = r.Mark
	case KindPeople:
		out.People = r.People
	case KindRequest:
		out.Request = r.Request
	case KindVeto:
		out.Veto = r.Veto
	case KindCarried:
		out.Carried = r.Carried
	case KindSecure:
		out.Secure = r.Secure
	}
	return out
}
