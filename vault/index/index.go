// Package index finds a chunk's place in a pack by its ID: a cache over sealed packs that can be thrown away.
//
// It is the only place that knows Badger, and it trusts nothing that Badger says. A hit is a hint: the stored
// value carries a checksum over vault, key and value, and whoever reads the pack verifies the chunk's ID. A miss
// is a hint too: at worst a chunk is stored twice. No deletion and no "that is all" may be decided from an index.
// What is lost or damaged is moved aside, and a fresh index is filled again from the packs' footers.
//
// Nothing secret is kept here: IDs are keyed hashes, and no name or content ever reaches Badger.
package index

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/RoaringBitmap/roaring/v2"
	badger "github.com/dgraph-io/badger/v4"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/vault/chunk"
)

// Place is where a chunk lies: a block of Stored bytes at Offset of the pack, and in the block's plaintext Size
// bytes at InBlock.
type Place struct {
	Pack    uint32
	Offset  int64 // 0 to 2^48-1
	Stored  uint32
	InBlock uint32
	Size    uint32
}

// Entry is a chunk and its place.
type Entry struct {
	ID    chunk.ID
	Place Place
}

// PackEntries are all chunks of a pack.
type PackEntries struct {
	Pack    uint32
	Entries []Entry
}

// Options of an index. The zero value is right for a vault of any size.
type Options struct {
	// MemoryBytes is what Badger may hold in memory tables; 0 means 32 MiB. The filter comes on top once it is warm, with
	// about 2 bytes for each chunk. Badger maps its tables: what is resident of them the kernel takes back when it must.
	MemoryBytes int64
	// FreeFloorBytes is the room that must be free on the file system to open the index or to write to it; 0 means
	// 64 MiB, a negative value none. A full disk kills a process that writes through a memory map.
	FreeFloorBytes int64
	// Logf is told, in one sentence each, what was found wrong and done about it. Nil means nobody listens.
	Logf func(format string, args ...any)
}

const (
	defaultMemory    = 32 << 20
	defaultFreeFloor = 64 << 20
)

// The directory of an index, all of it below the one that Open is given:
//
//	state      one line of JSON, see state.go
//	filter     the filter that the last close left, see keep.go
//	db         Badger's directory
//	db.aside   the last one that was moved aside, for whoever wants to know why
//	db.new     one that Rebuild is making, with its sorting files in sort; both worthless after a crash
const (
	dbName    = "db"
	asideName = "db.aside"
	newName   = "db.new"
	sortName  = "sort"
)

// ErrInUse is returned when another process has the index open.
var ErrInUse = errors.New("the index is in use by another process: stop that one, or let it do the work")

// ErrClosed is returned by an index that was closed.
var ErrClosed = errors.New("the index is closed")

// DamageError says what is wrong with an index. The remedy is always the same: rebuild it.
type DamageError struct{ Detail string }

func (e *DamageError) Error() string { return "the index is damaged, rebuild it: " + e.Detail }

func damaged(format string, args ...any) error { return &DamageError{fmt.Sprintf(format, args...)} }

// Index is an open index. All methods are safe for concurrent use; Close waits for those under way.
type Index struct {
	dir    string
	codec  codec
	o      Options
	disk   *durable.Dir
	lock   *dirLock
	db     *badger.DB
	fresh  string // why the index began empty, "" if it did not
	closed atomic.Bool

	life sync.RWMutex // held for reading by every use of db, for writing by Close

	write  sync.Mutex                     // serialises AddPack, DropPacks and the end of WarmFilter; guards count's changes
	marks  atomic.Pointer[roaring.Bitmap] // packs that are wholly in; a bitmap is never changed once it is here
	count  atomic.Uint64                  // distinct chunks ever added, as far as known
	filter filterState

	warmer warmer

	harm atomic.Pointer[DamageError] // the first damage seen since Open
}

// Open opens the index of a vault (32 hex digits) in dir, and makes it if there is none. An index that belongs to
// another vault, that a newer release wrote, whose files are damaged or that failed to open twice is moved aside,
// and an empty one takes its place: Fresh tells. An index is unusable only when its directory is (no room, no
// permission, in use): that is an error, and nothing has been moved.
func Open(dir, vault string, o Options) (*Index, error) {
	x, err := open(dir, vault, o)
	if err != nil {
		return nil, fmt.Errorf("index %s: %w", dir, err)
	}
	return x, nil
}

