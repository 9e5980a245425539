package vault

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/vault/index"
	"github.com/holdfast-vault/holdfast/vault/pack"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// AbandonAfter is how long an interrupted session is kept for resuming.
const AbandonAfter = 14 * 24 * time.Hour

// problemsMax and problemBytesMax bound how many problems a session remembers with their paths, whatever a source comes
// up with; the count goes on.
const (
	problemsMax     = 100_000
	problemBytesMax = 16 << 20
)

// SessionOptions says what a session is for.
type SessionOptions struct {
	Source string
	// Origin is the source's address and HostKey the fingerprints that it is known by, separated by blanks. Where they
	// differ from what an earlier run was made with, nothing of that run stands for the content of this one: two hosts
	// made from one image have files of equal name, size and time that differ. Empty means unknown, and as before.
	Origin, HostKey string
}

// ErrSessionOpen says that another pull of the same source is running.
var ErrSessionOpen = errors.New("a pull of this source is already running")

// Session is a snapshot being made. Its methods are safe for concurrent use until Commit, Suspend or Abandon, one of
// which must be called, once.
type Session struct {
	v      *Vault
	id     string
	source string
	from   SessionOptions
	dir    string
	begin  clock.Stamp
	ctx    context.Context

	p       *packer
	journal *journal
	resume  *resumeTable // nil for a fresh session

	previous *Snapshot // nil for a source's first

	sortMu sync.Mutex
	sort   *sorter

	claimMu sync.RWMutex
	claimed *roaring.Bitmap
	renewal *renewal

	uses map[uint32]uint64 // bytes that the catalog uses in each pack, once it is written

	taken       atomic.Uint64 // bytes of content
	lastingTurn chan struct{} // held while what was taken is made to last

	mu           sync.Mutex
	problems     []snapshot.Problem
	problemBytes int
	problemCount uint64
	problemKinds map[string]uint64
	fidelity     []string
	ended        bool
}

// sessionHead is what a session's head file holds, sealed.
type sessionHead struct {
	Source  string    `json:"source"`
	Began   time.Time `json:"began"`
	Origin  string    `json:"origin,omitempty"`
	HostKey string    `json:"host_key,omitempty"`
}

const sessionHeadPurpose = "holdfast session head"

// Begin opens a session for a source: a new one, or the one that an earlier process left. Until it ends, no other
// session for the source can begin.
func (v *Vault) Begin(ctx context.Context, o SessionOptions) (*Session, error) {
	if err := v.needKey(); err != nil {
		return nil, err
	}
	if v.o.ReadOnly {
		return nil, ErrReadOnly
	}
	v.sessionsMu.Lock()
	if _, ok := v.sessions[o.Source]; ok {
		v.sessionsMu.Unlock()
		return nil, fmt.Errorf("source %q: %w", o.Source, ErrSessionOpen)
	}
	v.sessions[o.Source] = ""
	v.sessionsMu.Unlock()
	s, err := v.begin(ctx, o)
	if err != nil {
		v.sessionsMu.Lock()
		delete(v.sessions, o.Source)
		v.sessionsMu.Unlock()
		return nil, fmt.Errorf("source %q: session: %w", o.Source, err)
	}
	return s, nil
}

func (v *Vault) begin(ctx context.Context, o SessionOptions) (*Session, error) {
	now, err := v.store.Now()
	if err != nil {
		return nil, err
	}
	if err := v.readyIndex(ctx); err != nil {
		return nil, err
	}
	s := &Session{v: v, source: o.Source, from: o, begin: now, ctx: ctx, claimed: roaring.New(), problemKinds: map[string]uint64{}, lastingTurn: make(chan struct{}, 1)}
	resumed, err := s.choose(now.Wall)
	if err != nil {
		return nil, err
	}
	if err := v.store.Bind(s.id, s.source); err != nil {
		return nil, err
	}
	if err := s.prepare(ctx, now.Wall, resumed); err != nil {
		v.store.Release(s.id)
		return nil, errors.Join(err, s.resume.close())
	}
	// A cancelled pull must still be able to seal what it read: the packer ends with the session, not with ctx.
	s.p = v.newPacker(context.WithoutCancel(ctx), s.id)
	s.p.evac = s.planEvacuation(ctx, now)
	s.p.onWritten = s.journal.blocksWritten
	s.p.onSealed = func(worm.PackInfo) { s.journal.sync() }
	s.renewal = startRenewal(renewEvery, s.renewClaims)
	return s, nil
}

