package main

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/keeper"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

// keptSite is a site whose vault a keeper keeps, in the test's own process. cmd/holdfast-keeper's tests have the real one.
type keptSite struct {
	*site
	disk         *durable.Dir
	socket, work string
	end          func()
}

func newKeptSite(t *testing.T) *keptSite {
	t.Helper()
	s := &keptSite{site: newSite(t), socket: filepath.Join(shortDir(t), "s")}
	s.work = filepath.Join(s.dir, "work")
	s.write("holdfast.yaml", "vault: "+s.vault+"\nkeeper: "+s.socket+"\nwork: "+s.work+"\n")
	if err := os.Mkdir(s.vault, 0o750); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.disk, err = durable.OpenDir(s.vault); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.disk.Close() })
	needFlags(t, s.disk)
	t.Cleanup(func() { s.stopKeeper(); mutable(s.disk, ".") })
	s.startKeeper()
	return s
}

// needFlags skips the test where no file can be made immutable, and fails it where all has to run.
func needFlags(t *testing.T, d *durable.Dir) {
	t.Helper()
	err := d.SetFlags(".", durable.AppendOnly, 0)
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission) {
		if os.Getenv("HOLDFAST_REQUIRE_ALL") == "1" && os.Geteuid() == 0 {
			t.Fatal(err)
		}
		t.Skipf("needs a file system with flags, and CAP_LINUX_IMMUTABLE: %v", err)
	}
	if err = errors.Join(err, d.SetFlags(".", 0, durable.AppendOnly)); err != nil {
		t.Fatal(err)
	}
}

// mutable lifts every flag below a directory, so that the test's files can be removed.
func mutable(d *durable.Dir, name string) {
	_ = d.SetFlags(name, 0, durable.Immutable|durable.AppendOnly) // what stays is told by the removal
	entries, err := d.ReadDir(name)
	if err != nil {
		return
	}
	for _, e := range entries {
		mutable(d, filepath.Join(name, e.Name()))
	}
}

func (s *keptSite) startKeeper() {
	s.t.Helper()
	open := func() (*worm.Store, error) { return worm.Open(s.disk, clock.Kernel(), worm.Options{Guard: true}) }
	var store *worm.Store
	if _, err := s.disk.Stat("vault.json"); err == nil {
		if store, err = open(); err != nil {
			s.t.Fatal(err)
		}
	}
	server := keeper.NewServer(store, keeper.Options{UID: uint32(os.Geteuid()), Found: func(_ context.Context, o worm.InitOptions) (*worm.Store, error) {
		o.Guard = true
		if _, err := worm.Init(s.disk, clock.Kernel(), o); err != nil {
			return nil, err
		}
		return open()
	}})
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.socket, Net: "unix"})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, l) }()
	s.end = sync.OnceFunc(func() {
		cancel()
		err := <-done
		if store := server.Store(); store != nil {
			err = errors.Join(err, store.Close())
		}
		if err != nil {
			s.t.Error(err)
		}
	})
}

func (s *keptSite) stopKeeper() { s.end() }

