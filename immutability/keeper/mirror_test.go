package keeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/policy"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

func (h *house) mirror() *Mirror {
	h.t.Helper()
	m, err := OpenMirror(h.t.Context(), MirrorOptions{Disk: h.disk, Clock: h.clock, Socket: h.socket, Program: "test", Logf: h.t.Logf})
	must(h.t, err)
	h.t.Cleanup(func() { must(h.t, m.Close()) })
	return m
}

func (h *house) grow(m *Mirror, session string) *worm.Incoming {
	h.t.Helper()
	must(h.t, m.Bind(session, "web1"))
	in, err := m.CreatePack(session)
	must(h.t, err)
	_, err = in.File.Write(content(in.Number))
	must(h.t, err)
	return in
}

func (h *house) headOf(m *Mirror, source, session string, packs ...uint32) []byte {
	h.t.Helper()
	label, previous, err := m.NextLabel(source)
	must(h.t, err)
	now, err := m.Now()
	must(h.t, err)
	head := reliance.Head{
		Format: reliance.Format, Vault: testVault, Source: source, Session: session, Begin: now.Wall,
		Label: label, State: reliance.Complete, Clean: true, Previous: previous,
	}
	must(h.t, head.SetPacks(roaring.BitmapOf(packs...)))
	b, err := head.Encode()
	must(h.t, err)
	return reliance.Frame(b, make([]byte, 10), []byte("keyring"))
}

func (h *house) pull(m *Mirror, source, session string) (worm.Snapshot, uint32) {
	h.t.Helper()
	in := h.grow(m, session)
	_, err := m.Seal(h.t.Context(), in)
	must(h.t, err)
	snap, err := m.Commit(h.t.Context(), session, h.headOf(m, source, session, in.Number), ledger.Lock{})
	must(h.t, err)
	return snap, in.Number
}

func TestWhatTheKeeperDoesIsReadHere(t *testing.T) {
	h := newHouse(t)
	m, ctx := h.mirror(), t.Context()
	first, pack := h.pull(m, "web1", "s1")
	if !first.Locked || first.Source != "web1" || first.Lock.ForSeconds != 3600 {
		t.Errorf("%+v", first)
	}
	f, size, err := m.OpenPack(pack)
	must(t, err)
	have, err := io.ReadAll(f)
	must(t, errors.Join(err, f.Close()))
	if !bytes.Equal(have, content(pack)) || size != int64(len(have)) {
		t.Errorf("pack %d reads as %d bytes", pack, len(have))
	}
	if b, err := m.Manifest(first.ID); err != nil || reliance.ID(b) != first.ID {
		t.Errorf("manifest: %v", err)
	}
	if bad := m.Check(ctx, true); len(bad) > 0 {
		t.Error(bad)
	}
	longer, err := m.Extend(ctx, first.ID, ledger.Lock{Mode: ledger.Governance, ForSeconds: 7000}, "anna")
	if err != nil || longer.Lock.ForSeconds != 7000 {
		t.Errorf("%+v %v", longer.Lock, err)
	}
	if size, root := h.store.Ledger().Head(); m.Ledger().Size() != size || m.Ledger().Root() != root {
		t.Errorf("the mirror has %d records, the keeper %d", m.Ledger().Size(), size)
	}
	if err := m.Ledger().Extends(m.Ledger().Checkpoint()); err != nil || m.Ledger().CheckpointError() != nil {
		t.Errorf("checkpoint: %v, %v", err, m.Ledger().CheckpointError())
	}
	if !bytes.Equal(m.Ledger().Checkpoint(), h.store.Ledger().Checkpoint()) {
		t.Error("the mirror's checkpoint is not the keeper's newest")
	}
}

