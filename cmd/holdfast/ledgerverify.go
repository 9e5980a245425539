package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-vault/holdfast/immutability/audit"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/place"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
)

// ledgerDir is where the ledger lies in a vault.
const ledgerDir = "ledger"

func ledgerVerifyCommand(a *app) *cobra.Command {
	var against []string
	var key string
	var asJSON bool
	c := &cobra.Command{
		Use:   "verify [--against SAVED]... [--key VERIFIER]",
		Short: "Verify the whole ledger, and prove or refute that it extends a saved checkpoint",
		Long: `Read the whole ledger from the disk and verify every record, the checkpoint and its signature, and
that every file which the ledger names is there. With --against it proves or refutes that today's
ledger still holds everything that a checkpoint saved earlier covers, and says what is missing.
SAVED is a file with a checkpoint, or SIZE:ROOT as paper or Prometheus kept them
(holdfast_ledger_size, holdfast_ledger_root_info).

It needs no key and no daemon, only the vault's files, and changes nothing. Give the verifier that
init printed with --key: otherwise the one is taken that the ledger names itself. The content of
packs and manifests is what "holdfast check" verifies.`,
		Args: exactArgs(0),
		RunE: func(*cobra.Command, []string) error {
			dir, err := a.vaultDir()
			if err != nil {
				return err
			}
			at, err := a.places()
			if err != nil {
				return err
			}
			look, err := lookAtLedger(dir, at, key, against)
			if err != nil {
				return err
			}
			return look.report(a.out, asJSON)
		},
	}
	f := c.Flags()
	f.StringArrayVar(&against, "against", nil, "a checkpoint `SAVED` earlier, or SIZE:ROOT (repeatable)")
	f.StringVar(&key, "key", "", "the `VERIFIER` that init printed")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// ledgerLook is what a look at a ledger's files found.
type ledgerLook struct {
	OK       bool           `json:"ok"`
	Verifier string         `json:"verifier"`
	KeyGiven bool           `json:"key_given"`
	Size     uint64         `json:"size"`
	Root     string         `json:"root,omitempty"`
	Segments int            `json:"segments"`
	Signed   uint64         `json:"signed"`   // records that the checkpoint covers
	Cosigned uint64         `json:"cosigned"` // records that the newest cosigned checkpoint covers
	Unknown  map[string]int `json:"unknown_kinds,omitempty"`
	Torn     []string       `json:"torn,omitempty"`
	Damage   []damageJSON   `json:"damage"`
	Missing  []missingJSON  `json:"missing_files"`
	Away     []string       `json:"away,omitempty"` // files that may lie in a place which cannot be reached
	Unnamed  []unnamedJSON  `json:"unnamed_manifests,omitempty"`
	Against  []againstJSON  `json:"against"`
	Origins  []originJSON   `json:"origins,omitempty"` // that followed the first
	Behind   string         `json:"behind,omitempty"`  // what is remembered elsewhere and is not here
}

type originJSON struct {
	Origin   string `json:"origin"`
	Verifier string `json:"verifier"`
	Own      uint64 `json:"own"`  // records that went on
	Lost     uint64 `json:"lost"` // records of the head that was given up
	LostRoot string `json:"lost_root"`
	By       string `json:"by"`
	Reason   string `json:"reason"`
	Signed   int    `json:"signed_by"` // people of a quorum who signed it
}

type missingJSON struct {
	File   string `json:"file"`
	Record uint64 `json:"record"`
}

type unnamedJSON struct {
	File   string `json:"file"`
	Source string `json:"source,omitempty"`
	Time   string `json:"time,omitempty"`
}

type againstJSON struct {
	Saved   string `json:"saved"`
	Size    uint64 `json:"size"`
	Extends bool   `json:"extends"`
	Verdict string `json:"verdict"` // extends, shorter, changed, foreign or unsigned
	Detail  string `json:"detail"`
}

func lookAtLedger(dir string, at map[int]string, key string, against []string) (*ledgerLook, error) {
	if key != "" {
		if k, err := audit.ParseKey(key); err != nil || k.Cosigner() {
			return nil, usage("--key %q is not the verifier of a vault", key)
		}
	}
	var all []saved
	for _, word := range against {
		s, err := readSaved(word)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	h, err := place.OpenDir(dir, place.Options{At: at})
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	defer h.Close()
	d := h.Disk
	look := &ledgerLook{Verifier: key, KeyGiven: key != "", Damage: []damageJSON{}, Missing: []missingJSON{}, Against: []againstJSON{}}
	r, err := inspectLedger(d, key)
	if err != nil {
		return nil, err
	}
	look.take(r)
	for _, s := range all {
		look.Against = append(look.Against, holdAgainst(r, s))
	}
	narrow(look.Against)
	if r.Segments > 0 {
		if err := look.files(d, key); err != nil {
			return nil, err
		}
	}
	refuted := slices.ContainsFunc(look.Against, func(x againstJSON) bool { return !x.Extends })
	look.OK = !refuted && look.Behind == "" && len(look.Damage) == 0 && len(look.Missing) == 0
	if look.OK {
		look.Unnamed = nil // of a pull that was cut, or is about to commit
	}
	return look, nil
}

// inspectLedger reads the ledger. One that is gone altogether is damage, not trouble.
func inspectLedger(d durable.Disk, key string) (*ledger.Report, error) {
	r, err := ledger.Inspect(d, ledgerDir, key)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%w; run this as the vault's user, or as root", err)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	if _, err := d.ReadDir("."); err != nil {
		return nil, err
	}
	return &ledger.Report{Verifier: key, Damages: []ledger.Damage{{Where: ledgerDir, Detail: "there is no ledger: every record is missing"}}}, nil
}

func (x *ledgerLook) take(r *ledger.Report) {
	x.Verifier, x.Size, x.Segments = r.Verifier, r.Size, r.Segments
	if r.Size > 0 {
		x.Root = r.Root.String()
	}
	x.Signed, x.Cosigned, x.Torn = r.Checkpoint.Size, r.Cosigned.Size, r.Torn
	if r.Behind != nil {
		x.Behind = r.Behind.Error()
	}
	for _, o := range r.Origins {
		x.Origins = append(x.Origins, originJSON{o.Origin, o.Verifier, o.Own.Size, o.Lost.Size, o.Lost.Root, o.By, o.Reason, len(o.Quorum)})
	}
	if len(r.Unknown) > 0 {
		x.Unknown = map[string]int{}
	}
	for kind, n := range r.Unknown {
		x.Unknown[string(kind)] = n
	}
	for _, dmg := range r.Damages {
		x.Damage = append(x.Damage, damageJSON{What: dmg.Where, Detail: dmg.Detail})
	}
}

// holdAgainst gives the verdict on one saved checkpoint.
func holdAgainst(r *ledger.Report, s saved) (x againstJSON) {
	x = againstJSON{Saved: s.name, Size: s.size}
	if s.note != nil {
		if why, verdict := doubt(r, s); why != "" {
			x.Verdict, x.Detail = verdict, why
			return x
		}
	}
	root, err := ledger.ParseRoot(s.root)
	if err != nil {
		x.Verdict, x.Detail = "changed", err.Error()
		return x
	}
	defer func() { x.Detail += givenUp(r, s, x.Extends) }()
	switch r.Against(s.size, root) {
	case ledger.Extended:
		x.Extends, x.Verdict = true, "extends"
		x.Detail = fmt.Sprintf("all of its %d records are in the ledger, unchanged", s.size)
	case ledger.Shorter:
		x.Verdict = "shorter"
		x.Detail = fmt.Sprintf("it covers %d records and only the first %d can be counted: %s missing or damaged. The end of the ledger was cut off, or an older copy of it was put back",
			s.size, r.Size, span(r.Size, s.size))
	default:
		x.Verdict = "changed"
		x.Detail = fmt.Sprintf("the ledger has %d records, and the first %d of them are not those that it covers: records were changed, exchanged or left out, and signed anew", r.Size, s.size)
	}
	return x
}

// givenUp says which origin's record gave up what a saved checkpoint covers.
func givenUp(r *ledger.Report, s saved, extends bool) string {
	for _, o := range r.Origins {
		if !extends && s.size > o.Own.Size && s.size <= o.Lost.Size {
			return fmt.Sprintf("; the record that began the origin %q says so: of %d records %d went on, and %s gave up the rest (%q), signed by %d of a quorum",
				o.Origin, o.Lost.Size, o.Own.Size, strconv.Quote(o.By), o.Reason, len(o.Quorum))
		}
	}
	return ""
}

// span names the records from a number up to, not including, another.
func span(from, to uint64) string {
	if from+1 == to {
		return fmt.Sprintf("record %d is", from)
	}
	return fmt.Sprintf("records %d to %d are", from, to-1)
}

// doubt says why a saved checkpoint cannot speak for this ledger.
func doubt(r *ledger.Report, s saved) (why, verdict string) {
	if r.Verifier == "" {
		return "", "" // nothing to check its signature with: size and root speak for themselves
	}
	_, err := ledger.ParseCheckpoint(s.note, r.Verifier)
	if err == nil {
		return "", ""
	}
	c, perr := ledger.PeekCheckpoint(s.note)
	origin, _, _ := strings.Cut(r.Verifier, "+")
	if perr == nil && c.Origin != origin {
		return fmt.Sprintf("it is of %q and this ledger is %q: it was saved from another vault, or this vault's first record was replaced", c.Origin, origin), "foreign"
	}
	return fmt.Sprintf("its signature does not hold under the key %s (%v): it was changed since it was saved, or the key was. Compare with the verifier that init printed, and give that with --key", r.Verifier, err), "unsigned"
}

// narrow says, of several saved checkpoints, between which of them the past was changed.
func narrow(all []againstJSON) {
	var good uint64
	for _, x := range all {
		if x.Extends {
			good = max(good, x.Size)
		}
	}
	for i := range all {
		if all[i].Verdict == "changed" && good > 0 && good < all[i].Size {
			all[i].Detail += fmt.Sprintf("; the first %d are unchanged, as another saved checkpoint proves", good)
		}
	}
}

// files holds what the ledger names against what is there.
func (x *ledgerLook) files(d durable.Disk, key string) error {
	var there []string
	for _, dir := range []string{"packs", "manifests"} {
		entries, err := d.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			there = append(there, dir+"/"+e.Name())
		}
	}
	kept, named, err := namedFiles(d, key)
	if err != nil {
		return err
	}
	for _, name := range there {
		delete(kept, name)
		if !named[name] && strings.HasSuffix(name, ".manifest") {
			x.Unnamed = append(x.Unnamed, unnamed(d, name))
		}
	}
	maps.DeleteFunc(kept, func(name string, _ uint64) bool {
		_, err := d.Stat(name)
		if errors.Is(err, durable.ErrAway) {
			x.Away = append(x.Away, name)
		}
		return err == nil || errors.Is(err, durable.ErrAway) // sealed since the directory was read, or nobody knows
	})
	slices.Sort(x.Away)
	if len(kept) == 0 {
		return nil
	}
	// A prune may have taken them meanwhile; it says so in the ledger first.
	now, _, err := namedFiles(d, key)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(kept)) {
		if _, still := now[name]; still {
			x.Missing = append(x.Missing, missingJSON{name, kept[name]})
		}
	}
	return nil
}

