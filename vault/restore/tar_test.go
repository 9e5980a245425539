package restore_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-vault/holdfast/vault/restore"
	"github.com/holdfast-vault/holdfast/vault/restore/restoretest"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// GNU tar knows nothing of us: what it makes of the stream must be what a restore into a directory makes.
func TestGNUTarExtractsWhatARestoreMakes(t *testing.T) {
	tool := need(t, "tar")
	diff := need(t, "diff")
	src := tree()
	for _, path := range []string{"", "odd", "etc/hosts"} {
		ours, theirs := t.TempDir(), t.TempDir()
		mustRestore(t, src, path, ours, quick)
		cmd := exec.Command(tool, "--same-permissions", "--no-same-owner", "-x", "-C", theirs, "-f", "-")
		cmd.Stdin = bytes.NewReader(tarOf(t, src, path, restore.TarOptions{}))
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Fatalf("tar: %v\n%s", err, out)
		}
		if path == "etc/hosts" { // the directories themselves were not part of it
			os.Chtimes(ours, unixTime(1), unixTime(1))
			os.Chtimes(theirs, unixTime(1), unixTime(1))
		}
		same(t, "tar against restore, "+path, listing(t, theirs), listing(t, ours))
		for _, dir := range []string{ours, theirs} { // diff would wait for a fifo
			os.Remove(filepath.Join(dir, "fifo"))
		}
		if out, err := exec.Command(diff, "-r", "--no-dereference", ours, theirs).CombinedOutput(); err != nil {
			t.Errorf("diff: %v\n%s", err, out)
		}
	}
}

func TestTarIsDeterministic(t *testing.T) {
	a, b := tarOf(t, tree(), "", restore.TarOptions{}), tarOf(t, tree(), "", restore.TarOptions{})
	if !bytes.Equal(a, b) {
		t.Error("two streams of one snapshot differ")
	}
}

func TestTarKeepsDirectoriesTogether(t *testing.T) {
	r := tar.NewReader(bytes.NewReader(tarOf(t, tree(), "", restore.TarOptions{})))
	var open []string
	left := map[string]bool{}
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for len(open) > 0 && open[len(open)-1] != "./" && !strings.HasPrefix(h.Name, open[len(open)-1]) {
			left[open[len(open)-1]] = true
			open = open[:len(open)-1]
		}
		for d := range left {
			if strings.HasPrefix(h.Name, d) {
				t.Errorf("%q comes after %q was left", h.Name, d)
			}
		}
		if h.Typeflag == tar.TypeDir {
			open = append(open, h.Name)
		}
	}
}

// A stream with something missing must not look whole to anybody.
func TestFailedTarIsRecognisablyCut(t *testing.T) {
	for _, path := range []string{"bin/tool", "large"} {
		src := tree()
		e, _ := src.Lookup(t.Context(), path)
		src.Break(e.Chunks[len(e.Chunks)-1])
		var b bytes.Buffer
		r, err := restore.Tar(t.Context(), src, "", &b, restore.TarOptions{})
		if !errors.Is(err, restoretest.ErrBroken) || r.FailureCount != 1 || r.Failures[0].Path != path {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := restore.FromTar(t.Context(), bytes.NewReader(b.Bytes()), t.TempDir(), quick); !errors.Is(err, restore.ErrCut) {
			t.Errorf("%s: FromTar took it for whole: %v", path, err)
		}
		tool := need(t, "tar")
		cmd := exec.Command(tool, "-x", "--no-same-owner", "-C", t.TempDir(), "-f", "-")
		cmd.Stdin = &b
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Errorf("%s: tar took it for whole: %s", path, out)
		}
	}
}

func TestTarNamesWhatItCannotHold(t *testing.T) {
	src := restoretest.New()
	src.Symlink("empty", "")
	src.Symlink("nul", "a\x00b")
	src.Add(snapshot.Entry{Name: "..", Kind: snapshot.File, Mode: 0o644})
	src.Add(snapshot.Entry{Name: "a/b", Kind: snapshot.Directory, Mode: 0o755})
	src.Special("dev", snapshot.BlockDevice)
	src.File("good", 0o644, []byte("good"), 2)
	var b bytes.Buffer
	r, err := restore.Tar(t.Context(), src, "", &b, restore.TarOptions{})
	if err == nil || r.FailureCount != 4 || r.Files != 1 || r.Skipped != 1 {
		t.Errorf("%+v %v", r, err)
	}
}

