package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

// site is a machine with a daemon's configuration, and a real sshd to pull from.
type site struct {
	unflagged bool // the keeper may set no flags
	*machine
	source string
	config string
	env    []string
}

// newSite writes the configuration as docs/OPERATIONS.md says. Nothing runs yet, and there is no vault.
func newSite(t testing.TB, fs string) *site {
	source := filepath.Join(t.TempDir(), "src")
	writeSource(t, source)
	return newSiteOf(t, fs, source)
}

func newSiteOf(t testing.TB, fs, source string) *site {
	t.Helper()
	s := &site{machine: newMachineOn(t, fs), source: source}
	srv := sshdtest.Start(t, sshdtest.Options{})
	own := filepath.Join(s.run, "daemon")
	for from, to := range map[string]string{srv.IdentityFile: "identity", srv.KnownHostsFile: "known_hosts"} {
		b, err := os.ReadFile(from)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(own, to), b, 0o600))
		must(t, os.Chown(filepath.Join(own, to), daemonUID, daemonUID))
	}
	s.config = filepath.Join(s.run, "holdfast.yaml")
	must(t, os.WriteFile(s.config, fmt.Appendf(nil, `vault: %s
keeper: %s
work: %s
unlock_key: %s
sources:
  - name: web1
    url: sftp://%s@%s%s
    identity: %s
    known_hosts: %s
`, s.vault, s.socket, s.work, filepath.Join(own, "unlock.key"), srv.User, srv.Addr, s.source, filepath.Join(own, "identity"), filepath.Join(own, "known_hosts")), 0o644))
	s.env = []string{"HOME=" + s.work, "HOLDFAST_CONFIG=" + s.config, "RUNTIME_DIRECTORY=" + own}
	return s
}

// writeSource writes a tree of small files and a few large ones, a day old, half of it noise.
func writeSource(t testing.TB, dir string) {
	t.Helper()
	r, noise := rand.New(rand.NewPCG(4, 6)), rand.NewChaCha8([32]byte{4})
	for i := range 306 {
		size := r.IntN(8000)
		if i >= 300 {
			size = 5 << 20
		}
		b := make([]byte, size)
		_, _ = noise.Read(b)
		name := filepath.Join(dir, fmt.Sprintf("d%02d", i%17), fmt.Sprintf("f%03d", i))
		must(t, os.MkdirAll(filepath.Dir(name), 0o755))
		must(t, os.WriteFile(name, b, 0o644))
	}
}

// holdfast runs a command as the daemon's user.
func (s *site) holdfast(args ...string) (code int, out string) {
	s.t.Helper()
	c := exec.Command("setpriv", append(append(daemonCapsAs(daemonUID), filepath.Join(s.bin, "holdfast")), args...)...)
	c.Dir, c.Env = "/", append([]string{"PATH=" + os.Getenv("PATH")}, s.env...)
	b, err := c.CombinedOutput()
	if err != nil && c.ProcessState == nil {
		s.t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), string(b)
}

func (s *site) must(args ...string) string {
	s.t.Helper()
	code, out := s.holdfast(args...)
	if code != exitDone {
		s.t.Fatalf("holdfast %q: exit code %d\n%s", args, code, out)
	}
	return out
}

func (s *site) daemon() *program {
	s.t.Helper()
	p := s.start(daemonCaps, s.env, filepath.Join(s.bin, "holdfast"), "serve")
	p.awaits("READY=1")
	return p
}

// snapshots gives how many there are, by the daemon's word.
func (s *site) snapshots() int {
	s.t.Helper()
	var list []json.RawMessage
	out := s.must("snapshots", "--json")
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	return len(list)
}

// whole checks every byte of the vault, and restores and compares the newest snapshot.
func (s *site) whole(what string) {
	s.t.Helper()
	s.must("check", "--read-data")
	secondOpinion(s.t, s.vault, !s.unflagged)
	to := filepath.Join(s.run, "daemon", "out-"+what)
	s.must("restore", "web1@latest", "--to", to)
	want, got := tree(s.t, s.source), tree(s.t, to)
	if len(want) < 300 || len(got) != len(want) {
		s.t.Errorf("%s: %d files restored of %d", what, len(got), len(want))
	}
	for name, sum := range want {
		if got[name] != sum {
			s.t.Errorf("%s: %s was restored as something else", what, name)
		}
	}
}

