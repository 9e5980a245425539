package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

// full asks for the whole sizes, a minute more: in sweeps, and where nothing may be left out.
func full() bool {
	return os.Getenv("HOLDFAST_SWEEP") == "full" || os.Getenv(sshdtest.RequireAll) == "1"
}

// treeSize counts what lies below a directory.
func treeSize(t testing.TB, dir string) (entries, bytes int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		entries++
		if e.Type().IsRegular() {
			info, err := e.Info()
			if err != nil {
				return err
			}
			bytes += info.Size()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return entries, bytes
}

// goRoot is where the Go toolchain lies, a real tree that every machine with these tests has.
func goRoot(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// TestSourceComesBackDifferent pulls trees of a real sshd, pulls them again and restores them: the second pull reads no
// content, by its own count and by the bytes that left the source, and what comes back is what diff and find see there.
func TestSourceComesBackDifferent(t *testing.T) {
	sshdtest.Need(t, "sshd")
	generated := filepath.Join(t.TempDir(), "src")
	writeTree(t, generated, 11, 1500, 4)
	trees := map[string]string{"generated": generated, "goroot": goRoot(t)}
	if full() {
		trees["share"] = "/usr/share"
	}
	for name, dir := range trees {
		t.Run(name, func(t *testing.T) {
			if _, err := os.Stat(dir); err != nil {
				t.Fatalf("a tree that every machine has: %v", err)
			}
			pullTwiceAndRestore(t, dir)
		})
	}
}

func pullTwiceAndRestore(t *testing.T, dir string) {
	srv := sshdtest.Start(t, sshdtest.Options{})
	s := initialised(t)
	entries, size := treeSize(t, dir)
	first := s.pull(srv, "tree", dir)
	if first.State != "complete" || first.ReadBytes != uint64(size) {
		t.Fatalf("the first pull read %d of %d bytes: %+v", first.ReadBytes, size, first)
	}
	served := srv.BytesServed()
	packs := dirBytes(t, filepath.Join(s.vault, "packs"))
	second := s.pull(srv, "tree", dir)
	if second.ReadBytes != 0 || second.FilesRead != 0 || second.Unchanged != first.Files || second.State != "complete" {
		t.Errorf("the second pull read content: %+v", second)
	}
	// An entry of a listing is its name twice and some 100 bytes; nothing else comes from a source that did not change.
	if n, most := srv.BytesServed()-served, 256<<10+entries*400; n > most {
		t.Errorf("the source sent %d bytes for a pull of %d unchanged entries, want at most %d", n, entries, most)
	}
	if second.NewBytes > 64<<10 {
		t.Errorf("the second pull stored %d new bytes", second.NewBytes)
	}
	if grown := dirBytes(t, filepath.Join(s.vault, "packs")) - packs; grown > 256<<10 {
		t.Errorf("the second pull made the packs grow by %d bytes", grown)
	}
	to := filepath.Join(t.TempDir(), "out")
	s.must("restore", "tree@latest", "--to", to)
	sameAsSource(t, dir, to)
	t.Logf("%d entries, %d bytes: %.1f s, again %.1f s, %d bytes in packs", entries, size, first.Seconds, second.Seconds, packs)
}

// TestSmallEditStoresALargeFileAgain edits a few bytes in a large file, in the middle and by insertion.
func TestSmallEditStoresALargeFileAgain(t *testing.T) {
	srv := sshdtest.Start(t, sshdtest.Options{})
	s := initialised(t)
	size := 128 << 20
	if full() {
		size = 1 << 30
	}
	dir := filepath.Join(t.TempDir(), "src")
	file := filepath.Join(dir, "disk.img")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	content := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{9}).Read(content)
	put := func(age time.Duration, parts ...[]byte) {
		t.Helper()
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range parts {
			if _, err := f.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-age)
		if err := os.Chtimes(file, at, at); err != nil {
			t.Fatal(err)
		}
	}
	put(48*time.Hour, content)
	if first := s.pull(srv, "web1", dir); first.NewBytes < uint64(size) {
		t.Fatalf("%+v", first)
	}
	half := size/2 + 12345
	for i, edit := range []struct {
		what string
		with string
		skip int
	}{{"replaced", "EDIT!", 5}, {"inserted", "a few bytes more", 0}, {"removed", "", 7}} {
		put(24*time.Hour-time.Duration(i)*time.Hour, content[:half], []byte(edit.with), content[half+edit.skip:])
		res := s.pull(srv, "web1", dir)
		if res.FilesRead != 1 || res.NewBytes == 0 || res.NewBytes > 8<<20 {
			t.Errorf("%s: %d new bytes of %d: %+v", edit.what, res.NewBytes, size, res)
		}
		t.Logf("%s: %d new bytes, %d stored", edit.what, res.NewBytes, res.StoredBytes)
	}
	to := filepath.Join(t.TempDir(), "out")
	s.must("restore", "web1@latest", "--to", to)
	sameAsSource(t, dir, to)
}

// TestEditWithinTheSameSecondIsMissed changes a file without changing its size or time, which the protocol shows in whole
// seconds: while it is young it is read again; once it was read when old, it is not.
func TestEditWithinTheSameSecondIsMissed(t *testing.T) {
	srv := sshdtest.Start(t, sshdtest.Options{})
	s := initialised(t)
	dir := filepath.Join(t.TempDir(), "src")
	writeTree(t, dir, 5, 20, 0)
	young := filepath.Join(dir, "young")
	at := time.Now().Truncate(time.Second)
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(young, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(young, at, at); err != nil {
			t.Fatal(err)
		}
	}
	put("state: one")
	if res := s.pull(srv, "web1", dir); res.FilesRead != 21 {
		t.Fatalf("%+v", res)
	}
	put("state: two")
	res := s.pull(srv, "web1", dir)
	if res.FilesRead != 1 || res.State != "complete" {
		t.Errorf("%+v", res)
	}
	if got := s.must("cat", "web1@latest:young").out; got != "state: two" {
		t.Errorf("the vault holds %q", got)
	}
	before := s.must("snapshots", "--json")
	var list []snapshotJSON
	before.json(t, &list)
	if got := s.must("cat", fmt.Sprintf("web1@%s:young", list[0].Time)).out; got != "state: one" {
		t.Errorf("the first snapshot holds %q", got)
	}
	if res := s.pull(srv, "web1", dir); res.FilesRead != 1 || res.Unchanged != 21 && res.Unchanged != 20 {
		t.Errorf("still young: %+v", res)
	}
	// The same file at rest: read once more when its time has moved, and then left alone.
	at = at.Add(-24 * time.Hour)
	put("state: two")
	if res := s.pull(srv, "web1", dir); res.FilesRead != 1 {
		t.Errorf("%+v", res)
	}
	if res := s.pull(srv, "web1", dir); res.FilesRead != 0 || res.ReadBytes != 0 {
		t.Errorf("a file at rest was read again: %+v", res)
	}
	if out := s.must("diff", "web1@"+list[0].Time, "web1@"+list[1].Time).out; !bytes.Contains([]byte(out), []byte("M young\n")) {
		t.Errorf("diff says %q", out)
	}
}
