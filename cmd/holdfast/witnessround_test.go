package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/clock"
	"github.com/holdfast-vault/holdfast/immutability/durable/crashdisk"
	"github.com/holdfast-vault/holdfast/immutability/ledger"
	"github.com/holdfast-vault/holdfast/immutability/witness"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// TestWitnessesAreAskedWhileTheLedgerGrows: all of a round cosign one checkpoint, whatever is recorded meanwhile, scrapes and
// another configuration come between, and a witness that fails keeps no other from its word.
func TestWitnessesAreAskedWhileTheLedgerGrows(t *testing.T) {
	const id = "0123456789abcdef0123456789abcdef"
	d, src := crashdisk.New(), clock.NewManual(clock.Earliest().Add(time.Hour))
	verifier, err := worm.Init(d, src, worm.InitOptions{
		Vault: id, Identity: []byte(`{"format":1,"vault":"` + id + `","created":"2026-07-01T00:00:00Z"}` + "\n"), Keyring: []byte("k"),
		Policy: ledger.Policy{Mode: ledger.Governance, DefaultSeconds: 3600, MaxSeconds: 7200},
	})
	if err != nil {
		t.Fatal(err)
	}
	store, err := worm.Open(d, src, worm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	wall := func() time.Time {
		now, err := src.Read()
		if err != nil {
			t.Error(err)
		}
		return now.Wall
	}
	cfg := config.Defaults()
	cfg.Witnesses.Quorum = 3
	for i := range 4 {
		secret, public, err := witness.NewKey(bytes.NewReader(bytes.Repeat([]byte{byte(i)}, 32)), fmt.Sprint("w.example/", i))
		if err != nil {
			t.Fatal(err)
		}
		signer, err := witness.NewSigner(secret, wall)
		if err != nil {
			t.Fatal(err)
		}
		memory := crashdisk.New()
		if err := witness.AddLog(memory, verifier); err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(witness.New(memory, signer, t.Logf))
		defer server.Close()
		url := server.URL
		if i == 3 {
			url += "/nowhere"
		}
		cfg.Witnesses.Members = append(cfg.Witnesses.Members, config.Witness{Name: fmt.Sprint("w", i), URL: url, Key: public})
	}
	k := newAsker(store, slog.New(slog.DiscardHandler), wall)
	if err := k.use(cfg); err != nil {
		t.Fatal(err)
	}
	for round := range 5 {
		var all sync.WaitGroup
		all.Go(func() { k.round(t.Context()) })
		all.Go(func() {
			for n := range 20 {
				if err := store.SetKeyring(t.Context(), fmt.Appendf(nil, "k%d-%d", round, n), "r"); err != nil {
					t.Error(err)
				}
			}
		})
		all.Go(func() {
			for range 20 {
				k.state()
				if err := k.use(cfg); err != nil {
					t.Error(err)
				}
			}
		})
		all.Wait()
		src.Advance(time.Hour)
	}
	st := k.state()
	for i, m := range st.Members {
		if (m.Error == "") != (i < 3) || m.Refutes || i < 3 && m.Size != st.QuorumSize {
			t.Errorf("%+v of %d", m, st.QuorumSize)
		}
	}
	if got := string(store.Ledger().Cosigned()); strings.Count(got, "\n— w.example/") != 3 || !store.Policy().Mode.Valid() {
		t.Errorf("cosigned:\n%s", got)
	}
	if n := st.Members[3].Failures; n != 5 {
		t.Errorf("%d failures of the one that is nowhere", n)
	}
	records := 0
	for r := range store.Ledger().Records() {
		if r.Witnessed != nil && len(r.Witnessed.Cosignatures) == 3 {
			records++
		}
	}
	if records != 5 {
		t.Errorf("%d records of what they said", records)
	}
}

// TestAWitnessThatSomebodyElseAskedRaisesNoAlarm: while a round is under way the ledger grows, and somebody has the same witness
// cosign that. What it remembers is more than the round's checkpoint and not more than the ledger.
func TestAWitnessThatSomebodyElseAskedRaisesNoAlarm(t *testing.T) {
	const id = "0123456789abcdef0123456789abcdef"
	d, src := crashdisk.New(), clock.NewManual(clock.Earliest().Add(time.Hour))
	if _, err := worm.Init(d, src, worm.InitOptions{
		Vault: id, Identity: []byte(`{"format":1,"vault":"` + id + `","created":"2026-07-01T00:00:00Z"}` + "\n"), Keyring: []byte("k"),
		Policy: ledger.Policy{Mode: ledger.Governance, DefaultSeconds: 3600, MaxSeconds: 7200},
	}); err != nil {
		t.Fatal(err)
	}
	store, err := worm.Open(d, src, worm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	more := uint64(0) // beyond what is here
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			http.NotFound(w, r)
			return
		}
		if err := store.SetKeyring(r.Context(), fmt.Append(nil, store.Ledger().Size()), "r"); err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "text/x.tlog.size")
		w.WriteHeader(http.StatusConflict)
		fmt.Fprintf(w, "%d\n", store.Ledger().Size()+more)
	}))
	defer server.Close()
	cfg := config.Defaults()
	cfg.Witnesses = config.Witnesses{Quorum: 1, Members: []config.Witness{{Name: "lab", URL: server.URL, Key: someWitnessKey}}}
	k := newAsker(store, slog.New(slog.DiscardHandler), time.Now)
	if err := k.use(cfg); err != nil {
		t.Fatal(err)
	}
	k.round(t.Context())
	if m := k.state().Members[0]; m.Refutes || !strings.Contains(m.Error, "asked again") {
		t.Errorf("%+v", m)
	}
	more = 1
	k.round(t.Context())
	if m := k.state().Members[0]; !m.Refutes {
		t.Errorf("more than there is: %+v", m)
	}
}
