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
	sampleBytes = 1 << 10 // what one place shows
	samplesMax  = 4       // places, spread over the chunk
)

// laneOf guesses from up to four places of a chunk: it is noise if all of them are. Being wrong costs a little space, never
// content: noise is tried to be compressed too.
func laneOf(data []byte) lane {
	places := min(samplesMax, max(1, (len(data)+sampleBytes-1)/sampleBytes))
	for i := range places {
		from := i * (len(data) / places)
		if !pack.IsNoise(data[from:min(from+sampleBytes, len(data))]) {
			return laneText
		}
	}
	return laneNoise
}
