package vault

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/vault/keys"
)

// smallWorld is a vault of a few kilobytes that has seen everything: two sources, an extended lock, a prune.
func smallWorld(t *testing.T, parity bool) (*world, tree) {
	w := newWorld(t)
	v := w.open(Options{NoParity: !parity})
	src := tree{"etc/passwd": []byte("root:x:0:0\n"), "empty": nil, "data": bytes.Repeat([]byte("holdfast "), 40)}
	pull(t, v, "web1", src)
	w.clock.Advance(31 * 24 * time.Hour)
	src["data"] = append(src["data"], "more"...)
	pull(t, v, "web1", src)
	if rep, err := w.prune(v); err != nil || len(rep.Snapshots) != 1 {
		t.Fatalf("prune: %v, %v", rep, err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	return w, src
}

// checkCold checks a vault as the command does: opened for writing if that is possible, for reading otherwise.
func (w *world) checkCold(ctx context.Context) (*CheckReport, error) {
	return CheckDir(ctx, w.dir, Options{Identities: []*keys.Identity{w.ident}, Clock: w.clock}, CheckOptions{ReadData: true})
}

// vaultFiles lists what a check answers for.
func vaultFiles(t *testing.T, dir string) map[string][]byte {
	files := map[string][]byte{}
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() == "lock" || strings.Contains(p, "/index/") || strings.Contains(p, "/usage/") {
			return err
		}
		b, err := os.ReadFile(p)
		files[p] = b
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// restoreFiles puts the directory back as it was.
func restoreFiles(t *testing.T, dir string, files map[string][]byte) {
	for p := range vaultFiles(t, dir) {
		if _, ok := files[p]; !ok {
			if err := os.Remove(p); err != nil {
				t.Fatal(err)
			}
		}
	}
	for p, b := range files {
		now, err := os.ReadFile(p)
		if err == nil && bytes.Equal(now, b) {
			continue
		}
		_ = os.Remove(p)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFlippedByteGoesUnnoticed flips one byte anywhere in packs, manifests, ledger, checkpoint, keyring, keys and clock
// state of a small vault, and asks check. HOLDFAST_SWEEP=full flips every byte in turn.
func TestFlippedByteGoesUnnoticed(t *testing.T) {
	// Every byte of a pack with parity is flipped where packs are tested; here parity would be nine tenths of the vault.
	full := os.Getenv("HOLDFAST_SWEEP") == "full"
	w, src := smallWorld(t, !full)
	files := vaultFiles(t, w.dir)
	r := rand.New(rand.NewPCG(7, 7))
	flips := 0
	for name, content := range files {
		offsets := []int{0, len(content) - 1}
		for range min(len(content), 40) {
			offsets = append(offsets, r.IntN(len(content)))
		}
		if full {
			offsets = offsets[:0]
			for i := range content {
				offsets = append(offsets, i)
			}
		}
		for _, off := range offsets {
			flips++
			bad := bytes.Clone(content)
			bad[off] ^= 1 << r.IntN(8)
			if err := os.Chmod(name, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			rep, err := w.checkCold(t.Context())
			if err != nil {
				t.Errorf("%s byte %d: check did not come to a finding: %v", name, off, err)
			} else if len(rep.Damage) == 0 {
				t.Errorf("%s byte %d: the flip went unnoticed", name, off)
			}
			restoreFiles(t, w.dir, files)
			if t.Failed() {
				t.FailNow()
			}
		}
	}
	t.Logf("%d flips in %d files, all found", flips, len(files))
	v := w.open(Options{})
	defer v.Close()
	all, err := v.Snapshots(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatalf("%d snapshots, %v", len(all), err)
	}
	mustGiveBack(t, v, all[0].ID, src)
	mustCheck(t, v)
}

// damageIndex is each way in which an index directory can be spoiled.
var damageIndex = map[string]func(t *testing.T, dir string, r *rand.Rand){
	"deleted": func(t *testing.T, dir string, _ *rand.Rand) {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	},
	"truncated": func(t *testing.T, dir string, _ *rand.Rand) {
		eachFile(t, dir, func(p string, size int64) error { return os.Truncate(p, size/2) })
	},
	"emptied": func(t *testing.T, dir string, _ *rand.Rand) {
		eachFile(t, dir, func(p string, _ int64) error { return os.Truncate(p, 0) })
	},
	"bits flipped": func(t *testing.T, dir string, r *rand.Rand) {
		eachFile(t, dir, func(p string, size int64) error {
			b, err := os.ReadFile(p)
			for i := 0; err == nil && i < 20 && len(b) > 0; i++ {
				b[r.IntN(len(b))] ^= 1 << r.IntN(8)
			}
			return errors.Join(err, os.WriteFile(p, b, 0o600))
		})
	},
	"another vault's": func(t *testing.T, dir string, _ *rand.Rand) {
		other := newWorld(t)
		v := other.open(Options{})
		pull(t, v, "web9", randomTree(9, 20))
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(dir, os.DirFS(filepath.Join(other.work, "index"))); err != nil {
			t.Fatal(err)
		}
	},
}

func eachFile(t *testing.T, dir string, f func(path string, size int64) error) {
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil || info.Size() == 0 {
			return err
		}
		return f(p, info.Size())
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestDamagedIndexReachesAFile spoils the index in every way; restores, pulls and checks must not notice, and afterwards
// the index is right again.
func TestDamagedIndexReachesAFile(t *testing.T) {
	for name, spoil := range damageIndex {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			v := w.open(Options{})
			src := randomTree(3, 150)
			first := pull(t, v, "web1", src)
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
			spoil(t, filepath.Join(w.work, "index"), rand.New(rand.NewPCG(5, 5)))
			v = w.open(Options{})
			mustGiveBack(t, v, first.ID, src)
			w.clock.Advance(time.Hour)
			src["new"] = []byte("a file after the damage")
			second := pull(t, v, "web1", src)
			mustGiveBack(t, v, second.ID, src)
			mustCheck(t, v)
			rep := mustCheck(t, v)
			if rep.IndexRebuilt != "" {
				t.Errorf("the index is wrong again after a check: %s", rep.IndexRebuilt)
			}
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
			v = w.open(Options{})
			defer v.Close()
			w.clock.Advance(time.Hour)
			third := pull(t, v, "web1", src)
			if third.Head.NewBytes > 64<<10 {
				t.Errorf("with the index mended an unchanged pull stored %d new bytes", third.Head.NewBytes)
			}
		})
	}
}

// TestNamesAndContentStandInTheClear looks for markers of the source's names and content in every file below the vault,
// during a pull, after a cut one, and after its commit.
func TestNamesAndContentStandInTheClear(t *testing.T) {
	const nameMarker, contentMarker = "ZQXJ-NAME-MARKER", "ZQXJ-CONTENT-MARKER"
	src := randomTree(4, 60)
	for i := range 40 {
		dir := "dir-" + nameMarker
		src[dir+"/"+nameMarker+string(rune('a'+i%26))+string(rune('a'+i/26))] = bytes.Repeat([]byte(contentMarker), 1+i*50)
	}
	w := newWorld(t)
	mustBeClean := func(when string) {
		t.Helper()
		err := filepath.WalkDir(w.dir, func(p string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			var b []byte
			if e.Type().IsRegular() {
				if b, err = os.ReadFile(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
			for _, m := range []string{nameMarker, contentMarker, contentMarker[:12]} {
				if strings.Contains(p, m) || bytes.Contains(b, []byte(m)) {
					t.Errorf("%s: %s holds %q", when, p, m)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	v := w.open(Options{})
	s, err := v.Begin(t.Context(), SessionOptions{Source: "web1"})
	if err != nil {
		t.Fatal(err)
	}
	s.sort.budget = 4 << 10 // many sorted runs on the disk
	if err := record(t.Context(), s, src); err != nil {
		t.Fatal(err)
	}
	s.Problem("dir-"+nameMarker+"/denied", "denied", "permission denied: "+nameMarker)
	mustBeClean("during the pull")
	if err := s.Suspend(); err != nil {
		t.Fatal(err)
	}
	mustBeClean("after a cut pull")
	snap := pull(t, v, "web1", src)
	mustBeClean("after the commit")
	mustGiveBack(t, v, snap.ID, src)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	mustBeClean("after closing")
}

func TestTwoProcessesWriteToOneVault(t *testing.T) {
	w := newWorld(t)
	v := w.open(Options{})
	defer v.Close()
	o := Options{Identities: []*keys.Identity{w.ident}, Clock: w.clock}
	_, err := Open(t.Context(), w.dir, o)
	if !errors.Is(err, durable.ErrLocked) {
		t.Fatalf("a second writer got in: %v", err)
	}
	if w.keeper != nil {
		o.Keeper, o.Work = w.keeper.socket, w.work
	}
	_, err = Open(t.Context(), w.dir, o)
	if !errors.Is(err, durable.ErrLocked) {
		t.Fatalf("a second writer got in: %v", err)
	}
	r := w.open(Options{ReadOnly: true})
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}
