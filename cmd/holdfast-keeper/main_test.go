package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func keeperMain(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), args, &o, &e)
	return code, o.String(), e.String()
}

func TestCommandLineMistakesAreUsage(t *testing.T) {
	for _, args := range [][]string{
		{}, {"--vault"}, {"--vault", "relative"}, {"--no-such-flag"}, {"--vault", "/v", "more"}, {"nonsense"},
		{"--vault", "/v", "--socket", "relative"}, {"--vault", "/v", "--policy", "relative"}, {"status", "more"}, {"status", "--vault", "/v"}, {"keyring"}, {"keyring", "a", "b"}, {"origin"}, {"origin", "--root", "x", "--by", "x"}, {"origin", "--root", "x", "--by", "x", "--reason", "x", "a", "b"}, {"version", "--vault", "/v"},
	} {
		code, out, errs := keeperMain(t, args...)
		if code != exitUsage || out != "" || !strings.HasSuffix(errs, "see: holdfast-keeper -h\n") {
			t.Errorf("%q: %d %q %q", args, code, out, errs)
		}
	}
}

func TestHelpNamesEveryFlagAndExitCode(t *testing.T) {
	for _, args := range [][]string{{"-h"}, {"--help"}, {"help"}} {
		code, out, errs := keeperMain(t, args...)
		if code != exitDone || errs != "" {
			t.Fatalf("%d %q", code, errs)
		}
		for _, must := range []string{"--vault", "--socket", "--user", "--policy", "--accept-weaker-protection", "status", "keyring", "origin", "version", "0 done; 1 failed", "4 damage", "SIGTERM", "SIGHUP"} {
			if !strings.Contains(out, must) {
				t.Errorf("%q does not tell of %s", args, must)
			}
		}
		for line := range strings.Lines(out) {
			if len(line) > 125 {
				t.Errorf("a line of %d: %q", len(line), line)
			}
		}
	}
	if code, out, _ := keeperMain(t, "version"); code != exitDone || !strings.HasPrefix(out, "holdfast-keeper "+version) {
		t.Errorf("%d %q", code, out)
	}
}

// Without a keeper that runs, people are told where to look.
func TestAnOperatorWithoutAKeeperIsTold(t *testing.T) {
	ring := filepath.Join(t.TempDir(), "ring")
	if err := os.WriteFile(ring, []byte("wrapped"), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "socket")
	for _, args := range [][]string{{"status", "--socket", socket}, {"keyring", "--socket", socket, ring}, {"origin", "--socket", socket, "--root", "x", "--by", "x", "--reason", "x"}} {
		if code, _, errs := keeperMain(t, args...); code != exitFailed || !strings.Contains(errs, "does the keeper run") {
			t.Errorf("%q: %d %q", args, code, errs)
		}
	}
	for name, content := range map[string]int{"empty": 0, "large": keyringMax + 1} {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, make([]byte, content), 0o600); err != nil {
			t.Fatal(err)
		}
		if code, _, errs := keeperMain(t, "keyring", "--socket", socket, file); code != exitFailed || !strings.Contains(errs, "are expected") {
			t.Errorf("%s: %d %q", name, code, errs)
		}
	}
}

const plainStatus = `Name:	holdfast-keeper
Uid:	998	998	998	998
Gid:	997	997	997	997
CapInh:	0000000000000200
CapPrm:	0000000000000200
CapEff:	0000000000000200
CapBnd:	0000000000000200
CapAmb:	0000000000000200
NoNewPrivs:	1
`

// The keeper holds the power to remove: whoever starts it with more than that, or as somebody who owns everything, is told.
func TestTooMuchPowerIsRefused(t *testing.T) {
	p, err := parseProcess(plainStatus)
	if err != nil || p.refuse() != nil || !p.mayFlag() || p.uid != 998 || p.gid != 997 {
		t.Fatalf("%+v, %v, %v", p, err, p.refuse())
	}
	for harm, change := range map[string][2]string{
		"root":                         {"998	998	998	998", "0	0	0	0"},
		"set-uid":                      {"998	998	998	998", "998	0	998	998"},
		"set-gid":                      {"997	997	997	997", "997	997	0	997"},
		"no user":                      {"Uid:", "Nobody:"},
		"CAP_DAC_OVERRIDE inheritable": {"CapInh:	0000000000000200", "CapInh:	0000000000000202"},
		"CAP_FOWNER permitted":         {"CapPrm:	0000000000000200", "CapPrm:	0000000000000208"},
		"CAP_SYS_ADMIN effective":      {"CapEff:	0000000000000200", "CapEff:	0000000000200200"},
		"all bounding":                 {"CapBnd:	0000000000000200", "CapBnd:	000001ffffffffff"},
		"CAP_CHOWN ambient":            {"CapAmb:	0000000000000200", "CapAmb:	0000000000000201"},
		"no such set":                  {"CapAmb:", "CapOther:"},
	} {
		text := strings.Replace(plainStatus, change[0], change[1], 1)
		if text == plainStatus {
			t.Fatalf("%s: nothing changed", harm)
		}
		p, err := parseProcess(text)
		if err == nil {
			err = p.refuse()
		}
		if err == nil {
			t.Errorf("%s was not refused", harm)
		}
	}
	without, err := parseProcess(strings.ReplaceAll(plainStatus, "200\n", "000\n"))
	if err != nil || without.refuse() != nil || without.mayFlag() {
		t.Errorf("without any capability: %v, %v", err, without.refuse())
	}
}

func TestTheDaemonIsSomebodyElse(t *testing.T) {
	me := process{uid: 998, gid: 997}
	if err := me.mayServe(peer{uid: 999, gid: 997, hasGroup: true}); err != nil {
		t.Error(err)
	}
	if err := me.mayServe(peer{uid: 999}); err != nil {
		t.Error(err)
	}
	for harm, p := range map[string]peer{"root": {uid: 0}, "itself": {uid: 998}, "of another group": {uid: 999, gid: 5, hasGroup: true}} {
		if me.mayServe(p) == nil {
			t.Errorf("a daemon that is %s was taken", harm)
		}
	}
	if p, err := lookUp("4000000001"); err != nil || p.uid != 4000000001 || p.hasGroup {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := lookUp("root"); err != nil || p.uid != 0 || !p.hasGroup {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := lookUp("no-such-user-here"); err == nil {
		t.Error("a user that is not there was found")
	}
}

// systemd hears what sd_notify(3) says, at a named socket and at an abstract one.
func TestSystemdIsTold(t *testing.T) {
	dir, err := os.MkdirTemp("", "notify") // short: a socket's path has little room
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{filepath.Join(dir, "s"), "@holdfast-keeper-test-" + filepath.Base(dir)} {
		l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		n := notifier(name)
		n.status("Starting: x")
		n.reloading()
		n.ready("Keeping")
		n.stopping()
		if err := l.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"STATUS=Starting: x", "RELOADING=1\nMONOTONIC_USEC=", "READY=1\nSTATUS=Keeping", "STOPPING=1\nSTATUS="} {
			b := make([]byte, 500)
			size, err := l.Read(b)
			if err != nil || !strings.HasPrefix(string(b[:size]), want) {
				t.Errorf("%q, %v; want %q", b[:size], err, want)
			}
		}
		l.Close()
	}
	notifier("").ready("nobody listens")
	notifier(filepath.Join(dir, "absent")).ready("nobody listens")
}
