package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/config"
	"github.com/holdfast-vault/holdfast/immutability/worm"
)

// quietStore is a store with a standing that the test says.
type quietStore struct {
	witnessed
	st worm.Standing
}

func (q *quietStore) TrustWitnesses(worm.Witnesses) error    { return nil }
func (q *quietStore) Witnessed() (worm.Standing, error)      { return q.st, nil }
func (q *quietStore) Cosigned(context.Context, []byte) error { return nil }

const someWitnessKey = "witness.example.com/w1+8122a5ab+BOpKbGPinFIKvvVQexMuxfmVR3auvr57kkIe6mkURtIs"

// TestWitnessesAreAskedSoonAndNeverInAStorm: within minutes of a commit, hourly otherwise, ever later while they do not answer.
func TestWitnessesAreAskedSoonAndNeverInAStorm(t *testing.T) {
	now := time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	store := &quietStore{}
	k := newAsker(store, slog.New(slog.DiscardHandler), func() time.Time { return now })
	if k.due() {
		t.Error("nobody to ask, and asked")
	}
	cfg := config.Defaults()
	cfg.Witnesses = config.Witnesses{Quorum: 1, Members: []config.Witness{{Name: "lab", URL: "http://127.0.0.1:1", Key: someWitnessKey}}}
	if err := k.use(cfg); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		after     time.Duration
		failed    int
		uncovered bool
		due       bool
		why       string
	}{
		{0, 0, false, true, "the first time"},
		{time.Minute, 0, true, false, "a minute after the last round"},
		{2 * time.Minute, 0, true, true, "a commit"},
		{59 * time.Minute, 0, false, false, "nothing new"},
		{time.Hour, 0, false, true, "an hour"},
		{time.Minute, 1, false, false, "the first failure"},
		{2 * time.Minute, 1, false, true, "tried again"},
		{7 * time.Minute, 3, true, false, "the third failure, and a commit"},
		{8 * time.Minute, 3, true, true, "later"},
		{59 * time.Minute, 99, true, false, "many failures"},
		{time.Hour, 99, true, true, "never later than an hour"},
		{-time.Minute, 0, false, true, "the wall clock went back"},
	} {
		store.st.Uncovered, k.failed = step.uncovered, step.failed
		now = now.Add(step.after)
		if got := k.due(); got != step.due {
			t.Errorf("%s: %t", step.why, got)
		}
		now = now.Add(-step.after)
		k.last = now
	}
}

