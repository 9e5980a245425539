package index

import (
	"encoding/binary"
	"math/bits"
	"sync/atomic"

	"github.com/holdfast-vault/holdfast/vault/chunk"
)

// The filter is a blocked Bloom filter: 12 bits for each chunk, in blocks of 512 bits, one cache line, of which an
// ID sets or asks 7 bits. IDs are keyed hashes, so their own bytes choose block and bits. It answers the misses of
// a first pull in memory; about one in 200 is asked of Badger in vain.
const (
	bitsPerChunk = 12
	blockWords   = 8
	probes       = 7
	leastChunks  = 1 << 14 // capacity of the smallest layer
)

// bloom is one layer, of fixed size. Safe for concurrent use.
type bloom struct {
	words    []uint64 // whole blocks, touched only atomically
	blocks   uint64
	capacity uint64
	n        atomic.Uint64 // IDs added
}

func newBloom(capacity uint64) *bloom {
	blocks := (capacity*bitsPerChunk + 511) / 512
	return &bloom{words: make([]uint64, blocks*blockWords), blocks: blocks, capacity: capacity}
}

// filterBytes is what the words of a layer take.
func filterBytes(capacity uint64) uint64 { return (capacity*bitsPerChunk + 511) / 512 * blockWords * 8 }

// at chooses the block by the first 8 bytes of the ID and the bits by the next 8.
func (b *bloom) at(id chunk.ID) (block []uint64, choice uint64) {
	hi, _ := bits.Mul64(binary.BigEndian.Uint64(id[:8]), b.blocks)
	return b.words[hi*blockWords:][:blockWords], binary.BigEndian.Uint64(id[8:16])
}

func (b *bloom) add(id chunk.ID) {
	block, choice := b.at(id)
	for range probes {
		bit := choice & 511
		atomic.OrUint64(&block[bit>>6], 1<<(bit&63))
		choice >>= 9
	}
	b.n.Add(1)
}

func (b *bloom) has(id chunk.ID) bool {
	block, choice := b.at(id)
	for range probes {
		bit := choice & 511
		if atomic.LoadUint64(&block[bit>>6])&(1<<(bit&63)) == 0 {
			return false
		}
		choice >>= 9
	}
	return true
}

// layers grow as chunks are added: each is as large as all before it, and half as large from a million chunks on. Made
// from keys, there is one that fits.
type layers struct {
	list atomic.Pointer[[]*bloom]
}

func newLayers(capacity uint64) *layers {
	l := &layers{}
	l.list.Store(&[]*bloom{newBloom(max(capacity, leastChunks))})
	return l
}

// add must not run concurrently with itself; has may.
func (l *layers) add(id chunk.ID) {
	list := *l.list.Load()
	last := list[len(list)-1]
	if last.n.Load() >= last.capacity {
		var sum uint64
		for _, b := range list {
			sum += b.capacity
		}
		more := sum
		if sum >= 1<<20 { // where a second layer of the same size would be felt
			more = sum / 2
		}
		last = newBloom(more)
		grown := append(list[:len(list):len(list)], last)
		l.list.Store(&grown)
	}
	last.add(id)
}

func (l *layers) has(id chunk.ID) bool {
	for _, b := range *l.list.Load() {
		if b.has(id) {
			return true
		}
	}
	return false
}

func (l *layers) bytes() (n uint64) {
	for _, b := range *l.list.Load() {
		n += uint64(len(b.words)) * 8
	}
	return n
}

// filterState is the filter in use and the one being made.
type filterState struct {
	warm   atomic.Pointer[layers] // answers lookups
	making *layers                // guarded by Index.write: also gets what is added meanwhile
	tail   *tail                  // guarded by Index.write: the file that the last close left and what was added since; nil if it is of no use
}

// excludes reports that a chunk is surely not in the index.
func (f *filterState) excludes(id chunk.ID) bool {
	l := f.warm.Load()
	return l != nil && !l.has(id)
}

// add tells the filters of a new chunk, before Badger hears of it. The caller holds Index.write.
func (f *filterState) add(id chunk.ID) {
	if f.tail != nil {
		if f.tail.add(id); f.tail.len() > maxTail {
			f.tail = nil // the filter is warm by now, and is written as a whole
		}
	}
	if f.making != nil {
		f.making.add(id)
	}
	if l := f.warm.Load(); l != nil {
		l.add(id)
	}
}

// FilterBytes is the memory that the filter takes.
func (x *Index) FilterBytes() uint64 {
	if l := x.filter.warm.Load(); l != nil {
		return l.bytes()
	}
	return 0
}
