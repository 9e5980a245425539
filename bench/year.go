package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/vault"
	"github.com/holdfast-vault/holdfast/vault/keys"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// A simulated year: one source is pulled every hour and the vault is pruned every day, with a clock that is moved by hand and
// locks of 30 days. There is no source behind it: what did not change is taken over from the snapshot before, the rest is
// made up, so what is measured is the vault alone.

// yearOptions are the flags of `bench year`.
type yearOptions struct {
	days  int
	files int
	dir   string
	out   string
	run   string
}

// yearMonth is one row of the table.
type yearMonth struct {
	day                          int
	relied, packs                uint64
	live, dead                   uint64 // bytes of sealed packs that the newest snapshot uses, and the rest
	written, copied, mostCopied  uint64 // since the row before
	pullMedian, pullMost, pruned time.Duration
}

func parseYear(args []string) (o yearOptions, err error) {
	f := flag.NewFlagSet("bench year", flag.ContinueOnError)
	f.IntVar(&o.days, "days", 365, "simulated `days`")
	f.IntVar(&o.files, "files", 1000, "small `files` in the tree")
	f.StringVar(&o.dir, "dir", "/dev/shm", "make the vault in this `directory`, which should be in memory: it is removed at the end")
	f.StringVar(&o.out, "out", "", "also write the tables to this `file`, as markdown")
	f.StringVar(&o.run, "run", "both", "`with` evacuation, without, or both in turn")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("what is %q? see -h", f.Arg(0))
	case o.days < 1 || o.files < 100:
		return o, fmt.Errorf("-days %d, -files %d: want at least 1 and 100", o.days, o.files)
	case o.run != "with" && o.run != "without" && o.run != "both":
		return o, fmt.Errorf("-run %q: want with, without or both", o.run)
	}
	return o, nil
}

func benchYear(ctx context.Context, o yearOptions) (err error) {
	out := io.Writer(os.Stdout)
	if o.out != "" {
		f, err := os.Create(o.out)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		out = io.MultiWriter(os.Stdout, f)
	}
	if o.run != "without" {
		if err := simulateYear(ctx, o, false, out); err != nil {
			return err
		}
	}
	if o.run == "with" {
		return nil
	}
	return simulateYear(ctx, o, true, out)
}

