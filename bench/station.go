package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-vault/holdfast/bench/corpus"
	"github.com/holdfast-vault/holdfast/bench/delay"
	"github.com/holdfast-vault/holdfast/bench/lab"
)

// station is the place where the measuring is done: a directory, a source with a short and a long way to it, and our program.
type station struct {
	o       options
	dir     string
	program string // holdfast, as built for this bench
	server  *lab.Server
	link    *delay.Proxy
	source  string       // the directory that is pulled
	tree    *corpus.Tree // what is in it; nil: nothing
	asides  int
}

// The hosts of the ssh configuration: one server, two ways.
const (
	near = "near"
	far  = "far"
)

func newStation(ctx context.Context, o options) (st *station, err error) {
	st = &station{o: o}
	if st.dir, err = os.MkdirTemp(o.dir, "holdfast-bench-"); err != nil {
		return nil, err
	}
	st.source = filepath.Join(st.dir, "source")
	defer func() {
		if err != nil {
			err = errors.Join(err, st.close())
		}
	}()
	for _, dir := range []string{"mount", "aside", "bin"} {
		if err := os.Mkdir(filepath.Join(st.dir, dir), 0o700); err != nil {
			return st, err
		}
	}
	if err := st.build(ctx); err != nil {
		return st, err
	}
	if st.server, err = lab.StartServer(ctx, filepath.Join(st.dir, "sshd")); err != nil {
		return st, err
	}
	if st.link, err = delay.Start(delay.Link{RoundTrip: o.roundTrip, BytesPerSecond: o.rate}, st.server.Addr); err != nil {
		return st, err
	}
	return st, st.writeConfig()
}

// build makes our program from the module that the bench is of.
func (st *station) build(ctx context.Context) error {
	golang := lab.Find("go")
	if golang == "" {
		return errors.New("go is not installed: the bench builds holdfast with it")
	}
	out, _, err := lab.Run(ctx, lab.Command{Path: golang, Args: []string{"env", "GOMOD"}, Env: os.Environ()})
	if err != nil {
		return err
	}
	root := filepath.Dir(strings.TrimSpace(string(out)))
	st.program = filepath.Join(st.dir, "bin", "holdfast")
	_, _, err = lab.Run(ctx, lab.Command{
		Path: golang, Args: []string{"build", "-trimpath", "-o", st.program, "./cmd/holdfast"}, Dir: root, Env: append(os.Environ(), "CGO_ENABLED=0"),
	})
	if err != nil {
		return fmt.Errorf("run the bench inside holdfast's module: %w", err)
	}
	return nil
}

func (st *station) sshConfig() string  { return filepath.Join(st.dir, "ssh_config") }
func (st *station) knownHosts() string { return filepath.Join(st.dir, "known_hosts") }
func (st *station) mountDir() string   { return filepath.Join(st.dir, "mount") }

func (st *station) writeConfig() error {
	hosts := st.server.KnownHosts(st.server.Addr) + st.server.KnownHosts(st.link.Addr())
	if err := os.WriteFile(st.knownHosts(), []byte(hosts), 0o600); err != nil {
		return err
	}
	var b strings.Builder
	for _, host := range []string{near, far} {
		fmt.Fprintf(&b, "Host %s\n\tHostName 127.0.0.1\n\tPort %s\n", host, st.port(host))
	}
	fmt.Fprintf(&b, "Host *\n\tUser %s\n\tIdentityFile %s\n\tIdentitiesOnly yes\n\tUserKnownHostsFile %s\n\tGlobalKnownHostsFile /dev/null\n"+
		"\tStrictHostKeyChecking yes\n\tBatchMode yes\n\tLogLevel ERROR\n", st.server.User, st.server.IdentityFile, st.knownHosts())
	return os.WriteFile(st.sshConfig(), []byte(b.String()), 0o600)
}

