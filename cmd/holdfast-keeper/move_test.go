package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// mounted makes another file system for a machine, with a directory of the keeper's in it.
func (m *machine) mounted(name, fsys string) (dir string) {
	m.t.Helper()
	at, image := filepath.Join(m.run, name), filepath.Join(m.run, name+".image")
	must(m.t, errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 320<<20), os.Mkdir(at, 0o755)))
	if fsys == "xfs" {
		command(m.t, "mkfs.xfs", "-q", "-f", image)
	} else {
		command(m.t, "mkfs.ext4", "-q", "-F", "-m", "0", image)
	}
	command(m.t, "mount", "-o", "loop", image, at)
	m.t.Cleanup(func() { command(m.t, "umount", at) })
	dir = filepath.Join(at, "vault")
	m.directory(dir, keeperUID, 0o750)
	return dir
}

// runKeeper runs the keeper's program as its user, with its capability, to its end.
func (m *machine) runKeeper(args ...string) (code int, out string) {
	m.t.Helper()
	c := exec.Command("setpriv", append(append(append([]string{}, keeperCaps...), filepath.Join(m.bin, "holdfast-keeper")), args...)...)
	c.Dir = "/"
	b, err := c.CombinedOutput()
	if err != nil && c.ProcessState == nil {
		m.t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), string(b)
}

// locks gives what a vault says of each snapshot and its locks, without what the clocks change.
func (s *site) locks() string {
	s.t.Helper()
	var list []map[string]any
	must(s.t, json.Unmarshal([]byte(s.must("snapshots", "--json")), &list))
	for _, snap := range list { // worked out from clocks that go on
		until, err := time.Parse(time.RFC3339, fmt.Sprint(snap["locked_until"]))
		must(s.t, err)
		snap["locked_until"] = until.Round(time.Hour)
	}
	b, err := json.Marshal(list)
	must(s.t, err)
	return string(b)
}

