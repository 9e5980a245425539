package snapshot

import (
	"encoding/binary"
	"math"
	"strconv"
	"strings"
)

// An entry, alone or in a leaf. Every number is a minimal unsigned varint unless said; a canonical entry is one
// that this code writes, and the decoder refuses every other.
//
//	parent     0: the same as the entry before it (in a leaf only), else length+1 and the bytes
//	name       length and bytes
//	kind       1 byte
//	mode uid gid size
//	mtime      zigzag varint, seconds
//	flags
//	target     length and bytes            symlinks only
//	content    n<<1 | l                    files only; l=1: the n references are those of a list
//	  n times  ref
//	  l=1      m, then m times (pack number less the one before it, bytes)
//
//	ref        ID (32 bytes), size, pack

// AppendEntry appends the entry's self-contained encoding. What [Entry.Check] refuses, DecodeEntry refuses too.
func AppendEntry(dst []byte, e *Entry) []byte {
	dst = appendParent(dst, e.Parent)
	return appendBody(dst, e)
}

func appendParent(dst []byte, parent string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(parent))+1)
	return append(dst, parent...)
}

func appendString(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func appendBody(dst []byte, e *Entry) []byte {
	dst = appendString(dst, e.Name)
	dst = append(dst, byte(e.Kind))
	dst = binary.AppendUvarint(dst, uint64(e.Mode))
	dst = binary.AppendUvarint(dst, uint64(e.UID))
	dst = binary.AppendUvarint(dst, uint64(e.GID))
	dst = binary.AppendUvarint(dst, e.Size)
	dst = binary.AppendVarint(dst, e.MTime)
	dst = binary.AppendUvarint(dst, uint64(e.Flags))
	switch e.Kind {
	case Symlink:
		dst = appendString(dst, e.Target)
	case File:
		dst = appendContent(dst, e)
	}
	return dst
}

func appendContent(dst []byte, e *Entry) []byte {
	if len(e.List) == 0 {
		return appendRefs(binary.AppendUvarint(dst, uint64(len(e.Chunks))<<1), e.Chunks)
	}
	dst = appendRefs(binary.AppendUvarint(dst, uint64(len(e.List))<<1|1), e.List)
	return appendUses(dst, e.ListPacks)
}

func appendRefs(dst []byte, refs []Ref) []byte {
	for i := range refs {
		dst = appendRef(dst, &refs[i])
	}
	return dst
}

func appendRef(dst []byte, r *Ref) []byte {
	dst = append(dst, r.ID[:]...)
	dst = binary.AppendUvarint(dst, uint64(r.Size))
	return binary.AppendUvarint(dst, uint64(r.Pack))
}

func appendUses(dst []byte, uses []PackUse) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(uses)))
	var last uint32
	for _, u := range uses {
		dst = binary.AppendUvarint(dst, uint64(u.Pack-last))
		dst = binary.AppendUvarint(dst, u.Bytes)
		last = u.Pack
	}
	return dst
}

// DecodeEntry reads one self-contained entry from the front of src and returns what follows it. The entry
// shares no memory with src. Errors are [*DamageError].
func DecodeEntry(src []byte) (e Entry, rest []byte, err error) {
	d := decoder{what: "entry", p: src}
	e = d.entry("", false)
	if d.err != nil {
		return Entry{}, src, d.err
	}
	return e, d.p, nil
}

// Check says why the entry cannot stand in a catalog; nil when it can.
func (e *Entry) Check() error {
	if err := checkKey(e.Parent, e.Name); err != nil {
		return err
	}
	switch {
	case e.Kind == 0 || e.Kind >= kindEnd:
		return e.bad("unknown %v", e.Kind)
	case e.Name == "" && e.Kind != Directory:
		return e.bad("the root is a %v, not a directory", e.Kind)
	case e.Mode > MaxMode:
		return e.bad("mode %#o has bits outside %#o", e.Mode, MaxMode)
	case e.Kind != Symlink && e.Target != "":
		return e.bad("a %v with a target", e.Kind)
	case len(e.Target) > MaxTarget:
		return e.bad("a target of %d bytes, the limit is %d", len(e.Target), MaxTarget)
	}
	return e.checkContent()
}

func (e *Entry) checkContent() error {
	switch {
	case e.Kind != File && len(e.Chunks)+len(e.List)+len(e.ListPacks) > 0:
		return e.bad("a %v with content", e.Kind)
	case len(e.Chunks) > InlineChunks:
		return e.bad("%d chunks in the entry, the limit is %d: write a list", len(e.Chunks), InlineChunks)
	case len(e.Chunks) > 0 && len(e.List) > 0:
		return e.bad("both chunks and a list")
	case (len(e.List) == 0) != (len(e.ListPacks) == 0):
		return e.bad("%d list chunks with %d list packs", len(e.List), len(e.ListPacks))
	}
	for _, refs := range [2][]Ref{e.Chunks, e.List} {
		for i := range refs {
			if s := refs[i].Size; s == 0 || s > maxRefSize {
				return e.bad("chunk %d has a size of %d", i, s)
			}
		}
	}
	for i, u := range e.ListPacks {
		if u.Bytes == 0 || i > 0 && u.Pack <= e.ListPacks[i-1].Pack {
			return e.bad("list packs are out of order or empty at %d", i)
		}
	}
	return nil
}

