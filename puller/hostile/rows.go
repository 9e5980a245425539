package hostile

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Behaviours returns every row. Names are unique.
func Behaviours() []Behaviour {
	return slices.Concat(listingRows(), attributeRows(), readingRows(), answerRows(), initRows(), limitRows(), cutRows(), connectionRows(), nuisanceRows())
}

// evilNames makes the listing of the evil directory consist of the given rows.
func evilNames(rows ...entry) func(*session, request) bool {
	return func(s *session, r request) bool {
		if r.kind != fxReaddir || r.path != Evil {
			return false
		}
		if s.listed[r.text]++; s.listed[r.text] > 1 {
			s.status(r.id, eof)
		} else {
			s.names(r.id, rows...)
		}
		return true
	}
}

var plainFile = node{mode: 0o100644, size: 10, mtime: mtime}
var plainDir = node{mode: 0o040755, size: 10, mtime: mtime}

func named(name string) entry { return entry{name: name, node: plainFile} }

// on answers requests of one kind about the evil part.
func on(kind byte, f func(s *session, r request)) func(*session, request) bool {
	return func(s *session, r request) bool {
		if r.kind != kind || !r.evil() {
			return false
		}
		f(s, r)
		return true
	}
}

func silence(*session, request)      {}
func statusOK(s *session, r request) { s.status(r.id, ok) }

