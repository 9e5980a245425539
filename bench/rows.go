package main

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/holdfast-vault/holdfast/bench/corpus"
)

// verb is what is timed.
type verb string

const (
	pull    verb = "pull"
	restore verb = "restore"
	check   verb = "check"
)

// phase is one row: some tools do the same thing, each in its own vault, repository or copy.
type phase struct {
	row   string
	what  string
	verb  verb
	first bool // into nothing; else each tool has pulled day 1 before
	far   bool // over the long link
	day   int  // of the source
	tools []string
}

// suite is a corpus and the rows that are measured on it, in this order, in every repetition.
type suite struct {
	name   string
	tree   func(scale float64, day int) *corpus.Tree
	phases []phase
	// many small files: old trees are moved aside, for ext4 makes a tree several times slower right after one was removed.
	many bool
	// gigabytes that the suite needs at most at full scale, its source included; with many, of one repetition.
	gigabytes float64
}

const (
	us     = "holdfast"
	kept   = "holdfast with a keeper"
	rsync  = "rsync"
	rclone = "rclone"
	sftp   = "sftp"
	restic = "restic"
	borg   = "borg"
)

var suites = []suite{
	{
		name: "SMALL", many: true, gigabytes: 9,
		tree: func(scale float64, day int) *corpus.Tree { return corpus.Small(times(100_000, scale), day) },
		phases: []phase{
			{row: "small-first", what: "first pull of SMALL, loopback", verb: pull, first: true, tools: []string{us, rsync, restic, borg}},
			{row: "small-unchanged", what: "pull of an unchanged SMALL", verb: pull, tools: []string{us, rsync, restic}},
			{row: "far-unchanged", what: "long link: unchanged SMALL", verb: pull, far: true, tools: []string{us, rsync}},
			{row: "small-restore", what: "full restore of SMALL", verb: restore, tools: []string{us, restic, borg}},
			{row: "small-check", what: "check of all data of SMALL", verb: check, tools: []string{us, restic}},
			{row: "small-day2", what: "DAY2 of SMALL", verb: pull, day: 2, tools: []string{us, rsync, restic, borg}},
		},
	},
	{
		name: "LARGE", gigabytes: 19,
		tree: corpus.Large,
		phases: []phase{
			{row: "large-first", what: "first pull of LARGE, loopback", verb: pull, first: true, tools: []string{us, rclone, restic, borg}},
			{row: "large-restore", what: "full restore of LARGE", verb: restore, tools: []string{us, restic, borg}},
			{row: "large-check", what: "check of all data of LARGE", verb: check, tools: []string{us, restic}},
			{row: "large-day2", what: "DAY2 of LARGE", verb: pull, day: 2, tools: []string{us, rsync, restic, borg}},
		},
	},
	{
		name: "FILE", gigabytes: 3,
		tree: func(scale float64, _ int) *corpus.Tree { return corpus.One(int64(scale * (1 << 30))) },
		phases: []phase{{
			row: "far-file", what: "long link: one file of 1 GiB", verb: pull, first: true, far: true,
			tools: []string{us, rsync, sftp, rclone},
		}},
	},
	{
		name: "20K", many: true, gigabytes: 1,
		tree: func(scale float64, _ int) *corpus.Tree { return corpus.Small(times(20_000, scale), 1) },
		phases: []phase{{
			row: "far-small", what: "long link: 20k small files", verb: pull, first: true, far: true, tools: []string{us, rsync},
		}},
	},
	{
		name: "FLAT", many: true, gigabytes: 1,
		tree: func(scale float64, _ int) *corpus.Tree { return corpus.Flat(times(300_000, scale)) },
		phases: []phase{{
			row: "far-flat", what: "long link: unchanged directory of 300k entries", verb: pull, far: true, tools: []string{us},
		}},
	},
	{
		name: "KEPT", many: true, gigabytes: 5,
		tree: func(scale float64, day int) *corpus.Tree { return corpus.Small(times(100_000, scale), day) },
		phases: []phase{
			{row: "keeper-first", what: "first pull of SMALL, without and with a keeper", verb: pull, first: true, tools: []string{us, kept}},
			{row: "keeper-unchanged", what: "pull of an unchanged SMALL, without and with a keeper", verb: pull, tools: []string{us, kept}},
		},
	},
	growth("growth-10k", 10_000, 0.5),
	growth("growth-100k", 100_000, 1),
	growth("growth-1m", 1_000_000, 6),
}

func growth(row string, files int, gigabytes float64) suite {
	return suite{
		name: strings.ToUpper(row), many: true, gigabytes: gigabytes,
		tree: func(scale float64, _ int) *corpus.Tree { return corpus.Tiny(times(files, scale)) },
		phases: []phase{{
			row: row, what: fmt.Sprintf("pull of %d unchanged files", files), verb: pull, tools: []string{us},
		}},
	}
}

