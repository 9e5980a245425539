package vault

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/vault/chunk"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

const (
	// evacuationFooters is how many packs a session reads the footer of because nobody remembers what they hold.
	evacuationFooters = 256
	// leafEntries and leafBytes estimate what moving a chunk costs in the catalog: the leaf that names it is written anew.
	leafEntries, leafBytes = 256, 32 << 10
	// lately is how many snapshots say what a source's pulls bring.
	lately = 7
)

// evacuation is what a session does for packs that are to be left. Which they are is decided when the session begins, and
// stands until it ends. Nil evacuates nothing. Safe for concurrent use.
type evacuation struct {
	packs  *roaring.Bitmap // never changed
	budget int64
	spent  atomic.Int64  // of the budget
	copied atomic.Uint64 // bytes of chunks that were stored again
}

// leaves says whether a session that finds a chunk in a pack stores the chunk again instead of relying on that pack.
func (e *evacuation) leaves(pack uint32) bool {
	return e != nil && e.packs.Contains(pack) && e.spent.Load() < e.budget
}

// moved notes a chunk that was stored and says whether that was for evacuation's sake: then it is no new content. copied says
// that it surely was.
func (p *packer) moved(id chunk.ID, size int, copied bool) bool {
	if p.evac == nil {
		return false
	}
	if !copied {
		place, ok := p.v.lookup(id)
		if !ok || place.Size != uint32(size) || !p.evac.packs.Contains(place.Pack) {
			return false
		}
	}
	p.evac.spent.Add(int64(size))
	p.evac.copied.Add(uint64(size))
	return true
}

// Evacuated says how many packs the session evacuates, and how many bytes of chunks it has copied out of them so far.
func (s *Session) Evacuated() (packs int, bytes uint64) {
	if s.p.evac == nil {
		return 0, 0
	}
	return int(s.p.evac.packs.GetCardinality()), s.p.evac.copied.Load()
}

// planEvacuation decides which packs the session evacuates. What keeps it from deciding costs nothing but room.
func (s *Session) planEvacuation(ctx context.Context, now clock.Stamp) *evacuation {
	if s.v.o.NoEvacuation || s.previous == nil {
		return nil
	}
	packs, budget, err := s.v.relied(ctx, s.source, now)
	if err != nil {
		s.v.o.Logf("session %s: no pack is evacuated this time: %v", s.id, err)
		return nil
	}
	// Half is for the content that is known to be used; the rest for leaves of the catalog, and for what is used anew.
	leave := s.v.rule().evacuees(packs, budget/2)
	if len(leave) == 0 {
		return nil
	}
	return &evacuation{packs: roaring.BitmapOf(leave...), budget: int64(budget)}
}

func (v *Vault) rule() *evacuationRule {
	if v.o.rule != nil {
		return v.o.rule
	}
	return &defaultRule
}

// relied gathers what is known of the packs that the current snapshots of a source rely on, and says how much a session of it
// may copy.
func (v *Vault) relied(ctx context.Context, source string, now clock.Stamp) ([]packFacts, uint64, error) {
	all, err := v.store.Snapshots()
	if err != nil {
		return nil, 0, err
	}
	var own map[uint32]uint64
	var others []*worm.Snapshot
	for _, info := range current(all) {
		if info.Source != source {
			others = append(others, info)
			continue
		}
		uses, err := v.uses(ctx, info)
		if err != nil {
			return nil, 0, err
		}
		own = atLeast(own, uses)
	}
	used, err := v.usedByAll(ctx, own, others)
	if err != nil {
		return nil, 0, err
	}
	pinned, err := pinnedBeyond(all, source, now)
	if err != nil {
		return nil, 0, err
	}
	var packs []packFacts
	for _, number := range slices.Sorted(maps.Keys(own)) {
		if p, ok := v.store.Pack(number); ok {
			packs = append(packs, packFacts{
				number: number, bytes: uint64(p.Bytes), used: used[number], own: own[number], pinned: pinned.Contains(number),
			})
		}
	}
	return packs, v.rule().budget(all, source), v.addContent(ctx, packs)
}