// The whole way: a keeper's vault on ext4 moves to XFS while a move is cut once, serves on from there with every lock, and the
// old place goes. What was saved of the ledger before still proves it.
func TestAKeptVaultMovesToAnotherDisk(t *testing.T) {
	s := newSite(t, "ext4")
	keeper := s.keeper()
	s.must("init", "--recovery-out", filepath.Join(s.run, "daemon", "recovery.key"))
	daemon := s.daemon()
	s.must("pull", "web1")
	s.must("lock", "web1@latest", "--for", "40d", "--mode", "compliance")
	s.must("hold", "add", "web1@latest", "--reason", "a trial")
	s.must("pull", "web1")
	saved := filepath.Join(s.run, "daemon", "saved")
	must(t, os.WriteFile(saved, []byte(s.must("ledger", "checkpoint")), 0o644))
	before := s.locks()
	files := tree(t, s.vault)
	old, to := s.vault, s.mounted("larger", "xfs")
	user := "--user=" + strconv.Itoa(daemonUID)
	if code, out := s.runKeeper("move", "--vault", old, user, to); code != exitFailed || !strings.Contains(out, "stop keeper and daemon first") {
		t.Errorf("beside a running keeper: %d %s", code, out)
	}
	must(t, ended(daemon.stop()))
	must(t, ended(keeper.stop()))

	theirs := filepath.Join(filepath.Dir(to), "theirs")
	must(t, errors.Join(os.Mkdir(theirs, 0o750), os.Chown(theirs, keeperUID, 0)))
	for harm, args := range map[string][]string{
		"lies in":        {"move", "--vault", old, user, filepath.Join(old, "incoming")},
		"is not empty":   {"move", "--vault", old, user, filepath.Dir(to)},
		"must belong to": {"move", "--vault", old, user, theirs},
		"bears no mark":  {"retire", user, old},
	} {
		if harm == "is not empty" {
			must(t, os.Chown(filepath.Dir(to), keeperUID, daemonUID))
		}
		if code, out := s.runKeeper(args...); code != exitFailed || !strings.Contains(out, harm) && !strings.Contains(out, "places are one") {
			t.Errorf("%s: %d %s", harm, code, out)
		}
	}
	must(t, os.Chown(filepath.Dir(to), 0, 0))
	if _, err := os.Stat(filepath.Join(to, "keeper")); err == nil {
		t.Error("a refused move left something")
	}

	s.vault = to
	p := s.start(keeperCaps, nil, filepath.Join(s.bin, "holdfast-keeper"), "move", "--vault", old, user, to)
	marked := func() bool { _, err := os.Stat(filepath.Join(to, "moving")); return err == nil }
	s.until("the move begins", marked)
	p.kill()
	if marked() { // else it was done before the signal came
		s.refused("a keeper in the new place of a move that was cut", keeperCaps, s.keeperArgs(), "a vault is moving in here")
	}
	if code, out := s.runKeeper("move", "--vault", old, user, to); code != exitDone || !strings.Contains(out, "moved") {
		t.Fatalf("%d %s", code, out)
	}
	for name, sum := range tree(t, to) {
		if was, ok := files[name]; ok && was != sum && !strings.HasPrefix(name, "/keeper/") && !strings.HasPrefix(name, "/ledger/") && !strings.HasPrefix(name, "/log/") {
			t.Errorf("%s is not what it was", name)
		}
	}
	s.vault = old
	s.refused("a keeper in the old place", keeperCaps, s.keeperArgs(), `the vault has moved to .*larger/vault`)
	s.vault = to
	config, err := os.ReadFile(s.config)
	must(t, err)

	keeper = s.keeper()
	forgotten := s.start(daemonCaps, s.env, filepath.Join(s.bin, "holdfast"), "serve")
	if code := forgotten.ends(); code == exitDone || !strings.Contains(forgotten.errs.String(), "the vault has moved to") {
		t.Errorf("a daemon that names the old place, beside a keeper in the new one: %d %s", code, forgotten.errs.String())
	}
	must(t, os.WriteFile(s.config, []byte(strings.ReplaceAll(string(config), old, to)), 0o644))
	if said := keeper.errs.String(); strings.Contains(said, "flags were missing") {
		t.Errorf("the new place lacked flags:\n%s", said)
	}
	s.daemon()
	if after := s.locks(); after != before {
		t.Errorf("locks were\n%s\nand are\n%s", before, after)
	}
	s.must("ledger", "verify", "--against", saved)
	s.must("pull", "web1")
	s.whole("moved")
	if done := s.attack(daemonUID, to); done != "" {
		t.Errorf("as the daemon's user:\n%s", done)
	}
	if out := command(t, "sh", "-c", `rm -rf "$1" 2>&1 || true`, "rm", filepath.Join(old, "packs")); !strings.Contains(out, "not permitted") {
		t.Errorf("the old place can be removed before it is retired: %s", out)
	}
	if code, out := s.runKeeper("retire", user, old); code != exitDone || !strings.Contains(out, "nothing protects") {
		t.Fatalf("%d %s", code, out)
	}
	command(t, "rm", "-r", old)
	s.must("check", "--read-data")
}

// Without flags a move is refused unless that is accepted, and then files and directories have the modes that a keeper without
// flags gives them.
func TestAKeptVaultMovesWithoutFlags(t *testing.T) {
	m := newMachine(t)
	m.found()
	to, user := m.mounted("larger", "ext4"), "--user="+strconv.Itoa(daemonUID)
	weakly := func(args ...string) (int, string) {
		p := m.start(daemonCapsAs(keeperUID), nil, append([]string{filepath.Join(m.bin, "holdfast-keeper")}, args...)...)
		return p.ends(), p.errs.String()
	}
	if code, out := weakly("move", "--vault", m.vault, user, to); code != exitFailed || !strings.Contains(out, "--accept-weaker-protection") {
		t.Errorf("%d %s", code, out)
	}
	if code, out := weakly("move", "--vault", m.vault, user, "--accept-weaker-protection", to); code != exitDone {
		t.Fatalf("%d %s", code, out)
	}
	if info, err := os.Stat(filepath.Join(to, "ledger")); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	old := m.vault
	m.vault = to
	p := m.start(daemonCapsAs(keeperUID), nil, m.keeperArgs("--accept-weaker-protection")...)
	p.awaits("READY=1")
	if code, out := weakly("retire", user, old); code != exitDone {
		t.Errorf("%d %s", code, out)
	}
}
