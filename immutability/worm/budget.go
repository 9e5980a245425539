package worm

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/policy"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
)

const (
	// budgetWindow is the running time that a budget is for. The wall clock is not asked: a pack that was sealed under one that
	// was set a year ahead would use up its source's budget for that year, and only a quorum may give it more.
	budgetWindow = 24 * time.Hour
	// A source that took shareLeast within it is stopped once less than a tenth of what it found free is left: the rest is the
	// other sources'.
	shareLeast = 1 << 30
	// reserve is what a growing pack is taken for while it is smaller, or a 16th of the budget where that is less.
	reserve = 136 << 20
	// boundMax bounds the sessions of one process that have nothing sealed.
	boundMax = 1 << 16
)

// ErrBudget is what a BudgetError is.
var ErrBudget = errors.New("the source's budget is used up")

// BudgetError says that a source has stored as much as it may within 24 hours. Nothing is deleted and no lock changes; other
// sources go on, and so does this one once enough of it is 24 hours old.
type BudgetError struct{ Budget }

func (e *BudgetError) Error() string {
	whose := fmt.Sprintf("its budget of %d bytes a day", e.Limit)
	if e.Share {
		whose = fmt.Sprintf("nine tenths of the room that was free (%d bytes)", e.Limit)
	}
	if e.Manifests {
		whose = fmt.Sprintf("what manifests may take of its budget (%d bytes a day)", e.Limit)
	}
	return fmt.Sprintf("source %s has stored %d bytes within 24 hours, which uses up %s. Nothing is deleted, its snapshots and their locks stay as they are, and other sources go on. "+
		"If this is too much for it, look at what the source is sending. It goes on by itself, where it was, from %s on", e.Source, e.Used, whose, e.Again.UTC().Format("2006-01-02 15:04 UTC"))
}

// Budget is what a source has stored newly within 24 hours, and what it may.
type Budget struct {
	Source string
	// Used counts the packs that were sealed for it, whether a snapshot names them or not, those that grow, and those that its
	// sessions saved from being removed.
	Used  int64
	Limit int64 // 0 for none
	// Share says that the limit is the share of the disk and no number of the policy's.
	Share bool
	// Manifests says that it is of the manifests' own part alone.
	Manifests bool
	Again     time.Time // when the window will have room again, if it has none; the wall clock, if the machine stays on
}

// Is says that it is ErrBudget.
func (e *BudgetError) Is(target error) bool { return target == ErrBudget }

func (b Budget) spent() bool { return b.Limit > 0 && b.Used >= b.Limit }

// spending is a part of a budget that was used.
type spending struct {
	at    clock.Stamp
	bytes int64
}

// left is how much running time it counts for still, whole seconds; one is asked on top, as in clock.Elapsed.
func (u spending) left(now clock.Stamp) time.Duration {
	return budgetWindow + time.Second - time.Duration(now.Running-u.at.Running)*time.Second
}

// spend counts bytes against a source's budget and forgets what has left the window.
func spend(all map[string][]spending, source string, at clock.Stamp, bytes int64) {
	old := all[source]
	for len(old) > 0 && old[0].left(at) <= 0 {
		old = old[1:]
	}
	if last := len(old) - 1; last >= 0 && old[last].at.Running == at.Running {
		// What is claimed one by one would be a list that is sorted for each: they leave the window together.
		old[last].bytes += bytes
		all[source] = old
		return
	}
	all[source] = append(old, spending{at, bytes})
}

