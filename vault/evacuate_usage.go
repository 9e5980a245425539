package vault

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/vault/pack"
)

// usage remembers how much of each pack the sources' snapshots use, so that nobody has to read packs or catalogs to know.
// All of it is a cache: it is in memory, beside that in a file for each source, and a catalog gives it anew.
type usage struct {
	mu sync.Mutex
	// snapshots has the bytes used in each pack by the snapshots that were asked for, by their IDs; bySource lists these.
	snapshots map[string]map[uint32]uint64
	bySource  map[string][]string
	content   map[uint32]uint64 // plaintext bytes in a pack, as far as known
	unread    map[string]bool   // sources whose file has been looked at
}

// usageKept is how many snapshots of a source are remembered: the newest, the newest complete one, and those before them.
const usageKept = 4

const (
	usageDir     = "usage"
	usagePurpose = "holdfast pack usage"
	usageVersion = 1
	usageMax     = 64 << 20
)

// learn notes how much content a pack holds.
func (u *usage) learn(number uint32, f *pack.Footer) uint64 {
	var n uint64
	for i := range f.Blocks {
		n += uint64(f.Blocks[i].Raw)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.setContent(number, n)
	return n
}

// setContent is called with mu held.
func (u *usage) setContent(number uint32, n uint64) {
	if u.content == nil {
		u.content = map[uint32]uint64{}
	}
	u.content[number] = n
}

// forget drops what was known of removed packs.
func (u *usage) forget(numbers []uint32) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, n := range numbers {
		delete(u.content, n)
	}
}

// put notes what a snapshot uses. The map is not changed any more.
func (u *usage) put(source, snapshot string, uses map[uint32]uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.snapshots == nil {
		u.snapshots, u.bySource = map[string]map[uint32]uint64{}, map[string][]string{}
	}
	if u.snapshots[snapshot] != nil {
		return
	}
	u.snapshots[snapshot] = uses
	ids := append(u.bySource[source], snapshot)
	for len(ids) > usageKept {
		delete(u.snapshots, ids[0])
		ids = ids[1:]
	}
	u.bySource[source] = ids
}

func (u *usage) get(snapshot string) (map[uint32]uint64, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	uses, ok := u.snapshots[snapshot]
	return uses, ok
}

// first says whether a source's file has not been looked at before.
func (u *usage) first(source string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.unread == nil {
		u.unread = map[string]bool{}
	}
	was := u.unread[source]
	u.unread[source] = true
	return !was
}

// knownUses is what a snapshot uses of each pack, if that is known without its catalog.
func (v *Vault) knownUses(info *worm.Snapshot) (map[uint32]uint64, bool) {
	if uses, ok := v.usage.get(info.ID); ok {
		return uses, true
	}
	if !v.usage.first(info.Source) {
		return nil, false
	}
	if err := v.loadUsage(info.Source); err != nil && !errors.Is(err, fs.ErrNotExist) {
		v.o.Logf("what %q uses of its packs is counted anew: %v", info.Source, err)
	}
	return v.usage.get(info.ID)
}

// uses is what a snapshot uses of each pack; the first time its catalog may have to be read through.
func (v *Vault) uses(ctx context.Context, info *worm.Snapshot) (map[uint32]uint64, error) {
	if uses, ok := v.knownUses(info); ok {
		return uses, nil
	}
	s, err := v.openSnapshot(*info)
	if err != nil {
		return nil, err
	}
	uses, err := s.tree.Uses(ctx)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s@%s: %w", info.Source, info.Label, err)
	}
	v.usage.put(info.Source, info.ID, uses)
	return uses, nil
}

// used notes what a snapshot that was just committed uses, for the next session and for the next process.
func (v *Vault) used(source, snapshot string, uses map[uint32]uint64) {
	v.usage.put(source, snapshot, uses)
	if err := v.saveUsage(source, snapshot, uses); err != nil {
		v.o.Logf("usage of packs: %v; the next start of holdfast counts it from the catalog", err)
	}
}

