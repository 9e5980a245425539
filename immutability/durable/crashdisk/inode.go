package crashdisk

import (
	"bytes"
	"io/fs"
	"maps"
	"slices"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// inode is a file or a directory, in its two states.
//
// Files only grow, so content is kept as two byte slices that are never written in place: slices may share memory between
// the two states and between clones, and whoever appends gets memory of his own when the capacity, which is always cut to
// the length on sharing, runs out.
type inode struct {
	dir  bool
	perm fs.FileMode

	// flags are those in force, mediumFlags those on the medium. changed has what they became since the last sync, one after
	// another; its last are those in force.
	flags       durable.Flags
	mediumFlags durable.Flags
	changed     []durable.Flags
	// writers counts the open files that may write, lease is the one that was promised that there is none.
	writers int
	lease   *held

	// A file. data is what reads see. medium is what is on the medium, never longer than data. Of the bytes of data, those
	// in dirty wait for a sync and those in lost were dropped by a failed one: the kernel took them for written. All
	// others are in medium. Extents are in order and do not overlap; every dirty one lies behind every other byte.
	data   []byte
	medium []byte
	dirty  []extent // one for each write
	lost   []extent

	// A directory. entries is what reads see, durable what is on the medium. pending has for each name that changed since
	// the last sync the inodes it stood for, one after another, nil for none; its last is the one in entries.
	entries map[string]*inode
	durable map[string]*inode
	pending map[string][]*inode
}

type extent struct{ start, end int }

func newFile(perm fs.FileMode) *inode { return &inode{perm: perm.Perm()} }

func newDirectory(perm fs.FileMode) *inode {
	return &inode{
		dir: true, perm: perm.Perm(),
		entries: map[string]*inode{}, durable: map[string]*inode{}, pending: map[string][]*inode{},
	}
}

// write appends to what reads see.
func (n *inode) write(p []byte) {
	if len(p) == 0 {
		return
	}
	start := len(n.data)
	n.data = append(n.data, p...)
	n.dirty = append(n.dirty, extent{start, len(n.data)})
}

// sync moves the dirty bytes to the medium. Bytes that an earlier sync lost stay lost: they are a hole on the medium.
func (n *inode) sync() {
	n.syncFlags()
	if len(n.dirty) == 0 {
		return
	}
	end := len(n.data)
	if len(n.lost) == 0 {
		n.medium = n.data[:end:end]
	} else {
		start := n.dirty[0].start
		medium := make([]byte, end) // zeros where nothing was written
		copy(medium, n.medium)
		copy(medium[start:], n.data[start:])
		n.medium = medium
	}
	n.dirty = nil
}

// syncFailed is what a failed fsync leaves: the dirty marks are gone, the bytes are only in the cache.
func (n *inode) syncFailed() {
	n.lost = append(slices.Clip(n.lost), n.dirty...)
	n.dirty = nil
}

// forget drops the clean pages: where the medium has other bytes than the cache, reads see the medium's. The length is not
// in pages and stays.
func (n *inode) forget() {
	if len(n.lost) == 0 {
		return
	}
	data := bytes.Clone(n.data)
	for _, e := range n.lost {
		clear(data[e.start:e.end])
		if e.start < len(n.medium) {
			copy(data[e.start:e.end], n.medium[e.start:])
		}
	}
	n.data = data
}

// flip changes a byte in both states.
func (n *inode) flip(offset int64, mask byte) {
	n.data = bytes.Clone(n.data)
	n.data[offset] ^= mask
	if offset < int64(len(n.medium)) {
		n.medium = bytes.Clone(n.medium)
		n.medium[offset] ^= mask
	}
}

// set changes an entry as reads see it; nil takes it away.
func (n *inode) set(name string, e *inode) {
	if e == nil {
		delete(n.entries, name)
	} else {
		n.entries[name] = e
	}
	n.pending[name] = append(n.pending[name], e)
}

// syncDir moves the changed entries to the medium.
func (n *inode) syncDir() {
	n.syncFlags()
	for name, values := range n.pending {
		if last := values[len(values)-1]; last == nil {
			delete(n.durable, name)
		} else {
			n.durable[name] = last
		}
	}
	clear(n.pending)
}

// contains tells whether below is n or stands somewhere below it, as reads see it.
func (n *inode) contains(below *inode) bool {
	if n == below {
		return true
	}
	for _, e := range n.entries {
		if e.dir && e.contains(below) {
			return true
		}
	}
	return false
}

// clone copies an inode and all that it leads to, in both states; seen maps those copied already.
func (n *inode) clone(seen map[*inode]*inode) *inode {
	if n == nil {
		return nil
	}
	if c, ok := seen[n]; ok {
		return c
	}
	c := &inode{dir: n.dir, perm: n.perm, flags: n.flags, mediumFlags: n.mediumFlags, changed: slices.Clone(n.changed)}
	seen[n] = c
	if !n.dir {
		// Whoever appends first, the original or the copy, must not write into the other's memory.
		n.data, n.medium = slices.Clip(n.data), slices.Clip(n.medium)
		c.data, c.medium = n.data, n.medium
		c.dirty, c.lost = slices.Clone(n.dirty), slices.Clone(n.lost)
		return c
	}
	c.entries, c.durable = maps.Clone(n.entries), maps.Clone(n.durable)
	for name, e := range c.entries {
		c.entries[name] = e.clone(seen)
	}
	for name, e := range c.durable {
		c.durable[name] = e.clone(seen)
	}
	c.pending = make(map[string][]*inode, len(n.pending))
	for name, values := range n.pending {
		copied := make([]*inode, len(values))
		for i, e := range values {
			copied[i] = e.clone(seen)
		}
		c.pending[name] = copied
	}
	return c
}
