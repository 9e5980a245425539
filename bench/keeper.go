package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/holdfast-vault/holdfast/bench/lab"
	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/keeper"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// keptTool is us, with a keeper that writes to the vault: the keeper's own code behind a real socket, in the bench's process,
// since holdfast-keeper itself refuses to run as root. The vault is guarded, so that everything that a seal does is done.
type keptTool struct{ holdfastTool }

func (t *keptTool) setup(ctx context.Context) error {
	for _, dir := range []string{t.dir, t.in("vault"), t.in("work")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	config := fmt.Sprintf("vault: %s\nkeeper: %s\nwork: %s\n", t.in("vault"), t.in("socket"), t.in("work"))
	if err := os.WriteFile(t.in("holdfast.yaml"), []byte(config), 0o600); err != nil {
		return err
	}
	_, err := t.served(ctx, func() (lab.Usage, error) {
		return t.run(ctx, t.holdfast("init", "--recovery-out", t.in("recovery.key")))
	})
	return err
}

func (t *keptTool) pull(ctx context.Context, host string) (lab.Usage, error) {
	return t.served(ctx, func() (lab.Usage, error) { return t.holdfastTool.pull(ctx, host) })
}

func (t *keptTool) size() (kept, cache int64, err error) {
	kept, _, err = t.holdfastTool.size()
	if err != nil {
		return 0, 0, err
	}
	cache, err = sizeOf(t.in("work/index"), allocated)
	return kept, cache, err
}

// served does something while a keeper serves the vault. What it takes to start one is not timed.
func (t *keptTool) served(ctx context.Context, do func() (lab.Usage, error)) (u lab.Usage, err error) {
	d, err := durable.OpenDir(t.in("vault"))
	if err != nil {
		return u, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	open := func() (*worm.Store, error) { return worm.Open(d, clock.Kernel(), worm.Options{Guard: true}) }
	var store *worm.Store
	if _, serr := d.Stat("vault.json"); serr == nil {
		if store, err = open(); err != nil {
			return u, err
		}
	}
	server := keeper.NewServer(store, keeper.Options{
		UID: uint32(os.Geteuid()), Logf: func(format string, args ...any) { say(format, args...) },
		Found: func(_ context.Context, o worm.InitOptions) (*worm.Store, error) {
			o.Guard = true
			if _, err := worm.Init(d, clock.Kernel(), o); err != nil {
				return nil, err
			}
			return open()
		},
	})
	socket, remove, err := t.listen()
	if err != nil {
		return u, err
	}
	defer remove()
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, socket) }()
	u, err = do()
	cancel()
	err = errors.Join(err, <-done)
	if s := server.Store(); s != nil {
		err = errors.Join(err, s.Close())
	}
	return u, err
}

// listen makes the keeper's socket. Its real place has a short name, since a socket's has little room.
func (t *keptTool) listen() (l *net.UnixListener, remove func(), err error) {
	dir, err := os.MkdirTemp("", "keeper")
	if err != nil {
		return nil, nil, err
	}
	remove = func() { _ = errors.Join(os.RemoveAll(dir), os.Remove(t.in("socket"))) } // nothing is measured by it
	if l, err = net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"}); err == nil {
		err = os.Symlink(filepath.Join(dir, "s"), t.in("socket"))
	}
	if err != nil {
		remove()
		return nil, nil, err
	}
	return l, remove, nil
}
