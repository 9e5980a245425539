package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
)

// TestAFileOfNothingHoldsTheKeeperUp: a file of a terabyte costs its writer nothing, and would take the keeper hours to read,
// in which it neither ends nor answers those who come after four such files.
func TestAFileOfNothingHoldsTheKeeperUp(t *testing.T) {
	h := newHouse(t)
	c := h.dial()
	in, err := c.CreatePack(t.Context(), "s1", "web1")
	must(t, err)
	must(t, os.Truncate(filepath.Join(h.dir, "incoming", fmt.Sprintf("%08d.pack", in.Number)), 1<<40))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var f *Failure
	if _, err := c.Seal(ctx, in); !errors.As(err, &f) || f.Code != Refused {
		t.Errorf("%v", err)
	}
	must(t, c.Drop(ctx, in))
	next := h.begin(c, "s1")
	if _, err := c.Seal(ctx, next); err != nil {
		t.Error(err)
	}
	if _, ok := h.store.Pack(in.Number); ok {
		t.Error("it is sealed")
	}
}

// TestCommitsGivenUpKeepOthersOut: a pull that is ended while its manifest is on its way says nothing more of it, and must not
// take a place for as long as the daemon lives.
func TestCommitsGivenUpKeepOthersOut(t *testing.T) {
	h := newHouse(t)
	c := h.dial()
	for i := range 5 {
		_, err := c.call(t.Context(), KindPut, &Put{Session: fmt.Sprint("gone", i), Data: make([]byte, 1000)})
		must(t, err)
	}
	h.commit(c, "web1", "s1")
}

// TestPullsThatEndTogetherFail: more of them than the keeper takes manifests at a time wait for each other.
func TestPullsThatEndTogetherFail(t *testing.T) {
	h := newHouse(t)
	c := h.dial()
	const many = 6
	var manifests [many][]byte
	for i := range many {
		session := fmt.Sprint("s", i)
		in, err := c.CreatePack(t.Context(), session, fmt.Sprint("web", i))
		must(t, err)
		_, err = in.File.Write(content(in.Number))
		must(t, err)
		_, err = c.Seal(t.Context(), in)
		must(t, err)
		manifests[i] = h.manifest(c, fmt.Sprint("web", i), session, 8<<20, in.Number)
	}
	var all sync.WaitGroup
	for i, m := range manifests {
		all.Go(func() {
			if _, err := c.Commit(t.Context(), fmt.Sprint("s", i), m, reliance.ID(m), ledger.Lock{}); err != nil {
				t.Errorf("pull %d: %v", i, err)
			}
		})
	}
	all.Wait()
}

// TestHalfARequestHoldsAConnection: four of them would keep the daemon out for ever; one between two requests may be silent.
func TestHalfARequestHoldsAConnection(t *testing.T) {
	h := newHouse(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: h.socket + "2", Net: "unix"})
	must(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	s := NewServer(h.store, Options{UID: uint32(os.Getuid()), Logf: t.Logf})
	s.patience = 20 * time.Millisecond
	go func() { done <- s.Serve(ctx, l) }()
	defer func() {
		cancel()
		must(t, <-done)
	}()
	quiet, err := Dial(t.Context(), h.socket+"2", "test")
	must(t, err)
	defer quiet.Close()
	for range connectionsMax * 2 {
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: h.socket + "2", Net: "unix"})
		must(t, err)
		_, err = c.Write(request(t, 1, KindHello, &Hello{"x"})[:7])
		must(t, err)
		must(t, c.SetReadDeadline(time.Now().Add(20*time.Second)))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatalf("%v", err)
		}
		must(t, c.Close())
	}
	if _, err := quiet.Now(t.Context()); err != nil {
		t.Errorf("who was silent between two requests: %v", err)
	}
}
