package worm

import (
	"fmt"
	"math/bits"
	"os"
	"strings"
	"testing"
)

// The model below is prune and everything that runs beside it, cut into the steps between which the store lets others in, and
// without any time: a day, three hours and a fortnight pass as steps of their own, whenever they like. Every state that any
// interleaving of so many steps leads to is looked at once.
//
//	pack 0  of the snapshot that is newest at first
//	pack 1  of an older snapshot, whose lock has run
//	pack 2  that session 0 seals, of the source of both
//	pack 3  that session 1 seals, of another source
//
// The prune: 0 idle, 1 the sweep is planned, 2 its snapshots have gone, 3 its packs are condemned, 4 they have an intent, 5 they
// are unlinked, 6 the mark is planned. Marks: 0 none, 1 young, 2 a day old.

const (
	older, newer, byFirst, bySecond = 0, 1, 2, 3 // snapshots

	unborn, there, intended, removed = 0, 1, 2, 3 // packs; a snapshot is unborn, there or removed

	idle, running, suspended, over = 0, 1, 2, 3 // sessions
	opened, claimedAll             = 1, 2       // the restore; over is 3
)

type packs uint8 // a set

func (p packs) has(n int) bool { return p&(1<<n) != 0 }

// moment is one state. It is comparable, and small.
type moment struct {
	snap   [4]uint8
	names  [4]packs
	locked packs // snapshots
	held   bool  // the older snapshot
	pack   [4]uint8
	markS  [4]uint8
	markP  [4]uint8

	claims    [3]packs // of both sessions and of the restore, as the store knows them
	spared    packs
	condemned packs
	strangers bool // the store was opened lately

	at    uint8 // of the prune
	planS packs
	planP packs

	phase   [2]uint8
	relies  [2]packs // what each session believes that it may name
	sealed  [2]bool
	stale   [2]bool // sealed nothing for a fortnight
	reading uint8
	needs   packs // of the restore
}

// rules are what keeps it right. Each can be left out.
type rules struct {
	elsewhere                          bool // sessions live on while the store is opened anew
	claimCheck, planAnew, grace, admit bool
}

func allRules(elsewhere bool) rules {
	return rules{elsewhere, true, true, true, true}
}

type step struct {
	name string
	to   moment
}

func begin() moment {
	m := moment{}
	m.snap[older], m.snap[newer] = there, there
	m.names[older], m.names[newer] = 1<<1, 1<<0
	m.pack[0], m.pack[1] = there, there
	return m
}

// marked is a moment at which the older snapshot and its pack are marked for a day, and a session that relies on the pack has said
// nothing for as long.
func marked() moment {
	m := begin()
	m.markS[older], m.markP[1] = 2, 2
	m.pack[2], m.phase[0], m.sealed[0], m.relies[0] = there, running, true, 1<<1|1<<2
	return m
}

func (m *moment) reliable(n int) bool { return m.pack[n] == there && !m.condemned.has(n) }

// mayGo says whether a snapshot may go: its lock has run, and a newer one of its source is there.
func (m *moment) mayGo(s int) bool {
	if m.snap[s] != there || m.locked.has(s) || s == bySecond || s == older && m.held {
		return false
	}
	for t := s + 1; t <= byFirst; t++ {
		if m.snap[t] == there {
			return true
		}
	}
	return false
}

func (m *moment) claimed() packs { return m.claims[0] | m.claims[1] | m.claims[2] }

// free gives the packs that nobody needs once some snapshots are gone.
func (m *moment) free(r rules, leaving packs) (out packs) {
	var kept packs
	for s := range m.snap {
		if m.snap[s] == there && !leaving.has(s) {
			kept |= m.names[s]
		}
	}
	kept |= m.claimed()
	for n := range m.pack {
		own := n >= 2 && m.phase[n-2] != over && !m.stale[n-2]
		if m.pack[n] == there && !kept.has(n) && !own {
			out |= 1 << n
		}
	}
	return out
}

