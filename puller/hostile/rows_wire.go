package hostile

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// answerRows break the pairing of requests and answers.
func answerRows() []Behaviour {
	evil := func(f func(s *session, r request)) func(*session, request) bool {
		return func(s *session, r request) bool {
			if !r.evil() || r.kind == fxClose {
				return false
			}
			f(s, r)
			return true
		}
	}
	return []Behaviour{
		{Name: "status-ok-for-everything", Does: "answers everything with status OK", Outcome: Partial, answer: evil(statusOK)},
		{Name: "failure-for-everything", Does: "answers everything with failure", Outcome: Partial, answer: evil(func(s *session, r request) { s.status(r.id, failure) })},
		{Name: "unknown-status", Does: "answers everything with a status that does not exist", Outcome: Partial, answer: evil(func(s *session, r request) { s.status(r.id, 4711) })},
		{Name: "eof-for-everything", Does: "answers everything with end of file", Outcome: Partial, answer: evil(func(s *session, r request) { s.status(r.id, eof) })},
		{Name: "short-status", Does: "answers with a status without a message", Outcome: Partial, answer: evil(func(s *session, r request) { s.packet(fxStatus, r.id, be32(nil, failure)) })},
		{Name: "empty-status", Does: "answers with a status without a code", Outcome: Partial, answer: evil(func(s *session, r request) { s.packet(fxStatus, r.id, nil) })},
		{Name: "escape-status", Does: "answers with a message of escape codes", Outcome: Partial, answer: evil(func(s *session, r request) {
			s.packet(fxStatus, r.id, append(be32(nil, failure), append(text("\x1b[2J\x1b]0;owned\a\n2026 all is well"), text("")...)...))
		})},
		{Name: "wrong-ids", Does: "answers with the id of the request plus one", Outcome: Partial, answer: evil(func(s *session, r request) {
			r.id++
			s.honest(r)
		})},
		{Name: "answers-twice", Does: "answers everything twice", Outcome: Partial, answer: evil(func(s *session, r request) {
			s.honest(r)
			s.status(r.id, failure)
		})},
		{Name: "answers-unasked", Does: "sends answers to requests that were never made", Outcome: Partial, answer: evil(func(s *session, r request) {
			for id := range uint32(50) {
				s.data(r.id+100000+id, []byte("here"))
			}
			s.honest(r)
		})},
		{Name: "answers-high-ids", Does: "sends answers with ids of the upper half", Outcome: Partial, answer: evil(func(s *session, r request) {
			s.names(r.id|0x80000000+77, named("x"))
			s.honest(r)
		})},
		{Name: "answers-late", Does: "holds answers back and sends four at once in reverse order", Outcome: Whole, answer: func(s *session, r request) bool {
			if r.kind != fxRead || r.path != Honest+"/big" {
				return false
			}
			s.kept = append(s.kept, func() { s.honest(r) })
			if len(s.kept) >= 2 || uint64(r.offset)+uint64(r.length) >= bigBytes && len(s.kept) == 1 {
				for _, f := range slices.Backward(s.kept) {
					f()
				}
				s.kept = nil
			}
			return true
		}},
		{Name: "answers-backwards", Does: "answers what is asked of an open file in reverse order, once it is to be closed", Outcome: Whole, answer: func(s *session, r request) bool {
			if !strings.HasPrefix(r.path, Honest+"/sub/") || r.kind != fxRead && r.kind != fxFstat && r.kind != fxClose {
				return false
			}
			s.kept = append(s.kept, func() { s.honest(r) })
			if r.kind == fxClose {
				for _, f := range slices.Backward(s.kept) {
					f()
				}
				s.kept = nil
			}
			return true
		}},
		{Name: "closes-first", Does: "closes a file before it has read what was asked for just before", Outcome: Whole, answer: func(s *session, r request) bool {
			if !strings.HasPrefix(r.path, Honest+"/sub/") || r.kind != fxRead && r.kind != fxClose {
				return false
			}
			if late := s.late[r.text]; r.kind == fxClose {
				if late.timer != nil && late.timer.Stop() {
					s.status(late.id, failure)
				}
				delete(s.late, r.text)
				return false
			}
			s.late[r.text] = later{r.id, time.AfterFunc(20*time.Millisecond, func() { s.honest(r) })}
			return true
		}},
		{Name: "one-open-file", Does: "allows one open file or directory on a channel, and refuses a second with failure", Outcome: Whole, answer: func(s *session, r request) bool {
			if r.kind != fxOpen && r.kind != fxOpendir || len(s.handles) == 0 {
				return false
			}
			s.status(r.id, failure)
			return true
		}},
		{Name: "close-unanswered-ever", Does: "answers everything of an open file but CLOSE, in the honest part", Outcome: Whole, answer: func(s *session, r request) bool {
			return r.kind == fxClose && strings.HasPrefix(r.path, Honest+"/sub/")
		}},
		{Name: "unknown-packets", Does: "answers with packets of a type that does not exist", Outcome: Partial, answer: evil(func(s *session, r request) { s.packet(77, r.id, []byte("what")) })},
		{Name: "packet-of-nothing", Does: "sends a packet of length zero", Outcome: Partial, answer: evil(func(s *session, r request) { s.bytes(be32(nil, 0)) })},
		{Name: "packet-of-one-byte", Does: "sends a packet too short for an id", Outcome: Partial, answer: evil(func(s *session, r request) { s.bytes([]byte{0, 0, 0, 1, fxStatus}) })},
		{Name: "packet-of-four-gigabytes", Does: "announces a packet of 4 GiB", Outcome: Partial, answer: evil(func(s *session, r request) {
			s.bytes(append([]byte{0xff, 0xff, 0xff, 0xff, fxData}, be32(nil, r.id, 0xfffffff0)...))
		})},
		{Name: "packet-of-fifteen-megabytes", Does: "announces a packet of 15 MiB and sends none of it", Outcome: Partial, answer: evil(func(s *session, r request) {
			s.bytes(append(be32(nil, 15<<20), append([]byte{fxName}, be32(nil, r.id, 1000)...)...))
		})},
		{Name: "garbage", Does: "sends garbage", Outcome: Partial, answer: evil(func(s *session, r request) { s.bytes(pattern(64<<10, 99)) })},
		{Name: "http", Does: "answers in another language", Outcome: Partial, answer: evil(func(s *session, r request) { s.bytes([]byte("HTTP/1.1 200 OK\r\n\r\n")) })},
	}
}