// namedFiles gives the files that must be there, with the record that says so, and all that any record ever named.
func namedFiles(d durable.Disk, key string) (kept map[string]uint64, named map[string]bool, err error) {
	l, err := ledger.Open(d, ledgerDir, "", key)
	if err != nil {
		return nil, nil, err
	}
	kept, named = map[string]uint64{}, map[string]bool{}
	add := func(name string, seq uint64) { kept[name], named[name] = seq, true }
	for r := range l.Records() {
		switch {
		case r.Seal != nil:
			add(r.Seal.File, r.Seq)
		case r.Commit != nil:
			add(manifestName(r.Commit.Snapshot), r.Seq)
		case r.Intent != nil:
			for _, f := range r.Intent.Files {
				delete(kept, f.File)
			}
			for _, id := range r.Intent.Snapshots {
				delete(kept, manifestName(id))
			}
		}
	}
	return kept, named, nil
}

func manifestName(id string) string { return "manifests/" + id + ".manifest" }

// manifestMax bounds what is read of a manifest in order to say whose it is.
const manifestMax = 64 << 20

// unnamed says of which snapshot a manifest is that no record names.
func unnamed(d durable.Disk, name string) unnamedJSON {
	u := unnamedJSON{File: name}
	b, err := durable.ReadFile(d, name, manifestMax)
	if err != nil {
		return u
	}
	head, _, _, err := reliance.Unframe(b)
	if err != nil {
		return u
	}
	if h, err := reliance.Parse(head); err == nil {
		u.Source, u.Time = h.Source, h.Begin.UTC().Format(time.RFC3339)
	}
	return u
}