func simulateYear(ctx context.Context, o yearOptions, without bool, out io.Writer) (err error) {
	dir, err := os.MkdirTemp(o.dir, "holdfast-year-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	now := clock.NewManual(time.Now())
	v, err := yearVault(ctx, filepath.Join(dir, "vault"), now, without)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	y := &year{v: v, clock: now, tree: newYearTree(o.files)}
	say("%d days, %d files, without evacuation: %v", o.days, o.files, without)
	rows, err := y.run(ctx, o.days)
	if err != nil {
		return err
	}
	rep, err := v.Check(ctx, vault.CheckOptions{ReadData: true})
	if err != nil {
		return err
	}
	if len(rep.Damage) > 0 || rep.TouchedCount > 0 {
		return fmt.Errorf("check at the end: %v, %d files touched", rep.Damage, rep.TouchedCount)
	}
	return writeYear(out, o, without, rows)
}

func yearVault(ctx context.Context, dir string, now *clock.Manual, without bool) (*vault.Vault, error) {
	var recipients []string
	var last *keys.Identity
	for range 2 { // one to unlock, one for recovery
		i, err := keys.NewIdentity()
		if err != nil {
			return nil, err
		}
		last, recipients = i, append(recipients, i.Recipient())
	}
	if _, err := vault.Init(ctx, dir, vault.NewID(), vault.InitOptions{Recipients: recipients, Clock: now}); err != nil {
		return nil, err
	}
	return vault.Open(ctx, dir, vault.Options{Identities: []*keys.Identity{last}, Clock: now, NoEvacuation: without})
}

// yearTree is what the source holds: a version for each file.
type yearTree struct {
	r     *rand.Rand
	paths []string
	files map[string]yearFile
	next  int64
	bases [][]byte // content of the databases
}

type yearFile struct {
	version int64
	size    int
	content []byte // of a database; that of a small file is made when it is read
}

const (
	yearPage     = 64 << 10
	yearPages    = 128 // of a database
	yearDatabase = 2
)

func newYearTree(files int) *yearTree {
	t := &yearTree{r: rand.New(rand.NewPCG(1, 2)), files: map[string]yearFile{}}
	for range files {
		t.add()
	}
	for i := range yearDatabase {
		t.bases = append(t.bases, make([]byte, yearPages*yearPage))
		scribble(t.bases[i], t.stamp())
		t.database(i, 0)
	}
	return t
}

func (t *yearTree) stamp() int64 { t.next++; return t.next }

// size is lognormal around 4 KB.
func (t *yearTree) size() int {
	x := 1.0
	for range 12 {
		x *= 0.5 + 1.25*t.r.Float64()
	}
	return 16 + int(min(x*4000, 1e6))
}

func (t *yearTree) add() {
	n := t.stamp()
	path := fmt.Sprintf("d%03d/f%07d", n%97, n)
	t.paths = append(t.paths, path)
	t.files[path] = yearFile{version: n, size: t.size()}
}

// database rewrites some pages of one.
func (t *yearTree) database(i, pages int) {
	for range pages {
		scribble(t.bases[i][t.r.IntN(yearPages)*yearPage:][:yearPage], t.stamp())
	}
	t.files[fmt.Sprintf("db/%d", i)] = yearFile{version: t.stamp(), size: yearPages * yearPage, content: t.bases[i]}
}

// hour changes what an hour changes: two of the twentieth of the files that are hot; every fourth time any one; every tenth
// time a file is new, and every twentieth one is gone; the log is longer. Once a week a hundredth of all changes, and two pages
// of a database.
func (t *yearTree) hour(hour int) {
	n := len(t.paths)
	for range 2 {
		t.change(t.r.IntN(max(1, n/20)))
	}
	if t.r.IntN(4) == 0 {
		t.change(t.r.IntN(n))
	}
	if t.r.IntN(10) == 0 {
		t.add()
	}
	if t.r.IntN(20) == 0 {
		i := t.r.IntN(n)
		delete(t.files, t.paths[i])
		t.paths = slices.Delete(t.paths, i, i+1)
	}
	t.files["log/current"] = yearFile{version: t.stamp(), size: 2000 + hour%24*1500}
	if hour%(7*24) == 3 {
		for range n / 100 {
			t.change(t.r.IntN(n - 1))
		}
		t.database(t.r.IntN(yearDatabase), 2)
	}
}

func (t *yearTree) change(i int) {
	t.files[t.paths[i]] = yearFile{version: t.stamp(), size: t.size()}
}

func (f yearFile) read() []byte {
	if f.content != nil {
		return f.content
	}
	b := make([]byte, f.size)
	scribble(b, f.version)
	return b
}

// scribble fills b with text that halves when it is compressed.
func scribble(b []byte, version int64) {
	r := rand.New(rand.NewPCG(uint64(version), 3))
	var bits uint64
	for i := range b {
		if i%16 == 0 {
			bits = r.Uint64()
		}
		b[i] = "etaoin shrdlu.,\n"[bits&15]
		bits >>= 4
	}
}

// year is the run of one.
type year struct {
	v     *vault.Vault
	clock *clock.Manual
	tree  *yearTree
	row   yearMonth
	pulls []time.Duration
}

func (y *year) run(ctx context.Context, days int) (rows []yearMonth, err error) {
	for day := 1; day <= days; day++ {
		for hour := range 24 {
			y.tree.hour(day*24 + hour)
			if err := y.pull(ctx); err != nil {
				return rows, fmt.Errorf("day %d, hour %d: %w", day, hour, err)
			}
			y.clock.Advance(time.Hour)
		}
		began := time.Now()
		if _, err := y.v.Prune(ctx, false); err != nil {
			return rows, fmt.Errorf("day %d: %w", day, err)
		}
		y.row.pruned = max(y.row.pruned, time.Since(began))
		// Twelve rows a year, and the last.
		if day*12/365 == (day-1)*12/365 && day < days {
			continue
		}
		if err := y.look(day); err != nil {
			return rows, err
		}
		rows = append(rows, y.row)
		y.row, y.pulls = yearMonth{}, y.pulls[:0]
		say("day %d: %+v", day, rows[len(rows)-1])
	}
	return rows, nil
}

func (y *year) look(day int) error {
	u, err := y.v.PackUsage()
	if err != nil {
		return err
	}
	all, err := y.v.Snapshots(context.Background())
	if err != nil {
		return err
	}
	set, err := all[len(all)-1].Head.PackSet()
	if err != nil {
		return err
	}
	slices.Sort(y.pulls)
	y.row.day, y.row.relied, y.row.packs = day, set.GetCardinality(), u.Packs
	y.row.live, y.row.dead = u.Bytes-u.DeadBytes, u.DeadBytes
	y.row.pullMedian, y.row.pullMost = y.pulls[len(y.pulls)/2], y.pulls[len(y.pulls)-1]
	return nil
}

func (y *year) pull(ctx context.Context) error {
	began := time.Now()
	s, err := y.v.Begin(ctx, vault.SessionOptions{Source: "web1"})
	if err != nil {
		return err
	}
	if err := y.record(ctx, s); err != nil {
		return errors.Join(err, s.Abandon())
	}
	snap, err := s.Commit(ctx, vault.CommitOptions{})
	if err != nil {
		return err
	}
	_, copied := s.Evacuated()
	y.row.copied += copied
	y.row.mostCopied = max(y.row.mostCopied, copied)
	y.row.written += snap.Head.StoredBytes
	y.pulls = append(y.pulls, time.Since(began))
	return nil
}

// record gives the tree to a session.
func (y *year) record(ctx context.Context, s *vault.Session) error {
	left := make(map[string]bool, len(y.tree.files))
	dirs := map[string]bool{}
	if err := s.Add(ctx, &snapshot.Entry{Kind: snapshot.Directory, Mode: 0o755}); err != nil {
		return err
	}
	for path := range y.tree.files {
		left[path] = true
		if parent, _ := snapshot.Split(path); !dirs[parent] {
			dirs[parent] = true
			if err := s.Add(ctx, &snapshot.Entry{Name: parent, Kind: snapshot.Directory, Mode: 0o755}); err != nil {
				return err
			}
		}
	}
	if p := s.Previous(); p != nil {
		for old, err := range p.Walk(ctx, "") {
			if err != nil {
				return err
			}
			path := old.Path()
			f, ok := y.tree.files[path]
			if !ok || old.MTime != f.version {
				continue
			}
			if ok, err := s.Reuse(ctx, &old, &old); err != nil {
				return err
			} else if ok {
				delete(left, path)
			}
		}
	}
	for path := range left {
		if err := y.read(ctx, s, path); err != nil {
			return err
		}
	}
	return nil
}

func (y *year) read(ctx context.Context, s *vault.Session, path string) error {
	f := y.tree.files[path]
	e := snapshot.Entry{Kind: snapshot.File, Mode: 0o644, MTime: f.version, Size: uint64(f.size)}
	e.Parent, e.Name = snapshot.Split(path)
	w, err := s.File(ctx, &e)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := w.Write(f.read()); err != nil {
		return err
	}
	return w.Finish(e)
}

func writeYear(w io.Writer, o yearOptions, without bool, rows []yearMonth) error {
	what := "with evacuation"
	if without {
		what = "without evacuation"
	}
	if _, err := fmt.Fprintf(w, "\n%d days, %d small files and %d of %d MiB, %s. Bytes in MB; time in milliseconds.\n\n"+
		"| day | relied on | packs | used | pinned dead | written | copied | most copied by a pull | pull, median | slowest | slowest prune |\n"+
		"|---|---|---|---|---|---|---|---|---|---|---|\n", o.days, o.files, yearDatabase, yearPages*yearPage>>20, what); err != nil {
		return err
	}
	mb := func(n uint64) string { return num(float64(n) / 1e6) }
	ms := func(d time.Duration) string { return num(float64(d.Microseconds()) / 1e3) }
	for _, r := range rows {
		if _, err := fmt.Fprintf(w, "| %d | %d | %d | %s | %s | %s | %s | %s | %s | %s | %s |\n", r.day, r.relied, r.packs, mb(r.live), mb(r.dead),
			mb(r.written), mb(r.copied), mb(r.mostCopied), ms(r.pullMedian), ms(r.pullMost), ms(r.pruned)); err != nil {
			return err
		}
	}
	return nil
}
