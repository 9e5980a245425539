package vault

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/vault/chunk"
	"github.com/holdfast-vault/holdfast/vault/index"
	"github.com/holdfast-vault/holdfast/vault/pack"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

const (
	// noiseTarget is the payload that a block of noise is filled up to: it gains nothing from neighbours, so it may as well
	// be quick to read.
	noiseTarget = 1 << 20
	// fileLanes is how many large files have a lane of their own at the same time. Each lane may hold a block's payload.
	fileLanes = 4
	// lagMax is how many blocks may be begun while another one still gathers. It bounds what a crash costs: the journal
	// waits for the oldest block.
	lagMax = 8
	// blockChunksMax bounds the chunks of one block: of files of a few bytes the table would outgrow the content.
	blockChunksMax = 4096
	// packChunksMax bounds the chunks of one pack, and with them what a session holds in memory for the open pack (about
	// 200 bytes each) and a reader for its table. Only packs of files below about 1 KiB are cut by it.
	packChunksMax = 96 << 10
	// blockReserve is what a block may add to a pack beyond its payload: frame, chunk table, tag.
	blockReserve = 256 << 10
	// sealingMax is how many full packs may wait for their seal before writers wait for them.
	sealingMax = 2
)

// errPackerClosed is what late writers get once a session has ended.
var errPackerClosed = errors.New("the session has ended")

// packer is the writing half of a session: chunks in, sealed packs out.
//
// Stages: put gathers chunks into blocks under mu, large files and noise apart from the rest (see lane); workers compress and encrypt blocks; whoever has encoded a block
// appends it to its pack; a full pack is finished, sealed and indexed by a goroutine of its own. Every stage waits for
// the next one, so memory is bounded by the number of workers. The first error ends everything.
//
// A chunk's reference names its pack as soon as put returns, because a block belongs to the pack that was open when
// its first chunk came. Blocks carry sequence numbers; written(seq) says when all blocks up to seq lie in their packs.
type packer struct {
	v       *Vault
	session string
	ctx     context.Context
	group   *errgroup.Group
	fail    context.CancelCauseFunc

	// mu guards the gathering block, the open pack and the sequence. It may be held while waiting for a worker or for a
	// seal: neither takes it.
	mu     sync.Mutex
	cur    [lanes]*block
	lent   [lanes]bool // to a large file
	pack   *openPack
	seq    uint64
	closed bool

	work    chan *block
	free    chan *block   // blocks at rest, the pool
	sealing chan struct{} // one token for each pack being finished and sealed

	unsealedMu sync.Mutex
	unsealed   map[*openPack]struct{} // begun and not sealed: at the end they are left for salvage
	drop       bool                   // or removed: what is in them is a copy

	pendingMu sync.Mutex
	pending   map[chunk.ID]pendingChunk // chunks of packs that the index does not know yet

	progressMu sync.Mutex
	done       map[uint64]struct{} // appended out of order
	watermark  uint64              // all blocks up to here lie in their packs
	advanced   *sync.Cond          // the watermark has, or the packer has failed
	onWritten  func(seq uint64)    // called under progressMu, in order

	onSealed func(worm.PackInfo) // called from a sealing goroutine
	evac     *evacuation         // packs in which nothing counts as known
	stats    packerStats
}

type packerStats struct {
	mu          sync.Mutex
	newBytes    uint64 // plaintext of chunks that were not stored before
	storedBytes uint64 // bytes of sealed packs
	packs       []uint32
}

type pendingChunk struct {
	ref snapshot.Ref
	seq uint64
}

type block struct {
	seq     uint64
	number  uint32
	pack    *openPack
	payload []byte
	chunks  []pack.Chunk
}

type openPack struct {
	in *worm.Incoming
	w  *pack.Writer

	syncMu  sync.Mutex // held while the file is synced before its seal
	sealing bool       // all of it is synced and the file is the seal's; guarded by syncMu

	mu       sync.Mutex // guards what follows and serialises Append
	next     uint32     // next block number
	inFlight int64      // payload bytes handed out and not appended
	blocks   int        // blocks handed out and not appended
	closing  bool       // no more blocks will come

	chunks int // chunks handed out; guarded by the packer's mu
}

func (v *Vault) newPacker(ctx context.Context, session string) *packer {
	ctx, fail := context.WithCancelCause(ctx)
	group, ctx := errgroup.WithContext(ctx)
	workers := v.o.Workers
	p := &packer{
		v: v, session: session, ctx: ctx, group: group, fail: fail,
		work:    make(chan *block, 1),
		free:    make(chan *block, workers+2+lanes),
		sealing: make(chan struct{}, sealingMax),
		pending: map[chunk.ID]pendingChunk{}, unsealed: map[*openPack]struct{}{},
		done: map[uint64]struct{}{},
	}
	p.advanced = sync.NewCond(&p.progressMu)
	for range cap(p.free) {
		p.free <- &block{}
	}
	for range workers {
		group.Go(p.encodeBlocks)
	}
	return p
}

