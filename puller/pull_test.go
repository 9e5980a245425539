package puller

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfast-vault/holdfast/puller/remote"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// someTree fills a host with one of everything.
func someTree(h *host) {
	h.file("etc/hosts", "127.0.0.1 localhost\n")
	h.file("etc/passwd", "root:x:0:0\n").attr.Mode = 0o4755
	h.file("var/big", strings.Repeat("0123456789abcdef", 200_000)) // 3.2 MB: several pieces
	h.file("var/none", "")
	h.put("var/empty", remote.Directory, "")
	h.put("etc/link", remote.Symlink, "../../outside")
	h.put("dev/fifo", remote.Fifo, "")
	h.put("dev/null", remote.CharDevice, "")
	h.put("run/sock", remote.Socket, "")
	h.file("a/b/c/d/e/\xff\xfe\n", "deep")
}

func TestFirstPullRecordsEverything(t *testing.T) {
	r := newRig(t)
	someTree(r.host)
	result, s := r.pull()
	s.equals(t, r.host)
	n := result.Stats
	if n.Files != 5 || n.FilesNew != 5 || n.FilesRead != 4 || n.Symlinks != 1 || n.Specials != 3 || n.Directories != 11 || n.ReadBytes != 3200000+20+11+4 || n.Requests == 0 {
		t.Errorf("%+v", n)
	}
	if len(s.fidelity) != len(fidelity) {
		t.Errorf("fidelity: %q", s.fidelity)
	}
	if r.host.did("read var/none") > 0 || r.host.did("read dev")+r.host.did("read run") > 0 {
		t.Error("something without content was opened")
	}
}

func TestUnchangedFilesAreNotReadAgain(t *testing.T) {
	r := newRig(t)
	someTree(r.host)
	r.pull()
	result, s := r.pull()
	s.equals(t, r.host)
	if n := r.host.did("read") + r.host.did("link"); n != 0 {
		t.Errorf("%d reads", n)
	}
	if n := result.Stats; n.FilesUnchanged != 5 || n.FilesNew+n.FilesChanged != 0 || n.ReadBytes != 0 {
		t.Errorf("%+v", n)
	}
	for what, change := range map[string]func(a *remote.Attr){
		"mtime": func(a *remote.Attr) { a.MTime++ },
		"mode":  func(a *remote.Attr) { a.Mode ^= 0o111 },
		"owner": func(a *remote.Attr) { a.UID++ },
		"group": func(a *remote.Attr) { a.GID++ },
	} {
		for _, path := range []string{"etc/hosts", "etc/link"} {
			r.host.change(func(nodes map[string]*node) { change(&nodes[path].attr) })
			result, s = r.pull()
			s.equals(t, r.host)
			if r.host.did("read etc/hosts")+r.host.did("link etc/link") != 1 || r.host.did("read")+r.host.did("link") != 1 {
				t.Errorf("%s of %s: operations %q", what, path, r.host.ops)
			}
		}
	}
	if n := result.Stats; n.FilesChanged+n.FilesUnchanged != 5 {
		t.Errorf("%+v", n)
	}
	r.host.file("etc/hosts", "another\n")
	r.host.remove("a")
	r.host.put("etc/link", remote.File, "a file now")
	r.host.put("dev/fifo", remote.Directory, "")
	r.host.file("new", "new")
	result, s = r.pull()
	s.equals(t, r.host)
	if n := result.Stats; n.FilesChanged != 1 || n.FilesNew != 2 || n.FilesRead != 3 {
		t.Errorf("%+v", n)
	}
}

