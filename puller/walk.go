package puller

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/holdfast-vault/holdfast/puller/remote"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// listing is what a directory was found to hold.
type listing struct {
	entries []remote.Entry // sorted by name
	bad     []remote.NameProblem
	err     error // why there may be more
}

// remotePath is the source's path of one below the root.
func (p *pull) remotePath(path string) string {
	if path == "" {
		return p.job.Root
	}
	return remote.Join(p.job.Root, path)
}

// list lists a directory. Next to a *remote.LimitError the listing holds what was found within the limit.
func (p *pull) list(ctx context.Context, path string) (*listing, error) {
	l := &listing{}
	err := p.link.do(ctx, nil, func(ctx context.Context, r Remote) (err error) {
		l.entries, l.bad, err = r.ReadDir(ctx, p.remotePath(path))
		return err
	})
	byName := func(a, b remote.Entry) int { return strings.Compare(a.Name, b.Name) }
	if !slices.IsSortedFunc(l.entries, byName) {
		slices.SortFunc(l.entries, byName)
	}
	return l, err
}

func isLimit(err error) bool {
	var limit *remote.LimitError
	return errors.As(err, &limit)
}

// walk lists directories until none is left.
func (p *pull) walk(ctx context.Context) error {
	for {
		d, ok := p.frontier.pop(ctx)
		if !ok {
			return ctx.Err()
		}
		err := p.directory(ctx, d)
		p.frontier.done()
		if err != nil {
			return err
		}
	}
}

// directory lists one directory, records it and deals with what is in it.
func (p *pull) directory(ctx context.Context, d dir) error {
	l, err := d.listing, error(nil)
	if l != nil {
		err = l.err
	} else if l, err = p.list(ctx, d.path); err != nil && !isLimit(err) {
		return p.unlisted(ctx, d, err)
	}
	if err != nil {
		p.problem(d.path, ProblemLimit, err.Error())
	}
	p.count.listed.Add(1)
	if d.rest {
		p.push(d, l.entries)
		return nil
	}
	if ok, err := p.addDirectory(ctx, d); err != nil || !ok {
		return err
	}
	for _, bad := range l.bad {
		p.problem(d.path, ProblemName, bad.String())
	}
	if !p.admit(d.path, len(l.entries)) {
		return nil
	}
	p.exclude(d.path, l)
	p.countFound(l.entries)
	p.push(d, l.entries)
	p.frontier.hold(len(l.entries))
	return p.compare(ctx, d.path, l.entries)
}

// admit counts entries against the limit; false ends the walk.
func (p *pull) admit(path string, n int) bool {
	total, limit := p.count.entries.Add(uint64(n)), p.job.Limits.Entries
	if limit == 0 || total <= limit {
		return true
	}
	p.stopWalk(path, fmt.Sprintf("more than %d entries, the limit of this source: this directory's and all that were not reached are left out", limit))
	return false
}

// exclude takes out what the patterns exclude.
func (p *pull) exclude(parent string, l *listing) {
	if p.job.Excludes == nil || len(p.job.Excludes.patterns) == 0 {
		return
	}
	before := len(l.entries)
	l.entries = slices.DeleteFunc(l.entries, func(e remote.Entry) bool {
		return p.job.Excludes.Match(join(parent, e.Name), e.Kind == remote.Directory)
	})
	p.count.excluded.Add(uint64(before - len(l.entries)))
}

// countFound counts the files that are to be dealt with.
func (p *pull) countFound(entries []remote.Entry) {
	var files, bytes uint64
	for i := range entries {
		if entries[i].Kind == remote.File {
			files++
			bytes += entries[i].Size
		}
	}
	p.count.foundFiles.Add(files)
	p.count.foundBytes.Add(bytes)
}

// push hands the directories among the entries to the frontier.
func (p *pull) push(d dir, entries []remote.Entry) {
	var found []remote.Entry
	for _, e := range entries {
		switch {
		case e.Kind != remote.Directory:
		case d.rest && e.Name <= d.after:
		// A directory that is listed again for its rest has not been through exclude.
		case d.rest && p.job.Excludes.Match(join(d.path, e.Name), true):
		default:
			found = append(found, e)
		}
	}
	p.frontier.push(d, found)
}

