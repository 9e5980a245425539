package keeper

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// lingering gives the only descriptor of a connection that takes an hour to close: what it has to say is not taken.
func lingering(t *testing.T) int {
	t.Helper()
	l, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { _ = syscall.Close(l) })
	must(t, errors.Join(syscall.Bind(l, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(l, 1)))
	at, err := syscall.Getsockname(l)
	must(t, err)
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	must(t, err)
	must(t, errors.Join(syscall.Connect(fd, at), syscall.SetNonblock(fd, true)))
	for err = nil; err == nil; {
		_, err = syscall.Write(fd, make([]byte, 1<<16))
	}
	if !errors.Is(err, syscall.EAGAIN) {
		t.Fatal(err)
	}
	must(t, syscall.SetNonblock(fd, false))
	must(t, syscall.SetsockoptLinger(fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1, Linger: 20}))
	return fd
}

// TestADescriptorThatDoesNotCloseHoldsTheKeeperUp: the last one to have a descriptor closes it, and a message can make that
// the keeper.
func TestADescriptorThatDoesNotCloseHoldsTheKeeperUp(t *testing.T) {
	h := newHouse(t)
	h.hear()
	for range connectionsMax {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: h.socket, Net: "unix"})
		must(t, err)
		fd := lingering(t)
		_, _, err = c.WriteMsgUnix(request(t, 1, KindHello, &Hello{"x"}), syscall.UnixRights(fd), nil)
		must(t, errors.Join(err, syscall.Close(fd), c.CloseWrite()))
		began := time.Now()
		must(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		must(t, c.Close())
	}
	h.commit(h.dial(), "web1", "s1")
}
