package keeper

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// A probe must not be a way to fill the vault, to write to what is sealed, or to reach a pack.
func TestAProbeLeavesNothing(t *testing.T) {
	h := newHouse(t)
	c, ctx := h.dial(), t.Context()
	if err := c.SealProbe(ctx); err == nil {
		t.Error("a probe was sealed that nobody made")
	}
	file, w, err := c.Probe(ctx)
	must(t, err)
	if _, _, err := c.Probe(ctx); !errors.Is(err, durable.ErrWriter) { // what busy is to the daemon
		t.Errorf("a second probe at a time: %v", err)
	}
	_, err = w.WriteString("content")
	must(t, err)
	if err := c.SealProbe(ctx); !errors.Is(err, durable.ErrWriter) {
		t.Errorf("sealed beside its writer: %v", err)
	}
	must(t, w.Close())
	must(t, c.SealProbe(ctx))
	if f, err := h.disk.Flags(file); err != nil || f != durable.Immutable {
		t.Errorf("flags %v, %v", f, err)
	}
	if err := c.tell(ctx, KindLeave, &Pack{}); err == nil {
		t.Error("a probe became a leftover")
	}
	must(t, c.DropProbe(ctx))
	if size, _ := h.store.Ledger().Head(); size != 1 {
		t.Errorf("%d records", size)
	}
	_, w, err = c.Probe(ctx)
	must(t, err)
	must(t, w.Close())
	must(t, c.Close())
	h.stop() // once all connections are looked after
	if names, err := os.ReadDir(filepath.Join(h.dir, "incoming")); err != nil || len(names) > 0 {
		t.Errorf("%v %v", names, err)
	}
}

// What a keeper that was killed left of a probe is immutable, and must not be in the way of the next.
func TestAProbeOfAKilledKeeperGoes(t *testing.T) {
	h := newHouse(t)
	must(t, os.WriteFile(filepath.Join(h.dir, "incoming", "probe-1"), []byte("left"), 0o440))
	must(t, h.disk.SetFlags("incoming/probe-1", durable.Immutable, 0))
	c := h.dial()
	file, w, err := c.Probe(t.Context())
	must(t, err)
	must(t, w.Close())
	must(t, c.DropProbe(t.Context()))
	if _, err := h.disk.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
