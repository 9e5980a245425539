package pack

import "slices"

// appendFooterBlock appends what the footer says of one block.
func appendFooterBlock(dst []byte, number, stored, raw uint32, chunks []Chunk) []byte {
	dst = order.AppendUint32(dst, number)
	dst = order.AppendUint32(dst, stored)
	dst = order.AppendUint32(dst, raw)
	dst = order.AppendUint32(dst, uint32(len(chunks)))
	return appendChunkRows(dst, chunks)
}

// decodeFooter reads the plaintext of a footer whose frame begins at footerAt. Blocks must follow each other from
// the header to there, and no number may stand twice.
func decodeFooter(where string, plain []byte, footerAt int64) (*Footer, error) {
	if len(plain) < footerHeadSize {
		return nil, damage(where, "its plaintext has %d bytes", len(plain))
	}
	count, rest := order.Uint32(plain), plain[footerHeadSize:]
	if count == 0 || int64(count) > int64(len(rest)/(footerBlockSize+chunkRowSize)) {
		return nil, damage(where, "it says %d blocks in %d bytes", count, len(plain))
	}
	rows := len(rest) - int(count)*footerBlockSize
	if rows%chunkRowSize != 0 {
		return nil, damage(where, "%d bytes are no whole number of chunks", rows)
	}
	f := &Footer{Blocks: make([]Block, count)}
	chunks := make([]Chunk, rows/chunkRowSize) // one allocation for all
	at := int64(headerSize)
	for i := range f.Blocks {
		if len(rest) < footerBlockSize {
			return nil, damage(where, "it ends before block %d of %d", i+1, count)
		}
		b := &f.Blocks[i]
		b.Number, b.Offset = order.Uint32(rest), at
		b.Stored, b.Raw = order.Uint32(rest[4:]), order.Uint32(rest[8:])
		n := order.Uint32(rest[12:])
		rest = rest[footerBlockSize:]
		if n == 0 || n > MaxChunks || int(n) > len(chunks) || int(n)*chunkRowSize > len(rest) ||
			b.Raw == 0 || b.Raw > MaxPayload || b.Stored < frameOverhead || b.Stored > maxFrame {
			return nil, damage(where, "block %d has %d chunks, %d bytes, %d stored", b.Number, n, b.Raw, b.Stored)
		}
		b.Chunks, chunks = chunks[:n:n], chunks[n:]
		if err := readChunkRows(where, b.Chunks, rest[:n*chunkRowSize], b.Raw); err != nil {
			return nil, err
		}
		rest = rest[n*chunkRowSize:]
		at += int64(b.Stored)
	}
	if len(rest) != 0 || at != footerAt {
		return nil, damage(where, "its blocks end at offset %d and it stands at %d", at, footerAt)
	}
	if n, twice := firstTwice(f.Blocks); twice {
		return nil, damage(where, "block number %d stands twice", n)
	}
	return f, nil
}

func firstTwice(blocks []Block) (uint32, bool) {
	numbers := make([]uint32, len(blocks))
	for i := range blocks {
		numbers[i] = blocks[i].Number
	}
	slices.Sort(numbers)
	for i := 1; i < len(numbers); i++ {
		if numbers[i] == numbers[i-1] {
			return numbers[i], true
		}
	}
	return 0, false
}