func (e *Entry) bad(format string, args ...any) error {
	return damaged("entry "+quoted(e.Path()), format, args...)
}

func quoted(s string) string { return strconv.Quote(s) }

func checkKey(parent, name string) error {
	if name == "" {
		if parent != "" {
			return damaged("entry", "no name in %s", quoted(parent))
		}
		return nil
	}
	if len(parent) > MaxParent {
		return damaged("entry", "a parent of %d bytes, the limit is %d", len(parent), MaxParent)
	}
	if !validName(name) {
		return damaged("entry", "the name %s in %s is not a name", quoted(name), quoted(parent))
	}
	for rest := parent; rest != ""; {
		part, tail, more := strings.Cut(rest, "/")
		if !validName(part) || more && tail == "" {
			return damaged("entry", "the parent %s is not a path", quoted(parent))
		}
		rest = tail
	}
	return nil
}

func validName(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= MaxName && strings.IndexByte(s, '/') < 0 && strings.IndexByte(s, 0) < 0
}

// decoder walks bytes that may be hostile. After the first error every read yields zero and err stays.
type decoder struct {
	what string
	p    []byte
	err  error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = damaged(d.what, format, args...)
		d.p = nil
	}
}

func (d *decoder) byte() byte {
	if len(d.p) == 0 {
		d.fail("it ends too early")
		return 0
	}
	b := d.p[0]
	d.p = d.p[1:]
	return b
}

// uvarint reads a minimal varint of at most limit.
func (d *decoder) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(d.p)
	switch {
	case n <= 0:
		d.fail("a number is cut off or too long")
	case n > 1 && d.p[n-1] == 0:
		d.fail("a number is not in its shortest form")
	case v > limit:
		d.fail("the number %d is above its limit of %d", v, limit)
	default:
		d.p = d.p[n:]
		return v
	}
	return 0
}

func (d *decoder) varint() int64 {
	u := d.uvarint(math.MaxUint64)
	v := int64(u >> 1)
	if u&1 != 0 {
		v = ^v
	}
	return v
}

func (d *decoder) uint32() uint32 { return uint32(d.uvarint(math.MaxUint32)) }

// take returns the next n bytes, in place.
func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.p)) {
		d.fail("%d bytes are announced and %d are left", n, len(d.p))
		return nil
	}
	b := d.p[:n:n]
	d.p = d.p[n:]
	return b
}

func (d *decoder) string(limit uint64) string { return string(d.take(d.uvarint(limit))) }

// entry reads an entry; previous is the parent of the one before it where there is one.
func (d *decoder) entry(previous string, follows bool) (e Entry) {
	switch n := d.uvarint(MaxParent + 1); {
	case d.err != nil:
		return e
	case n == 0 && !follows:
		d.fail("it relies on an entry before it")
	case n == 0:
		e.Parent = previous
	default:
		e.Parent = string(d.take(n - 1))
		if follows && e.Parent == previous {
			d.fail("a parent is repeated")
		}
	}
	e.Name = d.string(MaxName)
	e.Kind = Kind(d.byte())
	e.Mode = uint32(d.uvarint(MaxMode))
	e.UID = d.uint32()
	e.GID = d.uint32()
	e.Size = d.uvarint(math.MaxUint64)
	e.MTime = d.varint()
	e.Flags = Flags(d.uint32())
	switch e.Kind {
	case Symlink:
		e.Target = d.string(MaxTarget)
	case File:
		d.content(&e)
	}
	if d.err == nil {
		d.err = e.Check()
	}
	return e
}

func (d *decoder) content(e *Entry) {
	n := d.uvarint(math.MaxUint32)
	if n&1 == 0 {
		e.Chunks = d.refs(n >> 1)
		return
	}
	e.List = d.refs(n >> 1)
	e.ListPacks = d.uses()
	if d.err == nil && len(e.List) == 0 {
		d.fail("an empty list")
	}
}

// minRef is the shortest encoding of a reference, in bytes.
const minRef = 32 + 1 + 1

func (d *decoder) refs(n uint64) []Ref {
	if n == 0 {
		return nil
	}
	if n > uint64(len(d.p))/minRef {
		d.fail("%d references cannot stand in %d bytes", n, len(d.p))
		return nil
	}
	refs := make([]Ref, n)
	for i := range refs {
		refs[i] = d.ref()
	}
	return refs
}

func (d *decoder) ref() (r Ref) {
	copy(r.ID[:], d.take(uint64(len(r.ID))))
	r.Size = uint32(d.uvarint(maxRefSize))
	r.Pack = d.uint32()
	if r.Size == 0 {
		d.fail("a chunk of no bytes")
	}
	return r
}

func (d *decoder) uses() []PackUse {
	n := d.uvarint(math.MaxUint32)
	if n == 0 {
		return nil
	}
	if n > uint64(len(d.p))/2 {
		d.fail("%d packs cannot stand in %d bytes", n, len(d.p))
		return nil
	}
	uses := make([]PackUse, n)
	var last uint64
	for i := range uses {
		step := d.uvarint(math.MaxUint32)
		last += step
		if last > math.MaxUint32 || i > 0 && step == 0 {
			d.fail("pack numbers are out of order")
			return nil
		}
		uses[i] = PackUse{uint32(last), d.uvarint(math.MaxUint64)}
	}
	return uses
}
