package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/keeper"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// The attacks of docs/KEEPER.md section 10, tried by real processes of the daemon's user and of an operator's on a vault
// that a real keeper has, on ext4 and on XFS. The operator is in the daemon's group, so that nothing is left to the modes
// of directories that could be left to more.

const operatorUID = 64003

// attack is a row of the table.
type attack struct {
	name string
	by   string // D the daemon's user, O an operator's; both where it stands so
	// stops are the outcomes that are right, as outcome puts them. "done" is right where what is done harms nothing.
	stops string
	// try runs in a process of the attacker's; nil is what went through.
	try func(*attacker) error
	// stage is what the test itself does, as somebody who may start and kill processes; it has the others do their part.
	stage func(*war) error
}

func allAttacks() []attack {
	return slices.Concat(attacksOnNames(), attacksOnContent(), attacksOnRights(), attacksOnProcesses(), attacksByMessage(), attacksByManifest(), attacksOnHandles(), attacksOnStage(), attacksOnPeople())
}

// attackedVariable says which process of the attack the test binary plays.
const attackedVariable = "HOLDFAST_ATTACK"

// outcome puts an error into a few words: the name of an errno, a code of the protocol, or what became of a connection.
func outcome(err error) string {
	var errno unix.Errno
	var failure *keeper.Failure
	var missing *worm.MissingPacks
	var stale *worm.StaleHead
	var exit *exec.ExitError
	var left exitAsError
	switch {
	case err == nil:
		return "done"
	case errors.As(err, &failure):
		return fmt.Sprintf("code %d", failure.Code)
	case errors.As(err, &missing):
		return fmt.Sprintf("code %d", keeper.Missing)
	case errors.As(err, &stale):
		return fmt.Sprintf("code %d", keeper.Stale)
	case errors.Is(err, keeper.ErrGone), errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return "cut off"
	case errors.As(err, &exit), errors.As(err, &left):
		return "exit"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

func stopped(a attack, got string) bool {
	return slices.Contains(strings.Split(a.stops, ", "), got)
}

// war is a vault with a keeper, and its attackers.
type war struct {
	t       testing.TB
	m       *machine
	keeper  *program // nil where a mutant serves
	daemon  *soldier
	oper    *soldier
	self    string
	before  *state
	unguard bool
}

// soldier is an attacker's process.
type soldier struct {
	t    testing.TB
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	errs syncBuffer
}

// enlist starts a process as a user. More goes into its environment.
func (w *war) enlist(as string, uid int, more ...string) *soldier {
	w.t.Helper()
	s := &soldier{t: w.t}
	s.cmd = exec.Command("setpriv", append([]string{"--pdeathsig", "KILL", "--reuid", strconv.Itoa(uid), "--regid", strconv.Itoa(daemonUID), "--clear-groups", "--no-new-privs",
		"--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"}, w.self)...)
	own := filepath.Join(w.m.dir, "own"+strconv.Itoa(uid))
	s.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), attackedVariable + "=" + as, "ATTACK_VAULT=" + w.m.vault, "ATTACK_SOCKET=" + w.m.socket,
		"ATTACK_OWN=" + own, "ATTACK_BIN=" + w.m.bin, "ATTACK_RUN=" + w.m.run, "HOME=" + own}, more...)
	s.cmd.Dir = "/"
	s.cmd.Stderr = &s.errs
	var err error
	s.in, err = s.cmd.StdinPipe()
	must(w.t, err)
	out, err := s.cmd.StdoutPipe()
	must(w.t, err)
	s.out = bufio.NewReader(out)
	must(w.t, s.cmd.Start())
	w.t.Cleanup(s.dismiss)
	return s
}

func (s *soldier) dismiss() {
	if s.cmd.ProcessState != nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait() // it was killed
}

