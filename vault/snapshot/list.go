package snapshot

import (
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"iter"
	"slices"
)

// Bounds of list chunks, in references. After listMin a reference ends its chunk when the first 8 bytes of its
// ID, which is a keyed hash already, are small enough: an insertion in a large file moves few list chunks.
const (
	listMin  = 1024
	listMean = 4096
	listMax  = 16384

	listLimit = ^uint64(0) / (listMean - listMin)
)

// WriteList stores a file's references as a stream of chunks and returns what [Entry] carries of it: the list
// chunks in order, and the bytes used in each pack that the listed chunks live in. Memory is bounded by one list
// chunk and the number of packs.
func WriteList(ctx context.Context, p Putter, refs iter.Seq[Ref]) (list []Ref, packs []PackUse, err error) {
	var (
		n          int
		body, data []byte
		table      = packTable{}
	)
	flush := func() error {
		data = appendList(data[:0], n, body)
		ref, err := p.Put(ctx, data)
		if err != nil {
			return fmt.Errorf("chunk list: %w", err)
		}
		list = append(list, ref)
		n, body = 0, body[:0]
		return nil
	}
	for r := range refs {
		if r.Size == 0 || r.Size > maxRefSize {
			return nil, nil, fmt.Errorf("chunk list: chunk %v has a size of %d", r.ID, r.Size)
		}
		body = appendRef(body, &r)
		table[r.Pack] += uint64(r.Size)
		if n++; n >= listMax || n >= listMin && binary.BigEndian.Uint64(r.ID[:8]) < listLimit {
			if err := flush(); err != nil {
				return nil, nil, err
			}
		}
	}
	if n > 0 {
		if err := flush(); err != nil {
			return nil, nil, err
		}
	}
	return list, table.sorted(), nil
}

// Chunks gives the references of a file's content in order, through its list where it has one. At the end of a
// list it has compared the bytes in each pack with what the entry says, and yields damage if they differ. Whoever
// stops early has not made that comparison.
func Chunks(ctx context.Context, f Fetcher, e Entry) iter.Seq2[Ref, error] {
	return func(yield func(Ref, error) bool) {
		for i := range e.Chunks {
			if !yield(e.Chunks[i], nil) {
				return
			}
		}
		if len(e.List) == 0 {
			return
		}
		table := packTable{}
		for _, at := range e.List {
			refs, err := fetchList(ctx, f, at)
			if err != nil {
				yield(Ref{}, fmt.Errorf("%q: %w", e.Path(), err))
				return
			}
			table.addRefs(refs)
			for i := range refs {
				if !yield(refs[i], nil) {
					return
				}
			}
		}
		if !slices.Equal(table.sorted(), e.ListPacks) {
			yield(Ref{}, damaged("the chunk list of "+quoted(e.Path()), "it does not use the packs that the entry says"))
		}
	}
}

func fetchList(ctx context.Context, f Fetcher, at Ref) ([]Ref, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	data, err := fetch(ctx, f, at)
	if err != nil {
		return nil, fmt.Errorf("chunk list: %w", err)
	}
	return decodeList("chunk list "+at.ID.String(), data)
}

// fetch reads a chunk and compares its size with the reference before anything looks inside.
func fetch(ctx context.Context, f Fetcher, at Ref) ([]byte, error) {
	data, err := f.Fetch(ctx, at)
	if err != nil {
		return nil, err
	}
	if uint64(len(data)) != uint64(at.Size) {
		return nil, damaged("chunk "+at.ID.String(), "%d bytes, its reference says %d", len(data), at.Size)
	}
	return data, nil
}

func notExist(path string) error { return fmt.Errorf("%q: %w", path, fs.ErrNotExist) }