// choose gives the session the ID of the one that was left for its source, or a new one.
func (s *Session) choose(now time.Time) (bool, error) {
	v := s.v
	v.beginMu.Lock()
	defer v.beginMu.Unlock()
	left, err := v.interrupted(now)
	if err != nil {
		return false, err
	}
	found, resumed := left[s.source]
	s.id = found.id
	if resumed && s.from.elsewhere(found.head.Origin, found.head.HostKey) {
		// What an interrupted run read in another place would be taken for the content of this one.
		v.o.Logf("session %s of %q was begun with another address or host key and is removed: everything is read again", s.id, s.source)
		if err := durable.RemoveTree(v.work, "sessions/"+s.id); err != nil {
			return false, fmt.Errorf("session %s: %w", s.id, err)
		}
		resumed = false
	}
	if !resumed {
		var b [8]byte
		_, _ = rand.Read(b[:])
		s.id = hex.EncodeToString(b[:])
	}
	s.dir = "sessions/" + s.id
	v.sessionsMu.Lock()
	v.sessions[s.source] = s.id
	v.sessionsMu.Unlock()
	return resumed, nil
}

func (s *Session) prepare(ctx context.Context, now time.Time, resumed bool) (err error) {
	v := s.v
	if !resumed {
		if err := s.writeHead(now); err != nil {
			return err
		}
	}
	if s.previous, err = v.newest(ctx, s.source); err != nil {
		return err
	}
	if resumed {
		if s.resume, err = loadResume(v.work, s.dir, v.ring, v.budget.sorter, s.relyOn, v.o.Logf); err != nil {
			return err
		}
	}
	s.sort = newSorter(v.work, v.ring, s.dir+"/run-", v.budget.sorter)
	return s.beginJournal()
}

// writeHead makes the session's directory. If power fails before it is durable there is no session, and nothing of it.
func (s *Session) writeHead(began time.Time) error {
	d := s.v.work
	if err := durable.MkdirAll(d, s.dir, 0o700); err != nil {
		return err
	}
	plain, err := json.Marshal(sessionHead{Source: s.source, Began: began.UTC(), Origin: s.from.Origin, HostKey: s.from.HostKey})
	if err != nil {
		return err
	}
	blob, err := s.v.ring.SealBlob(sessionHeadPurpose, plain, []byte(s.id))
	if err != nil {
		return err
	}
	return durable.WriteNew(d, s.dir+"/head", blob, 0o600)
}

// leftSession is one that an earlier process, or an earlier pull of this one, left to be resumed.
type leftSession struct {
	id   string
	head sessionHead
}

// interrupted maps each source to the session that was left for it, and removes what is too old to be resumed or never
// got a head. v.beginMu is held.
func (v *Vault) interrupted(now time.Time) (map[string]leftSession, error) {
	left := map[string]leftSession{}
	// Asked before the directory is read: a session that ends in between is gone from both or counts as open.
	v.sessionsMu.Lock()
	open := map[string]bool{}
	for _, id := range v.sessions {
		open[id] = true
	}
	v.sessionsMu.Unlock()
	entries, err := v.work.ReadDir("sessions")
	if errors.Is(err, fs.ErrNotExist) {
		return left, nil
	}
	if err != nil {
		return nil, err
	}
	for _, de := range entries {
		id := de.Name()
		if open[id] {
			continue
		}
		h, err := v.readSessionHead(id)
		_, twice := left[h.Source]
		if err == nil && !twice && !v.abandoned(id, h, now) {
			left[h.Source] = leftSession{id, h}
			continue
		}
		if errors.Is(err, errHeadUnread) {
			v.o.Logf("session %s: %v; it stays, and is not resumed now", id, err)
			continue
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			v.o.Logf("session %s cannot be resumed and is removed: %v", id, err)
		}
		if err := durable.RemoveTree(v.work, "sessions/"+id); err != nil {
			return nil, fmt.Errorf("session %s: %w", id, err)
		}
	}
	return left, nil
}

