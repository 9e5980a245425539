package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	badger "github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/table"
	"github.com/dgraph-io/badger/v4/y"
	"google.golang.org/protobuf/proto"
)

// inspect examines Badger's files before Badger does: faced with a damaged table it panics or exits in goroutines
// where nobody can stop it. Of every table the index and the last block are verified, which is what opening
// reads; thoroughly (after a process that did not close the index) every block is, at about a second for each
// gigabyte. Of logs the announced lengths are compared with the file, since Badger allocates what they announce.
// It reads with pread, so that a bad sector is an error. Errors are [*DamageError] or come from the system.
func inspect(dir string, thorough bool) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if err := inspectManifest(dir, files, thorough); err != nil {
		return err
	}
	if err := inspectRegistry(dir); err != nil {
		return err
	}
	for _, f := range files {
		examine := map[string]func(file, bool) error{".sst": file.table, ".mem": file.log, ".vlog": file.log}[filepath.Ext(f.Name())]
		if examine == nil {
			continue
		}
		if err := inspectFile(filepath.Join(dir, f.Name()), examine, thorough); err != nil {
			return err
		}
	}
	return nil
}

// inspectManifest compares Badger's list of tables with the directory. A table that the list does not name is what
// a process left behind that died, unless the index was closed: then the list has lost its end, and Badger would
// delete the table.
func inspectManifest(dir string, files []os.DirEntry, unclean bool) error {
	f, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if errors.Is(err, fs.ErrNotExist) {
		return damaged("it has no list of tables")
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return guard("reading its list of tables", func() error {
		m, _, err := badger.ReplayManifestFile(f, 0, badgerOptions(dir, Options{}.withDefaults()))
		if err != nil {
			return damaged("its list of tables: %v", err)
		}
		named := 0
		for _, f := range files {
			id, isTable := table.ParseFileID(f.Name())
			if _, ok := m.Tables[id]; isTable && ok {
				named++
			} else if isTable && !unclean {
				return damaged("%s is not in its list of tables", f.Name())
			}
		}
		if named != len(m.Tables) {
			return damaged("%d of the %d tables in its list are missing", len(m.Tables)-named, len(m.Tables))
		}
		return nil
	})
}

// inspectRegistry reads Badger's list of encryption keys, which holds none.
func inspectRegistry(dir string) error {
	return guard("reading its key registry", func() error {
		if !exists(filepath.Join(dir, badger.KeyRegistryFileName)) {
			return damaged("it has no key registry")
		}
		r, err := badger.OpenKeyRegistry(badger.KeyRegistryOptions{Dir: dir, ReadOnly: true})
		if err != nil {
			return damaged("its key registry: %v", err)
		}
		return r.Close()
	})
}

func inspectFile(path string, examine func(file, bool) error, thorough bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return damaged("%s is not a regular file", info.Name())
	}
	return guard("examining "+info.Name(), func() error {
		return examine(file{f, info.Name(), info.Size()}, thorough)
	})
}

type file struct {
	r    io.ReaderAt
	name string
	size int64
}

// read returns n bytes at off, which must lie in the file.
func (f file) read(off, n int64) ([]byte, error) {
	if n < 0 || off < 0 || n > f.size-off {
		return nil, damaged("%s: %d bytes at %d are not in its %d bytes", f.name, n, off, f.size)
	}
	b := make([]byte, n)
	if _, err := f.r.ReadAt(b, off); err != nil {
		return nil, damaged("%s cannot be read: %v", f.name, err)
	}
	return b, nil
}

// before reads a part that stands before end and is followed by its own length in 4 bytes, as Badger lays out
// the end of tables and blocks. It returns where the part begins.
func (f file) before(end int64) ([]byte, int64, error) {
	b, err := f.read(end-4, 4)
	if err != nil {
		return nil, 0, err
	}
	n := int64(binary.BigEndian.Uint32(b))
	b, err = f.read(end-4-n, n)
	return b, end - 4 - n, err
}