// prune is the next step of the prune.
func (m moment) prune(r rules) moment {
	switch m.at {
	case 0:
		for s := range m.snap {
			if m.mayGo(s) && m.markS[s] == 2 {
				m.planS |= 1 << s
			}
		}
		leaving := m.planS
		if !r.planAnew { // as if what was marked might go because it had been marked
			leaving = 1<<older | 1<<newer
		}
		for n := range m.pack {
			if m.free(r, leaving).has(n) && m.markP[n] == 2 && !m.spared.has(n) && !(r.grace && m.strangers) {
				m.planP |= 1 << n
			}
		}
	case 1:
		for s := range m.snap {
			if m.planS.has(s) {
				m.snap[s], m.markS[s], m.names[s] = removed, 0, 0
			}
		}
		m.planS = 0
	case 2:
		if r.claimCheck {
			m.planP &^= m.claimed() | m.spared
		}
		m.condemned, m.planP = m.planP, 0
	case 3:
		for n := range m.pack {
			if m.condemned.has(n) {
				m.pack[n], m.markP[n] = intended, 0
			}
		}
		m.spared &^= m.condemned
		m.condemned = 0
	case 4:
		m.unlink()
	case 5:
		for s := range m.snap {
			if m.mayGo(s) {
				m.planS |= 1 << s
			}
		}
		m.planP = m.free(r, m.planS)
	case 6:
		for s := range m.snap {
			m.markS[s] = remarked(m.markS[s], m.planS.has(s), false)
		}
		for n := range m.pack {
			m.markP[n] = remarked(m.markP[n], m.planP.has(n) && !m.claimed().has(n), m.spared.has(n))
		}
		m.planS, m.planP, m.spared = 0, 0, 0
	}
	m.at = (m.at + 1) % 7
	return m
}

func remarked(old uint8, may, stale bool) uint8 {
	switch {
	case !may:
		return 0
	case old == 0 || stale:
		return 1
	}
	return old
}

func (m *moment) unlink() {
	for n := range m.pack {
		if m.pack[n] == intended {
			m.pack[n] = removed
		}
	}
}

// claim grants what is reliable.
func (m *moment) claim(who int, want packs) (granted packs) {
	for n := range m.pack {
		if want.has(n) && m.reliable(n) {
			granted |= 1 << n
			if m.markP[n] != 0 {
				m.spared |= 1 << n
			}
		}
	}
	m.claims[who] |= granted
	return granted
}

// hours are three of them: who lives renews, who does not claims nothing any more, and the store was not opened lately.
func (m *moment) hours() {
	for i := range m.phase {
		m.claims[i] = 0
		if m.phase[i] == running {
			m.claim(i, m.relies[i])
		}
	}
	m.claims[2] = 0
	if m.reading == claimedAll {
		m.claim(2, m.needs)
	}
	m.strangers = false
}

func (m *moment) day() {
	m.hours()
	for i, k := range m.markS {
		m.markS[i] = min(k*2, 2)
	}
	for i, k := range m.markP {
		m.markP[i] = min(k*2, 2)
	}
	m.locked = 0
}

func (m *moment) fortnight() {
	m.day()
	for i := range m.phase {
		m.stale[i] = m.sealed[i] && m.phase[i] != over
	}
}

// restart ends the store and opens it anew: what it knew in memory is gone, and what had an intent is removed.
func (m *moment) restart(r rules) {
	m.unlink()
	m.claims, m.spared, m.condemned, m.planS, m.planP, m.at = [3]packs{}, 0, 0, 0, 0, 0
	m.strangers = r.elsewhere
	if r.elsewhere {
		return
	}
	for i := range m.phase {
		if m.phase[i] == running {
			m.phase[i] = suspended
		}
	}
	if m.reading != idle {
		m.reading = over
	}
}

