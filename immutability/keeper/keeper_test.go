package keeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"

	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/reliance"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

const testVault = "0123456789abcdef0123456789abcdef"

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// house is a keeper on the file system of the tests' directory, in this process.
type house struct {
	hears  bool
	t      testing.TB
	dir    string
	socket string
	disk   *durable.Dir
	clock  *clock.Manual
	store  *worm.Store
	stop   func()
}

// newHouse makes a vault and lets a keeper serve it; it skips where the file system has no flags for us.
func newHouse(t testing.TB) *house {
	t.Helper()
	h := &house{t: t, dir: t.TempDir(), clock: clock.NewManual(clock.Earliest().Add(24 * time.Hour))}
	var err error
	h.disk, err = durable.OpenDir(h.dir)
	must(t, err)
	t.Cleanup(func() { _ = h.disk.Close() })
	err = h.disk.SetFlags(".", durable.AppendOnly, 0)
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission) {
		if os.Getenv("HOLDFAST_REQUIRE_ALL") == "1" && os.Geteuid() == 0 {
			t.Fatal(err)
		}
		t.Skipf("needs a file system with flags, and CAP_LINUX_IMMUTABLE: %v", err)
	}
	must(t, errors.Join(err, h.disk.SetFlags(".", 0, durable.AppendOnly)))
	t.Cleanup(h.unflag)
	_, err = worm.Init(h.disk, h.clock, worm.InitOptions{
		Vault: testVault, Identity: []byte(`{"format":1,"vault":"` + testVault + `","created":"2026-07-01T00:00:00Z"}` + "\n"),
		Keyring: []byte("wrapped keyring\n"),
		Policy:  ledger.Policy{Mode: ledger.Governance, DefaultSeconds: 3600, MinSeconds: 60, MaxSeconds: 7200},
		Guard:   true,
	})
	must(t, err)
	h.start(uint32(os.Getuid()))
	t.Cleanup(func() { h.stop() })
	return h
}

func (h *house) start(uid uint32) {
	h.t.Helper()
	var err error
	h.store, err = worm.Open(h.disk, h.clock, worm.Options{Guard: true})
	must(h.t, err)
	if h.socket == "" {
		sockets, err := os.MkdirTemp("", "keeper") // short: a socket's path has little room
		must(h.t, err)
		h.t.Cleanup(func() { _ = os.RemoveAll(sockets) })
		h.socket = filepath.Join(sockets, "s")
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: h.socket, Net: "unix"})
	must(h.t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(h.t.Context()))
	done := make(chan error, 1)
	server := NewServer(h.store, Options{UID: uid, Level: func() string { return "immutable flag" }, Logf: h.t.Logf})
	server.hears = h.hears
	go func() { done <- server.Serve(ctx, l) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-done, h.store.Close()); err != nil {
			h.t.Error(err)
		}
	})
}

// hear starts the keeper anew, so that it takes descriptors as on an older kernel.
func (h *house) hear() {
	h.t.Helper()
	h.stop()
	h.hears = true
	h.start(uint32(os.Getuid()))
}

func (h *house) unflag() {
	must(h.t, h.disk.SetFlags(".", 0, durable.Immutable|durable.AppendOnly))
	for _, pattern := range []string{"*", "*/*"} {
		names, err := filepath.Glob(filepath.Join(h.dir, pattern))
		must(h.t, err)
		for _, name := range names {
			must(h.t, h.disk.SetFlags(strings.TrimPrefix(name, h.dir+"/"), 0, durable.Immutable|durable.AppendOnly))
		}
	}
}

func (h *house) dial() *Client {
	h.t.Helper()
	c, err := Dial(h.t.Context(), h.socket, "test")
	must(h.t, err)
	h.t.Cleanup(func() { _ = c.Close() })
	return c
}

func content(n uint32) []byte { return bytes.Repeat(fmt.Appendf(nil, "pack %d. ", n), 1000) }

func (h *house) begin(c *Client, session string) *worm.Incoming {
	h.t.Helper()
	in, err := c.CreatePack(h.t.Context(), session, "web1")
	must(h.t, err)
	_, err = in.File.Write(content(in.Number))
	must(h.t, err)
	return in
}

