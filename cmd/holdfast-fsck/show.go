package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/holdfast-vault/holdfast/immutability/fsck"
)

// shown bounds what a person is shown of each sort; JSON has all.
const shown = 50

func (q *question) show(w io.Writer, r *report) error {
	if q.json {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(struct {
			OK bool `json:"ok"`
			*report
			Advice []string `json:"advice"`
		}{r.OK(), r, advice(r.Report)})
	}
	_, err := io.WriteString(w, text(q.dir, r))
	return err
}

func text(dir string, r *report) string {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	say("Vault %s in %q", plain(r.Vault), dir)
	say("%d records in %d segments, root %s", r.Size, r.Segments, r.Root)
	say("Records: %s", plain(kindsOf(r.Kinds)))
	say("The checkpoint covers %d, witnesses cosigned %d", r.Checkpoint, r.Cosigned)
	if r.VerifierGiven {
		say("Verified with the key given, %s", plain(r.Verifier))
	} else {
		say("Verified with the key that the ledger names itself, %s", plain(r.Verifier))
	}
	for _, x := range r.Witnesses {
		say("Witness %s cosigned %d records at %s", plain(x.Witness), x.Size, x.At.Format("2006-01-02T15:04:05Z"))
	}
	say("%d packs of %d bytes; %d bytes read", r.PackCount, r.PackBytes, r.BytesRead)
	if c := r.Content; c != nil {
		say("With the key: %d snapshots, %d entries, %d chunks, %d of them read", c.Snapshots, c.Entries, c.Chunks, c.ChunksRead)
	}
	for _, v := range r.Against {
		word := "REFUTED"
		if v.Extends {
			word = "PROVED"
		}
		say("%s %s: %s", word, plain(v.Saved), plain(v.Detail))
	}
	list(say, "DAMAGE", r.Damage, r.DamageCount)
	list(say, "NOTE", r.Notes, r.NoteCount)
	for _, s := range r.Sources {
		switch {
		case s.Damaged == 0:
			say("SOURCE %s: %d snapshots, none of them damaged", plain(s.Source), s.Snapshots)
		case s.NewestWhole == "":
			say("SOURCE %s: %d snapshots, %d of them damaged; NONE is complete and whole", plain(s.Source), s.Snapshots, s.Damaged)
		default:
			say("SOURCE %s: %d snapshots, %d of them damaged; the newest complete and whole one is %s", plain(s.Source), s.Snapshots, s.Damaged, plain(s.NewestWhole))
		}
	}
	if r.OK() {
		say("OK: nothing is wrong, as far as this looked")
		return b.String()
	}
	if r.Moving {
		say("The vault was being written to: stop the daemon and look again before you believe this.")
	}
	say("\nWhat to do now:")
	for i, a := range advice(r.Report) {
		say("%2d. %s", i+1, a)
	}
	return b.String()
}

func list(say func(string, ...any), word string, all []fsck.Finding, count int) {
	for i, f := range all {
		if i == shown {
			break
		}
		say("%s %s: %s", word, plain(f.What), plain(f.Detail))
		if len(f.Snapshots) > 0 && f.Snapshots[0] != f.What {
			more := ""
			few := f.Snapshots[:min(len(f.Snapshots), 10)]
			if n := len(f.Snapshots) - len(few); n > 0 {
				more = fmt.Sprintf(" and %d more", n)
			}
			say("       needed by %s%s", plain(strings.Join(few, ", ")), more)
		}
	}
	if count > shown {
		say("%s and %d more (--json lists up to 1000)", word, count-shown)
	}
}

// advice says what to do, by what was found: first what must not be done.
func advice(r *fsck.Report) []string {
	if r.OK() {
		return []string{}
	}
	kinds := map[string]bool{}
	for _, f := range r.Damage {
		kinds[f.Kind] = true
	}
	for _, v := range r.Against {
		kinds[fsck.KindRefuted] = kinds[fsck.KindRefuted] || !v.Extends
	}
	out := []string{
		"Do not prune and do not delete anything. Stop the daemon, and keep what was saved elsewhere: checkpoints, verifier, recovery identity.",
		"Copy the whole directory to another disk before anything else is tried on it.",
	}
	has := func(any ...string) bool {
		return slices.ContainsFunc(any, func(k string) bool { return kinds[k] })
	}
	if has(fsck.KindRefuted, fsck.KindLedger, fsck.KindLock, fsck.KindRecord) {
		out = append(out, "The past was changed, or its end is missing. Treat the machine as taken over: find out who was root. Look for a newer copy of ledger/ (a second copy of the vault, a file system snapshot, tiles on a mirror) and check it the same way.")
		out = append(out, "Ask each witness how far it saw this ledger (holdfast ledger cosign, or its operator); size and root are in Prometheus too.")
	}
	if has(fsck.KindMissing, fsck.KindChanged, fsck.KindContent) {
		out = append(out, "Look at the disk's health. Put missing or changed packs and manifests back from a second copy: a file fits if its SHA-256 is the recorded one. Restore what is still whole with \"holdfast restore\", which names what it cannot give.")
	}
	if has(fsck.KindIdentity) {
		out = append(out, "vault.json and the newest keyring stand in the ledger, the keyring in every manifest too: put them back from there. If the signing key is another, nothing that it signs from now on is the vault's.")
	}
	if has(fsck.KindCheckpoint) {
		out = append(out, "Put a saved checkpoint of this ledger back as ledger/checkpoint; a cosigned one may be removed and is asked for again.")
	}
	if has(fsck.KindClock) {
		out = append(out, "Do not start the keeper under this clock state: move keeper/clock away, and running time goes on from the newest record.")
	}
	if has(fsck.KindUnnamed) {
		out = append(out, "Files that no record names: keep them in the copy; they may be all that is left of a snapshot whose record was cut off.")
	}
	return append(out, "Then run holdfast-fsck again, with --read-data and with every checkpoint that you saved as --against.")
}

// kindsOf gives the kinds of records with their numbers.
func kindsOf(m map[string]int) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, fmt.Sprintf("%d %s", m[k], k))
	}
	return strings.Join(parts, ", ")
}
