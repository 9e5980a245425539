package level_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/keeper"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/level"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// The users of the children: nobody has them.
const (
	keeperUser = 64101
	daemonUser = 64102
	vaultGroup = 64101
	testVault  = "0123456789abcdef0123456789abcdef"
)

// childVariable makes the test binary play one of the processes: KEEPER, DAEMON or ALONE.
const childVariable = "HOLDFAST_LEVEL_CHILD"

func TestMain(m *testing.M) {
	child := os.Getenv(childVariable)
	if child == "" {
		os.Exit(m.Run())
	}
	play := map[string]func(dir string) error{"keeper": playKeeper, "daemon": playDaemon, "alone": playAlone}
	if err := play[child](os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, child+":", err)
		os.Exit(1)
	}
}

func guarded() bool { return os.Getenv("HOLDFAST_LEVEL_GUARD") != "" }

// openStore makes a vault and opens it.
func openStore(dir string) (*durable.Dir, *worm.Store, error) {
	d, err := durable.OpenDir(dir)
	if err != nil {
		return nil, nil, err
	}
	src := clock.NewManual(clock.Earliest().Add(24 * time.Hour))
	_, err = worm.Init(d, src, worm.InitOptions{
		Vault: testVault, Identity: []byte(`{"format":1,"vault":"` + testVault + `","created":"2026-07-01T00:00:00Z"}` + "\n"),
		Keyring: []byte("wrapped keyring\n"),
		Policy:  ledger.Policy{Mode: ledger.Governance, DefaultSeconds: 3600, MinSeconds: 60, MaxSeconds: 7200},
	})
	if err != nil {
		return nil, nil, err
	}
	for _, dir := range []string{".", "packs", "manifests", "ledger", "incoming"} {
		if err := os.Chmod(filepath.Join(d.Path(), dir), 0o750); err != nil {
			return nil, nil, err
		}
	}
	s, err := worm.Open(d, src, worm.Options{Guard: guarded()})
	return d, s, err
}

// attack probes a store by itself.
func attack(s *worm.Store, dir string, by level.Role) (level.Report, error) {
	p, err := s.CreateProbe()
	if err != nil {
		return level.Report{}, err
	}
	w, err := p.Writer()
	if err != nil {
		return level.Report{}, errors.Join(err, p.Remove(context.Background()))
	}
	return level.Try(context.Background(), level.Subject{Root: dir, File: p.File, Writer: w, Seal: p.Seal, Remove: p.Remove}, by)
}

func playAlone(dir string) error {
	_, s, err := openStore(dir)
	if err != nil {
		return err
	}
	r, err := attack(s, dir, level.Daemon)
	if err != nil {
		return err
	}
	return errors.Join(json.NewEncoder(os.Stdout).Encode(r), s.Close())
}

// playKeeper tries as the owner, and then serves until its input ends.
func playKeeper(dir string) error {
	d, s, err := openStore(dir)
	if err != nil {
		return err
	}
	if guarded() {
		if err := errors.Join(d.SetFlags("ledger", durable.AppendOnly, 0), d.SetFlags(".", durable.Immutable, 0)); err != nil {
			return err
		}
	}
	r, err := attack(s, dir, level.Owner)
	if err != nil {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: os.Getenv("HOLDFAST_LEVEL_SOCKET"), Net: "unix"})
	if err == nil {
		err = os.Chmod(os.Getenv("HOLDFAST_LEVEL_SOCKET"), 0o660)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		return err
	}
	err = keeper.NewServer(s, keeper.Options{UID: daemonUser, Level: r.Level.String}).Serve(ctx, l)
	return errors.Join(err, s.Close())
}

func playDaemon(dir string) error {
	ctx := context.Background()
	c, err := keeper.Dial(ctx, os.Getenv("HOLDFAST_LEVEL_SOCKET"), "test")
	if err != nil {
		return err
	}
	defer c.Close()
	var last level.Report
	for range 2 { // a probe must leave room for the next
		file, w, err := c.Probe(ctx)
		if err != nil {
			return err
		}
		if last, err = level.Try(ctx, level.Subject{Root: dir, File: file, Writer: w, Seal: c.SealProbe, Remove: c.DropProbe}, level.Daemon); err != nil {
			return err
		}
	}
	if names, err := os.ReadDir(filepath.Join(dir, "incoming")); err != nil || len(names) > 0 {
		return fmt.Errorf("left behind: %v %v", names, err)
	}
	return json.NewEncoder(os.Stdout).Encode(last.Under(level.Parse(c.Welcome().Level)))
}

// needRoot skips where other users cannot be played.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for other users and mounts")
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(context.WithoutCancel(t.Context()), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
}

// stage is a directory on a file system of its own that other users reach.
func stage(t *testing.T, kind string) string {
	t.Helper()
	base, err := os.MkdirTemp("", "level")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	mount, image := filepath.Join(base, "mount"), filepath.Join(base, "image")
	if err := errors.Join(os.Chmod(base, 0o755), os.Mkdir(mount, 0o755)); err != nil {
		t.Fatal(err)
	}
	switch kind {
	case "tmpfs":
		run(t, "mount", "-t", "tmpfs", "none", mount)
	default:
		size := map[string]int64{"ext4": 32 << 20, "xfs": 320 << 20}[kind]
		force := map[string]string{"ext4": "-F", "xfs": "-f"}[kind]
		if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size)); err != nil {
			t.Fatal(err)
		}
		run(t, "mkfs."+kind, "-q", force, image)
		run(t, "mount", "-o", "loop", image, mount)
	}
	t.Cleanup(func() { run(t, "umount", mount) })
	return mount
}

