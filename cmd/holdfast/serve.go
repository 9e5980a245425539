package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/metrics"
	"github.com/holdfast-vault/holdfast/vault"
	"github.com/holdfast-vault/holdfast/vault/door"
)

func serveCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the daemon: schedule, metrics, door, socket",
		Long: `Run the daemon. It pulls every source that has an interval (every:), answers Prometheus on
metrics.listen, opens the door on door.listen, and takes the other commands through its unix socket.
SIGTERM or SIGINT ends it: running pulls are kept for resuming. SIGHUP makes it read its
configuration again, as it does within a minute when a file of it has changed: bandwidth
(of running pulls too), sources, intervals, locks and memory change without a restart; how many
pulls run at once, and the caches of the vault, follow the memory only after one.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return a.serve(c.Context()) },
	}
}

// server is the running daemon.
type server struct {
	h      *host
	cfg    *config.Config // as it was at the start: addresses, keys and users of the door stay as they are
	log    *slog.Logger
	state  *daemonState
	turns  chan struct{} // pulls that may run at once
	gate   *door.Server
	socket string

	protection *protection
	pruning    *pruning
	undone     string // why requests that are due could not be carried out the last time; watchClock's alone

	mu        sync.Mutex
	scheduled map[string]bool // sources that a goroutine of the schedule looks after; guarded by mu
}

func (a *app) serve(ctx context.Context) (err error) {
	dir, err := a.vaultDir()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(a.err, nil))
	h, err := a.openSoon(ctx, dir, log)
	if err != nil || h == nil {
		return err
	}
	defer func() { err = errors.Join(err, h.v.Close()) }()
	s := &server{h: h, cfg: h.settings.config(), log: log, turns: make(chan struct{}, pullsAtOnce(a.memory(h.settings.config()))), scheduled: map[string]bool{}, protection: &protection{try: h.v.Probe}}
	if err := s.probe(ctx); err != nil {
		return err
	}
	if _, _, failed := s.protection.known(); !durable.IsNoSpace(failed) {
		s.adopt(ctx, s.cfg) // behind the probe: what cannot be held here does not become the policy
	}
	s.sayStanding()
	if s.state, err = newDaemonState(ctx, h, s.log); err != nil {
		return err
	}
	s.state.protection = s.protection
	s.pruning = s.newPruning()
	s.state.pruning = s.pruning
	if s.state.asker, err = s.newAsker(); err != nil {
		return err
	}
	h.pulls = s.state
	if s.gate, err = s.newGate(); err != nil {
		return err
	}
	return s.run(ctx)
}

// keeperAgain is how often a daemon that starts looks for its keeper.
const keeperAgain = 2 * time.Second

// openSoon opens the vault, and waits for a keeper that does not answer: one that recovers, or that a person mends, may take
// longer than a service may fail. It gives nil if it is asked to end before.
func (a *app) openSoon(ctx context.Context, dir string, log *slog.Logger) (*host, error) {
	for said := ""; ; {
		h, err := a.open(ctx, dir, writeAccess)
		switch {
		case err == nil:
			return h, nil
		case ctx.Err() != nil:
			return nil, nil
		case !errors.Is(err, vault.ErrKeeperGone) || errors.Is(err, vault.ErrNotItsDaemon):
			return nil, err
		}
		if text := err.Error(); text != said {
			said = text
			log.Error("waiting for the keeper", "error", text)
			_, _ = daemon.SdNotify(false, "STATUS=Waiting for the keeper") // the log says it too
		}
		select {
		case <-time.After(keeperAgain):
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// run listens everywhere, says that it is ready, and works until ctx ends or a listener fails.
func (s *server) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	local, err := s.listenLocal()
	if err != nil {
		return err
	}
	g.Go(func() error { return named("socket", s.gate.ServeLocal(ctx, local)) })
	if err := s.listen(ctx, g, "metrics", s.cfg.Metrics.Listen, func(l net.Listener) error {
		r := metrics.NewRegistry(s.state, metrics.Options{Build: build(), Runtime: true})
		return metrics.Serve(ctx, l, metrics.Handler(r), slog.NewLogLogger(s.log.Handler(), slog.LevelWarn))
	}); err != nil {
		return errors.Join(err, local.Close())
	}
	if err := s.listen(ctx, g, "door", s.cfg.Door.Listen, func(l net.Listener) error { return s.gate.Serve(ctx, l) }); err != nil {
		return errors.Join(err, local.Close())
	}
	if err := setHolder(s.h.v, holder{PID: os.Getpid(), Socket: s.socket}); err != nil {
		return errors.Join(err, local.Close())
	}
	g.Go(func() error { return s.schedule(ctx) })
	g.Go(func() error { return s.watchClock(ctx) })
	g.Go(func() error { return s.state.asker.run(ctx) })
	g.Go(func() error {
		s.protection.daily(ctx, s.log)
		return nil
	})
	g.Go(func() error {
		s.pruning.daily(ctx, s.prunes)
		return nil
	})
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGHUP)
	defer signal.Stop(told)
	g.Go(func() error {
		s.watchConfig(ctx, told)
		return nil
	})
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady+"\nSTATUS="); err != nil {
		s.log.Warn("systemd was not told that the daemon is ready", "error", err)
	}
	s.log.Info("ready", "vault", s.h.v.ID(), "socket", s.socket, "sources", len(s.cfg.Sources))
	err = g.Wait()
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	s.log.Info("stopped")
	return err
}

func named(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

func (s *server) listen(ctx context.Context, g *errgroup.Group, what, address string, serve func(net.Listener) error) error {
	if address == "" {
		return nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("%s: listen on %q: %w", what, address, err)
	}
	s.log.Info("listening", "for", what, "on", l.Addr().String())
	g.Go(func() error { return named(what, serve(l)) })
	return nil
}

// listenLocal opens the unix socket. Its directory belongs to the daemon's user alone; who connects is asked for by
// the kernel besides. A socket left by a dead daemon is in the way and goes: the vault's lock says that it is dead.
func (s *server) listenLocal() (*net.UnixListener, error) {
	dir, err := runtimeDir(s.h.a.env)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	s.socket = filepath.Join(dir, s.h.v.ID()+".sock")
	if err := os.Remove(s.socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.socket, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("socket %q: %w", s.socket, err)
	}
	if err := os.Chmod(s.socket, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("socket %q: %w", s.socket, err), l.Close())
	}
	return l, nil
}

// runtimeDir is where the socket goes: systemd's RuntimeDirectory, root's /run, the user's runtime directory, or a
// directory of the user's own among the temporary files.
func runtimeDir(env func(string) string) (string, error) {
	if d := env("RUNTIME_DIRECTORY"); filepath.IsAbs(d) {
		return d, nil
	}
	if os.Geteuid() == 0 {
		return "/run/holdfast", nil
	}
	if d := env("XDG_RUNTIME_DIR"); filepath.IsAbs(d) {
		return filepath.Join(d, "holdfast"), nil
	}
	d := filepath.Join(os.TempDir(), fmt.Sprintf("holdfast-%d", os.Geteuid()))
	if err := os.Mkdir(d, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("socket: %w", err)
	}
	info, err := os.Lstat(d)
	if err != nil || !info.IsDir() || info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("socket: %q is not a directory of this user's own; set XDG_RUNTIME_DIR", d)
	}
	return d, nil
}

// newGate makes the door. Users get the verbs that only read; the unix socket's peer gets all.
func (s *server) newGate() (*door.Server, error) {
	key, err := s.doorKey()
	if err != nil {
		return nil, err
	}
	c := door.Config{
		HostKey: key, Commands: map[string]door.Command{}, Local: map[string]door.Command{}, ByRole: map[string]map[string]door.Command{},
		ViewFor: func(u door.User) door.View { return s.viewFor(u) },
		Events: door.Events{
			Refused: func(remote, reason string) {
				s.log.Warn("door: refused", "remote", remote, "reason", fmt.Sprintf("%q", reason))
			},
			Login: func(user, remote, fp string) { s.log.Info("door: login", "user", user, "remote", remote, "key", fp) },
			Denied: func(user, remote, what string) {
				s.log.Warn("door: denied", "user", user, "remote", remote, "what", fmt.Sprintf("%q", what))
			},
			Access: func(x door.Access) {
				s.log.Info("door: access", "user", x.User, "remote", x.Remote, "verb", fmt.Sprintf("%q", x.Verb), "exit", x.Exit, "bytes", x.Bytes)
			},
			Trouble: func(err error) { s.log.Error("door", "error", err) },
		},
	}
	for _, v := range verbs() {
		c.Local[v.name()] = v.command(s.h)
		if v.door {
			c.Commands[v.name()] = v.command(nil)
		}
		for _, role := range v.roles {
			if c.ByRole[string(role)] == nil {
				c.ByRole[string(role)] = map[string]door.Command{}
			}
			c.ByRole[string(role)][v.name()] = v.command(nil)
		}
	}
	c.Local[protectionCommand] = s.tellProtection
	for _, u := range s.cfg.Door.Users {
		user := door.User{Name: u.Name, Sources: u.Sources, Role: string(u.Role)}
		for _, line := range u.Keys {
			k, err := parseHostKey(line)
			if err != nil {
				return nil, usage("door: user %q: %q is not a public key", u.Name, line)
			}
			user.Keys = append(user.Keys, k)
		}
		c.Users = append(c.Users, user)
	}
	return door.New(c)
}

func (s *server) viewFor(u door.User) *view {
	w := &view{v: s.h.v}
	if u.Role == door.LocalRole {
		return w
	}
	allowed := config.User{Sources: u.Sources}
	w.sees, w.user = allowed.Sees, u.Name
	return w
}

// doorKey reads the door's host key, or makes one beside the unlock key. Without a door nobody can know the key: the unix
// socket's peers go by the kernel's word, and one is made for this run only.
func (s *server) doorKey() (ssh.Signer, error) {
	if s.cfg.Door.Listen == "" {
		text, _, err := newKeyPair("holdfast socket")
		if err != nil {
			return nil, err
		}
		return ssh.ParsePrivateKey(text)
	}
	file := s.cfg.Door.HostKey
	if file == "" {
		base, err := s.h.a.userDir()
		if err != nil {
			return nil, err
		}
		file = filepath.Join(base, "door-"+s.h.v.ID()+".key")
	}
	signer, err := readSigner(file)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return signer, err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, fmt.Errorf("door: host key: %w", err)
	}
	text, _, err := newKeyPair("holdfast door")
	if err != nil {
		return nil, err
	}
	if err := writeSecret(file, "door host key", text); err != nil {
		return nil, err
	}
	signer, err = readSigner(file)
	if err == nil {
		s.log.Info("door: made a host key", "file", file, "fingerprint", ssh.FingerprintSHA256(signer.PublicKey()))
	}
	return signer, err
}
