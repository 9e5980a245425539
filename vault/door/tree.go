package door

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-vault/holdfast/vault/restore"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// The two links of every source.
const (
	latest = "latest"
	clean  = "clean"
)

// openMax is how many snapshots a session keeps open.
const openMax = 16

// tree is what one SFTP session sees. The list of snapshots is what it was when the session last listed "/" or a
// source's directory, or first asked for something: so latest and clean do not move while a tree is being fetched through
// them. Safe for concurrent use.
type tree struct {
	ctx  context.Context
	view View
	user User

	mu      sync.Mutex
	loaded  bool
	sources map[string]*listing
	opened  map[string]restore.Source
}

// listing is the snapshots of one source, by label.
type listing struct {
	infos         []Info
	latest, clean *Info
}

func newTree(ctx context.Context, v View, u User) *tree {
	return &tree{ctx: ctx, view: v, user: u, opened: map[string]restore.Source{}}
}

// node is one place in the tree.
type node struct {
	name   string
	kids   []node // of "/" and of a source's directory, when asked for
	source string
	link   string // target, of latest and clean
	when   time.Time
	snap   restore.Source // inside a snapshot, with entry
	entry  snapshot.Entry
	plain  bool // a directory of ours: "/", a source, or a snapshot that was only listed
}

// refresh reads the list of snapshots anew. Caller holds mu.
func (t *tree) refresh() error {
	infos, err := t.view.Snapshots(t.ctx)
	if err != nil {
		return err
	}
	t.sources, t.loaded = map[string]*listing{}, true
	for _, i := range infos {
		if !t.user.Sees(i.Source) || restore.CheckName(i.Source) != nil || restore.CheckName(i.Label) != nil {
			continue
		}
		l := t.sources[i.Source]
		if l == nil {
			l = &listing{}
			t.sources[i.Source] = l
		}
		l.infos = append(l.infos, i)
	}
	for _, l := range t.sources {
		slices.SortFunc(l.infos, func(a, b Info) int { return cmp.Compare(a.Label, b.Label) })
		l.latest = &l.infos[len(l.infos)-1]
		for i := range l.infos {
			if l.infos[i].Clean {
				l.clean = &l.infos[i]
			}
		}
	}
	return nil
}

// source returns the listing of a source.
func (t *tree) source(name string, anew bool) (*listing, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if anew || !t.loaded {
		if err := t.refresh(); err != nil {
			return nil, err
		}
	}
	if l := t.sources[name]; l != nil {
		return l, nil
	}
	return nil, fs.ErrNotExist
}

// top lists the sources.
func (t *tree) top() (node, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.refresh(); err != nil {
		return node{}, err
	}
	n := node{name: "/", plain: true}
	for _, s := range slices.Sorted(maps.Keys(t.sources)) {
		n.kids = append(n.kids, t.sources[s].node(s))
	}
	return n, nil
}

func (l *listing) node(source string) node {
	return node{name: source, source: source, plain: true, when: l.latest.Committed}
}

// links gives latest and clean, as far as they exist.
func (l *listing) links() []node {
	var out []node
	for _, x := range []struct {
		name string
		to   *Info
	}{{clean, l.clean}, {latest, l.latest}} {
		if x.to != nil {
			out = append(out, node{name: x.name, source: x.to.Source, link: x.to.Label, when: x.to.Committed})
		}
	}
	return out
}

// find returns the place at a clean absolute path. With follow, a link in the last component is followed.
func (t *tree) find(path string, follow bool) (node, error) {
	source, label, rest := parts(path)
	if source == "" {
		return node{name: "/", plain: true}, nil
	}
	l, err := t.source(source, false)
	if err != nil {
		return node{}, err
	}
	if label == "" {
		return l.node(source), nil
	}
	if rest == "" && !follow {
		for _, n := range l.links() {
			if n.name == label {
				return n, nil
			}
		}
	}
	info := l.pick(label)
	if info == nil { // perhaps committed since
		if l, err = t.source(source, true); err != nil {
			return node{}, err
		}
		if info = l.pick(label); info == nil {
			return node{}, fs.ErrNotExist
		}
	}
	snap, err := t.open(info.ID)
	if err != nil {
		return node{}, err
	}
	e, err := restore.Resolve(t.ctx, snap, "", rest, follow)
	if err != nil {
		return node{}, err
	}
	name := e.Name
	if rest == "" {
		name = label
	}
	return node{name: name, source: source, snap: snap, entry: e}, nil
}

// parts cuts /SOURCE/TIME/REST.
func parts(path string) (source, label, rest string) {
	source, rest, _ = strings.Cut(strings.TrimPrefix(path, "/"), "/")
	label, rest, _ = strings.Cut(rest, "/")
	return source, label, rest
}

func (l *listing) pick(label string) *Info {
	switch label {
	case latest:
		return l.latest
	case clean:
		return l.clean
	}
	for i := range l.infos {
		if l.infos[i].Label == label {
			return &l.infos[i]
		}
	}
	return nil
}

// open returns a snapshot, keeping the last few.
func (t *tree) open(id string) (restore.Source, error) {
	t.mu.Lock()
	s := t.opened[id]
	t.mu.Unlock()
	if s != nil {
		return s, nil
	}
	s, err := t.view.Open(t.ctx, id)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.opened) >= openMax {
		clear(t.opened)
	}
	t.opened[id] = s
	return s, nil
}

// list returns the place at path with its kids, or, inside a snapshot, its open directory.
func (t *tree) list(path string) (node, *restore.Dir, error) {
	source, label, _ := parts(path)
	switch {
	case source == "":
		n, err := t.top()
		return n, nil, err
	case label == "":
		l, err := t.source(source, true)
		if err != nil {
			return node{}, nil, err
		}
		n := l.node(source)
		for _, i := range l.infos {
			n.kids = append(n.kids, node{name: i.Label, source: source, plain: true, when: i.Committed})
		}
		n.kids = append(n.kids, l.links()...)
		return n, nil, nil
	}
	n, err := t.find(path, true)
	if err != nil {
		return node{}, nil, err
	}
	d, err := restore.OpenDir(t.ctx, n.snap, n.entry)
	return n, d, err
}

// real puts the snapshot itself in the place of latest and clean: whoever changes into the link stays where he went.
func (t *tree) real(path string) string {
	source, label, rest := parts(path)
	if label != latest && label != clean {
		return path
	}
	l, err := t.source(source, false)
	if err != nil {
		return path
	}
	if i := l.pick(label); i != nil {
		label = i.Label
	}
	return strings.TrimSuffix("/"+source+"/"+label+"/"+rest, "/")
}

// errLeaving is restore.ErrOutside as a client hears it.
var errLeaving = errors.New("the link leads outside the snapshot, where this door does not go")

// explain turns an error into what a client is told: the path in quotes, and no more than it needs.
func explain(path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return fs.ErrNotExist // SFTP has a code for it, and clients look for that
	case errors.Is(err, restore.ErrOutside):
		err = errLeaving
	}
	return fmt.Errorf("%q: %w", path, err)
}
