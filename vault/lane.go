package vault

import "github.com/holdfast-vault/holdfast/vault/pack"

// lane is where a session gathers chunks that belong together, a block at a time.
//
// In one block with text, noise spoils the statistics of the text and is searched for matches that it has not. Large files
// that are read at the same time would share their blocks, and each of them would be decoded once for each file when they are
// given back.
type lane int

const (
	laneText  lane = iota // whatever a compressor may shrink
	laneNoise             // compressed, encrypted, random
	laneFile              // the first of those that are lent to large files
)

// lanes is how many there are.
const lanes = int(laneFile) + fileLanes

// laneLeast is the size from which a file may have a lane, in bytes: it fills two blocks.
const laneLeast = 2 * pack.BlockTarget

// target is the payload that a block of this lane is filled up to, in bytes.
func (l lane) target() int {
	if l == laneNoise {
		return noiseTarget
	}
	return pack.BlockTarget
}

// borrow gives a lane to a large file, if one is free. What it has gathered when it is given back goes on in the next file's.
func (p *packer) borrow() (l lane, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := laneFile; int(l) < lanes; l++ {
		if !p.lent[l] {
			p.lent[l] = true
			return l, true
		}
	}
	return 0, false
}

func (p *packer) giveBack(l lane) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lent[l] = false
}

const (
	sampleBytes = 1 << 10 // looked at in one place
	samplesMax  = 4       // places, spread over the chunk
	sampleLeast = 64      // less says nothing
)

// laneOf guesses from up to 4 KiB of a chunk. Being wrong costs a little space, never content: noise is tried to be
// compressed too.
//
// Of n bytes that are drawn evenly, the squares of the counts of each value add up to n + n²/256 on average, with a
// deviation of a few percent; base64, which shrinks by a quarter, comes to four times as much. The line is drawn at 5/4.
func laneOf(data []byte) lane {
	if len(data) < sampleLeast {
		return laneText
	}
	var counts [256]uint32
	n := uint64(0)
	places := min(samplesMax, (len(data)+sampleBytes-1)/sampleBytes)
	for i := range places {
		from := i * (len(data) / places)
		sample := data[from:min(from+sampleBytes, len(data))]
		for _, c := range sample {
			counts[c]++
		}
		n += uint64(len(sample))
	}
	sum := uint64(0)
	for _, c := range counts {
		sum += uint64(c) * uint64(c)
	}
	if 4*sum < 5*(n+n*n/256) {
		return laneNoise
	}
	return laneText
}
