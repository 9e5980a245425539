package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/holdfast-vault/holdfast/puller/remote"
	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

func configFor(s *sshdtest.Server) remote.Config {
	return remote.Config{User: s.User, Host: s.Host, Port: s.Port, Signers: []ssh.Signer{s.Signer}, HostKeys: []ssh.PublicKey{s.HostKey},
		Limits: remote.Limits{OpTimeout: 10 * time.Second, HandshakeTimeout: 20 * time.Second, RedialWait: 20 * time.Millisecond}}
}

func dial(t *testing.T, c remote.Config) *remote.Source {
	t.Helper()
	s, err := remote.Dial(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o640); err != nil {
		t.Fatal(err)
	}
}

func noise(n int) []byte {
	p := make([]byte, n)
	rand.New(rand.NewSource(int64(n))).Read(p)
	return p
}

// Whatever lies in a directory is listed and read as it is: empty, small, at the edges of a request, large; links as links.
func TestReadsWhatIsThere(t *testing.T) {
	server := sshdtest.Start(t, sshdtest.Options{})
	dir := t.TempDir()
	sizes := []int{0, 1, 4000, 32<<10 - 1, 32 << 10, 255<<10 - 1, 255 << 10, 255<<10 + 1, 3 << 20, 20<<20 + 17}
	for _, n := range sizes {
		write(t, filepath.Join(dir, fmt.Sprint("size", n)), noise(n))
	}
	odd := "new\nline \x1b[31m \xff\xfe"
	write(t, filepath.Join(dir, odd), []byte("odd"))
	if err := os.Symlink("no/where", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	os.Mkdir(filepath.Join(dir, "empty"), 0o751)

	for _, shape := range [][2]int{{0, 0}, {1, 1}, {3, 2}} {
		config := configFor(server)
		config.Connections, config.Channels = shape[0], shape[1]
		s := dial(t, config)
		entries, problems, err := s.ReadDir(t.Context(), dir)
		if err != nil || len(problems) > 0 {
			t.Fatal(err, problems)
		}
		if len(entries) != len(sizes)+3 || !sort.SliceIsSorted(entries, func(i, j int) bool { return entries[i].Name < entries[j].Name }) {
			t.Fatalf("%d entries, or not sorted: %v", len(entries), entries)
		}
		for _, e := range entries {
			compare(t, s, dir, e)
		}
		if _, _, err := s.ReadDir(t.Context(), dir+"/empty"); err != nil {
			t.Errorf("empty directory: %v", err)
		}
		s.Close()
	}
}

// compare holds one entry against the local file system.
func compare(t *testing.T, s *remote.Source, dir string, e remote.Entry) {
	t.Helper()
	path := remote.Join(dir, e.Name)
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatalf("%q: %v", e.Name, err)
	}
	if !e.ModeKnown || e.Mode != uint32(info.Mode().Perm()) || e.MTime != info.ModTime().Unix() {
		t.Errorf("%q: %+v is not %v %v", e.Name, e.Attr, info.Mode(), info.ModTime().Unix())
	}
	switch e.Kind {
	case remote.File:
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, from := range []int{0, len(want) / 3, len(want)} {
			var got bytes.Buffer
			read, err := s.ReadFile(t.Context(), path, e.Attr, uint64(from), &got)
			if err != nil || read.Changed || read.Short || read.Grew || read.N != uint64(len(want)-from) {
				t.Errorf("%q from %d: %+v %v", e.Name, from, read, err)
			}
			if !bytes.Equal(got.Bytes(), want[from:]) {
				t.Errorf("%q from %d: content differs", e.Name, from)
			}
		}
	case remote.Symlink:
		target, err := s.Readlink(t.Context(), path)
		if want, _ := os.Readlink(path); err != nil || target != want {
			t.Errorf("link: %q %v", target, err)
		}
	case remote.Directory:
		if !info.IsDir() {
			t.Errorf("%q is not a directory", e.Name)
		}
	default:
		t.Errorf("%q is a %v", e.Name, e.Kind)
	}
}

