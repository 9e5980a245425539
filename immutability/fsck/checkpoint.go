package fsck

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/holdfast-vault/holdfast/immutability/audit"
)

const (
	checkpointFile = "checkpoint"
	cosignedFile   = "cosigned"
	noteMax        = 64 << 10
)

// Saved is a checkpoint that somebody kept outside the vault: a signed note, or size and root alone.
type Saved struct {
	Name string
	size uint64
	root audit.Hash
	note *audit.Checkpoint // nil for size and root alone
	// plain says that the note does not read as one text only, and why: repeated lines.
	odd error
}

// ParseSaved reads a saved checkpoint. A note that went through a mail program is taken with its line ends mended.
func ParseSaved(name string, b []byte) (Saved, error) {
	text := strings.ReplaceAll(string(b), "\r\n", "\n")
	text = strings.TrimRight(text, "\n \t") + "\n"
	c, odd, err := readNote([]byte(text))
	if err != nil {
		return Saved{}, err
	}
	return Saved{Name: name, size: c.Size, root: c.Root, note: &c, odd: odd}, nil
}

// ParseSizeRoot reads SIZE:ROOT, as paper and Prometheus keep it.
func ParseSizeRoot(word string) (Saved, error) {
	size, root, ok := strings.Cut(word, ":")
	n, err := strconv.ParseUint(size, 10, 63)
	if !ok || err != nil || n == 0 || strconv.FormatUint(n, 10) != size {
		return Saved{}, fmt.Errorf("%q is not SIZE:ROOT", word)
	}
	h, err := audit.ParseHash(root)
	if err != nil {
		return Saved{}, fmt.Errorf("%q is not SIZE:ROOT: %w", word, err)
	}
	return Saved{Name: word, size: n, root: h}, nil
}

// readNote reads a checkpoint; odd says that it is one in another spelling: the same signer twice.
func readNote(b []byte) (c audit.Checkpoint, odd, err error) {
	if c, err = audit.ParseCheckpoint(b); err != nil {
		return c, nil, err
	}
	type signer struct {
		name string
		id   uint32
	}
	seen := map[signer]bool{}
	for _, s := range c.Signatures {
		if k := (signer{s.Name, s.ID}); seen[k] {
			odd = fmt.Errorf("checkpoint: %q signed it twice", s.Name)
		} else {
			seen[k] = true
		}
	}
	return c, odd, nil
}

// noteFile is a checkpoint in the vault.
type noteFile struct {
	name string
	note *audit.Checkpoint
	err  error
}

// readNotes reads the checkpoints, ours or the cosigned ones, wherever they may lie: log/ is where they are written now,
// ledger/ where older vaults have them.
func readNotes(d Files, base string) (out []noteFile) {
	for _, dir := range []string{logDir, ledgerDir} {
		n := noteFile{name: dir + "/" + base}
		b, err := read(d, n.name, noteMax)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		n.err = err
		if err == nil {
			c, odd, err := readNote(b)
			n.note, n.err = &c, errors.Join(odd, err)
		}
		out = append(out, n)
	}
	return out
}

// judge holds the ledger against its own checkpoints and against those that witnesses signed. It gives the leaves that the
// newest of ours covers.
func (l *look) judge(ours, cosigned []noteFile) {
	if len(ours) == 0 && (l.counter.tree.n > 1 || l.counter.broken) {
		l.r.damage(KindCheckpoint, ledgerDir+"/"+checkpointFile, "it is missing, here and in %s/; any checkpoint of this ledger that was saved earlier may be put in its place", logDir)
	}
	for _, n := range ours {
		if l.holds(n, "any checkpoint of this ledger that was saved earlier may be put in its place", "the checkpoint covers", "the checkpoint signs") {
			l.r.Checkpoint = max(l.r.Checkpoint, n.note.Size)
		}
	}
	signed := map[string]bool{}
	for _, n := range cosigned {
		if !l.holds(n, "witnesses can be asked again", "witnesses cosigned", "witnesses cosigned") {
			continue
		}
		l.r.Cosigned = max(l.r.Cosigned, n.note.Size)
		for _, w := range l.witnesses {
			at, err := n.note.Verify(w)
			if err != nil {
				l.r.damage(KindCheckpoint, n.name, "%v", err)
				continue
			}
			signed[w.Name] = true
			l.r.Witnesses = append(l.r.Witnesses, witnessSaid(n.note.Size, []audit.Cosigned{{Witness: w.Name, At: at}})...)
		}
	}
	for _, w := range l.witnesses {
		if !signed[w.Name] && len(cosigned) == 0 {
			l.r.damage(KindCheckpoint, logDir+"/"+cosignedFile, "nothing here carries a cosignature of %q, whose key you gave: it was removed, or never asked for; ask the witness how far it saw this ledger", w.Name)
		}
	}
}

