package vault

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/worm"
	"github.com/holdfast-vault/holdfast/vault/keys"
	"github.com/holdfast-vault/holdfast/vault/snapshot"
)

// world is a vault in a temporary directory with a clock that the test moves.
type world struct {
	t     testing.TB
	dir   string
	clock *clock.Manual
	ident *keys.Identity
	// keeper writes to the vault; nil where the test's own process does. work is where everything else lies then.
	keeper *keptBy
	work   string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: filepath.Join(t.TempDir(), "vault"), clock: clock.NewManual(time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC))}
	var recipients []string
	for range 2 {
		i, err := keys.NewIdentity()
		if err != nil {
			t.Fatal(err)
		}
		w.ident = i
		recipients = append(recipients, i.Recipient())
	}
	if _, err := Init(t.Context(), w.dir, NewID(), InitOptions{Recipients: recipients, Clock: w.clock}); err != nil {
		t.Fatal(err)
	}
	w.work = w.dir
	if os.Getenv(throughKeeper) != "" {
		w.keep()
	}
	return w
}

// keep gives the vault to a keeper.
func (w *world) keep() {
	w.t.Helper()
	w.work = filepath.Join(filepath.Dir(w.dir), "work")
	w.keeper = startKeeper(w.t, w.dir, w.clock)
}

func (w *world) open(o Options) *Vault {
	w.t.Helper()
	o.Identities, o.Clock = []*keys.Identity{w.ident}, w.clock
	if w.keeper != nil && !o.ReadOnly {
		o.Keeper, o.Work = w.keeper.socket, w.work
	}
	if o.Logf == nil {
		o.Logf = w.t.Logf
	}
	v, err := Open(context.Background(), w.dir, o)
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

// tree is a source in memory: path -> content.
type tree map[string][]byte

func randomTree(seed uint64, files int) tree {
	r := rand.New(rand.NewPCG(seed, 1))
	t := tree{}
	for i := range files {
		size := r.IntN(20_000)
		if i%17 == 0 {
			size = r.IntN(3 << 20)
		}
		b := make([]byte, size)
		for j := range b {
			b[j] = byte(r.UintN(256))
			if i%2 == 0 {
				b[j] = "abcdefgh"[b[j]%8]
			}
		}
		t[fmt.Sprintf("d%02d/f%04d", i%7, i)] = b
	}
	return t
}

// pull records the tree as one snapshot.
func pull(t testing.TB, v *Vault, source string, src tree) worm.Snapshot {
	t.Helper()
	snap, err := tryPull(t.Context(), v, source, src)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

func tryPull(ctx context.Context, v *Vault, source string, src tree) (worm.Snapshot, error) {
	s, err := v.Begin(ctx, SessionOptions{Source: source})
	if err != nil {
		return worm.Snapshot{}, err
	}
	if err := record(ctx, s, src); err != nil {
		_ = s.Suspend()
		return worm.Snapshot{}, err
	}
	return s.Commit(ctx, CommitOptions{})
}

func record(ctx context.Context, s *Session, src tree) error {
	return recordWith(ctx, s, src, func() {})
}

// recordWith calls before ahead of each file.
func recordWith(ctx context.Context, s *Session, src tree, before func()) error {
	dirs := map[string]bool{}
	if err := s.Add(ctx, &snapshot.Entry{Kind: snapshot.Directory, Mode: 0o755}); err != nil {
		return err
	}
	for path, content := range src {
		before()
		e := snapshot.Entry{Kind: snapshot.File, Mode: 0o644, MTime: 1_700_000_000, Size: uint64(len(content))}
		e.Parent, e.Name = snapshot.Split(path)
		if e.Parent != "" && !dirs[e.Parent] {
			dirs[e.Parent] = true
			if err := s.Add(ctx, &snapshot.Entry{Name: e.Parent, Kind: snapshot.Directory, Mode: 0o755}); err != nil {
				return err
			}
		}
		if err := recordFile(ctx, s, e, content); err != nil {
			return err
		}
	}
	return nil
}

func recordFile(ctx context.Context, s *Session, e snapshot.Entry, content []byte) error {
	if len(content) == 0 {
		return s.Add(ctx, &e)
	}
	if old, ok := s.Resumed(e.Parent, e.Name); ok && sameVersion(&old, &e) {
		if ok, err := s.Reuse(ctx, &e, &old); ok || err != nil {
			return err
		}
	}
	w, err := s.File(ctx, &e)
	if err != nil {
		return err
	}
	defer w.Abort()
	for rest := content[w.Offset():]; len(rest) > 0; {
		n := min(len(rest), 100_000)
		if _, err := w.Write(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return w.Finish(e)
}

// giveBack reads a whole snapshot.
func giveBack(ctx context.Context, v *Vault, id string) (tree, error) {
	s, err := v.OpenSnapshot(ctx, id)
	if err != nil {
		return nil, err
	}
	return readBack(ctx, s)
}

func readBack(ctx context.Context, s *Snapshot) (tree, error) {
	out := tree{}
	for e, err := range s.Walk(ctx, "") {
		if err != nil {
			return nil, err
		}
		if e.Kind != snapshot.File {
			continue
		}
		var b []byte
		for r, err := range s.Content(ctx, e) {
			if err != nil {
				return nil, err
			}
			data, err := s.Fetch(ctx, r)
			if err != nil {
				return nil, err
			}
			b = append(b, data...)
		}
		out[e.Path()] = b
	}
	return out, nil
}

func mustGiveBack(t testing.TB, v *Vault, id string, want tree) {
	t.Helper()
	got, err := giveBack(t.Context(), v, id)
	if err != nil {
		t.Fatal(err)
	}
	sameTree(t, got, want)
}

func sameTree(t testing.TB, got, want tree) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d files came back, %d were stored", len(got), len(want))
	}
	for p, b := range want {
		if !bytes.Equal(got[p], b) {
			t.Fatalf("%s: %d bytes came back, %d were stored, or they differ", p, len(got[p]), len(b))
		}
	}
}

func mustCheck(t testing.TB, v *Vault) *CheckReport {
	t.Helper()
	rep, err := v.Check(t.Context(), CheckOptions{ReadData: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range rep.Damage {
		t.Errorf("damage: %v", d)
	}
	if rep.TouchedCount > 0 {
		t.Errorf("%d files touched", rep.TouchedCount)
	}
	if v.Dir() != "" {
		secondOpinion(t, v.Dir())
	}
	if t.Failed() {
		t.FailNow()
	}
	return rep
}

func TestWhatIsStoredComesBack(t *testing.T) {
	w := newWorld(t)
	v := w.open(Options{})
	src := randomTree(1, 200)
	first := pull(t, v, "web1", src)
	if !first.Locked || first.LockedUntil.Sub(first.Committed.Wall) < 30*24*time.Hour-time.Minute {
		t.Fatalf("born with lock until %v", first.LockedUntil)
	}
	mustGiveBack(t, v, first.ID, src)
	mustCheck(t, v)

	w.clock.Advance(time.Hour)
	again := pull(t, v, "web1", src)
	if again.Head.NewBytes > 64<<10 {
		t.Errorf("an unchanged tree stored %d new bytes", again.Head.NewBytes)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}

	v = w.open(Options{ReadOnly: true})
	defer v.Close()
	mustGiveBack(t, v, first.ID, src)
	mustGiveBack(t, v, again.ID, src)
}
