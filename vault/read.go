package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// ErrDamaged marks content that could not be had as it was stored.
var ErrDamaged = errors.New("damaged")

// Snapshot is a committed snapshot open for reading. Safe for concurrent use.
type Snapshot struct {
	v        *Vault
	info     worm.Snapshot
	manifest *snapshot.Manifest
	tree     *snapshot.Tree
}

// OpenSnapshot opens a snapshot by its ID.
func (v *Vault) OpenSnapshot(ctx context.Context, id string) (*Snapshot, error) {
	if err := v.needKey(); err != nil {
		return nil, err
	}
	all, err := v.store.Snapshots()
	if err != nil {
		return nil, err
	}
	for _, info := range all {
		if info.ID == id {
			return v.openSnapshot(info)
		}
	}
	return nil, fmt.Errorf("snapshot %s: the ledger names no such snapshot", id)
}

func (v *Vault) openSnapshot(info worm.Snapshot) (*Snapshot, error) {
	b, err := v.store.Manifest(info.ID)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s@%s: manifest: %w", info.Source, info.Label, err)
	}
	m, err := snapshot.DecodeManifest(b, v.ring)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s@%s: manifest: %w", info.Source, info.Label, err)
	}
	s := &Snapshot{v: v, info: info, manifest: m}
	s.tree = snapshot.OpenTree(s, m.Body.Root)
	return s, nil
}

// newest is a source's newest snapshot that can be read, nil if there is none: a damaged one costs a full pull, not
// the pull.
func (v *Vault) newest(ctx context.Context, source string) (*Snapshot, error) {
	all, err := v.store.Snapshots()
	if err != nil {
		return nil, err
	}
	for _, info := range slices.Backward(all) {
		if info.Source != source {
			continue
		}
		s, err := v.openSnapshot(info)
		if err == nil {
			return s, nil
		}
		v.o.Logf("%v; comparing with an older snapshot instead", err)
	}
	return nil, ctx.Err()
}

// Info is the snapshot as the ledger and the manifest's open head know it.
func (s *Snapshot) Info() worm.Snapshot { return s.info }

// Body is the sealed part of the manifest.
func (s *Snapshot) Body() *snapshot.Body { return &s.manifest.Body }

// Problems yields the paths that could not be had, as far as the session remembered them (Body().ProblemCount has the
// number of all).
func (s *Snapshot) Problems(ctx context.Context) iter.Seq2[snapshot.Problem, error] {
	return func(yield func(snapshot.Problem, error) bool) {
		if len(s.manifest.Body.ProblemList) == 0 {
			for _, p := range s.manifest.Body.Problems {
				if !yield(p, nil) {
					return
				}
			}
			return
		}
		for _, r := range s.manifest.Body.ProblemList {
			data, err := s.Fetch(ctx, r)
			if err != nil {
				yield(snapshot.Problem{}, fmt.Errorf("list of problems: %w", err))
				return
			}
			for line := range bytes.Lines(data) {
				var p snapshot.Problem
				if err := json.Unmarshal(line, &p); err != nil {
					yield(snapshot.Problem{}, fmt.Errorf("list of problems: %w", err))
					return
				}
				if !yield(p, nil) {
					return
				}
			}
		}
	}
}

// Tree is the snapshot's catalog.
func (s *Snapshot) Tree() *snapshot.Tree { return s.tree }

// Lookup finds the entry with the given path; fs.ErrNotExist if there is none.
func (s *Snapshot) Lookup(ctx context.Context, path string) (snapshot.Entry, error) {
	return s.tree.Lookup(ctx, path)
}

// List yields the entries directly below dir, by name.
func (s *Snapshot) List(ctx context.Context, dir string) iter.Seq2[snapshot.Entry, error] {
	return s.tree.List(ctx, dir)
}

// Walk yields the entry at path and everything below it, in catalog order.
func (s *Snapshot) Walk(ctx context.Context, path string) iter.Seq2[snapshot.Entry, error] {
	return s.tree.Walk(ctx, path)
}

// Content yields the chunks of a file in order.
func (s *Snapshot) Content(ctx context.Context, e snapshot.Entry) iter.Seq2[snapshot.Ref, error] {
	return snapshot.Chunks(ctx, s, e)
}

