package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// report is everything that was measured, and where.
type report struct {
	o                     options
	machine               []string
	loadBefore, loadAfter string
	runs                  []run
}

// spread is minimum, median and maximum.
type spread struct{ min, median, max float64 }

func (s spread) String() string {
	return fmt.Sprintf("%s (%s .. %s)", num(s.median), num(s.min), num(s.max))
}

// num prints three digits that matter.
func num(x float64) string {
	switch {
	case math.Abs(x) >= 100:
		return fmt.Sprintf("%.0f", x)
	case math.Abs(x) >= 10:
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.2f", x)
}

// spreadOf is false for no figures at all. The median of an even number is the mean of the middle two.
func spreadOf(xs []float64) (spread, bool) {
	if len(xs) == 0 {
		return spread{}, false
	}
	xs = slices.Sorted(slices.Values(xs))
	n := len(xs)
	return spread{xs[0], (xs[(n-1)/2] + xs[n/2]) / 2, xs[n-1]}, true
}

// of are the runs of a tool in a row, by repetition, without those that failed.
func (r *report) of(row, tool string) map[int]run {
	out := map[int]run{}
	for _, x := range r.runs {
		if x.row == row && x.tool == tool && x.failed == "" {
			out[x.rep] = x
		}
	}
	return out
}

func (r *report) failure(row, tool string) string {
	for _, x := range r.runs {
		if x.row == row && x.tool == tool && x.failed != "" {
			return x.failed
		}
	}
	return ""
}

// over gives a figure of every run, in no order.
func over(runs map[int]run, of func(run) float64) (out []float64) {
	for _, x := range runs {
		out = append(out, of(x))
	}
	return out
}

// cell is a figure's spread, or a dash.
func cell(runs map[int]run, of func(run) float64) string {
	var known []float64
	for _, x := range over(runs, of) {
		if !math.IsNaN(x) {
			known = append(known, x)
		}
	}
	s, ok := spreadOf(known)
	if !ok {
		return "-"
	}
	return s.String()
}

func median(runs map[int]run, of func(run) float64) string {
	s, ok := spreadOf(over(runs, of))
	if !ok || s.median == 0 || math.IsNaN(s.median) {
		return "-"
	}
	return num(s.median)
}

// ratios are ours divided by the peer's, of the same repetition.
func ratios(ours, theirs map[int]run, of func(run) float64) (out []float64) {
	for rep, a := range ours {
		if b, ok := theirs[rep]; ok && of(b) > 0 {
			out = append(out, of(a)/of(b))
		}
	}
	return out
}

func serverCPU(r run) float64 {
	if r.usage.ServerCPU < 0 {
		return math.NaN()
	}
	return r.usage.ServerCPU.Seconds()
}

// write writes markdown.
func (r *report) write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Scale %v, %d paired runs of each row, long link with a round trip of %v%s.\n\n", r.o.scale, r.o.n, r.o.roundTrip, r.rate())
	for _, line := range r.machine {
		fmt.Fprintf(&b, "- %s\n", line)
	}
	fmt.Fprintf(&b, "- load average before and after: %s; %s\n", r.loadBefore, cmp.Or(r.loadAfter, "not finished"))
	b.WriteString("\nMedian (minimum .. maximum). CPU is of the tool, of sshfs beside it, and of the source's sshd, in seconds. Memory is of the tool and sshfs.\n" +
		"Then sync is how long the kernel wrote on after the tool's end what the tool had not made durable. Stored is without parity and without caches. A ratio is ours to the tool's in the same repetition.\n")
	r.rows(&b)
	r.demands(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *report) rate() string {
	if r.o.rate == 0 {
		return ""
	}
	return fmt.Sprintf(" and %s MB/s", num(float64(r.o.rate)/1e6))
}

func (r *report) rows(b *strings.Builder) {
	b.WriteString("\n| row | tool | wall s | ratio | then sync s | CPU tool | sshfs | sshd | memory MiB | stored MB | cache MB |\n|---|---|---|---|---|---|---|---|---|---|---|\n")
	var notes []string
	rows := map[string][]string{} // of a note
	for _, s := range suites {
		for _, p := range s.phases {
			for _, tool := range p.tools {
				runs, why := r.of(p.row, tool), r.failure(p.row, tool)
				if note := tool + ": " + why; why != "" {
					if rows[note] == nil {
						notes = append(notes, note)
					}
					rows[note] = append(rows[note], p.row)
				}
				if len(runs) == 0 && why == "" {
					continue
				}
				ratio := "-"
				if tool != us {
					if s, ok := spreadOf(ratios(r.of(p.row, us), runs, wall.of)); ok {
						ratio = s.String()
					}
				}
				fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", p.row, tool, cell(runs, wall.of), ratio,
					median(runs, func(x run) float64 { return x.flush.Seconds() }),
					median(runs, func(x run) float64 { return x.usage.CPU.Seconds() }), median(runs, func(x run) float64 { return x.usage.HelperCPU.Seconds() }),
					median(runs, serverCPU), median(runs, memory.of), median(runs, stored.of), median(runs, func(x run) float64 { return float64(x.cache) / 1e6 }))
			}
		}
	}
	for i, n := range notes {
		if i == 0 {
			b.WriteString("\nNot measured, or not in every repetition:\n\n")
		}
		fmt.Fprintf(b, "- %s: %s\n", strings.Join(rows[n], ", "), strings.ReplaceAll(n, "\n", " "))
	}
}

func (r *report) demands(b *strings.Builder) {
	fmt.Fprintf(b, "\n| row | what | against | median (minimum .. maximum) | limit | |\n|---|---|---|---|---|---|\n")
	for _, d := range demands {
		xs, against := r.figures(d)
		s, ok := spreadOf(xs)
		if !ok {
			continue
		}
		verdict := "met"
		switch {
		case r.o.scale != 1:
			verdict = "not judged at this scale"
		case s.median > d.limit:
			verdict = "MISSED"
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s |\n", d.row, d.measure.name, against, s, num(d.limit), verdict)
	}
}

// figures are what a demand compares with its limit, one of each repetition that has all that it takes.
func (r *report) figures(d demand) (xs []float64, against string) {
	ours := r.of(d.row, us)
	if d.tool != "" {
		ours = r.of(d.row, d.tool)
	}
	switch {
	case d.other != "":
		return ratios(ours, r.of(d.other, us), d.measure.of), d.other
	case len(d.peers) == 0:
		return over(ours, d.measure.of), "-"
	}
	for rep, a := range ours {
		least := math.Inf(1)
		for _, peer := range d.peers {
			if x, ok := r.of(d.row, peer)[rep]; ok && d.measure.of(x) > 0 {
				least = min(least, d.measure.of(x))
			}
		}
		if !math.IsInf(least, 1) {
			xs = append(xs, d.measure.of(a)/least)
		}
	}
	against = "least of " + strings.Join(d.peers, ", ")
	for _, peer := range d.peers {
		if len(r.of(d.row, peer)) < len(ours) {
			against += "; " + peer + " not always measured"
		}
	}
	return xs, against
}
