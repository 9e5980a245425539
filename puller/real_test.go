package puller_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/puller"
	"github.com/holdfast-vault/holdfast/puller/remote"
	"github.com/holdfast-vault/holdfast/puller/sshdtest"
	"github.com/holdfast-vault/holdfast/puller/throwaway"
	"github.com/holdfast-vault/holdfast/vault"
	"github.com/holdfast-vault/holdfast/vault/keys"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

var old = time.Unix(1_700_000_000, 0)

// store is a vault in a directory that can be closed and opened again.
type store struct {
	t     testing.TB
	dir   string
	ident *keys.Identity
	clock *clock.Manual
	v     *vault.Vault
}

func newStore(t testing.TB) *store {
	t.Helper()
	s := &store{t: t, dir: filepath.Join(t.TempDir(), "vault"), clock: clock.NewManual(time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC))}
	var recipients []string
	for range 2 {
		i, err := keys.NewIdentity()
		must(t, err)
		s.ident = i
		recipients = append(recipients, i.Recipient())
	}
	_, err := vault.Init(t.Context(), s.dir, vault.NewID(), vault.InitOptions{Recipients: recipients, Clock: s.clock})
	must(t, err)
	s.open()
	t.Cleanup(func() { must(t, s.v.Close()) })
	return s
}

func (s *store) open() {
	s.t.Helper()
	v, err := vault.Open(s.t.Context(), s.dir, vault.Options{Identities: []*keys.Identity{s.ident}, Clock: s.clock})
	must(s.t, err)
	s.v = v
}