func (d *running) page(t testing.TB) string {
	t.Helper()
	resp, err := http.Get("http://" + d.metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (d *running) shows(t testing.TB, line string) {
	t.Helper()
	waitFor(t, line, waitLong, func() bool { return strings.Contains(d.page(t), "\n"+line+"\n") })
}

// TestDaemonAsksWitnessesAndStopsBehindThem goes through it with real programs: the daemon asks by itself, an old copy of the vault
// is put back, the witness shows what was lost, nothing is written any more, and a person begins another origin.
func TestDaemonAsksWitnessesAndStopsBehindThem(t *testing.T) {
	s, srv, src := pulledSite(t)
	key := s.verifier()
	dir := filepath.Join(s.dir, "witness")
	witnessKey := strings.Split(s.must("witness", "init", dir, "--name", "w.example/1").out, "\n")[1]
	s.must("witness", "add-log", dir, key)
	url := s.watch(dir)
	s.write("holdfast.yaml", fmt.Sprintf("vault: %s\nmetrics: {listen: '127.0.0.1:0'}\nwitnesses:\n  members:\n  - {name: lab, url: %s, key: %s}\n  - {name: gone, url: 'http://127.0.0.1:1', key: %s}\n  quorum: 1\n",
		s.vault, url, witnessKey, someWitnessKey))
	early := filepath.Join(s.dir, "early")
	copyTree(t, s.vault, early)
	saved := s.write("saved", s.must("ledger", "checkpoint").out)
	writeTree(t, filepath.Join(src, "more"), 77, 5, 0)
	s.pull(srv, "web1", src)
	d := s.serve()
	d.shows(t, "holdfast_ledger_witnessed 1")
	d.shows(t, `holdfast_witness_failures_total{witness="gone"} 1`)
	for _, line := range []string{`holdfast_witness_refutes{witness="lab"} 0`, "holdfast_ledger_behind 0", fmt.Sprintf("holdfast_ledger_quorum_cosigned_size %d", len(s.lines())-1)} {
		d.shows(t, line)
	}
	s.run("doctor").told(t, s.run("doctor").code, "a quorum of 1 of 2 witnesses cosigned")
	lines := s.lines()
	if last := lines[len(lines)-1]; !strings.Contains(last, `"kind":"witnessed"`) || !strings.Contains(last, witnessKey) {
		t.Errorf("the newest record is %s", last)
	}
	proof := s.write("p", s.must("ledger", "prove", fmt.Sprint(len(lines)-1)).out)
	s.audit("proof", "--key", key, "--witness", witnessKey, "--quorum", "0", proof).told(t, 0, `in it   witness "w.example/1" signed`)
	d.stop()
	s.must("ledger", "verify", "--key", key)

	rolled := *s
	rolled.vault = early
	rolled.env = append(append([]string{}, s.env...), "HOLDFAST_VAULT="+early)
	d = rolled.serve()
	d.shows(t, "holdfast_ledger_behind 1")
	d.shows(t, `holdfast_witness_refutes{witness="lab"} 1`)
	rolled.run("doctor").told(t, exitDamage, "behind what it signed")
	d.stop()
	const why = "behind what it signed"
	rolled.run(pullArgs(srv, "web1", src)...).told(t, exitFailed, why)
	rolled.run("prune").told(t, exitFailed, why)
	rolled.run("check").told(t, exitDamage, why)
	var look ledgerLook
	v := rolled.run("ledger", "verify", "--key", key, "--json")
	v.told(t, exitDamage)
	v.json(t, &look)
	if look.OK || !strings.Contains(look.Behind, why) || len(look.Damage) > 0 {
		t.Errorf("%+v", look)
	}
	rolled.must("ls", "web1@latest") // giving back goes on
	newest := s.write("newest", s.must("ledger", "checkpoint").out)
	rolled.run("ledger", "origin", "--root", "AAAA", "--by", "ann", "--reason", "r").told(t, exitFailed, "is not that of the")
	r := rolled.must("ledger", "origin", "--root", look.Root, "--by", "ann", "--reason", "the host was rolled back", newest)
	next := strings.Split(strings.TrimSpace(r.out), "\n")[2]
	rolled.pull(srv, "web1", src)
	rolled.run("ledger", "verify", "--key", key, "--against", newest).told(t, exitDamage, "ann", "the host was rolled back", "signed by 0 of a quorum")
	rolled.must("ledger", "verify", "--key", key)
	rolled.must("check")
	n := len(rolled.lines())
	for i := range n {
		proof := s.write("p", rolled.must("ledger", "prove", fmt.Sprint(i)).out)
		s.audit("proof", "--key", key, proof).told(t, 0)
	}
	// What was saved before the rollback is proved by a checkpoint of the new origin, what was given up is not.
	proof = s.write("p", rolled.must("ledger", "consistency", saved).out)
	s.audit("consistency", "--key", key, saved, proof).told(t, 0, "extends the saved checkpoint")
	s.audit("consistency", "--key", key, newest, proof).told(t, exitDamage)
	// The witness takes the new origin as a log of its own, and goes on refusing the old one.
	rolled.run("ledger", "cosign", "--witness", url, "--witness-key", witnessKey).told(t, exitFailed, "does not know this ledger")
	s.must("witness", "add-log", dir, next)
	rolled.must("ledger", "cosign", "--witness", url, "--witness-key", witnessKey)
	s.must("ledger", "cosign", "--witness", url, "--witness-key", witnessKey)
}