func times(n int, scale float64) int { return max(1, int(math.Round(float64(n)*scale))) }

// choose keeps the rows that one of the patterns names (as a shell would), in the suites that still have any.
func choose(patterns []string) (out []suite, err error) {
	used := make([]bool, len(patterns))
	for _, s := range suites {
		kept := s.phases[:0:0]
		for _, p := range s.phases {
			wanted := false
			for i, pattern := range patterns {
				if ok, err := path.Match(pattern, p.row); err != nil {
					return nil, fmt.Errorf("-rows: pattern %q: %w", pattern, err)
				} else if ok {
					used[i], wanted = true, true
				}
			}
			if wanted {
				kept = append(kept, p)
			}
		}
		if s.phases = kept; len(kept) > 0 {
			out = append(out, s)
		}
	}
	if i := slices.Index(used, false); i >= 0 {
		return nil, fmt.Errorf("-rows: no row is called %q; there are %s", patterns[i], strings.Join(rowNames(), ", "))
	}
	return out, nil
}

func rowNames() (out []string) {
	for _, s := range suites {
		for _, p := range s.phases {
			out = append(out, p.row)
		}
	}
	return out
}

// toolsOf are the tools that the suites need, each once.
func toolsOf(list []suite) (out []string) {
	for _, s := range list {
		for _, p := range s.phases {
			for _, t := range p.tools {
				if !slices.Contains(out, t) {
					out = append(out, t)
				}
			}
		}
	}
	return out
}

// demand is a limit: what is measured of us, or of us with a keeper, divided by the least that any of the peers needs in the same repetition.
type demand struct {
	row     string
	measure measure
	tool    string   // whose; "" for us
	peers   []string // none: what is measured of us, alone
	other   string   // instead of peers: us in another row
	limit   float64
}

// measure is a figure of a run.
type measure struct {
	name string
	of   func(r run) float64
}

var (
	wall   = measure{"wall, s", func(r run) float64 { return r.usage.Wall.Seconds() }}
	stored = measure{"stored, MB", func(r run) float64 { return float64(r.kept) / 1e6 }}
	memory = measure{"peak memory, MiB", func(r run) float64 { return float64(r.usage.PeakBytes) / (1 << 20) }}
)

var demands = append([]demand{
	{row: "small-first", measure: wall, peers: []string{rsync}, limit: 1.0},
	{row: "small-first", measure: wall, peers: []string{restic, borg}, limit: 0.3},
	{row: "large-first", measure: wall, peers: []string{rclone}, limit: 1.25},
	{row: "large-first", measure: wall, peers: []string{restic, borg}, limit: 0.5},
	{row: "small-unchanged", measure: wall, peers: []string{rsync}, limit: 1.0},
	{row: "small-unchanged", measure: wall, peers: []string{restic}, limit: 0.25},
	{row: "small-day2", measure: wall, peers: []string{rsync}, limit: 1.2},
	{row: "small-day2", measure: wall, peers: []string{restic}, limit: 0.5},
	{row: "large-day2", measure: wall, peers: []string{rsync}, limit: 1.2},
	{row: "large-day2", measure: wall, peers: []string{restic}, limit: 0.5},
	{row: "far-file", measure: wall, peers: []string{rsync, sftp, rclone}, limit: 0.25},
	{row: "far-small", measure: wall, peers: []string{rsync}, limit: 0.8},
	{row: "far-unchanged", measure: wall, peers: []string{rsync}, limit: 1.0},
	{row: "far-flat", measure: wall, limit: 10},
	{row: "small-first", measure: stored, peers: []string{restic, borg}, limit: 0.95},
	{row: "large-first", measure: stored, peers: []string{restic, borg}, limit: 1.0},
	{row: "small-day2", measure: stored, peers: []string{restic, borg}, limit: 0.95},
	{row: "large-day2", measure: stored, peers: []string{restic, borg}, limit: 1.0},
	{row: "small-restore", measure: wall, peers: []string{restic, borg}, limit: 0.8},
	{row: "large-restore", measure: wall, peers: []string{restic, borg}, limit: 0.8},
	{row: "small-check", measure: wall, peers: []string{restic}, limit: 1.0},
	{row: "large-check", measure: wall, peers: []string{restic}, limit: 1.0},
	{row: "keeper-first", measure: wall, tool: kept, peers: []string{us}, limit: 1.08},
	{row: "keeper-unchanged", measure: wall, tool: kept, peers: []string{us}, limit: 1.08},
	{row: "growth-100k", measure: wall, other: "growth-10k", limit: 10},
	{row: "growth-1m", measure: wall, other: "growth-100k", limit: 10},
}, memoryDemands()...)

func memoryDemands() (out []demand) {
	for _, row := range rowNames() {
		limit := 350.0
		if row == "growth-1m" {
			limit = 400
		}
		out = append(out, demand{row: row, measure: memory, limit: limit})
	}
	return out
}