func TestRacyFilesAreReadAgain(t *testing.T) {
	for _, c := range []struct {
		name  string
		known bool
		clock int64 // of the host
		mtime int64
		racy  bool
	}{
		{"older than the source's clock", true, longAgo, longAgo - 1, false},
		{"this very second", true, longAgo, longAgo, true},
		{"in the source's future", true, longAgo, longAgo + 5, true},
		{"unknown clock, eleven minutes old", false, 0, longAgo - 660, false},
		{"unknown clock, nine minutes old", false, 0, longAgo - 540, true},
		{"no mtime", true, longAgo, 0, true},
		{"hours behind, its very second", true, longAgo - 18_000, longAgo - 18_000, true},
		{"hours behind, a second ago", true, longAgo - 18_000, longAgo - 18_001, false},
		{"hours ahead, its very second", true, longAgo + 18_000, longAgo + 18_000, true},
		{"hours ahead, a second ago", true, longAgo + 18_000, longAgo + 17_999, false},
		{"hours ahead and unknown", false, 0, longAgo + 17_000, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.job.Now = func() time.Time { return time.Unix(longAgo, 0) }
			r.host.now = func() (time.Time, bool) { return time.Unix(c.clock, 0), c.known }
			r.host.file("f", "content").attr.MTime = c.mtime
			r.host.put("l", remote.Symlink, "target").attr.MTime = c.mtime
			_, s := r.pull()
			if got := s.entries["f"].Flags&snapshot.Racy != 0; got != c.racy {
				t.Errorf("racy: %v", got)
			}
			// The same second, the same size, other content: only reading it again shows it.
			r.host.change(func(nodes map[string]*node) { nodes["f"].data, nodes["l"].target = "changed", "nowhr!" })
			result, s := r.pull()
			if got := r.host.did("read") == 1 && r.host.did("link") == 1; got != c.racy {
				t.Errorf("operations %q", r.host.ops)
			}
			if c.racy {
				s.equals(t, r.host)
				if result.Stats.Racy == 0 || result.Stats.Reread != 1 || result.Stats.FilesUnchanged != 1 {
					t.Errorf("%+v", result.Stats)
				}
			}
			if noted := slices.ContainsFunc(s.fidelity, func(n string) bool { return strings.Contains(n, "clock") }); noted == c.known {
				t.Errorf("the unknown clock is noted: %v", noted)
			}
		})
	}
}

func TestFilesThatChangeWhileTheyAreRead(t *testing.T) {
	now := longAgo + int64(100)
	for _, c := range []struct {
		name   string
		times  int // that it changes
		change func(n *node)
		reads  int
		flags  snapshot.Flags
	}{
		{"once", 1, func(n *node) { n.data += "x"; n.attr.Size++; n.attr.MTime = now }, 2, 0},
		{"always, growing", 99, func(n *node) { n.data += "x"; n.attr.Size++; now++; n.attr.MTime = now }, 4, snapshot.Changed | snapshot.Grew},
		{"always, same size", 99, func(n *node) { now++; n.attr.MTime = now }, 4, snapshot.Changed},
		{"three times", 3, func(n *node) { now++; n.attr.MTime = now }, 4, 0},
		{"to nothing", 1, func(n *node) { n.data, n.attr.Size, n.attr.MTime = "", 0, now }, 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.host.file("log", "0123456789")
			left := c.times
			r.host.hook = func(op, path string) error {
				if op == "fstat" && left > 0 {
					left--
					r.host.change(func(nodes map[string]*node) { c.change(nodes["log"]) })
				}
				return nil
			}
			var want []string
			if c.flags != 0 && c.flags&snapshot.Grew == 0 {
				want = []string{ProblemChanged} // of one that grew, all that was listed was had
			}
			_, s := r.pull(want...)
			if got := s.entries["log"].Flags; got != c.flags || r.host.did("read") != c.reads {
				t.Errorf("flags %b, %d reads", got, r.host.did("read"))
			}
			if c.flags == 0 {
				s.equals(t, r.host)
				return
			}
			s.content(t, "log")
			r.host.hook = nil
			r.pull()
			if r.host.did("read") != 1 {
				t.Errorf("not read again: %q", r.host.ops)
			}
		})
	}
	t.Run("shrinking", func(t *testing.T) {
		r := newRig(t)
		r.host.file("log", strings.Repeat("x", 5<<20))
		r.host.hook = func(op, path string) error { // its attributes lie: they say more than there is
			r.host.change(func(nodes map[string]*node) { nodes["log"].data = "short" })
			return nil
		}
		_, s := r.pull(ProblemChanged)
		if e := s.entries["log"]; e.Flags != snapshot.Changed|snapshot.Short || e.Size != 5 {
			t.Errorf("%+v", e)
		}
	})
}