// initRows are hostile before the first file.
func initRows() []Behaviour {
	first := func(f func(s *session, r request)) func(*session, request) bool {
		return func(s *session, r request) bool {
			if r.kind == fxInit {
				f(s, r)
			}
			return r.kind == fxInit
		}
	}
	limits := func(f func(s *session, r request)) func(*session, request) bool {
		return func(s *session, r request) bool {
			if r.kind == fxExtended {
				f(s, r)
			}
			return r.kind == fxExtended
		}
	}
	return []Behaviour{
		{Name: "init-silent", Does: "never answers INIT", Outcome: Lost, answer: first(silence)},
		{Name: "init-status", Does: "answers INIT with a status", Outcome: Lost, answer: first(statusOK)},
		{Name: "init-version-6", Does: "speaks version 6", Outcome: Lost, answer: first(func(s *session, r request) { s.version(6) })},
		{Name: "init-version-cut", Does: "ends the version in the middle", Outcome: Lost, answer: first(func(s *session, r request) { s.bytes([]byte{0, 0, 0, 3, fxVersion, 0, 0}) })},
		{Name: "init-extensions-cut", Does: "ends the list of extensions in the middle", Outcome: Lost, answer: first(func(s *session, r request) {
			s.send(append([]byte{fxVersion}, be32(nil, 3, 5000)...))
		})},
		{Name: "init-many-extensions", Does: "has 3000 extensions", Outcome: Whole, answer: first(func(s *session, r request) {
			var list []string
			for i := range 3000 {
				list = append(list, fmt.Sprint("ext", i), "1")
			}
			s.version(3, list...)
		})},
		{Name: "init-greeting", Does: "prints a greeting before the protocol, as a careless profile does", Outcome: Lost, answer: first(func(s *session, r request) {
			s.bytes([]byte("Welcome to this host!\r\n"))
			s.version(3)
		})},
		{Name: "init-no-extensions", Does: "has no extensions", Outcome: Whole, answer: first(func(s *session, r request) { s.version(3) })},
		{Name: "limits-silent", Does: "never answers limits@openssh.com", Outcome: Lost, answer: limits(silence)},
		{Name: "limits-refused", Does: "offers limits@openssh.com and refuses it", Outcome: Whole, answer: limits(func(s *session, r request) { s.status(r.id, failure) })},
		{Name: "limits-huge", Does: "says that it answers 2^64-1 bytes whole, and answers 32 KiB", Outcome: Whole, answer: func(s *session, r request) bool {
			switch r.kind {
			case fxExtended:
				s.limits(r, 1<<64-1, 1<<64-1)
			case fxRead:
				r.length = min(r.length, 32<<10)
				s.honest(r)
			default:
				return false
			}
			return true
		}},
		{Name: "limits-zero", Does: "says that it sets no limits", Outcome: Whole, answer: limits(func(s *session, r request) { s.limits(r, 0, 0) })},
		{Name: "limits-tiny", Does: "says that it answers one byte", Outcome: Whole, answer: limits(func(s *session, r request) { s.limits(r, 1, 1) })},
		{Name: "limits-cut", Does: "answers limits@openssh.com with three bytes", Outcome: Whole, answer: limits(func(s *session, r request) { s.packet(fxExtReply, r.id, []byte{1, 2, 3}) })},
		{Name: "limits-data", Does: "answers limits@openssh.com with data", Outcome: Whole, answer: limits(func(s *session, r request) { s.data(r.id, []byte("32 KiB")) })},
	}
}

