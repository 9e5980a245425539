package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-vault/holdfast/immutability/durable"
)

// The users of these tests; nobody has such numbers.
const (
	daemonUID = 64001 // and group
	keeperUID = 64002
)

// keeperCaps start a program as the unit starts the keeper, daemonCaps as the unit starts the daemon.
var (
	keeperCaps = []string{
		"--reuid", strconv.Itoa(keeperUID), "--regid", strconv.Itoa(daemonUID), "--clear-groups", "--no-new-privs",
		"--inh-caps=-all,+linux_immutable", "--ambient-caps=-all,+linux_immutable", "--bounding-set=-all,+linux_immutable",
	}
	daemonCaps = []string{
		"--reuid", strconv.Itoa(daemonUID), "--regid", strconv.Itoa(daemonUID), "--clear-groups", "--no-new-privs",
		"--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all",
	}
)

// machine is a place for both programs: their executables, a file system of its own, directories as the units make them.
type machine struct {
	t   testing.TB
	bin string
	dir string // where its file system is mounted, root's
	run string // for sockets, short

	vault, work, socket string
}

// needRoot skips, or fails where nothing may be left out.
func needRoot(t testing.TB, tools ...string) {
	t.Helper()
	var missing []string
	if os.Geteuid() != 0 {
		missing = append(missing, "root")
	}
	for _, tool := range []string{"setpriv", "unshare", "mkfs.ext4", "mkfs.xfs", "mount", "go"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	if len(missing) == 0 {
		return
	}
	if os.Getenv("HOLDFAST_REQUIRE_ALL") == "1" {
		t.Fatalf("needs %q", missing)
	}
	t.Skipf("needs %q", missing)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(context.WithoutCancel(t.Context()), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// builtIn is where built put them, "" as long as nobody asked.
var builtIn string

// built are both programs, built once.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "holdfast-bin")
	if err != nil {
		return "", err
	}
	builtIn = dir
	c := exec.Command("go", "build", "-trimpath", "-o", dir, "../holdfast", ".")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("go build: %w\n%s", err, out)
	}
	return dir, os.Chmod(dir, 0o755)
})

func TestMain(m *testing.M) {
	if as := os.Getenv(attackedVariable); as != "" {
		os.Exit(playAttack(as))
	}
	code := m.Run()
	if builtIn != "" {
		_ = os.RemoveAll(builtIn)
	}
	os.Exit(code)
}

// newMachine mounts an ext4 and makes what tmpfiles and the units make.
func newMachine(t testing.TB) *machine {
	t.Helper()
	return newMachineOn(t, "ext4")
}

// newMachineOn is newMachine with another file system.
func newMachineOn(t testing.TB, fsys string) *machine {
	t.Helper()
	needRoot(t)
	bin, err := built()
	must(t, err)
	run, err := os.MkdirTemp("", "hk")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(run) })
	must(t, os.Chmod(run, 0o755))
	m := &machine{t: t, bin: bin, run: run, dir: filepath.Join(run, "disk")}
	image := filepath.Join(run, "image")
	must(t, errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, map[string]int64{"ext4": 192 << 20, "xfs": 320 << 20}[fsys]), os.Mkdir(m.dir, 0o755)))
	if fsys == "xfs" {
		command(t, "mkfs.xfs", "-q", "-f", image)
	} else {
		command(t, "mkfs.ext4", "-q", "-F", "-m", "0", image)
	}
	command(t, "mount", "-o", "loop", image, m.dir)
	t.Cleanup(func() { command(t, "umount", m.dir) })
	m.vault, m.work = filepath.Join(m.dir, "vault"), filepath.Join(m.dir, "work")
	m.directory(m.vault, keeperUID, 0o750)
	m.directory(m.work, daemonUID, 0o700)
	m.directory(filepath.Join(run, "keeper"), keeperUID, 0o750)
	m.directory(filepath.Join(run, "daemon"), daemonUID, 0o700)
	m.socket = filepath.Join(run, "keeper", "socket")
	return m
}

func (m *machine) directory(name string, uid int, mode fs.FileMode) {
	m.t.Helper()
	must(m.t, os.Mkdir(name, mode))
	must(m.t, errors.Join(os.Chown(name, uid, daemonUID), os.Chmod(name, mode)))
}

