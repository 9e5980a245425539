package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// loop makes a file system of its own in a file.
func (m *machine) loop(name, fsys string, size int64) string {
	m.t.Helper()
	dir, image := filepath.Join(m.run, name), filepath.Join(m.run, name+".image")
	must(m.t, os.WriteFile(image, nil, 0o600))
	must(m.t, os.Truncate(image, size))
	must(m.t, os.Mkdir(dir, 0o755))
	if fsys == "xfs" {
		command(m.t, "mkfs.xfs", "-q", "-f", image)
	} else {
		command(m.t, "mkfs.ext4", "-q", "-F", "-m", "0", image)
	}
	command(m.t, "mount", "-o", "loop", image, dir)
	m.t.Cleanup(func() { command(m.t, "umount", dir) })
	return dir
}

// asKeeper runs a command of the keeper's with its user and capability.
func (m *machine) asKeeper(args ...string) (code int, out string) {
	m.t.Helper()
	c := exec.Command("setpriv", append(append([]string{}, keeperCaps...), append([]string{filepath.Join(m.bin, "holdfast-keeper")}, args...)...)...)
	c.Dir = "/"
	b, err := c.CombinedOutput()
	if err != nil && c.ProcessState == nil {
		m.t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), string(b)
}

// sums are the packs in a place: inode and hash.
func sums(t testing.TB, dir string) map[string]string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "packs", "*"))
	must(t, err)
	out := map[string]string{}
	for _, name := range names {
		b, err := os.ReadFile(name)
		must(t, err)
		info, err := os.Stat(name)
		must(t, err)
		out[filepath.Base(name)] = fmt.Sprintf("%d %x", info.Sys().(*syscall.Stat_t).Ino, sha256.Sum256(b))
	}
	return out
}

// The vault's disk is full of locked packs. A second disk takes what comes, protected as the first, and nothing of what was
// sealed is touched.
func TestADiskFullOfLockedPacksGoesOnInASecondPlace(t *testing.T) {
	s := newSite(t, "ext4")
	small := s.loop("small", "ext4", 32<<20) // a pull keeps room for what it has on its way
	config, err := os.ReadFile(s.config)
	must(t, err)
	old := s.vault
	s.vault = filepath.Join(small, "vault")
	s.directory(s.vault, keeperUID, 0o750)
	must(t, os.WriteFile(s.config, bytes.ReplaceAll(config, []byte(old), []byte(s.vault)), 0o644))
	// Half of the large files come later.
	late := map[string]string{}
	for i := 303; i < 306; i++ {
		name := filepath.Join(s.source, fmt.Sprintf("d%02d", i%17), fmt.Sprintf("f%03d", i))
		late[name] = filepath.Join(s.run, fmt.Sprint(i))
		must(t, os.Rename(name, late[name]))
	}
	k := s.keeper()
	s.must("init", "--recovery-out", filepath.Join(s.run, "daemon", "recovery.key"))
	s.must("pull", "web1")
	for name, from := range late {
		must(t, os.Rename(from, name))
	}
	if code, out := s.holdfast("pull", "web1"); code == exitDone || !strings.Contains(out, "no room") {
		t.Fatalf("the disk is not full: exit %d\n%s", code, out)
	}
	before := sums(t, s.vault)

	// Nobody adds a place beside a running keeper, and nobody but its own user at all.
	disk := s.loop("second", "xfs", 320<<20)
	second := filepath.Join(disk, "place")
	s.directory(second, keeperUID, 0o750)
	add := []string{"place", "add", "--vault", s.vault, second}
	if code, out := s.asKeeper(add...); code != exitFailed || !strings.Contains(out, "stop the keeper first") {
		t.Errorf("beside the keeper: exit %d %s", code, out)
	}
	stale := s.daemon()
	must(t, ended(k.stop()))
	if err := s.as(daemonUID, append([]string{filepath.Join(s.bin, "holdfast-keeper")}, add...)...); err == nil {
		t.Error("the daemon's user added a place")
	}
	if code, out := s.holdfast("vault", "place", "add", second); code == exitDone {
		t.Errorf("the daemon added a place: %s", out)
	}
	free := command(t, "df", "--output=avail", small)
	code, out := s.asKeeper(add...)
	if code != exitDone {
		t.Fatalf("exit %d %s (free: %s)", code, out, free)
	}
	k = s.keeper()
	// A daemon from before knows one place; in the other packs would seem to be missing to it.
	if code, out := s.holdfast("pull", "web1"); code == exitDone || code == exitDamage || !strings.Contains(out, "start it anew") {
		t.Errorf("a daemon that does not know the place: exit %d %s", code, out)
	}
	must(t, ended(stale.stop()))
	s.must("pull", "web1")
	s.whole("second")
	after := sums(t, s.vault)
	for name, sum := range before {
		if after[name] != sum {
			t.Errorf("%s of the first place was touched", name)
		}
	}
	if len(after) != len(before) || len(sums(t, second)) == 0 {
		t.Errorf("%d packs in the first place, %d before; %d in the second", len(after), len(before), len(sums(t, second)))
	}
	if code, out := s.asKeeper("status", "--socket", s.socket); code != exitDone || !strings.Contains(out, `protection "immutable flag"`) {
		t.Errorf("%d %s", code, out)
	}
	for _, uid := range []int{daemonUID, daemonUID + 10} {
		if done := s.attack(uid, second); done != "" {
			t.Errorf("as user %d:\n%s", uid, done)
		}
	}
	for name := range sums(t, second) {
		if s.as(keeperUID, "rm", "-f", filepath.Join(second, "packs", name)) == nil {
			t.Errorf("the files' own user removes %s", name)
		}
	}
	if out := s.must("vault", "place", "list"); !strings.Contains(out, second) {
		t.Error(out)
	}
	// Where somebody else could put another directory in its place, none is added.
	must(t, os.Mkdir(filepath.Join(disk, "open"), 0o755))
	exposed := filepath.Join(disk, "open", "place")
	s.directory(exposed, keeperUID, 0o750)
	must(t, os.Chmod(filepath.Join(disk, "open"), 0o777))
	must(t, ended(k.stop()))
	if code, out := s.asKeeper("place", "add", "--vault", s.vault, exposed); code != exitFailed || !strings.Contains(out, "another directory in its place") {
		t.Errorf("exit %d %s", code, out)
	}
	k = s.keeper()
	// Both disks come back, and only both: the keeper does not start without one of them.
	must(t, ended(k.stop()))
	command(t, "umount", disk)
	s.refused("without the second disk", keeperCaps, s.keeperArgs(), "mount it there and try again")
	if code, out := s.holdfast("check"); code == exitDamage || strings.Contains(out, "DAMAGE") {
		t.Errorf("what is away is damage: exit %d %s", code, out)
	}
	command(t, "mount", "-o", "loop", disk+".image", disk)
	k = s.keeper()
	s.must("check", "--read-data")
	s.whole("again")
	must(t, ended(k.stop()))
}