// put stores one chunk unless the vault has it, and returns where it lies and the sequence number of the block it is
// in (0 for a chunk that was there before the session). The data is copied. Nothing is durable on return.
func (p *packer) put(id chunk.ID, data []byte) (snapshot.Ref, uint64, bool, error) {
	return p.putIn(laneOf(data), id, data)
}

// putIn is put for a chunk that is gathered in a certain lane.
func (p *packer) putIn(l lane, id chunk.ID, data []byte) (snapshot.Ref, uint64, bool, error) {
	if ref, seq, ok := p.known(id, len(data)); ok {
		return ref, seq, false, nil
	}
	return p.store(l, id, data, false)
}

// store is put for a chunk that counts as unknown, wherever the index may see it; copied says that it comes out of a pack that
// is evacuated.
func (p *packer) store(l lane, id chunk.ID, data []byte, copied bool) (snapshot.Ref, uint64, bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return snapshot.Ref{}, 0, false, errPackerClosed
	}
	// Somebody may have stored the same chunk since it was looked for.
	p.pendingMu.Lock()
	pc, ok := p.pending[id]
	p.pendingMu.Unlock()
	if ok {
		return pc.ref, pc.seq, false, nil
	}
	if err := p.roomFor(l, len(data)); err != nil {
		return snapshot.Ref{}, 0, false, p.cause(err)
	}
	b := p.cur[l]
	b.chunks = append(b.chunks, pack.Chunk{ID: id, Offset: uint32(len(b.payload)), Size: uint32(len(data))})
	b.payload = append(b.payload, data...)
	b.pack.chunks++
	ref := snapshot.Ref{ID: id, Size: uint32(len(data)), Pack: b.pack.in.Number}
	p.pendingMu.Lock()
	p.pending[id] = pendingChunk{ref: ref, seq: b.seq}
	p.pendingMu.Unlock()
	if !p.moved(id, len(data), copied) {
		p.stats.mu.Lock()
		p.stats.newBytes += uint64(len(data))
		p.stats.mu.Unlock()
	}
	seq := b.seq
	if len(b.payload) >= l.target() || len(b.chunks) == blockChunksMax {
		if err := p.dispatch(l); err != nil {
			return snapshot.Ref{}, 0, false, p.cause(err)
		}
	}
	return ref, seq, true, nil
}

// known looks for a chunk among those being written and in the index. An index hit counts only if the store lets this
// session rely on the pack: a swept or condemned pack is a miss.
func (p *packer) known(id chunk.ID, size int) (snapshot.Ref, uint64, bool) {
	p.pendingMu.Lock()
	pc, ok := p.pending[id]
	p.pendingMu.Unlock()
	if ok {
		return pc.ref, pc.seq, true
	}
	place, ok := p.v.lookup(id)
	if !ok || place.Size != uint32(size) || p.evac.leaves(place.Pack) || !p.v.claimOne(p.session, place.Pack) {
		return snapshot.Ref{}, 0, false
	}
	return snapshot.Ref{ID: id, Size: place.Size, Pack: place.Pack}, 0, true
}