// abandoned says whether a session was neither begun nor has sealed anything for AbandonAfter: a first pull over a slow
// line may take months, and be cut often.
func (v *Vault) abandoned(id string, h sessionHead, now time.Time) bool {
	last := h.Began
	if now.Sub(last) <= AbandonAfter {
		return false
	}
	for _, p := range v.store.Packs() {
		if p.Session == id && p.Sealed.Wall.After(last) {
			last = p.Sealed.Wall
		}
	}
	return now.Sub(last) > AbandonAfter
}

// errHeadUnread says that a head could not be read just now, which says nothing about the session.
var errHeadUnread = errors.New("its head cannot be read")

func (v *Vault) readSessionHead(id string) (sessionHead, error) {
	var h sessionHead
	blob, err := durable.ReadFile(v.work, "sessions/"+id+"/head", 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return h, err
	}
	if err != nil {
		return h, fmt.Errorf("%w: %w", errHeadUnread, err)
	}
	plain, err := v.ring.OpenBlob(sessionHeadPurpose, blob, []byte(id))
	if err != nil {
		return h, err
	}
	return h, json.Unmarshal(plain, &h)
}

func (s *Session) beginJournal() error {
	entries, err := s.v.work.ReadDir(s.dir)
	if err != nil {
		return err
	}
	last := 0
	for _, de := range entries {
		var n int
		if _, err := fmt.Sscanf(de.Name(), "journal-%06d", &n); err == nil && n > last {
			last = n
		}
	}
	s.journal, err = newJournal(s.v.work, fmt.Sprintf("%s/journal-%06d", s.dir, last+1), s.v.ring, func(err error) {
		s.v.o.Logf("session %s: journal: %v; if this pull is cut, more is read from the source again", s.id, err)
	})
	return err
}

// ID is the session's ID, 16 hexadecimal digits.
func (s *Session) ID() string { return s.id }

// ResumedFiles is the number of files that an interrupted run of this session had finished.
func (s *Session) ResumedFiles() int {
	if s.resume == nil {
		return 0
	}
	return s.resume.files
}

// Previous is the catalog of the source's newest snapshot, nil if there is none.
func (s *Session) Previous() *snapshot.Tree {
	if s.previous == nil {
		return nil
	}
	return s.previous.Tree()
}

// Elsewhere says that the previous snapshot was made from another address or a host with another key, and gives that
// address: equal names, sizes and times then say nothing of the content.
func (s *Session) Elsewhere() (origin string, elsewhere bool) {
	if s.previous == nil {
		return "", false
	}
	b := s.previous.Body()
	return b.Origin, s.from.elsewhere(b.Origin, b.HostKey)
}

// elsewhere says whether an earlier run was made with another address, or with none of the host keys of now.
func (o SessionOptions) elsewhere(origin, hostKey string) bool {
	if o.Origin != "" && origin != "" && o.Origin != origin {
		return true
	}
	now, then := strings.Fields(o.HostKey), strings.Fields(hostKey)
	return len(now) > 0 && len(then) > 0 && !slices.ContainsFunc(now, func(k string) bool { return slices.Contains(then, k) })
}

// Written is what this run has stored so far: content that the vault did not hold, and the bytes of sealed packs.
func (s *Session) Written() (newBytes, storedBytes uint64) {
	s.p.stats.mu.Lock()
	defer s.p.stats.mu.Unlock()
	return s.p.stats.newBytes, s.p.stats.storedBytes
}

// PreviousInfo is the source's newest snapshot; ok is false if there is none.
func (s *Session) PreviousInfo() (worm.Snapshot, bool) {
	if s.previous == nil {
		return worm.Snapshot{}, false
	}
	return s.previous.Info(), true
}

// claim says whether the session may rely on a pack, and claims it.
func (s *Session) claim(number uint32) bool {
	s.claimMu.RLock()
	ok := s.claimed.Contains(number)
	s.claimMu.RUnlock()
	if ok {
		return true
	}
	if !s.v.claimOne(s.id, number) {
		return false
	}
	s.claimMu.Lock()
	s.claimed.Add(number)
	s.claimMu.Unlock()
	return true
}

