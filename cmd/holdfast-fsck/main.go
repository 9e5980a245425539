// Command holdfast-fsck checks a vault from its files alone, with code that shares the formats with holdfast and not the
// part of it that writes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/audit"
	"github.com/holdfast-vault/holdfast/immutability/fsck"
)

// Exit codes, of the same table as holdfast's.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
	exitDamage = 4
)

const usageText = `holdfast-fsck checks a vault from its files alone. It changes nothing and needs no key.

  holdfast-fsck DIR [--verifier KEY] [--against SAVED]... [--witness KEY]...
                    [--read-data] [--key IDENTITY] [--place N=DIR]... [--json]

DIR is the vault's directory, of a vault that is stopped or of a copy; beside a running one it looks again
while records are added. Every record, every root and signature, every lock, removal and manifest is checked,
and every file against its record.

  --verifier KEY   the verifier that "holdfast init" printed; without it the ledger's own word is taken
  --against SAVED  a checkpoint that was saved elsewhere (a file, or SIZE:ROOT): is all of it still there?
  --witness KEY    a witness's verifier: the cosigned checkpoint must carry its signature
  --read-data      read every byte of every pack, and compare it with what was recorded
  --key IDENTITY   a file with the unlock key or the recovery identity: every catalog is read, the packs that
                   it needs are counted anew, and with --read-data every chunk is held against its ID
  --place N=DIR    where place N of the vault is, if not where the vault's list says
  --json           print JSON

Exit codes: 0 nothing is wrong; 1 it could not be checked; 2 usage; 4 damage, or a saved checkpoint is refuted.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole program.
func run(ctx context.Context, args []string, out, errs io.Writer) int {
	if len(args) == 1 && (args[0] == "-h" || args[0] == "--help" || args[0] == "help") {
		fmt.Fprint(out, usageText)
		return exitDone
	}
	q, err := parse(args)
	var wrong *usageError
	if errors.As(err, &wrong) {
		fmt.Fprintf(errs, "holdfast-fsck: %v; see: holdfast-fsck -h\n", err)
		return exitUsage
	}
	var r *report
	if err == nil {
		r, err = q.look(ctx, errs)
	}
	if err == nil {
		err = q.show(out, r)
	}
	if err != nil {
		fmt.Fprintf(errs, "holdfast-fsck: %v\n", err)
		return exitFailed
	}
	if !r.OK() {
		return exitDamage
	}
	if n := len(r.Unseen); n > 0 {
		fmt.Fprintf(errs, "holdfast-fsck: nothing was found wrong, and %d packs were not looked at: they may lie in a place that cannot be reached; mount it, or say where it is with --place N=DIR\n", n)
		return exitFailed
	}
	return exitDone
}

type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func usage(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// question is what one run is asked.
type question struct {
	dir      string
	o        fsck.Options
	identity string // file, "" for none
	places   map[int]string
	json     bool
}

// words collects a flag that may be given several times.
type words []string

func (w *words) String() string     { return "" }
func (w *words) Set(s string) error { *w = append(*w, s); return nil }

func parse(args []string) (*question, error) {
	var q question
	var against, witnesses, places words
	var verifier string
	f := flag.NewFlagSet("holdfast-fsck", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Var(&against, "against", "")
	f.Var(&witnesses, "witness", "")
	f.Var(&places, "place", "")
	f.StringVar(&verifier, "verifier", "", "")
	f.StringVar(&q.identity, "key", "", "")
	f.BoolVar(&q.o.ReadData, "read-data", false, "")
	f.BoolVar(&q.json, "json", false, "")
	var dirs []string
	for rest := args; ; {
		if err := f.Parse(rest); err != nil {
			return nil, usage("%v", err)
		}
		if rest = f.Args(); len(rest) == 0 {
			break
		}
		dirs, rest = append(dirs, rest[0]), rest[1:]
	}
	if len(dirs) != 1 {
		return nil, usage("one directory is needed, and %d were given", len(dirs))
	}
	q.dir = dirs[0]
	var err error
	if q.places, err = parsePlaces(places); err != nil {
		return nil, err
	}
	if verifier != "" {
		k, err := audit.ParseKey(verifier)
		if err != nil || k.Cosigner() {
			return nil, usage("--verifier %q is not the verifier of a vault", verifier)
		}
		q.o.Verifier = verifier
	}
	for _, w := range witnesses {
		k, err := audit.ParseKey(w)
		if err != nil || !k.Cosigner() {
			return nil, usage("--witness %q is not the verifier of a witness", w)
		}
		q.o.Witnesses = append(q.o.Witnesses, w)
	}
	for _, word := range against {
		s, err := readSaved(word)
		if err != nil {
			return nil, err
		}
		q.o.Against = append(q.o.Against, s)
	}
	return &q, nil
}

// parsePlaces reads where places are: N=DIR.
func parsePlaces(all []string) (map[int]string, error) {
	at := map[int]string{}
	for _, word := range all {
		number, dir, _ := strings.Cut(word, "=")
		n, err := strconv.Atoi(number)
		if err != nil || n < 2 || dir == "" || at[n] != "" {
			return nil, usage("--place %q is not of the form N=DIR, or given twice", word)
		}
		at[n] = dir
	}
	return at, nil
}

// readSaved reads a saved checkpoint: a file, or SIZE:ROOT.
func readSaved(word string) (fsck.Saved, error) {
	if s, err := fsck.ParseSizeRoot(word); err == nil {
		return s, nil
	}
	f, err := os.Open(word)
	if err != nil {
		return fsck.Saved{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, audit.Max+1))
	if err != nil {
		return fsck.Saved{}, err
	}
	s, err := fsck.ParseSaved(word, b)
	if err != nil {
		return s, usage("--against %q: %v", word, err)
	}
	return s, nil
}

// report is what a run found.
type report struct {
	*fsck.Report
	Content *contentReport `json:"content,omitempty"`
}

// triesWhileMoving is how often a vault is looked at that somebody writes to, before what was found is told all the same.
const triesWhileMoving = 3

func (q *question) look(ctx context.Context, errs io.Writer) (*report, error) {
	d, err := fsck.OpenDir(q.dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	d.OpenPlaces(q.places)
	if err := looksLikeVault(d, q.dir); err != nil {
		return nil, err
	}
	o := q.o
	o.Now, o.ReadData = time.Now(), false
	var r *fsck.Report
	for range triesWhileMoving {
		if r, err = fsck.Look(ctx, d, o); err != nil {
			return nil, err
		}
		if r.OK() || !r.Moving {
			break
		}
	}
	if q.o.ReadData {
		o.ReadData = true
		if !q.json {
			o.Progress = progress(errs)
		}
		if r, err = fsck.Look(ctx, d, o); err != nil {
			return nil, err
		}
	}
	out := &report{Report: r}
	if n := len(r.Unseen); q.identity != "" && n > 0 {
		return nil, fmt.Errorf("%d packs, the first of them %s, may lie in a place that cannot be reached: with --key every place must be there; mount it, or say where it is with --place N=DIR", n, r.Unseen[0])
	}
	if q.identity != "" {
		if out.Content, err = checkContent(ctx, d, r, q.identity, q.o.ReadData); err != nil {
			return nil, err
		}
	}
	r.Conclude()
	return out, nil
}

// looksLikeVault refuses a directory in which no part of a vault is: to call all of it lost would frighten who only named the
// wrong one.
func looksLikeVault(d *fsck.Dir, dir string) error {
	for _, name := range []string{"vault.json", "keyring", "ledger", "log", "keeper", "packs", "manifests"} {
		if _, err := d.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	if _, err := d.Lstat("vault/vault.json"); err == nil {
		return fmt.Errorf("%q is not a vault: the vault lies in %q", dir, filepath.Join(dir, "vault"))
	}
	return fmt.Errorf("there is no part of a vault in %q: name the directory in which vault.json lies; if this is it, everything was removed", dir)
}

// progress says now and then how far the reading is, on a terminal and in a log alike.
func progress(errs io.Writer) func(done, total int) {
	last := time.Now()
	return func(done, total int) {
		if now := time.Now(); now.Sub(last) > 10*time.Second {
			last = now
			fmt.Fprintf(errs, "%d of %d packs read\n", done, total)
		}
	}
}

// plain shows text from a vault without anything that a terminal would obey.
func plain(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r >= ' ' && r < 0x7f {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, "\\u{%x}", r)
		}
	}
	return b.String()
}