// restart closes the vault and opens it again, as another process does.
func (s *store) restart() {
	s.t.Helper()
	must(s.t, s.v.Close())
	s.open()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// target is how a source is reached.
type target struct {
	addr, user string
	signer     ssh.Signer
	key        ssh.PublicKey
	limits     remote.Limits

	connections, channels int // 0: what package remote chooses
}

func (a target) dial(ctx context.Context) (puller.Remote, error) {
	host, port, _ := net.SplitHostPort(a.addr)
	number, _ := strconv.Atoi(port)
	s, err := remote.Dial(ctx, remote.Config{
		User: a.user, Host: host, Port: number, Signers: []ssh.Signer{a.signer}, HostKeys: []ssh.PublicKey{a.key}, Limits: a.limits,
		Connections: a.connections, Channels: a.channels,
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// job is a pull of root at a target into the store.
func (s *store) job(name, root string, a target) puller.Job {
	s.clock.Advance(time.Minute) // labels have whole seconds
	return puller.Job{
		Source: name, Root: root, Connect: a.dial,
		Retry: puller.Retry{First: time.Millisecond, Losses: 4},
		Begin: func(ctx context.Context) (puller.Session, error) {
			session, err := s.v.Begin(ctx, vault.SessionOptions{Source: name})
			if err != nil {
				return nil, err
			}
			return puller.FromVault(session, func() puller.CommitDetails { return puller.CommitDetails{Origin: "sftp://test"} }), nil
		},
	}
}

func (s *store) pull(j puller.Job) puller.Result {
	s.t.Helper()
	r, err := puller.Run(s.t.Context(), j)
	if err != nil {
		s.t.Fatalf("pull: %v", err)
	}
	return r
}

// whole wants the result to be a complete snapshot of dir.
func (s *store) whole(r puller.Result, dir string) {
	s.t.Helper()
	if r.Partial || r.Snapshot.Head.State != "complete" || r.Snapshot.LockedUntil.IsZero() {
		s.t.Fatalf("%+v", r)
	}
	s.same(r.Snapshot.ID, dir)
}

// same compares a snapshot with a directory of this machine, both ways.
func (s *store) same(id, dir string) {
	s.t.Helper()
	snap, err := s.v.OpenSnapshot(s.t.Context(), id)
	must(s.t, err)
	kept := map[string]snapshot.Entry{}
	for e, err := range snap.Walk(s.t.Context(), "") {
		must(s.t, err)
		kept[e.Path()] = e
	}
	must(s.t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		must(s.t, err)
		below, _ := filepath.Rel(dir, path)
		if below == "." {
			below = ""
		}
		e, ok := kept[below]
		if !ok {
			s.t.Errorf("%q is not in the snapshot", below)
			return nil
		}
		delete(kept, below)
		s.sameEntry(snap, e, path)
		return nil
	}))
	for path := range kept {
		s.t.Errorf("%q is in the snapshot only", path)
	}
}

func (s *store) sameEntry(snap *vault.Snapshot, e snapshot.Entry, path string) {
	s.t.Helper()
	info, err := os.Lstat(path)
	must(s.t, err)
	st := info.Sys().(*syscall.Stat_t)
	if e.Mode != st.Mode&0o7777 || e.UID != st.Uid || e.GID != st.Gid || e.MTime != st.Mtim.Sec {
		s.t.Errorf("%q: %+v, on the disk %+v", path, e, st)
	}
	switch info.Mode().Type() {
	case fs.ModeDir:
		if e.Kind != snapshot.Directory {
			s.t.Errorf("%q is a %v", path, e.Kind)
		}
	case fs.ModeSymlink:
		if link, err := os.Readlink(path); err != nil || link != e.Target {
			s.t.Errorf("%q leads to %q, %v", path, e.Target, err)
		}
	case 0:
		want, err := os.ReadFile(path)
		must(s.t, err)
		if got := s.content(snap, e); !bytes.Equal(got, want) {
			s.t.Errorf("%q: %d bytes, on the disk %d others", path, len(got), len(want))
		}
	}
}

func (s *store) content(snap *vault.Snapshot, e snapshot.Entry) []byte {
	s.t.Helper()
	var b bytes.Buffer
	for ref, err := range snap.Content(s.t.Context(), e) {
		must(s.t, err)
		data, err := snap.Fetch(s.t.Context(), ref)
		must(s.t, err)
		b.Write(data)
	}
	return b.Bytes()
}

// sound wants check to find nothing.
func (s *store) sound() {
	s.t.Helper()
	report, err := s.v.Check(s.t.Context(), vault.CheckOptions{ReadData: true})
	must(s.t, err)
	if len(report.Damage) > 0 {
		s.t.Errorf("check: %+v", report.Damage)
	}
}

// plant makes a tree of everything but sockets, modified long ago.
func plant(t testing.TB, files int) string {
	t.Helper()
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(1, uint64(files)))
	for i := range files {
		path := filepath.Join(dir, fmt.Sprintf("d%d/e%d/file %d", i%7, i%3, i))
		must(t, os.MkdirAll(filepath.Dir(path), 0o750))
		data := make([]byte, random.IntN(20_000))
		for j := range data {
			data[j] = byte(random.Uint32())
		}
		must(t, os.WriteFile(path, data, fs.FileMode(0o600|random.IntN(0o200))))
	}
	big := make([]byte, 12<<20+345)
	for i := range big {
		big[i] = byte(random.Uint32())
	}
	must(t, os.WriteFile(filepath.Join(dir, "big"), big, 0o640))
	must(t, os.WriteFile(filepath.Join(dir, "zeros"), make([]byte, 5<<20), 0o640))
	must(t, os.WriteFile(filepath.Join(dir, "none"), nil, 0o400))
	must(t, os.WriteFile(filepath.Join(dir, "bytes \xff\xfe\n\x1b[31m"), []byte("odd"), 0o604))
	must(t, os.Mkdir(filepath.Join(dir, "empty"), 0o700))
	must(t, os.Symlink("../../etc/passwd", filepath.Join(dir, "link")))
	must(t, os.Symlink("nothing", filepath.Join(dir, "dangling")))
	must(t, syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	age(t, dir)
	return dir
}

// age gives everything below dir an old mtime, outside every racy window.
func age(t testing.TB, dir string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		ts := []syscall.Timespec{{Sec: old.Unix()}, {Sec: old.Unix()}}
		if d.Type() == fs.ModeSymlink {
			return lutimes(path, old)
		}
		return syscall.UtimesNano(path, ts)
	}))
}

func serveThrowaway(t testing.TB, dir string, o throwaway.Options) (*throwaway.Server, target) {
	t.Helper()
	s, err := throwaway.Serve(dir, o)
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s, target{addr: s.Addr, user: s.User, signer: s.Signer, key: s.HostKey}
}

