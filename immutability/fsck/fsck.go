// Package fsck checks a vault from its files alone, without the code that wrote them.
//
// It is written from docs/FORMAT.md and docs/format: it reads the ledger line by line, counts its tree, replays what the
// records say and holds every file against it. It shares the reading of checkpoints (immutability/audit) and of the open
// heads of manifests (immutability/reliance), which are pure readers, and nothing with the code that writes. It changes
// nothing, needs no key, and takes every byte for hostile.
package fsck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/audit"
)

// Options say what to hold a vault against.
type Options struct {
	// Verifier is the ledger's key as whoever asks has it, in its only spelling; "" takes the ledger's own word.
	Verifier string
	// Witnesses are verifiers of witnesses that are trusted: the cosigned checkpoint must carry a signature of each, and
	// where time as witnesses have it ended locks, theirs alone counts.
	Witnesses []string
	// Against are checkpoints that were saved elsewhere.
	Against []Saved
	// ReadData reads every byte of every pack.
	ReadData bool
	// Progress is told how many packs were read of how many; nil means nobody listens.
	Progress func(done, total int)
	// Now is what the clock of this machine shows, zero if it is not to be compared.
	Now time.Time
}

// look is one pass over a vault.
type look struct {
	d       Files
	o       Options
	r       *Report
	h       *history
	counter counter
	keys    logKeys // what signatures are verified with; nil while no verifier is known
	names   names

	witnesses []audit.Key
}

// Look checks a vault. What is wrong with it stands in the report; an error says that it could not be checked. Before the
// report is shown, Conclude.
func Look(ctx context.Context, d Files, o Options) (*Report, error) {
	if _, err := d.ReadDir("."); err != nil {
		return nil, err
	}
	before := trace(d)
	l := &look{d: d, o: o, r: &Report{Kinds: map[string]int{}, Unknown: map[string]int{}, Against: []Verdict{}, Damage: []Finding{}, Notes: []Finding{}, Witnesses: []WitnessSaid{}}}
	l.counter = counter{d: d, r: l.r, want: map[uint64]bool{}, roots: map[uint64]audit.Hash{}}
	l.h = newHistory(l.r, func() bool { return l.counter.broken })
	l.counter.take = l.h.take
	if len(o.Witnesses) > 0 {
		l.h.trusted = map[string]bool{}
	}
	for _, w := range o.Witnesses {
		k, err := audit.ParseKey(w)
		if err != nil {
			return nil, err
		}
		l.witnesses = append(l.witnesses, k)
		l.h.trusted[w] = true
	}
	for _, step := range []func(context.Context) error{l.ledger, l.identity, l.files, l.data} {
		if err := step(ctx); err != nil {
			if errors.Is(err, fs.ErrPermission) {
				err = fmt.Errorf("%w; run this as root, or as the vault's user", err)
			}
			return nil, err
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	l.r.Moving = trace(d) != before
	return l.r, nil
}

// trace is something that changes when a vault is written to.
func trace(d Files) string {
	out := ""
	entries, _ := d.ReadDir(ledgerDir)
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			out += fmt.Sprint(e.Name(), info.Size(), " ")
		}
	}
	return out
}

// ledger counts and replays the records, and holds them against everything that was signed.
func (l *look) ledger(context.Context) error {
	// The checkpoints come first: a writer that goes on meanwhile only adds lines, so that they cannot seem to lag behind.
	ours, cosigned := readNotes(l.d, checkpointFile), readNotes(l.d, cosignedFile)
	newest := int64(-1)
	for _, n := range append(ours[:len(ours):len(ours)], cosigned...) {
		if n.note != nil {
			l.counter.want[n.note.Size] = true
		}
	}
	for _, n := range ours {
		if n.note != nil && n.err == nil {
			newest = max(newest, int64(n.note.Size))
		}
	}
	if len(ours) == 0 {
		newest = 1 // the init record may lack its checkpoint, and nothing else
	}
	for _, s := range l.o.Against {
		l.counter.want[s.size] = true
	}
	if b, err := read(l.d, behindFile, noteMax); err == nil {
		if c, err := audit.ParseCheckpoint(b); err == nil {
			l.counter.want[c.Size] = true
		}
	}
	err := l.counter.count(newest)
	if errors.Is(err, fs.ErrNotExist) {
		l.counter.spoil(ledgerDir, "there is no ledger: every record is missing")
		err = nil
	}
	if err != nil {
		return err
	}
	l.r.Size = l.counter.tree.n
	if l.r.Size > 0 {
		l.r.Root = l.counter.tree.root().String()
	}
	l.verifier()
	l.judge(ours, cosigned)
	l.behind()
	for _, s := range l.o.Against {
		l.r.Against = append(l.r.Against, l.against(s))
	}
	if err := l.claims(); err != nil {
		return err
	}
	narrow(l.r.Against)
	for _, kind := range sorted(l.r.Unknown) {
		l.r.note(KindLedger, ledgerDir, "%d records of kind %q, which this release does not know: they are counted, and nothing more is said about them", l.r.Unknown[kind], kind)
	}
	return nil
}

// verifier finds the keys that the ledger's checkpoints must be signed with.
func (l *look) verifier() {
	if l.o.Verifier != "" {
		l.r.Verifier, l.r.VerifierGiven = l.o.Verifier, true
		if k, err := audit.ParseKey(l.o.Verifier); err == nil {
			l.keys = logKeys{k}
		}
	}
	if l.h.init == nil {
		if !l.counter.broken {
			l.counter.spoil(lineName(1, 1), "the record that begins a vault is not there")
		}
		return
	}
	l.r.Vault = l.h.init.vault
	named := l.h.init.verifier
	k, err := audit.ParseKey(named)
	if err == nil && (k.Cosigner() || k.Name != "holdfast/"+l.h.init.vault) {
		err = fmt.Errorf("key of %q", k.Name)
	}
	switch {
	case err != nil:
		l.r.damage(KindLedger, lineName(1, 1), "the first record does not name the verifier of vault %q: %v", l.h.init.vault, err)
		return
	case !l.r.VerifierGiven:
		l.r.Verifier, l.keys = named, logKeys{k}
	case l.r.Verifier != named:
		l.r.damage(KindRefuted, lineName(1, 1), "the ledger names the verifier %q, and you gave another: this is another vault, or its first record was replaced", named)
	}
	if l.keys == nil {
		return
	}
	for n := range l.h.origins {
		text, err := under(l.r.Verifier, originName(l.keys[0].Name, n+2))
		if err != nil {
			return
		}
		if k, err := audit.ParseKey(text); err == nil {
			l.keys = append(l.keys, k)
		}
	}
}

// narrow says, of several saved checkpoints, between which of them the past was changed.
func narrow(all []Verdict) {
	var good uint64
	for _, v := range all {
		if v.Extends {
			good = max(good, v.Size)
		}
	}
	for i := range all {
		if all[i].Verdict == "changed" && good > 0 && good < all[i].Size {
			all[i].Detail += fmt.Sprintf("; the first %d are unchanged, as another saved checkpoint proves", good)
		}
	}
}
