package worm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
	"github.com/holdfast-vault/holdfast/immutability/witness"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"golang.org/x/mod/sumdb/note"
)

const (
	historyVault = "0123456789abcdef0123456789abcdef"
	stateFile    = "keeper/clock"
)

// lies says which of the machine's clocks need have nothing to do with real time.
type lies struct{ wall, raw, boot bool }

// machine is a computer: its clocks are a Source, and show what lies allows.
type machine struct {
	lies   lies
	origin time.Time
	wall   time.Duration // what the wall clock shows, since origin
	raw    time.Duration
	boot   time.Duration
	boots  int
	frozen bool // the wall clock stands still, if it may lie
	still  bool // BOOTTIME stands still, if it may lie, and catches up with what it owes some day
	owed   time.Duration
}

// Read implements clock.Source.
func (m *machine) Read() (clock.Reading, error) {
	return clock.Reading{Wall: m.origin.Add(m.wall), Raw: m.raw, Boot: m.boot, BootID: fmt.Sprint("boot ", m.boots)}, nil
}

func (m *machine) reboot() {
	m.boots++
	m.raw, m.boot, m.still, m.owed = 0, 0, false, 0
}

// history is one vault's life under one schedule of clocks.
type history struct {
	r     *rand.Rand
	m     *machine
	mod   *model
	disk  *crashdisk.Disk
	store *worm.Store
	guard bool
	tame  bool // the source "evil" behaves, and everything else is as it would be otherwise
	log   []string
	fate  strings.Builder // what became of the snapshots of all other sources
	n     int             // sessions so far
	old   []byte          // a state file of before
	trust worm.Witnesses
	seers []*seer
	liars int // of the witnesses

	rules  *rand.Rand        // draws keep rules; nil for a history without
	wanted map[string]string // what keep rules wanted before something was removed, and which
}

var errBroken = errors.New("a promise is broken")

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errBroken, fmt.Sprintf(format, args...))
}

func (h *history) say(format string, args ...any) {
	h.log = append(h.log, fmt.Sprintf("%12v  ", h.mod.real.Round(time.Second))+fmt.Sprintf(format, args...))
}

// span draws a length of time of any scale, odd to the nanosecond.
func (h *history) span(most time.Duration) time.Duration {
	scale := []time.Duration{2 * time.Second, 2 * time.Hour, 3 * day, 40 * day, 500 * day}[h.r.IntN(5)]
	return time.Duration(h.r.Int64N(int64(min(scale, most)) + 1))
}

func (h *history) open() error {
	s, err := worm.Open(h.disk, h.m, worm.Options{Guard: h.guard})
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	h.store = s
	// What was marked when the power failed is marked; what was claimed in a process that is gone is claimed by nobody.
	marked := s.Marked()
	for n, p := range h.mod.packs {
		_, is := marked.Packs[n]
		p.marked.spared = false
		p.marked.tells(is, h.mod.real)
	}
	h.marked()
	return s.TrustWitnesses(h.trust)
}

// marked asks what is marked.
func (h *history) marked() {
	m := h.store.Marked()
	for _, p := range h.mod.snaps {
		_, is := m.Snapshots[p.id]
		p.marked.tells(is, h.mod.real)
	}
	for n, p := range h.mod.packs {
		if _, is := m.Packs[n]; is || !p.marked.spared {
			p.marked.tells(is, h.mod.real)
		}
	}
}

// pass lets time pass. Honest clocks follow; a machine that sleeps counts no MONOTONIC_RAW.
func (h *history) pass(d time.Duration, asleep bool) {
	m := h.m
	h.mod.real += d
	switch {
	case !m.lies.wall:
		m.wall += d
	case !m.frozen:
		m.wall += d + time.Duration(h.r.Int64N(int64(d/50)+1)) - d/100
	}
	switch {
	case m.lies.raw:
		m.raw += h.odd(d)
	case !asleep:
		m.raw += d
	}
	switch {
	case m.still:
		m.owed += d
	case m.lies.boot:
		m.boot += h.odd(d)
	default:
		m.boot += d
	}
}

// odd is what a counter that lies makes of a length of time.
func (h *history) odd(d time.Duration) time.Duration {
	switch h.r.IntN(4) {
	case 0:
		return d
	case 1:
		return 0
	case 2:
		return d + d/10
	}
	return h.span(500 * day)
}

// off switches the machine off for a while.
func (h *history) off(d time.Duration) {
	h.mod.real += d
	switch {
	case !h.m.lies.wall:
		h.m.wall += d
	case h.r.IntN(3) > 0:
		h.m.wall += d // else the clock chip stood still as well
	}
	h.m.reboot()
}