// listingRows lie in names and listings.
func listingRows() []Behaviour {
	rows := []Behaviour{
		{Name: "readdir-endless", Does: "invents new names for ever", Outcome: Partial, answer: on(fxReaddir, func(s *session, r request) {
			var rows []entry
			for i := range 100 {
				rows = append(rows, named(fmt.Sprintf("n%d-%d", s.asked, i)))
			}
			s.names(r.id, rows...)
		})},
		{Name: "readdir-repeats", Does: "gives the same names for ever", Outcome: Partial, answer: on(fxReaddir, func(s *session, r request) {
			s.names(r.id, slices.Repeat([]entry{named("same")}, 500)...)
		})},
		{Name: "readdir-endless-dots", Does: "gives . and .. for ever", Outcome: Partial, answer: on(fxReaddir, func(s *session, r request) {
			s.names(r.id, slices.Repeat([]entry{{name: ".", node: plainDir}, {name: "..", node: plainDir}}, 50)...)
		})},
		{Name: "readdir-endless-long-names", Does: "gives names of 2000 bytes for ever", Outcome: Partial, answer: on(fxReaddir, func(s *session, r request) {
			s.names(r.id, slices.Repeat([]entry{named(strings.Repeat("x", 2000))}, 60)...)
		})},
		{Name: "readdir-status-ok", Does: "answers READDIR with status OK", Outcome: Partial, answer: on(fxReaddir, statusOK)},
		{Name: "readdir-no-names", Does: "answers READDIR with no names, for ever", Outcome: Partial, answer: on(fxReaddir, func(s *session, r request) { s.names(r.id) })},
		{Name: "readdir-count-lies", Does: "announces four billion names in a short packet", Outcome: Partial, answer: on(fxReaddir, func(s *session, r request) {
			s.packet(fxName, r.id, be32(nil, 0xffffffff))
		})},
		{Name: "readdir-cut-name", Does: "ends a packet of names in the middle of a name", Outcome: Partial, answer: on(fxReaddir, func(s *session, r request) {
			s.packet(fxName, r.id, append(be32(nil, 1, 4000), "abc"...))
		})},
		{Name: "readdir-wrong-type", Does: "answers READDIR with data", Outcome: Partial, answer: on(fxReaddir, func(s *session, r request) { s.data(r.id, []byte("names?")) })},
		{Name: "readdir-silent", Does: "never answers READDIR", Outcome: Partial, answer: on(fxReaddir, silence)},
		{Name: "readdir-refused", Does: "answers READDIR with failure", Outcome: Partial, answer: on(fxReaddir, func(s *session, r request) { s.status(r.id, failure) })},
		{Name: "opendir-status-ok", Does: "answers OPENDIR with status OK", Outcome: Partial, answer: on(fxOpendir, statusOK)},
		{Name: "opendir-silent", Does: "never answers OPENDIR", Outcome: Partial, answer: on(fxOpendir, silence)},
		{Name: "opendir-long-handle", Does: "gives a handle of 100 KiB", Outcome: Partial, answer: on(fxOpendir, func(s *session, r request) {
			s.handle(r, strings.Repeat("h", 100<<10))
		})},
		{Name: "opendir-empty-handle", Does: "gives an empty handle", Outcome: Whole, answer: on(fxOpendir, func(s *session, r request) { s.handle(r, "") })},
		{Name: "hidden-listing", Does: "lists a directory as empty and forbids to search it", Outcome: Partial, answer: func(s *session, r request) bool {
			switch {
			case r.kind == fxReaddir && r.path == Evil:
				s.status(r.id, eof)
			case r.kind == fxLstat && r.path == Evil+"/.":
				s.status(r.id, denied)
			default:
				return false
			}
			return true
		}},
		{Name: "bottomless", Does: "has a directory in every directory", Outcome: Partial, answer: func(s *session, r request) bool {
			switch {
			case r.kind == fxReaddir && r.evil():
				if s.listed[r.text]++; s.listed[r.text] > 1 {
					s.status(r.id, eof)
				} else {
					s.names(r.id, entry{name: "d", node: plainDir})
				}
			case r.kind == fxOpendir && r.evil():
				s.handle(r, fmt.Sprint("h", s.count+1))
			default:
				return false
			}
			return true
		}},
		{Name: "link-loop", Does: "has links that point at themselves and at their directory", Outcome: Whole, grow: func(t *tree) {
			t.link(Evil+"/self", "self")
			t.link(Evil+"/up", "..")
			t.link(Evil+"/a", "b")
			t.link(Evil+"/b", "a")
		}},
		{Name: "newline-names", Does: "has names with newlines, escape codes and right-to-left marks", Outcome: Whole, grow: func(t *tree) {
			for _, name := range []string{"a\nb", "\x1b[2J\x1b]0;title\a", "\u202egpj.exe", " ", "-rf", "~", "*", "\xff\xfe", "name\r"} {
				t.file(Evil+"/"+name, pattern(77, 5))
			}
		}},
		{Name: "readdir-oversized", Does: "calls itself OpenSSH and sends 6000 names in one packet", Outcome: Partial, answer: on(fxReaddir, func(s *session, r request) {
			var rows []entry
			for i := range 6000 {
				rows = append(rows, named(fmt.Sprintf("n%d", i)))
			}
			if s.listed[r.text]++; s.listed[r.text] > 1 {
				s.status(r.id, eof)
			} else {
				s.names(r.id, rows...)
			}
		})},
	}
	rows = append(rows, Behaviour{Name: "readdir-one-packet", Does: "is no OpenSSH and sends a whole directory in one large packet, as some do", Outcome: Whole,
		ssh: func(c *conn, config *ssh.ServerConfig) { config.ServerVersion = "SSH-2.0-Cloud" },
		grow: func(t *tree) {
			for i := range 1500 {
				t.link(fmt.Sprintf("%s/%0200d", Evil, i), "nowhere")
			}
		},
		answer: on(fxReaddir, func(s *session, r request) {
			n, _ := s.tree.get(r.path)
			s.list(r, n, len(n.children))
		})})
	for name, bad := range map[string]string{
		"dotdot": "..", "slash-dotdot": "x/..", "empty": "", "slash": "/", "with-slash": "a/b", "absolute": "/etc/passwd", "nul": "a\x00b",
		"long": strings.Repeat("n", 60<<10), "climb": "../../../etc/passwd",
	} {
		if bad == ".." {
			// Every real server sends these two; as anything but themselves they must be ignored all the same.
			rows = append(rows, Behaviour{Name: "name-" + name, Does: "lists . and .. as files and directories of their own", Outcome: Whole,
				answer: evilNames(named(".."), named("."), entry{name: "..", node: plainDir}, entry{name: ".", node: plainDir})})
			continue
		}
		rows = append(rows, Behaviour{Name: "name-" + name, Does: fmt.Sprintf("lists the name %.20q", bad), Outcome: Partial, answer: evilNames(named(bad))})
	}
	rows = append(rows, Behaviour{Name: "name-twice", Does: "lists a name twice, once as a file and once as a directory", Outcome: Partial,
		answer: evilNames(entry{name: "dir", node: plainDir}, named("dir"))})
	slices.SortFunc(rows, func(a, b Behaviour) int { return strings.Compare(a.Name, b.Name) })
	return rows
}

