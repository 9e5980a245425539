// Package worm is the write-once store: files are created, sealed, kept under locks, condemned and swept.
//
// It is the only one that removes anything below packs, manifests and ledger, and it decides on its
// own what may go, from the ledger, the clock and the open heads of manifests. A file below packs or
// manifests is published whole and never changes; the ledger's record that names it is what makes it
// count. docs/CRASH.md says for each step what is true if the power fails there.
package worm

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"sync"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/policy"
)

var (
	// ErrReadOnly is the error of everything that would change a store opened for reading only.
	ErrReadOnly = errors.New("the vault is opened for reading only")
	// ErrNoSnapshot says that no snapshot of that ID is committed, or that it was removed.
	ErrNoSnapshot = errors.New("no such snapshot")
	// ErrNoPack says that no pack of that number is sealed, or that it was swept.
	ErrNoPack = errors.New("no such pack")
	// ErrNewer says that a part of the vault was written by a newer release.
	ErrNewer = ledger.ErrNewer
)

// Options for Open.
type Options struct {
	// ReadOnly changes nothing on the disk and needs no signing key. A damaged ledger can be read so.
	ReadOnly bool
	// Guard makes sealed files immutable, the ledger and the directories of sealed files append-only and the vault's root
	// immutable, and seals a file only once nobody has it open for writing. The disk must be a durable.GuardedDisk, and the
	// process may set flags. A vault that was not guarded before becomes so; see Store.Unguarded for what was not. It means
	// nothing together with ReadOnly.
	Guard bool
	// SessionsElsewhere says that sessions live in other processes and go on when this one ends. What they claimed is not known
	// after an Open, so no pack is swept until three hours of running time have passed, as long as claims live.
	SessionsElsewhere bool
}

// Store is an open write-once store. All methods are safe for concurrent use. One process at a time
// may have it open for writing; the caller holds the vault's lock file.
type Store struct {
	disk     durable.Disk
	clock    *clock.Clock
	ledger   *ledger.Ledger
	readOnly bool
	// elsewhere is Options.SessionsElsewhere.
	elsewhere bool
	found     []Damage // what was wrong already at Open
	// guard is the disk with its flags and leases, nil where they are not used.
	guard     durable.GuardedDisk
	unguarded int // files and directories without their flags at Open

	// write is held by whoever decides something and puts it into the ledger, from the first look at
	// the state to the record. It is taken before mu.
	write sync.Mutex
	// pending are seals of files that are published and whose record could not be written; they are
	// tried again before the next record. Guarded by write.
	pending []ledger.Seal
	// keeps is the highest number that an empty file of this process keeps, 0 for none: see giveUp. Guarded by write.
	keeps uint32

	mu     sync.Mutex // guards all below; never held during I/O
	state  *state
	trust  Witnesses          // whose word counts
	claims map[string]*claims // packs that running sessions rely on
	// spared are packs whose mark counts no more, though the ledger does not say so yet.
	spared map[uint32]bool
	opened clock.Stamp     // zero where the clock could not be read then
	next   uint32          // lowest pack number that was never used
	probes int             // that were created
	turns  int             // of NextProbe
	live   map[uint32]bool // packs of this process that grow or are being sealed
	// refused is what the newest proposal of a policy said and was not followed.
	refused []policy.Refusal
	growing map[uint32]string     // of these the source, where it is known
	bound   map[string]string     // the sources of sessions of this process
	saved   map[string][]spending // what sessions claimed that was condemned, by source
	// published are manifests that this process published and may not have committed.
	published map[string]bool
	// attempted are those that it began to publish, also where that failed midway.
	attempted map[string]bool
}

