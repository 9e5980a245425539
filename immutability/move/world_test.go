package move

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/fsck"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

const testVault = "0123456789abcdef0123456789abcdef"

var ctx = context.Background()

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// below is a directory of a disk as a disk of its own: two of one crashdisk lose their power together, and an operation of
// either counts for both.
type below struct {
	d   *crashdisk.Disk
	dir string
}

func (b below) name(name string) string { return path.Join(b.dir, name) }

func (b below) Create(name string, perm fs.FileMode) (durable.File, error) {
	return b.d.Create(b.name(name), perm)
}
func (b below) Append(name string) (durable.File, error)   { return b.d.Append(b.name(name)) }
func (b below) Open(name string) (durable.File, error)     { return b.d.Open(b.name(name)) }
func (b below) Link(from, to string) error                 { return b.d.Link(b.name(from), b.name(to)) }
func (b below) Rename(from, to string) error               { return b.d.Rename(b.name(from), b.name(to)) }
func (b below) Remove(name string) error                   { return b.d.Remove(b.name(name)) }
func (b below) Mkdir(name string, perm fs.FileMode) error  { return b.d.Mkdir(b.name(name), perm) }
func (b below) ReadDir(name string) ([]fs.DirEntry, error) { return b.d.ReadDir(b.name(name)) }
func (b below) Stat(name string) (fs.FileInfo, error)      { return b.d.Stat(b.name(name)) }
func (b below) SyncDir(name string) error                  { return b.d.SyncDir(b.name(name)) }
func (b below) Forget(name string) error                   { return b.d.Forget(b.name(name)) }
func (b below) Hold(name string) (durable.Held, error) {
	h, err := b.d.Hold(b.name(name))
	return heldBelow{h, b}, err
}
func (b below) Flags(name string) (durable.Flags, error)  { return b.d.Flags(b.name(name)) }
func (b below) Chmod(name string, perm fs.FileMode) error { return b.d.Chmod(b.name(name), perm) }
func (b below) SetFlags(name string, set, lift durable.Flags) error {
	return b.d.SetFlags(b.name(name), set, lift)
}

type heldBelow struct {
	durable.Held
	b below
}

func (h heldBelow) Is(name string) (bool, error) { return h.Held.Is(h.b.name(name)) }

// two are a machine's two places.
type two struct {
	d        *crashdisk.Disk
	old, new below
	src      *clock.Manual
	guard    bool
}

func newTwo(guard bool) *two {
	d := crashdisk.New()
	w := &two{src: clock.NewManual(clock.Earliest().Add(24 * time.Hour)), guard: guard}
	w.on(d)
	return w
}

func (w *two) on(d *crashdisk.Disk) {
	w.d, w.old, w.new = d, below{d, "old"}, below{d, "new"}
}

// at is the same machine with another state of its disk.
func (w *two) at(d *crashdisk.Disk) *two {
	c := *w
	c.src = w.src.Clone()
	c.on(d)
	return &c
}

func (w *two) options() Options {
	return Options{Old: w.old, New: w.new, OldPath: "/old", NewPath: "/new", Guard: w.guard, Clock: w.src}
}

func (w *two) open(d durable.Disk) (*worm.Store, error) {
	return worm.Open(d, w.src, worm.Options{Guard: w.guard})
}

// build makes a vault with all that a vault may have, and an empty directory beside it.
func (w *two) build(t testing.TB) *two {
	t.Helper()
	must(t, errors.Join(durable.MkdirAll(w.d, "old", 0o750), durable.MkdirAll(w.d, "new", 0o750)))
	_, err := worm.Init(w.old, w.src, worm.InitOptions{
		Vault: testVault, Identity: []byte(`{"format":1,"vault":"` + testVault + `","created":"2026-07-01T00:00:00Z"}` + "\n"),
		Keyring: []byte("wrapped keyring\n"), Guard: w.guard,
		Policy: ledger.Policy{Mode: ledger.Governance, DefaultSeconds: 3600, MinSeconds: 60, MaxSeconds: 90 * 24 * 3600},
	})
	must(t, err)
	s, err := w.open(w.old)
	must(t, err)
	first := commit(t, s, "web1", "s1", ledger.Lock{})
	w.src.Advance(time.Hour)
	held := commit(t, s, "db1", "s2", ledger.Lock{ForSeconds: 7200})
	_, err = s.Hold(ctx, held.ID, "a trial", "anna")
	must(t, err)
	// A write that fails closes the segment, so that there is more than one.
	w.d.FailAt(w.d.Ops()+1, crashdisk.IOError)
	if err := s.SetKeyring(ctx, []byte("a second ring\n"), "a test"); err == nil {
		t.Fatal("the ledger took a record that it could not write")
	}
	must(t, s.SetKeyring(ctx, []byte("a second ring\n"), "a test"))
	w.src.Advance(time.Hour)
	second := commit(t, s, "web1", "s3", ledger.Lock{Mode: ledger.Compliance, ForSeconds: 80 * 24 * 3600})
	_, err = s.Extend(ctx, first.ID, ledger.Lock{Mode: ledger.Governance, ForSeconds: 30 * 24 * 3600}, "ben")
	must(t, err)
	in, err := s.CreatePack("s4") // and left by a daemon that died
	must(t, err)
	_, err = in.File.Write(content(in.Number))
	must(t, err)
	must(t, s.Leave(in))
	must(t, s.Close())
	_ = second
	for name, text := range map[string]string{"sessions/abc/head": "where a pull goes on", "usage/web1": "what a source uses"} {
		if !w.guard {
			must(t, errors.Join(durable.MkdirAll(w.old, path.Dir(name), 0o700), durable.Replace(w.old, name, []byte(text), 0o600)))
		}
	}
	w.on(w.d.Restart(crashdisk.KeepAll, 0))
	return w
}

