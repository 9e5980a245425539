package main

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-vault/holdfast/metrics/promtest"
	"github.com/holdfast-vault/holdfast/puller/sshdtest"
)

// promised are the names that dashboards and alerts of others rely on, with the labels that tell their series apart.
var promised = []string{
	`holdfast_source_last_success_timestamp_seconds{source="web1"}`,
	`holdfast_source_last_attempt_timestamp_seconds{source="web1"}`,
	`holdfast_source_rpo_age_seconds{source="web1"}`,
	`holdfast_source_last_pull_duration_seconds{source="web1"}`,
	`holdfast_source_last_pull_files{source="web1"}`,
	`holdfast_source_last_pull_read_bytes{source="web1"}`,
	`holdfast_source_last_pull_new_bytes{source="web1"}`,
	`holdfast_source_last_pull_stored_bytes{source="web1"}`,
	`holdfast_source_last_pull_partial_paths{source="web1"}`,
	`holdfast_source_errors_total{kind="host_key",source="wrong"}`,
	`holdfast_locks{mode="governance"}`,
	`holdfast_locks{mode="compliance"}`,
	`holdfast_lock_next_expiry_timestamp_seconds{mode="governance"}`,
	`holdfast_ledger_size`,
	`holdfast_ledger_root_info{root="`,
	`holdfast_protection_level{level="ownership"}`,
	`holdfast_protection_level{level="immutable flag"}`,
	`holdfast_ledger_behind`,
	`holdfast_place_reachable{place="1"}`,
	`holdfast_place_free_bytes{place="1"}`,
	`holdfast_place_size_bytes{place="1"}`,
	`holdfast_prune_daily`, `holdfast_evacuable_bytes`,
	`holdfast_packs`,
	`holdfast_pack_bytes`,
	`holdfast_pinned_dead_bytes`,
	`holdfast_dedup_ratio`,
	`holdfast_compression_ratio`,
	`holdfast_clock_shifted`,
	`holdfast_clock_wall_offset_seconds`,
	`holdfast_clock_running_seconds`,
	`holdfast_clock_locks_late_seconds`,
	`holdfast_clock_corrections_total`,
	`holdfast_build_info{`,
}

func scrape(t testing.TB, address string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	page, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %v", resp.Status, err)
	}
	return string(page)
}

// value finds one sample on a metrics page.
func value(t testing.TB, page, series string) float64 {
	t.Helper()
	for line := range strings.Lines(page) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			var v float64
			if _, err := fmt.Sscanf(strings.TrimSpace(rest), "%g", &v); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			return v
		}
	}
	t.Fatalf("no %s on the page:\n%s", series, page)
	return 0
}

// TestPrometheusCannotSeeTheVault lets a real Prometheus scrape a daemon whose only good pull was made from the command
// line before it started.
func TestPrometheusCannotSeeTheVault(t *testing.T) {
	promtest.Need(t, "prometheus")
	promtest.Need(t, "promtool")
	srv := sshdtest.Start(t, sshdtest.Options{})
	s := initialised(t)
	src := filepath.Join(t.TempDir(), "src")
	writeTree(t, src, 41, 50, 1)
	before := time.Now()
	pulled := s.pull(srv, "web1", src)

	_, other := s.key("stranger")
	s.write("holdfast.yaml", fmt.Sprintf("vault: %s\nmetrics: {listen: \"127.0.0.1:0\"}\nsources:\n%s- name: wrong\n  url: %s\n  identity: %s\n  host_key: %s\n",
		s.vault, sourceItem(srv, "web1", src), sourceURL(srv, src), srv.IdentityFile, other))
	d := s.serve()
	if r := s.run("pull", "wrong"); r.code != exitFailed {
		t.Fatalf("%+v", r)
	}
	page := scrape(t, d.metrics)
	for _, name := range promised {
		if !strings.Contains(page, "\n"+name) {
			t.Errorf("%s is not on the page", name)
		}
	}
	promtest.Lint(t, []byte(page))
	for series, want := range map[string]float64{
		`holdfast_source_last_pull_files{source="web1"}`:                 float64(pulled.Files),
		`holdfast_source_last_pull_read_bytes{source="web1"}`:            float64(pulled.ReadBytes),
		`holdfast_source_last_pull_new_bytes{source="web1"}`:             float64(pulled.NewBytes),
		`holdfast_source_last_pull_stored_bytes{source="web1"}`:          float64(pulled.StoredBytes),
		`holdfast_source_last_pull_partial_paths{source="web1"}`:         0,
		`holdfast_source_errors_total{kind="host_key",source="wrong"}`:   1,
		`holdfast_source_last_success_timestamp_seconds{source="wrong"}`: 0,
		`holdfast_locks{mode="governance"}`:                              1,
		`holdfast_locks{mode="compliance"}`:                              0,
		`holdfast_protection_level{level="ownership"}`:                   0,
	} {
		if got := value(t, page, series); got != want {
			t.Errorf("%s is %g, want %g", series, got, want)
		}
	}
	if got := value(t, page, `holdfast_source_rpo_age_seconds{source="wrong"}`); !math.IsInf(got, 1) {
		t.Errorf("a source without a snapshot has the age %g", got)
	}
	if strings.Count(page, "\nholdfast_ledger_root_info{") != 1 {
		t.Error("not exactly one series of the ledger's root")
	}
	if strings.Contains(page, "large") || strings.Contains(page, src) {
		t.Error("the page names files")
	}

	p := promtest.Start(t, d.metrics)
	age := p.Query(t, `holdfast_source_rpo_age_seconds{source="web1"}`)
	if most := time.Since(before).Seconds() + 1; age <= 0 || age > most {
		t.Errorf("Prometheus says that the newest good snapshot is %g s old, want at most %g", age, most)
	}
	if up := p.Query(t, `up{job="holdfast"}`); up != 1 {
		t.Errorf("up is %g", up)
	}
	s.must("pull", "web1")
	if again := value(t, scrape(t, d.metrics), `holdfast_source_last_pull_read_bytes{source="web1"}`); again != 0 {
		t.Errorf("after an unchanged pull the page says %g bytes read", again)
	}
	if code := d.stop(); code != exitDone {
		t.Errorf("exit %d:\n%s", code, d.said())
	}
}
