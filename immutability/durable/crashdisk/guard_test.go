package crashdisk_test

import (
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
)

func flagsOf(t *testing.T, d *crashdisk.Disk, name string) durable.Flags {
	t.Helper()
	f, err := d.Flags(name)
	must(t, err)
	return f
}

func TestFlagsNeedASync(t *testing.T) {
	d := crashdisk.New()
	f := create(t, d, "a")
	must(t, f.Close())
	must(t, d.Mkdir("dir", 0o755))
	must(t, d.SyncDir("."))
	for _, name := range []string{"a", "dir"} {
		must(t, d.SetFlags(name, durable.AppendOnly, 0))
		must(t, d.SetFlags(name, durable.Immutable, durable.AppendOnly))
		if got := flagsOf(t, d.Restart(crashdisk.LoseUnsynced, 0), name); got != 0 {
			t.Errorf("%s: unsynced flags %q survived the cut", name, got)
		}
		if got := flagsOf(t, d.Restart(crashdisk.KeepAll, 0), name); got != durable.Immutable {
			t.Errorf("%s: flags %q after a cut that lost nothing", name, got)
		}
		seen := map[durable.Flags]bool{}
		for seed := range int64(50) {
			seen[flagsOf(t, d.Restart(crashdisk.Random, seed), name)] = true
		}
		if !seen[0] || !seen[durable.AppendOnly] || !seen[durable.Immutable] || len(seen) != 3 {
			t.Errorf("%s: flags found after cuts: %v", name, seen)
		}
	}
	f, err := d.Open("a")
	must(t, err)
	must(t, f.Sync())
	must(t, d.SyncDir("dir"))
	for _, name := range []string{"a", "dir"} {
		if got := flagsOf(t, d.Restart(crashdisk.LoseUnsynced, 0), name); got != durable.Immutable {
			t.Errorf("%s: synced flags are %q after the cut", name, got)
		}
		if got := flagsOf(t, d.Clone(), name); got != durable.Immutable {
			t.Errorf("%s: flags of the clone are %q", name, got)
		}
	}
}

func TestAnOldWriterStillWrites(t *testing.T) {
	d := crashdisk.New()
	w := create(t, d, "a")
	must(t, d.SetFlags("a", durable.Immutable, 0))
	if _, err := w.Write([]byte("x")); err != nil {
		t.Errorf("the model is kinder than XFS: %v", err)
	}
}

func TestAWriterBreaksTheLease(t *testing.T) {
	d := crashdisk.New()
	must(t, create(t, d, "a").Close())
	h, err := d.Hold("a")
	must(t, err)
	must(t, h.Lease())
	w, err := d.Append("a")
	must(t, err)
	must(t, w.Close())
	if ok, err := h.Leased(); ok || err != nil {
		t.Errorf("leased %v, %v although somebody could write", ok, err)
	}
}

func TestFlagsAreOperations(t *testing.T) {
	d := crashdisk.New()
	must(t, create(t, d, "a").Close())
	before := d.Ops()
	must(t, d.SetFlags("a", 0, durable.Immutable))
	if d.Ops() != before {
		t.Error("flags that did not change were counted")
	}
	d.FailAt(before+1, crashdisk.IOError)
	if err := d.SetFlags("a", durable.Immutable, 0); err == nil || flagsOf(t, d, "a") != 0 {
		t.Errorf("the fault did not happen: %v", err)
	}
	must(t, d.SetFlags("a", durable.Immutable, 0))
	if d.Ops() != before+2 {
		t.Errorf("%d operations, want 2", d.Ops()-before)
	}
}