func TestWholePulls(t *testing.T) {
	dir := plant(t, 150)
	source, at := serveThrowaway(t, dir, throwaway.Options{})
	s := newStore(t)
	first := s.pull(s.job("web1", "/", at))
	s.whole(first, dir)

	before := source.Stats()
	second := s.pull(s.job("web1", "/", at))
	s.whole(second, dir)
	if now := source.Stats(); now.Opens != before.Opens || now.Bytes != before.Bytes {
		t.Errorf("an unchanged source was read: %+v, before %+v", now, before)
	}
	if h := second.Snapshot.Head; h.NewBytes > 1<<20 || h.Previous == "" {
		t.Errorf("%+v", h)
	}

	big, err := os.OpenFile(filepath.Join(dir, "big"), os.O_RDWR, 0)
	must(t, err)
	_, err = big.WriteAt([]byte("edited"), 5<<20)
	must(t, err)
	must(t, big.Close())
	must(t, os.Remove(filepath.Join(dir, "d1/e1/file 1")))
	age(t, dir)
	must(t, os.Chtimes(filepath.Join(dir, "big"), old.Add(time.Second), old.Add(time.Second)))
	third := s.pull(s.job("web1", "/", at))
	s.whole(third, dir)
	if h := third.Snapshot.Head; h.NewBytes > 6<<20 || third.Stats.FilesChanged != 1 || third.Stats.FilesRead != 1 {
		t.Errorf("an edit of six bytes: %+v, %+v", h, third.Stats)
	}
	s.restart()
	s.sound()
	s.same(third.Snapshot.ID, dir)
}

func TestAPullOfASubdirectory(t *testing.T) {
	dir := plant(t, 20)
	_, at := serveThrowaway(t, dir, throwaway.Options{})
	s := newStore(t)
	s.whole(s.pull(s.job("web1", "/d1/e1", at)), filepath.Join(dir, "d1/e1"))
}

func TestCutsDuringAPullCostTimeOnly(t *testing.T) {
	dir := plant(t, 150)
	source, at := serveThrowaway(t, dir, throwaway.Options{})
	s := newStore(t)
	job := s.job("web1", "/", at)
	cuts := 0
	job.Events.Lost = func(error, time.Duration) {
		if cuts++; cuts < 4 {
			source.CutAfter(3 << 20)
		}
	}
	source.CutAfter(1 << 20)
	r := s.pull(job)
	s.whole(r, dir)
	if r.Stats.Losses == 0 || r.Stats.ReadBytes > 24<<20 {
		t.Errorf("%+v", r.Stats)
	}
	s.sound()
}

func TestAnInterruptedPullGoesOnInAnotherProcess(t *testing.T) {
	dir := plant(t, 150)
	large := make([]byte, 48<<20)
	_, _ = rand.NewChaCha8([32]byte{4}).Read(large)
	must(t, os.WriteFile(filepath.Join(dir, "large"), large, 0o600))
	age(t, dir)
	var all uint64
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, _ error) error {
		if info, err := d.Info(); err == nil && d.Type().IsRegular() {
			all += uint64(info.Size())
		}
		return nil
	}))
	source, at := serveThrowaway(t, dir, throwaway.Options{})
	s := newStore(t)
	for _, part := range []int64{12 << 20, 24 << 20} {
		ctx, cancel := context.WithCancel(t.Context())
		job := s.job("web1", "/", at)
		job.Events.Lost = func(error, time.Duration) { cancel() }
		source.CutAfter(part)
		_, err := puller.Run(ctx, job)
		cancel()
		var interrupted *puller.InterruptedError
		if !errors.As(err, &interrupted) || interrupted.Lasting != nil {
			t.Fatalf("%v", err)
		}
		s.restart()
	}
	r := s.pull(s.job("web1", "/", at))
	s.whole(r, dir)
	// What was in flight at each of the two cuts is read again: at most the packets on the wire and an unfinished chunk of
	// each large file.
	if served := uint64(source.Stats().Bytes); served > all+24<<20 {
		t.Errorf("%d bytes were served of %d", served, all)
	}
	if r.Stats.ReadBytes > all-16<<20 || r.Stats.FilesResumed == 0 {
		t.Errorf("%d of %d bytes were read the third time, %d files resumed", r.Stats.ReadBytes, all, r.Stats.FilesResumed)
	}
	if f := s.flags(r, "large"); f != snapshot.Resumed {
		t.Errorf("the file that was read in parts has flags %b", f)
	}
	again := s.job("web1", "/", at)
	again.Slice = puller.Slice{Days: 1 << 40, Day: 1<<40 - 1} // a share that is nobody's
	r = s.pull(again)
	s.whole(r, dir)
	if f := s.flags(r, "large"); f != 0 || r.Stats.FilesRead < 1 || r.Stats.FilesRead > 3 {
		t.Errorf("the slow cycle's next pull read %d files, flags %b", r.Stats.FilesRead, f)
	}
	s.sound()
}

