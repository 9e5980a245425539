package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/keeper"
	"github.com/holdfast-vault/holdfast/immutability/level"
	"github.com/holdfast-vault/holdfast/immutability/place"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// house is the running keeper.
type house struct {
	o      *options
	log    *slog.Logger
	notify notifier
	me     process
	daemon peer

	disk    *durable.Dir // the vault's directory
	home    *place.Home  // and its further places; nil until they are open
	lock    *durable.FileLock
	guarded bool  // sealed files are made immutable
	exposed error // who else could put another vault in this one's place
	untried bool  // a full disk had no room to try the protection since the start
	holds   protection
	server  *keeper.Server
}

// store is the open vault, nil as long as there is none.
func (k *house) store() *worm.Store {
	if k.server == nil {
		return nil
	}
	return k.server.Store()
}

// run keeps a vault until ctx ends.
func (o *options) run(ctx context.Context, rest []string, errs io.Writer) (err error) {
	switch {
	case len(rest) > 0:
		return usage("%q is too much", rest)
	case o.vault == "":
		return usage("which vault? give --vault DIR")
	}
	k := &house{o: o, log: slog.New(slog.NewTextHandler(errs, nil)), notify: notifier(os.Getenv("NOTIFY_SOCKET"))}
	if err := k.justified(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.close()) }()
	if err := k.open(ctx); err != nil {
		return err
	}
	return k.serve(ctx)
}

// justified refuses to begin as a process that must not have the power to remove.
func (k *house) justified() (err error) {
	if err := harden(); err != nil {
		return err
	}
	if k.me, err = itself(); err != nil {
		return err
	}
	if err := k.me.refuse(); err != nil {
		return err
	}
	if k.daemon, err = lookUp(k.o.user); err != nil {
		return err
	}
	if err := k.me.mayServe(k.daemon); err != nil {
		return err
	}
	_, err = clock.Kernel().Read() // inside a time namespace an error
	return err
}

// open takes the vault for this process and finishes what an interrupted one left. A directory without a vault waits for
// the daemon to have one made.
func (k *house) open(ctx context.Context) (err error) {
	if k.disk, err = durable.OpenDir(k.o.vault); err != nil {
		return fmt.Errorf("vault: %w; make the directory and give it to the keeper's user (systemd-tmpfiles --create does)", err)
	}
	// A second keeper of this vault ends here, and one of a vault that is another user's.
	if k.lock, err = worm.Lock(k.disk); err != nil {
		return fmt.Errorf("vault: %w (docs/OPERATIONS.md says how a vault moves under a keeper)", err)
	}
	if err := worm.AtHome(k.disk); err != nil {
		return fmt.Errorf("vault: %w", err)
	}
	if k.guarded, err = k.mayGuard(); err != nil {
		return err
	}
	if k.home, err = place.Open(k.disk, place.Options{All: true, Mine: true, At: k.o.places}); err != nil {
		return fmt.Errorf("vault: %w", err)
	}
	if err := k.home.Share(); err != nil {
		return fmt.Errorf("vault: letting the group read: %w", err)
	}
	for _, p := range k.home.Places() {
		if err := durable.Above(p.Path, int(k.me.uid)); err != nil {
			k.exposed = errors.Join(k.exposed, err)
		}
	}
	if k.exposed != nil {
		if err := k.weak(k.exposed); err != nil {
			return err
		}
	}
	var store *worm.Store
	is, err := k.isVault()
	if err != nil {
		return err
	}
	if is {
		err = k.long(ctx, "opening the vault and finishing what an interrupted process left", func() (err error) {
			store, err = k.openStore()
			return err
		})
		if err != nil {
			return err
		}
	}
	// What the server holds is closed with the house, also where the rest of the start fails.
	k.server = keeper.NewServer(store, keeper.Options{
		UID: k.daemon.uid, Level: func() string { return k.level(k.store()).String() }, Findings: k.holds.found, Found: k.found,
		Logf: func(format string, args ...any) { k.log.Warn(fmt.Sprintf(format, args...)) },
	})
	if store == nil {
		return nil
	}
	return k.examine(ctx, store)
}

// isVault says whether there is a ledger, the first line of which is what makes a directory a vault.
func (k *house) isVault() (bool, error) {
	entries, err := k.disk.ReadDir("ledger")
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return strings.HasSuffix(e.Name(), ".jsonl") }), err
}

