package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
)

var (
	// ErrAway is in the chain of an error that says that a name may lie in a place that cannot be reached now.
	ErrAway = errors.New("a place of the vault is not there")
	// ErrTwice is in the chain of an error that says that one name lies in two places.
	ErrTwice = errors.New("the same name lies in two places")
)

// Place is one of the directories of a Span.
type Place struct {
	Number int         // counts from 1, which is the first
	Path   string      // as people know it, for messages
	Disk   GuardedDisk // nil where it is away
	Away   error       // why it is away; nil where it is not. The first never is
}

func (p *Place) String() string { return fmt.Sprintf("place %d (%q)", p.Number, p.Path) }

// SpanOptions say what of a Span lies where.
type SpanOptions struct {
	// Sealed is a directory whose files may lie in any place.
	Sealed string
	// Growing is the directory in which those files begin; a file gets its name in Sealed by a link, in the same place. Names
	// in it that have the suffix Suffix, or that and ".tmp", lie in any place; a name that ends in "@K", perhaps with a dot
	// and more behind it, lies in place K; all others lie in the first.
	Growing, Suffix string
	// ReadOnly lets places be away: then nothing can be changed, and a name that is in none of the others is ErrAway.
	ReadOnly bool
}

// Span is a Disk that lies in several places, each a Disk of its own, mostly on file systems of their own. Two directories,
// Sealed and Growing, are in all of them and look like one; everything else is in the first. Where a file lies is found by
// looking: its name does not say so.
//
// A new file begins in the newest place that has enough room (see choose), and stays there: linking, renaming and removing
// happen where the name is. A name that lies in two places is ErrTwice to everybody who asks for it, with one exception: an
// empty file in Growing, which says no more than that its number is used, gives way to one that has content.
//
// What changes a name asks all places first, and fails if one cannot answer. What only reads takes what it finds, so that a
// place that breaks takes nothing from the others. SyncDir, and the flags of the shared directories and of the root, reach
// all places; a further place in whose directory nothing changed since its last sync is not asked again. Errors of a place
// name it. It is safe for concurrent use if its places are.
type Span struct {
	o      SpanOptions
	places []*stage

	mu sync.Mutex // guards the counts of the stages
}

var _ GuardedDisk = (*Span)(nil)

// stage is a place with what changed in it.
type stage struct {
	Place
	// changed counts, for each shared directory, what was done to it, synced up to where it is on the medium, and busy is what
	// is being done. What an earlier process left is the first change.
	changed, synced, busy map[string]uint64
}

// NewSpan joins places, the first of which is number 1. It closes them with Close, and not where it fails.
func NewSpan(places []Place, o SpanOptions) (*Span, error) {
	s := &Span{o: o}
	for i, p := range places {
		switch {
		case p.Number <= 0 || i == 0 && p.Number != 1 || i > 0 && p.Number <= places[i-1].Number:
			return nil, fmt.Errorf("places are numbered upwards from 1: %v is at position %d", &p, i+1)
		case p.Disk == nil && (i == 0 || !o.ReadOnly):
			return nil, fmt.Errorf("%v: %w: %w", &p, ErrAway, p.Away)
		}
		st := &stage{Place: p, changed: map[string]uint64{}, synced: map[string]uint64{}, busy: map[string]uint64{}}
		for _, dir := range []string{".", o.Sealed, o.Growing} {
			st.changed[dir] = 1
		}
		s.places = append(s.places, st)
	}
	if len(s.places) == 0 {
		return nil, errors.New("no places")
	}
	return s, nil
}

// Places tells of the places, the first first.
func (s *Span) Places() []Place {
	out := make([]Place, len(s.places))
	for i, p := range s.places {
		out[i] = p.Place
	}
	return out
}