// order has one attack tried, or a preparation of that name.
func (s *soldier) order(name string, pid int) string {
	if _, err := fmt.Fprintf(s.in, "%d %s\n", pid, name); err != nil {
		s.t.Fatalf("%s: the attacker is gone: %v\n%s", name, err, s.errs.String())
	}
	line, err := s.out.ReadString('\n')
	if err != nil {
		s.t.Fatalf("%s: the attacker says nothing: %v\n%s", name, err, s.errs.String())
	}
	var got string
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		s.t.Fatalf("%s: %q: %v", name, line, err)
	}
	return got
}

// newWar makes a vault on a file system of its own, fills it through the keeper, and remembers what is in it.
func newWar(t testing.TB, fsys string) *war {
	t.Helper()
	w := prepareWar(t, fsys)
	w.m.found()
	w.keeper = w.m.keeper()
	w.muster()
	return w
}

func prepareWar(t testing.TB, fsys string) *war {
	t.Helper()
	m := newMachineOn(t, fsys)
	w := &war{t: t, m: m, self: filepath.Join(m.run, "self")}
	exe, err := os.Executable()
	must(t, err)
	command(t, "install", "-m", "0755", exe, w.self)
	rm, err := exec.LookPath("rm")
	must(t, err)
	command(t, "install", "-m", "4755", rm, filepath.Join(m.run, "rm"))
	for _, uid := range []int{daemonUID, operatorUID} {
		m.directory(filepath.Join(m.dir, "own"+strconv.Itoa(uid)), uid, 0o700)
	}
	return w
}

// muster starts the attackers and fills the vault.
func (w *war) muster() {
	w.t.Helper()
	w.daemon, w.oper = w.enlist("soldier", daemonUID), w.enlist("soldier", operatorUID)
	if got := w.daemon.order("fill", 0); got != "done" {
		w.t.Fatalf("the vault cannot be filled: %s\n%s", got, w.daemon.errs.String())
	}
	var err error
	w.before, err = w.look()
	must(w.t, err)
	if len(w.before.snapshots) < 3 || len(w.before.files) < 8 {
		w.t.Fatalf("%d snapshots, %d files: too little to be attacked", len(w.before.snapshots), len(w.before.files))
	}
	for _, s := range []*soldier{w.daemon, w.oper} {
		if w.unguard && s == w.oper {
			continue // files of a mutant are none of his
		}
		if got := s.order("save", 0); got != "done" {
			w.t.Fatalf("the ledger cannot be saved: %s", got)
		}
	}
}

func (w *war) pid() int {
	if w.keeper == nil {
		return os.Getpid()
	}
	return w.keeper.cmd.Process.Pid
}

// state is a vault as an auditor sees it.
type state struct {
	files      map[string]string // what is sealed, and what names it, by name; content
	snapshots  map[string]worm.Snapshot
	checkpoint []byte
}

// sealed are the directories whose files only ever become more, or longer in the last.
var sealed = []string{"packs", "manifests", "ledger"}

func (w *war) look() (*state, error) {
	s := &state{files: map[string]string{}, snapshots: map[string]worm.Snapshot{}}
	for _, dir := range sealed {
		entries, err := os.ReadDir(filepath.Join(w.m.vault, dir))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			name := filepath.Join(dir, e.Name())
			if err := s.read(w.m.vault, name); err != nil {
				return nil, err
			}
		}
	}
	for _, name := range []string{"vault.json", "keyring", "keeper/log.key"} {
		if err := s.read(w.m.vault, name); err != nil {
			return nil, err
		}
	}
	d, err := durable.OpenDir(w.m.vault)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	store, err := worm.Open(d, clock.Kernel(), worm.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer store.Close()
	all, err := store.Snapshots()
	if err != nil {
		return nil, err
	}
	for _, snap := range all {
		if snap.Err != nil {
			return nil, snap.Err
		}
		s.snapshots[snap.ID] = snap
	}
	s.checkpoint = store.Ledger().Checkpoint()
	if w.before != nil {
		if err := store.Ledger().Extends(w.before.checkpoint); err != nil {
			return s, err
		}
	}
	for _, bad := range store.Check(context.Background(), true) {
		err = errors.Join(err, errors.New(bad.String()))
	}
	if err == nil && !w.unguard {
		err = flagged(d, s.files)
	}
	return s, err
}

