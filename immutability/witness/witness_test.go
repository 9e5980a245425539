package witness

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/immutability/audit"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
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

func (l withNote) Consistency(old uint64) ([]byte, error) {
	return append(fmt.Appendf(nil, "old %d\n\n", old), l.signed...), nil
}
