package restore

import (
	"bytes"
	"io"
)

// holeBytes is the unit in which runs of zeros are left out: the block size of nearly every file system. Holes begin and
// end at multiples of it.
const holeBytes = 4096

var zeros [holeBytes]byte

// writeAround writes data at offset, leaving out every whole, aligned block of zeros. It returns how many bytes it left
// out. The file must be new: what is left out reads as zeros only then.
func writeAround(w io.WriterAt, data []byte, offset uint64) (holes uint64, err error) {
	pos := 0
	for pos < len(data) {
		start := pos
		zero := false
		for pos < len(data) {
			n := min(holeBytes-int((offset+uint64(pos))%holeBytes), len(data)-pos)
			z := n == holeBytes && bytes.Equal(data[pos:pos+n], zeros[:])
			if pos == start {
				zero = z
			} else if z != zero {
				break
			}
			pos += n
		}
		if zero {
			holes += uint64(pos - start)
			continue
		}
		if _, err := w.WriteAt(data[start:pos], int64(offset)+int64(start)); err != nil {
			return holes, err
		}
	}
	return holes, nil
}