// flags are those of one file of a pull's snapshot.
func (s *store) flags(r puller.Result, path string) snapshot.Flags {
	s.t.Helper()
	snap, err := s.v.OpenSnapshot(s.t.Context(), r.Snapshot.ID)
	must(s.t, err)
	e, err := snap.Lookup(s.t.Context(), path)
	must(s.t, err)
	return e.Flags
}

func TestDeniedAndVanishedFilesOfARealServer(t *testing.T) {
	dir := plant(t, 40)
	_, at := serveThrowaway(t, dir, throwaway.Options{
		OnOpen: func(name string) error {
			switch name {
			case "d1/e1/file 1":
				return fs.ErrPermission
			case "d2/e2/file 2":
				_ = os.Remove(filepath.Join(dir, name))
			}
			return nil
		},
		OnList: func(name string) error {
			if name == "d3/e0" {
				return fs.ErrPermission
			}
			return nil
		},
	})
	s := newStore(t)
	r := s.pull(s.job("web1", "/", at))
	if !r.Partial || r.Snapshot.Head.State != "partial" || len(r.Problems) != 2 || r.Stats.Vanished != 1 {
		t.Fatalf("%+v", r)
	}
	snap, err := s.v.OpenSnapshot(t.Context(), r.Snapshot.ID)
	must(t, err)
	var named []string
	for p, err := range snap.Problems(t.Context()) {
		must(t, err)
		named = append(named, string(p.Path))
	}
	if text := strings.Join(named, "|"); !strings.Contains(text, "d1/e1/file 1") || !strings.Contains(text, "d3/e0") {
		t.Errorf("the snapshot names %q", named)
	}
	if _, err := snap.Lookup(t.Context(), "d3/e0"); err != nil {
		t.Errorf("the directory that was denied: %v", err)
	}
}

func TestAnEmptiedRealSourceDeletesNothing(t *testing.T) {
	dir := plant(t, 10)
	_, at := serveThrowaway(t, dir, throwaway.Options{})
	s := newStore(t)
	s.pull(s.job("web1", "/", at))
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		must(t, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	if _, err := puller.Run(t.Context(), s.job("web1", "/", at)); !errors.Is(err, puller.ErrEmpty) {
		t.Fatalf("%v", err)
	}
	all, err := s.v.Snapshots(t.Context())
	must(t, err)
	if len(all) != 1 {
		t.Fatalf("%d snapshots", len(all))
	}
}

func TestARealOpenSSHServer(t *testing.T) {
	dir := plant(t, 150)
	server := sshdtest.Start(t, sshdtest.Options{})
	at := target{addr: server.Addr, user: server.User, signer: server.Signer, key: server.HostKey}
	s := newStore(t)
	first := s.pull(s.job("web1", dir, at))
	s.whole(first, dir)
	before := server.BytesServed()
	second := s.pull(s.job("web1", dir, at))
	s.whole(second, dir)
	if n := server.BytesServed() - before; n > 300_000 || second.Stats.FilesRead != 0 || second.Stats.ReadBytes != 0 {
		t.Errorf("an unchanged source: %d bytes on the wire, %+v", n, second.Stats)
	}
	server.CutAt(server.BytesServed() + 4<<20)
	third := s.job("web1", dir, at)
	third.FullReread = true
	r := s.pull(third)
	s.whole(r, dir)
	if r.Stats.Losses == 0 || r.Snapshot.Head.NewBytes > 1<<20 {
		t.Errorf("%+v, %d new bytes", r.Stats, r.Snapshot.Head.NewBytes)
	}
	s.sound()
}

func TestAWrongHostKeyIsRefusedBeforeAnythingIsSent(t *testing.T) {
	_, at := serveThrowaway(t, plant(t, 1), throwaway.Options{})
	_, other := serveThrowaway(t, plant(t, 1), throwaway.Options{})
	at.key = other.key
	s := newStore(t)
	var wrong *remote.HostKeyError
	if _, err := puller.Run(t.Context(), s.job("web1", "/", at)); !errors.As(err, &wrong) {
		t.Fatalf("%v", err)
	}
}

// lutimes sets the times of a link itself.
func lutimes(path string, at time.Time) error {
	ts := []unix.Timespec{{Sec: at.Unix()}, {Sec: at.Unix()}}
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW)
}
