package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"golang.org/x/mod/sumdb/note"
)

// ErrBehind is wrapped by the error of everything that a ledger refuses once it is known to be behind what it signed: it
// signs nothing, and so acknowledges nothing.
var ErrBehind = errors.New("this ledger is behind what it signed")

// Behind says what somebody outside remembers of a ledger that the ledger does not extend. errors.Is(err, ErrBehind) holds.
type Behind struct {
	Remembered Checkpoint
	Note       []byte // the proof: it carries this ledger's own signature
	Size       uint64 // records that are here
	Fork       bool   // as many are here, and they are other ones
	// Unreadable is why what was remembered cannot be read any more; the rest is empty then.
	Unreadable error
}

func (b *Behind) Error() string {
	const then = "nothing is written or removed any more; reading and giving back go on. Put the newest copy of the ledger back; if there is none, see: holdfast ledger origin --help"
	switch {
	case b.Unreadable != nil:
		return fmt.Sprintf("%v: it found so earlier, and what it found cannot be read now (%v); %s", ErrBehind, b.Unreadable, then)
	case b.Fork:
		return fmt.Sprintf("%v: a checkpoint of %d records under its own key has another root than the first %d here, of %d; the vault was rolled back, or a copy of it goes on elsewhere; %s",
			ErrBehind, b.Remembered.Size, b.Remembered.Size, b.Size, then)
	}
	return fmt.Sprintf("%v: a checkpoint under its own key has %d records of %q, and here are %d; the vault was rolled back, or a copy of it goes on elsewhere; %s",
		ErrBehind, b.Remembered.Size, b.Remembered.Origin, b.Size, then)
}

// Is implements errors.Is.
func (b *Behind) Is(target error) bool { return target == ErrBehind }

// behindFile remembers the checkpoint that a ledger is behind of:
//
//	log/behind     the note, as it came, with the signature of the ledger's own key
//
// It is its own proof: as long as the ledger does not extend it, the ledger is behind; once it does, or goes on under another
// origin, the file says nothing any more.
func (l *Ledger) behindFile() string { return path.Join(path.Dir(l.dir), "log", "behind") }

// Remember holds a checkpoint that somebody kept, cosigned or not, against the ledger. Nil: the ledger extends it, or it is of
// an origin that is over. A *Behind: it carries the signature of this ledger's key and the ledger does not extend it. That
// is durable on return, and from then on nothing is signed or appended, also by later processes, until the ledger extends
// it again or BeginOrigin. Other errors say why it is no checkpoint of this ledger; nothing changes then.
func (l *Ledger) Remember(signed []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(signed) > checkpointMax { // recall would not read it
		return fmt.Errorf("a checkpoint of %d bytes, more than %d", len(signed), checkpointMax)
	}
	c, err := ParseCheckpoint(signed, l.verifier)
	if err != nil {
		return err
	}
	b := l.standing(c, signed)
	if b == nil {
		return nil
	}
	if l.signer == nil {
		return b // whoever writes must be told
	}
	// The longest that is known is what a new origin must name.
	if l.behind == nil || l.behind.Unreadable != nil || l.behind.Remembered.Size < c.Size {
		l.behind, l.unkept = b, true // whatever becomes of the file, this process signs nothing more
	}
	if b = l.behind; !l.unkept {
		return b
	}
	if err := durable.MkdirAll(l.disk, path.Dir(l.behindFile()), 0o750); err != nil {
		return errors.Join(b, fmt.Errorf("ledger: %w", err))
	}
	// Power fails here: the next process does not know yet, and is told as this one was.
	if err := durable.Replace(l.disk, l.behindFile(), b.Note, 0o640); err != nil {
		return errors.Join(b, fmt.Errorf("ledger: %w", err))
	}
	l.unkept = false
	return b
}

// standing says whether a checkpoint under the ledger's own key is more than the ledger holds. An origin that is over binds
// nobody: whatever else was signed under it is known to be lost. l.mu is held, or nobody else knows of l yet.
func (l *Ledger) standing(c Checkpoint, signed []byte) *Behind {
	first, _, _ := strings.Cut(l.verifier, "+")
	b := &Behind{Remembered: c, Note: bytes.Clone(signed), Size: uint64(l.acked)}
	switch n := originNumber(first, c.Origin); {
	case n <= len(l.origins):
		return nil
	case n > len(l.origins)+1 || c.Size > uint64(l.tree.n):
		return b
	}
	if root, err := l.tree.root(int64(c.Size)); err == nil && root == c.Root {
		return nil
	}
	b.Fork = true
	return b
}

