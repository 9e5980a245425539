package worm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
)

// Damage is one thing that is not as it was written.
type Damage struct {
	What     string // file or record
	Detail   string
	Pack     uint32 // the pack concerned, 0 for none
	Snapshot string // the snapshot concerned, "" for none
	Stray    bool   // a file that no record names
	Unseen   bool   // no damage: something that could not be looked at, and Detail says why
}

func (d Damage) String() string { return d.What + ": " + d.Detail }

// Check compares everything on the disk with the ledger, and the ledger with itself and its
// checkpoint; with readData every byte of every pack is read. It changes nothing on the disk, runs
// beside everything else, and gives an empty list when all is well. A context that ends early ends
// the check early; the caller looks at it. Packs that are found damaged are not relied on any more by
// sessions of this process.
func (s *Store) Check(ctx context.Context, readData bool) []Damage {
	c := checker{s: s, found: slices.Clone(s.found)}
	c.ledger()
	c.keeper()
	c.identity()
	c.flags()
	c.packs(ctx, readData)
	c.manifests(ctx)
	return c.found
}

type checker struct {
	s     *Store
	found []Damage
}

func (c *checker) add(what, format string, args ...any) {
	c.found = append(c.found, Damage{What: what, Detail: fmt.Sprintf(format, args...)})
}

func (c *checker) ledger() {
	l := c.s.ledger
	size, root := l.Size(), l.Root()
	r, err := ledger.Inspect(c.s.disk, ledgerDir, l.Verifier())
	if err != nil {
		c.add(ledgerDir, "%v", err)
		return
	}
	for _, d := range r.Damages {
		c.add(d.Where, "%s", d.Detail)
	}
	if r.Behind != nil {
		c.add(ledgerDir, "%v", r.Behind)
	}
	for _, name := range r.Strays {
		c.add(name, "no part of the ledger")
	}
	// What this process acknowledged must be there, even where the checkpoint lags behind it.
	if len(r.Damages) == 0 && (r.Size < size || r.Size == size && r.Root != root) {
		c.add(ledgerDir, "%d records with root %s are on the disk; this process knows %d with root %s", r.Size, r.Root, size, root)
	}
}

func (c *checker) keeper() {
	b, err := durable.ReadFile(c.s.disk, signerFile, 4096)
	if c.s.readOnly && errors.Is(err, fs.ErrPermission) {
		return // another user's, who looks after it
	}
	if err != nil {
		c.add(signerFile, "%v", err)
	} else if key, ok := strings.CutSuffix(string(b), "\n"); !ok {
		c.add(signerFile, "it does not end in a newline")
	} else if err := ledger.CheckSigner(key, c.s.ledger.Verifier()); err != nil {
		c.add(signerFile, "%v", err)
	}
	// The clock removes its own file when it cannot write it; that costs credit and nothing else.
	if err := clock.Check(c.s.disk, clockFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.add(clockFile, "%v", err)
	}
}

func (c *checker) identity() {
	c.s.mu.Lock()
	identity, keyring := c.s.state.identity, c.s.state.keyring
	c.s.mu.Unlock()
	b, err := durable.ReadFile(c.s.disk, identityFile, 64<<10)
	if err != nil {
		c.add(identityFile, "%v", err)
	} else if string(b) != identity {
		c.add(identityFile, "it is not what the ledger's first record says")
	}
	b, err = durable.ReadFile(c.s.disk, keyringFile, keyringMax)
	if err != nil {
		c.add(keyringFile, "%v", err)
	} else if !bytes.Equal(b, keyring) {
		c.add(keyringFile, "it is not the newest keyring that the ledger holds")
	}
}

func (c *checker) packs(ctx context.Context, readData bool) {
	names, err := c.s.list(packsDir)
	if err != nil {
		c.add(packsDir, "%v", err) // what else there is is asked for one by one
	}
	for _, p := range c.s.Packs() {
		if ctx.Err() != nil {
			return
		}
		size, there := names[path.Base(packFile(p.Number))]
		detail, misread := "", false
		if !there {
			// Sealed since the listing, or in a place that could not be listed.
			info, serr := c.s.disk.Stat(packFile(p.Number))
			if errors.Is(serr, durable.ErrAway) {
				c.found = append(c.found, Damage{What: packFile(p.Number), Detail: serr.Error(), Pack: p.Number, Unseen: true})
				continue
			}
			if there = serr == nil; there {
				size = info.Size()
			} else if !errors.Is(serr, fs.ErrNotExist) {
				detail = serr.Error()
			}
		}
		switch {
		case detail != "":
		case !there:
			detail = "it is missing, and no intent says that it was to go"
		case size != p.Bytes:
			detail = fmt.Sprintf("it has %d bytes, %d were sealed", size, p.Bytes)
		case readData:
			detail = c.readPack(ctx, p)
			misread = detail != ""
		}
		if detail != "" {
			c.spoiled(p.Number, detail, misread)
		} else if ctx.Err() == nil {
			c.sound(p.Number, readData)
		}
	}
	c.strays(packsDir, names)
}

// OpenPackAnew opens a sealed pack as OpenPack does, to be read from the medium rather than from the system's cache, where the
// system can be moved to that.
func (s *Store) OpenPackAnew(n uint32) (durable.File, int64, error) {
	_ = s.disk.Forget(packFile(n))
	return s.OpenPack(n)
}

