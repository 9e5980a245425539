package move

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// item is a file that a move takes along.
type item struct {
	name string // relative to the vault's root
	sum  string // SHA-256 that a record gives it, hex; "" where none does
	size int64  // that a record gives it, -1 where none does; for a manifest none does
	has  int64  // bytes that it has; -1 if it is not there
	// final says that it lies among the files that never change: it gets the flag of those.
	final bool
	// stays says that it lies in a further place, and is not touched.
	stays bool
}

// inventory is what a place holds, by its ledger and by its directories.
type inventory struct {
	vault, verifier, root string
	size                  uint64
	ledger                *ledger.Ledger
	// named are the files that a record names and no intent, removed those that an intent names.
	named   map[string]item
	removed map[string]bool
	items   []item // what is to be taken along, by name; filled by measure
	// segments are the files of the ledger, by number.
	segments []string
	damaged  []Damaged
	left     []string
}

// takeInventory reads the ledger of a place and verifies it. A damaged one is an error: it says what everything else is held
// against.
func takeInventory(d durable.Disk) (*inventory, error) {
	l, err := ledger.Open(d, ledgerDir, "", "")
	if err != nil {
		return nil, err
	}
	if bad := l.Damages(); len(bad) > 0 {
		return nil, fmt.Errorf("the ledger is damaged in %d places, the first: %s: %s; see holdfast check", len(bad), bad[0].Where, bad[0].Detail)
	}
	in := &inventory{ledger: l, verifier: l.Verifier(), named: map[string]item{}, removed: map[string]bool{}}
	if l.Init() == nil {
		return nil, errors.New("the ledger has no init record")
	}
	in.vault, in.size, in.root = l.Init().Vault, l.Size(), l.Root().String()
	err = l.Replay(func(r ledger.Record) {
		switch {
		case r.Seal != nil:
			in.named[r.Seal.File] = item{name: r.Seal.File, sum: r.Seal.SHA256, size: r.Seal.Bytes}
		case r.Commit != nil:
			file := manifestsDir + "/" + r.Commit.Snapshot + manifestSuffix
			if _, sealed := in.named[file]; !sealed {
				in.named[file] = item{name: file, sum: r.Commit.Snapshot, size: -1}
			}
		case r.Intent != nil:
			for _, f := range r.Intent.Files {
				delete(in.named, f.File)
				in.removed[f.File] = true
			}
		}
	})
	if err != nil {
		return nil, err
	}
	for file := range in.named {
		if dir := path.Dir(file); !slices.Contains(finals, dir) || !fs.ValidPath(file) {
			return nil, fmt.Errorf("a record names %q, which is no place for a sealed file: written by a newer release of holdfast", file)
		}
	}
	return in, l.Close()
}

// identity gives the vault that lies in a place.
func identity(d durable.Disk) (string, error) {
	b, err := durable.ReadFile(d, identityFile, smallMax)
	if err != nil {
		return "", err
	}
	var id struct {
		Vault string `json:"vault"`
	}
	if err := json.Unmarshal(b, &id); err != nil {
		return "", fmt.Errorf("%s: %w", identityFile, err)
	}
	return id.Vault, nil
}

// extends proves that this ledger goes on from the one that a mark names.
func (in *inventory) extends(moved worm.Moved) error {
	if in.vault != moved.Vault {
		return fmt.Errorf("it holds vault %s, and %s moved: another vault lies there", in.vault, moved.Vault)
	}
	if in.size < moved.Size {
		return fmt.Errorf("its ledger has %d records, and had %d when the vault moved: it is an older copy", in.size, moved.Size)
	}
	root, err := in.ledger.RootAt(moved.Size)
	if err != nil {
		return err
	}
	if root.String() != moved.Root {
		return fmt.Errorf("the first %d records of its ledger have root %s, and had %s when the vault moved: it is not the vault that moved", moved.Size, root, moved.Root)
	}
	return nil
}

// largest is what a sealed file has at most; what claims more was not made by a keeper, and a hole costs its maker nothing.
const largest = 1 << 30