// next gives all that may happen.
func (m moment) next(r rules) (out []step) {
	add := func(name string, f func(*moment)) {
		n := m
		f(&n)
		if n != m {
			out = append(out, step{name, n})
		}
	}
	out = append(out, step{fmt.Sprint("prune ", m.at), m.prune(r)})
	add("three hours", (*moment).hours)
	add("a day", (*moment).day)
	add("a fortnight", (*moment).fortnight)
	add("restart", func(n *moment) { n.restart(r) })
	for i := range m.phase {
		m.session(r, i, add)
	}
	if m.at == 0 && m.snap[older] == there {
		add("the older snapshot is held", func(n *moment) {
			n.held, n.markS[older] = true, 0
			for p := range n.pack {
				if n.markP[p] != 0 && n.names[older].has(p) {
					n.spared |= 1 << p
				}
			}
		})
	}
	switch m.reading {
	case idle:
		if m.snap[older] == there {
			add("the restore opens its snapshot", func(n *moment) { n.reading, n.needs = opened, n.names[older] })
		}
	case opened:
		add("the restore claims", func(n *moment) {
			n.reading = claimedAll
			if n.claim(2, n.needs) != n.needs {
				n.reading = over // a pack had gone: it is told
			}
		})
	case claimedAll:
		add("the restore ends", func(n *moment) { n.reading, n.claims[2] = over, 0 })
	}
	return out
}

func (m *moment) session(r rules, i int, add func(string, func(*moment))) {
	say := func(what string) string { return fmt.Sprintf("session %d %s", i, what) }
	own := packs(1) << (2 + i)
	switch m.phase[i] {
	case idle:
		add(say("begins"), func(n *moment) { n.phase[i] = running })
	case suspended:
		add(say("is resumed"), func(n *moment) {
			n.phase[i] = running
			n.relies[i] = n.claim(i, n.relies[i])
			if n.sealed[i] && !n.relies[i].has(2+i) {
				n.phase[i] = over // what it had stored has gone: it begins anew, as another one
			}
		})
	case running:
		for p := range 3 {
			if p != 2+i && m.pack[p] != unborn && !m.relies[i].has(p) && (p == 1 || p == 2 && i == 1) {
				add(say(fmt.Sprint("claims ", p)), func(n *moment) { n.relies[i] |= n.claim(i, 1<<p) })
			}
		}
		add(say("says nothing for a day"), func(n *moment) {
			n.day()
			n.claims[i] = 0
		})
		add(say("is cut"), func(n *moment) { n.phase[i] = suspended })
		add(say("is cut and released"), func(n *moment) { n.phase[i], n.claims[i] = suspended, 0 })
		if m.at != 0 {
			return // the store decides one thing at a time
		}
		if !m.sealed[i] {
			add(say("seals"), func(n *moment) {
				n.pack[2+i], n.sealed[i] = there, true
				n.relies[i] |= own
				n.claims[i] |= own
			})
			return
		}
		add(say("commits"), func(n *moment) {
			for p := range n.pack {
				if n.relies[i].has(p) && !n.reliable(p) && r.admit {
					n.relies[i] &^= 1 << p // refused: what it had there it stores again
					if p == 2+i {
						n.phase[i] = over
					}
					return
				}
			}
			n.snap[byFirst+i], n.names[byFirst+i] = there, n.relies[i]
			n.locked |= 1 << (byFirst + i)
			for p := range n.pack {
				if n.markP[p] != 0 && n.relies[i].has(p) {
					n.spared |= 1 << p
				}
			}
			n.claims[i], n.phase[i] = 0, over
		})
	}
}

// wrong says what must never be.
func (m *moment) wrong() string {
	for s := range m.snap {
		for n := range m.pack {
			if m.snap[s] == there && m.names[s].has(n) && m.pack[n] != there {
				return fmt.Sprintf("snapshot %d names pack %d, which is gone", s, n)
			}
		}
	}
	for n := range m.pack {
		if m.reading == claimedAll && m.needs.has(n) && m.pack[n] != there {
			return fmt.Sprintf("the restore claimed pack %d, which is gone", n)
		}
	}
	return ""
}

