package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// Files is how many files and how many bytes of them. The bytes are the files' sizes.
type Files struct {
	Count uint64
	Bytes uint64
}

func (f *Files) add(bytes int64) {
	f.Count++
	f.Bytes += uint64(max(bytes, 0))
}

func (f *Files) join(o Files) {
	f.Count += o.Count
	f.Bytes += o.Bytes
}

// Space says who takes the room on the vault's disk. Every file below its directory counts in exactly one place, so that all
// of them add up to Total.
type Space struct {
	Sources []SourceSpace // by name
	// Shared are the packs that snapshots of several sources name.
	Shared Files
	// Unfinished are packs that no snapshot names and that a session may still need, by the source that they were made for ("" where
	// that is not known), and those that a running session or restore relies on.
	Unfinished map[string]Files
	// Nobody are sealed packs that nobody needs: a prune takes them.
	Nobody Files
	// Growing are packs that are not sealed: of sessions that run, and what was left of those that were cut.
	Growing Files
	// Orphans are manifests that were never committed. Leaving are files that are gone by the ledger and still there: the next open for writing or prune
	// takes them. Unknown are packs and manifests of which no record tells.
	Orphans, Leaving, Unknown Files
	// Ledger is the ledger with its checkpoints; Index is the index and what else this process made for itself in the vault's
	// directory; Other is the rest.
	Ledger, Index, Other Files
	Total                Files
	// Unseen says which directories could not be looked into: their files are in none of these.
	Unseen []string
	// Dead are bytes in sealed packs that the newest snapshots do not use and that are kept for older ones or because something
	// beside them in their packs is used; it is contained in the above.
	Dead uint64
	// Keyless says that it is not known how much of the packs is used, since no key is at hand: packs count as used or not as a whole.
	Keyless bool
}

// SourceSpace is what one source takes.
type SourceSpace struct {
	Source    string
	Snapshots int
	// Unique are packs that snapshots of this source name and of no other; Manifests those of its snapshots.
	Unique, Manifests Files
	// Shared are packs that it shares with other sources: the same pack counts for each of them.
	Shared Files
}

// Space looks at every file of the vault's directory. It needs no key, and reads no pack; ctx may end it early.
func (v *Vault) Space(ctx context.Context) (Space, error) {
	inv, err := v.store.Inventory(ctx)
	if err != nil {
		return Space{}, err
	}
	c := newCounting(v, &inv)
	if err := c.walk(ctx, "."); err != nil {
		return Space{}, err
	}
	for _, name := range slices.Sorted(maps.Keys(c.sources)) {
		c.out.Sources = append(c.out.Sources, *c.sources[name])
	}
	if u, err := v.PackUsage(); err == nil {
		c.out.Dead = u.DeadBytes
	}
	c.out.Keyless = v.ring == nil
	return c.out, nil
}

// counting puts files where they belong.
type counting struct {
	v       *Vault
	out     Space
	sources map[string]*SourceSpace
	owner   map[string]string          // manifests: the source
	sets    map[string]*roaring.Bitmap // by source
	shared  *roaring.Bitmap            // named by several sources
	packs   map[string]*worm.InventoriedPack
}

func newCounting(v *Vault, inv *worm.Inventory) *counting {
	c := &counting{
		v: v, sources: map[string]*SourceSpace{}, owner: map[string]string{}, sets: map[string]*roaring.Bitmap{}, shared: roaring.New(),
		packs: map[string]*worm.InventoriedPack{},
	}
	c.out.Unfinished = map[string]Files{}
	for i := range inv.Snapshots {
		s := &inv.Snapshots[i]
		if c.sources[s.Source] == nil {
			c.sources[s.Source], c.sets[s.Source] = &SourceSpace{Source: s.Source}, roaring.New()
		}
		c.sources[s.Source].Snapshots++
		c.owner["manifests/"+s.ID+".manifest"] = s.Source
		if s.Packs != nil {
			c.sets[s.Source].Or(s.Packs)
		}
	}
	once := roaring.New()
	for _, set := range c.sets {
		c.shared.Or(roaring.And(once, set))
		once.Or(set)
	}
	for i := range inv.Packs {
		c.packs[fmt.Sprintf("packs/%08d.pack", inv.Packs[i].Number)] = &inv.Packs[i]
	}
	return c
}

// walk counts the files below a directory.
func (c *counting) walk(ctx context.Context, dir string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	entries, err := c.v.disk.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil // gone since its parent was read
	case errors.Is(err, fs.ErrPermission) && dir != ".":
		c.out.Unseen = append(c.out.Unseen, dir)
		return nil
	case err != nil:
		return fmt.Errorf("usage: %w", err)
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if e.IsDir() {
			if err := c.walk(ctx, name); err != nil {
				return err
			}
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("usage: %s: %w", name, err)
		}
		c.count(name, info.Size())
	}
	return nil
}

// count puts one file where it belongs.
func (c *counting) count(name string, bytes int64) {
	c.out.Total.add(bytes)
	switch c.v.store.PlaceOf(name) {
	case worm.PlaceLeaving:
		c.out.Leaving.add(bytes)
	case worm.PlaceUnnamed:
		c.out.Unknown.add(bytes)
	case worm.PlaceOrphaned:
		c.out.Orphans.add(bytes)
	case worm.PlaceUnsettled:
		c.out.Growing.add(bytes)
	case worm.PlaceNamed:
		c.named(name, bytes)
	default:
		c.other(name, bytes)
	}
}

func (c *counting) named(name string, bytes int64) {
	if source, manifest := c.owner[name]; manifest {
		c.sources[source].Manifests.add(bytes)
		return
	}
	p := c.packs[name]
	if p == nil {
		c.out.Unknown.add(bytes) // it was sealed or committed after the inventory was made
		return
	}
	by := ""
	for source, set := range c.sets {
		if !set.Contains(p.Number) {
			continue
		}
		if by = source; c.shared.Contains(p.Number) {
			c.sources[source].Shared.add(bytes)
		}
	}
	switch {
	case c.shared.Contains(p.Number):
		c.out.Shared.add(bytes)
	case by != "":
		c.sources[by].Unique.add(bytes)
	case p.SessionFor != 0 || p.Claimed:
		f := c.out.Unfinished[p.Source]
		f.add(bytes)
		c.out.Unfinished[p.Source] = f
	default:
		c.out.Nobody.add(bytes)
	}
}

// other files are told apart by their first directory.
func (c *counting) other(name string, bytes int64) {
	switch top, _, _ := strings.Cut(name, "/"); top {
	case "ledger", "log":
		c.out.Ledger.add(bytes)
	case "index", "sessions", usageDir:
		c.out.Index.add(bytes)
	default:
		c.out.Other.add(bytes)
	}
}

// Sum adds up all places, those of the sources included, and each file once.
func (s *Space) Sum() Files {
	var sum Files
	for i := range s.Sources {
		sum.join(s.Sources[i].Unique)
		sum.join(s.Sources[i].Manifests)
	}
	for _, f := range s.Unfinished {
		sum.join(f)
	}
	for _, f := range []Files{s.Shared, s.Nobody, s.Growing, s.Orphans, s.Leaving, s.Unknown, s.Ledger, s.Index, s.Other} {
		sum.join(f)
	}
	return sum
}

// Largest orders sources by what would come free without them, most first.
func (s *Space) Largest() []SourceSpace {
	out := slices.Clone(s.Sources)
	slices.SortStableFunc(out, func(a, b SourceSpace) int { return cmp.Compare(b.Unique.Bytes, a.Unique.Bytes) })
	return out
}
