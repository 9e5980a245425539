package vault

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/vault/keys"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// resumeTable answers for an interrupted session which files it had finished, and how far the others had come. It is
// a sorted run file with one key in memory for each of its frames, so it costs a few bytes per thousand files.
type resumeTable struct {
	run    *runReader
	first  []frameKey
	files  int
	mu     sync.Mutex
	frames map[int]map[string]snapshot.Entry // decoded frames, a handful
	order  []int

	unfinished map[string]*progress // by path
}

type frameKey struct {
	parent, name string
	off          int64
}

// progress is an unfinished file: the attributes it was read under and its first chunks.
type progress struct {
	entry snapshot.Entry
	refs  []snapshot.Ref
}

const resumeFramesMax = 8

// loadResume reads the journals of a session directory. have says whether a chunk can be relied on and where it lies
// now; what it does not have is dropped, and will be read from the source again. memory bounds the bytes of entries that are
// being sorted.
func loadResume(d durable.Disk, dir string, ring *keys.Ring, memory int, have func(snapshot.Ref) (snapshot.Ref, bool), logf func(string, ...any)) (*resumeTable, error) {
	entries, err := d.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("session %s: %w", dir, err)
	}
	t := &resumeTable{frames: map[int]map[string]snapshot.Entry{}, unfinished: map[string]*progress{}}
	// What an earlier attempt left goes first: its names are needed again.
	for _, de := range entries {
		name := de.Name()
		if strings.HasPrefix(name, "run-") || strings.HasPrefix(name, "resume-") || strings.HasSuffix(name, ".tmp") {
			if err := durable.Remove(d, dir+"/"+name); err != nil {
				return nil, fmt.Errorf("session file %s: %w", name, err)
			}
		}
	}
	s := newSorter(d, ring, dir+"/resume-run-", memory)
	for _, de := range entries { // ReadDir sorts: older journals first
		name := de.Name()
		if !strings.HasPrefix(name, "journal-") {
			continue
		}
		if err := readJournal(d, dir+"/"+name, ring, t.entryInto(s, have), t.addProgress(have)); err != nil {
			if durable.IsNoSpace(err) {
				return nil, err // nothing is wrong with the journal
			}
			// A journal is a help, not a record: what cannot be read is fetched again.
			logf("%v; what it named is read from the source again", err)
		}
	}
	if err := t.write(d, dir, ring, s); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *resumeTable) entryInto(s *sorter, have func(snapshot.Ref) (snapshot.Ref, bool)) func(snapshot.Entry) error {
	return func(e snapshot.Entry) error {
		for _, refs := range [][]snapshot.Ref{e.Chunks, e.List} {
			for i := range refs {
				r, ok := have(refs[i])
				if !ok {
					return nil
				}
				refs[i] = r
			}
		}
		// A listed file's own chunks are named by packs only; all of them must be sealed as they were named, since a
		// chunk that moved is not where the list says.
		for _, u := range e.ListPacks {
			if _, ok := have(snapshot.Ref{Pack: u.Pack}); !ok {
				return nil
			}
		}
		delete(t.unfinished, e.Path())
		return s.add(&e)
	}
}

func (t *resumeTable) addProgress(have func(snapshot.Ref) (snapshot.Ref, bool)) func(snapshot.Entry, int, []snapshot.Ref) error {
	return func(e snapshot.Entry, first int, refs []snapshot.Ref) error {
		path := e.Path()
		p := t.unfinished[path]
		if first == 0 || p == nil {
			p = &progress{entry: e}
			t.unfinished[path] = p
		}
		if first > len(p.refs) || !sameVersion(&p.entry, &e) {
			return nil // something between was lost: what is contiguous stands
		}
		p.entry.Flags |= e.Flags & snapshot.Racy // of any part of it
		p.refs = p.refs[:first]
		for _, r := range refs {
			r, ok := have(r)
			if !ok {
				return nil
			}
			p.refs = append(p.refs, r)
		}
		return nil
	}
}

// sameVersion says whether two entries of a path can be taken for the same content of the same file.
func sameVersion(a, b *snapshot.Entry) bool {
	return a.Kind == b.Kind && a.Size == b.Size && a.MTime == b.MTime
}

// lasting says whether a later run may go on from here. Content that was read while its file could change without showing
// it in its attributes, or under no time at all, may be the beginning of something else than what is there now.
func (p *progress) lasting() bool { return p.entry.Flags&snapshot.Racy == 0 && p.entry.MTime != 0 }

func (t *resumeTable) write(d durable.Disk, dir string, ring *keys.Ring, s *sorter) error {
	name := dir + "/resume-table"
	w, err := newRunWriter(d, name, kindRun, ring)
	if err != nil {
		return err
	}
	var frame []byte
	var key frameKey
	off := int64(runHeaderBytes)
	flush := func() error {
		if len(frame) == 0 {
			return nil
		}
		key.off = off
		t.first = append(t.first, key)
		if err := w.writeFrame(frame); err != nil {
			return err
		}
		off += int64(len(w.buf))
		frame = frame[:0]
		return nil
	}
	for e, err := range s.sorted() {
		if err != nil {
			return err
		}
		if len(frame) == 0 {
			key = frameKey{parent: e.Parent, name: e.Name}
		}
		frame = snapshot.AppendEntry(frame, &e)
		t.files++
		if len(frame) >= runFrameTarget {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	if err := w.close(); err != nil {
		return err
	}
	for _, run := range s.runs {
		if err := durable.Remove(d, run); err != nil {
			return err
		}
	}
	t.run, err = openRun(d, name, kindRun, ring)
	return err
}

// lookup finds a finished file. Safe for concurrent use.
func (t *resumeTable) lookup(parent, name string) (snapshot.Entry, bool) {
	i := sort.Search(len(t.first), func(i int) bool {
		return snapshot.Compare(t.first[i].parent, t.first[i].name, parent, name) > 0
	}) - 1
	if i < 0 {
		return snapshot.Entry{}, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	m, ok := t.frames[i]
	if !ok {
		m = t.decode(i)
		if len(t.order) >= resumeFramesMax {
			delete(t.frames, t.order[0])
			t.order = slices.Delete(t.order, 0, 1)
		}
		t.frames[i] = m
		t.order = append(t.order, i)
	}
	e, ok := m[joinPath(parent, name)]
	return e, ok
}

// decode reads one frame; a frame that cannot be read is empty, and its files are read from the source again.
func (t *resumeTable) decode(i int) map[string]snapshot.Entry {
	m := map[string]snapshot.Entry{}
	plain, _, err := t.run.frameAt(nil, t.first[i].off, uint64(i))
	for err == nil && len(plain) > 0 {
		var e snapshot.Entry
		if e, plain, err = snapshot.DecodeEntry(plain); err == nil {
			m[e.Path()] = e
		}
	}
	return m
}

func joinPath(parent, name string) string {
	if parent == "" {
		return name
	}
	return parent + "/" + name
}

func (t *resumeTable) close() error {
	if t == nil || t.run == nil {
		return nil
	}
	return t.run.close()
}
