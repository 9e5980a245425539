package worm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"sync"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
)

// packMax bounds a pack's file in bytes, as its format does.
const packMax = 1 << 30

// Incoming is a pack that grows. Its owner writes File and hands it to Seal or Drop; closing File
// instead leaves the pack for the next process to find among the Leftovers.
type Incoming struct {
	Number  uint32
	Session string
	File    durable.File // nil once it was handed on

	// held is the file as it will be sealed, opened before anything was written to it; nil without a guard.
	held durable.Held
}

// Hand gives the pack's writable descriptor to somebody else, for good: he writes and closes, and Seal, which is refused
// with durable.ErrWriter as long as he has not, may then be tried again. It needs a guard.
func (in *Incoming) Hand() (*os.File, error) {
	if in.held == nil || in.File == nil {
		return nil, fmt.Errorf("pack %d cannot be handed on: %w", in.Number, errors.ErrUnsupported)
	}
	f, err := durable.Descriptor(in.File)
	if err != nil {
		return nil, fmt.Errorf("pack %d: %w", in.Number, err)
	}
	_ = in.File.Close() // nothing was written through it
	in.File = nil
	return f, nil
}

// finish syncs and closes the file of a pack that was not handed on.
func (in *Incoming) finish() error {
	if in.File == nil {
		return nil
	}
	err := in.File.Sync()
	if cerr := in.File.Close(); err == nil {
		err = cerr
	}
	return err
}

// close closes what is open of it.
func (in *Incoming) close() {
	if in.File != nil {
		_ = in.File.Close() // may be closed already
	}
	in.letGo()
}

// letGo closes what was held.
func (in *Incoming) letGo() {
	if in.held != nil {
		_ = in.held.Close() // only read from
		in.held = nil
	}
}

// PackInfo is a sealed pack as the ledger has it.
type PackInfo struct {
	Number  uint32
	Bytes   int64
	SHA256  string // hex, of the whole file
	Session string // that made it; "" when recovery no longer knew it
	Sealed  clock.Stamp
}

// Leftover is a pack that some process began and did not seal.
type Leftover struct {
	Number uint32
	Bytes  int64
}

// CreatePack begins a pack with a number that no pack ever had. Nothing of its content is durable
// before Seal.
func (s *Store) CreatePack(session string) (*Incoming, error) {
	if err := s.writable(); err != nil {
		return nil, err
	}
	if !reliance.ValidSession(session) {
		return nil, fmt.Errorf("session %q is not 1 to 64 of [A-Za-z0-9_-]", session)
	}
	if err := errors.Join(s.affords(session), s.spares()); err != nil {
		return nil, fmt.Errorf("new pack: %w", err)
	}
	s.mu.Lock()
	if s.next == math.MaxUint32 {
		s.mu.Unlock()
		return nil, errors.New("no pack numbers are left")
	}
	s.next++
	n := s.next
	s.live[n] = true
	if source := s.sourceOf(session); source != "" {
		s.growing[n] = source
	}
	s.mu.Unlock()
	var held durable.Held
	f, err := s.disk.Create(incomingPack(n), s.sealedMode())
	if err == nil {
		// The second descriptor before anything is written through the first: a write that fails is told once to each
		// descriptor, and never to one that was opened later.
		if held, err = s.hold(incomingPack(n)); err != nil {
			_ = f.Close()
			_ = s.disk.Remove(incomingPack(n))
		}
	}
	if err == nil {
		// Power fails here: perhaps an empty file, or none and its number is used again: nothing
		// was ever written under it.
		if err = s.disk.SyncDir(incomingDir); err != nil {
			_ = f.Close()
			if held != nil {
				_ = held.Close()
			}
			_ = s.disk.Remove(incomingPack(n)) // else a leftover without content
		}
	}
	if err != nil {
		s.forgetLive(n)
		return nil, fmt.Errorf("pack %d: %w", n, err)
	}
	return &Incoming{Number: n, Session: session, File: f, held: held}, nil
}

func (s *Store) forgetLive(n uint32) {
	s.mu.Lock()
	delete(s.live, n)
	delete(s.growing, n)
	s.mu.Unlock()
}