func (k *house) openStore() (*worm.Store, error) {
	return worm.Open(k.storage(), clock.Kernel(), worm.Options{Guard: true, SessionsElsewhere: true})
}

// storage is the vault's directory with its further places. Where there are no flags, modes and leases are still kept as where there are.
func (k *house) storage() durable.GuardedDisk {
	if k.guarded {
		return k.home.Disk
	}
	return durable.WithoutFlags(k.home.Disk)
}

// found makes the vault that the daemon asks for.
func (k *house) found(ctx context.Context, o worm.InitOptions) (*worm.Store, error) {
	if err := level.Suffices(o.Policy.Compliance(), k.holds.level(), k.o.acceptWeaker, weakerFlag); err != nil {
		return nil, err
	}
	if _, err := k.settings(); err != nil { // a vault that is made keeps the policy that it was made with
		return nil, err
	}
	o.Guard = true
	verifier, err := worm.Init(k.storage(), clock.Kernel(), o)
	if err != nil {
		return nil, err
	}
	store, err := k.openStore()
	if err != nil {
		return nil, err
	}
	k.log.Info("made a vault", "vault", o.Vault, "verifier", verifier)
	if err := errors.Join(k.attack(ctx, store), k.adopt(ctx, store)); err != nil {
		k.log.Warn("the vault is made; the next start tries the rest again", "error", err.Error())
	}
	k.notify.status(k.howWith(store))
	return store, nil
}

const weakerFlag = "start holdfast-keeper with --accept-weaker-protection"

// examine finds out which protection holds, and refuses to promise more.
func (k *house) examine(ctx context.Context, store *worm.Store) error {
	if err := errors.Join(k.tryAll(ctx, store), k.adopt(ctx, store)); err != nil {
		return err
	}
	return level.Suffices(store.Policy().Compliance(), k.holds.level(), k.o.acceptWeaker, weakerFlag)
}

// keeperDir holds what nobody but the keeper reads.
const keeperDir = "keeper"

// sayEvery is how often a long step says that it is still at work.
const sayEvery = 10 * time.Second

// long does a step of the start that may take minutes, and says so.
func (k *house) long(ctx context.Context, what string, do func() error) error {
	began := time.Now()
	k.notify.status("Starting: " + what)
	k.log.Info("starting", "step", what)
	done := make(chan struct{})
	var saying sync.WaitGroup
	saying.Go(func() {
		tick := time.NewTicker(sayEvery)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-ctx.Done():
				k.log.Warn("asked to end; the step that runs is finished first", "step", what)
				return
			case <-tick.C:
				k.log.Info("still starting", "step", what, "seconds", int(time.Since(began).Seconds()))
			}
		}
	})
	err := do()
	close(done)
	saying.Wait()
	return err
}

// serve listens, says that it is ready, and answers until ctx ends or a listener fails. What was begun is finished.
func (k *house) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	daemon, err := k.listen(k.o.socket, 0o660)
	if err != nil {
		return err
	}
	people, err := k.listen(k.o.operator(), 0o600)
	if err != nil {
		return errors.Join(err, daemon.Close())
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGHUP)
	defer signal.Stop(told)
	failed := make(chan error, 2)
	var all sync.WaitGroup
	all.Go(func() { failed <- k.server.Serve(ctx, daemon) })
	all.Go(func() { failed <- k.server.ServeOperator(ctx, people) })
	k.log.Info("ready", "socket", k.o.socket, "user", k.daemon.uid, "status", k.how())
	k.notify.ready(k.how())
	k.tend(ctx, told, failed)
	k.notify.stopping()
	cancel()
	all.Wait()
	close(failed)
	for ferr := range failed {
		err = errors.Join(err, ferr)
	}
	return err
}

