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
	for script, heading := range map[string]string{"move.sh": "### Moving a vault under a keeper", "make.sh": "### Making the vault", "place.sh": "## The disk is full of locked packs"} {
		if err := os.WriteFile(filepath.Join(scratch, script), []byte("set -eux\n"+commands(t, heading)), 0o755); err != nil {
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
	for _, who := range []string{"alone", "daemon", "keeper", "new-daemon", "new-keeper", "place-daemon", "place-keeper"} {
		user, capabilities, interfaces := "holdfast", "0000000000000000", ".*"
		if strings.HasSuffix(who, "keeper") {
			user, capabilities, interfaces = "holdfast-keeper", "0000000000000200", "lo "
		}
		for harm, want := range map[string]string{
			"runs as somebody else":               `user: .* ?` + user + ` holdfast$`,
			"has not its capabilities alone":      `capabilities: ` + capabilities + ` $`,
			"could gain privileges":               `no new privileges: 1$`,
			"has its calls not filtered":          `seccomp: 2$`,
			"sees this machine's files":           `root: (dev |etc |proc |root |run |srv |sys |tmp |usr |var )+$`,
			"sees more of /etc than is said":      `etc: ((holdfast|hosts|localtime|nsswitch\.conf|passwd|resolv\.conf) )+$`,
			"has a shell":                         `shell: ls: cannot access`,
			"has a network, or none and needs it": `interfaces: ` + interfaces + `$`,
		} {
			if !regexp.MustCompile(`(?m)^` + who + ` ` + want).MatchString(report) {
				t.Errorf("%s %s: no %s", who, harm, want)
			}
		}
	}
	for harm, want := range map[string]string{
		"the daemon does not start in its sandbox": `alone start: 0$`,
		"the local command line does not reach it": `alone snapshots: 0$`,
		"it cannot pull in its sandbox":            `alone pull: 0$`,
		"it cannot give back in its sandbox":       `alone restore: 0$`,
		"check fails beside it":                    `alone check: 0$`,
		"Prometheus would see nothing":             `alone holdfast_ledger_size \d+\b`,
		"it does not stop, or not cleanly":         `alone stop: 0 success$`,

		"a vault does not move under a keeper":              `move: 0$`,
		"the keeper's status is not told":                   `keeper status: Keeping vault [0-9a-f]{32}: \d+ records, protection: immutable flag$`,
		"an operator does not reach the keeper":             `keeper asked: 0$`,
		"nothing can be pulled into the moved vault":        `pull: 0$`,
		"nothing comes back from the moved vault":           `restore: 0$`,
		"the moved vault cannot be listed":                  `snapshots: 0$`,
		"the moved vault cannot be checked":                 `check: 0$`,
		"Prometheus sees nothing of the moved vault":        `holdfast_ledger_size \d+\b`,
		"the daemon may write to the vault":                 `vault: ro$`,
		"the keeper does not start over an immutable root":  `keeper restart: 0$`,
		"the daemon does not find a keeper that came again": `check after it: 0$`,
		"the daemon beside a keeper does not stop cleanly":  `daemon stop: 0 success$`,
		"the keeper does not stop cleanly":                  `keeper stop: 0 success$`,

		"no vault is made with a keeper":           `make: 0$`,
		"the new vault is not protected":           `new-keeper status: Keeping vault [0-9a-f]{32}: \d+ records, protection: immutable flag$`,
		"nothing can be pulled into the new vault": `new-pull: 0$`,
		"nothing comes back from the new vault":    `new-restore: 0$`,
		"the new vault cannot be listed":           `new-snapshots: 0$`,
		"the new vault cannot be checked":          `new-check: 0$`,
		"the recovery identity is not there":       `recovery: 600 \d\d+$`,

		"the vault does not go on on a second disk": `place: 0$`,
		"the second place is not protected":         `place-keeper status: Keeping vault [0-9a-f]{32}: \d+ records, protection: immutable flag$`,
		"nothing can be pulled into it":             `place-pull: 0$`,
		"nothing comes back from both":              `place-restore: 0$`,
		"the vault in two places cannot be checked": `place-check: 0$`,
		"new packs do not go there":                 `place packs: [1-9]\d*$`,
		"the daemon may write there":                `place mount: ro$`,
	} {
		if !regexp.MustCompile(`(?m)^` + want).MatchString(report) {
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
