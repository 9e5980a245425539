package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// household is both programs on a machine: a keeper, and what the daemon's user needs to reach it.
type household struct {
	*machine
	env    []string
	config string
}

func newHousehold(t testing.TB, lock string) *household {
	t.Helper()
	h := &household{machine: newMachine(t)}
	h.config = filepath.Join(h.work, "holdfast.yaml")
	h.env = []string{
		"HOLDFAST_CONFIG=" + h.config, "HOLDFAST_UNLOCK_KEY=" + filepath.Join(h.work, "unlock.key"), "HOME=" + h.work, "RUNTIME_DIRECTORY=" + filepath.Join(h.run, "daemon"),
	}
	text := fmt.Sprintf("vault: %s\nkeeper: %s\nwork: %s\nmetrics: {listen: \"127.0.0.1:0\"}\nlock: {mode: %s, for: 1d}\n", h.vault, h.socket, filepath.Join(h.work, "own"), lock)
	must(t, os.WriteFile(h.config, []byte(text), 0o644))
	h.directory(filepath.Join(h.work, "own"), daemonUID, 0o700)
	return h
}

// says runs a command of the daemon's program as its user.
func (h *household) says(args ...string) (code int, out, errs string) {
	c := exec.Command("setpriv", append(append(daemonCapsAs(daemonUID), filepath.Join(h.bin, "holdfast")), args...)...)
	c.Env = append([]string{"PATH=" + os.Getenv("PATH")}, h.env...)
	c.Dir = "/"
	var o, e bytes.Buffer
	c.Stdout, c.Stderr = &o, &e
	_ = c.Run() // its code tells
	return c.ProcessState.ExitCode(), o.String(), e.String()
}

// What the daemon says of its protection beside a real keeper is what both found, and compliance can be promised.
func TestBesideAKeeperTheFlagHolds(t *testing.T) {
	h := newHousehold(t, "compliance")
	h.keeper()
	if code, _, errs := h.says("init", "--recovery-out", filepath.Join(h.work, "recovery.key")); code != exitDone {
		t.Fatalf("init: %d %s", code, errs)
	}
	d := h.start(daemonCapsAs(daemonUID), h.env, filepath.Join(h.bin, "holdfast"), "serve")
	d.awaits("READY=1")
	code, out, errs := h.says("doctor", "--json")
	var j struct {
		Findings   []struct{ About, State, Text string }
		Protection struct {
			Level    string
			Attempts []struct{ Through bool }
		}
	}
	if err := json.Unmarshal([]byte(out), &j); err != nil {
		t.Fatalf("%d %v %s %s", code, err, out, errs)
	}
	if j.Protection.Level != "immutable flag" || len(j.Protection.Attempts) < 25 {
		t.Errorf("%+v", j.Protection)
	}
	well := map[string]bool{}
	for _, f := range j.Findings {
		if f.State == "ok" {
			well[f.About] = true
		} else if f.State != "note" {
			t.Errorf("%+v", f)
		}
	}
	for _, about := range []string{"keeper", "daemon", "protection", "compliance", "directories", "file system", "ledger", "files", "unlock key"} {
		if !well[about] {
			t.Errorf("of %s doctor does not say that it is well:\n%s", about, out)
		}
	}
	m := regexp.MustCompile(`for=metrics on=(\S+)`).FindStringSubmatch(d.errs.String())
	if m == nil {
		t.Fatal("no metrics")
	}
	resp, err := http.Get("http://" + m[1] + "/metrics")
	must(t, err)
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	must(t, err)
	if !strings.Contains(string(page), "\nholdfast_protection_level{level=\"immutable flag\"} 1\n") {
		t.Errorf("the page does not say it:\n%s", page)
	}
	if code := d.stop(); code != exitDone {
		t.Errorf("serve ends with %d", code)
	}
	if said := d.errs.String(); !strings.Contains(said, `level="immutable flag"`) || !strings.Contains(said, "through=0") {
		t.Errorf("the daemon says:\n%s", said)
	}
}

// A keeper that cannot make anything immutable does not promise it unless that was accepted, and is not taken for more then.
func TestAWeakKeeperIsNotTakenForMore(t *testing.T) {
	h := newHousehold(t, "compliance")
	p := h.start(daemonCapsAs(keeperUID), nil, h.keeperArgs("--accept-weaker-protection")...)
	p.awaits("READY=1")
	if code, _, errs := h.says("init", "--recovery-out", filepath.Join(h.work, "recovery.key")); code != exitDone {
		t.Fatalf("init, which was accepted: %d %s", code, errs)
	}
	if code, out := h.status(); !strings.Contains(out, `protection "ownership"`) {
		t.Errorf("%d %s", code, out)
	}
	if p.stop() != exitDone {
		t.Error("the keeper")
	}
	h.refused("weak, and nobody accepted it", daemonCapsAs(keeperUID), h.keeperArgs(), "accept-weaker-protection")
}

// status is what the keeper says of itself.
func (h *household) status() (code int, out string) {
	c := exec.Command("setpriv", append(daemonCapsAs(keeperUID), filepath.Join(h.bin, "holdfast-keeper"), "status", "--socket", h.socket)...)
	b, _ := c.CombinedOutput() // its code tells
	return c.ProcessState.ExitCode(), string(b)
}