// TestCommandsWorkThroughAKeeper: a vault is made, filled, read, checked and pruned through a keeper, with and without a daemon;
// nothing of the daemon's own lies in it, and a keeper that is gone is said to be gone.
func TestCommandsWorkThroughAKeeper(t *testing.T) {
	srv := sshdtest.Start(t, sshdtest.Options{})
	s := newKeptSite(t)
	src := filepath.Join(t.TempDir(), "src")
	writeTree(t, src, 5, 60, 1)
	if r := s.run("snapshots"); r.code == exitDone {
		t.Errorf("snapshots of no vault: %s", r.out)
	}
	s.must("init", "--recovery-out", filepath.Join(s.dir, "recovery.key"))
	if r := s.run("init", "--unlock-key", filepath.Join(s.dir, "second.key"), "--recovery-out", filepath.Join(s.dir, "r2.key")); r.code != exitFailed || !strings.Contains(r.err, "already") {
		t.Errorf("a second init: %d %s", r.code, r.err)
	}
	s.pull(srv, "web1", src)
	d := s.serve()
	if err := os.WriteFile(filepath.Join(src, "added"), []byte("added"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.pull(srv, "web1", src)
	s.stopKeeper()
	gone := s.run(pullArgs(srv, "web1", src)...)
	if said := gone.out + gone.err; gone.code != exitFailed || !strings.Contains(said, "holdfast-keeper") || strings.Contains(said, "firewall") {
		t.Errorf("a pull without the keeper does not say what is wrong: %d %s", gone.code, said)
	}
	if out := s.must("snapshots").out; strings.Count(out, "web1@") != 2 {
		t.Errorf("without the keeper the daemon lists\n%s", out)
	}
	s.startKeeper()
	s.pull(srv, "web1", src)
	s.must("check", "--read-data")
	s.must("prune")
	tellsWhy := func() {
		t.Helper()
		s.run("explain", "web1@latest").says(t, exitDone, "It is kept, for 2 reasons", "never goes")
		s.run("usage").says(t, exitDone, "web1", "the ledger", "in all")
		s.run("prune", "--simulate", "40d", "--no-pulls").says(t, exitDone, "COMES BACK", "newest 1")
		s.run("prune", "--dry-run").says(t, exitDone, "3 snapshots")
	}
	tellsWhy()
	d.stop()
	to := filepath.Join(t.TempDir(), "out")
	s.must("restore", "web1@latest", "--to", to)
	sameAsSource(t, src, to)
	s.must("check")
	for _, name := range []string{"index", "sessions", "usage", "lock"} {
		if _, err := os.Lstat(filepath.Join(s.vault, name)); err == nil {
			t.Errorf("%s lies in the vault", name)
		}
		if _, err := os.Lstat(filepath.Join(s.work, name)); err != nil {
			t.Errorf("work: %v", err)
		}
	}
	s.write("without.yaml", "vault: "+s.vault+"\n")
	if r := s.run(append([]string{"--config", filepath.Join(s.dir, "without.yaml")}, pullArgs(srv, "web1", src)...)...); r.code != exitFailed || !strings.Contains(r.err, "keeper:") {
		t.Errorf("a pull past the keeper: %d %s", r.code, r.err)
	}
	tellsWhy()
	s.stopKeeper()
	tellsWhy() // nothing of that is asked of the keeper
	if r := s.run("check"); r.code != exitFailed || !strings.Contains(r.out, "Checked") {
		t.Errorf("check without the keeper: %d %s%s", r.code, r.out, r.err)
	}
}

// TestAbsentKeeperIsTakenForDamage: while the keeper is down everything can be read, check finds no damage and says what it did
// not look at, and a daemon that starts meanwhile waits for it.
func TestAbsentKeeperIsTakenForDamage(t *testing.T) {
	srv := sshdtest.Start(t, sshdtest.Options{})
	s := newKeptSite(t)
	src := filepath.Join(t.TempDir(), "src")
	writeTree(t, src, 3, 60, 1)
	s.must("init", "--recovery-out", filepath.Join(s.dir, "recovery.key"))
	s.pull(srv, "web1", src)
	d := s.serve()
	s.stopKeeper()
	r := s.run("check", "--read-data")
	if r.code != exitFailed || strings.Contains(r.out+r.err, "DAMAGE") || strings.Contains(r.out+r.err, "damaged") || !strings.Contains(r.out, "UNSEEN keeper") {
		t.Errorf("check without the keeper: %d %s%s", r.code, r.out, r.err)
	}
	to := filepath.Join(t.TempDir(), "out")
	s.must("restore", "web1@latest", "--to", to)
	sameAsSource(t, src, to)
	d.stop()

	// A power cut right behind a seal leaves a pack without its flag, which the next start sets.
	if err := s.disk.SetFlags("packs/00000001.pack", 0, durable.Immutable); err != nil {
		t.Fatal(err)
	}
	c := s.command("serve")
	said, err := c.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	waited, ready := false, false
	for lines := bufio.NewScanner(said); lines.Scan(); {
		if strings.Contains(lines.Text(), "waiting for the keeper") {
			waited = true
			s.startKeeper()
		}
		if strings.Contains(lines.Text(), "msg=ready") {
			ready = true
			s.must("check", "--read-data")
			_ = c.Process.Signal(syscall.SIGTERM)
		}
	}
	if err := c.Wait(); err != nil || !waited || !ready {
		t.Errorf("a daemon that started before its keeper: %v, waited %v, ready %v", err, waited, ready)
	}
}

// TestUnlockKeyOfTheUnitIsNotFound: who set the service up as the manual says has one key file, under the unit's name for it.
func TestUnlockKeyOfTheUnitIsNotFound(t *testing.T) {
	dir := t.TempDir()
	own, service := filepath.Join(dir, "unlock-ab12.key"), filepath.Join(dir, "unlock.key")
	for _, step := range []struct{ made, want string }{{"", own}, {service, service}, {own, own}} {
		if step.made != "" {
			if err := os.WriteFile(step.made, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := keyIn(dir, "ab12"); got != step.want {
			t.Errorf("with %q: %q, want %q", step.made, got, step.want)
		}
	}
}
