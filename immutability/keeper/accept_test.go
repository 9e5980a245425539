package keeper

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestKeeperWithoutADescriptorLeftGoesOn: whoever used up all descriptors for a moment must not end the keeper.
func TestKeeperWithoutADescriptorLeftGoesOn(t *testing.T) {
	h := newHouse(t)
	dir, err := os.MkdirTemp("", "keeper")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	name := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	said, done := make(chan string, 100), make(chan error, 1)
	server := NewServer(h.store, Options{UID: uint32(os.Getuid()), Logf: func(format string, _ ...any) { said <- format }})
	go func() { done <- server.Serve(ctx, l) }()

	knock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(knock)
	free, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0) // the next that anybody gets
	must(t, err)
	must(t, unix.Close(free))
	var was unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &was))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(free), Max: was.Max}))
	err = unix.Connect(knock, &unix.SockaddrUnix{Name: name})
	var first string
	if err == nil {
		select {
		case first = <-said:
		case err = <-done:
		}
	}
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &was))
	must(t, err)
	if !strings.Contains(first, "no connection can be taken") {
		t.Fatalf("said %q", first)
	}
	c, err := Dial(t.Context(), name, "test")
	must(t, err)
	must(t, c.Close())
	cancel()
	must(t, <-done)
}