func open(dir, vault string, o Options) (_ *Index, err error) {
	o = o.withDefaults()
	h, err := openHome(dir, vault, o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	db, fresh, err := h.openDB()
	if err != nil {
		return nil, err
	}
	x := &Index{dir: dir, codec: h.codec, o: o, disk: h.disk, lock: h.lock, db: db, fresh: fresh}
	x.marks.Store(h.found.marks)
	x.count.Store(h.found.count)
	if h.kept != nil {
		x.filter.tail = &tail{file: *h.kept}
	}
	x.warmer.turn = make(chan struct{}, 1)
	x.warmer.ctx, x.warmer.stop = context.WithCancel(context.Background())
	return x, nil
}

func (o Options) withDefaults() Options {
	if o.MemoryBytes <= 0 {
		o.MemoryBytes = defaultMemory
	}
	if o.FreeFloorBytes == 0 {
		o.FreeFloorBytes = defaultFreeFloor
	}
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	return o
}

func parseVault(vault string) (v [16]byte, err error) {
	if n, err := hex.Decode(v[:], []byte(vault)); err != nil || n != len(v) || len(vault) != 2*len(v) {
		return v, fmt.Errorf("vault %q is not 32 hex digits", vault)
	}
	return v, nil
}

// Fresh reports whether Open began with an empty index, and why. The caller then adds all packs again.
func (x *Index) Fresh() (bool, string) { return x.fresh != "", x.fresh }

// Count is the number of distinct chunks ever added, as far as the index knows.
func (x *Index) Count() uint64 { return x.count.Load() }

// Indexed is the set of packs that are wholly in the index. The bitmap is the caller's own.
func (x *Index) Indexed() *roaring.Bitmap { return x.marks.Load().Clone() }

// Damaged gives the first damage that was met since Open, nil if none. A damaged index goes on answering what it
// can; the next Open moves it aside.
func (x *Index) Damaged() error {
	if e := x.harm.Load(); e != nil {
		return e
	}
	return nil
}

// note remembers damage and returns err.
func (x *Index) note(err error) error {
	var d *DamageError
	if errors.As(err, &d) && x.harm.CompareAndSwap(nil, d) {
		x.o.Logf("index %s: %s", x.dir, d.Detail)
	}
	return err
}

// Lookup says where a chunk lies, if the index knows and the pack is one of Indexed. It never fails: what cannot
// be read, or does not bear its checksum, is a miss.
func (x *Index) Lookup(id chunk.ID) (Place, bool) {
	if x.filter.excludes(id) {
		return Place{}, false
	}
	p, ok, err := x.get(id)
	if err != nil {
		x.note(err)
		return Place{}, false
	}
	if !ok {
		x.missed()
	}
	if !ok || !x.marks.Load().Contains(p.Pack) {
		return Place{}, false
	}
	return p, true
}

// get reads a chunk's place from Badger, whatever its pack.
func (x *Index) get(id chunk.ID) (p Place, ok bool, err error) {
	if err := x.enter(); err != nil {
		return Place{}, false, err
	}
	defer x.life.RUnlock()
	var key [chunkKeySize]byte
	err = guard("lookup", func() error {
		txn := x.db.NewTransaction(false)
		defer txn.Discard()
		item, err := txn.Get(appendChunkKey(key[:0], id))
		if errors.Is(err, badger.ErrKeyNotFound) {
			return nil
		}
		if err != nil {
			return damaged("reading a chunk's place: %v", err)
		}
		return item.Value(func(v []byte) error {
			if p, ok = x.codec.place(key[:], v); !ok {
				return damaged("the place of chunk %v does not bear its checksum", id)
			}
			return nil
		})
	})
	return p, ok && err == nil, err
}

// enter takes the right to use db; the caller gives it back with x.life.RUnlock.
func (x *Index) enter() error {
	x.life.RLock()
	if x.closed.Load() {
		x.life.RUnlock()
		return ErrClosed
	}
	return nil
}

// Close writes what Badger holds in memory and closes it; what AddPack returned for was durable before. If power
// fails in between, the next Open examines every table before it is used. A second Close does nothing.
func (x *Index) Close() error {
	if x.closed.Swap(true) {
		return nil
	}
	x.warmer.end()
	x.life.Lock()
	err := guard("close", x.db.Close)
	x.life.Unlock()
	// Only then: who holds x.write may be waiting for x.life. From here on nothing enters, and nothing is added.
	x.write.Lock()
	defer x.write.Unlock()
	s := state{Format: stateFormat, Vault: hex.EncodeToString(x.codec.vault[:]), Chunks: x.count.Load()}
	if err != nil {
		s.Unclean = 1
	}
	if d := x.harm.Load(); d != nil {
		s.Damaged = d.Detail
	}
	if err == nil && s.Damaged == "" {
		s.Filter = x.leaveFilter()
	}
	err = errors.Join(err, s.save(x.disk))
	err = errors.Join(err, x.disk.Close(), x.lock.close())
	if err != nil {
		return fmt.Errorf("index %s: close: %w", x.dir, err)
	}
	return nil
}

// room refuses when less than the floor is free: Badger writes through memory maps, and a full disk would kill
// the process with a bus error.
func room(dir string, floor int64) error {
	free, err := freeBytes(dir)
	if err != nil || floor < 0 || free >= floor {
		return err
	}
	return fmt.Errorf("%d MiB are free on its file system and the index needs %d MiB: make room, or name another place with --index-dir: %w",
		free>>20, floor>>20, durable.ErrFull)
}

// guard runs f such that a panic in it, or a memory map that cannot be read, becomes damage. Goroutines of
// Badger's own are beyond it; state.go counts what they do to the process.
func guard(doing string, f func() error) (err error) {
	restore := panicOnFault()
	defer restore()
	defer func() {
		if r := recover(); r != nil {
			err = damaged("%s: Badger gave up: %.200v", doing, r)
		}
	}()
	return f()
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

var _ interface {
	Lookup(chunk.ID) (Place, bool)
	AddPack(context.Context, uint32, []Entry) error
} = (*Index)(nil)
