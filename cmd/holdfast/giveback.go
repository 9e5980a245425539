package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/pflag"

	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/vault"
	"github.com/holdfast-vault/holdfast/vault/restore"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

const addressHelp = `SNAPSHOT is SOURCE@TIME, SOURCE@latest, SOURCE@clean, or at least 8 digits of a snapshot ID;
:PATH behind it names a part, as it lies below the source's path.`

func jsonFlag(fs *pflag.FlagSet) { fs.Bool("json", false, "print JSON") }

func (c *call) json() bool { b, _ := c.flags.GetBool("json"); return b }

func (c *call) bool(name string) bool { b, _ := c.flags.GetBool(name); return b }

func (c *call) string(name string) string { s, _ := c.flags.GetString(name); return s }

func verbSnapshots() *verb {
	return &verb{
		use: "snapshots [SOURCE]", short: "List snapshots, newest last", max: 1, door: true, flags: jsonFlag,
		run: func(ctx context.Context, c *call) error {
			all, err := c.view.list(ctx)
			if err != nil {
				return err
			}
			list := []snapshotJSON{}
			bad := 0
			for _, s := range all {
				if len(c.args) == 1 && s.Source != c.args[0] {
					continue
				}
				if s.Err != nil {
					bad++
				}
				list = append(list, newSnapshotJSON(s))
			}
			switch {
			case len(list) > 0:
			case len(c.args) == 1:
				fmt.Fprintf(c.err, "No snapshots of %q are here.\n", c.args[0])
			default:
				fmt.Fprintln(c.err, "No snapshots are here yet. Make one with: holdfast pull")
			}
			if c.json() {
				if err := writeJSON(c.out, list); err != nil {
					return err
				}
			} else if err := printSnapshots(c.out, list); err != nil {
				return err
			}
			if bad > 0 {
				return &exitError{exitDamage, fmt.Errorf("%d manifests are damaged; see which files that touches with: holdfast check", bad)}
			}
			return nil
		},
	}
}

// snapshotJSON is a snapshot as scripts see it. Fields are only ever added.
type snapshotJSON struct {
	ID          string    `json:"id"`
	Source      string    `json:"source"`
	Time        string    `json:"time"`
	Begin       time.Time `json:"begin"`
	Commit      time.Time `json:"commit"`
	State       string    `json:"state"`
	Clean       bool      `json:"clean"`
	Files       uint64    `json:"files"`
	Directories uint64    `json:"directories"`
	Entries     uint64    `json:"entries"`
	Bytes       uint64    `json:"bytes"`
	NewBytes    uint64    `json:"new_bytes"`
	StoredBytes uint64    `json:"stored_bytes"`
	Mode        string    `json:"mode"`
	LockedUntil time.Time `json:"locked_until"`
	Locked      bool      `json:"locked"`
	Holds       int       `json:"holds,omitempty"`
	Damage      string    `json:"damage,omitempty"`
}

func newSnapshotJSON(s worm.Snapshot) snapshotJSON {
	j := snapshotJSON{
		ID: s.ID, Source: s.Source, Time: s.Label, Begin: s.Head.Begin.UTC(), Commit: s.Committed.Wall.UTC(),
		State: s.State, Clean: s.Head.Clean, Files: s.Head.Files, Directories: s.Head.Directories, Entries: s.Head.Entries,
		Bytes: s.Head.Bytes, NewBytes: s.Head.NewBytes, StoredBytes: s.Head.StoredBytes,
		Mode: string(s.Lock.Mode), LockedUntil: s.LockedUntil.UTC().Truncate(time.Second), Locked: s.Locked, Holds: len(s.Holds),
	}
	if s.Err != nil {
		j.Damage = s.Err.Error()
	}
	return j
}

func printSnapshots(w io.Writer, list []snapshotJSON) error {
	if len(list) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SNAPSHOT\tID\tSTATE\tFILES\tSIZE\tSTORED\tLOCK")
	for _, s := range list {
		state := s.State
		if s.Damage != "" {
			state = "DAMAGED"
		}
		lock := s.Mode + " until " + s.LockedUntil.Format("2006-01-02 15:04 UTC")
		if !s.Locked {
			lock = "ran out " + s.LockedUntil.Format("2006-01-02")
		}
		if s.Holds > 0 {
			lock = "held; " + lock
		}
		fmt.Fprintf(t, "%s@%s\t%s\t%s\t%d\t%s\t%s\t%s\n", s.Source, s.Time, s.ID[:12], state, s.Files,
			humanize.IBytes(s.Bytes), humanize.IBytes(s.StoredBytes), lock)
	}
	return t.Flush()
}