// A directory of many batches comes whole although many requests are in flight, and the limit on entries holds.
func TestHugeDirectory(t *testing.T) {
	server := sshdtest.Start(t, sshdtest.Options{})
	dir := t.TempDir()
	const count = 12345
	for i := range count {
		if err := os.Symlink("x", filepath.Join(dir, fmt.Sprintf("entry-%06d", i))); err != nil {
			t.Fatal(err)
		}
	}
	s := dial(t, configFor(server))
	entries, problems, err := s.ReadDir(t.Context(), dir)
	if err != nil || len(problems) != 0 || len(entries) != count {
		t.Fatalf("%d entries, %d problems, %v", len(entries), len(problems), err)
	}
	for i, e := range entries {
		if e.Name != fmt.Sprintf("entry-%06d", i) {
			t.Fatalf("entry %d is %q", i, e.Name)
		}
	}
	config := configFor(server)
	config.Limits.EntriesPerDirectory = 1000
	entries, _, err = dial(t, config).ReadDir(t.Context(), dir)
	var limit *remote.LimitError
	if !errors.As(err, &limit) || len(entries) < 900 || len(entries) > 1002 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
}

// What is not there, or not for us, says so with the path; nothing is taken for empty.
func TestMissingAndDenied(t *testing.T) {
	server := sshdtest.Start(t, sshdtest.Options{})
	s := dial(t, configFor(server))
	dir := t.TempDir()
	for name, err := range map[string]error{
		"lstat":    second(s.Lstat(t.Context(), dir+"/none")),
		"readlink": second(s.Readlink(t.Context(), dir+"/none")),
		"read":     second(s.ReadFile(t.Context(), dir+"/none", remote.Attr{Kind: remote.File, Size: 5}, 0, io.Discard)),
		"list":     third(s.ReadDir(t.Context(), dir+"/none")),
	} {
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dir+"/none") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if os.Geteuid() == 0 {
		t.Log("root is denied nothing: the rest is for other users")
		return
	}
	os.Mkdir(dir+"/blind", 0o700)
	write(t, dir+"/blind/file", []byte("x"))
	os.Chmod(dir+"/blind", 0o444)
	t.Cleanup(func() { os.Chmod(dir+"/blind", 0o700) })
	if _, _, err := s.ReadDir(t.Context(), dir+"/blind"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a directory that may not be searched: %v", err)
	}
}

func second[T any](_ T, err error) error        { return err }
func third[T, U any](_ T, _ U, err error) error { return err }

// A file that grows or shrinks after it was listed is read to its listed size and no further, and says so.
func TestFileChangedSinceListing(t *testing.T) {
	server := sshdtest.Start(t, sshdtest.Options{})
	s := dial(t, configFor(server))
	path := filepath.Join(t.TempDir(), "file")
	for _, n := range []int{1000, 9 << 20} {
		write(t, path, noise(n))
		attr, err := s.Lstat(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		write(t, path, noise(n+n/2))
		read, err := s.ReadFile(t.Context(), path, attr, 0, io.Discard)
		if err != nil || !read.Grew || !read.Changed || read.Short || read.N != uint64(n) || read.After.Size != uint64(n+n/2) {
			t.Errorf("grown: %+v %v", read, err)
		}
		write(t, path, noise(n/2))
		var got bytes.Buffer
		read, err = s.ReadFile(t.Context(), path, attr, 0, &got)
		if err != nil || !read.Short || !read.Changed || read.Grew || read.N != uint64(n/2) || !bytes.Equal(got.Bytes(), noise(n/2)) {
			t.Errorf("shrunk: %+v %v", read, err)
		}
	}
}

// A FIFO that was listed as a file hangs its channel for ever. It costs its connection and nothing else.
func TestFifoInPlaceOfFile(t *testing.T) {
	server := sshdtest.Start(t, sshdtest.Options{})
	config := configFor(server)
	config.Limits.OpTimeout = 300 * time.Millisecond
	s := dial(t, config)
	dir := t.TempDir()
	mkfifo(t, dir+"/fifo")
	write(t, dir+"/good", []byte("good"))
	_, err := s.ReadFile(t.Context(), dir+"/fifo", remote.Attr{Kind: remote.File, Size: 100}, 0, io.Discard)
	if !errors.Is(err, remote.ErrStalled) {
		t.Fatalf("fifo: %v", err)
	}
	eventually(t, func() error {
		_, err := s.ReadFile(t.Context(), dir+"/good", remote.Attr{Kind: remote.File, Size: 4}, 0, io.Discard)
		return err
	})
	if st := s.Stats(); st.Lost == 0 {
		t.Errorf("no connection was lost: %+v", st)
	}
}

// eventually retries what may meet a connection that is just being replaced.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return
		}
		if !errors.Is(err, remote.ErrLost) && !errors.Is(err, remote.ErrStalled) || ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

