package puller_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/puller/sshdtest"
	"github.com/holdfast-vault/holdfast/puller/throwaway"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// marks are the flags that say that content may not be what its attributes say.
const marks = snapshot.Changed | snapshot.Short | snapshot.Grew | snapshot.Racy

func version(seed byte, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// TestMixOfTwoVersionsPassesForAFile changes a large file in every way while it is read over nine channels.
func TestMixOfTwoVersionsPassesForAFile(t *testing.T) {
	size := 48 << 20
	if raceEnabled {
		size = 16 << 20
	}
	was, is := version(1, size), version(2, size)
	rewrite := func(path string, data []byte) error { // in place
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(data, 0)
		return errors.Join(err, f.Close())
	}
	for name, c := range map[string]struct {
		change func(path string) error
		end    []byte // what there is in the end; nil for nothing
	}{
		"rewritten in place": {func(p string) error { return rewrite(p, is) }, is},
		"rewritten in part":  {func(p string) error { return rewrite(p, is[:size/2]) }, append(bytes.Clone(is[:size/2]), was[size/2:]...)},
		"replaced": {func(p string) error {
			return errors.Join(os.WriteFile(p+".new", is, 0o600), os.Chtimes(p+".new", old.Add(time.Hour), old.Add(time.Hour)), os.Rename(p+".new", p))
		}, is},
		"replaced by its equal in size and time": {func(p string) error {
			return errors.Join(os.WriteFile(p+".new", is, 0o600), os.Chtimes(p+".new", old, old), os.Rename(p+".new", p))
		}, is},
		"shrinks":                  {func(p string) error { return os.Truncate(p, int64(size/3)) }, was[:size/3]},
		"shrinks to nothing":       {func(p string) error { return os.Truncate(p, 0) }, []byte{}},
		"grows":                    {func(p string) error { return rewrite(p, append(bytes.Clone(was), is...)) }, append(bytes.Clone(was), is...)},
		"vanishes":                 {os.Remove, nil},
		"becomes a directory":      {func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) }, nil},
		"becomes a symbolic link":  {func(p string) error { return errors.Join(os.Remove(p), os.Symlink("/etc/passwd", p)) }, nil},
		"is not readable any more": {func(p string) error { return errors.Join(rewrite(p, is), os.Chmod(p, 0)) }, is},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "large")
			must(t, os.WriteFile(path, was, 0o600))
			must(t, os.WriteFile(filepath.Join(dir, "other"), []byte("other"), 0o600))
			age(t, dir)
			var once sync.Once
			_, at := serveThrowaway(t, dir, throwaway.Options{OnRead: func(name string, offset int64) error {
				if name == "large" && offset >= int64(size/2) {
					once.Do(func() { must(t, c.change(path)) })
				}
				return nil
			}})
			at.connections, at.channels = 3, 3
			s := newStore(t)
			r := s.pull(s.job("web1", "/", at))
			s.saysWhatItHolds(r.Snapshot.ID, "large", r.Partial, [][]byte{was, c.end, was[:size]})
			// Whatever it was, the next pull of a source at rest has it as it is.
			if c.end != nil {
				age(t, dir)
				must(t, os.Chtimes(path, old.Add(2*time.Hour), old.Add(2*time.Hour)))
				s.whole(s.pull(s.job("web1", "/", at)), dir)
			}
			s.sound()
		})
	}
}

// saysWhatItHolds wants a file of a snapshot to be one of the versions, or marked, or missing from a snapshot.
func (s *store) saysWhatItHolds(id, path string, partial bool, versions [][]byte) {
	s.t.Helper()
	snap, err := s.v.OpenSnapshot(s.t.Context(), id)
	must(s.t, err)
	e, err := snap.Lookup(s.t.Context(), path)
	if errors.Is(err, fs.ErrNotExist) {
		s.t.Logf("not in the snapshot; partial: %v", partial)
		return
	}
	must(s.t, err)
	if e.Kind != snapshot.File {
		s.t.Errorf("a %v", e.Kind)
		return
	}
	got := s.content(snap, e)
	if uint64(len(got)) != e.Size {
		s.t.Errorf("%d bytes under a size of %d", len(got), e.Size)
	}
	for i, v := range versions {
		if v != nil && bytes.Equal(got, v) {
			s.t.Logf("version %d, flags %b, partial: %v", i, e.Flags, partial)
			return
		}
	}
	if e.Flags&marks == 0 {
		s.t.Errorf("%d bytes that the source never had at one time, and not marked", len(got))
	}
	s.t.Logf("a mix, marked with flags %b; partial: %v", e.Flags, partial)
}

// TestFileThatIsNeverAtRest rewrites, truncates and extends a file all the time while a real OpenSSH server is pulled from.
func TestFileThatIsNeverAtRest(t *testing.T) {
	const size = 24 << 20
	dir := t.TempDir()
	path := filepath.Join(dir, "large")
	versions := [][]byte{version(1, size), version(2, size), version(3, size/2)}
	must(t, os.WriteFile(path, versions[0], 0o600))
	age(t, dir)
	server := sshdtest.Start(t, sshdtest.Options{})
	at := target{addr: server.Addr, user: server.User, signer: server.Signer, key: server.HostKey, connections: 3, channels: 3}
	s := newStore(t)
	ctx, stop := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			v := versions[i%len(versions)]
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Error(err)
				return
			}
			for at := 0; at < len(v) && ctx.Err() == nil; at += 1 << 20 {
				_, _ = f.WriteAt(v[at:min(at+1<<20, len(v))], int64(at))
			}
			_ = f.Truncate(int64(len(v)))
			_ = f.Close()
		}
	})
	for range 3 {
		r := s.pull(s.job("web1", dir, at))
		s.saysWhatItHolds(r.Snapshot.ID, "large", r.Partial, versions)
	}
	stop()
	writer.Wait()
	must(t, os.WriteFile(path, versions[1], 0o600))
	age(t, dir)
	s.whole(s.pull(s.job("web1", dir, at)), dir)
	s.sound()
}
