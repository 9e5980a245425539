package ledger

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"golang.org/x/mod/sumdb/tlog"
)

// proofHeader is the first line of an inclusion proof in the form of C2SP tlog-proof.
const proofHeader = "c2sp.org/tlog-proof@v1\n"

// ErrNoRecord is wrapped by the errors that say that the ledger has no record of that number, or none that a checkpoint
// covers.
var ErrNoRecord = errors.New("the ledger has no such record")

// Prove gives the proof that the record of a number is in the ledger, as a C2SP tlog-proof:
//
//	c2sp.org/tlog-proof@v1
//	extra BASE64       the record's line, without its newline
//	index 41
//	BASE64             hashes, from the leaf's sibling up
//	                   an empty line
//	...                a checkpoint: the cosigned one if it covers the record, else the newest
//
// Whoever has the verifier's key checks it offline, without the vault.
func (l *Ledger) Prove(seq uint64) ([]byte, error) {
	line, err := l.line(seq)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	signed, c, err := l.covering(seq)
	if err != nil {
		return nil, err
	}
	hashes, err := tlog.ProveRecord(int64(c.Size), int64(seq), &l.tree)
	if err != nil {
		return nil, fmt.Errorf("ledger: proof of record %d: %w", seq, err)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%sextra %s\nindex %d\n", proofHeader, base64.StdEncoding.EncodeToString(line), seq)
	for _, h := range hashes {
		fmt.Fprintf(&b, "%s\n", h)
	}
	b.WriteByte('\n')
	b.Write(signed)
	return b.Bytes(), nil
}

// Consistency gives the proof that the newest checkpoint extends the tree of the first old records, as the body of a C2SP
// tlog-witness request:
//
//	old 20
//	BASE64             RFC 6962 consistency proof; none if old is 0 or the newest size
//	                   an empty line
//	...                the newest checkpoint
//
// The root of the older tree is not in it: it belongs to whoever is to be convinced.
func (l *Ledger) Consistency(old uint64) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	signed, c, err := l.newest()
	if err != nil {
		return nil, err
	}
	return l.extension(old, signed, c)
}

// ConsistencyTo is Consistency for a checkpoint of this ledger that the caller holds instead of the newest: whoever asks
// several witnesses, while the ledger grows, has them all cosign the same.
func (l *Ledger) ConsistencyTo(old uint64, signed []byte) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, err := ParseCheckpoint(signed, l.verifier)
	if err != nil {
		return nil, err
	}
	if root, err := l.tree.root(int64(min(c.Size, uint64(l.tree.n)))); err != nil || c.Size > uint64(l.tree.n) || root != c.Root {
		return nil, fmt.Errorf("the ledger does not extend that checkpoint of %d records", c.Size)
	}
	return l.extension(old, signed, c)
}

// extension gives the body of a request. l.mu is held.
func (l *Ledger) extension(old uint64, signed []byte, c Checkpoint) ([]byte, error) {
	if old > c.Size {
		return nil, fmt.Errorf("the newest checkpoint covers %d records, not %d: records are missing", c.Size, old)
	}
	var err error
	var hashes tlog.TreeProof
	if old > 0 {
		if hashes, err = tlog.ProveTree(int64(c.Size), int64(old), &l.tree); err != nil {
			return nil, fmt.Errorf("ledger: proof from %d records to %d: %w", old, c.Size, err)
		}
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "old %d\n", old)
	for _, h := range hashes {
		fmt.Fprintf(&b, "%s\n", h)
	}
	b.WriteByte('\n')
	b.Write(signed)
	return b.Bytes(), nil
}

// line gives the record of a number as it stands in its segment, proved to be the leaf that was counted.
func (l *Ledger) line(seq uint64) ([]byte, error) {
	l.mu.Lock()
	n, hashes := uint64(l.tree.n), l.tree.hashes
	l.mu.Unlock()
	if seq >= n {
		return nil, fmt.Errorf("record %d: %w: it has %d, numbered from 0", seq, ErrNoRecord, n)
	}
	want := hashes[tlog.StoredHashIndex(0, int64(seq))]
	for r := range l.Records() {
		if r.Seq == seq && tlog.RecordHash(r.Raw) == want {
			return r.Raw, nil
		}
	}
	return nil, fmt.Errorf("record %d is not what it was when the ledger was opened: see: holdfast ledger verify", seq)
}