func TestPruneThroughTheKeeperTakesTwoMarks(t *testing.T) {
	h := newHouse(t)
	m, ctx := h.mirror(), t.Context()
	first, pack := h.pull(m, "web1", "s1")
	h.clock.Advance(time.Minute)
	second, _ := h.pull(m, "web1", "s2")
	h.clock.Advance(3 * time.Hour)
	rep, err := m.Prune(ctx, true)
	if err != nil || len(rep.Snapshots) != 1 || rep.MarkedSnapshots != 0 {
		t.Errorf("%+v %v", rep, err)
	}
	rep, err = m.Prune(ctx, false)
	if err != nil || len(rep.Snapshots) > 0 || rep.MarkedSnapshots != 1 || rep.MarkedPacks != 1 || rep.Decisions[0].Go {
		t.Errorf("removed without notice, or not marked: %+v %v", rep, err)
	}
	h.clock.Advance(25 * time.Hour)
	rep, err = m.Prune(ctx, false)
	if err != nil || !slices.Equal(rep.Snapshots, []string{first.ID}) || !slices.Equal(rep.Packs, []uint32{pack}) || rep.Bytes != int64(len(content(pack))) {
		t.Errorf("%+v %v", rep, err)
	}
	if m.ClaimOne("s3", pack) {
		t.Error("a swept pack was claimed")
	}
	if all, err := m.Snapshots(); err != nil || len(all) != 1 || all[0].ID != second.ID {
		t.Errorf("%+v %v", all, err)
	}
}

// TestACheckBesideASweepCriesDamage: what the keeper removes is known here only once it has answered something, which a sweep does
// at its end. Until then files are missing that the ledger, as far as it was read, still names.
func TestACheckBesideASweepCriesDamage(t *testing.T) {
	h := newHouse(t)
	m, ctx := h.mirror(), t.Context()
	first, pack := h.pull(m, "web1", "s1")
	h.clock.Advance(time.Minute)
	h.pull(m, "web1", "s2")
	h.clock.Advance(3 * time.Hour)
	if _, err := m.Prune(ctx, false); err != nil {
		t.Fatal(err)
	}
	h.clock.Advance(25 * time.Hour)
	sweep := func() {
		t.Helper()
		if rep, err := h.store.Sweep(ctx); err != nil || len(rep.Packs) != 1 {
			t.Fatalf("%+v %v", rep, err)
		}
	}
	sweep()
	if found := m.CheckPack(ctx, pack); len(found) > 0 {
		t.Errorf("a pack that a sweep has just removed: %v", found)
	}
	if _, there := m.Pack(pack); there {
		t.Error("the mirror does not know that it is gone")
	}
	h.pull(m, "web1", "s3")
	h.clock.Advance(40 * 24 * time.Hour)
	if _, err := m.Prune(ctx, false); err != nil {
		t.Fatal(err)
	}
	h.clock.Advance(25 * time.Hour)
	sweep()
	for _, d := range m.Check(ctx, false) {
		t.Errorf("after a sweep (%s went first): %v", first.ID, d)
	}
}

func TestALostKeeperCostsWhatGrowsAndNothingElse(t *testing.T) {
	h := newHouse(t)
	m, ctx := h.mirror(), t.Context()
	first, pack := h.pull(m, "web1", "s1")
	if !m.ClaimOne("s2", pack) {
		t.Fatal("a sealed pack was not claimed")
	}
	in := h.grow(m, "s2")
	must(t, in.File.Sync())
	h.stop()
	_, serr := m.Seal(ctx, in)
	_, cerr := m.CreatePack("s2")
	for what, err := range map[string]error{"seal": serr, "create": cerr} {
		if !errors.Is(err, ErrGone) || !strings.Contains(err.Error(), "pull again") {
			t.Errorf("%s without a keeper: %v, want ErrGone and what to do", what, err)
		}
	}
	must(t, m.Leave(in))
	if all, err := m.Snapshots(); err != nil || len(all) != 1 || all[0].ID != first.ID {
		t.Errorf("nothing can be read without the keeper: %+v %v", all, err)
	}
	h.start(uint32(os.Getuid()))
	left, err := m.Leftovers()
	if err != nil || len(left) != 1 || left[0].Number != in.Number {
		t.Errorf("leftovers %+v, %v", left, err)
	}
	f, err := m.OpenLeftover(in.Number)
	must(t, err)
	have, err := io.ReadAll(f)
	must(t, errors.Join(err, f.Close()))
	if !bytes.Equal(have, content(in.Number)) {
		t.Error("the leftover has lost its content")
	}
	must(t, m.Discard(in.Number))
	h.pull(m, "web1", "s3")
	// Claims outlive the keeper that they were made with.
	h.clock.Advance(3 * time.Hour)
	_, err = m.Prune(ctx, false)
	must(t, err)
	h.clock.Advance(25 * time.Hour)
	if missing, err := m.Claim(ctx, "s2", roaring.BitmapOf(pack)); err != nil || !missing.IsEmpty() {
		t.Errorf("renewal: %v, %v", missing, err)
	}
	rep, err := m.Prune(ctx, false)
	if err != nil || slices.Contains(rep.Packs, pack) || m.current() == nil {
		t.Errorf("a claimed pack went: %+v %v", rep, err)
	}
	if info, ok := m.Pack(pack); !ok || info.Number != pack {
		t.Error("a claimed pack is gone")
	}
}

