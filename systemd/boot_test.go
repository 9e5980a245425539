//go:build boot

package systemd

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// TestUnitRunsUnderARealSystemd boots a systemd in namespaces of its own, installs the program as the manual says, and
// looks at the running daemon: that it works at all inside its sandbox, and that the sandbox is really there. It needs root
// and a kernel that allows it, so it is only built with the tag boot (make boot).
func TestUnitRunsUnderARealSystemd(t *testing.T) {
	scratch := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(scratch, "holdfast"), "../cmd/holdfast")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	if err := os.Mkdir(filepath.Join(scratch, "systemd"), 0o755); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(scratch, "boot.sh")
	for from, to := range map[string]string{
		"testdata/boot.sh": script, "holdfast.service": "", "holdfast.sysusers": "", "holdfast.tmpfiles": "",
	} {
		if to == "" {
			to = filepath.Join(scratch, "systemd", from)
		}
		if err := os.WriteFile(to, []byte(read(t, from)), 0o755); err != nil {
			t.Fatal(err)
		}
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
	for harm, want := range map[string]string{
		"the daemon does not start in its sandbox": `(?m)^start: 0$`,
		"it runs as somebody else":                 `(?m)^user: holdfast$`,
		"it has a capability":                      `(?m)^capabilities: 0000000000000000 $`,
		"it could gain privileges":                 `(?m)^no new privileges: 1$`,
		"no calls are filtered":                    `(?m)^seccomp: 2$`,
		"it sees this machine's files":             `(?m)^root: (dev |etc |proc |root |run |sys |tmp |usr |var )+$`,
		"it has a shell":                           `(?m)^shell: ls: cannot access`,
		"the local command line does not reach it": `(?m)^snapshots: 0$`,
		"check fails beside it":                    `(?m)^check: 0$`,
		"Prometheus would see nothing":             `(?m)^holdfast_ledger_size 1\b`,
		"it does not stop, or not cleanly":         `(?m)^stop: 0 success$`,
		"it sees more of /etc than the unit says":  `(?m)^etc: ((holdfast|hosts|localtime|nsswitch\.conf|resolv\.conf) )+$`,
	} {
		if !regexp.MustCompile(want).MatchString(report) {
			t.Errorf("%s: no %s", harm, want)
		}
	}
}
