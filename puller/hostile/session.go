package hostile

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// Packet types of SFTP version 3.
const (
	fxInit = iota + 1
	fxVersion
	fxOpen
	fxClose
	fxRead
	fxWrite
	fxLstat
	fxFstat
	fxSetstat
	fxFsetstat
	fxOpendir
	fxReaddir
	fxRemove
	fxMkdir
	fxRmdir
	fxRealpath
	fxStat
	fxRename
	fxReadlink
	fxSymlink

	fxStatus   = 101
	fxHandle   = 102
	fxData     = 103
	fxName     = 104
	fxAttrs    = 105
	fxExtended = 200
	fxExtReply = 201
)

// Status codes.
const (
	ok = iota
	eof
	noSuchFile
	denied
	failure
)

// request is one packet of the client, taken apart as far as its type allows.
type request struct {
	kind   byte
	id     uint32
	text   string // path, handle or name of an extension
	path   string // what the handle stands for, or text
	offset uint64
	length uint32
}

func (r request) evil() bool { return strings.HasPrefix(r.path, Evil) }

// later is an answer that waits.
type later struct {
	id    uint32
	timer *time.Timer
}

// session is one SFTP channel.
type session struct {
	conn    *conn
	ch      ssh.Channel
	tree    *tree
	handles map[string]string // handle -> path
	listed  map[string]int    // handle -> READDIR requests answered
	count   int               // handles given out
	asked   int               // requests received
	kept    []func()          // answers held back
	late    map[string]later  // handle -> answer that comes a little later
	writing sync.Mutex
}

func newSession(c *conn, ch ssh.Channel) *session {
	return &session{conn: c, ch: ch, tree: c.server.tree, handles: map[string]string{}, listed: map[string]int{}, late: map[string]later{}}
}

func (s *session) run() {
	defer s.ch.Close()
	for {
		r, err := s.read()
		if err != nil {
			return
		}
		s.asked++
		s.conn.server.requests.Add(1)
		if s.conn.is.answer != nil && s.conn.is.answer(s, r) {
			continue
		}
		s.honest(r)
	}
}

func (s *session) read() (request, error) {
	var head [4]byte
	if _, err := io.ReadFull(s.ch, head[:]); err != nil {
		return request{}, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 5 || n > 1<<20 {
		return request{}, fmt.Errorf("request of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(s.ch, b); err != nil {
		return request{}, err
	}
	r := request{kind: b[0], id: binary.BigEndian.Uint32(b[1:])}
	if r.kind == fxInit || len(b) < 9 {
		return r, nil
	}
	n, b = binary.BigEndian.Uint32(b[5:]), b[9:]
	if uint64(n) > uint64(len(b)) {
		return request{}, fmt.Errorf("string of %d bytes", n)
	}
	r.text, b = string(b[:n]), b[n:]
	r.path = r.text
	if p, known := s.handles[r.text]; known {
		r.path = p
	}
	if r.kind == fxRead && len(b) == 12 {
		r.offset, r.length = binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:])
	}
	return r, nil
}

// honest answers as a good server does.
func (s *session) honest(r request) {
	n, there := s.tree.get(r.path)
	switch r.kind {
	case fxInit:
		s.version(3, "limits@openssh.com", "1")
	case fxExtended:
		s.limits(r, 256<<10, 255<<10)
	case fxRealpath:
		s.names(r.id, entry{name: "/", node: node{}})
	case fxClose:
		delete(s.handles, r.text)
		delete(s.listed, r.text)
		s.status(r.id, ok)
	case fxOpen, fxOpendir:
		if !there || r.kind == fxOpendir != (n.mode>>12 == 4) {
			s.status(r.id, noSuchFile)
			return
		}
		s.handle(r, fmt.Sprint("h", s.count+1))
	case fxLstat, fxFstat, fxStat:
		if !there {
			s.status(r.id, noSuchFile)
			return
		}
		s.packet(fxAttrs, r.id, n.attrs())
	case fxReadlink:
		if n.target == "" {
			s.status(r.id, noSuchFile)
			return
		}
		s.names(r.id, entry{name: n.target})
	case fxReaddir:
		s.list(r, n, 3)
	case fxRead:
		if r.offset >= uint64(len(n.content)) {
			s.status(r.id, eof)
			return
		}
		s.data(r.id, n.content[r.offset:min(uint64(len(n.content)), r.offset+uint64(r.length))])
	default:
		s.status(r.id, denied)
	}
}

// handle gives out a handle for the request's path.
func (s *session) handle(r request, handle string) {
	s.count++
	s.handles[handle] = r.path
	s.packet(fxHandle, r.id, text(handle))
}

// list gives some names at a time, and the end.
func (s *session) list(r request, n node, batch int) {
	from := s.listed[r.text] * batch
	s.listed[r.text]++
	if from >= len(n.children) {
		s.status(r.id, eof)
		return
	}
	var rows []entry
	for _, name := range n.children[from:min(len(n.children), from+batch)] {
		child, _ := s.tree.get(strings.TrimSuffix(r.path, "/") + "/" + name)
		rows = append(rows, entry{name: name, node: child})
	}
	s.names(r.id, rows...)
}

// entry is one row of a NAME packet; raw stands for the attributes where it is set.
type entry struct {
	name string
	node node
	raw  []byte
}

func (n node) attrs() []byte {
	b := be32(nil, 0x1|0x2|0x4|0x8)
	b = binary.BigEndian.AppendUint64(b, n.size)
	return be32(b, 0, 0, n.mode, n.mtime, n.mtime)
}

func (s *session) names(id uint32, rows ...entry) {
	b := be32(nil, uint32(len(rows)))
	for _, row := range rows {
		b = append(append(b, text(row.name)...), text("long "+row.name)...)
		if row.raw != nil {
			b = append(b, row.raw...)
		} else {
			b = append(b, row.node.attrs()...)
		}
	}
	s.packet(fxName, id, b)
}

func (s *session) data(id uint32, p []byte) { s.packet(fxData, id, text(string(p))) }

func (s *session) status(id, code uint32) {
	s.packet(fxStatus, id, append(be32(nil, code), append(text("a message"), text("")...)...))
}

func (s *session) version(v uint32, extensions ...string) {
	b := be32(nil, v)
	for _, e := range extensions {
		b = append(b, text(e)...)
	}
	s.send(append([]byte{fxVersion}, b...))
}

func (s *session) limits(r request, packet, read uint64) {
	var b []byte
	for _, v := range []uint64{packet, read, read, 1000} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	s.packet(fxExtReply, r.id, b)
}

// packet sends a packet with an id.
func (s *session) packet(kind byte, id uint32, body []byte) {
	s.send(append(be32([]byte{kind}, id), body...))
}

// send puts the length before a packet.
func (s *session) send(p []byte) { s.bytes(append(be32(nil, uint32(len(p))), p...)) }

// bytes sends anything. Two goroutines may not write to a channel at once.
func (s *session) bytes(p []byte) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	_, err := s.ch.Write(p)
	return err
}

// cut closes the connection.
func (s *session) cut() bool {
	s.conn.Close()
	return true
}

func text(s string) []byte { return append(be32(nil, uint32(len(s))), s...) }

func be32(b []byte, values ...uint32) []byte {
	for _, v := range values {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}