// child starts the test binary as another user.
func child(t *testing.T, as string, uid uint32, dir string, guard bool) (*exec.Cmd, io.WriteCloser, func() level.Report) {
	t.Helper()
	self := filepath.Join(filepath.Dir(dir), "self")
	if _, err := os.Stat(self); err != nil {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		run(t, "install", "-m", "0755", exe, self)
	}
	c := exec.CommandContext(t.Context(), self, dir)
	c.Env = append(os.Environ(), childVariable+"="+as, "HOLDFAST_LEVEL_SOCKET="+filepath.Join(filepath.Dir(dir), "run", "s"))
	if guard {
		c.Env = append(c.Env, "HOLDFAST_LEVEL_GUARD=1")
	}
	if uid != 0 {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: vaultGroup}}
		if as == "keeper" {
			c.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_LINUX_IMMUTABLE}
		}
	}
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c, in, func() (r level.Report) {
		if err := json.NewDecoder(out).Decode(&r); err != nil {
			t.Fatalf("%s says nothing: %v", as, err)
		}
		return r
	}
}

func names(all []level.Attempt) (out []string) {
	for _, a := range all {
		out = append(out, a.Name)
	}
	return out
}

// The level that is shown must be the one that holds, whatever was configured: on each file system, with the guard and
// without it.
func TestProtectionIsNotOverstated(t *testing.T) {
	needRoot(t)
	for _, tt := range []struct {
		fs    string
		guard bool
		want  level.Level
		lacks []string // of what the owner can do
	}{
		{"ext4", true, level.Flag, nil},
		{"xfs", true, level.Flag, nil},
		{"ext4", false, level.Ownership, []string{"old descriptor", "old mapping", "open", "unlink", "rename packs", "content"}},
		{"xfs", false, level.Ownership, []string{"old descriptor", "old mapping", "reflink"}},
		{"tmpfs", false, level.Ownership, []string{"old descriptor", "rename", "remove in ledger"}},
	} {
		t.Run(fmt.Sprintf("%s guard %v", tt.fs, tt.guard), func(t *testing.T) {
			mount := stage(t, tt.fs)
			dir := filepath.Join(mount, "vault")
			sockets := filepath.Join(mount, "run")
			if err := errors.Join(os.Mkdir(dir, 0o750), os.Chown(dir, keeperUser, vaultGroup), os.Mkdir(sockets, 0o750), os.Chown(sockets, keeperUser, vaultGroup)); err != nil {
				t.Fatal(err)
			}
			k, in, owner := child(t, "keeper", keeperUser, dir, tt.guard)
			o := owner()
			through := names(o.Through())
			if o.Level != tt.want {
				t.Errorf("the keeper found %q, want %q; through: %q", o.Level, tt.want, through)
			}
			for _, name := range tt.lacks {
				if !slices.Contains(through, name) {
					t.Errorf("%q did not get through without the guard: it proves nothing with it (%q)", name, through)
				}
			}
			if tt.guard { // without one nothing is handed to a daemon
				d, _, daemon := child(t, "daemon", daemonUser, dir, true)
				if r := daemon(); r.Level != tt.want {
					t.Errorf("the daemon found %q, want %q; through: %q", r.Level, tt.want, names(r.Through()))
				}
				if err := d.Wait(); err != nil {
					t.Error(err)
				}
			}
			_ = in.Close()
			if err := k.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A process without a keeper owns what it seals, and must say so.
func TestAloneNothingIsProtected(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	_, s, err := openStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	r, err := attack(s, dir, level.Daemon)
	if err != nil {
		t.Fatal(err)
	}
	if r.Level != level.None {
		t.Errorf("%q", r.Level)
	}
	for _, a := range r.Attempts {
		if !a.Through && a.Name != "reflink" && a.Name != "setxattr" {
			t.Errorf("%s did not get through an unprotected file (%s): it would prove nothing of a protected one", a.Name, a.Outcome)
		}
	}
	if left, err := os.ReadDir(filepath.Join(dir, "incoming")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestComplianceIsNotPromisedWhereItCannotBeHeld(t *testing.T) {
	for _, l := range append(level.All(), level.Unknown) {
		weak := l < level.Flag
		if err := level.Suffices(true, l, false, "--x"); errors.Is(err, level.ErrTooWeak) != weak {
			t.Errorf("%v: %v", l, err)
		}
		if err := errors.Join(level.Suffices(false, l, false, ""), level.Suffices(true, l, true, "")); err != nil {
			t.Errorf("%v: %v", l, err)
		}
		if level.Parse(l.String()) != l {
			t.Errorf("%v does not come back", l)
		}
		if got := level.Covered(l, true); got > l && l != level.Flag {
			t.Errorf("%v becomes %v because witnesses remember it", l, got)
		}
	}
	if got := (level.Report{Level: level.None}).Under(level.Flag); got.Level != level.None {
		t.Errorf("%v", got.Level)
	}
	if got := (level.Report{Level: level.Flag}).Under(level.Parse("nonsense")); got.Level != level.Ownership {
		t.Errorf("%v", got.Level)
	}
}
