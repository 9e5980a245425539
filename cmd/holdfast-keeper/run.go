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
	"sync"
	"syscall"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/keeper"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// house is the running keeper.
type house struct {
	o      *options
	log    *slog.Logger
	notify notifier
	me     process
	daemon peer

	disk  *durable.Dir
	lock  *durable.FileLock
	store *worm.Store
	level string
}

// run keeps a vault until ctx ends.
func (o *options) run(ctx context.Context, rest []string, errs io.Writer) (err error) {
	switch {
	case len(rest) > 0:
		return usage("%q is too much", rest)
	case o.vault == "":
		return usage("which vault? give --vault DIR")
	case !filepath.IsAbs(o.vault):
		return usage("--vault %q is not an absolute path", o.vault)
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

// open takes the vault for this process and finishes what an interrupted one left.
func (k *house) open(ctx context.Context) (err error) {
	if k.disk, err = durable.OpenDir(k.o.vault); err != nil {
		return fmt.Errorf("vault: %w; make the directory and give it to the keeper's user (systemd-tmpfiles --create does)", err)
	}
	if err := k.takeLock(); err != nil {
		return err
	}
	if k.level, err = k.protection(); err != nil {
		return err
	}
	return k.long(ctx, "opening the vault and finishing what an interrupted process left", func() (err error) {
		k.store, err = worm.Open(k.disk, clock.Kernel(), worm.Options{Guard: k.level != ownership})
		return err
	})
}

// keeperDir holds what nobody but the keeper reads.
const keeperDir = "keeper"

// takeLock ends a second keeper of the same vault.
func (k *house) takeLock() error {
	if err := durable.MkdirAll(k.disk, keeperDir, 0o700); err != nil {
		return fmt.Errorf("vault: %w; the vault's directory and all in it belong to the keeper's user (docs/OPERATIONS.md says how a vault moves under a keeper)", err)
	}
	l, err := durable.LockFile(filepath.Join(k.o.vault, keeperDir, "lock"))
	if err != nil {
		return fmt.Errorf("another keeper has this vault: %w", err)
	}
	k.lock = l
	return l.SetHolder(fmt.Appendf(nil, "{\"pid\":%d}", os.Getpid()))
}

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
	server := keeper.NewServer(k.store, keeper.Options{UID: k.daemon.uid, Level: func() string { return k.level }, Logf: func(format string, args ...any) {
		k.log.Warn(fmt.Sprintf(format, args...))
	}})
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGHUP)
	defer signal.Stop(told)
	failed := make(chan error, 2)
	var all sync.WaitGroup
	all.Go(func() { failed <- server.Serve(ctx, daemon) })
	all.Go(func() { failed <- server.ServeOperator(ctx, people) })
	k.log.Info("ready", "vault", k.store.Vault(), "socket", k.o.socket, "user", k.daemon.uid, "level", k.level,
		"records", k.store.Ledger().Size(), "unguarded", k.store.Unguarded())
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

// tendEvery is how often the clock is read though nobody asks, so that a power cut costs little of the running time.
const tendEvery = time.Minute

// tend looks after the store until ctx ends or a listener has ended.
func (k *house) tend(ctx context.Context, told <-chan os.Signal, failed chan error) {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-failed:
			failed <- err // for serve, which ends with it
			return
		case <-told:
			k.reload()
		case <-tick.C:
			if now := k.look(); now != said {
				said = now
				k.notify.status(k.how())
			}
		}
	}
}

// reload is what SIGHUP asks for.
func (k *house) reload() {
	k.notify.reloading()
	k.look()
	k.log.Info("asked how it is", "status", k.how())
	k.notify.ready(k.how())
}

// look reads the clock, records what waits for its record, and says what is wrong.
func (k *house) look() (wrong string) {
	pending := k.store.Settle()
	if pending > 0 {
		wrong = fmt.Sprintf("%d published files lack their record", pending)
	}
	if err := k.store.Tick(); err != nil {
		wrong = err.Error()
	}
	if shifted, why := k.store.ClockShifted(); shifted {
		wrong = why
	}
	if err := k.store.Ledger().CheckpointError(); err != nil {
		wrong = fmt.Sprintf("the checkpoint could not be written: %v", err)
	}
	if wrong != "" {
		k.log.Warn("not well", "what", wrong)
	}
	return wrong
}

// how says in a line how the keeper is.
func (k *house) how() string {
	return fmt.Sprintf("Keeping vault %s: %d records, protection: %s", k.store.Vault(), k.store.Ledger().Size(), k.level)
}

// close puts everything down. Nothing that was acknowledged depends on it.
func (k *house) close() error {
	var errs []error
	if k.store != nil {
		if pending := k.store.Settle(); pending > 0 {
			k.log.Warn("ending with files that lack their record; the next start writes it", "files", pending)
		}
		errs = append(errs, k.store.Close())
		k.log.Info("stopped", "records", k.store.Ledger().Size())
	}
	if k.lock != nil {
		errs = append(errs, k.lock.Close())
	}
	if k.disk != nil {
		errs = append(errs, k.disk.Close())
	}
	return errors.Join(errs...)
}