// usedByAll adds to what one source uses of its packs what others do.
func (v *Vault) usedByAll(ctx context.Context, own map[uint32]uint64, others []*worm.Snapshot) (map[uint32]uint64, error) {
	mine := roaring.New()
	used := make(map[uint32]uint64, len(own))
	for number, n := range own {
		mine.Add(number)
		used[number] = n
	}
	sources := map[string]map[uint32]uint64{}
	whole := roaring.New()
	for _, info := range others {
		packs, err := info.Head.PackSet()
		if err != nil {
			return nil, err
		}
		if !packs.Intersects(mine) {
			continue
		}
		uses, err := v.uses(ctx, info)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			// Trouble with another source's catalog is not this one's: what they share counts as used.
			v.o.Logf("evacuation: %v", err)
			whole.Or(packs)
			continue
		}
		sources[info.Source] = atLeast(sources[info.Source], uses)
	}
	for number := range own {
		for _, uses := range sources {
			used[number] += uses[number]
		}
		if whole.Contains(number) {
			used[number] = math.MaxUint64
		}
	}
	return used, nil
}

// addContent fills in how much the packs hold.
func (v *Vault) addContent(ctx context.Context, packs []packFacts) error {
	unknown := 0
	for i := range packs {
		p := &packs[i]
		v.usage.mu.Lock()
		p.content = v.usage.content[p.number]
		v.usage.mu.Unlock()
		if p.content > 0 || unknown >= evacuationFooters {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		unknown++
		footer, err := v.footer(p.number)
		if err != nil {
			continue // check tells; a pack that cannot be read cannot be evacuated
		}
		p.content = v.usage.learn(p.number, footer)
	}
	return nil
}

// pinnedBeyond gives the packs that are kept, whatever this source's next session relies on, for longer than the lock of its
// snapshot will run: by a longer lock, or by the rule that the newest snapshots of a source never go, where that source has
// not been pulled for as long as its lock runs. To leave them would cost room and give none back.
func pinnedBeyond(all []worm.Snapshot, source string, now clock.Stamp) (*roaring.Bitmap, error) {
	const slack = time.Minute // the end of a lock is an estimate
	end := now.Wall.Add(shortestLock(all, source) + slack)
	newest := map[*worm.Snapshot]bool{}
	for _, s := range current(all) {
		newest[s] = true
	}
	own := true // the newest of this source is what the session replaces
	pinned := roaring.New()
	for i := range slices.Backward(all) {
		s := &all[i]
		if s.Source == source && own {
			own = false
			if !s.LockedUntil.After(end) {
				continue
			}
		}
		if s.Err != nil || !s.LockedUntil.After(end) && (s.Locked || !newest[s]) {
			continue
		}
		packs, err := s.Head.PackSet()
		if err != nil {
			return nil, err
		}
		pinned.Or(packs)
	}
	return pinned, nil
}

// shortestLock is how long the lock of a source's next snapshot will run at least, judged by those that it has.
func shortestLock(all []worm.Snapshot, source string) time.Duration {
	least := time.Duration(0)
	for i := range all {
		d := time.Duration(all[i].Lock.ForSeconds) * time.Second
		if all[i].Source == source && (least == 0 || d < least) {
			least = d
		}
	}
	return least
}

// budget is what a session of a source may copy.
func (r *evacuationRule) budget(all []worm.Snapshot, source string) uint64 {
	var brought []uint64
	for i := range slices.Backward(all) {
		if all[i].Source == source && len(brought) < lately {
			brought = append(brought, all[i].Head.NewBytes)
		}
	}
	if len(brought) == 0 {
		return r.room
	}
	slices.Sort(brought)
	// A median: one large pull among small ones is no measure of what comes.
	return r.room + r.factor*min(brought[len(brought)/2], 1<<50)
}

// entries gives what the catalog is to hold, in its order. Content in packs that the session evacuates is copied into its own
// packs first, as far as the budget goes, and the entries name it there. What cannot be copied stays where it is: the session
// has claimed those packs, and relies on them as it would have without evacuation.
func (s *Session) entries(ctx context.Context) iter.Seq2[snapshot.Entry, error] {
	if s.p.evac == nil {
		return s.sort.sorted()
	}
	return func(yield func(snapshot.Entry, error) bool) {
		m, err := s.move(ctx)
		if err != nil {
			yield(snapshot.Entry{}, fmt.Errorf("evacuation: %w", err))
			return
		}
		for e, err := range s.sort.sorted() {
			if err == nil && len(m.to) > 0 {
				err = m.rename(ctx, &e)
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// mover copies chunks out of the packs that a session evacuates.
type mover struct {
	s      *Session
	e      *evacuation
	from   map[chunk.ID]snapshot.Ref // chunks to be copied, as the entries name them
	to     map[chunk.ID]uint32       // where they lie now
	room   int64                     // of the budget, for what has not been copied yet
	entry  uint64                    // number of the entry that is looked at
	leaf   uint64                    // one more than the newest leaf that is counted
	chunks int                       // that it may copy
}

func (s *Session) move(ctx context.Context) (*mover, error) {
	e := s.p.evac
	m := &mover{s: s, e: e, from: map[chunk.ID]snapshot.Ref{}, to: map[chunk.ID]uint32{}, room: e.budget - e.spent.Load(), chunks: s.v.rule().chunks}
	for entry, err := range s.sort.sorted() {
		if err == nil {
			err = m.note(ctx, &entry)
		}
		if err != nil {
			return nil, err
		}
	}
	byPack := map[uint32][]snapshot.Ref{}
	for _, r := range m.from {
		byPack[r.Pack] = append(byPack[r.Pack], r)
	}
	m.from = nil
	for it := e.packs.Iterator(); it.HasNext(); {
		number := it.Next()
		if err := m.empty(ctx, number, byPack[number]); err != nil {
			return nil, err
		}
	}
	s.v.o.Logf("session %s: %d packs are evacuated: %d chunks were copied, %d bytes", s.id, e.packs.GetCardinality(), len(m.to), e.copied.Load())
	return m, nil
}

// note remembers the chunks of an entry that lie in packs to be left.
func (m *mover) note(ctx context.Context, e *snapshot.Entry) error {
	m.entry++
	for _, refs := range [][]snapshot.Ref{e.Chunks, e.List} {
		for i := range refs {
			m.want(&refs[i])
		}
	}
	if !m.listed(e) {
		return nil
	}
	for r, err := range snapshot.Chunks(ctx, fetcher{m.s.v}, *e) {
		if err != nil {
			// A list of this session that no pack was sealed with yet, or damage. What it names stays where it is.
			return ctx.Err()
		}
		m.want(&r)
	}
	return nil
}

// listed says whether the list of an entry names chunks in packs to be left.
func (m *mover) listed(e *snapshot.Entry) bool {
	return slices.ContainsFunc(e.ListPacks, func(u snapshot.PackUse) bool { return m.e.packs.Contains(u.Pack) })
}

func (m *mover) want(r *snapshot.Ref) {
	if !m.e.packs.Contains(r.Pack) || m.room <= 0 || len(m.from) >= m.chunks {
		return
	}
	if _, ok := m.from[r.ID]; !ok {
		m.from[r.ID] = *r
		m.room -= int64(r.Size)
	}
	if leaf := m.entry/leafEntries + 1; leaf > m.leaf {
		m.leaf = leaf
		m.room -= leafBytes
		m.e.spent.Add(leafBytes)
	}
}

// empty copies chunks out of one pack, in the order in which they lie there, so that each block is decoded once. A chunk that
// cannot be had stays.
func (m *mover) empty(ctx context.Context, number uint32, refs []snapshot.Ref) error {
	if len(refs) == 0 {
		return nil
	}
	v := m.s.v
	p, err := v.cache.pack(number)
	if err != nil {
		v.o.Logf("session %s: pack %d is not evacuated: %v", m.s.id, number, err)
		return nil
	}
	slices.SortFunc(refs, func(a, b snapshot.Ref) int {
		x, _ := p.find(a.ID)
		y, _ := p.find(b.ID)
		return cmp.Or(cmp.Compare(x.block, y.block), cmp.Compare(x.offset, y.offset), a.ID.Compare(b.ID))
	})
	failed := 0
	for _, r := range refs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if at, ok := m.elsewhere(r); ok {
			m.to[r.ID] = at
			continue
		}
		data, err := v.fetchFrom(number, r)
		if err != nil {
			if failed++; failed == 1 {
				v.o.Logf("session %s: what cannot be read of pack %d stays there: %v", m.s.id, number, err)
			}
			continue
		}
		at, _, _, err := m.s.p.store(laneOf(data), r.ID, data, true) // not put: what the index still hints at is no copy, see elsewhere
		if err != nil {
			return err
		}
		m.to[r.ID] = at.Pack
	}
	return nil
}

// elsewhere finds a chunk among those being written, or in a pack that stays: another session may have copied it already. The
// index only hints; that pack's own footer must say so, for a chunk that can be had shall not be exchanged for one that cannot.
func (m *mover) elsewhere(r snapshot.Ref) (uint32, bool) {
	at, _, ok := m.s.p.known(r.ID, int(r.Size))
	if !ok || m.e.packs.Contains(at.Pack) {
		return 0, false
	}
	if m.s.p.isPending(r.ID) {
		return at.Pack, true
	}
	p, err := m.s.v.cache.pack(at.Pack)
	if err != nil {
		return 0, false
	}
	place, ok := p.find(r.ID)
	return at.Pack, ok && place.size == r.Size
}

func (p *packer) isPending(id chunk.ID) bool {
	p.pendingMu.Lock()
	defer p.pendingMu.Unlock()
	_, ok := p.pending[id]
	return ok
}

// rename makes an entry name its chunks where they lie now.
func (m *mover) rename(ctx context.Context, e *snapshot.Entry) error {
	e.Chunks = m.renamed(e.Chunks)
	if m.listed(e) {
		if err := m.renameList(ctx, e); err != nil {
			return err
		}
	}
	e.List = m.renamed(e.List)
	return nil
}

// renamed gives the references as they are now, in a slice of their own where one changes.
func (m *mover) renamed(refs []snapshot.Ref) []snapshot.Ref {
	own := false
	for i := range refs {
		to, ok := m.to[refs[i].ID]
		if !ok || !m.e.packs.Contains(refs[i].Pack) {
			continue
		}
		if !own {
			refs, own = slices.Clone(refs), true
		}
		refs[i].Pack = to
	}
	return refs
}

// renameList writes a file's list anew. Chunks of the list that do not change are those that are there.
func (m *mover) renameList(ctx context.Context, e *snapshot.Entry) error {
	var unread error
	refs := func(yield func(snapshot.Ref) bool) {
		for r, err := range snapshot.Chunks(ctx, fetcher{m.s.v}, *e) {
			if err != nil {
				unread = err
				return
			}
			if to, ok := m.to[r.ID]; ok && m.e.packs.Contains(r.Pack) {
				r.Pack = to
			}
			if !yield(r) {
				return
			}
		}
	}
	list, packs, err := snapshot.WriteList(ctx, m.s, refs)
	if err != nil {
		return err
	}
	if unread != nil {
		return ctx.Err() // as it was; what was written of another list is nobody's
	}
	e.List, e.ListPacks = list, packs
	return nil
}

// fetcher reads chunks of the vault.
type fetcher struct{ v *Vault }

func (f fetcher) Fetch(ctx context.Context, r snapshot.Ref) ([]byte, error) { return f.v.fetch(ctx, r) }