// manifest makes one; dishonest dates are drawn from wild.
func (h *history) manifest(source, session string, wild *rand.Rand, state string, clean bool, packs []uint32) ([]byte, error) {
	label, previous, err := h.store.NextLabel(source)
	if err != nil {
		return nil, err
	}
	begin := h.m.origin.Add(h.m.wall)
	if wild != nil {
		off := time.Duration(wild.Int64N(int64(1000*day))) - 500*day
		begin = begin.Add(off)
		if forged := wild.IntN(4); forged < 2 {
			at, err := clock.ParseLabel(label)
			if err != nil {
				return nil, err
			}
			if label, err = clock.Label(at.Add([]time.Duration{9 * time.Minute, 400 * day}[forged]), ""); err != nil {
				return nil, err
			}
		}
	}
	head := reliance.Head{
		Format: reliance.Format, Vault: historyVault, Source: source, Session: session, Begin: begin, Label: label,
		State: state, Clean: clean, Previous: previous,
	}
	if err := head.SetPacks(roaring.BitmapOf(packs...)); err != nil {
		return nil, err
	}
	b, err := head.Encode()
	if err != nil {
		return nil, err
	}
	return reliance.Frame(b, []byte("sealed"), []byte("keyring")), nil
}

// seal makes a small pack; it errs only where the power failed.
func (h *history) seal(session string) (uint32, error) {
	in, err := h.store.CreatePack(session)
	if err != nil {
		return 0, err
	}
	if _, err := in.File.Write([]byte("pack")); err != nil {
		return 0, err
	}
	if _, err := h.store.Seal(context.Background(), in); err != nil {
		return 0, err
	}
	h.mod.packs[in.Number] = &stored{sealed: h.mod.real}
	return in.Number, nil
}

var sources = []string{"web1", "web2", "evil"}

// commit makes a snapshot and holds what was granted to what was asked.
func (h *history) commit() error {
	h.n++
	session := fmt.Sprint("s", h.n)
	source := sources[h.r.IntN(len(sources))]
	state, clean := reliance.Complete, h.r.IntN(5) > 0
	if h.r.IntN(4) == 0 {
		state = reliance.Partial
	}
	lock := ledger.Lock{ForSeconds: int64(h.span(40*day) / time.Second)}
	if h.r.IntN(3) == 0 {
		lock.Mode = ledger.Compliance
	}
	var packs []uint32
	if h.r.IntN(3) == 0 {
		n, err := h.seal(session)
		if err != nil {
			return err
		}
		packs = append(packs, n)
		if h.r.IntN(8) == 0 {
			h.say("session %s seals pack %d and is abandoned", session, n)
			return nil
		}
		for _, p := range h.store.Packs() {
			if h.r.IntN(2) == 0 && p.Number != n && h.store.ClaimOne(session, p.Number) {
				packs = append(packs, p.Number)
				h.mod.packs[p.Number].marked.spared = true
			}
		}
	}
	wild := rand.New(rand.NewPCG(h.r.Uint64(), 2))
	if source != "evil" || h.tame {
		wild = nil
	}
	b, err := h.manifest(source, session, wild, state, clean, packs)
	if err != nil {
		return err
	}
	id := reliance.ID(b)
	before := h.mod.real
	snap, err := h.store.Commit(context.Background(), session, b, lock)
	var stale *worm.StaleHead
	if errors.As(err, &stale) && wild != nil {
		h.say("%s: a forged label is refused: %v", source, stale)
		if b, err = h.manifest(source, session, nil, state, clean, packs); err != nil {
			return err
		}
		id = reliance.ID(b)
		snap, err = h.store.Commit(context.Background(), session, b, lock)
	}
	p := &promised{id: id, source: source, complete: state == reliance.Complete, clean: clean, packs: packs}
	asked := time.Duration(lock.ForSeconds) * time.Second
	if err != nil {
		h.say("%s: commit fails: %v", source, err)
		p.grants = []promise{{at: before}}
		h.mod.unsure(p)
		return err
	}
	if want := min(max(asked, time.Hour), 30*day); !snap.Locked || lock.ForSeconds != 0 && time.Duration(snap.Lock.ForSeconds)*time.Second != want {
		return broken("%s asked for %v and has %+v", source, asked, snap.Lock)
	}
	p.grants = []promise{h.granted(snap)}
	h.mod.snaps = append(h.mod.snaps, p)
	for _, n := range packs {
		h.mod.packs[n].committed = true
	}
	h.say("%s: commit %.8s, locked for %v", source, id, p.grants[0].length)
	return nil
}