// Close closes the places that can be closed.
func (s *Span) Close() error {
	var errs []error
	for _, p := range s.places {
		if c, ok := p.Disk.(io.Closer); ok {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// named puts a place's name into its errors, but for those that say that a name is there or is not.
func (p *stage) named(err error) error {
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) {
		return err
	}
	return fmt.Errorf("%v: %w", &p.Place, err)
}

// shared says whether a name is a directory of all places.
func (s *Span) shared(name string) bool { return name == s.o.Sealed || name == s.o.Growing }

// among gives the places that a name may lie in.
func (s *Span) among(name string) []*stage {
	base := path.Base(name)
	switch path.Dir(name) {
	case s.o.Sealed:
		return s.places
	case s.o.Growing:
		if k, ok := placeIn(base); ok {
			if i := slices.IndexFunc(s.places, func(p *stage) bool { return p.Number == k }); i >= 0 {
				return s.places[i : i+1]
			}
		}
		if strings.HasSuffix(strings.TrimSuffix(base, ".tmp"), s.o.Suffix) {
			return s.places
		}
	}
	return s.places[:1]
}

// placeIn reads the number of the place that a name asks for.
func placeIn(base string) (int, bool) {
	_, rest, ok := strings.Cut(base, "@")
	digits, _, _ := strings.Cut(rest, ".")
	k, err := strconv.Atoi(digits)
	return k, ok && err == nil && k > 0
}

// hit is where a name was found.
type hit struct {
	p    *stage
	info fs.FileInfo
}

// find looks for a name. Nothing found is fs.ErrNotExist, or, where a place could not be asked, why not. With all, a place
// that cannot be asked is an error in any case.
func (s *Span) find(op, name string, all bool) (hit, error) {
	if !fs.ValidPath(name) {
		return hit{}, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	var hits []hit
	var failed []error
	among := s.among(name)
	for _, p := range among {
		if p.Disk == nil {
			failed = append(failed, p.away(op, name))
			continue
		}
		info, err := p.Disk.Stat(name)
		switch {
		case err == nil:
			hits = append(hits, hit{p, info})
		case !errors.Is(err, fs.ErrNotExist) || len(among) == 1:
			failed = append(failed, p.named(err))
		}
	}
	if len(hits) > 1 && path.Dir(name) == s.o.Growing {
		hits = withContent(hits)
	}
	switch {
	case len(hits) > 1:
		return hit{}, twice(op, name, hits[0].p, hits[1].p)
	case len(failed) > 0 && (all || len(hits) == 0):
		return hit{}, errors.Join(failed...)
	case len(hits) == 0:
		return hit{}, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	return hits[0], nil
}

func (p *stage) away(op, name string) error {
	return &fs.PathError{Op: op, Path: name, Err: fmt.Errorf("it may lie in %v, which cannot be reached: %w: %w", &p.Place, ErrAway, p.Away)}
}

func twice(op, name string, a, b *stage) error {
	return &fs.PathError{Op: op, Path: name, Err: fmt.Errorf("%w, %v and %v: one of them is a copy; compare both with the ledger's record and take the copy away", ErrTwice, &a.Place, &b.Place)}
}

// withContent drops empty files where there are others, and all but the first where all are empty.
func withContent(hits []hit) []hit {
	full := slices.DeleteFunc(slices.Clone(hits), func(h hit) bool { return h.info.Mode().IsRegular() && h.info.Size() == 0 })
	if len(full) == 0 {
		return hits[:1]
	}
	return full
}

// change does something to the directories of names in a place. It counts when that is done: a sync that ran beside it may
// not have seen it, and does not stand for the one that the caller asks for next.
func (s *Span) change(p *stage, do func() error, names ...string) error {
	dirs := make([]string, len(names))
	for i, name := range names {
		dirs[i] = path.Dir(name)
	}
	return p.named(s.changeDirs(p, do, dirs...))
}

// changeDirs is change with the directories themselves.
func (s *Span) changeDirs(p *stage, do func() error, dirs ...string) error {
	s.mu.Lock()
	for _, dir := range dirs {
		p.busy[dir]++
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, dir := range dirs {
			p.busy[dir]--
			p.changed[dir]++
		}
	}()
	return do()
}

// Create implements Opener.
func (s *Span) Create(name string, perm fs.FileMode) (File, error) {
	among := s.among(name)
	if len(among) > 1 {
		if _, err := s.find("create", name, true); err == nil {
			return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	p, err := s.begin(name, among)
	if err != nil {
		return nil, err
	}
	var f File
	err = s.change(p, func() (err error) { f, err = p.Disk.Create(name, perm); return err }, name)
	return f, err
}

// begin picks the place of a new name: what is written beside a file in order to take its place lies where that is.
func (s *Span) begin(name string, among []*stage) (*stage, error) {
	p := among[0]
	if len(among) > 1 {
		p = s.choose()
		if of, ok := strings.CutSuffix(name, ".tmp"); ok {
			if h, err := s.find("create", of, true); err == nil {
				p = h.p
			} else if !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
	}
	if p.Disk == nil {
		return nil, p.away("create", name)
	}
	return p, nil
}

// Append implements Opener.
func (s *Span) Append(name string) (File, error) {
	h, err := s.find("open", name, true)
	if err != nil {
		return nil, err
	}
	f, err := h.p.Disk.Append(name)
	return f, h.p.named(err)
}

// Open implements Opener.
func (s *Span) Open(name string) (File, error) {
	h, err := s.find("open", name, false)
	if err != nil {
		return nil, err
	}
	f, err := h.p.Disk.Open(name)
	return f, h.p.named(err)
}

// Link implements Namer. Both names lie in one place.
func (s *Span) Link(oldname, newname string) error {
	return s.move("link", oldname, newname, func(p *stage) error { return p.Disk.Link(oldname, newname) })
}

// Rename implements Namer. Both names lie in one place.
func (s *Span) Rename(oldname, newname string) error {
	return s.move("rename", oldname, newname, func(p *stage) error { return p.Disk.Rename(oldname, newname) })
}

func (s *Span) move(op, oldname, newname string, do func(*stage) error) error {
	h, err := s.find(op, oldname, true)
	if err != nil {
		return err
	}
	there, err := s.find(op, newname, true)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case err == nil && there.p != h.p && op == "link":
		return fmt.Errorf("%w: %w", fs.ErrExist, twice(op, newname, h.p, there.p))
	case err == nil && there.p != h.p:
		return twice(op, newname, h.p, there.p)
	case !slices.Contains(s.among(newname), h.p):
		return &fs.PathError{Op: op, Path: newname, Err: fmt.Errorf("it cannot lie in %v: %w", &h.p.Place, fs.ErrInvalid)}
	}
	return s.change(h.p, func() error { return do(h.p) }, oldname, newname)
}

// Remove implements Namer.
func (s *Span) Remove(name string) error {
	h, err := s.find("remove", name, true)
	if err != nil {
		return err
	}
	return s.change(h.p, func() error { return h.p.Disk.Remove(name) }, name)
}

// Mkdir implements Namer. A shared directory is made where it is missing.
func (s *Span) Mkdir(name string, perm fs.FileMode) error {
	if !s.shared(name) {
		return s.places[0].Disk.Mkdir(name, perm)
	}
	made := false
	for _, p := range s.places {
		if p.Disk == nil {
			return p.away("mkdir", name)
		}
		err := s.changeDirs(p, func() error { return p.Disk.Mkdir(name, perm) }, path.Dir(name))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return p.named(err)
		}
		made = made || err == nil
	}
	if !made {
		return &fs.PathError{Op: "mkdir", Path: name, Err: fs.ErrExist}
	}
	return nil
}

// ReadDir implements Lister. An entry whose name lies in two places answers ErrTwice when it is asked for more than its
// name. A place that cannot be listed is an error where the Span may be written to; a reader gets what the others have.
func (s *Span) ReadDir(name string) ([]fs.DirEntry, error) {
	if !s.shared(name) {
		return s.places[0].Disk.ReadDir(name)
	}
	var all []fs.DirEntry
	var failed error
	listed := false
	where := map[string]*stage{}
	for _, p := range s.places {
		if p.Disk == nil {
			continue
		}
		list, err := p.Disk.ReadDir(name)
		if err != nil {
			failed = errors.Join(failed, p.named(err))
			continue
		}
		listed = true
		for _, e := range list {
			if first := where[e.Name()]; first == nil {
				where[e.Name()] = p
				all = append(all, e)
				continue
			}
			i := slices.IndexFunc(all, func(have fs.DirEntry) bool { return have.Name() == e.Name() })
			all[i] = s.found(path.Join(name, e.Name()), e)
		}
	}
	if failed != nil && (!listed || !s.o.ReadOnly) {
		return nil, failed
	}
	slices.SortFunc(all, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return all, nil
}

// found gives the entry of a name that several places list.
func (s *Span) found(name string, like fs.DirEntry) fs.DirEntry {
	h, err := s.find("stat", name, false)
	if err != nil {
		return twinEntry{like, err}
	}
	return fs.FileInfoToDirEntry(h.info)
}

// twinEntry stands for a name that lies in two places.
type twinEntry struct {
	fs.DirEntry
	err error
}

func (e twinEntry) Info() (fs.FileInfo, error) { return nil, e.err }

// Stat implements Lister. Of a shared directory it describes the first place's.
func (s *Span) Stat(name string) (fs.FileInfo, error) {
	h, err := s.find("stat", name, false)
	return h.info, err
}

// SyncDir implements Syncer.
func (s *Span) SyncDir(name string) error {
	if name != "." && !s.shared(name) {
		return s.places[0].Disk.SyncDir(name)
	}
	var errs []error
	for i, p := range s.places {
		if p.Disk == nil {
			errs = append(errs, p.away("syncdir", name))
			continue
		}
		errs = append(errs, s.syncPlace(i, name))
	}
	return errors.Join(errs...)
}

// syncPlace syncs a shared directory of one place, if anything changed in it. The first place is always asked: what else
// lies in its root is not counted.
func (s *Span) syncPlace(i int, name string) error {
	p := s.places[i]
	s.mu.Lock()
	changed, clean := p.changed[name], p.changed[name] == p.synced[name] && p.busy[name] == 0
	s.mu.Unlock()
	if clean && i > 0 {
		return nil
	}
	if err := p.Disk.SyncDir(name); err != nil {
		return p.named(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p.synced[name] = max(p.synced[name], changed)
	return nil
}

// Forget implements Syncer.
func (s *Span) Forget(name string) error {
	h, err := s.find("forget", name, false)
	if err != nil {
		return err
	}
	return h.p.named(h.p.Disk.Forget(name))
}
