package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast-vault/holdfast/bench/corpus"
	"github.com/holdfast-vault/holdfast/bench/lab"
)

// run is one tool doing one row once.
type run struct {
	row, tool   string
	rep         int
	usage       lab.Usage
	flush       time.Duration // what the disk was still owed at the end
	kept, cache int64         // bytes, after a pull
	failed      string        // why there are no figures; "" if there are
}

// entry is a tool in a repetition.
type entry struct {
	tool   string
	dir    string
	c      contender
	failed string          // why it takes no further part in this repetition
	ready  bool            // set up
	pulled map[string]bool // by way of which host
}

// turn is one repetition of a suite.
type turn struct {
	st      *station
	s       suite
	rep     int
	days    [3]*corpus.Tree // [1] and [2]
	entries map[string]*entry
	runs    []run
}

// runSuite measures all rows of a suite, n times in turn. What a tool gets wrong is in its runs; an error is the bench's own.
func (st *station) runSuite(ctx context.Context, s suite) (all []run, err error) {
	t := &turn{st: st, s: s}
	t.days[1] = s.tree(st.o.scale, 1)
	t.days[2] = t.days[1]
	if slices.ContainsFunc(s.phases, func(p phase) bool { return p.day == 2 }) {
		t.days[2] = s.tree(st.o.scale, 2)
	}
	defer func() { err = errors.Join(err, st.clear()) }()
	say("%s: making the source: %d files, %.1f MB", s.name, t.days[1].Files(), float64(t.days[1].Bytes())/1e6)
	for t.rep = range st.o.n {
		if t.rep > 0 && s.many {
			if err := st.roomFor(s); err != nil {
				return all, err
			}
		}
		t.entries, t.runs = map[string]*entry{}, nil
		err := t.all(ctx)
		all = append(all, t.runs...)
		for _, e := range t.entries {
			err = errors.Join(err, st.drop(e.dir, s.many))
		}
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

func (t *turn) all(ctx context.Context) error {
	if err := t.st.settle(ctx, t.days[1]); err != nil {
		return err
	}
	for i, p := range t.s.phases {
		if err := t.prepare(ctx, p); err != nil {
			return err
		}
		want := t.days[1]
		if p.day == 2 {
			want = t.days[2]
		}
		for _, tool := range p.tools {
			if err := t.st.settle(ctx, want); err != nil {
				return err
			}
			r, err := t.measure(ctx, p, t.entries[tool])
			if err != nil {
				return err
			}
			t.runs = append(t.runs, r)
			if t.last(i, tool) {
				if err := t.st.drop(t.entries[tool].dir, t.s.many); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// last says whether a tool has nothing more to do in this repetition.
func (t *turn) last(i int, tool string) bool {
	return !slices.ContainsFunc(t.s.phases[i+1:], func(p phase) bool { return slices.Contains(p.tools, tool) })
}

// prepare brings each tool of a phase to where the phase begins: with an empty vault, or with day 1 pulled. Nothing of it is timed.
func (t *turn) prepare(ctx context.Context, p phase) error {
	for _, tool := range p.tools {
		e := t.entries[tool]
		if e == nil {
			e = &entry{tool: tool, pulled: map[string]bool{}, dir: filepath.Join(t.st.dir, fmt.Sprintf("%s-%d-%s", t.s.name, t.rep+1, tool))}
			e.c, e.failed = t.st.newContender(tool, e.dir)
			t.entries[tool] = e
		}
		if !e.ready && e.failed == "" {
			if err := e.c.setup(ctx); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				e.failed = err.Error()
			}
			e.ready = true
		}
		host := e.way(p)
		if p.first || e.pulled[host] || e.failed != "" {
			continue
		}
		say("%s: %s: pulling day 1, not timed", t.s.name, tool)
		if err := t.st.settle(ctx, t.days[1]); err != nil {
			return err
		}
		if _, err := e.c.pull(ctx, host); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			e.failed = err.Error()
		}
		e.pulled[host] = true
	}
	return nil
}

// way is the host by which a tool pulls day 1 for a phase. A plain copy is the same whichever way it came; to a tool that knows from where it pulled, another
// port is another source.
func (e *entry) way(p phase) string {
	if _, same := e.c.(copier); !same && p.far {
		return far
	}
	return near
}

// measure does one timed run.
func (t *turn) measure(ctx context.Context, p phase, e *entry) (run, error) {
	r := run{row: p.row, tool: e.tool, rep: t.rep, failed: e.failed}
	if e.failed == "" {
		before := t.st.server.CPU()
		limited, cancel := context.WithTimeout(ctx, patience)
		err := t.act(limited, p, e, &r)
		cancel()
		if ctx.Err() != nil {
			return r, ctx.Err()
		}
		if r.usage.ServerCPU = t.st.server.CPU() - before; before < 0 {
			r.usage.ServerCPU = -1
		}
		if err != nil {
			r.failed, e.failed = err.Error(), err.Error()
		}
	}
	if r.failed != "" {
		say("%s %d/%d %s: not measured: %s", p.row, t.rep+1, t.st.o.n, e.tool, r.failed)
		return r, nil
	}
	say("%s %d/%d %s: %.2f s, %.0f MiB", p.row, t.rep+1, t.st.o.n, e.tool, r.usage.Wall.Seconds(), memory.of(r))
	return r, nil
}

func (t *turn) act(ctx context.Context, p phase, e *entry, r *run) (err error) {
	switch p.verb {
	case restore:
		return t.restore(ctx, e, r)
	case check:
		c, ok := e.c.(checker)
		if !ok {
			return fmt.Errorf("%s checks nothing", e.tool)
		}
		r.usage, err = c.check(ctx)
		return err
	}
	host := near
	if p.far {
		host = far
	}
	if r.usage, err = e.c.pull(ctx, host); err != nil {
		return err
	}
	r.flush = t.st.flush()
	e.pulled[e.way(p)] = true
	if c, ok := e.c.(copier); ok {
		if err := corpus.Verify(c.copied(), t.st.tree); err != nil {
			return fmt.Errorf("what was copied is not what the source has: %w", err)
		}
	}
	r.kept, r.cache, err = e.c.size()
	return err
}

func (t *turn) restore(ctx context.Context, e *entry, r *run) error {
	c, ok := e.c.(restorer)
	if !ok {
		return fmt.Errorf("%s gives nothing back", e.tool)
	}
	to := filepath.Join(t.st.dir, "out")
	root, u, err := c.restore(ctx, to)
	r.usage, r.flush = u, t.st.flush()
	if err == nil {
		if err = corpus.Verify(root, t.st.tree); err != nil {
			err = fmt.Errorf("what was given back is not what the source has: %w", err)
		}
	}
	dropped := t.st.drop(to, t.s.many)
	if os.IsNotExist(dropped) {
		dropped = nil
	}
	return errors.Join(err, dropped)
}
