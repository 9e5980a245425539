package restore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-vault/holdfast/vault/restore"
	"github.com/holdfast-vault/holdfast/vault/restore/restoretest"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// need skips a test whose tool is missing, or fails it where everything must be there.
func need(t *testing.T, tool string) string {
	t.Helper()
	p, err := exec.LookPath(tool)
	if err != nil {
		if os.Getenv("HOLDFAST_REQUIRE_ALL") == "1" {
			t.Fatalf("missing tool: %s", tool)
		}
		t.Skipf("missing tool: %s", tool)
	}
	return p
}

// noise is n bytes that do not repeat.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 7}).Read(b)
	return b
}

// tree is a snapshot with one of everything that can be restored.
func tree() *restoretest.Source {
	s := restoretest.New()
	s.Dir("bin", 0o755)
	s.File("bin/tool", 0o755, noise(1, 70_000), 9_000)
	s.Dir("closed", 0o500).MTime = 1_000_000_001
	s.File("closed/inner", 0o400, []byte("inner\n"), 100).MTime = 1_000_000_002
	s.Dir("closed/none", 0o000)
	s.Dir("empty", 0o711).MTime = 86_400
	s.Dir("etc", 0o755).MTime = 1_234_567_890
	s.File("etc/empty", 0o644, nil, 1)
	s.File("etc/hosts", 0o640, []byte("127.0.0.1 localhost\n"), 5).MTime = 1_111_111_111
	s.Symlink("etc/link", "hosts").MTime = 1_222_222_222
	s.Symlink("etc/up", "../bin/tool")
	s.Symlink("dangling", "no/such/place")
	s.Symlink("absolute", "/etc/passwd")
	s.Special("fifo", snapshot.Fifo)
	s.File("sparse", 0o600, slices.Concat(make([]byte, 3<<20), noise(2, 100), make([]byte, 1<<20)), 512<<10)
	s.File("large", 0o644, noise(3, 17<<20), 1<<20)
	s.Dir("odd", 0o1777)
	s.File("odd/line\nfeed", 0o644, []byte("x"), 1)
	s.File("odd/\xff\xfe not text", 0o644, []byte("y"), 1)
	s.File("odd/-rf *", 0o644, []byte("z"), 1)
	s.File("odd/grün", 0o644, []byte("w"), 1)
	long := strings.Repeat("l", 200)
	s.Dir("odd/"+long, 0o755)
	s.File("odd/"+long+"/"+long, 0o644, []byte("long"), 2)
	s.Symlink("odd/far", strings.Repeat("a/", 300)+"end")
	return s
}

// listing describes everything below dir, one line an entry, from the file system alone.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		fmt.Fprintf(&b, "%q %o %d", rel, st.Mode, st.Mtim.Sec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			content, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %d %x", st.Size, sum(content))
		case unix.S_IFLNK:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " -> %q", target)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// expected is what listing must say of src restored from path.
func expected(t *testing.T, src *restoretest.Source, path string) string {
	t.Helper()
	kinds := map[snapshot.Kind]uint32{snapshot.File: unix.S_IFREG, snapshot.Directory: unix.S_IFDIR, snapshot.Symlink: unix.S_IFLNK, snapshot.Fifo: unix.S_IFIFO}
	var lines []string
	for e, err := range src.Walk(context.Background(), path) {
		if err != nil {
			t.Fatal(err)
		}
		typ, ok := kinds[e.Kind]
		if !ok {
			continue
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(e.Path(), path), "/")
		if rel == "" {
			rel = "."
		}
		line := fmt.Sprintf("%q %o %d", rel, typ|e.Mode, e.MTime)
		switch e.Kind {
		case snapshot.File:
			line += fmt.Sprintf(" %d %x", e.Size, sum(content(t, src, e)))
		case snapshot.Symlink:
			line += fmt.Sprintf(" -> %q", e.Target)
		}
		lines = append(lines, line)
	}
	return sorted(lines)
}

func sorted(lines []string) string {
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

func content(t *testing.T, src *restoretest.Source, e snapshot.Entry) []byte {
	t.Helper()
	var b []byte
	for _, r := range e.Chunks {
		c, err := src.Fetch(context.Background(), r)
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, c...)
	}
	return b
}

func sum(b []byte) []byte {
	h := sha256.Sum256(b)
	return h[:8]
}

// same fails with the lines that differ.
func same(t *testing.T, what, got, want string) {
	t.Helper()
	g, w := strings.Split(strings.TrimSpace(got), "\n"), strings.Split(strings.TrimSpace(want), "\n")
	slices.Sort(g)
	slices.Sort(w)
	for _, l := range g {
		if !slices.Contains(w, l) {
			t.Errorf("%s: has    %s", what, l)
		}
	}
	for _, l := range w {
		if !slices.Contains(g, l) {
			t.Errorf("%s: wanted %s", what, l)
		}
	}
}

// noLeftovers fails when a temporary file is found below dir.
func noLeftovers(t *testing.T, dir string) {
	t.Helper()
	filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(d.Name(), ".holdfast-") {
			t.Errorf("left behind: %q", p)
		}
		return nil
	})
}

// untouched makes a directory next to the target and returns a check that nothing in it or around has changed.
func untouched(t *testing.T) (outside string, check func()) {
	t.Helper()
	outside = t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "precious"), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := listing(t, outside)
	return outside, func() {
		t.Helper()
		if after := listing(t, outside); after != before {
			t.Errorf("something outside the target was changed:\n%s\n%s", before, after)
		}
	}
}

func blocks(t *testing.T, path string) int64 {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Sys().(*syscall.Stat_t).Blocks * 512
}

var quick = restore.Options{NoSync: true}

func mustRestore(t *testing.T, src restore.Source, path, dir string, o restore.Options) restore.Report {
	t.Helper()
	r, err := restore.ToDirectory(t.Context(), src, path, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	noLeftovers(t, dir)
	return r
}

func tarOf(t *testing.T, src restore.Source, path string, o restore.TarOptions) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := restore.Tar(t.Context(), src, path, &b, o); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