func (h *history) granted(snap worm.Snapshot) promise {
	d := time.Duration(snap.Lock.ForSeconds) * time.Second
	return promise{at: h.mod.real, length: d, compliance: snap.Lock.Mode == ledger.Compliance}
}

// unsure remembers a snapshot whose commit may have come through: the next look decides.
func (m *model) unsure(p *promised) { m.snaps = append(m.snaps, p) }

// extend asks for a further lock; it may be refused as no growth.
func (h *history) extend() error {
	all := slices.DeleteFunc(slices.Clone(h.mod.snaps), func(p *promised) bool { return p.gone })
	length, mode, which := h.span(30*day-2*time.Second), ledger.Governance, h.r.IntN(1<<16)
	hold := h.r.IntN(10) == 0
	if h.r.IntN(2) == 0 {
		mode = ledger.Compliance
	}
	if len(all) == 0 {
		return nil
	}
	p := all[which%len(all)]
	if hold {
		h.say("hold %.8s", p.id)
		if _, err := h.store.Hold(context.Background(), p.id, "a reason", "a person"); err != nil {
			p.grants = append(p.grants, promise{}) // nobody knows
			return err
		}
		p.held = true
		p.marked = notice{}
		return nil
	}
	seconds := int64(length/time.Second) + 1
	_, err := h.store.Extend(context.Background(), p.id, ledger.Lock{Mode: mode, ForSeconds: seconds}, "a person")
	if errors.Is(err, worm.ErrShorter) {
		h.say("extend %.8s by %d s is refused", p.id, seconds)
		return nil
	}
	if err != nil {
		h.say("extend fails: %v", err)
		p.grants = append(p.grants, promise{}) // nobody knows
		return err
	}
	more := promise{at: h.mod.real, length: time.Duration(seconds) * time.Second, compliance: mode == ledger.Compliance}
	more.until = h.m.origin.Add(h.m.wall).Truncate(time.Second).Add(more.length)
	p.grants = append(p.grants, more)
	p.marked = notice{}
	h.say("extend %.8s by %d s, %s", p.id, seconds, mode)
	return nil
}

// remove prunes, or condemns, or sweeps, and holds what went to what may go.
func (h *history) remove(how int) error {
	var rep worm.PruneReport
	err := h.wants()
	if err != nil {
		return err
	}
	switch how {
	case 0:
		rep, err = h.store.Prune(context.Background(), false)
	case 1:
		var snapshots, packs int
		snapshots, packs, err = h.store.Condemn(context.Background())
		h.say("condemn marks %d snapshots and %d packs: %v", snapshots, packs, err)
		h.marked()
		return err
	default:
		rep, err = h.store.Sweep(context.Background())
	}
	h.say("%s takes %d snapshots and %d packs: %v", []string{"prune", "", "sweep"}[how], len(rep.Snapshots), len(rep.Packs), err)
	if werr := h.went(rep); werr != nil {
		return werr
	}
	h.marked()
	if err == nil && !h.disk.Fired() {
		err = h.complete()
	}
	return err
}

// went holds removals against the model: each alone before any of them is gone, then all together.
func (h *history) went(rep worm.PruneReport) error {
	var gone []*promised
	for _, id := range rep.Snapshots {
		p := h.mod.find(id)
		if p == nil {
			return broken("%.8s went and was never acknowledged", id)
		}
		if why := h.mod.mayGo(p); why != "" {
			return broken("%.8s of %s went: %s", id, p.source, why)
		}
		if why := h.wanted[id]; why != "" {
			return broken("%.8s of %s went: %s", id, p.source, why)
		}
		gone = append(gone, p)
	}
	for _, p := range gone {
		p.gone = true
		if p.source != "evil" {
			fmt.Fprintf(&h.fate, "%.8s gone\n", p.id)
		}
	}
	for _, n := range rep.Packs {
		if why := h.mod.packMayGo(n); why != "" {
			return broken("pack %d went: %s", n, why)
		}
		h.mod.packs[n].gone = true
	}
	return nil
}

