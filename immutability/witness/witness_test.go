package witness

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/audit"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// log is a ledger in memory. Its leaves can be chosen, so that two of them can share a beginning.
type log struct {
	origin   string
	signer   note.Signer
	verifier string

	mu     sync.Mutex
	hashes []tlog.Hash
	n      int64
}

func newLog(t testing.TB, origin string, leaves ...string) *log {
	t.Helper()
	l := &log{origin: origin}
	l.signer, l.verifier = logKey(t, origin, 7)
	l.add(leaves...)
	return l
}

// logKey makes a log's key pair from a seed.
func logKey(t testing.TB, origin string, seed byte) (note.Signer, string) {
	t.Helper()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32))
	vkey, err := note.NewEd25519VerifierKey(origin, private.Public().(ed25519.PublicKey))
	must(t, err)
	id := strings.Split(vkey, "+")[1]
	raw := append([]byte{1}, private.Seed()...)
	s, err := note.NewSigner("PRIVATE+KEY+" + origin + "+" + id + "+" + base64.StdEncoding.EncodeToString(raw))
	must(t, err)
	return s, vkey
}

func (l *log) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = l.hashes[x]
	}
	return out, nil
}

func (l *log) add(leaves ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, leaf := range leaves {
		h, err := tlog.StoredHashes(l.n, []byte(leaf), l)
		if err != nil {
			panic(err)
		}
		l.hashes = append(l.hashes, h...)
		l.n++
	}
}

func (l *log) text(n int64) string {
	h, err := tlog.TreeHash(n, l)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("%s\n%d\n%s\n", l.origin, n, h)
}

// request gives the body for the tree of n leaves from old, with the proof from proofOf.
func (l *log) request(old, n, proofOf int64) []byte {
	signed, err := note.Sign(&note.Note{Text: l.text(n)}, l.signer)
	if err != nil {
		panic(err)
	}
	b := fmt.Appendf(nil, "old %d\n", old)
	if proofOf > 0 {
		p, err := tlog.ProveTree(n, proofOf, l)
		if err != nil {
			panic(err)
		}
		for _, h := range p {
			b = fmt.Appendf(b, "%s\n", h)
		}
	}
	return append(append(b, '\n'), signed...)
}

// Consistency implements Ledger.
func (l *log) Consistency(old uint64) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if int64(old) > l.n {
		return nil, errors.New("records are missing")
	}
	return l.request(int64(old), l.n, int64(old)), nil
}

const (
	witnessName = "w.example/1"
	now         = 1_800_000_000
)

func newSigner(t testing.TB) (*Signer, string) {
	t.Helper()
	skey, vkey, err := NewKey(bytes.NewReader(bytes.Repeat([]byte{9}, 64)), witnessName)
	must(t, err)
	s, err := NewSigner(skey, func() time.Time { return time.Unix(now, 0) })
	must(t, err)
	return s, vkey
}

func newWitness(t testing.TB, d durable.Disk, logs ...*log) *Witness {
	t.Helper()
	for _, l := range logs {
		must(t, AddLog(d, l.verifier))
	}
	s, _ := newSigner(t)
	return New(d, s, t.Logf)
}

// stranger verifies cosignatures with the code that shares nothing with ours.
func stranger(t testing.TB) audit.Key {
	t.Helper()
	_, vkey := newSigner(t)
	k, err := audit.ParseKey(vkey)
	must(t, err)
	return k
}

func checkCosigned(t testing.TB, text string, lines []byte) {
	t.Helper()
	c, err := audit.ParseCheckpoint([]byte(text + "\n" + string(lines)))
	must(t, err)
	at, err := c.Verify(stranger(t))
	if err != nil || at.Unix() != now {
		t.Fatalf("cosignature at %v: %v", at, err)
	}
}

func names(n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprint("leaf ", i))
	}
	return out
}