// program is one that runs.
type program struct {
	t    testing.TB
	cmd  *exec.Cmd
	told *net.UnixConn // what it says to systemd
	done chan struct{}
	errs syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

var notifyCount int

// start runs a program through setpriv, which execs it, so that the process is the program.
func (m *machine) start(caps []string, env []string, args ...string) *program {
	m.t.Helper()
	notifyCount++
	name := filepath.Join(m.run, fmt.Sprintf("n%d", notifyCount))
	told, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	must(m.t, err)
	must(m.t, os.Chmod(name, 0o777))
	p := &program{t: m.t, told: told, done: make(chan struct{})}
	p.cmd = exec.Command("setpriv", append(append([]string{"--pdeathsig", "KILL"}, caps...), args...)...)
	p.cmd.Dir = "/"
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "NOTIFY_SOCKET=" + name}, env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.errs, &p.errs
	must(m.t, p.cmd.Start())
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // its state tells
	}()
	m.t.Cleanup(func() {
		p.kill()
		_ = told.Close()
		if m.t.Failed() {
			m.t.Logf("%s said:\n%s", filepath.Base(args[0]), p.errs.String())
		}
	})
	return p
}

// awaits returns once the program has told systemd so.
func (p *program) awaits(assignment string) {
	p.t.Helper()
	gone := make(chan struct{})
	defer close(gone)
	go func() {
		select {
		case <-p.done:
			_ = p.told.SetReadDeadline(time.Now())
		case <-gone:
		}
	}()
	must(p.t, p.told.SetReadDeadline(time.Now().Add(time.Minute)))
	for b := make([]byte, 4096); ; {
		n, err := p.told.Read(b)
		if err != nil {
			p.t.Fatalf("it did not say %s: %v\n%s", assignment, err, p.errs.String())
		}
		for line := range strings.Lines(string(b[:n])) {
			if strings.TrimSpace(line) == assignment {
				return
			}
		}
	}
}

// ends waits, and gives the exit code, -1 for a signal.
func (p *program) ends() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(2 * time.Minute):
		p.t.Fatalf("it does not end\n%s", p.errs.String())
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *program) kill() {
	_ = p.cmd.Process.Kill() // may have ended
	<-p.done
}

