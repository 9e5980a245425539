package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/witness"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/vault"
)

func verbCheckpoint() *verb {
	return &verb{
		use: "ledger-checkpoint", short: "Print the ledger's newest signed checkpoint: save it elsewhere", door: true,
		long: "Print the newest checkpoint, a C2SP signed note. Whoever saved it can later prove, or refute, that the ledger still holds what it held then.",
		run: func(_ context.Context, c *call) error {
			_, err := c.out.Write(c.view.v.Store().Ledger().Checkpoint())
			return err
		},
	}
}

func verbProve() *verb {
	return &verb{
		use: "ledger-prove RECORD|SNAPSHOT", short: "Print the proof that a record is in the ledger", door: true, min: 1, max: 1,
		long: `Print the proof that a record is in the ledger, a C2SP tlog-proof file that holdfast-verify checks
offline. RECORD is a record's number; for a snapshot it is the record that made it exist and
locked it.`,
		run: func(ctx context.Context, c *call) error {
			l := c.view.v.Store().Ledger()
			seq, err := recordNumber(ctx, c.view, l, c.args[0])
			if err != nil {
				return err
			}
			proof, err := l.Prove(seq)
			if err != nil {
				return err
			}
			_, err = c.out.Write(proof)
			return err
		},
	}
}

// recordNumber finds the record that is meant. Whoever may see some sources only sees records of their snapshots only.
func recordNumber(ctx context.Context, w *view, l *ledger.Ledger, word string) (uint64, error) {
	if n, err := strconv.ParseUint(word, 10, 63); err == nil && (n < l.Size() || len(word) < 8) {
		if w.sees != nil {
			return 0, usage("records are given by number to those who may see all sources; name a snapshot")
		}
		return n, nil
	}
	a, err := vault.ParseAddress(word)
	if err != nil {
		return 0, &exitError{exitUsage, err}
	}
	if a.Path != "" {
		return 0, usage("%q: a record is about a whole snapshot; leave the path away", word)
	}
	all, err := w.list(ctx)
	if err != nil {
		return 0, err
	}
	info, err := vault.Choose(a, all)
	if err != nil {
		return 0, err
	}
	for r := range l.Records() {
		if r.Commit != nil && r.Commit.Snapshot == info.ID {
			return r.Seq, nil
		}
	}
	return 0, fmt.Errorf("snapshot %s: its record cannot be read; see: holdfast ledger verify", info.ID)
}

func verbConsistency() *verb {
	return &verb{
		use: "ledger-consistency OLD", short: "Print the proof that the ledger extends an older one", door: true, min: 1, max: 1,
		long: `Print the proof that the newest checkpoint extends an older one, in the form of a C2SP tlog-witness
request, for holdfast-verify or for a witness. OLD is a file with a saved checkpoint, - for
standard input, SIZE:ROOT, or a number of records alone.`,
		prepare: func(_ *pflag.FlagSet, args []string) ([]string, error) {
			if args[0] == "-" || isDecimal(args[0]) {
				return args, nil
			}
			s, err := readSaved(args[0])
			if err != nil {
				return nil, err
			}
			return []string{s.String()}, nil
		},
		run: func(_ context.Context, c *call) error {
			old, err := oldTree(c)
			if err != nil {
				return err
			}
			proof, err := c.view.v.Store().Ledger().Consistency(old)
			if err != nil {
				return &exitError{exitDamage, err}
			}
			_, err = c.out.Write(proof)
			return err
		},
	}
}

// oldTree gives the size that OLD names. A root that came with it and is not today's is told at once: the proof would
// convince nobody.
func oldTree(c *call) (uint64, error) {
	word := c.args[0]
	if isDecimal(word) {
		n, err := strconv.ParseUint(word, 10, 63)
		if err != nil {
			return 0, usage("%q is not a number of records", word)
		}
		return n, nil
	}
	var s saved
	var err error
	if word == "-" {
		var b []byte
		if b, err = io.ReadAll(io.LimitReader(c.in, savedMax+1)); err == nil {
			s, err = parseSaved("-", b)
		}
	} else {
		s, err = parseSizeRoot(word)
	}
	if err != nil {
		return 0, err
	}
	l := c.view.v.Store().Ledger()
	if now, err := l.RootAt(s.size); err == nil && now.String() != s.root {
		return 0, &exitError{exitDamage, fmt.Errorf("the ledger's first %d records are not those of the saved checkpoint: the past was changed, or it is of another vault; see: holdfast ledger verify --against", s.size)}
	}
	return s.size, nil
}