// PackRead tells the store the SHA-256, in hexadecimal digits, of a pack that the caller has just read whole, and says whether
// it is what was sealed. If so, sessions rely on the pack again, should an earlier reading have found it damaged.
func (s *Store) PackRead(n uint32, sum string) bool {
	info, ok := s.Pack(n)
	if !ok || sum != info.SHA256 {
		return false
	}
	(&checker{s: s}).sound(n, true)
	return true
}

// CheckPack reads every byte of one pack, as Check does with readData of all, and gives what it finds.
func (s *Store) CheckPack(ctx context.Context, n uint32) []Damage {
	info, ok := s.Pack(n)
	if !ok {
		return nil
	}
	c := checker{s: s}
	if detail := c.readPack(ctx, info); detail != "" {
		c.spoiled(n, detail, true)
	} else if ctx.Err() == nil {
		c.sound(n, true)
	}
	return c.found
}

func (c *checker) readPack(ctx context.Context, p PackInfo) (detail string) {
	_ = c.s.disk.Forget(packFile(p.Number)) // read the medium rather than the cache
	sum, _, err := c.s.hash(ctx, packFile(p.Number))
	switch {
	case ctx.Err() != nil:
		return ""
	case err != nil:
		return err.Error()
	case sum != p.SHA256:
		return fmt.Sprintf("its SHA-256 is %s, %s was sealed", sum, p.SHA256)
	}
	return ""
}

// spoiled notes damage to a pack, unless it was swept while the check ran.
func (c *checker) spoiled(n uint32, detail string, misread bool) {
	c.s.mu.Lock()
	p := c.s.state.packs[n]
	gone := p == nil || p.swept || p.condemned
	if !gone {
		p.unfit, p.misread = detail, p.misread || misread
	}
	c.s.mu.Unlock()
	if !gone {
		c.found = append(c.found, Damage{What: packFile(n), Detail: detail, Pack: n})
	}
}

// sound takes back what an earlier look found, when it no longer holds: a disk that was away for a moment, a file that a
// person put back. Else everything in such packs would be stored again until the process ends.
func (c *checker) sound(n uint32, wasRead bool) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if p := c.s.state.packs[n]; p != nil && (wasRead || !p.misread) {
		p.unfit, p.misread = "", false
	}
}

func (c *checker) manifests(ctx context.Context) {
	names, err := c.s.list(manifestsDir)
	if err != nil {
		c.add(manifestsDir, "%v", err)
		return
	}
	c.s.mu.Lock()
	remaining := c.s.state.remaining()
	var uncommitted []string
	for id, m := range c.s.state.manifests {
		if !m.swept && c.s.state.byID[id] == nil {
			uncommitted = append(uncommitted, id)
		}
	}
	c.s.mu.Unlock()
	for _, snap := range remaining {
		if ctx.Err() != nil {
			return
		}
		c.manifest(snap)
	}
	slices.Sort(uncommitted)
	for _, id := range uncommitted {
		if _, err := c.s.readManifest(id); err != nil && !c.removed(manifestFile(id)) {
			c.add(manifestFile(id), "%v", err)
		}
	}
	c.strays(manifestsDir, names)
}

// manifest reads a committed manifest anew and compares its head with the record that commits it.
func (c *checker) manifest(snap *snapshotState) {
	b, err := c.s.readManifest(snap.Snapshot)
	var head reliance.Head
	if err == nil {
		head, _, err = c.s.readHead(b)
	}
	if err == nil && (head.Source != snap.Source || head.Label != snap.Label || head.Session != snap.Session ||
		head.State != snap.State || head.Clean != snap.Clean || head.Previous != snap.Previous) {
		err = errors.New("its head does not agree with the ledger's commit record")
	}
	if err == nil {
		err = c.reliance(head)
	}
	if err != nil && !c.removed(manifestFile(snap.Snapshot)) {
		c.found = append(c.found, Damage{What: manifestFile(snap.Snapshot), Detail: err.Error(), Snapshot: snap.Snapshot})
	}
}

// reliance checks that the packs that a head names are sealed and not swept.
func (c *checker) reliance(h reliance.Head) error {
	packs, err := h.PackSet()
	if err != nil {
		return err
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	var gone []uint32
	for n := range roaring.Values(packs) {
		if p := c.s.state.packs[n]; p == nil || p.swept {
			gone = append(gone, n)
		}
	}
	if len(gone) > 0 {
		return fmt.Errorf("it relies on packs that are not sealed or were removed: %v", gone[:min(len(gone), 20)])
	}
	return nil
}

func (c *checker) removed(file string) bool {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return c.s.state.removed[file] != 0
}

// strays reports files that no record names. What an intent names and is still there is being removed.
func (c *checker) strays(dir string, names map[string]int64) {
	for _, base := range slices.Sorted(maps.Keys(names)) {
		file := path.Join(dir, base)
		if c.expected(file) {
			continue
		}
		if _, err := c.s.disk.Stat(file); errors.Is(err, fs.ErrNotExist) {
			continue // gone since the listing
		}
		d := Damage{What: file, Detail: "no record names this file; if an interrupted process left it, the next open for writing records it", Stray: true}
		d.Pack, _ = sealedPack(file)
		c.found = append(c.found, d)
	}
}

// expected says whether a file below packs or manifests is accounted for: named by a record, on its
// way to one, or on its way out.
func (c *checker) expected(file string) bool {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if n, ok := sealedPack(file); ok && c.s.live[n] {
		return true
	}
	if id, ok := sealedManifest(file); ok && c.s.attempted[id] {
		return true
	}
	return c.s.state.named(file) || c.s.state.removed[file] != 0
}
