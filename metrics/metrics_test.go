package metrics

import (
	"bytes"
	"context"
	"flag"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/holdfast-vault/holdfast/metrics/promtest"
)

var update = flag.Bool("update", false, "write testdata/metrics.golden anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fixed struct {
	sources []SourceState
	vault   VaultState
}

func (f fixed) Sources() []SourceState { return f.sources }
func (f fixed) Vault() VaultState      { return f.vault }

var noon = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

func sample() fixed {
	return fixed{
		sources: []SourceState{
			{
				Name: "web1", Enrolled: true, LastAttempt: noon.Add(-time.Hour), LastSuccess: noon.Add(-50 * time.Minute), RecoveryPoint: noon.Add(-time.Hour),
				LastPull: Pull{Duration: 10 * time.Minute, Files: 5211, ReadBytes: 1 << 30, NewBytes: 1 << 20, StoredBytes: 1 << 19, PartialPaths: 2},
				Errors:   map[string]uint64{"permission": 2, "changed": 1},
				Running: Running{Pulls: 1, Began: noon.Add(-time.Minute), Progress: Progress{
					Files: 1200, TotalFiles: 5211, DoneBytes: 300 << 20, TotalBytes: 1 << 30, TotalKnown: true, ReadBytes: 250 << 20,
					BytesPerSecond: 5 << 20, NewBytes: 20 << 20, KnownBytes: 280 << 20, NewKnown: true, Left: 145 * time.Second, LeftKnown: true,
				}},
			},
			{Name: "never", Enrolled: true},
			{Name: "gone", LastSuccess: noon.Add(-1000 * time.Hour), RecoveryPoint: noon.Add(-1001 * time.Hour), LastPull: Pull{Files: 1}},
			{Name: "tried", LastAttempt: noon.Add(-time.Minute)},
		},
		vault: VaultState{
			Locks:      map[string]Locks{"governance": {Running: 3, NextExpiry: noon.Add(24 * time.Hour)}},
			LedgerSize: 17, LedgerRoot: "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", CosignedSize: 15, LastCosigned: noon.Add(-2 * time.Hour),
			Protection: "immutable flag",
			Packs:      4, PackBytes: 500_000_000, DeadBytes: 120_000_000, LogicalBytes: 3000, UniqueBytes: 1000, StoredBytes: 400,
			Witnesses: Witnesses{Quorum: 2, QuorumSize: 15, Holds: true, Members: []Witness{
				{Name: "lab", Size: 15, Last: noon.Add(-2 * time.Hour)}, {Name: "friends", Failures: 3, Refutes: true, Error: "it answered 409"},
			}},
			Clock: &Clock{Shifted: true, Off: -90 * time.Minute, Running: 40 * 24 * time.Hour, Late: 36 * time.Hour, Corrections: 2},
			Promises: Promises{Holds: 3, Held: 2, Mode: "compliance", Hardens: noon.Add(72 * time.Hour), Refused: 1, Budgets: []Budget{
				{"web1", 5_000_000_000, 6_000_000_000}, {"db1", 7, 0}, {"db1", 8, 0}, {"../../etc", 1, 1},
			}},
			Places:    []Place{{Number: 1, Reachable: true, Free: 3_000_000_000, Total: 40_000_000_000}, {Number: 2}},
			Evacuable: 1_000_000, Prune: Prune{Daily: true, LastRun: noon.Add(-3 * time.Hour), RemovedSnapshots: 5, RemovedPacks: 7, RemovedBytes: 900_000_000, MarkedSnapshots: 6, MarkedPacks: 8},
			People: &People{
				Count: 3, Threshold: 2, Pending: noon.Add(50 * time.Hour), NextDue: noon.Add(20 * time.Hour), Secured: noon.Add(-time.Hour),
				Waiting: map[string]uint64{"delete": 2, "x\"} 1\n": 1}, Ended: map[RequestEnd]uint64{{"delete", "carried"}: 4, {"people", "vetoed"}: 1, {"bogus", "bogus"}: 7},
			},
		},
	}
}

func render(t testing.TB, s State) []byte {
	t.Helper()
	r := NewRegistry(s, Options{Now: func() time.Time { return noon }, Build: Build{"1.2.3", "abc", "go1.26"}})
	w := httptest.NewRecorder()
	Handler(r).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.Bytes()
}

func TestPageIsTheGoldenOne(t *testing.T) {
	const golden = "testdata/metrics.golden"
	got := render(t, sample())
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the page changed, and names are for good; go test ./metrics -update if that was meant\n%s", got)
	}
}