func TestKeysAreRead(t *testing.T) {
	s, vkey := newSigner(t)
	v, err := NewVerifier(vkey)
	must(t, err)
	if v.String() != vkey || s.String() != vkey || v.Name() != witnessName || !strings.HasPrefix(vkey, witnessName+"+") {
		t.Errorf("%q, %q", v, s)
	}
	for i := range vkey {
		b := []byte(vkey)
		b[i] ^= 1
		if _, err := NewVerifier(string(b)); err == nil {
			t.Errorf("byte %d: %q is read", i, b)
		}
	}
	skey, _, err := NewKey(bytes.NewReader(bytes.Repeat([]byte{9}, 64)), witnessName)
	must(t, err)
	for i := range skey {
		b := []byte(skey)
		b[i] ^= 1
		if _, err := NewSigner(string(b), time.Now); err == nil {
			t.Errorf("byte %d: a spoilt signer key is read", i)
		}
	}
	for _, bad := range []string{"", "a b", "a+b", strings.Repeat("x", 256), "\xff"} {
		if _, _, err := NewKey(bytes.NewReader(bytes.Repeat([]byte{9}, 64)), bad); err == nil {
			t.Errorf("name %q is taken", bad)
		}
	}
}

func TestGrowingLogIsCosigned(t *testing.T) {
	d := crashdisk.New()
	l := newLog(t, "log.example/a", names(40)...)
	w := newWitness(t, d, l)
	old := int64(0)
	for _, n := range []int64{1, 1, 2, 5, 5, 8, 31, 40, 40} {
		lines, err := w.AddCheckpoint(l.request(old, n, old))
		must(t, err)
		checkCosigned(t, l.text(n), lines)
		old = n
		logs, err := Logs(d)
		must(t, err)
		if len(logs) != 1 || logs[0].Err != nil || logs[0].Size != uint64(n) || logs[0].Origin != l.origin {
			t.Fatalf("remembered %+v after %d", logs, n)
		}
	}
}

func TestWhatDoesNotExtendIsRefused(t *testing.T) {
	l := newLog(t, "log.example/a", names(20)...)
	fork := newLog(t, "log.example/a", append(names(9), "other")...)
	fork.add(names(30)...)
	foreign := newLog(t, "log.example/b", names(20)...)
	stolen := newLog(t, "log.example/a", names(20)...)
	stolen.signer, _ = logKey(t, l.origin, 8)
	for _, test := range []struct {
		name   string
		body   []byte
		status int
	}{
		{"nothing", nil, 400},
		{"no checkpoint", []byte("old 10\n\n"), 400},
		{"no old size", l.request(10, 12, 10)[7:], 400},
		{"leading zero", append([]byte("old 0"), l.request(10, 12, 10)[4:]...), 400},
		{"old above new", l.request(12, 10, 0), 400},
		{"too long a proof", append([]byte("old 10\n"+strings.Repeat("CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n", 64)), l.request(10, 12, 10)[7:]...), 400},
		{"too long a request", append(bytes.Repeat([]byte("x"), requestMax), l.request(10, 12, 10)...), 400},
		{"unknown origin", foreign.request(0, 12, 0), 404},
		{"another key", stolen.request(10, 12, 10), 403},
		{"a spoilt signature", bytes.Replace(l.request(10, 12, 10), []byte("\n12\n"), []byte("\n13\n"), 1), 403},
		{"old size of yesterday", l.request(9, 12, 9), 409},
		{"old size of nothing", l.request(0, 12, 0), 409},
		{"old size of tomorrow", l.request(11, 12, 11), 409},
		{"a smaller tree", l.request(5, 5, 5), 409},
		{"another root of the same size", fork.request(10, 10, 10), 409},
		{"a fork", fork.request(10, 20, 10), 422},
		{"a proof from elsewhere", l.request(10, 12, 9), 422},
		{"no proof", l.request(10, 12, 0), 422},
		{"a proof where none belongs", bytes.Replace(l.request(10, 10, 10), []byte("old 10\n"), []byte("old 10\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"), 1), 422},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := crashdisk.New()
			w := newWitness(t, d, l)
			_, err := w.AddCheckpoint(l.request(0, 10, 0))
			must(t, err)
			before, err := durable.ReadFile(d, stateName(l.origin), stateMax)
			must(t, err)
			lines, err := w.AddCheckpoint(test.body)
			var refusal *Refusal
			if !errors.As(err, &refusal) || refusal.Status != test.status || lines != nil {
				t.Fatalf("%q, %v", lines, err)
			}
			if test.status == 409 && refusal.Size != 10 {
				t.Errorf("it tells a size of %d", refusal.Size)
			}
			after, err := durable.ReadFile(d, stateName(l.origin), stateMax)
			must(t, err)
			if !bytes.Equal(before, after) {
				t.Error("what is remembered changed")
			}
		})
	}
}