func TestWhatVanishesIsNoProblem(t *testing.T) {
	r := newRig(t)
	r.host.file("a/stays", "1")
	r.host.file("a/goes", "2")
	r.host.file("d/below", "3")
	r.host.put("a/link", remote.Symlink, "x")
	r.host.hook = func(op, path string) error {
		if op == "read" && path == "a/goes" || op == "list" && path == "d" || op == "link" {
			r.host.remove(path)
		}
		return nil
	}
	result, s := r.pull()
	s.equals(t, r.host)
	if result.Stats.Vanished != 3 {
		t.Errorf("%+v", result.Stats)
	}
}

func TestWhatIsDeniedIsAProblemAndNotADeletion(t *testing.T) {
	r := newRig(t)
	someTree(r.host)
	r.pull()
	r.host.file("etc/hosts", "changed, and now denied")
	r.host.hook = func(op, path string) error {
		switch {
		case op == "read" && path == "etc/hosts":
			return fmt.Errorf("open %q: %w", path, fs.ErrPermission)
		case op == "list" && path == "a/b":
			return fmt.Errorf("list %q: %w", path, fs.ErrPermission)
		case op == "list" && path == "var":
			return &remote.ProtocolError{Op: "list", Path: path, Detail: "nonsense"}
		}
		return nil
	}
	result, s := r.pull(ProblemDenied, ProblemDenied, ProblemUnreadable)
	if _, ok := s.entries["a/b"]; !ok {
		t.Error("the directory that cannot be listed is missing")
	}
	if _, ok := s.entries["etc/hosts"]; ok {
		t.Error("a file that could not be read is there")
	}
	if _, ok := s.entries["etc/passwd"]; !ok {
		t.Error("its neighbour is missing")
	}
	if result.Stats.ProblemKinds[ProblemDenied] != 2 || result.Stats.Vanished != 0 {
		t.Errorf("%+v", result.Stats)
	}
}

func TestNotExistFromOpenAloneIsNoDeletion(t *testing.T) {
	r := newRig(t)
	r.host.file("a", "1")
	r.host.hook = func(op, path string) error {
		if op == "read" {
			return fmt.Errorf("open: %w", fs.ErrNotExist) // but it can still be seen
		}
		return nil
	}
	r.pull(ProblemUnreadable)
}

func TestAnEmptySourceDeletesNothing(t *testing.T) {
	r := newRig(t)
	someTree(r.host)
	r.pull()
	before := r.keep.previous
	saved := r.host.nodes
	r.host.nodes = map[string]*node{"": saved[""]}
	if err := r.fail(); !errors.Is(err, ErrEmpty) {
		t.Errorf("empty: %v", err)
	}
	r.host.nodes = map[string]*node{}
	if err := r.fail(); !errors.Is(err, ErrEmpty) {
		t.Errorf("missing: %v", err)
	}
	if r.keep.previous != before {
		t.Fatal("a snapshot was made")
	}
	r.host.nodes = map[string]*node{"": saved[""]}
	r.job.AllowEmpty = true
	_, s := r.pull()
	if len(s.entries) != 1 {
		t.Errorf("%v", s.entries)
	}
	r.job.AllowEmpty = false
	r.pull() // it was empty before
	r.host.nodes = map[string]*node{}
	if err := r.fail(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing and empty before: %v", err)
	}
}