// cutRows end the connection at each operation on the evil part, and at fixed places of the stream.
func cutRows() []Behaviour {
	var rows []Behaviour
	for name, kind := range map[string]byte{"opendir": fxOpendir, "readdir": fxReaddir, "open": fxOpen, "read": fxRead, "fstat": fxFstat, "readlink": fxReadlink} {
		rows = append(rows, Behaviour{Name: "cut-at-" + name, Does: "cuts the connection at " + name, Outcome: Partial, answer: on(kind, func(s *session, r request) { s.cut() })})
		rows = append(rows, Behaviour{Name: "channel-end-at-" + name, Does: "ends the channel at " + name, Outcome: Partial, answer: on(kind, func(s *session, r request) { s.ch.Close() })})
	}
	rows = append(rows, Behaviour{Name: "cut-once-at-read", Does: "cuts the first connection at its first read of the evil part", Outcome: Whole, answer: func(s *session, r request) bool {
		return s.conn.number == 1 && r.kind == fxRead && r.evil() && s.cut()
	}})
	for _, n := range []int64{0, 10, 100, 500, 1200, 2000, 3000} {
		rows = append(rows, Behaviour{Name: fmt.Sprintf("cut-after-%d-bytes", n), Does: "cuts every connection after so many bytes, in the middle of the handshake", Outcome: Lost,
			wrap: func(c net.Conn) net.Conn { return &shortened{Conn: c, left: n} }})
	}
	slices.SortFunc(rows, func(a, b Behaviour) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	return rows
}

// shortened ends after so many written bytes.
type shortened struct {
	net.Conn
	left int64
}

func (s *shortened) Write(p []byte) (int, error) {
	n := min(int64(len(p)), s.left)
	s.left -= n
	s.Conn.Write(p[:n])
	if n < int64(len(p)) {
		s.Conn.Close()
		return int(n), io.ErrShortWrite
	}
	return int(n), nil
}

// connectionRows are hostile before SFTP begins.
func connectionRows() []Behaviour {
	say := func(text string) func(*conn) bool {
		return func(c *conn) bool {
			c.Write([]byte(text))
			return c.hush()
		}
	}
	return []Behaviour{
		{Name: "hangs-up", Does: "closes every connection at once", Outcome: Lost, raw: func(*conn) bool { return true }},
		{Name: "says-nothing", Does: "accepts and says nothing", Outcome: Lost, raw: (*conn).hush},
		{Name: "version-and-silence", Does: "sends its version and nothing more", Outcome: Lost, raw: say("SSH-2.0-OpenSSH_9.2\r\n")},
		{Name: "version-garbage", Does: "sends its version and garbage", Outcome: Lost, raw: func(c *conn) bool {
			c.Write(append([]byte("SSH-2.0-OpenSSH_9.2\r\n"), pattern(4096, 1)...))
			return c.hush()
		}},
		{Name: "version-endless", Does: "sends a version line that does not end", Outcome: Lost, raw: func(c *conn) bool {
			go c.hush()
			for {
				if _, err := c.Write(bytes.Repeat([]byte("SSH-2.0-x"), 1000)); err != nil {
					return true
				}
			}
		}},
		{Name: "banner-endless", Does: "sends lines before its version for ever", Outcome: Lost, raw: func(c *conn) bool {
			go c.hush()
			for {
				if _, err := c.Write(bytes.Repeat([]byte("hello\r\n"), 1000)); err != nil {
					return true
				}
			}
		}},
		{Name: "version-1", Does: "speaks version 1 of SSH", Outcome: Lost, raw: say("SSH-1.5-old\r\n")},
		{Name: "http-server", Does: "is a web server", Outcome: Lost, raw: say("HTTP/1.1 400 Bad Request\r\n\r\n")},
		{Name: "packet-length-lies", Does: "announces an SSH packet of 4 GiB", Outcome: Lost, raw: say("SSH-2.0-OpenSSH_9.2\r\n\xff\xff\xff\xff\xff\xff")},
		{Name: "drips-handshake", Does: "sends the handshake a byte at a time", Outcome: Lost, wrap: func(c net.Conn) net.Conn { return &dripping{Conn: c} }},
		{Name: "wrong-host-key", Does: "has another host key", Outcome: Lost, ssh: func(c *conn, config *ssh.ServerConfig) { config.AddHostKey(ClientKey()) }},
		{Name: "login-refused", Does: "accepts no key", Outcome: Lost, ssh: func(c *conn, config *ssh.ServerConfig) {
			config.PublicKeyCallback = func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, fmt.Errorf("no") }
		}},
		{Name: "login-silent", Does: "never answers the login", Outcome: Lost, ssh: func(c *conn, config *ssh.ServerConfig) {
			config.PublicKeyCallback = func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
				<-c.server.quit
				return nil, fmt.Errorf("too late")
			}
		}},
		{Name: "login-banner", Does: "sends a banner of escape codes with the login", Outcome: Whole, ssh: func(c *conn, config *ssh.ServerConfig) {
			config.BannerCallback = func(ssh.ConnMetadata) string { return "\x1b[2J" + string(bytes.Repeat([]byte("banner "), 4000)) }
		}},
		{Name: "no-channels", Does: "refuses every channel", Outcome: Lost, open: func(c *conn, n int, r ssh.NewChannel) bool {
			r.Reject(ssh.ResourceShortage, "none \x1b[31mleft")
			return true
		}},
		{Name: "channel-silent", Does: "never answers the opening of a channel", Outcome: Lost, open: func(*conn, int, ssh.NewChannel) bool { return true }},
		{Name: "one-channel", Does: "refuses every channel but the first", Outcome: Whole, open: func(c *conn, n int, r ssh.NewChannel) bool {
			if n > 1 {
				r.Reject(ssh.Prohibited, "one is enough")
			}
			return n > 1
		}},
		{Name: "one-connection", Does: "hangs up on every connection but the first", Outcome: Whole, raw: func(c *conn) bool { return c.number > 1 }},
		{Name: "subsystem-refused", Does: "has no SFTP", Outcome: Lost, request: func(c *conn, ch ssh.Channel, r *ssh.Request) bool {
			r.Reply(false, nil)
			return true
		}},
		{Name: "subsystem-silent", Does: "never answers the request for SFTP", Outcome: Lost, request: func(*conn, ssh.Channel, *ssh.Request) bool { return true }},
		{Name: "subsystem-ends", Does: "starts SFTP and ends the channel", Outcome: Lost, request: func(c *conn, ch ssh.Channel, r *ssh.Request) bool {
			r.Reply(true, nil)
			ch.SendRequest("exit-status", false, []byte{0, 0, 0, 1})
			ch.Close()
			return true
		}},
	}
}