// leaks says what is still there although everybody has gone and all the time in the world has passed.
func (m moment) leaks(r rules) string {
	for i := range m.phase {
		if m.phase[i] == running {
			m.phase[i] = suspended
		}
	}
	m.reading = over
	m.fortnight()
	for range 5 {
		for ok := true; ok; ok = m.at != 0 {
			m = m.prune(r)
		}
		m.day()
	}
	if free := m.free(r, 0); free != 0 {
		return fmt.Sprintf("%d packs are nobody's, and stay for ever", bits.OnesCount8(uint8(free)))
	}
	for s := range m.snap {
		if m.mayGo(s) {
			return fmt.Sprintf("snapshot %d may go, and stays for ever", s)
		}
	}
	return ""
}

// explore looks at every state within a number of steps, and gives the shortest way to a wrong one.
// Of every so many states it looks whether anything leaks from there.
func explore(r rules, first moment, depth, every int) (states, deepest int, way []string) {
	type from struct {
		moment
		name string
	}
	seen := map[moment]from{first: {}}
	edge := []moment{first}
	path := func(m moment, why string) (out []string) {
		out = []string{why}
		for m != first {
			f := seen[m]
			out = append([]string{f.name}, out...)
			m = f.moment
		}
		return out
	}
	for deepest = 0; len(edge) > 0 && deepest < depth; deepest++ {
		var later []moment
		for _, m := range edge {
			for _, s := range m.next(r) {
				if _, known := seen[s.to]; known {
					continue
				}
				seen[s.to] = from{m, s.name}
				if why := s.to.wrong(); why != "" {
					return len(seen), deepest, path(s.to, why)
				}
				if len(seen)%every == 0 {
					if why := s.to.leaks(r); why != "" {
						return len(seen), deepest, path(s.to, why)
					}
				}
				later = append(later, s.to)
			}
		}
		edge = later
	}
	return len(seen), deepest, nil
}

// TestNoInterleavingTakesWhatIsNeeded explores the model, to a depth that the continuous integration has time for, and with
// HOLDFAST_SWEEP=full further.
func TestNoInterleavingTakesWhatIsNeeded(t *testing.T) {
	t.Parallel()
	depth, every := 13, 7
	switch {
	case os.Getenv("HOLDFAST_SWEEP") == "full":
		depth, every = 17, 1
	case raceEnabled || testing.Short():
		depth = 8 // nothing in it is concurrent
	}
	for _, elsewhere := range []bool{true, false} {
		for from, first := range map[string]moment{"the beginning": begin(), "a day after the mark": marked()} {
			states, deepest, way := explore(allRules(elsewhere), first, depth, every)
			t.Logf("sessions elsewhere %t, from %s: %d states within %d steps", elsewhere, from, states, deepest)
			if way != nil {
				t.Errorf("sessions elsewhere %t, from %s:\n%s", elsewhere, from, strings.Join(way, "\n"))
			}
		}
	}
}

// TestEachRuleIsNeeded leaves one rule out at a time, and the model finds what goes wrong then.
func TestEachRuleIsNeeded(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(*rules){
		"the look at claims before the intent": func(r *rules) { r.claimCheck = false },
		"deciding anew":                        func(r *rules) { r.planAnew = false },
		"the three hours after a start":        func(r *rules) { r.grace = false },
		"a commit's look at its packs":         func(r *rules) { r.admit = false },
	} {
		r := allRules(true)
		leave(&r)
		states, _, way := explore(r, marked(), 9, 1<<30)
		if way == nil {
			t.Errorf("without %s nothing goes wrong in %d states", name, states)
			continue
		}
		t.Logf("without %s: %s", name, strings.Join(way, "; "))
	}
}