// missingShown bounds what a person is shown; JSON has all.
const missingShown = 50

func (x *ledgerLook) report(w io.Writer, asJSON bool) error {
	if asJSON {
		if err := writeJSON(w, x); err != nil {
			return err
		}
	} else if err := x.print(w); err != nil {
		return err
	}
	if x.OK {
		return nil
	}
	return &exitError{exitDamage, errors.New("the ledger is not what it should be: do not prune, take a copy of the vault, and keep your saved checkpoints")}
}

func (x *ledgerLook) print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s in %s, root %s\n", counted(int(x.Size), "record"), counted(x.Segments, "segment"), x.Root)
	fmt.Fprintf(&b, "The checkpoint covers %d, witnesses cosigned %d.\n", x.Signed, x.Cosigned)
	if x.KeyGiven {
		fmt.Fprintf(&b, "Verified with the key given, %s\n", printable(x.Verifier))
	} else {
		fmt.Fprintf(&b, "Verified with the key that the ledger names itself, %s\n", printable(x.Verifier))
	}
	for _, kind := range slices.Sorted(maps.Keys(x.Unknown)) {
		fmt.Fprintf(&b, "%s of kind %s, which this release does not know\n", counted(x.Unknown[kind], "record"), printable(kind))
	}
	for _, where := range x.Torn {
		fmt.Fprintf(&b, "A write was cut at %s: nobody was told that it happened, no damage.\n", where)
	}
	for _, s := range x.Against {
		word := "REFUTED"
		if s.Extends {
			word = "PROVED"
		}
		fmt.Fprintf(&b, "%s %s: %s.\n", word, printable(s.Saved), printable(s.Detail))
	}
	if x.Behind != "" {
		fmt.Fprintf(&b, "BEHIND %s\n", printable(x.Behind))
	}
	for _, o := range x.Origins {
		fmt.Fprintf(&b, "Another origin, %s: %d records went on and %d had been signed; %s gave up the rest (%s), signed by %d of a quorum\n  its verifier: %s\n",
			printable(o.Origin), o.Own, o.Lost, printable(o.By), printable(o.Reason), o.Signed, printable(o.Verifier))
	}
	for _, d := range x.Damage {
		fmt.Fprintf(&b, "DAMAGE %s: %s\n", printable(d.What), printable(d.Detail))
	}
	if n := len(x.Away); n > 0 {
		fmt.Fprintf(&b, "AWAY %s that the ledger names may lie in a place that cannot be reached, and were not looked for; see: holdfast vault place list\n", counted(n, "file"))
	}
	for i, m := range x.Missing {
		if i == missingShown {
			fmt.Fprintf(&b, "MISSING and %d more files\n", len(x.Missing)-i)
			break
		}
		fmt.Fprintf(&b, "MISSING %s: record %d says that it is kept, and no record says that it left\n", printable(m.File), m.Record)
	}
	for i, u := range x.Unnamed {
		if i == missingShown {
			fmt.Fprintf(&b, "UNNAMED and %d more manifests\n", len(x.Unnamed)-i)
			break
		}
		of := "a manifest that cannot be read"
		if u.Source != "" {
			of = "a snapshot of " + u.Source + " begun at " + u.Time
		}
		fmt.Fprintf(&b, "UNNAMED %s: %s lies here, and no record names it: its record may be among those that are missing\n", printable(u.File), of)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
