package index

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/ristretto/v2/z"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// Rebuild makes the index of a vault anew from what the packs say, and puts it in the place of the old one. The
// index must not be open. Packs may come in any order; the answers afterwards are those of AddPack for the same
// packs. Memory is bounded by the largest pack and a 256th of all chunks.
//
// Everything is written and synced beside the old index, then directories are swapped. If power fails before the
// swap, the old index is still there; in the middle of it, there is none, and Open begins a fresh one.
func Rebuild(ctx context.Context, dir, vault string, packs iter.Seq2[PackEntries, error]) error {
	h, err := openHome(dir, vault, Options{}.withDefaults())
	if err != nil {
		return fmt.Errorf("rebuild index %s: %w", dir, err)
	}
	defer h.close()
	if err := h.rebuild(ctx, packs); err != nil {
		return fmt.Errorf("rebuild index %s: %w", dir, errors.Join(err, h.sweep()))
	}
	return nil
}

func (h *home) rebuild(ctx context.Context, packs iter.Seq2[PackEntries, error]) error {
	if err := h.sweep(); err != nil {
		return err
	}
	for _, name := range []string{newName, sortName} {
		if err := h.disk.Mkdir(name, 0o700); err != nil {
			return err
		}
	}
	s := newSorter(filepath.Join(h.dir, sortName))
	defer s.close()
	marks, err := h.sort(ctx, s, packs)
	if err != nil {
		return err
	}
	count, err := h.fill(ctx, s, marks)
	if err != nil {
		return err
	}
	if err := h.syncTree(newName); err != nil {
		return err
	}
	return h.swap(count)
}

// sort distributes all entries over the sorter's buckets.
func (h *home) sort(ctx context.Context, s *sorter, packs iter.Seq2[PackEntries, error]) (marks map[uint32]uint64, err error) {
	marks = map[uint32]uint64{}
	for p, err := range packs {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = room(h.dir, h.o.FreeFloorBytes)
		}
		if err != nil {
			return nil, err
		}
		entries, err := normalise(p.Pack, p.Entries)
		if err != nil {
			return nil, err
		}
		if err := s.add(entries); err != nil {
			return nil, err
		}
		marks[p.Pack] = uint64(len(entries))
	}
	return marks, s.flush()
}

// fill writes a Badger directory from the buckets, in the order of keys: 'c', 'n', 'p', 'v'.
func (h *home) fill(ctx context.Context, s *sorter, marks map[uint32]uint64) (count uint64, err error) {
	o := badgerOptions(filepath.Join(h.dir, newName), h.o)
	o.SyncWrites = false        // all of it is synced at the end
	o.BaseTableSize = 128 << 10 // up to 16 tables are made at once, each 32 times as large
	var db *badger.DB
	if err := guard("open", func() (err error) { db, err = badger.Open(o); return err }); err != nil {
		return 0, err
	}
	err = guard("write", func() error {
		w := &stream{h: h, sw: db.NewStreamWriter(), buf: z.NewBuffer(2*streamBytes, "rebuild")}
		defer func() { w.buf.Release() }()
		if err := w.sw.Prepare(); err != nil {
			w.sw.Cancel()
			return err
		}
		if err := w.all(ctx, s, marks); err != nil {
			w.sw.Cancel()
			return err
		}
		count = w.count
		return w.sw.Flush()
	})
	return count, errors.Join(err, guard("close", db.Close))
}

// streamBytes is how much is handed to Badger at once.
const streamBytes = 1 << 20

// stream feeds Badger's stream writer.
type stream struct {
	h     *home
	sw    *badger.StreamWriter
	buf   *z.Buffer
	count uint64
}

func (w *stream) all(ctx context.Context, s *sorter, marks map[uint32]uint64) error {
	codec := w.h.codec
	for i := range buckets {
		if err := errors.Join(ctx.Err(), room(w.h.dir, w.h.o.FreeFloorBytes)); err != nil {
			return err
		}
		entries, err := s.sorted(i)
		if err != nil {
			return err
		}
		w.count += uint64(len(entries))
		for _, e := range entries {
			key := appendChunkKey(nil, e.ID)
			if err := w.put(key, codec.sealPlace(key, e.Place)); err != nil {
				return err
			}
		}
	}
	count := []byte{countKey}
	if err := w.put(count, codec.sealNumber(count, w.count)); err != nil {
		return err
	}
	for _, p := range sortedKeys(marks) {
		key := packKeyOf(p)
		if err := w.put(key, codec.sealNumber(key, marks[p])); err != nil {
			return err
		}
	}
	if err := w.put([]byte{vaultKey}, codec.sealVault()); err != nil {
		return err
	}
	return w.send()
}