func (h *house) manifest(c *Client, source, session string, size int, packs ...uint32) []byte {
	h.t.Helper()
	label, previous, err := c.NextLabel(h.t.Context(), source)
	must(h.t, err)
	now, err := c.Now(h.t.Context())
	must(h.t, err)
	head := reliance.Head{
		Format: reliance.Format, Vault: testVault, Source: source, Session: session, Begin: time.Unix(int64(now.Wall), 0),
		Label: label, State: reliance.Complete, Clean: true, Previous: previous,
	}
	must(h.t, head.SetPacks(roaring.BitmapOf(packs...)))
	b, err := head.Encode()
	must(h.t, err)
	return reliance.Frame(b, make([]byte, size), []byte("keyring"))
}

// commit pulls once.
func (h *house) commit(c *Client, source, session string) string {
	h.t.Helper()
	in := h.begin(c, session)
	_, err := c.Seal(h.t.Context(), in)
	must(h.t, err)
	m := h.manifest(c, source, session, 10, in.Number)
	_, err = c.Commit(h.t.Context(), session, m, reliance.ID(m), ledger.Lock{})
	must(h.t, err)
	return reliance.ID(m)
}

func TestAPullThroughTheKeeper(t *testing.T) {
	h := newHouse(t)
	c, ctx := h.dial(), t.Context()
	if w := c.Welcome(); w.Vault != testVault || w.Level != "immutable flag" || w.Verifier != h.store.Ledger().Verifier() {
		t.Errorf("%+v", w)
	}
	in := h.begin(c, "s1")
	must(t, in.File.Sync())
	sealed, err := c.Seal(ctx, in)
	must(t, err)
	if sealed.Bytes != uint64(len(content(1))) {
		t.Errorf("%d bytes were sealed", sealed.Bytes)
	}
	m := h.manifest(c, "web1", "s1", 3*pieceMax/2, in.Number)
	id := reliance.ID(m)
	done, err := c.Commit(ctx, "s1", m, id, ledger.Lock{Mode: ledger.Compliance, ForSeconds: 1})
	must(t, err)
	if done.Lock != (Lock{2, 60}) {
		t.Errorf("lock %+v, want the policy's minimum", done.Lock)
	}
	lock, err := c.Extend(ctx, id, ledger.Lock{Mode: ledger.Compliance, ForSeconds: 7200}, "a person")
	if err != nil || lock.ForSeconds != 7200 {
		t.Errorf("%+v %v", lock, err)
	}
	reader, err := worm.Open(h.disk, h.clock, worm.Options{ReadOnly: true})
	must(t, err)
	all, err := reader.Snapshots()
	if err != nil || len(all) != 1 || all[0].ID != id || all[0].Lock.Mode != ledger.Compliance || !all[0].Locked {
		t.Errorf("%+v %v", all, err)
	}
	if bad := reader.Check(ctx, true); len(bad) > 0 {
		t.Error(bad)
	}
	note, err := c.Checkpoint(ctx)
	if err != nil || reader.Ledger().Extends(note) != nil {
		t.Errorf("checkpoint %q, %v", note, err)
	}
	if lines, err := c.Inspect(ctx); err != nil || len(lines) > 0 {
		t.Errorf("%q %v", lines, err)
	}
	if n, err := c.Settle(ctx); err != nil || n != 0 {
		t.Errorf("%d %v", n, err)
	}
}

func TestRunOutThroughTheKeeper(t *testing.T) {
	h := newHouse(t)
	c, ctx := h.dial(), t.Context()
	h.commit(c, "web1", "s1")
	h.clock.Advance(time.Minute)
	h.commit(c, "web1", "s2")
	h.clock.Advance(3 * time.Hour)
	if s, err := c.Sweep(ctx); err != nil || s != (Swept{}) {
		t.Errorf("swept without notice: %+v %v", s, err)
	}
	if n, err := c.Condemn(ctx); err != nil || n != (Condemned{Packs: 1, Snapshots: 1}) {
		t.Errorf("%+v %v", n, err)
	}
	h.clock.Advance(25 * time.Hour)
	if s, err := c.Sweep(ctx); err != nil || s.Packs != 1 || s.Snapshots != 1 || s.Bytes != uint64(len(content(1))) {
		t.Errorf("%+v %v", s, err)
	}
	missing, err := c.Claim(ctx, "s3", roaring.BitmapOf(1, 2, 9))
	if err != nil || !slices.Equal(missing.ToArray(), []uint32{1, 9}) {
		t.Errorf("missing %v, %v", missing, err)
	}
	must(t, c.Release(ctx, "s3"))
}