// Fetch returns a chunk's bytes, which are those that were stored: they are checked against the chunk's ID. The slice
// is shared and must not be changed.
func (s *Snapshot) Fetch(ctx context.Context, r snapshot.Ref) ([]byte, error) {
	return s.v.fetch(ctx, r)
}

// Use calls f with a chunk's bytes, which are those that were stored, as Fetch gives them. They must not be changed, and are
// valid only until f returns: the room is used again. An error of f is returned as it is.
func (s *Snapshot) Use(ctx context.Context, r snapshot.Ref, f func(data []byte) error) error {
	return s.v.use(ctx, r, false, f)
}

// Places says in which block of a pack chunks lie: at[i] is the place of the block of refs[i], of whatever pack refs[i] names,
// and -1 where that cannot be told. Chunks of equal place cost one decoding if they are asked for one after the other.
func (s *Snapshot) Places(ctx context.Context, number uint32, refs []snapshot.Ref, at []int64) {
	p, err := s.v.cache.pack(number)
	for i, r := range refs {
		at[i] = -1
		if err != nil || ctx.Err() != nil {
			continue
		}
		if c, ok := p.find(r.ID); ok {
			at[i] = p.footer.Blocks[c.block].Offset
		}
	}
}

// fetch gives a chunk to keep, see use.
func (v *Vault) fetch(ctx context.Context, r snapshot.Ref) (data []byte, err error) {
	err = v.use(ctx, r, true, func(b []byte) error { data = b; return nil })
	return data, err
}

// use looks for a chunk where its reference says, by that pack's own footer, and then, if it cannot be had there,
// wherever the index knows of another copy. Whatever comes is checked against the ID before f gets it.
func (v *Vault) use(ctx context.Context, r snapshot.Ref, kept bool, f func(data []byte) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	given := false
	once := func(data []byte) error {
		given = true
		return f(data)
	}
	err := v.useFrom(r.Pack, r, kept, once)
	if err == nil || given {
		return err
	}
	if place, ok := v.lookup(r.ID); ok && place.Pack != r.Pack {
		if err2 := v.useFrom(place.Pack, r, kept, once); err2 == nil || given {
			return err2
		}
	}
	return err
}

func (v *Vault) fetchFrom(number uint32, r snapshot.Ref) (data []byte, err error) {
	err = v.useFrom(number, r, true, func(b []byte) error { data = b; return nil })
	return data, err
}

// useFrom calls f with a chunk of a pack, which it has checked against its ID. The bytes are valid until f returns, or for
// good if they are to be kept.
func (v *Vault) useFrom(number uint32, r snapshot.Ref, kept bool, f func(data []byte) error) error {
	p, err := v.cache.pack(number)
	if err != nil {
		return err
	}
	at, ok := p.find(r.ID)
	if !ok {
		return fmt.Errorf("pack %d holds no chunk %s: %w", number, r.ID, ErrDamaged)
	}
	b := p.footer.Blocks[at.block]
	cb, err := v.cache.block(p, b)
	if err != nil {
		return err
	}
	defer func() { v.cache.release(cb, kept) }()
	if uint64(at.offset)+uint64(at.size) > uint64(len(cb.payload)) || at.size != r.Size {
		return fmt.Errorf("pack %d: block %d: chunk %s does not lie where the footer says: %w", number, b.Number, r.ID, ErrDamaged)
	}
	data := cb.payload[at.offset : at.offset+at.size : at.offset+at.size]
	// What is asked for again and again is a block of one chunk, of zeros most of all: it is hashed once.
	alone := len(data) == len(cb.payload)
	if kept && !alone {
		// Whoever keeps a few bytes must not keep the room of a whole block.
		data, kept = bytes.Clone(data), false
	}
	if !(alone && cb.sound.Load()) {
		if v.chunkID(data) != r.ID {
			return fmt.Errorf("pack %d: block %d: chunk %s has other content than its ID says: %w", number, b.Number, r.ID, ErrDamaged)
		}
		if alone {
			cb.sound.Store(true)
		}
	}
	return f(data)
}

// packContent is the number of plaintext bytes in a pack.
func (v *Vault) packContent(number uint32) (uint64, error) {
	p, err := v.cache.pack(number)
	if err != nil {
		return 0, err
	}
	var n uint64
	for i := range p.footer.Blocks {
		n += uint64(p.footer.Blocks[i].Raw)
	}
	return n, nil
}
