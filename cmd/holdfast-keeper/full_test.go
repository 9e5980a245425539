package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// fill leaves no room on the machine's disk, neither for bytes nor for names.
func (m *machine) fill() {
	m.t.Helper()
	f, err := os.Create(filepath.Join(m.work, "fill"))
	must(m.t, err)
	for i := 0; err == nil; i++ { // names first, which take room themselves
		err = syscall.Mknod(filepath.Join(m.work, fmt.Sprint(i)), syscall.S_IFIFO|0o600, 0)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		m.t.Fatal(err)
	}
	for size := 1 << 20; size >= 512; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			m.t.Fatal(err)
		}
	}
	must(m.t, f.Close())
}

// A keeper that does not start on a full disk is a vault that nobody can make room in: it alone removes. And a daemon that
// does not gives nothing back.
func TestAFullDiskKeepsNobodyFromStarting(t *testing.T) {
	h := newHousehold(t, "compliance")
	p := h.keeper()
	if code, _, errs := h.says("init", "--recovery-out", filepath.Join(h.work, "recovery.key")); code != exitDone {
		t.Fatalf("init: %d %s", code, errs)
	}
	if p.stop() != exitDone {
		t.Fatal("the first keeper")
	}
	h.fill()
	p = h.keeper()
	if code, out := h.status(); code != exitDone || !strings.Contains(out, `protection "immutable flag"`) {
		t.Errorf("%d %s", code, out)
	}
	d := h.start(daemonCapsAs(daemonUID), h.env, filepath.Join(h.bin, "holdfast"), "serve")
	d.awaits("READY=1")
	if d.stop() != exitDone {
		t.Error("the daemon on a full disk")
	}
	p.stop() // its clock cannot be saved, which it says
	if said := p.errs.String(); !strings.Contains(said, "was not tried; the vault's root is immutable") || !strings.Contains(said, "make room") {
		t.Errorf("it does not say what it could not try:\n%s", said)
	}
}

// Settings that cannot be read must not be found out about only after a vault was made without them: what is looser could not
// be made tighter unseen, and the next start would be refused.
func TestNoVaultIsMadeWithoutItsSettings(t *testing.T) {
	h := newHousehold(t, "governance")
	settings := filepath.Join(h.run, "policy.json")
	must(t, os.WriteFile(settings, []byte(`{"mode": "compliance", "surprise": 1}`), 0o644))
	p := h.keeper("--policy", settings)
	code, _, errs := h.says("init", "--recovery-out", filepath.Join(h.work, "recovery.key"))
	if code != exitFailed || !strings.Contains(errs, "surprise") {
		t.Errorf("%d %s", code, errs)
	}
	must(t, os.WriteFile(settings, []byte(`{"mode": "compliance"}`), 0o644))
	if code, _, errs := h.says("init", "--recovery-out", filepath.Join(h.work, "recovery2.key")); code != exitDone {
		t.Errorf("once they are mended: %d %s", code, errs)
	}
	p.stop()
}

// A daemon that starts before its keeper and gives up is restarted a few times within a minute and then never again, while the
// keeper may take an hour to recover.
func TestADaemonWaitsForItsKeeper(t *testing.T) {
	h := newHousehold(t, "governance")
	p := h.keeper()
	if code, _, errs := h.says("init", "--recovery-out", filepath.Join(h.work, "recovery.key")); code != exitDone {
		t.Fatalf("init: %d %s", code, errs)
	}
	p.stop()
	begin := func() *program {
		d := h.start(daemonCapsAs(daemonUID), h.env, filepath.Join(h.bin, "holdfast"), "serve")
		d.awaits("STATUS=Waiting for the keeper")
		return d
	}
	if d := begin(); d.stop() != exitDone {
		t.Error("one that is ended while it waits")
	} else if said := d.errs.String(); !strings.Contains(said, "systemctl status holdfast-keeper") {
		t.Errorf("it does not say what to do:\n%s", said)
	}
	d := begin()
	p = h.keeper()
	d.awaits("READY=1")
	if d.stop() != exitDone || p.stop() != exitDone {
		t.Error("one of them does not end as it should")
	}
}
