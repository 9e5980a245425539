package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

// program is the real holdfast, built once, without the race detector: strangers talk to what people run.
var program string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "holdfast-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	program = filepath.Join(dir, "holdfast")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Stderr = os.Stderr
	code := 1
	if err := build.Run(); err == nil {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// site is one operator's machine: a vault, its keys, an environment that reaches nothing else.
type site struct {
	t     testing.TB
	dir   string
	vault string
	env   []string
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir()}
	s.vault = filepath.Join(s.dir, "vault")
	s.env = []string{
		"HOME=" + s.dir, "XDG_CONFIG_HOME=" + filepath.Join(s.dir, "config"), "PATH=" + os.Getenv("PATH"), "TMPDIR=" + s.dir,
		"RUNTIME_DIRECTORY=" + shortDir(t), "HOLDFAST_UNLOCK_KEY=" + filepath.Join(s.dir, "unlock.key"), "HOLDFAST_VAULT=" + s.vault,
		"HOLDFAST_CONFIG=" + filepath.Join(s.dir, "holdfast.yaml"),
	}
	s.write("holdfast.yaml", "vault: "+s.vault+"\n")
	return s
}

// shortDir is a directory whose name leaves room for a unix socket's.
func shortDir(t testing.TB) string {
	dir, err := os.MkdirTemp("", "hf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func initialised(t testing.TB) *site {
	t.Helper()
	s := newSite(t)
	s.must("init", "--recovery-out", filepath.Join(s.dir, "recovery.key"))
	return s
}

func (s *site) write(name, text string) string {
	s.t.Helper()
	p := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return p
}

func (s *site) command(args ...string) *exec.Cmd {
	c := exec.Command(program, args...)
	c.Env = s.env
	c.Dir = s.dir
	return c
}

// result is what one run of the program said.
type result struct {
	out, err string
	code     int
}

func (s *site) run(args ...string) result {
	s.t.Helper()
	return s.runWith(s.command(args...))
}

func (s *site) runWith(c *exec.Cmd) result {
	s.t.Helper()
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("%v: %v", c.Args, err)
	}
	r := result{out: out.String(), err: errs.String(), code: c.ProcessState.ExitCode()}
	if strings.Contains(r.err, "goroutine ") || strings.Contains(r.err, "panic:") {
		s.t.Fatalf("%v panicked:\n%s", c.Args[1:], r.err)
	}
	return r
}

func (s *site) must(args ...string) result {
	s.t.Helper()
	r := s.run(args...)
	if r.code != exitDone {
		s.t.Fatalf("holdfast %s: exit %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r
}

func (r result) json(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.out), v); err != nil {
		t.Fatalf("%v in %q (%s)", err, r.out, r.err)
	}
}

// pullArgs are the arguments that pull a path of a real sshd as an ad-hoc source.
func pullArgs(srv *sshdtest.Server, name, path string, more ...string) []string {
	return append([]string{"pull", "--json", "--as", name, "--identity", srv.IdentityFile, "--known-hosts", srv.KnownHostsFile,
		sourceURL(srv, path)}, more...)
}

func sourceURL(srv *sshdtest.Server, path string) string {
	return fmt.Sprintf("sftp://%s@%s%s", srv.User, srv.Addr, path)
}

func (s *site) pull(srv *sshdtest.Server, name, path string) pullJSON {
	s.t.Helper()
	var list []pullJSON
	s.must(pullArgs(srv, name, path)...).json(s.t, &list)
	return list[0]
}

// writeTree writes a deterministic source tree: many small files of text and noise, some large ones, links, an empty
// directory; everything a day old, so that nothing is racy.
func writeTree(t testing.TB, dir string, seed uint64, small, large int) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	noise := rand.NewChaCha8([32]byte{byte(seed)})
	put := func(path string, size int) {
		b := make([]byte, size)
		_, _ = noise.Read(b)
		if r.IntN(2) == 0 {
			for i := range b {
				b[i] = "the quick brown fox\n"[b[i]%20]
			}
		}
		p := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, b, []os.FileMode{0o644, 0o600, 0o755}[r.IntN(3)]); err != nil {
			t.Fatal(err)
		}
	}
	for i := range small {
		put(fmt.Sprintf("d%02d/e%d/f%05d", i%23, i%5, i), r.IntN(10_000))
	}
	for i := range large {
		put(fmt.Sprintf("large/l%d", i), 2<<20+r.IntN(6<<20))
	}
	if err := os.MkdirAll(filepath.Join(dir, "empty/below"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../d00/e0/f00000", filepath.Join(dir, "empty/link")); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-24 * time.Hour)
	err := filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err != nil || e.Type()&os.ModeSymlink != 0 {
			return err
		}
		return os.Chtimes(p, old, old)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// sameAsSource compares two directories with tools that know nothing of us: content and links by diff, attributes by
// find. Sizes of directories are the file system's own.
func sameAsSource(t testing.TB, want, got string) {
	t.Helper()
	sshdtest.Need(t, "diff", "find")
	out, err := exec.Command("diff", "-r", "--no-dereference", want, got).CombinedOutput()
	if err != nil {
		t.Fatalf("diff -r %s %s: %v\n%.4000s", want, got, err, out)
	}
	a, b := listing(t, want), listing(t, got)
	if a != b {
		x, y := strings.Split(a, "\x00"), strings.Split(b, "\x00")
		for i := range min(len(x), len(y)) {
			if x[i] != y[i] {
				t.Fatalf("attributes differ:\n  %q\n  %q", x[i], y[i])
			}
		}
		t.Fatalf("%d entries against %d", len(x), len(y))
	}
}

func listing(t testing.TB, dir string) string {
	t.Helper()
	script := `cd "$1" && find . \( -type d -printf '%p %m %Ts %y %U %G\0' \) -o -printf '%p %m %Ts %y %U %G %s %l\0' | LC_ALL=C sort -z`
	out, err := exec.Command("sh", "-c", script, "sh", dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// waitFor polls until ok or the deadline: for other people's processes only.
func waitFor(t testing.TB, what string, within time.Duration, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not within %v", what, within)
		}
	}
}