// roomFor makes cur[l] a block that may take n more bytes.
func (p *packer) roomFor(l lane, n int) error {
	if b := p.cur[l]; b != nil && len(b.payload) > 0 && len(b.payload)+n > l.target() {
		if err := p.dispatch(l); err != nil {
			return err
		}
	}
	if p.cur[l] != nil {
		return nil
	}
	if err := p.packFor(pack.BlockTarget); err != nil {
		return err
	}
	var b *block
	select {
	case b = <-p.free:
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
	p.seq++
	b.seq, b.pack, b.payload, b.chunks = p.seq, p.pack, b.payload[:0], b.chunks[:0]
	p.pack.mu.Lock()
	b.number = p.pack.next
	p.pack.next++
	p.pack.blocks++
	p.pack.inFlight += pack.BlockTarget
	p.pack.mu.Unlock()
	p.cur[l] = b
	return p.hurry(b.seq)
}

// hurry sends off a block that gathers slowly while others overtake it.
func (p *packer) hurry(seq uint64) error {
	for l, b := range p.cur {
		if b != nil && b.seq+lagMax < seq {
			if err := p.dispatch(lane(l)); err != nil {
				return err
			}
		}
	}
	return nil
}

// dispatchAll sends off whatever gathers in the open pack.
func (p *packer) dispatchAll() error {
	for l, b := range p.cur {
		if b != nil {
			if err := p.dispatch(lane(l)); err != nil {
				return err
			}
		}
	}
	return nil
}

// packFor makes pack one with room for a block of n bytes.
func (p *packer) packFor(n int64) error {
	if p.pack != nil {
		p.pack.mu.Lock()
		coming := p.pack.inFlight + n + blockReserve
		full := p.pack.w.Size()+coming > pack.TargetBytes || p.pack.chunks >= packChunksMax
		p.pack.mu.Unlock()
		if !full {
			return worm.Spares(p.v.disk, coming) // refused, it ends the pull, and the pack is left
		}
		// A block of another lane may still gather in this pack, and its seal would wait for it.
		if err := errors.Join(p.dispatchAll(), p.finishPack()); err != nil {
			return err
		}
	}
	in, err := p.v.store.CreatePack(p.session)
	if err != nil {
		return fmt.Errorf("new pack: %w", err)
	}
	w, err := pack.NewWriter(in.File, pack.WriterOptions{
		Vault: p.v.id, Number: in.Number, Keys: p.v.ring, Parity: !p.v.o.NoParity,
	})
	if err != nil {
		return errors.Join(fmt.Errorf("pack %d: %w", in.Number, err), p.v.store.Drop(in))
	}
	p.pack = &openPack{in: in, w: w}
	p.unsealedMu.Lock()
	p.unsealed[p.pack] = struct{}{}
	p.unsealedMu.Unlock()
	return nil
}

// dispatch hands a gathering block to the workers.
func (p *packer) dispatch(l lane) error {
	b := p.cur[l]
	p.cur[l] = nil
	// The reservation made when the block was begun shrinks to what it really holds.
	b.pack.mu.Lock()
	b.pack.inFlight += int64(len(b.payload)) - pack.BlockTarget
	b.pack.mu.Unlock()
	select {
	case p.work <- b:
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

// finishPack lets no more blocks into the open pack. The last of its blocks to be appended, or finishPack itself,
// sends it to its seal.
func (p *packer) finishPack() error {
	op := p.pack
	p.pack = nil
	select {
	case p.sealing <- struct{}{}:
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
	op.mu.Lock()
	op.closing = true
	ready := op.blocks == 0
	op.mu.Unlock()
	if ready {
		p.group.Go(func() error { return p.seal(op) })
	}
	return nil
}

func (p *packer) encodeBlocks() error {
	enc := pack.NewEncoder()
	var frame []byte
	for {
		select {
		case <-p.ctx.Done():
			return nil
		case b, ok := <-p.work:
			if !ok {
				return nil
			}
			var err error
			if frame, err = p.encodeBlock(frame, enc, b); err != nil {
				p.fail(err)
				return err
			}
		}
	}
}

// encodeBlock brings a block into its pack. The frame is built in the storage of the one given, which it returns.
func (p *packer) encodeBlock(frame []byte, enc *pack.Encoder, b *block) ([]byte, error) {
	op := b.pack
	frame, err := op.w.Encode(frame[:0], enc, b.number, b.payload, b.chunks)
	if err != nil {
		return frame, fmt.Errorf("pack %d: block %d: %w", op.in.Number, b.number, err)
	}
	op.mu.Lock()
	_, err = op.w.Append(frame, b.number, uint32(len(b.payload)), b.chunks)
	op.inFlight -= int64(len(b.payload))
	op.blocks--
	ready := op.closing && op.blocks == 0
	op.mu.Unlock()
	if err != nil {
		return frame, fmt.Errorf("pack %d: block %d: %w", op.in.Number, b.number, err)
	}
	seq := b.seq
	p.free <- b // never blocks: the pool has room for every block
	p.markWritten(seq)
	if ready {
		// Not here: parity, hash and sync of a full pack would keep this worker from its blocks.
		p.group.Go(func() error { return p.seal(op) })
	}
	return frame, nil
}

func (p *packer) markWritten(seq uint64) {
	p.progressMu.Lock()
	defer p.progressMu.Unlock()
	p.done[seq] = struct{}{}
	moved := false
	for {
		if _, ok := p.done[p.watermark+1]; !ok {
			break
		}
		delete(p.done, p.watermark+1)
		p.watermark++
		moved = true
	}
	if moved && p.onWritten != nil {
		p.onWritten(p.watermark)
	}
	if moved {
		p.advanced.Broadcast()
	}
}

// seal finishes a full pack, seals it and tells the index. If power fails before the seal's ledger record, the pack is
// a leftover that the next Open salvages; after it, the index learns of the pack when it is opened.
func (p *packer) seal(op *openPack) (err error) {
	defer func() {
		if err != nil {
			p.fail(err) // before the token goes: who gets the last token must see the failure
		}
		<-p.sealing
	}()
	footer, err := op.w.Finish()
	if err != nil {
		return fmt.Errorf("pack %d: footer: %w", op.in.Number, err)
	}
	if err := op.giveUp(); err != nil {
		return fmt.Errorf("pack %d: seal: %w", op.in.Number, err)
	}
	info, err := p.v.store.Seal(p.ctx, op.in)
	if err != nil {
		return fmt.Errorf("pack %d: seal: %w", op.in.Number, err)
	}
	p.unsealedMu.Lock()
	delete(p.unsealed, op)
	p.unsealedMu.Unlock()
	p.v.usage.learn(op.in.Number, footer)
	entries := indexEntries(op.in.Number, footer)
	if err := p.v.indexPack(p.ctx, op.in.Number, entries); err != nil {
		// The pack is safe; only the hints are missing, and the next Begin adds them.
		p.v.o.Logf("index: pack %d: %v; the index catches up with the next pull", op.in.Number, err)
	} else {
		// Without an index entry the chunks must stay known for the rest of the session.
		p.pendingMu.Lock()
		for i := range entries {
			delete(p.pending, entries[i].ID)
		}
		p.pendingMu.Unlock()
	}
	p.stats.mu.Lock()
	p.stats.storedBytes += uint64(info.Bytes)
	p.stats.packs = append(p.stats.packs, info.Number)
	p.stats.mu.Unlock()
	if p.onSealed != nil {
		p.onSealed(info)
	}
	return nil
}

// sealAll writes what is gathered, seals the open pack however small, and waits until every pack is sealed. The packer
// can go on afterwards. On return without an error every reference handed out names a sealed pack.
func (p *packer) sealAll() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.dispatchAll(); err != nil {
		return p.cause(err)
	}
	if p.pack != nil {
		if err := p.finishPack(); err != nil {
			return p.cause(err)
		}
	}
	// Every pack that is being sealed has a token; whoever holds all of them knows that none is.
	for range cap(p.sealing) {
		select {
		case p.sealing <- struct{}{}:
		case <-p.ctx.Done():
			return p.cause(p.ctx.Err())
		}
	}
	for range cap(p.sealing) {
		<-p.sealing
	}
	return p.cause(p.ctx.Err())
}

// close ends the workers and returns the first error. With finish, everything gathered is written and sealed first;
// without, and after an error, what is not sealed stays in incoming/ and is salvaged before the next session.
func (p *packer) close(finish bool) error {
	var err error
	if finish {
		err = p.sealAll()
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return err
	}
	p.closed = true
	p.mu.Unlock()
	if err != nil || !finish {
		p.fail(errPackerClosed)
	}
	close(p.work)
	werr := p.group.Wait()
	p.fail(errPackerClosed)
	p.mu.Lock()
	p.cur, p.pack = [lanes]*block{}, nil
	p.mu.Unlock()
	p.leaveUnsealed()
	if err == nil && werr != nil && !errors.Is(werr, errPackerClosed) {
		err = werr
	}
	return err
}

// leaveUnsealed closes the packs that were not sealed. Nothing writes to them any more. Their complete blocks are worth
// salvaging; where that fails they stay as they are until the next Open.
func (p *packer) leaveUnsealed() {
	p.unsealedMu.Lock()
	defer p.unsealedMu.Unlock()
	for op := range p.unsealed {
		give := p.v.store.Leave
		if p.drop {
			give = p.v.store.Drop
		}
		if err := give(op.in); err != nil {
			p.v.o.Logf("%v; the next start of holdfast looks after it", err)
		}
	}
	clear(p.unsealed)
}

// cause replaces a bare "context canceled" by the error that cancelled.
func (p *packer) cause(err error) error {
	if err == nil {
		return nil
	}
	if c := context.Cause(p.ctx); c != nil {
		return c
	}
	return err
}

func indexEntries(number uint32, f *pack.Footer) []index.Entry {
	n := 0
	for i := range f.Blocks {
		n += len(f.Blocks[i].Chunks)
	}
	entries := make([]index.Entry, 0, n)
	for i := range f.Blocks {
		b := &f.Blocks[i]
		for _, c := range b.Chunks {
			entries = append(entries, index.Entry{ID: c.ID, Place: index.Place{
				Pack: number, Offset: b.Offset, Stored: b.Stored, InBlock: c.Offset, Size: c.Size,
			}})
		}
	}
	return entries
}
