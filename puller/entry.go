package puller

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/holdfast-vault/holdfast/puller/remote"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// task is an entry that needs the source again: a file to be read, or a link.
type task struct {
	parent, name string
	attr         remote.Attr
	known        bool // the previous snapshot has one of this name and kind
	unchanged    bool // and its attributes were the same
}

func (t task) path() string { return join(t.parent, t.name) }

// entryOf makes an entry of what was listed, without content.
func entryOf(parent, name string, a remote.Attr) snapshot.Entry {
	e := snapshot.Entry{
		Parent: parent, Name: name, Kind: snapshot.Kind(a.Kind), Mode: a.Mode & snapshot.MaxMode,
		UID: a.UID, GID: a.GID, MTime: a.MTime,
	}
	if a.Kind == remote.File {
		e.Size = a.Size
	}
	return e
}

// untrusted are the flags of an entry whose content may not be what its attributes say.
const untrusted = snapshot.Racy | snapshot.Changed | snapshot.Short | snapshot.Grew

// same says whether nothing differs between two entries that the source can show.
func same(e, old *snapshot.Entry) bool {
	return e.Kind == old.Kind && e.Size == old.Size && e.MTime == old.MTime &&
		e.Mode == old.Mode && e.UID == old.UID && e.GID == old.GID
}

// stands says whether an entry of an earlier run may stand for e: nothing differs, and that proves something.
func stands(e, old *snapshot.Entry) bool {
	return same(e, old) && e.MTime != 0 && old.Flags&untrusted == 0
}

// entry deals with one entry that is not a directory: what needs nothing from the source is recorded at once, the rest
// goes to the readers.
func (p *pull) entry(ctx context.Context, parent string, found remote.Entry, old *snapshot.Entry) error {
	e := entryOf(parent, found.Name, found.Attr)
	if err := e.Check(); err != nil {
		p.problem(e.Path(), ProblemName, err.Error())
		return nil
	}
	if old != nil && old.Kind != e.Kind {
		old = nil // another thing of the same name
	}
	t := task{parent: parent, name: found.Name, attr: found.Attr, known: old != nil, unchanged: old != nil && same(&e, old)}
	switch found.Kind {
	case remote.File:
		return p.foundFile(ctx, t, &e, old)
	case remote.Symlink:
		if old == nil || !stands(&e, old) || p.job.FullReread {
			return p.hand(ctx, t)
		}
		e.Target = old.Target
		p.count.links.Add(1)
	case remote.Unknown:
		p.problem(e.Path(), ProblemKind, "the source does not say what it is: nothing of it is read")
		p.count.specials.Add(1)
	default:
		p.count.specials.Add(1) // never opened: a FIFO would wait for its writer
	}
	return p.session.Add(ctx, &e)
}

// foundFile records a file that is empty, unchanged or finished by an interrupted run, and hands on any other.
func (p *pull) foundFile(ctx context.Context, t task, e, old *snapshot.Entry) error {
	if e.Size == 0 {
		p.countFile(t.known, t.unchanged)
		return p.session.Add(ctx, e)
	}
	if old != nil && stands(e, old) && !p.due(e, old) {
		if ok, err := p.reuse(ctx, t, e, old); ok || err != nil {
			return err
		}
	}
	if done, found := p.session.Resumed(e.Parent, e.Name); found && stands(e, &done) {
		if ok, err := p.reuse(ctx, t, e, &done); ok || err != nil {
			p.count.resumed.Add(1)
			return err
		}
	}
	if t.unchanged {
		p.count.reread.Add(1)
	}
	return p.hand(ctx, t)
}

// reuse records a file with the content of old; false when that is gone.
func (p *pull) reuse(ctx context.Context, t task, e, old *snapshot.Entry) (bool, error) {
	n := *e
	n.Flags = old.Flags & snapshot.Resumed
	ok, err := p.session.Reuse(ctx, &n, old)
	if ok {
		p.count.keptBytes.Add(e.Size)
		p.countFile(t.known, t.unchanged)
	}
	return ok, err
}

// hand gives a task to a reader, waiting until one is free.
func (p *pull) hand(ctx context.Context, t task) error {
	select {
	case p.files <- t:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// due says whether an unchanged file is to be read nevertheless.
func (p *pull) due(e, old *snapshot.Entry) bool {
	s := p.job.Slice
	if p.job.FullReread || s.Days <= 0 {
		return p.job.FullReread
	}
	if old.Flags&snapshot.Resumed != 0 {
		return true // put together from what several runs had read: equal attributes are all that says that it fits
	}
	h := hmac.New(sha256.New, s.Key[:])
	h.Write([]byte(e.Path()))
	days := uint64(s.Days)
	day := uint64((s.Day%int64(s.Days) + int64(s.Days)) % int64(s.Days))
	return binary.BigEndian.Uint64(h.Sum(nil))%days == day
}

// countFile counts a recorded file against the previous snapshot.
func (p *pull) countFile(known, unchanged bool) {
	p.count.files.Add(1)
	switch {
	case unchanged:
		p.count.same.Add(1)
	case known:
		p.count.changed.Add(1)
	default:
		p.count.added.Add(1)
	}
}

// addDirectory records a directory; false when it cannot be kept, and then nothing in it can.
func (p *pull) addDirectory(ctx context.Context, d dir) (bool, error) {
	parent, name := snapshot.Split(d.path)
	e := entryOf(parent, name, d.attr)
	if err := e.Check(); err != nil {
		p.problem(d.path, ProblemName, err.Error())
		return false, nil
	}
	p.count.directories.Add(1)
	return true, p.session.Add(ctx, &e)
}

// readLink records a symbolic link, with the target that it has.
func (p *pull) readLink(ctx context.Context, t task) error {
	var target string
	var least int64
	err := p.link.do(ctx, nil, func(ctx context.Context, r Remote) (err error) {
		least = p.clock.least(ctx, r)
		target, err = r.Readlink(ctx, p.remotePath(t.path()))
		return err
	})
	if err != nil {
		v, err := p.judge(ctx, t.path(), err)
		switch {
		case err != nil:
			return err
		case v.gone:
			p.vanished(t.path())
		default:
			p.problem(t.path(), v.kind, v.reason)
		}
		return nil
	}
	e := entryOf(t.parent, t.name, t.attr)
	e.Target = target
	if racy(e.MTime, least) {
		e.Flags |= snapshot.Racy
	}
	if err := e.Check(); err != nil {
		p.problem(t.path(), ProblemUnreadable, fmt.Sprintf("its target cannot be kept: %v", err))
		return nil
	}
	p.count.links.Add(1)
	return p.session.Add(ctx, &e)
}
