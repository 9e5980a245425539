// Package vault keeps snapshots: it turns a source's files into chunks, packs and catalogs, commits them under a lock,
// and reads them back verified.
//
// The order of a commit (docs/CRASH.md has the argument): blocks are written to packs; packs are sealed; the index learns
// them; the catalog is written to packs of its own and sealed; the manifest is sealed; the ledger record is synced. That
// record is the commit point: what came before it is garbage that a later run may use, what comes after it can be redone.
package vault

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/place"
	"github.com/holdfast-vault/holdfast/vault/chunk"
	"github.com/holdfast-vault/holdfast/vault/index"
	"github.com/holdfast-vault/holdfast/vault/keys"
	"github.com/holdfast-vault/holdfast/vault/pack"
)

// ErrReadOnly is returned by everything that would change a vault that was opened read-only.
var ErrReadOnly = errors.New("the vault is open read-only")

// ErrKept says that a keeper writes to the vault, and nobody else may.
var ErrKept = errors.New("a keeper has this vault: name its socket (keeper: in the configuration, or --keeper)")

// Options says how to open a vault. The zero value opens it for writing with the kernel's clock.
type Options struct {
	// Identities open the keyring; the first that fits is used. Without any, only what needs no key can be done:
	// Snapshots, Plan, Prune.
	Identities []*keys.Identity
	// ReadOnly changes nothing below the vault directory and takes no lock on it.
	ReadOnly bool
	// IndexDir is where the index lives. Empty means index in DIR, or in Work with a keeper, and no index at all when ReadOnly.
	IndexDir string
	// Keeper is the socket of the keeper that writes to the vault, empty where this process does it itself. It means nothing
	// together with ReadOnly: what is sealed is read without a keeper.
	Keeper string
	// Places says where a further place of the vault is, by its number, in place of what the vault's own list says.
	Places map[int]string
	// Work is the directory of what this process makes for itself where a keeper writes to the vault: the index, sessions that
	// can be resumed, usage, the lock. Empty means DefaultWork. Without a keeper all that lies in the vault's directory.
	Work string
	// Clock is where time comes from; nil means the kernel.
	Clock clock.Source
	// NoParity leaves the Reed-Solomon section out of new packs.
	NoParity bool
	// NoEvacuation makes sessions rely on packs however little of them is still used: for measuring what evacuation gains.
	NoEvacuation bool
	// Workers encode blocks; 0 means one for each processor, or fewer with little Memory.
	Workers int
	// Memory is what the process may use, in bytes; 0 means 256 MiB. Caches, buffers and the number of workers follow it.
	Memory int64
	// Logf is told, in one sentence each, what recovery did. Nil means nobody listens.
	Logf func(format string, args ...any)

	disk  durable.Disk    // tests: instead of a directory
	index chunkIndex      // tests: instead of Badger
	rule  *evacuationRule // tests: instead of the default
}

// chunkIndex is what the vault needs of an index: hints where a chunk lies, and which packs it has seen.
type chunkIndex interface {
	Lookup(id chunk.ID) (index.Place, bool)
	AddPack(ctx context.Context, pack uint32, entries []index.Entry) error
	Indexed() *roaring.Bitmap
	DropPacks(packs *roaring.Bitmap) error
}

// Vault is an open vault. All methods are safe for concurrent use.
type Vault struct {
	dir    string
	o      Options
	budget budget
	disk   durable.Disk // the directory, or all places as one
	home   *place.Home  // nil for a vault on an injected disk
	work   durable.Disk // of what this process makes for itself: disk, or another one with a keeper
	lock   *durable.FileLock
	guard  *durable.FileLock // keeps a keeper out while this process writes itself
	store  Store
	ring   *keys.Ring // nil when opened without an identity
	id     [16]byte

	splitter *chunk.Splitter
	hashers  sync.Pool // *chunk.Hasher
	decoders sync.Pool // *pack.Decoder

	indexMu  sync.RWMutex // held for writing while the index is replaced
	index    chunkIndex   // nil when there is none
	indexErr error        // why there is none although one is wanted
	indexDir string

	cache *readCache
	usage usage
	reads readings

	// indexTurn is held by whoever fills, warms or replaces the index, or salvages: one at a time. It is taken before
	// indexMu.
	indexTurn chan struct{}

	badMu sync.RWMutex
	bad   *roaring.Bitmap // packs whose footers are damaged: nothing in them can be found again

	beginMu    sync.Mutex // held while a session is chosen: what is left of others is looked through by one at a time
	sessionsMu sync.Mutex
	sessions   map[string]string // source -> ID of its open session: one at a time
}

// Dir is the vault's directory, empty for a vault on an injected disk.
func (v *Vault) Dir() string { return v.dir }

// ID is the vault's ID, 32 hexadecimal digits.
func (v *Vault) ID() string { return v.store.Vault() }

// Store is the write-once store below the vault.
func (v *Vault) Store() Store { return v.store }

// Open opens the vault in dir. Unless o.ReadOnly it takes the vault's lock (durable.ErrLocked when another process
// has it) and finishes what an interrupted process left: see recover.
func Open(ctx context.Context, dir string, o Options) (*Vault, error) {
	if o.Clock == nil {
		o.Clock = clock.Kernel()
	}
	b := budgetOf(o.Memory)
	if o.Workers <= 0 {
		o.Workers = min(runtime.GOMAXPROCS(0), b.workers)
	}
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	v := &Vault{dir: dir, o: o, budget: b, disk: o.disk, sessions: map[string]string{}, bad: roaring.New(), indexTurn: make(chan struct{}, 1)}
	if err := v.open(ctx); err != nil {
		return nil, errors.Join(err, v.release())
	}
	return v, nil
}

