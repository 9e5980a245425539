package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/bench/corpus"
	"github.com/holdfast-vault/holdfast/bench/lab"
)

// need skips where tools are missing, naming all of them; with HOLDFAST_REQUIRE_ALL=1 it fails.
func need(t *testing.T, tools ...string) {
	t.Helper()
	missing := slices.DeleteFunc(tools, func(tool string) bool { return lab.Find(tool) != "" })
	switch {
	case len(missing) == 0:
	case os.Getenv("HOLDFAST_REQUIRE_ALL") == "1":
		t.Fatalf("needs tools that are not installed: %s", strings.Join(missing, ", "))
	default:
		t.Skipf("needs tools that are not installed: %s", strings.Join(missing, ", "))
	}
}

func testOptions(t *testing.T) options {
	t.Helper()
	o, err := parse([]string{"-scale", "0.0005", "-n", "1", "-rtt", "2ms", "-dir", t.TempDir(), "-install=false", "-sync=false"})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// The whole bench on a handful of files, with the two tools that are always here: a bench that has rotted is
// found out on the day on which figures are needed.
func TestBench(t *testing.T) {
	need(t, "sshd", "ssh", "ssh-keygen", "rsync", "go")
	o := testOptions(t)
	st, err := newStation(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("every kind of row is measured", func(t *testing.T) { measuresEveryKindOfRow(t, st) })
	t.Run("an incomplete copy does not win", func(t *testing.T) { incompleteCopyIsNotMeasured(t, st) })
	if err := st.close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(o.dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func measuresEveryKindOfRow(t *testing.T, st *station) {
	s := suites[0]
	s.phases = slices.Clone(s.phases)
	for i, p := range s.phases {
		s.phases[i].tools = slices.DeleteFunc(slices.Clone(p.tools), func(tool string) bool { return tool != us && tool != rsync })
	}
	if err := st.roomFor(s); err != nil {
		t.Fatal(err)
	}
	runs, err := st.runSuite(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if want := 2*4 + 2; len(runs) != want {
		t.Errorf("%d runs, want %d", len(runs), want)
	}
	for _, x := range runs {
		switch {
		case x.failed != "":
			t.Errorf("%s %s: %s", x.row, x.tool, x.failed)
		case x.usage.Wall <= 0 || x.usage.PeakBytes < 1<<20 || x.usage.ServerCPU < 0:
			t.Errorf("%s %s: %+v", x.row, x.tool, x.usage)
		case x.row == "small-first" && x.kept < 50_000:
			t.Errorf("%s keeps %d bytes", x.tool, x.kept)
		}
	}
	r := &report{o: st.o, machine: machine(t.Context(), st, toolsOf([]suite{s})), runs: runs}
	var out bytes.Buffer
	if err := r.write(&out); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"| small-first | rsync | ", "| small-restore | holdfast | ", "rsync: rsync", "not judged at this scale"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("the report has no %q:\n%s", part, out.String())
		}
	}
}

func incompleteCopyIsNotMeasured(t *testing.T, st *station) {
	day := corpus.Small(30, 1)
	turn := &turn{st: st, s: suite{name: "X"}, entries: map[string]*entry{}}
	turn.days[1], turn.days[2] = day, day
	p := phase{row: "x", verb: pull, first: true, tools: []string{rsync, us}}
	if err := st.settle(t.Context(), day); err != nil {
		t.Fatal(err)
	}
	if err := turn.prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(day.Entries, func(e corpus.Entry) bool { return e.Kind == corpus.File })
	if err := os.Remove(filepath.Join(st.source, day.Entries[i].Path)); err != nil {
		t.Fatal(err)
	}
	for _, tool := range p.tools {
		r, err := turn.measure(t.Context(), p, turn.entries[tool])
		if err != nil || r.failed == "" {
			t.Errorf("%s: %+v, %v", tool, r, err)
		}
	}
}

// A demand on a row or a tool that is not there would never be missed.
func TestDemandsAreOnRowsThatExist(t *testing.T) {
	tools := map[string][]string{}
	for _, s := range suites {
		for _, p := range s.phases {
			if tools[p.row] != nil {
				t.Errorf("two rows are called %s", p.row)
			}
			tools[p.row] = p.tools
		}
	}
	for _, d := range demands {
		if !slices.Contains(tools[d.row], us) || d.other != "" && !slices.Contains(tools[d.other], us) {
			t.Errorf("%s: no such row of ours", d.row)
		}
		for _, peer := range d.peers {
			if !slices.Contains(tools[d.row], peer) {
				t.Errorf("%s: %s takes no part", d.row, peer)
			}
		}
	}
	for tool := range programs {
		if versionArgs[tool] == nil {
			t.Errorf("%s does not say its version", tool)
		}
	}
}

func TestRowsAreChosenByPattern(t *testing.T) {
	got, err := choose([]string{"far-*", "small-check"})
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for _, s := range got {
		for _, p := range s.phases {
			rows = append(rows, p.row)
		}
	}
	if want := "far-unchanged small-check far-file far-small far-flat"; strings.Join(rows, " ") != want {
		t.Errorf("%v", rows)
	}
	for _, bad := range []string{"smal-*", "["} {
		if _, err := choose([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// Ratios are of the same repetition, against the better of the peers in each: medians of other pairs would say something else.
func TestRatiosArePaired(t *testing.T) {
	r := &report{o: options{scale: 1}}
	for rep, secs := range [][3]int{{10, 20, 40}, {30, 100, 60}, {8, 0, 16}} {
		for i, tool := range []string{us, restic, borg} {
			x := run{row: "small-restore", tool: tool, rep: rep, usage: lab.Usage{Wall: time.Duration(secs[i]) * time.Second}}
			if secs[i] == 0 {
				x.failed = "it fell over"
			}
			r.runs = append(r.runs, x)
		}
	}
	d := demand{row: "small-restore", measure: wall, peers: []string{restic, borg}, limit: 0.8}
	xs, against := r.figures(d)
	if slices.Sort(xs); !slices.Equal(xs, []float64{0.5, 0.5, 0.5}) || !strings.Contains(against, "restic not always") {
		t.Errorf("%v against %q", xs, against)
	}
	if s, _ := spreadOf([]float64{4, 1, 3, 2}); s != (spread{1, 2.5, 4}) {
		t.Errorf("%+v", s)
	}
	var out bytes.Buffer
	if err := r.write(&out); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"0.50 (0.50 .. 0.50) | 0.80 | met", "small-restore: restic: it fell over", "| 0.40 (0.30 .. 0.50) |"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("no %q in\n%s", part, out.String())
		}
	}
}

// Parity is what the others do not have: counted as stored it would hide what deduplication gained.
func TestParityIsLeftOutOfStoredBytes(t *testing.T) {
	dir := t.TempDir()
	const data, parity = 1000, 5000
	tail := make([]byte, tailBytes)
	copy(tail, "HFTAIL\r\n")
	binary.BigEndian.PutUint64(tail[24:], data-100)
	binary.BigEndian.PutUint32(tail[32:], 100)
	pack := append(make([]byte, data+parity), tail...)
	if err := os.WriteFile(filepath.Join(dir, "1.pack"), pack, 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := parityOf(dir); err != nil || n != parity {
		t.Errorf("%d, %v", n, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "2.pack"), pack[:data], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := parityOf(dir); err == nil {
		t.Error("a pack without a tail has parity")
	}
}

// Memory and processor time are the program's own, and a program that ends badly has no figures.
func TestRunMeasuresWhatItRan(t *testing.T) {
	need(t, "sh")
	sh := lab.Command{Path: lab.Find("sh"), Args: []string{"-c", "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; echo done"}, Env: lab.Env(t.TempDir())}
	out, u, err := lab.Run(t.Context(), sh)
	if err != nil || trimmed(out) != "done" {
		t.Fatalf("%q, %v", out, err)
	}
	if u.CPU <= 0 || u.CPU > 2*u.Wall || u.PeakBytes < 100<<10 || u.PeakBytes > 8<<20 {
		t.Errorf("%+v", u)
	}
	sh.Args[1] = "echo why >&2; exit 7"
	if _, _, err := lab.Run(t.Context(), sh); err == nil || !strings.Contains(err.Error(), "why") {
		t.Errorf("%v", err)
	}
}
