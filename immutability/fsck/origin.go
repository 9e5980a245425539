package fsck

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/audit"
)

type (
	head struct {
		size uint64
		root string
	}
	originBody struct {
		number                   int64
		origin, verifier, before string
		own, lost                head
		note                     string
		quorum                   []string // the request that people signed, and their signatures
	}
	witnessedBody struct {
		origin, root string
		size         uint64
		quorum       int64
		cosigned     []cosignature
	}
	cosignature struct {
		witness, signature string
		at                 time.Time
	}
)

func readHeadOf(o *object, name string) head {
	in := o.within(name)
	h := head{in.count("size"), in.text("root")}
	if in.err != nil && o.err == nil {
		o.err = in.err
	}
	return h
}

func readOrigin(o *object) any {
	var agreed []string
	if o.has("quorum") {
		agreed = o.texts("quorum")
	}
	return &originBody{number: o.number("number"), origin: o.text("origin"), verifier: o.text("verifier"), before: o.text("before"),
		own: readHeadOf(o, "own"), lost: readHeadOf(o, "lost"), note: o.text("note"), quorum: agreed}
}

func readWitnessed(o *object) any {
	b := &witnessedBody{origin: o.text("origin"), root: o.text("root"), size: o.count("size"), quorum: o.number("quorum")}
	for _, raw := range o.list("cosignatures") {
		in := readObject(raw)
		b.cosigned = append(b.cosigned, cosignature{in.text("witness"), in.text("signature"), in.moment("at")})
		if in.err != nil && o.err == nil {
			o.err = in.err
		}
	}
	return b
}

// originName is the name of a ledger's n-th origin, from 1.
func originName(first string, n int) string {
	if n < 2 {
		return first
	}
	return first + "/" + strconv.Itoa(n)
}

// under gives a verifier's key under another name: the same public key, its ID computed anew.
func under(verifier, name string) (string, error) {
	parts := strings.SplitN(verifier, "+", 3)
	if len(parts) != 3 {
		return "", fmt.Errorf("%q is no verifier", verifier)
	}
	raw, err := decodeBase64(parts[2])
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(append([]byte(name+"\n"), raw...))
	return fmt.Sprintf("%s+%x+%s", name, sum[:4], parts[2]), nil
}

// keys gives the keys of the ledger's origins, oldest first; the first is the verifier that was written down.
type logKeys []audit.Key

// of gives the key that a checkpoint of an origin must be signed with.
func (k logKeys) of(origin string) (*audit.Key, error) {
	for i := range k {
		if k[i].Name == origin {
			return &k[i], nil
		}
	}
	return nil, fmt.Errorf("it is of %q, and this ledger is %q", origin, k[0].Name)
}

// check says whether a checkpoint is of this ledger and signed by its key.
func (k logKeys) check(c *audit.Checkpoint) error {
	key, err := k.of(c.Origin)
	if err != nil {
		return err
	}
	_, err = (&audit.Policy{Log: *key}).Check(c)
	return err
}

// later gives the key of an origin that may be known to others already: names beyond those of the ledger, in order.
func (k logKeys) later(verifier, origin string) (audit.Key, bool) {
	digits, ok := strings.CutPrefix(origin, k[0].Name+"/")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || n <= len(k) || strconv.Itoa(n) != digits {
		return audit.Key{}, false
	}
	text, err := under(verifier, origin)
	if err != nil {
		return audit.Key{}, false
	}
	key, err := audit.ParseKey(text)
	return key, err == nil
}

// claim is a root that a record says the ledger had at a size.
type claim struct {
	who  string
	size uint64
	root string
	// not says that the ledger must not have it: what was lost in a rollback.
	not bool
}

