package remote

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

const (
	packetSmall = 32 << 10  // what every server answers whole
	packetLarge = 255 << 10 // the largest that OpenSSH does

	handlesPerChannel = 400
)

// channel is one SFTP session.
type channel struct {
	link   *link
	stream *stream
	sftp   *sftp.Client
	slots  *slots       // of open handles
	busy   atomic.Int64 // operations in flight
	warm   atomic.Bool  // the first READ was sent; see burst
	deep   bool         // answers READDIR requests strictly in order, so that several may be in flight
}

// errHasty says that no SFTP server answered in time and that it was not asked for an answer to the request to start it.
var errHasty = errors.New("no answer from an SFTP server")

// openChannel opens one more SFTP session on the connection. For the first the deadline of the handshake holds; the others end with the connection.
// hasty asks for the subsystem without waiting for an answer, a round trip less; then it is errHasty when none came in a third of the handshake's time. opened
// is called when the server has granted the session; nil for nothing.
func (l *link) openChannel(hasty bool, opened func()) (*channel, error) {
	raw, requests, err := l.client.OpenChannel("session", nil)
	if err != nil {
		return nil, err
	}
	if opened != nil {
		opened()
	}
	l.tasks.Go(func() { ssh.DiscardRequests(requests) })
	l.tasks.Go(func() { io.Copy(io.Discard, raw.Stderr()) }) // left unread it would eat the window
	ok, err := raw.SendRequest("subsystem", !hasty, ssh.Marshal(struct{ Name string }{"sftp"}))
	if err == nil && !ok && !hasty {
		err = errors.New("the server has no sftp subsystem for this user")
	}
	if err != nil {
		raw.Close()
		return nil, err
	}
	c := &channel{link: l, slots: newSlots()}
	c.stream = newStream(raw, channelWriter{raw}, l.source.big, l.dead, l.kill)
	c.stream.unread = l.source.unread
	var late atomic.Bool
	if hasty {
		patience := time.AfterFunc(l.source.config.Limits.HandshakeTimeout/3, func() {
			late.Store(true)
			raw.Close() // which the server answers, so that the wait for its version ends
		})
		defer patience.Stop()
	}
	c.sftp, err = newClient(c.stream)
	if err != nil {
		raw.Close()
		if late.Load() {
			err = errHasty
		}
		return nil, err
	}
	c.deep = strings.HasPrefix(string(l.client.ServerVersion()), "SSH-2.0-OpenSSH")
	return c, nil
}

// newClient is sftp.NewClientPipe with its panics turned into errors. The sizes of reads are our own business, so the client is told
// the largest.
func newClient(s *stream) (c *sftp.Client, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &ProtocolError{Op: "init", Detail: fmt.Sprint(r)}
		}
	}()
	c, err = sftp.NewClientPipe(s, s, sftp.MaxPacketUnchecked(packetLarge))
	var breach *ProtocolError
	switch {
	case err == nil || errors.As(s.err, &breach):
	case errors.Is(err, io.ErrUnexpectedEOF): // a cut connection looks the same
		err = errors.New("the session ended before an SFTP server answered: does the host's sshd_config have a working Subsystem sftp, and may this key use it?")
	case s.err == nil:
		err = &ProtocolError{Op: "init", Detail: plain(err)}
	}
	return c, err
}

// channelWriter makes Close of an ssh.Channel a full close: CloseWrite alone leaves the server in charge of the end.
type channelWriter struct{ ssh.Channel }

// shut ends what runs for the channel of a link that was killed.
func (c *channel) shut() {
	c.sftp.Close()
	// pkg/sftp may have stopped reading while a listing of ours waits for its answer on the same stream.
	c.stream.end(c.link.cause)
}