func TestASourceThatGoesAwayWhileItIsReadIsPartial(t *testing.T) {
	r := newRig(t)
	someTree(r.host)
	r.host.hook = func(op, path string) error {
		if op == "list" && path == "etc" { // unmounted
			r.host.change(func(nodes map[string]*node) {
				for p := range nodes {
					if p != "" {
						delete(nodes, p)
					}
				}
			})
		}
		return nil
	}
	r.pull(ProblemVanished)
}

func TestRootsThatCannotBePulled(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(h *host)
		want string
	}{
		{"missing", func(h *host) { h.nodes = map[string]*node{} }, `path "/src" on the source: file does not exist`},
		{"a link", func(h *host) { h.put("", remote.Symlink, "x") }, "symbolic link"},
		{"a file", func(h *host) { h.put("", remote.File, "x") }, "is a file"},
		{"denied", func(h *host) {
			h.hook = func(op, _ string) error {
				if op == "list" {
					return fs.ErrPermission
				}
				return nil
			}
		}, "cannot be listed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			c.set(r.host)
			err := r.fail()
			if !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "resume") {
				t.Errorf("%v", err)
			}
		})
	}
	for _, root := range []string{"", "src", "/src/", "/a\x00"} {
		r := newRig(t)
		r.job.Root = root
		if err := r.fail(); !strings.Contains(err.Error(), "absolute path") {
			t.Errorf("%q: %v", root, err)
		}
	}
}

func TestHostDownIsSaidAtOnce(t *testing.T) {
	r := newRig(t)
	down := errors.New("connection refused")
	r.host.hook = func(op, _ string) error { return down }
	if err := r.fail(); !errors.Is(err, down) || r.host.dials != 1 || r.keep.session != nil {
		t.Errorf("%v after %d dials", err, r.host.dials)
	}
}

func TestBadNamesAndUnknownKindsAreProblems(t *testing.T) {
	r := newRig(t)
	r.host.file("a/BAD/../x", "1")
	r.host.put("a/what", remote.Unknown, "")
	r.host.file("a/good", "2")
	_, s := r.pull(ProblemKind, ProblemName)
	if s.content(t, "a/good") != "2" || s.entries["a/what"].Kind != snapshot.Unknown {
		t.Error("the neighbours are missing")
	}
}

func TestExcludedPathsAreNotEvenListed(t *testing.T) {
	r := newRig(t)
	someTree(r.host)
	r.host.file("etc/keep.log", "k")
	r.host.file("etc/a.log", "l")
	var err error
	if r.job.Excludes, err = ParseExcludes([]string{"/var/", "*.log", "!keep.log", "dev/fifo"}); err != nil {
		t.Fatal(err)
	}
	result, s := r.pull()
	r.host.remove("var")
	r.host.remove("etc/a.log")
	r.host.remove("dev/fifo")
	s.equals(t, r.host)
	if r.host.did("list var") > 0 || result.Stats.Excluded != 3 || !slices.Equal(s.summary.Excludes, r.job.Excludes.Patterns()) {
		t.Errorf("%q, %+v", r.host.ops, result.Stats)
	}
}

func TestLostContentIsReadAgain(t *testing.T) {
	r := newRig(t)
	someTree(r.host)
	_, s := r.pull()
	r.keep.lost[s.entries["etc/hosts"].Chunks[0].Pack] = true
	r.pull()
	if r.host.did("read etc/hosts") != 1 || r.host.did("read") != 1 {
		t.Errorf("%q", r.host.ops)
	}
}

func TestADamagedPreviousCatalogCostsReadingAndNothingElse(t *testing.T) {
	r := newRig(t)
	someTree(r.host)
	r.pull()
	clear(r.keep.chunks)
	var notes atomic.Int64
	r.job.Events.Note = func(string) { notes.Add(1) }
	_, s := r.pull()
	s.equals(t, r.host)
	if r.host.did("read") != 4 || notes.Load() == 0 {
		t.Errorf("%q", r.host.ops)
	}
}