func TestPromtoolLikesThePage(t *testing.T) { promtest.Lint(t, render(t, sample())) }

func TestEveryNameIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/METRICS.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(render(t, sample()))) {
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			if name = strings.Fields(name)[0]; !bytes.Contains(doc, []byte("`"+name)) {
				t.Errorf("docs/METRICS.md does not name %s", name)
			}
		}
	}
}

func TestNeverPulledSourceRaisesAnAlert(t *testing.T) {
	page := string(render(t, sample()))
	for _, want := range []string{
		`holdfast_source_rpo_age_seconds{source="never"} +Inf`,
		`holdfast_source_last_success_timestamp_seconds{source="never"} 0`,
		`holdfast_source_rpo_age_seconds{source="web1"} 3600`,
	} {
		if !strings.Contains(page, want+"\n") {
			t.Errorf("missing %s", want)
		}
	}
}

func TestHostileLabelsCannotSpoilThePage(t *testing.T) {
	s := sample()
	s.sources = append(s.sources,
		SourceState{Name: "web1", Enrolled: true}, // twice
		SourceState{Name: "x\"} 1\nholdfast_packs 0\n#", Enrolled: true},
		SourceState{Name: "\xff\xfe", Enrolled: true},
		SourceState{Name: "", Enrolled: true},
		SourceState{Name: "ok", Enrolled: true, Errors: map[string]uint64{"a\nb": 1, "\xff": 2, "good": 3}},
	)
	s.vault.LedgerRoot = "root\"} 1\nholdfast_packs 99\n\xff"
	s.vault.Locks = map[string]Locks{"bogus\n": {Running: 1}}
	page := render(t, s)
	promtest.Lint(t, page)
	for _, want := range []string{
		`holdfast_source_errors_total{kind="other",source="ok"} 3`,
		`holdfast_source_errors_total{kind="good",source="ok"} 3`,
		`holdfast_packs 4`,
	} {
		if !strings.Contains(string(page), want+"\n") {
			t.Errorf("missing %s in\n%s", want, page)
		}
	}
	if n := strings.Count(string(page), "\nholdfast_packs "); n != 1 {
		t.Errorf("%d series holdfast_packs", n)
	}
	if n := strings.Count(string(page), "\nholdfast_ledger_root_info{"); n != 1 {
		t.Errorf("%d series of the ledger's root", n)
	}
}

func TestAnyStateGivesAPageOfBoundedSeries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s fixed
		for range rapid.IntRange(0, 5).Draw(t, "sources") {
			s.sources = append(s.sources, SourceState{
				Name:     rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z0-9][a-z0-9_-]{0,3}`)).Draw(t, "name"),
				Enrolled: rapid.Bool().Draw(t, "enrolled"),
				Errors:   rapid.MapOfN(rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z]{1,3}`)), rapid.Uint64Range(0, 1<<40), 0, 60).Draw(t, "errors"),
			})
		}
		s.vault.LedgerRoot = rapid.String().Draw(t, "root")
		families, err := NewRegistry(s, Options{}).Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if n := len(f.Metric); f.GetName() == "holdfast_source_errors_total" && n > len(s.sources)*maxKinds {
				t.Fatalf("%d series of errors for %d sources", n, len(s.sources))
			}
		}
	})
}