// measure asks the server for its limits, or for anything if it has none to tell, and takes the time. Nothing but this counts as the connection's
// work: one that achieves no more is not to be dialled again for ever.
func (l *link) measure(c *channel) error {
	l.packet = packetSmall
	w := c.watch(l.source.life)
	defer w.end()
	begin := time.Now()
	_, told := c.sftp.HasExtension("limits@openssh.com")
	kind, text := byte(packetRealpath), "."
	if told {
		kind, text = packetExtended, "limits@openssh.com"
	}
	a, err := c.stream.ask(kind, text)
	if err != nil {
		return fmt.Errorf("%w: %s", ErrLost, plain(err))
	}
	defer a.drop()
	l.rtt = time.Since(begin)
	if told && a.kind == packetExtReply {
		l.packet = packetFor(a.body)
	}
	close(l.measured)
	return nil
}

// packet is the bytes of the largest READ. It waits until that is known, as it mostly is.
func (c *channel) packet(ctx context.Context, path string) (int, error) {
	select {
	case <-c.link.measured:
		return c.link.packet, nil
	default:
	}
	select {
	case <-c.link.measured:
		return c.link.packet, nil
	case <-c.link.dead:
		return 0, &lostError{op: "read", path: path, cause: c.link.cause}
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// packetFor reads the answer to limits@openssh.com and picks the size of a READ. A server that lies is caught by the reads themselves, so the figures are
// only brought into sane bounds. 0 means that the server sets no limit.
//
//	uint64 packet length | uint64 read length | uint64 write length | uint64 open handles
func packetFor(body []byte) int {
	if len(body) < 16 {
		return packetSmall
	}
	packet, read := binary.BigEndian.Uint64(body), binary.BigEndian.Uint64(body[8:])
	size := uint64(packetLarge)
	if read != 0 {
		size = min(size, read)
	}
	if packet > 1024 {
		size = min(size, packet-1024)
	}
	if size < packetSmall {
		return packetSmall
	}
	return int(size)
}

// do runs one operation on the channel: f blocks until it is answered. The watchdog frees it by closing the connection; a panic
// in f becomes a ProtocolError; what a status answer says becomes an error with op and path; everything else is a loss. f keeps io.EOF to
// itself.
func (c *channel) do(ctx context.Context, op, path string, f func() error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if cause := c.link.down(); cause != nil {
		return &lostError{op: op, path: path, cause: cause}
	}
	c.link.source.requests.Add(1)
	c.busy.Add(1)
	defer c.busy.Add(-1)
	w := c.watch(ctx)
	err := guarded(op, path, f)
	stalled := w.end()
	if err == nil {
		c.link.worked.Store(true)
		return nil
	}
	return c.judge(ctx, op, path, err, stalled)
}

// guarded recovers from what pkg/sftp does with answers that it does not expect.
func guarded(op, path string, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &ProtocolError{Op: op, Path: path, Detail: fmt.Sprint("the answer makes no sense: ", r)}
		}
	}()
	return f()
}

// judge says what a failed operation means.
func (c *channel) judge(ctx context.Context, op, path string, err error, stalled bool) error {
	if stalled {
		return fmt.Errorf("%s %q: %w within %v", op, path, ErrStalled, c.link.source.config.Limits.OpTimeout)
	}
	if ctx.Err() != nil && c.link.down() != nil {
		return context.Cause(ctx)
	}
	if status, ok := statusError(op, path, err); ok {
		c.link.worked.Store(true)
		return status
	}
	var limit *LimitError
	if errors.As(err, &limit) {
		return err
	}
	var protocol *ProtocolError
	if errors.As(err, &protocol) && c.link.down() == nil {
		c.link.kill(err)
		return err
	}
	if lost(err) || c.link.down() != nil {
		c.link.kill(errEnded)
		return &lostError{op: op, path: path, cause: c.link.cause}
	}
	protocol = &ProtocolError{Op: op, Path: path, Detail: plain(err)}
	c.link.kill(protocol)
	return protocol
}

// lost recognises the errors of a channel that has ended.
func lost(err error) bool {
	for _, end := range []error{sftp.ErrSSHFxConnectionLost, io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed, syscall.EPIPE, syscall.ECONNRESET} {
		if errors.Is(err, end) {
			return true
		}
	}
	var op *net.OpError
	return errors.As(err, &op)
}