// Open opens the store below d. For writing it first finishes what an interrupted process left, by
// the functions that run every day: files that are published and unrecorded are hashed and recorded,
// intents that are not done are carried out. Opening twice is opening once. What a full disk keeps
// from being finished waits for the next record or the next Open.
//
// A damaged ledger, or one from a newer release, is an error when opened for writing; for reading
// only, damage is told by Check. So is a directory that the vault has moved out of (ErrMoved), or is still moving into
// (ErrMoving).
func Open(d durable.Disk, src clock.Source, o Options) (*Store, error) {
	signer, err := prepare(d, o)
	if err != nil {
		return nil, err
	}
	guard, err := o.guard(d)
	if err != nil {
		return nil, err
	}
	var l *ledger.Ledger
	if guard != nil {
		l, err = ledger.OpenGuarded(guard, ledgerDir, signer, "")
	} else {
		l, err = ledger.Open(d, ledgerDir, signer, "")
	}
	if err != nil {
		return nil, err
	}
	s := &Store{
		disk: d, guard: guard, ledger: l, readOnly: o.ReadOnly, elsewhere: o.SessionsElsewhere, state: newState(), claims: map[string]*claims{}, spared: map[uint32]bool{},
		live: map[uint32]bool{}, growing: map[uint32]string{}, bound: map[string]string{}, saved: map[string][]spending{}, published: map[string]bool{}, attempted: map[string]bool{},
	}
	for _, step := range []func() error{s.replay, s.identify, s.newestLedger} {
		if err := step(); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	open := clock.Open
	if o.ReadOnly {
		open = clock.OpenReadOnly
	}
	if s.clock, err = open(d, clockFile, src, s.known()); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	// A missing or older state only lacks credit, as after a full disk: told by the ledger, no damage. Behind a keeper the file
	// is the keeper's alone.
	if err := s.clock.Found(); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, clock.ErrOlder) &&
		!(o.ReadOnly && errors.Is(err, fs.ErrPermission)) {
		s.found = append(s.found, Damage{What: clockFile, Detail: err.Error()})
	}
	if !o.ReadOnly {
		if err := s.recover(); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	if err := s.look(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if s.opened, err = s.clock.Now(); err != nil {
		s.opened = clock.Stamp{} // as of the first reading that succeeds
	}
	return s, nil
}

// prepare reads the signing key, after a look at whether there is a vault at all.
func prepare(d durable.Disk, o Options) (signer string, err error) {
	if !o.ReadOnly {
		if err := AtHome(d); err != nil {
			return "", err
		}
	}
	if _, err := d.Stat(path.Join(ledgerDir, "000001.jsonl")); errors.Is(err, fs.ErrNotExist) {
		if entries, lerr := d.ReadDir(ledgerDir); lerr != nil || len(entries) == 0 {
			return "", fmt.Errorf("there is no ledger: not a vault, or its init was cut short (then remove the directory and init again): %w", err)
		}
	}
	if o.ReadOnly {
		return "", nil
	}
	b, err := durable.ReadFile(d, signerFile, 4096)
	if err != nil {
		return "", fmt.Errorf("%s: %w (without it the vault can only be opened for reading)", signerFile, err)
	}
	signer, ok := strings.CutSuffix(string(b), "\n")
	if !ok {
		return "", fmt.Errorf("%s is damaged: it does not end in a newline (without it the vault can only be opened for reading)", signerFile)
	}
	return signer, nil
}

// identify fills in from the files what a damaged init record no longer tells, and refuses formats of
// newer releases.
func (s *Store) identify() error {
	b, err := durable.ReadFile(s.disk, identityFile, 64<<10)
	if err == nil && s.state.identity == "" {
		id, err := parseIdentity(b)
		if err != nil {
			return err
		}
		s.state.vault = id
	}
	if s.state.identity != "" {
		id, err := parseIdentity([]byte(s.state.identity))
		if err != nil {
			return err
		}
		if id != s.state.vault {
			return fmt.Errorf("the ledger's init record is of vault %q and carries the identity of %q", s.state.vault, id)
		}
	}
	if s.state.keyring == nil {
		s.state.keyring, _ = durable.ReadFile(s.disk, keyringFile, keyringMax) // absence is found by whoever needs it
	}
	return nil
}

// look compares the packs with what the ledger knows, by presence and size: who opens a session must
// not be led to rely on what is not there.
func (s *Store) look() error {
	names, err := s.list(packsDir)
	if err != nil && !s.readOnly {
		return err
	}
	s.next = s.state.maxPack
	for base := range names {
		if n, ok := parsePack(base); ok && s.near(n) {
			s.next = max(s.next, n)
		}
	}
	incoming, err := s.list(incomingDir)
	if err != nil && !s.readOnly {
		return err
	}
	for base := range incoming {
		if n, ok := parsePack(base); ok && s.near(n) {
			s.next = max(s.next, n)
		}
	}
	for _, p := range s.state.live() {
		size, there := names[path.Base(packFile(p.Number))]
		switch {
		case !there:
			p.unfit = "its file is missing"
		case size != p.Bytes:
			p.unfit = fmt.Sprintf("its file has %d bytes, %d were sealed", size, p.Bytes)
		}
	}
	return nil
}

// list gives the names in a directory with the sizes of the files.
func (s *Store) list(dir string) (map[string]int64, error) {
	entries, err := s.disk.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	out := make(map[string]int64, len(entries))
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) || s.readOnly && errors.Is(err, durable.ErrTwice) {
			continue // gone since the listing; or told by who asks for it
		}
		if err != nil {
			return nil, fmt.Errorf("%s/%s: %w", dir, e.Name(), err)
		}
		out[e.Name()] = info.Size()
	}
	return out, nil
}