// dripping sends a byte every 20 ms.
type dripping struct {
	net.Conn
}

func (d *dripping) Write(p []byte) (int, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := range p {
		if _, err := d.Conn.Write(p[i : i+1]); err != nil {
			return i, err
		}
		<-tick.C
	}
	return len(p), nil
}

// nuisanceRows disturb a connection that otherwise works.
func nuisanceRows() []Behaviour {
	// during runs f again and again while the connection stands.
	during := func(f func(c *conn) error) func(*conn) {
		return func(c *conn) {
			for f(c) == nil {
				select {
				case <-c.server.quit:
					return
				case <-c.gone:
					return
				default:
				}
			}
		}
	}
	return []Behaviour{
		{Name: "rekeys-all-the-time", Does: "changes keys after every 4 KiB", Outcome: Whole, ssh: func(c *conn, config *ssh.ServerConfig) { config.RekeyThreshold = 4 << 10 }},
		{Name: "global-requests", Does: "sends global requests for ever", Outcome: Whole, standing: during(func(c *conn) error {
			_, _, err := c.login.SendRequest("hello@example.com", true, pattern(200, 1))
			return err
		})},
		{Name: "opens-channels", Does: "opens channels to the client for ever", Outcome: Whole, standing: during(func(c *conn) error {
			ch, requests, err := c.login.OpenChannel("forwarded-tcpip", pattern(40, 1))
			if err == nil {
				go ssh.DiscardRequests(requests)
				return ch.Close()
			}
			if _, refused := err.(*ssh.OpenChannelError); refused {
				return nil
			}
			return err
		})},
		{Name: "keepalive-silent", Does: "answers no global request", Outcome: Whole, mute: true},
		{Name: "standard-error", Does: "fills the channel with standard error", Outcome: Whole, request: func(c *conn, ch ssh.Channel, r *ssh.Request) bool {
			if r.Type == "subsystem" {
				c.work.Go(func() {
					for range 64 {
						if _, err := ch.Stderr().Write(pattern(64<<10, 2)); err != nil {
							return
						}
					}
				})
			}
			return false
		}},
		{Name: "channel-requests", Does: "sends requests on the channel for ever", Outcome: Whole, request: func(c *conn, ch ssh.Channel, r *ssh.Request) bool {
			if r.Type == "subsystem" {
				c.work.Go(func() {
					for range 5000 {
						if _, err := ch.SendRequest("window-change", false, pattern(16, 2)); err != nil {
							return
						}
					}
				})
			}
			return false
		}},
		{Name: "drips-answers", Does: "sends the evil part a byte at a time, below any useful speed", Outcome: Partial, answer: func(s *session, r request) bool {
			if r.kind != fxRead || !r.evil() {
				return false
			}
			n, _ := s.tree.get(r.path)
			p := append(be32(nil, uint32(9+len(n.content))), append(be32([]byte{fxData}, r.id), text(string(n.content))...)...)
			s.conn.work.Go(func() {
				tick := time.NewTicker(100 * time.Millisecond)
				defer tick.Stop()
				for i := range p {
					if s.bytes(p[i:i+1]) != nil {
						return
					}
					select {
					case <-tick.C:
					case <-s.conn.gone:
						return
					}
				}
			})
			return true
		}},
		{Name: "stops-reading", Does: "stops reading requests when the evil part is opened", Outcome: Partial, answer: on(fxOpendir, func(s *session, r request) { s.conn.wait() })},
		{Name: "flips-bytes", Does: "has a bit flipped on the way after 20 KiB", Outcome: Lost, wrap: func(c net.Conn) net.Conn { return &flipping{Conn: c, at: 20 << 10} }},
		{Name: "ends-input", Does: "ends its side of the channel at the evil part and stays", Outcome: Partial, answer: on(fxOpendir, func(s *session, r request) {
			s.ch.CloseWrite()
		})},
	}
}

// flipping changes one bit.
type flipping struct {
	net.Conn
	at, written int
}

func (f *flipping) Write(p []byte) (int, error) {
	if i := f.at - f.written; i >= 0 && i < len(p) {
		p = bytes.Clone(p)
		p[i] ^= 0x10
	}
	f.written += len(p)
	return f.Conn.Write(p)
}
