package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-vault/holdfast/bench/lab"
)

// contender is a tool with a vault, repository or copy of its own, in a directory of its own.
type contender interface {
	// setup makes the vault or repository; not timed.
	setup(ctx context.Context) error
	// pull fetches the source by way of host.
	pull(ctx context.Context, host string) (lab.Usage, error)
	// size is what is kept for good, and what besides is a cache that can be made again, in bytes.
	size() (kept, cache int64, err error)
}

// restorer gives everything back under a directory that does not exist yet, and says where below it the source's root lies.
type restorer interface {
	restore(ctx context.Context, to string) (root string, u lab.Usage, err error)
}

// checker reads and verifies all stored data.
type checker interface {
	check(ctx context.Context) (lab.Usage, error)
}

// copier keeps a plain copy, which can be compared.
type copier interface{ copied() string }

// newContender makes a tool ready to be set up in dir; why says what is missing for it on this machine.
func (st *station) newContender(tool, dir string) (c contender, why string) {
	for _, p := range programs[tool] {
		if lab.Find(p[0], st.o.tools) == "" {
			return nil, p[0] + " is not installed"
		}
	}
	t := toolAt{st: st, path: st.find(tool), dir: dir}
	switch tool {
	case us:
		return &holdfastTool{t}, ""
	case kept:
		return &keptTool{holdfastTool{t}}, ""
	case rsync:
		return &rsyncTool{plain{t}}, ""
	case rclone:
		return &rcloneTool{plain{t}}, ""
	case sftp:
		return &sftpTool{plain{t}}, ""
	}
	if why := lab.NoFUSE(); why != "" {
		return nil, why
	}
	if tool == restic {
		return &resticTool{t}, ""
	}
	return &borgTool{t}, ""
}

// toolAt is a program and where its things lie.
type toolAt struct {
	st   *station
	path string
	dir  string
}

func (t toolAt) in(name string) string { return filepath.Join(t.dir, name) }

func (t toolAt) command(env []string, args ...string) lab.Command {
	return lab.Command{Path: t.path, Args: args, Dir: t.dir, Env: lab.Env(t.dir, env...)}
}

func (t toolAt) run(ctx context.Context, c lab.Command) (lab.Usage, error) {
	_, u, err := lab.Run(ctx, c)
	return u, err
}

// plain is a tool that makes a plain copy.
type plain struct{ toolAt }

func (t plain) setup(context.Context) error { return os.Mkdir(t.dir, 0o700) }
func (t plain) copied() string              { return t.in("copy") }
func (t plain) size() (int64, int64, error) {
	n, err := sizeOf(t.in("copy"), apparent)
	return n, 0, err
}

type rsyncTool struct{ plain }

func (t *rsyncTool) pull(ctx context.Context, host string) (lab.Usage, error) {
	return t.run(ctx, t.command(nil, "-a", "--delete", "-e", "ssh -F "+t.st.sshConfig(), host+":"+t.st.source+"/", t.copied()+"/"))
}

type rcloneTool struct{ plain }

func (t *rcloneTool) pull(ctx context.Context, host string) (lab.Usage, error) {
	return t.run(ctx, t.command(nil, "copy", "--config", t.in("rclone.conf"), "--sftp-host", "127.0.0.1", "--sftp-port", t.st.port(host),
		"--sftp-user", t.st.server.User, "--sftp-key-file", t.st.server.IdentityFile, "--sftp-known-hosts-file", t.st.knownHosts(),
		":sftp:"+t.st.source, t.copied()))
}

type sftpTool struct{ plain }

func (t *sftpTool) pull(ctx context.Context, host string) (lab.Usage, error) {
	return t.run(ctx, t.command(nil, "-q", "-F", t.st.sshConfig(), "-r", "-p", host+":"+t.st.source, t.copied()))
}

// mounted is what all readers through sshfs do. The mount is fresh, so that no cache is warm, and is not timed.
func (t toolAt) mounted(ctx context.Context, host string, c lab.Command) (u lab.Usage, err error) {
	m, err := lab.MountSource(t.st.sshConfig(), host+":"+t.st.source, t.st.mountDir(), lab.Env(t.dir))
	if err != nil {
		return u, err
	}
	defer func() { err = errors.Join(err, m.Unmount(context.WithoutCancel(ctx))) }()
	_, u, err = lab.Run(ctx, c, m.PID())
	return u, err
}

type resticTool struct{ toolAt }

func (t *resticTool) restic(args ...string) lab.Command {
	return t.command([]string{"RESTIC_PASSWORD=bench", "RESTIC_REPOSITORY=" + t.in("repo"), "RESTIC_CACHE_DIR=" + t.in("cache")}, append([]string{"--quiet"}, args...)...)
}

func (t *resticTool) setup(ctx context.Context) error {
	if err := os.Mkdir(t.dir, 0o700); err != nil {
		return err
	}
	_, err := t.run(ctx, t.restic("init"))
	return err
}

// sshfs gives new inode numbers with every mount, so restic is told not to look at them. Its compression is zstd's level 3.
func (t *resticTool) pull(ctx context.Context, host string) (lab.Usage, error) {
	return t.mounted(ctx, host, t.restic("backup", "--compression", "auto", "--ignore-inode", t.st.mountDir()))
}