func TestACommitWhoseReplyWasLostIsIssuedAgain(t *testing.T) {
	h := newHouse(t)
	m := h.mirror()
	in := h.grow(m, "s1")
	_, err := m.Seal(t.Context(), in)
	must(t, err)
	manifest := h.headOf(m, "web1", "s1", in.Number)
	must(t, m.client.Close()) // as if the keeper had ended between two messages
	snap, err := m.Commit(t.Context(), "s1", manifest, ledger.Lock{})
	must(t, err)
	again, err := m.Commit(t.Context(), "s1", manifest, ledger.Lock{})
	if err != nil || again.ID != snap.ID {
		t.Errorf("%+v %v", again, err)
	}
}

// serveAlso lets a second keeper of other files answer at a socket.
func serveAlso(t *testing.T, socket string, store *worm.Store, o Options) *Server {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	must(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	o.UID, o.Logf = uint32(os.Getuid()), t.Logf
	s := NewServer(store, o)
	go func() { done <- s.Serve(ctx, l) }()
	stop := sync.OnceFunc(func() { cancel(); must(t, <-done) })
	t.Cleanup(stop)
	return s
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "keeper")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestAnotherLedgerBehindTheSocketIsNotBelieved(t *testing.T) {
	h := newHouse(t)
	m := h.mirror()
	h.pull(m, "web1", "s1")
	// The same vault as it was a moment ago, which then went another way: whole in itself, and signed by the same key.
	old := t.TempDir()
	h.stop()
	must(t, os.CopyFS(old, os.DirFS(h.dir)))
	h.start(uint32(os.Getuid()))
	h.pull(m, "web1", "s2")
	d, err := durable.OpenDir(old)
	must(t, err)
	defer d.Close()
	other, err := worm.Open(d, h.clock, worm.Options{})
	must(t, err)
	defer other.Close()
	in, err := other.CreatePack("s9")
	must(t, err)
	_, err = in.File.Write([]byte("other content"))
	must(t, err)
	_, err = other.Seal(t.Context(), in) // shorter than the ledger here: only the root tells
	must(t, err)
	h.stop()
	serveAlso(t, h.socket, other, Options{})
	must(t, m.Bind("s3", "web1"))
	if _, err := m.CreatePack("s3"); !errors.Is(err, ErrOther) {
		t.Errorf("%v, want ErrOther", err)
	}
	if _, err := OpenMirror(t.Context(), MirrorOptions{Disk: h.disk, Clock: h.clock, Socket: h.socket}); !errors.Is(err, ErrOther) {
		t.Errorf("%v, want ErrOther", err)
	}
}

func TestAnotherVaultBehindTheSocketIsNotBelieved(t *testing.T) {
	h, other := newHouse(t), newHouse(t)
	_, err := OpenMirror(t.Context(), MirrorOptions{Disk: h.disk, Clock: h.clock, Socket: other.socket})
	if !errors.Is(err, ErrOther) {
		t.Errorf("%v, want ErrOther: the key is another", err)
	}
}

func TestAKeeperWithoutAVaultMakesOneAndOnlyOne(t *testing.T) {
	dir, socket, now := t.TempDir(), filepath.Join(shortDir(t), "s"), clock.NewManual(clock.Earliest().Add(time.Hour))
	d, err := durable.OpenDir(dir)
	must(t, err)
	t.Cleanup(func() { _ = d.Close() })
	server := serveAlso(t, socket, nil, Options{Level: func() string { return "ownership" }, Found: func(_ context.Context, o worm.InitOptions) (*worm.Store, error) {
		if o.Policy.MaxSeconds > 7200 {
			return nil, errors.New("longer than this keeper allows")
		}
		if _, err := worm.Init(d, now, o); err != nil {
			return nil, err
		}
		return worm.Open(d, now, worm.Options{})
	}})
	t.Cleanup(func() {
		if s := server.Store(); s != nil {
			must(t, s.Close())
		}
	})
	ctx := t.Context()
	dial := func() *Client {
		c, err := Dial(ctx, socket, "test")
		must(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	o := worm.InitOptions{
		Vault: testVault, Identity: []byte(`{"format":1,"vault":"` + testVault + `","created":"2026-07-01T00:00:00Z"}` + "\n"),
		Keyring: []byte("wrapped keyring\n"), Policy: ledger.Policy{Mode: ledger.Governance, DefaultSeconds: 3600, MaxSeconds: 1 << 20},
	}
	if _, err := dial().Now(ctx); !errors.Is(err, ErrGone) {
		var f *Failure
		if !errors.As(err, &f) || f.Code != Malformed {
			t.Errorf("the clock of no vault: %v", err)
		}
	}
	if w := dial().Welcome(); w.Vault != "" || w.Verifier != "" {
		t.Errorf("%+v", w)
	}
	if _, err := OpenMirror(ctx, MirrorOptions{Disk: d, Clock: now, Socket: socket}); err == nil || !strings.Contains(err.Error(), "holdfast init") {
		t.Errorf("mirror of no vault: %v", err)
	}
	if _, err := dial().Found(ctx, o); err == nil || !strings.Contains(err.Error(), "allows") {
		t.Errorf("a policy beyond the keeper's: %v", err)
	}
	o.Policy.MaxSeconds, o.Policy.Keep = 7200, policy.Keep{Daily: 7, WithinSeconds: 3600}
	c := dial()
	verifier, err := c.Found(ctx, o)
	must(t, err)
	if w := c.Welcome(); w.Vault != testVault || verifier == "" || server.Store().Ledger().Verifier() != verifier {
		t.Errorf("%+v, verifier %q", w, verifier)
	}
	if _, err := c.Found(ctx, o); err == nil {
		t.Error("a second vault was made")
	}
	m, err := OpenMirror(ctx, MirrorOptions{Disk: d, Clock: now, Socket: socket})
	must(t, err)
	defer m.Close()
	if m.Vault() != testVault || m.Policy().MaxSeconds != 7200 || m.Policy().Keep != o.Policy.Keep || string(m.Keyring()) != "wrapped keyring\n" {
		t.Errorf("%q %+v", m.Vault(), m.Policy())
	}
}

// TestHangingKeeperHangsWhoeverAsks: a keeper that hangs over a new connection holds nobody up for longer than he wants to wait.
func TestHangingKeeperHangsWhoeverAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &Mirror{dialling: make(chan struct{}, 1), ctx: t.Context()}
		m.dialling <- struct{}{} // somebody waits for its greeting
		_, err := m.Clock()
		if !errors.Is(err, ErrGone) || !strings.Contains(err.Error(), "hangs") {
			t.Errorf("the clock of a keeper that hangs: %v", err)
		}
	})
}

