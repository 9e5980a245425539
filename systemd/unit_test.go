package systemd

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// units are what we ship, with the exposure that systemd-analyze may find at most. A test without weaker would prove nothing.
var units = []struct {
	name, file, program, dropIn string
	exposure                    float64
	weaker                      [2]string
}{
	{"daemon", "holdfast.service", "/usr/local/bin/holdfast serve", "", 1.0, [2]string{"PrivateUsers=yes", "PrivateUsers=no"}},
	{"daemon without a keeper", "holdfast.service", "/usr/local/bin/holdfast serve", "without-keeper.conf", 1.0, [2]string{"PrivateUsers=yes", "PrivateUsers=no"}},
	{"witness", "holdfast-witness.service", "/usr/local/bin/holdfast witness serve /var/lib/holdfast-witness --listen 127.0.0.1:7380", "", 1.0, [2]string{"PrivateUsers=yes", "PrivateUsers=no"}},
	{"keeper", "holdfast-keeper.service", "/usr/local/bin/holdfast-keeper --vault /var/lib/holdfast/vault --policy /etc/holdfast/keeper/policy.json", "", 0.5, [2]string{"PrivateNetwork=yes", "PrivateNetwork=no"}},
}

// need skips the test for want of something; with HOLDFAST_REQUIRE_ALL=1 that is a failure.
func need(t *testing.T, has bool, what string) {
	t.Helper()
	if has {
		return
	}
	if os.Getenv("HOLDFAST_REQUIRE_ALL") == "1" {
		t.Fatalf("needs %s", what)
	}
	t.Skipf("needs %s", what)
}

func needProgram(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	need(t, err == nil, "the program "+name+" (Debian's package systemd)")
	return path
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// unit writes a unit under its own name, its drop-in behind it, with changes, where no program need be installed: it runs
// true instead.
func unit(t *testing.T, file, program, dropIn string, change ...string) string {
	t.Helper()
	instead, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	text := read(t, file)
	for i := 0; i < len(change); i += 2 {
		if !strings.Contains(text, change[i]) {
			t.Fatalf("%s has no %q", file, change[i])
		}
	}
	text = strings.NewReplacer(append([]string{"ExecStart=" + program + "\n", "ExecStart=" + instead + "\n"}, change...)...).Replace(text)
	if dropIn != "" {
		text += "\n" + read(t, dropIn)
	}
	if strings.Contains(text, "ExecStart="+program) {
		t.Fatalf("%s does not start %q", file, program)
	}
	out := filepath.Join(t.TempDir(), file)
	if err := os.WriteFile(out, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return out
}

func verify(t *testing.T, file string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), needProgram(t, "systemd-analyze"), "verify", "--man=no", file).CombinedOutput()
	return string(out), err
}

func TestUnitsAreAcceptedWithoutAWarning(t *testing.T) {
	for _, u := range units {
		t.Run(u.name, func(t *testing.T) {
			out, err := verify(t, unit(t, u.file, u.program, u.dropIn))
			// Other units of the machine are read along; only what is said of ours counts. That the other one of ours is not
			// installed here is known.
			if err != nil || strings.Contains(out, "holdfast") {
				t.Errorf("systemd-analyze verify: %v\n%s", err, out)
			}
			if out, err := verify(t, unit(t, u.file, u.program, u.dropIn, "Type=notify", "Type=notify\nProtectEverything=yes")); err == nil && !strings.Contains(out, "holdfast") {
				t.Error("an unknown setting was not noticed, so this test proves nothing")
			}
		})
	}
}