// open resolves an address and says so when the snapshot is partial: somebody is about to rely on it.
func (c *call) open(ctx context.Context, address string) (*vault.Snapshot, string, error) {
	s, path, err := c.view.resolve(ctx, address)
	if err != nil {
		return nil, "", err
	}
	if s.Info().State != "complete" {
		fmt.Fprintf(c.err, "holdfast: note: %s@%s is partial: %d paths could not be had; see them with: holdfast show %s@%s\n",
			s.Info().Source, s.Info().Label, s.Body().ProblemCount, s.Info().Source, s.Info().Label)
	}
	return s, path, nil
}

func notThere(err error, address string) error {
	if errors.Is(err, fs.ErrNotExist) {
		head, path, _ := strings.Cut(address, ":")
		return fmt.Errorf("%s holds no %q; look around with: holdfast ls %s", head, path, head)
	}
	return err
}

func verbShow() *verb {
	return &verb{
		use: "show SNAPSHOT", short: "Show one snapshot: what it is, what could not be had, what the protocol cannot tell",
		long: addressHelp, min: 1, max: 1, door: true, flags: jsonFlag,
		run: func(ctx context.Context, c *call) error {
			s, _, err := c.view.resolve(ctx, c.args[0])
			if err != nil {
				return err
			}
			return showSnapshot(ctx, c, s)
		},
	}
}

type problemJSON struct {
	pathJSON
	Reason string `json:"reason"`
}