// relyOn finds where a chunk that a journal names lies now: in the pack it was written to, or in the one that was
// salvaged from it. A reference without an ID asks for the pack alone.
func (s *Session) relyOn(r snapshot.Ref) (snapshot.Ref, bool) {
	if s.claim(r.Pack) {
		return r, true
	}
	if r.ID.IsZero() {
		return r, false
	}
	place, ok := s.v.lookup(r.ID)
	if !ok || place.Size != r.Size || !s.claim(place.Pack) {
		return r, false
	}
	r.Pack = place.Pack
	return r, true
}

// Resumed finds a file that an interrupted run of this session had finished reading. It is for the caller to see that
// the source still shows the same attributes.
func (s *Session) Resumed(parent, name string) (snapshot.Entry, bool) {
	if s.resume == nil {
		return snapshot.Entry{}, false
	}
	return s.resume.lookup(parent, name)
}

// Add records an entry that has no content: a directory, a symlink, a special file, an empty file.
func (s *Session) Add(ctx context.Context, e *snapshot.Entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.addEntry(e)
}

func (s *Session) addEntry(e *snapshot.Entry) error {
	s.sortMu.Lock()
	defer s.sortMu.Unlock()
	return s.sort.add(e)
}

// Reuse records e with the content of old, an entry of an earlier snapshot or of Resumed. It returns false, and
// records nothing, when a pack that old relies on is gone: the file must be read.
func (s *Session) Reuse(ctx context.Context, e, old *snapshot.Entry) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	for i := range old.Chunks {
		if !s.claim(old.Chunks[i].Pack) {
			return false, nil
		}
	}
	for i := range old.List {
		if !s.claim(old.List[i].Pack) {
			return false, nil
		}
	}
	for i := range old.ListPacks {
		if !s.claim(old.ListPacks[i].Pack) {
			return false, nil
		}
	}
	n := *e
	n.Chunks, n.List, n.ListPacks = old.Chunks, old.List, old.ListPacks
	return true, s.addEntry(&n)
}

// Problem notes something that could not be had; the snapshot will be partial. kind is a short word for metrics, reason
// a sentence for people.
func (s *Session) Problem(path, kind, reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problemCount++
	s.problemKinds[kind]++
	size := len(path) + len(reason)
	if len(s.problems) < problemsMax && s.problemBytes+size <= problemBytesMax {
		s.problemBytes += size
		s.problems = append(s.problems, snapshot.Problem{Path: []byte(path), Reason: reason})
	}
}

// Fidelity notes what this source's protocol cannot tell, once each.
func (s *Session) Fidelity(note string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.fidelity {
		if n == note {
			return
		}
	}
	s.fidelity = append(s.fidelity, note)
}

// Put stores a chunk of the session's own bookkeeping (catalog leaves, lists). It implements snapshot.Putter.
func (s *Session) Put(ctx context.Context, data []byte) (snapshot.Ref, error) {
	if err := ctx.Err(); err != nil {
		return snapshot.Ref{}, err
	}
	ref, _, _, err := s.p.put(s.v.chunkID(data), data)
	return ref, err
}

// Suspend ends the session for now: what was read is sealed, and the next Begin for the source goes on from there.
func (s *Session) Suspend() error {
	if !s.end() {
		return nil
	}
	err := s.p.close(true)
	if err != nil {
		// The disk may be full or gone. What is complete in the open pack is salvaged later.
		err = fmt.Errorf("session %s: suspend: %w", s.id, err)
	}
	return errors.Join(err, s.finish(false))
}

// Abandon ends the session and forgets what it would have been resumed from. Its sealed packs stay until they are
// pruned as nobody's.
func (s *Session) Abandon() error {
	if !s.end() {
		return nil
	}
	s.p.drop = true // nobody wants what is not sealed
	return errors.Join(s.p.close(false), s.finish(true))
}

func (s *Session) end() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.ended = true
	return true
}

// finish closes the session's files and gives the source free.
func (s *Session) finish(remove bool) error {
	if !remove {
		s.journal.sync() // of a pull that stored nothing new no seal has done it
	}
	errs := []error{s.journal.close(), s.resume.close()}
	if remove {
		errs = append(errs, durable.RemoveTree(s.v.work, s.dir))
	}
	s.renewal.end() // else it could claim again after the release
	s.v.store.Release(s.id)
	s.v.sessionsMu.Lock()
	delete(s.v.sessions, s.source)
	s.v.sessionsMu.Unlock()
	return errors.Join(errs...)
}