// takeOrigin follows a record by which the ledger goes on under another name.
func (h *history) takeOrigin(r *record, b *originBody) {
	h.r.note(KindLedger, recordName(r), "the ledger was rolled back: %d records were known outside, and it went on from %d under the name %q. What was beyond is lost", b.lost.size, b.own.size, b.origin)
	if h.init == nil {
		return
	}
	h.origins = append(h.origins, b)
	h.originAgreed(r, b)
	h.origin = r.seq
	number := len(h.origins) + 1
	first, _, _ := strings.Cut(h.init.verifier, "+")
	want, err := under(h.init.verifier, originName(first, number))
	if err != nil || b.number != int64(number) || b.origin != originName(first, number) || b.before != originName(first, number-1) || b.verifier != want {
		h.wrong(r, KindLedger, "origin %d, %q, with verifier %q, after %q, is not the one that follows", b.number, b.origin, b.verifier, b.before)
		return
	}
	if b.own.size > r.seq {
		h.wrong(r, KindLedger, "it goes on from %d records, and %d stand before it", b.own.size, r.seq)
	}
	if err := h.lostHead(b, first); err != nil {
		h.wrong(r, KindLedger, "its proof of what was lost does not hold: %v", err)
	}
	h.claims = append(h.claims, claim{recordName(r), b.own.size, b.own.root, false}, claim{recordName(r), b.lost.size, b.lost.root, true})
}

// lostHead checks the note that proves what a ledger was behind of.
func (h *history) lostHead(b *originBody, first string) error {
	c, odd, err := readNote([]byte(b.note))
	if err := errors.Join(odd, err); err != nil {
		return err
	}
	if c.Size != b.lost.size || c.Root.String() != b.lost.root {
		return errors.New("it says another head")
	}
	if c.Origin != b.before && !(logKeys{{Name: first}}).isLater(c.Origin, b.number-1) {
		return fmt.Errorf("it is of %q", c.Origin)
	}
	text, err := under(h.init.verifier, c.Origin)
	if err != nil {
		return err
	}
	key, err := audit.ParseKey(text)
	if err != nil {
		return err
	}
	_, err = c.Verify(key)
	return err
}

// isLater says whether an origin is the one of a number, or one behind it.
func (k logKeys) isLater(origin string, number int64) bool {
	digits, ok := strings.CutPrefix(origin, k[0].Name+"/")
	n, err := strconv.ParseInt(digits, 10, 32)
	return ok && err == nil && n >= number && n > 1 && strconv.FormatInt(n, 10) == digits
}

// covered is what a quorum of witnesses said of the first so many records.
type covered struct {
	size uint64
	by   map[string]int64 // verifier to Unix seconds
}

// takeWitnessed follows a record of what witnesses said. It proves the time to locks.
func (h *history) takeWitnessed(r *record, b *witnessedBody) {
	if b.size > r.seq || b.quorum < 1 || int64(len(b.cosigned)) < b.quorum {
		h.wrong(r, KindRecord, "%d witnesses of a quorum of %d are said to have signed %d records, and %d stand before it", len(b.cosigned), b.quorum, b.size, r.seq)
		return
	}
	c := covered{size: b.size, by: map[string]int64{}}
	for _, s := range b.cosigned {
		if err := s.check(b); err != nil {
			h.wrong(r, KindRecord, "what it says of witness %q does not hold: %v", s.witness, err)
			return
		}
		if _, twice := c.by[s.witness]; !twice { // one witness is one, and its first word counts
			c.by[s.witness] = s.at.Unix()
		}
	}
	if n := len(h.covers); n > 0 && h.covers[n-1].size > c.size {
		return // an older one, which proves nothing more
	}
	for w, at := range c.by {
		h.latest[w] = max(h.latest[w], at)
	}
	h.quorum = max(h.quorum, int(b.quorum))
	h.covers = append(h.covers, c)
	h.claims = append(h.claims, claim{recordName(r), b.size, b.root, false})
}

// check verifies one cosignature over the head that its record names.
func (s cosignature) check(b *witnessedBody) error {
	key, err := audit.ParseKey(s.witness)
	if err != nil {
		return err
	}
	if !key.Cosigner() {
		return errors.New("not a witness's key")
	}
	c, err := audit.ParseCheckpoint(fmt.Appendf(nil, "%s\n%d\n%s\n\n— %s %s\n", b.origin, b.size, b.root, key.Name, s.signature))
	if err != nil {
		return err
	}
	at, err := c.Verify(key)
	if err == nil && !at.Equal(s.at) {
		err = fmt.Errorf("it was signed at %s", at.Format(wallForm))
	}
	return err
}

