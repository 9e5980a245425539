package keeper

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
)

// people lets the keeper's own user in.
func (h *house) people() *Client {
	h.t.Helper()
	dir, err := os.MkdirTemp("", "people")
	must(h.t, err)
	socket := filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	must(h.t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(h.t.Context()))
	done := make(chan error, 1)
	go func() {
		done <- NewServer(h.store, Options{UID: uint32(os.Getuid()) + 1, Level: func() string { return "ownership" }, Logf: h.t.Logf}).ServeOperator(ctx, l)
	}()
	h.t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, os.RemoveAll(dir)); err != nil {
			h.t.Error(err)
		}
	})
	c, err := Dial(h.t.Context(), socket, "test")
	must(h.t, err)
	h.t.Cleanup(func() { _ = c.Close() })
	return c
}

// A daemon that was taken over must not exchange the keyring, and who comes to the operators' socket must not do the
// daemon's work: its packs and claims would belong to nobody.
func TestDaemonAndOperatorAskDifferentThings(t *testing.T) {
	h := newHouse(t)
	daemon, operator, ctx := h.dial(), h.people(), t.Context()
	if err := daemon.SetKeyring(ctx, []byte("another"), "taken over"); err == nil || !strings.Contains(err.Error(), "not asked at this socket") {
		t.Errorf("the daemon exchanged the keyring: %v", err)
	}
	if got := string(h.store.Keyring()); got != "wrapped keyring\n" {
		t.Errorf("the keyring is %q", got)
	}
	_, create := operator.CreatePack(ctx, "s1", "web1")
	_, claim := operator.Claim(ctx, "s1", roaring.New())
	_, extend := operator.Extend(ctx, strings.Repeat("a", 64), ledger.Lock{Mode: ledger.Governance, ForSeconds: 60}, "x")
	_, sweep := operator.Sweep(ctx)
	_, condemn := operator.Condemn(ctx)
	for what, err := range map[string]error{
		"create": create, "claim": claim, "extend": extend, "sweep": sweep, "condemn": condemn, "discard": operator.Discard(ctx, 1), "release": operator.Release(ctx, "s1"),
	} {
		if err == nil || !strings.Contains(err.Error(), "not asked at this socket") {
			t.Errorf("an operator's %s: %v", what, err)
		}
	}
	must(t, operator.SetKeyring(ctx, []byte("another"), "a recipient more"))
	if got := string(h.store.Keyring()); got != "another" {
		t.Errorf("the keyring is %q", got)
	}
	if err := operator.SetKeyring(ctx, nil, "none"); err == nil {
		t.Error("an empty keyring was taken")
	}
}

func TestHealthTellsWhatIsWrong(t *testing.T) {
	h := newHouse(t)
	h.commit(h.dial(), "web1", "s1")
	operator := h.people()
	before, err := operator.Health(t.Context())
	if err != nil || before.Vault != testVault || before.Mark.Size < 3 || before.Level != "ownership" || len(before.Findings) > 0 || before.Pending > 0 || before.Now.Shifted {
		t.Errorf("%+v, %v", before, err)
	}
	must(t, h.disk.SetFlags(".", 0, durable.Immutable))
	must(t, os.Remove(filepath.Join(h.dir, "keyring")))
	must(t, h.disk.SetFlags(".", durable.Immutable, 0))
	after, err := operator.Health(t.Context())
	if err != nil || len(after.Findings) != 1 || !strings.Contains(after.Findings[0], "keyring") {
		t.Errorf("%+v, %v: want that the keyring is missing", after, err)
	}
}
