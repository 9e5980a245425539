package pack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
)

// Verify reads every byte of the pack and returns what is damaged: header, blocks (with their chunks, so that files
// can be named), footer, parity, tail. Bytes that cannot be read are damage as well. The error is for a check that
// could not be made: a cancelled context, a pack that has a key no more. It is safe beside other reads.
func (p *Reader) Verify(ctx context.Context) ([]*DamageError, error) {
	return p.VerifyEach(ctx, nil)
}

// VerifyEach is Verify, and calls each (if it is not nil) with every intact block and its payload, which is valid
// until each returns. An error of each ends the check and is returned.
func (p *Reader) VerifyEach(ctx context.Context, each func(b Block, payload []byte) error) ([]*DamageError, error) {
	v := &verifier{Reader: p, each: each, decoder: NewDecoder()}
	defer v.decoder.zstd.Close()
	for _, step := range []func(context.Context) error{v.ends, v.blocks, v.behindFooter} {
		if err := step(ctx); err != nil {
			return v.damages, err
		}
	}
	return v.damages, nil
}

type verifier struct {
	*Reader
	each    func(Block, []byte) error
	decoder *Decoder
	payload []byte
	damages []*DamageError
}

// found notes err as damage. A version from the future is damage here: this pack could be opened a moment ago.
func (v *verifier) found(where string, block *Block, err error) {
	var d *DamageError
	if !errors.As(err, &d) {
		d = damage(where, "it cannot be read: %s", strings.TrimPrefix(err.Error(), where+": "))
	}
	d.Block = block
	v.damages = append(v.damages, d)
}

// ends reads header and tail again: they may have gone since Open.
func (v *verifier) ends(context.Context) error {
	var b [headerSize]byte
	if err := readFull(v.r, b[:], 0); err != nil {
		v.found(v.name("header"), nil, err)
	} else if b != v.head.encode() {
		v.found("", nil, damage(v.name("header"), "it differs from what it was when the pack was opened"))
	}
	if t, err := readTail(v.name("tail"), v.r, v.size); err != nil {
		v.found(v.name("tail"), nil, err)
	} else if t != v.tail {
		v.found("", nil, damage(v.name("tail"), "it differs from what it was when the pack was opened"))
	}
	return nil
}

func (v *verifier) blocks(ctx context.Context) error {
	footer, err := v.Footer()
	if err != nil {
		v.found(v.name("footer"), nil, err)
		return v.walk(ctx)
	}
	for i := range footer.Blocks {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := v.block(footer.Blocks[i], &footer.Blocks[i]); err != nil {
			return err
		}
	}
	return nil
}

// walk verifies blocks without a footer, as far as one frame leads to the next.
func (v *verifier) walk(ctx context.Context) error {
	end := int64(headerSize)
	for f, err := range v.frames() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err != nil {
			v.found(v.at(end), nil, err)
			return nil
		}
		if f.kind == kindFooter || f.offset >= v.tail.footerAt {
			break
		}
		end = f.offset + int64(f.stored)
		if err := v.block(Block{Number: f.number, Offset: f.offset, Stored: f.stored}, nil); err != nil {
			return err
		}
	}
	if end != v.tail.footerAt {
		v.found("", nil, damage(v.at(end), "no frame follows, and what lies between it and the footer at %d cannot be found", v.tail.footerAt))
	}
	return nil
}

// block verifies one block; known is its entry in the footer, if there is one to compare it with.
func (v *verifier) block(b Block, known *Block) error {
	payload, chunks, number, err := v.readBlock(v.payload, v.decoder, b.Offset, b.Stored)
	if err != nil {
		v.found(v.at(b.Offset), known, err)
		return nil
	}
	v.payload = payload
	if known != nil && (number != b.Number || len(payload) != int(b.Raw) || !slices.Equal(chunks, b.Chunks)) {
		v.found("", known, damage(v.at(b.Offset), "it is not the block that the footer describes"))
		return nil
	}
	if v.each == nil {
		return nil
	}
	b.Raw, b.Chunks = uint32(len(payload)), chunks
	return v.each(b, payload)
}

// behindFooter verifies everything between footer and tail. Parity is a function of what lies before it: when that
// is intact, parity is computed again and compared; else the checksums must do.
func (v *verifier) behindFooter(ctx context.Context) error {
	if !v.HasParity() {
		return nil
	}
	if v.tail.geometry == (geometry{}) { // see OpenDamaged
		v.found("", nil, damage(v.name("parity"), "both tails that describe it are lost"))
		return nil
	}
	b := v.tail.encode()
	v.compare("tail copy", v.tail.dataEnd(), b[:])
	if len(v.damages) == 0 {
		want, err := computeParity(v.r, v.tail.dataEnd(), v.tail.geometry)
		if err != nil {
			v.found(v.name("data under parity"), nil, err)
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		v.compare("first checksum table", v.tail.tableAt(), want.table)
		for i := range v.tail.parity {
			at := int64(i) * v.tail.shard
			v.compare(fmt.Sprintf("parity shard %d", i), v.tail.parityAt()+at, want.shards[at:at+v.tail.shard])
		}
		v.compare("second checksum table", v.tail.secondTableAt(), want.table)
		if sum := crc32.Checksum(want.table, castagnoli); sum != v.tail.tableSum {
			v.found("", nil, damage(v.name("tail"), "the checksum of the checksum table is %08x, and it says %08x", sum, v.tail.tableSum))
		}
		return nil
	}
	return v.checksums(ctx)
}

func (v *verifier) compare(part string, at int64, want []byte) {
	got := make([]byte, min(len(want), 256<<10))
	for len(want) > 0 {
		n := min(len(got), len(want))
		if err := readFull(v.r, got[:n], at); err != nil {
			v.found(v.name(part), nil, err)
			return
		}
		if !bytes.Equal(got[:n], want[:n]) {
			v.found("", nil, damage(v.name(part), "it is not what the data before it make"))
			return
		}
		at, want = at+int64(n), want[n:]
	}
}

// checksums verifies tables and parity shards by their checksums alone.
func (v *verifier) checksums(ctx context.Context) error {
	var table []byte
	for i, at := range []int64{v.tail.tableAt(), v.tail.secondTableAt()} {
		t := make([]byte, v.tail.tableSize())
		part := v.name([]string{"first checksum table", "second checksum table"}[i])
		if err := readFull(v.r, t, at); err != nil {
			v.found(part, nil, err)
		} else if crc32.Checksum(t, castagnoli) != v.tail.tableSum {
			v.found("", nil, damage(part, "its checksum does not match"))
		} else {
			table = t
		}
	}
	if table == nil {
		return nil
	}
	cell := make([]byte, v.tail.cell)
	for shard := v.tail.data; shard < v.tail.data+v.tail.parity; shard++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		for row := range v.tail.rows() {
			at, n := v.tail.cellAt(shard, row)
			where := fmt.Sprintf("parity shard %d, row %d", shard-v.tail.data, row)
			if err := readFull(v.r, cell[:n], at); err != nil {
				v.found(v.name(where), nil, err)
			} else if crc32.Checksum(cell[:n], castagnoli) != order.Uint32(table[4*(shard*v.tail.rows()+row):]) {
				v.found("", nil, damage(v.name(where), "its checksum does not match"))
			}
		}
	}
	return nil
}