// covering gives the checkpoint that a proof of a record is made for.
func (l *Ledger) covering(seq uint64) ([]byte, Checkpoint, error) {
	l.renote()
	if l.cosigned != nil && seq < l.cosignedOf.Size {
		return l.cosigned, l.cosignedOf, nil
	}
	signed, c, err := l.newest()
	if err == nil && seq >= c.Size {
		err = fmt.Errorf("record %d: %w that a checkpoint covers yet: the newest covers %d", seq, ErrNoRecord, c.Size)
	}
	return signed, c, err
}

// newest gives the newest checkpoint; of one size, that with cosignatures.
func (l *Ledger) newest() ([]byte, Checkpoint, error) {
	l.renote()
	if l.note == nil {
		return nil, Checkpoint{}, errors.New("the ledger has no checkpoint yet")
	}
	c, err := ParseCheckpoint(l.note, l.verifier)
	if err != nil {
		return nil, Checkpoint{}, err
	}
	if c.Size > uint64(l.tree.n) {
		return nil, Checkpoint{}, fmt.Errorf("the checkpoint covers %d records, and only %d are there: see: holdfast ledger verify", c.Size, l.tree.n)
	}
	if l.cosigned != nil && l.cosignedOf.Size >= c.Size && l.cosignedOf.Origin == c.Origin {
		return l.cosigned, l.cosignedOf, nil
	}
	return l.note, c, nil
}

// Verdict says how a ledger stands to a tree that somebody remembers.
type Verdict int

// The verdicts. Only the first proves anything.
const (
	Extended Verdict = iota // every record that it covers is there, unchanged
	Shorter                 // fewer records can be counted than it covers: the end is missing or damaged
	Changed                 // as many are there, and they are not those that it covers
)

// Against holds the records that were found against a size and a root that somebody remembers: a saved checkpoint, a
// witness's, those in Prometheus. Size 0 covers nothing, so that everything extends it.
func (r *Report) Against(size uint64, root tlog.Hash) Verdict {
	if size > r.Size {
		return Shorter
	}
	if size == 0 {
		return Extended
	}
	if now, err := r.tree.root(int64(size)); err != nil || now != root {
		return Changed
	}
	return Extended
}

// TileFile is one file of a tile export.
type TileFile struct {
	Name string // relative, with slashes: tile/0/x001/234, tile/entries/000.p/42
	Data []byte
	// Final says that the file will never have other content: a full tile.
	Final bool
}

const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
	entryMax   = 1<<16 - 1
)

// Tiles gives the newest checkpoint as C2SP tlog-tiles lays a log out: tiles, entry bundles, and the checkpoint as the last
// file, so that whoever serves them in this order never shows a checkpoint whose tiles are missing. The bundles that hold
// a record too long for the format are left out and named.
func (l *Ledger) Tiles(put func(TileFile) error) (leftOut []string, err error) {
	l.mu.Lock()
	signed, c, err := l.newest()
	t := tree{hashes: l.tree.hashes, n: l.tree.n}
	l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	for _, tile := range tlog.NewTiles(tileHeight, 0, int64(c.Size)) {
		data, err := tlog.ReadTileData(tile, &t)
		if err != nil {
			return nil, fmt.Errorf("ledger: tile: %w", err)
		}
		name := tileName(fmt.Sprint(tile.L), uint64(tile.N), tile.W)
		if err := put(TileFile{Name: name, Data: data, Final: tile.W == tileWidth}); err != nil {
			return nil, err
		}
	}
	if leftOut, err = l.bundles(c.Size, put); err != nil {
		return nil, err
	}
	return leftOut, put(TileFile{Name: checkpointName, Data: signed})
}