// Seal makes a pack final: synced, closed, hashed, published, recorded. On return without an error
// it is in the ledger, durable, and claimed by its session. It runs beside everything else.
//
// After an error the pack is not sealed and must not be relied on. Its file is closed either way. If
// it was published already it is recorded with the next record or at the next Open, otherwise it is
// a leftover then.
func (s *Store) Seal(ctx context.Context, in *Incoming) (PackInfo, error) {
	if err := s.writable(); err != nil {
		in.close()
		return PackInfo{}, err
	}
	seal, err := s.publishPack(ctx, in)
	if err != nil {
		return PackInfo{}, fmt.Errorf("pack %d: seal: %w", in.Number, err)
	}
	s.write.Lock()
	defer s.write.Unlock()
	s.flush()
	// Power fails here: among the packs and unrecorded; recovery hashes and records it.
	r, err := s.append(ledger.Record{Kind: ledger.KindSeal, Seal: &seal})
	if err != nil {
		s.pending = append(s.pending, recovered(seal))
		return PackInfo{}, fmt.Errorf("pack %d: seal: %w", in.Number, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, in.Number)
	delete(s.growing, in.Number)
	s.claim(in.Session, r.At).packs.Add(in.Number)
	return PackInfo{Number: in.Number, Bytes: seal.Bytes, SHA256: seal.SHA256, Session: in.Session, Sealed: r.At}, nil
}

func recovered(seal ledger.Seal) ledger.Seal {
	seal.Recovered = true
	return seal
}

// publishPack does all of Seal but the record.
func (s *Store) publishPack(ctx context.Context, in *Incoming) (ledger.Seal, error) {
	return s.publishAs(ctx, in, incomingPack(in.Number), packFile(in.Number))
}

// publishAs is publishPack for any two names.
func (s *Store) publishAs(ctx context.Context, in *Incoming, from, to string) (ledger.Seal, error) {
	err := in.finish()
	if err == nil {
		err = ctx.Err()
	}
	if err == nil && in.File == nil && in.held == nil {
		err = errors.New("its seal was tried before")
	}
	// Power fails here: a leftover with all its content.
	if err == nil {
		err = settled(in.held)
	}
	if errors.Is(err, durable.ErrWriter) && in.File == nil {
		return ledger.Seal{}, err // whoever it was handed to has not closed it yet
	}
	defer in.letGo()
	if err != nil {
		return ledger.Seal{}, err // never tried again: after a failed sync nobody knows what is on the medium
	}
	// From here on nobody can change what is hashed. What is too large is not even read: a hole of a terabyte costs nothing
	// to make, and hours to hash.
	if err := s.sizes(in, from); err != nil {
		return ledger.Seal{}, err
	}
	sum, size, err := s.hashIncoming(ctx, in, from)
	if err != nil {
		return ledger.Seal{}, err
	}
	if err := s.publish(in.held, from, to); err != nil {
		return ledger.Seal{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return ledger.Seal{File: to, SHA256: sum, Bytes: size, Session: in.Session, Source: s.growing[in.Number]}, nil
}

// sizes refuses to seal what is larger than any pack, or than what its source may still store.
func (s *Store) sizes(in *Incoming, name string) error {
	info, err := s.disk.Stat(name)
	if err != nil {
		return err
	}
	if info.Size() > packMax {
		return fmt.Errorf("%s has %d bytes, and no pack has more than %d", name, info.Size(), packMax)
	}
	return s.fits(in.Session, info.Size())
}

// hashIncoming reads a pack that is to be sealed, through the descriptor whose lease was granted where there is one.
func (s *Store) hashIncoming(ctx context.Context, in *Incoming, name string) (sum string, size int64, err error) {
	if in.held == nil {
		return s.hash(ctx, name)
	}
	if sum, size, err = hashReader(ctx, in.held); err != nil {
		return "", 0, fmt.Errorf("read %s: %w", name, err)
	}
	return sum, size, nil
}

// hash reads a file to its end.
func (s *Store) hash(ctx context.Context, name string) (sum string, size int64, err error) {
	f, err := s.disk.Open(name)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	if sum, size, err = hashReader(ctx, f); err != nil {
		return "", 0, fmt.Errorf("read %s: %w", name, err)
	}
	return sum, size, nil
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// Drop gives an unsealed pack up: its file is closed and removed. Its number is not used again.
func (s *Store) Drop(in *Incoming) error {
	in.close() // nothing of it is wanted
	if err := s.writable(); err != nil {
		return err
	}
	s.write.Lock()
	defer s.write.Unlock()
	if file := packFile(in.Number); !s.recorded(file) {
		// A seal that failed while it published may have left the new name, which may not be durable.
		// It goes first: without the old name recovery would take it for a finished publication.
		if err := s.unpublish(file); err != nil {
			return fmt.Errorf("pack %d: drop: %w", in.Number, err)
		}
	}
	if err := s.giveUp(in.Number); err != nil {
		return fmt.Errorf("pack %d: drop: %w", in.Number, err)
	}
	s.forgetLive(in.Number)
	return nil
}

// Leave gives an unsealed pack back as one of the Leftovers, its content as it is, and closes its file. A pack that is
// published already and only lacks its record stays what it is: it is recorded with the next record.
func (s *Store) Leave(in *Incoming) error {
	in.close() // nothing of it is relied on
	if err := s.writable(); err != nil {
		return err
	}
	s.write.Lock()
	defer s.write.Unlock()
	file := packFile(in.Number)
	if s.recorded(file) {
		return nil
	}
	// As in Drop: a seal that failed midway may have left the new name.
	if err := s.unpublish(file); err != nil {
		return fmt.Errorf("pack %d: leave: %w", in.Number, err)
	}
	s.forgetLive(in.Number)
	return nil
}

// Settle tries again to record what is published and could not be recorded, and says how much of it is left. That waits for
// the next record.
func (s *Store) Settle() (pending int) {
	if s.readOnly {
		return 0
	}
	s.write.Lock()
	defer s.write.Unlock()
	s.flush()
	return len(s.pending)
}

// recorded says whether a record names a file or is about to. s.write is held.
func (s *Store) recorded(file string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.named(file) || s.state.removed[file] != 0 || s.isPending(file)
}

// Leftovers lists the packs that an ended process began and did not seal, ascending. Packs that grow
// in this process are not among them.
func (s *Store) Leftovers() ([]Leftover, error) {
	names, err := s.list(incomingDir)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Leftover
	for base, size := range names {
		if n, ok := parsePack(base); ok && size > 0 && !s.live[n] && s.state.packs[n] == nil {
			out = append(out, Leftover{Number: n, Bytes: size})
		}
	}
	slices.SortFunc(out, func(a, b Leftover) int { return int(int64(a.Number) - int64(b.Number)) })
	return out, nil
}

// OpenLeftover opens one of the Leftovers for reading.
func (s *Store) OpenLeftover(n uint32) (durable.File, error) {
	if err := s.isLeftover(n); err != nil {
		return nil, err
	}
	return s.disk.Open(incomingPack(n))
}

// Discard removes one of the Leftovers, durably; one that is gone is no error. Its number is not used again.
func (s *Store) Discard(n uint32) error {
	if err := s.writable(); err != nil {
		return err
	}
	if err := s.isLeftover(n); err != nil {
		return err
	}
	s.write.Lock()
	defer s.write.Unlock()
	_, err := s.disk.Stat(incomingPack(n))
	if errors.Is(err, fs.ErrNotExist) {
		err = s.removeIncoming(incomingPack(n)) // gone, and durably so
	} else if err == nil {
		err = s.giveUp(n)
	}
	if err != nil {
		return fmt.Errorf("pack %d: discard: %w", n, err)
	}
	return nil
}

func (s *Store) isLeftover(n uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live[n] {
		return fmt.Errorf("pack %d is in use by this process", n)
	}
	return nil
}

// Packs lists the packs that are sealed and not swept, ascending.
func (s *Store) Packs() []PackInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	live := s.state.live()
	out := make([]PackInfo, len(live))
	for i, p := range live {
		out[i] = p.PackInfo
	}
	return out
}

// Pack tells of one pack; ok is false when it is not sealed or was swept.
func (s *Store) Pack(n uint32) (info PackInfo, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.state.packs[n]
	if p == nil || p.swept {
		return PackInfo{}, false
	}
	return p.PackInfo, true
}

// OpenPack opens a sealed pack for reading and gives its size. The caller closes it.
func (s *Store) OpenPack(n uint32) (durable.File, int64, error) {
	if _, ok := s.Pack(n); !ok {
		return nil, 0, fmt.Errorf("pack %d: %w", n, ErrNoPack)
	}
	f, err := s.disk.Open(packFile(n))
	if err != nil {
		return nil, 0, fmt.Errorf("pack %d: %w", n, err)
	}
	size, err := f.Size()
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("pack %d: %w", n, err), f.Close())
	}
	return f, size, nil
}