func (s *state) read(root, name string) error {
	b, err := os.ReadFile(filepath.Join(root, name))
	s.files[name] = string(b)
	return err
}

// flagged says which flags are missing.
func flagged(d *durable.Dir, files map[string]string) (err error) {
	want := map[string]durable.Flags{".": durable.Immutable, "packs": durable.AppendOnly, "manifests": durable.AppendOnly, "ledger": durable.AppendOnly}
	for name := range files {
		if dir := filepath.Dir(name); dir == "packs" || dir == "manifests" {
			want[name] = durable.Immutable
		}
	}
	for name, f := range want {
		if got, ferr := d.Flags(name); ferr != nil || got&f == 0 {
			err = errors.Join(err, fmt.Errorf("%s has the flags %q, not %q (%w)", name, got, f, cmpErr(ferr)))
		}
	}
	return err
}

var errFlag = errors.New("a flag is missing")

func cmpErr(err error) error {
	if err == nil {
		return errFlag
	}
	return err
}

// harm says what is not as it was, if anything is; otherwise what is there now is what counts from then on.
func (w *war) harm() error {
	now, err := w.look()
	if now == nil || err != nil {
		return err
	}
	for name, content := range w.before.files {
		got, there := now.files[name]
		switch {
		case !there:
			err = errors.Join(err, fmt.Errorf("%s is gone", name))
		case got != content && !(filepath.Dir(name) == "ledger" && strings.HasPrefix(got, content)) && name != "ledger/checkpoint":
			err = errors.Join(err, fmt.Errorf("%s is another: %d bytes, it had %d", name, len(got), len(content)))
		}
	}
	for id, was := range w.before.snapshots {
		is, there := now.snapshots[id]
		switch {
		case !there:
			err = errors.Join(err, fmt.Errorf("snapshot %s is gone", id))
		case is.LockedUntil.Before(was.LockedUntil.Add(-jitter)), was.Locked && !is.Locked && time.Now().Before(was.LockedUntil), was.Lock.Mode == ledger.Compliance && is.Lock.Mode != ledger.Compliance:
			err = errors.Join(err, fmt.Errorf("the lock of %s is less than it was: %+v until %v, was %+v until %v", id, is.Lock, is.LockedUntil, was.Lock, was.LockedUntil))
		case is.Label != was.Label || is.Source != was.Source || is.State != was.State:
			err = errors.Join(err, fmt.Errorf("snapshot %s is called otherwise", id))
		}
	}
	if err != nil {
		return err
	}
	for id, was := range w.before.snapshots {
		if is := now.snapshots[id]; is.LockedUntil.Before(was.LockedUntil) { // by less than the jitter, which must not add up
			is.LockedUntil = was.LockedUntil
			now.snapshots[id] = is
		}
	}
	w.before = now
	return nil
}