// listen makes a socket in a directory that only the keeper's user writes to. One that a dead keeper left is in the way and
// goes: the vault's lock says that it is dead.
func (k *house) listen(path string, mode fs.FileMode) (*net.UnixListener, error) {
	dir := filepath.Dir(path)
	info, err := os.Lstat(dir)
	if err != nil {
		return nil, fmt.Errorf("socket: %w; make the directory for the keeper's user, with mode 0750 (RuntimeDirectory= of the unit does)", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || st.Uid != k.me.uid || info.Mode().Perm()&0o027 != 0 {
		return nil, fmt.Errorf("socket: %q must be a directory of user %d with mode 0750, and is %v: others could put a socket of their own there", dir, k.me.uid, info.Mode())
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("socket %q: %w", path, err)
	}
	if err := os.Chmod(path, mode); err != nil {
		return nil, errors.Join(fmt.Errorf("socket: %w", err), l.Close())
	}
	return l, nil
}

const (
	// tendEvery is how often the clock is read though nobody asks, so that a power cut costs little of the running time.
	tendEvery = time.Minute
	// examineEvery is how often the protection is tried anew.
	examineEvery = 24 * time.Hour
)

// tend looks after the store until ctx ends or a listener has ended.
func (k *house) tend(ctx context.Context, told <-chan os.Signal, failed chan error) {
	tick, daily := time.NewTicker(tendEvery), time.NewTicker(examineEvery)
	defer tick.Stop()
	defer daily.Stop()
	for said := k.how(); ; {
		select {
		case <-ctx.Done():
			return
		case err := <-failed:
			failed <- err // for serve, which ends with it
			return
		case <-told:
			k.reload(ctx)
			said = k.how()
		case <-daily.C:
			k.attackAgain(ctx)
		case <-tick.C:
			k.look()
			if k.untried {
				k.attackAgain(ctx)
			}
			if now := k.how(); now != said {
				said = now
				k.notify.status(said)
			}
		}
	}
}

// reload reads the settings again. With a mistake in them what is in force stays.
func (k *house) reload(ctx context.Context) {
	k.notify.reloading()
	if store := k.store(); store != nil {
		if err := k.adopt(ctx, store); err != nil {
			k.log.Error("the settings are not taken; what is in force stays", "error", err.Error())
		}
	}
	k.look()
	k.log.Info("read the settings again", "status", k.how())
	k.notify.ready(k.how())
}

// attackAgain tries the protection of a keeper that runs, which goes on whatever comes of it: locks go on being given.
func (k *house) attackAgain(ctx context.Context) {
	store := k.store()
	if store == nil {
		return
	}
	if err := k.attack(ctx, store); err != nil {
		k.log.Warn("the protection could not be tried", "error", err.Error())
		return
	}
	k.untried = false
}

// look reads the clock, records what waits for its record, and says what is wrong.
func (k *house) look() {
	store := k.store()
	if store == nil {
		return
	}
	if pending := store.Settle(); pending > 0 {
		k.log.Warn("published files lack their record; the next one writes it", "files", pending)
	}
	if n, err := store.CarryOut(context.Background()); err != nil && store.Ledger().Behind() == nil {
		k.log.Warn("requests that are due", "error", err.Error())
	} else if n > 0 {
		k.log.Info("carried out what people asked for", "requests", n)
	}
	if err := store.Tick(); err != nil {
		k.log.Warn("the clock", "error", err.Error())
	}
	if shifted, why := store.ClockShifted(); shifted {
		k.log.Warn("nothing expires", "why", why)
	}
	if err := store.Ledger().CheckpointError(); err != nil {
		k.log.Warn("the checkpoint could not be written", "error", err.Error())
	}
}

// how says in a line how the keeper is.
func (k *house) how() string { return k.howWith(k.store()) }

func (k *house) howWith(store *worm.Store) string {
	if store == nil {
		return "Waiting for a vault: run holdfast init as the daemon's user"
	}
	return fmt.Sprintf("Keeping vault %s: %d records, protection: %s", store.Vault(), store.Ledger().Size(), k.level(store))
}

// close puts everything down. Nothing that was acknowledged depends on it.
func (k *house) close() error {
	var errs []error
	if store := k.store(); store != nil {
		if pending := store.Settle(); pending > 0 {
			k.log.Warn("ending with files that lack their record; the next start writes it", "files", pending)
		}
		errs = append(errs, store.Close())
		k.log.Info("stopped", "records", store.Ledger().Size())
	}
	if k.lock != nil {
		errs = append(errs, k.lock.Close())
	}
	if k.home != nil {
		errs = append(errs, k.home.Close())
	} else if k.disk != nil {
		errs = append(errs, k.disk.Close())
	}
	return errors.Join(errs...)
}