// saveUsage replaces a source's file. It is a cache and not synced: if power fails, the file is the old one, the new one
// or does not open, and the catalog says the same.
func (v *Vault) saveUsage(source, snapshot string, uses map[uint32]uint64) error {
	plain, err := v.usage.encode(snapshot, uses)
	if err != nil {
		return err
	}
	blob, err := v.ring.SealBlob(usagePurpose, plain, []byte(source))
	if err != nil {
		return err
	}
	if err := v.work.Mkdir(usageDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return durable.ReplaceCache(v.work, usageDir+"/"+source, blob, 0o600)
}

func (v *Vault) loadUsage(source string) error {
	blob, err := durable.ReadFile(v.work, usageDir+"/"+source, usageMax)
	if err != nil {
		return err
	}
	plain, err := v.ring.OpenBlob(usagePurpose, blob, []byte(source))
	if err != nil {
		return err
	}
	snapshot, uses, content, err := decodeUsage(plain)
	if err != nil {
		return err
	}
	v.usage.mu.Lock()
	for number, n := range content {
		if v.usage.content[number] == 0 {
			v.usage.setContent(number, n)
		}
	}
	v.usage.mu.Unlock()
	v.usage.put(source, snapshot, uses)
	return nil
}

// encode writes, for docs/format/session.md:
//
//	version 0x01, snapshot ID (32), uvarint n, n times:
//	uvarint pack less the one before (the first less 0), uvarint bytes used, uvarint bytes of content, 0 if unknown
func (u *usage) encode(snapshot string, uses map[uint32]uint64) ([]byte, error) {
	id, err := hex.DecodeString(snapshot)
	if err != nil || len(id) != 32 {
		return nil, fmt.Errorf("snapshot %q is not 64 hex digits", snapshot)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	b := append([]byte{usageVersion}, id...)
	b = binary.AppendUvarint(b, uint64(len(uses)))
	last := uint32(0)
	for _, number := range slices.Sorted(maps.Keys(uses)) {
		b = binary.AppendUvarint(b, uint64(number-last))
		b = binary.AppendUvarint(b, uses[number])
		b = binary.AppendUvarint(b, u.content[number])
		last = number
	}
	return b, nil
}

var errUsage = errors.New("usage of packs: malformed")

func decodeUsage(b []byte) (snapshot string, uses, content map[uint32]uint64, err error) {
	if len(b) > 0 && b[0] > usageVersion {
		return "", nil, nil, fmt.Errorf("usage of packs: version %d: %w", b[0], reliance.ErrNewer)
	}
	if len(b) < 1+32 || b[0] != usageVersion {
		return "", nil, nil, errUsage
	}
	snapshot, b = hex.EncodeToString(b[1:33]), b[33:]
	next := func() (n uint64) {
		n, size := binary.Uvarint(b)
		if size <= 0 || size > 1 && b[size-1] == 0 {
			err = errUsage
			return 0
		}
		b = b[size:]
		return n
	}
	n := next()
	if n > uint64(len(b))/3 {
		return "", nil, nil, errUsage
	}
	uses, content = make(map[uint32]uint64, n), make(map[uint32]uint64, n)
	number := uint64(0)
	for i := range n {
		delta := next()
		if i > 0 && delta == 0 || delta > 1<<32-1 || number+delta > 1<<32-1 {
			return "", nil, nil, errUsage
		}
		number += delta
		uses[uint32(number)] = next()
		if c := next(); c > 0 {
			content[uint32(number)] = c
		}
		if err != nil {
			return "", nil, nil, err
		}
	}
	if err != nil || len(b) > 0 {
		return "", nil, nil, errUsage
	}
	return snapshot, uses, content, nil
}

// PackUsage is how much of the sealed packs the current snapshots need.
type PackUsage struct {
	Packs uint64
	Bytes uint64
	// DeadBytes is what these packs hold beyond what the newest snapshot of each source (and its newest complete one) uses:
	// locks keep it, or a pack that is evacuated soon. Where it is not known yet what a snapshot uses, its packs count as used.
	DeadBytes uint64
	// Evacuable is the part of DeadBytes in packs of which less than half is used: it comes free once sessions have moved the
	// rest out of them and the locks that name them have run.
	Evacuable uint64
}

// PackUsage answers from memory, but for one small file for each source at the first call. It reads no pack.
func (v *Vault) PackUsage() (PackUsage, error) {
	all, err := v.store.Snapshots()
	if err != nil {
		return PackUsage{}, err
	}
	whole := map[uint32]bool{}
	sources := map[string]map[uint32]uint64{}
	for _, info := range current(all) {
		if v.ring != nil {
			if uses, ok := v.knownUses(info); ok {
				sources[info.Source] = atLeast(sources[info.Source], uses)
				continue
			}
		}
		packs, err := info.Head.PackSet()
		if err != nil || info.Err != nil {
			return PackUsage{}, errors.Join(err, info.Err)
		}
		for it := packs.Iterator(); it.HasNext(); {
			whole[it.Next()] = true
		}
	}
	used := map[uint32]uint64{}
	for _, uses := range sources {
		for number, n := range uses {
			used[number] += n
		}
	}
	var out PackUsage
	packs := v.store.Packs()
	v.usage.mu.Lock()
	defer v.usage.mu.Unlock()
	for i := range packs {
		p := packFacts{bytes: uint64(packs[i].Bytes), content: v.usage.content[packs[i].Number], used: used[packs[i].Number]}
		out.Packs++
		out.Bytes += p.bytes
		switch {
		case whole[packs[i].Number]:
		case p.used == 0:
			out.DeadBytes += p.bytes
		default:
			out.DeadBytes += p.dead()
			if p.used < p.content/2 && p.dead() >= defaultRule.deadLeast {
				out.Evacuable += p.dead()
			}
		}
	}
	return out, nil
}

// current gives the newest snapshot of each source, and its newest complete one where that is another.
func current(all []worm.Snapshot) (out []*worm.Snapshot) {
	type pair struct{ any, complete bool }
	seen := map[string]pair{}
	for i := range slices.Backward(all) {
		s := &all[i]
		if s.Err != nil {
			continue
		}
		p := seen[s.Source]
		if !p.any || !p.complete && s.State == reliance.Complete {
			out = append(out, s)
		}
		p.any, p.complete = true, p.complete || s.State == reliance.Complete
		seen[s.Source] = p
	}
	return out
}

// atLeast raises a to what b says, pack by pack, in a map of its own; nil stands for nothing.
func atLeast(a, b map[uint32]uint64) map[uint32]uint64 {
	if a == nil {
		return b
	}
	out := maps.Clone(a)
	for number, n := range b {
		out[number] = max(out[number], n)
	}
	return out
}