func TestFirstCheckpointCarriesNoProof(t *testing.T) {
	l := newLog(t, "log.example/a", names(5)...)
	w := newWitness(t, crashdisk.New(), l)
	body := bytes.Replace(l.request(0, 5, 0), []byte("old 0\n"), []byte("old 0\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"), 1)
	var refusal *Refusal
	if _, err := w.AddCheckpoint(body); !errors.As(err, &refusal) || refusal.Status != 422 {
		t.Errorf("%v", err)
	}
}

// slowDisk stops at the first Rename until told to go on: at the moment between the look and the new state.
type slowDisk struct {
	durable.Disk
	once    sync.Once
	reached chan struct{}
	goOn    chan struct{}
}

func (d *slowDisk) Rename(from, to string) error {
	d.once.Do(func() {
		close(d.reached)
		<-d.goOn
	})
	return d.Disk.Rename(from, to)
}

// TestTwoRequestsAtOnceDoNotRollBack is the race that the protocol's text warns of: a request with 8 records is verified,
// one with 20 overtakes it.
func TestTwoRequestsAtOnceDoNotRollBack(t *testing.T) {
	l := newLog(t, "log.example/a", names(20)...)
	d := crashdisk.New()
	_, err := newWitness(t, d, l).AddCheckpoint(l.request(0, 5, 0))
	must(t, err)
	slow := &slowDisk{Disk: d, reached: make(chan struct{}), goOn: make(chan struct{})}
	w := newWitness(t, slow)
	first, second := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := w.AddCheckpoint(l.request(5, 8, 5))
		first <- err
	}()
	<-slow.reached
	if lock := w.lock(l.origin); lock.mu.TryLock() {
		lock.mu.Unlock()
		t.Error("between the look and the new state anybody may come")
	}
	go func() {
		_, err := w.AddCheckpoint(l.request(5, 20, 5))
		second <- err
	}()
	close(slow.goOn)
	must(t, <-first)
	var refusal *Refusal
	if err := <-second; !errors.As(err, &refusal) || refusal.Status != 409 || refusal.Size != 8 {
		t.Errorf("the second: %v", err)
	}
}