func TestFromTarMakesWhatADirectRestoreMakes(t *testing.T) {
	src := tree()
	src.Special("null", snapshot.CharDevice)
	for _, private := range []bool{false, true} {
		for _, path := range []string{"", "odd", "large"} {
			direct, through := t.TempDir(), t.TempDir()
			want := mustRestore(t, src, path, direct, quick)
			stream := tarOf(t, src, path, restore.TarOptions{ForFromTar: private})
			got, err := restore.FromTar(t.Context(), bytes.NewReader(stream), through, quick)
			if err != nil {
				t.Fatal(err)
			}
			noLeftovers(t, through)
			if path == "large" {
				os.Chtimes(direct, unixTime(1), unixTime(1))
				os.Chtimes(through, unixTime(1), unixTime(1))
			}
			same(t, path, listing(t, through), listing(t, direct))
			if got.Files != want.Files || got.Bytes != want.Bytes || got.HoleBytes != want.HoleBytes || got.Directories != want.Directories {
				t.Errorf("reports differ: %+v\n%+v", got, want)
			}
			if private && path == "" && got.Skipped != 1 {
				t.Errorf("the note about the device did not come along: %+v", got)
			}
		}
	}
}

// Through the daemon as directly: what cannot be had is named, everything else comes.
func TestFailuresTravelInAStreamForFromTar(t *testing.T) {
	src := tree()
	for _, path := range []string{"large", "bin/tool"} {
		e, _ := src.Lookup(t.Context(), path)
		src.Break(e.Chunks[len(e.Chunks)-1])
	}
	var b bytes.Buffer
	if _, err := restore.Tar(t.Context(), src, "", &b, restore.TarOptions{ForFromTar: true}); !errors.Is(err, restoretest.ErrBroken) {
		t.Errorf("the far side: %v", err)
	}
	dir := t.TempDir()
	r, err := restore.FromTar(t.Context(), &b, dir, quick)
	if err == nil || r.FailureCount != 2 || errors.Is(err, restore.ErrCut) || !strings.Contains(err.Error(), `"large"`) {
		t.Errorf("%+v %v", r, err)
	}
	noLeftovers(t, dir)
	for _, gone := range []string{"large", "bin/tool"} {
		if _, err := os.Lstat(filepath.Join(dir, gone)); err == nil {
			t.Errorf("%s is there", gone)
		}
	}
	if _, err := os.ReadFile(filepath.Join(dir, "etc/hosts")); err != nil {
		t.Error(err)
	}
}

func TestStreamCutAnywhereIsNeverTakenForWhole(t *testing.T) {
	src := restoretest.New()
	src.Dir("d", 0o755)
	src.File("d/a", 0o644, []byte("a"), 1)
	src.File("d/zeros", 0o644, make([]byte, 4096), 4096)
	src.File("z", 0o644, make([]byte, 2048), 2048)
	stream := tarOf(t, src, "", restore.TarOptions{})
	for n := 0; n < len(stream); n += 64 {
		dir := t.TempDir()
		if _, err := restore.FromTar(t.Context(), bytes.NewReader(stream[:n]), dir, quick); !errors.Is(err, restore.ErrCut) {
			t.Errorf("cut at %d of %d: %v", n, len(stream), err)
		}
		noLeftovers(t, dir)
	}
	if _, err := restore.FromTar(t.Context(), bytes.NewReader(stream), t.TempDir(), quick); err != nil {
		t.Error(err)
	}
}

func TestFromTarRefusesHostileArchives(t *testing.T) {
	outside, check := untouched(t)
	base := filepath.Base(outside)
	for _, h := range []tar.Header{
		{Name: "../" + base + "/precious", Typeflag: tar.TypeReg},
		{Name: "/" + outside + "/precious", Typeflag: tar.TypeReg},
		{Name: "ok/../../" + base + "/precious", Typeflag: tar.TypeReg},
		{Name: "./../x", Typeflag: tar.TypeReg},
		{Name: "ok//x", Typeflag: tar.TypeReg},
		{Name: "..", Typeflag: tar.TypeDir},
		{Name: "hard", Typeflag: tar.TypeLink, Linkname: outside + "/precious"},
		{Name: "dev", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3},
		{Name: "blk", Typeflag: tar.TypeBlock, Devmajor: 8},
		{Name: "cont", Typeflag: tar.TypeCont},
		{Name: "trap/precious", Typeflag: tar.TypeReg},
		{Name: "ok", Typeflag: tar.TypeReg},
		{Name: "ok", Typeflag: tar.TypeSymlink, Linkname: outside},
		{Name: "missing/parent", Typeflag: tar.TypeReg},
		{Name: "part", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"HOLDFAST.size": "x", "HOLDFAST.offset": "0"}},
		{Name: "part", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"HOLDFAST.size": "9", "HOLDFAST.offset": "0"}},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		w.WriteHeader(&tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755})
		w.WriteHeader(&tar.Header{Name: "ok/", Typeflag: tar.TypeDir, Mode: 0o755})
		w.WriteHeader(&tar.Header{Name: "trap", Typeflag: tar.TypeSymlink, Linkname: outside})
		h.Mode = 0o777
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("%q: %v", h.Name, err)
		}
		w.WriteHeader(&tar.Header{Name: "last", Typeflag: tar.TypeReg, Mode: 0o644})
		w.Close()
		dir := t.TempDir()
		r, err := restore.FromTar(t.Context(), &b, dir, quick)
		if err == nil || r.FailureCount != 1 {
			t.Errorf("%q %c: %+v %v", h.Name, h.Typeflag, r, err)
		}
		if _, err := os.Lstat(filepath.Join(dir, "last")); err != nil {
			t.Errorf("%q %c: what followed was not restored", h.Name, h.Typeflag)
		}
		noLeftovers(t, dir)
		check()
	}
}