// tree hashes all files below a directory.
func tree(t testing.TB, dir string) map[string][32]byte {
	t.Helper()
	out := map[string][32]byte{}
	must(t, filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(name)
		out[strings.TrimPrefix(name, dir)] = sha256.Sum256(b)
		return err
	}))
	return out
}

// attack tries as a user, on everything in a directory, what must not work in the vault, and says what did.
func (s *site) attack(uid int, dir string) string {
	s.t.Helper()
	var names bytes.Buffer
	must(s.t, filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		names.WriteString(name + "\n")
		return err
	}))
	list := filepath.Join(s.run, "names")
	must(s.t, os.WriteFile(list, names.Bytes(), 0o644))
	c := exec.Command("setpriv", append(daemonCapsAs(uid), "bash", "-c", `
		while read -r name; do
			mine=$(mktemp)
			if [ -d "$name" ]; then
				: > "$name/new" && echo "made a file in $name"
				mv "$name" "$name.away" && echo "renamed $name" && mv "$name.away" "$name"
			else
				: >> "$name" && echo "opened $name for appending"
				: 1<> "$name" && echo "opened $name for writing"
				truncate -s 1 "$name" && echo "truncated $name"
				chmod u+w "$name" && echo "changed the mode of $name"
				ln "$name" "$name.link" && echo "linked $name"
				chattr -i "$name" && echo "lifted the flag of $name"
				mv "$name" "$name.away" && echo "renamed $name" && mv "$name.away" "$name"
				mv "$mine" "$name" && echo "replaced $name"
				rm -f "$name" && echo "removed $name"
			fi
			rm -f "$mine"
		done < "$1" 2>/dev/null
		true`, "attack", list)...)
	c.Dir = "/"
	out, err := c.CombinedOutput()
	if err != nil {
		s.t.Fatalf("the attacker does not run: %v\n%s", err, out)
	}
	return string(out)
}

// The two processes as they are installed: a daemon without any capability, a keeper with one, each its own user. Together
// they pull and give back; nothing that the daemon's user tries on what is sealed works; either may end at any time.
func TestDaemonAndKeeperUnderTheirOwnUsers(t *testing.T) {
	for _, fs := range fileSystems() {
		t.Run(fs, func(t *testing.T) { liveTogether(t, newSite(t, fs)) })
	}
}

// fileSystems are those that a vault may lie on; the second one only where everything is tried (make keeper-users).
func fileSystems() []string {
	if os.Getenv("HOLDFAST_SWEEP") == "full" {
		return []string{"ext4", "xfs"}
	}
	return []string{"ext4"}
}