// witnessTime gives the seconds that passed for a quorum of witnesses since they first covered a record, and who they are.
// trusted names those that count; nil counts all that the ledger names.
func (h *history) witnessTime(seq uint64, trusted map[string]bool) (seconds int64) {
	if h.quorum < 1 {
		return 0
	}
	counts := func(w string) bool { return trusted == nil || trusted[w] }
	var latest []int64
	for w, at := range h.latest {
		if counts(w) {
			latest = append(latest, at)
		}
	}
	if len(latest) < h.quorum {
		return 0
	}
	slices.Sort(latest)
	now := latest[len(latest)-h.quorum]
	at, _ := slices.BinarySearchFunc(h.covers, seq, func(c covered, seq uint64) int {
		if c.size > seq {
			return 1
		}
		return -1
	})
	for _, c := range h.covers[at:] {
		var times []int64
		for w, t := range c.by {
			if counts(w) {
				times = append(times, t)
			}
		}
		if len(times) >= h.quorum {
			slices.Sort(times)
			return max(now-times[h.quorum-1], 0)
		}
	}
	return 0
}

// recordName names a record for people.
func recordName(r *record) string { return fmt.Sprintf("record %d (%s)", r.seq, r.where()) }

// claims holds the roots that records name against the tree. It reads the ledger a second time, since the tree of the first
// reading is gone.
func (l *look) claims() error {
	if len(l.h.claims) == 0 || l.counter.broken {
		return nil
	}
	again := counter{d: l.d, r: &Report{}, want: map[uint64]bool{}, roots: map[uint64]audit.Hash{}, take: func(*record) {}}
	for _, c := range l.h.claims {
		again.want[c.size] = true
	}
	if err := again.count(int64(l.counter.tree.n)); err != nil {
		return err
	}
	for _, c := range l.h.claims {
		root, counted := again.roots[c.size]
		same := counted && root.String() == c.root
		switch {
		case c.not && same:
			l.r.damage(KindLedger, c.who, "it says that %d records were lost, and they are here", c.size)
		case !c.not && !same:
			l.r.damage(KindRefuted, c.who, "it holds a root of the first %d records that these do not have: records were changed, exchanged or left out", c.size)
		}
	}
	return nil
}

// behindFile keeps a checkpoint that the ledger was found to be behind of.
const behindFile = logDir + "/behind"

// behind looks whether the ledger knows itself to be behind what its key signed.
func (l *look) behind() {
	b, err := read(l.d, behindFile, noteMax)
	if errors.Is(err, fs.ErrNotExist) || l.keys == nil {
		return
	}
	c, odd, perr := readNote(b)
	if err := errors.Join(err, odd, perr); err != nil {
		l.r.damage(KindCheckpoint, behindFile, "%v: the vault writes nothing more before it is given the checkpoint again that it is behind of", err)
		return
	}
	key, later := l.keys.later(l.r.Verifier, c.Origin)
	if k, err := l.keys.of(c.Origin); err == nil {
		key = *k
	} else if !later {
		l.r.damage(KindCheckpoint, behindFile, "%v", err)
		return
	}
	if _, err := c.Verify(key); err != nil {
		l.r.damage(KindCheckpoint, behindFile, "%v", err)
		return
	}
	root, counted := l.counter.roots[c.Size]
	over := !later && c.Origin != l.keys[len(l.keys)-1].Name
	if over || !later && counted && root == c.Root {
		return // the ledger goes on under another origin, or extends it again
	}
	l.r.damage(KindRefuted, behindFile, "the ledger is behind what its own key signed: somebody showed it %d records of %q, and %d are here; nothing is written or removed until the newest copy is put back", c.Size, c.Origin, l.counter.tree.n)
}