// TestKeepRulesThatNobodyReads: keep rules in the daemon's configuration are not the keeper's, which reads its own settings. Who
// writes them there is told that they keep nothing, until the policy in force says as much.
func TestKeepRulesThatNobodyReads(t *testing.T) {
	h := newHouse(t)
	m := h.mirror()
	said := policy.Policy{Keep: policy.Keep{Daily: 30, WithinSeconds: 86400}, Sources: map[string]policy.Rules{"web1": {Keep: policy.Keep{Yearly: 7}}}}
	for _, ask := range []func() []policy.Refusal{
		func() []policy.Refusal {
			_, no, err := m.Adopt(t.Context(), said, "test")
			must(t, err)
			return no
		},
		m.Refused,
		func() []policy.Refusal {
			_, no, err := m.Weigh(said)
			must(t, err)
			return no
		},
	} {
		if no := fmt.Sprint(ask()); strings.Count(no, "policy.json") != 3 || !strings.Contains(no, "keep.daily stays unset, 30 is not followed") || !strings.Contains(no, "source web1: keep.yearly") {
			t.Errorf("what nobody follows: %s", no)
		}
	}
	_, _, err := h.store.Adopt(t.Context(), said, "the keeper's settings")
	must(t, err)
	_, err = m.Now() // what the keeper adopted is known here once it has answered something
	must(t, err)
	if _, no, err := m.Adopt(t.Context(), said, "test"); err != nil || len(no) > 0 {
		t.Errorf("what is in force: %v, %v", no, err)
	}
}
