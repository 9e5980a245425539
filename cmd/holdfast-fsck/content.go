package main

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/fsck"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
	"github.com/holdfast-vault/holdfast/vault/chunk"
	"github.com/holdfast-vault/holdfast/vault/keys"
	"github.com/holdfast-vault/holdfast/vault/pack"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// contentReport is what the key showed.
type contentReport struct {
	Snapshots  int    `json:"snapshots"`
	Entries    uint64 `json:"entries"`
	Chunks     uint64 `json:"chunks"`
	ChunksRead uint64 `json:"chunks_read"` // held against their IDs
}

// content checks what is encrypted. The decoders are the vault's own: what they decode was held against recorded hashes
// before, and every block authenticates itself. Which chunks make up a snapshot, where they lie, what they hash to and which
// packs follow from that is counted here.
type content struct {
	d        *fsck.Dir
	r        *fsck.Report
	out      contentReport
	ring     *keys.Ring
	vault    [16]byte
	readData bool
	tables   map[uint32]*table
	decoder  *pack.Decoder
	open     map[uint32]*openPack // few
	blocks   map[blockAt][]byte   // few, decoded
	order    []blockAt            // of blocks, oldest first
}

// table finds the chunks of a pack: 16 bytes each, by the first 8 bytes of their IDs.
type table struct {
	chunks []placed
	lost   map[chunk.ID]bool // that do not come back, as far as they were read
}

type placed struct {
	id          uint64
	block, name uint32 // number in the footer, and of the chunk in the block
}

type openPack struct {
	file   fs.File
	reader *pack.Reader
	footer *pack.Footer
}

type blockAt struct{ pack, block uint32 }

// What is held open and decoded at most: catalogs lie close together.
const (
	openMax   = 8
	blocksMax = 16
)

// checkContent reads every catalog, and with readData every chunk.
func checkContent(ctx context.Context, d *fsck.Dir, r *fsck.Report, identity string, readData bool) (*contentReport, error) {
	ring, err := openRing(r.Keyring, identity)
	if err != nil {
		return nil, err
	}
	c := &content{d: d, r: r, ring: ring, readData: readData, tables: map[uint32]*table{}, decoder: pack.NewDecoder(),
		open: map[uint32]*openPack{}, blocks: map[blockAt][]byte{}}
	id, err := hex.DecodeString(ring.Vault())
	if err != nil || len(id) != len(c.vault) || ring.Vault() != r.Vault {
		return nil, fmt.Errorf("the keyring is of vault %q, the ledger of %q", ring.Vault(), r.Vault)
	}
	c.vault = [16]byte(id)
	defer c.closeAll()
	for _, p := range r.Packs {
		if err := c.pack(ctx, p); err != nil {
			return nil, err
		}
	}
	for _, s := range r.Snapshots {
		if s.Relies == nil {
			continue // told already
		}
		if err := c.snapshot(ctx, s); err != nil {
			return nil, err
		}
	}
	return &c.out, nil
}

func openRing(sealed []byte, identity string) (*keys.Ring, error) {
	if len(sealed) == 0 {
		return nil, errors.New("the ledger holds no keyring to open")
	}
	f, err := os.Open(identity)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	ids, err := keys.ParseIdentities(f)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", identity, err)
	}
	return keys.Open(sealed, ids...)
}

func (c *content) relying(number uint32) (out []*fsck.Snapshot) {
	for _, s := range c.r.Snapshots {
		if s.Relies != nil && s.Relies.Contains(number) {
			out = append(out, s)
		}
	}
	return out
}

// pack reads a pack's footer, and with readData its blocks. An error is one of the checker, not of the pack.
func (c *content) pack(ctx context.Context, p *fsck.Pack) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	o, err := c.opened(p.Number, p.File)
	if err != nil {
		if !p.Damaged() {
			c.r.Damaged(fsck.KindContent, p.File, c.relying(p.Number), "%v", err)
		}
		return nil
	}
	t := &table{lost: map[chunk.ID]bool{}}
	for i := range o.footer.Blocks {
		for k, ch := range o.footer.Blocks[i].Chunks {
			t.chunks = append(t.chunks, placed{binary.BigEndian.Uint64(ch.ID[:]), uint32(i), uint32(k)})
		}
	}
	slices.SortFunc(t.chunks, func(a, b placed) int { return cmp.Compare(a.id, b.id) })
	t.chunks = slices.Clip(t.chunks)
	c.tables[p.Number] = t
	c.out.Chunks += uint64(len(t.chunks))
	if !c.readData {
		return nil
	}
	return c.read(ctx, p, o, t)
}

