//go:build boot

package systemd

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestUnitsRunUnderARealSystemd boots a systemd in namespaces of its own, installs both programs as the manual says, and looks
// at them as they run: that they work at all inside their sandboxes, and that the sandboxes are really there. It needs root
// and a kernel that allows it, so it is only built with the tag boot (make boot).
func TestUnitsRunUnderARealSystemd(t *testing.T) {
	scratch := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	build := exec.CommandContext(ctx, "go", "build", "-o", scratch, "../cmd/holdfast", "../cmd/holdfast-keeper")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	if err := os.Mkdir(filepath.Join(scratch, "systemd"), 0o755); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(scratch, "boot.sh")
	for from, to := range map[string]string{
		"testdata/boot.sh": script, "holdfast.service": "", "holdfast-keeper.service": "", "without-keeper.conf": "", "holdfast.sysusers": "", "holdfast.tmpfiles": "",
	} {
		if to == "" {
			to = filepath.Join(scratch, "systemd", from)
		}
		if err := os.WriteFile(to, []byte(read(t, from)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(scratch, "move.sh"), []byte("set -eux\n"+commands(t, "### Moving a vault under a keeper")), 0o755); err != nil {
		t.Fatal(err)
	}
	boot := exec.CommandContext(ctx, "unshare", "--mount", "--propagation=private", "bash", script, "outer", scratch)
	boot.Cancel = func() error { return boot.Process.Signal(os.Interrupt) }
	boot.WaitDelay = 10 * time.Second
	out, err := boot.CombinedOutput()
	t.Logf("boot: %v\n%s", err, out)
	report := read(t, filepath.Join(scratch, "report"))
	t.Logf("report:\n%s", report)
	if journal, err := os.ReadFile(filepath.Join(scratch, "journal")); err == nil {
		t.Logf("journal:\n%s", journal)
	}
	for _, who := range []string{"alone", "keeper"} {
		for harm, want := range map[string]string{
			who + " does not start in its sandbox": `(?m)^` + who + ` start: 0$`,
			who + " could gain privileges":         `(?m)^` + who + ` no new privileges: 1$`,
			who + ": no calls are filtered":        `(?m)^` + who + ` seccomp: 2$`,
			who + " sees this machine's files":     `(?m)^` + who + ` root: (dev |etc |proc |root |run |sys |tmp |usr |var )+$`,
			who + " has a shell":                   `(?m)^` + who + ` shell: ls: cannot access`,
			who + " does not stop, or not cleanly": `(?m)^` + who + ` stop: 0 success$`,
		} {
			if !regexp.MustCompile(want).MatchString(report) {
				t.Errorf("%s: no %s", harm, want)
			}
		}
	}
	for harm, want := range map[string]string{
		"the daemon runs as somebody else":                 `(?m)^alone user: .* ?holdfast holdfast$`,
		"the daemon has a capability":                      `(?m)^alone capabilities: 0000000000000000 $`,
		"the local command line does not reach it":         `(?m)^alone snapshots: 0$`,
		"check fails beside it":                            `(?m)^alone check: 0$`,
		"Prometheus would see nothing":                     `(?m)^alone holdfast_ledger_size 1\b`,
		"the daemon sees more of /etc than the unit says":  `(?m)^alone etc: ((holdfast|hosts|localtime|nsswitch\.conf|passwd|resolv\.conf) )+$`,
		"a vault does not move under a keeper":             `(?m)^move: 0$`,
		"the keeper runs as somebody else":                 `(?m)^keeper user: .* ?holdfast-keeper holdfast$`,
		"the keeper has not CAP_LINUX_IMMUTABLE alone":     `(?m)^keeper capabilities: 0000000000000200 $`,
		"the keeper sees more of /etc than the unit says":  `(?m)^keeper etc: ((holdfast|hosts|localtime|nsswitch\.conf|passwd|resolv\.conf) )+$`,
		"the keeper has a network":                         `(?m)^keeper interfaces: lo $`,
		"the keeper's status is not told":                  `(?m)^keeper status: Keeping vault [0-9a-f]{32}: \d+ records, protection: immutable flag$`,
		"an operator does not reach the keeper":            `(?m)^keeper asked: 0$`,
		"the keeper does not start over an immutable root": `(?m)^keeper restart: 0$`,
	} {
		if !regexp.MustCompile(want).MatchString(report) {
			t.Errorf("%s: no %s", harm, want)
		}
	}
}

// commands gives the commands of a section of the operations' page: what is indented in it.
func commands(t *testing.T, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(read(t, "../docs/OPERATIONS.md"), heading+"\n")
	if !ok {
		t.Fatalf("docs/OPERATIONS.md has no %q", heading)
	}
	section, _, _ := strings.Cut(rest, "\n## ")
	section, _, _ = strings.Cut(section, "\n### ")
	var out strings.Builder
	for line := range strings.Lines(section) {
		if code, ok := strings.CutPrefix(line, "    "); ok {
			out.WriteString(code)
		}
	}
	return out.String()
}