// table examines a table: blocks | index | its length (4) | checksum | its length (4).
func (f file) table(thorough bool) error {
	sum, end, err := f.before(f.size)
	if err != nil {
		return err
	}
	data, start, err := f.before(end)
	if err != nil {
		return err
	}
	if err := f.verify(data, sum, "index"); err != nil {
		return err
	}
	if len(data) < 8 {
		return damaged("%s: no index", f.name)
	}
	index := fb.GetRootAsTableIndex(data, 0)
	n := index.OffsetsLength()
	if n == 0 {
		return damaged("%s: no blocks", f.name)
	}
	first := n - 1
	if thorough {
		first = 0
	}
	for i := first; i < n; i++ {
		var at fb.BlockOffset
		if !index.Offsets(&at, i) {
			return damaged("%s: no block %d", f.name, i)
		}
		if int64(at.Offset())+int64(at.Len()) > start {
			return damaged("%s: block %d reaches into the index", f.name, i)
		}
		if err := f.block(i, int64(at.Offset()), int64(at.Len())); err != nil {
			return err
		}
	}
	return nil
}

// block examines a block: entries | offsets (4 each) | their number (4) | checksum | its length (4).
func (f file) block(i int, off, n int64) error {
	b, err := f.read(off, n)
	if err != nil {
		return err
	}
	name := fmt.Sprintf("block %d", i)
	in := file{nil, f.name, n}
	if n < 8 {
		return damaged("%s: %s has %d bytes", f.name, name, n)
	}
	sumEnd := n - 4
	sumLen := int64(binary.BigEndian.Uint32(b[sumEnd:]))
	if sumLen > sumEnd-4 {
		return damaged("%s: %s announces a checksum of %d bytes", f.name, name, sumLen)
	}
	body := b[:sumEnd-sumLen]
	if err := in.verify(body, b[sumEnd-sumLen:sumEnd], name); err != nil {
		return err
	}
	if entries := int64(binary.BigEndian.Uint32(body[len(body)-4:])); entries == 0 || entries > int64(len(body)-4)/4 {
		return damaged("%s: %s announces %d entries", f.name, name, entries)
	}
	return nil
}

func (f file) verify(data, sum []byte, part string) error {
	var want pb.Checksum
	if err := proto.Unmarshal(sum, &want); err != nil {
		return damaged("%s: %s: its checksum cannot be read", f.name, part)
	}
	if want.Algo != pb.Checksum_CRC32C && want.Algo != pb.Checksum_XXHash64 {
		return damaged("%s: %s: a checksum of kind %d", f.name, part, want.Algo)
	}
	if err := y.VerifyChecksum(data, &want); err != nil {
		return damaged("%s: %s does not bear its checksum", f.name, part)
	}
	return nil
}

const (
	logHeader    = 20      // key ID and nonce
	maxLogKey    = 1 << 16 // Badger stops at longer ones by itself
	maxLogRecord = 2 + 3*binary.MaxVarintLen64
)

// log examines a write-ahead or value log: header, then records of meta (2), key length, value length and expiry
// as varints, key, value, CRC-32C (4). The first record that is all zero or does not bear its checksum ends it,
// as the end of what a power cut left: Badger sees it likewise. Lengths that the file cannot hold are damage.
func (f file) log(bool) error {
	for off := int64(logHeader); off < f.size; {
		head, err := f.read(off, min(maxLogRecord, f.size-off))
		if err != nil {
			return err
		}
		n, body, ok := logRecord(head)
		if !ok || body == 0 {
			return nil
		}
		if off+n+body+4 > f.size {
			return damaged("%s: a record at %d announces %d bytes, %d are left", f.name, off, body, f.size-off-n)
		}
		b, err := f.read(off, n+body+4)
		if err != nil {
			return err
		}
		if crc32.Checksum(b[:n+body], castagnoli) != binary.BigEndian.Uint32(b[n+body:]) {
			return nil
		}
		off += n + body + 4
	}
	return nil
}

// logRecord parses a record's head: its length, the length of key and value, and whether Badger would go on.
func logRecord(b []byte) (head, body int64, ok bool) {
	if len(b) < 2 {
		return 0, 0, false
	}
	at := 2
	var v [3]uint64
	for i := range v {
		x, n := binary.Uvarint(b[at:])
		if n <= 0 {
			return 0, 0, false
		}
		v[i] = x
		at += n
	}
	key, val := int64(uint32(v[0])), int64(uint32(v[1]))
	if key > maxLogKey {
		return 0, 0, false
	}
	return int64(at), key + val, true
}