func (c *content) read(ctx context.Context, p *fsck.Pack, o *openPack, t *table) error {
	bad, err := o.reader.VerifyEach(ctx, func(b pack.Block, payload []byte) error {
		for _, ch := range b.Chunks {
			c.out.ChunksRead++
			end := uint64(ch.Offset) + uint64(ch.Size)
			if end > uint64(len(payload)) || c.id(payload[ch.Offset:end]) != ch.ID {
				t.lost[ch.ID] = true
			}
		}
		return nil
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		c.r.Damaged(fsck.KindContent, p.File, c.relying(p.Number), "%v", err)
	}
	if n := len(t.lost); n > 0 {
		c.r.Damaged(fsck.KindContent, p.File, c.relying(p.Number), "%d chunks have other content than their IDs say", n)
	}
	for _, d := range bad {
		if d.Block != nil {
			for _, ch := range d.Block.Chunks {
				t.lost[ch.ID] = true
			}
		}
		if !p.Damaged() {
			c.r.Damaged(fsck.KindContent, p.File, c.relying(p.Number), "%v", d)
		}
	}
	return nil
}

// id is a chunk's ID: the HMAC-SHA-256 of its plaintext.
func (c *content) id(data []byte) (id chunk.ID) {
	key := c.ring.ChunkIDKey()
	h := hmac.New(sha256.New, key[:])
	h.Write(data)
	h.Sum(id[:0])
	return id
}

func (c *content) opened(number uint32, file string) (*openPack, error) {
	if o := c.open[number]; o != nil {
		return o, nil
	}
	f, err := c.d.Open(file)
	if err != nil {
		return nil, err
	}
	o, err := c.openFile(f, number)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	for n, old := range c.open {
		if len(c.open) < openMax {
			break
		}
		_ = old.file.Close() // it was only read
		delete(c.open, n)
	}
	c.open[number] = o
	return o, nil
}

func (c *content) openFile(f fs.File, number uint32) (*openPack, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	at, ok := f.(io.ReaderAt)
	if !ok {
		return nil, errors.New("it cannot be read at a place")
	}
	r, err := pack.Open(at, info.Size(), c.ring)
	if err != nil {
		return nil, err
	}
	if r.Number() != number || r.Vault() != c.vault {
		return nil, fmt.Errorf("its header says pack %d of vault %x", r.Number(), r.Vault())
	}
	footer, err := r.Footer()
	return &openPack{f, r, footer}, err
}

func (c *content) closeAll() {
	for _, o := range c.open {
		_ = o.file.Close() // it was only read
	}
}

// has says whether a chunk lies in the pack that is named for it, and comes back as far as it was read.
func (c *content) has(r snapshot.Ref) bool {
	t := c.tables[r.Pack]
	if t == nil || t.lost[r.ID] {
		return false
	}
	_, ok := t.find(r.ID)
	return ok
}

func (t *table) find(id chunk.ID) (placed, bool) {
	i, ok := slices.BinarySearchFunc(t.chunks, binary.BigEndian.Uint64(id[:]), func(p placed, id uint64) int { return cmp.Compare(p.id, id) })
	if !ok {
		return placed{}, false
	}
	return t.chunks[i], true
}

// Fetch gives a chunk of a catalog. The walk asks for one after the other.
func (c *content) Fetch(ctx context.Context, r snapshot.Ref) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t := c.tables[r.Pack]
	if t == nil {
		return nil, fmt.Errorf("chunk %s: pack %d cannot be had", r.ID, r.Pack)
	}
	p, ok := t.find(r.ID)
	if !ok {
		return nil, fmt.Errorf("chunk %s: it is not in pack %d", r.ID, r.Pack)
	}
	o, err := c.opened(r.Pack, fmt.Sprintf("packs/%08d.pack", r.Pack))
	if err != nil {
		return nil, err
	}
	b := &o.footer.Blocks[p.block]
	at := blockAt{r.Pack, p.block}
	payload, cached := c.blocks[at]
	if !cached {
		if payload, _, err = o.reader.ReadBlock(make([]byte, 0, int(b.Raw)+pack.DecodeSlack), c.decoder, b.Offset, b.Stored); err != nil {
			return nil, err
		}
		if len(c.order) == blocksMax {
			delete(c.blocks, c.order[0])
			c.order = c.order[1:]
		}
		c.blocks[at] = payload
		c.order = append(c.order, at)
	}
	ch := b.Chunks[p.name]
	end := uint64(ch.Offset) + uint64(ch.Size)
	if ch.ID != r.ID || ch.Size != r.Size || end > uint64(len(payload)) {
		return nil, fmt.Errorf("chunk %s: pack %d has another in its place", r.ID, r.Pack)
	}
	data := payload[ch.Offset:end:end]
	if c.id(data) != r.ID {
		return nil, fmt.Errorf("chunk %s: pack %d holds other content than its ID says", r.ID, r.Pack)
	}
	return data, nil
}