// measure looks at the files and finds what is missing or has another size than its record says.
func (in *inventory) measure(d durable.Disk) error {
	in.items, in.damaged, in.left, in.segments = nil, nil, nil, nil
	seen := map[string]int64{}
	for _, dir := range finals {
		names, err := sizes(d, dir)
		if err != nil {
			return err
		}
		for file, size := range names {
			seen[file] = size
		}
	}
	for _, file := range slices.Sorted(maps.Keys(in.named)) {
		it := in.named[file]
		size, there := seen[file]
		it.final, it.has = true, size
		switch {
		case !there:
			it.has = -1
			in.bad(file, "it is missing")
			continue
		case size < 0:
			in.bad(file, "it is not a file")
			continue
		case it.size >= 0 && size != it.size:
			in.bad(file, "it has %d bytes, %d were sealed", size, it.size)
		}
		if size > max(it.size, largest) {
			in.left = append(in.left, fmt.Sprintf("%s: %d bytes, which no sealed file has", file, size))
			continue
		}
		in.items = append(in.items, it)
	}
	for _, file := range slices.Sorted(maps.Keys(seen)) {
		if _, named := in.named[file]; named || in.removed[file] {
			continue // what an intent names is gone, whatever stands on the disk
		}
		// What a seal left whose record could not be written, on a full disk: the new place records it.
		if size := seen[file]; size < 0 || size > largest || !isFinalName(file) {
			in.left = append(in.left, file+": no part of a vault")
		} else {
			in.items = append(in.items, item{name: file, size: -1, has: size, final: true})
		}
	}
	return errors.Join(in.leftovers(d), in.findSegments(d))
}

// stay marks the files that do not lie in the first directory of a place that has further ones.
func (in *inventory) stay(first durable.Disk, further []durable.Place) {
	for i := range in.items {
		if len(further) > 0 {
			_, err := first.Stat(in.items[i].name)
			in.items[i].stays = errors.Is(err, fs.ErrNotExist)
		}
	}
}

// isFinalName says whether a name can be that of a pack or a manifest; whether it is one is for the store to say.
func isFinalName(file string) bool {
	base := path.Base(file)
	return path.Dir(file) == packsDir && strings.HasSuffix(base, packSuffix) || path.Dir(file) == manifestsDir && strings.HasSuffix(base, manifestSuffix)
}

// leftovers are packs that nobody sealed. They are taken along, the empty ones as well: their content may be salvaged, and
// their names keep numbers from being used twice.
func (in *inventory) leftovers(d durable.Disk) error {
	names, err := sizes(d, incomingDir)
	if err != nil {
		return err
	}
	for _, file := range slices.Sorted(maps.Keys(names)) {
		size := names[file]
		switch {
		case !strings.HasSuffix(file, packSuffix) || size < 0:
			if file != reserveFile {
				in.left = append(in.left, file+": what an interrupted process left")
			}
		case size > largest:
			in.left = append(in.left, fmt.Sprintf("%s: %d bytes, which no pack has", file, size))
		default:
			in.items = append(in.items, item{name: file, size: -1, has: size})
		}
	}
	return nil
}

func (in *inventory) findSegments(d durable.Disk) error {
	names, err := sizes(d, ledgerDir)
	if err != nil {
		return err
	}
	for file := range names {
		if strings.HasSuffix(file, ".jsonl") {
			in.segments = append(in.segments, file)
		}
	}
	// Numbers have six digits or more.
	slices.SortFunc(in.segments, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	return nil
}

func (in *inventory) bad(file, format string, args ...any) {
	in.damaged = append(in.damaged, Damaged{file, fmt.Sprintf(format, args...)})
}

// sizes gives what a directory holds: the bytes of files, -1 for what is none.
func sizes(d durable.Disk, dir string) (map[string]int64, error) {
	entries, err := d.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := make(map[string]int64, len(entries))
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone since the listing
		}
		if err != nil {
			return nil, fmt.Errorf("%s/%s: %w", dir, e.Name(), err)
		}
		out[dir+"/"+e.Name()] = -1
		if info.Mode().IsRegular() {
			out[dir+"/"+e.Name()] = info.Size()
		}
	}
	return out, nil
}
