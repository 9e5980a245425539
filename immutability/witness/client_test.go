package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/audit"
	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"golang.org/x/mod/sumdb/note"
)

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