// append stamps a record, writes it, and follows it. s.write is held.
func (s *Store) append(r ledger.Record) (ledger.Record, error) {
	now, err := s.clock.Now()
	if err != nil {
		return ledger.Record{}, err
	}
	return s.appendAt(now, r)
}

// appendAt is append for what was decided at a moment, read since s.write is held: the record carries the moment by which it
// was right. A wall clock that is set back in between would have it say that a lock still ran that had ended.
func (s *Store) appendAt(now clock.Stamp, r ledger.Record) (ledger.Record, error) {
	r.At = now
	r, err := s.ledger.Append(r)
	if err != nil {
		return ledger.Record{}, err
	}
	s.mu.Lock()
	s.state.apply(r)
	s.mu.Unlock()
	s.clock.Follow(r.Seq + 1)
	return r, nil
}

// flush tries again to record what is published. s.write is held. What still fails stays pending: the
// record that the caller is about to write will fail for the same reason, and say so.
func (s *Store) flush() {
	for len(s.pending) > 0 {
		seal := s.pending[0]
		s.mu.Lock()
		known := s.state.named(seal.File) || s.state.removed[seal.File] != 0
		s.mu.Unlock()
		if !known {
			if _, err := s.append(ledger.Record{Kind: ledger.KindSeal, Seal: &seal}); err != nil {
				return
			}
		}
		s.pending = s.pending[1:]
		if n, ok := sealedPack(seal.File); ok {
			s.forgetLive(n)
		}
	}
	_ = s.noteClock(false)
}

func (s *Store) writable() error {
	if s.readOnly {
		return ErrReadOnly
	}
	return s.ledger.Behind()
}

// Vault gives the vault's ID, 32 hex digits.
func (s *Store) Vault() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.vault
}

// Keyring gives the newest wrapped keyring. The slice is the caller's own.
func (s *Store) Keyring() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.state.keyring)
}

// Now reads the clock.
func (s *Store) Now() (clock.Stamp, error) { return s.clock.Now() }

// ClockShifted says whether the wall clock moved against the running time, so that nothing expires.
func (s *Store) ClockShifted() (bool, string) { return s.clock.Shifted() }

// Ledger gives the ledger for reading. Who appends to it himself breaks the store.
func (s *Store) Ledger() *ledger.Ledger { return s.ledger }

// Close records how much running time is credited where nothing else did for a day, and saves the clock. Nothing that was
// acknowledged depends on either.
func (s *Store) Close() error {
	var err error
	if !s.readOnly {
		_ = s.Tick()
		err = s.clock.Save()
	}
	return errors.Join(err, s.ledger.Close())
}
