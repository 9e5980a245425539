package remote

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// The packets of SFTP version 3 that our own codec speaks. Every packet is
//
//	uint32 length | byte type | uint32 id | body        length counts type, id and body
const (
	packetClose    = 4
	packetRead     = 5
	packetFstat    = 8
	packetOpendir  = 11
	packetReaddir  = 12
	packetRealpath = 16
	packetStatus   = 101
	packetHandle   = 102
	packetData     = 103
	packetName     = 104
	packetAttrs    = 105
	packetExtended = 200
	packetExtReply = 201

	packetVersion = 2 // the one answer without an id
)

// Status codes of the draft.
const (
	statusOK = iota
	statusEOF
	statusNoSuchFile
	statusPermissionDenied
	statusFailure // of no particular kind
)

// Flags of the attributes.
const (
	attrSize        = 0x1
	attrUIDGID      = 0x2
	attrPermissions = 0x4
	attrTimes       = 0x8
	attrExtended    = 0x80000000
)

var errTruncated = errors.New("packet ends too early")

// cursor takes a packet apart. After the first error every further field is zero, and err stays.
type cursor struct {
	b   []byte
	err error
}

func (c *cursor) take(n uint64) []byte {
	if c.err != nil {
		return nil
	}
	if n > uint64(len(c.b)) {
		c.err = errTruncated
		return nil
	}
	p := c.b[:n]
	c.b = c.b[n:]
	return p
}

func (c *cursor) uint32() uint32 {
	if p := c.take(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

func (c *cursor) uint64() uint64 {
	if p := c.take(8); p != nil {
		return binary.BigEndian.Uint64(p)
	}
	return 0
}

func (c *cursor) bytes() []byte { return c.take(uint64(c.uint32())) }

// attr reads the attributes; why is set when they are well formed and impossible.
//
//	uint32 flags | [uint64 size] | [uint32 uid | uint32 gid] | [uint32 mode] | [uint32 atime | uint32 mtime]
//	             | [uint32 count | count * (string type | string data)]
func (c *cursor) attr() (a Attr, why string) {
	var size uint64
	var uid, gid, mode, mtime uint32
	flags := c.uint32()
	if flags&attrSize != 0 {
		size = c.uint64()
	}
	if flags&attrUIDGID != 0 {
		uid, gid = c.uint32(), c.uint32()
	}
	if flags&attrPermissions != 0 {
		mode = c.uint32()
	}
	if flags&attrTimes != 0 {
		c.uint32()
		mtime = c.uint32()
	}
	if flags&attrExtended != 0 {
		for n := c.uint32(); n > 0 && c.err == nil; n-- {
			c.bytes()
			c.bytes()
		}
	}
	if a, why = attrFrom(mode, uid, gid, size, mtime); why == "" && a.Kind == File && flags&attrSize == 0 {
		return Attr{}, "a file without a size"
	}
	return a, why
}

// name is one row of a NAME packet.
type name struct {
	raw  []byte // aliases the packet
	attr Attr
	why  string // what is impossible about the attributes
}

// names calls row for each entry of a NAME packet's body, and stops at row's first error.
//
//	uint32 count | count * (string filename | string longname | attrs)
func (c *cursor) names(row func(name) error) error {
	count := c.uint32()
	if c.err == nil && uint64(count)*12 > uint64(len(c.b)) {
		return fmt.Errorf("%d names cannot fit into %d bytes", count, len(c.b))
	}
	for ; count > 0 && c.err == nil; count-- {
		n := name{raw: c.bytes()}
		c.bytes() // the long name is for people and unreliable
		n.attr, n.why = c.attr()
		if c.err != nil {
			break
		}
		if err := row(n); err != nil {
			return err
		}
	}
	return c.err
}

// status reads a STATUS body: uint32 code | string message | string language, where old servers leave the strings out.
func (c *cursor) status() (code uint32, message string) {
	code = c.uint32()
	if len(c.b) >= 4 {
		message = string(c.bytes())
	}
	return code, message
}

// packet builds a request.
func packet(kind byte, id uint32, body []byte) []byte {
	p := make([]byte, 0, 9+len(body))
	p = binary.BigEndian.AppendUint32(p, uint32(5+len(body)))
	p = append(p, kind)
	p = binary.BigEndian.AppendUint32(p, id)
	return append(p, body...)
}

// appendString appends a string of the protocol: uint32 length | bytes.
func appendString(p []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(p, uint32(len(s))), s...)
}