func liveTogether(t *testing.T, s *site) {
	keeper := s.keeper()
	recovery := filepath.Join(s.run, "daemon", "recovery.key")
	s.must("init", "--recovery-out", recovery)
	if code, out := s.holdfast("init", "--recovery-out", recovery+"2"); code != exitFailed || !strings.Contains(out, "has vault") {
		t.Errorf("a second vault: %d %s", code, out)
	}
	daemon := s.daemon()
	s.must("pull", "web1")
	if n := s.snapshots(); n != 1 {
		t.Errorf("%d snapshots", n)
	}
	s.whole("first")

	for who, p := range map[string]struct {
		program  *program
		uid      int
		capacity string
	}{"daemon": {daemon, daemonUID, "0000000000000000"}, "keeper": {keeper, keeperUID, "0000000000000200"}} {
		status := p.program.capabilities()
		for _, set := range capSets {
			if status[set.key] != p.capacity {
				t.Errorf("the %s's %s set is %s, want %s", who, set.name, status[set.key], p.capacity)
			}
		}
		if uid, _, _ := strings.Cut(status["Uid"], "\t"); uid != strconv.Itoa(p.uid) || status["NoNewPrivs"] != "1" {
			t.Errorf("the %s: Uid %s, NoNewPrivs %s", who, status["Uid"], status["NoNewPrivs"])
		}
	}
	// On what is its own the same attacks get through.
	decoy := filepath.Join(s.run, "daemon", "decoy")
	s.directory(decoy, daemonUID, 0o700)
	must(t, os.WriteFile(filepath.Join(decoy, "file"), []byte("content"), 0o600))
	must(t, os.Chown(filepath.Join(decoy, "file"), daemonUID, daemonUID))
	done := s.attack(daemonUID, decoy)
	for _, verb := range []string{"made a file in", "for appending", "for writing", "truncated", "changed the mode", "linked", "renamed " + decoy, "renamed " + decoy + "/file", "replaced", "removed"} {
		if !strings.Contains(done, verb) {
			t.Errorf("an attack that is not carried out proves nothing: %q is not in\n%s", verb, done)
		}
	}
	before := tree(t, s.vault)
	if done := s.attack(daemonUID, s.vault); done != "" {
		t.Errorf("as the daemon's user:\n%s", done)
	}
	if done := s.attack(daemonUID+10, s.vault); done != "" {
		t.Errorf("as a stranger:\n%s", done)
	}
	for name, sum := range before {
		if now, err := os.ReadFile(s.vault + name); err != nil || sha256.Sum256(now) != sum && !strings.HasPrefix(name, "/keeper/") {
			t.Errorf("%s is not what it was: %v", name, err)
		}
	}

	// Either one ends and begins again; the other goes on.
	if code := keeper.stop(); code != exitDone {
		t.Errorf("the keeper ends with %d", code)
	}
	if code, out := s.holdfast("pull", "web1"); code == exitDone {
		t.Errorf("a pull without a keeper: %s", out)
	}
	if n := s.snapshots(); n != 1 { // reading needs no keeper
		t.Errorf("%d snapshots", n)
	}
	keeper = s.keeper()
	s.must("pull", "web1")
	if code := daemon.stop(); code != exitDone {
		t.Errorf("the daemon ends with %d", code)
	}
	s.daemon()
	s.must("pull", "web1")
	if n := s.snapshots(); n != 3 {
		t.Errorf("%d snapshots", n)
	}
	keeper.kill()
	s.keeper()
	s.must("pull", "web1")
	s.whole("last")
}

// Where nothing can be made immutable the files are still the keeper's own, and the daemon works and is kept out.
func TestWithoutFlagsTheDaemonReadsAndIsKeptOut(t *testing.T) {
	s := newSite(t, "ext4")
	s.unflagged = true
	begin := func() *program {
		p := s.start(daemonCapsAs(keeperUID), nil, s.keeperArgs("--accept-weaker-protection")...)
		p.awaits("READY=1")
		return p
	}
	keeper := begin()
	s.must("init", "--recovery-out", filepath.Join(s.run, "daemon", "recovery.key"))
	s.daemon()
	s.must("pull", "web1")
	s.whole("first")
	for _, uid := range []int{daemonUID, daemonUID + 10} {
		if done := s.attack(uid, s.vault); done != "" {
			t.Errorf("as user %d:\n%s", uid, done)
		}
	}
	if code := keeper.stop(); code != exitDone {
		t.Errorf("the keeper ends with %d", code)
	}
	keeper = begin()
	if said := keeper.errs.String(); strings.Contains(said, "flags were missing") {
		t.Errorf("files that never had flags are missed:\n%s", said)
	}
	s.must("pull", "web1")
	s.must("check", "--read-data")
	s.whole("last")
}

// moment is what the kernel reports of the vault when the keeper dies.
type moment struct {
	name, dir string
	mask      uint32
	suffix    string
	nth       int
	politely  bool // by SIGTERM
}

var moments = []moment{
	{"reading", "incoming", unix.IN_MODIFY, ".pack", 3, false},
	{"sealing", "packs", unix.IN_CREATE, ".pack", 1, false},
	{"committing", "manifests", unix.IN_CREATE, "", 1, false},
	{"asked to end", "packs", unix.IN_CREATE, ".pack", 1, true},
}

// A keeper that is killed, or ends, in the middle of a pull loses nothing that was acknowledged: the pull fails with a plain error, and
// the next one goes on.
func TestKilledKeeperCostsAPullAndNothingElse(t *testing.T) {
	for _, fs := range fileSystems() {
		for _, m := range moments {
			t.Run(fs+" "+m.name, func(t *testing.T) {
				for range 5 { // on a busy machine a pull may end before the signal comes
					if dieAt(t, newSite(t, fs), m) {
						return
					}
				}
				t.Error("five pulls ended before their keeper was killed")
			})
		}
	}
}