// bundles gives the records in entry bundles.
func (l *Ledger) bundles(size uint64, put func(TileFile) error) (leftOut []string, err error) {
	var b []byte
	fits, n := true, uint64(0)
	flush := func() error {
		width := int((n-1)%tileWidth) + 1
		f := TileFile{Name: tileName("entries", (n-1)/tileWidth, width), Data: b, Final: width == tileWidth}
		ok := fits
		b, fits = nil, true
		if !ok {
			leftOut = append(leftOut, f.Name)
			return nil
		}
		return put(f)
	}
	for r := range l.Records() {
		if n == size {
			break
		}
		if r.Seq != n {
			return nil, fmt.Errorf("ledger: record %d is missing: see: holdfast ledger verify", n)
		}
		if len(r.Raw) > entryMax {
			fits = false
		} else {
			b = append(append(b, byte(len(r.Raw)>>8), byte(len(r.Raw))), r.Raw...)
		}
		if n++; n%tileWidth == 0 {
			if err := flush(); err != nil {
				return nil, err
			}
		}
	}
	if n < size {
		return nil, fmt.Errorf("ledger: record %d is missing: see: holdfast ledger verify", n)
	}
	if n%tileWidth != 0 {
		return leftOut, flush()
	}
	return leftOut, nil
}

// tileName spells a tile's or a bundle's path.
func tileName(level string, n uint64, width int) string {
	number := fmt.Sprintf("%03d", n%1000)
	for n /= 1000; n > 0; n /= 1000 {
		number = fmt.Sprintf("x%03d/%s", n%1000, number)
	}
	name := "tile/" + level + "/" + number
	if width < tileWidth {
		name += fmt.Sprintf(".p/%d", width)
	}
	return name
}

// KeepCosigned keeps a checkpoint of this ledger with the cosignatures that stand behind its own signature; who made them,
// and whether they hold, is the caller's to have checked. On return it is durable. One of the size that is kept already
// adds to it, a smaller one changes nothing, and one that this ledger does not extend is refused. A power cut leaves what
// was kept before or what is kept now.
func (l *Ledger) KeepCosigned(signed []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.signer == nil {
		return ErrReadOnly
	}
	if l.foreign != nil {
		return l.foreign
	}
	c, err := ParseCheckpoint(signed, l.verifier)
	if err != nil {
		return err
	}
	if name, _ := l.origin(); c.Origin != name {
		return fmt.Errorf("a cosigned checkpoint of the origin %q, the ledger's is %q", c.Origin, name)
	}
	if c.Size > uint64(l.acked) {
		return fmt.Errorf("a cosigned checkpoint of %d records, the ledger holds %d", c.Size, l.acked)
	}
	if root, err := l.tree.root(int64(c.Size)); err != nil || root != c.Root {
		return fmt.Errorf("a cosigned checkpoint of %d records with another root than theirs", c.Size)
	}
	if l.cosigned != nil && c.Size < l.cosignedOf.Size {
		return nil
	}
	if l.cosigned != nil && c.Size == l.cosignedOf.Size {
		if signed, err = mergeSignatures(l.cosigned, signed, l.verifier); err != nil {
			return err
		}
		if bytes.Equal(signed, l.cosigned) {
			return nil // whoever asks again and again wears no disk out
		}
	}
	if len(signed) > checkpointMax {
		return fmt.Errorf("a cosigned checkpoint of %d bytes, more than %d", len(signed), checkpointMax)
	}
	if err := durable.Replace(l.disk, l.cosignedPath(), signed, 0o644); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	l.cosigned, l.cosignedOf = bytes.Clone(signed), c
	return nil
}

// Cosigned gives the newest checkpoint with cosignatures, nil if there is none.
func (l *Ledger) Cosigned() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.renote()
	return bytes.Clone(l.cosigned)
}

// RootAt gives the root of the first n records; size 0 has none.
func (l *Ledger) RootAt(n uint64) (tlog.Hash, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n == 0 || n > uint64(l.acked) {
		return tlog.Hash{}, fmt.Errorf("the ledger has %d records, not %d", l.acked, n)
	}
	return l.tree.root(int64(n))
}
