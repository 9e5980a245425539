// Command holdfast-verify checks a vault's checkpoints and proofs offline: with the keys that you wrote down, without the
// vault, and without the code that made them.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf16"

	"github.com/holdfast-vault/holdfast/immutability/audit"
)

// Exit codes, of the same table as holdfast's.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2
	exitRefuted = 4
)

const usageText = `holdfast-verify checks what a vault's ledger claims, offline.

  holdfast-verify checkpoint  --key KEY [--witness KEY]... [--quorum N] CHECKPOINT
        is the checkpoint signed by the vault, and by witnesses?
  holdfast-verify proof       --key KEY [--witness KEY]... [--quorum N] PROOF [RECORD]
        is the record in the ledger? PROOF is what "holdfast ledger prove" wrote. RECORD is the record's
        line; without it the line that came with the proof is checked and printed
  holdfast-verify consistency --key KEY [--witness KEY]... [--quorum N] SAVED PROOF
        does the ledger extend the checkpoint SAVED? PROOF is what "holdfast ledger consistency" wrote

KEY is the verifier that "holdfast init" printed, or the one that a witness's operator publishes: have it from them, not
from the vault that you check. A file "-" is standard input. At least one of the witnesses given must have signed,
unless --quorum says another number.

Exit codes: 0 it is so; 1 a file cannot be read; 2 usage; 4 it is not so, or not a proof.
`

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the whole program.
func run(args []string, in io.Reader, out, errs io.Writer) int {
	if len(args) == 1 && (args[0] == "-h" || args[0] == "--help" || args[0] == "help") {
		fmt.Fprint(out, usageText)
		return exitDone
	}
	err := dispatch(args, in, out)
	var wrong *usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &wrong):
		fmt.Fprintf(errs, "holdfast-verify: %v; see: holdfast-verify -h\n", err)
		return exitUsage
	case errors.As(err, new(*fileError)):
		fmt.Fprintf(errs, "holdfast-verify: %v\n", err)
		return exitFailed
	}
	fmt.Fprintf(errs, "holdfast-verify: NOT PROVED: %v\n", err)
	return exitRefuted
}

type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usage(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

type fileError struct{ err error }

func (e *fileError) Error() string { return e.err.Error() }

// keys collects keys given with a flag.
type keys []audit.Key

func (k *keys) String() string { return "" }

func (k *keys) Set(text string) error {
	key, err := audit.ParseKey(text)
	if err == nil {
		*k = append(*k, key)
	}
	return err
}

// question is one run: what is asked, whom the asker trusts, and the files.
type question struct {
	policy audit.Policy
	files  [][]byte
	out    io.Writer
}

func dispatch(args []string, in io.Reader, out io.Writer) error {
	if len(args) == 0 {
		return usage("what is to be checked?")
	}
	commands := map[string]struct {
		min, max int
		run      func(*question) error
	}{"checkpoint": {1, 1, checkpoint}, "proof": {1, 2, proof}, "consistency": {2, 2, consistency}}
	cmd, ok := commands[args[0]]
	if !ok {
		return usage("unknown command %q", args[0])
	}
	q, names, err := parse(args[0], args[1:])
	if err != nil {
		return err
	}
	if len(names) < cmd.min || len(names) > cmd.max {
		return usage("%s: %d files given", args[0], len(names))
	}
	if len(names) == 2 && names[0] == "-" && names[1] == "-" {
		return usage("standard input can be only one of the files")
	}
	for _, name := range names {
		b, err := read(name, in)
		if err != nil {
			return err
		}
		q.files = append(q.files, b)
	}
	q.out = out
	return cmd.run(q)
}

func parse(name string, args []string) (*question, []string, error) {
	var log, witnesses keys
	quorum := -1
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Var(&log, "key", "")
	fs.Var(&witnesses, "witness", "")
	fs.IntVar(&quorum, "quorum", -1, "")
	if err := fs.Parse(args); err != nil {
		return nil, nil, usage("%v", err)
	}
	if len(log) != 1 || log[0].Cosigner() {
		return nil, nil, usage("--key is needed, once: the verifier of the vault")
	}
	seen := map[string]bool{}
	for _, k := range witnesses {
		id := fmt.Sprintf("%s+%08x", k.Name, k.ID)
		if !k.Cosigner() || seen[id] {
			return nil, nil, usage("--witness %q: a witness's key is of type 4, and each is given once", id)
		}
		seen[id] = true
	}
	switch {
	case quorum < 0:
		quorum = min(1, len(witnesses))
	case quorum > len(witnesses):
		return nil, nil, usage("--quorum %d of %d witnesses", quorum, len(witnesses))
	}
	return &question{policy: audit.Policy{Log: log[0], Witnesses: witnesses, Quorum: quorum}}, fs.Args(), nil
}

func read(name string, in io.Reader) ([]byte, error) {
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, &fileError{err}
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, audit.Max+1))
	if err != nil {
		return nil, &fileError{err}
	}
	if len(b) > audit.Max {
		return nil, &fileError{fmt.Errorf("%q is larger than %d bytes", name, audit.Max)}
	}
	return b, nil
}