// raw is attributes made by hand.
func raw(words ...uint32) []byte { return be32(nil, words...) }

// attributeRows lie in attributes, wherever they are sent.
func attributeRows() []Behaviour {
	lie := func(attrs []byte) func(*session, request) bool {
		names := evilNames(entry{name: "file", raw: attrs})
		return func(s *session, r request) bool {
			if (r.kind == fxLstat || r.kind == fxFstat) && r.path == Evil+"/file" {
				s.packet(fxAttrs, r.id, attrs)
				return true
			}
			return names(s, r)
		}
	}
	const size, owner, mode, times, extended = 0x1, 0x2, 0x4, 0x8, 0x80000000
	return []Behaviour{
		{Name: "size-negative", Does: "says that a file has 2^63 bytes", Outcome: Partial, answer: lie(raw(size|mode|times, 1<<31, 0, 0o100644, mtime, mtime))},
		{Name: "size-largest", Does: "says that a file has 2^64-1 bytes", Outcome: Partial, answer: lie(raw(size|mode|times, 0xffffffff, 0xffffffff, 0o100644, mtime, mtime))},
		{Name: "size-exabyte", Does: "says that a file has 2^60 bytes", Outcome: Partial, answer: lie(raw(size|mode|times, 1<<28, 0, 0o100644, mtime, mtime))},
		{Name: "no-mode", Does: "sends no mode", Outcome: Partial, answer: lie(raw(size|times, 0, 1000, mtime, mtime))},
		{Name: "no-size", Does: "sends a file without a size", Outcome: Partial, answer: lie(raw(mode|times, 0o100644, mtime, mtime))},
		{Name: "no-attributes", Does: "sends no attributes at all", Outcome: Partial, answer: lie(raw(0))},
		{Name: "strange-mode", Does: "sends a type of file that does not exist", Outcome: Partial, answer: lie(raw(size|mode|times, 0, 1000, 0o170644, mtime, mtime))},
		{Name: "attributes-cut", Does: "ends a packet in the middle of the attributes", Outcome: Partial, answer: lie(raw(size|owner|mode|times, 0))},
		{Name: "extended-count", Does: "announces four billion extended attributes", Outcome: Partial, answer: lie(raw(size|mode|times|extended, 0, 1000, 0o100644, mtime, mtime, 0xffffffff))},
		{Name: "all-flags", Does: "sets every flag of the attributes", Outcome: Partial, answer: lie(raw(0xffffffff, 0, 1000, 0, 0, 0o100644, mtime, mtime, 0xfffffff0))},
		{Name: "lstat-status-ok", Does: "answers LSTAT with status OK", Outcome: Partial, answer: onLstat(statusOK)},
		{Name: "lstat-silent", Does: "never answers LSTAT", Outcome: Partial, answer: onLstat(silence)},
		{Name: "readlink-status-ok", Does: "answers READLINK with status OK", Outcome: Partial, answer: on(fxReadlink, statusOK)},
		{Name: "readlink-silent", Does: "never answers READLINK", Outcome: Partial, answer: on(fxReadlink, silence)},
		{Name: "readlink-two", Does: "answers READLINK with two names", Outcome: Partial, answer: on(fxReadlink, func(s *session, r request) {
			s.names(r.id, entry{name: "a"}, entry{name: "b"})
		})},
		{Name: "readlink-none", Does: "answers READLINK with no name", Outcome: Partial, answer: on(fxReadlink, func(s *session, r request) { s.names(r.id) })},
		{Name: "readlink-empty", Does: "answers READLINK with an empty name", Outcome: Partial, answer: on(fxReadlink, func(s *session, r request) { s.names(r.id, entry{}) })},
		{Name: "readlink-huge", Does: "answers READLINK with 100 KiB", Outcome: Partial, answer: on(fxReadlink, func(s *session, r request) {
			s.names(r.id, entry{name: strings.Repeat("l/", 50<<10)})
		})},
		{Name: "readlink-data", Does: "answers READLINK with data", Outcome: Partial, answer: on(fxReadlink, func(s *session, r request) { s.data(r.id, []byte("x")) })},
	}
}