// counted is what a catalog really holds.
type counted struct {
	files, directories, entries, bytes uint64
	packs                              *roaring.Bitmap
	broken                             uint64 // files that do not come back whole
	example                            string // the first of them
}

// snapshot reads a snapshot's catalog, and holds the packs and totals that follow from it against the manifest.
func (c *content) snapshot(ctx context.Context, s *fsck.Snapshot) error {
	m, err := c.manifest(s)
	if err != nil {
		c.bad(s, "%v", err)
		return nil
	}
	c.out.Snapshots++
	n := counted{packs: roaring.New()}
	for _, r := range m.Body.ProblemList {
		n.packs.Add(r.Pack)
		if !c.has(r) {
			c.bad(s, "a chunk of its list of problems cannot be had from pack %d", r.Pack)
		}
	}
	tree := snapshot.OpenTree(c, m.Body.Root)
	for e, err := range tree.Walk(ctx, "") {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			c.bad(s, "%v", err)
			return nil
		}
		c.entry(ctx, &n, e)
	}
	for r, err := range tree.Objects(ctx) {
		if err != nil {
			c.bad(s, "%v", err)
			return nil
		}
		n.packs.Add(r.Pack)
	}
	c.out.Entries += n.entries
	c.judge(s, m.Head, &n)
	return ctx.Err()
}

func (c *content) bad(s *fsck.Snapshot, format string, args ...any) {
	c.r.Damaged(fsck.KindContent, s.Address(), []*fsck.Snapshot{s}, format, args...)
}

func (c *content) manifest(s *fsck.Snapshot) (*snapshot.Manifest, error) {
	f, err := c.d.Open(s.File())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, reliance.MaxManifest+1))
	if err != nil {
		return nil, err
	}
	return snapshot.DecodeManifest(b, c.ring)
}

func (c *content) entry(ctx context.Context, n *counted, e snapshot.Entry) {
	n.entries++
	switch e.Kind {
	case snapshot.Directory:
		n.directories++
		return
	case snapshot.File:
	default:
		return
	}
	n.files++
	n.bytes += e.Size
	whole := true
	var size uint64
	for _, r := range e.List {
		n.packs.Add(r.Pack)
	}
	for r, err := range snapshot.Chunks(ctx, c, e) {
		if err != nil {
			whole = false
			break
		}
		n.packs.Add(r.Pack)
		size += uint64(r.Size)
		whole = whole && c.has(r)
	}
	if whole && size == e.Size {
		return
	}
	if n.broken == 0 {
		n.example = e.Path()
	}
	n.broken++
}

// judge compares what was counted with what the manifest says.
func (c *content) judge(s *fsck.Snapshot, h reliance.Head, n *counted) {
	if n.broken > 0 {
		c.bad(s, "%d files cannot be given back whole, the first of them %q", n.broken, n.example)
	}
	if short := roaring.AndNot(n.packs, s.Relies); !short.IsEmpty() {
		c.bad(s, "its manifest does not name %d packs that its files need, the first of them %d: they may leave while it remains", short.GetCardinality(), short.Minimum())
	}
	if h.Files != n.files || h.Directories != n.directories || h.Entries != n.entries || h.Bytes != n.bytes {
		c.bad(s, "its head says %d files, %d directories, %d entries and %d bytes, and its catalog holds %d, %d, %d and %d",
			h.Files, h.Directories, h.Entries, h.Bytes, n.files, n.directories, n.entries, n.bytes)
	}
}