// lasting is harm that is still there once the keeper must have finished what it had begun for somebody who is dead: in the
// midst of that a file may be published and have no record yet.
func (w *war) lasting() (err error) {
	for end := time.After(10 * time.Second); ; {
		if err = w.harm(); err == nil {
			return nil
		}
		select {
		case <-end:
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// jitter is how much the end of a lock may seem to move: a reader beside the keeper reckons from the last stamp that it finds
// on the disk, so that time which the keeper has credited and not written yet is missing, until it is written. The attacks
// want thousands of seconds.
const jitter = time.Minute

// fight tries one row as everybody who is named in it, and gives what did not end as it should.
func (w *war) fight(a attack) (err error) {
	judge := func(who, got string) {
		if !stopped(a, got) {
			err = errors.Join(err, fmt.Errorf("%s by %s: %s, want %s", a.name, who, got, a.stops))
		}
		if h := w.lasting(); h != nil {
			err = errors.Join(err, fmt.Errorf("%s by %s: HARM: %w", a.name, who, h))
		}
	}
	if a.stage != nil {
		judge("stage", outcome(a.stage(w)))
		return err
	}
	if strings.Contains(a.by, "D") {
		judge("the daemon's user", w.daemon.order(a.name, w.pid()))
	}
	if strings.Contains(a.by, "O") {
		judge("an operator", w.oper.order(a.name, w.pid()))
	}
	return err
}

// leastAttacks is how many rows the table has at least. It may grow.
const leastAttacks = 100

func TestNoAttackTakesAnythingFromTheVault(t *testing.T) {
	needRoot(t)
	all := allAttacks()
	names := map[string]bool{}
	tries := map[string]int{}
	for _, a := range all {
		if names[a.name] || a.stops == "" || (a.try == nil) == (a.stage == nil) || a.by == "" {
			t.Fatalf("the table: %q", a.name)
		}
		names[a.name] = true
		for _, who := range a.by {
			tries[string(who)]++
		}
	}
	if len(all) < leastAttacks {
		t.Fatalf("%d attacks, and there were %d", len(all), leastAttacks)
	}
	for _, fsys := range []string{"ext4", "xfs"} {
		t.Run(fsys, func(t *testing.T) {
			w := newWar(t, fsys)
			for _, a := range all {
				if err := w.fight(a); err != nil {
					t.Error(err)
				}
				select {
				case <-w.keeper.done:
					t.Fatalf("%s: the keeper has ended\n%s", a.name, w.keeper.errs.String())
				default:
				}
			}
			if code := w.keeper.stop(); code != exitDone {
				t.Errorf("the keeper ends with %d\n%s", code, w.keeper.errs.String())
			}
			w.keeper = w.m.keeper()
			if err := w.lasting(); err != nil {
				t.Errorf("after another start: %v", err)
			}
			t.Logf("%d attacks on %s (%d by the daemon's user, %d by an operator): %d snapshots and %d sealed files are as they were",
				len(all), fsys, tries["D"], tries["O"], len(w.before.snapshots), len(w.before.files))
		})
	}
}

// attacker is what an attacking process knows.
type attacker struct {
	vault, socket, own, bin, run string
	keeperPID                    int
	kept                         []io.Closer // over more than one attack
	wrote                        []uint32    // numbers of packs
}

// playSoldier tries what it is told, one line each.
func playSoldier() error {
	a := &attacker{
		vault: os.Getenv("ATTACK_VAULT"), socket: os.Getenv("ATTACK_SOCKET"), own: os.Getenv("ATTACK_OWN"), bin: os.Getenv("ATTACK_BIN"), run: os.Getenv("ATTACK_RUN"),
	}
	known := map[string]func(*attacker) error{}
	maps.Copy(known, preparations())
	for _, row := range allAttacks() {
		if row.try != nil {
			known[row.name] = row.try
		}
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		pid, name, _ := strings.Cut(in.Text(), " ")
		a.keeperPID, _ = strconv.Atoi(pid)
		err := fmt.Errorf("there is no attack %q", name)
		if try := known[name]; try != nil {
			err = try(a)
		}
		b, jerr := json.Marshal(outcome(err))
		if jerr != nil {
			return jerr
		}
		fmt.Printf("%s\n", b)
	}
	return nil
}

// playAttack is TestMain's way into the processes of an attack.
func playAttack(as string) int {
	play := map[string]func() error{"soldier": playSoldier, "mutant": playMutant, "storm": playStorm, "sweeper": playSweeper}
	if err := play[as](); err != nil {
		fmt.Fprintln(os.Stderr, as+":", err)
		return 1
	}
	return 0
}

// dial reaches the keeper. One that is about to let another connection go is waited for.
func (a *attacker) dial() (*keeper.Client, error) {
	for end := time.Now().Add(5 * time.Second); ; {
		c, err := keeper.Dial(context.Background(), a.socket, "attack")
		if err == nil || !errors.Is(err, keeper.ErrGone) || time.Now().After(end) {
			return c, err
		}
	}
}
