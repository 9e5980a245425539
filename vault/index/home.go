package index

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/RoaringBitmap/roaring/v2"
	badger "github.com/dgraph-io/badger/v4"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// home is the directory of an index while it is being opened or rebuilt, under its lock.
type home struct {
	dir   string
	codec codec
	o     Options
	disk  *durable.Dir
	lock  *dirLock
	found contents // of the Badger directory that was opened
	kept  *kept    // the filter of that directory, nil if none was left
}

// contents is what an index knows about itself.
type contents struct {
	marks *roaring.Bitmap
	count uint64
}

func openHome(dir, vault string, o Options) (*home, error) {
	v, err := parseVault(vault)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := room(dir, o.FreeFloorBytes); err != nil {
		return nil, err
	}
	h := &home{dir: dir, codec: newCodec(v), o: o}
	if h.lock, err = lockDir(dir); err != nil {
		return nil, err
	}
	if h.disk, err = durable.OpenDir(dir); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

func (h *home) close() {
	if h.disk != nil {
		h.disk.Close()
	}
	h.lock.close()
}

func (h *home) vault() string { return hex.EncodeToString(h.codec.vault[:]) }

// openDB opens what is there, or a fresh index instead of what cannot be used; fresh says why.
func (h *home) openDB() (db *badger.DB, fresh string, err error) {
	if err := h.sweep(); err != nil {
		return nil, "", err
	}
	s, loadErr := load(h.disk)
	fresh = s.unfit(loadErr, h.vault())
	if !exists(filepath.Join(h.dir, dbName)) {
		fresh = "there was none"
	}
	if fresh == "" {
		if db, fresh, err = h.openExisting(s); err != nil || db != nil {
			return db, "", err
		}
	}
	db, err = h.openEmpty(fresh)
	return db, fresh, err
}

// sweep removes what a Rebuild that did not finish left behind.
func (h *home) sweep() error {
	for _, name := range []string{newName, sortName} {
		if err := durable.RemoveTree(h.disk, name); err != nil {
			return err
		}
	}
	return nil
}

// openExisting tries what is there until it opens or has failed too often; then why says so and db is nil.
func (h *home) openExisting(s state) (db *badger.DB, why string, err error) {
	path := filepath.Join(h.dir, dbName)
	thorough, chunks, filter := s.Unclean > 0, s.Chunks, s.Filter
	// Should this process die, the filter that the last one left lacks what was added.
	s.Filter = nil
	s.Unclean++
	if err := inspect(path, thorough); err != nil {
		if environmental(err) {
			return nil, "", err
		}
		return nil, err.Error(), nil
	}
	for {
		s.Failed++
		// Should the process die between here and the next save, the opening counts as failed.
		if err := s.save(h.disk); err != nil {
			return nil, "", err
		}
		db, err := h.tryOpen(path)
		if err == nil && !thorough && h.found.count != chunks {
			closeQuietly(db)
			return nil, fmt.Sprintf("it knows %d chunks and knew %d when it was closed", h.found.count, chunks), nil
		}
		if err == nil {
			s.Failed = 0
			if err := s.save(h.disk); err != nil {
				closeQuietly(db)
				return nil, "", err
			}
			if !thorough {
				h.kept = filter
			}
			return db, "", nil
		}
		if environmental(err) {
			s.Failed--
			return nil, "", errors.Join(err, s.save(h.disk))
		}
		h.o.Logf("index %s: opening it failed: %v", h.dir, err)
		if s.Failed >= maxFailed {
			return nil, fmt.Sprintf("it failed to open %d times: %v", s.Failed, err), nil
		}
	}
}

// tryOpen opens Badger and reads what the index says of itself.
func (h *home) tryOpen(path string) (*badger.DB, error) {
	db, err := openBadger(path, h.o)
	if err != nil {
		return nil, err
	}
	if h.found, err = h.codec.contents(db); err != nil {
		closeQuietly(db)
		return nil, err
	}
	return db, nil
}

// openEmpty moves aside what is there and begins anew. If power fails before the first AddPack returns, the next
// Open finds an index without its 'v' record, or none, and begins anew as well.
func (h *home) openEmpty(why string) (*badger.DB, error) {
	if err := h.moveAside(why); err != nil {
		return nil, err
	}
	if err := durable.MkdirAll(h.disk, dbName, 0o700); err != nil {
		return nil, err
	}
	s := state{Format: stateFormat, Vault: h.vault(), Failed: 1, Unclean: 1}
	if err := s.save(h.disk); err != nil {
		return nil, err
	}
	db, err := openBadger(filepath.Join(h.dir, dbName), h.o)
	if err != nil {
		return nil, err
	}
	err = guard("first record", func() error {
		return db.Update(func(txn *badger.Txn) error { return txn.Set([]byte{vaultKey}, h.codec.sealVault()) })
	})
	if err == nil {
		s.Failed = 0
		err = s.save(h.disk)
	}
	if err != nil {
		closeQuietly(db)
		return nil, err
	}
	h.found = contents{marks: roaring.New()}
	return db, nil
}

// moveAside renames Badger's directory out of the way, in place of what was moved there before.
func (h *home) moveAside(why string) error {
	if !exists(filepath.Join(h.dir, dbName)) {
		return nil
	}
	h.o.Logf("index %s: %s; it is moved to %s and built anew", h.dir, why, asideName)
	if err := durable.RemoveTree(h.disk, asideName); err != nil {
		return err
	}
	if err := h.disk.Rename(dbName, asideName); err != nil {
		return err
	}
	return h.disk.SyncDir(".")
}

// contents reads the records that an index keeps about itself. A pack whose mark cannot be read is not in.
func (c codec) contents(db *badger.DB) (out contents, err error) {
	out.marks = roaring.New()
	err = guard("reading its marks", func() error {
		return db.View(func(txn *badger.Txn) error {
			if v, err := value(txn, []byte{vaultKey}); err != nil {
				return err
			} else if !c.isVault(v) {
				return damaged("it does not say whose it is, or is another vault's")
			}
			v, err := value(txn, []byte{countKey})
			if err != nil {
				return err
			}
			if v != nil {
				n, ok := c.number([]byte{countKey}, v)
				if !ok {
					return damaged("its number of chunks does not bear its checksum")
				}
				out.count = n
			}
			return c.marks(txn, out.marks)
		})
	})
	return out, err
}

func (c codec) marks(txn *badger.Txn, marks *roaring.Bitmap) error {
	it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{packKey}})
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		item := it.Item()
		key := item.Key()
		err := item.Value(func(v []byte) error {
			if _, ok := c.number(key, v); ok && len(key) == 5 {
				marks.Add(uint32(key[1])<<24 | uint32(key[2])<<16 | uint32(key[3])<<8 | uint32(key[4]))
			}
			return nil
		})
		if err != nil {
			return damaged("reading the mark of a pack: %v", err)
		}
	}
	return nil
}

// value reads a small record, nil if there is none.
func value(txn *badger.Txn, key []byte) ([]byte, error) {
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, damaged("reading its record %q: %v", key, err)
	}
	return item.ValueCopy(nil)
}

// environmental reports whether an error says something about the machine and nothing about the index. Badger
// wraps errors as text, so text is compared.
func environmental(err error) bool {
	if durable.IsNoSpace(err) || errors.Is(err, fs.ErrPermission) {
		return true
	}
	for _, text := range []string{"no space left", "quota exceeded", "too many open files", "permission denied", "read-only file system", "cannot allocate memory", "resource temporarily unavailable"} {
		if strings.Contains(strings.ToLower(err.Error()), text) {
			return true
		}
	}
	return false
}

func closeQuietly(db *badger.DB) { _ = guard("close", db.Close) }