// look holds what the vault shows to the model, and writes down what others would see of the honest sources.
func (h *history) look() error {
	all, err := h.store.Snapshots()
	if err != nil {
		return err
	}
	h.saw()
	listed := make(map[string]worm.Snapshot, len(all))
	for _, s := range all {
		listed[s.ID] = s
		if h.mod.find(s.ID) == nil {
			return broken("%.8s is listed and was never committed", s.ID)
		}
		if s.Source != "evil" {
			fmt.Fprintf(&h.fate, "%.8s %v %s %v\n", s.ID, s.Locked, s.Lock.Mode, s.LockedUntil)
		}
	}
	h.mod.snaps = slices.DeleteFunc(h.mod.snaps, func(p *promised) bool {
		_, there := listed[p.id]
		return !there && p.grants[0].length == 0 // never acknowledged
	})
	for _, p := range h.mod.snaps {
		s, there := listed[p.id]
		if there == p.gone {
			return broken("%.8s of %s: gone %v, listed %v", p.id, p.source, p.gone, there)
		}
		if p.gone {
			continue
		}
		if p.grants[0].length == 0 { // it came through when the power failed
			p.grants[0].length, p.grants[0].compliance = time.Duration(s.Lock.ForSeconds)*time.Second, s.Lock.Mode == ledger.Compliance
			for _, n := range p.packs {
				h.mod.packs[n].committed = true
			}
		}
		if err := h.holds(p, s); err != nil {
			return err
		}
	}
	return nil
}

func (h *history) holds(p *promised, s worm.Snapshot) error {
	if why := h.mod.protected(p); why != "" && !s.Locked {
		return broken("%.8s of %s is not locked: it was %s", p.id, p.source, why)
	}
	for i := range p.grants {
		g := &p.grants[i]
		if g.length == 0 {
			continue
		}
		if g.until.IsZero() {
			g.until = s.Committed.Wall.Add(g.length)
		}
		if s.LockedUntil.Before(g.until) {
			return broken("%.8s of %s is shown as locked until %v, and was until %v", p.id, p.source, s.LockedUntil, g.until)
		}
		if g.compliance && h.mod.trusted && h.mod.real-g.at < g.length && s.Lock.Mode != ledger.Compliance {
			return broken("%.8s of %s has a compliance lock that is shown as %s", p.id, p.source, s.Lock.Mode)
		}
	}
	if s.Lock.ForSeconds <= 0 {
		return broken("%.8s of %s has no lock", p.id, p.source)
	}
	return nil
}

func (h *history) saw() {
	said, _ := h.store.ClockShifted()
	h.mod.shift.saw(h.m.wall, h.m.raw, h.m.boot, said)
}

// seer is a witness.
type seer struct {
	*witness.Signer
	at time.Time
}

// seerKeys are the keys of three witnesses.
var seerKeys = sync.OnceValues(func() (keys [][2]string, err error) {
	for n := range 3 {
		secret, public, err := witness.NewKey(bytes.NewReader(bytes.Repeat([]byte{byte(n + 1)}, 32)), fmt.Sprint("witness.example/", n))
		if err != nil {
			return nil, err
		}
		keys = append(keys, [2]string{secret, public})
	}
	return keys, nil
})

// witnesses gives the vault three witnesses, of whom two must agree.
func (h *history) witnesses() error {
	keys, err := seerKeys()
	if err != nil {
		return err
	}
	h.trust.Quorum = 2
	for n, key := range keys {
		w := &seer{}
		if w.Signer, err = witness.NewSigner(key[0], func() time.Time { return w.at }); err != nil {
			return err
		}
		h.seers = append(h.seers, w)
		h.trust.Members = append(h.trust.Members, worm.Witness{Name: fmt.Sprint("w", n), Key: key[1]})
	}
	return nil
}

// ask has the witnesses cosign the newest checkpoint. The first of them lie as they like, as many as there are liars.
func (h *history) ask() error {
	signed := h.store.Ledger().Checkpoint()
	text := signed[:bytes.LastIndex(signed, []byte("\n\n"))+1]
	for n, w := range h.seers {
		w.at = h.m.origin.Add(h.mod.real)
		if n < h.liars {
			w.at = w.at.Add(h.span(500 * day))
			if h.r.IntN(2) == 0 {
				w.at = h.m.origin.Add(h.mod.real / 2)
			}
		}
		own, err := note.Sign(&note.Note{Text: string(text)}, w)
		if err != nil {
			return err
		}
		signed = append(bytes.Clone(signed), own[len(text)+1:]...)
	}
	h.say("the witnesses are asked")
	return h.store.Cosigned(context.Background(), signed)
}

func readState(d durable.Disk) []byte {
	b, err := durable.ReadFile(d, stateFile, 1<<12)
	if err != nil {
		return nil
	}
	return b
}
