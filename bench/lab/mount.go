package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Mount is a source's directory, mounted with sshfs.
type Mount struct {
	Dir   string
	sshfs *background
}

// NoFUSE says why nothing can be mounted here; "" if it seems possible.
func NoFUSE() string {
	if Find("sshfs") == "" {
		return "sshfs is not installed"
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		return "no /dev/fuse"
	}
	return ""
}

// mountOptions let symlinks through as they are: newer releases of sshfs refuse those with "..", and a backup would be without.
var mountOptions = sync.OnceValue(func() string {
	help, err := exec.Command(Find("sshfs"), "--help").CombinedOutput()
	if err == nil && bytes.Contains(help, []byte("no_contain_symlinks")) {
		return "ro,no_contain_symlinks"
	}
	return "ro"
})

// MountSource mounts what, a HOST:PATH of sshConfig, on dir, an existing directory, read-only.
func MountSource(sshConfig, what, dir string, env []string) (*Mount, error) {
	m := &Mount{Dir: dir}
	var err error
	m.sshfs, err = startBackground(Command{Path: Find("sshfs"), Args: []string{"-f", "-o", mountOptions(), "-F", sshConfig, what, dir}, Env: env})
	if err != nil {
		return nil, err
	}
	poll(20*time.Second, func() bool { return m.mounted() || m.dead() })
	if m.mounted() {
		return m, nil
	}
	m.sshfs.kill()
	return nil, fmt.Errorf("sshfs %s: not mounted: %s", what, lastWords(m.sshfs.said.Bytes()))
}

// PID is sshfs's: a helper of whoever reads the mount.
func (m *Mount) PID() int { return m.sshfs.pid() }

func (m *Mount) dead() bool {
	select {
	case <-m.sshfs.ended:
		return true
	default:
		return false
	}
}

func (m *Mount) mounted() bool {
	b, err := os.ReadFile("/proc/self/mounts")
	return err == nil && strings.Contains(string(b), " "+m.Dir+" fuse.sshfs ")
}

// Unmount unmounts and waits for sshfs's end.
func (m *Mount) Unmount(ctx context.Context) error {
	below := descendants(m.sshfs.pid())
	_, _, err := Run(ctx, Command{Path: Find("fusermount3"), Args: []string{"-u", m.Dir}, Env: Env(filepath.Dir(m.Dir))})
	if err != nil {
		m.sshfs.kill() // the kernel lets go of a mount whose server is gone, lazily
		_, _, lazy := Run(context.WithoutCancel(ctx), Command{Path: Find("fusermount3"), Args: []string{"-u", "-z", m.Dir}, Env: Env(filepath.Dir(m.Dir))})
		err = errors.Join(err, lazy)
	}
	if !poll(10*time.Second, m.dead) {
		m.sshfs.kill()
	}
	endAll(below)
	return err
}