// Bind says for which source a session is: what it stores counts against that source's budget. A session has one source for
// good. It is asked before the session's first pack.
func (s *Store) Bind(session, source string) error {
	if err := s.writable(); err != nil {
		return err
	}
	if !reliance.ValidSession(session) || !reliance.ValidSource(source) {
		return fmt.Errorf("session %q of source %q: a session is 1 to 64 of [A-Za-z0-9_-], a source is of the form [a-z0-9][a-z0-9_-]{0,62}", session, source)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch known := s.sourceOf(session); {
	case known == source:
		return nil
	case known != "":
		return fmt.Errorf("session %q is of source %q, not of %q", session, known, source)
	case len(s.bound) >= boundMax:
		// Sessions that ended without a word: whoever goes on says again what he is for.
		maps.DeleteFunc(s.bound, func(session, _ string) bool { return s.claims[session] == nil })
		if len(s.bound) >= boundMax {
			return errors.New("too many sessions at once: commit or abandon some first")
		}
	}
	s.bound[session] = source
	return nil
}

// sourceOf gives the source of a session, "" where nobody said. s.mu is held.
func (s *Store) sourceOf(session string) string {
	known := ""
	if st := s.state.sessions[session]; st != nil {
		known = st.source
	}
	return cmp.Or(s.bound[session], known)
}

// affords refuses a further pack to a session whose source has used up its budget.
func (s *Store) affords(session string) error {
	s.mu.Lock()
	source := s.sourceOf(session)
	s.mu.Unlock()
	if source == "" {
		return nil
	}
	b, err := s.Budget(source)
	if err != nil {
		return err
	}
	if b.spent() {
		return &BudgetError{b}
	}
	return nil
}

// fits refuses to seal a file that is larger than packs are and more than the budget has left: what grows is not limited by
// anybody but him who writes it.
func (s *Store) fits(session string, bytes int64) error {
	if bytes <= 2*reserve {
		return nil
	}
	s.mu.Lock()
	source := s.sourceOf(session)
	s.mu.Unlock()
	if source == "" {
		return nil
	}
	b, err := s.Budget(source)
	if err == nil && b.Limit > 0 && b.Used+bytes > b.Limit {
		err = &BudgetError{b}
	}
	return err
}

// affordsManifest refuses a further manifest to a source of which those of the last 24 hours take more than a sixteenth of its
// budget, or of nine tenths of the room where it has none: manifests are locked as packs are, and without an end to them a
// budget of packs would be none. They have a part of their own, so that a pull whose packs took the last of a budget commits;
// one manifest of the largest size always has room, since a pull that cannot commit begins again for ever.
func (s *Store) affordsManifest(source string, bytes int64) error {
	b, err := s.Budget(source)
	if err != nil {
		return err
	}
	now, err := s.clock.Now()
	if err != nil {
		return err
	}
	s.mu.Lock()
	used := slices.DeleteFunc(slices.Clone(s.state.heads[source]), func(u spending) bool { return u.left(now) <= 0 })
	s.mu.Unlock()
	room := b.Limit
	if free := s.free(); room == 0 && free >= 0 {
		room = (free + b.Used) / 10 * 9
	}
	if room == 0 || len(used) == 0 {
		return nil
	}
	sum := bytes
	for _, u := range used {
		sum += u.bytes
	}
	most := max(room/16, reliance.MaxManifest)
	if sum <= most {
		return nil
	}
	left, again := sum, now.Wall
	for _, u := range used {
		if left <= most {
			break
		}
		left -= u.bytes
		again = now.Wall.Add(u.left(now))
	}
	return &BudgetError{Budget{Source: source, Used: sum - bytes, Limit: most, Again: again, Manifests: true}}
}

// Budget says what a source has used of its budget.
func (s *Store) Budget(source string) (Budget, error) {
	now, err := s.clock.Now()
	if err != nil {
		return Budget{}, err
	}
	s.mu.Lock()
	rules := s.state.policy().For(source)
	used := slices.Concat(s.state.spent[source], s.saved[source])
	var growing []uint32
	for n, of := range s.growing {
		if of == source {
			growing = append(growing, n)
		}
	}
	s.mu.Unlock()
	sizes := make([]int64, len(growing))
	for i, n := range growing {
		if info, err := s.disk.Stat(incomingPack(n)); err == nil {
			sizes[i] = info.Size()
		}
	}
	return budget(source, rules, used, sizes, s.free(), now), nil
}

// free is the room on the disk, -1 where nobody can tell.
func (s *Store) free() int64 {
	if r, ok := s.disk.(interface{ Free() (int64, error) }); ok {
		if n, err := r.Free(); err == nil {
			return n
		}
	}
	return -1
}

// ledgerRoom is what a vault in one place keeps free for ledger and manifests, in bytes, or a 64th of its disk where that is
// less. In several places the disk itself sees to that: see durable.Span.
const ledgerRoom = 64 << 20

// spares refuses to begin a pack in the room that ledger and manifests need: many small packs would else fill a disk to its
// last byte, and without a record there is no commit, no prune that makes room, and no further place. Who makes a pack grow
// asks Spares, since it is he who writes it.
func (s *Store) spares() error {
	if len(s.ProbePlaces()) > 1 {
		return nil
	}
	return spares(s.disk, ledgerRoom, 0)
}

// Spares says, with an error in which durable.ErrFull is, that a pack that grows by so many bytes more, on a disk of one place,
// would take more than half of the room that ledger and manifests need. Whoever let it grow on would leave a disk on which not
// even what may go can be removed, since that takes a record.
func Spares(d durable.Disk, coming int64) error { return spares(d, ledgerRoom/2, coming) }

func spares(d durable.Disk, most, coming int64) error {
	r, ok := d.(interface {
		Room() (free, total int64, err error)
	})
	if !ok {
		return nil
	}
	free, total, err := r.Room()
	if kept := min(most, total/64/(ledgerRoom/most)); err == nil && free-coming < kept {
		return fmt.Errorf("%w: %d bytes are free, up to %d are on their way, and %d are kept for ledger and manifests; docs/PLACES.md says how the vault goes on on a second disk", durable.ErrFull, free, coming, kept)
	}
	return nil
}

// budget is the whole rule: of the number that the policy says and nine tenths of the room that the source found, the less.
func budget(source string, rules policy.Rules, used []spending, growing []int64, free int64, now clock.Stamp) Budget {
	used = slices.DeleteFunc(used, func(u spending) bool { return u.left(now) <= 0 })
	slices.SortStableFunc(used, func(a, b spending) int { return cmp.Compare(a.at.Running, b.at.Running) })
	b := Budget{Source: source, Limit: rules.BudgetBytes}
	for _, u := range used {
		b.Used += u.bytes
	}
	for _, n := range growing {
		b.Used += n
	}
	if share := (free + b.Used) / 10 * 9; free >= 0 && b.Used >= shareLeast && (b.Limit == 0 || share < b.Limit) {
		b.Limit, b.Share = max(share, 1), true
	}
	if b.Limit > 0 {
		for _, n := range growing {
			b.Used += max(min(reserve, b.Limit/16)-n, 0)
		}
	}
	left := b.Used
	for _, u := range used {
		if b.Limit == 0 || left < b.Limit {
			break
		}
		left -= u.bytes
		b.Again = now.Wall.Add(u.left(now))
	}
	return b
}

// Budgets says it of every source that stored something within 24 hours, or whose number the policy says, by name.
func (s *Store) Budgets() ([]Budget, error) {
	now, err := s.clock.Now()
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	s.mu.Lock()
	for source, used := range s.state.spent {
		if len(used) > 0 && used[len(used)-1].left(now) > 0 {
			names[source] = true
		}
	}
	p := s.state.policy()
	for source := range s.state.sources {
		if p.For(source).BudgetBytes > 0 {
			names[source] = true
		}
	}
	s.mu.Unlock()
	var out []Budget
	for source := range names {
		b, err := s.Budget(source)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	slices.SortFunc(out, func(a, b Budget) int { return cmp.Compare(a.Source, b.Source) })
	return out, nil
}

// unsaved gives the packs that are condemned and that a session may not take back: what it takes back counts as if it had
// stored it anew, and beyond its source's budget it is a miss to it. s.mu is not held.
func (s *Store) unsaved(session string, packs *roaring.Bitmap) *roaring.Bitmap {
	condemned, bytes := roaring.New(), int64(0)
	s.mu.Lock()
	source := s.sourceOf(session)
	for _, n := range s.among(packs) {
		if p := s.state.packs[n]; p != nil {
			condemned.Add(n)
			bytes += p.Bytes
		}
	}
	s.mu.Unlock()
	if source == "" || bytes == 0 {
		return roaring.New()
	}
	b, err := s.Budget(source)
	if err != nil || b.Limit > 0 && b.Used+bytes > b.Limit {
		return condemned
	}
	now, err := s.clock.Now()
	if err != nil {
		return condemned
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	spend(s.saved, source, now, bytes)
	return roaring.New()
}
