package keeper

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"
)

// frameReader reads what a peer says. The first byte of a frame may come when it will, and the rest soon: half a frame and
// silence would hold one of the few connections for ever.
type frameReader struct {
	c      *net.UnixConn
	within time.Duration
	began  bool
	beside []byte // room for descriptors
}

// passedMax is how many descriptors the kernel passes with one message (SCM_MAX_FD).
const passedMax = 253

func newFrameReader(c *net.UnixConn, within time.Duration) *frameReader {
	return &frameReader{c: c, within: within, beside: make([]byte, syscall.CmsgSpace(4*passedMax))}
}

func (r *frameReader) next() {
	r.began = false
	_ = r.c.SetReadDeadline(time.Time{}) // of a closed connection, which the read says
}

// Read takes descriptors only in order to close them elsewhere. Were there no room for them the kernel would close them here,
// and whoever has the last of a file waits until it is closed: a socket can be made to take years over that.
func (r *frameReader) Read(b []byte) (int, error) {
	n, beside, flags, _, err := r.c.ReadMsgUnix(b, r.beside)
	if beside > 0 {
		putAway(r.beside[:beside])
	}
	if beside > 0 || err == nil && flags&syscall.MSG_CTRUNC != 0 {
		return 0, fmt.Errorf("%w: a descriptor came with it", ErrMalformed)
	}
	if n > 0 && !r.began {
		r.began = true
		err = errors.Join(err, r.c.SetReadDeadline(time.Now().Add(r.within)))
	}
	return n, err
}

// closing are the closes of foreign descriptors that are under way, each of which may hold a thread for as long as its sender
// likes. What comes while all are stuck stays open, which costs less.
var closing = make(chan struct{}, 16)

// putAway closes the descriptors of a message without waiting for it.
func putAway(beside []byte) {
	messages, err := syscall.ParseSocketControlMessage(beside)
	if err != nil {
		return
	}
	for i := range messages {
		fds, err := syscall.ParseUnixRights(&messages[i])
		if err != nil {
			continue // of another kind
		}
		for _, fd := range fds {
			_ = syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{}) // no socket, mostly
			select {
			case closing <- struct{}{}:
				go func() {
					_ = syscall.Close(fd)
					<-closing
				}()
			default:
			}
		}
	}
}

// soPassRights is SO_PASSRIGHTS, by which Linux lets a socket refuse descriptors from 6.16 on.
const soPassRights = 0x53

// refuseDescriptors has the kernel refuse descriptors that are sent to a connection, or to every one that is made to a
// listener from now on: nothing that a peer has gets into this process then. An older kernel does not know how, and one that
// was sent before is there already: those are closed beside the connection.
func refuseDescriptors(socket syscall.Conn) {
	conn, err := socket.SyscallConn()
	if err != nil {
		return // closed, which whoever uses it is told
	}
	_ = conn.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, soPassRights, 0) })
}
