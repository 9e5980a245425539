package remote

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/ssh"
)

// Powers says what a key can do at a source besides reading. All false is what is wanted.
type Powers struct {
	Write    bool // create, change, rename or remove files
	Run      bool // run a command or a shell
	Terminal bool // be given a terminal
	Forward  bool // open connections from or listen on the source

	Details []string // what was tried and let through, one sentence each
}

// ReadOnly says that nothing but reading was let through.
func (p Powers) ReadOnly() bool { return !p.Write && !p.Run && !p.Terminal && !p.Forward }

func (p *Powers) found(power *bool, format string, args ...any) {
	*power = true
	p.Details = append(p.Details, fmt.Sprintf(format, args...))
}

// Probe tries on connections of its own whether the key that s logs in with could do more than read. It changes nothing on the source: what it
// tries to write lies in a directory that does not exist, so that a server which lets us try answers "no such file", and one
// which confines the key "permission denied". The command that it tries to run prints a word.
//
// Powers that it reports are there. Powers that it does not report may still be, on servers that answer in their own way.
func Probe(ctx context.Context, s *Source, path string) (Powers, error) {
	if err := s.config.Limits.checkPath("probe", path); err != nil {
		return Powers{}, err
	}
	var p Powers
	for _, try := range []func(context.Context, *link, string, *Powers) error{probeWrite, probeRun, probeTerminal, probeForward} {
		if err := s.probe(ctx, path, &p, try); err != nil {
			return p, err
		}
	}
	return p, nil
}

// probe makes one try on a connection of its own: some servers answer a forbidden request by hanging up.
func (s *Source) probe(ctx context.Context, path string, p *Powers, try func(context.Context, *link, string, *Powers) error) error {
	l, err := s.dialLink(ctx, 1, opening{})
	if err != nil {
		return err
	}
	defer l.wait()
	defer l.kill(ErrClosed)
	return try(ctx, l, path, p)
}

// The requests that a key for reading must not have.
const (
	packetOpen    = 3
	packetSetstat = 9
	packetRemove  = 13
	packetMkdir   = 14
	packetRmdir   = 15
	packetRename  = 18
	packetSymlink = 20
)

// probeWrite sends each request that changes something, below a directory that does not exist.
func probeWrite(ctx context.Context, l *link, path string, p *Powers) error {
	nowhere := Join(path, "holdfast-probe-"+rand.Text())
	a, b := Join(nowhere, "a"), Join(nowhere, "b")
	const write, create = 0x2, 0x8
	open := binary.BigEndian.AppendUint32(nil, write|create)
	none := binary.BigEndian.AppendUint32(nil, 0)
	for _, try := range []struct {
		what string
		kind byte
		body []byte
	}{
		{"open a file for writing", packetOpen, append(append(appendString(nil, a), open...), none...)},
		{"change a file's attributes", packetSetstat, append(appendString(nil, a), none...)},
		{"remove a file", packetRemove, appendString(nil, a)},
		{"make a directory", packetMkdir, append(appendString(nil, a), none...)},
		{"remove a directory", packetRmdir, appendString(nil, a)},
		{"rename a file", packetRename, append(appendString(nil, a), appendString(nil, b)...)},
		{"make a symbolic link", packetSymlink, append(appendString(nil, "x"), appendString(nil, a)...)},
	} {
		var code uint32
		c := l.list()[0]
		err := c.do(ctx, "probe", path, func() (err error) {
			code, err = c.stream.askRaw(try.kind, try.body)
			return err
		})
		if errors.Is(err, ErrLost) {
			return nil // OpenSSH with a list of allowed requests may end the session: refused thoroughly
		}
		if err != nil {
			return err
		}
		if code == statusOK || code == statusNoSuchFile {
			p.found(&p.Write, "it may %s", try.what)
		}
	}
	return nil
}

// askRaw sends a request whose body is ready, and returns the code of its status answer; a handle counts as OK.
func (s *stream) askRaw(kind byte, body []byte) (uint32, error) {
	c, err := s.send(kind, frameMax, body)
	if err != nil {
		return 0, err
	}
	a := <-c.answer
	if a.err != nil {
		return 0, a.err
	}
	defer a.drop()
	switch a.kind {
	case packetHandle:
		return statusOK, nil
	case packetStatus:
		cur := cursor{b: a.body}
		code, _ := cur.status()
		return code, cur.err
	}
	return 0, fmt.Errorf("packet of type %d instead of a status", a.kind)
}