func showSnapshot(ctx context.Context, c *call, s *vault.Snapshot) error {
	b := s.Body()
	j := struct {
		snapshotJSON
		Origin       string         `json:"origin"`
		HostKey      string         `json:"host_key"`
		Excludes     []string       `json:"excludes"`
		Fidelity     []string       `json:"fidelity"`
		Stats        snapshot.Stats `json:"stats"`
		ProblemCount uint64         `json:"problem_count"`
		Problems     []problemJSON  `json:"problems"`
	}{
		snapshotJSON: newSnapshotJSON(s.Info()), Origin: b.Origin, HostKey: b.HostKey,
		Excludes: append([]string{}, b.Excludes...), Fidelity: append([]string{}, b.Fidelity...), Stats: b.Stats,
		ProblemCount: b.ProblemCount, Problems: []problemJSON{},
	}
	for p, err := range s.Problems(ctx) {
		if err != nil {
			return err
		}
		j.Problems = append(j.Problems, problemJSON{newPathJSON(string(p.Path)), p.Reason})
	}
	if c.json() {
		return writeJSON(c.out, j)
	}
	t := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	for _, row := range [][2]string{
		{"snapshot", j.Source + "@" + j.Time}, {"id", j.ID}, {"state", j.State}, {"origin", j.Origin},
		{"host key", j.HostKey}, {"begun", j.Begin.Format(time.RFC3339)}, {"committed", j.Commit.Format(time.RFC3339)},
		{"lock", j.Mode + " until " + j.LockedUntil.Format(time.RFC3339)},
		{"holds", fmt.Sprintf("%d files, %d directories, %s", j.Files, j.Directories, humanize.IBytes(j.Bytes))},
		{"was new", fmt.Sprintf("%s, %s stored", humanize.IBytes(j.NewBytes), humanize.IBytes(j.StoredBytes))},
		{"left out", strings.Join(j.Excludes, " ")}, {"not had", fmt.Sprintf("%d paths", j.ProblemCount)},
	} {
		if row[1] != "" {
			fmt.Fprintf(t, "%s\t%s\n", row[0], printable(row[1]))
		}
	}
	for _, p := range j.Problems {
		fmt.Fprintf(t, "  %s\t%s\n", printable(p.Path), printable(p.Reason))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(j.Fidelity) > 0 {
		fmt.Fprintln(c.out, "SFTP cannot tell everything:")
	}
	for _, note := range j.Fidelity {
		fmt.Fprintf(c.out, "  %s\n", printable(note))
	}
	return nil
}

func verbLs() *verb {
	return &verb{
		use: "ls SNAPSHOT[:PATH]", short: "List what a snapshot holds", long: addressHelp, min: 1, max: 1, door: true,
		flags: func(fs *pflag.FlagSet) {
			jsonFlag(fs)
			fs.BoolP("recursive", "R", false, "list everything below")
			fs.BoolP("long", "l", false, "show mode, owner, size and time")
		},
		run: func(ctx context.Context, c *call) error {
			s, path, err := c.open(ctx, c.args[0])
			if err != nil {
				return err
			}
			e, err := s.Lookup(ctx, path)
			if err != nil {
				return notThere(err, c.args[0])
			}
			return listEntries(ctx, c, s, e)
		},
	}
}

type entryJSON struct {
	pathJSON
	Kind   string    `json:"kind"`
	Mode   string    `json:"mode"`
	UID    uint32    `json:"uid"`
	GID    uint32    `json:"gid"`
	Size   uint64    `json:"size"`
	MTime  time.Time `json:"mtime"`
	Target string    `json:"target,omitempty"`
	Flags  []string  `json:"flags,omitempty"`
}

func newEntryJSON(e *snapshot.Entry) entryJSON {
	j := entryJSON{
		pathJSON: newPathJSON(e.Path()), Kind: e.Kind.String(), Mode: fmt.Sprintf("%04o", e.Mode), UID: e.UID, GID: e.GID,
		Size: e.Size, MTime: time.Unix(e.MTime, 0).UTC(), Target: e.Target,
	}
	for _, f := range []struct {
		flag snapshot.Flags
		name string
	}{{snapshot.Racy, "racy"}, {snapshot.Changed, "changed"}, {snapshot.Short, "short"}, {snapshot.Grew, "grew"}, {snapshot.Resumed, "resumed"}} {
		if e.Flags&f.flag != 0 {
			j.Flags = append(j.Flags, f.name)
		}
	}
	return j
}

// listEntries streams: a directory may hold millions. In JSON the array is written an element a line.
func listEntries(ctx context.Context, c *call, s *vault.Snapshot, top snapshot.Entry) error {
	seq := s.List(ctx, top.Path())
	if top.Kind != snapshot.Directory {
		seq = func(yield func(snapshot.Entry, error) bool) { yield(top, nil) }
	} else if c.bool("recursive") {
		seq = s.Walk(ctx, top.Path())
	}
	n := 0
	for e, err := range seq {
		if err != nil {
			return err
		}
		if e.Kind == snapshot.Directory && e.Path() == top.Path() {
			continue
		}
		if err := printEntry(c, &e, n); err != nil {
			return err
		}
		n++
	}
	if !c.json() {
		return nil
	}
	end := "\n]\n"
	if n == 0 {
		end = "[]\n"
	}
	_, err := io.WriteString(c.out, end)
	return err
}

func verbCat() *verb {
	return &verb{
		use: "cat SNAPSHOT:PATH", short: "Write one file to standard output", long: addressHelp, min: 1, max: 1, door: true,
		run: func(ctx context.Context, c *call) error {
			s, path, err := c.open(ctx, c.args[0])
			if err != nil {
				return err
			}
			if path == "" {
				return usage("cat: which file? say %s:PATH", c.args[0])
			}
			return notThere(restore.ToWriter(ctx, s, path, c.out), c.args[0])
		},
	}
}

func verbTar() *verb {
	return &verb{
		use: "tar SNAPSHOT[:PATH]", short: "Write a tar stream to standard output", min: 1, max: 1, door: true,
		long: addressHelp + "\n\nThe archive's end is written only if everything could be had: a cut archive is an incomplete restore.",
		flags: func(fs *pflag.FlagSet) {
			fs.Bool("for-restore", false, "carry failures along for `holdfast restore` on the other side")
			_ = fs.MarkHidden("for-restore")
		},
		run: func(ctx context.Context, c *call) error {
			s, path, err := c.open(ctx, c.args[0])
			if err != nil {
				return err
			}
			_, err = restore.Tar(ctx, s, path, c.out, restore.TarOptions{ForFromTar: c.bool("for-restore")})
			return notThere(err, c.args[0])
		},
	}
}

func verbDiff() *verb {
	return &verb{
		use: "diff SNAPSHOT[:PATH] SNAPSHOT", short: "Show what changed between two snapshots",
		long: addressHelp + "\n\nA added, D removed, M content changed, m only mode, owner or time changed.",
		min:  2, max: 2, door: true, flags: jsonFlag,
		run: func(ctx context.Context, c *call) error {
			a, path, err := c.open(ctx, c.args[0])
			if err != nil {
				return err
			}
			b, path2, err := c.open(ctx, c.args[1])
			if err != nil {
				return err
			}
			if path2 != "" && path != "" && path2 != path {
				return usage("diff: the two paths differ: %q and %q", path, path2)
			}
			return printDiff(ctx, c, a, b, max(path, path2))
		},
	}
}

type changeJSON struct {
	pathJSON
	Change  string `json:"change"`
	Content bool   `json:"content"`
	Meta    bool   `json:"meta"`
	OldSize uint64 `json:"old_size"`
	NewSize uint64 `json:"new_size"`
}

func printDiff(ctx context.Context, c *call, a, b *vault.Snapshot, path string) error {
	list := []changeJSON{}
	for d, err := range restore.Diff(ctx, a, b, path) {
		if err != nil {
			return notThere(err, c.args[0]+":"+path)
		}
		if c.json() {
			list = append(list, changeJSON{newPathJSON(d.Path), d.Kind.String(), d.Content, d.Meta, d.Old.Size, d.New.Size})
			continue
		}
		mark := map[restore.ChangeKind]string{restore.Added: "A", restore.Removed: "D", restore.Modified: "M"}[d.Kind]
		if d.Kind == restore.Modified && !d.Content {
			mark = "m"
		}
		if _, err := fmt.Fprintf(c.out, "%s %s\n", mark, printable(d.Path)); err != nil {
			return err
		}
	}
	if c.json() {
		return writeJSON(c.out, list)
	}
	return nil
}