func TestAPackThatIsStillOpenIsNotSealed(t *testing.T) {
	h := newHouse(t)
	c, ctx := h.dial(), t.Context()
	in := h.begin(c, "s1")
	kept, err := durable.Descriptor(in.File)
	must(t, err)
	defer kept.Close()
	if _, err := c.Seal(ctx, in); !errors.Is(err, durable.ErrWriter) {
		t.Fatalf("seal beside a writer: %v, want ErrWriter", err)
	}
	must(t, kept.Close())
	a, err := c.call(ctx, KindSeal, &Pack{in.Number})
	if err != nil || a.body.(*Sealed).Bytes == 0 {
		t.Errorf("seal after the last writer went: %+v %v", a.body, err)
	}
	name := filepath.Join(h.dir, "packs", "00000001.pack")
	if err := os.Remove(name); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("remove: %v, want fs.ErrPermission, even for root", err)
	}
}

func TestAnEndedConnectionLeavesLeftovers(t *testing.T) {
	h := newHouse(t)
	c := h.dial()
	in := h.begin(c, "s1")
	drop := h.begin(c, "s1")
	must(t, c.Drop(t.Context(), drop))
	must(t, in.File.Sync())
	other := h.dial()
	for harm, err := range map[string]error{
		"sealed":  func() error { _, err := other.call(t.Context(), KindSeal, &Pack{in.Number}); return err }(),
		"dropped": other.tell(t.Context(), KindDrop, &Pack{in.Number}), "left": other.tell(t.Context(), KindLeave, &Pack{in.Number}),
		"discarded": other.Discard(t.Context(), in.Number),
	} {
		if err == nil {
			t.Errorf("a pack of another connection was %s", harm)
		}
	}
	if left, err := other.Leftovers(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("leftovers %v, %v", left, err)
	}
	must(t, c.Close())
	h.stop() // has seen the end of the connection
	h.start(uint32(os.Getuid()))
	other = h.dial()
	left, err := other.Leftovers(t.Context())
	if err != nil || len(left) != 1 || left[0] != (Leftover{in.Number, uint64(len(content(in.Number)))}) {
		t.Errorf("leftovers %v, %v", left, err)
	}
	must(t, other.Discard(t.Context(), in.Number))
	h.commit(other, "web1", "s2")
	if _, err := c.Leftovers(t.Context()); !errors.Is(err, ErrGone) {
		t.Errorf("a request on a closed connection: %v, want ErrGone", err)
	}
}

func TestOtherUsersAreNotAnswered(t *testing.T) {
	h := newHouse(t)
	h.stop()
	h.start(uint32(os.Getuid()) + 1)
	if c, err := Dial(t.Context(), h.socket, "test"); err == nil {
		c.Close()
		t.Error("another user was answered")
	}
}