// holds says whether a note is signed by the ledger's key, and whether today's ledger extends it.
func (l *look) holds(n noteFile, cure, covers, signs string) bool {
	if n.err == nil && l.keys == nil {
		l.r.damage(KindCheckpoint, n.name, "there is no verifier to check it with")
		return false
	}
	err := n.err
	if err == nil {
		err = l.keys.check(n.note)
	}
	if err != nil {
		l.r.damage(KindCheckpoint, n.name, "%v; %s", err, cure)
		return false
	}
	c := &l.counter
	switch root, counted := c.roots[n.note.Size]; {
	case counted && root == n.note.Root:
		return true
	case counted:
		l.r.damage(KindRefuted, ledgerDir, "its first %d records do not have the root that %s says %s: records were changed, exchanged or left out", n.note.Size, n.name, signs)
	case c.broken:
		// what broke the count has been told
	default:
		l.r.damage(KindRefuted, ledgerDir, "%s %d records, by %s, and only %d are there: %s missing%s", covers, n.note.Size, n.name, c.tree.n, span(c.tree.n, n.note.Size), c.tail)
	}
	return false
}

// isLater says whether a saved checkpoint is of an origin that today's ledger never began.
func (l *look) isLater(s Saved) bool {
	if s.note == nil || l.keys == nil {
		return false
	}
	_, later := l.keys.later(l.r.Verifier, s.note.Origin)
	return later
}

// against gives the verdict on a checkpoint that was saved.
func (l *look) against(s Saved) Verdict {
	v := Verdict{Saved: s.Name, Size: s.size}
	if s.note != nil && l.keys != nil {
		err := l.keys.check(s.note)
		later, isLater := l.keys.later(l.r.Verifier, s.note.Origin)
		if isLater {
			_, err = s.note.Verify(later)
		}
		_, unknown := l.keys.of(s.note.Origin)
		switch {
		case unknown != nil && !isLater:
			v.Verdict, v.Detail = "foreign", fmt.Sprintf("%v: it was saved from another vault, or this vault's first record was replaced", unknown)
			return v
		case err != nil || s.odd != nil:
			v.Verdict, v.Detail = "unsigned", fmt.Sprintf("its signature does not hold (%v): it was changed since it was saved, or the vault's key was. Compare with the verifier that init printed", errors.Join(err, s.odd))
			return v
		}
	}
	c := &l.counter
	switch root, counted := c.roots[s.size]; {
	case counted && root == s.root && !l.isLater(s):
		v.Extends, v.Verdict = true, "extends"
		v.Detail = fmt.Sprintf("all of its %d records are in the ledger, unchanged", s.size)
	case counted:
		v.Verdict = "changed"
		v.Detail = fmt.Sprintf("the ledger has %d records, and the first %d of them are not those that it covers: records were changed, exchanged or left out, and signed anew", c.tree.n, s.size)
	default:
		v.Verdict = "shorter"
		v.Detail = fmt.Sprintf("it covers %d records and only the first %d can be counted: %s missing or damaged. The end of the ledger was cut off, or an older copy of it was put back", s.size, c.tree.n, span(c.tree.n, s.size))
	}
	return v
}
