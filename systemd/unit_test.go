package systemd

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const maxExposure = 1.0

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

// unit writes the unit under its own name, with changes, where no program need be installed: it runs true instead.
func unit(t *testing.T, change ...string) string {
	t.Helper()
	program, err := exec.LookPath("true")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(append([]string{"/usr/local/bin/holdfast serve", program}, change...)...).Replace(read(t, "holdfast.service"))
	file := filepath.Join(t.TempDir(), "holdfast.service")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func verify(t *testing.T, file string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), needProgram(t, "systemd-analyze"), "verify", "--man=no", file).CombinedOutput()
	return string(out), err
}

func TestUnitIsAcceptedWithoutAWarning(t *testing.T) {
	file := unit(t)
	out, err := verify(t, file)
	// Other units of the machine are read along; only what is said of ours counts.
	if err != nil || strings.Contains(out, "holdfast") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	if out, err := verify(t, unit(t, "Type=notify", "Type=notify\nProtectEverything=yes")); err == nil && !strings.Contains(out, "holdfast") {
		t.Error("an unknown setting was not noticed, so this test proves nothing")
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

func TestUnitLeavesLittleExposed(t *testing.T) {
	got, open := exposure(t, unit(t))
	t.Logf("exposure %.1f", got)
	if got > maxExposure {
		t.Errorf("exposure %.1f, at most %.1f\n%s", got, maxExposure, open)
	}
	if worse, _ := exposure(t, unit(t, "PrivateUsers=yes", "PrivateUsers=no")); worse <= got {
		t.Errorf("exposure is %.1f without PrivateUsers too, so this test proves nothing", worse)
	}
}

func TestEveryHardeningLineStandsOnce(t *testing.T) {
	seen := make(map[string]bool)
	for line := range strings.Lines(read(t, "holdfast.service")) {
		key, _, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(line, "#") || key == "SystemCallFilter" || key == "BindReadOnlyPaths" {
			continue
		}
		if seen[key] {
			t.Errorf("%s= stands twice", key)
		}
		seen[key] = true
	}
	for _, must := range []string{"CapabilityBoundingSet", "NoNewPrivileges", "RootDirectory", "LoadCredential", "RestrictNamespaces", "LimitCORE"} {
		if !seen[must] {
			t.Errorf("%s= is gone", must)
		}
	}
}

func TestUserAndDirectoriesAreMade(t *testing.T) {
	need(t, os.Geteuid() == 0, "root, to make a user in an empty root")
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][]string{{"systemd-sysusers", "holdfast.sysusers"}, {"systemd-tmpfiles", "--create", "holdfast.tmpfiles"}} {
		file, err := filepath.Abs(c[len(c)-1])
		if err != nil {
			t.Fatal(err)
		}
		args := append([]string{"--root=" + root}, append(c[1:len(c)-1:len(c)-1], file)...)
		if out, err := exec.CommandContext(t.Context(), needProgram(t, c[0]), args...).CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 && !bytes.Contains(out, []byte("Creating")) {
			t.Fatalf("%s: %v\n%s", c, err, out)
		}
	}
	if passwd := read(t, filepath.Join(root, "etc/passwd")); !strings.Contains(passwd, "holdfast:") || !strings.Contains(passwd, "nologin") {
		t.Errorf("no user without a shell: %q", passwd)
	}
	for dir, mode := range map[string]os.FileMode{"etc/holdfast": 0o750, "etc/holdfast/sources.d": 0o750, "etc/holdfast/keys": 0o750, "run/holdfast-root": 0o755} {
		fi, err := os.Stat(filepath.Join(root, dir))
		if err != nil {
			t.Error(err)
		} else if fi.Mode().Perm() != mode {
			t.Errorf("%s: %v, want %v", dir, fi.Mode(), mode)
		}
	}
}
