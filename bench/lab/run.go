// Package lab runs programs beside a source on one machine and measures what they use of it.
//
// The source is a real sshd on the loopback, reached directly or through a proxy. Processor time is the kernel's account of
// the program, of the helpers that it needs beside it (a mounted sshfs), and of the server's children; memory is what the
// kernel says each of the program's processes needed at most. Only processes that a lab started are ever ended.
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
	"syscall"
	"time"
)

// Command is a program to run. The environment is exactly Env.
type Command struct {
	Path string
	Args []string
	Dir  string
	Env  []string
	// OK are exit codes besides 0 that are not failures.
	OK []int
}

func (c Command) String() string {
	return strings.Join(append([]string{filepath.Base(c.Path)}, c.Args...), " ")
}

// Usage is what one run used.
type Usage struct {
	Wall      time.Duration
	CPU       time.Duration // of the program and the children that it waited for, user and system
	HelperCPU time.Duration // of what ran beside it on its behalf
	ServerCPU time.Duration // of the source's sshd; negative: not known
	PeakBytes int64         // the largest sum, at any look, of what each of its processes and helpers needed at most until then
}

// Run runs a command to its end and measures it, together with helpers, processes that run already. Its standard output is
// returned. When ctx ends, the command and whatever it started are killed.
func Run(ctx context.Context, c Command, helpers ...int) ([]byte, Usage, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = c.Dir, c.Env, &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	before := cpuOfAll(helpers)
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, Usage{}, fmt.Errorf("%s: %w", c, err)
	}
	peak := watch(append([]int{cmd.Process.Pid}, helpers...))
	err := cmd.Wait()
	u := Usage{Wall: time.Since(start), PeakBytes: peak(), HelperCPU: cpuOfAll(helpers) - before}
	u.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if err != nil && ctx.Err() != nil {
		return nil, u, ctx.Err()
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		for _, code := range c.OK {
			if exit.ExitCode() == code {
				err = nil
			}
		}
	}
	if err != nil {
		return stdout.Bytes(), u, fmt.Errorf("%s: %w: %s", c, err, lastWords(stderr.Bytes(), stdout.Bytes()))
	}
	return stdout.Bytes(), u, nil
}

// lastWords is the end of what a program that failed had to say.
func lastWords(said ...[]byte) string {
	const most = 600
	for _, b := range said {
		if s := strings.TrimSpace(string(b)); s != "" {
			return fmt.Sprintf("%q", s[max(0, len(s)-most):])
		}
	}
	return "it said nothing"
}

// Find looks for a program in dirs, in PATH and where daemons live, which is often not in it; "" if it is nowhere.
func Find(name string, dirs ...string) string {
	for _, dir := range dirs {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/local/go/bin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	return ""
}

// background is a process that runs until it is stopped.
type background struct {
	cmd   *exec.Cmd
	said  bytes.Buffer // to be read only once it has ended
	ended chan struct{}
}

func startBackground(c Command) (*background, error) {
	b := &background{cmd: exec.Command(c.Path, c.Args...), ended: make(chan struct{})}
	b.cmd.Dir, b.cmd.Env, b.cmd.Stdout, b.cmd.Stderr = c.Dir, c.Env, &b.said, &b.said
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	b.cmd.WaitDelay = time.Second
	if err := b.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", c, err)
	}
	go func() {
		defer close(b.ended)
		_ = b.cmd.Wait() // however it ended, it has
	}()
	return b, nil
}

func (b *background) pid() int { return b.cmd.Process.Pid }

// kill ends the process with all that it started, and waits.
func (b *background) kill() {
	_ = syscall.Kill(-b.pid(), syscall.SIGKILL) // it may have ended by itself
	<-b.ended
}

// poll asks every few milliseconds until something is so; false after patience.
func poll(patience time.Duration, so func() bool) bool {
	deadline := time.Now().Add(patience)
	for !so() {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(5 * time.Millisecond)
	}
	return true
}

// Env is a small environment: programs find their home in dir and nowhere else.
func Env(dir string, more ...string) []string {
	return append([]string{
		"HOME=" + dir, "XDG_CONFIG_HOME=" + filepath.Join(dir, ".config"), "XDG_CACHE_HOME=" + filepath.Join(dir, ".cache"),
		"TMPDIR=" + dir, "LC_ALL=C.UTF-8", "TZ=UTC", "PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin",
	}, more...)
}
