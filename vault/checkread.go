package vault

import (
	"context"
	"encoding/hex"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/holdfast-vault/holdfast/vault/chunk"
	"github.com/holdfast-vault/holdfast/vault/pack"
)

// readAtOnce bounds the packs that a check reads at the same time: each holds some MiB that were read ahead, and its parity.
const readAtOnce = 4

// blockToCheck is a block that has been read and not yet decoded.
type blockToCheck struct {
	pass  *pass
	block *pack.Block
	frame []byte
}

// pass is one reading of one pack.
type pass struct {
	reader *pack.Reader
	open   sync.WaitGroup // blocks that are not decoded yet
	broken atomic.Bool    // some block is not what it should be
	bytes  atomic.Uint64  // of payload
}

// startDecoding starts as many goroutines as there are workers, which decode what comes through c.blocks; the function that it
// returns ends them.
func (c *checker) startDecoding() (stop func()) {
	c.blocks = make(chan blockToCheck)
	var wg sync.WaitGroup
	for range c.v.o.Workers {
		wg.Go(func() {
			d := c.v.decoders.Get().(*pack.Decoder)
			defer c.v.decoders.Put(d)
			for b := range c.blocks {
				c.decode(d, b)
			}
		})
	}
	return func() {
		close(c.blocks)
		wg.Wait()
	}
}

// decode verifies a block and its chunks.
func (c *checker) decode(d *pack.Decoder, b blockToCheck) {
	defer b.pass.open.Done()
	defer c.room.put(b.frame)
	if b.pass.broken.Load() {
		return // it will all be read again
	}
	room := c.room.get(int(b.block.Raw) + pack.DecodeSlack)
	defer c.room.put(room)
	payload, err := b.pass.reader.DecodeBlock(room, d, b.block, b.frame)
	if err != nil {
		b.pass.broken.Store(true)
		return
	}
	for _, ch := range b.block.Chunks {
		// DecodeBlock has seen that chunks lie in the payload.
		if c.v.chunkID(payload[ch.Offset:][:ch.Size]) != ch.ID {
			b.pass.broken.Store(true)
			return
		}
	}
	b.pass.bytes.Add(uint64(len(payload)))
}

// read reads every byte of a pack once, and only if something is wrong with it once more, to name what; it returns the chunks
// that cannot be had.
func (c *checker) read(ctx context.Context, number uint32, r *pack.Reader, footer *pack.Footer, bad func(string)) (lost []chunk.ID) {
	p := &pass{reader: r}
	sum, err := r.ReadThrough(ctx, footer, c.room.get, func(b *pack.Block, frame []byte) error {
		p.open.Add(1)
		c.blocks <- blockToCheck{p, b, frame}
		return nil
	})
	p.open.Wait()
	if ctx.Err() != nil {
		return nil
	}
	if err == nil && !p.broken.Load() && c.v.store.PackRead(number, hex.EncodeToString(sum[:])) {
		c.mu.Lock()
		c.rep.BytesRead += p.bytes.Load()
		c.mu.Unlock()
		return nil
	}
	found := c.readAgain(ctx, number)
	damages, verr := r.Verify(ctx)
	if verr != nil && ctx.Err() == nil {
		bad(verr.Error())
	}
	for _, d := range damages {
		bad(d.Error())
	}
	for i := range footer.Blocks {
		lost = append(lost, c.block(r, number, &footer.Blocks[i], bad)...)
	}
	if _, still := c.v.store.Pack(number); !found && verr == nil && len(damages) == 0 && len(lost) == 0 && still && ctx.Err() == nil {
		what := "a block or its SHA-256 differed"
		if err != nil {
			what = err.Error()
		}
		bad(fmt.Sprintf("it was read twice: the first time %s, the second time it was whole: the disk, its cable or the memory of this machine fails at times", what))
	}
	return lost
}

// readAgain lets the store read a pack by itself and keep in mind whether sessions can rely on it. It says whether the pack is
// known to be damaged.
func (c *checker) readAgain(ctx context.Context, number uint32) bool {
	if !c.o.ReadData {
		return false
	}
	if c.told[number] {
		return true
	}
	found := c.v.store.CheckPack(ctx, number)
	for _, d := range found {
		c.damage(d)
	}
	return len(found) > 0
}