func TestForgedManifestsAreRefused(t *testing.T) {
	h := newHouse(t)
	c, ctx := h.dial(), t.Context()
	h.commit(c, "web1", "s1")
	good := h.manifest(c, "web1", "s2", 10, 1)
	foreign := bytes.Replace(bytes.Clone(good), []byte(testVault), []byte(strings.Repeat("f", 32)), 1)
	early := h.manifest(c, "web1", "s2", 10, 1)
	label, _, err := c.NextLabel(ctx, "web1")
	must(t, err)
	early = bytes.Replace(early, []byte(label), []byte("20991231T235959Z"), 1)
	for harm, b := range map[string][]byte{"of another vault": foreign, "of the future": early, "no manifest": []byte("forged")} {
		if _, err := c.Commit(ctx, "s2", b, reliance.ID(b), ledger.Lock{}); err == nil {
			t.Errorf("a manifest %s was committed", harm)
		}
	}
	if _, err := c.Commit(ctx, "s2", good, strings.Repeat("0", 64), ledger.Lock{}); err == nil {
		t.Error("a manifest was committed under another ID")
	}
	if _, err := c.Commit(ctx, "other", good, reliance.ID(good), ledger.Lock{}); err == nil {
		t.Error("a manifest of another session was committed")
	}
	var missing *worm.MissingPacks
	b := h.manifest(c, "web1", "s2", 10, 1, 7, 8)
	if _, err := c.Commit(ctx, "s2", b, reliance.ID(b), ledger.Lock{}); !errors.As(err, &missing) || !slices.Equal(missing.Packs, []uint32{7, 8}) {
		t.Errorf("a manifest that names unknown packs: %v", err)
	}
	var stale *worm.StaleHead
	h.clock.Advance(time.Minute)
	h.commit(c, "web1", "s3")
	if _, err := c.Commit(ctx, "s2", good, reliance.ID(good), ledger.Lock{}); !errors.As(err, &stale) {
		t.Errorf("a manifest that follows another: %v", err)
	}
	for harm, m := range map[string]*Put{
		"beyond the end":    {"s2", 5, []byte("x")},
		"another session's": {"s9", 1, []byte("x")},
	} {
		if _, err := c.call(ctx, KindPut, m); err == nil {
			t.Errorf("a piece %s was taken", harm)
		}
	}
}

func TestLocksThroughTheSocketOnlyGrow(t *testing.T) {
	h := newHouse(t)
	c, ctx := h.dial(), t.Context()
	id := h.commit(c, "web1", "s1")
	if _, err := c.Extend(ctx, id, ledger.Lock{Mode: ledger.Governance, ForSeconds: 60}, "x"); !errors.Is(err, worm.ErrShorter) {
		t.Errorf("a shorter lock: %v, want ErrShorter", err)
	}
	if _, err := c.Extend(ctx, id, ledger.Lock{Mode: ledger.Governance, ForSeconds: 7201}, "x"); err == nil {
		t.Error("a lock beyond the policy was taken from the daemon: a bomb")
	}
	var f *Failure
	if _, err := c.Extend(ctx, strings.Repeat("0", 64), ledger.Lock{Mode: ledger.Governance, ForSeconds: 7200}, "x"); !errors.As(err, &f) || f.Code != Absent {
		t.Errorf("a lock of no snapshot: %v", err)
	}
}

// speak sends raw bytes on a connection of its own and gives what comes back until the keeper closes it.
func (h *house) speak(oob []byte, parts ...[]byte) []byte {
	h.t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: h.socket, Net: "unix"})
	must(h.t, err)
	defer c.Close()
	_, _, err = c.WriteMsgUnix(bytes.Join(parts, nil), oob, nil)
	must(h.t, err)
	must(h.t, c.CloseWrite())
	var b bytes.Buffer
	_, _ = b.ReadFrom(c)
	return b.Bytes()
}

func request(t testing.TB, id uint32, k Kind, m body) []byte {
	t.Helper()
	b, err := appendRequest(nil, id, k, m)
	must(t, err)
	return b
}

func TestForgedMessagesEndTheirConnectionAlone(t *testing.T) {
	h := newHouse(t)
	c := h.dial()
	hello := request(t, 1, KindHello, &Hello{"x"})
	for harm, bytes := range map[string][]byte{
		"a request before hello": request(t, 1, KindSweep, &Nothing{}),
		"noise":                  bytes.Repeat([]byte{0xa5}, 5000),
		"half a frame":           slices.Concat(hello, hello[:7]),
		"an unknown kind":        slices.Concat(hello, header(8, 2, 200, 1, 0)),
		"another version":        slices.Concat(hello, header(8, 2, 1, 9, 0)),
		"too long":               slices.Concat(hello, header(frameMax+1, 2, 1, 1, 0)),
		"a body too long":        slices.Concat(hello, header(9, 2, uint8(KindSweep), 1, 0), []byte{0}),
		"a code":                 slices.Concat(hello, header(8, 2, uint8(KindSweep), 1, 1)),
		"http":                   []byte("GET / HTTP/1.1\r\nHost: keeper\r\n\r\n"),
	} {
		h.speak(nil, bytes)
		if _, err := c.Now(t.Context()); err != nil {
			t.Fatalf("after %s nobody is answered: %v", harm, err)
		}
	}
}