// recall reads what was remembered by an earlier process, or by the one that writes where this one follows. A file that
// cannot be read is not taken for none.
func (l *Ledger) recall() {
	l.behind = nil
	signed, err := durable.ReadFile(l.disk, l.behindFile(), checkpointMax)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var c Checkpoint
	if err == nil {
		c, err = ParseCheckpoint(signed, l.verifier)
	}
	if err != nil {
		l.behind = &Behind{Size: uint64(l.acked), Unreadable: fmt.Errorf("%s: %w", l.behindFile(), err)}
		return
	}
	l.behind = l.standing(c, signed)
}

// Behind says whether the ledger is behind what it signed: nil if nobody showed that.
func (l *Ledger) Behind() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.following {
		l.recall()
	}
	if l.behind == nil {
		return nil
	}
	return l.behind
}

// Origins gives the records of kind origin, oldest first: none in a ledger that was never rolled back.
func (l *Ledger) Origins() []Origin {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.origins[:len(l.origins):len(l.origins)]
}

// Origin gives the name and the verifier key under which checkpoints are signed now.
func (l *Ledger) Origin() (name, verifier string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.origin()
}

func (l *Ledger) origin() (name, verifier string) {
	if len(l.origins) == 0 {
		name, _, _ = strings.Cut(l.verifier, "+")
		return name, l.verifier
	}
	last := l.origins[len(l.origins)-1]
	return last.Origin, last.Verifier
}

// BeginOrigin lets a ledger that is behind go on under another origin, from what it holds. The record names both heads. root is
// the one of the records that are here, in base64, as a person typed it; it must be the present one. By, reason and quorum stand
// in the record: see Origin. On return the record is durable, and the ledger may be written again. Cut before: nothing happened. Cut
// behind: the next Open finds the record and signs under the new origin.
func (l *Ledger) BeginOrigin(at clock.Stamp, root, by, reason string, quorum ...string) (Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.signer == nil:
		return Record{}, ErrReadOnly
	case l.foreign != nil:
		return Record{}, l.foreign
	case l.behind == nil:
		return Record{}, errors.New("nobody has shown that this ledger is behind what it signed: it goes on under its origin")
	case l.behind.Unreadable != nil:
		return Record{}, fmt.Errorf("give the checkpoint again that this ledger is behind of: %w", l.behind)
	}
	own, err := l.tree.root(l.acked)
	if err != nil {
		return Record{}, err
	}
	if own.String() != root {
		return Record{}, fmt.Errorf("the root %q is not that of the %d records that are here, which is %s", root, l.acked, own)
	}
	first, _, _ := strings.Cut(l.verifier, "+")
	number := len(l.origins) + 2
	verifier, err := OriginVerifier(l.verifier, number)
	if err != nil {
		return Record{}, err
	}
	signerKey, err := originSigner(l.signerKey, number)
	if err != nil {
		return Record{}, err
	}
	signer, err := note.NewSigner(signerKey)
	if err != nil {
		return Record{}, fmt.Errorf("ledger: %w", err)
	}
	before, _ := l.origin()
	o := Origin{
		Number: number, Origin: OriginName(first, number), Verifier: verifier, Before: before,
		Own: Head{uint64(l.acked), own.String()}, Lost: Head{l.behind.Remembered.Size, l.behind.Remembered.Root.String()},
		Note: string(l.behind.Note), Quorum: append([]string{}, quorum...), By: by, Reason: reason,
	}
	if err := checkOrigin(&o, l.verifier, l.origins, l.tree.root, l.tree.n); err != nil {
		return Record{}, fmt.Errorf("ledger: new origin: %w", err)
	}
	r, err := l.put(Record{Kind: KindOrigin, At: at, Origin: &o})
	if err != nil {
		return Record{}, err
	}
	// Power fails here: the record counts, and the newest checkpoint is one of the origin before. Open signs another.
	l.origins, l.signer = append(l.origins, o), signer
	l.recall()      // what is remembered may be of an origin further on: a copy went on and was given up there
	_ = l.publish() // told by CheckpointError, made good by the next Append or Open
	return r, nil
}