func (st *station) port(host string) string {
	addr := st.server.Addr
	if host == far {
		addr = st.link.Addr()
	}
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// find is where the program of a tool is, "" if nowhere.
func (st *station) find(tool string) string {
	if tool == us || tool == kept {
		return st.program
	}
	return lab.Find(tool, st.o.tools)
}

// settle brings the source to a state and lets the disk finish what it still writes, so that nobody pays for another's.
func (st *station) settle(ctx context.Context, want *corpus.Tree) error {
	if st.tree != want {
		have := st.tree
		st.tree = nil // unknown, if this goes wrong
		if err := corpus.Apply(ctx, st.source, have, want); err != nil {
			return err
		}
		st.tree = want
	}
	st.flush()
	return nil
}

// flush writes out what lies in memory and says how long that takes: a tool that syncs what it keeps has paid for it
// already, one that leaves it to the kernel has not.
func (st *station) flush() time.Duration {
	if !st.o.sync {
		return 0
	}
	start := time.Now()
	syscall.Sync()
	return time.Since(start)
}

// clear removes the source.
func (st *station) clear() error {
	st.tree = nil
	return remove(st.source)
}

// drop takes a directory away: aside for good, or removed at once.
func (st *station) drop(dir string, aside bool) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if !aside {
		return remove(dir)
	}
	st.asides++
	err := os.Rename(dir, filepath.Join(st.dir, "aside", fmt.Sprint(st.asides)))
	if err != nil {
		return remove(dir) // a directory that may not be renamed
	}
	return nil
}

// remove removes a tree that a tool has left without write permission or with immutable files, too.
func remove(dir string) error {
	if err := os.RemoveAll(dir); err == nil {
		return nil
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := lab.Mutable(path); err != nil || !d.IsDir() {
			return err
		}
		return os.Chmod(path, 0o700)
	})
	return errors.Join(err, os.RemoveAll(dir))
}

// roomFor refuses a suite that the disk has no room for, and empties what was moved aside before the budget is spent.
func (st *station) roomFor(s suite) error {
	need := int64(s.gigabytes * st.o.scale * 1e9)
	if need > st.o.diskBytes {
		return fmt.Errorf("%s needs about %.1f GB of disk, more than -disk allows (%.1f GB); give a smaller -scale", s.name, float64(need)/1e9, float64(st.o.diskBytes)/1e9)
	}
	used, err := sizeOf(st.dir, allocated)
	if err != nil {
		return err
	}
	free, err := freeBytes(st.dir)
	if err != nil {
		return err
	}
	const reserve = 2e9 // for everybody else on this disk
	if used+need > st.o.diskBytes || free-need < reserve {
		say("removing what was moved aside")
		if err := errors.Join(remove(filepath.Join(st.dir, "aside")), os.Mkdir(filepath.Join(st.dir, "aside"), 0o700)); err != nil {
			return err
		}
		st.flush()
		if free, err = freeBytes(st.dir); err != nil {
			return err
		}
	}
	if free-need < reserve {
		return fmt.Errorf("%s needs about %.1f GB and 2 GB to spare, and %s has %.1f GB free; give another -dir or a smaller -scale", s.name, float64(need)/1e9, st.o.dir, float64(free)/1e9)
	}
	return nil
}

func freeBytes(dir string) (int64, error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("free space of %q: %w", dir, err)
	}
	return int64(fs.Bavail) * fs.Bsize, nil
}

func allocated(info fs.FileInfo) int64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Blocks * 512
	}
	return info.Size()
}

// apparent is the length of files; directories are the filesystem's affair.
func apparent(info fs.FileInfo) int64 {
	if info.Mode().IsRegular() {
		return info.Size()
	}
	return 0
}

// sizeOf adds up everything under dir but the named subdirectories; nothing if there is no such directory.
func sizeOf(dir string, size func(fs.FileInfo) int64, but ...string) (sum int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, name := range but {
			if d.IsDir() && path == filepath.Join(dir, name) {
				return fs.SkipDir
			}
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		sum += size(info)
		return nil
	})
	return sum, err
}

// close ends what runs and removes the directory.
func (st *station) close() error {
	var errs []error
	if st.link != nil {
		errs = append(errs, st.link.Close())
	}
	if st.server != nil {
		st.server.Stop()
	}
	return errors.Join(append(errs, remove(st.dir))...)
}