func content(n uint32) []byte { return []byte(strings.Repeat(fmt.Sprintf("pack %d. ", n), 20)) }

func commit(t testing.TB, s *worm.Store, source, session string, lock ledger.Lock) worm.Snapshot {
	t.Helper()
	snap, err := tryCommit(s, source, session, lock)
	must(t, err)
	return snap
}

// tryCommit seals a pack and commits a snapshot that relies on it.
func tryCommit(s *worm.Store, source, session string, lock ledger.Lock) (worm.Snapshot, error) {
	in, err := s.CreatePack(session)
	if err != nil {
		return worm.Snapshot{}, err
	}
	if _, err := in.File.Write(content(in.Number)); err != nil {
		return worm.Snapshot{}, errors.Join(err, s.Drop(in))
	}
	p, err := s.Seal(ctx, in)
	if err != nil {
		return worm.Snapshot{}, err
	}
	label, previous, err := s.NextLabel(source)
	if err != nil {
		return worm.Snapshot{}, err
	}
	now, err := s.Now()
	if err != nil {
		return worm.Snapshot{}, err
	}
	h := reliance.Head{Format: reliance.Format, Vault: testVault, Source: source, Session: session, Begin: now.Wall, Label: label, State: reliance.Complete, Clean: true, Previous: previous}
	if err := h.SetPacks(roaring.BitmapOf(p.Number)); err != nil {
		return worm.Snapshot{}, err
	}
	b, err := h.Encode()
	if err != nil {
		return worm.Snapshot{}, err
	}
	return s.Commit(ctx, session, reliance.Frame(b, []byte("sealed"), []byte("a second ring\n")), lock)
}

// facts are all that a vault promises, as its store tells it.
type facts struct {
	Size       uint64
	Root       string
	Checkpoint []byte
	Keyring    []byte
	Policy     ledger.Policy
	Snapshots  []worm.Snapshot
	Locks      map[string][]worm.LockInfo
	Manifests  map[string][]byte
	Packs      map[uint32][]byte
	Leftovers  map[uint32][]byte
	Running    int64
	Proofs     map[uint64][]byte
}

// gather reads a place without changing it.
func (w *two) gather(d durable.Disk) (*facts, error) {
	s, err := worm.Open(d, w.src, worm.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	f := &facts{Size: s.Ledger().Size(), Root: s.Ledger().Root().String(), Checkpoint: s.Ledger().Checkpoint(), Keyring: s.Keyring(), Policy: s.Policy(),
		Locks: map[string][]worm.LockInfo{}, Manifests: map[string][]byte{}, Packs: map[uint32][]byte{}, Leftovers: map[uint32][]byte{}, Proofs: map[uint64][]byte{}}
	now, err := s.Now()
	if err != nil {
		return nil, err
	}
	f.Running = now.Running
	if f.Snapshots, err = s.Snapshots(); err != nil {
		return nil, err
	}
	for _, snap := range f.Snapshots {
		if f.Locks[snap.ID], err = s.Locks(snap.ID); err != nil {
			return nil, err
		}
		if f.Manifests[snap.ID], err = s.Manifest(snap.ID); err != nil {
			return nil, err
		}
	}
	for _, p := range s.Packs() {
		if f.Packs[p.Number], err = durable.ReadFile(d, fmt.Sprintf("packs/%08d.pack", p.Number), 1<<20); err != nil {
			return nil, err
		}
	}
	for n := range uint32(20) {
		if b, err := durable.ReadFile(d, fmt.Sprintf("incoming/%08d.pack", n), 1<<20); err == nil {
			f.Leftovers[n] = b
		}
	}
	for seq := range f.Size {
		if f.Proofs[seq], err = s.Ledger().Prove(seq); err != nil {
			return nil, err
		}
	}
	return f, s.Close()
}

// same holds what a place promises against what another one promised.
func (f *facts) same(g *facts) error {
	if reflect.DeepEqual(f, g) {
		return nil
	}
	fv, gv := reflect.ValueOf(*f), reflect.ValueOf(*g)
	for i := range fv.NumField() {
		if a, b := fv.Field(i).Interface(), gv.Field(i).Interface(); !reflect.DeepEqual(a, b) {
			return fmt.Errorf("%s: it was %v and is %v", fv.Type().Field(i).Name, a, b)
		}
	}
	return errors.New("they differ")
}

// covers demands that a place holds everything that another one promised, and perhaps more.
func (f *facts) covers(s *worm.Store) error {
	if err := s.Ledger().Extends(f.Checkpoint); err != nil {
		return err
	}
	for id, m := range f.Manifests {
		if b, err := s.Manifest(id); err != nil || !bytes.Equal(b, m) {
			return fmt.Errorf("snapshot %.8s: %w", id, err)
		}
	}
	for n := range f.Packs {
		if _, ok := s.Pack(n); !ok {
			return fmt.Errorf("pack %d is gone", n)
		}
	}
	return nil
}

// sound has both checks look at a place.
func (w *two) sound(d durable.Disk) error {
	s, err := worm.Open(d, w.src, worm.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	if bad := s.Check(ctx, true); len(bad) > 0 {
		return fmt.Errorf("check: %v", bad)
	}
	if err := s.Close(); err != nil {
		return err
	}
	r, err := fsck.Look(ctx, files{d}, fsck.Options{ReadData: true})
	if err != nil {
		return err
	}
	for _, f := range r.Damage {
		if f.Kind != fsck.KindIdentity { // the keyrings of these tests are none
			return fmt.Errorf("fsck: %+v", f)
		}
	}
	return nil
}