func TestPartsThatDoNotFitAreAFailure(t *testing.T) {
	part := func(name, size, offset, content string) tar.Header {
		return tar.Header{Name: name, Size: int64(len(content)), Mode: 0o644, Typeflag: tar.TypeReg,
			PAXRecords: map[string]string{"HOLDFAST.size": size, "HOLDFAST.offset": offset, "HOLDFAST.note": content}}
	}
	for what, parts := range map[string][]tar.Header{
		"a gap":         {part("f", "6", "0", "abc"), part("f", "6", "4", "ef")},
		"an overlap":    {part("f", "6", "0", "abc"), part("f", "6", "2", "cde")},
		"too much":      {part("f", "4", "0", "abc"), part("f", "4", "3", "ef")},
		"another size":  {part("f", "6", "0", "abc"), part("f", "7", "3", "def")},
		"the end first": {part("f", "6", "0", "abc"), part("f", "6", "0", "abc"), part("f", "6", "3", "def")},
		"another file":  {part("f", "6", "0", "abc"), part("g", "6", "3", "def")},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		w.WriteHeader(&tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755})
		for _, h := range parts {
			text := h.PAXRecords["HOLDFAST.note"]
			delete(h.PAXRecords, "HOLDFAST.note")
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			io.WriteString(w, text)
		}
		w.Close()
		dir := t.TempDir()
		r, err := restore.FromTar(t.Context(), &b, dir, quick)
		if err == nil || r.FailureCount == 0 {
			t.Errorf("%s: %+v %v", what, r, err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "f")); err == nil && string(b) != "abcdef" {
			t.Errorf("%s: left %q", what, b)
		}
		noLeftovers(t, dir)
	}
}

func TestTarStopsWhenNobodyReads(t *testing.T) {
	if err := restore.ToTar(t.Context(), tree(), "", stuck{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := restore.ToTar(ctx, tree(), "", io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// Names, targets and records are what a hostile stream has to play with; blocks and checksums are tar's own business.
func FuzzFromTarStaysInside(f *testing.F) {
	f.Add("d/a", "", byte(tar.TypeReg), "", "d/l", "../..", byte(tar.TypeSymlink), "")
	f.Add("d/l", "../..", byte(tar.TypeSymlink), "", "d/l/precious", "", byte(tar.TypeReg), "")
	f.Add("part", "", byte(tar.TypeReg), "HOLDFAST.size=6\nHOLDFAST.offset=0", "part", "", byte(tar.TypeReg), "HOLDFAST.size=6\nHOLDFAST.offset=3")
	f.Add("../precious", "", byte(tar.TypeReg), "", "./", "", byte(tar.TypeDir), "HOLDFAST.failure=x\nHOLDFAST.path=d")
	f.Fuzz(func(t *testing.T, n1, l1 string, k1 byte, r1, n2, l2 string, k2 byte, r2 string) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		w.WriteHeader(&tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755})
		w.WriteHeader(&tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755})
		for _, h := range []tar.Header{fuzzed(n1, l1, k1, r1), fuzzed(n2, l2, k2, r2)} {
			if w.WriteHeader(&h) == nil && h.Size > 0 {
				io.WriteString(w, "abc")
			}
		}
		w.Close()
		outer := t.TempDir()
		os.WriteFile(filepath.Join(outer, "precious"), []byte("precious"), 0o600)
		os.Mkdir(filepath.Join(outer, "dir"), 0o700)
		restore.FromTar(t.Context(), &b, filepath.Join(outer, "dir"), quick)
		os.Chmod(filepath.Join(outer, "dir"), 0o700)
		names, err := os.ReadDir(outer)
		if err != nil || len(names) != 2 {
			t.Fatalf("outside: %v %v", names, err)
		}
		if p, err := os.ReadFile(filepath.Join(outer, "precious")); err != nil || string(p) != "precious" {
			t.Fatalf("outside: %q %v", p, err)
		}
		noLeftovers(t, outer)
	})
}

func fuzzed(name, link string, kind byte, records string) tar.Header {
	h := tar.Header{Name: name, Linkname: link, Typeflag: kind, Mode: 0o644, Format: tar.FormatPAX}
	if kind == tar.TypeReg {
		h.Size = 3
	}
	if kind == tar.TypeXGlobalHeader {
		h = tar.Header{Typeflag: kind}
	}
	for r := range strings.SplitSeq(records, "\n") {
		if k, v, ok := strings.Cut(r, "="); ok {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords[k] = v
		}
	}
	return h
}