// probeRun asks for a command and for a shell, and looks for their output. A forced command takes the request too, and prints something else.
func probeRun(ctx context.Context, l *link, _ string, p *Powers) error {
	word := "holdfast-" + rand.Text()
	for _, try := range []struct {
		what, request, payload, input string
	}{
		{"run a command", "exec", "echo " + word, ""},
		{"run a shell", "shell", "", "echo " + word + "\nexit\n"},
	} {
		output, err := l.session(ctx, func(ch ssh.Channel) ([]byte, error) {
			var payload []byte
			if try.payload != "" {
				payload = appendString(nil, try.payload)
			}
			if ok, err := ch.SendRequest(try.request, true, payload); err != nil || !ok {
				return nil, err
			}
			if _, err := io.WriteString(ch, try.input); err != nil && err != io.EOF {
				return nil, err
			}
			if err := ch.CloseWrite(); err != nil && err != io.EOF {
				return nil, err
			}
			return io.ReadAll(io.LimitReader(ch, 64<<10))
		})
		if err != nil {
			return err
		}
		if bytes.Contains(output, []byte(word)) {
			p.found(&p.Run, "it may %s", try.what)
		}
	}
	return nil
}

func probeTerminal(ctx context.Context, l *link, _ string, p *Powers) error {
	_, err := l.session(ctx, func(ch ssh.Channel) ([]byte, error) {
		ok, err := ch.SendRequest("pty-req", true, ssh.Marshal(struct {
			Term                      string
			Columns, Rows, Wide, High uint32
			Modes                     string
		}{"dumb", 80, 24, 0, 0, "\x00"}))
		if ok {
			p.found(&p.Terminal, "it is given a terminal")
		}
		return nil, err
	})
	return err
}

// probeForward tries to connect to a port of the source on which nothing listens, and to listen on a port of the source's choice on its
// loopback, which is given back at once. Unix sockets are left out: OpenSSH answers a forbidden one as it answers a missing one, and listening on
// one would leave a file behind.
func probeForward(ctx context.Context, l *link, _ string, p *Powers) error {
	err := l.bounded(ctx, func() error {
		ch, requests, err := l.client.OpenChannel("direct-tcpip", ssh.Marshal(struct {
			Host       string
			Port       uint32
			Origin     string
			OriginPort uint32
		}{"127.0.0.1", 1, "127.0.0.1", 1}))
		var refused *ssh.OpenChannelError
		if errors.As(err, &refused) {
			if refused.Reason == ssh.ConnectionFailed { // it tried, so it may
				p.found(&p.Forward, "it may open TCP connections from the source")
			}
			return nil
		}
		if err != nil {
			return err
		}
		l.tasks.Go(func() { ssh.DiscardRequests(requests) })
		p.found(&p.Forward, "it may open TCP connections from the source")
		return ch.Close()
	})
	if err != nil {
		return err
	}
	return l.bounded(ctx, func() error {
		listen := append(appendString(nil, "127.0.0.1"), 0, 0, 0, 0)
		ok, reply, err := l.client.SendRequest("tcpip-forward", true, listen)
		if err != nil || !ok {
			return err
		}
		p.found(&p.Forward, "it may listen on the source")
		if len(reply) >= 4 {
			_, _, err = l.client.SendRequest("cancel-tcpip-forward", true, append(appendString(nil, "127.0.0.1"), reply[:4]...))
		}
		return err
	})
}

// session opens a channel for f. A server that refuses one more session, or f's request, has let nothing through.
func (l *link) session(ctx context.Context, f func(ssh.Channel) ([]byte, error)) (output []byte, err error) {
	err = l.bounded(ctx, func() error {
		ch, requests, err := l.client.OpenChannel("session", nil)
		var refused *ssh.OpenChannelError
		if errors.As(err, &refused) {
			return nil
		}
		if err != nil {
			return err
		}
		defer ch.Close()
		l.tasks.Go(func() { ssh.DiscardRequests(requests) })
		l.tasks.Go(func() { io.Copy(io.Discard, ch.Stderr()) })
		if output, err = f(ch); errors.Is(err, io.EOF) {
			err = nil // closed in the middle of a request: refused
		}
		return err
	})
	return output, err
}

// bounded runs what has no deadline of its own; when OpTimeout or the context runs out, the connection is closed.
func (l *link) bounded(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, l.source.config.Limits.OpTimeout, ErrStalled)
	defer cancel()
	defer context.AfterFunc(ctx, func() { l.kill(context.Cause(ctx)) })()
	err := f()
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("probe: %w", context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("probe: %w: %s", ErrLost, plain(err))
	}
	return nil
}