// onLstat makes the evil directory look empty, so that a client has to ask, and answers that.
func onLstat(f func(*session, request)) func(*session, request) bool {
	lstat := on(fxLstat, f)
	return func(s *session, r request) bool {
		if r.kind == fxReaddir && r.path == Evil {
			s.status(r.id, eof)
			return true
		}
		return lstat(s, r)
	}
}

// readingRows lie while a file is read.
func readingRows() []Behaviour {
	return []Behaviour{
		{Name: "open-status-ok", Does: "answers OPEN with status OK", Outcome: Partial, answer: on(fxOpen, statusOK)},
		{Name: "open-silent", Does: "never answers OPEN, as for a FIFO that was listed as a file", Outcome: Partial, answer: on(fxOpen, silence)},
		{Name: "open-attributes", Does: "answers OPEN with attributes", Outcome: Partial, answer: on(fxOpen, func(s *session, r request) { s.packet(fxAttrs, r.id, plainFile.attrs()) })},
		{Name: "open-same-handle", Does: "gives the same handle for every file, so that one file is read for another", Outcome: Partial, answer: on(fxOpen, func(s *session, r request) {
			r.path = Evil + "/file"
			s.handle(r, "one")
		})},
		{Name: "open-cut-handle", Does: "ends the packet before the handle does", Outcome: Partial, answer: on(fxOpen, func(s *session, r request) { s.packet(fxHandle, r.id, be32(nil, 1000)) })},
		{Name: "read-no-data", Does: "answers READ with no data, for ever", Outcome: Partial, answer: on(fxRead, func(s *session, r request) { s.data(r.id, nil) })},
		{Name: "read-one-byte", Does: "answers READ with one byte each", Outcome: Whole, answer: func(s *session, r request) bool {
			if r.path != Evil+"/file" {
				return false
			}
			r.length = 1
			s.honest(r)
			return true
		}},
		{Name: "read-byte-in-time", Does: "answers READ with one byte each, and each byte just in time", Outcome: Partial, answer: on(fxRead, func(s *session, r request) {
			r.length = 1
			time.AfterFunc(250*time.Millisecond, func() { s.honest(r) })
		})},
		{Name: "read-halves", Does: "answers READ with half of what was asked", Outcome: Whole, answer: on(fxRead, func(s *session, r request) {
			r.length = max(1, r.length/2)
			s.honest(r)
		})},
		{Name: "read-too-much", Does: "answers READ with more than was asked", Outcome: Whole, answer: on(fxRead, func(s *session, r request) {
			n, _ := s.tree.get(r.path)
			s.data(r.id, append(n.content[min(r.offset, uint64(len(n.content))):min(r.offset+uint64(r.length), uint64(len(n.content)))], "surplus"...))
		})},
		{Name: "read-status-ok", Does: "answers READ with status OK", Outcome: Partial, answer: on(fxRead, statusOK)},
		{Name: "read-early-end", Does: "says that a file ends after 10 bytes", Outcome: Partial, answer: on(fxRead, func(s *session, r request) {
			if r.offset >= 10 {
				s.status(r.id, eof)
				return
			}
			r.length = min(r.length, 10-uint32(r.offset))
			s.honest(r)
		})},
		{Name: "read-gap", Does: "says that a file ends early, and gives what lies behind all the same", Outcome: Partial, answer: on(fxRead, func(s *session, r request) {
			if r.offset < 200<<10 {
				if r.offset > 0 {
					s.status(r.id, eof)
					return
				}
				r.length = min(r.length, 100)
			}
			s.honest(r)
		})},
		{Name: "read-silent", Does: "never answers READ", Outcome: Partial, answer: on(fxRead, silence)},
		{Name: "read-refused", Does: "answers READ with failure", Outcome: Partial, answer: on(fxRead, func(s *session, r request) { s.status(r.id, failure) })},
		{Name: "read-names", Does: "answers READ with names", Outcome: Partial, answer: on(fxRead, func(s *session, r request) { s.names(r.id, named("x")) })},
		{Name: "read-length-lies", Does: "sends data whose length is beyond the packet", Outcome: Partial, answer: on(fxRead, func(s *session, r request) {
			s.packet(fxData, r.id, append(be32(nil, 0x7fffffff), "abc"...))
		})},
		{Name: "read-half-packet", Does: "sends half of a data packet and goes silent", Outcome: Partial, answer: on(fxRead, func(s *session, r request) {
			s.bytes(append(be32(nil, 5000), append(be32([]byte{fxData}, r.id, 4991), "half"...)...))
		})},
		{Name: "file-shrinks", Does: "has a file that is half as long once it is open", Outcome: Partial, answer: on(fxRead, func(s *session, r request) {
			n, _ := s.tree.get(r.path)
			half := uint64(len(n.content) / 2)
			if r.offset >= half {
				s.status(r.id, eof)
				return
			}
			s.data(r.id, n.content[r.offset:min(half, r.offset+uint64(r.length))])
		})},
		{Name: "file-grows", Does: "has a file that is longer each time it is asked about", Outcome: Partial, answer: func(s *session, r request) bool {
			if !r.evil() || r.kind != fxFstat && r.kind != fxRead {
				return false
			}
			n, _ := s.tree.get(r.path)
			if r.kind == fxFstat {
				n.size += uint64(s.asked) << 20
				n.mtime += uint32(s.asked)
				s.packet(fxAttrs, r.id, n.attrs())
				return true
			}
			s.data(r.id, pattern(int(r.length), byte(r.offset)))
			return true
		}},
		{Name: "fstat-status-ok", Does: "answers FSTAT with status OK", Outcome: Partial, answer: on(fxFstat, statusOK)},
		{Name: "fstat-silent", Does: "never answers FSTAT", Outcome: Partial, answer: on(fxFstat, silence)},
		{Name: "fstat-directory", Does: "says of an open file that it is a directory", Outcome: Partial, answer: on(fxFstat, func(s *session, r request) { s.packet(fxAttrs, r.id, plainDir.attrs()) })},
		{Name: "fstat-negative", Does: "says of an open file that it has 2^63 bytes", Outcome: Partial, answer: on(fxFstat, func(s *session, r request) {
			n, _ := s.tree.get(r.path)
			n.size = 1 << 63
			s.packet(fxAttrs, r.id, n.attrs())
		})},
		{Name: "close-silent", Does: "never answers CLOSE", Outcome: Whole, answer: on(fxClose, silence)},
		{Name: "close-refused", Does: "answers CLOSE with failure", Outcome: Whole, answer: on(fxClose, func(s *session, r request) { s.status(r.id, failure) })},
	}
}