func (q *question) tell(c *audit.Checkpoint, signed []audit.Cosigned) {
	fmt.Fprintf(q.out, "ledger  %q\nrecords %d\nroot    %s\n", c.Origin, c.Size, c.Root)
	for _, s := range signed {
		fmt.Fprintf(q.out, "witness %q cosigned it at %s\n", s.Witness, s.At.Format("2006-01-02T15:04:05Z"))
	}
}

func checkpoint(q *question) error {
	c, err := audit.ParseCheckpoint(q.files[0])
	if err != nil {
		return err
	}
	signed, err := q.policy.Check(&c)
	if err != nil {
		return err
	}
	q.tell(&c, signed)
	return nil
}

func proof(q *question) error {
	p, err := audit.ParseProof(q.files[0])
	if err != nil {
		return err
	}
	line := p.Extra
	if len(q.files) == 2 {
		line = []byte(strings.TrimSuffix(string(q.files[1]), "\n"))
	} else if line == nil {
		return usage("the proof carries no record: give the record's line in a second file")
	}
	signed, err := p.Check(line, &q.policy)
	if err != nil {
		return err
	}
	q.tell(&p.Checkpoint, signed)
	fmt.Fprintf(q.out, "record  %d is in it:\n%s\n", p.Index, plain(line))
	return q.meaning(line)
}

// meaning verifies what a record carries along that can be verified: cosignatures, and the head that another origin gave up.
func (q *question) meaning(line []byte) error {
	o, err := audit.CheckOrigin(line, q.policy.Log)
	if err != nil {
		return err
	}
	if o != nil {
		fmt.Fprintf(q.out, "origin  %q follows %q: %d records went on, and %d had been signed; signed by %d of a quorum\n", o.Origin, o.Before, o.Own.Size, o.Lost.Size, len(o.Quorum))
	}
	w, err := audit.CheckWitnessed(line, &audit.Policy{Log: q.policy.Log, Witnesses: q.policy.Witnesses})
	if err != nil {
		return err
	}
	if w != nil {
		for _, s := range w.Signed {
			fmt.Fprintf(q.out, "in it   witness %q signed %d records at %s\n", s.Witness, w.Size, s.At.Format("2006-01-02T15:04:05Z"))
		}
	}
	return nil
}

func consistency(q *question) error {
	saved, err := audit.ParseCheckpoint(q.files[0])
	if err != nil {
		return fmt.Errorf("the saved checkpoint: %w", err)
	}
	if _, err := (&audit.Policy{Log: q.policy.Log}).Check(&saved); err != nil {
		return fmt.Errorf("the saved checkpoint: %w", err)
	}
	e, err := audit.ParseExtension(q.files[1])
	if err != nil {
		return err
	}
	signed, err := e.Check(saved.Size, saved.Root, &q.policy)
	if err != nil {
		return err
	}
	q.tell(&e.Checkpoint, signed)
	fmt.Fprintf(q.out, "extends the saved checkpoint: all of its %d records are in it, unchanged\n", saved.Size)
	return nil
}

// plain shows a record, which is JSON, without anything that a terminal would obey.
func plain(line []byte) string {
	var b strings.Builder
	for _, r := range string(line) {
		switch {
		case r >= ' ' && r < 0x7f:
			b.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, "\\u%04x\\u%04x", high, low)
		default:
			fmt.Fprintf(&b, "\\u%04x", r)
		}
	}
	return b.String()
}