func TestNothingIsDoneBeforeHello(t *testing.T) {
	h := newHouse(t)
	f, err := readFrame(bytes.NewReader(h.speak(nil, request(t, 3, KindCreate, &Create{"s1", "web1"}))))
	if err != nil || f.Code != Malformed || f.ID != 3 {
		t.Errorf("code %d, %v; want that it is malformed", f.Code, err)
	}
	if left, err := os.ReadDir(filepath.Join(h.dir, "incoming")); err != nil || len(left) > 0 {
		t.Errorf("incoming holds %v, %v", left, err)
	}
}

// A kernel that can refuse descriptors is asked to, for connections of before the first read too.
func TestTheKernelRefusesDescriptors(t *testing.T) {
	h := newHouse(t)
	other := h.dial() // the keeper listens
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: h.socket, Net: "unix"})
	must(t, err)
	defer c.Close()
	conn, err := c.SyscallConn()
	must(t, err)
	known := false
	must(t, conn.Control(func(fd uintptr) {
		_, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, soPassRights)
		known = err == nil
	}))
	if !known {
		t.Log("this kernel is older than 6.16: what comes is closed beside the connection, which the tests of descriptors hold")
		return
	}
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	defer w.Close()
	if _, _, err := c.WriteMsgUnix(request(t, 1, KindHello, &Hello{"x"}), syscall.UnixRights(int(w.Fd())), nil); !errors.Is(err, syscall.EPERM) {
		t.Errorf("a descriptor was sent: %v", err)
	}
	h.commit(other, "web1", "s1") // whose descriptors come from the keeper
}

// Descriptors of the daemon's must not reach the keeper: a pipe or a FUSE file could make it wait for ever.
func TestDescriptorsDoNotReachTheKeeper(t *testing.T) {
	h := newHouse(t)
	h.hear()
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	h.speak(syscall.UnixRights(int(w.Fd())), request(t, 1, KindHello, &Hello{"x"}), request(t, 2, KindNow, &Nothing{}))
	must(t, w.Close())
	must(t, r.SetReadDeadline(time.Now().Add(10*time.Second)))
	if _, err := r.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the keeper holds what was sent: %v", err)
	}
}

func TestPacksOfOneConnectionAreBounded(t *testing.T) {
	h := newHouse(t)
	c, ctx := h.dial(), t.Context()
	var all []*worm.Incoming
	for range growingMax {
		all = append(all, h.begin(c, "s1"))
	}
	if _, err := c.CreatePack(ctx, "s1", "web1"); !errors.Is(err, durable.ErrWriter) {
		t.Errorf("pack %d of one connection: %v", growingMax+1, err)
	}
	must(t, c.Leave(ctx, all[0]))
	more := h.begin(c, "s1")
	must(t, c.Drop(ctx, more))
}

func TestManyAtOnce(t *testing.T) {
	h := newHouse(t)
	c, ctx := h.dial(), t.Context()
	var all sync.WaitGroup
	for i := range 24 {
		all.Go(func() {
			in, err := c.CreatePack(ctx, fmt.Sprintf("s%d", i), "web1")
			if err == nil {
				_, err = in.File.Write(content(in.Number))
			}
			if err == nil {
				_, err = c.Seal(ctx, in)
			}
			if err != nil {
				t.Error(err)
			}
			if _, err := c.Now(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := len(h.store.Packs()); n != 24 {
		t.Errorf("%d packs", n)
	}
	for _, p := range h.store.Packs() {
		f, _, err := h.store.OpenPack(p.Number)
		must(t, err)
		b := make([]byte, p.Bytes)
		if _, err := f.ReadAt(b, 0); err != nil || !bytes.Equal(b, content(p.Number)) {
			t.Errorf("pack %d has another's bytes", p.Number)
		}
		must(t, f.Close())
	}
}

func TestWaitingEndsWithItsContext(t *testing.T) {
	h := newHouse(t)
	c := h.dial()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if in, err := c.CreatePack(ctx, "s1", "web1"); err == nil {
		_ = in.File.Close() // it came in the last moment
	} else if !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
	h.commit(c, "web1", "s2")
}
