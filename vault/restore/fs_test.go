package restore_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/fstest"
	"testing/iotest"

	"pgregory.net/rapid"

	"github.com/holdfast-vault/holdfast/vault/restore"
	"github.com/holdfast-vault/holdfast/vault/restore/restoretest"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

func TestFSIsAProperFileSystem(t *testing.T) {
	s := restoretest.New()
	s.Dir("bin", 0o755)
	s.File("bin/tool", 0o4755, noise(1, 70_000), 9_000)
	s.Dir("empty", 0o711)
	s.Dir("etc", 0o755)
	s.File("etc/empty", 0o644, nil, 1)
	s.File("etc/hosts", 0o640, []byte("127.0.0.1 localhost\n"), 5)
	s.Symlink("etc/link", "hosts")
	s.Symlink("etc/up", "../bin/tool")
	s.Special("fifo", snapshot.Fifo)
	s.File("large", 0o644, noise(3, 3<<20), 1<<20)
	if err := fstest.TestFS(restore.FS(t.Context(), s, ""), "bin/tool", "empty", "etc/empty", "etc/hosts", "etc/link", "etc/up", "large"); err != nil && !onlyFifo(err) {
		t.Error(err)
	}
	if err := fstest.TestFS(restore.FS(t.Context(), s, "bin"), "tool"); err != nil {
		t.Error(err)
	}
}

// onlyFifo forgives that a fifo cannot be read: fstest reads everything that is not a directory.
func onlyFifo(err error) bool {
	for _, line := range strings.Split(err.Error(), "\n")[1:] {
		if !strings.HasPrefix(line, "fifo: ") {
			return false
		}
	}
	return true
}

func TestFSTellsAttributes(t *testing.T) {
	fsys := restore.FS(t.Context(), tree(), "")
	fi, err := fs.Stat(fsys, "odd")
	if err != nil || fi.Mode() != fs.ModeDir|fs.ModeSticky|0o777 || fi.ModTime().Unix() != restoretest.MTime {
		t.Errorf("%v %v", fi, err)
	}
	if e, ok := fi.Sys().(*snapshot.Entry); !ok || e.Name != "odd" {
		t.Errorf("Sys: %v", fi.Sys())
	}
	if b, err := fs.ReadFile(fsys, "odd/\xff\xfe not text"); err != nil || string(b) != "y" {
		t.Errorf("a name that is not UTF-8: %q %v", b, err)
	}
	if l, err := fs.ReadLink(fsys, "absolute"); err != nil || l != "/etc/passwd" {
		t.Errorf("%q %v", l, err)
	}
}

func TestLinksAreFollowedInsideTheSnapshotOnly(t *testing.T) {
	s := restoretest.New()
	s.Dir("a", 0o755)
	s.Dir("a/b", 0o755)
	s.File("a/b/f", 0o644, []byte("f"), 1)
	s.File("passwd", 0o644, []byte("not the one you mean"), 100)
	s.Symlink("a/here", ".")
	s.Symlink("a/top", "..")
	s.Symlink("a/b/up2", "../..")
	s.Symlink("a/b/up3", "../../..")
	s.Symlink("a/b/up3f", "../../../passwd")
	s.Symlink("abs", "/passwd")
	s.Symlink("loop", "loop")
	s.Symlink("ping", "pong")
	s.Symlink("pong", "ping")
	s.Symlink("void", "")
	s.Symlink("nul", "a\x00b")
	s.Symlink("long", strings.Repeat("a/here/../", 5000)+"a/b/f")
	s.Symlink("slash", "a//b/./f")
	s.Symlink("through", "passwd/x")
	s.Symlink("chain", "a/here/here/top/a/b")
	bomb := strings.Repeat("x/", 30)
	s.Symlink("x", strings.Repeat("./", 30)+".")
	s.Symlink("bomb", bomb+"a")
	for path, want := range map[string]any{
		"a/here/here/b/f": "a/b/f",
		"a/top/a/b/f":     "a/b/f",
		"a/b/up2/passwd":  "passwd",
		"a/b/up3":         restore.ErrOutside,
		"a/b/up3f":        restore.ErrOutside,
		"abs":             restore.ErrOutside,
		"loop":            restore.ErrLinks,
		"loop/x":          restore.ErrLinks,
		"ping":            restore.ErrLinks,
		"void":            fs.ErrNotExist,
		"nul":             fs.ErrNotExist,
		"long":            restore.ErrLinks,
		"slash":           "a/b/f",
		"through":         fs.ErrNotExist,
		"passwd/x":        fs.ErrNotExist,
		"chain/f":         "a/b/f",
		"bomb":            "a",
		"a/../a":          fs.ErrNotExist,
		"a//b":            fs.ErrNotExist,
		"nowhere":         fs.ErrNotExist,
		"":                "",
	} {
		e, err := restore.Resolve(t.Context(), s, "", path, true)
		switch want := want.(type) {
		case error:
			if !errors.Is(err, want) {
				t.Errorf("%q: got %q %v, want %v", path, e.Path(), err, want)
			}
		case string:
			if err != nil || e.Path() != want {
				t.Errorf("%q: got %q %v, want %q", path, e.Path(), err, want)
			}
		}
	}
	if e, err := restore.Resolve(t.Context(), s, "", "a/here/top", false); err != nil || e.Kind != snapshot.Symlink {
		t.Errorf("not following: %v %v", e, err)
	}
	// With a directory as the top, nothing above it is seen.
	if _, err := restore.Resolve(t.Context(), s, "a", "top/passwd", true); !errors.Is(err, restore.ErrOutside) {
		t.Errorf("above the top: %v", err)
	}
	if e, err := restore.Resolve(t.Context(), s, "a", "here/b/f", true); err != nil || e.Path() != "a/b/f" {
		t.Errorf("%v %v", e.Path(), err)
	}
}

