package witness

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/holdfast-vault/holdfast/immutability/durable"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
)

func TestWhatIsRememberedProvesARollback(t *testing.T) {
	l := newLog(t, "log.example/a", names(9)...)
	d := crashdisk.New()
	w := newWitness(t, d, l)
	server := httptest.NewServer(w)
	defer server.Close()
	_, verifier, err := NewKey(bytes.NewReader(make([]byte, 32)), "w.example/1")
	must(t, err)
	c, err := NewClient(server.URL, verifier, server.Client())
	must(t, err)
	if _, err := c.Remembered(t.Context(), l.origin); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("of a log that was never cosigned: %v", err)
	}
	_, err = w.AddCheckpoint(l.request(0, 7, 0))
	must(t, err)
	got, err := c.Remembered(t.Context(), l.origin)
	must(t, err)
	if want := string(l.request(0, 7, 0)); !strings.HasSuffix(want, string(got)) || !strings.HasPrefix(string(got), l.text(7)) {
		t.Errorf("remembered\n%s", got)
	}
	sum := sha256.Sum256([]byte(l.origin))
	hexName := hex.EncodeToString(sum[:])
	for _, name := range []string{"", "x", strings.ToUpper(hexName), hexName[:62] + "00", "../witness.key", "%2e%2e/witness.key", hexName + ".json"} {
		resp, err := http.Get(server.URL + "/checkpoint/" + name)
		must(t, err)
		must(t, resp.Body.Close())
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("%q: %d", name, resp.StatusCode)
		}
	}
	must(t, durable.Replace(d, stateName(l.origin), []byte("{}"), 0o600))
	if _, err := c.Remembered(t.Context(), l.origin); err == nil || !strings.Contains(err.Error(), "500") {
		t.Errorf("of a log whose file is spoilt: %v", err)
	}
}

// TestManyRequestsAndACrashNeverGoBack has clients push one log forward at the same time while the power fails somewhere: what
// anybody was given a cosignature of is remembered afterwards, and no fork of it is cosigned.
func TestManyRequestsAndACrashNeverGoBack(t *testing.T) {
	const most = 60
	l := newLog(t, "log.example/a", names(most)...)
	fork := newLog(t, "log.example/a", "another beginning")
	fork.add(names(most)...)
	seeds := uint64(15)
	if os.Getenv("HOLDFAST_SWEEP") == "full" {
		seeds = 2000
	}
	for seed := range seeds {
		r := rand.New(rand.NewPCG(seed, 1))
		d := crashdisk.New()
		w := newWitness(t, d, l)
		d.FailAt(d.Ops()+1+r.Int64N(120), crashdisk.Faults()[r.IntN(len(crashdisk.Faults()))])
		var given atomic.Int64
		var all sync.WaitGroup
		for client := range 4 {
			all.Go(func() {
				old := int64(0)
				for step := range 12 {
					n := min(old+int64(1+(client*7+step)%9), most)
					floor := given.Load()
					_, err := w.AddCheckpoint(l.request(old, n, old))
					var refusal *Refusal
					switch {
					case err == nil:
						if n < floor {
							t.Errorf("seed %d: %d records are cosigned after %d", seed, n, floor)
						}
						for g := given.Load(); g < n && !given.CompareAndSwap(g, n); g = given.Load() {
						}
						old = n
					case errors.As(err, &refusal) && refusal.Status == http.StatusConflict:
						old = refusal.Size
					}
				}
			})
		}
		all.Wait()
		after := d.Restart([]crashdisk.Loss{crashdisk.LoseUnsynced, crashdisk.KeepAll, crashdisk.Random}[r.IntN(3)], int64(seed))
		logs, err := Logs(after)
		must(t, err)
		if len(logs) != 1 || logs[0].Err != nil || logs[0].Size < uint64(given.Load()) {
			t.Fatalf("seed %d: given out %d, remembered %+v", seed, given.Load(), logs)
		}
		if size := int64(logs[0].Size); size > 0 && size < most {
			if _, err := newWitness(t, after).AddCheckpoint(fork.request(size, most, size)); err == nil {
				t.Fatalf("seed %d: a fork is cosigned", seed)
			}
		}
	}
}

// TestExampleRequestOfTheTextIsRead holds the parser to the request of C2SP tlog-witness, and to its answer of three witnesses.
func TestExampleRequestOfTheTextIsRead(t *testing.T) {
	const checkpoint = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n" +
		"— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n" +
		"— example.com/behind-the-sofa opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=\n"
	const request = "old 20852014\nPlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\njrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=\n" +
		"5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=\n/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=\n\n" + checkpoint
	r, err := parseRequest([]byte(request))
	must(t, err)
	text, _, ok := splitNote(r.signed)
	h, err := parseHead(string(text))
	must(t, err)
	if !ok || r.old != 20852014 || len(r.proof) != 4 || h.origin != "example.com/behind-the-sofa" || h.size != 20852163 || string(r.signed) != checkpoint {
		t.Errorf("read %+v %+v", r, h)
	}
	// Nobody here knows that log.
	var refusal *Refusal
	if _, err := newWitness(t, crashdisk.New(), newLog(t, "log.example/a")).AddCheckpoint([]byte(request)); !errors.As(err, &refusal) || refusal.Status != http.StatusNotFound {
		t.Errorf("answered %v", err)
	}
	const answer = "— witness.example/w1 CMp+6LWBU0anHGH5aNDTJkH/gj79sG+T6+iP2ThYN5krrDJbR1HDnucjL39QsZTSvVjyQLrdk3DXDqI5G2HgLatVs0pWh6Up69HVOw==\n" +
		"— witness.example/w1 I7rEps0pvK2UqkS2gSpVUDhrhVtQV9lgF6pRrWAvjJHjyWpW7VcE3SiOlVlbQNt64vWhO+DlkL0+UfzuOBMh9ChdMkP1vi/lCAsmlw==\n" +
		"— witness.example/w2 AWui8Sk55XjYLOijihBjhqEH6nS1ndDymE0a+6idX7pLcnoB+dhnz0854aLZgrrKbYKA7nC3HNJhm/kWl7oJlqU3rXXvpysAdyP3wQ==\n"
	_, verifier, err := NewKey(bytes.NewReader(make([]byte, 32)), "w.example/1")
	must(t, err)
	c, err := NewClient("https://witness.example", verifier, nil)
	must(t, err)
	if got, err := c.accept([]byte(checkpoint), h, []byte(answer)); err == nil {
		t.Errorf("answers of witnesses that are not known were taken: %+v", got)
	}
}