// dieAt says whether the keeper died before the pull had ended.
func dieAt(t *testing.T, s *site, m moment) bool {
	t.Helper()
	keeper := s.keeper()
	s.must("init", "--recovery-out", filepath.Join(s.run, "daemon", "recovery.key"))
	s.daemon()
	watch := s.watch(m.dir, m.mask, m.suffix, m.nth)
	type result struct {
		code int
		out  string
	}
	pulled := make(chan result, 1)
	go func() {
		code, out := s.holdfast("pull", "web1")
		pulled <- result{code, out}
	}()
	select {
	case <-watch:
	case r := <-pulled:
		if r.code == exitDone {
			return false
		}
		t.Fatalf("the pull ended before the moment came: exit code %d\n%s", r.code, r.out)
	}
	if m.politely {
		if code := keeper.stop(); code != exitDone {
			t.Errorf("the keeper ends with %d", code)
		}
	} else {
		keeper.kill()
	}
	if r := <-pulled; r.code == exitDone {
		return false
	} else if r.code != exitFailed {
		t.Fatalf("the pull of a killed keeper: exit code %d\n%s", r.code, r.out)
	}
	s.keeper()
	s.must("pull", "web1")
	// Killed behind the record that commits, the snapshot is there although nobody was told.
	if n := s.snapshots(); n != 1 && !(n == 2 && m.name == "committing") {
		t.Errorf("%d snapshots", n)
	}
	s.whole(m.name)
	if done := s.attack(daemonUID, s.vault); done != "" {
		t.Errorf("as the daemon's user:\n%s", done)
	}
	return true
}

// watch returns a channel that is closed at the nth event of a kind in a directory of the vault.
func (m *machine) watch(dir string, mask uint32, suffix string, nth int) <-chan struct{} {
	m.t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	must(m.t, err)
	events := os.NewFile(uintptr(fd), "inotify")
	_, err = unix.InotifyAddWatch(fd, filepath.Join(m.vault, dir), mask)
	must(m.t, err)
	came, ended := make(chan struct{}), make(chan struct{})
	m.t.Cleanup(func() { _ = events.Close(); <-ended })
	go func() {
		defer close(ended)
		for buf := make([]byte, 64<<10); ; {
			n, err := events.Read(buf)
			if errors.Is(err, os.ErrClosed) || n < unix.SizeofInotifyEvent {
				return
			}
			for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
				size := int(uint32(b[12]) | uint32(b[13])<<8 | uint32(b[14])<<16 | uint32(b[15])<<24)
				name := string(bytes.TrimRight(b[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+size], "\x00"))
				b = b[unix.SizeofInotifyEvent+size:]
				if strings.HasSuffix(name, suffix) {
					if nth--; nth == 0 {
						close(came)
					}
				}
			}
		}
	}()
	return came
}

// BenchmarkFirstPull is what the keeper costs: a first pull of Go's own tree from a real sshd, into an ext4, by the same
// program with a keeper and without one.
func BenchmarkFirstPull(b *testing.B) {
	for _, kept := range []bool{false, true} {
		b.Run(map[bool]string{false: "alone", true: "keeper"}[kept], func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				s := newSiteOf(b, "ext4", strings.TrimSpace(command(b, "go", "env", "GOROOT")))
				if kept {
					s.keeper()
				} else {
					s.alone()
				}
				s.must("init", "--recovery-out", filepath.Join(s.run, "daemon", "recovery.key"))
				command(b, "sync")
				b.StartTimer()
				s.must("pull", "web1")
			}
		})
	}
}

// alone takes the keeper out of the configuration, and gives the vault to the daemon.
func (s *site) alone() {
	text, err := os.ReadFile(s.config)
	must(s.t, err)
	var without []string
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "keeper:") && !strings.HasPrefix(line, "work:") {
			without = append(without, line)
		}
	}
	must(s.t, os.WriteFile(s.config, []byte(strings.Join(without, "")), 0o644))
	must(s.t, os.Chown(s.vault, daemonUID, daemonUID))
}