// TestManyRequestsAtOnceNeverGoBack has many clients push the same log forward; each cosignature that anybody got must
// be of a tree no smaller than every one that was given out before it was asked for.
func TestManyRequestsAtOnceNeverGoBack(t *testing.T) {
	const most = 200
	l := newLog(t, "log.example/a", names(most)...)
	d := crashdisk.New()
	w := newWitness(t, d, l)
	var given atomic.Int64
	var all sync.WaitGroup
	for client := range 8 {
		all.Go(func() {
			old := int64(0)
			for step := range 60 {
				n := min(old+int64(1+(client*7+step)%9), most)
				floor := given.Load()
				_, err := w.AddCheckpoint(l.request(old, n, old))
				var refusal *Refusal
				switch {
				case err == nil:
					if n < floor {
						t.Errorf("%d records are cosigned after %d", n, floor)
					}
					for g := given.Load(); g < n && !given.CompareAndSwap(g, n); g = given.Load() {
					}
					old = n
				case errors.As(err, &refusal) && refusal.Status == 409:
					old = refusal.Size
				default:
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	logs, err := Logs(d)
	must(t, err)
	if logs[0].Size != uint64(given.Load()) {
		t.Errorf("remembered %d, given out %d", logs[0].Size, given.Load())
	}
}

// TestNoFaultMakesAWitnessForget puts each fault at each operation of a witness that is asked for a growing log, and then
// has the power fail: whatever was cosigned must be remembered, and a fork of it refused.
func TestNoFaultMakesAWitnessForget(t *testing.T) {
	l := newLog(t, "log.example/a", names(12)...)
	fork := newLog(t, "log.example/a", "another beginning")
	fork.add(names(20)...)
	for _, fault := range crashdisk.Faults() {
		for op := int64(1); ; op++ {
			d := crashdisk.New()
			must(t, AddLog(d, l.verifier))
			w := newWitness(t, d)
			d.FailAt(d.Ops()+op, fault)
			cosigned, old := int64(0), int64(0)
			for _, n := range []int64{3, 3, 7, 12} {
				lines, err := w.AddCheckpoint(l.request(old, n, old))
				var refusal *Refusal
				if errors.As(err, &refusal) && refusal.Status == 409 {
					old = refusal.Size // as after a failure midway
					lines, err = w.AddCheckpoint(l.request(old, n, old))
				}
				if err == nil {
					checkCosigned(t, l.text(n), lines)
					cosigned, old = n, n
				}
			}
			fired := d.Fired()
			for _, loss := range []crashdisk.Loss{crashdisk.LoseUnsynced, crashdisk.KeepAll, crashdisk.Random} {
				after := d.Restart(loss, op)
				logs, err := Logs(after)
				must(t, err)
				if len(logs) != 1 || logs[0].Err != nil || logs[0].Size < uint64(cosigned) {
					t.Fatalf("%v at %d, %v: cosigned %d, remembered %+v", fault, op, loss, cosigned, logs)
				}
				again := newWitness(t, after)
				size := int64(logs[0].Size)
				if size > 0 {
					if _, err := again.AddCheckpoint(fork.request(size, 20, size)); err == nil {
						t.Fatalf("%v at %d, %v: a fork is cosigned", fault, op, loss)
					}
				}
				_, err = again.AddCheckpoint(l.request(size, 12, size))
				must(t, err)
			}
			if !fired {
				break
			}
			if op > 200 {
				t.Fatal("it does not end")
			}
		}
	}
}

// TestLostOrSpoiltMemoryIsNotTakenForNone: a witness that lost a log's file must not begin anew.
func TestLostOrSpoiltMemoryIsNotTakenForNone(t *testing.T) {
	l := newLog(t, "log.example/a", names(12)...)
	d := crashdisk.New()
	w := newWitness(t, d, l)
	_, err := w.AddCheckpoint(l.request(0, 5, 0))
	must(t, err)
	name := stateName(l.origin)
	good, err := durable.ReadFile(d, name, stateMax)
	must(t, err)
	for i := range good {
		must(t, d.Flip(name, int64(i), 1))
		if lines, err := w.AddCheckpoint(l.request(0, 12, 0)); err == nil {
			t.Errorf("byte %d: %q", i, lines)
		}
		_, err := w.AddCheckpoint(l.request(5, 12, 5))
		var refusal *Refusal
		if err == nil || errors.As(err, &refusal) {
			t.Errorf("byte %d: not told as trouble of its own: %v", i, err)
		}
		must(t, d.Flip(name, int64(i), 1))
	}
	must(t, d.Remove(name))
	if _, err := w.AddCheckpoint(l.request(0, 12, 0)); err == nil {
		t.Error("a log whose memory is lost is cosigned from its beginning")
	}
	// Adding it anew is a decision of the operator's; adding it twice forgets nothing.
	must(t, AddLog(d, l.verifier))
	_, err = w.AddCheckpoint(l.request(0, 12, 0))
	must(t, err)
	must(t, AddLog(d, l.verifier))
	if logs, err := Logs(d); err != nil || logs[0].Size != 12 {
		t.Errorf("%+v, %v", logs, err)
	}
	other := newLog(t, "log.example/a")
	_, other.verifier = logKey(t, l.origin, 3)
	if AddLog(d, other.verifier) == nil {
		t.Error("another key took over what is remembered")
	}
}

// TestHistoriesAreMonotonic draws requests of a log and of its fork at random: what is cosigned is always one history.
func TestHistoriesAreMonotonic(t *testing.T) {
	l := newLog(t, "log.example/a", names(30)...)
	fork := newLog(t, "log.example/a", names(11)...)
	fork.add("another", "path")
	fork.add(names(30)...)
	rapid.Check(t, func(rt *rapid.T) {
		w := newWitness(t, crashdisk.New(), l)
		var size int64
		var text string
		for range rapid.IntRange(1, 12).Draw(rt, "requests") {
			from := rapid.SampledFrom([]*log{l, fork}).Draw(rt, "log")
			n := rapid.Int64Range(1, 30).Draw(rt, "size")
			old := rapid.Int64Range(0, n).Draw(rt, "old")
			if rapid.Bool().Draw(rt, "knows") {
				old = min(size, n)
			}
			if _, err := w.AddCheckpoint(from.request(old, n, old)); err != nil {
				continue
			}
			if n < size || size > 0 && from.text(size) != text {
				rt.Fatalf("cosigned %d records that do not begin with the %d before", n, size)
			}
			size, text = n, from.text(n)
		}
	})
}

func serve(t testing.TB, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

func newClient(t testing.TB, url string) *Client {
	t.Helper()
	_, vkey := newSigner(t)
	c, err := NewClient(url+"/", vkey, nil)
	must(t, err)
	return c
}

func TestClientAndWitnessAgree(t *testing.T) {
	l := newLog(t, "log.example/a", names(5)...)
	w := newWitness(t, crashdisk.New(), l)
	url := serve(t, w)
	c := newClient(t, url)
	for range 3 {
		got, err := c.Cosign(t.Context(), l, 0) // it never knows the size, and is told
		must(t, err)
		if got.Size != uint64(l.n) || got.At.Unix() != now || !bytes.HasPrefix(got.Checkpoint, l.request(0, l.n, 0)[len("old 0\n\n"):]) {
			t.Fatalf("%+v\n%s", got, got.Checkpoint)
		}
		k, err := audit.ParseKey(l.verifier)
		must(t, err)
		cp, err := audit.ParseCheckpoint(got.Checkpoint)
		must(t, err)
		if s, err := (&audit.Policy{Log: k, Witnesses: []audit.Key{stranger(t)}, Quorum: 1}).Check(&cp); err != nil || len(s) != 1 {
			t.Fatal(s, err)
		}
		if at, ok := LastCosigned(got.Checkpoint); !ok || at.Unix() != now {
			t.Errorf("last cosigned at %v, %t", at, ok)
		}
		if at, ok := LastCosigned(l.request(0, l.n, 0)[len("old 0\n\n"):]); ok {
			t.Errorf("nobody cosigned, at %v", at)
		}
		l.add("one more", "and more")
	}
	before := newLog(t, "log.example/a", names(5)...)
	_, err := c.Cosign(t.Context(), before, 0)
	var ahead *AheadError
	if !errors.As(err, &ahead) || !errors.Is(err, ErrAhead) || ahead.Witness != 9 || ahead.Ledger != 5 || !Alarming(err) {
		t.Errorf("a ledger that was rolled back: %v", err)
	}
	fork := newLog(t, "log.example/a", names(30)...)
	if _, err := c.Cosign(t.Context(), fork, 9); !errors.Is(err, ErrFork) || !Alarming(err) {
		t.Errorf("a fork: %v", err)
	}
	same := newLog(t, "log.example/a", append(names(8), "x")...)
	if _, err := c.Cosign(t.Context(), same, 9); !errors.Is(err, ErrFork) {
		t.Errorf("a fork of the same size: %v", err)
	}
	stranger := newLog(t, "log.example/unknown", names(2)...)
	if _, err := c.Cosign(t.Context(), stranger, 0); !errors.Is(err, ErrUnknown) || Alarming(err) {
		t.Errorf("an unknown ledger: %v", err)
	}
	for _, path := range []string{"/", "/add-checkpoint/x", "/logs"} {
		resp, err := http.Post(url+path, "", strings.NewReader("x"))
		must(t, err)
		resp.Body.Close()
		if resp.StatusCode != 404 {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	resp, err := http.Get(url + "/add-checkpoint")
	must(t, err)
	resp.Body.Close()
	if resp.StatusCode != 405 {
		t.Errorf("GET: %d", resp.StatusCode)
	}
}

// TestConflictIsToldAsTheProtocolHasIt holds the one answer whose form matters besides the cosignature.
func TestConflictIsToldAsTheProtocolHasIt(t *testing.T) {
	l := newLog(t, "log.example/a", names(5)...)
	w := newWitness(t, crashdisk.New(), l)
	_, err := w.AddCheckpoint(l.request(0, 4, 0))
	must(t, err)
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, httptest.NewRequest("POST", "/add-checkpoint", bytes.NewReader(l.request(0, 5, 0))))
	if rec.Code != 409 || rec.Body.String() != "4\n" || rec.Header().Get("Content-Type") != "text/x.tlog.size" {
		t.Errorf("%d %q %q", rec.Code, rec.Body, rec.Header())
	}
}

// TestHostileWitnessIsNotBelieved answers with everything but a cosignature.
func TestHostileWitnessIsNotBelieved(t *testing.T) {
	l := newLog(t, "log.example/a", names(5)...)
	other := newLog(t, "log.example/a", names(6)...)
	s, _ := newSigner(t)
	sign := func(text string) string {
		b, err := note.Sign(&note.Note{Text: text}, s)
		must(t, err)
		_, lines, _ := splitNote(b)
		return string(lines)
	}
	good := sign(l.text(5))
	for name, answer := range map[string]func(http.ResponseWriter){
		"nothing":                    func(w http.ResponseWriter) {},
		"garbage":                    func(w http.ResponseWriter) { fmt.Fprint(w, "\x00\xff") },
		"another checkpoint's":       func(w http.ResponseWriter) { fmt.Fprint(w, sign(other.text(6))) },
		"a stranger's signature":     func(w http.ResponseWriter) { fmt.Fprint(w, strings.Replace(good, "w.example", "v.example", 1)) },
		"a spoilt one":               func(w http.ResponseWriter) { fmt.Fprint(w, good[:40]+string(good[40]^1)+good[41:]) },
		"a whole note":               func(w http.ResponseWriter) { fmt.Fprint(w, other.text(6)+"\n"+sign(other.text(6))) },
		"too much":                   func(w http.ResponseWriter) { fmt.Fprint(w, good+strings.Repeat("x", requestMax)) },
		"a size that never settles":  conflict(4),
		"a size from beyond":         conflict(1 << 41),
		"no size":                    func(w http.ResponseWriter) { w.WriteHeader(409) },
		"another place":              func(w http.ResponseWriter) { w.Header().Set("Location", "/elsewhere"); w.WriteHeader(307) },
		"trouble":                    func(w http.ResponseWriter) { w.WriteHeader(500) },
		"a proof that does not hold": func(w http.ResponseWriter) { w.WriteHeader(422) },
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int64
			c := newClient(t, serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				asked.Add(1)
				answer(w)
			})))
			if got, err := c.Cosign(t.Context(), l, 0); err == nil {
				t.Errorf("believed: %s", got.Checkpoint)
			}
			if asked.Load() > 3 {
				t.Errorf("asked %d times", asked.Load())
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newClient(t, "http://127.0.0.1:1").Cosign(ctx, l, 0); err == nil {
		t.Error("no witness at all")
	}
	for _, bad := range []string{"", "ftp://x", "w.example", "https://", "https://w.example/?a", "https://w.example/#a"} {
		if _, err := NewClient(bad, s.String(), nil); err == nil {
			t.Errorf("URL %q is taken", bad)
		}
	}
}

func conflict(size int64) func(http.ResponseWriter) {
	var calls int64
	return func(w http.ResponseWriter) {
		calls++
		w.Header().Set("Content-Type", "text/x.tlog.size")
		w.WriteHeader(409)
		fmt.Fprintf(w, "%d\n", size-calls%3)
	}
}

// TestEarlierCosignatureIsReplaced: what is sent may carry this witness's older signature and another's.
func TestEarlierCosignatureIsReplaced(t *testing.T) {
	l := newLog(t, "log.example/a", names(5)...)
	url := serve(t, newWitness(t, crashdisk.New(), l))
	c := newClient(t, url)
	first, err := c.Cosign(t.Context(), l, 0)
	must(t, err)
	other := "— v.example/2 " + strings.Fields(string(first.Checkpoint[bytes.LastIndex(first.Checkpoint, []byte("— ")):]))[2] + "\n"
	again, err := c.Cosign(t.Context(), withNote{l, append(bytes.Clone(first.Checkpoint), other...)}, 5)
	must(t, err)
	got := string(again.Checkpoint)
	if strings.Count(got, "— "+witnessName+" ") != 1 || strings.Count(got, other) != 1 {
		t.Errorf("checkpoint\n%s", got)
	}
}

// withNote sends another note of the same text.
type withNote struct {
	*log
	signed []byte
}

func (l withNote) Consistency(old uint64) ([]byte, error) {
	return append(fmt.Appendf(nil, "old %d\n\n", old), l.signed...), nil
}

func FuzzRequest(f *testing.F) {
	l := newLog(f, "log.example/a", names(9)...)
	f.Add(l.request(0, 5, 0))
	f.Add(l.request(5, 9, 5))
	f.Add(l.request(5, 5, 5))
	d := crashdisk.New()
	_, err := newWitness(f, d, l).AddCheckpoint(l.request(0, 5, 0))
	must(f, err)
	allowed := map[string]bool{l.text(5): true, l.text(9): true}
	f.Fuzz(func(t *testing.T, body []byte) {
		lines, err := newWitness(t, d.Clone()).AddCheckpoint(body)
		if err != nil {
			return
		}
		r, err := parseRequest(body)
		must(t, err)
		text, _, _ := splitNote(r.signed)
		if !allowed[string(text)] {
			t.Errorf("cosigned %q", text)
		}
		checkCosigned(t, string(text), lines)
	})
}

func FuzzState(f *testing.F) {
	l := newLog(f, "log.example/a", names(9)...)
	d := crashdisk.New()
	w := newWitness(f, d, l)
	for _, n := range []int64{0, 5} {
		if n > 0 {
			_, err := w.AddCheckpoint(l.request(0, n, 0))
			must(f, err)
		}
		b, err := durable.ReadFile(d, stateName(l.origin), stateMax)
		must(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, h, v, err := parseState(b)
		if err != nil {
			return
		}
		again, err := s.encode()
		must(t, err)
		if !bytes.Equal(again, b) || h.origin != s.Origin || v.Name() != s.Origin {
			t.Errorf("read %+v, %+v of %q", s, h, b)
		}
	})
}

func FuzzKeys(f *testing.F) {
	_, vkey := newSigner(f)
	f.Add(vkey)
	f.Add("w.example/1+00000000+BAAA")
	f.Fuzz(func(t *testing.T, text string) {
		if v, err := NewVerifier(text); err == nil && v.String() != text {
			t.Errorf("%q is read as %q", text, v)
		}
	})
}
