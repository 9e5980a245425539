package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/keeper"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/level"
	"github.com/holdfast-vault/holdfast/immutability/policy"
	"github.com/holdfast-vault/holdfast/immutability/quorum"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// Store keeps the vault's files: a worm.Store in this process, or a keeper.Mirror, which has a keeper write and reads
// itself. Its methods are documented there.
type Store interface {
	packMaker
	claimer
	committer
	salvager
	packReader
	reader
	auditor
	inspector
	remover
	stocktaker
	clockReader
	prober
	governor
	decider
	witnessed
	Close() error
}

type packMaker interface {
	Bind(session, source string) error
	CreatePack(session string) (*worm.Incoming, error)
	Seal(ctx context.Context, in *worm.Incoming) (worm.PackInfo, error)
	Drop(in *worm.Incoming) error
	Leave(in *worm.Incoming) error
}

type claimer interface {
	// Claim gives the packs that cannot be relied on; with an error nothing is known of any.
	Claim(ctx context.Context, session string, packs *roaring.Bitmap) (missing *roaring.Bitmap, err error)
	ClaimOne(session string, pack uint32) bool
	Release(session string)
}

type committer interface {
	NextLabel(source string) (label, previous string, err error)
	Commit(ctx context.Context, session string, manifest []byte, lock ledger.Lock) (worm.Snapshot, error)
	Settle() (pending int)
}

// governor changes and tells of what snapshots are kept by.
type governor interface {
	Extend(ctx context.Context, id string, lock ledger.Lock, by string) (worm.Snapshot, error)
	Hold(ctx context.Context, id, reason, by string) (worm.Snapshot, error)
	Adopt(ctx context.Context, said policy.Policy, by string) (changed bool, refused []policy.Refusal, err error)
	Refused() []policy.Refusal
	Weigh(said policy.Policy) (next policy.Policy, refused []policy.Refusal, err error)
	Locks(id string) ([]worm.LockInfo, error)
	Hardening() ([]worm.Hardening, error)
	Budgets() ([]worm.Budget, error)
}

// decider takes what several people signed, tells of it, and stops it.
type decider interface {
	Submit(ctx context.Context, request []byte, signatures [][]byte, by string) (worm.RequestInfo, error)
	Veto(ctx context.Context, id, reason, by string) (worm.RequestInfo, error)
	Requests() ([]worm.RequestInfo, error)
	CarryOut(ctx context.Context) (n int, err error)
	People() (worm.PeopleInfo, error)
	AdoptPeople(ctx context.Context, said quorum.People, by string) (changed bool, refused string, err error)
	Secure(ctx context.Context, reason, by string) error
	Secured() (worm.Secured, bool)
}

type witnessed interface {
	Cosigned(ctx context.Context, signed []byte) error
	TrustWitnesses(w worm.Witnesses) error
	Witnessed() (worm.Standing, error)
}

type salvager interface {
	Leftovers() ([]worm.Leftover, error)
	OpenLeftover(n uint32) (durable.File, error)
	Discard(n uint32) error
}

type packReader interface {
	Pack(n uint32) (info worm.PackInfo, ok bool)
	Packs() []worm.PackInfo
	OpenPack(n uint32) (durable.File, int64, error)
	OpenPackAnew(n uint32) (durable.File, int64, error)
}

type reader interface {
	Vault() string
	Keyring() []byte
	Snapshots() ([]worm.Snapshot, error)
	Manifest(id string) ([]byte, error)
}

type auditor interface {
	// Ledger is for reading; behind a keeper its newest records are those of the keeper's last answer.
	Ledger() *ledger.Ledger
	Policy() ledger.Policy
}

type inspector interface {
	Check(ctx context.Context, readData bool) []worm.Damage
	CheckPack(ctx context.Context, n uint32) []worm.Damage
	PackRead(n uint32, sum string) bool
}

type remover interface {
	Prune(ctx context.Context, dry bool) (worm.PruneReport, error)
}

// stocktaker tells of everything that decides what may go.
type stocktaker interface {
	Inventory(ctx context.Context) (worm.Inventory, error)
	PlaceOf(file string) worm.Place
}

type clockReader interface {
	Now() (clock.Stamp, error)
	Clock() (worm.ClockReport, error)
	ClockShifted() (shifted bool, why string)
	Tick() error
}

type prober interface {
	// Probe makes a file that is sealed as packs are, to be attacked, in the vault's places in turn (worm.ProbeIn); Root is
	// left to the caller.
	Probe(ctx context.Context) (level.Subject, error)
	// Protection is the level that the files' own user found when it tried, and what got through in its hands.
	Protection(ctx context.Context) (holds level.Level, through []string, err error)
}