// Connections that are cut in the middle of a large file lose the read, not the Source, and what was delivered is a prefix.
func TestCutInTheMiddle(t *testing.T) {
	server := sshdtest.Start(t, sshdtest.Options{})
	s := dial(t, configFor(server))
	path := filepath.Join(t.TempDir(), "file")
	content := noise(24 << 20)
	write(t, path, content)
	attr, err := s.Lstat(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	server.CutAt(server.BytesServed() + 10<<20)
	read, err := s.ReadFile(t.Context(), path, attr, 0, &got)
	if !errors.Is(err, remote.ErrLost) {
		t.Fatalf("%+v %v", read, err)
	}
	if read.N != uint64(got.Len()) || !bytes.HasPrefix(content, got.Bytes()) {
		t.Fatalf("%d bytes reported, %d delivered, or not a prefix", read.N, got.Len())
	}
	eventually(t, func() error {
		_, err := s.ReadFile(t.Context(), path, attr, uint64(got.Len()), &got)
		return err
	})
	if !bytes.Equal(got.Bytes(), content) {
		t.Error("the continued file differs")
	}
}

// A server that allows one session a connection, or refuses further connections, is used with what it gives.
func TestServerWithFewSessions(t *testing.T) {
	server := sshdtest.Start(t, sshdtest.Options{Config: []string{"MaxSessions 1"}})
	config := configFor(server)
	config.Connections, config.Channels = 2, 4
	s := dial(t, config)
	if st := s.Stats(); st.Channels < 1 {
		t.Errorf("%+v", st)
	}
	path := filepath.Join(t.TempDir(), "file")
	write(t, path, noise(10<<20))
	var got bytes.Buffer
	if _, err := s.ReadFile(t.Context(), path, remote.Attr{Kind: remote.File, Size: 10 << 20}, 0, &got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), noise(10<<20)) {
		t.Error("content differs")
	}
}

// The source's clock is the host's own where /proc can be seen.
func TestClockOfSource(t *testing.T) {
	server := sshdtest.Start(t, sshdtest.Options{})
	s := dial(t, configFor(server))
	before := time.Now()
	now, known, err := s.Now(t.Context())
	if err != nil || !known {
		t.Fatal(now, known, err)
	}
	if now.After(time.Now()) || now.Before(before.Add(-3*time.Second)) {
		t.Errorf("%v, here it is %v", now, before)
	}
}

// A host key other than the pinned one is refused before anything is sent, with both fingerprints; a pin of any of the server's types is found.
func TestHostKeyPins(t *testing.T) {
	server := sshdtest.Start(t, sshdtest.Options{})
	for _, key := range server.HostKeys {
		config := configFor(server)
		config.HostKeys = []ssh.PublicKey{key}
		s := dial(t, config)
		if !bytes.Equal(s.HostKey().Marshal(), key.Marshal()) {
			t.Errorf("pinned %s, used %s", key.Type(), s.HostKey().Type())
		}
	}
	config := configFor(server)
	config.HostKeys = []ssh.PublicKey{server.Signer.PublicKey()}
	_, err := remote.Dial(t.Context(), config)
	var wrong *remote.HostKeyError
	if !errors.As(err, &wrong) || wrong.Got != ssh.FingerprintSHA256(server.HostKey) || len(wrong.Want) != 1 {
		t.Fatalf("%v", err)
	}
	for _, part := range append(wrong.Want, wrong.Got) {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not in %q", part, err)
		}
	}
	key, err := remote.FetchHostKey(t.Context(), server.Host, server.Port)
	if err != nil || !bytes.Equal(key.Marshal(), server.HostKey.Marshal()) {
		t.Errorf("fetched %v, %v", key, err)
	}
	keys, err := remote.ParseKnownHosts(server.KnownHostsFile, server.Host, server.Port)
	if err != nil || len(keys) != 1 {
		t.Errorf("%v %v", keys, err)
	}
}

// A key that the source does not know is told apart from a host that cannot be reached.
func TestUnknownKeyAndDeadHost(t *testing.T) {
	server := sshdtest.Start(t, sshdtest.Options{})
	other := sshdtest.Start(t, sshdtest.Options{})
	config := configFor(server)
	config.Signers = []ssh.Signer{other.Signer}
	if _, err := remote.Dial(t.Context(), config); !errors.Is(err, remote.ErrAuth) {
		t.Errorf("%v", err)
	}
	config.Port = 1
	if _, err := remote.Dial(t.Context(), config); !errors.Is(err, remote.ErrLost) {
		t.Errorf("%v", err)
	}
}