func TestNoErrorIsLostInBounding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.MapOfN(rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-z]{1,3}`), rapid.Just(OtherKind)), rapid.Uint64Range(0, 1<<40), 0, 80).Draw(t, "errors")
		var want, got uint64
		for _, n := range in {
			want += n
		}
		out := boundedKinds(in)
		for kind, n := range out {
			got += n
			if !errorKind.MatchString(kind) {
				t.Fatalf("kind %q", kind)
			}
		}
		if got != want || len(out) > maxKinds {
			t.Fatalf("%d errors became %d, in %d kinds", want, got, len(out))
		}
	})
}

func TestTrackerFollowsPulls(t *testing.T) {
	tr := NewTracker()
	tr.Set(SourceState{Name: "old", Enrolled: true, LastSuccess: noon, Errors: map[string]uint64{"lost": 1}})
	tr.Enrol("web1")
	tr.Attempt("web1", noon)
	tr.Committed("web1", noon, noon.Add(time.Minute), true, Pull{Files: 1})
	tr.Attempt("web1", noon.Add(time.Hour))
	tr.Error("web1", "permission", 2)
	tr.Error("web1", "not a kind", 3)
	tr.Committed("web1", noon.Add(time.Hour), noon.Add(2*time.Hour), false, Pull{Files: 2, PartialPaths: 2})
	tr.Error("old", "lost", 1)
	got := tr.Sources()
	if len(got) != 2 || got[0].Name != "old" || got[0].Enrolled || got[0].Errors["lost"] != 2 {
		t.Fatalf("old: %+v", got)
	}
	web := got[1]
	if !web.Enrolled || !web.LastSuccess.Equal(noon.Add(time.Minute)) || !web.RecoveryPoint.Equal(noon) || !web.LastAttempt.Equal(noon.Add(time.Hour)) {
		t.Errorf("a partial pull moved the recovery point: %+v", web)
	}
	if web.LastPull.Files != 2 || web.Errors["permission"] != 2 || web.Errors[OtherKind] != 3 {
		t.Errorf("%+v", web)
	}
	got[1].Errors["permission"] = 99
	if tr.Sources()[1].Errors["permission"] != 2 {
		t.Error("the tracker handed out its own map")
	}
}

func TestRunningPullShowsOnlyWhatIsKnown(t *testing.T) {
	tr := NewTracker()
	tr.Enrol("web1")
	page := func() string { return string(render(t, fixed{sources: tr.Sources()})) }
	shown := func(when string, want ...string) {
		t.Helper()
		got := page()
		if n := strings.Count(got, "\nholdfast_source_pull_"); n != len(want) {
			t.Errorf("%s: %d series\n%s", when, n, got)
		}
		for _, w := range want {
			if !strings.Contains(got, "\nholdfast_source_pull_"+w+"\n") {
				t.Errorf("%s: no %s", when, w)
			}
		}
	}
	const of = `{source="web1"} `
	tr.Progress("web1", Progress{Files: 9})
	shown("before", "running"+of+"0")
	tr.Running("web1", noon)
	shown("connecting", "running"+of+"1", "start_timestamp_seconds"+of+"1.8039024e+09", "files"+of+"0", "done_bytes"+of+"0", "read_bytes"+of+"0", "read_bytes_per_second"+of+"0")
	tr.Progress("web1", Progress{Files: 3, DoneBytes: 5, ReadBytes: 4, BytesPerSecond: 2, LeftKnown: true, Left: time.Minute})
	tr.Running("web1", noon.Add(time.Hour)) // a second one, which is refused
	tr.Stopped("web1")
	shown("reading", "running"+of+"1", "start_timestamp_seconds"+of+"1.8039024e+09", "files"+of+"3", "done_bytes"+of+"5", "read_bytes"+of+"4", "read_bytes_per_second"+of+"2",
		"eta_seconds"+of+"60")
	tr.Stopped("web1")
	shown("after", "running"+of+"0")
}

func TestTrackerIsBoundedAndSafeForConcurrentUse(t *testing.T) {
	tr := NewTracker()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 200 {
				tr.Error("web1", "kind_"+strconv.Itoa(i*4+g), 1)
				tr.Attempt("web1", noon)
				tr.Sources()
			}
		})
	}
	wg.Wait()
	var n uint64
	errors := tr.Sources()[0].Errors
	for _, one := range errors {
		n += one
	}
	if n != 800 || len(errors) > maxKinds+1 {
		t.Errorf("%d errors in %d kinds", n, len(errors))
	}
}

// serve runs Serve on the loopback until the test ends, and gives its address.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, h, log.New(io.Discard, "", 0)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return l.Addr().String()
}

func TestPrometheusScrapesAndAnswersForTheRPOAge(t *testing.T) {
	s := sample()
	began := time.Now().Add(-2 * time.Hour)
	s.sources[0].RecoveryPoint = began
	addr := serve(t, Handler(NewRegistry(s, Options{Runtime: true})))
	p := promtest.Start(t, addr, alerts(t))
	got := p.Query(t, `holdfast_source_rpo_age_seconds{source="web1"}`)
	if want := time.Since(began).Seconds(); math.Abs(got-want) > 60 {
		t.Errorf("age %v, want about %v", got, want)
	}
	if got := p.Query(t, `sum(holdfast_source_rpo_age_seconds > 90000) or vector(0)`); got != math.Inf(1) {
		t.Errorf("the source that never was pulled does not show: %v", got)
	}
	if got := p.Query(t, `count(ALERTS{alertname="HoldfastSnapshotTooOld",source="never"})`); got != 1 {
		t.Errorf("no alert for the source that never was pulled: %v", got)
	}
}

// alerts gives the absolute path of the rules that we ship.
func alerts(t *testing.T) string {
	t.Helper()
	file, err := filepath.Abs("alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func TestAlertRulesAreSoundAndNameOnlyWhatIsThere(t *testing.T) {
	promtest.LintRules(t, alerts(t))
	rules, err := os.ReadFile(alerts(t))
	if err != nil {
		t.Fatal(err)
	}
	page := render(t, sample())
	for _, name := range regexp.MustCompile(`holdfast_[a-z_]+`).FindAllString(string(rules), -1) {
		if !bytes.Contains(page, []byte("# TYPE "+name+" ")) {
			t.Errorf("the rules use %s, which is no series of ours", name)
		}
	}
}

func TestAlertsOfWitnessesFireWhenTheyShould(t *testing.T) {
	promtest.TestRules(t, "testdata/witness_alerts.yml")
}

func TestAlertsOfPlacesFireWhenTheyShould(t *testing.T) {
	promtest.TestRules(t, "testdata/place_alerts.yml")
	promtest.TestRules(t, "testdata/prune_alerts.yml")
}

func TestAlertsOfRequestsFireWhenTheyShould(t *testing.T) {
	promtest.TestRules(t, "testdata/people_alerts.yml")
}

// TestFirstRequestIsMissedByPrometheus: a counter that begins with 1 never rose, so every label is there from the first scrape.
func TestFirstRequestIsMissedByPrometheus(t *testing.T) {
	s := sample()
	s.vault.People = nil
	if page := string(render(t, s)); strings.Contains(page, "holdfast_people") || strings.Contains(page, "holdfast_secured") {
		t.Error("what cannot be told is shown as nought, as if the people were gone")
	}
	s.vault.People = &People{}
	page := string(render(t, s))
	for _, want := range []string{
		`holdfast_requests_total{action="delete",state="carried"} 0`, `holdfast_requests_waiting{action="resume"} 0`,
		`holdfast_requests_total{action="other",state="lapsed"} 0`, "holdfast_people 0", "holdfast_people_threshold 0", "holdfast_secured 0",
	} {
		if !strings.Contains(page, "\n"+want+"\n") {
			t.Errorf("missing %s", want)
		}
	}
	for _, not := range []string{"holdfast_people_pending", "holdfast_secured_since", "holdfast_request_next_due"} {
		if strings.Contains(page, "\n"+not) {
			t.Errorf("%s although there is nothing to show", not)
		}
	}
}

func TestVaultWithoutWitnessesShowsNoneOfTheirSeries(t *testing.T) {
	s := sample()
	s.vault.Witnesses = Witnesses{Behind: true}
	page := string(render(t, s))
	if strings.Contains(page, "holdfast_witness_") || strings.Contains(page, "holdfast_ledger_witnessed") || !strings.Contains(page, "\nholdfast_ledger_behind 1\n") {
		t.Error(page)
	}
	s.vault.Witnesses.Members = []Witness{{Name: "x\"} 1\n"}, {Name: "lab"}, {Name: "lab"}}
	promtest.Lint(t, render(t, s))
}

func TestServerRefusesWhatIsNotAScrape(t *testing.T) {
	addr := serve(t, Handler(NewRegistry(sample(), Options{})))
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, c := range []struct {
		method, path string
		status       int
	}{{"GET", "/metrics", 200}, {"HEAD", "/metrics", 200}, {"GET", "/", 200}, {"POST", "/metrics", 405}, {"DELETE", "/", 405}, {"GET", "/debug/pprof/", 404}, {"GET", "/metrics/../etc", 404}} {
		r, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+addr+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, resp.StatusCode, c.status)
		}
	}
}

func TestFloodOfConnectionsHoldsFewPlaces(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lim := newLimited(l, 2)
	accepted := make(chan net.Conn)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(accepted)
		for {
			c, err := lim.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	})
	for range 3 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	first, second := <-accepted, <-accepted
	select {
	case <-accepted:
		t.Fatal("a third connection was accepted beside two")
	default:
	}
	first.Close()
	first.Close() // twice gives one place
	third := <-accepted
	second.Close()
	third.Close()
	if err := lim.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
}

func TestLostListenerIsAnError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := Serve(t.Context(), l, http.NotFoundHandler(), log.New(io.Discard, "", 0)); err == nil {
		t.Error("no error")
	}
}