var (
	_ Store = inProcess{}
	_ Store = (*keeper.Mirror)(nil)
)

// inProcess is a store of this process, whose claims cannot fail.
type inProcess struct{ *worm.Store }

// Claim implements claimer.
func (s inProcess) Claim(_ context.Context, session string, packs *roaring.Bitmap) (missing *roaring.Bitmap, err error) {
	return s.Store.Claim(session, packs), nil
}

// DefaultWork is where the daemon's own files lie when a keeper keeps the vault.
const DefaultWork = "/var/lib/holdfast/work"

// Kept says whether a keeper writes for this vault.
func (v *Vault) Kept() bool { return v.o.Keeper != "" && !v.o.ReadOnly }

// place is the directory of the daemon's own files, the vault's without a keeper.
func (v *Vault) place() string {
	if v.Kept() {
		return v.o.Work
	}
	return v.dir
}

// openWork opens the directory of the daemon's own files and takes the lock in it.
func (v *Vault) openWork() error {
	if v.o.Work == "" {
		v.o.Work = DefaultWork
	}
	if within(v.o.Work, v.dir) {
		return fmt.Errorf("the work directory %q lies inside the vault %q, where only the keeper writes: name another one (work: in the configuration)", v.o.Work, v.dir)
	}
	if err := os.MkdirAll(v.o.Work, 0o700); errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: work directory: %w: run this as the daemon's user, or name another directory (work: in the configuration)", ErrNotItsDaemon, err)
	} else if err != nil {
		return fmt.Errorf("work directory: %w; make it and give it to the daemon's user, or name another one (work: in the configuration)", err)
	}
	if info, err := os.Stat(v.o.Work); err == nil {
		// Root could write there, and the daemon would stumble over what root made.
		if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
			return fmt.Errorf("%w: the work directory %q belongs to user %d: run this as that user (sudo -u)", ErrNotItsDaemon, v.o.Work, st.Uid)
		}
	}
	l, err := durable.LockFile(filepath.Join(v.o.Work, "lock"))
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: work directory: %w: run this as the daemon's user", ErrNotItsDaemon, err)
	}
	if err != nil {
		return fmt.Errorf("work directory %q: %w", v.o.Work, err)
	}
	v.lock = l
	d, err := durable.OpenDir(v.o.Work)
	if err != nil {
		return fmt.Errorf("work directory %q: %w", v.o.Work, err)
	}
	v.work = d
	return nil
}

// own takes the locks of a vault that this process writes to itself: the one that says which holdfast has it, and the one
// that a keeper has.
func (v *Vault) own(d *durable.Dir) (err error) {
	if os.Geteuid() == 0 { // for others the directory says so
		if err := worm.Owned(d); err != nil {
			return err
		}
	}
	v.lock, err = d.Lock("lock")
	barred := errors.Is(err, fs.ErrPermission) // as where a keeper has made the directory immutable
	if err != nil && !barred {
		return err
	}
	// A vault that has lost its keeper directory cannot be written, and the store says why.
	if _, serr := d.Stat("keeper"); serr == nil {
		var kerr error
		if v.guard, kerr = worm.Lock(d); errors.Is(kerr, durable.ErrLocked) {
			return fmt.Errorf("%w: %w", ErrKept, kerr)
		} else if kerr != nil && !barred {
			return kerr
		}
	}
	if barred {
		return fmt.Errorf("%w; if a keeper keeps it, start the keeper and name its socket (keeper: in the configuration)", err)
	}
	return nil
}

// within says whether a directory lies below another one, or is it.
func within(dir, root string) bool {
	a, aerr := filepath.Abs(dir)
	b, berr := filepath.Abs(root)
	if aerr != nil || berr != nil {
		return false
	}
	rel, err := filepath.Rel(b, a)
	return err == nil && filepath.IsLocal(rel)
}

// openStore opens what keeps the vault's files.
func (v *Vault) openStore(ctx context.Context) (Store, error) {
	if !v.Kept() {
		s, err := worm.Open(v.disk, v.o.Clock, worm.Options{ReadOnly: v.o.ReadOnly})
		if err != nil {
			return nil, err
		}
		return inProcess{s}, nil
	}
	m, err := keeper.OpenMirror(ctx, keeper.MirrorOptions{
		Disk: v.disk, Whole: v.unchanged, Clock: v.o.Clock, Socket: v.o.Keeper, Program: "holdfast", Logf: v.o.Logf,
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}