// unlisted deals with a directory that gave no listing. Nothing is concluded about what is in it.
func (p *pull) unlisted(ctx context.Context, d dir, cause error) error {
	v, err := p.judge(ctx, d.path, cause)
	switch {
	case err != nil:
		return err
	case v.gone:
		p.vanished(d.path)
		return nil
	case v.now != nil && v.now.Kind != remote.Directory:
		p.problem(d.path, ProblemChanged, fmt.Sprintf("was a directory when its parent was listed, and is a %v now", v.now.Kind))
		return nil
	}
	p.problem(d.path, v.kind, v.reason)
	if d.rest {
		return nil // its entry stands already
	}
	_, err = p.addDirectory(ctx, d)
	return err
}

// verdict is what an error of an operation means for its path.
type verdict struct {
	gone         bool         // it was deleted
	now          *remote.Attr // what is there now, where that was looked at
	kind, reason string       // the problem that it is otherwise
}

// judge decides what an error means. Only a path that Lstat does not find is gone. An error ends the pull.
func (p *pull) judge(ctx context.Context, path string, cause error) (verdict, error) {
	if err := p.fatal(ctx, cause); err != nil {
		return verdict{}, err
	}
	v := verdict{kind: kindOf(cause), reason: cause.Error()}
	if !errors.Is(cause, fs.ErrNotExist) {
		return v, nil
	}
	var attr remote.Attr
	err := p.link.do(ctx, nil, func(ctx context.Context, r Remote) (err error) {
		attr, err = r.Lstat(ctx, p.remotePath(path))
		return err
	})
	switch {
	case err == nil:
		v.now = &attr
	case p.fatal(ctx, err) != nil:
		return verdict{}, p.fatal(ctx, err)
	case errors.Is(err, fs.ErrNotExist):
		v.gone = true
	default:
		v.kind, v.reason = kindOf(err), err.Error()
	}
	return v, nil
}

// fatal says whether an error of an operation ends the pull.
func (p *pull) fatal(ctx context.Context, err error) error {
	var over *overError
	switch {
	case errors.As(err, &over):
		return err
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return nil
}

// kindOf names the kind of problem that an error of a path is.
func kindOf(err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return ProblemDenied
	case errors.Is(err, remote.ErrStalled):
		return ProblemStalled
	case transient(err):
		return ProblemLost
	case isLimit(err):
		return ProblemLimit
	}
	return ProblemUnreadable
}

// vanished counts a path that was listed and is gone: a source that is alive deletes files, and that is no problem.
func (p *pull) vanished(path string) {
	p.count.vanished.Add(1)
	p.note("%q was gone before it could be read", path)
}

// compare goes through a directory's entries beside the previous snapshot's, both sorted by name, and deals with
// those that are no directories.
func (p *pull) compare(ctx context.Context, parent string, entries []remote.Entry) error {
	next := 0 // entries before it are dealt with
	defer func() { p.frontier.hold(next - len(entries)) }()
	deal := func(old *snapshot.Entry) error {
		e := entries[next]
		entries[next] = remote.Entry{}
		next++
		p.frontier.hold(-1)
		if e.Kind == remote.Directory {
			return nil
		}
		return p.entry(ctx, parent, e, old)
	}
	for old, err := range p.before(ctx, parent) {
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, snapshot.ErrNotDirectory) {
				p.note("the previous snapshot cannot be compared with in %q, so everything there is read: %v", parent, err)
			}
			break
		}
		for next < len(entries) && entries[next].Name < old.Name {
			if err := deal(nil); err != nil {
				return err
			}
		}
		if next == len(entries) {
			break
		}
		if entries[next].Name == old.Name {
			if err := deal(&old); err != nil {
				return err
			}
		}
	}
	for next < len(entries) {
		if err := deal(nil); err != nil {
			return err
		}
	}
	return nil
}

// before lists a directory of the previous snapshot; nothing when there is none.
func (p *pull) before(ctx context.Context, parent string) func(func(snapshot.Entry, error) bool) {
	if p.previous == nil {
		return func(func(snapshot.Entry, error) bool) {}
	}
	return p.previous.List(ctx, parent)
}