// needIndex says why sessions cannot run, if they cannot.
func (v *Vault) needIndex() error {
	v.indexMu.RLock()
	defer v.indexMu.RUnlock()
	if v.index != nil {
		return nil
	}
	if v.indexErr != nil {
		return fmt.Errorf("index: %w", v.indexErr)
	}
	return errors.New("the vault was opened without an index")
}

// takeIndexTurn waits for v.indexTurn; the caller gives it back with v.indexTurn's receive.
func (v *Vault) takeIndexTurn(ctx context.Context) error {
	select {
	case v.indexTurn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// readyIndex makes the index fit for a session: it is opened again if an earlier failure has closed it, it learns the
// packs that it missed, and it is replaced if it was met damaged. What an ended session could not seal is salvaged, so that it need not be fetched
// again and does not fill the disk. A vault that was open when its disk ran full goes on where there is room again.
func (v *Vault) readyIndex(ctx context.Context) error {
	if err := v.takeIndexTurn(ctx); err != nil {
		return err
	}
	defer func() { <-v.indexTurn }()
	if v.index == nil {
		v.reopenIndex()
	}
	if err := v.needIndex(); err != nil {
		return err
	}
	v.store.Settle()
	if err := v.catchUp(ctx); err != nil {
		return err
	}
	if err := v.mendIndex(ctx); err != nil {
		return err
	}
	if err := v.salvage(ctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// It was never acknowledged, and its source still has it.
		v.o.Logf("%v; this pull reads again what is in there", err)
	}
	return nil
}

// reopenIndex opens the index after a failure. The turn is held.
func (v *Vault) reopenIndex() {
	if v.indexDir == "" {
		return
	}
	x, err := index.Open(v.indexDir, v.ID(), v.indexOptions())
	v.indexMu.Lock()
	defer v.indexMu.Unlock()
	if err != nil {
		v.indexErr = err
		return
	}
	v.index, v.indexErr = x, nil
}

// mendIndex rebuilds an index that was met damaged since it was opened: a pull must not wait for a person. The filter is
// not warmed here: many pulls never need it, and for those that do the index warms itself. The turn is held.
func (v *Vault) mendIndex(ctx context.Context) error {
	x, ok := v.index.(interface{ Damaged() error })
	if !ok || x.Damaged() == nil {
		return ctx.Err()
	}
	v.o.Logf("index: %v; it is rebuilt from the packs", x.Damaged())
	_, err := v.rebuildIndex(ctx)
	return err
}

func (v *Vault) lookup(id [32]byte) (index.Place, bool) {
	v.indexMu.RLock()
	defer v.indexMu.RUnlock()
	if v.index == nil {
		return index.Place{}, false
	}
	return v.index.Lookup(id)
}

func (v *Vault) indexPack(ctx context.Context, number uint32, entries []index.Entry) error {
	v.indexMu.RLock()
	defer v.indexMu.RUnlock()
	if v.index == nil {
		return errors.New("no index")
	}
	return v.index.AddPack(ctx, number, entries)
}

// claimOne claims a pack for a session, unless it is known to be of no use.
func (v *Vault) claimOne(session string, number uint32) bool {
	v.badMu.RLock()
	bad := v.bad.Contains(number)
	v.badMu.RUnlock()
	return !bad && v.store.ClaimOne(session, number)
}

// judge remembers what reading a pack's footer came to. Trouble with reading says nothing about the pack.
func (v *Vault) judge(number uint32, err error) {
	var d *pack.DamageError
	v.badMu.Lock()
	defer v.badMu.Unlock()
	if err == nil {
		v.bad.Remove(number)
	} else if errors.As(err, &d) || errors.Is(err, ErrDamaged) {
		v.bad.Add(number)
	}
}

func (v *Vault) currentIndex() chunkIndex {
	v.indexMu.RLock()
	defer v.indexMu.RUnlock()
	return v.index
}

func (v *Vault) isIndexed(number uint32) bool {
	v.indexMu.RLock()
	defer v.indexMu.RUnlock()
	return v.index != nil && v.index.Indexed().Contains(number)
}

// quotedList is for messages: the first few of a list of names.
func quotedList(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