var level = regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`)

func exposure(t *testing.T, file string) (float64, string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), needProgram(t, "systemd-analyze"), "security", "--no-pager", "--offline=true", file).CombinedOutput()
	m := level.FindSubmatch(out)
	if err != nil || m == nil {
		t.Fatalf("systemd-analyze security: %v\n%s", err, out)
	}
	v, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	var open []string
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "✓") {
			open = append(open, line)
		}
	}
	return v, strings.Join(open, "")
}

func TestUnitsLeaveLittleExposed(t *testing.T) {
	for _, u := range units {
		t.Run(u.name, func(t *testing.T) {
			got, open := exposure(t, unit(t, u.file, u.program, u.dropIn))
			t.Logf("exposure %.1f", got)
			if got > u.exposure {
				t.Errorf("exposure %.1f, at most %.1f\n%s", got, u.exposure, open)
			}
			if worse, _ := exposure(t, unit(t, u.file, u.program, u.dropIn, u.weaker[0], u.weaker[1])); worse <= got {
				t.Errorf("exposure is %.1f with %s too, so this test proves nothing", worse, u.weaker[1])
			}
		})
	}
}

// settings gives what a unit sets, each with all its values.
func settings(t *testing.T, file string) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for line := range strings.Lines(read(t, file)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && !strings.HasPrefix(line, "#") {
			out[key] = append(out[key], value)
		}
	}
	return out
}

func TestEveryHardeningLineStandsOnce(t *testing.T) {
	for _, file := range []string{"holdfast.service", "holdfast-keeper.service", "holdfast-witness.service"} {
		set := settings(t, file)
		for key, values := range set {
			several := []string{"SystemCallFilter", "BindReadOnlyPaths", "Wants", "After", "Environment"}
			if len(values) > 1 && !slices.Contains(several, key) {
				t.Errorf("%s: %s= stands %d times", file, key, len(values))
			}
		}
		for _, must := range []string{"CapabilityBoundingSet", "AmbientCapabilities", "NoNewPrivileges", "RootDirectory", "RestrictNamespaces", "LimitCORE"} {
			if len(set[must]) == 0 {
				t.Errorf("%s: %s= is gone", file, must)
			}
		}
	}
}

// What divides the two: who may remove has no network, and who has the network writes nothing of the vault.
func TestDaemonAndKeeperAreDivided(t *testing.T) {
	for file, wants := range map[string]map[string]string{
		"holdfast.service": {
			"User": "holdfast", "Group": "holdfast", "CapabilityBoundingSet": "", "AmbientCapabilities": "", "BindPaths": "/var/lib/holdfast/work",
			"PrivateUsers": "yes", "StateDirectory": "<none>",
		},
		"holdfast-keeper.service": {
			"User": "holdfast-keeper", "Group": "holdfast", "CapabilityBoundingSet": "CAP_LINUX_IMMUTABLE", "AmbientCapabilities": "CAP_LINUX_IMMUTABLE",
			"PrivateNetwork": "yes", "RestrictAddressFamilies": "AF_UNIX", "PrivateUsers": "<none>", "StateDirectory": "<none>", "RuntimeDirectory": "<none>",
			"LoadCredential": "<none>", "Environment": "<none>",
		},
	} {
		set := settings(t, file)
		for key, want := range wants {
			got := strings.Join(set[key], " ")
			if len(set[key]) == 0 {
				got = "<none>"
			}
			if got != want {
				t.Errorf("%s: %s=%s, want %s", file, key, got, want)
			}
		}
	}
	if got := strings.Join(settings(t, "holdfast.service")["BindReadOnlyPaths"], " "); !strings.Contains(got, "/var/lib/holdfast/vault") {
		t.Errorf("the daemon's unit does not show it the vault: %s", got)
	}
}

func TestUserAndDirectoriesAreMade(t *testing.T) {
	need(t, os.Geteuid() == 0, "root, to make a user in an empty root")
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]string{{"systemd-sysusers", "holdfast.sysusers"}, {"systemd-sysusers", "holdfast-witness.sysusers"}, {"systemd-tmpfiles", "--create", "holdfast.tmpfiles"}} {
		file, err := filepath.Abs(c[len(c)-1])
		if err != nil {
			t.Fatal(err)
		}
		args := append([]string{"--root=" + root}, append(c[1:len(c)-1:len(c)-1], file)...)
		if out, err := exec.CommandContext(t.Context(), needProgram(t, c[0]), args...).CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 && !bytes.Contains(out, []byte("Creating")) {
			t.Fatalf("%s: %v\n%s", c, err, out)
		}
	}
	passwd := read(t, filepath.Join(root, "etc/passwd"))
	for _, user := range []string{"holdfast", "holdfast-keeper"} {
		line := regexp.MustCompile(`(?m)^` + user + `:x:\d+:(\d+):.*nologin$`).FindStringSubmatch(passwd)
		if line == nil || !strings.Contains(read(t, filepath.Join(root, "etc/group")), "holdfast:x:"+line[1]+":") {
			t.Errorf("no user %s in group holdfast and without a shell: %q", user, passwd)
		}
	}
	id := func(user string) int {
		line := regexp.MustCompile(`(?m)^` + user + `:x:(\d+):`).FindStringSubmatch(passwd)
		n, err := strconv.Atoi(line[1])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	owned := func(dir string) (int, os.FileMode) {
		fi, err := os.Lstat(filepath.Join(root, dir))
		if err != nil {
			t.Fatal(err)
		}
		return int(fi.Sys().(*syscall.Stat_t).Uid), fi.Mode().Perm()
	}
	for dir, want := range map[string]struct {
		uid  int
		mode os.FileMode
	}{
		"etc/holdfast": {0, 0o750}, "etc/holdfast/sources.d": {0, 0o750}, "etc/holdfast/keys": {0, 0o750}, "etc/holdfast/keeper": {0, 0o750}, "run/holdfast-root": {0, 0o755},
		"var/lib/holdfast": {0, 0o750}, "var/lib/holdfast/vault": {id("holdfast-keeper"), 0o750}, "var/lib/holdfast/work": {id("holdfast"), 0o700},
		"run/holdfast-keeper": {id("holdfast-keeper"), 0o750},
	} {
		if uid, mode := owned(dir); uid != want.uid || mode != want.mode {
			t.Errorf("%s: user %d, %v; want %d, %v", dir, uid, mode, want.uid, want.mode)
		}
	}
	// A vault that the daemon owns stays its own at the next boot.
	vault := filepath.Join(root, "var/lib/holdfast/vault")
	if err := errors.Join(os.Chown(vault, id("holdfast"), -1), os.Chmod(vault, 0o700)); err != nil {
		t.Fatal(err)
	}
	file, err := filepath.Abs("holdfast.tmpfiles")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "systemd-tmpfiles", "--root="+root, "--create", file).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if uid, mode := owned("var/lib/holdfast/vault"); uid != id("holdfast") || mode != 0o700 {
		t.Errorf("a vault of before: user %d, %v", uid, mode)
	}
}