// stop ends it as systemd does.
func (p *program) stop() int {
	p.t.Helper()
	must(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
	return p.ends()
}

// capabilities gives the five sets, as the kernel shows them.
func (p *program) capabilities() map[string]string {
	p.t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	must(p.t, err)
	defer f.Close()
	out := map[string]string{}
	for s := bufio.NewScanner(f); s.Scan(); {
		if key, value, ok := strings.Cut(s.Text(), ":"); ok {
			out[key] = strings.TrimSpace(value)
		}
	}
	return out
}

func (m *machine) keeperArgs(more ...string) []string {
	return append([]string{filepath.Join(m.bin, "holdfast-keeper"), "--vault", m.vault, "--socket", m.socket, "--user", strconv.Itoa(daemonUID)}, more...)
}

func (m *machine) keeper(more ...string) *program {
	m.t.Helper()
	p := m.start(keeperCaps, nil, m.keeperArgs(more...)...)
	p.awaits("READY=1")
	return p
}

// refused says what a keeper says that does not start.
func (m *machine) refused(harm string, caps []string, args []string, want string) {
	m.t.Helper()
	p := m.start(caps, nil, args...)
	if code := p.ends(); code == exitDone || !regexp.MustCompile(want).MatchString(p.errs.String()) {
		m.t.Errorf("%s: exit code %d, want that it says %q:\n%s", harm, code, want, p.errs.String())
	}
}

// A keeper that runs as root, or with more than its one capability, would be a new way to remove things; one in a time
// namespace would let locks run out early.
func TestKeeperStartsOnlyAsItself(t *testing.T) {
	m := newMachine(t)
	m.found()
	plain := m.keeperArgs()
	roots := filepath.Join(m.dir, "roots")
	must(t, os.Mkdir(roots, 0o755))
	with := func(which, instead string) []string {
		out := slices.Clone(keeperCaps)
		for i, arg := range out {
			if strings.HasPrefix(arg, which) {
				out[i] = which + instead
			}
		}
		return out
	}
	also := with("--bounding-set=", "-all,+linux_immutable,+chown")
	for harm, c := range map[string]struct {
		caps []string
		args []string
		want string
	}{
		"as root":          {[]string{"--bounding-set=-all,+linux_immutable", "--inh-caps=-all,+linux_immutable"}, plain, "must not run as root"},
		"all bounding":     {with("--bounding-set=", "+all"), plain, `bounding set has capabilities beyond`},
		"another bounding": {also, plain, `bounding set has capabilities beyond CAP_LINUX_IMMUTABLE \(0x1\)`},
		"without any":      {daemonCapsAs(keeperUID), plain, "lacks CAP_LINUX_IMMUTABLE.*--accept-weaker-protection"},
		"as the daemon":    {daemonCaps, plain, "the daemon's user is the keeper's own"},
		"with a time of its own": {
			[]string{"--no-new-privs"},
			slices.Concat([]string{"unshare", "--time", "--fork", "--boottime", "1000000", "setpriv"}, keeperCaps, plain),
			"time namespace",
		},
		// Root's own vault there, because inside nobody else has a number.
		"in a user namespace": {
			[]string{"--no-new-privs"},
			slices.Concat([]string{"unshare", "--user", "--keep-caps", fmt.Sprintf("--map-user=%d", keeperUID), fmt.Sprintf("--map-group=%d", daemonUID), "setpriv"},
				keeperCaps[5:], m.keeperArgs("--vault", roots)),
			"it runs in a user namespace.*PrivateUsers",
		},
		"of another vault":                 {keeperCaps, append(m.keeperArgs(), "--vault", "/no/such/vault"), "no such file"},
		"of a vault that is another's":     {keeperCaps, append(m.keeperArgs(), "--vault", m.work), "(?i)permission denied|belong"},
		"with a socket where others write": {keeperCaps, append(m.keeperArgs(), "--socket", "/tmp/socket"), "must be a directory of user"},
	} {
		m.refused(harm, c.caps, c.args, c.want)
	}
}

func daemonCapsAs(uid int) []string {
	out := append([]string{}, daemonCaps...)
	out[1] = strconv.Itoa(uid)
	return out
}

// What the unit promises is what the kernel shows.
func TestRunningKeeperIsAsPromised(t *testing.T) {
	m := newMachine(t)
	m.found()
	p := m.keeper()
	status := p.capabilities()
	for _, set := range capSets {
		if status[set.key] != "0000000000000200" {
			t.Errorf("%s set: %s, want CAP_LINUX_IMMUTABLE alone", set.name, status[set.key])
		}
	}
	if status["NoNewPrivs"] != "1" || status["Uid"] != "64002\t64002\t64002\t64002" || status["Gid"] != "64001\t64001\t64001\t64001" || status["Groups"] != "" {
		t.Errorf("%v", status)
	}
	// What cannot be dumped belongs to root in /proc: nobody else traces it or takes its descriptors.
	var st unix.Stat_t
	must(t, unix.Stat(fmt.Sprintf("/proc/%d/mem", p.cmd.Process.Pid), &st))
	if st.Uid != 0 {
		t.Errorf("its memory belongs to %d: it can be dumped", st.Uid)
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", p.cmd.Process.Pid))
	must(t, err)
	if !regexp.MustCompile(`Max core file size\s+0\s+0\s`).Match(limits) {
		t.Errorf("it leaves core files:\n%s", limits)
	}
	for file, want := range map[string]fs.FileMode{m.socket: 0o660, filepath.Join(filepath.Dir(m.socket), "operator"): 0o600} {
		info, err := os.Lstat(file)
		must(t, err)
		if info.Mode().Perm() != want || info.Sys().(*syscall.Stat_t).Uid != keeperUID {
			t.Errorf("%s: %v", file, info.Mode())
		}
	}
	if got := m.as(keeperUID, "sh", "-c", "kill -0 "+strconv.Itoa(p.cmd.Process.Pid)); got != nil {
		t.Errorf("its own user cannot reach it: %v", got)
	}
	if m.as(daemonUID, "sh", "-c", "kill -0 "+strconv.Itoa(p.cmd.Process.Pid)) == nil {
		t.Error("the daemon's user can signal it")
	}
	m.refused("a second keeper", keeperCaps, m.keeperArgs(), fmt.Sprintf(`in use.*\\"pid\\":%d`, p.cmd.Process.Pid))
	must(t, p.cmd.Process.Signal(syscall.SIGHUP))
	p.awaits("RELOADING=1")
	p.awaits("READY=1")
	if code := p.stop(); code != exitDone {
		t.Errorf("SIGTERM: exit code %d", code)
	}
	p.awaits("STOPPING=1")
	if left, _ := os.ReadDir(filepath.Dir(m.socket)); len(left) > 0 {
		t.Errorf("it leaves %v", left)
	}
	m.keeper().kill()
	if code := m.keeper().stop(); code != exitDone { // over the sockets that a killed one left
		t.Errorf("after a kill: exit code %d", code)
	}
}

// as runs a program as a user without any capability.
func (m *machine) as(uid int, args ...string) error {
	c := exec.Command("setpriv", append(daemonCapsAs(uid), args...)...)
	c.Dir = "/"
	out, err := c.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// Whoever edits the keeper's settings can make locks longer and not shorter; a mistake in them changes nothing.
func TestSettingsOfARealKeeperOnlyTighten(t *testing.T) {
	m := newMachine(t)
	m.found()
	file := filepath.Join(m.run, "policy.json")
	write := func(text string) { must(t, os.WriteFile(file, []byte(text), 0o644)) }
	write(`{"min_s": 600}`)
	p := m.keeper("--policy", file)
	lines := func() int {
		b, err := os.ReadFile(filepath.Join(m.vault, "ledger", "000001.jsonl"))
		must(t, err)
		return bytes.Count(b, []byte("\n"))
	}
	reload := func() {
		must(t, p.cmd.Process.Signal(syscall.SIGHUP))
		p.awaits("RELOADING=1")
		p.awaits("READY=1")
	}
	before := lines()
	if before < 2 {
		t.Errorf("%d records: the tighter minimum has none", before)
	}
	for harm, text := range map[string]string{"looser": `{"min_s": 30}`, "a mistake": `{"min_s": "soon"}`, "unknown": `{"minimum": 700}`, "witnesses": `{"witnesses": {"quorum": 9}}`} {
		write(text)
		reload()
		if n := lines(); n != before {
			t.Errorf("%s: %d records, before %d", harm, n, before)
		}
	}
	write(`{"min_s": 900}`)
	reload()
	if n := lines(); n != before+1 {
		t.Errorf("%d records after a tighter minimum, before %d", n, before)
	}
	if said := p.errs.String(); !strings.Contains(said, "not followed") || !strings.Contains(said, "not taken") {
		t.Errorf("nothing is said of it:\n%s", said)
	}
	if code := p.stop(); code != exitDone {
		t.Errorf("exit code %d", code)
	}
	write(`{"min_s": "soon"}`)
	m.refused("with a mistake in its settings", keeperCaps, m.keeperArgs("--policy", file), "line 1")
}

// People reach their keeper as its user, and nobody else does.
func TestOperatorsOfARealKeeper(t *testing.T) {
	m := newMachine(t)
	m.found()
	m.keeper()
	program := filepath.Join(m.bin, "holdfast-keeper")
	ring := filepath.Join(m.run, "ring")
	must(t, os.WriteFile(ring, []byte("wrapped anew\n"), 0o644))
	ask := func(uid int, args ...string) (int, string) {
		c := exec.Command("setpriv", append(append(daemonCapsAs(uid), program), args...)...)
		out, _ := c.CombinedOutput()
		return c.ProcessState.ExitCode(), string(out)
	}
	if code, out := ask(keeperUID, "status", "--socket", m.socket); code != exitDone || !strings.Contains(out, `protection "immutable flag"`) || !strings.Contains(out, "damage     none seen") {
		t.Errorf("%d %s", code, out)
	}
	if code, out := ask(keeperUID, "keyring", "--socket", m.socket, "--reason", "a recipient more", ring); code != exitDone || !strings.Contains(out, "is replaced") {
		t.Errorf("%d %s", code, out)
	}
	if got, err := os.ReadFile(filepath.Join(m.vault, "keyring")); err != nil || string(got) != "wrapped anew\n" {
		t.Errorf("the keyring is %q, %v", got, err)
	}
	// Nothing is lost here, so nothing is given up.
	if code, out := ask(keeperUID, "origin", "--socket", m.socket, "--root", "x", "--by", "anna", "--reason", "try"); code != exitFailed || !strings.Contains(out, "holdfast-keeper: ") {
		t.Errorf("%d %s", code, out)
	}
	for _, uid := range []int{daemonUID, 0} {
		if code, out := ask(uid, "keyring", "--socket", m.socket, ring); code != exitFailed {
			t.Errorf("user %d: %d %s", uid, code, out)
		}
	}
	d, err := durable.OpenDir(m.vault)
	must(t, err)
	must(t, d.SetFlags(".", 0, durable.Immutable))
	must(t, d.Remove("keyring"))
	must(t, errors.Join(d.SetFlags(".", durable.Immutable, 0), d.Close()))
	if code, out := ask(keeperUID, "status", "--socket", m.socket); code != exitDamage || !strings.Contains(out, "keyring") {
		t.Errorf("%d %s", code, out)
	}
}