func (t *resticTool) restore(ctx context.Context, to string) (string, lab.Usage, error) {
	u, err := t.run(ctx, t.restic("restore", "latest", "--target", to))
	return filepath.Join(to, t.st.mountDir()), u, err
}

func (t *resticTool) check(ctx context.Context) (lab.Usage, error) {
	return t.run(ctx, t.restic("check", "--read-data"))
}

func (t *resticTool) size() (kept, cache int64, err error) { return t.sizes("repo", "cache") }

func (t toolAt) sizes(repo, cache string) (int64, int64, error) {
	kept, err := sizeOf(t.in(repo), apparent)
	besides, err2 := sizeOf(t.in(cache), allocated)
	return kept, besides, errors.Join(err, err2)
}

type borgTool struct{ toolAt }

func (t *borgTool) borg(dir string, args ...string) lab.Command {
	c := t.command([]string{"BORG_BASE_DIR=" + t.in("base"), "BORG_PASSPHRASE=bench", "BORG_REPO=" + t.in("repo")}, args...)
	c.Dir = dir
	return c
}

func (t *borgTool) setup(ctx context.Context) error {
	if err := os.MkdirAll(t.in("base"), 0o700); err != nil {
		return err
	}
	_, err := t.run(ctx, t.borg(t.dir, "init", "-e", "repokey-blake2"))
	return err
}

func (t *borgTool) pull(ctx context.Context, host string) (lab.Usage, error) {
	c := t.borg(t.dir, "create", "--compression", "zstd,3", "--files-cache", "mtime,size", "::{now:%Y%m%dT%H%M%S%f}", t.st.mountDir())
	return t.mounted(ctx, host, c)
}

func (t *borgTool) restore(ctx context.Context, to string) (string, lab.Usage, error) {
	out, _, err := lab.Run(ctx, t.borg(t.dir, "list", "--short", "--last", "1"))
	if err != nil {
		return "", lab.Usage{}, err
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return "", lab.Usage{}, err
	}
	u, err := t.run(ctx, t.borg(to, "extract", "::"+trimmed(out)))
	return filepath.Join(to, t.st.mountDir()), u, err
}

func (t *borgTool) size() (kept, cache int64, err error) { return t.sizes("repo", "base") }

type holdfastTool struct{ toolAt }

func (t *holdfastTool) holdfast(args ...string) lab.Command {
	return t.command([]string{
		"HOLDFAST_VAULT=" + t.in("vault"), "HOLDFAST_UNLOCK_KEY=" + t.in("unlock.key"), "HOLDFAST_CONFIG=" + t.in("holdfast.yaml"), "RUNTIME_DIRECTORY=" + t.dir,
	}, args...)
}

func (t *holdfastTool) setup(ctx context.Context) error {
	if err := os.Mkdir(t.dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(t.in("holdfast.yaml"), []byte("vault: "+t.in("vault")+"\n"), 0o600); err != nil {
		return err
	}
	_, err := t.run(ctx, t.holdfast("init", "--recovery-out", t.in("recovery.key")))
	return err
}

func (t *holdfastTool) pull(ctx context.Context, host string) (lab.Usage, error) {
	url := fmt.Sprintf("sftp://%s@127.0.0.1:%s%s", t.st.server.User, t.st.port(host), t.st.source)
	name := "bench"
	if host == far {
		name = "bench-far" // pulled from another address, a source is read anew
	}
	out, u, err := lab.Run(ctx, t.holdfast("pull", "--json", "--as", name, "--identity", t.st.server.IdentityFile, "--known-hosts", t.st.knownHosts(), url))
	if err != nil {
		return u, err
	}
	var said []struct {
		State string `json:"state"`
		Files int    `json:"files"`
	}
	if err := json.Unmarshal(out, &said); err != nil {
		return u, fmt.Errorf("what pull says: %w", err)
	}
	if want := t.st.tree.Names(); len(said) != 1 || said[0].State != "complete" || said[0].Files != want {
		return u, fmt.Errorf("the pull is not of %d files, and complete: %s", want, trimmed(out))
	}
	return u, nil
}

func (t *holdfastTool) restore(ctx context.Context, to string) (string, lab.Usage, error) {
	u, err := t.run(ctx, t.holdfast("restore", "bench@latest", "--to", to))
	return to, u, err
}

func (t *holdfastTool) check(ctx context.Context) (lab.Usage, error) {
	return t.run(ctx, t.holdfast("check", "--read-data"))
}

// size leaves out parity, which the others do not have, and counts the index as the cache that it is.
func (t *holdfastTool) size() (kept, cache int64, err error) {
	kept, err = sizeOf(t.in("vault"), apparent, "index")
	if err != nil {
		return 0, 0, err
	}
	parity, err := parityOf(t.in("vault/packs"))
	if err != nil {
		return 0, 0, err
	}
	cache, err = sizeOf(t.in("vault/index"), allocated)
	return kept - parity, cache, err
}

// patience is the longest that one run may take.
const patience = 2 * time.Hour