func isDecimal(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// savedMax bounds a saved checkpoint.
const savedMax = 64 << 10

// saved is a size and a root that somebody kept.
type saved struct {
	name string
	size uint64
	root string // base64
	note []byte // the signed checkpoint, nil when only size and root were kept
}

func (s saved) String() string { return fmt.Sprintf("%d:%s", s.size, s.root) }

var sizeRoot = regexp.MustCompile(`^[0-9]{1,18}:[A-Za-z0-9+/]{43}=$`)

// readSaved reads what the user kept: SIZE:ROOT, as metrics and paper have it, or a file with a checkpoint.
func readSaved(word string) (saved, error) {
	if sizeRoot.MatchString(word) {
		return parseSizeRoot(word)
	}
	f, err := os.Open(word)
	if err != nil {
		return saved{}, fmt.Errorf("saved checkpoint: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, savedMax+1))
	if err != nil {
		return saved{}, fmt.Errorf("saved checkpoint: %w", err)
	}
	return parseSaved(word, b)
}

func parseSizeRoot(word string) (saved, error) {
	size, root, _ := strings.Cut(word, ":")
	n, err := strconv.ParseUint(size, 10, 63)
	if err != nil || !sizeRoot.MatchString(word) {
		return saved{}, usage("%q is not SIZE:ROOT; at the door give - and pipe the saved checkpoint in", word)
	}
	if _, err := ledger.ParseRoot(root); err != nil {
		return saved{}, usage("%q: %v", word, err)
	}
	return saved{name: word, size: n, root: root}, nil
}

func parseSaved(name string, b []byte) (saved, error) {
	if len(b) > savedMax {
		return saved{}, usage("%q has more than %d bytes: not a checkpoint", name, savedMax)
	}
	c, err := ledger.PeekCheckpoint(b)
	if err != nil {
		// Editors and mail change ends of lines; nothing else is forgiven.
		c, err = ledger.PeekCheckpoint(bytes.ReplaceAll(append(bytes.TrimRight(b, "\r\n"), '\n'), []byte("\r\n"), []byte("\n")))
		if err != nil {
			return saved{}, usage("%q is not a checkpoint: %v", name, err)
		}
		b = bytes.ReplaceAll(append(bytes.TrimRight(b, "\r\n"), '\n'), []byte("\r\n"), []byte("\n"))
	}
	return saved{name: name, size: c.Size, root: c.Root.String(), note: b}, nil
}

func verbCosign() *verb {
	return &verb{
		use: "ledger-cosign --witness URL --witness-key KEY", short: "Ask a witness to cosign the newest checkpoint", access: writeAccess,
		long: `Ask a witness (C2SP tlog-witness) to cosign the newest checkpoint, and keep its cosignature beside the
checkpoint, where proofs take it from. What the witness remembers of this ledger must be a part of
it: if it is not, nothing is changed, and exit code 4 says that the past was changed or that a copy
of the vault goes on elsewhere.`,
		flags: func(fs *pflag.FlagSet) {
			jsonFlag(fs)
			fs.String("witness", "", "the witness's submission `URL`")
			fs.String("witness-key", "", "the witness's verifier `KEY`, from its operator")
		},
		run: func(ctx context.Context, c *call) error {
			url, _ := c.flags.GetString("witness")
			key, _ := c.flags.GetString("witness-key")
			if url == "" || key == "" {
				return usage("both --witness and --witness-key are needed")
			}
			w, err := witness.NewClient(url, key, nil)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			return cosign(ctx, c, w)
		},
	}
}

func cosign(ctx context.Context, c *call, w *witness.Client) error {
	store := witnessesOf(c.view.v)
	l := store.Ledger()
	got, err := w.Cosign(ctx, l, 0)
	if grown(store, err) != nil { // what follows a keeper lagged, and has caught up
		got, err = w.Cosign(ctx, l, 0)
	}
	if witness.Alarming(err) {
		return &exitError{exitDamage, cmp.Or(proof(ctx, store, w), err)}
	}
	if err == nil {
		err = store.Cosigned(ctx, got.Checkpoint)
	}
	if errors.Is(err, worm.ErrNoWitness) {
		err = l.KeepCosigned(got.Checkpoint) // of a witness that this command names and the configuration does not
	}
	if err != nil && c.view.v.Kept() && strings.Contains(err.Error(), worm.ErrNoWitness.Error()) {
		return fmt.Errorf("%s cosigned %d records and remembers that, and the keeper keeps only what witnesses of its own list say: name it there first (witnesses in its policy.json, then SIGHUP)", printable(w.Name()), got.Size)
	}
	if err != nil {
		return err
	}
	if c.json() {
		return writeJSON(c.out, map[string]any{"witness": w.Name(), "size": got.Size, "at": got.At})
	}
	_, err = fmt.Fprintf(c.out, "%s cosigned %d records at %s.\n", printable(w.Name()), got.Size, got.At.Format("2006-01-02T15:04:05Z"))
	return err
}
