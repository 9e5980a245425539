package vault

import "github.com/holdfast-vault/holdfast/vault/pack"

// kind is how a chunk's content looks to a compressor. Each kind is gathered in blocks of its own: in one block with
// text, noise spoils the statistics of the text and is searched for matches that it has not.
type kind int

const (
	kindText  kind = iota // whatever a compressor may shrink
	kindNoise             // compressed, encrypted, random
)

// kinds is how many there are.
const kinds = 2

// target is the payload that a block of this kind is filled up to, in bytes.
func (k kind) target() int {
	if k == kindNoise {
		return noiseTarget
	}
	return pack.BlockTarget
}

const (
	sampleBytes = 1 << 10 // looked at in one place
	samplesMax  = 4       // places, spread over the chunk
	sampleLeast = 64      // less says nothing
)

// kindOf guesses from up to 4 KiB of a chunk. Being wrong costs a little space, never content: noise is tried to be
// compressed too.
//
// Of n bytes that are drawn evenly, the squares of the counts of each value add up to n + n²/256 on average, with a
// deviation of a few percent; base64, which shrinks by a quarter, comes to four times as much. The line is drawn at 5/4.
func kindOf(data []byte) kind {
	if len(data) < sampleLeast {
		return kindText
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
		return kindNoise
	}
	return kindText
}