func TestFileReadsLikeAnyOther(t *testing.T) {
	s := restoretest.New()
	want := noise(9, 1_000_003)
	e := s.File("f", 0o644, want, 10_007)
	f, err := restore.OpenFile(t.Context(), s, *e)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := iotest.TestReader(f, want); err != nil {
		t.Error(err)
	}
}

func TestReadAtAnyOffsetGivesTheBytesThere(t *testing.T) {
	s := restoretest.New()
	want := noise(11, 30_000)
	e := s.File("f", 0o644, want, 3) // 10,000 chunks: more than an open file remembers
	f, err := restore.OpenFile(t.Context(), s, *e)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rapid.Check(t, func(rt *rapid.T) {
		off := rapid.IntRange(0, len(want)+10).Draw(rt, "offset")
		p := make([]byte, rapid.IntRange(0, 5000).Draw(rt, "length"))
		n, err := f.ReadAt(p, int64(off))
		expect := want[min(off, len(want)):min(off+len(p), len(want))]
		if !bytes.Equal(p[:n], expect) {
			rt.Fatalf("wrong bytes")
		}
		if (n < len(p)) != (err == io.EOF) || (err != nil && err != io.EOF) {
			rt.Fatalf("%d of %d: %v", n, len(p), err)
		}
	})
}

func TestSequentialReadFetchesEachChunkOnce(t *testing.T) {
	s := restoretest.New()
	e := s.File("f", 0o644, noise(1, 1<<20), 64<<10)
	f, _ := restore.OpenFile(t.Context(), s, *e)
	defer f.Close()
	buf := make([]byte, 4096)
	order := rand.New(rand.NewPCG(1, 2))
	for off := int64(0); off < 1<<20; off += 8 * 4096 { // eight requests in flight, in any order
		for _, i := range order.Perm(8) {
			if _, err := f.ReadAt(buf, off+int64(i)*4096); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := s.Fetches.Load(); n != 16 {
		t.Errorf("%d fetches of 16 chunks", n)
	}
}

func TestBrokenChunkIsAnErrorNotZeros(t *testing.T) {
	s := restoretest.New()
	e := s.File("f", 0o644, noise(1, 1000), 100)
	s.Break(e.Chunks[5])
	b, err := fs.ReadFile(restore.FS(t.Context(), s, ""), "f")
	if !errors.Is(err, restoretest.ErrBroken) || len(b) != 500 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	var out bytes.Buffer
	if err := restore.ToWriter(t.Context(), s, "f", &out); !errors.Is(err, restoretest.ErrBroken) || out.Len() != 500 {
		t.Errorf("cat: %d bytes, %v", out.Len(), err)
	}
}

func TestCatGivesExactlyTheFile(t *testing.T) {
	s := tree()
	for _, path := range []string{"large", "sparse", "etc/empty", "etc/link", "etc/up"} {
		var out bytes.Buffer
		if err := restore.ToWriter(t.Context(), s, path, &out); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		e, _ := restore.Resolve(t.Context(), s, "", path, true)
		if !bytes.Equal(out.Bytes(), content(t, s, e)) {
			t.Errorf("%s: wrong bytes", path)
		}
	}
	for _, path := range []string{"etc", "fifo", "dangling", "absolute", "nothing"} {
		if err := restore.ToWriter(t.Context(), s, path, io.Discard); err == nil {
			t.Errorf("%s: no error", path)
		}
	}
	if err := restore.ToWriter(t.Context(), s, "large", stuck{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a reader that went away: %v", err)
	}
}

type stuck struct{}

func (stuck) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
