package worm

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
)

const testVault = "0123456789abcdef0123456789abcdef"

var (
	ctx      = context.Background()
	identity = []byte(`{"format":1,"vault":"` + testVault + `","created":"2026-07-01T00:00:00Z"}` + "\n")
)

func newClock() *clock.Manual { return clock.NewManual(clock.Earliest().Add(24 * time.Hour)) }

func initOptions() InitOptions {
	return InitOptions{Vault: testVault, Identity: identity, Keyring: []byte("wrapped keyring\n"), Policy: ledger.Policy{
		Mode: ledger.Governance, DefaultSeconds: 3600, MinSeconds: 60, MaxSeconds: 7200,
	}}
}

// newStore makes a vault and opens it.
func newStore(t testing.TB) (*crashdisk.Disk, *clock.Manual, *Store) {
	t.Helper()
	d, src := crashdisk.New(), newClock()
	_, err := Init(d, src, initOptions())
	must(t, err)
	return d, src, open(t, d, src)
}

func open(t testing.TB, d durable.Disk, src clock.Source) *Store {
	t.Helper()
	s, err := Open(d, src, Options{})
	must(t, err)
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// seal makes a pack of a few bytes.
func seal(s *Store, session string) (PackInfo, error) {
	in, err := s.CreatePack(session)
	if err != nil {
		return PackInfo{}, err
	}
	if _, err := in.File.Write(content(in.Number)); err != nil {
		return PackInfo{}, errors.Join(err, s.Drop(in))
	}
	return s.Seal(ctx, in)
}

// sealHanded is seal by somebody who has the descriptor alone, and syncs nothing.
func sealHanded(s *Store, session string) (PackInfo, error) {
	in, err := s.CreatePack(session)
	if err != nil {
		return PackInfo{}, err
	}
	w := in.File
	in.File = nil // as after Hand
	_, err = w.Write(content(in.Number))
	if err = errors.Join(err, w.Close()); err != nil {
		return PackInfo{}, errors.Join(err, s.Drop(in))
	}
	return s.Seal(ctx, in)
}

func content(n uint32) []byte { return []byte(strings.Repeat(fmt.Sprintf("pack %d. ", n), 20)) }

// manifest makes the next manifest of a source.
func manifest(s *Store, source, session string, packs ...uint32) ([]byte, error) {
	return partialManifest(s, source, session, reliance.Complete, true, packs...)
}

func partialManifest(s *Store, source, session, state string, clean bool, packs ...uint32) ([]byte, error) {
	label, previous, err := s.NextLabel(source)
	if err != nil {
		return nil, err
	}
	now, err := s.Now()
	if err != nil {
		return nil, err
	}
	h := reliance.Head{
		Format: reliance.Format, Vault: testVault, Source: source, Session: session, Begin: now.Wall,
		Label: label, State: state, Clean: clean, Previous: previous,
	}
	if err := h.SetPacks(roaring.BitmapOf(packs...)); err != nil {
		return nil, err
	}
	b, err := h.Encode()
	if err != nil {
		return nil, err
	}
	return reliance.Frame(b, []byte("sealed"), []byte("keyring")), nil
}

// commit seals a pack and commits a snapshot that relies on it and on more.
func commit(t testing.TB, s *Store, source, session string, lock ledger.Lock, more ...uint32) Snapshot {
	t.Helper()
	p, err := seal(s, session)
	must(t, err)
	m, err := manifest(s, source, session, append(more, p.Number)...)
	must(t, err)
	snap, err := s.Commit(ctx, session, m, lock)
	must(t, err)
	return snap
}

// gone prunes, waits for more than a day and prunes again: what may go has gone then.
func gone(t testing.TB, s *Store, src *clock.Manual) PruneReport {
	t.Helper()
	_, err := s.Prune(ctx, false)
	must(t, err)
	src.Advance(condemnedFor + 2*time.Second)
	rep, err := s.Prune(ctx, false)
	must(t, err)
	return rep
}

// memory is what a process was told, and holds the vault to it.
type memory struct {
	guard       bool // the disk's flags and leases are used
	moving      bool // and were not from the beginning
	lifted      bool // an exchange of the keyring failed, and nobody has opened the vault since
	created     bool
	tried       bool              // Init was begun
	packs       map[uint32][]byte // sealed, acknowledged
	snapshots   map[string]acked
	gone        map[string]bool // removal was acknowledged
	pruned      bool            // a removal was begun: what may go may be gone
	mayGo       map[string]bool // snapshots whose locks had run when it was
	checkpoints [][]byte
	// keyring is the newest that was acknowledged, "" for that of the birth; keyrings are all that were tried since.
	keyring  string
	keyrings []string
}

type acked struct {
	manifest []byte
	until    time.Time
	mode     ledger.Mode
}

func (m *memory) options() Options { return Options{Guard: m.guard} }

func (m *memory) birth() InitOptions {
	o := initOptions()
	o.Guard = m.guard
	return o
}

// newGuarded is a memory of a vault whose disk's flags and leases are used.
func newGuarded() *memory {
	m := newMemory()
	m.guard = true
	return m
}

func newMemory() *memory {
	return &memory{packs: map[uint32][]byte{}, snapshots: map[string]acked{}, gone: map[string]bool{}, mayGo: map[string]bool{}}
}

func (m *memory) clone() *memory {
	c := *m
	c.packs, c.snapshots, c.gone, c.mayGo = maps.Clone(m.packs), maps.Clone(m.snapshots), maps.Clone(m.gone), maps.Clone(m.mayGo)
	c.checkpoints = slices.Clip(m.checkpoints)
	return &c
}

// saved keeps the newest checkpoint: whoever extends it extends all before it.
func (m *memory) saved(s *Store) { m.checkpoints = [][]byte{s.Ledger().Checkpoint()} }

func (m *memory) seal(s *Store, session string) (uint32, error) {
	how := seal
	if m.guard && len(m.packs)%2 == 1 {
		how = sealHanded
	}
	p, err := how(s, session)
	if err == nil {
		m.packs[p.Number] = content(p.Number)
		m.saved(s)
	}
	return p.Number, err
}

func (m *memory) commit(s *Store, session string, man []byte, lock ledger.Lock) error {
	snap, err := s.Commit(ctx, session, man, lock)
	if err == nil {
		m.remember(s, snap, man)
	}
	return err
}

func (m *memory) extend(s *Store, id string, lock ledger.Lock) error {
	snap, err := s.Extend(ctx, id, lock, "a person")
	if err == nil {
		m.remember(s, snap, m.snapshots[id].manifest)
	}
	return err
}

func (m *memory) remember(s *Store, snap Snapshot, man []byte) {
	m.snapshots[snap.ID] = acked{man, snap.Committed.Wall.Add(time.Duration(snap.Lock.ForSeconds) * time.Second), snap.Lock.Mode}
	m.saved(s)
}

// life is a vault's life from init to prune. With persist the process goes on after an error and
// tries once more, as a daemon does; else it ends there.
func (m *memory) life(d durable.Disk, src *clock.Manual, persist bool) error {
	again := func(f func() error) error {
		err := f()
		if err != nil && persist {
			err = f()
		}
		return err
	}
	m.tried = true
	if _, err := Init(d, src, m.birth()); err != nil {
		return err
	}
	m.created = true
	var s *Store
	opening := func() (err error) { s, err = Open(d, src, m.options()); return err }
	if err := again(opening); err != nil {
		return err
	}
	var ids []string
	for i, lock := range []ledger.Lock{{ForSeconds: 600}, {}, {Mode: ledger.Compliance}} {
		src.Advance(time.Minute)
		session := fmt.Sprintf("s%d", i)
		var n uint32
		if err := again(func() (err error) { n, err = m.seal(s, session); return err }); err != nil {
			return err
		}
		man, err := manifest(s, "web1", session, n)
		if err != nil {
			return err
		}
		if err := again(func() error { return m.commit(s, session, man, lock) }); err != nil {
			return err
		}
		ids = append(ids, reliance.ID(man))
	}
	if err := again(func() error { return m.extend(s, ids[0], ledger.Lock{Mode: ledger.Governance, ForSeconds: 7000}) }); err != nil {
		return err
	}
	if err := again(func() error { return m.rekey(s, "a second ring") }); err != nil {
		return err
	}
	left, err := s.CreatePack("s3") // never sealed
	if err != nil && !persist {
		return err
	}
	if err == nil {
		_, _ = left.File.Write(content(left.Number))
	}
	src.Advance(3 * time.Hour) // all locks have run, the third snapshot is the newest
	// What a session claims is condemned and swept later than the rest.
	if packs := s.Packs(); len(packs) > 0 {
		s.ClaimOne("s4", packs[0].Number)
	}
	if err := again(func() error { _, _, err := s.Condemn(ctx); return err }); err != nil {
		return err
	}
	for _, next := range []func() error{
		func() error { return m.removing(s, src, s.Sweep) },
		func() error { return m.prune(s, src) }, // marks what was claimed
		func() error { return m.prune(s, src) },
	} {
		src.Advance(condemnedFor + 2*time.Second)
		if err := again(next); err != nil {
			return err
		}
	}
	return s.Close()
}

func (m *memory) rekey(s *Store, ring string) error {
	m.keyrings = append(slices.Clip(m.keyrings), ring)
	err := s.SetKeyring(ctx, []byte(ring), "a test")
	m.lifted = m.lifted || err != nil
	if err == nil {
		m.keyring, m.keyrings = ring, nil
		m.saved(s)
	}
	return err
}

func (m *memory) prune(s *Store, src clock.Source) error {
	return m.removing(s, src, func(ctx context.Context) (PruneReport, error) { return s.Prune(ctx, false) })
}

// removing lets a removal take what may go now, and remembers what it acknowledged.
func (m *memory) removing(s *Store, src clock.Source, remove func(context.Context) (PruneReport, error)) error {
	now, err := src.Read()
	if err != nil {
		return err
	}
	m.pruned = true
	for id, a := range m.snapshots {
		if a.until.Before(now.Wall) {
			m.mayGo[id] = true
		}
	}
	rep, err := remove(ctx)
	for _, id := range rep.Snapshots {
		m.gone[id] = true
	}
	m.saved(s)
	return err
}

// prove opens the vault and holds it to what was told, pulls once more, lets the power fail losing
// all that is not durable, and proves again.
func (m *memory) prove(d *crashdisk.Disk, src clock.Source, tries int) error {
	return m.proveOn(lone{d}, src, tries)
}

// medium is what a vault lies on in these tests.
type medium interface {
	durable.GuardedDisk
	restart(l crashdisk.Loss, seed int64) medium
}

// lone is a vault's one directory.
type lone struct{ *crashdisk.Disk }

func (d lone) restart(l crashdisk.Loss, seed int64) medium { return lone{d.Restart(l, seed)} }

func (m *memory) proveOn(d medium, src clock.Source, tries int) error {
	if !m.created {
		return m.proveUnborn(d, src)
	}
	for round := range 2 {
		if err := independently(d); err != nil {
			return fmt.Errorf("round %d: before it is opened: %w", round, err)
		}
		if err := m.flagged(d); err != nil {
			return fmt.Errorf("round %d: before it is opened: %w", round, err)
		}
		s, err := Open(d, src, m.options())
		for try := 1; err != nil && try < tries; try++ {
			s, err = Open(d, src, m.options())
		}
		if err != nil {
			return fmt.Errorf("round %d: open: %w", round, err)
		}
		if err := errors.Join(m.holds(s), m.goesOn(s, round, tries), m.holds(s), s.Close(), independently(d)); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		d, m.moving, m.lifted = d.restart(crashdisk.LoseUnsynced, 0), false, false
	}
	return nil
}

// flagged demands of a guarded disk that nobody has opened yet that what was acknowledged has its flags: they are durable
// before the record, and lifted for nothing but what may go.
func (m *memory) flagged(d durable.GuardedDisk) error {
	if !m.guard || m.moving {
		return nil
	}
	want := map[string]durable.Flags{ledgerDir: durable.AppendOnly}
	if !m.lifted && len(m.keyrings) == 0 {
		want["."] = durable.Immutable
	}
	if !m.pruned {
		want[packsDir], want[manifestsDir] = durable.AppendOnly, durable.AppendOnly
		for n := range m.packs {
			want[packFile(n)] = durable.Immutable
		}
	}
	for id, a := range m.snapshots {
		if m.gone[id] || m.mayGo[id] {
			continue
		}
		want[manifestFile(id)] = durable.Immutable
		head, _, _, err := reliance.Unframe(a.manifest)
		if err != nil {
			return err
		}
		h, err := reliance.Parse(head)
		if err != nil {
			return err
		}
		packs, err := h.PackSet()
		if err != nil {
			return err
		}
		for n := range roaring.Values(packs) {
			want[packFile(n)] = durable.Immutable
		}
	}
	entries, err := d.ReadDir(ledgerDir)
	if err != nil {
		return err
	}
	for i, e := range entries {
		// The newest segment may have been cut before it counts.
		if f, err := d.Flags(ledgerDir + "/" + e.Name()); (i == 0 || i < len(entries)-1) && (err != nil || f == 0) {
			return fmt.Errorf("%s has no flag: %v", e.Name(), err)
		}
	}
	for name, flags := range want {
		if f, err := d.Flags(name); err != nil || f != flags {
			return fmt.Errorf("%s has the flags %q, want %q: %v", name, f, flags, err)
		}
	}
	return nil
}

// proveUnborn: of a vault whose Init failed, either it is there or Init can be tried again.
func (m *memory) proveUnborn(d medium, src clock.Source) error {
	s, openErr := Open(d, src, m.options())
	if openErr == nil {
		if bad := s.Check(ctx, true); len(bad) > 0 {
			return fmt.Errorf("check: %v", bad)
		}
		return s.Close()
	}
	if _, err := Init(d, src, m.birth()); err != nil {
		return fmt.Errorf("neither open (%w) nor init (%w)", openErr, err)
	}
	_, err := Open(d.restart(crashdisk.LoseUnsynced, 0), src, m.options())
	return err
}

func (m *memory) holds(s *Store) error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if bad := s.Check(ctx, true); len(bad) > 0 {
		add("check: %v", bad)
	}
	for _, c := range m.checkpoints {
		if err := s.Ledger().Extends(c); err != nil {
			add("checkpoint: %w", err)
		}
	}
	if ring := string(s.Keyring()); ring != cmp.Or(m.keyring, string(initOptions().Keyring)) && !slices.Contains(m.keyrings, ring) {
		add("the keyring is %.20q, acknowledged was %.20q", ring, m.keyring)
	}
	all, err := s.Snapshots()
	if err != nil {
		add("snapshots: %w", err)
	}
	listed, needed := map[string]Snapshot{}, roaring.New()
	for _, snap := range all {
		listed[snap.ID] = snap
		if snap.Err != nil {
			add("snapshot %s: %w", snap.Label, snap.Err)
			continue
		}
		if packs, err := snap.Head.PackSet(); err == nil {
			needed.Or(packs)
		}
	}
	for id, a := range m.snapshots {
		snap, ok := listed[id]
		if m.gone[id] && ok {
			add("snapshot %.8s was removed and is back", id)
		}
		if !ok {
			if !m.mayGo[id] {
				add("snapshot %.8s is lost, locked until %v", id, a.until)
			}
			continue
		}
		if snap.LockedUntil.Before(a.until) || a.mode == ledger.Compliance && snap.Lock.Mode != a.mode {
			add("snapshot %.8s is locked until %v in mode %s, promised %v %s", id, snap.LockedUntil, snap.Lock.Mode, a.until, a.mode)
		}
		if b, err := s.Manifest(id); err != nil || !bytes.Equal(b, a.manifest) {
			add("snapshot %.8s: manifest: %v", id, err)
		}
	}
	for n, want := range m.packs {
		if m.pruned && !needed.Contains(n) {
			continue
		}
		if err := samePack(s, n, want); err != nil {
			add("%w", err)
		}
	}
	return errors.Join(errs...)
}

func samePack(s *Store, n uint32, want []byte) error {
	f, size, err := s.OpenPack(n)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil && size != 0 {
		return fmt.Errorf("pack %d: %w", n, err)
	}
	if !bytes.Equal(b, want) {
		return fmt.Errorf("pack %d holds %q", n, b)
	}
	return nil
}

// goesOn discards leftovers and pulls once more.
func (m *memory) goesOn(s *Store, round, tries int) error {
	left, err := s.Leftovers()
	if err != nil {
		return err
	}
	for _, l := range left {
		if err := s.Discard(l.Number); err != nil && tries == 1 {
			return err
		}
	}
	session := fmt.Sprintf("after%d", round)
	var n uint32
	for range tries {
		if n, err = m.seal(s, session); err == nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("next seal: %w", err)
	}
	man, err := manifest(s, "web1", session, n)
	if err != nil {
		return err
	}
	for range tries {
		if err = m.commit(s, session, man, ledger.Lock{}); err == nil {
			return nil
		}
	}
	return fmt.Errorf("next commit: %w", err)
}