func (v *Vault) open(ctx context.Context) error {
	if v.disk == nil {
		if err := looksLikeVault(v.dir, v.o.ReadOnly || v.Kept()); err != nil {
			return err
		}
		if v.Kept() {
			if err := v.openWork(); err != nil {
				return err
			}
		}
		d, err := durable.OpenDir(v.dir)
		if err != nil {
			return fmt.Errorf("vault %q: %w", v.dir, err)
		}
		v.disk = d
		if !v.o.ReadOnly && !v.Kept() {
			if err := v.own(d); err != nil {
				return fmt.Errorf("vault %q: %w", v.dir, err)
			}
		}
		if err := v.openPlaces(d); err != nil {
			return fmt.Errorf("vault %q: %w", v.dir, err)
		}
	}
	if v.work == nil {
		v.work = v.disk
	}
	store, err := v.openStore(ctx)
	if err != nil {
		return fmt.Errorf("vault %q: %w", v.dir, err)
	}
	v.store = store
	if err := v.unlock(); err != nil {
		return err
	}
	v.cache = newReadCache(v)
	if v.ring == nil {
		return nil
	}
	v.openIndex(ctx)
	if v.o.ReadOnly {
		return nil
	}
	return v.recover(ctx)
}

// looksLikeVault tells a missing directory, an empty one and a foreign one apart, since each wants another remedy. For
// reading the ledger is enough: its first record repeats what vault.json says.
func looksLikeVault(dir string, readOnly bool) error {
	if _, err := os.Stat(filepath.Join(dir, "vault.json")); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("vault %q: %w", dir, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "ledger")); err == nil {
		if readOnly {
			return nil
		}
		return fmt.Errorf("vault %q: vault.json is missing but there is a ledger: the vault is damaged and can only be read; see what else is missing with holdfast check; "+
			"vault.json comes back with: cd %q && head -n1 ledger/000001.jsonl | jq -j .init.identity > vault.json", dir, dir)
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("vault %q does not exist; make one with: holdfast init --vault %s", dir, dir)
	}
	return fmt.Errorf("%q is not a vault (no vault.json in it); give the right directory with --vault, or make a vault with: holdfast init --vault DIR", dir)
}

func (v *Vault) unlock() error {
	if len(v.o.Identities) == 0 {
		return nil
	}
	ring, err := keys.Open(v.store.Keyring(), v.o.Identities...)
	if err != nil {
		return fmt.Errorf("vault %q: keyring: %w", v.dir, err)
	}
	if ring.Vault() != v.store.Vault() {
		return fmt.Errorf("vault %q: its keyring belongs to vault %s: a foreign keyring was put in its place", v.dir, ring.Vault())
	}
	id, err := hex.DecodeString(ring.Vault())
	if err != nil || len(id) != len(v.id) {
		return fmt.Errorf("vault %q: ID %q is not 32 hexadecimal digits", v.dir, ring.Vault())
	}
	copy(v.id[:], id)
	v.ring = ring
	v.splitter = chunk.NewSplitter(ring.GearKey())
	v.hashers.New = func() any { return chunk.NewHasher(ring.ChunkIDKey()) }
	v.decoders.New = func() any { return pack.NewDecoder() }
	return nil
}

// errLocked says that a vault was opened without an identity.
var errNoKey = errors.New("the vault was opened without its unlock key; give --unlock-key FILE (the unlock key or a recovery identity)")

func (v *Vault) needKey() error {
	if v.ring == nil {
		return errNoKey
	}
	return nil
}

// SliceKey is the key by which the slow cycle chooses the files that are read again: it never changes, and whoever does
// not have the vault's key cannot tell which files are due.
func (v *Vault) SliceKey() ([32]byte, error) {
	if err := v.needKey(); err != nil {
		return [32]byte{}, err
	}
	const firstEpoch = 1
	return v.ring.Derive(firstEpoch, "holdfast slow cycle", nil)
}

func (v *Vault) chunkID(p []byte) chunk.ID {
	h := v.hashers.Get().(*chunk.Hasher)
	id := h.Sum(p)
	v.hashers.Put(h)
	return id
}

// SetLockHolder writes text into the lock file, for the process that finds the vault locked: the daemon leaves its
// socket there.
func (v *Vault) SetLockHolder(text []byte) error {
	if v.lock == nil {
		return nil
	}
	return v.lock.SetHolder(text)
}

// Close saves the clock and gives the lock back. Sessions must have ended.
func (v *Vault) Close() error {
	return v.release()
}

func (v *Vault) release() error {
	var errs []error
	if v.cache != nil {
		errs = append(errs, v.cache.close())
	}
	if c, ok := v.index.(interface{ Close() error }); ok && v.index != nil {
		errs = append(errs, c.Close())
	}
	if v.store != nil {
		v.reads.close(v)
		errs = append(errs, v.store.Close())
	}
	disks := []durable.Disk{v.disk}
	if v.work != v.disk {
		disks = append(disks, v.work)
	}
	for _, d := range disks {
		if c, ok := d.(interface{ Close() error }); ok && v.o.disk == nil {
			errs = append(errs, c.Close())
		}
	}
	for _, l := range []*durable.FileLock{v.guard, v.lock} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	return errors.Join(errs...)
}