func (w *stream) put(key, value []byte) error {
	badger.KVToBuffer(&pb.KV{Key: key, Value: value, Version: 1, StreamId: 1}, w.buf)
	if w.buf.LenNoPadding() < streamBytes {
		return nil
	}
	return w.send()
}

func (w *stream) send() error {
	defer w.buf.Reset()
	return w.sw.Write(w.buf)
}

func sortedKeys(m map[uint32]uint64) []uint32 {
	keys := make([]uint32, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// syncTree syncs every file of a directory, and the directory.
func (h *home) syncTree(name string) error {
	files, err := h.disk.ReadDir(name)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := h.syncFile(name + "/" + f.Name()); err != nil {
			return err
		}
	}
	return h.disk.SyncDir(name)
}

func (h *home) syncFile(name string) error {
	f, err := h.disk.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// swap puts the new directory in the place of the old one.
func (h *home) swap(count uint64) error {
	// The state file may still name a filter of the old index. If power fails before the new state is there, it must not be
	// taken for one of the new index, which can have as many chunks.
	if err := h.disk.Remove(filterName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := h.disk.SyncDir("."); err != nil {
		return err
	}
	// Power fails here: the old index, whose filter is made anew.
	if err := durable.RemoveTree(h.disk, asideName); err != nil {
		return err
	}
	if err := h.disk.Rename(dbName, asideName); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// Power fails here: no index, Open begins a fresh one.
	if err := h.disk.Rename(newName, dbName); err != nil {
		return err
	}
	if err := h.disk.SyncDir("."); err != nil {
		return err
	}
	// Power fails here: the new index stands under the old state, and at worst is examined or made once more.
	s := state{Format: stateFormat, Vault: h.vault(), Chunks: count}
	if err := s.save(h.disk); err != nil {
		return err
	}
	return errors.Join(durable.RemoveTree(h.disk, asideName), h.sweep())
}

// buckets divide entries by the first byte of their ID.
const buckets = 256

// record is an entry in a bucket's file: ID 32 | pack 4 | offset 8 | stored 4 | in block 4 | size 4.
const recordSize = 32 + 4 + 8 + 4 + 4 + 4

// sorter sorts entries in temporary files of its directory, which is neither synced nor trusted later.
type sorter struct {
	dir   string
	files [buckets]*os.File
	bufs  [buckets]*bufio.Writer
}

func newSorter(dir string) *sorter { return &sorter{dir: dir} }

func (s *sorter) add(entries []Entry) error {
	var b [recordSize]byte
	for i := range entries {
		e := &entries[i]
		w, err := s.bucket(int(e.ID[0]))
		if err != nil {
			return err
		}
		copy(b[:32], e.ID[:])
		binary.BigEndian.PutUint32(b[32:], e.Place.Pack)
		binary.BigEndian.PutUint64(b[36:], uint64(e.Place.Offset))
		binary.BigEndian.PutUint32(b[44:], e.Place.Stored)
		binary.BigEndian.PutUint32(b[48:], e.Place.InBlock)
		binary.BigEndian.PutUint32(b[52:], e.Place.Size)
		if _, err := w.Write(b[:]); err != nil {
			return err
		}
	}
	return nil
}

func (s *sorter) bucket(i int) (*bufio.Writer, error) {
	if s.bufs[i] == nil {
		f, err := os.OpenFile(filepath.Join(s.dir, fmt.Sprintf("%02x", i)), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, err
		}
		s.files[i], s.bufs[i] = f, bufio.NewWriterSize(f, 16<<10)
	}
	return s.bufs[i], nil
}

func (s *sorter) flush() error {
	for _, w := range s.bufs {
		if w != nil {
			if err := w.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// sorted reads a bucket in the order of IDs; of equal ones the place that is remembered.
func (s *sorter) sorted(i int) ([]Entry, error) {
	f := s.files[i]
	if f == nil {
		return nil, nil
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, info.Size()/recordSize)
	r := bufio.NewReaderSize(io.NewSectionReader(f, 0, info.Size()), 256<<10)
	var b [recordSize]byte
	for j := range entries {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return nil, err
		}
		e := &entries[j]
		copy(e.ID[:], b[:32])
		e.Place = Place{
			Pack:    binary.BigEndian.Uint32(b[32:]),
			Offset:  int64(binary.BigEndian.Uint64(b[36:])),
			Stored:  binary.BigEndian.Uint32(b[44:]),
			InBlock: binary.BigEndian.Uint32(b[48:]),
			Size:    binary.BigEndian.Uint32(b[52:]),
		}
	}
	slices.SortFunc(entries, compareEntries)
	return slices.CompactFunc(entries, func(a, b Entry) bool { return a.ID == b.ID }), nil
}

func (s *sorter) close() {
	for _, f := range s.files {
		if f != nil {
			f.Close()
		}
	}
}
